/* Reading: heads, entries with their rows, probe and tail. */
#include "sql/postgres.h"

#include <stdio.h>

#include "core/log.h"
#include "core/mem.h"

enum err pg_reply_err(const struct pg_reply *reply)
{
    if (reply->ok) {
        return ERR_OK;
    }
    if (reply->lost) {
        return reply->stopped ? ERR_STOPPED : ERR_NO_LEADER;
    }
    if (strcmp(reply->sqlstate, "53100") == 0) {
        return ERR_NO_SPACE;
    }
    if (strcmp(reply->sqlstate, "42P01") == 0) {
        return ERR_HISTORY_LOST; /* Our tables were there, and are gone. */
    }
    /* Recovery in progress, or read-only: the server is no primary (any more). */
    bool is_standby =
        strcmp(reply->sqlstate, "55000") == 0 || strcmp(reply->sqlstate, "25006") == 0;
    return is_standby ? ERR_NO_LEADER : ERR_DATABASE;
}

void pg_put_fence(struct pg_params *params, const struct sql_fence *fence)
{
    pg_put_bytes(params, slice_of(fence->era, sizeof(fence->era)));
    pg_put_i64(params, (int64_t)fence->epoch);
    pg_put_bytes(params, slice_str(fence->identity));
}

enum err pg_head_take(const PGresult *rows, int row, struct sql_head *head)
{
    *head = (struct sql_head){.revision = SQL_FIRST_REV};
    const int a = PG_COL_A;
    const int w = PG_COL_W;
    if (PQgetisnull(rows, row, a) == 0) {
        head->seq = (uint64_t)pg_get_i64(rows, row, a);
        head->revision = pg_get_i64(rows, row, a + 1);
        head->compact_rev = pg_get_i64(rows, row, a + 2);
        if (!pg_get_fixed(rows, row, w, head->chain.bytes, sizeof(head->chain.bytes))) {
            return ERR_CHAIN_BROKEN;
        }
    }
    head->deleted_below = pg_get_i64(rows, row, a + 3);
    int64_t version = pg_get_i64(rows, row, a + 4);
    head->schema_version = version < 0 || version > UINT32_MAX ? UINT32_MAX : (uint32_t)version;
    head->fence.epoch = (uint64_t)pg_get_i64(rows, row, a + 5);
    pg_get_text(rows, row, PG_COL_T, head->fence.identity, sizeof(head->fence.identity));
    pg_get_text(rows, row, PG_COL_U, head->live_identity, sizeof(head->live_identity));
    bool has_era = pg_get_fixed(rows, row, w + 1, head->fence.era, sizeof(head->fence.era));
    return has_era ? ERR_OK : ERR_CHAIN_BROKEN;
}

enum err pg_entry_take(struct pg_log *log, const PGresult *rows, int row, struct arena *arena,
                       struct sql_entry *entry)
{
    const int a = PG_COL_A;
    const int w = PG_COL_W;
    *entry = (struct sql_entry){
        .seq = (uint64_t)pg_get_i64(rows, row, a),
        .writer.counter = (uint64_t)pg_get_i64(rows, row, a + 1),
        .epoch = (uint64_t)pg_get_i64(rows, row, a + 2),
        .first_rev = pg_get_i64(rows, row, a + 3),
        .last_rev = pg_get_i64(rows, row, a + 4),
        .row_count = (uint32_t)pg_get_i64(rows, row, a + 5),
        .byte_count = (uint64_t)pg_get_i64(rows, row, a + 6),
        .compact_rev = pg_get_i64(rows, row, a + 7),
        .auth_rev = pg_get_i64(rows, row, a + 8),
    };
    enum err err = ERR_CHAIN_BROKEN;
    int64_t row_count = pg_get_i64(rows, row, a + 5);
    bool is_sane =
        row_count >= 0 && row_count <= UINT32_MAX; /* Else cut to what the chain covers. */
    if (is_sane && pg_get_fixed(rows, row, w, entry->writer.incarnation, SQL_WRITER_SIZE) &&
        pg_get_fixed(rows, row, w + 1, entry->rows_hash.bytes, sizeof(entry->rows_hash.bytes)) &&
        pg_get_fixed(rows, row, w + 2, entry->chain.bytes, sizeof(entry->chain.bytes))) {
        err = sql_effects_decode(pg_get_bytes(rows, row, w + 3), arena, &entry->effects,
                                 &entry->effect_count);
    }
    if (err == ERR_CHAIN_BROKEN) {
        LOG(LOG_ERROR, "postgres entry broken", LUINT("seq", entry->seq),
            LSTR("url", log->shown_url));
    }
    return err;
}

