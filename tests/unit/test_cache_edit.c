/*
 * Goal: whatever is applied, published, dropped, compacted and trimmed, every snapshot shows
 * exactly the history up to its publish, for as long as somebody may look at it.
 * Method: random programs against the list of all rows. A reader pins snapshots as a loop's turn
 * does, or holds a revision, and compares them after many more edits and trims; sanitizers see
 * memory that went too early, or never.
 */
#include "support.h"
#include "support_history.h"

#include "core/mem.h"

enum { READERS = 2 };

struct pin {
    struct reclaim_reader reader;
    const struct cache_snapshot *snapshot; /* NULL: between turns. */
    struct history_view view;
    uint64_t epoch;
    uint32_t edits_left;
    int64_t hold_rev; /* RECLAIM_NO_HOLD: none. */
};

struct world {
    struct rng rng;
    struct support_keys keys;
    struct history history;
    struct history_view newest;
    struct reclaim reclaim;
    struct cache *cache;
    struct pin pins[READERS];
    uint64_t trims_done;
    uint32_t delete_percent;
};

static uint64_t below(struct world *world, uint64_t limit)
{
    return rng_below(&world->rng, limit);
}

static void check(struct world *world, const struct history_view *view,
                  const struct cache_snapshot *snapshot)
{
    history_check(&world->history, view, snapshot, &world->rng);
}

/* ---- the reader ------------------------------------------------------------------------------ */

/* A held revision: events above it are there, and what is visible at it and above is not freed. */
static void check_hold(struct world *world, const struct pin *pin)
{
    if (pin->hold_rev == RECLAIM_NO_HOLD) {
        return;
    }
    assert_true(cache_trimmed_rev(world->cache) <= pin->hold_rev);
    const struct cache_snapshot *snapshot = cache_snapshot(world->cache);
    uint64_t end = cache_snapshot_info(snapshot)->event_end;
    for (uint64_t n = cache_event_at(snapshot, pin->hold_rev + 1); n < end; n++) {
        const struct cache_version *event = cache_event(snapshot, n);
        assert_non_null(event);
        assert_int_equal(cache_version_mod_rev(event), world->history.rows[n].revision);
        int64_t prev =
            history_find(&world->history, (uint32_t)n, world->history.rows[n].key, INT64_MAX);
        if (prev >= 0 && !world->history.rows[prev].is_delete) {
            assert_slice_equal(cache_version_value(cache_version_older(event)),
                               world->history.rows[prev].value);
        }
    }
}

static void pin_step(struct world *world, struct pin *pin)
{
    if (pin->snapshot == NULL) {
        pin->epoch = reclaim_reader_load(&pin->reader);
        pin->snapshot = cache_snapshot(world->cache);
        pin->view = world->newest;
        pin->edits_left = (uint32_t)below(world, 30);
        check_hold(world, pin);
        if (below(world, 3) == 0) {
            int64_t rev = pin->view.revision;
            pin->hold_rev = below(world, 2) == 0 ? RECLAIM_NO_HOLD : rev;
            reclaim_reader_hold(&pin->reader, pin->hold_rev);
        }
    } else if (pin->edits_left > 0) {
        pin->edits_left--;
    } else {
        check(world, &pin->view, pin->snapshot);
        pin->snapshot = NULL;
        reclaim_reader_announce(&pin->reader, pin->epoch);
    }
}

/* ---- the writer ------------------------------------------------------------------------------ */

static void edit_write(struct world *world, struct cache_edit *edit, int64_t revision)
{
    uint64_t rows = 1 + below(world, below(world, 5) == 0 ? 20 : 3);
    uint32_t key = (uint32_t)below(world, world->keys.count);
    int32_t sub = 0;
    for (uint64_t i = 0; i < rows; i++) {
        uint8_t value[300];
        size_t size = below(world, below(world, 10) == 0 ? 300 : 10);
        memset(value, (int)below(world, 256), sizeof(value));
        int64_t lease = below(world, 5) == 0 ? (int64_t)below(world, 4) - 2 : 0;
        if (below(world, 100) >= world->delete_percent) {
            struct history_row row = {.revision = revision,
                                      .sub = sub++,
                                      .key = key,
                                      .value = slice_of(value, size),
                                      .lease = lease};
            history_put(&world->history, edit, row);
        } else {
            sub += history_delete(&world->history, edit, revision, sub, key);
        }
        /* Another key each time, as etcd's rules have it. */
        key = (key + 1 + (uint32_t)below(world, 3)) % world->keys.count;
        if (i + 1 >= world->keys.count / 4) {
            return;
        }
    }
}

static void edit_compact(struct world *world, struct cache_edit *edit, struct history_view *view)
{
    int64_t span = view->revision - view->compact_rev;
    int64_t rev = view->revision - (int64_t)below(world, (uint64_t)span + 1);
    if (rev > 0) {
        cache_edit_set_compact_rev(edit, rev);
        view->compact_rev = rev;
    }
}

static void trim_some(struct world *world)
{
    if (below(world, 2) == 0) {
        bool more = cache_trim(world->cache, 1 + (uint32_t)below(world, 40));
        int64_t compact_rev = cache_snapshot_info(cache_snapshot(world->cache))->compact_rev;
        assert_int_equal(more, cache_trimmed_rev(world->cache) < compact_rev);
        world->trims_done += !more;
    }
    if (below(world, 2) == 0) {
        (void)reclaim_run(&world->reclaim);
    }
}

