/*
 * What is done once or twice a second: heartbeat, duty, the other members, lease counters; and by
 * the owner of the duty, the removal of what a compaction made dead and of old entries.
 *
 * Dead rows go when every live member has applied the compaction, at most 10 minutes later (then a
 * member that is further behind loads again), and never above a pin. Entries go when they are older
 * than LIMIT_ENTRY_KEEP_MS by samples of (time, seq) on our own monotonic clock, and applied by
 * every live member: doubts are resolved by them.
 */
#include "store/internal.h"

enum {
    DUTY_MS_MIN = 3000,
    TRIM_BUDGET = 2000, /* Versions per turn. */
    SNAPSHOT_WARN_MS = 10 * 1000,
    SAMPLE_EVERY_MS = LIMIT_ENTRY_KEEP_MS / (TRIM_SAMPLES - 4),
};

static void upkeep_due(struct timer *timer);

void store_upkeep_init(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->config.upkeep_interval_ms > 0);
    arena_init(&store->upkeep.arena, SIZE_MAX / 4);
    store->upkeep.slice_revs = LIMIT_DELETE_SLICE_REVS;
}

void store_upkeep_fini(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(!store->upkeep.in_flight && !store->upkeep.purging);
    timers_disarm(store->timers, &store->upkeep.timer);
    arena_fini(&store->upkeep.arena);
    mem_free(store->upkeep.members);
}

bool store_upkeep_is_owner(const struct store *store)
{
    ASSERT(store_is_sound(store));
    return store->upkeep.duty_owner == store->config.self.id;
}

void store_upkeep_compacted(struct store *store, uint64_t seq)
{
    ASSERT(store_is_sound(store));
    store->upkeep.compact_ns = store_now_ns(store);
    store->upkeep.compact_seq = seq;
}

/* ---- the statement -------------------------------------------------------------------------- */

static void sample_seq(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_upkeep *upkeep = &store->upkeep;
    uint64_t now_ns = store_now_ns(store);
    uint32_t last = (upkeep->sample_first + upkeep->sample_count - 1) % TRIM_SAMPLES;
    if (upkeep->sample_count > 0 &&
        now_ns - upkeep->samples[last].at_ns < SAMPLE_EVERY_MS * NS_PER_MS) {
        return;
    }
    if (upkeep->sample_count == TRIM_SAMPLES) {
        upkeep->sample_first = (upkeep->sample_first + 1) % TRIM_SAMPLES;
        upkeep->sample_count--;
    }
    uint32_t at = (upkeep->sample_first + upkeep->sample_count++) % TRIM_SAMPLES;
    upkeep->samples[at] = (struct trim_sample){now_ns, store->seq};
}

static void keep_members(struct store_upkeep *upkeep)
{
    ASSERT(upkeep->sample_count <= TRIM_SAMPLES);
    uint32_t count = upkeep->upkeep.member_count;
    upkeep->member_count = 0;
    if (count > 0) {
        upkeep->members = mem_realloc(upkeep->members, count * sizeof(*upkeep->members));
        memcpy(upkeep->members, upkeep->upkeep.members, count * sizeof(*upkeep->members));
        upkeep->member_count = count;
    }
}

static void warn_of_snapshot(struct store_upkeep *upkeep)
{
    ASSERT(upkeep->sample_count <= TRIM_SAMPLES);
    bool old = upkeep->upkeep.oldest_snapshot_ms > SNAPSHOT_WARN_MS;
    if (old && !upkeep->snapshot_warned) {
        LOG(LOG_WARN, "an old snapshot is open in the database",
            LINT("age_ms", upkeep->upkeep.oldest_snapshot_ms));
    }
    upkeep->snapshot_warned = old;
}

