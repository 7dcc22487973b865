/*
 * Goal: trimming keeps what must stay and frees the rest: tombstones at the compact revision stay
 * for watchers, dead keys leave the tree, old rows that a load brings are given up like others, a
 * held revision stops it, and an open edit neither loses nor stops it.
 * Method: small scripts; a reader that announces when told.
 */
#include "support.h"

#include "cache/cache.h"
#include "core/mem.h"

struct world {
    struct reclaim reclaim;
    struct reclaim_reader reader;
    struct cache *cache;
    uint32_t nudges;
};

static void count_nudge(struct reclaim_reader *reader)
{
    CONTAINER_OF(reader, struct world, reader)->nudges++;
}

static struct world *world_new(void)
{
    struct world *world = mem_alloc(sizeof(*world));
    reclaim_init(&world->reclaim);
    reclaim_add_reader(&world->reclaim, &world->reader);
    world->reader.nudge = count_nudge;
    world->cache = cache_new(&world->reclaim);
    return world;
}

static void world_free(struct world *world)
{
    assert_true(cache_is_sound(world->cache));
    cache_free(world->cache);
    reclaim_fini(&world->reclaim);
    mem_free(world);
}

/* Two turns: what was retired before has passed its grace period then. */
static void announce(struct world *world)
{
    (void)reclaim_run(&world->reclaim);
    reclaim_reader_announce(&world->reader, reclaim_reader_load(&world->reader));
    (void)reclaim_run(&world->reclaim);
}

static void row(struct cache_edit *edit, int64_t revision, const char *key, bool is_delete)
{
    struct cache_row row = {.revision = revision,
                            .is_delete = is_delete,
                            .key = slice_str(key),
                            .value = is_delete ? SLICE_EMPTY : SLICE_LIT("value"),
                            .create_rev = is_delete ? 0 : revision,
                            .version = is_delete ? 0 : 1};
    (void)cache_edit_apply(edit, &row);
}

static void write_one(struct world *world, int64_t revision, const char *key, bool is_delete)
{
    struct cache_edit *edit = cache_edit_begin(world->cache);
    row(edit, revision, key, is_delete);
    cache_edit_publish(edit);
}

static void compact(struct world *world, int64_t rev)
{
    struct cache_edit *edit = cache_edit_begin(world->cache);
    cache_edit_set_compact_rev(edit, rev);
    cache_edit_publish(edit);
}

static void trim_to_end(struct world *world)
{
    for (uint32_t i = 0; cache_trim(world->cache, 7); i++) {
        announce(world);
        assert_true(i < 1000);
    }
    assert_true(cache_is_sound(world->cache));
}

static const struct cache_info *info(const struct world *world)
{
    return cache_snapshot_info(cache_snapshot(world->cache));
}

static void a_tombstone_at_the_compact_revision_stays(void **state)
{
    (void)state;
    struct world *world = world_new();
    write_one(world, 2, "a", false);
    write_one(world, 3, "a", true);
    write_one(world, 4, "b", false);
    compact(world, 3);
    trim_to_end(world);
    const struct cache_version *event = cache_event(cache_snapshot(world->cache), 1);
    assert_true(cache_version_is_tombstone(event));
    assert_int_equal(cache_version_mod_rev(event), 3);
    assert_null(cache_version_older(event)); /* Its put is free, though. */
    assert_int_equal(info(world)->event_begin, 1);
    assert_null(cache_event(cache_snapshot(world->cache), 0));
    assert_int_equal(info(world)->logical_bytes, 1 + 1 + 5);
    compact(world, 4);
    trim_to_end(world);
    assert_null(cache_event(cache_snapshot(world->cache), 1));
    assert_int_equal(info(world)->logical_bytes, 1 + 5);
    struct cache_memory memory;
    cache_memory(world->cache, &memory);
    assert_int_equal(memory.value_bytes, 5);
    world_free(world);
}

