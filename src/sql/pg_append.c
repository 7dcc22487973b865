/*
 * Append, lock and verdict, on the append connection.
 *
 * An append is one statement that commits by itself. It becomes a transaction of several when it
 * is large, ends a lock, changes one lease twice, or a pooler is in between:
 *
 *   [BEGIN] --> entry and first rows --> more rows ... --> effects ... --> COMMIT
 *                      | 0 rows, error        | error          | error       | decides
 *                      +----------------------+----------------+--> ROLLBACK, outcome as noted
 *
 * Before COMMIT was sent nothing can be durable; afterwards only a clean answer says so.
 */
#include "sql/postgres.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"

/* Of rows in one statement; one row may be larger. */
enum { APPEND_CHUNK_BYTES = LIMIT_BATCH_BYTES, APPEND_CHUNK_ROWS = 16 * 1024 };
enum { NOTIFY_PAUSE_MS = 10 * 1000 };

static void append_begin(struct pg_conn *conn, bool in_lock);
static void append_send_first(struct pg_conn *conn);
static void append_go_on(struct pg_conn *conn);

static struct sql_append *append_of(struct pg_conn *conn)
{
    return conn->op->request;
}

/* ---- outcomes ------------------------------------------------------------------------------- */

/* By prefix of the SQLSTATE, the longest first. With severity ERROR and the server ready again,
 * each of these is certain: nothing of the statement is durable. What is not listed is doubt. */
static const struct {
    const char *prefix;
    enum sql_outcome outcome;
    enum err err;
    bool drop; /* The session is of no use any more. */
} append_errors[] = {
    {"40003", SQL_IN_DOUBT, ERR_OK, true},          /* statement_completion_unknown */
    {"25P03", SQL_LOST, ERR_OK, true},              /* idle_in_transaction_session_timeout */
    {"25006", SQL_REFUSED, ERR_NO_LEADER, true},    /* read_only_sql_transaction */
    {"55000", SQL_REFUSED, ERR_NO_LEADER, true},    /* recovery is in progress */
    {"55P03", SQL_LOST, ERR_OK, false},             /* lock_not_available: lock_timeout */
    {"57014", SQL_LOST, ERR_OK, false},             /* query_canceled: statement_timeout */
    {"0A000", SQL_LOST, ERR_OK, true},              /* a cached plan does not fit: prepare again */
    {"26000", SQL_LOST, ERR_OK, true},              /* invalid_sql_statement_name: likewise */
    {"42P05", SQL_LOST, ERR_OK, true},              /* duplicate_prepared_statement: likewise */
    {"22012", SQL_MOVED, ERR_OK, false},            /* division_by_zero: ours, see the statement */
    {"42P01", SQL_REFUSED, ERR_HISTORY_LOST, true}, /* undefined_table: ours are gone */
    {"53100", SQL_REFUSED, ERR_NO_SPACE, false},    /* disk_full */
    {"40", SQL_LOST, ERR_OK, false},                /* serialization_failure, deadlock_detected */
    {"22", SQL_REFUSED, ERR_DATABASE, false},
    {"23", SQL_REFUSED, ERR_DATABASE, false},
    {"25", SQL_REFUSED, ERR_DATABASE, true},
    {"42", SQL_REFUSED, ERR_DATABASE, false},
    {"53", SQL_REFUSED, ERR_DATABASE, false},
    {"54", SQL_REFUSED, ERR_DATABASE, false},
    {"55", SQL_REFUSED, ERR_DATABASE, false},
};

/* What an error answer of the server means; returns whether to drop the session. */
static bool append_classify(const struct pg_reply *reply, struct pg_append_state *state)
{
    state->outcome = SQL_IN_DOUBT;
    state->err = ERR_OK;
    for (uint32_t i = 0; i < ARRAY_COUNT(append_errors); i++) {
        const char *prefix = append_errors[i].prefix;
        if (strncmp(reply->sqlstate, prefix, strlen(prefix)) == 0) {
            state->outcome = append_errors[i].outcome;
            state->err = append_errors[i].err;
            return append_errors[i].drop;
        }
    }
    return true;
}

