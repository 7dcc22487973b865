/* What each request does to the file: straight SQL on the engine's own thread. */
#include "sql/sqlite.h"

#include <stdio.h>
#include <sys/stat.h>

#include "core/buf.h"
#include "core/limits.h"
#include "core/log.h"
#include "sql/schema.h"

enum { MEMBER_ALIVE_MS = 10 * 1000, MEMBER_FORGET_MS = 10 * 60 * 1000 };
/* Entries removed in one purge, at most: so that appends don't wait long behind one. */

#define ENTRY_COLUMNS                                                                 \
    "seq, writer, writer_counter, epoch, first_rev, last_rev, row_count, byte_count," \
    " compact_rev, auth_rev, rows_hash, chain, meta"
#define ROW_COLUMNS \
    "revision, sub, is_delete, key, value, create_rev, version, lease, prev_rev, prev_sub, sum"

const char *const sqlite_texts[STMT_COUNT] = {
    [STMT_BEGIN] = "BEGIN IMMEDIATE",
    [STMT_COMMIT] = "COMMIT",
    [STMT_ROLLBACK] = "ROLLBACK",
    [STMT_HEAD] =
        "SELECT n.seq, n.chain, n.last_rev, n.compact_rev, c.deleted_below, c.schema_version,"
        " c.era, c.epoch, c.identity, c.cluster_id FROM ~cluster c LEFT JOIN"
        " (SELECT seq, chain, last_rev, compact_rev FROM ~entry ORDER BY seq DESC LIMIT 1) n"
        " WHERE c.id = 1",
    [STMT_ENTRY_PUT] =
        "INSERT INTO ~entry (" ENTRY_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    [STMT_ENTRY_WRITER] = "SELECT writer, writer_counter FROM ~entry WHERE seq = ?",
    [STMT_ENTRY_TAIL] =
        "SELECT " ENTRY_COLUMNS " FROM ~entry WHERE seq > ? AND seq <= ? ORDER BY seq",
    [STMT_ENTRY_PURGE] = "DELETE FROM ~entry WHERE seq IN (SELECT seq FROM ~entry WHERE seq < ?"
                         " AND seq < (SELECT max(seq) FROM ~entry) ORDER BY seq LIMIT ?)",
    [STMT_ROW_PUT] = "INSERT INTO ~kv (" ROW_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    [STMT_ROW_RANGE] = "SELECT " ROW_COLUMNS
                       " FROM ~kv WHERE revision >= ? AND revision <= ? ORDER BY revision, sub",
    [STMT_ROW_PURGE_REPLACED] =
        "DELETE FROM ~kv WHERE (revision, sub) IN (SELECT x.revision, x.sub FROM ~kv k"
        " CROSS JOIN ~kv x ON x.revision = k.prev_rev AND x.sub = k.prev_sub"
        " WHERE k.revision >= ?1 AND k.revision <= ?2 AND k.prev_rev > 0 AND k.prev_rev < ?2"
        " ORDER BY k.revision, k.sub LIMIT ?3)",
    [STMT_ROW_PURGE_TOMBSTONES] =
        "DELETE FROM ~kv WHERE (revision, sub) IN (SELECT revision, sub FROM ~kv"
        " WHERE revision >= ?1 AND revision < ?2 AND is_delete <> 0"
        " ORDER BY revision, sub LIMIT ?3)",
    [STMT_DELETED_BELOW] = "UPDATE ~cluster SET deleted_below = max(deleted_below, ?) WHERE id = 1",
    [STMT_LEASE_PUT] = "INSERT OR REPLACE INTO ~lease (id, ttl_s, grant_seq, sum, counter)"
                       " VALUES (?, ?, ?3, ?4, ?3)",
    [STMT_LEASE_DELETE] = "DELETE FROM ~lease WHERE id = ?",
    [STMT_LEASE_EXPIRE] = "DELETE FROM ~lease WHERE id = ? AND counter = ?",
    [STMT_LEASE_TOUCH] = "UPDATE ~lease SET counter = counter + 1 WHERE id = ? RETURNING counter",
    [STMT_LEASES] = "SELECT id, ttl_s, grant_seq, sum, counter FROM ~lease ORDER BY id",
    [STMT_MEMBER_PUT] = "INSERT OR REPLACE INTO ~member (id, name, client_urls, version,"
                        " applied_seq, pin_rev, heartbeat) VALUES (?, ?, ?, ?, ?, ?, ?)",
    [STMT_MEMBER_DELETE] = "DELETE FROM ~member WHERE id = ? OR heartbeat < ?",
    [STMT_MEMBERS] = "SELECT id, name, client_urls, version, applied_seq, pin_rev, heartbeat"
                     " FROM ~member WHERE heartbeat > ? ORDER BY id",
    [STMT_DUTY] = "SELECT owner, term, expires FROM ~duty WHERE id = 1",
    [STMT_DUTY_SET] = "INSERT OR REPLACE INTO ~duty (id, owner, term, expires) VALUES (1, ?, ?, ?)",
    [STMT_BYTES] = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
};

