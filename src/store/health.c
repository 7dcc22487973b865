/*
 * Is the database there?
 *
 *     OK ──3 reads failed, or none answered for 1.5 s──▶ AWAY ──back-off──▶ HALF_OPEN
 *     ▲                                                   ▲                    │  │
 *     └──────────────────────────an answer────────────────┼────────────────────┼──┘
 *                                                         └─────no answer──────┘
 *
 * AWAY       nothing is sent; reads and writes are answered at once; lease time stands still
 * HALF_OPEN  one probe is under way
 *
 * Any answered read closes the breaker, and any state may see one: statements begun before it
 * opened are still under way. Fenced is beside this: the database answers, but is another one; then
 * only probes are sent (read_index.c), which tell when it is the right one again.
 * With an exclusive database there is nobody to lose: no breaker.
 */
#include "store/internal.h"

enum { HEALTH_READS_MAX = 5 }; /* Probe, tail, lock, verdict, upkeep: one each. */

static const struct sm_state health_states[HEALTH_STATE_COUNT] = {
    [HEALTH_OK] = {"ok", SM_TO(HEALTH_AWAY)},
    [HEALTH_AWAY] = {"away", SM_TO(HEALTH_HALF_OPEN) | SM_TO(HEALTH_OK)},
    [HEALTH_HALF_OPEN] = {"half-open", SM_TO(HEALTH_AWAY) | SM_TO(HEALTH_OK)},
};

void store_health_init(struct store *store)
{
    ASSERT(store_is_sound(store));
    sm_init(&store->health.sm, health_states, HEALTH_STATE_COUNT, HEALTH_OK);
    ASSERT(store->health.failures == 0);
}

void store_health_fini(struct store *store)
{
    ASSERT(store_is_sound(store));
    timers_disarm(store->timers, &store->health.overdue);
    timers_disarm(store->timers, &store->health.half_open);
    ASSERT(!timer_is_armed(&store->health.half_open));
}

bool store_health_is_sound(const struct store *store)
{
    const struct store_health *health = &store->health;
    const struct sm *batch = &store->batch.sm;
    uint32_t reads = (uint32_t)store->tail.in_flight + store->reads.in_flight +
                     store->upkeep.in_flight + sm_is(batch, BATCH_LOCKING) +
                     sm_is(batch, BATCH_JUDGING);
    bool waits = timer_is_armed(&health->half_open);
    return health->outstanding == reads && waits == sm_is(&health->sm, HEALTH_AWAY) &&
           IMPLIES(reads > 0 && sm_is(&health->sm, HEALTH_OK) && !store->log->exclusive,
                   timer_is_armed(&health->overdue)) &&
           IMPLIES(store->log->exclusive, sm_is(&health->sm, HEALTH_OK));
}

static void half_open_due(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_health *health = CONTAINER_OF(timer, struct store_health, half_open);
    struct store *store = CONTAINER_OF(health, struct store, health);
    ASSERT(sm_is(&health->sm, HEALTH_AWAY));
    sm_move(&health->sm, HEALTH_HALF_OPEN);
    store->reads.forced = true;
}

static void go_away(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_health *health = &store->health;
    ASSERT(!store->log->exclusive && !timer_is_armed(&health->half_open));
    bool was_ok = sm_is(&health->sm, HEALTH_OK);
    sm_move(&health->sm, HEALTH_AWAY);
    health->backoff_ms = was_ok ? 0 : health->backoff_ms;
    uint64_t wait_ns = store_backoff_ns(store, &health->backoff_ms);
    timers_arm(store->timers, &health->half_open, wait_ns, half_open_due);
    if (!was_ok) {
        return;
    }
    LOG(LOG_WARN, "database away", LUINT("seq", store->seq));
    store->facts_stale = true;
    lease_table_rearm(store->leases.table, store_now_ns(store));
    store_answer_all(&store->reads.waiting, ERR_NO_LEADER);
    store_answer_all(&store->leases.waiting, ERR_NO_LEADER);
    store_batch_away(store, ERR_NO_LEADER);
}