static void append_end(struct pg_conn *conn)
{
    struct sql_append *append = append_of(conn);
    append->outcome = conn->log->append.outcome;
    append->err = conn->log->append.err;
    pg_conn_finish(conn);
}

static void append_on_rolled_back(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok && !reply->lost) {
        pg_conn_drop(conn, "cannot roll back");
    }
    append_end(conn);
}

/* The outcome is noted: leave the session clean, then tell. */
static void append_give_up(struct pg_conn *conn, bool drop)
{
    if (drop) {
        pg_conn_drop(conn, "after a failed append");
        append_end(conn);
    } else if (conn->log->append.is_explicit) {
        pg_conn_query(conn, "ROLLBACK", append_on_rolled_back);
    } else {
        append_end(conn);
    }
}

/* An error or a loss before anything could be durable. */
static void append_fail_early(struct pg_conn *conn, const struct pg_reply *reply, const char *what)
{
    struct pg_append_state *state = &conn->log->append;
    bool drop = append_classify(reply, state);
    if (state->outcome == SQL_IN_DOUBT) {
        state->outcome = SQL_REFUSED;
        state->err = reply->lost ? ERR_NO_LEADER : ERR_DATABASE;
    }
    if (reply->lost) {
        append_end(conn);
        return;
    }
    if (state->outcome == SQL_REFUSED) {
        pg_conn_report(conn, what, reply);
    }
    append_give_up(conn, drop);
}

/* The answer to what commits: the statement itself, or COMMIT. */
static void append_decide(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct pg_append_state *state = &conn->log->append;
    if (reply->lost) {
        state->outcome = SQL_IN_DOUBT;
        state->err = ERR_OK;
        append_end(conn);
        return;
    }
    if (!reply->ok) {
        bool drop = append_classify(reply, state);
        if (state->outcome == SQL_REFUSED || state->outcome == SQL_IN_DOUBT) {
            pg_conn_report(conn, "append", reply);
        }
        append_give_up(conn, drop || state->outcome == SQL_IN_DOUBT);
        return;
    }
    state->outcome = SQL_COMMITTED;
    state->err = ERR_OK;
    if (reply->warnings > 0) {
        state->outcome = SQL_IN_DOUBT; /* Perhaps not replicated, for one. */
    }
    if (state->outcome == SQL_IN_DOUBT) {
        pg_conn_drop(conn, "a commit was answered with a warning");
    }
    append_end(conn);
}

/* ---- parameters ----------------------------------------------------------------------------- */

#define PUT_COLUMN(params, array, kind, rows, first, count, field) \
    do {                                                           \
        pg_array_begin((params), (array), (count));                \
        for (uint32_t i = 0; i < (count); i++) {                   \
            pg_array_##kind((params), (rows)[(first) + i].field);  \
        }                                                          \
        pg_array_end(params);                                      \
    } while (0)

/* Columns of the rows [first, first + count). */
static void append_put_rows(struct pg_params *params, const struct sql_row *rows, uint32_t first,
                            uint32_t count)
{
    PUT_COLUMN(params, PG_ARRAY_I64, i64, rows, first, count, revision);
    PUT_COLUMN(params, PG_ARRAY_I32, i32, rows, first, count, sub);
    PUT_COLUMN(params, PG_ARRAY_BOOL, bool, rows, first, count, is_delete);
    PUT_COLUMN(params, PG_ARRAY_BYTES, bytes, rows, first, count, key);
    PUT_COLUMN(params, PG_ARRAY_BYTES, bytes, rows, first, count, value);
    PUT_COLUMN(params, PG_ARRAY_I64, i64, rows, first, count, create_rev);
    PUT_COLUMN(params, PG_ARRAY_I64, i64, rows, first, count, version);
    PUT_COLUMN(params, PG_ARRAY_I64, i64, rows, first, count, lease);
    PUT_COLUMN(params, PG_ARRAY_I64, i64, rows, first, count, prev_rev);
    PUT_COLUMN(params, PG_ARRAY_I32, i32, rows, first, count, prev_sub);
    pg_array_begin(params, PG_ARRAY_I64, count);
    for (uint32_t i = 0; i < count; i++) {
        pg_array_i64(params, (int64_t)rows[first + i].sum);
    }
    pg_array_end(params);
}

