/*
 * The order of ties is the one that Go's sort.Sort leaves.
 *
 * Method: the same inputs, made by a formula, were sorted by Go 1.26 (also by sort.Reverse);
 * the table holds the FNV-1a hash of the order of the original places.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/mem.h"
#include "store/sort.h"

struct element {
    uint64_t key;
    uint64_t index;
};

enum shape { SHAPE_RANDOM, SHAPE_RISING, SHAPE_FALLING, SHAPE_SAW, SHAPE_PIPE, SHAPE_NEARLY };

struct expectation {
    enum shape shape;
    uint64_t count;
    uint64_t keys;
    bool reverse;
    uint64_t hash;
};

static const struct expectation expectations[] = {
#include "go_sort_orders.inc"
};

static uint64_t key_of(const struct expectation *e, uint64_t index, uint64_t random)
{
    switch (e->shape) {
    case SHAPE_RANDOM:
        return random % e->keys;
    case SHAPE_RISING:
        return index / e->keys;
    case SHAPE_FALLING:
        return (e->count - index) / e->keys;
    case SHAPE_SAW:
        return index % e->keys;
    case SHAPE_PIPE:
        return index > e->count / 2 ? e->count - index : index;
    case SHAPE_NEARLY:
        break;
    }
    return random % 97 == 0 ? random % e->count : index;
}

static void make_elements(const struct expectation *e, struct element *elements, const void **items)
{
    uint64_t random = e->count * 2654435761 + e->keys;
    for (uint64_t i = 0; i < e->count; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        elements[i] = (struct element){key_of(e, i, random), i};
        items[i] = &elements[i];
    }
}

static bool element_less(const void *a, const void *b, const void *arg)
{
    const struct expectation *e = arg;
    const struct element *left = e->reverse ? b : a;
    const struct element *right = e->reverse ? a : b;
    return left->key < right->key;
}

static void ties_come_out_as_go_leaves_them(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(expectations); i++) {
        const struct expectation *e = &expectations[i];
        struct element *elements = mem_alloc(e->count * sizeof(*elements));
        const void **items = mem_alloc(e->count * sizeof(*items));
        make_elements(e, elements, items);
        store_sort(items, e->count, element_less, e);
        uint64_t hash = UINT64_C(14695981039346656037);
        for (uint64_t k = 0; k < e->count; k++) {
            const struct element *element = items[k];
            assert_true(k == 0 || !element_less(items[k], items[k - 1], e));
            hash = (hash ^ element->index) * UINT64_C(1099511628211);
        }
        assert_int_equal(hash, e->hash);
        mem_free(items);
        mem_free(elements);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ties_come_out_as_go_leaves_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
