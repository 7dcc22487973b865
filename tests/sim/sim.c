/*
 * Goal: the promises of docs/architecture.md hold whatever the network, the clocks and the
 * database's connections do.
 * Method: for each seed, some seconds of chaos in a simulated world, then rest; every answer and
 * every event is held against the log as it came to be. A failure prints its seed: replay it with
 * --first.
 *
 *     sim [--seeds N] [--first S] [-v]      DROVER_SEED=S, DROVER_LONG=1
 */
#include "sim.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/log.h"
#include "store/internal.h" /* To show what a failed world looked like. */

enum {
    CHAOS_MIN_MS = 3000,
    CHAOS_MAX_MS = 8000,
    REST_MS = 14000,
    SEEDS = 6000,
    SEEDS_LONG = 100000
};

void sim_fail(struct world *world, const char *what)
{
    (void)fflush(stdout);
    (void)fprintf(stderr, "sim: seed %llu at %.6f s: %s\n", (unsigned long long)world->seed,
                  (double)world->sched.now_ns / 1e9, what);
    for (uint32_t i = 0; i < world->replica_count; i++) {
        const struct replica *replica = &world->replicas[i];
        const struct store *store = replica->store;
        if (store == NULL) {
            (void)fprintf(stderr, "  replica %u: down\n", i);
            continue;
        }
        const struct cache_info *info = cache_snapshot_info(store_snapshot(store));
        (void)fprintf(stderr,
                      "  replica %u: %s, batch %s, health %s, seq %llu, revision %lld, compacted "
                      "%lld, %u queued, %u members%s%s%s%s\n",
                      i, sm_name(&store->life), sm_name(&store->batch.sm),
                      sm_name(&store->health.sm), (unsigned long long)store->seq,
                      (long long)info->revision, (long long)info->compact_rev, store->queue.count,
                      store->batch.members.count, replica->held ? ", held" : "",
                      replica->is_dying ? ", dying" : "", store->load != NULL ? ", loading" : "",
                      store->reload_wanted ? ", reload wanted" : "");
    }
    (void)fprintf(stderr, "  log: seq %llu, revision %lld, compacted %lld, deleted below %lld\n",
                  (unsigned long long)world->model.seq, (long long)world->model.revision,
                  (long long)world->model.compact_rev, (long long)world->db.deleted_below);
    exit(1);
}

/* No lease ends before its TTL has passed since it was last renewed, in true time. */
static void on_expire(void *arg, const struct fake_lease *lease)
{
    struct world *world = arg;
    uint64_t ttl_ns = (uint64_t)lease->lease.ttl_s * NS_PER_S;
    uint64_t least_ns = world->fast_clocks ? ttl_ns / 10 : ttl_ns;
    CHECK(world, world->sched.now_ns - lease->renewed_ns >= least_ns);
}

static void world_init(struct world *world, uint64_t seed)
{
    *world = (struct world){.seed = seed, .acked_rev = 1};
    sched_init(&world->sched, seed);
    fake_db_init(&world->db, &world->sched);
    model_init(&world->model);
    world->db.on_expire = on_expire;
    world->db.arg = world;
    world->replica_count = (uint32_t)sched_between(&world->sched, 1, REPLICAS_MAX);
    world->client_count = (uint32_t)sched_between(&world->sched, 2, CLIENTS_MAX);
    world->mode = (enum store_transaction_mode)sched_between(&world->sched, 0, 2);
    world->fast_clocks = sched_chance(&world->sched, 200);
    world->renews = sched_chance(&world->sched, 200);
    world->dense = sched_chance(&world->sched, 150);
    world->upkeep_ms = (uint32_t)sched_between(&world->sched, 100, 500);
    for (uint32_t i = 0; i < world->replica_count; i++) {
        world->replicas[i] = (struct replica){
            .clock = {NULL},
            .world = world,
            .index = i,
            .since_ns = world->sched.now_ns,
            .local_ns = sched_between(&world->sched, 1, 1000) * NS_PER_S,
            .percent = 100,
        };
        replica_init_clock(&world->replicas[i]);
    }
}

static void world_fini(struct world *world)
{
    for (uint32_t i = 0; i < world->replica_count; i++) {
        CHECK(world, world->replicas[i].store == NULL);
    }
    for (uint32_t i = 0; i < world->op_count; i++) {
        arena_fini(&world->ops[i]->arena);
        mem_free(world->ops[i]);
    }
    fake_db_fini(&world->db);
    model_fini(&world->model);
    mem_free(world->lives);
    sched_fini(&world->sched);
}

void sim_run_seed(uint64_t seed, struct world *world)
{
    world_init(world, seed);
    world_chaos_start(world);
    for (uint32_t i = 0; i < world->replica_count; i++) {
        replica_start(&world->replicas[i]);
    }
    clients_start(world);
    uint64_t chaos_ms = sched_between(&world->sched, CHAOS_MIN_MS, CHAOS_MAX_MS);
    world_run(world, (world->renews ? 3 * chaos_ms : chaos_ms) * NS_PER_MS);
    world_chaos_end(world);
    world_run(world, REST_MS * NS_PER_MS);
    check_rest(world);
    world_stop(world);
    world_fini(world);
}

int main(int argc, char **argv)
{
    static struct world world;
    const char *seed_text = getenv("DROVER_SEED");
    const char *long_text = getenv("DROVER_LONG");
    bool is_long = long_text != NULL && strcmp(long_text, "1") == 0;
    bool verbose = false;
    uint64_t first = seed_text == NULL ? 1 : strtoull(seed_text, NULL, 0);
    uint64_t seeds = is_long ? SEEDS_LONG : SEEDS;
    uint64_t acked = 0;
    uint64_t events = 0;
    uint64_t expiries = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-v") == 0) {
            verbose = true;
        } else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) {
            seeds = strtoull(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc) {
            first = strtoull(argv[++i], NULL, 0);
        } else {
            (void)fprintf(stderr, "usage: sim [--seeds N] [--first S] [-v]\n");
            return 2;
        }
    }
    log_init(verbose ? LOG_INFO : LOG_ERROR, LOG_PLAIN);
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        sim_run_seed(seed, &world);
        acked += world.acked;
        events += world.events_seen;
        expiries += world.expiries;
        if (verbose) {
            (void)printf("seed %llu: %llu acked, %llu events\n", (unsigned long long)seed,
                         (unsigned long long)world.acked, (unsigned long long)world.events_seen);
        }
    }
    (void)printf("sim: seeds %llu..%llu, %llu answers, %llu events, %llu expiries\n",
                 (unsigned long long)first, (unsigned long long)(first + seeds - 1),
                 (unsigned long long)acked, (unsigned long long)events,
                 (unsigned long long)expiries);
    return 0;
}
