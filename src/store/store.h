/*
 * Order, durability, visibility: the one writer of the cache and the only user of the log.
 *
 * A passive state machine: its owner (the server's store thread, or the simulation) calls in,
 * runs its timers, and calls store_turn at the end of every turn of its loop. No thread, socket,
 * time or randomness of its own.
 *
 *   store.c       life: open, load, ready, stop; what the others share
 *   load.c        everything from the log at start, checked; again when too far behind
 *   check.c       validity of requests: pure, called by the asker
 *   writer.c      admission, the queue, deadlines, answers
 *   eval.c        a request evaluated against a private edit, into rows and effects
 *   txn.c         etcd's transactions
 *   range.c       Range on any snapshot: also used by io threads
 *   sort.c        its order by other targets than the key
 *   batch.c       the batch machine: collect, evaluate, append, lock, answer
 *   doubt.c       the batch machine when the answer is unclear or negative
 *   apply.c       the only door into the cache
 *   tail.c        other replicas' entries: poll, hint, check
 *   read_index.c  linearizable reads: one probe for all that wait
 *   leases.c      keep-alives, expiry by the owner of the duty, TimeToLive
 *   upkeep.c      heartbeat, duty, members, purge of dead rows
 *   health.c      reachable, away, half-open, fenced
 *   counters.c    what /metrics tells of it all
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "cache/cache.h"
#include "core/arena.h"
#include "core/clock.h"
#include "core/err.h"
#include "core/loop.h"
#include "sql/sql.h"

struct store;
struct lease_left; /* lease/lease.h */

/* ---- what is asked: etcd's requests without protobuf ---------------------------------------- */

enum store_sort_order { STORE_SORT_NONE, STORE_SORT_ASCEND, STORE_SORT_DESCEND };
enum store_sort_target {
    STORE_SORT_KEY,
    STORE_SORT_VERSION,
    STORE_SORT_CREATE,
    STORE_SORT_MOD,
    STORE_SORT_VALUE
};

struct store_range {
    struct slice key;
    struct slice range_end;
    int64_t limit;
    int64_t revision;
    enum store_sort_order sort_order;
    enum store_sort_target sort_target;
    bool serializable;
    bool keys_only;
    bool count_only;
    int64_t min_mod_rev;
    int64_t max_mod_rev;
    int64_t min_create_rev;
    int64_t max_create_rev;
};
struct store_put {
    struct slice key;
    struct slice value;
    int64_t lease;
    bool prev_kv;
    bool ignore_value;
    bool ignore_lease;
};
struct store_delete {
    struct slice key;
    struct slice range_end;
    bool prev_kv;
};
enum store_compare_result { STORE_EQUAL, STORE_GREATER, STORE_LESS, STORE_NOT_EQUAL };
enum store_compare_target { STORE_VERSION, STORE_CREATE, STORE_MOD, STORE_VALUE, STORE_LEASE };
struct store_compare {
    enum store_compare_result result;
    enum store_compare_target target;
    struct slice key;
    struct slice range_end;
    int64_t number;     /* VERSION, CREATE, MOD, LEASE. */
    struct slice value; /* VALUE. */
};
struct store_txn;
struct store_op {
    /* NONE: an empty oneof; store_txn_check refuses it. */
    enum { STORE_OP_RANGE, STORE_OP_PUT, STORE_OP_DELETE, STORE_OP_TXN, STORE_OP_NONE } kind;
    union {
        struct store_range *range;
        struct store_put *put;
        struct store_delete *del;
        struct store_txn *txn;
    } u;
};
struct store_txn {
    struct store_compare *compares;
    struct store_op *success;
    struct store_op *failure;
    uint32_t compare_count;
    uint32_t success_count;
    uint32_t failure_count;
};

/* ---- what is answered ----------------------------------------------------------------------- */

/* Versions are valid while |done| runs (see core/loop.h), or as long as the snapshot read. */
struct store_range_answer {
    const struct cache_version **kvs;
    uint64_t kv_count;
    uint64_t count;
    bool more;
    bool keys_only; /* Encode without values ... */
    bool no_lease;  /* ... and without leases (etcd 3.7 serves keys_only from its index). */
};
struct store_put_answer {
    const struct cache_version *prev; /* NULL unless asked for and there. */
};
struct store_delete_answer {
    const struct cache_version **prevs; /* |deleted| of them if asked for, else NULL. */
    uint64_t deleted;
};
struct store_txn_answer;
struct store_op_answer {
    int kind;         /* As store_op.kind. */
    int64_t revision; /* For the header of a range, put or delete. */
    union {
        struct store_range_answer range;
        struct store_put_answer put;
        struct store_delete_answer del;
        struct store_txn_answer *txn;
    } u;
};
struct store_txn_answer {
    bool succeeded;
    uint32_t op_count;
    struct store_op_answer *ops;
};

