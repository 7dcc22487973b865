/* The PostgreSQL engine: its URL, its connections' roles, its table of functions. */
#include "sql/postgres.h"

#include <stdio.h>

#include "core/log.h"
#include "core/mem.h"

enum { CONNECT_TIMEOUT_MS = 2000, STATEMENT_TIMEOUT_MS = 5000, OPEN_TIMEOUT_MS = 5000 };

static struct pg_log *pg_of(struct sql_log *log)
{
    return CONTAINER_OF(log, struct pg_log, log);
}

/* ---- opening -------------------------------------------------------------------------------- */

static void open_answer(struct pg_log *log, enum err err)
{
    ASSERT(!log->open_answered);
    log->open_answered = true;
    timers_disarm(&log->loop->timers, &log->open_timer);
    log->is_open = err == ERR_OK;
    if (err == ERR_OK) {
        if (!log->pooler) {
            pg_conn_start(&log->conns[PG_ROLE_LISTEN]);
        }
    }
    log->log.events.opened(log->log.events.arg, err, log->why); /* Last: it may close. */
}

/* Why it failed is kept; the connections are closed by a timer, outside of their own callbacks. */
static void open_on_failed(struct timer *timer)
{
    struct pg_log *log = CONTAINER_OF(timer, struct pg_log, open_timer);
    for (uint32_t role = 0; role < PG_ROLE_COUNT; role++) {
        pg_conn_shut(&log->conns[role], ERR_NO_LEADER);
    }
    open_answer(log, log->open_err);
}

void pg_log_open_fail(struct pg_log *log, enum err err, const char *why)
{
    if (log->open_answered || log->open_err != ERR_OK) {
        return;
    }
    log->open_err = err;
    (void)snprintf(log->why, sizeof(log->why), "postgres %.200s: %.250s", log->shown_url, why);
    timers_arm(&log->loop->timers, &log->open_timer, 0, open_on_failed);
}

static void open_on_timeout(struct timer *timer)
{
    struct pg_log *log = CONTAINER_OF(timer, struct pg_log, open_timer);
    const char *why = "no answer";
    for (uint32_t role = 0; role < PG_ROLE_COUNT; role++) {
        if (log->conns[role].last_error[0] != '\0') {
            why = log->conns[role].last_error;
        }
    }
    pg_log_open_fail(log, ERR_NO_LEADER, why);
}

void pg_log_conn_ready(struct pg_conn *conn)
{
    static const enum pg_role needed[] = {PG_ROLE_APPEND, PG_ROLE_PROBE, PG_ROLE_TAIL,
                                          PG_ROLE_UPKEEP};
    struct pg_log *log = conn->log;
    if (log->open_answered || log->open_err != ERR_OK) {
        return;
    }
    uint32_t ready = 0;
    for (uint32_t i = 0; i < ARRAY_COUNT(needed); i++) {
        struct pg_conn *other = &log->conns[needed[i]];
        pg_conn_start(other); /* The first one made sure of the schema. */
        ready += sm_is(&other->sm, PG_READY) ? 1 : 0;
    }
    if (ready == ARRAY_COUNT(needed)) {
        open_answer(log, ERR_OK);
    }
}

static void pg_open(struct sql_log *base)
{
    struct pg_log *log = pg_of(base);
    ASSERT_ON_LOOP(log->loop);
    ASSERT(base->events.opened != NULL);
    timers_arm(&log->loop->timers, &log->open_timer, log->open_timeout_ms * NS_PER_MS,
               open_on_timeout);
    pg_conn_start(&log->conns[PG_ROLE_APPEND]);
}

/* ---- requests ------------------------------------------------------------------------------- */

static const struct {
    enum pg_role role;
    void (*start)(struct pg_conn *conn, struct pg_op *op);
} pg_kinds[SQL_KIND_COUNT] = {
    [SQL_KIND_APPEND] = {PG_ROLE_APPEND, pg_append_start},
    [SQL_KIND_LOCK] = {PG_ROLE_APPEND, pg_lock_start},
    [SQL_KIND_PROBE] = {PG_ROLE_PROBE, pg_probe_start},
    [SQL_KIND_TAIL] = {PG_ROLE_TAIL, pg_tail_start},
    [SQL_KIND_VERDICT] = {PG_ROLE_APPEND, pg_verdict_start},
    [SQL_KIND_KEEPALIVE] = {PG_ROLE_UPKEEP, pg_keepalive_start},
    [SQL_KIND_UPKEEP] = {PG_ROLE_UPKEEP, pg_upkeep_start},
    [SQL_KIND_PURGE] = {PG_ROLE_UPKEEP, pg_purge_start},
    [SQL_KIND_LOAD] = {PG_ROLE_LOAD, pg_load_start},
};

