/*
 * Goal: Range answers as etcd does, with every option, at every revision that can be read.
 * Method: a history of random writes; each random question is answered by store_range_run and by a
 * naive list that follows the meaning of each option word by word.
 */
#include "support.h"

#include <stdlib.h>

#include "cache/cache.h"
#include "core/mem.h"
#include "store/store.h"

enum { KEYS = 12, WRITES = 400, QUESTIONS = 20000 };

struct version {
    uint32_t key;
    int64_t mod_rev;
    int64_t create_rev;
    int64_t version;
    char value;
    bool is_delete;
};

struct world {
    struct reclaim reclaim;
    struct cache *cache;
    struct rng rng;
    struct version log[WRITES];
    uint32_t count;
    int64_t compact_rev;
    struct arena arena;
};

static const char keys[KEYS + 1] = "acegikmoqsuw"; /* Gaps, for bounds between keys. */

static const struct version *live(const struct world *world, uint32_t key, int64_t revision)
{
    const struct version *found = NULL;
    for (uint32_t i = 0; i < world->count; i++) {
        if (world->log[i].key == key && world->log[i].mod_rev <= revision) {
            found = &world->log[i];
        }
    }
    return found == NULL || found->is_delete ? NULL : found;
}

static void write_one(struct world *world)
{
    struct version *made = &world->log[world->count];
    int64_t revision = (int64_t)world->count + 2;
    uint32_t key = (uint32_t)rng_below(&world->rng, KEYS);
    const struct version *before = live(world, key, revision);
    *made = (struct version){.key = key, .mod_rev = revision};
    made->is_delete = before != NULL && rng_below(&world->rng, 4) == 0;
    if (!made->is_delete) {
        made->create_rev = before == NULL ? revision : before->create_rev;
        made->version = before == NULL ? 1 : before->version + 1;
        made->value = (char)('0' + rng_below(&world->rng, 4));
    }
    struct cache_edit *edit = cache_edit_begin(world->cache);
    struct cache_row row = {.revision = revision,
                            .is_delete = made->is_delete,
                            .key = slice_of(&keys[key], 1),
                            .value = slice_of(&made->value, made->is_delete ? 0 : 1),
                            .create_rev = made->create_rev,
                            .version = made->version};
    (void)cache_edit_apply(edit, &row);
    cache_edit_publish(edit);
    world->count++;
}

static struct world *world_new(uint64_t seed)
{
    struct world *world = mem_alloc(sizeof(*world));
    reclaim_init(&world->reclaim);
    world->cache = cache_new(&world->reclaim);
    rng_seed(&world->rng, seed);
    arena_init(&world->arena, 1 << 20);
    while (world->count < WRITES) {
        write_one(world);
    }
    world->compact_rev = WRITES / 4;
    struct cache_edit *edit = cache_edit_begin(world->cache);
    cache_edit_set_compact_rev(edit, world->compact_rev);
    cache_edit_publish(edit);
    return world;
}

static void world_free(struct world *world)
{
    reclaim_fini(&world->reclaim);
    cache_free(world->cache);
    arena_fini(&world->arena);
    mem_free(world);
}

/* ---- the naive answer ----------------------------------------------------------------------- */

static enum store_sort_target naive_target;
static bool naive_descends;

static int naive_order(const void *a, const void *b)
{
    const struct version *left = *(const struct version *const *)a;
    const struct version *right = *(const struct version *const *)b;
    int64_t order = 0;
    switch (naive_target) {
    case STORE_SORT_KEY:
        order = (int64_t)left->key - right->key;
        break;
    case STORE_SORT_VERSION:
        order = left->version - right->version;
        break;
    case STORE_SORT_CREATE:
        order = left->create_rev - right->create_rev;
        break;
    case STORE_SORT_MOD:
        order = left->mod_rev - right->mod_rev;
        break;
    case STORE_SORT_VALUE:
        order = left->value - right->value;
        break;
    }
    order = naive_descends ? -order : order;
    if (order == 0) {
        order = (int64_t)left->key - right->key; /* Ties keep the order of keys. */
    }
    return (order > 0) - (order < 0);
}

