/*
 * The whole log, chunk by chunk. A chunk is read there, handed home to the callbacks, and answered
 * before the next one is read; meanwhile all other jobs wait (sqlite.c defers them), so that what
 * is read is one state.
 */
#include "sql/sqlite.h"

#include "core/limits.h"

enum { LOAD_CHUNK_ITEMS = 1024, LOAD_CHUNK_BYTES = 4 * 1024 * 1024 };
/* One item may be larger than a chunk; the ceiling only stops what no drover wrote. */

static struct sql_load *load_request(struct sqlite_log *log)
{
    return log->jobs[SQL_KIND_LOAD].request;
}

/* Home. Run the callback of the chunk, then go back. */
static void load_at_home(struct loop_post *post)
{
    struct sqlite_log *log = CONTAINER_OF(post, struct sqlite_log, load.to_home);
    struct sqlite_load *load = &log->load;
    struct sql_load *request = load_request(log);
    switch (load->chunk_kind) {
    case LOAD_LEASES:
        load->err = request->on_leases(request, load->chunk, load->chunk_count);
        break;
    case LOAD_ROWS:
        load->err = request->on_rows(request, load->chunk, load->chunk_count);
        break;
    case LOAD_ENTRIES:
        load->err = request->on_entries(request, load->chunk, load->chunk_count);
        break;
    case LOAD_IDLE:
        ASSERT(false);
        break;
    }
    loop_post(&log->own, &load->to_there);
}

static void load_end(struct sqlite_log *log, enum err err)
{
    struct sqlite_load *load = &log->load;
    if (load->stmt != NULL) {
        (void)sqlite3_reset(load->stmt);
        load->stmt = NULL;
    }
    if (sqlite3_get_autocommit(log->db) == 0) {
        (void)sqlite3_exec(log->db, "ROLLBACK", NULL, NULL, NULL); /* Nothing was written. */
    }
    arena_fini(&load->arena);
    load->state = LOAD_IDLE;
    load_request(log)->err = err;
    sqlite_load_ended(log);
}

/* Start to step the statement of the next state. */
static void load_enter(struct sqlite_log *log, enum sqlite_load_state state)
{
    struct sqlite_load *load = &log->load;
    const struct sql_head *head = &load_request(log)->head;
    if (load->stmt != NULL) {
        (void)sqlite3_reset(load->stmt);
        load->stmt = NULL;
    }
    load->state = state;
    switch (state) {
    case LOAD_LEASES:
        load->stmt = log->stmts[STMT_LEASES];
        return;
    case LOAD_ROWS:
        load->stmt = log->stmts[STMT_ROW_RANGE];
        ASSERT(sqlite3_bind_int64(load->stmt, 1, INT64_MIN) == SQLITE_OK);
        ASSERT(sqlite3_bind_int64(load->stmt, 2, INT64_MAX) == SQLITE_OK);
        return;
    case LOAD_ENTRIES:
        load->stmt = log->stmts[STMT_ENTRY_TAIL];
        ASSERT(sqlite3_bind_int64(load->stmt, 1, 0) == SQLITE_OK);
        ASSERT(sqlite3_bind_int64(load->stmt, 2, (int64_t)head->seq) == SQLITE_OK);
        return;
    case LOAD_IDLE:
        return;
    }
}

static size_t load_item_size(enum sqlite_load_state state)
{
    switch (state) {
    case LOAD_LEASES:
        return sizeof(struct sql_lease);
    case LOAD_ROWS:
        return sizeof(struct sql_row);
    case LOAD_ENTRIES:
        return sizeof(struct sql_entry);
    case LOAD_IDLE:
        break;
    }
    return 1;
}

static enum err load_take(struct sqlite_log *log, void *chunk, uint32_t index)
{
    struct sqlite_load *load = &log->load;
    switch (load->state) {
    case LOAD_LEASES:
        sqlite_lease_take(load->stmt, (struct sql_lease *)chunk + index);
        return ERR_OK;
    case LOAD_ROWS:
        return sqlite_row_take(load->stmt, &load->arena, (struct sql_row *)chunk + index);
    case LOAD_ENTRIES:
        return sqlite_entry_take(log, load->stmt, &load->arena, (struct sql_entry *)chunk + index);
    case LOAD_IDLE:
        break;
    }
    return ERR_INTERNAL;
}

/* Read one chunk of the current state. |is_last| when the statement has nothing more. */
static enum err load_read_chunk(struct sqlite_log *log, bool *is_last)
{
    struct sqlite_load *load = &log->load;
    arena_reset(&load->arena);
    load->chunk_kind = load->state;
    load->chunk_count = 0;
    load->chunk = arena_alloc(&load->arena, LOAD_CHUNK_ITEMS * load_item_size(load->state));
    if (load->chunk == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    *is_last = false;
    while (load->chunk_count < LOAD_CHUNK_ITEMS && load->arena.size_used < LOAD_CHUNK_BYTES) {
        int code = sqlite3_step(load->stmt);
        if (code == SQLITE_DONE) {
            *is_last = true;
            return ERR_OK;
        }
        if (code != SQLITE_ROW) {
            return sqlite_error(log, "load");
        }
        TRY(load_take(log, load->chunk, load->chunk_count));
        load->chunk_count++;
    }
    return ERR_OK;
}

/* Read on until there is a chunk to hand home, or the end. */
static void load_step(struct sqlite_log *log)
{
    struct sqlite_load *load = &log->load;
    enum err err = load->stop ? ERR_STOPPED : load->err;
    while (err == ERR_OK && load->state != LOAD_IDLE) {
        bool is_last;
        err = load_read_chunk(log, &is_last);
        if (err == ERR_OK && is_last) {
            load_enter(log, load->state == LOAD_ENTRIES ? LOAD_IDLE : load->state + 1);
        }
        if (err == ERR_OK && load->chunk_count > 0) {
            loop_post(log->home, &load->to_home);
            return;
        }
    }
    load_end(log, err);
}

/* There. The callback has answered. */
static void load_go_on(struct loop_post *post)
{
    load_step(CONTAINER_OF(post, struct sqlite_log, load.to_there));
}

void sqlite_load_begin(struct sqlite_log *log)
{
    struct sqlite_load *load = &log->load;
    struct sql_load *request = load_request(log);
    ASSERT(load->state == LOAD_IDLE);
    arena_init(&load->arena, LIMIT_LOAD_ARENA);
    load->to_home.run = load_at_home;
    load->to_there.run = load_go_on;
    load->stop = false;
    load->err = ERR_OK;
    if (sqlite3_exec(log->db, "BEGIN", NULL, NULL, NULL) != SQLITE_OK) {
        load->err = sqlite_error(log, "load begin");
    } else {
        load->err = sqlite_head_read(log, &request->head, &request->cluster_id);
    }
    load_enter(log, LOAD_LEASES);
    load_step(log);
}

void sqlite_load_stop(struct sqlite_log *log)
{
    log->load.stop = true;
}
