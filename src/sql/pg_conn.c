/* One connection to PostgreSQL, without ever blocking: see the states in postgres.h. */
#include "sql/postgres.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/metrics.h"

/* Beyond the server's own time-out of a statement, the answer is not worth waiting for. */
enum { ANSWER_GRACE_MS = 3000 };

/* Hosts that fail in turn say so a few times in a while, not each time. */
enum { QUIET_LINES = 4 };
/* Warnings beside one statement: these many are told. */
enum { WARNINGS_TOLD = 4 };
#define QUIET_NS (10 * NS_PER_S)

#define UP_ANY (SM_TO(PG_OFF) | SM_TO(PG_DOWN))
static const struct sm_state conn_states[PG_STATE_COUNT] = {
    [PG_OFF] = {"off", SM_TO(PG_RESOLVING)},
    [PG_RESOLVING] = {"resolving", UP_ANY | SM_TO(PG_RESOLVING) | SM_TO(PG_CONNECTING)},
    [PG_CONNECTING] = {"connecting",
                       UP_ANY | SM_TO(PG_RESOLVING) | SM_TO(PG_SETUP) | SM_TO(PG_CONNECTING)},
    [PG_SETUP] = {"setup", UP_ANY | SM_TO(PG_RESOLVING) | SM_TO(PG_CONNECTING) | SM_TO(PG_READY)},
    [PG_READY] = {"ready", UP_ANY | SM_TO(PG_RESOLVING) | SM_TO(PG_BUSY)},
    [PG_BUSY] = {"busy", UP_ANY | SM_TO(PG_RESOLVING) | SM_TO(PG_READY)},
    [PG_DOWN] = {"down", SM_TO(PG_OFF) | SM_TO(PG_RESOLVING)},
};
static const char *const role_names[PG_ROLE_COUNT] = {"append", "probe",  "tail",
                                                      "upkeep", "listen", "load"};

struct pg_poll {
    uv_poll_t handle;
    struct pg_log *log;
    struct pg_conn *conn;
    int socket;
};

struct pg_resolve {
    uv_getaddrinfo_t request;
    struct pg_log *log;
    struct pg_conn *conn; /* NULL: nobody waits any more. */
};

static void conn_next_address(struct pg_conn *conn);
static void conn_next_host(struct pg_conn *conn);
static void conn_on_io(uv_poll_t *handle, int status, int events);
static void conn_on_connect_timeout(struct timer *timer);
static void conn_on_answer_timeout(struct timer *timer);

void pg_conn_init(struct pg_log *log, enum pg_role role)
{
    struct pg_conn *conn = &log->conns[role];
    conn->log = log;
    conn->role = role;
    conn->down_err = ERR_NO_LEADER;
    sm_init(&conn->sm, conn_states, PG_STATE_COUNT, PG_OFF);
}

static struct timers *conn_timers(struct pg_conn *conn)
{
    return &conn->log->loop->timers;
}

/* ---- the socket ----------------------------------------------------------------------------- */

static void poll_on_closed(uv_handle_t *handle)
{
    struct pg_poll *poll = CONTAINER_OF(handle, struct pg_poll, handle);
    struct pg_log *log = poll->log;
    mem_free(poll);
    pg_log_release(log);
}

/* Before libpq may close the socket: uv must not know a number that comes to mean another one. */
static void conn_unpoll(struct pg_conn *conn)
{
    if (conn->poll != NULL) {
        uv_close((uv_handle_t *)&conn->poll->handle, poll_on_closed);
        conn->poll = NULL;
    }
    conn->poll_events = 0;
}

static bool conn_poll(struct pg_conn *conn, int events)
{
    int socket = PQsocket(conn->pg);
    if (socket < 0) {
        return false;
    }
    if (conn->poll == NULL) {
        struct pg_poll *poll = mem_alloc(sizeof(*poll));
        poll->log = conn->log;
        poll->conn = conn;
        poll->socket = socket;
        if (uv_poll_init(&conn->log->loop->uv, &poll->handle, socket) != 0) {
            mem_free(poll);
            return false;
        }
        conn->log->handle_count++;
        conn->poll = poll;
    }
    ASSERT(conn->poll->socket == socket);
    if (events != conn->poll_events) {
        conn->poll_events = events;
        return uv_poll_start(&conn->poll->handle, events, conn_on_io) == 0;
    }
    return true;
}