enum err sqlite_error(struct sqlite_log *log, const char *what)
{
    int code = sqlite3_extended_errcode(log->db);
    if (log->error_count++ == 0 || code != log->error_code) {
        LOG(LOG_ERROR, "sqlite error", LSTR("at", what), LSTR("error", sqlite3_errmsg(log->db)),
            LINT("code", code));
    }
    log->error_code = code;
    return (code & 0xff) == SQLITE_FULL ? ERR_NO_SPACE : ERR_DATABASE;
}

/* ---- small words ---------------------------------------------------------------------------- */

static void bind_int(sqlite3_stmt *stmt, int index, int64_t value)
{
    ASSERT(sqlite3_bind_int64(stmt, index, value) == SQLITE_OK);
}

/* Borrowed until the statement is reset. Empty is an empty blob, never NULL. */
static void bind_bytes(sqlite3_stmt *stmt, int index, const void *data, size_t size)
{
    const void *bytes = size == 0 ? "" : data;
    ASSERT(sqlite3_bind_blob64(stmt, index, bytes, size, SQLITE_STATIC) == SQLITE_OK);
}

/* Run a statement that returns nothing, or whose rows don't matter. */
static bool stmt_run(sqlite3_stmt *stmt)
{
    int code;
    do {
        code = sqlite3_step(stmt);
    } while (code == SQLITE_ROW);
    (void)sqlite3_reset(stmt); /* Repeats the code of the step. */
    return code == SQLITE_DONE;
}

/* Ends a statement that was read row by row; true when all of it was read without an error. */
static bool stmt_end(sqlite3_stmt *stmt)
{
    return sqlite3_reset(stmt) == SQLITE_OK;
}

static struct slice column_slice(sqlite3_stmt *stmt, int column)
{
    const void *data = sqlite3_column_blob(stmt, column);
    int size = sqlite3_column_bytes(stmt, column);
    return slice_of(data, data == NULL ? 0 : (size_t)size);
}

/* A column of exactly |size| bytes; anything else was written by somebody else. */
static bool column_fixed(sqlite3_stmt *stmt, int column, void *bytes, size_t size)
{
    struct slice found = column_slice(stmt, column);
    if (found.size != size) {
        return false;
    }
    memcpy(bytes, found.data, size);
    return true;
}

/* True when columns [first, last] hold integers: any other type would be read as some number. */
static bool columns_are_int(sqlite3_stmt *stmt, int first, int last)
{
    bool are_int = true;
    for (int column = first; column <= last; column++) {
        are_int = are_int && sqlite3_column_type(stmt, column) == SQLITE_INTEGER;
    }
    return are_int;
}

static void column_text(sqlite3_stmt *stmt, int column, char *text, size_t text_size)
{
    struct slice found = column_slice(stmt, column);
    (void)snprintf(text, text_size, "%.*s", (int)found.size, (const char *)found.data);
}

/* ---- transactions --------------------------------------------------------------------------- */

static enum err transaction_begin(struct sqlite_log *log)
{
    ASSERT(sqlite3_get_autocommit(log->db) != 0);
    return stmt_run(log->stmts[STMT_BEGIN]) ? ERR_OK : sqlite_error(log, "begin");
}

/* Some errors have rolled back already; what counts is that no transaction is open afterwards. */
static void transaction_rollback(struct sqlite_log *log)
{
    if (sqlite3_get_autocommit(log->db) == 0) {
        (void)stmt_run(log->stmts[STMT_ROLLBACK]);
    }
    if (sqlite3_get_autocommit(log->db) == 0) {
        panic(__FILE__, __LINE__, __func__, "SQLite cannot roll back");
    }
}

/*
 * A full disk is refused before anything is durable. Any other error of a commit leaves open what
 * is on disk, and reading it back would settle nothing: the page cache may say other than the
 * disk. The process ends, and the next start reads what is really there.
 */
static enum err transaction_commit(struct sqlite_log *log)
{
    if (stmt_run(log->stmts[STMT_COMMIT])) {
        if (log->error_count > 0) {
            LOG(LOG_INFO, "sqlite goes on", LUINT("errors", log->error_count));
            log->error_count = 0;
        }
        return ERR_OK;
    }
    enum err err = sqlite_error(log, "commit");
    if (err != ERR_NO_SPACE) {
        panic(__FILE__, __LINE__, __func__, "SQLite failed to commit, the outcome is unknown");
    }
    transaction_rollback(log);
    return err;
}

/* End the transaction as |err| says; |err|, or the commit's own. */
static enum err transaction_end(struct sqlite_log *log, enum err err)
{
    if (err == ERR_OK) {
        return transaction_commit(log);
    }
    transaction_rollback(log);
    return err;
}