/* How many rows from |first| on go into one statement. */
static uint32_t append_chunk(const struct sql_entry *entry, uint32_t first)
{
    size_t bytes = 0;
    uint32_t count = 0;
    while (first + count < entry->row_count && count < APPEND_CHUNK_ROWS) {
        const struct sql_row *row = &entry->rows[first + count];
        bytes += row->key.size + row->value.size;
        if (count > 0 && bytes > APPEND_CHUNK_BYTES) {
            break;
        }
        count++;
    }
    return count;
}

static void append_put_entry(struct pg_params *params, const struct sql_append *append)
{
    const struct sql_entry *entry = append->entry;
    struct buf meta = {0};
    sql_effects_encode(entry->effects, entry->effect_count, &meta);
    pg_put_fence(params, &append->fence);
    pg_put_i64(params, (int64_t)append->expected_seq);
    pg_put_bytes(params, slice_of(append->expected_chain.bytes, 16));
    pg_put_i64(params, (int64_t)entry->seq);
    pg_put_bytes(params, slice_of(entry->writer.incarnation, SQL_WRITER_SIZE));
    pg_put_i64(params, (int64_t)entry->writer.counter);
    pg_put_i64(params, (int64_t)entry->epoch);
    pg_put_i64(params, entry->first_rev);
    pg_put_i64(params, entry->last_rev);
    pg_put_i64(params, (int64_t)entry->row_count);
    pg_put_i64(params, (int64_t)entry->byte_count);
    pg_put_i64(params, entry->compact_rev);
    pg_put_i64(params, entry->auth_rev);
    pg_put_bytes(params, slice_of(entry->rows_hash.bytes, 16));
    pg_put_bytes(params, slice_of(entry->chain.bytes, 16));
    pg_put_bytes(params, buf_slice(&meta));
    buf_fini(&meta);
}

static int append_effect_order(const void *a, const void *b)
{
    const struct sql_effect *const *left = a;
    const struct sql_effect *const *right = b;
    return ((*left)->id > (*right)->id) - ((*left)->id < (*right)->id);
}

/* The effects on leases, by id, so that rows are locked in the order that keep-alives use. */
static const struct sql_effect **append_leases(const struct sql_entry *entry, uint32_t *count)
{
    const struct sql_effect **list =
        (const struct sql_effect **)mem_alloc((entry->effect_count + 1) * sizeof(*list));
    *count = 0;
    for (uint32_t i = 0; i < entry->effect_count; i++) {
        if (entry->effects[i].kind != SQL_COMPACT) {
            list[(*count)++] = &entry->effects[i];
        }
    }
    qsort(list, *count, sizeof(*list), append_effect_order);
    return list;
}

/* True when some lease is meant twice: a set-wise statement would not keep their order. */
static bool append_leases_repeat(const struct sql_entry *entry)
{
    uint32_t count;
    const struct sql_effect **list = append_leases(entry, &count);
    bool repeats = false;
    for (uint32_t i = 1; i < count; i++) {
        repeats = repeats || list[i]->id == list[i - 1]->id;
    }
    mem_free(list);
    return repeats;
}

/* What of the effects of one kind is one array of the statement. */
enum append_part { PART_ID, PART_TTL, PART_SUM, PART_COUNTER };

static int64_t append_effect_part(const struct sql_effect *effect, enum append_part part,
                                  uint64_t seq)
{
    switch (part) {
    case PART_ID:
        return effect->id;
    case PART_TTL:
        return effect->ttl_s;
    case PART_SUM:
        return (int64_t)sql_lease_granted(effect, seq).sum;
    case PART_COUNTER:
        return (int64_t)effect->counter;
    }
    return 0;
}

static void append_put_effects(struct pg_params *params, const struct sql_effect *const *list,
                               uint32_t count, enum sql_effect_kind kind, enum append_part part,
                               uint64_t seq)
{
    uint32_t matching = 0;
    for (uint32_t i = 0; i < count; i++) {
        matching += list[i]->kind == kind ? 1 : 0;
    }
    pg_array_begin(params, PG_ARRAY_I64, matching);
    for (uint32_t i = 0; i < count; i++) {
        if (list[i]->kind == kind) {
            pg_array_i64(params, append_effect_part(list[i], part, seq));
        }
    }
    pg_array_end(params);
}

