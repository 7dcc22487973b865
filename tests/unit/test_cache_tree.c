/*
 * Goal: the tree is a sorted map with live counts, whatever is put and removed; an edit that is
 * dropped leaves nothing; a root that was published never changes.
 * Method: random edits against an array indexed by the order of keys. Some published roots are
 * kept, with a copy of the array, and compared again after many later edits; what the publishes
 * replaced is freed as soon as no kept root is older, so that sanitizers see a node that went too
 * early, or never.
 */
#include "support.h"
#include "support_keys.h"

#include "cache/tree.h"
#include "core/mem.h"

enum { KEPT_MAX = 6 };

struct thing {
    struct cache_tree_item item;
    bool is_live;
    struct thing *next; /* All that were made. */
    uint8_t key[];
};

struct state {
    struct cache_tree_node *root;
    struct thing **things; /* By index of key; NULL: absent. */
    uint64_t publish;
};

struct world {
    struct rng rng;
    struct support_keys keys;
    struct state newest;
    struct state kept[KEPT_MAX];
    uint32_t kept_count;
    struct cache_tree_change change;
    struct cache_garbage *garbage[100000];
    uint32_t garbage_first;
    uint32_t garbage_end;
    struct thing *things;
    uint32_t edit_size; /* Changes in one edit, at most. */
    uint32_t put_percent;
};

static struct thing *thing_new(struct world *world, uint32_t index)
{
    struct slice key = world->keys.keys[index];
    struct thing *thing = mem_alloc(sizeof(*thing) + key.size);
    thing->item.key_at = offsetof(struct thing, key);
    thing->item.key_size = (uint32_t)key.size;
    thing->is_live = rng_below(&world->rng, 4) != 0;
    memcpy(thing->key, key.data, key.size);
    thing->next = world->things;
    world->things = thing;
    return thing;
}

static struct thing **things_copy(const struct world *world, struct thing *const *things)
{
    return mem_copy(things, world->keys.count * sizeof(struct thing *));
}

/* ---- comparing ------------------------------------------------------------------------------- */

static uint32_t index_at_or_above(const struct world *world, struct slice key)
{
    uint32_t index = 0;
    while (index < world->keys.count && slice_compare(world->keys.keys[index], key) < 0) {
        index++;
    }
    return index;
}

static void check_range(const struct world *world, const struct state *state,
                        const struct cache_tree_range *range)
{
    struct cache_tree_cursor all;
    struct cache_tree_cursor live;
    cache_tree_seek(&all, state->root, range);
    cache_tree_seek(&live, state->root, range);
    uint64_t count = 0;
    for (uint32_t i = index_at_or_above(world, range->key); i < world->keys.count; i++) {
        if (!range->open && slice_compare(world->keys.keys[i], range->end) >= 0) {
            break;
        }
        if (state->things[i] == NULL) {
            continue;
        }
        assert_ptr_equal(cache_tree_next(&all), &state->things[i]->item);
        if (state->things[i]->is_live) {
            assert_ptr_equal(cache_tree_next_live(&live), &state->things[i]->item);
            count++;
        }
    }
    assert_null(cache_tree_next(&all));
    assert_null(cache_tree_next(&all));
    assert_null(cache_tree_next_live(&live));
    assert_null(cache_tree_next_live(&live));
    assert_int_equal(cache_tree_count(state->root, range), count);
}

/* A key of the table, or one between them. */
static struct slice any_key(struct world *world, uint8_t bytes[512])
{
    struct slice key = world->keys.keys[rng_below(&world->rng, world->keys.count)];
    switch (rng_below(&world->rng, 4)) {
    case 0:
        memcpy(bytes, key.data, key.size);
        bytes[key.size] = (uint8_t)rng_next(&world->rng);
        return slice_of(bytes, key.size + 1);
    case 1:
        return slice_of(key.data, key.size - 1);
    default:
        return key;
    }
}

static void check_state(struct world *world, const struct state *state)
{
    assert_true(cache_tree_is_sound(state->root));
    struct cache_tree_range everything = {.open = true};
    check_range(world, state, &everything);
    for (uint32_t i = 0; i < 5; i++) {
        uint8_t from[512];
        uint8_t to[512];
        struct cache_tree_range range = {.key = any_key(world, from),
                                         .end = any_key(world, to),
                                         .open = rng_below(&world->rng, 8) == 0};
        check_range(world, state, &range);
    }
    for (uint32_t i = 0; i < world->keys.count; i += 1 + (uint32_t)rng_below(&world->rng, 9)) {
        struct cache_tree_item *item = cache_tree_get(state->root, world->keys.keys[i]);
        assert_ptr_equal(item, state->things[i] == NULL ? NULL : &state->things[i]->item);
    }
}

/* ---- changing -------------------------------------------------------------------------------- */

static void change_one(struct world *world, struct state *state, uint32_t index, bool is_put)
{
    struct thing *old = state->things[index];
    struct cache_tree_item *replaced = NULL;
    if (is_put) {
        struct thing *thing = thing_new(world, index);
        replaced = cache_tree_put(&state->root, &world->change, &thing->item, thing->is_live);
        state->things[index] = thing;
    } else {
        replaced = cache_tree_remove(&state->root, &world->change, world->keys.keys[index]);
        state->things[index] = NULL;
    }
    assert_ptr_equal(replaced, old == NULL ? NULL : &old->item);
}

/* Free what no kept root needs. */
static void garbage_run(struct world *world)
{
    uint64_t oldest = world->kept_count > 0 ? world->kept[0].publish : world->newest.publish;
    while (world->garbage_first < world->garbage_end &&
           world->garbage[world->garbage_first]->publish <= oldest) {
        cache_garbage_free(world->garbage[world->garbage_first++]);
    }
}

