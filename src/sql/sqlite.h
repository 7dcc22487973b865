/*
 * The SQLite engine's insides. Private to sql/sqlite*.c.
 *
 * Two threads: the store's ("home") fills in requests and gets completions; the engine's own
 * ("there") is a core/loop that alone touches the connection. A job travels home -> there -> home
 * as a post, and one job of each kind exists.
 */
#ifndef SQL_SQLITE_H
#define SQL_SQLITE_H

#include <sqlite3.h>
#include <sys/types.h>

#include "sql/request.h"
#include "sql/url.h"

enum sqlite_stmt {
    STMT_BEGIN,
    STMT_COMMIT,
    STMT_ROLLBACK,
    STMT_HEAD,
    STMT_ENTRY_PUT,
    STMT_ENTRY_WRITER,
    STMT_ENTRY_TAIL,
    STMT_ENTRY_PURGE,
    STMT_ROW_PUT,
    STMT_ROW_RANGE,
    STMT_ROW_PURGE_REPLACED,
    STMT_ROW_PURGE_TOMBSTONES,
    STMT_DELETED_BELOW,
    STMT_LEASE_PUT,
    STMT_LEASE_DELETE,
    STMT_LEASE_EXPIRE,
    STMT_LEASE_TOUCH,
    STMT_LEASES,
    STMT_MEMBER_PUT,
    STMT_MEMBER_DELETE,
    STMT_MEMBERS,
    STMT_DUTY,
    STMT_DUTY_SET,
    STMT_BYTES,
    STMT_COUNT
};

struct sqlite_log;
/* Runs there; fills in the request. */
typedef void sqlite_run_fn(struct sqlite_log *log, void *request);

struct sqlite_job {
    struct loop_post there;
    struct loop_post home;
    struct sqlite_log *log;
    enum sql_kind kind;
    bool busy; /* Home thread. */
    void *request;
    struct sqlite_job *next; /* Deferred behind a load. */
};

/*
 *   IDLE --begin--> LEASES --> ROWS (repeats) --> ENTRIES (repeats) --> IDLE
 * Each arrow is one chunk, handed home and answered; other jobs wait until IDLE.
 */
enum sqlite_load_state { LOAD_IDLE, LOAD_LEASES, LOAD_ROWS, LOAD_ENTRIES };

struct sqlite_load {
    enum sqlite_load_state state;
    struct loop_post to_home;
    struct loop_post to_there;
    sqlite3_stmt *stmt; /* The one being stepped, or NULL. */
    struct arena arena; /* Holds the chunk. */
    enum sqlite_load_state chunk_kind;
    uint32_t chunk_count;
    void *chunk;
    enum err err;
    bool stop; /* Close was asked for. */
};

struct sqlite_log {
    struct sql_log log;
    struct loop *home;
    char *path;
    char *prefix;

    /* Home thread. */
    bool opened;
    bool closing;
    bool locked;
    uint64_t locked_until_ns;
    struct sqlite_job jobs[SQL_KIND_COUNT];
    struct loop_post open_there;
    struct loop_post open_home;
    struct loop_post close_there;
    struct loop_post close_home;
    void (*closed)(void *arg);
    void *closed_arg;

    /* There. */
    struct loop own;
    uv_thread_t thread;
    sqlite3 *db; /* NULL until opened well. */
    sqlite3_stmt *stmts[STMT_COUNT];
    struct sqlite_load load;
    struct sqlite_job *deferred;
    struct sqlite_job **deferred_tail;
    bool close_deferred;
    uint64_t error_count; /* Errors since the last commit that went well ... */
    int error_code;       /* ... and the code of the last one. */
    struct {
        char *path;
        dev_t device;
        ino_t inode;
    } files[2]; /* The file and its -wal, as they were opened: which the paths must still name. */
    bool has_moved; /* They do not. */
    enum err open_err;
    char why[512];
};

/* sqlite_open.c. There. Opens, checks, creates; fills in |open_err| and |why|. */
void sqlite_open(struct sqlite_log *log);
/* Finalizes and closes; also after a failed open. */
void sqlite_close(struct sqlite_log *log);

/* sqlite_run.c: one per kind, load excepted. There. */
extern sqlite_run_fn *const sqlite_runs[SQL_KIND_COUNT];
/* The texts of the prepared statements, with '~' for the prefix. */
extern const char *const sqlite_texts[STMT_COUNT];
/* Log the connection's error under |what|, unless the one before was the same and nothing was
 * committed since; returns ERR_NO_SPACE or ERR_DATABASE. */
enum err sqlite_error(struct sqlite_log *log, const char *what);
/* The head, as of now. ERR_HISTORY_LOST without a cluster row. */
MUST_CHECK enum err sqlite_head_read(struct sqlite_log *log, struct sql_head *head,
                                     uint64_t *cluster_id);
/* The current row of a statement as an entry without rows; slices copied to |arena|. */
MUST_CHECK enum err sqlite_entry_take(struct sqlite_log *log, sqlite3_stmt *stmt,
                                      struct arena *arena, struct sql_entry *entry);
MUST_CHECK enum err sqlite_row_take(sqlite3_stmt *stmt, struct arena *arena, struct sql_row *row);
void sqlite_lease_take(sqlite3_stmt *stmt, struct sql_lease *lease);

/* sqlite_load.c. There. */
void sqlite_load_begin(struct sqlite_log *log);
/* Ends it soon with ERR_STOPPED. */
void sqlite_load_stop(struct sqlite_log *log);
/* sqlite.c: the load has ended; |err| of the request is set. There. */
void sqlite_load_ended(struct sqlite_log *log);

#endif