/* The queue of notifications is full: this append and those of the next time go without. */
static void append_without_notify(struct pg_conn *conn)
{
    struct pg_log *log = conn->log;
    log->append.without_notify = true;
    log->notify_off_until_ns = clock_now_ns(log->loop->timers.clock) + NOTIFY_PAUSE_MS * NS_PER_MS;
}

/* ---- steps ---------------------------------------------------------------------------------- */

static void append_on_first(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct pg_append_state *state = &conn->log->append;
    bool is_full = strcmp(reply->sqlstate, "54000") == 0; /* The queue of notifications. */
    if (!reply->ok && !reply->lost && is_full && !state->is_explicit && !state->without_notify) {
        pg_conn_report(conn, "notify", reply);
        append_without_notify(conn);
        append_send_first(conn);
        return;
    }
    if (!reply->ok && (state->is_explicit || !reply->executing)) {
        append_fail_early(conn, reply, "append");
        return;
    }
    if (!reply->ok) {
        append_decide(conn, reply);
        return;
    }
    /* Inside a transaction no row is a loss whatever was said beside it: nothing is committed. */
    if (PQntuples(reply->rows) == 0 && (state->is_explicit || reply->warnings == 0)) {
        state->outcome = SQL_LOST;
        state->err = ERR_OK;
        append_give_up(conn, false);
        return;
    }
    if (!state->is_explicit) {
        append_decide(conn, reply);
        return;
    }
    append_go_on(conn);
}

/* The entry and as many rows as fit, if the log still is as expected. */
static void append_send_first(struct pg_conn *conn)
{
    struct sql_append *append = append_of(conn);
    struct pg_append_state *state = &conn->log->append;
    const struct sql_entry *entry = append->entry;
    struct pg_params *params = &conn->params;
    uint32_t chunk = append_chunk(entry, 0);
    pg_params_clear(params);
    append_put_entry(params, append);
    append_put_rows(params, entry->rows, 0, chunk);
    state->row_next = chunk;
    if (state->without_notify) {
        pg_put_null(params);
    } else {
        char channel[64];
        (void)snprintf(channel, sizeof(channel), "%sdrover", conn->log->prefix);
        pg_put_bytes(params, slice_str(channel));
    }
    uint32_t count;
    const struct sql_effect **leases = append_leases(entry, &count);
    bool is_set_wise = count > 0 && !state->in_order;
    if (is_set_wise) {
        append_put_effects(params, leases, count, SQL_LEASE_PUT, PART_ID, entry->seq);
        append_put_effects(params, leases, count, SQL_LEASE_PUT, PART_TTL, entry->seq);
        append_put_effects(params, leases, count, SQL_LEASE_PUT, PART_SUM, entry->seq);
        append_put_effects(params, leases, count, SQL_LEASE_DELETE, PART_ID, entry->seq);
        append_put_effects(params, leases, count, SQL_LEASE_EXPIRE, PART_ID, entry->seq);
        append_put_effects(params, leases, count, SQL_LEASE_EXPIRE, PART_COUNTER, entry->seq);
    }
    mem_free(leases);
    state->effect_next = state->in_order ? 0 : entry->effect_count;
    pg_conn_execute(conn, is_set_wise ? PG_STMT_APPEND_LEASES : PG_STMT_APPEND, append_on_first);
}

static void append_on_more(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok) {
        append_fail_early(conn, reply, "append");
        return;
    }
    append_go_on(conn);
}

static void append_on_commit(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct pg_append_state *state = &conn->log->append;
    bool is_full = strcmp(reply->sqlstate, "54000") == 0;
    if (!reply->ok && !reply->lost && is_full && !state->without_notify) {
        pg_conn_report(conn, "notify", reply);
        append_without_notify(conn);
        /* All of it is gone, a lock, too: once more from the start. Whether somebody wrote in
         * between is for the statement's own condition to say. */
        append_begin(conn, false);
        return;
    }
    const char *tag = reply->ok ? PQcmdStatus((PGresult *)(uintptr_t)reply->rows) : "";
    if (reply->ok && strcmp(tag, "COMMIT") != 0) {
        state->outcome = SQL_LOST; /* The server says ROLLBACK: the transaction had failed. */
        state->err = ERR_OK;
        append_end(conn);
        return;
    }
    state->is_explicit = false; /* Whatever came of it, no transaction is open. */
    append_decide(conn, reply);
}