static bool in_range(const struct store_range *range, uint32_t key)
{
    struct slice slice = slice_of(&keys[key], 1);
    if (range->range_end.size == 0) {
        return slice_equal(slice, range->key);
    }
    bool open = range->range_end.size == 1 && range->range_end.data[0] == 0;
    return slice_compare(slice, range->key) >= 0 &&
           (open || slice_compare(slice, range->range_end) < 0);
}

static bool naive_keeps(const struct store_range *range, const struct version *version)
{
    return (range->min_mod_rev == 0 || version->mod_rev >= range->min_mod_rev) &&
           (range->max_mod_rev == 0 || version->mod_rev <= range->max_mod_rev) &&
           (range->min_create_rev == 0 || version->create_rev >= range->min_create_rev) &&
           (range->max_create_rev == 0 || version->create_rev <= range->max_create_rev);
}

struct naive {
    const struct version *found[KEYS];
    uint32_t count;
    uint32_t total;
    bool more;
    enum err err;
};

static struct naive naive_run(const struct world *world, const struct store_range *range)
{
    struct naive naive = {0};
    int64_t newest = (int64_t)world->count + 1;
    int64_t revision = range->revision <= 0 ? newest : range->revision;
    if (revision > newest || revision < world->compact_rev) {
        naive.err = revision > newest ? ERR_FUTURE_REV : ERR_COMPACTED;
        return naive;
    }
    bool filters = range->min_mod_rev != 0 || range->max_mod_rev != 0 ||
                   range->min_create_rev != 0 || range->max_create_rev != 0;
    bool sorted = range->sort_order == STORE_SORT_DESCEND ||
                  (range->sort_order == STORE_SORT_ASCEND && range->sort_target != STORE_SORT_KEY);
    uint32_t fetched = 0;
    for (uint32_t key = 0; key < KEYS; key++) {
        const struct version *version = live(world, key, revision);
        if (version == NULL || !in_range(range, key)) {
            continue;
        }
        naive.total++;
        bool cut = range->limit > 0 && !filters && !sorted && fetched > range->limit;
        if (!range->count_only && !cut) {
            fetched++;
            if (naive_keeps(range, version)) {
                naive.found[naive.count++] = version;
            }
        }
        /* One more than the limit is fetched in front of a sort without an order. */
    }
    if (range->limit > 0 && !filters && !sorted && naive.count > range->limit + 1) {
        naive.count = (uint32_t)range->limit + 1;
    }
    naive_target = range->sort_target;
    naive_descends = range->sort_order == STORE_SORT_DESCEND;
    qsort(naive.found, naive.count, sizeof(naive.found[0]), naive_order);
    if (range->limit > 0 && naive.count > range->limit) {
        naive.count = (uint32_t)range->limit;
        naive.more = true;
    }
    return naive;
}

/* ---- questions ------------------------------------------------------------------------------ */

static int64_t some_rev(struct world *world)
{
    return (int64_t)rng_below(&world->rng, WRITES + 6) - 2;
}

static struct store_range some_range(struct world *world)
{
    static const char bounds[] = "abcdefghijklmnopqrstuvwxyz";
    struct rng *rng = &world->rng;
    struct store_range range = {.key = slice_of(&bounds[rng_below(rng, 26)], 1)};
    switch (rng_below(rng, 4)) {
    case 0:
        range.range_end = slice_of(&bounds[rng_below(rng, 26)], 1);
        break;
    case 1:
        range.key = SLICE_LIT("\0");
        range.range_end = SLICE_LIT("\0");
        break;
    case 2:
        range.range_end = SLICE_LIT("\0");
        break;
    default:
        break;
    }
    range.limit = rng_below(rng, 2) == 0 ? 0 : (int64_t)rng_below(rng, KEYS + 2) - 1;
    range.revision = rng_below(rng, 2) == 0 ? 0 : some_rev(world);
    range.sort_order = (enum store_sort_order)rng_below(rng, 3);
    range.sort_target = (enum store_sort_target)rng_below(rng, 5);
    range.keys_only = rng_below(rng, 4) == 0;
    range.count_only = rng_below(rng, 6) == 0;
    range.min_mod_rev = rng_below(rng, 6) == 0 ? some_rev(world) : 0;
    range.max_mod_rev = rng_below(rng, 6) == 0 ? some_rev(world) : 0;
    range.min_create_rev = rng_below(rng, 6) == 0 ? some_rev(world) : 0;
    range.max_create_rev = rng_below(rng, 6) == 0 ? some_rev(world) : 0;
    return range;
}