enum err pg_row_take(const PGresult *rows, int row, struct arena *arena, struct sql_row *taken)
{
    const int a = PG_COL_A;
    *taken = (struct sql_row){
        .revision = pg_get_i64(rows, row, a),
        .sub = (int32_t)pg_get_i64(rows, row, a + 1),
        .is_delete = pg_get_i64(rows, row, a + 2) != 0,
        .create_rev = pg_get_i64(rows, row, a + 3),
        .version = pg_get_i64(rows, row, a + 4),
        .lease = pg_get_i64(rows, row, a + 5),
        .prev_rev = pg_get_i64(rows, row, a + 6),
        .prev_sub = (int32_t)pg_get_i64(rows, row, a + 7),
        .sum = (uint64_t)pg_get_i64(rows, row, a + 8),
    };
    bool copied = arena_copy(arena, pg_get_bytes(rows, row, PG_COL_W), &taken->key) &&
                  arena_copy(arena, pg_get_bytes(rows, row, PG_COL_W + 1), &taken->value);
    return copied ? ERR_OK : ERR_REQUEST_TOO_LARGE;
}

/* ---- tail ----------------------------------------------------------------------------------- */

void pg_put_tail(struct pg_params *params, const struct sql_tail *tail)
{
    pg_params_clear(params);
    pg_put_i64(params, (int64_t)tail->after_seq);
    pg_put_i64(params, (int64_t)tail->entries_max);
    uint64_t bytes = tail->bytes_max < INT64_MAX ? tail->bytes_max : INT64_MAX;
    pg_put_i64(params, (int64_t)bytes);
}

/* Rows [first, ...) of the answer that belong to |entry|, by their revisions, in order. */
static enum err tail_take_rows(const PGresult *rows, int *next, struct sql_row *store,
                               uint32_t *stored, struct arena *arena, struct sql_entry *entry)
{
    int count = PQntuples(rows);
    entry->rows = &store[*stored];
    entry->row_count = 0;
    while (*next < count && pg_get_i64(rows, *next, PG_COL_A) <= entry->last_rev) {
        struct sql_row *row = &store[*stored];
        if (pg_get_i64(rows, *next, PG_COL_KIND) != PG_KIND_ROW) {
            return ERR_DATABASE;
        }
        TRY(pg_row_take(rows, *next, arena, row));
        if (row->revision < entry->first_rev) {
            return ERR_DATABASE;
        }
        (*stored)++;
        (*next)++;
        entry->row_count++;
    }
    return ERR_OK;
}

/*
 * The branches of the statement come one after the other: the head, the entries by seq, the rows
 * by revision. The server does so without promising it: an answer in another order is refused.
 */