static struct pg_op *pg_take_op(struct sql_log *base, enum sql_kind kind, void *request)
{
    struct pg_op *op = &pg_of(base)->ops[kind];
    ASSERT(op->request == NULL); /* One of each kind. */
    ASSERT(request != NULL);
    op->request = request;
    return op;
}

static void pg_submit(struct sql_log *base, enum sql_kind kind, void *request)
{
    struct pg_op *op = pg_take_op(base, kind, request);
    pg_conn_submit(&pg_of(base)->conns[pg_kinds[kind].role], op, false);
}

static void pg_append(struct sql_log *base, struct sql_append *append)
{
    struct pg_log *log = pg_of(base);
    struct pg_conn *conn = &log->conns[PG_ROLE_APPEND];
    ASSERT(append->entry->seq == append->expected_seq + 1);
    log->append.without_notify = clock_now_ns(log->loop->timers.clock) < log->notify_off_until_ns;
    if (!append->locked) {
        pg_submit(base, SQL_KIND_APPEND, append);
        return;
    }
    struct pg_op *op = pg_take_op(base, SQL_KIND_APPEND, append);
    if (!conn->locked || !sm_is(&conn->sm, PG_READY)) {
        append->outcome = SQL_LOST; /* The lock is gone, with its session. */
        append->err = ERR_OK;
        pg_op_done_later(op);
        return;
    }
    conn->locked = false;
    pg_conn_submit(conn, op, true);
}

static void pg_unlock(struct sql_log *base)
{
    struct pg_log *log = pg_of(base);
    struct pg_conn *conn = &log->conns[PG_ROLE_APPEND];
    if (!conn->locked || !sm_is(&conn->sm, PG_READY)) {
        return;
    }
    conn->locked = false;
    log->unlock_op.request = &log->unlock_op;
    pg_conn_submit(conn, &log->unlock_op, true);
}

static void pg_lock(struct sql_log *base, struct sql_lock *lock)
{
    pg_submit(base, SQL_KIND_LOCK, lock);
}

static void pg_probe(struct sql_log *base, struct sql_probe *probe)
{
    pg_submit(base, SQL_KIND_PROBE, probe);
}

static void pg_tail(struct sql_log *base, struct sql_tail *tail)
{
    pg_submit(base, SQL_KIND_TAIL, tail);
}

static void pg_verdict(struct sql_log *base, struct sql_verdict *verdict)
{
    pg_submit(base, SQL_KIND_VERDICT, verdict);
}

static void pg_keepalive(struct sql_log *base, struct sql_keepalive *keepalive)
{
    pg_submit(base, SQL_KIND_KEEPALIVE, keepalive);
}

static void pg_upkeep(struct sql_log *base, struct sql_upkeep *upkeep)
{
    pg_submit(base, SQL_KIND_UPKEEP, upkeep);
}

static void pg_purge(struct sql_log *base, struct sql_purge *purge)
{
    pg_submit(base, SQL_KIND_PURGE, purge);
}

static void pg_load(struct sql_log *base, struct sql_load *load)
{
    struct pg_log *log = pg_of(base);
    if (log->is_open && !log->closing) {
        pg_conn_start(&log->conns[PG_ROLE_LOAD]);
    }
    pg_submit(base, SQL_KIND_LOAD, load);
}

/* ---- closing -------------------------------------------------------------------------------- */

static void close_on_post(struct loop_post *post)
{
    struct pg_log *log = CONTAINER_OF(post, struct pg_log, close_post);
    log->closed(log->closed_arg);
}

void pg_log_release(struct pg_log *log)
{
    ASSERT(log->handle_count > 0);
    log->handle_count--;
    if (log->closing && log->handle_count == 0) {
        /* Behind the posts that complete the last requests. */
        loop_post(log->loop, &log->close_post);
    }
}

static void pg_close(struct sql_log *base, void (*closed)(void *arg), void *arg)
{
    struct pg_log *log = pg_of(base);
    ASSERT_ON_LOOP(log->loop);
    ASSERT(!log->closing);
    log->closing = true;
    log->open_answered = true;
    log->closed = closed;
    log->closed_arg = arg;
    log->close_post.run = close_on_post;
    log->handle_count++; /* Ours, until all are told. */
    timers_disarm(&log->loop->timers, &log->open_timer);
    for (uint32_t role = 0; role < PG_ROLE_COUNT; role++) {
        pg_conn_shut(&log->conns[role], ERR_STOPPED);
    }
    pg_log_release(log);
}