/* ---- giving up ------------------------------------------------------------------------------ */

static void conn_close(struct pg_conn *conn)
{
    timers_disarm(conn_timers(conn), &conn->timer);
    conn_unpoll(conn);
    PQfinish(conn->pg);
    conn->pg = NULL;
    PQclear(conn->rows);
    conn->rows = NULL;
    conn->locked = false;
    conn->stale = false;
    memset(conn->prepared, 0, sizeof(conn->prepared));
    if (conn->resolve != NULL) {
        conn->resolve->conn = NULL;
        (void)uv_cancel((uv_req_t *)&conn->resolve->request);
        conn->resolve = NULL;
    }
}

static void conn_free_addresses(struct pg_conn *conn)
{
    if (conn->addresses != NULL) {
        uv_freeaddrinfo(conn->addresses);
    }
    conn->addresses = NULL;
    conn->address = NULL;
}

static void op_on_post(struct loop_post *post)
{
    struct pg_op *op = CONTAINER_OF(post, struct pg_op, post);
    void *request = op->request;
    op->request = NULL;
    if (op != &op->log->unlock_op) {
        sql_request_done(op->kind, request);
    }
}

void pg_op_done_later(struct pg_op *op)
{
    op->post.run = op_on_post;
    loop_post(op->log->loop, &op->post);
}

/* Fail |op| later, never inside the call that started it. */
static void op_fail_later(struct pg_op *op, enum err err)
{
    if (op != &op->log->unlock_op) {
        sql_request_fail(op->kind, op->request, err);
    }
    pg_op_done_later(op);
}

static void conn_fail_queue(struct pg_conn *conn, enum err err)
{
    while (conn->queue != NULL) {
        struct pg_op *op = conn->queue;
        conn->queue = op->next;
        op->next = NULL;
        op_fail_later(op, err);
    }
}

static void conn_on_backoff(struct timer *timer)
{
    struct pg_conn *conn = CONTAINER_OF(timer, struct pg_conn, timer);
    sm_move(&conn->sm, PG_RESOLVING);
    conn->host_first = conn->log->host_good;
    conn->host_tried = 0;
    conn_next_host(conn);
}

/* Every host has failed: wait, twice as long each time, each replica a little differently. */
static void conn_back_off(struct pg_conn *conn)
{
    sm_move(&conn->sm, PG_DOWN);
    uint32_t ms = conn->backoff_ms == 0 ? LIMIT_BACKOFF_MIN_MS : conn->backoff_ms * 2;
    conn->backoff_ms = ms > LIMIT_BACKOFF_MAX_MS ? LIMIT_BACKOFF_MAX_MS : ms;
    uint64_t wait_ms = conn->backoff_ms / 2 + rng_below(&conn->log->rng, conn->backoff_ms / 2 + 1);
    timers_arm(conn_timers(conn), &conn->timer, wait_ms * NS_PER_MS, conn_on_backoff);
    conn_fail_queue(conn, conn->down_err);
}

static void conn_note_error(struct pg_conn *conn, const char *why)
{
    size_t size = strcspn(why, "\n"); /* libpq's texts go over several lines. */
    char line[sizeof(conn->last_error)];
    (void)snprintf(line, sizeof(line), "%.*s", (int)size, why);
    bool is_new = strcmp(line, conn->last_error) != 0;
    memcpy(conn->last_error, line, sizeof(line));
    uint64_t now_ns = clock_now_ns(conn_timers(conn)->clock);
    if (now_ns >= conn->quiet_until_ns) {
        conn->quiet_until_ns = now_ns + QUIET_NS;
        conn->lines = 0;
    }
    if (is_new && conn->lines < QUIET_LINES && !conn->log->closing) {
        conn->lines++;
        LOG(LOG_WARN, "postgres connection", LSTR("role", role_names[conn->role]),
            LSTR("state", sm_name(&conn->sm)), LSTR("error", line));
    }
}

