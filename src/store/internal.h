/*
 * What the files of store share: the parts of struct store and the calls between them. Everything
 * here belongs to the store's thread. See store.h for who does what, docs/architecture.md for why.
 */
#ifndef STORE_INTERNAL_H
#define STORE_INTERNAL_H

#include <stdatomic.h>
#include <stdlib.h>

#include "cache/cache.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/sm.h"
#include "lease/lease.h"
#include "sql/sql.h"
#include "store/store.h"

/* ---- a growing array (store.c) -------------------------------------------------------------- */

/* Zero-initialised is empty. */
struct store_vec {
    void *items;
    uint32_t count;
    uint32_t room;
};
/* A new last item of |size| bytes, zeroed. Earlier pointers into the array are void. */
void *store_vec_add(struct store_vec *vec, size_t size);
/* |count| > 0. */
void *store_vec_last(const struct store_vec *vec, size_t size);
void store_vec_fini(struct store_vec *vec);

/* ---- waiting before it is tried again (store.c) --------------------------------------------- */

/* The next wait of a row of failures, with jitter; |*backoff_ms| is 0 in front of the first. */
uint64_t store_backoff_ns(struct store *store, uint32_t *backoff_ms);

/* ---- requests (writer.c) -------------------------------------------------------------------- */

/* Ordered like the public kinds, never posted from outside: the end of an expired lease. */
enum { STORE_LEASE_EXPIRE = STORE_LEASE_LIST + 1 };

/* Where a request is. */
enum request_state {
    REQUEST_QUEUED,  /* In |queue|: certainly not sent. */
    REQUEST_BATCHED, /* A member of the batch: may have been sent. */
    REQUEST_WAITING, /* For a read index, a keep-alive or a physical compaction. */
    REQUEST_ANSWERED,
};

/* Doubly linked: a deadline takes a request out of the middle. */
struct request_list {
    struct store_request *first;
    struct store_request *last;
    uint32_t count;
    size_t size; /* Sum of the requests' sizes. */
};
void store_list_add(struct request_list *list, struct store_request *request);
void store_list_remove(struct store_request *request);
/* Put all of |members| in front of |list|, in order. */
void store_list_prepend(struct request_list *list, struct request_list *members);

/* Take |request| from where it is and answer it when the turn ends. */
void store_answer(struct store_request *request, enum err err);
void store_answer_all(struct request_list *list, enum err err);
/* The same with the header's revision of the newest snapshot. */
void store_answer_now(struct store_request *request);
/* Run |done| of what was answered. */
void store_answers_flush(struct store *store);
/* Queue in order; no admission: for store's own requests too. */
void store_enqueue(struct store *store, struct store_request *request);
/* |request| waits on, but only as long as its client does: LIMIT_REQUEST_TIMEOUT_MS is no bound. */
void store_rearm_own(struct store *store, struct store_request *request);

/* ---- evaluation (eval.c, txn.c, range.c) ---------------------------------------------------- */

/* One batch being made: the private state and what it will append. */
struct store_eval {
    struct cache_edit *edit;
    struct rng *rng;
    struct arena bytes;       /* Keys and values of |rows|: requests may leave before the batch. */
    struct arena scratch;     /* Of one request. */
    struct store_vec rows;    /* struct sql_row */
    struct store_vec effects; /* struct sql_effect */
    uint64_t byte_count;
    uint64_t seq; /* Of the entry being made. */
};

/* An edit is open, and rows go to the revisions that it has. */
static inline bool store_eval_is_sound(const struct store_eval *eval)
{
    return eval->edit != NULL && eval->rng != NULL && eval->seq > 0 &&
           eval->rows.count <= eval->rows.room && eval->effects.count <= eval->effects.room;
}
/* Evaluate |request| into |eval|; sets its answer and |revision|. On an error nothing changed. */
MUST_CHECK enum err store_eval_request(struct store_eval *eval, struct store_request *request);
/* True when |request| must wait for the next entry: at most one effect per lease and entry, because
 * an entry does not say how its effects and rows were interleaved. */
bool store_eval_must_wait(const struct store_eval *eval, struct store_request *request);
MUST_CHECK enum err store_eval_txn(struct store_eval *eval, const struct store_txn *txn,
                                   struct arena *arena, struct store_txn_answer *answer,
                                   int64_t *revision);

/* The revision that |eval|'s current request writes, and its next sub. */
struct eval_write {
    int64_t revision;
    int32_t sub;
};
MUST_CHECK enum err store_eval_put_check(const struct cache_snapshot *view,
                                         const struct store_put *put);
