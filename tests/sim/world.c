/* Replicas, their clocks, what happens to them, and the turn of the world. */
#include "sim.h"

#include "core/log.h"

enum { TURNS_MAX = 1000, RESTART_MAX_MS = 1500 };

/* ---- clocks --------------------------------------------------------------------------------- */

static uint64_t replica_now_ns(const struct clock *clock)
{
    const struct replica *replica = (const struct replica *)(const void *)clock;
    uint64_t passed_ns = replica->world->sched.now_ns - replica->since_ns;
    return replica->local_ns + passed_ns / 100 * replica->percent;
}

void replica_init_clock(struct replica *replica)
{
    replica->clock.now_ns = replica_now_ns;
}

static void clock_set(struct replica *replica, uint32_t percent, uint64_t jump_ns)
{
    replica->local_ns = replica_now_ns(&replica->clock) + jump_ns;
    replica->since_ns = replica->world->sched.now_ns;
    replica->percent = percent;
    replica_touch(replica);
}

/* True time at which the clock will show |local_ns|. */
static uint64_t clock_true_ns(const struct replica *replica, uint64_t local_ns)
{
    uint64_t now_ns = replica_now_ns(&replica->clock);
    if (local_ns == UINT64_MAX || replica->percent == 0) {
        return UINT64_MAX;
    }
    if (local_ns <= now_ns) {
        return replica->world->sched.now_ns;
    }
    uint64_t behind_ns = local_ns - replica->local_ns;
    return replica->since_ns + (behind_ns / replica->percent + 1) * 100;
}

/* ---- life ----------------------------------------------------------------------------------- */

void replica_touch(struct replica *replica)
{
    replica->dirty = true;
}

static void on_deliver(void *arg)
{
    replica_touch(arg);
}

static void on_ready(void *arg, enum err err, const char *why)
{
    struct replica *replica = arg;
    if (err != ERR_OK) {
        sim_fail(replica->world, why);
    }
    replica->is_up = !replica->is_dying;
    if (replica->is_up) {
        watchers_open(replica);
    }
}

static void on_fatal(void *arg, enum err err, const char *why)
{
    struct replica *replica = arg;
    (void)err;
    sim_fail(replica->world, why);
}

void replica_start(struct replica *replica)
{
    struct world *world = replica->world;
    ASSERT(replica->store == NULL);
    rng_seed(&replica->rng, rng_next(&world->sched.rng));
    timers_init(&replica->timers, &replica->clock);
    reclaim_init(&replica->reclaim);
    replica->reader = (struct reclaim_reader){.hold_rev = RECLAIM_NO_HOLD};
    reclaim_add_reader(&replica->reclaim, &replica->reader);
    replica->log = fake_log_new(&world->db, on_deliver, replica);
    fake_log_set_faults(replica->log, &world->faults);
    struct store_config config = {
        .log = fake_log_base(replica->log),
        .timers = &replica->timers,
        .rng = &replica->rng,
        .reclaim = &replica->reclaim,
        .transaction_mode = world->mode,
        .poll_interval_ms = 100,
        .upkeep_interval_ms = world->upkeep_ms,
        .lease_margin_ms = 10,
        .max_txn_ops = LIMIT_TXN_OPS_MAX,
        .request_size_max = LIMIT_REQUEST_SIZE_MAX,
        .on_ready = on_ready,
        .on_fatal = on_fatal,
        .arg = replica,
    };
    replica->is_up = false;
    replica->is_dying = false;
    replica->is_stopped = false;
    replica->store = store_new(&config);
    store_start(replica->store);
    replica_touch(replica);
}

static void event_start(void *arg)
{
    struct replica *replica = arg;
    if (!replica->world->ending) {
        replica_start(replica);
    }
}

static void on_stopped(void *arg)
{
    struct replica *replica = arg;
    replica->is_stopped = true;
    replica_touch(replica);
}