static void a_key_made_again_keeps_its_new_life(void **state)
{
    (void)state;
    struct world *world = world_new();
    write_one(world, 2, "a", false);
    write_one(world, 3, "a", true);
    write_one(world, 4, "a", false);
    write_one(world, 5, "a", false);
    compact(world, 4);
    trim_to_end(world);
    const struct cache_version *version = NULL;
    assert_int_equal(cache_get(cache_snapshot(world->cache), SLICE_LIT("a"), 4, &version), ERR_OK);
    assert_int_equal(cache_version_mod_rev(version), 4);
    assert_null(cache_version_older(version));
    assert_int_equal(info(world)->logical_bytes, 12);
    world_free(world);
}

/* A load: old rows of keys whose earlier rows are gone, tombstones without a put; compact_rev and
 * the rest come afterwards. */
static void rows_older_than_the_compaction_may_be_loaded(void **state)
{
    (void)state;
    struct world *world = world_new();
    struct cache_edit *edit = cache_edit_begin(world->cache);
    row(edit, 5, "a", false);
    row(edit, 7, "gone", true);
    row(edit, 9, "b", false);
    cache_edit_publish(edit);
    edit = cache_edit_begin(world->cache);
    row(edit, 20, "a", false);
    row(edit, 21, "c", true);
    row(edit, 22, "d", false);
    cache_edit_set_revision(edit, 25);
    cache_edit_set_compact_rev(edit, 21);
    cache_edit_set_position(edit, 10, 1, 0);
    cache_edit_publish(edit);
    assert_int_equal(info(world)->event_begin, 4);
    trim_to_end(world);
    assert_int_equal(info(world)->live_keys, 3);
    assert_int_equal(info(world)->revision, 25);
    assert_int_equal(info(world)->logical_bytes, 6 + 6 + 1 + 6); /* a, b, c's tombstone, d. */
    const struct cache_version *version = NULL;
    assert_int_equal(cache_get(cache_snapshot(world->cache), SLICE_LIT("a"), 21, &version), ERR_OK);
    assert_int_equal(cache_version_mod_rev(version), 20);
    assert_int_equal(cache_get(cache_snapshot(world->cache), SLICE_LIT("b"), 21, &version), ERR_OK);
    assert_int_equal(cache_version_mod_rev(version), 9);
    world_free(world);
}

static void a_hold_stops_trimming_where_it_stands(void **state)
{
    (void)state;
    struct world *world = world_new();
    for (int64_t rev = 2; rev <= 9; rev++) {
        write_one(world, rev, rev % 2 == 0 ? "a" : "b", false);
    }
    reclaim_reader_hold(&world->reader, 5);
    compact(world, 9);
    for (uint32_t i = 0; i < 20; i++) {
        assert_true(cache_trim(world->cache, 3));
        announce(world);
    }
    assert_int_equal(cache_trimmed_rev(world->cache), 5);
    const struct cache_snapshot *snapshot = cache_snapshot(world->cache);
    uint64_t first = cache_event_at(snapshot, 6);
    assert_int_equal(first, 4);
    for (uint64_t n = first; n < info(world)->event_end; n++) {
        const struct cache_version *event = cache_event(snapshot, n);
        assert_int_equal(cache_version_mod_rev(event), n + 2);
        assert_int_equal(cache_version_mod_rev(cache_version_older(event)), n);
    }
    reclaim_reader_hold(&world->reader, RECLAIM_NO_HOLD);
    trim_to_end(world);
    assert_int_equal(cache_trimmed_rev(world->cache), 9);
    world_free(world);
}

/* A reader that sleeps is woken, and nothing is freed before it has ended a turn. */
static void a_sleeping_reader_is_nudged(void **state)
{
    (void)state;
    struct world *world = world_new();
    write_one(world, 2, "a", false);
    write_one(world, 3, "a", false);
    compact(world, 3);
    for (uint32_t i = 0; i < 5; i++) {
        assert_true(cache_trim(world->cache, 10));
        (void)reclaim_run(&world->reclaim);
    }
    assert_true(world->nudges > 0);
    assert_int_equal(info(world)->logical_bytes, 12);
    trim_to_end(world);
    assert_int_equal(info(world)->logical_bytes, 6);
    world_free(world);
}