/* ---- reading -------------------------------------------------------------------------------- */

static bool head_take(sqlite3_stmt *stmt, struct sql_head *head)
{
    *head = (struct sql_head){.revision = SQL_FIRST_REV};
    if (sqlite3_column_type(stmt, 0) != SQLITE_NULL) {
        head->seq = (uint64_t)sqlite3_column_int64(stmt, 0);
        head->revision = sqlite3_column_int64(stmt, 2);
        head->compact_rev = sqlite3_column_int64(stmt, 3);
        if (!column_fixed(stmt, 1, head->chain.bytes, sizeof(head->chain.bytes))) {
            return false;
        }
    }
    head->deleted_below = sqlite3_column_int64(stmt, 4);
    int64_t version = sqlite3_column_int64(stmt, 5);
    head->schema_version = version < 0 || version > UINT32_MAX ? UINT32_MAX : (uint32_t)version;
    head->fence.epoch = (uint64_t)sqlite3_column_int64(stmt, 7);
    column_text(stmt, 8, head->fence.identity, sizeof(head->fence.identity));
    return column_fixed(stmt, 6, head->fence.era, sizeof(head->fence.era));
}

enum err sqlite_head_read(struct sqlite_log *log, struct sql_head *head, uint64_t *cluster_id)
{
    sqlite3_stmt *stmt = log->stmts[STMT_HEAD];
    int code = sqlite3_step(stmt);
    enum err err = ERR_OK;
    if (code == SQLITE_DONE) {
        LOG(LOG_ERROR, "sqlite history lost", LSTR("why", "the cluster row is gone"));
        err = ERR_HISTORY_LOST;
    } else if (code != SQLITE_ROW) {
        err = sqlite_error(log, "head");
    } else if (!head_take(stmt, head)) {
        LOG(LOG_ERROR, "sqlite row broken", LSTR("why", "the newest entry's chain or the era"));
        err = ERR_CHAIN_BROKEN;
    } else {
        *cluster_id = (uint64_t)sqlite3_column_int64(stmt, 9);
    }
    (void)stmt_end(stmt);
    return err;
}

enum err sqlite_entry_take(struct sqlite_log *log, sqlite3_stmt *stmt, struct arena *arena,
                           struct sql_entry *entry)
{
    *entry = (struct sql_entry){
        .seq = (uint64_t)sqlite3_column_int64(stmt, 0),
        .writer.counter = (uint64_t)sqlite3_column_int64(stmt, 2),
        .epoch = (uint64_t)sqlite3_column_int64(stmt, 3),
        .first_rev = sqlite3_column_int64(stmt, 4),
        .last_rev = sqlite3_column_int64(stmt, 5),
        .row_count = (uint32_t)sqlite3_column_int64(stmt, 6),
        .byte_count = (uint64_t)sqlite3_column_int64(stmt, 7),
        .compact_rev = sqlite3_column_int64(stmt, 8),
        .auth_rev = sqlite3_column_int64(stmt, 9),
    };
    enum err err = ERR_CHAIN_BROKEN;
    int64_t row_count = sqlite3_column_int64(stmt, 6);
    bool is_sane = columns_are_int(stmt, 0, 0) && columns_are_int(stmt, 2, 9) && row_count >= 0 &&
                   row_count <= UINT32_MAX; /* Else cut to the number that the chain covers. */
    if (is_sane &&
        column_fixed(stmt, 1, entry->writer.incarnation, sizeof(entry->writer.incarnation)) &&
        column_fixed(stmt, 10, entry->rows_hash.bytes, sizeof(entry->rows_hash.bytes)) &&
        column_fixed(stmt, 11, entry->chain.bytes, sizeof(entry->chain.bytes))) {
        err = sql_effects_decode(column_slice(stmt, 12), arena, &entry->effects,
                                 &entry->effect_count);
    }
    if (err == ERR_CHAIN_BROKEN) {
        LOG(LOG_ERROR, "sqlite entry broken", LUINT("seq", entry->seq), LSTR("path", log->path));
    }
    return err;
}

/* Only what drover writes: whatever else would be cut to it is a changed row. */
static bool row_is_sane(sqlite3_stmt *stmt)
{
    int64_t sub = sqlite3_column_int64(stmt, 1);
    int64_t is_delete = sqlite3_column_int64(stmt, 2);
    int64_t prev_sub = sqlite3_column_int64(stmt, 9);
    return columns_are_int(stmt, 0, 2) && columns_are_int(stmt, 5, 10) && sub >= INT32_MIN &&
           sub <= INT32_MAX && prev_sub >= INT32_MIN && prev_sub <= INT32_MAX && is_delete >= 0 &&
           is_delete <= 1;
}

