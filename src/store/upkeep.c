/*
 * What is done once or twice a second: heartbeat, duty, the other members, lease counters; and by
 * the owner of the duty, the removal of what a compaction made dead and of old entries.
 *
 * Dead rows go when every live member has applied the compaction, at most 10 minutes later (then a
 * member that is further behind loads again), and never above a pin. Each compaction has its own
 * ten minutes, from when this replica applied it, so that newer ones do not hold up older ones.
 *
 * Entries go when they are older than LIMIT_ENTRY_KEEP_MS by samples of (time, seq) on our own
 * monotonic clock, and applied by every live member, at most that long again: doubts are resolved
 * by them. The newest two stay, so that a start can check the chain of the newest.
 */
#include "store/internal.h"

enum {
    DUTY_MS_MIN = 3000,
    TRIM_BUDGET = 2000, /* Versions per turn. */
    SNAPSHOT_WARN_MS = 10 * 1000,
    SAMPLE_EVERY_MS = 2 * LIMIT_ENTRY_KEEP_MS / (TRIM_SAMPLES - 4),
    COMPACT_WAIT_MS = LIMIT_ENTRY_KEEP_MS / (COMPACT_WAITS - 4),
};

static void upkeep_due(struct timer *timer);

void store_upkeep_init(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->config.upkeep_interval_ms > 0);
    arena_init(&store->upkeep.arena, ARENA_NO_CEILING);
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

bool store_upkeep_is_sound(const struct store *store)
{
    const struct store_upkeep *upkeep = &store->upkeep;
    struct trim_sample sample = {0, 0};
    for (uint32_t i = 0; i < upkeep->sample_count; i++) {
        const struct trim_sample *next =
            &upkeep->samples[(upkeep->sample_first + i) % TRIM_SAMPLES];
        if (next->at_ns < sample.at_ns || next->seq < sample.seq || next->seq > store->seq) {
            return false;
        }
        sample = *next;
    }
    struct compact_wait wait = {0, 0, 0, 0};
    for (uint32_t i = 0; i < upkeep->wait_count; i++) {
        const struct compact_wait *next = &upkeep->waits[i];
        if (next->begun_ns < wait.at_ns || next->at_ns < next->begun_ns || next->seq < wait.seq ||
            next->revision < wait.revision || next->seq > store->seq) {
            return false;
        }
        wait = *next;
    }
    return upkeep->slice_revs >= 1 && upkeep->slice_revs <= LIMIT_DELETE_SLICE_REVS;
}

/* Every live member has applied entry |seq|. */
static bool members_have(const struct store_upkeep *upkeep, uint64_t self_id, uint64_t seq)
{
    ASSERT(upkeep->sample_count <= TRIM_SAMPLES);
    ASSERT(upkeep->member_count == 0 || upkeep->members != NULL);
    for (uint32_t i = 0; i < upkeep->member_count; i++) {
        if (upkeep->members[i].id != self_id && upkeep->members[i].applied_seq < seq) {
            return false;
        }
    }
    return true;
}

/* How many of |waits| are over. */
static uint32_t waits_over(const struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct store_upkeep *upkeep = &store->upkeep;
    uint32_t over = upkeep->wait_count;
    while (over > 0) {
        const struct compact_wait *wait = &upkeep->waits[over - 1];
        ASSERT(wait->seq <= store->seq && wait->begun_ns <= wait->at_ns);
        if (store_now_ns(store) - wait->at_ns >= LIMIT_ENTRY_KEEP_MS * NS_PER_MS ||
            members_have(upkeep, store->config.self.id, wait->seq)) {
            break;
        }
        over--;
    }
    return over;
}

void store_upkeep_compacted(struct store *store, uint64_t seq, int64_t revision)
{
    ASSERT(store_is_sound(store));
    ASSERT(seq == store->seq);
    struct store_upkeep *upkeep = &store->upkeep;
    struct compact_wait *waits = upkeep->waits;
    uint64_t now_ns = store_now_ns(store);
    uint32_t over = waits_over(store);
    if (over > 1) { /* The last one that is over says it for all before. */
        upkeep->wait_count -= over - 1;
        memmove(waits, &waits[over - 1], upkeep->wait_count * sizeof(*waits));
    }
    uint64_t begun_ns = now_ns;
    if (upkeep->wait_count > 0) {
        struct compact_wait *last = &waits[upkeep->wait_count - 1];
        ASSERT(last->revision <= revision && last->seq <= seq);
        bool joins = now_ns - last->begun_ns < COMPACT_WAIT_MS * NS_PER_MS;
        begun_ns = joins ? last->begun_ns : now_ns;
        upkeep->wait_count -= joins;
    }
    ASSERT(upkeep->wait_count < COMPACT_WAITS);
    waits[upkeep->wait_count++] = (struct compact_wait){begun_ns, now_ns, seq, revision};
}

/* ---- the statement -------------------------------------------------------------------------- */

static void sample_seq(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->upkeep.sample_count <= TRIM_SAMPLES);
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
    ASSERT(count <= LIMIT_MEMBERS + 1);
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

static void upkeep_rest(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(!store->upkeep.in_flight);
    uint64_t interval_ns = store->config.upkeep_interval_ms * NS_PER_MS;
    timers_arm(store->timers, &store->upkeep.timer, interval_ns, upkeep_due);
}

static void upkeep_done(struct sql_upkeep *request)
{
    ASSERT(request->done != NULL);
    struct store_upkeep *upkeep = CONTAINER_OF(request, struct store_upkeep, upkeep);
    struct store *store = CONTAINER_OF(upkeep, struct store, upkeep);
    ASSERT(upkeep->in_flight && !timer_is_armed(&upkeep->timer));
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
        if (store_leases_read(store, request->leases, request->lease_count)) {
            store_leases_expire(store);
        }
    }
    upkeep_rest(store);
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
        .want_duty = !leave && sm_is(&store->life, LIFE_READY) && store_is_live(store),
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