/* |is_kept|: the open edit is published, else dropped; |makes_again|: it puts the dead key. */
static void trim_beside_an_edit(bool is_kept, bool makes_again)
{
    struct world *world = world_new();
    write_one(world, 2, "a", false);
    write_one(world, 3, "a", true);
    write_one(world, 4, "b", false);
    write_one(world, 5, "b", false);
    compact(world, 5);
    struct cache_edit *edit = cache_edit_begin(world->cache);
    row(edit, 6, makes_again ? "a" : "c", false);
    for (uint32_t i = 0; i < 10; i++) {
        assert_true(cache_trim(world->cache, 100)); /* The tombstone of "a" waits for the edit. */
        announce(world);
    }
    assert_int_equal(cache_snapshot_info(cache_edit_view(edit))->logical_bytes, 1 + 6 + 6);
    assert_int_equal(info(world)->logical_bytes, 1 + 6);
    if (is_kept) {
        cache_edit_publish(edit);
    } else {
        cache_edit_drop(edit);
    }
    trim_to_end(world);
    uint64_t tomb = is_kept && makes_again ? 1 : 0; /* Hangs behind the new "a". */
    assert_int_equal(info(world)->logical_bytes, 6 + (is_kept ? 6u : 0u) + tomb);
    assert_int_equal(info(world)->live_keys, is_kept ? 2 : 1);
    if (is_kept) {
        compact(world, 6);
        trim_to_end(world);
        assert_int_equal(info(world)->logical_bytes, 12);
    }
    world_free(world);
}

static void an_open_edit_does_not_stop_trimming(void **state)
{
    (void)state;
    trim_beside_an_edit(true, false);
    trim_beside_an_edit(true, true);
    trim_beside_an_edit(false, false);
    trim_beside_an_edit(false, true);
}

/* A tombstone whose key was made again before is an old value, not one to take out of the tree. */
static void a_tombstone_with_a_newer_version_is_not_buried(void **state)
{
    (void)state;
    struct world *world = world_new();
    write_one(world, 2, "a", true);
    write_one(world, 3, "a", false);
    write_one(world, 4, "b", false);
    compact(world, 4);
    struct cache_edit *edit = cache_edit_begin(world->cache);
    for (uint32_t i = 0; i < 10; i++) {
        (void)cache_trim(world->cache, 100);
        announce(world); /* What was cut is freed while the edit is open. */
    }
    assert_int_equal(cache_trimmed_rev(world->cache), 4);
    cache_edit_publish(edit);
    assert_int_equal(info(world)->live_keys, 2);
    world_free(world);
}

/* Against etcd's rules, but a database may hold it: one key twice in one revision. */
static void a_key_twice_in_the_compact_revision_is_kept(void **state)
{
    (void)state;
    struct world *world = world_new();
    write_one(world, 2, "a", false);
    struct cache_edit *edit = cache_edit_begin(world->cache);
    for (int32_t sub = 0; sub < 3; sub++) {
        struct cache_row row = {
            .revision = 3, .sub = sub, .key = SLICE_LIT("a"), .create_rev = 2, .version = 2 + sub};
        (void)cache_edit_apply(edit, &row);
    }
    cache_edit_publish(edit);
    compact(world, 3);
    trim_to_end(world);
    const struct cache_snapshot *snapshot = cache_snapshot(world->cache);
    for (uint64_t n = 1; n < 4; n++) {
        assert_int_equal(cache_version_sub(cache_event(snapshot, n)), n - 1);
    }
    write_one(world, 4, "b", false);
    compact(world, 4);
    trim_to_end(world);
    assert_int_equal(info(world)->logical_bytes, 1 + 6);
    world_free(world);
}

