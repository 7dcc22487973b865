/*
 * The PostgreSQL engine's insides. Private to sql/postgres.c and sql/pg_*.c. All on the store's
 * thread: nothing here blocks.
 *
 *   postgres.c       the table of functions, opening, closing
 *   pg_conn.c        one connection: hosts, connecting, sending, answers, reconnecting
 *   pg_setup.c       what a new session must pass before it is used; the schema
 *   pg_value.c       binary parameters and results
 *   pg_statements.c  the texts
 *   pg_append.c      append, lock, verdict
 *   pg_read.c        heads, probe, tail
 *   pg_upkeep.c      keep-alive, upkeep, purge
 *   pg_load.c        everything at start
 */
#ifndef SQL_POSTGRES_H
#define SQL_POSTGRES_H

#include <libpq-fe.h>

#include "core/buf.h"
#include "core/sm.h"
#include "sql/request.h"

/* ---- values --------------------------------------------------------------------------------- */

enum { PG_PARAMS_MAX = 40 };

/* Parameters of one statement in binary form. Zero-initialised is valid. */
struct pg_params {
    struct buf bytes;
    uint32_t count;
    struct {
        size_t offset;
        int size; /* -1: NULL. */
    } items[PG_PARAMS_MAX];
};
void pg_params_clear(struct pg_params *params);
void pg_params_fini(struct pg_params *params);
void pg_put_i64(struct pg_params *params, int64_t value);
void pg_put_bool(struct pg_params *params, bool value);
void pg_put_bytes(struct pg_params *params, struct slice bytes);
void pg_put_null(struct pg_params *params);
/* An array is begun, filled with exactly |count| items, and ended. */
enum pg_array { PG_ARRAY_I64, PG_ARRAY_I32, PG_ARRAY_BOOL, PG_ARRAY_BYTES };
void pg_array_begin(struct pg_params *params, enum pg_array kind, uint32_t count);
void pg_array_i64(struct pg_params *params, int64_t value);
void pg_array_i32(struct pg_params *params, int32_t value);
void pg_array_bool(struct pg_params *params, bool value);
void pg_array_bytes(struct pg_params *params, struct slice bytes);
void pg_array_end(struct pg_params *params);

/* Fields of a binary result. A field that is NULL or of another size is 0 or empty. */
int64_t pg_get_i64(const PGresult *rows, int row, int column);
struct slice pg_get_bytes(const PGresult *rows, int row, int column);
MUST_CHECK bool pg_get_fixed(const PGresult *rows, int row, int column, void *bytes, size_t size);
void pg_get_text(const PGresult *rows, int row, int column, char *text, size_t text_size);

/* ---- statements ----------------------------------------------------------------------------- */

enum pg_stmt {
    PG_STMT_APPEND,
    PG_STMT_APPEND_LEASES,
    PG_STMT_APPEND_ROWS,
    PG_STMT_LEASE_PUT,
    PG_STMT_LEASE_DELETE,
    PG_STMT_LEASE_EXPIRE,
    PG_STMT_HEAD,
    PG_STMT_TAIL,
    PG_STMT_VERDICT,
    PG_STMT_KEEPALIVE,
    PG_STMT_UPKEEP,
    PG_STMT_PURGE,
    PG_STMT_LOAD_LEASES,
    PG_STMT_LOAD_ROWS,
    PG_STMT_LOAD_ENTRIES,
    PG_STMT_COUNT
};
struct pg_stmt_text {
    const char *name;
    const char *text;  /* '~': the tables' prefix; '^': the expression of the live identity. */
    const char *types; /* One letter per parameter: see pg_stmt_types. */
};
extern const struct pg_stmt_text pg_stmt_texts[PG_STMT_COUNT];
/* Fills |types|; returns how many. */
int pg_stmt_types(enum pg_stmt stmt, Oid types[PG_PARAMS_MAX]);
/* |text| with both placeholders replaced. Caller frees by mem_free. */
char *pg_expand(const char *text, const char *prefix, const char *identity);
/* The live identity: by the system identifier and the timeline, or, where the role may not ask
 * for the first, by the database's oid and the timeline. Both fail on a standby. */