/* ---- connecting ----------------------------------------------------------------------------- */

static const struct pg_host *conn_host(const struct pg_conn *conn)
{
    uint32_t index = (conn->host_first + conn->host_tried - 1) % conn->log->host_count;
    return &conn->log->hosts[index];
}

static bool host_needs_resolving(const struct pg_host *host)
{
    return host->address == NULL && host->name != NULL && host->name[0] != '\0' &&
           host->name[0] != '/' && host->name[0] != '@';
}

static void notice_receiver(void *arg, const PGresult *result)
{
    struct pg_conn *conn = arg;
    const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);
    if (severity != NULL && strcmp(severity, "WARNING") == 0) {
        const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
        if (conn->warnings++ >= WARNINGS_TOLD) {
            return;
        }
        LOG(LOG_WARN, "postgres warning", LSTR("role", role_names[conn->role]),
            LSTR("text", text == NULL ? "" : text));
    }
}

static void conn_on_retry(struct timer *timer)
{
    conn_next_address(CONTAINER_OF(timer, struct pg_conn, timer));
}

/* This attempt is over: the next one starts from the loop, however fast this one failed. */
static void conn_retry_soon(struct pg_conn *conn, const char *why)
{
    conn_note_error(conn, why);
    timers_arm(conn_timers(conn), &conn->timer, 0, conn_on_retry);
}

static void conn_poll_connect(struct pg_conn *conn)
{
    /* libpq may change its socket inside, and close the old one: uv must not watch it then. */
    conn_unpoll(conn);
    PostgresPollingStatusType status = PQconnectPoll(conn->pg);
    int events = status == PGRES_POLLING_WRITING ? UV_WRITABLE : UV_READABLE;
    switch (status) {
    case PGRES_POLLING_READING:
    case PGRES_POLLING_WRITING:
        if (!conn_poll(conn, events)) {
            conn_retry_soon(conn, "the socket cannot be watched");
        }
        return;
    case PGRES_POLLING_OK:
        timers_disarm(conn_timers(conn), &conn->timer);
        if (PQsetnonblocking(conn->pg, 1) != 0 || !conn_poll(conn, UV_READABLE)) {
            conn_retry_soon(conn, "the socket cannot be watched");
            return;
        }
        sm_move(&conn->sm, PG_SETUP);
        pg_setup_start(conn);
        return;
    case PGRES_POLLING_FAILED:
    case PGRES_POLLING_ACTIVE:
        break;
    }
    conn_retry_soon(conn, PQerrorMessage(conn->pg));
}

/* Begin to connect to the current host, at |numeric| if it had to be resolved. */
static void conn_connect(struct pg_conn *conn, const char *numeric)
{
    struct pg_log *log = conn->log;
    const struct pg_host *host = conn_host(conn);
    const char **keywords = mem_alloc((log->option_count + 4) * sizeof(*keywords));
    const char **values = mem_alloc((log->option_count + 4) * sizeof(*values));
    uint32_t count = 0;
    for (; count < log->option_count; count++) {
        keywords[count] = log->keywords[count];
        values[count] = log->values[count];
    }
    const char *const more[3][2] = {{"host", host->name},
                                    {"hostaddr", numeric != NULL ? numeric : host->address},
                                    {"port", host->port}};
    for (uint32_t i = 0; i < 3; i++) {
        if (more[i][1] != NULL) {
            keywords[count] = more[i][0];
            values[count++] = more[i][1];
        }
    }
    sm_move(&conn->sm, PG_CONNECTING);
    conn->pg = PQconnectStartParams(keywords, values, 0);
    mem_free(keywords);
    mem_free(values);
    ASSERT(conn->pg != NULL); /* Out of memory. */
    if (PQstatus(conn->pg) == CONNECTION_BAD) {
        conn_retry_soon(conn, PQerrorMessage(conn->pg));
        return;
    }
    (void)PQsetNoticeReceiver(conn->pg, notice_receiver, conn);
    timers_arm(conn_timers(conn), &conn->timer, log->connect_timeout_ms * NS_PER_MS,
               conn_on_connect_timeout);
    if (!conn_poll(conn, UV_WRITABLE)) {
        conn_retry_soon(conn, "the socket cannot be watched");
    }
}

