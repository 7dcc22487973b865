/*
 * Goal: threads read snapshots while the store thread edits, drops, compacts and trims, and each
 * sees one consistent state for the length of its turn, in memory that stays valid.
 * Method: each edit keeps an invariant that a reader can check by itself: in each revision R the
 * keys "0".."K-1" all have the same value, R of their last write, but for those deleted; walks,
 * counts, gets, history, events and leases must agree with each other. Thread sanitizer and address
 * sanitizer watch.
 */
#include "support.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "cache/cache.h"
#include "core/mem.h"

enum { READERS = 3, KEYS = 200, WAIT_EDITS = 20 };

struct world {
    struct reclaim reclaim;
    struct cache *cache;
    _Atomic bool stop;
    _Atomic uint64_t turns; /* Of all readers. */
};

struct reader_thread {
    struct reclaim_reader reader;
    struct world *world;
    pthread_t thread;
    uint64_t versions;
    uint64_t seed;
};

static struct slice key_of(uint8_t bytes[8], uint32_t index)
{
    static const uint8_t head[5] = {'/', 'k', 'e', 'y', '/'};
    memcpy(bytes, head, sizeof(head));
    bytes[5] = (uint8_t)('a' + index / 26 / 26);
    bytes[6] = (uint8_t)('a' + index / 26 % 26);
    bytes[7] = (uint8_t)('a' + index % 26);
    return slice_of(bytes, 8);
}

/* cmocka's assertions are for one thread only. */
static int64_t value_of(const struct cache_version *version)
{
    int64_t value = 0;
    ASSERT(cache_version_value(version).size == sizeof(value));
    memcpy(&value, cache_version_value(version).data, sizeof(value));
    return value;
}

static void read_at(struct reader_thread *thread, const struct cache_snapshot *snapshot,
                    int64_t at_rev)
{
    struct cache_range all = cache_range_of(SLICE_LIT("/key/"), SLICE_LIT("/key0"));
    struct cache_walk walk;
    enum err err = cache_walk_begin(&walk, snapshot, &all, at_rev);
    ASSERT(err == ERR_OK);
    uint64_t walked = 0;
    struct slice last = SLICE_EMPTY;
    const struct cache_version *version = cache_walk_next(&walk);
    for (; version != NULL; version = cache_walk_next(&walk)) {
        ASSERT(slice_compare(last, cache_version_key(version)) < 0);
        ASSERT(cache_version_mod_rev(version) <= at_rev);
        ASSERT(value_of(version) == cache_version_mod_rev(version));
        const struct cache_version *again = NULL;
        err = cache_get(snapshot, cache_version_key(version), at_rev, &again);
        ASSERT(err == ERR_OK && again == version);
        last = cache_version_key(version);
        walked++;
    }
    uint64_t count = 0;
    err = cache_count(snapshot, &all, at_rev, &count);
    ASSERT(err == ERR_OK && count == walked);
    ASSERT(count == KEYS - (uint64_t)at_rev % 7); /* The writer's promise. */
    thread->versions += walked;
}

static void read_events(const struct cache_snapshot *snapshot)
{
    const struct cache_info *info = cache_snapshot_info(snapshot);
    int64_t last = info->compact_rev;
    for (uint64_t n = info->event_begin; n < info->event_end; n++) {
        const struct cache_version *event = cache_event(snapshot, n);
        ASSERT(cache_version_mod_rev(event) >= last);
        last = cache_version_mod_rev(event);
        const struct cache_version *prev = cache_event_prev(snapshot, event);
        ASSERT(prev == NULL || value_of(prev) == cache_version_mod_rev(prev));
    }
}

static void read_leases(const struct cache_snapshot *snapshot)
{
    struct cache_lease lease;
    if (!cache_lease_get(snapshot, 7, &lease)) {
        return;
    }
    struct slice key = SLICE_EMPTY;
    uint64_t count = 0;
    while (cache_lease_key_next(snapshot, 7, count == 0, key, &key)) {
        count++;
    }
    ASSERT(count == lease.key_count);
}

/* As loop.h has it: load, work, announce. */
static void *reader_run(void *arg)
{
    struct reader_thread *thread = arg;
    struct rng rng;
    rng_seed(&rng, thread->seed);
    while (!atomic_load_explicit(&thread->world->stop, memory_order_relaxed)) {
        uint64_t epoch = reclaim_reader_load(&thread->reader);
        const struct cache_snapshot *snapshot = cache_snapshot(thread->world->cache);
        const struct cache_info *info = cache_snapshot_info(snapshot);
        int64_t lowest = info->compact_rev < 2 ? 2 : info->compact_rev;
        if (info->revision >= lowest) {
            read_at(thread, snapshot, info->revision);
            int64_t span = info->revision - lowest + 1;
            read_at(thread, snapshot, lowest + (int64_t)rng_below(&rng, (uint64_t)span));
            read_at(thread, snapshot, lowest);
            read_events(snapshot);
            read_leases(snapshot);
        }
        reclaim_reader_hold(&thread->reader,
                            rng_below(&rng, 2) == 0 ? RECLAIM_NO_HOLD : info->revision);
        reclaim_reader_announce(&thread->reader, epoch);
        atomic_fetch_add_explicit(&thread->world->turns, 1, memory_order_relaxed);
    }
    reclaim_reader_hold(&thread->reader, RECLAIM_NO_HOLD);
    return NULL;
}