/* Checked before. |prev| gets the version that was replaced, or NULL. */
void store_eval_put(struct store_eval *eval, struct eval_write *write, const struct store_put *put,
                    const struct cache_version **prev);
/* |prevs| in |arena| when asked for: REQUEST_TOO_LARGE before anything changed. */
MUST_CHECK enum err store_eval_delete(struct store_eval *eval, struct eval_write *write,
                                      const struct store_delete *del, struct arena *arena,
                                      struct store_delete_answer *answer);
/* Upper bound of the bytes that store_range_run takes from its arena. */
uint64_t store_range_cost(const struct cache_snapshot *snapshot, const struct store_range *range);

/* ---- batch (batch.c, doubt.c) --------------------------------------------------------------- */

enum batch_state {
    BATCH_IDLE,
    BATCH_LOCKING,
    BATCH_APPENDING,
    BATCH_PROBING,
    BATCH_LOOKING,
    BATCH_JUDGING,
    BATCH_DOUBT,
    BATCH_RESOLVING,
    BATCH_CATCHING_UP,
    BATCH_PAUSED,
    BATCH_STATE_COUNT
};

struct store_batch {
    struct sm sm;
    struct store_eval eval;
    struct request_list members; /* Whose answers hang on the batch, in order. */
    struct sql_entry entry;
    struct sql_entry empty; /* Ours, without effects: takes the place for good. */
    struct sql_append append;
    struct sql_lock lock;
    struct sql_verdict verdict;
    struct arena lock_arena;
    uint64_t expected_seq;
    struct hash128 expected_chain;
    uint64_t reads_before;  /* Reads that arrived before the first send: proven by the commit. */
    uint64_t probe_arrival; /* PROBING: only probes begun after it count. */
    uint64_t look_after;    /* LOOKING: only pulls begun after it count. */
    uint64_t writer_counter;
    uint64_t sent_ns;  /* When the append was first sent: for its time in /metrics. */
    enum err refusal;  /* Why an empty entry is sent; ERR_OK: the batch itself is. */
    bool beaten;       /* Another writer was seen at expected + 1: ours can never be. */
    bool lock_next;    /* auto: after a loss, until the next commit. */
    uint32_t attempts; /* Of resolving, for the back-off. */
    uint32_t pause_ms; /* The last back-off of a pause; 0 since something was executed. */
    uint64_t refusals; /* Appends that were refused in a row. */
    struct timer retry;
};

void store_batch_init(struct store *store);
void store_batch_fini(struct store *store);
/* Seal and send, if there is something and nothing is in flight. */
void store_batch_start(struct store *store);
/* True while an edit is open whose entry may be in the log. */
bool store_batch_is_open(const struct store *store);
/* The tail shows |entry| at expected + 1 while the batch is open. True: it is another writer's, the
 * edit is gone and |entry| may be applied. False: it is the batch's own, which only the batch may
 * publish. */
bool store_batch_seen(struct store *store, const struct sql_entry *entry);
/* A pull of the tail ended, |ok| if it was answered and applied. */
void store_batch_pulled(struct store *store, bool ok);
/* A probe begun with |mark| was answered. */
void store_batch_probed(struct store *store, uint64_t mark, const struct sql_head *head);
/* The breaker opened, or the database is another one: what was not sent is answered with |err|. */
void store_batch_away(struct store *store, enum err err);
/* The database is back: no need to wait any longer. */
void store_batch_back(struct store *store);
/* A reload finished. */
void store_batch_reloaded(struct store *store);
/* What each state promises; holds between turns. */
bool store_batch_is_sound(const struct store *store);
/* For batch.c and doubt.c alone. */
void store_batch_committed(struct store *store);
void store_batch_send_again(struct store *store);
void store_batch_lost(struct store *store);
void store_batch_look(struct store *store);
void store_batch_judge(struct store *store);
void store_batch_doubt(struct store *store);
/* Resolve now, if it is only waiting to. */
void store_batch_doubt_back(struct store *store);
void store_batch_resolved(struct store *store, enum sql_outcome outcome);
void store_batch_pause(struct store *store);
/* Members go back to the queue, the edit away. */
void store_batch_requeue(struct store *store);
void store_batch_drop_edit(struct store *store);

/* ---- apply.c -------------------------------------------------------------------------------- */

enum apply_result {
    APPLY_OK,     /* All were applied or already there. */
    APPLY_OWN,    /* Stopped in front of the batch's own entry. */
    APPLY_RELOAD, /* Rows or entries that are needed may be gone. */
    APPLY_FATAL,  /* on_fatal was called. */
};
enum apply_result store_apply_entries(struct store *store, const struct sql_head *head,
                                      const struct sql_entry *entries, uint32_t count);
