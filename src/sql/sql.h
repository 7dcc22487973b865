/*
 * The log in SQL: what store asks of a database, as one table of functions.
 *
 * SQLite, PostgreSQL and the simulation's fake log fill it in. Requests are embedded by the caller;
 * a completion (|done|) runs later, on the store's thread, exactly once, never inside the call that
 * started it, and is the last thing that touches the request. At most one request of each kind is
 * in flight (append, lock, probe, tail, verdict, keepalive, upkeep, purge, load: one each), unless
 * a function says otherwise.
 *
 * The backend owns connections, statements, sessions, time-outs and reconnecting; it never retries
 * an append, never cancels a commit, and never decides what an outcome means: store does.
 *
 * Tables: see docs/architecture.md and sql/schema.h.
 */
#ifndef SQL_SQL_H
#define SQL_SQL_H

#include "core/arena.h"
#include "core/clock.h"
#include "core/err.h"
#include "core/hash.h"
#include "core/loop.h"
#include "core/slice.h"

enum { SQL_SCHEMA_VERSION = 1, SQL_IDENTITY_SIZE = 64, SQL_ERA_SIZE = 16, SQL_WRITER_SIZE = 16 };

/* What every append, probe, keep-alive and purge requires in its own statement. */
struct sql_fence {
    uint8_t era[SQL_ERA_SIZE];
    uint64_t epoch;
    char identity[SQL_IDENTITY_SIZE]; /* Sanctioned identity, NUL-terminated text; "" on SQLite. */
};

/* Who made an entry: a process incarnation and its own counter. Never reused. */
struct sql_writer {
    uint8_t incarnation[SQL_WRITER_SIZE];
    uint64_t counter;
};

/* A row of kv. Slices are borrowed from the request's owner (append) or its arena (tail, load). */
struct sql_row {
    int64_t revision;
    int32_t sub;
    bool is_delete;
    struct slice key;
    struct slice value;
    int64_t create_rev;
    int64_t version;
    int64_t lease;
    int64_t prev_rev; /* The row of the same key that this one replaces; 0 = none. A compaction */
    int32_t prev_sub; /* finds the dead rows by it, with the primary key alone. */
    uint64_t sum;     /* XXH3-64 of all the above: sql_row_sum. */
};

/* A row of lease. */
struct sql_lease {
    int64_t id;
    int64_t ttl_s;
    uint64_t grant_seq;
    uint64_t sum;     /* XXH3-64 of all the above: sql_lease_sum. */
    uint64_t counter; /* Begins at |grant_seq|; moved by keep-alives, outside of every entry. */
};

/* Ordered effects that are not keys, in the entry's |meta| bytes as well as in their own tables. */
enum sql_effect_kind {
    SQL_LEASE_PUT = 1,    /* id, ttl: counter starts at the entry's seq. */
    SQL_LEASE_DELETE = 2, /* id, any counter. */
    SQL_LEASE_EXPIRE = 3, /* id; the row must still have |counter|, else the append fails whole. */
    SQL_COMPACT = 4,      /* compact revision = |id|. */
};
struct sql_effect {
    enum sql_effect_kind kind;
    int64_t id;
    int64_t ttl_s;
    uint64_t counter;
};

struct sql_entry {
    uint64_t seq;
    struct sql_writer writer;
    uint64_t epoch;
    int64_t first_rev; /* First revision of its rows; 0 without rows. */
    int64_t last_rev;  /* The store's revision after it. */
    uint32_t row_count;
    uint64_t byte_count;      /* Keys and values, for budgets. */
    int64_t compact_rev;      /* After it. */
    int64_t auth_rev;         /* After it. */
    struct hash128 rows_hash; /* Over the rows' sums: lets headers be checked without rows. */
    struct hash128 chain;     /* Over the previous chain and every field above: sql_entry_chain. */
    const struct sql_effect *effects;
    uint32_t effect_count;
    const struct sql_row *rows;
};