/* In revision R, all keys but the last R % 7 are alive; some of them are written. */
static void write_revision(struct cache_edit *edit, struct rng *rng, int64_t revision)
{
    uint32_t alive = KEYS - (uint32_t)(revision % 7);
    int32_t sub = 0;
    for (uint32_t i = 0; i < KEYS; i++) {
        uint8_t bytes[8];
        struct slice key = key_of(bytes, i);
        const struct cache_version *now = NULL;
        enum err err = cache_get(cache_edit_view(edit), key, 0, &now);
        assert_int_equal(err, ERR_OK);
        bool is_delete = i >= alive;
        if (is_delete ? now == NULL : now != NULL && rng_below(rng, 20) != 0) {
            continue;
        }
        struct cache_row row = {.revision = revision,
                                .sub = sub++,
                                .is_delete = is_delete,
                                .key = key,
                                .value = slice_of(&revision, sizeof(revision)),
                                .create_rev = 1,
                                .version = 1,
                                .lease = rng_below(rng, 3) == 0 ? 7 : 0};
        (void)cache_edit_apply(edit, &row);
    }
    cache_edit_set_revision(edit, revision);
}

/* However the machine shares its processors out: reading goes on beside the writing. */
static void wait_for_readers(struct world *world)
{
    uint64_t before = atomic_load(&world->turns);
    (void)alarm(SUPPORT_HANG_S);
    while (atomic_load(&world->turns) < before + READERS) {
        (void)sched_yield();
    }
    (void)alarm(0);
}

static void writer_run(struct world *world, uint32_t edits)
{
    struct rng rng;
    rng_seed(&rng, support_seed());
    int64_t revision = 1;
    for (uint32_t i = 0; i < edits; i++) {
        struct cache_edit *edit = cache_edit_begin(world->cache);
        int64_t before = revision;
        for (uint64_t n = 1 + rng_below(&rng, 3); n > 0; n--) {
            write_revision(edit, &rng, ++revision);
            (void)cache_trim(world->cache, 100);
        }
        if (rng_below(&rng, 5) == 0) {
            cache_edit_grant(edit, 7, 60, i);
        }
        if (rng_below(&rng, 5) == 0) {
            int64_t compact_rev = cache_edit_info(edit)->compact_rev;
            int64_t target = revision - (int64_t)rng_below(&rng, 20);
            cache_edit_set_compact_rev(edit, target > compact_rev ? target : compact_rev);
        }
        if (rng_below(&rng, 6) == 0) {
            cache_edit_drop(edit);
            revision = before;
        } else {
            cache_edit_publish(edit);
        }
        (void)cache_trim(world->cache, 200);
        (void)reclaim_run(&world->reclaim);
        if (i % WAIT_EDITS == 0) {
            wait_for_readers(world);
        }
    }
}

static void readers_see_one_state_per_turn(void **state)
{
    (void)state;
    struct world *world = mem_alloc(sizeof(*world));
    struct reader_thread *threads = mem_alloc(READERS * sizeof(threads[0]));
    reclaim_init(&world->reclaim);
    world->cache = cache_new(&world->reclaim);
    for (uint32_t i = 0; i < READERS; i++) {
        threads[i].world = world;
        threads[i].seed = support_seed() + i;
        reclaim_add_reader(&world->reclaim, &threads[i].reader);
    }
    for (uint32_t i = 0; i < READERS; i++) {
        assert_int_equal(pthread_create(&threads[i].thread, NULL, reader_run, &threads[i]), 0);
    }
    writer_run(world, support_is_long() ? 20000 : 400);
    atomic_store(&world->stop, true);
    for (uint32_t i = 0; i < READERS; i++) {
        assert_int_equal(pthread_join(threads[i].thread, NULL), 0);
        reclaim_reader_announce(&threads[i].reader, UINT64_MAX);
    }
    while (cache_trim(world->cache, 10000)) {
        (void)reclaim_run(&world->reclaim);
    }
    assert_true(cache_is_sound(world->cache));
    cache_free(world->cache);
    reclaim_fini(&world->reclaim);
    mem_free(threads);
    mem_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_see_one_state_per_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