/* Now, or later: into another database nothing is written. */
static void upkeep_begin(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(!store->upkeep.in_flight);
    if (store->health.fenced) {
        upkeep_rest(store);
    } else {
        upkeep_send(store, false);
    }
}

static void upkeep_due(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_upkeep *upkeep = CONTAINER_OF(timer, struct store_upkeep, timer);
    struct store *store = CONTAINER_OF(upkeep, struct store, upkeep);
    ASSERT(!upkeep->in_flight);
    if (store_is_loaded(store) && !store->fatal && !sm_is(&store->life, LIFE_STOPPING)) {
        upkeep_begin(store);
    }
}

void store_upkeep_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    if (!store->upkeep.in_flight && !timer_is_armed(&store->upkeep.timer)) {
        upkeep_begin(store);
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

/* Up to where rows may go now; <= deleted_below: nowhere. */
static int64_t rows_target(const struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct store_upkeep *upkeep = &store->upkeep;
    uint32_t over = waits_over(store);
    int64_t target = over == 0 ? INT64_MIN : upkeep->waits[over - 1].revision;
    ASSERT(target <= cache_snapshot_info(cache_snapshot(store->cache))->compact_rev);
    for (uint32_t i = 0; i < upkeep->member_count; i++) {
        if (upkeep->members[i].pin_rev < target) {
            target = upkeep->members[i].pin_rev;
        }
    }
    return target;
}

/* Where we stood when the newest sample that is |age_ms| old was taken, or 0. */
static uint64_t seq_before(const struct store *store, uint64_t age_ms)
{
    ASSERT(store_is_sound(store));
    const struct store_upkeep *upkeep = &store->upkeep;
    uint64_t seq = 0;
    for (uint32_t i = 0; i < upkeep->sample_count; i++) {
        const struct trim_sample *sample =
            &upkeep->samples[(upkeep->sample_first + i) % TRIM_SAMPLES];
        if (store_now_ns(store) - sample->at_ns >= age_ms * NS_PER_MS) {
            seq = sample->seq;
        }
    }
    ASSERT(seq <= store->seq);
    return seq;
}

/* Entries below may go: old enough and applied by every live member, or older still; never the
 * newest two. */
static uint64_t entries_target(const struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct store_upkeep *upkeep = &store->upkeep;
    uint64_t target = seq_before(store, LIMIT_ENTRY_KEEP_MS);
    for (uint32_t i = 0; i < upkeep->member_count; i++) {
        if (upkeep->members[i].applied_seq < target) {
            target = upkeep->members[i].applied_seq;
        }
    }
    uint64_t at_least = seq_before(store, 2 * LIMIT_ENTRY_KEEP_MS);
    ASSERT(at_least <= store->seq && target <= store->seq);
    target = target > at_least ? target : at_least;
    return target < store->seq ? target : store->seq - (store->seq > 0);
}

static void purge_done(struct sql_purge *purge)
{
    ASSERT(purge->done != NULL);
    struct store_upkeep *upkeep = CONTAINER_OF(purge, struct store_upkeep, purge);
    struct store *store = CONTAINER_OF(upkeep, struct store, upkeep);
    ASSERT(upkeep->purging && purge->from_rev <= purge->to_rev);
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

/* From where on dead rows may still stand: who moved deleted_below last may not have finished.
 * Below it there are none, whoever has the duty. */
static int64_t purge_from(const struct store *store)
{
    ASSERT(store_is_sound(store));
    int64_t slice_begin = store->deleted_below - LIMIT_DELETE_SLICE_REVS;
    slice_begin = slice_begin > 0 ? slice_begin : 0;
    ASSERT(store->upkeep.purged_below <= store->deleted_below);
    return store->upkeep.purged_below > slice_begin ? store->upkeep.purged_below : slice_begin;
}

/*
 * Without the duty: up to where its owner has begun, if somebody here waits for that; else nowhere.
 * The log does not tell when the last slice was finished, so that is done here, too: what is gone
 * already costs a look, and deleted_below stays where it is.
 */
static int64_t rows_begun(const struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(!store_upkeep_is_owner(store));
    int64_t compact_rev = cache_snapshot_info(cache_snapshot(store->cache))->compact_rev;
    int64_t begun = store->deleted_below < compact_rev ? store->deleted_below : compact_rev;
    const struct store_request *r = store->upkeep.physical.first;
    while (r != NULL && r->u.compact.revision > begun) {
        r = r->next;
    }
    return r != NULL ? begun : INT64_MIN;
}

static void purge_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_upkeep *upkeep = &store->upkeep;
    if (upkeep->purging || !upkeep->trim_due || !sm_is(&store->life, LIFE_READY) ||
        !store_is_live(store) || store_health_error(store) != ERR_OK || upkeep->purge_failed) {
        return;
    }
    bool is_owner = store_upkeep_is_owner(store);
    int64_t from = purge_from(store);
    int64_t to = is_owner ? rows_target(store) : rows_begun(store);
    to = to < from ? from : to;
    to = to - from > upkeep->slice_revs ? from + upkeep->slice_revs : to;
    uint64_t entries = is_owner ? entries_target(store) : 0;
    ASSERT(from <= to && to - from <= LIMIT_DELETE_SLICE_REVS);
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
    ASSERT(store->upkeep.physical.count > 0);
    struct store_request *next = NULL;
    for (struct store_request *r = store->upkeep.physical.first; r != NULL; r = next) {
        next = r->next;
        int64_t revision = r->u.compact.revision;
        if (cache_trimmed_rev(store->cache) >= revision && purge_from(store) >= revision) {
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