static void upkeep_done(struct sql_upkeep *request)
{
    ASSERT(request->done != NULL);
    struct store_upkeep *upkeep = CONTAINER_OF(request, struct store_upkeep, upkeep);
    struct store *store = CONTAINER_OF(upkeep, struct store, upkeep);
    upkeep->in_flight = false;
    upkeep->told = true;
    store_health_end(store, request->err == ERR_OK);
    if (request->leave) {
        upkeep->left = true;
        return;
    }
    if (request->err == ERR_OK && store_is_loaded(store)) {
        upkeep->duty_owner = request->duty_owner;
        upkeep->duty_term = request->duty_term;
        upkeep->database_bytes = request->database_bytes;
        keep_members(upkeep);
        warn_of_snapshot(upkeep);
        sample_seq(store);
        upkeep->trim_due = true;
        upkeep->purge_failed = false;
        store->facts_stale = true;
        store_leases_read(store, request->leases, request->lease_count);
        store_leases_expire(store);
    }
    uint64_t interval_ns = store->config.upkeep_interval_ms * NS_PER_MS;
    timers_arm(store->timers, &upkeep->timer, interval_ns, upkeep_due);
    store_ready_go_on(store);
}

static void upkeep_send(struct store *store, bool leave)
{
    ASSERT(store_is_sound(store));
    struct store_upkeep *upkeep = &store->upkeep;
    ASSERT(!upkeep->in_flight);
    uint32_t duty_ms = 4 * store->config.upkeep_interval_ms;
    arena_reset(&upkeep->arena);
    upkeep->upkeep = (struct sql_upkeep){
        .self = store->config.self,
        .want_duty = !leave && sm_is(&store->life, LIFE_READY) && store_is_live(store) &&
                     !store->health.fenced,
        .leave = leave,
        .duty_ms = duty_ms > DUTY_MS_MIN ? duty_ms : DUTY_MS_MIN,
        .arena = &upkeep->arena,
        .done = upkeep_done,
    };
    upkeep->upkeep.self.applied_seq = store->seq;
    upkeep->upkeep.self.pin_rev = INT64_MAX;
    upkeep->in_flight = true;
    store_health_begin(store);
    store->log->ops->upkeep(store->log, &upkeep->upkeep);
}

static void upkeep_due(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_upkeep *upkeep = CONTAINER_OF(timer, struct store_upkeep, timer);
    struct store *store = CONTAINER_OF(upkeep, struct store, upkeep);
    if (store_is_loaded(store) && !store->fatal && !sm_is(&store->life, LIFE_STOPPING)) {
        upkeep_send(store, false);
    }
}

void store_upkeep_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    if (!store->upkeep.in_flight && !timer_is_armed(&store->upkeep.timer)) {
        upkeep_send(store, false);
    }
}

void store_upkeep_leave(struct store *store)
{
    ASSERT(store_is_sound(store));
    timers_disarm(store->timers, &store->upkeep.timer);
    if (!store->upkeep.in_flight) {
        upkeep_send(store, true);
    }
}

/* ---- purge ---------------------------------------------------------------------------------- */

/* Every live member has applied entry |seq|, or it was long enough ago. */
static bool members_have(const struct store *store, uint64_t seq, uint64_t since_ns)
{
    ASSERT(store_is_sound(store));
    const struct store_upkeep *upkeep = &store->upkeep;
    if (store_now_ns(store) - since_ns >= LIMIT_ENTRY_KEEP_MS * NS_PER_MS) {
        return true;
    }
    for (uint32_t i = 0; i < upkeep->member_count; i++) {
        if (upkeep->members[i].id != store->config.self.id &&
            upkeep->members[i].applied_seq < seq) {
            return false;
        }
    }
    return true;
}

/* Up to where rows may go now; <= deleted_below: nowhere. */
static int64_t rows_target(const struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct store_upkeep *upkeep = &store->upkeep;
    int64_t target = cache_snapshot_info(cache_snapshot(store->cache))->compact_rev;
    for (uint32_t i = 0; i < upkeep->member_count; i++) {
        if (upkeep->members[i].pin_rev < target) {
            target = upkeep->members[i].pin_rev;
        }
    }
    return members_have(store, upkeep->compact_seq, upkeep->compact_ns) ? target : INT64_MIN;
}