enum err sqlite_row_take(sqlite3_stmt *stmt, struct arena *arena, struct sql_row *row)
{
    if (!row_is_sane(stmt)) {
        LOG(LOG_ERROR, "sqlite row broken", LINT("revision", sqlite3_column_int64(stmt, 0)));
        return ERR_CHAIN_BROKEN;
    }
    *row = (struct sql_row){
        .revision = sqlite3_column_int64(stmt, 0),
        .sub = (int32_t)sqlite3_column_int64(stmt, 1),
        .is_delete = sqlite3_column_int64(stmt, 2) != 0,
        .create_rev = sqlite3_column_int64(stmt, 5),
        .version = sqlite3_column_int64(stmt, 6),
        .lease = sqlite3_column_int64(stmt, 7),
        .prev_rev = sqlite3_column_int64(stmt, 8),
        .prev_sub = (int32_t)sqlite3_column_int64(stmt, 9),
        .sum = (uint64_t)sqlite3_column_int64(stmt, 10),
    };
    bool copied = arena_copy(arena, column_slice(stmt, 3), &row->key) &&
                  arena_copy(arena, column_slice(stmt, 4), &row->value);
    return copied ? ERR_OK : ERR_REQUEST_TOO_LARGE;
}

void sqlite_lease_take(sqlite3_stmt *stmt, struct sql_lease *lease)
{
    lease->id = sqlite3_column_int64(stmt, 0);
    lease->ttl_s = sqlite3_column_int64(stmt, 1);
    lease->grant_seq = (uint64_t)sqlite3_column_int64(stmt, 2);
    lease->sum = (uint64_t)sqlite3_column_int64(stmt, 3);
    lease->counter = (uint64_t)sqlite3_column_int64(stmt, 4);
}

/* ---- append --------------------------------------------------------------------------------- */

static bool fence_holds(const struct sql_head *head, const struct sql_fence *fence)
{
    return memcmp(head->fence.era, fence->era, sizeof(fence->era)) == 0 &&
           head->fence.epoch == fence->epoch && head->schema_version == SQL_SCHEMA_VERSION &&
           strcmp(head->fence.identity, fence->identity) == 0;
}

static bool append_put_entry(struct sqlite_log *log, const struct sql_entry *entry)
{
    struct buf meta = {0};
    sql_effects_encode(entry->effects, entry->effect_count, &meta);
    sqlite3_stmt *stmt = log->stmts[STMT_ENTRY_PUT];
    bind_int(stmt, 1, (int64_t)entry->seq);
    bind_bytes(stmt, 2, entry->writer.incarnation, sizeof(entry->writer.incarnation));
    bind_int(stmt, 3, (int64_t)entry->writer.counter);
    bind_int(stmt, 4, (int64_t)entry->epoch);
    bind_int(stmt, 5, entry->first_rev);
    bind_int(stmt, 6, entry->last_rev);
    bind_int(stmt, 7, entry->row_count);
    bind_int(stmt, 8, (int64_t)entry->byte_count);
    bind_int(stmt, 9, entry->compact_rev);
    bind_int(stmt, 10, entry->auth_rev);
    bind_bytes(stmt, 11, entry->rows_hash.bytes, sizeof(entry->rows_hash.bytes));
    bind_bytes(stmt, 12, entry->chain.bytes, sizeof(entry->chain.bytes));
    bind_bytes(stmt, 13, meta.data, meta.size);
    bool done = stmt_run(stmt);
    buf_fini(&meta);
    return done;
}

static bool append_put_row(struct sqlite_log *log, const struct sql_row *row)
{
    sqlite3_stmt *stmt = log->stmts[STMT_ROW_PUT];
    bind_int(stmt, 1, row->revision);
    bind_int(stmt, 2, row->sub);
    bind_int(stmt, 3, row->is_delete ? 1 : 0);
    bind_bytes(stmt, 4, row->key.data, row->key.size);
    bind_bytes(stmt, 5, row->value.data, row->value.size);
    bind_int(stmt, 6, row->create_rev);
    bind_int(stmt, 7, row->version);
    bind_int(stmt, 8, row->lease);
    bind_int(stmt, 9, row->prev_rev);
    bind_int(stmt, 10, row->prev_sub);
    bind_int(stmt, 11, (int64_t)row->sum);
    return stmt_run(stmt);
}