/* Pure; used by store before an append and by whoever checks rows. (sql/entry.c) */
uint64_t sql_row_sum(const struct sql_row *row);
uint64_t sql_lease_sum(const struct sql_lease *lease);
/* The row that SQL_LEASE_PUT |effect| of entry |seq| writes. */
struct sql_lease sql_lease_granted(const struct sql_effect *effect, uint64_t seq);
struct hash128 sql_rows_hash(const struct sql_row *rows, uint32_t count);
struct hash128 sql_entry_chain(const struct hash128 *previous, const struct sql_entry *entry);
/* Effects <-> the bytes of entry.meta. Encoding appends to |buf|; decoding allocates in |arena|.
 * ERR_CHAIN_BROKEN when the bytes are not an encoding. */
struct buf;
void sql_effects_encode(const struct sql_effect *effects, uint32_t count, struct buf *buf);
MUST_CHECK enum err sql_effects_decode(struct slice meta, struct arena *arena,
                                       const struct sql_effect **effects, uint32_t *count);

/* The newest entry and the cluster row, read in one statement. */
struct sql_head {
    uint64_t seq; /* 0 on an empty log. */
    struct hash128 chain;
    int64_t revision;
    int64_t compact_rev;
    int64_t deleted_below; /* Rows of revisions below it may be gone. */
    uint32_t schema_version;
    struct sql_fence fence;                /* As stored. */
    char live_identity[SQL_IDENTITY_SIZE]; /* As the server says now. */
};

enum sql_outcome {
    SQL_COMMITTED, /* Durable, without a warning. */
    SQL_LOST,      /* The condition did not hold (0 rows), or 40001 and its kin: nothing written by
                      THIS statement; an earlier copy of it may have been. */
    SQL_MOVED,     /* A SQL_LEASE_EXPIRE met another counter: rolled back whole. */
    SQL_REFUSED,   /* Certainly not durable: a whitelisted error, or never sent: |err|. */
    SQL_IN_DOUBT,  /* Sent, no trustworthy answer: only the log itself knows. */
};

struct sql_append {
    struct sql_fence fence;
    uint64_t expected_seq; /* The entry goes to expected_seq + 1, if the newest is still this ... */
    struct hash128 expected_chain; /* ... with this chain. */
    const struct sql_entry *entry; /* Borrowed until |done|. */
    bool locked;                   /* Inside the transaction that |lock| opened; ends it. */
    bool fresh_connection;         /* Doubt: not on the connection that lost the answer. */
    enum sql_outcome outcome;
    enum err err; /* With SQL_REFUSED: NO_SPACE, NO_LEADER (not connected), DATABASE, ... */
    void (*done)(struct sql_append *append);
    void *backend; /* Private to the backend. */
};

/* Read requests fail as a whole: |err| = ERR_OK or ERR_NO_LEADER (not reachable), ERR_DATABASE,
 * ERR_HISTORY_LOST (the cluster row is gone), ERR_STOPPED (closing), ERR_REQUEST_TOO_LARGE (the
 * answer does not fit the arena). */
struct sql_probe {
    struct sql_head head;
    enum err err;
    void (*done)(struct sql_probe *probe);
    void *backend;
};

/* Entries behind |after_seq| and their rows, in one statement, at most |entries_max| and about
 * |bytes_max| bytes but always one whole entry if there is one. Seqs are as found, and |row_count|
 * is the number of rows found: store checks density, sums, the rows' hash and the chain (which
 * covers the promised row count). Rows below head.deleted_below may be missing: look at it first.
 * ERR_CHAIN_BROKEN when an entry can't even be decoded (logged with its seq). */
struct sql_tail {
    uint64_t after_seq;
    uint32_t entries_max;
    uint64_t bytes_max;
    struct arena *arena; /* The caller's; holds the answer. */
    struct sql_head head;
    struct sql_entry *entries;
    uint32_t entry_count;
    enum err err;
    void (*done)(struct sql_tail *tail);
    void *backend;
};