/* The batch's entry is committed: publish its edit. */
void store_apply_own(struct store *store);
/* Compare |head|, read by a statement sent when we stood at (|seq|, |chain|): false when fenced or
 * history was lost (told by then). */
bool store_head_check(struct store *store, const struct sql_head *head, uint64_t seq,
                      const struct hash128 *chain);
void store_fatal(struct store *store, enum err err, const char *why);
/* True, and on_fatal was called, if |err| of a read says that the log is broken or not ours. */
bool store_read_was_fatal(struct store *store, enum err err);

/* ---- tail.c --------------------------------------------------------------------------------- */

struct store_tail {
    struct sql_tail tail;
    struct arena arena;
    bool in_flight;
    bool wanted;       /* Pull again as soon as this one is answered. */
    uint64_t begun;    /* Pulls begun. */
    uint64_t sent_seq; /* Where we stood. */
    struct hash128 sent_chain;
    uint32_t interval_ms;
    struct timer poll;
};
void store_tail_init(struct store *store);
/* Pull now, or once more when the one in flight is answered. */
void store_tail_want(struct store *store);
/* Poll again after the interval: something proved that nothing is missing, or |found|. */
void store_tail_rest(struct store *store, bool found);
void store_tail_fini(struct store *store);

/* ---- read_index.c --------------------------------------------------------------------------- */

struct store_reads {
    struct request_list waiting; /* In order of arrival. */
    uint64_t arrivals;
    uint64_t asked;    /* Arrivals that need a probe; the batch's too. */
    uint64_t answered; /* Arrivals that some answered probe covers. */
    struct sql_probe probe;
    bool in_flight;
    bool forced;         /* Health wants to know. */
    struct timer again;  /* Armed: the last probe failed or met another database. */
    uint32_t backoff_ms; /* Its last back-off; 0 since one succeeded. */
    uint64_t mark;       /* Arrivals before the probe in flight was begun. */
    uint64_t sent_ns;    /* When the probe in flight was sent. */
    uint64_t sent_seq;
    struct hash128 sent_chain;
    /* Reads up to |mark| may be answered once |seq| is applied; both grow. */
    struct proof {
        uint64_t mark;
        uint64_t seq;
    } proofs[LIMIT_READ_PROOFS];
    uint32_t proof_first;
    uint32_t proof_count;
};
void store_reads_init(struct store *store);
void store_reads_fini(struct store *store);
/* The database is back: the next probe need not wait. */
void store_reads_back(struct store *store);
void store_reads_add(struct store *store, struct store_request *request);
/* A place in the order of arrivals, and a probe for it. */
uint64_t store_reads_ask(struct store *store);
/* All that arrived up to |mark| are proven by what is published. */
void store_reads_proven(struct store *store, uint64_t mark);
/* Something was published. */
void store_reads_release(struct store *store);
/* Between turns: proofs wait for what is not applied, in order; who waits does so in order. */
bool store_reads_is_sound(const struct store *store);
/* Start a probe if one is due. */
void store_reads_start(struct store *store);

/* ---- health.c ------------------------------------------------------------------------------- */

enum health_state { HEALTH_OK, HEALTH_AWAY, HEALTH_HALF_OPEN, HEALTH_STATE_COUNT };
struct store_health {
    struct sm sm;
    bool fenced;
    uint32_t failures;    /* Reads failed in a row. */
    uint32_t outstanding; /* Reads in flight. */
    struct timer overdue; /* Armed while reads are in flight and none was answered. */
    struct timer half_open;
    uint32_t backoff_ms;
};
void store_health_init(struct store *store);
void store_health_fini(struct store *store);
/* A read of the log begins; ends with an answer or without. */
void store_health_begin(struct store *store);
void store_health_end(struct store *store, bool answered);
/* It ended without an answer, perhaps for its connection's sake alone: let a probe tell. */
void store_health_ask(struct store *store);
static inline bool store_health_is_away(const struct store_health *health)
{
    return !sm_is(&health->sm, HEALTH_OK);
}
void store_health_fence(struct store *store, bool fenced);
/* Between turns: what is counted as in flight is in flight, and a timer runs where one must. */
bool store_health_is_sound(const struct store *store);
/* ERR_OK, or why nothing is sent now. */
enum err store_health_error(const struct store *store);
/* What came back to wait while nothing is sent is answered: once a turn. */
void store_health_turn(struct store *store);

/* ---- leases.c ------------------------------------------------------------------------------- */