/* |moved| is set when an expiry met another counter; the caller rolls back. */
static bool append_effect(struct sqlite_log *log, const struct sql_effect *effect, uint64_t seq,
                          bool *moved)
{
    sqlite3_stmt *stmt;
    switch (effect->kind) {
    case SQL_LEASE_PUT:
        stmt = log->stmts[STMT_LEASE_PUT];
        bind_int(stmt, 1, effect->id);
        bind_int(stmt, 2, effect->ttl_s);
        bind_int(stmt, 3, (int64_t)seq);
        bind_int(stmt, 4, (int64_t)sql_lease_granted(effect, seq).sum);
        return stmt_run(stmt);
    case SQL_LEASE_DELETE:
        stmt = log->stmts[STMT_LEASE_DELETE];
        bind_int(stmt, 1, effect->id);
        return stmt_run(stmt);
    case SQL_LEASE_EXPIRE:
        stmt = log->stmts[STMT_LEASE_EXPIRE];
        bind_int(stmt, 1, effect->id);
        bind_int(stmt, 2, (int64_t)effect->counter);
        if (!stmt_run(stmt)) {
            return false;
        }
        *moved = sqlite3_changes(log->db) != 1;
        return true;
    case SQL_COMPACT:
        return true; /* In the entry itself. */
    }
    return true;
}

/* A file, or its write-ahead log, that was removed or replaced takes writes until the end of the
 * process, and nobody would find them afterwards. Two looks at the directory a commit. */
static enum err check_place(struct sqlite_log *log)
{
    bool has_moved = false;
    for (uint32_t i = 0; i < ARRAY_COUNT(log->files); i++) {
        struct stat facts;
        has_moved = has_moved || stat(log->files[i].path, &facts) != 0 ||
                    facts.st_dev != log->files[i].device || facts.st_ino != log->files[i].inode;
    }
    if (has_moved && !log->has_moved) {
        LOG(LOG_ERROR, "sqlite file removed", LSTR("path", log->path),
            LSTR("why", "it or its -wal was removed or replaced: nothing is written any more"));
    }
    log->has_moved = has_moved;
    return has_moved ? ERR_DATABASE : ERR_OK;
}

/* Everything between BEGIN and COMMIT. ERR_OK with outcome LOST or MOVED: roll back. */
static enum err append_write(struct sqlite_log *log, struct sql_append *append)
{
    struct sql_head head;
    uint64_t cluster_id;
    TRY(check_place(log));
    TRY(sqlite_head_read(log, &head, &cluster_id));
    append->outcome = SQL_LOST;
    if (!fence_holds(&head, &append->fence) || head.seq != append->expected_seq ||
        !hash128_equal(&head.chain, &append->expected_chain)) {
        return ERR_OK;
    }
    const struct sql_entry *entry = append->entry;
    if (!append_put_entry(log, entry)) {
        return sqlite_error(log, "append entry");
    }
    for (uint32_t i = 0; i < entry->row_count; i++) {
        if (!append_put_row(log, &entry->rows[i])) {
            return sqlite_error(log, "append row");
        }
    }
    for (uint32_t i = 0; i < entry->effect_count; i++) {
        bool moved = false;
        if (!append_effect(log, &entry->effects[i], entry->seq, &moved)) {
            return sqlite_error(log, "append effect");
        }
        if (moved) {
            append->outcome = SQL_MOVED;
            return ERR_OK;
        }
    }
    append->outcome = SQL_COMMITTED;
    return ERR_OK;
}

static void run_append(struct sqlite_log *log, void *request)
{
    struct sql_append *append = request;
    enum err err = transaction_begin(log);
    if (err == ERR_OK) {
        err = append_write(log, append);
        if (err == ERR_OK && append->outcome == SQL_COMMITTED) {
            err = transaction_commit(log);
        } else {
            transaction_rollback(log);
        }
    }
    append->err = err;
    if (err != ERR_OK) {
        append->outcome = SQL_REFUSED;
    }
}

/* ---- tail, probe, verdict ------------------------------------------------------------------- */

/* The rows of one entry. Entries promise |row_count| of them; what is found is what is told. */
static enum err tail_rows(struct sqlite_log *log, struct arena *arena, struct sql_entry *entry)
{
    uint32_t promised = entry->row_count;
    entry->row_count = 0;
    if (promised == 0) {
        return ERR_OK;
    }
    sqlite3_stmt *stmt = log->stmts[STMT_ROW_RANGE];
    bind_int(stmt, 1, entry->first_rev);
    bind_int(stmt, 2, entry->last_rev);
    uint32_t room = promised;
    struct sql_row *rows = arena_alloc(arena, room * sizeof(*rows));
    enum err err = rows == NULL ? ERR_REQUEST_TOO_LARGE : ERR_OK;
    int code = SQLITE_DONE;
    while (err == ERR_OK && (code = sqlite3_step(stmt)) == SQLITE_ROW) {
        if (entry->row_count == room) {
            entry->row_count++; /* One more than promised is enough to break the chain. */
            code = SQLITE_DONE;
            break;
        }
        err = sqlite_row_take(stmt, arena, &rows[entry->row_count]);
        entry->row_count++;
    }
    if (err == ERR_OK && code != SQLITE_DONE) {
        err = sqlite_error(log, "tail rows");
    }
    (void)stmt_end(stmt);
    if (err == ERR_OK && entry->row_count > room) {
        struct sql_row *more = arena_alloc(arena, (room + 1) * sizeof(*more));
        if (more == NULL) {
            return ERR_REQUEST_TOO_LARGE;
        }
        memcpy(more, rows, room * sizeof(*rows));
        rows = more;
    }
    entry->rows = rows;
    return err;
}