/* Take the cluster row's lock in a new transaction on the append connection, and pull what is
 * behind |tail.after_seq| inside it. Ends by append{locked} or unlock. The backend gives it up by
 * itself after one second (the server's idle-in-transaction time-out): append then is LOST or
 * REFUSED; either way nothing was written. */
struct sql_lock {
    struct sql_tail tail;
    enum err err;
    void (*done)(struct sql_lock *lock);
    void *backend;
};

/* Doubt: the writer of entry |seq|, read under a committed row lock of the cluster row, on a
 * connection made (or checked) after the doubt arose; valid only with err == ERR_OK, which says
 * that the reading transaction's COMMIT was answered without a warning. */
struct sql_verdict {
    uint64_t seq;
    struct sql_head head;
    bool found;
    struct sql_writer writer;
    enum err err;
    void (*done)(struct sql_verdict *verdict);
    void *backend;
};

/* counter = counter + 1 for each known lease, rows locked in order of id; committed synchronously,
 * under the fence. */
struct sql_keepalive_item {
    int64_t id;
    bool found;       /* Out. False: no such lease. */
    uint64_t counter; /* Out, after the increment. */
};
struct sql_keepalive {
    struct sql_fence fence;
    struct sql_keepalive_item *items; /* Sorted by id, distinct. */
    uint32_t count;
    enum err err; /* ERR_LEADER_CHANGED when the fence did not hold. */
    void (*done)(struct sql_keepalive *keepalive);
    void *backend;
};

enum { SQL_MEMBER_URLS_SIZE = 1024, SQL_MEMBER_NAME_SIZE = 256 };
struct sql_member {
    uint64_t id;
    char name[SQL_MEMBER_NAME_SIZE];
    char client_urls[SQL_MEMBER_URLS_SIZE]; /* Comma-separated. */
    char version[32];
    uint64_t applied_seq;
    int64_t pin_rev; /* Rows at or above it must stay; INT64_MAX = no pin. */
    int64_t age_ms;  /* Out: since its last heartbeat, by the database's clock. */
};

/* Once or twice a second: heartbeat, duty, the others, all lease counters: one round trip.
 * Duty is a row {owner, term, expiry by the database's clock}: taken when |want_duty| and it is
 * free, expired or ours; the term goes up by one with each new owner. */
struct sql_upkeep {
    struct sql_member self;
    bool want_duty;
    bool leave;          /* Graceful stop: remove our member row, release the duty. */
    uint32_t duty_ms;    /* How long the duty is taken for. */
    struct arena *arena; /* Holds the answer. */
    uint64_t duty_owner; /* Member id, 0 = nobody. */
    uint64_t duty_term;
    struct sql_member *members; /* Heartbeats younger than 10 s, by id. */
    uint32_t member_count;
    struct sql_lease *leases; /* By id. */
    uint32_t lease_count;
    int64_t database_bytes;     /* Size on disk as the database reports it. */
    int64_t oldest_snapshot_ms; /* Age of the oldest open snapshot of the server; 0 unknown. */
    enum err err;
    void (*done)(struct sql_upkeep *upkeep);
    void *backend;
};

/* Delete the rows that compaction to |compact_rev| made dead among revisions [from, to): rows that
 * a row in (from, to] replaces, and tombstones; then set deleted_below = to. Under the fence and
 * compact_revision >= |compact_rev| (else ERR_LEADER_CHANGED). Also entries with seq <
 * |entries_below|, oldest first, at most 100,000 a call, never the newest. to_rev <= compact_rev:
 * the rows of compact_rev itself stay, tombstones included. At most |rows_max| rows, 0: all; in the
 * order of what replaces them, tombstones last. When so many were deleted, there may be more: ask
 * again with the same revisions. */
