/*
 * Everything, in one REPEATABLE READ transaction on a connection of its own, which ends with it.
 * Rows stream: libpq holds one at a time, and a chunk of them is copied for each callback.
 */
#include "sql/postgres.h"

#include "core/limits.h"
#include "core/mem.h"

enum { LOAD_CHUNK_ITEMS = 1024, LOAD_CHUNK_BYTES = 4 * 1024 * 1024 };
/* One item may be larger than a chunk; the ceiling only stops what no drover wrote. */

static struct sql_load *load_of(struct pg_conn *conn)
{
    return conn->op->request;
}

static void load_end(struct pg_conn *conn, enum err err)
{
    arena_fini(&conn->log->load.arena);
    load_of(conn)->err = err;
    pg_conn_shut(conn, ERR_NO_LEADER);
    pg_conn_finish(conn);
}

/* A callback, or the arena, has refused: nothing more of the stream is of use. */
static void load_abort(struct pg_conn *conn, enum err err)
{
    conn->log->load.err = err;
    pg_conn_shut(conn, ERR_NO_LEADER); /* Its lost reply ends the load. */
}

/* The reply's error; an abort's own first. */
static enum err load_reply_err(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct pg_load_state *state = &conn->log->load;
    if (state->err != ERR_OK) {
        return state->err;
    }
    if (conn->log->closing) {
        return ERR_STOPPED;
    }
    if (!reply->ok && !reply->lost) {
        pg_conn_report(conn, "load", reply);
    }
    return pg_reply_err(reply);
}

static bool load_begin_chunk(struct pg_load_state *state, size_t item_size)
{
    arena_reset(&state->arena);
    state->chunk_count = 0;
    state->chunk = arena_alloc(&state->arena, LOAD_CHUNK_ITEMS * item_size);
    return state->chunk != NULL;
}

static bool load_chunk_is_full(const struct pg_load_state *state)
{
    return state->chunk_count == LOAD_CHUNK_ITEMS || state->arena.size_used >= LOAD_CHUNK_BYTES;
}

static void load_on_commit(struct pg_conn *conn, const struct pg_reply *reply)
{
    load_end(conn, load_reply_err(conn, reply));
}

/* ---- entries -------------------------------------------------------------------------------- */

static enum err load_flush_entries(struct pg_conn *conn)
{
    struct pg_load_state *state = &conn->log->load;
    struct sql_load *load = load_of(conn);
    if (state->chunk_count > 0) {
        TRY(load->on_entries(load, state->chunk, state->chunk_count));
    }
    return load_begin_chunk(state, sizeof(struct sql_entry)) ? ERR_OK : ERR_REQUEST_TOO_LARGE;
}

static void load_on_entry(struct pg_conn *conn, const PGresult *row)
{
    struct pg_load_state *state = &conn->log->load;
    struct sql_entry *entry = (struct sql_entry *)state->chunk + state->chunk_count;
    enum err err = pg_entry_take(conn->log, row, 0, &state->arena, entry);
    state->chunk_count++;
    if (err == ERR_OK && load_chunk_is_full(state)) {
        err = load_flush_entries(conn);
    }
    if (err != ERR_OK) {
        load_abort(conn, err);
    }
}

static void load_on_entries_end(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = load_reply_err(conn, reply);
    if (err == ERR_OK) {
        err = load_flush_entries(conn);
    }
    if (err != ERR_OK) {
        load_end(conn, err);
        return;
    }
    pg_conn_query(conn, "COMMIT", load_on_commit);
}

/* ---- rows ----------------------------------------------------------------------------------- */

static enum err load_flush_rows(struct pg_conn *conn)
{
    struct pg_load_state *state = &conn->log->load;
    struct sql_load *load = load_of(conn);
    if (state->chunk_count > 0) {
        TRY(load->on_rows(load, state->chunk, state->chunk_count));
    }
    return load_begin_chunk(state, sizeof(struct sql_row)) ? ERR_OK : ERR_REQUEST_TOO_LARGE;
}

