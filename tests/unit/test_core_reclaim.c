/*
 * Goal: retired memory is freed, once, and never while a reader can still see it.
 * Method: readers on threads of their own follow a published pointer while the writer replaces
 * and frees it; address and thread sanitizer look on. Then the rules one by one, in one thread.
 */
#include "support.h"

#include <pthread.h>
#include <stdlib.h>

#include "core/mem.h"
#include "core/reclaim.h"

enum { READERS = 3, PUBLICATIONS = 20000 };

struct snapshot {
    uint64_t number;
    uint64_t check; /* ~number while alive. */
};

static _Atomic(struct snapshot *) published;
static _Atomic bool is_over;
static uint32_t freed_count;

static void snapshot_free(void *object)
{
    struct snapshot *snapshot = object;
    snapshot->check = 0;
    freed_count++;
    mem_free(snapshot);
}

static struct snapshot *snapshot_new(uint64_t number)
{
    struct snapshot *snapshot = mem_alloc(sizeof(*snapshot));
    *snapshot = (struct snapshot){number, ~number};
    return snapshot;
}

static void *reader_main(void *arg)
{
    struct reclaim_reader *reader = arg;
    uint64_t last = 0;
    while (!atomic_load_explicit(&is_over, memory_order_relaxed)) {
        uint64_t epoch = reclaim_reader_load(reader);
        for (uint32_t i = 0; i < 10; i++) {
            struct snapshot *seen = atomic_load_explicit(&published, memory_order_acquire);
            ASSERT(seen->check == ~seen->number);
            ASSERT(seen->number >= last);
            last = seen->number;
        }
        reclaim_reader_announce(reader, epoch);
    }
    return NULL;
}

static void readers_never_see_freed_memory(void **state)
{
    (void)state;
    struct reclaim reclaim;
    reclaim_init(&reclaim);
    struct reclaim_reader readers[READERS] = {0};
    pthread_t threads[READERS];
    freed_count = 0;
    atomic_store(&is_over, false);
    atomic_store(&published, snapshot_new(0));
    for (uint32_t i = 0; i < READERS; i++) {
        reclaim_add_reader(&reclaim, &readers[i]);
    }
    for (uint32_t i = 0; i < READERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, reader_main, &readers[i]), 0);
    }
    for (uint64_t number = 1; number <= PUBLICATIONS; number++) {
        struct snapshot *old = atomic_load_explicit(&published, memory_order_relaxed);
        atomic_store_explicit(&published, snapshot_new(number), memory_order_release);
        reclaim_retire(&reclaim, old, snapshot_free);
        (void)reclaim_run(&reclaim);
    }
    while (reclaim_run(&reclaim) > 0) {
    }
    assert_int_equal(freed_count, PUBLICATIONS);
    atomic_store(&is_over, true);
    for (uint32_t i = 0; i < READERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    mem_free(atomic_load(&published));
    reclaim_fini(&reclaim);
}

static uint32_t nudges;

static void nudge_counts(struct reclaim_reader *reader)
{
    (void)reader;
    nudges++;
}

static void one_slow_reader_holds_the_rest_up(void **state)
{
    (void)state;
    struct reclaim reclaim;
    struct reclaim_reader slow = {.nudge = nudge_counts};
    struct reclaim_reader quick = {.nudge = nudge_counts};
    reclaim_init(&reclaim);
    reclaim_add_reader(&reclaim, &slow);
    reclaim_add_reader(&reclaim, &quick);
    freed_count = 0;
    nudges = 0;
    uint64_t before = reclaim_reader_load(&slow);
    reclaim_retire(&reclaim, snapshot_new(1), snapshot_free);
    assert_int_equal(reclaim_run(&reclaim), 1);
    assert_int_equal(nudges, 2);
    reclaim_reader_announce(&quick, reclaim_reader_load(&quick));
    reclaim_reader_announce(&slow, before); /* Loaded before the retirement: not enough. */
    assert_int_equal(reclaim_run(&reclaim), 1);
    assert_int_equal(nudges, 2); /* Nobody is nudged twice for one epoch. */
    assert_int_equal(freed_count, 0);
    reclaim_reader_announce(&slow, reclaim_reader_load(&slow));
    assert_int_equal(reclaim_run(&reclaim), 0);
    assert_int_equal(freed_count, 1);
    reclaim_retire(&reclaim, snapshot_new(2), snapshot_free);
    assert_int_equal(reclaim_run(&reclaim), 1);
    assert_int_equal(nudges, 4); /* For the next epoch they are. */
    reclaim_fini(&reclaim);
    assert_int_equal(freed_count, 2);
}

static void a_grace_period_passes_without_retirements(void **state)
{
    (void)state;
    struct reclaim reclaim;
    struct reclaim_reader reader = {0};
    reclaim_init(&reclaim);
    assert_true(reclaim_passed(&reclaim, reclaim_advance(&reclaim)));
    reclaim_add_reader(&reclaim, &reader);
    uint64_t epoch = reclaim_advance(&reclaim);
    assert_false(reclaim_passed(&reclaim, epoch));
    reclaim_reader_announce(&reader, reclaim_reader_load(&reader));
    assert_true(reclaim_passed(&reclaim, epoch));
    assert_int_equal(reclaim_run(&reclaim), 0);
    reclaim_fini(&reclaim);
}

static void the_lowest_hold_counts(void **state)
{
    (void)state;
    struct reclaim reclaim;
    struct reclaim_reader readers[2] = {0};
    reclaim_init(&reclaim);
    assert_int_equal(reclaim_hold_rev(&reclaim), RECLAIM_NO_HOLD);
    reclaim_add_reader(&reclaim, &readers[0]);
    reclaim_add_reader(&reclaim, &readers[1]);
    assert_int_equal(reclaim_hold_rev(&reclaim), RECLAIM_NO_HOLD);
    reclaim_reader_hold(&readers[0], 7);
    reclaim_reader_hold(&readers[1], 5);
    assert_int_equal(reclaim_hold_rev(&reclaim), 5);
    reclaim_reader_hold(&readers[1], RECLAIM_NO_HOLD);
    assert_int_equal(reclaim_hold_rev(&reclaim), 7);
    reclaim_fini(&reclaim);
}

static struct reclaim nested;

static void free_retires_more(void *object)
{
    reclaim_retire(&nested, snapshot_new(2), snapshot_free);
    snapshot_free(object);
}

static void a_free_function_may_retire_more(void **state)
{
    (void)state;
    reclaim_init(&nested);
    freed_count = 0;
    for (uint32_t i = 0; i < 1000; i++) { /* More than the ring's first room. */
        reclaim_retire(&nested, snapshot_new(1), free_retires_more);
    }
    while (reclaim_run(&nested) > 0) { /* Without readers nothing waits. */
    }
    assert_int_equal(freed_count, 2000);
    reclaim_retire(&nested, snapshot_new(1), free_retires_more);
    reclaim_fini(&nested);
    assert_int_equal(freed_count, 2002);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_never_see_freed_memory),
        cmocka_unit_test(one_slow_reader_holds_the_rest_up),
        cmocka_unit_test(a_grace_period_passes_without_retirements),
        cmocka_unit_test(the_lowest_hold_counts),
        cmocka_unit_test(a_free_function_may_retire_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