/* ---- validity: pure, any thread; called by the asker before it submits or runs a request ----- */

/* etcd's checks of one request, in etcd's order: EMPTY_KEY, INVALID_SORT_OPTION, VALUE_PROVIDED,
 * LEASE_PROVIDED; for a Txn also TOO_MANY_OPS, KEY_NOT_FOUND (an empty op), DUPLICATE_KEY.
 * Txn: O(ops x depth), allocates while it runs; REQUEST_TOO_LARGE at its memory's ceiling. */
MUST_CHECK enum err store_range_check(const struct store_range *range);
MUST_CHECK enum err store_put_check(const struct store_put *put);
MUST_CHECK enum err store_delete_check(const struct store_delete *del);
MUST_CHECK enum err store_txn_check(const struct store_txn *txn, uint64_t max_ops);
/* Every direct op of both branches is a Range: runs on a snapshot, is never ordered. */
bool store_txn_is_readonly(const struct store_txn *txn);
/* A read-only Txn whose ranges are all serializable (an empty one is): needs no read index. */
bool store_txn_is_serializable(const struct store_txn *txn);

/* ---- requests ------------------------------------------------------------------------------- */

enum store_kind {
    STORE_PUT,
    STORE_DELETE,
    STORE_TXN,
    STORE_LEASE_GRANT,
    STORE_LEASE_REVOKE,
    STORE_COMPACT,
    /* Not ordered: */
    STORE_READ_INDEX, /* done when a snapshot that holds everything acknowledged before it was
                           asked has been published on this replica. */
    STORE_LEASE_KEEPALIVE,
    STORE_LEASE_TTL,  /* Linearizable; keys are read by the asker from the snapshot. */
    STORE_LEASE_LIST, /* Linearizable; from our own memory while the database is away. */
};

/*
 * Embedded by the asker, filled in, handed over by store_post (any thread) or store_submit (store
 * thread), and owned by store until |done|. |arena| is the asker's, one for each request and empty;
 * between the two only store uses it, for the answer: it is reset before each further evaluation.
 */
struct request_list;
struct store_request {
    struct loop_post post; /* Private between store_post and |done|. */
    struct store *store;   /* Set by store_post. */
    struct loop *home;     /* Where |done| runs; NULL: on the store's thread. */
    enum store_kind kind;
    uint64_t deadline_ns; /* Monotonic; LIMIT_REQUEST_TIMEOUT_MS from submission at the latest. */
    struct arena *arena;
    size_t size; /* Marshalled size of the request, bytes: for admission. */
    union {
        struct store_put put;
        struct store_delete del;
        struct store_txn txn;
        struct {
            int64_t id; /* Grant: 0 = pick a positive one. Keep-alive, TTL, revoke: which. */
            int64_t ttl_s;
        } lease;
        struct {
            int64_t revision;
            bool physical;
        } compact;
    } u;

    /* Out. */
    enum err err;
    int64_t revision; /* For the header. */
    union {
        struct store_put_answer put;
        struct store_delete_answer del;
        struct store_txn_answer txn;
        struct {
            int64_t id;
            int64_t ttl_s;     /* Grant: granted; keep-alive: granted or 0 if unknown;
                                  TTL: remaining, -1 if unknown. */
            int64_t granted_s; /* TTL only. */
        } lease;
        struct {
            struct lease_left *items; /* In |arena|, in no order: lease_left_sort. */
            uint32_t count;
        } leases;
    } answer;
    void (*done)(struct store_request *request);
    struct store_request *next; /* Private, all below. */
    struct store_request *prev;
    struct request_list *list;
    struct timer timer;
    uint64_t arrival;
    uint32_t state;
};

/* Any thread: queue for the store's loop. |home|'s loop runs |done|. */
void store_post(struct store *store, struct store_request *request);
/* Store thread. |done| never runs inside. */
void store_submit(struct store *store, struct store_request *request);

