/*
 * Life of the store, and the turn that starts everything.
 *
 *     NEW ─▶ OPENING ─▶ LOADING ─▶ CATCHING_UP ─▶ READY ─▶ STOPPING ─▶ CLOSING ─▶ STOPPED
 *               │          │                                              ▲
 *               └──────────┴────▶ FAILED ─────────────────────────────────┘
 *
 * LOADING      everything is read and checked; nothing is served
 * CATCHING_UP  loaded; ready when what a probe begun after the load saw has been applied, and the
 *              first upkeep ended: who serves is in the list of members
 * STOPPING     nothing new; what was taken is finished or runs into its deadline
 * CLOSING      the log ends what is in flight; nothing starts any more
 */
#include "store/internal.h"

#define CLOSABLE SM_TO(LIFE_CLOSING)

static const struct sm_state life_states[LIFE_STATE_COUNT] = {
    [LIFE_NEW] = {"new", SM_TO(LIFE_OPENING) | SM_TO(LIFE_STOPPED)},
    [LIFE_OPENING] = {"opening", SM_TO(LIFE_LOADING) | SM_TO(LIFE_FAILED) | CLOSABLE},
    [LIFE_LOADING] = {"loading", SM_TO(LIFE_CATCHING_UP) | SM_TO(LIFE_FAILED) | CLOSABLE},
    [LIFE_CATCHING_UP] = {"catching up", SM_TO(LIFE_READY) | CLOSABLE},
    [LIFE_READY] = {"ready", SM_TO(LIFE_STOPPING)},
    [LIFE_STOPPING] = {"stopping", CLOSABLE},
    [LIFE_CLOSING] = {"closing", SM_TO(LIFE_STOPPED)},
    [LIFE_STOPPED] = {"stopped", 0},
    [LIFE_FAILED] = {"failed", CLOSABLE},
};

/* ---- a growing array ------------------------------------------------------------------------ */

void *store_vec_add(struct store_vec *vec, size_t size)
{
    ASSERT(vec->count <= vec->room);
    ASSERT(size > 0 && vec->count <= vec->room);
    if (vec->count == vec->room) {
        vec->room = vec->room == 0 ? 16 : 2 * vec->room;
        ASSERT(vec->room > vec->count);
        vec->items = mem_realloc(vec->items, vec->room * size);
    }
    void *item = (uint8_t *)vec->items + vec->count++ * size;
    return memset(item, 0, size);
}

void *store_vec_last(const struct store_vec *vec, size_t size)
{
    ASSERT(vec->count <= vec->room);
    ASSERT(vec->count > 0);
    return (uint8_t *)vec->items + (vec->count - 1) * size;
}

void store_vec_fini(struct store_vec *vec)
{
    ASSERT(vec->count <= vec->room);
    mem_free(vec->items);
    *vec = (struct store_vec){0};
}

uint64_t store_backoff_ns(struct store *store, uint32_t *backoff_ms)
{
    ASSERT(*backoff_ms <= LIMIT_BACKOFF_MAX_MS);
    uint32_t next = *backoff_ms == 0 ? LIMIT_BACKOFF_MIN_MS : 2 * *backoff_ms;
    *backoff_ms = next < LIMIT_BACKOFF_MAX_MS ? next : LIMIT_BACKOFF_MAX_MS;
    return (*backoff_ms / 2 + rng_below(store->config.rng, *backoff_ms)) * NS_PER_MS;
}

/* ---- facts ---------------------------------------------------------------------------------- */

static struct store_facts *facts_new(const struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct store_upkeep *upkeep = &store->upkeep;
    uint32_t room = upkeep->member_count + 1;
    struct store_facts *facts = mem_alloc(sizeof(*facts) + room * sizeof(facts->members[0]));
    struct sql_member self = store->config.self;
    self.applied_seq = store->seq;
    self.pin_rev = INT64_MAX;
    bool placed = false;
    for (uint32_t i = 0; i < upkeep->member_count; i++) {
        const struct sql_member *member = &upkeep->members[i];
        if (!placed && self.id <= member->id) {
            facts->members[facts->member_count++] = self;
            placed = true;
        }
        if (member->id != self.id) {
            facts->members[facts->member_count++] = *member;
        }
    }
    if (!placed) {
        facts->members[facts->member_count++] = self;
    }
    ASSERT(facts->member_count <= room);
    return facts;
}