static void append_send_effect(struct pg_conn *conn, const struct sql_effect *effect)
{
    struct pg_params *params = &conn->params;
    pg_params_clear(params);
    pg_put_i64(params, effect->id);
    enum pg_stmt stmt = PG_STMT_LEASE_DELETE;
    if (effect->kind == SQL_LEASE_PUT) {
        uint64_t seq = append_of(conn)->entry->seq;
        pg_put_i64(params, effect->ttl_s);
        pg_put_i64(params, (int64_t)seq);
        pg_put_i64(params, (int64_t)sql_lease_granted(effect, seq).sum);
        stmt = PG_STMT_LEASE_PUT;
    } else if (effect->kind == SQL_LEASE_EXPIRE) {
        pg_put_i64(params, (int64_t)effect->counter);
        stmt = PG_STMT_LEASE_EXPIRE;
    }
    pg_conn_execute(conn, stmt, append_on_more);
}

/* The entry is in, inside a transaction: what is left, one statement at a time. */
static void append_go_on(struct pg_conn *conn)
{
    struct pg_append_state *state = &conn->log->append;
    const struct sql_entry *entry = append_of(conn)->entry;
    if (state->row_next < entry->row_count) {
        uint32_t chunk = append_chunk(entry, state->row_next);
        pg_params_clear(&conn->params);
        append_put_rows(&conn->params, entry->rows, state->row_next, chunk);
        state->row_next += chunk;
        pg_conn_execute(conn, PG_STMT_APPEND_ROWS, append_on_more);
        return;
    }
    while (state->effect_next < entry->effect_count) {
        const struct sql_effect *effect = &entry->effects[state->effect_next++];
        if (effect->kind != SQL_COMPACT) {
            append_send_effect(conn, effect);
            return;
        }
    }
    pg_conn_query(conn, "COMMIT", append_on_commit);
}

static void append_on_begin(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok) {
        append_fail_early(conn, reply, "begin");
        return;
    }
    append_send_first(conn);
}

/* |in_lock|: inside the transaction that a lock opened. */
static void append_begin(struct pg_conn *conn, bool in_lock)
{
    struct pg_append_state *state = &conn->log->append;
    const struct sql_entry *entry = append_of(conn)->entry;
    state->in_order = append_leases_repeat(entry);
    state->is_explicit = in_lock || conn->log->pooler || state->in_order ||
                         append_chunk(entry, 0) < entry->row_count;
    if (!state->is_explicit || in_lock) {
        append_send_first(conn);
        return;
    }
    char *text = pg_begin_text(conn->log, "");
    pg_conn_query(conn, text, append_on_begin);
    mem_free(text);
}

void pg_append_start(struct pg_conn *conn, struct pg_op *op)
{
    ASSERT(op->kind == SQL_KIND_APPEND);
    append_begin(conn, append_of(conn)->locked);
}

/* ---- lock ----------------------------------------------------------------------------------- */

static void lock_on_rolled_back(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok && !reply->lost) {
        pg_conn_drop(conn, "cannot roll back");
    }
    pg_conn_finish(conn);
}

static void lock_fail(struct pg_conn *conn, const struct pg_reply *reply, enum err err)
{
    struct sql_lock *lock = conn->op->request;
    lock->err = err;
    lock->tail.err = err;
    if (reply->lost) {
        pg_conn_finish(conn);
        return;
    }
    pg_conn_report(conn, "lock", reply);
    pg_conn_query(conn, "ROLLBACK", lock_on_rolled_back);
}

/* What was locked proves the server; now for the tail. */
static void lock_on_proven(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct sql_lock *lock = conn->op->request;
    lock->err = pg_prove(conn, reply);
    lock->tail.err = lock->err;
    if (lock->err == ERR_OK) {
        pg_lock_start(conn, conn->op);
    } else {
        pg_conn_finish(conn);
    }
}