/* A stop, or a crash: then nothing that it says afterwards arrives. */
static void replica_die(struct replica *replica, bool crash)
{
    if (replica->store == NULL || replica->is_dying) {
        return;
    }
    replica->is_dying = true;
    replica->is_up = false;
    replica->held = false;
    fake_log_hold(replica->log, false);
    watchers_close(replica);
    if (crash) {
        fake_log_set_reachable(replica->log, false);
    }
    store_stop(replica->store, on_stopped, replica);
    replica_touch(replica);
}

static void replica_bury(struct replica *replica)
{
    struct world *world = replica->world;
    store_free(replica->store);
    replica->store = NULL;
    reclaim_fini(&replica->reclaim);
    timers_fini(&replica->timers);
    replica->is_stopped = false;
    if (world->ending) {
        return;
    }
    sched_add(&world->sched, sched_between(&world->sched, 1, RESTART_MAX_MS) * NS_PER_MS,
              event_start, replica);
}

/* ---- turns ---------------------------------------------------------------------------------- */

static void replica_turn(struct replica *replica)
{
    uint32_t turns = 0;
    while (replica->dirty && !replica->held && replica->store != NULL) {
        CHECK(replica->world, turns++ < TURNS_MAX);
        replica->dirty = false;
        uint64_t epoch = reclaim_reader_load(&replica->reader);
        timers_run(&replica->timers);
        store_turn(replica->store);
        reclaim_reader_announce(&replica->reader, epoch);
        watchers_turn(replica);
        if (replica->is_stopped) {
            replica_bury(replica);
        }
    }
}

static void world_turn(struct world *world)
{
    for (uint32_t i = 0; i < world->replica_count; i++) {
        replica_turn(&world->replicas[i]);
    }
}

void world_run(struct world *world, uint64_t for_ns)
{
    uint64_t until_ns = world->sched.now_ns + for_ns;
    world_turn(world);
    for (;;) {
        uint64_t next_ns = sched_next_ns(&world->sched);
        struct replica *next = NULL;
        for (uint32_t i = 0; i < world->replica_count; i++) {
            struct replica *replica = &world->replicas[i];
            if (replica->store == NULL || replica->held) {
                continue;
            }
            uint64_t due_ns = clock_true_ns(replica, timers_next_due_ns(&replica->timers));
            if (due_ns < next_ns) {
                next_ns = due_ns;
                next = replica;
            }
        }
        if (next_ns > until_ns) {
            break;
        }
        if (next != NULL) {
            world->sched.now_ns = next_ns;
            replica_touch(next);
        } else {
            sched_run_one(&world->sched);
        }
        world_turn(world);
    }
    world->sched.now_ns = until_ns;
}

/* ---- chaos ---------------------------------------------------------------------------------- */

static void event_reachable(void *arg)
{
    struct replica *replica = arg;
    if (!replica->is_dying && replica->store != NULL) {
        fake_log_set_reachable(replica->log, true);
    }
}

static void event_release(void *arg)
{
    struct replica *replica = arg;
    replica->held = false;
    if (replica->store != NULL) {
        fake_log_hold(replica->log, false);
    }
    replica_touch(replica);
}

static void event_clock_right(void *arg)
{
    clock_set(arg, 100, 0);
}

static void chaos_clock(struct replica *replica)
{
    struct world *world = replica->world;
    uint64_t for_ns = sched_between(&world->sched, 50, 2000) * NS_PER_MS;
    switch (sched_between(&world->sched, 0, 3)) {
    case 0:
        clock_set(replica, 0, 0);
        break;
    case 1:
        clock_set(replica, 100, sched_between(&world->sched, 2, 20) * NS_PER_S);
        return;
    case 2:
        clock_set(replica, 10, 0);
        break;
    default:
        if (!world->fast_clocks) {
            return;
        }
        clock_set(replica, 1000, 0);
        break;
    }
    sched_add(&world->sched, for_ns, event_clock_right, replica);
}