static void conn_on_connect_timeout(struct timer *timer)
{
    struct pg_conn *conn = CONTAINER_OF(timer, struct pg_conn, timer);
    conn_note_error(conn, "no answer while connecting");
    conn_next_address(conn);
}

/* The next address of the host, or else the next host. */
static void conn_next_address(struct pg_conn *conn)
{
    conn_close(conn);
    while (conn->address != NULL) {
        struct addrinfo *address = conn->address;
        conn->address = address->ai_next;
        char numeric[NI_MAXHOST];
        if (getnameinfo(address->ai_addr, address->ai_addrlen, numeric, sizeof(numeric), NULL, 0,
                        NI_NUMERICHOST) == 0) {
            conn_connect(conn, numeric);
            return;
        }
    }
    conn_next_host(conn);
}

static void resolve_on_done(uv_getaddrinfo_t *request, int status, struct addrinfo *addresses)
{
    struct pg_resolve *resolve = CONTAINER_OF(request, struct pg_resolve, request);
    struct pg_log *log = resolve->log;
    struct pg_conn *conn = resolve->conn;
    mem_free(resolve);
    if (conn == NULL) {
        uv_freeaddrinfo(addresses);
    } else {
        conn->resolve = NULL;
        timers_disarm(conn_timers(conn), &conn->timer);
        if (status != 0) {
            conn_retry_soon(conn, uv_strerror(status));
        } else {
            conn->addresses = addresses;
            conn->address = addresses;
            conn_next_address(conn);
        }
    }
    pg_log_release(log);
}

static void conn_resolve(struct pg_conn *conn, const char *name)
{
    struct pg_resolve *resolve = mem_alloc(sizeof(*resolve));
    resolve->log = conn->log;
    resolve->conn = conn;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    int status = uv_getaddrinfo(&conn->log->loop->uv, &resolve->request, resolve_on_done, name,
                                NULL, &hints);
    if (status != 0) {
        mem_free(resolve);
        conn_retry_soon(conn, uv_strerror(status));
        return;
    }
    conn->log->handle_count++;
    conn->resolve = resolve;
    timers_arm(conn_timers(conn), &conn->timer, conn->log->connect_timeout_ms * NS_PER_MS,
               conn_on_connect_timeout);
}

static void conn_next_host(struct pg_conn *conn)
{
    conn_close(conn);
    conn_free_addresses(conn);
    if (conn->host_tried == conn->log->host_count) {
        conn_back_off(conn);
        return;
    }
    conn->host_tried++;
    sm_move(&conn->sm, PG_RESOLVING);
    const struct pg_host *host = conn_host(conn);
    if (host_needs_resolving(host)) {
        conn_resolve(conn, host->name);
        return;
    }
    conn_connect(conn, NULL);
}

void pg_conn_start(struct pg_conn *conn)
{
    ASSERT_ON_LOOP(conn->log->loop);
    if (!sm_is(&conn->sm, PG_OFF)) {
        return;
    }
    conn->backoff_ms = 0;
    conn->host_first = conn->log->host_good;
    conn->host_tried = 0;
    sm_move(&conn->sm, PG_RESOLVING);
    conn_next_host(conn);
}

static void conn_next_op(struct pg_conn *conn)
{
    struct pg_op *op = conn->queue;
    if (op == NULL || conn->locked || !sm_is(&conn->sm, PG_READY)) {
        return;
    }
    conn->queue = op->next;
    op->next = NULL;
    conn->op = op;
    sm_move(&conn->sm, PG_BUSY);
    op->start(conn, op);
}

