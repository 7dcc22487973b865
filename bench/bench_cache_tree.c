/*
 * Writing: a load in order and in random order, puts in batches as the store makes them, compaction
 * and trimming; and what a key costs in memory beyond its own bytes.
 */
#include "bench.h"

#include <malloc.h>
#include <stdio.h>

#include "cache/cache.h"
#include "core/clock.h"
#include "core/mem.h"

enum { KEY_SIZE = 64 };

struct world {
    struct reclaim reclaim;
    struct cache *cache;
    struct rng rng;
    uint64_t keys;
    uint64_t value_size;
    uint8_t *value;
    int64_t revision;
};

/* Kubernetes' form, padded to 64 bytes: namespaces of some hundred pods. */
static struct slice key_of(uint8_t key[KEY_SIZE + 1], uint64_t index)
{
    int size =
        snprintf((char *)key, KEY_SIZE + 1, "/registry/pods/namespace-%05llu/workload-%016llu",
                 (unsigned long long)(index / 300), (unsigned long long)index);
    ASSERT(size > 0 && size <= KEY_SIZE);
    memset(key + size, 'x', (size_t)(KEY_SIZE - size));
    return slice_of(key, KEY_SIZE);
}

static void put(struct world *world, struct cache_edit *edit, uint64_t index, int64_t version)
{
    uint8_t key[KEY_SIZE + 1];
    struct cache_row row = {.revision = ++world->revision,
                            .key = key_of(key, index),
                            .value = slice_of(world->value, world->value_size),
                            .create_rev = 2,
                            .version = version};
    (void)cache_edit_apply(edit, &row);
}

/* Bytes in use by malloc, its own overhead included. */
static uint64_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return (uint64_t)info.uordblks + (uint64_t)info.hblkhd;
}

static void world_init(struct world *world, uint64_t keys, uint64_t value_size)
{
    *world = (struct world){.keys = keys, .value_size = value_size, .revision = 1};
    rng_seed(&world->rng, 1);
    reclaim_init(&world->reclaim);
    world->cache = cache_new(&world->reclaim);
    world->value = mem_alloc(value_size);
}

static void world_fini(struct world *world)
{
    cache_free(world->cache);
    reclaim_fini(&world->reclaim);
    mem_free(world->value);
}

static uint64_t checksum_of(const struct world *world)
{
    const struct cache_info *info = cache_snapshot_info(cache_snapshot(world->cache));
    uint64_t checksum = bench_mix(info->live_keys, info->logical_bytes);
    return bench_mix(checksum, (uint64_t)info->revision);
}

/* All keys once, |stride| keys apart (coprime to their number), 1000 a publish. */
static void load(struct world *world, uint64_t stride, const char *name)
{
    uint64_t start_ns = bench_now_ns();
    uint64_t index = 0;
    for (uint64_t done = 0; done < world->keys;) {
        struct cache_edit *edit = cache_edit_begin(world->cache);
        for (uint64_t i = 0; i < 1000 && done < world->keys; i++, done++) {
            put(world, edit, index, 1);
            index = (index + stride) % world->keys;
        }
        cache_edit_publish(edit);
        (void)reclaim_run(&world->reclaim);
    }
    bench_report(name, world->keys, bench_now_ns() - start_ns, checksum_of(world));
}

static void report_memory(const struct world *world, uint64_t heap_before, const char *name)
{
    struct cache_memory memory;
    cache_memory(world->cache, &memory);
    uint64_t own = world->keys * (KEY_SIZE + world->value_size);
    double keys = (double)world->keys;
    char line[96];
    (void)snprintf(line, sizeof(line), "cache/memory/%s/index", name);
    bench_figure(line, (double)(heap_bytes() - heap_before - own) / keys, "bytes/key");
    (void)snprintf(line, sizeof(line), "cache/memory/%s/nodes", name);
    bench_figure(line, (double)memory.node_bytes / keys, "bytes/key");
    (void)snprintf(line, sizeof(line), "cache/memory/%s/events", name);
    bench_figure(line, (double)memory.event_bytes / keys, "bytes/key");
    (void)snprintf(line, sizeof(line), "cache/memory/%s/retired", name);
    bench_figure(line, (double)memory.retired_objects, "objects");
}

static void puts_in_batches(struct world *world, uint64_t batch, uint64_t puts)
{
    uint64_t start_ns = bench_now_ns();
    for (uint64_t done = 0; done < puts; done += batch) {
        struct cache_edit *edit = cache_edit_begin(world->cache);
        for (uint64_t i = 0; i < batch; i++) {
            put(world, edit, rng_below(&world->rng, world->keys), 2);
        }
        cache_edit_publish(edit);
        (void)reclaim_run(&world->reclaim);
    }
    char name[64];
    (void)snprintf(name, sizeof(name), "cache/put/batch-%llu", (unsigned long long)batch);
    bench_report(name, (puts + batch - 1) / batch * batch, bench_now_ns() - start_ns,
                 checksum_of(world));
}

static void compact_and_trim(struct world *world)
{
    uint64_t events = cache_snapshot_info(cache_snapshot(world->cache))->event_end;
    uint64_t start_ns = bench_now_ns();
    struct cache_edit *edit = cache_edit_begin(world->cache);
    cache_edit_set_compact_rev(edit, world->revision);
    cache_edit_publish(edit);
    while (cache_trim(world->cache, 1000)) {
        (void)reclaim_run(&world->reclaim);
    }
    bench_report("cache/trim/event", events, bench_now_ns() - start_ns, checksum_of(world));
}

int main(void)
{
    uint64_t keys = bench_param("keys", 2000, 1000000);
    uint64_t puts = bench_param("puts", 2000, 500000);
    uint64_t value_size = bench_param("value_size", 64, 64);
    struct world world;

    uint64_t heap_before = heap_bytes();
    world_init(&world, keys, value_size);
    load(&world, 1, "cache/load/in-order");
    report_memory(&world, heap_before, "in-order");
    world_fini(&world);

    heap_before = heap_bytes();
    world_init(&world, keys, value_size);
    load(&world, 777767, "cache/load/random");
    report_memory(&world, heap_before, "random");
    puts_in_batches(&world, 1, puts / 10);
    puts_in_batches(&world, 64, puts);
    puts_in_batches(&world, 256, puts);
    puts_in_batches(&world, 1000, puts);
    compact_and_trim(&world);
    report_memory(&world, heap_before, "compacted");
    world_fini(&world);
    return 0;
}
