/* Lease timers: tables of single steps, and a random run against a naive list. */
#include "support.h"

#include "core/mem.h"
#include "lease/lease.h"

static const uint64_t GAP_NS = 1000 * NS_PER_MS;
static const uint64_t MARGIN_NS = 100 * NS_PER_MS;

static uint32_t due_count(const struct lease_table *table, uint64_t now_ns)
{
    struct lease_due due[LEASE_DUE_MAX];
    return lease_table_due(table, now_ns, due, LEASE_DUE_MAX);
}

static void a_lease_is_due_after_its_ttl_and_the_margin(void **state)
{
    struct lease_table *table = lease_table_new(GAP_NS, MARGIN_NS);
    (void)state;
    lease_table_reading_begin(table, NS_PER_S);
    lease_table_grant(table, 7, 1, 3, NS_PER_S);
    uint64_t end_ns = 2 * NS_PER_S + MARGIN_NS;
    lease_table_reading_begin(table, 2 * NS_PER_S);
    assert_int_equal(due_count(table, end_ns - 1), 0);
    struct lease_due due;
    assert_int_equal(lease_table_due(table, end_ns, &due, 1), 1);
    assert_int_equal(due.id, 7);
    assert_int_equal(due.grant_seq, 3);
    assert_int_equal(due.counter, 3);
    lease_table_revoke(table, 7);
    lease_table_revoke(table, 7);
    assert_int_equal(due_count(table, end_ns), 0);
    assert_int_equal(lease_table_count(table), 0);
    lease_table_free(table);
}

static void only_a_counter_that_moved_starts_the_time_again(void **state)
{
    struct lease_table *table = lease_table_new(GAP_NS, MARGIN_NS);
    (void)state;
    lease_table_reading_begin(table, NS_PER_S);
    lease_table_grant(table, 7, 1, 3, NS_PER_S);
    uint64_t now_ns = NS_PER_S + NS_PER_S / 2;
    lease_table_reading_begin(table, now_ns);
    lease_table_reading(table, 7, 3, 3, now_ns); /* Did not move. */
    lease_table_reading(table, 7, 2, 9, now_ns); /* Another grant. */
    lease_table_reading(table, 8, 3, 9, now_ns); /* Unknown. */
    now_ns += NS_PER_S / 2;
    lease_table_reading_begin(table, now_ns);
    assert_int_equal(due_count(table, now_ns + MARGIN_NS), 1);
    lease_table_reading(table, 7, 3, 4, now_ns);
    assert_int_equal(due_count(table, now_ns + MARGIN_NS), 0);
    lease_table_renewed(table, 7, 5, now_ns + NS_PER_S / 2);
    lease_table_reading_begin(table, now_ns + NS_PER_S);
    assert_int_equal(due_count(table, now_ns + NS_PER_S + MARGIN_NS), 0);
    lease_table_free(table);
}

static void time_counts_only_while_counters_are_read(void **state)
{
    struct lease_table *table = lease_table_new(GAP_NS, MARGIN_NS);
    (void)state;
    lease_table_grant(table, 7, 1, 3, 0);
    assert_int_equal(due_count(table, 100 * NS_PER_S), 0); /* Never read. */
    lease_table_reading_begin(table, 100 * NS_PER_S);
    assert_int_equal(due_count(table, 100 * NS_PER_S), 0);
    lease_table_reading_begin(table, 100 * NS_PER_S + GAP_NS);
    assert_int_equal(due_count(table, 100 * NS_PER_S + GAP_NS + MARGIN_NS), 1);
    /* The last reading is too old to say that nothing moved since. */
    assert_int_equal(due_count(table, 100 * NS_PER_S + 2 * GAP_NS + 1), 0);
    lease_table_reading_begin(table, 100 * NS_PER_S + 2 * GAP_NS + 1);
    assert_int_equal(due_count(table, 100 * NS_PER_S + 2 * GAP_NS + 1), 0);
    lease_table_free(table);
}

static void a_lease_granted_again_is_another_lease(void **state)
{
    struct lease_table *table = lease_table_new(GAP_NS, 0);
    (void)state;
    lease_table_reading_begin(table, 0);
    lease_table_grant(table, 7, 1, 3, 0);
    lease_table_reading(table, 7, 3, 50, 0);
    lease_table_reading_begin(table, NS_PER_S - 1);
    lease_table_grant(table, 7, 1, 9, NS_PER_S - 1);
    lease_table_grant(table, 7, 1, 9, NS_PER_S + 5); /* The same again: no change. */
    assert_int_equal(due_count(table, NS_PER_S + 5), 0);
    struct lease_due due;
    lease_table_reading_begin(table, 2 * NS_PER_S - 1);
    assert_int_equal(lease_table_due(table, 2 * NS_PER_S - 1, &due, 1), 1);
    assert_int_equal(due.grant_seq, 9);
    assert_int_equal(due.counter, 9);
    lease_table_free(table);
}

