/* Which ranges hold a key: the treap against a plain list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/clock.h"
#include "watch/interval.h"

enum { NODES = 300, STEPS = 4000, KEY_MAX = 3 };

struct range_node {
    struct interval_node node;
    uint8_t key[KEY_MAX];
    uint8_t end[KEY_MAX];
    bool in_tree;
    bool seen;
};

static struct slice random_key(struct rng *rng, uint8_t *bytes)
{
    size_t size = 1 + rng_below(rng, KEY_MAX);
    for (size_t i = 0; i < size; i++) {
        bytes[i] = (uint8_t)('a' + rng_below(rng, 4));
    }
    return slice_of(bytes, size);
}

static void random_range(struct rng *rng, struct range_node *node)
{
    struct cache_range *range = &node->node.range;
    do {
        range->key = random_key(rng, node->key);
        range->open = rng_below(rng, 8) == 0;
        range->end = range->open ? SLICE_EMPTY : random_key(rng, node->end);
    } while (!range->open && slice_compare(range->key, range->end) >= 0);
}

static bool holds(const struct cache_range *range, struct slice key)
{
    return slice_compare(range->key, key) <= 0 &&
           (range->open || slice_compare(key, range->end) < 0);
}

static void check_stab(const struct interval_tree *tree, struct range_node *nodes, struct slice key)
{
    struct slice last = SLICE_EMPTY;
    uint32_t found = 0;
    struct interval_node *at = interval_first(tree, key);
    for (; at != NULL; at = interval_next(at, key)) {
        struct range_node *node = CONTAINER_OF(at, struct range_node, node);
        assert_true(node->in_tree);
        assert_true(holds(&at->range, key));
        assert_true(slice_compare(last, at->range.key) <= 0);
        assert_false(node->seen);
        node->seen = true;
        last = at->range.key;
        found++;
    }
    for (uint32_t i = 0; i < NODES; i++) {
        bool expected = nodes[i].in_tree && holds(&nodes[i].node.range, key);
        assert_int_equal(nodes[i].seen, expected);
        found -= expected;
        nodes[i].seen = false;
    }
    assert_int_equal(found, 0);
}

/* Ranges come and go; every stab finds exactly the list's answer, in order. */
static void stabs_find_what_a_list_finds(void **state)
{
    (void)state;
    const char *seed_text = getenv("DROVER_SEED");
    uint64_t seed = seed_text == NULL ? 1 : strtoull(seed_text, NULL, 10);
    print_message("seed %llu\n", (unsigned long long)seed);
    struct rng rng;
    rng_seed(&rng, seed);
    struct interval_tree tree = {0};
    static struct range_node nodes[NODES];
    uint32_t inserted = 0;
    for (uint32_t step = 0; step < STEPS; step++) {
        struct range_node *node = &nodes[rng_below(&rng, NODES)];
        if (node->in_tree) {
            assert_ptr_equal(interval_find(&tree, &node->node.range), &node->node);
            interval_remove(&tree, &node->node);
            node->in_tree = false;
        } else {
            random_range(&rng, node);
            if (interval_find(&tree, &node->node.range) == NULL) {
                interval_insert(&tree, &node->node, rng_next(&rng));
                node->in_tree = true;
                inserted++;
            }
        }
        uint8_t bytes[KEY_MAX];
        check_stab(&tree, nodes, random_key(&rng, bytes));
        assert_true(interval_is_sound(&tree));
    }
    assert_true(inserted > NODES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stabs_find_what_a_list_finds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