static void kept_drop(struct world *world, uint32_t at)
{
    mem_free(world->kept[at].things);
    world->kept_count--;
    memmove(&world->kept[at], &world->kept[at + 1],
            (world->kept_count - at) * sizeof(world->kept[0]));
}

/* Changes of one edit, in runs along the keys or here and there. */
static void edit_fill(struct world *world, struct state *edit)
{
    uint64_t count = 1 + rng_below(&world->rng, world->edit_size);
    bool is_run = rng_below(&world->rng, 2) == 0;
    uint32_t index = (uint32_t)rng_below(&world->rng, world->keys.count);
    bool is_put = rng_below(&world->rng, 100) < world->put_percent;
    for (uint64_t i = 0; i < count; i++) {
        if (is_run) {
            index = (index + 1) % world->keys.count;
        } else {
            index = (uint32_t)rng_below(&world->rng, world->keys.count);
            is_put = rng_below(&world->rng, 100) < world->put_percent;
        }
        change_one(world, edit, index, is_put);
    }
}

static void edit_run(struct world *world)
{
    struct state edit = world->newest;
    edit.things = things_copy(world, world->newest.things);
    edit.publish++;
    world->change.edit++;
    edit_fill(world, &edit);
    check_state(world, &edit);
    if (rng_below(&world->rng, 4) == 0) {
        cache_tree_drop(edit.root, world->change.edit, NULL);
        cache_garbage_forget(&world->change.garbage);
        mem_free(edit.things);
        check_state(world, &world->newest);
        return;
    }
    struct cache_garbage *garbage = cache_garbage_take(&world->change.garbage, edit.publish);
    if (garbage != NULL) {
        world->garbage[world->garbage_end++] = garbage;
    }
    if (rng_below(&world->rng, 3) == 0) {
        if (world->kept_count == KEPT_MAX) {
            kept_drop(world, (uint32_t)rng_below(&world->rng, KEPT_MAX));
        }
        world->kept[world->kept_count++] = world->newest;
    } else {
        mem_free(world->newest.things);
    }
    world->newest = edit;
    garbage_run(world);
}

static void world_run(uint64_t seed, uint32_t key_count, uint32_t edits, uint32_t edit_size)
{
    struct world *world = mem_alloc(sizeof(*world));
    rng_seed(&world->rng, seed);
    support_keys_init(&world->keys, &world->rng, key_count);
    world->newest.things = mem_alloc(key_count * sizeof(struct thing *));
    world->edit_size = edit_size;
    for (uint32_t i = 0; i < edits; i++) {
        /* Grow, shrink to nothing, grow again. */
        world->put_percent = i * 4 / edits % 2 == 0 ? 80 : 15;
        edit_run(world);
        if (world->kept_count > 0) {
            check_state(world, &world->kept[rng_below(&world->rng, world->kept_count)]);
        }
    }
    for (uint32_t i = 0; i < world->kept_count; i++) {
        check_state(world, &world->kept[i]);
    }
    while (world->kept_count > 0) {
        kept_drop(world, 0);
    }
    garbage_run(world);
    assert_int_equal(world->garbage_first, world->garbage_end);
    cache_tree_free(world->newest.root, NULL);
    while (world->things != NULL) {
        struct thing *thing = world->things;
        world->things = thing->next;
        mem_free(thing);
    }
    mem_free(world->newest.things);
    mem_free(world->change.garbage.objects);
    support_keys_fini(&world->keys);
    mem_free(world);
}

static void small_trees_are_sorted_maps(void **state)
{
    (void)state;
    uint32_t rounds = support_is_long() ? 2000 : 20;
    for (uint32_t i = 0; i < rounds; i++) {
        world_run(support_seed() + i, 1 + i * 10, 200, 20);
    }
}

static void deep_trees_are_sorted_maps(void **state)
{
    (void)state;
    uint32_t rounds = support_is_long() ? 50 : 1;
    for (uint32_t i = 0; i < rounds; i++) {
        world_run(support_seed() + i, 10000, 60, 6000);
    }
}

/* Fill and count after keys that come in order: full leaves, not half-full ones. */
static void keys_in_order_fill_leaves(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    struct cache_tree_change change = {.edit = 1};
    struct cache_tree_node *root = NULL;
    struct thing **things = mem_alloc(COUNT * sizeof(struct thing *));
    for (uint32_t i = 0; i < COUNT; i++) {
        struct thing *thing = mem_alloc(sizeof(*thing) + 4);
        thing->item.key_at = offsetof(struct thing, key);
        thing->item.key_size = 4;
        for (uint32_t k = 0; k < 4; k++) {
            thing->key[k] = (uint8_t)(i >> (24 - 8 * k));
        }
        things[i] = thing;
        assert_null(cache_tree_put(&root, &change, &thing->item, true));
    }
    assert_true(cache_tree_is_sound(root));
    assert_int_equal(root->live, COUNT);
    assert_true(change.node_bytes < COUNT * 10);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(cache_tree_rank(root, cache_tree_key(&things[i]->item)), i);
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_ptr_equal(cache_tree_remove(&root, &change, cache_tree_key(&things[i]->item)),
                         &things[i]->item);
        mem_free(things[i]);
    }
    assert_null(root);
    assert_int_equal(change.node_bytes, 0);
    mem_free(change.garbage.objects);
    mem_free(things);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_trees_are_sorted_maps),
        cmocka_unit_test(deep_trees_are_sorted_maps),
        cmocka_unit_test(keys_in_order_fill_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