extern const char *const pg_identity_full;
extern const char *const pg_identity_poor;

/* Columns that heads, entries and rows share in one answer. */
enum { PG_COL_KIND = 0, PG_COL_A = 1, PG_COL_W = 10, PG_COL_T = 14, PG_COL_U = 15 };
enum { PG_COL_STARTED = PG_COL_A + 7 }; /* Of a head: when the server was started. */
enum { PG_KIND_HEAD = 0, PG_KIND_ENTRY = 1, PG_KIND_ROW = 2, PG_KIND_WRITER = 3 };

/* ---- connections ---------------------------------------------------------------------------- */

enum pg_role {
    PG_ROLE_APPEND, /* append, lock, verdict */
    PG_ROLE_PROBE,
    PG_ROLE_TAIL,
    PG_ROLE_UPKEEP, /* keepalive, upkeep, purge */
    PG_ROLE_LISTEN,
    PG_ROLE_LOAD, /* Only while a load runs. */
    PG_ROLE_COUNT
};

/*
 *     OFF --start--> RESOLVING --> CONNECTING --> SETUP --> READY <--> BUSY
 *      ^                 |             |            |         |         |
 *      |                 +------ next host, else DOWN --------+---------+
 *      +--- shut, from any                 ^  | back-off
 *                                          +--+ RESOLVING
 *
 * SETUP  session settings, identity, schema at the first start, one committed lock of the cluster
 *        row: before that, nothing read here may be used
 * BUSY   an op owns the connection, perhaps over several statements of one transaction
 */
enum pg_state {
    PG_OFF,
    PG_RESOLVING,
    PG_CONNECTING,
    PG_SETUP,
    PG_READY,
    PG_BUSY,
    PG_DOWN,
    PG_STATE_COUNT
};

struct pg_log;
struct pg_conn;

/* What came of one statement (or of several in one string). */
struct pg_reply {
    bool lost;      /* The connection is gone. */
    bool stopped;   /* ... because the log is closing. */
    bool executing; /* Sent for execution, whole or in part; false: only prepared, or less. */
    bool ok;        /* No error, and the server is ready for more. */
    char sqlstate[6];
    uint32_t warnings;
    const PGresult *rows; /* The last result without an error, or NULL. Borrowed for the call. */
    const char *message;  /* Of an error or a loss. */
};
typedef void pg_reply_fn(struct pg_conn *conn, const struct pg_reply *reply);
/* One row of a statement in single-row mode. */
typedef void pg_row_fn(struct pg_conn *conn, const PGresult *row);

/* A request on its way. One of each kind; |request| NULL: free. */
struct pg_op {
    struct pg_log *log;
    enum sql_kind kind;
    void *request;
    void (*start)(struct pg_conn *conn, struct pg_op *op);
    struct pg_op *next;    /* In the connection's queue. */
    struct loop_post post; /* For completions that must not run inside the call. */
};

struct pg_poll; /* A uv handle, which outlives the connection until uv lets it go. */

struct pg_conn {
    struct pg_log *log;
    enum pg_role role;
    struct sm sm;
    PGconn *pg;
    struct pg_poll *poll;
    int poll_events;
    struct timer timer; /* Connect time-out, answer's time-out, or back-off: one at a time. */
    uint32_t backoff_ms;
    uint64_t ready_ns; /* When it last became READY. */

    /* Which host is tried. */
    uint32_t host_first;
    uint32_t host_tried;
    struct addrinfo *addresses; /* Of the host; NULL: it needs none. */
    struct addrinfo *address;   /* The next one to try. */
    struct pg_resolve *resolve;