/* Entries below may go: old enough, and applied by every live member. */
static uint64_t entries_target(const struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct store_upkeep *upkeep = &store->upkeep;
    uint64_t target = 0;
    uint64_t now_ns = store_now_ns(store);
    for (uint32_t i = 0; i < upkeep->sample_count; i++) {
        const struct trim_sample *sample =
            &upkeep->samples[(upkeep->sample_first + i) % TRIM_SAMPLES];
        if (now_ns - sample->at_ns >= LIMIT_ENTRY_KEEP_MS * NS_PER_MS) {
            target = sample->seq;
        }
    }
    for (uint32_t i = 0; i < upkeep->member_count; i++) {
        if (upkeep->members[i].applied_seq < target) {
            target = upkeep->members[i].applied_seq;
        }
    }
    ASSERT(target <= store->seq);
    return target;
}

static void purge_done(struct sql_purge *purge)
{
    ASSERT(purge->done != NULL);
    struct store_upkeep *upkeep = CONTAINER_OF(purge, struct store_upkeep, purge);
    struct store *store = CONTAINER_OF(upkeep, struct store, upkeep);
    upkeep->purging = false;
    if (purge->err != ERR_OK) {
        upkeep->trim_due = false; /* Again after the next upkeep, in smaller slices. */
        upkeep->purge_failed = true;
        upkeep->slice_revs = upkeep->slice_revs > 1 ? upkeep->slice_revs / 2 : 1;
        return;
    }
    if (purge->rows_deleted < purge->rows_max && purge->to_rev > upkeep->purged_below) {
        upkeep->purged_below = purge->to_rev;
        uint32_t revs = 2 * upkeep->slice_revs;
        upkeep->slice_revs = revs < LIMIT_DELETE_SLICE_REVS ? revs : LIMIT_DELETE_SLICE_REVS;
    }
    if (purge->to_rev > store->deleted_below) {
        store->deleted_below = purge->to_rev;
    }
    if (purge->entries_below > upkeep->trimmed) {
        upkeep->trimmed = purge->entries_below;
    }
}

/* From where on dead rows may still stand: who moved deleted_below last may not have finished. */
static int64_t purge_from(const struct store *store)
{
    ASSERT(store_is_sound(store));
    int64_t slice_begin = store->deleted_below - LIMIT_DELETE_SLICE_REVS;
    slice_begin = slice_begin > 0 ? slice_begin : 0;
    return store->upkeep.purged_below > slice_begin ? store->upkeep.purged_below : slice_begin;
}

static void purge_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_upkeep *upkeep = &store->upkeep;
    if (upkeep->purging || !upkeep->trim_due || !store_upkeep_is_owner(store) ||
        !sm_is(&store->life, LIFE_READY) || !store_is_live(store) || store->health.fenced ||
        store_health_is_away(&store->health) || upkeep->purge_failed) {
        return;
    }
    int64_t from = purge_from(store);
    int64_t to = rows_target(store);
    to = to < from ? from : to;
    to = to - from > upkeep->slice_revs ? from + upkeep->slice_revs : to;
    uint64_t entries = entries_target(store);
    if (to == from && entries <= upkeep->trimmed) {
        upkeep->trim_due = false;
        return;
    }
    upkeep->purge = (struct sql_purge){
        .fence = store->fence,
        .compact_rev = cache_snapshot_info(cache_snapshot(store->cache))->compact_rev,
        .from_rev = from,
        .to_rev = to,
        .entries_below = entries,
        .rows_max = LIMIT_DELETE_SLICE_ROWS,
        .done = purge_done,
    };
    upkeep->purging = true;
    store->log->ops->purge(store->log, &upkeep->purge);
}

static void answer_physical(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_request *next = NULL;
    for (struct store_request *r = store->upkeep.physical.first; r != NULL; r = next) {
        next = r->next;
        int64_t revision = r->u.compact.revision;
        bool rows_gone = !store_upkeep_is_owner(store) || store->upkeep.purged_below >= revision;
        if (cache_trimmed_rev(store->cache) >= revision && rows_gone) {
            store_answer(r, ERR_OK);
        }
    }
}

void store_upkeep_turn(struct store *store)
{
    ASSERT(store_is_sound(store));
    if (!store_is_loaded(store)) {
        return;
    }
    store->trim_left = cache_trim(store->cache, TRIM_BUDGET);
    if (store->upkeep.physical.count > 0) {
        store->upkeep.trim_due = true;
        answer_physical(store);
    }
    purge_start(store);
}