static void all_are_listed_with_their_ends_in_order(void **state)
{
    struct lease_table *table = lease_table_new(GAP_NS, MARGIN_NS);
    struct lease_left left[5];
    (void)state;
    lease_left_sort(left, 0);
    lease_table_list(table, left);
    lease_table_reading_begin(table, NS_PER_S);
    lease_table_grant(table, 1, 9, 1, NS_PER_S);
    lease_table_grant(table, 5, 7, 2, NS_PER_S);
    lease_table_grant(table, -4, 8, 3, NS_PER_S);
    lease_table_grant(table, 3, 7, 4, NS_PER_S);
    lease_table_grant(table, 2, 5, 5, NS_PER_S);
    lease_table_renewed(table, 2, 9, 5 * NS_PER_S); /* It began last and ends last. */
    static const int64_t ids[] = {3, 5, -4, 1, 2};
    static const uint64_t ends_s[] = {8, 8, 9, 10, 10};
    assert_int_equal(lease_table_count(table), ARRAY_COUNT(left));
    lease_table_list(table, left);
    lease_left_sort(left, ARRAY_COUNT(left));
    for (uint32_t i = 0; i < ARRAY_COUNT(left); i++) {
        assert_int_equal(left[i].id, ids[i]);
        assert_int_equal(left[i].ends_ns, ends_s[i] * NS_PER_S);
    }
    lease_table_free(table);
}

static void remaining_seconds_are_rounded_down(void **state)
{
    static const struct {
        uint64_t after_ns;
        int64_t left_s;
    } table[] = {
        {0, 10},
        {1, 9},
        {NS_PER_S, 9},
        {9 * NS_PER_S, 1},
        {9 * NS_PER_S + 1, 0},
        {11 * NS_PER_S, 0},
    };
    (void)state;
    struct lease_table *leases = lease_table_new(GAP_NS, MARGIN_NS);
    lease_table_grant(leases, -4, 10, 1, NS_PER_S);
    lease_table_grant(leases, 5, INT64_C(9000000000), 1, NS_PER_S);
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        assert_int_equal(lease_table_remaining_s(leases, -4, NS_PER_S + table[i].after_ns),
                         table[i].left_s);
    }
    assert_int_equal(lease_table_remaining_s(leases, 5, NS_PER_S), INT64_C(9000000000));
    assert_int_equal(lease_table_remaining_s(leases, 6, NS_PER_S), -1);
    lease_table_free(leases);
}

static void many_are_due_at_once_and_told_in_order(void **state)
{
    enum { COUNT = 3 * LEASE_DUE_MAX };
    struct lease_due due[LEASE_DUE_MAX];
    (void)state;
    struct lease_table *table = lease_table_new(GAP_NS, MARGIN_NS);
    for (int64_t i = 0; i < COUNT; i++) { /* 7 and COUNT have no common divisor: a permutation. */
        int64_t id = 1 + i * 7 % COUNT;
        lease_table_grant(table, id, 10, 1, (uint64_t)id);
    }
    lease_table_reading_begin(table, GAP_NS);
    lease_table_reading_begin(table, 2 * GAP_NS); /* The first one started all again. */
    for (int64_t id = 1; id <= COUNT; id++) {
        lease_table_renewed(table, id, 2, 2 * GAP_NS + (uint64_t)id);
    }
    uint64_t now_ns = 2 * GAP_NS;
    for (uint32_t i = 0; i < 11; i++) {
        now_ns += GAP_NS;
        lease_table_reading_begin(table, now_ns);
    }
    assert_int_equal(lease_table_due(table, now_ns, due, LEASE_DUE_MAX), LEASE_DUE_MAX);
    for (int64_t i = 0; i < LEASE_DUE_MAX; i++) {
        assert_int_equal(due[i].id, i + 1);
    }
    assert_true(lease_table_is_sound(table));
    lease_table_free(table);
}