static void edit_run(struct world *world)
{
    struct history_view view = world->newest;
    uint32_t count = world->history.count;
    struct cache_edit *edit = cache_edit_begin(world->cache);
    for (uint64_t writes = below(world, 4); writes > 0; writes--) {
        view.revision++;
        edit_write(world, edit, view.revision);
        cache_edit_set_revision(edit, view.revision); /* For the deletes of nothing. */
        view.count = world->history.count;
        if (below(world, 10) == 0) {
            check(world, &view, cache_edit_view(edit));
        }
        trim_some(world);
        pin_step(world, &world->pins[below(world, READERS)]);
        if (below(world, 15) == 0) {
            edit_compact(world, edit, &view);
        }
    }
    check(world, &view, cache_edit_view(edit));
    if (below(world, 4) == 0) {
        cache_edit_drop(edit);
        history_cut(&world->history, count);
    } else {
        cache_edit_set_position(edit, cache_edit_info(edit)->seq + 1, 1, 0);
        cache_edit_publish(edit);
        world->newest = view;
    }
    trim_some(world);
    check(world, &world->newest, cache_snapshot(world->cache));
}

static void world_init(struct world *world, uint64_t seed, uint32_t key_count)
{
    rng_seed(&world->rng, seed);
    support_keys_init(&world->keys, &world->rng, key_count);
    history_init(&world->history, &world->keys);
    world->newest = (struct history_view){.revision = 1, .compact_rev = -1};
    reclaim_init(&world->reclaim);
    for (uint32_t i = 0; i < READERS; i++) {
        reclaim_add_reader(&world->reclaim, &world->pins[i].reader);
        world->pins[i].hold_rev = RECLAIM_NO_HOLD;
    }
    world->cache = cache_new(&world->reclaim);
    world->delete_percent = 10 + (uint32_t)below(world, 50);
}

static void world_fini(struct world *world)
{
    cache_free(world->cache);
    reclaim_fini(&world->reclaim);
    history_fini(&world->history);
    support_keys_fini(&world->keys);
    mem_free(world);
}

/* All readers end their turns and let go. */
static void readers_leave(struct world *world)
{
    for (uint32_t i = 0; i < READERS; i++) {
        struct pin *pin = &world->pins[i];
        if (pin->snapshot != NULL) {
            check(world, &pin->view, pin->snapshot);
        }
        pin->snapshot = NULL;
        pin->hold_rev = RECLAIM_NO_HOLD;
        reclaim_reader_hold(&pin->reader, RECLAIM_NO_HOLD);
    }
}

static void readers_announce(struct world *world)
{
    for (uint32_t i = 0; i < READERS; i++) {
        reclaim_reader_announce(&world->pins[i].reader,
                                reclaim_reader_load(&world->pins[i].reader));
    }
}

/* Compact everything and trim to the end: one version per live key is left, no tombstone. */
static void world_empty_out(struct world *world)
{
    readers_leave(world);
    struct cache_edit *edit = cache_edit_begin(world->cache);
    cache_edit_set_revision(edit, world->newest.revision + 1);
    world->newest.revision++;
    world->newest.compact_rev = world->newest.revision;
    cache_edit_set_compact_rev(edit, world->newest.compact_rev);
    cache_edit_publish(edit);
    uint32_t turns = 0;
    while (cache_trim(world->cache, 100)) {
        readers_announce(world);
        (void)reclaim_run(&world->reclaim);
        turns++;
        assert_true(turns < 10 + world->history.count / 50);
    }
    assert_int_equal(cache_trimmed_rev(world->cache), world->newest.compact_rev);
    assert_true(cache_is_sound(world->cache));
    check(world, &world->newest, cache_snapshot(world->cache));
    const struct cache_info *info = cache_snapshot_info(cache_snapshot(world->cache));
    uint64_t logical = 0;
    uint64_t live = 0;
    struct cache_range all = cache_range_of(slice_of("", 1), slice_of("", 1));
    struct cache_walk walk;
    assert_int_equal(cache_walk_begin(&walk, cache_snapshot(world->cache), &all, 0), ERR_OK);
    const struct cache_version *version = cache_walk_next(&walk);
    for (; version != NULL; version = cache_walk_next(&walk)) {
        assert_null(cache_version_older(version));
        logical += cache_version_key(version).size + cache_version_value(version).size;
        live++;
    }
    assert_int_equal(info->logical_bytes, logical);
    assert_int_equal(info->live_keys, live);
    assert_int_equal(info->event_begin, info->event_end);
}

static void world_run(uint64_t seed, uint32_t key_count, uint32_t edits)
{
    struct world *world = mem_alloc(sizeof(*world));
    world_init(world, seed, key_count);
    for (uint32_t i = 0; i < edits; i++) {
        edit_run(world);
        for (uint32_t k = 0; k < READERS; k++) {
            pin_step(world, &world->pins[k]);
        }
        if (i % 16 == 0) {
            assert_true(cache_is_sound(world->cache));
        }
    }
    assert_true(world->trims_done > 0);
    world_empty_out(world);
    world_fini(world);
}

static void every_snapshot_shows_its_history(void **state)
{
    (void)state;
    uint32_t rounds = support_is_long() ? 500 : 5;
    for (uint32_t i = 0; i < rounds; i++) {
        world_run(support_seed() + i, 4 + (i % 5) * 40, 250);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_snapshot_shows_its_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