static void pg_free(struct sql_log *base)
{
    struct pg_log *log = pg_of(base);
    ASSERT(log->handle_count == 0);
    for (uint32_t i = 0; i < log->option_count; i++) {
        mem_free(log->keywords[i]);
        mem_free(log->values[i]);
    }
    for (uint32_t i = 0; i < log->host_count; i++) {
        mem_free(log->hosts[i].name);
        mem_free(log->hosts[i].address);
        mem_free(log->hosts[i].port);
    }
    for (uint32_t i = 0; i < PG_STMT_COUNT; i++) {
        mem_free(log->texts[i]);
    }
    for (uint32_t role = 0; role < PG_ROLE_COUNT; role++) {
        pg_params_fini(&log->conns[role].params);
    }
    mem_free(log->keywords);
    mem_free(log->values);
    mem_free(log->hosts);
    mem_free(log->prefix);
    mem_free(log->shown_url);
    mem_free(log);
}

static const struct sql_log_ops pg_ops = {
    .name = "postgres",
    .open = pg_open,
    .append = pg_append,
    .lock = pg_lock,
    .unlock = pg_unlock,
    .probe = pg_probe,
    .tail = pg_tail,
    .verdict = pg_verdict,
    .keepalive = pg_keepalive,
    .upkeep = pg_upkeep,
    .purge = pg_purge,
    .load = pg_load,
    .close = pg_close,
    .free = pg_free,
};

/* ---- the URL -------------------------------------------------------------------------------- */

static void options_add(struct pg_log *log, const char *keyword, const char *value)
{
    log->keywords[log->option_count] = mem_strdup(keyword);
    log->values[log->option_count] = mem_strdup(value);
    log->option_count++;
}

static const char *options_find(const PQconninfoOption *options, const char *keyword)
{
    for (; options != NULL && options->keyword != NULL; options++) {
        if (strcmp(options->keyword, keyword) == 0) {
            return options->val;
        }
    }
    return NULL;
}

/* Defaults of ours for what the URL leaves open: links that die silently must not hang. */
static const char *const option_defaults[][2] = {
    {"application_name", "drover"}, {"keepalives", "1"},       {"keepalives_idle", "5"},
    {"keepalives_interval", "2"},   {"keepalives_count", "3"}, {"tcp_user_timeout", "5000"},
    {"gssencmode", "disable"}, /* Its set-up blocks. */
};
/* Handled here: one host at a time, under a timer of ours, and never a standby. */
static const char *const options_ours[] = {"host", "hostaddr", "port", "target_session_attrs",
                                           "connect_timeout"};