void pg_conn_ready(struct pg_conn *conn)
{
    conn->ready_ns = clock_now_ns(conn_timers(conn)->clock);
    conn->down_err = ERR_NO_LEADER;
    conn->last_error[0] = '\0';
    conn->log->host_good = (conn->host_first + conn->host_tried - 1) % conn->log->host_count;
    conn_free_addresses(conn);
    sm_move(&conn->sm, PG_READY);
    conn_next_op(conn);
    pg_log_conn_ready(conn);
}

/* ---- losing it ------------------------------------------------------------------------------ */

/* Close what is open and tell who waits for an answer; |again|: with a new try under way. */
static void conn_lose(struct pg_conn *conn, const char *why, bool again)
{
    metric_add(METRIC_drover_sql_reconnects_total, 1);
    pg_reply_fn *on_reply = conn->waiting ? conn->on_reply : NULL;
    struct pg_reply reply = {.lost = true, .executing = conn->executing, .message = why};
    memcpy(reply.sqlstate, conn->sqlstate, sizeof(reply.sqlstate));
    reply.warnings = conn->warnings;
    reply.stopped = conn->log->closing;
    bool is_setup = sm_is(&conn->sm, PG_SETUP);
    conn->waiting = false;
    if (is_setup && again) {
        conn_next_address(conn); /* Another one may do. */
        return;
    }
    conn_close(conn);
    conn_free_addresses(conn);
    uint64_t lived_ns = clock_now_ns(conn_timers(conn)->clock) - conn->ready_ns;
    if (again && lived_ns < NS_PER_S) {
        conn_back_off(conn); /* Whatever ends it, it would do so again at once. */
    } else if (again) {
        sm_move(&conn->sm, PG_RESOLVING);
        conn->backoff_ms = 0;
        conn->host_first = conn->log->host_good;
        conn->host_tried = 0;
        conn_next_host(conn);
    } else if (!sm_is(&conn->sm, PG_OFF)) {
        sm_move(&conn->sm, PG_OFF);
    }
    if (on_reply != NULL && !is_setup) {
        on_reply(conn, &reply); /* Last: its op ends, and may bring the next. */
    }
}

void pg_conn_shut(struct pg_conn *conn, enum err err)
{
    conn->down_err = err;
    conn_lose(conn, "closed", false);
    conn_fail_queue(conn, err);
    pg_params_fini(&conn->params);
}

void pg_conn_drop(struct pg_conn *conn, const char *why)
{
    if (sm_is(&conn->sm, PG_OFF) || sm_is(&conn->sm, PG_DOWN)) {
        return;
    }
    conn_note_error(conn, why);
    if (sm_is(&conn->sm, PG_RESOLVING) || sm_is(&conn->sm, PG_CONNECTING)) {
        return; /* A new one is under way. */
    }
    conn_lose(conn, why, true);
}

static void conn_on_answer_timeout(struct timer *timer)
{
    struct pg_conn *conn = CONTAINER_OF(timer, struct pg_conn, timer);
    pg_conn_drop(conn, "no answer in time");
}

/* ---- statements ----------------------------------------------------------------------------- */

static bool conn_flush(struct pg_conn *conn)
{
    int left = PQflush(conn->pg);
    return left >= 0 && conn_poll(conn, left > 0 ? UV_READABLE | UV_WRITABLE : UV_READABLE);
}

static void conn_arm_answer(struct pg_conn *conn)
{
    uint64_t ms = (uint64_t)conn->log->statement_timeout_ms + ANSWER_GRACE_MS;
    timers_arm(conn_timers(conn), &conn->timer, ms * NS_PER_MS, conn_on_answer_timeout);
}

