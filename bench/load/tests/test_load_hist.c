/*
 * Goal: percentiles are never below the truth and at most 1.6 % above it.
 * Method: known sets of latencies, from single nanoseconds to the widest number.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../hist.h"
#include "core/mem.h"

static struct load_hist *hist;

static int setup(void **state)
{
    (void)state;
    hist = mem_alloc(sizeof(*hist));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    mem_free(hist);
    return 0;
}

static void an_empty_histogram_says_zero(void **state)
{
    (void)state;
    assert_int_equal(load_hist_at(hist, 500), 0);
    assert_int_equal(load_hist_mean(hist), 0);
}

static void every_value_alone_is_found_within_its_precision(void **state)
{
    (void)state;
    for (uint64_t ns = 1; ns < UINT64_MAX / 3; ns += ns / 4 + 1) {
        memset(hist, 0, sizeof(*hist));
        load_hist_add(hist, ns);
        load_hist_add(hist, UINT64_MAX / 2); /* Else the exact maximum would be told. */
        uint64_t told = load_hist_at(hist, 500);
        assert_true(told >= ns);
        assert_true(told - ns <= ns / 64);
    }
}

static void percentiles_of_a_ramp_are_its_shares(void **state)
{
    (void)state;
    for (uint64_t ns = 1; ns <= 100000; ns++) {
        load_hist_add(hist, ns);
    }
    static const uint32_t shares[] = {1, 500, 900, 990, 999, 1000};
    for (size_t i = 0; i < ARRAY_COUNT(shares); i++) {
        uint64_t truth = shares[i] * UINT64_C(100);
        uint64_t told = load_hist_at(hist, shares[i]);
        assert_true(told >= truth);
        assert_true(told - truth <= truth / 64);
    }
    assert_int_equal(load_hist_mean(hist), 50000);
    assert_int_equal(load_hist_at(hist, 1000), 100000);
}

static void the_widest_number_has_a_bucket(void **state)
{
    (void)state;
    load_hist_add(hist, UINT64_MAX);
    load_hist_add(hist, 0);
    assert_int_equal(load_hist_at(hist, 500), 0);
    assert_true(load_hist_at(hist, 1000) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_empty_histogram_says_zero, setup, teardown),
        cmocka_unit_test_setup_teardown(every_value_alone_is_found_within_its_precision, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(percentiles_of_a_ramp_are_its_shares, setup, teardown),
        cmocka_unit_test_setup_teardown(the_widest_number_has_a_bucket, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