/* ---- reads ---------------------------------------------------------------------------------- */

/* The newest snapshot. Any reader thread; rules of cache_snapshot. */
const struct cache_snapshot *store_snapshot(const struct store *store);
/* Whether a linearizable read may use store_snapshot at once (exclusive database). Any thread. */
bool store_reads_are_local(const struct store *store);

/*
 * Evaluate a Range on |snapshot| with all of etcd's options. Arrays go to |arena|;
 * ERR_REQUEST_TOO_LARGE at its ceiling. ERR_COMPACTED, ERR_FUTURE_REV. Any reader thread.
 * O(log keys + keys fetched), plus O(keys in range) for count at old revisions.
 */
MUST_CHECK enum err store_range_run(const struct cache_snapshot *snapshot,
                                    const struct store_range *range, struct arena *arena,
                                    struct store_range_answer *answer);
/*
 * Evaluate a read-only Txn on |snapshot|: FUTURE_REV, COMPACTED, REQUEST_TOO_LARGE. |revision| is
 * for the header. Any reader thread.
 */
MUST_CHECK enum err store_txn_run_readonly(const struct cache_snapshot *snapshot,
                                           const struct store_txn *txn, struct arena *arena,
                                           struct store_txn_answer *answer, int64_t *revision);
/* True when |range| needs neither sort nor filter: can be walked and streamed without an array. */
bool store_range_is_plain(const struct store_range *range);

/* Facts for headers and Status; immutable, replaced as a whole; any reader thread, valid for the
 * turn like a snapshot. */
struct store_facts {
    uint64_t cluster_id;
    uint64_t member_id;
    uint64_t raft_term; /* epoch + duty term */
    uint64_t leader;    /* Member id of the duty's owner; our own id when nobody has it. */
    int64_t database_bytes;
    bool ready; /* Loaded and caught up. */
    bool away;  /* Breaker open: linearizable reads and writes answer at once. */
    bool fenced;
    uint64_t lag_entries; /* Newest seq seen in the database minus applied. */
    uint64_t doubt_count; /* Doubts since start. */
    uint64_t batch_count;
    uint64_t probe_count;
    struct hash128 chain; /* At info.seq of the snapshot published with it. */
    uint64_t chain_seq;
    uint32_t member_count;
    struct sql_member members[]; /* Live ones, by id; always holds ourselves. */
};
const struct store_facts *store_facts(const struct store *store);

/* ---- life ----------------------------------------------------------------------------------- */

enum store_transaction_mode { STORE_OPTIMISTIC, STORE_LOCKING, STORE_AUTO };

struct store_config {
    struct sql_log *log;   /* Borrowed; outlives the store. */
    struct timers *timers; /* The owner's, on its clock. */
    struct loop *loop;     /* For store_post; NULL in simulation. */
    struct rng *rng;
    struct reclaim *reclaim;
    enum store_transaction_mode transaction_mode;
    uint32_t poll_interval_ms;   /* 100 */
    uint32_t upkeep_interval_ms; /* 500 */
    uint64_t lease_margin_ms;    /* Added to a TTL before expiry. */
    struct sql_member self;      /* id 0: picked from rng. */
    uint64_t max_txn_ops;
    uint64_t request_size_max;
    /* A new snapshot or new facts were published. Store thread. */
    void (*on_publish)(void *arg);
    /* Loaded and caught up, or (err) could not start: |why| is one clear line. Once. */
    void (*on_ready)(void *arg, enum err err, const char *why);
    /* The process must not go on: the log is broken (ERR_CHAIN_BROKEN, ERR_HISTORY_LOST ...). */
    void (*on_fatal)(void *arg, enum err err, const char *why);
    void *arg;
};

struct store *store_new(const struct store_config *config);
/* Opens the log, loads, catches up, then on_ready. */
void store_start(struct store *store);
/* The end of a turn: seals the batch, starts what is due, trims, reclaims, answers. */
void store_turn(struct store *store);
/* No new requests (they get ERR_STOPPED); finish or time out what is in flight, leave the members,
 * close the log; then |stopped|. */
void store_stop(struct store *store, void (*stopped)(void *arg), void *arg);
void store_free(struct store *store);
/* The cache, for tests and metrics. Store thread. */
struct cache *store_cache(struct store *store);

#endif