static int conn_send_params(struct pg_conn *conn)
{
    const struct pg_params *params = &conn->params;
    const char *values[PG_PARAMS_MAX];
    int lengths[PG_PARAMS_MAX];
    int formats[PG_PARAMS_MAX];
    Oid types[PG_PARAMS_MAX];
    int count = pg_stmt_types(conn->stmt, types);
    ASSERT(count == (int)params->count);
    for (int i = 0; i < count; i++) {
        bool is_null = params->items[i].size < 0;
        const uint8_t *bytes =
            params->bytes.data == NULL ? (const uint8_t *)"" : params->bytes.data;
        values[i] = is_null ? NULL : (const char *)bytes + params->items[i].offset;
        lengths[i] = is_null ? 0 : params->items[i].size;
        formats[i] = 1;
    }
    conn->executing = true;
    if (conn->log->pooler) {
        return PQsendQueryParams(conn->pg, conn->log->texts[conn->stmt], count, types, values,
                                 lengths, formats, 1);
    }
    return PQsendQueryPrepared(conn->pg, pg_stmt_texts[conn->stmt].name, count, values, lengths,
                               formats, 1);
}

/* Send the statement, or its preparation first. */
static bool conn_send(struct pg_conn *conn)
{
    conn->preparing = !conn->log->pooler && !conn->prepared[conn->stmt];
    int sent;
    if (conn->preparing) {
        Oid types[PG_PARAMS_MAX];
        int count = pg_stmt_types(conn->stmt, types);
        sent = PQsendPrepare(conn->pg, pg_stmt_texts[conn->stmt].name, conn->log->texts[conn->stmt],
                             count, types);
    } else {
        sent = conn_send_params(conn);
        if (sent == 1 && conn->single_row) {
            sent = PQsetSingleRowMode(conn->pg);
        }
    }
    return sent == 1 && conn_flush(conn);
}

static void conn_begin_wait(struct pg_conn *conn, pg_reply_fn *on_reply)
{
    ASSERT(!conn->waiting);
    PQclear(conn->rows);
    conn->rows = NULL;
    conn->waiting = true;
    conn->preparing = false;
    conn->executing = false;
    conn->warnings = 0;
    conn->sqlstate[0] = '\0';
    conn->message[0] = '\0';
    conn->on_reply = on_reply;
    conn_arm_answer(conn);
}

static void conn_on_send_failed(struct timer *timer)
{
    struct pg_conn *conn = CONTAINER_OF(timer, struct pg_conn, timer);
    pg_conn_drop(conn, conn->pg == NULL ? "sending failed" : PQerrorMessage(conn->pg));
}

/* A failed send is a loss like any other, but never inside the call that sends. */
static void conn_sent(struct pg_conn *conn, bool is_sent)
{
    if (!is_sent) {
        timers_arm(conn_timers(conn), &conn->timer, 0, conn_on_send_failed);
    }
}

static void conn_execute(struct pg_conn *conn, enum pg_stmt stmt, pg_row_fn *on_row,
                         pg_reply_fn *on_reply)
{
    ASSERT(sm_is(&conn->sm, PG_BUSY));
    conn_begin_wait(conn, on_reply);
    conn->stmt = stmt;
    conn->on_row = on_row;
    conn->single_row = on_row != NULL;
    conn_sent(conn, conn_send(conn));
}

void pg_conn_execute(struct pg_conn *conn, enum pg_stmt stmt, pg_reply_fn *on_reply)
{
    conn_execute(conn, stmt, NULL, on_reply);
}

void pg_conn_stream(struct pg_conn *conn, enum pg_stmt stmt, pg_row_fn *on_row,
                    pg_reply_fn *on_reply)
{
    conn_execute(conn, stmt, on_row, on_reply);
}

void pg_conn_query(struct pg_conn *conn, const char *text, pg_reply_fn *on_reply)
{
    ASSERT(sm_is(&conn->sm, PG_BUSY) || sm_is(&conn->sm, PG_SETUP));
    conn_begin_wait(conn, on_reply);
    conn->single_row = false;
    conn->executing = true;
    conn_sent(conn, PQsendQuery(conn->pg, text) == 1 && conn_flush(conn));
}

/* ---- answers -------------------------------------------------------------------------------- */