struct sql_purge {
    struct sql_fence fence;
    int64_t compact_rev;
    int64_t from_rev;
    int64_t to_rev; /* == from_rev: entries only. */
    uint64_t entries_below;
    uint32_t rows_max;
    uint64_t rows_deleted; /* Out. By this one or, in the same moment, by another replica's. */
    enum err err;
    void (*done)(struct sql_purge *purge);
    void *backend;
};

/* Everything, in one repeatable-read transaction: cluster row, leases, then kv rows in (revision,
 * sub) order in chunks, then the retained entries in order of seq without their rows. */
struct sql_load {
    struct sql_head head; /* Valid in the callbacks. */
    uint64_t cluster_id;
    /* Borrowed for the call. Any may return an error, which ends the load with it. */
    enum err (*on_leases)(struct sql_load *load, const struct sql_lease *leases, uint32_t count);
    enum err (*on_rows)(struct sql_load *load, const struct sql_row *rows, uint32_t count);
    enum err (*on_entries)(struct sql_load *load, const struct sql_entry *entries, uint32_t count);
    enum err err;
    void (*done)(struct sql_load *load);
    void *backend;
};

struct sql_log;
struct sql_log_ops {
    const char *name; /* "sqlite", "postgres", "fake" */
    /* Connect, create or check the schema, check settings; then |opened| of the config, once. */
    void (*open)(struct sql_log *log);
    void (*append)(struct sql_log *log, struct sql_append *append);
    void (*lock)(struct sql_log *log, struct sql_lock *lock);
    void (*unlock)(struct sql_log *log); /* Roll back, no completion. */
    void (*probe)(struct sql_log *log, struct sql_probe *probe);
    void (*tail)(struct sql_log *log, struct sql_tail *tail);
    void (*verdict)(struct sql_log *log, struct sql_verdict *verdict);
    void (*keepalive)(struct sql_log *log, struct sql_keepalive *keepalive);
    void (*upkeep)(struct sql_log *log, struct sql_upkeep *upkeep);
    void (*purge)(struct sql_log *log, struct sql_purge *purge);
    void (*load)(struct sql_log *log, struct sql_load *load);
    /* Every request still in flight completes (IN_DOUBT, ERR_STOPPED) before |closed| runs. */
    void (*close)(struct sql_log *log, void (*closed)(void *arg), void *arg);
    void (*free)(struct sql_log *log);
};

/* Callbacks into store; on its thread. */
struct sql_events {
    /* After open: ERR_OK, or why not, with one clear line (|why| borrowed): ERR_SCHEMA_TOO_NEW,
     * ERR_CONFIG (wrong database, not writable, refused settings), ERR_NO_LEADER (unreachable). */
    void (*opened)(void *arg, enum err err, const char *why);
    /* Somebody wrote: only a hint, may be early, late, or never come. */
    void (*hint)(void *arg, uint64_t seq);
    void *arg;
};

struct sql_log {
    const struct sql_log_ops *ops;
    struct sql_events events; /* Filled in by store before open. */
    /* SQLite: nobody else can write, so reads need no probe, and doubt cannot be. */
    bool exclusive;
};

/* Times: 0 is a default. */
struct sql_config {
    const char *url;   /* Already chosen by --datastore. */
    struct loop *loop; /* The store's loop: sockets live and completions run there. */
    uint32_t connect_timeout_ms;
    uint32_t statement_timeout_ms;
    uint32_t open_timeout_ms;  /* When |opened| says that nobody answers. */
    const char *tables_prefix; /* "" by default. */
    bool pooler;               /* --datastore-pooler: a transaction pooler is in between. */
};

/* Makes the backend that |config->url| names: sqlite://PATH, postgres://… or postgresql://….
 * ERR_CONFIG with one clear line (never a password) in |why| for anything else. Connects nothing.
 * Owner frees by ops->close, then ops->free. */
MUST_CHECK enum err sql_log_new(const struct sql_config *config, struct sql_log **log, char *why,
                                size_t why_size);
/* |url| with its password replaced, for logs; into |out|. */
void sql_url_redacted(const char *url, char *out, size_t out_size);

#endif