static void come_back(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_health *health = &store->health;
    ASSERT(!sm_is(&health->sm, HEALTH_OK) && health->failures == 0);
    timers_disarm(store->timers, &health->half_open);
    sm_move(&health->sm, HEALTH_OK);
    LOG(LOG_INFO, "database back", LUINT("seq", store->seq));
    store->facts_stale = true;
    lease_table_rearm(store->leases.table, store_now_ns(store));
    store_reads_back(store);
    store_batch_back(store);
    if (store_is_live(store)) {
        store_tail_want(store);
    }
}

static void still_overdue(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_health *health = CONTAINER_OF(timer, struct store_health, overdue);
    struct store *store = CONTAINER_OF(health, struct store, health);
    ASSERT(health->outstanding > 0 && !store->log->exclusive);
    if (!sm_is(&health->sm, HEALTH_AWAY)) {
        go_away(store);
    }
}

/* Perhaps it was this process that stood still. A loop runs its timers before it reads its sockets,
 * where the answer may lie: it gets a little longer. */
static void overdue(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_health *health = CONTAINER_OF(timer, struct store_health, overdue);
    struct store *store = CONTAINER_OF(health, struct store, health);
    ASSERT(health->outstanding > 0 && !store->log->exclusive);
    timers_arm(store->timers, timer, LIMIT_HEALTH_GRACE_MS * NS_PER_MS, still_overdue);
}

void store_health_begin(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_health *health = &store->health;
    health->outstanding++;
    ASSERT(health->outstanding <= HEALTH_READS_MAX);
    if (!store->log->exclusive && !timer_is_armed(&health->overdue)) {
        timers_arm(store->timers, &health->overdue, LIMIT_HEALTH_OVERDUE_MS * NS_PER_MS, overdue);
    }
}

/* False: nobody counts. */
static bool end_one(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_health *health = &store->health;
    ASSERT(health->outstanding > 0);
    health->outstanding--;
    if (store->log->exclusive || !store_is_loaded(store)) {
        return false;
    }
    timers_disarm(store->timers, &health->overdue);
    if (health->outstanding > 0) {
        timers_arm(store->timers, &health->overdue, LIMIT_HEALTH_OVERDUE_MS * NS_PER_MS, overdue);
    }
    return true;
}

void store_health_ask(struct store *store)
{
    ASSERT(store_is_sound(store));
    if (end_one(store)) {
        store->reads.forced = true;
    }
}

void store_health_end(struct store *store, bool answered)
{
    ASSERT(store_is_sound(store));
    struct store_health *health = &store->health;
    ASSERT(health->outstanding > 0 && health->outstanding <= HEALTH_READS_MAX);
    if (!end_one(store)) {
        return;
    }
    if (answered) {
        health->failures = 0;
        if (!sm_is(&health->sm, HEALTH_OK)) {
            come_back(store);
        }
        return;
    }
    health->failures++;
    if (sm_is(&health->sm, HEALTH_HALF_OPEN) ||
        (sm_is(&health->sm, HEALTH_OK) && health->failures >= LIMIT_HEALTH_FAILURES)) {
        go_away(store);
    }
}

void store_health_fence(struct store *store, bool fenced)
{
    ASSERT(store_is_sound(store));
    if (store->health.fenced == fenced) {
        return;
    }
    store->health.fenced = fenced;
    store->facts_stale = true;
    LOG(fenced ? LOG_WARN : LOG_INFO, fenced ? "fenced: another database" : "fence lifted");
    if (fenced) {
        store_answer_all(&store->reads.waiting, ERR_LEADER_CHANGED);
        store_answer_all(&store->leases.waiting, ERR_LEADER_CHANGED);
        store_batch_away(store, ERR_LEADER_CHANGED);
        return;
    }
    store_reads_back(store);
    store_batch_back(store);
    if (store_is_live(store)) {
        store_tail_want(store);
    }
}

enum err store_health_error(const struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->health.sm.now < HEALTH_STATE_COUNT);
    if (store->health.fenced) {
        return ERR_LEADER_CHANGED;
    }
    return store_health_is_away(&store->health) ? ERR_NO_LEADER : ERR_OK;
}

void store_health_turn(struct store *store)
{
    ASSERT(store_is_sound(store));
    enum err err = store_health_error(store);
    if (err != ERR_OK) {
        store_answer_all(&store->leases.waiting, err);
        store_answer_all(&store->queue, err);
        ASSERT(store->queue.count == 0);
    }
}
