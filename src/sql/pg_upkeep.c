/*
 * Keep-alive, upkeep and purge: each one statement on the upkeep connection, inside a transaction
 * of its own where a pooler is in between.
 */
#include "sql/postgres.h"

#include <stdlib.h>

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"

/* How often the costly questions are asked: sizes read directories, snapshots all backends. */
#define UPKEEP_BYTES_NS (30 * NS_PER_S)
#define UPKEEP_SNAPSHOT_NS (5 * NS_PER_S)

/* ---- one statement, in a transaction if need be ---------------------------------------------- */

static void single_send(struct pg_conn *conn);
static enum err single_take(struct pg_conn *conn, const struct pg_reply *reply);

static void single_end(struct pg_conn *conn, enum err err)
{
    if (err == ERR_OK) {
        switch (conn->op->kind) {
        case SQL_KIND_KEEPALIVE:
            ((struct sql_keepalive *)conn->op->request)->err = ERR_OK;
            break;
        case SQL_KIND_UPKEEP:
            ((struct sql_upkeep *)conn->op->request)->err = ERR_OK;
            break;
        case SQL_KIND_PURGE:
            ((struct sql_purge *)conn->op->request)->err = ERR_OK;
            break;
        case SQL_KIND_APPEND:
        case SQL_KIND_LOCK:
        case SQL_KIND_PROBE:
        case SQL_KIND_TAIL:
        case SQL_KIND_VERDICT:
        case SQL_KIND_LOAD:
        case SQL_KIND_COUNT:
            ASSERT(false);
        }
    } else {
        sql_request_fail(conn->op->kind, conn->op->request, err);
    }
    pg_conn_finish(conn);
}

static void single_on_commit(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = pg_reply_err(reply);
    bool is_clean = err == ERR_OK && reply->warnings == 0 &&
                    strcmp(PQcmdStatus((PGresult *)(uintptr_t)reply->rows), "COMMIT") == 0;
    if (!is_clean && !reply->lost) {
        pg_conn_drop(conn, "a commit was not clean");
    }
    single_end(conn, err != ERR_OK ? err : is_clean ? ERR_OK : ERR_DATABASE);
}

/* The error was noted in |step|. */
static void single_on_rollback(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok && !reply->lost) {
        pg_conn_drop(conn, "cannot roll back");
    }
    single_end(conn, (enum err)conn->step);
}

static void single_on_reply(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = pg_reply_err(reply);
    if (err == ERR_OK) {
        err = reply->warnings > 0 ? ERR_DATABASE : single_take(conn, reply);
    } else if (!reply->lost) {
        pg_conn_report(conn, sql_kind_name(conn->op->kind), reply);
    }
    if (conn->log->pooler && !reply->lost && err == ERR_OK) {
        pg_conn_query(conn, "COMMIT", single_on_commit);
        return;
    }
    if (conn->log->pooler && !reply->lost) {
        conn->step = (uint32_t)err;
        pg_conn_query(conn, "ROLLBACK", single_on_rollback);
        return;
    }
    single_end(conn, err);
}

static void single_on_begin(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok) {
        if (!reply->lost) {
            pg_conn_drop(conn, reply->message);
        }
        single_end(conn, pg_reply_err(reply));
        return;
    }
    single_send(conn);
}

static void single_start(struct pg_conn *conn)
{
    if (!conn->log->pooler) {
        single_send(conn);
        return;
    }
    char *text = pg_begin_text(conn->log, "");
    pg_conn_query(conn, text, single_on_begin);
    mem_free(text);
}

/* ---- keep-alive ----------------------------------------------------------------------------- */

static void keepalive_send(struct pg_conn *conn, const struct sql_keepalive *keepalive)
{
    struct pg_params *params = &conn->params;
    pg_params_clear(params);
    pg_put_fence(params, &keepalive->fence);
    pg_array_begin(params, PG_ARRAY_I64, keepalive->count);
    for (uint32_t i = 0; i < keepalive->count; i++) {
        pg_array_i64(params, keepalive->items[i].id);
    }
    pg_array_end(params);
    pg_conn_execute(conn, PG_STMT_KEEPALIVE, single_on_reply);
}

static int keepalive_compare(const void *id, const void *item)
{
    int64_t left = *(const int64_t *)id;
    int64_t right = ((const struct sql_keepalive_item *)item)->id;
    return (left > right) - (left < right);
}

static enum err keepalive_take(const PGresult *rows, struct sql_keepalive *keepalive)
{
    for (uint32_t i = 0; i < keepalive->count; i++) {
        keepalive->items[i].found = false;
        keepalive->items[i].counter = 0;
    }
    bool has_fence = false;
    for (int row = 0; row < PQntuples(rows); row++) {
        if (pg_get_i64(rows, row, 0) == 0) {
            has_fence = true;
            continue;
        }
        int64_t id = pg_get_i64(rows, row, 1);
        struct sql_keepalive_item *item =
            bsearch(&id, keepalive->items, keepalive->count, sizeof(*item), keepalive_compare);
        if (item == NULL) {
            return ERR_DATABASE;
        }
        item->found = true;
        item->counter = (uint64_t)pg_get_i64(rows, row, 2);
    }
    return has_fence ? ERR_OK : ERR_LEADER_CHANGED;
}