    /* The statement in flight. */
    struct pg_params params;
    bool waiting;
    bool preparing;
    bool executing;
    bool single_row;
    enum pg_stmt stmt;
    pg_reply_fn *on_reply;
    pg_row_fn *on_row;
    PGresult *rows;
    char sqlstate[6];
    char message[256];
    uint32_t warnings;
    bool prepared[PG_STMT_COUNT];
    bool stale; /* Its statements cannot be used: it ends with the op. */

    struct pg_op *op; /* Owns the connection while BUSY. */
    struct pg_op *queue;
    bool locked;        /* READY inside the transaction that a lock opened. */
    uint32_t step;      /* Of the op or the setup. */
    int64_t seen_start; /* Of the server, in the transaction that is to prove it. */
    enum err down_err;  /* What requests get while it is down. */
    char last_error[256];
    uint64_t quiet_until_ns;
    uint32_t lines; /* Logged since. */
};

struct pg_host {
    char *name;
    char *address; /* hostaddr, or NULL. */
    char *port;
};

struct pg_log {
    struct sql_log log;
    struct loop *loop;
    char *prefix;
    char *shown_url;
    bool pooler;
    uint32_t connect_timeout_ms;
    uint32_t statement_timeout_ms;
    uint32_t open_timeout_ms;

    /* Of the URL: parallel arrays for libpq, NULL-terminated, host, hostaddr and port left out. */
    char **keywords;
    char **values;
    uint32_t option_count;
    struct pg_host *hosts;
    uint32_t host_count;
    uint32_t host_good; /* The last one that worked: tried first. */

    struct pg_conn conns[PG_ROLE_COUNT];
    struct pg_op ops[SQL_KIND_COUNT];
    struct pg_op unlock_op; /* Its |request| is itself while it runs. */
    char *texts[PG_STMT_COUNT];
    bool identity_is_poor;
    char identity[SQL_IDENTITY_SIZE]; /* Reported by all live connections; "" none yet. */
    int64_t proven_start; /* Behind a pooler: the run of the server that committed a lock. */
    struct rng rng;

    bool is_open;        /* |opened| was called, with ERR_OK. */
    bool open_answered;  /* |opened| was called, or the log is closing. */
    bool schema_checked; /* Once, by the append connection. */
    bool reported;       /* The server's settings were logged. */
    enum err open_err;   /* Opening has failed; told soon. */
    struct timer open_timer;
    char why[512];

    bool closing;
    uint32_t handle_count; /* uv handles and look-ups that are not yet let go. */
    void (*closed)(void *arg);
    void *closed_arg;
    struct loop_post close_post;

    /* Upkeep's memory between calls. */
    int64_t database_bytes;
    uint64_t bytes_due_ns;
    uint64_t snapshot_due_ns;
    char snapshot_xmin[24];
    uint64_t snapshot_since_ns;
    int64_t oldest_snapshot_ms;
    uint64_t notify_off_until_ns; /* The queue of notifications was full. */

    struct pg_append_state {
        enum sql_outcome outcome;
        enum err err;
        bool is_explicit; /* In a transaction of its own: BEGIN ... COMMIT. */
        bool in_order;    /* Effects one by one. */
        bool without_notify;
        uint32_t row_next;
        uint32_t effect_next;
    } append;
    struct pg_load_state {
        struct arena arena;
        void *chunk;
        uint32_t chunk_count;
        enum err err;
    } load;
};

/* pg_conn.c */
void pg_conn_init(struct pg_log *log, enum pg_role role);
/* OFF: begin to connect. */
void pg_conn_start(struct pg_conn *conn);
/* To OFF from any state; an op in flight gets a lost reply first. */
void pg_conn_shut(struct pg_conn *conn, enum err err);
/* Run |op| now, when the connection is free, or when it is up; or fail it soon. |is_first|: before
 * all that wait, because it ends the transaction that is open there. */