static bool option_is_ours(const char *keyword)
{
    for (uint32_t i = 0; i < ARRAY_COUNT(options_ours); i++) {
        if (strcmp(keyword, options_ours[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* The |index|th item of a comma-separated list; a list of one stands for all. NULL when empty. */
static char *list_item(const char *list, uint32_t index, uint32_t count)
{
    if (list == NULL) {
        return NULL;
    }
    uint32_t commas = 0;
    for (const char *at = list; *at != '\0'; at++) {
        commas += *at == ',' ? 1 : 0;
    }
    index = commas == 0 && count > 1 ? 0 : index;
    for (; index > 0; index--) {
        list += strcspn(list, ",");
        list += *list == ',' ? 1 : 0;
    }
    size_t size = strcspn(list, ",");
    return size == 0 ? NULL : mem_printf("%.*s", (int)size, list);
}

static uint32_t list_count(const char *list)
{
    uint32_t count = list == NULL ? 0 : 1;
    for (const char *at = list; at != NULL && *at != '\0'; at++) {
        count += *at == ',' ? 1 : 0;
    }
    return count;
}

/* One port, or one address, for all hosts, or one for each: as libpq wants it. */
static bool url_lists_match(const struct pg_log *log, const PQconninfoOption *options)
{
    uint32_t names = list_count(options_find(options, "host"));
    uint32_t addresses = list_count(options_find(options, "hostaddr"));
    uint32_t ports = list_count(options_find(options, "port"));
    return (ports <= 1 || ports == log->host_count) &&
           (names == 0 || addresses == 0 || names == addresses);
}

static void url_take_hosts(struct pg_log *log, const PQconninfoOption *options)
{
    /* What libpq would take from its environment, taken here: it must not look up names. */
    PQconninfoOption *defaults = PQconndefaults();
    const char *host = options_find(options, "host");
    const char *hostaddr = options_find(options, "hostaddr");
    const char *port = options_find(options, "port");
    if (host == NULL && hostaddr == NULL) {
        host = options_find(defaults, "host");
        hostaddr = options_find(defaults, "hostaddr");
    }
    port = port != NULL ? port : options_find(defaults, "port");
    uint32_t names = list_count(host);
    uint32_t addresses = list_count(hostaddr);
    log->host_count = names > addresses ? names : addresses;
    log->host_count = log->host_count == 0 ? 1 : log->host_count;
    log->hosts = mem_alloc(log->host_count * sizeof(*log->hosts));
    for (uint32_t i = 0; i < log->host_count; i++) {
        log->hosts[i].name = list_item(host, i, log->host_count);
        log->hosts[i].address = list_item(hostaddr, i, log->host_count);
        log->hosts[i].port = list_item(port, i, log->host_count);
    }
    PQconninfoFree(defaults);
}

static void url_take_options(struct pg_log *log, const PQconninfoOption *options)
{
    uint32_t room = ARRAY_COUNT(option_defaults);
    for (const PQconninfoOption *at = options; at->keyword != NULL; at++) {
        room++;
    }
    log->keywords = mem_alloc(room * sizeof(*log->keywords));
    log->values = mem_alloc(room * sizeof(*log->values));
    for (const PQconninfoOption *at = options; at->keyword != NULL; at++) {
        if (at->val != NULL && !option_is_ours(at->keyword)) {
            options_add(log, at->keyword, at->val);
        }
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(option_defaults); i++) {
        const char *given = options_find(options, option_defaults[i][0]);
        if (given == NULL) {
            options_add(log, option_defaults[i][0], option_defaults[i][1]);
        }
    }
}

/* libpq's own texts about a bad URL may quote it, with its password: they are not shown. */
static enum err url_take(struct pg_log *log, const char *url, char *why, size_t why_size)
{
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(url, &message);
    PQfreemem(message);
    if (options == NULL) {
        (void)snprintf(why, why_size,
                       "datastore %.200s: not a URL that libpq understands (percent-encode special "
                       "characters)",
                       log->shown_url);
        return ERR_CONFIG;
    }
    url_take_options(log, options);
    url_take_hosts(log, options);
    bool do_match = url_lists_match(log, options);
    PQconninfoFree(options);
    if (!do_match) {
        (void)snprintf(why, why_size,
                       "datastore %.200s: its hosts, addresses and ports differ in number",
                       log->shown_url);
        return ERR_CONFIG;
    }
    return ERR_OK;
}

enum err sql_postgres_new(const struct sql_config *config, struct sql_log **out, char *why,
                          size_t why_size)
{
    struct pg_log *log = mem_alloc(sizeof(*log));
    log->log.ops = &pg_ops;
    log->loop = config->loop;
    log->prefix = mem_strdup(config->tables_prefix == NULL ? "" : config->tables_prefix);
    log->pooler = config->pooler;
    log->connect_timeout_ms =
        config->connect_timeout_ms == 0 ? CONNECT_TIMEOUT_MS : config->connect_timeout_ms;
    log->statement_timeout_ms =
        config->statement_timeout_ms == 0 ? STATEMENT_TIMEOUT_MS : config->statement_timeout_ms;
    log->open_timeout_ms = config->open_timeout_ms == 0 ? OPEN_TIMEOUT_MS : config->open_timeout_ms;
    char shown[512];
    sql_url_redacted(config->url, shown, sizeof(shown));
    log->shown_url = mem_strdup(shown);
    rng_seed_from_system(&log->rng);
    for (uint32_t role = 0; role < PG_ROLE_COUNT; role++) {
        pg_conn_init(log, (enum pg_role)role);
    }
    for (uint32_t kind = 0; kind < SQL_KIND_COUNT; kind++) {
        log->ops[kind].log = log;
        log->ops[kind].kind = (enum sql_kind)kind;
        log->ops[kind].start = pg_kinds[kind].start;
    }
    log->unlock_op.log = log;
    log->unlock_op.kind = SQL_KIND_LOCK;
    log->unlock_op.start = pg_unlock_start;
    enum err err = url_take(log, config->url, why, why_size);
    if (err != ERR_OK) {
        pg_free(&log->log);
        return err;
    }
    *out = &log->log;
    return ERR_OK;
}