/* ---- upkeep --------------------------------------------------------------------------------- */

enum {
    UPKEEP_DUTY,
    UPKEEP_MEMBER,
    UPKEEP_LEASE,
    UPKEEP_BYTES,
    UPKEEP_SNAPSHOT,
    UPKEEP_STUCK,
};

static uint64_t upkeep_now_ns(const struct pg_log *log)
{
    return clock_now_ns(log->loop->timers.clock);
}

static void upkeep_send(struct pg_conn *conn, const struct sql_upkeep *upkeep)
{
    struct pg_log *log = conn->log;
    const struct sql_member *self = &upkeep->self;
    struct pg_params *params = &conn->params;
    uint64_t now_ns = upkeep_now_ns(log);
    pg_params_clear(params);
    pg_put_i64(params, (int64_t)self->id);
    pg_put_bytes(params, slice_str(self->name));
    pg_put_bytes(params, slice_str(self->client_urls));
    pg_put_bytes(params, slice_str(self->version));
    pg_put_i64(params, (int64_t)self->applied_seq);
    pg_put_i64(params, self->pin_rev);
    pg_put_bool(params, upkeep->want_duty);
    pg_put_bool(params, upkeep->leave);
    pg_put_i64(params, (int64_t)upkeep->duty_ms);
    pg_put_bool(params, now_ns >= log->bytes_due_ns);
    pg_put_bool(params, now_ns >= log->snapshot_due_ns);
    pg_conn_execute(conn, PG_STMT_UPKEEP, single_on_reply);
}

static void upkeep_take_member(const PGresult *rows, int row, struct sql_upkeep *upkeep)
{
    if (upkeep->member_count == LIMIT_MEMBERS) {
        return;
    }
    struct sql_member *member = &upkeep->members[upkeep->member_count++];
    member->id = (uint64_t)pg_get_i64(rows, row, 1);
    member->applied_seq = (uint64_t)pg_get_i64(rows, row, 2);
    member->pin_rev = pg_get_i64(rows, row, 3);
    member->age_ms = pg_get_i64(rows, row, 4);
    member->age_ms = member->age_ms < 0 ? 0 : member->age_ms;
    pg_get_text(rows, row, 5, member->name, sizeof(member->name));
    pg_get_text(rows, row, 6, member->client_urls, sizeof(member->client_urls));
    pg_get_text(rows, row, 7, member->version, sizeof(member->version));
}

/* The age of a snapshot is known for our own role's sessions; for others by how long we see it. */
static void upkeep_take_snapshot(struct pg_log *log, const PGresult *rows, int row)
{
    char xmin[sizeof(log->snapshot_xmin)];
    uint64_t now_ns = upkeep_now_ns(log);
    pg_get_text(rows, row, 8, xmin, sizeof(xmin));
    if (strcmp(xmin, log->snapshot_xmin) != 0) {
        memcpy(log->snapshot_xmin, xmin, sizeof(xmin));
        log->snapshot_since_ns = now_ns;
    }
    int64_t seen_ms = (int64_t)((now_ns - log->snapshot_since_ns) / NS_PER_MS);
    int64_t known_ms = pg_get_i64(rows, row, 1);
    log->oldest_snapshot_ms = seen_ms > known_ms ? seen_ms : known_ms;
}

static int upkeep_member_order(const void *a, const void *b)
{
    const struct sql_member *left = a;
    const struct sql_member *right = b;
    return (left->id > right->id) - (left->id < right->id);
}

static void upkeep_take_stuck(const PGresult *rows, int row)
{
    int64_t count = pg_get_i64(rows, row, 1);
    if (count > 0) {
        LOG(LOG_WARN, "postgres stuck sessions terminated", LINT("count", count));
    }
}

/* What was asked now and then is remembered in between. */
static void upkeep_note_asked(struct pg_log *log, bool has_snapshot)
{
    uint64_t now_ns = upkeep_now_ns(log);
    if (now_ns >= log->bytes_due_ns) {
        log->bytes_due_ns = now_ns + UPKEEP_BYTES_NS;
    }
    if (now_ns >= log->snapshot_due_ns) {
        log->snapshot_due_ns = now_ns + UPKEEP_SNAPSHOT_NS;
        if (!has_snapshot) {
            log->snapshot_xmin[0] = '\0';
            log->oldest_snapshot_ms = 0;
        }
    }
}