static enum err tail_read(struct sqlite_log *log, struct sql_tail *tail)
{
    uint64_t cluster_id;
    TRY(sqlite_head_read(log, &tail->head, &cluster_id));
    uint64_t left = tail->head.seq > tail->after_seq ? tail->head.seq - tail->after_seq : 0;
    uint32_t room = left < tail->entries_max ? (uint32_t)left : tail->entries_max;
    tail->entry_count = 0;
    tail->entries = arena_alloc(tail->arena, (room + 1) * sizeof(*tail->entries));
    if (tail->entries == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    sqlite3_stmt *stmt = log->stmts[STMT_ENTRY_TAIL];
    bind_int(stmt, 1, (int64_t)tail->after_seq);
    bind_int(stmt, 2, (int64_t)tail->head.seq);
    uint64_t bytes = 0;
    enum err err = ERR_OK;
    int code = SQLITE_DONE;
    while (err == ERR_OK && tail->entry_count < room && (code = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct sql_entry *entry = &tail->entries[tail->entry_count];
        err = sqlite_entry_take(log, stmt, tail->arena, entry);
        bytes += entry->byte_count;
        if (err == ERR_OK && tail->entry_count > 0 && bytes > tail->bytes_max) {
            break;
        }
        if (err == ERR_OK) {
            err = tail_rows(log, tail->arena, entry);
            tail->entry_count++;
        }
    }
    if (err == ERR_OK && code != SQLITE_DONE && code != SQLITE_ROW) {
        err = sqlite_error(log, "tail");
    }
    (void)stmt_end(stmt);
    return err;
}

static void run_tail(struct sqlite_log *log, void *request)
{
    struct sql_tail *tail = request;
    tail->err = tail_read(log, tail);
}

static void run_lock(struct sqlite_log *log, void *request)
{
    struct sql_lock *lock = request;
    lock->err = tail_read(log, &lock->tail);
    lock->tail.err = lock->err;
}

static void run_probe(struct sqlite_log *log, void *request)
{
    struct sql_probe *probe = request;
    uint64_t cluster_id;
    probe->err = sqlite_head_read(log, &probe->head, &cluster_id);
}

static void run_verdict(struct sqlite_log *log, void *request)
{
    struct sql_verdict *verdict = request;
    uint64_t cluster_id;
    verdict->found = false;
    verdict->err = sqlite_head_read(log, &verdict->head, &cluster_id);
    if (verdict->err != ERR_OK) {
        return;
    }
    sqlite3_stmt *stmt = log->stmts[STMT_ENTRY_WRITER];
    bind_int(stmt, 1, (int64_t)verdict->seq);
    int code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        verdict->found = true;
        verdict->writer.counter = (uint64_t)sqlite3_column_int64(stmt, 1);
        if (!column_fixed(stmt, 0, verdict->writer.incarnation, SQL_WRITER_SIZE)) {
            verdict->err = ERR_CHAIN_BROKEN;
        }
    } else if (code != SQLITE_DONE) {
        verdict->err = sqlite_error(log, "verdict");
    }
    (void)stmt_end(stmt);
}

/* ---- keep-alive, upkeep, purge -------------------------------------------------------------- */

static enum err fence_check(struct sqlite_log *log, const struct sql_fence *fence,
                            struct sql_head *head)
{
    uint64_t cluster_id;
    TRY(sqlite_head_read(log, head, &cluster_id));
    return fence_holds(head, fence) ? ERR_OK : ERR_LEADER_CHANGED;
}

static enum err keepalive_touch(struct sqlite_log *log, struct sql_keepalive *keepalive)
{
    struct sql_head head;
    TRY(fence_check(log, &keepalive->fence, &head));
    sqlite3_stmt *stmt = log->stmts[STMT_LEASE_TOUCH];
    for (uint32_t i = 0; i < keepalive->count; i++) {
        struct sql_keepalive_item *item = &keepalive->items[i];
        bind_int(stmt, 1, item->id);
        int code = sqlite3_step(stmt);
        item->found = code == SQLITE_ROW;
        item->counter = item->found ? (uint64_t)sqlite3_column_int64(stmt, 0) : 0;
        if (item->found) {
            code = sqlite3_step(stmt);
        }
        enum err err = code == SQLITE_DONE ? ERR_OK : sqlite_error(log, "keepalive");
        (void)stmt_end(stmt);
        TRY(err);
    }
    return ERR_OK;
}

static void run_keepalive(struct sqlite_log *log, void *request)
{
    struct sql_keepalive *keepalive = request;
    keepalive->err = transaction_begin(log);
    if (keepalive->err == ERR_OK) {
        keepalive->err = transaction_end(log, keepalive_touch(log, keepalive));
    }
}

/* The monotonic clock is this database's: rows of earlier processes were removed at the start. */
static int64_t database_now_ms(const struct sqlite_log *log)
{
    return (int64_t)(clock_now_ns(log->own.timers.clock) / NS_PER_MS);
}

static enum err upkeep_self(struct sqlite_log *log, const struct sql_upkeep *upkeep, int64_t now_ms)
{
    const struct sql_member *self = &upkeep->self;
    sqlite3_stmt *stmt = log->stmts[STMT_MEMBER_DELETE];
    bind_int(stmt, 1, upkeep->leave ? (int64_t)self->id : 0);
    bind_int(stmt, 2, now_ms - MEMBER_FORGET_MS);
    if (!stmt_run(stmt)) {
        return sqlite_error(log, "upkeep members");
    }
    if (upkeep->leave) {
        return ERR_OK;
    }
    stmt = log->stmts[STMT_MEMBER_PUT];
    bind_int(stmt, 1, (int64_t)self->id);
    bind_bytes(stmt, 2, self->name, strlen(self->name));
    bind_bytes(stmt, 3, self->client_urls, strlen(self->client_urls));
    bind_bytes(stmt, 4, self->version, strlen(self->version));
    bind_int(stmt, 5, (int64_t)self->applied_seq);
    bind_int(stmt, 6, self->pin_rev);
    bind_int(stmt, 7, now_ms);
    return stmt_run(stmt) ? ERR_OK : sqlite_error(log, "upkeep self");
}

static enum err upkeep_duty(struct sqlite_log *log, struct sql_upkeep *upkeep, int64_t now_ms)
{
    sqlite3_stmt *stmt = log->stmts[STMT_DUTY];
    uint64_t owner = 0;
    uint64_t term = 0;
    int64_t expires = 0;
    int code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        owner = (uint64_t)sqlite3_column_int64(stmt, 0);
        term = (uint64_t)sqlite3_column_int64(stmt, 1);
        expires = sqlite3_column_int64(stmt, 2);
    }
    enum err err = code == SQLITE_ROW || code == SQLITE_DONE ? ERR_OK : sqlite_error(log, "duty");
    (void)stmt_end(stmt);
    TRY(err);
    uint64_t self = upkeep->self.id;
    bool is_free = owner == 0 || expires <= now_ms;
    bool is_take = upkeep->want_duty && !upkeep->leave && (is_free || owner == self);
    bool is_release = upkeep->leave && owner == self;
    if (is_take) {
        term += owner == self ? 0 : 1;
        owner = self;
        expires = now_ms + upkeep->duty_ms;
    } else if (is_release || is_free) {
        owner = 0;
    }
    upkeep->duty_owner = owner;
    upkeep->duty_term = term;
    if (!is_take && !is_release) {
        return ERR_OK;
    }
    stmt = log->stmts[STMT_DUTY_SET];
    bind_int(stmt, 1, (int64_t)owner);
    bind_int(stmt, 2, (int64_t)term);
    bind_int(stmt, 3, expires);
    return stmt_run(stmt) ? ERR_OK : sqlite_error(log, "duty");
}