/* Ended by one reading of the counters, at most. */
enum { EXPIRIES_MAX = LEASE_DUE_MAX };
/* One lease that is being ended by us. */
struct store_expiry {
    struct store_request request;
    struct lease_due due;
    bool busy;
};
struct store_leases {
    struct lease_table *table;
    struct sql_keepalive keepalive;
    struct store_vec items;      /* struct sql_keepalive_item */
    struct request_list waiting; /* Not sent. */
    struct request_list sent;
    bool in_flight;
    struct timer retry;
    struct store_expiry expiries[EXPIRIES_MAX];
};
void store_leases_init(struct store *store);
void store_leases_fini(struct store *store);
void store_leases_keepalive(struct store *store, struct store_request *request);
/* Send what waits. */
void store_leases_start(struct store *store);
/* A read index arrived for a keep-alive, a TimeToLive or a list. */
void store_leases_answer(struct store *store, struct store_request *request);
/* Counters of an upkeep, received now. False, and on_fatal was called: a row was changed. */
bool store_leases_read(struct store *store, const struct sql_lease *leases, uint32_t count);
/* Whether |lease| is another one than was written; |why| names it then. */
bool store_lease_is_broken(const struct sql_lease *lease, char *why, size_t why_size);
void store_leases_expire(struct store *store);
/* Nobody waits for the ends of leases that are under way any more. */
void store_leases_stop(struct store *store);
/* Effects of a published entry. */
void store_leases_effect(struct store *store, const struct sql_effect *effect, uint64_t seq);
/* The table again from the snapshot, all timers from now. */
void store_leases_reset(struct store *store);
static inline struct store_expiry *store_expiry_of(struct store_request *request)
{
    ASSERT((int)request->kind == STORE_LEASE_EXPIRE);
    return CONTAINER_OF(request, struct store_expiry, request);
}

/* ---- upkeep.c ------------------------------------------------------------------------------- */

enum { TRIM_SAMPLES = 64, COMPACT_WAITS = 32 };
struct store_upkeep {
    struct sql_upkeep upkeep;
    struct arena arena;
    bool in_flight;
    bool told; /* The first one ended, well or not: serving does not hang on it. */
    bool left;
    struct timer timer;
    uint64_t duty_owner;
    uint64_t duty_term;
    int64_t database_bytes;
    struct sql_member *members; /* Of the last answer. */
    uint32_t member_count;
    struct sql_purge purge;
    bool purging;
    bool purge_failed;    /* Not again before the next upkeep. */
    uint32_t slice_revs;  /* Revisions of the next purge: fewer after a failure. */
    int64_t purged_below; /* No dead rows below, as far as we deleted them ourselves. */
    uint64_t trimmed;     /* Entries below are gone, as far as we know. */
    /* Compactions whose dead rows may still stand, oldest first: up to |revision| they may go when
     * all live members have applied |seq|, or long enough after |at_ns|. Compactions of some
     * seconds share one: it began at |begun_ns|, the rest is of its newest. */
    struct compact_wait {
        uint64_t begun_ns;
        uint64_t at_ns;
        uint64_t seq;
        int64_t revision;
    } waits[COMPACT_WAITS];
    uint32_t wait_count;
    bool trim_due;
    struct trim_sample {
        uint64_t at_ns;
        uint64_t seq;
    } samples[TRIM_SAMPLES];
    uint32_t sample_first;
    uint32_t sample_count;
    struct request_list physical; /* Compactions that wait for the dead to be gone. */
    bool snapshot_warned;
};
void store_upkeep_init(struct store *store);
void store_upkeep_fini(struct store *store);
void store_upkeep_start(struct store *store);
/* Slices of trimming and purging, physical compactions: once a turn. */
void store_upkeep_turn(struct store *store);
/* Entry |seq| was applied and compacted |revision|. */
void store_upkeep_compacted(struct store *store, uint64_t seq, int64_t revision);
void store_upkeep_leave(struct store *store);
/* Between turns: samples and waits are in order, and none is ahead of what is applied. */
bool store_upkeep_is_sound(const struct store *store);
bool store_upkeep_is_owner(const struct store *store);

/* ---- load.c --------------------------------------------------------------------------------- */

struct store_load;
/* Load everything; on success the cache is published and store_loaded runs. */
void store_load_start(struct store *store);
void store_load_fini(struct store *store);
/* The state cannot be continued entry by entry: load it again when the batch is settled. */
void store_reload_want(struct store *store, const char *why);

/* ---- store.c -------------------------------------------------------------------------------- */

