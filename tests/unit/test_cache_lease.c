/*
 * Goal: a lease's keys are those whose newest live version names it, in order, through puts that
 * move them, deletes, revokes, drops and re-grants; ids of any sign come in numeric order.
 * Method: random edits against two arrays: granted leases and the attachment of each key.
 */
#include "support.h"
#include "support_keys.h"

#include "cache/cache.h"
#include "core/mem.h"

enum { KEYS = 60, IDS = 7 };

static const int64_t ids[IDS] = {INT64_MIN, -5, -1, 1, 2, 77, INT64_MAX};

struct model {
    bool is_granted[IDS];
    int64_t ttl_s[IDS];
    uint64_t grant_seq[IDS];
    bool is_live[KEYS];
    int32_t attached[KEYS]; /* Index of an id, or -1. */
    int64_t revision;
};

struct world {
    struct rng rng;
    struct support_keys keys;
    struct reclaim reclaim;
    struct reclaim_reader reader;
    struct cache *cache;
    struct model model;
    uint64_t seq;
};

static void check_keys(const struct world *world, const struct model *model,
                       const struct cache_snapshot *snapshot, int32_t id)
{
    struct slice after = SLICE_EMPTY;
    struct slice key = SLICE_EMPTY;
    bool after_none = true;
    uint64_t count = 0;
    for (uint32_t k = 0; k < KEYS; k++) {
        if (model->attached[k] == id) {
            assert_true(cache_lease_key_next(snapshot, ids[id], after_none, after, &key));
            assert_slice_equal(key, world->keys.keys[k]);
            after = key;
            after_none = false;
            count++;
        }
    }
    assert_false(cache_lease_key_next(snapshot, ids[id], after_none, after, &key));
    struct cache_lease lease = {0};
    assert_int_equal(cache_lease_get(snapshot, ids[id], &lease), model->is_granted[id]);
    if (model->is_granted[id]) {
        assert_int_equal(lease.id, ids[id]);
        assert_int_equal(lease.ttl_s, model->ttl_s[id]);
        assert_int_equal(lease.grant_seq, model->grant_seq[id]);
        assert_int_equal(lease.key_count, count);
    }
}

static void check(const struct world *world, const struct model *model,
                  const struct cache_snapshot *snapshot)
{
    uint64_t granted = 0;
    struct cache_lease lease = {0};
    int64_t from = INT64_MIN;
    for (int32_t id = 0; id < IDS; id++) {
        check_keys(world, model, snapshot, id);
        if (model->is_granted[id]) {
            assert_true(cache_lease_next(snapshot, from, &lease));
            assert_int_equal(lease.id, ids[id]);
            from = ids[id] == INT64_MAX ? INT64_MAX : ids[id] + 1;
            granted++;
        }
    }
    if (!model->is_granted[IDS - 1]) {
        assert_false(cache_lease_next(snapshot, from, &lease));
    }
    assert_int_equal(cache_snapshot_info(snapshot)->lease_count, granted);
    struct slice key;
    assert_false(cache_lease_key_next(snapshot, 12345, true, SLICE_EMPTY, &key));
}

static void put(struct world *world, struct model *model, struct cache_edit *edit, uint32_t key,
                int32_t id)
{
    struct cache_row row = {.revision = ++model->revision,
                            .key = world->keys.keys[key],
                            .create_rev = 1,
                            .version = 1,
                            .lease = id < 0 ? 0 : ids[id]};
    (void)cache_edit_apply(edit, &row);
    model->is_live[key] = true;
    model->attached[key] = id;
}

static void key_delete(struct world *world, struct model *model, struct cache_edit *edit,
                       uint32_t key)
{
    struct cache_row row = {
        .revision = ++model->revision, .is_delete = true, .key = world->keys.keys[key]};
    (void)cache_edit_apply(edit, &row);
    model->is_live[key] = false;
    model->attached[key] = -1;
}

/* As the store does it (keys first), or the lease alone, which detaches. */
static void revoke(struct world *world, struct model *model, struct cache_edit *edit, int32_t id,
                   bool with_keys)
{
    for (uint32_t k = 0; k < KEYS; k++) {
        if (with_keys && model->attached[k] == id) {
            key_delete(world, model, edit, k);
        }
        if (model->is_granted[id] && model->attached[k] == id) {
            model->attached[k] = -1;
        }
    }
    cache_edit_revoke(edit, ids[id]);
    model->is_granted[id] = false;
}