void store_facts_publish(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->upkeep.member_count <= LIMIT_MEMBERS + 1);
    struct store_facts *facts = facts_new(store);
    facts->cluster_id = store->cluster_id;
    facts->member_id = store->config.self.id;
    facts->raft_term = store->fence.epoch + store->upkeep.duty_term;
    facts->leader =
        store->upkeep.duty_owner != 0 ? store->upkeep.duty_owner : store->config.self.id;
    facts->database_bytes = store->upkeep.database_bytes;
    facts->ready = sm_is(&store->life, LIFE_READY) && !store->fatal;
    facts->away = store_health_is_away(&store->health);
    facts->fenced = store->health.fenced;
    facts->lag_entries = store->seen_seq > store->seq ? store->seen_seq - store->seq : 0;
    facts->doubt_count = store->doubt_count;
    facts->batch_count = store->batch_count;
    facts->probe_count = store->probe_count;
    facts->chain = store->chain;
    facts->chain_seq = store->seq;
    store_count_facts(store, facts);
    struct store_facts *old = atomic_load_explicit(&store->facts, memory_order_relaxed);
    atomic_store_explicit(&store->facts, facts, memory_order_release);
    if (old != NULL) {
        reclaim_retire(store->config.reclaim, old, mem_free);
    }
    store->facts_stale = false;
}

const struct store_facts *store_facts(const struct store *store)
{
    ASSERT(store->cache != NULL);
    return atomic_load_explicit(&store->facts, memory_order_acquire);
}

const struct cache_snapshot *store_snapshot(const struct store *store)
{
    ASSERT(store->cache != NULL);
    return cache_snapshot(store->cache);
}

bool store_reads_are_local(const struct store *store)
{
    ASSERT(store->log != NULL);
    return store->log->exclusive;
}

struct cache *store_cache(struct store *store)
{
    ASSERT(store_is_sound(store));
    return store->cache;
}

void store_published(struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct cache_info *info = cache_snapshot_info(cache_snapshot(store->cache));
    ASSERT(info->seq == store->seq);
    ASSERT(info->lease_count == lease_table_count(store->leases.table));
    store->publish_stale = true;
    store->facts_stale = true;
    store_reads_release(store);
}

/* ---- start ---------------------------------------------------------------------------------- */

static void check_config(const struct store_config *config)
{
    ASSERT(config->log != NULL && config->timers != NULL);
    ASSERT(config->rng != NULL && config->reclaim != NULL);
    ASSERT(config->max_txn_ops > 0 && config->request_size_max > 0);
    ASSERT(config->on_ready != NULL);
}

struct store *store_new(const struct store_config *config)
{
    check_config(config);
    struct store *store = mem_alloc(sizeof(*store));
    store->config = *config;
    store->log = config->log;
    store->timers = config->timers;
    store->cache = cache_new(config->reclaim);
    sm_init(&store->life, life_states, LIFE_STATE_COUNT, LIFE_NEW);
    rng_fill(config->rng, store->incarnation, sizeof(store->incarnation));
    while (store->config.self.id == 0) {
        store->config.self.id = rng_next(config->rng);
    }
    store_batch_init(store);
    store_tail_init(store);
    store_reads_init(store);
    store_health_init(store);
    store_leases_init(store);
    store_upkeep_init(store);
    store_facts_publish(store);
    return store;
}

static void fail(struct store *store, enum err err, const char *why)
{
    ASSERT(store_is_sound(store));
    ASSERT(err != ERR_OK);
    if (sm_is(&store->life, LIFE_CLOSING)) {
        return; /* It was stopped while it started. */
    }
    sm_move(&store->life, LIFE_FAILED);
    store->config.on_ready(store->config.arg, err, why);
}

static void opened(void *arg, enum err err, const char *why)
{
    struct store *store = arg;
    ASSERT(sm_is(&store->life, LIFE_OPENING) || sm_is(&store->life, LIFE_CLOSING));
    if (err != ERR_OK) {
        fail(store, err, why);
        return;
    }
    if (sm_is(&store->life, LIFE_OPENING)) {
        sm_move(&store->life, LIFE_LOADING);
        store_load_start(store);
    }
}

static void hinted(void *arg, uint64_t seq)
{
    struct store *store = arg;
    if (store_is_loaded(store) && seq > store->seq) {
        store_tail_want(store);
    }
}

void store_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    sm_move(&store->life, LIFE_OPENING);
    store->log->events = (struct sql_events){.opened = opened, .hint = hinted, .arg = store};
    store->log->ops->open(store->log);
}

