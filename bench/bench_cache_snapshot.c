/* Reading: point gets, ranges of 500, counts at the newest revision, in the ring and in history. */
#include "bench.h"

#include <stdio.h>

#include "cache/cache.h"
#include "core/clock.h"
#include "core/mem.h"

enum { KEY_SIZE = 64, RANGE = 500 };

struct world {
    struct reclaim reclaim;
    struct cache *cache;
    struct rng rng;
    uint64_t keys;
    int64_t revision;
};

static struct slice key_of(uint8_t key[KEY_SIZE + 1], uint64_t index)
{
    int size =
        snprintf((char *)key, KEY_SIZE + 1, "/registry/pods/namespace-%05llu/workload-%08llu",
                 (unsigned long long)(index / 300), (unsigned long long)index);
    ASSERT(size > 0 && size <= KEY_SIZE);
    memset(key + size, 'x', (size_t)(KEY_SIZE - size));
    return slice_of(key, KEY_SIZE);
}

static void put(struct world *world, struct cache_edit *edit, uint64_t index, int64_t version)
{
    static const uint8_t value[256];
    uint8_t key[KEY_SIZE + 1];
    struct cache_row row = {.revision = ++world->revision,
                            .key = key_of(key, index),
                            .value = slice_of(value, sizeof(value)),
                            .create_rev = 2,
                            .version = version};
    (void)cache_edit_apply(edit, &row);
}

/* All keys in random order, then some of them again, so that there is history and a ring. */
static void fill(struct world *world, uint64_t updates)
{
    uint64_t index = 0;
    for (uint64_t done = 0; done < world->keys + updates;) {
        struct cache_edit *edit = cache_edit_begin(world->cache);
        for (uint64_t i = 0; i < 256 && done < world->keys + updates; i++, done++) {
            index = done < world->keys ? (index + 777767) % world->keys
                                       : rng_below(&world->rng, world->keys);
            put(world, edit, index, done < world->keys ? 1 : 2);
        }
        cache_edit_publish(edit);
        (void)reclaim_run(&world->reclaim);
    }
}

/* Keys are made before the clock starts. */
static uint8_t (*keys_make(struct world *world, uint64_t count))[KEY_SIZE + 1]
{
    uint8_t(*keys)[KEY_SIZE + 1] = mem_alloc(count * sizeof(keys[0]));
    for (uint64_t i = 0; i < count; i++) {
        (void)key_of(keys[i], rng_below(&world->rng, world->keys));
    }
    return keys;
}

static void gets(struct world *world, uint64_t count, uint64_t hot)
{
    uint8_t(*keys)[KEY_SIZE + 1] = keys_make(world, hot);
    const struct cache_snapshot *snapshot = cache_snapshot(world->cache);
    uint64_t checksum = 0;
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        const struct cache_version *version = NULL;
        enum err err = cache_get(snapshot, slice_of(keys[i % hot], KEY_SIZE), 0, &version);
        ASSERT(err == ERR_OK && version != NULL);
        checksum += (uint64_t)cache_version_mod_rev(version);
    }
    char name[64];
    (void)snprintf(name, sizeof(name), "cache/get/%llu-hot", (unsigned long long)hot);
    bench_report(name, count, bench_now_ns() - start_ns, checksum);
    mem_free(keys);
}

static void ranges(struct world *world, uint64_t count, int64_t at_rev, const char *name)
{
    uint64_t starts = 1000;
    uint8_t(*keys)[KEY_SIZE + 1] = keys_make(world, starts);
    const struct cache_snapshot *snapshot = cache_snapshot(world->cache);
    uint64_t checksum = 0;
    uint64_t walked = 0;
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        struct cache_range range =
            cache_range_of(slice_of(keys[i % starts], KEY_SIZE), slice_of("", 1));
        struct cache_walk walk;
        enum err err = cache_walk_begin(&walk, snapshot, &range, at_rev);
        ASSERT(err == ERR_OK);
        for (uint32_t k = 0; k < RANGE; k++) {
            const struct cache_version *version = cache_walk_next(&walk);
            if (version == NULL) {
                break;
            }
            checksum += cache_version_encoded(version).size;
            walked++;
        }
    }
    bench_report(name, walked, bench_now_ns() - start_ns, checksum);
    mem_free(keys);
}

static void counts(struct world *world, uint64_t count, int64_t at_rev, const char *name)
{
    uint64_t bounds = 1000;
    uint8_t(*keys)[KEY_SIZE + 1] = keys_make(world, bounds + 1);
    const struct cache_snapshot *snapshot = cache_snapshot(world->cache);
    uint64_t checksum = 0;
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0; i < count; i++) {
        struct cache_range range = cache_range_of(slice_of(keys[i % bounds], KEY_SIZE),
                                                  slice_of(keys[i % bounds + 1], KEY_SIZE));
        uint64_t found = 0;
        enum err err = cache_count(snapshot, &range, at_rev, &found);
        ASSERT(err == ERR_OK);
        checksum += found;
    }
    bench_report(name, count, bench_now_ns() - start_ns, checksum);
    mem_free(keys);
}

int main(void)
{
    struct world world = {.keys = bench_param("keys", 2000, 1000000), .revision = 1};
    uint64_t reads = bench_param("reads", 1000, 2000000);
    rng_seed(&world.rng, 1);
    reclaim_init(&world.reclaim);
    world.cache = cache_new(&world.reclaim);
    fill(&world, bench_param("updates", 500, 100000));
    gets(&world, reads, 1000);
    gets(&world, reads, world.keys);
    ranges(&world, reads / RANGE + 1, 0, "cache/range-500/newest");
    ranges(&world, reads / RANGE + 1, world.revision - 300, "cache/range-500/history");
    counts(&world, reads / 10, 0, "cache/count/newest");
    counts(&world, 3, world.revision - 300, "cache/count/history");
    cache_free(world.cache);
    reclaim_fini(&world.reclaim);
    return 0;
}