static void lock_on_tail(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct sql_lock *lock = conn->op->request;
    enum err err = pg_reply_err(reply);
    if (err == ERR_OK && pg_is_unproven(conn, reply->rows)) {
        pg_conn_query(conn, "COMMIT", lock_on_proven);
        return;
    }
    if (err == ERR_OK) {
        err = pg_tail_take(conn->log, reply->rows, &lock->tail);
    }
    if (err != ERR_OK) {
        lock_fail(conn, reply, err);
        return;
    }
    lock->err = ERR_OK;
    lock->tail.err = ERR_OK;
    conn->locked = true;
    pg_conn_finish(conn);
}

static void lock_on_locked(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct sql_lock *lock = conn->op->request;
    if (!reply->ok) {
        lock_fail(conn, reply, pg_reply_err(reply));
        return;
    }
    pg_put_tail(&conn->params, &lock->tail);
    pg_conn_execute(conn, PG_STMT_TAIL, lock_on_tail);
}

void pg_lock_start(struct pg_conn *conn, struct pg_op *op)
{
    (void)op;
    char *text = pg_begin_text(conn->log, "SELECT 1 FROM ~cluster WHERE id = 1 FOR UPDATE");
    pg_conn_query(conn, text, lock_on_locked);
    mem_free(text);
}

void pg_unlock_start(struct pg_conn *conn, struct pg_op *op)
{
    (void)op;
    pg_conn_query(conn, "ROLLBACK", lock_on_rolled_back);
}

/* ---- verdict -------------------------------------------------------------------------------- */

static void verdict_on_commit(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct sql_verdict *verdict = conn->op->request;
    enum err err = pg_reply_err(reply);
    bool is_clean = err == ERR_OK && reply->warnings == 0 &&
                    strcmp(PQcmdStatus((PGresult *)(uintptr_t)reply->rows), "COMMIT") == 0;
    verdict->err = err != ERR_OK ? err : is_clean ? ERR_OK : ERR_DATABASE;
    if (!is_clean && !reply->lost) {
        pg_conn_drop(conn, "a verdict was not committed cleanly");
    }
    pg_conn_finish(conn);
}

static enum err verdict_take(const PGresult *rows, struct sql_verdict *verdict)
{
    int count = PQntuples(rows);
    if (count == 0) {
        return ERR_HISTORY_LOST;
    }
    TRY(pg_head_take(rows, 0, &verdict->head));
    verdict->found = count > 1;
    if (!verdict->found) {
        return ERR_OK;
    }
    verdict->writer.counter = (uint64_t)pg_get_i64(rows, 1, PG_COL_A + 1);
    bool has_writer = pg_get_i64(rows, 1, PG_COL_KIND) == PG_KIND_WRITER &&
                      pg_get_fixed(rows, 1, PG_COL_W, verdict->writer.incarnation, SQL_WRITER_SIZE);
    return has_writer ? ERR_OK : ERR_CHAIN_BROKEN;
}

static void verdict_on_rows(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct sql_verdict *verdict = conn->op->request;
    verdict->err = pg_reply_err(reply);
    if (verdict->err == ERR_OK) {
        verdict->err = verdict_take(reply->rows, verdict);
    }
    if (verdict->err == ERR_OK) {
        pg_conn_query(conn, "COMMIT", verdict_on_commit);
        return;
    }
    if (!reply->lost) {
        pg_conn_drop(conn, reply->ok ? "a verdict could not be read" : reply->message);
    }
    pg_conn_finish(conn);
}

static void verdict_on_locked(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct sql_verdict *verdict = conn->op->request;
    if (!reply->ok) {
        verdict->err = pg_reply_err(reply);
        if (!reply->lost) {
            pg_conn_drop(conn, reply->message);
        }
        pg_conn_finish(conn);
        return;
    }
    pg_params_clear(&conn->params);
    pg_put_i64(&conn->params, (int64_t)verdict->seq);
    pg_conn_execute(conn, PG_STMT_VERDICT, verdict_on_rows);
}

void pg_verdict_start(struct pg_conn *conn, struct pg_op *op)
{
    (void)op;
    char *text = pg_begin_text(conn->log, "SELECT 1 FROM ~cluster WHERE id = 1 FOR UPDATE");
    pg_conn_query(conn, text, verdict_on_locked);
    mem_free(text);
}