/* Another replica with a fast clock, or an impatient operator. */
static void chaos_rows(struct world *world)
{
    struct sql_head head;
    fake_db_head(&world->db, &head);
    if (sched_chance(&world->sched, 500)) {
        uint64_t keep = sched_between(&world->sched, 0, 6);
        fake_db_trim(&world->db, head.seq > keep ? head.seq - keep : 0);
    } else if (head.compact_rev > world->db.deleted_below) {
        int64_t to = (int64_t)sched_between(&world->sched, (uint64_t)world->db.deleted_below,
                                            (uint64_t)head.compact_rev);
        (void)fake_db_purge(&world->db, head.compact_rev, world->db.deleted_below, to);
    }
}

static void event_identity(void *arg)
{
    struct world *world = arg;
    memcpy(world->db.live_identity, world->db.fence.identity, sizeof(world->db.live_identity));
}

/* The address leads to another database, for a while: a twin, so all that it says looks right. */
static void chaos_identity(struct world *world, uint64_t for_ns)
{
    (void)snprintf(world->db.live_identity, sizeof(world->db.live_identity), "another");
    sched_add(&world->sched, for_ns, event_identity, world);
}

static void event_chaos(void *arg)
{
    struct world *world = arg;
    struct sched *sched = &world->sched;
    if (!world->chaos) {
        return;
    }
    struct replica *replica = &world->replicas[rng_below(&sched->rng, world->replica_count)];
    uint64_t for_ns = sched_between(sched, 20, 3000) * NS_PER_MS;
    switch (sched_between(sched, 0, 10)) {
    case 0:
    case 1:
        if (replica->store != NULL && !replica->is_dying) {
            fake_log_set_reachable(replica->log, false);
            sched_add(sched, for_ns, event_reachable, replica);
        }
        break;
    case 2:
        if (replica->store != NULL && !replica->is_dying && !replica->held) {
            replica->held = true;
            fake_log_hold(replica->log, true);
            sched_add(sched, for_ns, event_release, replica);
        }
        break;
    case 3:
    case 4:
        chaos_clock(replica);
        break;
    case 5:
        replica_die(replica, sched_chance(sched, 600));
        break;
    case 6:
        chaos_identity(world, for_ns);
        break;
    default:
        chaos_rows(world);
        break;
    }
    sched_add(sched, sched_between(sched, 20, 800) * NS_PER_MS, event_chaos, world);
}

void world_chaos_start(struct world *world)
{
    struct sched *sched = &world->sched;
    world->chaos = true;
    uint32_t level = (uint32_t)sched_between(sched, 0, 60); /* Of 1000 statements, each kind. */
    world->faults = (struct fake_faults){
        .lose_answer = level,
        .lose_request = level / 2,
        .late = level,
        .twice = level,
        .fail = level / 2,
        .stall = level,
        .travel_ns = sched_chance(sched, 750) ? sched_between(sched, 50, 3000) * 1000
                                              : sched_between(sched, 20, 250) * NS_PER_MS,
        .stall_ns = sched_between(sched, 10, 1800) * NS_PER_MS,
        .late_ns = sched_between(sched, 1, 3000) * NS_PER_MS,
        .lose_hint = (uint32_t)sched_between(sched, 0, 1000),
    };
    sched_add(sched, sched_between(sched, 20, 500) * NS_PER_MS, event_chaos, world);
}

void world_chaos_end(struct world *world)
{
    world->chaos = false;
    event_identity(world);
    world->faults = (struct fake_faults){.travel_ns = 100 * 1000};
    for (uint32_t i = 0; i < world->replica_count; i++) {
        struct replica *replica = &world->replicas[i];
        clock_set(replica, 100, 0);
        replica->held = false;
        if (replica->store != NULL) {
            fake_log_set_faults(replica->log, &world->faults);
            fake_log_hold(replica->log, false);
            event_reachable(replica);
        }
    }
}

void world_stop(struct world *world)
{
    world->ending = true;
    for (uint32_t i = 0; i < world->replica_count; i++) {
        replica_die(&world->replicas[i], false);
    }
    world_run(world, 2 * NS_PER_S);
    /* Whatever is still under way has nobody left to arrive at. */
    while (sched_next_ns(&world->sched) != UINT64_MAX) {
        sched_run_one(&world->sched);
    }
}