static void caught_up(struct store_request *request)
{
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    struct store *store = request->store;
    ASSERT(request == &store->catch_up && request->state == REQUEST_ANSWERED);
    if (!sm_is(&store->life, LIFE_CATCHING_UP)) {
        return;
    }
    if (request->err != ERR_OK || store->reload_wanted || store->load != NULL) {
        store_reads_add(store, request);
        return;
    }
    store->caught_up = true;
    store_ready_go_on(store);
}

void store_ready_go_on(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(IMPLIES(store->caught_up, store_is_loaded(store) || sm_is(&store->life, LIFE_CLOSING)));
    if (!sm_is(&store->life, LIFE_CATCHING_UP) || store->fatal || !store->caught_up ||
        !store->upkeep.told) {
        return;
    }
    sm_move(&store->life, LIFE_READY);
    store->facts_stale = true;
    store_facts_publish(store);
    LOG(LOG_INFO, "store ready", LUINT("seq", store->seq),
        LINT("revision", cache_snapshot_info(cache_snapshot(store->cache))->revision));
    store->config.on_ready(store->config.arg, ERR_OK, "");
}

void store_loaded(struct store *store, enum err err, const char *why)
{
    ASSERT(store_is_sound(store));
    ASSERT(IMPLIES(err == ERR_OK, store->load == NULL));
    if (!sm_is(&store->life, LIFE_LOADING)) {
        return;
    }
    if (err != ERR_OK) {
        fail(store, err, why);
        return;
    }
    sm_move(&store->life, LIFE_CATCHING_UP);
    store->catch_up =
        (struct store_request){.store = store, .kind = STORE_READ_INDEX, .done = caught_up};
    store_reads_add(store, &store->catch_up);
    store_tail_want(store);
    store_upkeep_start(store);
}

/* ---- stop ----------------------------------------------------------------------------------- */

static void closed(void *arg)
{
    struct store *store = arg;
    ASSERT(sm_is(&store->life, LIFE_CLOSING) && store->stopped != NULL);
    store_batch_drop_edit(store);
    store_answer_all(&store->batch.members, ERR_TIMEOUT);
    store_answers_flush(store);
    sm_move(&store->life, LIFE_STOPPED);
    store->stopped(store->stopped_arg);
}

static void start_close(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->stopped != NULL);
    sm_move(&store->life, LIFE_CLOSING);
    timers_disarm(store->timers, &store->batch.retry);
    timers_disarm(store->timers, &store->tail.poll);
    timers_disarm(store->timers, &store->upkeep.timer);
    store_reads_fini(store);
    store_health_fini(store);
    store_answer_all(&store->queue, ERR_STOPPED);
    store_answer_all(&store->reads.waiting, ERR_STOPPED);
    store_answer_all(&store->leases.waiting, ERR_STOPPED);
    store_answer_all(&store->upkeep.physical, ERR_STOPPED);
    store->log->ops->close(store->log, closed, store);
}

void store_stop(struct store *store, void (*stopped)(void *arg), void *arg)
{
    ASSERT(store_is_sound(store));
    ASSERT(stopped != NULL && store->stopped == NULL);
    store->stopped = stopped;
    store->stopped_arg = arg;
    if (sm_is(&store->life, LIFE_NEW)) {
        sm_move(&store->life, LIFE_STOPPED);
        stopped(arg);
        return;
    }
    if (!sm_is(&store->life, LIFE_READY)) {
        start_close(store);
        return;
    }
    sm_move(&store->life, LIFE_STOPPING);
    store->facts_stale = true;
    store_leases_stop(store);
    store_answer_all(&store->reads.waiting, ERR_STOPPED);
    store_answer_all(&store->leases.waiting, ERR_STOPPED);
    store_answer_all(&store->upkeep.physical, ERR_STOPPED);
}

/* STOPPING ends when nobody waits: everything that was taken is answered or ran out of time. */
static void stop_go_on(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(IMPLIES(sm_is(&store->life, LIFE_STOPPING), store->stopped != NULL));
    if (!sm_is(&store->life, LIFE_STOPPING) || store->queue.count > 0 ||
        store->batch.members.count > 0 || store->leases.sent.count > 0) {
        return;
    }
    bool reachable = !store->fatal && store_health_error(store) == ERR_OK;
    if (reachable && !store->upkeep.left) {
        store_upkeep_leave(store);
        return;
    }
    start_close(store);
}