static void change(struct world *world, struct model *model, struct cache_edit *edit)
{
    int32_t id = (int32_t)rng_below(&world->rng, IDS);
    uint32_t key = (uint32_t)rng_below(&world->rng, KEYS);
    switch (rng_below(&world->rng, 8)) {
    case 0:
        model->is_granted[id] = true;
        model->ttl_s[id] = (int64_t)rng_below(&world->rng, 1000);
        model->grant_seq[id] = ++world->seq;
        cache_edit_grant(edit, ids[id], model->ttl_s[id], model->grant_seq[id]);
        break;
    case 1:
        revoke(world, model, edit, id, rng_below(&world->rng, 2) == 0);
        break;
    case 2:
    case 3:
        if (model->is_live[key]) {
            key_delete(world, model, edit, key);
        }
        break;
    default:
        put(world, model, edit, key, rng_below(&world->rng, 4) == 0 ? -1 : id);
        break;
    }
}

static void world_run(uint64_t seed)
{
    struct world *world = mem_alloc(sizeof(*world));
    rng_seed(&world->rng, seed);
    support_keys_init(&world->keys, &world->rng, KEYS);
    reclaim_init(&world->reclaim);
    reclaim_add_reader(&world->reclaim, &world->reader);
    world->cache = cache_new(&world->reclaim);
    world->model.revision = 1;
    for (uint32_t k = 0; k < KEYS; k++) {
        world->model.attached[k] = -1;
    }
    const struct cache_snapshot *pinned = cache_snapshot(world->cache);
    struct model pinned_model = world->model;
    uint64_t epoch = reclaim_reader_load(&world->reader);
    for (uint32_t i = 0; i < 300; i++) {
        struct model model = world->model;
        struct cache_edit *edit = cache_edit_begin(world->cache);
        for (uint64_t n = rng_below(&world->rng, 20); n > 0; n--) {
            change(world, &model, edit);
        }
        check(world, &model, cache_edit_view(edit));
        if (rng_below(&world->rng, 3) == 0) {
            cache_edit_drop(edit);
        } else {
            cache_edit_publish(edit);
            world->model = model;
        }
        check(world, &world->model, cache_snapshot(world->cache));
        assert_true(cache_is_sound(world->cache));
        (void)reclaim_run(&world->reclaim);
        if (rng_below(&world->rng, 20) == 0) {
            check(world, &pinned_model, pinned);
            reclaim_reader_announce(&world->reader, epoch);
            epoch = reclaim_reader_load(&world->reader);
            pinned = cache_snapshot(world->cache);
            pinned_model = world->model;
        }
    }
    cache_free(world->cache);
    reclaim_fini(&world->reclaim);
    support_keys_fini(&world->keys);
    mem_free(world);
}

static void keys_follow_their_lease(void **state)
{
    (void)state;
    uint32_t rounds = support_is_long() ? 500 : 5;
    for (uint32_t i = 0; i < rounds; i++) {
        world_run(support_seed() + i);
    }
}

/* A load brings rows first: the lease that is granted later has its keys. */
static void keys_wait_for_their_lease(void **state)
{
    (void)state;
    struct reclaim reclaim;
    reclaim_init(&reclaim);
    struct cache *cache = cache_new(&reclaim);
    struct cache_edit *edit = cache_edit_begin(cache);
    struct cache_row row = {
        .revision = 2, .key = SLICE_LIT("k"), .create_rev = 2, .version = 1, .lease = 9};
    (void)cache_edit_apply(edit, &row);
    struct cache_lease lease;
    assert_false(cache_lease_get(cache_edit_view(edit), 9, &lease));
    cache_edit_grant(edit, 9, 60, 4);
    assert_true(cache_lease_get(cache_edit_view(edit), 9, &lease));
    assert_int_equal(lease.key_count, 1);
    cache_edit_publish(edit);
    cache_free(cache);
    reclaim_fini(&reclaim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_follow_their_lease),
        cmocka_unit_test(keys_wait_for_their_lease),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