enum err pg_tail_take(struct pg_log *log, const PGresult *rows, struct sql_tail *tail)
{
    int count = PQntuples(rows);
    tail->entry_count = 0;
    if (count == 0) {
        return ERR_HISTORY_LOST;
    }
    if (PQnfields(rows) != PG_COL_U + 1 || pg_get_i64(rows, 0, PG_COL_KIND) != PG_KIND_HEAD) {
        return ERR_DATABASE;
    }
    TRY(pg_head_take(rows, 0, &tail->head));
    int next = 1;
    while (next < count && pg_get_i64(rows, next, PG_COL_KIND) == PG_KIND_ENTRY) {
        next++;
    }
    uint32_t entries = (uint32_t)next - 1;
    tail->entries = arena_alloc(tail->arena, (entries + 1) * sizeof(*tail->entries));
    struct sql_row *store = arena_alloc(tail->arena, ((size_t)(count - next) + 1) * sizeof(*store));
    if (tail->entries == NULL || store == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    uint32_t stored = 0;
    uint64_t seq = tail->after_seq;
    for (uint32_t i = 0; i < entries; i++) {
        struct sql_entry *entry = &tail->entries[i];
        TRY(pg_entry_take(log, rows, (int)i + 1, tail->arena, entry));
        if (entry->seq <= seq) {
            return ERR_DATABASE;
        }
        seq = entry->seq;
        bool has_rows = entry->row_count > 0;
        entry->row_count = 0;
        if (has_rows) {
            TRY(tail_take_rows(rows, &next, store, &stored, tail->arena, entry));
        }
    }
    if (next != count) {
        return ERR_DATABASE; /* Rows that belong to no entry in this order. */
    }
    tail->entry_count = entries;
    return ERR_OK;
}

/* ---- a server that was started again --------------------------------------------------------- */

bool pg_is_unproven(struct pg_conn *conn, const PGresult *rows)
{
    if (!conn->log->pooler || PQntuples(rows) == 0) {
        return false; /* A session of our own was set up on the server. */
    }
    conn->seen_start = pg_get_i64(rows, 0, PG_COL_STARTED);
    return conn->seen_start != conn->log->proven_start;
}

enum err pg_prove(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = pg_reply_err(reply);
    bool is_clean = err == ERR_OK && reply->warnings == 0 &&
                    strcmp(PQcmdStatus((PGresult *)(uintptr_t)reply->rows), "COMMIT") == 0;
    if (is_clean) {
        conn->log->proven_start = conn->seen_start;
    } else if (!reply->lost) {
        pg_conn_drop(conn, "the lock of the cluster row was not committed cleanly");
    }
    return err != ERR_OK ? err : is_clean ? ERR_OK : ERR_DATABASE;
}

/* ---- probe and tail -------------------------------------------------------------------------- */

static void read_send(struct pg_conn *conn, pg_reply_fn *on_reply)
{
    if (conn->op->kind == SQL_KIND_TAIL) {
        pg_put_tail(&conn->params, conn->op->request);
        pg_conn_execute(conn, PG_STMT_TAIL, on_reply);
        return;
    }
    ASSERT(conn->op->kind == SQL_KIND_PROBE);
    pg_params_clear(&conn->params);
    pg_conn_execute(conn, PG_STMT_HEAD, on_reply);
}

static enum err read_take(struct pg_conn *conn, const PGresult *rows)
{
    if (conn->op->kind == SQL_KIND_TAIL) {
        return pg_tail_take(conn->log, rows, conn->op->request);
    }
    struct sql_probe *probe = conn->op->request;
    return PQntuples(rows) == 1 ? pg_head_take(rows, 0, &probe->head) : ERR_HISTORY_LOST;
}

static void read_end(struct pg_conn *conn, enum err err)
{
    if (conn->op->kind == SQL_KIND_TAIL) {
        ((struct sql_tail *)conn->op->request)->err = err;
    } else {
        ((struct sql_probe *)conn->op->request)->err = err;
    }
    pg_conn_finish(conn);
}

/* An error inside the transaction that is to prove the server. */
static void read_fail(struct pg_conn *conn, const struct pg_reply *reply, enum err err)
{
    if (!reply->lost) {
        pg_conn_drop(conn, reply->ok ? "a read under the lock is unusable" : reply->message);
    }
    read_end(conn, err);
}

static void read_on_committed(struct pg_conn *conn, const struct pg_reply *reply)
{
    read_end(conn, pg_prove(conn, reply));
}

static void read_on_locked_rows(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = pg_reply_err(reply);
    if (err == ERR_OK) {
        err = read_take(conn, reply->rows);
    }
    if (err != ERR_OK) {
        read_fail(conn, reply, err);
        return;
    }
    (void)pg_is_unproven(conn, reply->rows); /* This is the server that commits the lock. */
    pg_conn_query(conn, "COMMIT", read_on_committed);
}

static void read_on_locked(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok) {
        read_fail(conn, reply, pg_reply_err(reply));
        return;
    }
    read_send(conn, read_on_locked_rows);
}

static void read_on_reply(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = pg_reply_err(reply);
    if (err == ERR_OK && pg_is_unproven(conn, reply->rows)) {
        char *text = pg_begin_text(conn->log, "SELECT 1 FROM ~cluster WHERE id = 1 FOR UPDATE");
        pg_conn_query(conn, text, read_on_locked); /* Once more, under a lock. */
        mem_free(text);
        return;
    }
    if (err == ERR_OK) {
        err = read_take(conn, reply->rows);
    } else if (!reply->lost) {
        pg_conn_report(conn, sql_kind_name(conn->op->kind), reply);
    }
    read_end(conn, err);
}

void pg_tail_start(struct pg_conn *conn, struct pg_op *op)
{
    (void)op;
    read_send(conn, read_on_reply);
}

void pg_probe_start(struct pg_conn *conn, struct pg_op *op)
{
    (void)op;
    read_send(conn, read_on_reply);
}