enum life_state {
    LIFE_NEW,
    LIFE_OPENING,
    LIFE_LOADING,
    LIFE_CATCHING_UP,
    LIFE_READY,
    LIFE_STOPPING,
    LIFE_CLOSING,
    LIFE_STOPPED,
    LIFE_FAILED,
    LIFE_STATE_COUNT
};

struct store {
    struct store_config config;
    struct sql_log *log;
    struct timers *timers;
    struct cache *cache;
    struct sm life;
    _Atomic(struct store_facts *) facts;
    bool facts_stale;
    bool publish_stale; /* on_publish is due. */

    uint64_t cluster_id;
    struct sql_fence fence; /* Under which everything of ours runs. */
    uint64_t seq;           /* Newest applied entry ... */
    struct hash128 chain;   /* ... and its chain. */
    int64_t deleted_below;  /* Newest known. */
    uint64_t seen_seq;      /* Newest entry known to be in the database. */
    uint8_t incarnation[SQL_WRITER_SIZE];
    uint64_t batch_count;
    uint64_t probe_count;
    uint64_t doubt_count;

    struct request_list queue; /* Writes that wait for a batch. */
    struct request_list answers;
    struct store_batch batch;
    struct store_tail tail;
    struct store_reads reads;
    struct store_health health;
    struct store_leases leases;
    struct store_upkeep upkeep;
    struct store_load *load;
    bool reload_wanted;

    struct store_request catch_up; /* The read index that ends catching up. */
    bool caught_up;                /* It was answered. */
    void (*stopped)(void *arg);
    void *stopped_arg;
    bool fatal;
    bool trim_left;        /* Trimming is not finished: ... */
    struct timer again;    /* ... another turn soon, or, while readers hold it up, ... */
    uint64_t trim_wait_ns; /* ... after twice as long as the last time. */
};

static inline uint64_t store_now_ns(const struct store *store)
{
    return clock_now_ns(store->timers->clock);
}
static inline bool store_is_loaded(const struct store *store)
{
    return sm_is(&store->life, LIFE_CATCHING_UP) || sm_is(&store->life, LIFE_READY) ||
           sm_is(&store->life, LIFE_STOPPING);
}
/* Loaded, not being loaded again, not broken. */
static inline bool store_is_live(const struct store *store)
{
    return store_is_loaded(store) && !store->fatal && store->load == NULL && !store->reload_wanted;
}
/*
 * Cheap truths that hold whenever a function of store begins. Store thread only.
 *   1. An open edit stands on what is applied, and is not beaten.
 *   2. A list with members has a first one.
 *   3. What one read waits for was asked for; proofs fit their ring.
 *   4. Nothing newer is applied than was seen in the database.
 */
static inline bool store_is_sound(const struct store *store)
{
    const struct store_batch *batch = &store->batch;
    bool open = batch->eval.edit != NULL;
    return store->cache != NULL && store->log != NULL &&
           IMPLIES(open, batch->expected_seq == store->seq && !batch->beaten) &&
           (batch->members.count == 0) == (batch->members.first == NULL) &&
           (store->queue.count == 0) == (store->queue.first == NULL) &&
           store->reads.asked <= store->reads.arrivals &&
           store->reads.answered <= store->reads.arrivals &&
           store->reads.proof_count <= LIMIT_READ_PROOFS && store->seq <= store->seen_seq;
}
/* Whether both name the same entry of the same process. */
static inline bool store_writer_is(const struct sql_writer *a, const struct sql_writer *b)
{
    return a->counter == b->counter &&
           memcmp(a->incarnation, b->incarnation, sizeof(a->incarnation)) == 0;
}
/* A row of the log as the cache takes it; borrows the same slices. */
static inline struct cache_row store_cache_row(const struct sql_row *row)
{
    return (struct cache_row){
        .revision = row->revision,
        .sub = row->sub,
        .is_delete = row->is_delete,
        .key = row->key,
        .value = row->value,
        .create_rev = row->create_rev,
        .version = row->version,
        .lease = row->lease,
    };
}
/* The newest state was published. */
void store_published(struct store *store);

/* ---- /metrics (counters.c) ------------------------------------------------------------------ */

void store_count_applied(const struct sql_entry *entry, bool own);
void store_count_append(const struct store *store, const struct sql_append *append);
void store_count_probe(const struct store *store, enum err err);
void store_count_facts(const struct store *store, const struct store_facts *facts);
void store_loaded(struct store *store, enum err err, const char *why);
/* Ready, if nothing is missing any more. */
void store_ready_go_on(struct store *store);
void store_facts_publish(struct store *store);

#endif