static void conn_take_error(struct pg_conn *conn, const PGresult *result)
{
    const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    if (conn->message[0] == '\0') { /* The first one is the reason of the others. */
        if (sqlstate != NULL) {
            (void)snprintf(conn->sqlstate, sizeof(conn->sqlstate), "%.5s", sqlstate);
        }
        if (strcmp(conn->sqlstate, "55P03") == 0) {
            conn->log->snapshot_due_ns = 0; /* A lock for too long: upkeep looks for who has it. */
        }
        text = text != NULL ? text : PQresultErrorMessage(result);
        (void)snprintf(conn->message, sizeof(conn->message), "%s",
                       text[0] == '\0' ? "error" : text);
    }
}

static void conn_take_result(struct pg_conn *conn, PGresult *result)
{
    switch (PQresultStatus(result)) {
    case PGRES_SINGLE_TUPLE:
        conn->on_row(conn, result);
        PQclear(result);
        return;
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
        PQclear(conn->rows);
        conn->rows = result;
        return;
    case PGRES_COPY_OUT:
    case PGRES_COPY_IN:
    case PGRES_COPY_BOTH:
        PQclear(result);
        pg_conn_drop(conn, "it wants to copy"); /* Which libpq would repeat without an end. */
        return;
    case PGRES_EMPTY_QUERY:
    case PGRES_BAD_RESPONSE:
    case PGRES_NONFATAL_ERROR:
    case PGRES_FATAL_ERROR:
    case PGRES_PIPELINE_SYNC:
    case PGRES_PIPELINE_ABORTED:
        break;
    }
    conn_take_error(conn, result);
    PQclear(result);
}

/* Statements of this session are not, or no longer, what was prepared: a new one is needed. */
static bool conn_error_is_stale(const char *sqlstate)
{
    return strcmp(sqlstate, "0A000") == 0 || /* A cached plan does not fit its tables. */
           strcmp(sqlstate, "26000") == 0 || /* invalid_sql_statement_name */
           strcmp(sqlstate, "42P05") == 0;   /* duplicate_prepared_statement */
}

/* The server is ready again: pass the answer on, or execute what has been prepared. */
static void conn_complete(struct pg_conn *conn)
{
    bool is_ok = conn->message[0] == '\0';
    if (is_ok && conn->rows == NULL) {
        pg_conn_drop(conn, "no answer to a statement");
        return;
    }
    if (conn->preparing && is_ok) {
        conn->prepared[conn->stmt] = true;
        PQclear(conn->rows);
        conn->rows = NULL;
        conn_sent(conn, conn_send(conn));
        return;
    }
    timers_disarm(conn_timers(conn), &conn->timer);
    conn->stale = conn->stale || conn_error_is_stale(conn->sqlstate);
    if (is_ok && sm_is(&conn->sm, PG_BUSY)) {
        conn->backoff_ms = 0; /* It works: when it is lost, the next one is worth an early try. */
    }
    struct pg_reply reply = {
        .executing = conn->executing,
        .ok = is_ok,
        .warnings = conn->warnings,
        .rows = conn->rows,
        .message = conn->message,
    };
    memcpy(reply.sqlstate, conn->sqlstate, sizeof(reply.sqlstate));
    PGresult *rows = conn->rows;
    conn->rows = NULL;
    conn->waiting = false;
    conn->on_reply(conn, &reply);
    PQclear(rows);
}

static void conn_take_notifies(struct pg_conn *conn)
{
    struct pg_log *log = conn->log;
    PGnotify *notify;
    PGconn *own = log->conns[PG_ROLE_APPEND].pg;
    int own_pid = own == NULL ? 0 : PQbackendPID(own);
    uint64_t newest = 0;
    while ((notify = PQnotifies(conn->pg)) != NULL) {
        /* Anybody may notify; what is no number is 0, which is no news. */
        uint64_t seq = notify->be_pid == own_pid ? 0 : strtoull(notify->extra, NULL, 10);
        newest = seq > newest ? seq : newest;
        PQfreemem(notify);
    }
    if (newest > 0 && log->is_open && log->log.events.hint != NULL) {
        log->log.events.hint(log->log.events.arg, newest); /* Last. */
    }
}