static enum err upkeep_members(struct sqlite_log *log, struct sql_upkeep *upkeep, int64_t now_ms)
{
    upkeep->member_count = 0;
    upkeep->members = arena_alloc(upkeep->arena, LIMIT_MEMBERS * sizeof(*upkeep->members));
    if (upkeep->members == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    sqlite3_stmt *stmt = log->stmts[STMT_MEMBERS];
    bind_int(stmt, 1, now_ms - MEMBER_ALIVE_MS);
    int code = SQLITE_DONE;
    while (upkeep->member_count < LIMIT_MEMBERS && (code = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct sql_member *member = &upkeep->members[upkeep->member_count++];
        member->id = (uint64_t)sqlite3_column_int64(stmt, 0);
        column_text(stmt, 1, member->name, sizeof(member->name));
        column_text(stmt, 2, member->client_urls, sizeof(member->client_urls));
        column_text(stmt, 3, member->version, sizeof(member->version));
        member->applied_seq = (uint64_t)sqlite3_column_int64(stmt, 4);
        member->pin_rev = sqlite3_column_int64(stmt, 5);
        member->age_ms = now_ms - sqlite3_column_int64(stmt, 6);
    }
    bool is_read = code == SQLITE_DONE || code == SQLITE_ROW;
    enum err err = is_read ? ERR_OK : sqlite_error(log, "members");
    (void)stmt_end(stmt);
    return err;
}

static enum err upkeep_leases(struct sqlite_log *log, struct sql_upkeep *upkeep)
{
    struct buf leases = {0};
    sqlite3_stmt *stmt = log->stmts[STMT_LEASES];
    int code;
    upkeep->lease_count = 0;
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW) {
        struct sql_lease lease;
        sqlite_lease_take(stmt, &lease);
        buf_add(&leases, &lease, sizeof(lease));
        upkeep->lease_count++;
    }
    enum err err = code == SQLITE_DONE ? ERR_OK : sqlite_error(log, "leases");
    (void)stmt_end(stmt);
    upkeep->leases = arena_alloc(upkeep->arena, leases.size);
    if (upkeep->leases == NULL) {
        err = ERR_REQUEST_TOO_LARGE;
    } else if (leases.size > 0) {
        memcpy(upkeep->leases, leases.data, leases.size);
    }
    buf_fini(&leases);
    return err;
}

static enum err upkeep_write(struct sqlite_log *log, struct sql_upkeep *upkeep)
{
    int64_t now_ms = database_now_ms(log);
    TRY(upkeep_self(log, upkeep, now_ms));
    TRY(upkeep_duty(log, upkeep, now_ms));
    TRY(upkeep_members(log, upkeep, now_ms));
    TRY(upkeep_leases(log, upkeep));
    sqlite3_stmt *stmt = log->stmts[STMT_BYTES];
    bool has_row = sqlite3_step(stmt) == SQLITE_ROW;
    upkeep->database_bytes = has_row ? sqlite3_column_int64(stmt, 0) : 0;
    (void)stmt_end(stmt);
    upkeep->oldest_snapshot_ms = 0; /* Nobody else can hold one. */
    return ERR_OK;
}

static void run_upkeep(struct sqlite_log *log, void *request)
{
    struct sql_upkeep *upkeep = request;
    upkeep->err = transaction_begin(log);
    if (upkeep->err == ERR_OK) {
        upkeep->err = transaction_end(log, upkeep_write(log, upkeep));
    }
}

static enum err purge_rows(struct sqlite_log *log, struct sql_purge *purge)
{
    const enum sqlite_stmt deletes[] = {STMT_ROW_PURGE_REPLACED, STMT_ROW_PURGE_TOMBSTONES};
    for (uint32_t i = 0; i < ARRAY_COUNT(deletes); i++) {
        sqlite3_stmt *stmt = log->stmts[deletes[i]];
        bind_int(stmt, 1, purge->from_rev);
        bind_int(stmt, 2, purge->to_rev);
        bind_int(stmt, 3,
                 purge->rows_max == 0 ? -1 : (int64_t)(purge->rows_max - purge->rows_deleted));
        if (!stmt_run(stmt)) {
            return sqlite_error(log, "purge rows");
        }
        purge->rows_deleted += (uint64_t)sqlite3_changes64(log->db);
    }
    sqlite3_stmt *stmt = log->stmts[STMT_DELETED_BELOW];
    bind_int(stmt, 1, purge->to_rev);
    return stmt_run(stmt) ? ERR_OK : sqlite_error(log, "purge mark");
}

static enum err purge_write(struct sqlite_log *log, struct sql_purge *purge)
{
    struct sql_head head;
    TRY(fence_check(log, &purge->fence, &head));
    if (head.compact_rev < purge->compact_rev) {
        return ERR_LEADER_CHANGED;
    }
    if (purge->from_rev < purge->to_rev) {
        TRY(purge_rows(log, purge));
    }
    sqlite3_stmt *stmt = log->stmts[STMT_ENTRY_PURGE];
    bind_int(stmt, 1, (int64_t)purge->entries_below);
    bind_int(stmt, 2, LIMIT_PURGE_ENTRIES);
    return stmt_run(stmt) ? ERR_OK : sqlite_error(log, "purge entries");
}

static void run_purge(struct sqlite_log *log, void *request)
{
    struct sql_purge *purge = request;
    ASSERT(purge->from_rev <= purge->to_rev);
    ASSERT(IMPLIES(purge->from_rev < purge->to_rev, purge->to_rev <= purge->compact_rev));
    purge->rows_deleted = 0;
    purge->err = transaction_begin(log);
    if (purge->err == ERR_OK) {
        purge->err = transaction_end(log, purge_write(log, purge));
    }
}

sqlite_run_fn *const sqlite_runs[SQL_KIND_COUNT] = {
    [SQL_KIND_APPEND] = run_append,   [SQL_KIND_LOCK] = run_lock,
    [SQL_KIND_PROBE] = run_probe,     [SQL_KIND_TAIL] = run_tail,
    [SQL_KIND_VERDICT] = run_verdict, [SQL_KIND_KEEPALIVE] = run_keepalive,
    [SQL_KIND_UPKEEP] = run_upkeep,   [SQL_KIND_PURGE] = run_purge,
};