void store_free(struct store *store)
{
    if (store == NULL) {
        return;
    }
    ASSERT(sm_is(&store->life, LIFE_STOPPED));
    timers_disarm(store->timers, &store->again);
    store_batch_fini(store);
    store_tail_fini(store);
    store_reads_fini(store);
    store_health_fini(store);
    store_leases_fini(store);
    store_upkeep_fini(store);
    store_load_fini(store);
    mem_free(atomic_load_explicit(&store->facts, memory_order_relaxed));
    cache_free(store->cache);
    mem_free(store);
}

/* ---- the turn ------------------------------------------------------------------------------- */

/* See trim_after_ns. */
#define TRIM_WAIT_MAX_NS (64 * NS_PER_MS)

static void turn_again(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    ASSERT(!timer_is_armed(timer)); /* To be woken is all: the turn ends with store_turn. */
}

static bool reload_may_start(const struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct sm *sm = &store->batch.sm;
    ASSERT(IMPLIES(store->load != NULL, !store_batch_is_open(store)));
    return store->reload_wanted && store->load == NULL && store_is_loaded(store) && !store->fatal &&
           store_health_error(store) == ERR_OK && !store_batch_is_open(store) &&
           (sm_is(sm, BATCH_IDLE) || sm_is(sm, BATCH_CATCHING_UP) || sm_is(sm, BATCH_PAUSED) ||
            sm_is(sm, BATCH_PROBING));
}

/* Whether a batch could start that has not: its predecessor was answered within this turn. */
static bool batch_may_start(const struct store *store)
{
    ASSERT(store_is_sound(store));
    return sm_is(&store->batch.sm, BATCH_IDLE) && store->queue.count > 0 &&
           sm_is(&store->life, LIFE_READY) && store_is_live(store) &&
           store_health_error(store) == ERR_OK;
}

/* Nobody tells when a reader lets go of what it holds, so that is asked, less and less often. */
static uint64_t trim_after_ns(struct store *store)
{
    ASSERT(store->trim_left);
    ASSERT(store->trim_wait_ns <= TRIM_WAIT_MAX_NS);
    bool is_held = reclaim_hold_rev(store->config.reclaim) <= cache_trimmed_rev(store->cache);
    uint64_t wait_ns = is_held ? store->trim_wait_ns * 2 : 0;
    wait_ns = wait_ns < NS_PER_MS ? NS_PER_MS : wait_ns;
    store->trim_wait_ns = wait_ns < TRIM_WAIT_MAX_NS ? wait_ns : TRIM_WAIT_MAX_NS;
    return store->trim_wait_ns;
}

/* What must hold when nothing of ours runs. */
static void check_between_turns(const struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(IMPLIES(store_is_loaded(store), store_batch_is_sound(store)));
    ASSERT(IMPLIES(store_is_loaded(store), store_health_is_sound(store)));
    ASSERT_SLOW(store_reads_is_sound(store));
    ASSERT_SLOW(store_upkeep_is_sound(store));
    ASSERT(IMPLIES(store->leases.in_flight, store->leases.items.count > 0));
    ASSERT(IMPLIES(store->leases.sent.count > 0, store->leases.in_flight));
    ASSERT(IMPLIES(store->tail.in_flight, !timer_is_armed(&store->tail.poll)));
}

void store_turn(struct store *store)
{
    check_between_turns(store);
    store->trim_left = false;
    /* Answers point into what trimming would free, so they leave first. */
    store_answers_flush(store);
    store_upkeep_turn(store);
    store_health_turn(store);
    if (reload_may_start(store)) {
        store_load_start(store);
    }
    store_batch_start(store);
    store_reads_start(store);
    store_leases_start(store);
    stop_go_on(store);
    store_answers_flush(store);
    if (store->facts_stale) {
        store_facts_publish(store);
        store->publish_stale = true;
    }
    if (store->publish_stale && store->config.on_publish != NULL) {
        store->publish_stale = false;
        store->config.on_publish(store->config.arg);
    }
    (void)reclaim_run(store->config.reclaim);
    store->trim_wait_ns = store->trim_left ? store->trim_wait_ns : 0;
    if (store->answers.count > 0 || batch_may_start(store)) {
        timers_arm(store->timers, &store->again, 0, turn_again);
    } else if (store->trim_left && !timer_is_armed(&store->again)) {
        timers_arm(store->timers, &store->again, trim_after_ns(store), turn_again);
    }
    check_between_turns(store);
}