static void conn_read(struct pg_conn *conn)
{
    PGconn *pg = conn->pg;
    bool is_broken = PQconsumeInput(pg) == 0;
    /* TLS may keep the rest of a record, of which the socket knows nothing. */
    for (uint32_t more = 0; !is_broken && more < 4 && PQsslInUse(pg) != 0; more++) {
        is_broken = PQconsumeInput(pg) == 0;
    }
    while (conn->waiting && PQisBusy(pg) == 0) {
        PGresult *result = PQgetResult(pg);
        if (result != NULL) {
            conn_take_result(conn, result);
            if (conn->pg != pg) {
                return; /* Taking it has closed the connection. */
            }
            continue;
        }
        if (is_broken || PQstatus(pg) == CONNECTION_BAD) {
            break;
        }
        conn_complete(conn);
        return;
    }
    if (is_broken || PQstatus(pg) == CONNECTION_BAD) {
        char why[sizeof(conn->message)];
        bool has_reason = conn->waiting && conn->message[0] != '\0';
        (void)snprintf(why, sizeof(why), "%s", has_reason ? conn->message : PQerrorMessage(pg));
        pg_conn_drop(conn, why);
        return;
    }
    if (conn->waiting && conn->single_row) {
        conn_arm_answer(conn); /* A stream takes as long as it takes, while it flows. */
    }
    conn_take_notifies(conn);
}

static void conn_on_io(uv_poll_t *handle, int status, int events)
{
    struct pg_conn *conn = CONTAINER_OF(handle, struct pg_poll, handle)->conn;
    if (sm_is(&conn->sm, PG_CONNECTING)) {
        conn_poll_connect(conn);
        return;
    }
    if (status != 0) { /* The peer has reset it; uv watches no more. What has come still counts. */
        PGconn *pg = conn->pg;
        conn->poll_events = 0;
        conn_read(conn);
        if (conn->pg == pg) {
            pg_conn_drop(conn, "connection reset");
        }
        return;
    }
    if ((events & UV_WRITABLE) != 0 && !conn_flush(conn)) {
        pg_conn_drop(conn, PQerrorMessage(conn->pg));
        return;
    }
    if ((events & UV_READABLE) != 0) {
        conn_read(conn);
    }
}

/* ---- ops ------------------------------------------------------------------------------------ */

void pg_conn_submit(struct pg_conn *conn, struct pg_op *op, bool is_first)
{
    ASSERT_ON_LOOP(conn->log->loop);
    if (conn->log->closing || sm_is(&conn->sm, PG_DOWN) || sm_is(&conn->sm, PG_OFF)) {
        op_fail_later(op, conn->log->closing ? ERR_STOPPED : conn->down_err);
        return;
    }
    struct pg_op **at = &conn->queue;
    while (!is_first && *at != NULL) {
        at = &(*at)->next;
    }
    op->next = *at;
    *at = op;
    conn_next_op(conn);
}

void pg_conn_finish(struct pg_conn *conn)
{
    struct pg_op *op = conn->op;
    ASSERT(op != NULL);
    conn->op = NULL;
    if (conn->log->closing) {
        pg_op_done_later(op); /* Not inside of the call that closes. */
        return;
    }
    void *request = op->request;
    op->request = NULL;
    if (sm_is(&conn->sm, PG_BUSY)) {
        sm_move(&conn->sm, PG_READY);
        if (conn->stale) {
            pg_conn_drop(conn, "its prepared statements are of no use any more");
        }
        conn_next_op(conn);
    }
    if (op != &conn->log->unlock_op) {
        sql_request_done(op->kind, request); /* Last: it may close everything. */
    }
}

void pg_conn_report(struct pg_conn *conn, const char *what, const struct pg_reply *reply)
{
    if (!conn->log->closing) {
        LOG(LOG_WARN, "postgres statement", LSTR("at", what), LSTR("role", role_names[conn->role]),
            LSTR("sqlstate", reply->sqlstate),
            LSTR("error", reply->message == NULL ? "" : reply->message));
    }
}