static void load_on_row(struct pg_conn *conn, const PGresult *row)
{
    struct pg_load_state *state = &conn->log->load;
    struct sql_row *taken = (struct sql_row *)state->chunk + state->chunk_count;
    enum err err = pg_row_take(row, 0, &state->arena, taken);
    state->chunk_count++;
    if (err == ERR_OK && load_chunk_is_full(state)) {
        err = load_flush_rows(conn);
    }
    if (err != ERR_OK) {
        load_abort(conn, err);
    }
}

static void load_on_rows_end(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = load_reply_err(conn, reply);
    if (err == ERR_OK) {
        err = load_flush_rows(conn);
    }
    if (err == ERR_OK && !load_begin_chunk(&conn->log->load, sizeof(struct sql_entry))) {
        err = ERR_REQUEST_TOO_LARGE;
    }
    if (err != ERR_OK) {
        load_end(conn, err);
        return;
    }
    pg_params_clear(&conn->params);
    pg_conn_stream(conn, PG_STMT_LOAD_ENTRIES, load_on_entry, load_on_entries_end);
}

/* ---- leases, head --------------------------------------------------------------------------- */

static enum err load_take_leases(struct pg_conn *conn, const PGresult *rows)
{
    struct sql_load *load = load_of(conn);
    int count = PQntuples(rows);
    struct sql_lease *leases = mem_alloc(((size_t)count + 1) * sizeof(*leases));
    for (int row = 0; row < count; row++) {
        leases[row].id = pg_get_i64(rows, row, 0);
        leases[row].ttl_s = pg_get_i64(rows, row, 1);
        leases[row].grant_seq = (uint64_t)pg_get_i64(rows, row, 2);
        leases[row].sum = (uint64_t)pg_get_i64(rows, row, 3);
        leases[row].counter = (uint64_t)pg_get_i64(rows, row, 4);
    }
    enum err err = count == 0 ? ERR_OK : load->on_leases(load, leases, (uint32_t)count);
    mem_free(leases);
    return err;
}

static void load_on_leases(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = load_reply_err(conn, reply);
    if (err == ERR_OK) {
        err = load_take_leases(conn, reply->rows);
    }
    if (err == ERR_OK && !load_begin_chunk(&conn->log->load, sizeof(struct sql_row))) {
        err = ERR_REQUEST_TOO_LARGE;
    }
    if (err != ERR_OK) {
        load_end(conn, err);
        return;
    }
    pg_params_clear(&conn->params);
    pg_conn_stream(conn, PG_STMT_LOAD_ROWS, load_on_row, load_on_rows_end);
}

static void load_on_head(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct sql_load *load = load_of(conn);
    enum err err = load_reply_err(conn, reply);
    if (err == ERR_OK) {
        err = PQntuples(reply->rows) == 1 ? pg_head_take(reply->rows, 0, &load->head)
                                          : ERR_HISTORY_LOST;
    }
    if (err != ERR_OK) {
        load_end(conn, err);
        return;
    }
    load->cluster_id = (uint64_t)pg_get_i64(reply->rows, 0, PG_COL_A + 6);
    pg_params_clear(&conn->params);
    pg_conn_execute(conn, PG_STMT_LOAD_LEASES, load_on_leases);
}

static void load_on_begin(struct pg_conn *conn, const struct pg_reply *reply)
{
    enum err err = load_reply_err(conn, reply);
    if (err != ERR_OK) {
        load_end(conn, err);
        return;
    }
    pg_params_clear(&conn->params);
    pg_conn_execute(conn, PG_STMT_HEAD, load_on_head);
}

void pg_load_start(struct pg_conn *conn, struct pg_op *op)
{
    (void)op;
    arena_init(&conn->log->load.arena, LIMIT_LOAD_ARENA);
    conn->log->load.err = ERR_OK;
    /* As long as it takes, but not idle: callbacks run between two reads of one statement. */
    pg_conn_query(
        conn,
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0;"
        " SET LOCAL idle_in_transaction_session_timeout = '60s';"
        " SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off",
        load_on_begin);
}