/* Those that were to end last are now to end first, and are told in that order. */
static void the_order_is_right_after_all_timers_were_started_again(void **state)
{
    enum { COUNT = 500 };
    struct lease_due due[COUNT];
    struct lease_table *table = lease_table_new(GAP_NS, MARGIN_NS);
    (void)state;
    lease_table_reading_begin(table, 0);
    for (int64_t id = 1; id <= COUNT; id++) {
        lease_table_grant(table, id, COUNT + 1 - id, 1, (uint64_t)id * 2 * NS_PER_S);
    }
    assert_true(lease_table_is_sound(table));
    uint64_t now_ns = 2 * (COUNT + 1) * NS_PER_S;
    lease_table_reading_begin(table, now_ns); /* Behind a gap. */
    assert_true(lease_table_is_sound(table));
    lease_table_reading_begin(table, now_ns + MARGIN_NS);
    for (uint32_t s = 1; s <= COUNT; s++) {
        uint64_t end_ns = now_ns + s * NS_PER_S + MARGIN_NS;
        lease_table_reading_begin(table, end_ns);
        assert_int_equal(lease_table_due(table, end_ns, due, COUNT), s);
        assert_int_equal(due[s - 1].id, COUNT + 1 - s);
    }
    lease_table_free(table);
}

/* ---- against a list ------------------------------------------------------------------------- */

enum { IDS = 300, STEPS = 30000, DUE_ASKED = 100 };

struct naive {
    bool known;
    int64_t ttl_s;
    uint64_t grant_seq;
    uint64_t counter;
    uint64_t start_ns;
};

static bool naive_is_due(const struct naive *naive, uint64_t now_ns)
{
    return naive->known &&
           now_ns >= naive->start_ns + (uint64_t)naive->ttl_s * NS_PER_S + MARGIN_NS;
}

static void check_due(const struct lease_table *table, const struct naive *naive, uint64_t now_ns)
{
    struct lease_due due[DUE_ASKED];
    uint32_t count = lease_table_due(table, now_ns, due, DUE_ASKED);
    uint32_t expected = 0;
    uint64_t last_ns = 0;
    for (uint32_t i = 0; i < IDS; i++) {
        expected += naive_is_due(&naive[i], now_ns);
    }
    assert_int_equal(count, expected < DUE_ASKED ? expected : DUE_ASKED);
    for (uint32_t i = 0; i < count; i++) {
        const struct naive *one = &naive[due[i].id - 1];
        assert_true(naive_is_due(one, now_ns));
        assert_int_equal(due[i].counter, one->counter);
        uint64_t end_ns = one->start_ns + (uint64_t)one->ttl_s * NS_PER_S;
        assert_true(end_ns >= last_ns); /* The longest overdue first. */
        last_ns = end_ns;
    }
}

static void the_table_agrees_with_a_list(void **state)
{
    struct naive *naive = mem_alloc(IDS * sizeof(*naive));
    struct lease_table *table = lease_table_new(GAP_NS, MARGIN_NS);
    struct rng rng;
    uint64_t now_ns = NS_PER_S;
    uint32_t count = 0;
    (void)state;
    rng_seed(&rng, support_seed());
    lease_table_reading_begin(table, now_ns);
    for (uint64_t seq = 1; seq < STEPS; seq++) {
        uint64_t index = rng_below(&rng, IDS);
        struct naive *one = &naive[index];
        int64_t id = (int64_t)index + 1;
        uint64_t step_ns = rng_below(&rng, 20 * NS_PER_MS);
        now_ns += step_ns;
        lease_table_reading_begin(table, now_ns);
        switch (rng_below(&rng, 4)) {
        case 0:
            count += !one->known;
            *one = (struct naive){true, 1 + (int64_t)rng_below(&rng, 5), seq, seq, now_ns};
            lease_table_grant(table, id, one->ttl_s, seq, now_ns);
            break;
        case 1:
            count -= one->known;
            one->known = false;
            lease_table_revoke(table, id);
            break;
        case 2:
            if (one->known) {
                one->counter++;
                one->start_ns = now_ns;
            }
            lease_table_reading(table, id, one->grant_seq, one->counter, now_ns);
            break;
        default:
            check_due(table, naive, now_ns);
            break;
        }
        assert_int_equal(lease_table_count(table), count);
        assert_true(lease_table_is_sound(table));
    }
    lease_table_rearm(table, now_ns);
    assert_true(lease_table_is_sound(table));
    assert_int_equal(due_count(table, now_ns), 0);
    lease_table_free(table);
    mem_free(naive);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lease_is_due_after_its_ttl_and_the_margin),
        cmocka_unit_test(only_a_counter_that_moved_starts_the_time_again),
        cmocka_unit_test(time_counts_only_while_counters_are_read),
        cmocka_unit_test(a_lease_granted_again_is_another_lease),
        cmocka_unit_test(all_are_listed_with_their_ends_in_order),
        cmocka_unit_test(remaining_seconds_are_rounded_down),
        cmocka_unit_test(many_are_due_at_once_and_told_in_order),
        cmocka_unit_test(the_order_is_right_after_all_timers_were_started_again),
        cmocka_unit_test(the_table_agrees_with_a_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
