/*
 * Goal: any sequence of puts, removals, publishes and drops leaves a sound tree that equals a
 * sorted array. Method: the input is a list of operations; short keys come from it, so that it can
 * aim at neighbours, and a run writes many keys at once, so that it can reach splits and joins.
 */
#include "cache/tree.h"
#include "core/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { KEYS = 4096, OPS_MAX = 48 };

struct thing {
    struct cache_tree_item item;
    uint8_t key[4];
};

/* The same for all runs: the tree only reads them. */
static struct thing things[KEYS];

struct world {
    bool is_there[KEYS]; /* In the edit ... */
    bool is_live[KEYS];
    bool was_there[KEYS]; /* ... and in what was published. */
    bool was_live[KEYS];
    struct cache_tree_node *root;
    struct cache_tree_node *published;
    struct cache_tree_change change;
};

/* Number |index| as a key: ascending, in 3 or 4 bytes, some keys being prefixes of others. */
static void thing_init(struct thing *thing, uint32_t index)
{
    static const uint8_t heads[8] = {0x00, 0x01, 0x2f, 0x61, 0x7f, 0x80, 0xfe, 0xff};
    thing->item.key_at = offsetof(struct thing, key);
    thing->item.key_size = index % 8 == 0 ? 3 : 4;
    thing->key[0] = heads[index / 512];
    thing->key[1] = heads[index / 64 % 8];
    thing->key[2] = heads[index / 8 % 8];
    thing->key[3] = (uint8_t)(index % 8);
}

static void set(struct world *world, uint32_t index, bool is_put, bool is_live)
{
    struct cache_tree_item *item = &things[index].item;
    struct cache_tree_item *old =
        is_put ? cache_tree_put(&world->root, &world->change, item, is_live)
               : cache_tree_remove(&world->root, &world->change, cache_tree_key(item));
    ASSERT(old == (world->is_there[index] ? item : NULL));
    world->is_there[index] = is_put;
    world->is_live[index] = is_put && is_live;
}

static void check(const struct cache_tree_node *root, const bool *is_there, const bool *is_live,
                  uint32_t from)
{
    ASSERT(cache_tree_is_sound(root));
    struct cache_tree_range range = {.key = cache_tree_key(&things[from].item), .open = true};
    struct cache_tree_cursor all;
    struct cache_tree_cursor live;
    cache_tree_seek(&all, root, &range);
    cache_tree_seek(&live, root, &range);
    uint64_t count = 0;
    for (uint32_t i = from; i < KEYS; i++) {
        ASSERT(!is_there[i] || cache_tree_next(&all) == &things[i].item);
        ASSERT(!is_live[i] || cache_tree_next_live(&live) == &things[i].item);
        count += is_live[i];
    }
    ASSERT(cache_tree_next(&all) == NULL);
    ASSERT(cache_tree_next_live(&live) == NULL);
    ASSERT(cache_tree_count(root, &range) == count);
}

static void garbage_clear(struct world *world, bool is_freed)
{
    for (uint32_t i = 0; is_freed && i < world->change.garbage.count; i++) {
        mem_free(world->change.garbage.objects[i]);
    }
    cache_garbage_forget(&world->change.garbage);
}

static void publish(struct world *world)
{
    /* What was published is whole still, and only now given up. */
    check(world->published, world->was_there, world->was_live, 0);
    garbage_clear(world, true);
    world->published = world->root;
    memcpy(world->was_there, world->is_there, sizeof(world->is_there));
    memcpy(world->was_live, world->is_live, sizeof(world->is_live));
    world->change.edit++;
}

static void drop(struct world *world)
{
    cache_tree_drop(world->root, world->change.edit, NULL);
    garbage_clear(world, false);
    world->root = world->published;
    memcpy(world->is_there, world->was_there, sizeof(world->is_there));
    memcpy(world->is_live, world->was_live, sizeof(world->is_live));
    world->change.edit++;
    check(world->root, world->is_there, world->is_live, 0);
}

/* One operation of four bytes: what, where (two), how many. */
static void step(struct world *world, const uint8_t *op)
{
    uint32_t index = (op[1] | (uint32_t)op[2] << 8) % KEYS;
    uint32_t count = op[0] & 8 ? 1 + 3u * op[3] : 1;
    uint32_t stride = op[0] & 16 ? 61 : 1;
    switch (op[0] % 8) {
    case 0:
        publish(world);
        break;
    case 1:
        drop(world);
        break;
    case 2:
        check(world->root, world->is_there, world->is_live, index);
        break;
    default:
        for (uint32_t i = 0; i < count; i++) {
            set(world, (index + i * stride) % KEYS, op[0] % 8 < 6, (op[3] + i) % 4 != 0);
        }
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *world = mem_alloc(sizeof(*world));
    world->change.edit = 1;
    for (uint32_t i = 0; things[KEYS - 1].item.key_size == 0 && i < KEYS; i++) {
        thing_init(&things[i], i);
        ASSERT(i == 0 || slice_compare(cache_tree_key(&things[i - 1].item),
                                       cache_tree_key(&things[i].item)) < 0);
    }
    for (size_t at = 0; at + 4 <= size && at < 4 * OPS_MAX; at += 4) {
        step(world, data + at);
    }
    check(world->root, world->is_there, world->is_live, 0);
    publish(world);
    cache_tree_free(world->root, NULL);
    mem_free(world->change.garbage.objects);
    mem_free(world);
    return 0;
}