void pg_conn_submit(struct pg_conn *conn, struct pg_op *op, bool is_first);
/* Complete |op|, which no connection has, soon, as its request says. */
void pg_op_done_later(struct pg_op *op);
/* Send one statement with conn->params, or a string of statements without parameters. */
void pg_conn_execute(struct pg_conn *conn, enum pg_stmt stmt, pg_reply_fn *on_reply);
void pg_conn_query(struct pg_conn *conn, const char *text, pg_reply_fn *on_reply);
/* Like pg_conn_execute, row by row. */
void pg_conn_stream(struct pg_conn *conn, enum pg_stmt stmt, pg_row_fn *on_row,
                    pg_reply_fn *on_reply);
/* The op is through: the connection is free, |done| runs. The last call of a reply. */
void pg_conn_finish(struct pg_conn *conn);
/* The session can't be used: close it, try again (the next host; after a while). */
void pg_conn_drop(struct pg_conn *conn, const char *why);
/* Setup is through. */
void pg_conn_ready(struct pg_conn *conn);
/* A reply's error in the log, once per statement; not for losses while closing. */
void pg_conn_report(struct pg_conn *conn, const char *what, const struct pg_reply *reply);
/* A uv handle or look-up of the log has been let go. */
void pg_log_release(struct pg_log *log);

/* pg_setup.c */
void pg_setup_start(struct pg_conn *conn);
/* Text that begins a transaction with all that a session behind a pooler lacks. Caller frees. */
char *pg_begin_text(const struct pg_log *log, const char *behind);

/* postgres.c */
void pg_log_conn_ready(struct pg_conn *conn);
/* Opening has failed for good; no-op once open. */
void pg_log_open_fail(struct pg_log *log, enum err err, const char *why);
/* ERR_* for a failed read or upkeep statement. */
enum err pg_reply_err(const struct pg_reply *reply);

/* The |start| of each kind. */
void pg_append_start(struct pg_conn *conn, struct pg_op *op);
void pg_lock_start(struct pg_conn *conn, struct pg_op *op);
void pg_unlock_start(struct pg_conn *conn, struct pg_op *op);
void pg_verdict_start(struct pg_conn *conn, struct pg_op *op);
void pg_probe_start(struct pg_conn *conn, struct pg_op *op);
void pg_tail_start(struct pg_conn *conn, struct pg_op *op);
void pg_keepalive_start(struct pg_conn *conn, struct pg_op *op);
void pg_upkeep_start(struct pg_conn *conn, struct pg_op *op);
void pg_purge_start(struct pg_conn *conn, struct pg_op *op);
void pg_load_start(struct pg_conn *conn, struct pg_op *op);

/* pg_read.c: rows of PG_STMT_HEAD and PG_STMT_TAIL. */
MUST_CHECK enum err pg_head_take(const PGresult *rows, int row, struct sql_head *head);
MUST_CHECK enum err pg_entry_take(struct pg_log *log, const PGresult *rows, int row,
                                  struct arena *arena, struct sql_entry *entry);
MUST_CHECK enum err pg_row_take(const PGresult *rows, int row, struct arena *arena,
                                struct sql_row *taken);
MUST_CHECK enum err pg_tail_take(struct pg_log *log, const PGresult *rows, struct sql_tail *tail);
void pg_put_tail(struct pg_params *params, const struct sql_tail *tail);
/* A pooler's sessions outlive the server, and a server that was started again shows what it has
 * not yet replicated. True when no lock was committed on the server that gave |rows|, whose first
 * is a head: they must not be used. Notes the server for pg_prove. */
bool pg_is_unproven(struct pg_conn *conn, const PGresult *rows);
/* The answer to the COMMIT of a lock of the cluster row: ERR_OK when it is clean, and the server
 * that was noted is proven; else the session is dropped. */
MUST_CHECK enum err pg_prove(struct pg_conn *conn, const struct pg_reply *reply);
void pg_put_fence(struct pg_params *params, const struct sql_fence *fence);

#endif