/* Whole chunks of events go, and the directory of chunks moves on. */
static void a_long_log_is_given_up(void **state)
{
    (void)state;
    struct world *world = world_new();
    int64_t rev = 1;
    for (uint32_t round = 0; round < 30; round++) {
        struct cache_edit *edit = cache_edit_begin(world->cache);
        for (uint32_t i = 0; i < 5000; i++) {
            row(edit, ++rev, i % 2 == 0 ? "a" : "b", i % 10 == 9);
        }
        cache_edit_set_compact_rev(edit, rev - 100);
        cache_edit_publish(edit);
        while (cache_trim(world->cache, 3000)) {
            announce(world);
        }
    }
    struct cache_memory memory;
    cache_memory(world->cache, &memory);
    assert_true(memory.event_bytes < 3 * 1024 * 8 + 64 * 1024);
    assert_true(memory.version_bytes < 200 * 64);
    world_free(world);
}

/* A snapshot that was loaded before the log moved on still reads its events, memory and all. */
static void events_of_an_older_snapshot_stay(void **state)
{
    (void)state;
    struct world *world = world_new();
    int64_t rev = 1;
    const struct cache_snapshot *pinned = NULL;
    for (uint32_t round = 0; round < 80; round++) { /* 80 chunks: the directory grows. */
        struct cache_edit *edit = cache_edit_begin(world->cache);
        for (uint32_t i = 0; i < 1024; i++) {
            row(edit, ++rev, i % 2 == 0 ? "a" : "b", false);
        }
        cache_edit_publish(edit);
        pinned = pinned == NULL ? cache_snapshot(world->cache) : pinned;
        (void)reclaim_run(&world->reclaim);
    }
    assert_int_equal(cache_version_mod_rev(cache_event(pinned, 0)), 2);
    assert_int_equal(cache_version_mod_rev(cache_event(pinned, 1023)), 1025);
    compact(world, rev);
    assert_true(cache_trim(world->cache, 1)); /* Waits for a turn to end ... */
    announce(world);
    pinned = cache_snapshot(world->cache); /* ... and this is the next turn. */
    for (uint32_t i = 0; i < 200; i++) {
        (void)cache_trim(world->cache, 5000);
        (void)reclaim_run(&world->reclaim);
    }
    assert_null(cache_event(cache_snapshot(world->cache), 5000));
    for (uint64_t n = 0; n < info(world)->event_end; n += 100) {
        assert_int_equal(cache_version_mod_rev(cache_event(pinned, n)), n + 2);
    }
    world_free(world);
}

/* The ring: the last publishes are hit exactly, at most LIMIT_SNAPSHOT_RING, none compacted. */
static void counts_at_recent_revisions_need_no_walk(void **state)
{
    (void)state;
    struct world *world = world_new();
    for (int64_t rev = 2; rev < 60; rev++) {
        char key[] = {'k', (char)rev, '\0'};
        write_one(world, rev, key, false);
        const struct cache_range all = cache_range_of(slice_of("", 1), slice_of("", 1));
        for (int64_t at = 1; at <= rev; at++) {
            uint64_t count = 0;
            assert_int_equal(cache_count(cache_snapshot(world->cache), &all, at, &count), ERR_OK);
            assert_int_equal(count, at - 1);
        }
        (void)reclaim_run(&world->reclaim);
    }
    struct cache_memory before;
    struct cache_memory after;
    announce(world);
    cache_memory(world->cache, &before);
    compact(world, 59);
    announce(world);
    cache_memory(world->cache, &after);
    assert_true(before.retired_objects >= LIMIT_SNAPSHOT_RING);
    assert_int_equal(after.retired_objects, 0); /* The ring has let go. */
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tombstone_at_the_compact_revision_stays),
        cmocka_unit_test(a_key_made_again_keeps_its_new_life),
        cmocka_unit_test(rows_older_than_the_compaction_may_be_loaded),
        cmocka_unit_test(a_hold_stops_trimming_where_it_stands),
        cmocka_unit_test(a_sleeping_reader_is_nudged),
        cmocka_unit_test(an_open_edit_does_not_stop_trimming),
        cmocka_unit_test(a_tombstone_with_a_newer_version_is_not_buried),
        cmocka_unit_test(a_key_twice_in_the_compact_revision_is_kept),
        cmocka_unit_test(a_long_log_is_given_up),
        cmocka_unit_test(events_of_an_older_snapshot_stay),
        cmocka_unit_test(counts_at_recent_revisions_need_no_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