static void check_one(struct world *world, const struct store_range *range)
{
    struct store_range_answer answer;
    struct naive naive = naive_run(world, range);
    enum err err = store_range_run(cache_snapshot(world->cache), range, &world->arena, &answer);
    assert_int_equal(err, naive.err);
    if (err != ERR_OK) {
        return;
    }
    assert_int_equal(answer.count, naive.total);
    assert_int_equal(answer.kv_count, naive.count);
    assert_int_equal(answer.more, naive.more);
    assert_int_equal(answer.keys_only, range->keys_only);
    assert_int_equal(answer.no_lease, range->keys_only && range->sort_target != STORE_SORT_VALUE);
    for (uint32_t i = 0; i < naive.count; i++) {
        assert_slice_equal(cache_version_key(answer.kvs[i]),
                           slice_of(&keys[naive.found[i]->key], 1));
        assert_int_equal(cache_version_mod_rev(answer.kvs[i]), naive.found[i]->mod_rev);
        assert_int_equal(cache_version_create_rev(answer.kvs[i]), naive.found[i]->create_rev);
        assert_int_equal(cache_version_version(answer.kvs[i]), naive.found[i]->version);
    }
    arena_reset(&world->arena);
}

static void range_answers_as_a_naive_list_does(void **state)
{
    struct world *world = world_new(support_seed());
    uint32_t questions = support_is_long() ? 20 * QUESTIONS : QUESTIONS;
    (void)state;
    for (uint32_t i = 0; i < questions; i++) {
        struct store_range range = some_range(world);
        check_one(world, &range);
    }
    world_free(world);
}

static void an_answer_beyond_the_arena_is_refused(void **state)
{
    struct world *world = world_new(support_seed());
    struct store_range all = {.key = SLICE_LIT("\0"), .range_end = SLICE_LIT("\0")};
    struct store_range_answer answer;
    struct arena small;
    (void)state;
    arena_init(&small, 8);
    assert_int_equal(store_range_run(cache_snapshot(world->cache), &all, &small, &answer),
                     ERR_REQUEST_TOO_LARGE);
    all.count_only = true;
    assert_int_equal(store_range_run(cache_snapshot(world->cache), &all, &small, &answer), ERR_OK);
    assert_true(answer.count > 2);
    arena_fini(&small);
    world_free(world);
}

static void plain_means_as_the_index_gives_it(void **state)
{
    (void)state;
    struct store_range range = {.key = SLICE_LIT("a")};
    assert_true(store_range_is_plain(&range));
    range.sort_order = STORE_SORT_ASCEND;
    assert_true(store_range_is_plain(&range));
    range.sort_order = STORE_SORT_DESCEND;
    assert_false(store_range_is_plain(&range));
    range.sort_order = STORE_SORT_NONE;
    range.sort_target = STORE_SORT_MOD; /* etcd sorts: ascending is meant. */
    assert_false(store_range_is_plain(&range));
    range.sort_target = STORE_SORT_KEY;
    range.min_mod_rev = 1;
    assert_false(store_range_is_plain(&range));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(range_answers_as_a_naive_list_does),
        cmocka_unit_test(an_answer_beyond_the_arena_is_refused),
        cmocka_unit_test(plain_means_as_the_index_gives_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