static enum err upkeep_take(struct pg_log *log, const PGresult *rows, struct sql_upkeep *upkeep)
{
    int count = PQntuples(rows);
    bool has_snapshot = false;
    upkeep->duty_owner = 0;
    upkeep->duty_term = 0;
    upkeep->member_count = 0;
    upkeep->lease_count = 0;
    upkeep->members = arena_alloc(upkeep->arena, (LIMIT_MEMBERS + 1) * sizeof(*upkeep->members));
    upkeep->leases = arena_alloc(upkeep->arena, ((size_t)count + 1) * sizeof(*upkeep->leases));
    if (upkeep->members == NULL || upkeep->leases == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    for (int row = 0; row < count; row++) {
        switch (pg_get_i64(rows, row, 0)) {
        case UPKEEP_DUTY:
            upkeep->duty_owner = (uint64_t)pg_get_i64(rows, row, 1);
            upkeep->duty_term = (uint64_t)pg_get_i64(rows, row, 2);
            break;
        case UPKEEP_MEMBER:
            upkeep_take_member(rows, row, upkeep);
            break;
        case UPKEEP_LEASE:
            upkeep->leases[upkeep->lease_count++] = (struct sql_lease){
                .id = pg_get_i64(rows, row, 1),
                .ttl_s = pg_get_i64(rows, row, 2),
                .grant_seq = (uint64_t)pg_get_i64(rows, row, 3),
                .counter = (uint64_t)pg_get_i64(rows, row, 4),
                .sum = (uint64_t)pg_get_i64(rows, row, 9),
            };
            break;
        case UPKEEP_BYTES:
            log->database_bytes = pg_get_i64(rows, row, 1);
            break;
        case UPKEEP_SNAPSHOT:
            has_snapshot = true;
            upkeep_take_snapshot(log, rows, row);
            break;
        case UPKEEP_STUCK:
            upkeep_take_stuck(rows, row);
            break;
        default:
            return ERR_DATABASE;
        }
    }
    if (!upkeep->leave) { /* The statement does not see what it writes. */
        upkeep->members[upkeep->member_count] = upkeep->self;
        upkeep->members[upkeep->member_count++].age_ms = 0;
    }
    qsort(upkeep->members, upkeep->member_count, sizeof(*upkeep->members), upkeep_member_order);
    upkeep_note_asked(log, has_snapshot);
    upkeep->database_bytes = log->database_bytes;
    upkeep->oldest_snapshot_ms = log->oldest_snapshot_ms;
    return ERR_OK;
}

/* ---- purge ---------------------------------------------------------------------------------- */

static void purge_send(struct pg_conn *conn, const struct sql_purge *purge)
{
    struct pg_params *params = &conn->params;
    pg_params_clear(params);
    pg_put_fence(params, &purge->fence);
    pg_put_i64(params, purge->compact_rev);
    pg_put_i64(params, purge->from_rev);
    pg_put_i64(params, purge->to_rev);
    uint64_t below = purge->entries_below < INT64_MAX ? purge->entries_below : INT64_MAX;
    pg_put_i64(params, (int64_t)below);
    pg_put_i64(params, LIMIT_PURGE_ENTRIES);
    pg_put_i64(params, purge->rows_max);
    pg_conn_execute(conn, PG_STMT_PURGE, single_on_reply);
}

static enum err purge_take(const PGresult *rows, struct sql_purge *purge)
{
    if (PQntuples(rows) != 1) {
        return ERR_DATABASE;
    }
    purge->rows_deleted = (uint64_t)pg_get_i64(rows, 0, 1);
    return pg_get_i64(rows, 0, 0) == 1 ? ERR_OK : ERR_LEADER_CHANGED;
}

/* ---- which of the three --------------------------------------------------------------------- */

static void single_send(struct pg_conn *conn)
{
    void *request = conn->op->request;
    if (conn->op->kind == SQL_KIND_KEEPALIVE) {
        keepalive_send(conn, request);
    } else if (conn->op->kind == SQL_KIND_UPKEEP) {
        upkeep_send(conn, request);
    } else {
        purge_send(conn, request);
    }
}

static enum err single_take(struct pg_conn *conn, const struct pg_reply *reply)
{
    void *request = conn->op->request;
    if (conn->op->kind == SQL_KIND_KEEPALIVE) {
        return keepalive_take(reply->rows, request);
    }
    if (conn->op->kind == SQL_KIND_UPKEEP) {
        return upkeep_take(conn->log, reply->rows, request);
    }
    return purge_take(reply->rows, request);
}

void pg_keepalive_start(struct pg_conn *conn, struct pg_op *op)
{
    ASSERT(op->kind == SQL_KIND_KEEPALIVE);
    single_start(conn);
}

void pg_upkeep_start(struct pg_conn *conn, struct pg_op *op)
{
    ASSERT(op->kind == SQL_KIND_UPKEEP);
    single_start(conn);
}

void pg_purge_start(struct pg_conn *conn, struct pg_op *op)
{
    struct sql_purge *purge = op->request;
    ASSERT(purge->from_rev <= purge->to_rev);
    ASSERT(IMPLIES(purge->from_rev < purge->to_rev, purge->to_rev <= purge->compact_rev));
    purge->rows_deleted = 0;
    single_start(conn);
}
