/*
 * Goal: what the store says of its own bounds is so: how it polls, how large a batch gets, how many
 * readers wait, what a pin holds, when a lease ends.
 * Method: stores over the fake database, one bound at a time; all times are the world's own.
 */
#include "nodes.h"

#include "store/internal.h"

/* ---- polling -------------------------------------------------------------------------------- */

/* Until the second node has |seq|; how long that took. */
static uint64_t time_until_applied(struct world *world, uint64_t seq)
{
    uint64_t began_ns = world->sched.now_ns;
    const struct store *store = world->nodes[1].store;
    while (cache_snapshot_info(store_snapshot(store))->seq < seq) {
        assert_true(world_step(world, began_ns + 60 * NS_PER_S));
    }
    return world->sched.now_ns - began_ns;
}

/* --poll-interval is 100 ms (nodes.c); both ways together take 2 ms at most. */
static void polling_is_quick_while_others_write_and_slow_when_they_rest(void **state)
{
    (void)state;
    struct world *world = world_new(2, STORE_AUTO);
    const struct fake_faults deaf = {.lose_hint = 1000};
    fake_log_set_faults(world->nodes[0].log, &deaf);
    fake_log_set_faults(world->nodes[1].log, &deaf);
    world_run_for(world, 2 * NS_PER_S);
    for (uint32_t i = 0; i < 100; i++) {
        struct ask put = put_of("k", "v");
        assert_int_equal(ask_run(&world->nodes[0], &put), ERR_OK);
        uint64_t took_ns = time_until_applied(world, world->db.entry_count);
        assert_true(took_ns <= (i == 0 ? 102 : 7) * NS_PER_MS);
    }
    /* 5, 10, 20, 40, 80 ms, then 100 again; beside those the first node's, always 100. */
    uint64_t polls = world->db.tail_count;
    world_run_for(world, 300 * NS_PER_MS);
    assert_in_range(world->db.tail_count - polls, 4 + 2, 7 + 4);
    polls = world->db.tail_count;
    world_run_for(world, 10 * NS_PER_S);
    assert_in_range(world->db.tail_count - polls, 2 * 98, 2 * 101);
    world_free(world);
}

/* ---- the batch's bytes ---------------------------------------------------------------------- */

static void a_batch_closes_at_its_ceiling_of_bytes(void **state)
{
    enum { PUTS = 30, VALUE_SIZE = 1000 * 1000 };
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    char *value = mem_alloc(VALUE_SIZE);
    struct ask asks[PUTS];
    char keys[PUTS][8];
    for (uint32_t i = 0; i < PUTS; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]), "k%02u", i);
        asks[i] = put_of(keys[i], "");
        asks[i].request.u.put.value = slice_of(value, VALUE_SIZE);
        asks[i].request.size = VALUE_SIZE + 20;
        ask_start(node, &asks[i]);
    }
    store_turn(node->store);
    world_run_until(world, &asks[PUTS - 1].is_done);
    for (uint32_t i = 0; i < PUTS; i++) {
        assert_int_equal(asks[i].request.err, ERR_OK);
    }
    uint64_t per_batch = LIMIT_BATCH_BYTES / VALUE_SIZE;
    assert_int_equal(world->db.entry_count, (PUTS + per_batch - 1) / per_batch);
    for (uint64_t seq = 1; seq <= world->db.entry_count; seq++) {
        const struct sql_entry *entry = &fake_db_entry(&world->db, seq)->entry;
        assert_in_range(entry->byte_count, VALUE_SIZE, LIMIT_BATCH_BYTES);
    }
    mem_free(value);
    world_free(world);
}

/* ---- readers that wait ---------------------------------------------------------------------- */

static void readers_beyond_the_ceiling_are_refused(void **state)
{
    static const enum store_kind kinds[] = {STORE_READ_INDEX, STORE_LEASE_TTL, STORE_LEASE_LIST};
    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        struct world *world = world_new(1, STORE_AUTO);
        struct node *node = &world->nodes[0];
        struct request_list *waiting = &node->store->reads.waiting;
        struct ask asks[3];
        for (uint32_t j = 0; j < ARRAY_COUNT(asks); j++) {
            asks[j] = (struct ask){.request = {.kind = kinds[i]}};
        }
        ask_start(node, &asks[0]);
        assert_int_equal(waiting->count, 1);
        waiting->count += LIMIT_READS_WAITING_MAX - 2; /* As if so many others waited. */
        ask_start(node, &asks[1]);
        ask_start(node, &asks[2]);
        waiting->count -= LIMIT_READS_WAITING_MAX - 2;
        store_turn(node->store);
        assert_true(asks[2].is_done);
        assert_int_equal(asks[2].request.err, ERR_TOO_MANY_REQUESTS);
        world_run_until(world, &asks[1].is_done);
        assert_int_not_equal(asks[0].request.err, ERR_TOO_MANY_REQUESTS);
        assert_int_not_equal(asks[1].request.err, ERR_TOO_MANY_REQUESTS);
        world_free(world);
    }
}

/* ---- pins ----------------------------------------------------------------------------------- */

static struct sql_member *pinned;

/* Another replica that has applied everything, with a heartbeat every second. */
static void run_with_pin(struct world *world, uint64_t seconds)
{
    struct fake_db *db = &world->db;
    for (uint64_t i = 0; i < seconds; i++) {
        pinned->applied_seq = db->entry_count;
        db->members[db->member_count - 1].seen_ns = world->sched.now_ns;
        world_run_for(world, NS_PER_S);
    }
}

static void rows_from_a_stated_pin_on_stay_for_as_long_as_it_is_stated(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    struct fake_db *db = &world->db;
    db->members[db->member_count] =
        (struct fake_member){.member = {.id = UINT64_MAX, .pin_rev = 5}};
    pinned = &db->members[db->member_count++].member;
    run_with_pin(world, 2);
    for (uint32_t i = 0; i < 10; i++) {
        struct ask put = put_of("k", "v");
        assert_int_equal(ask_run(node, &put), ERR_OK);
    }
    struct ask compact = compact_of(11);
    assert_int_equal(ask_run(node, &compact), ERR_OK);
    run_with_pin(world, 30 * 60); /* Three times as long as a member can hold up a purge. */
    assert_int_equal(db->deleted_below, 5);
    assert_int_equal(log_rows_left(world), 11 - 5 + 1);
    pinned->pin_rev = 8; /* It moves on, ... */
    run_with_pin(world, 3);
    assert_int_equal(db->deleted_below, 8);
    pinned->pin_rev = INT64_MAX; /* ... and ends. */
    run_with_pin(world, 3);
    assert_int_equal(db->deleted_below, 11);
    assert_int_equal(log_rows_left(world), 1);
    world_free(world);
}

/* ---- the end of a lease --------------------------------------------------------------------- */

static void a_lease_ends_behind_its_ttl_and_the_margin(void **state)
{
    enum { TTL_S = 5, MARGINS = 4, READING_MS = 500 };
    (void)state;
    for (uint32_t i = 0; i < MARGINS; i++) {
        uint64_t margin_ms = i * 700;
        struct world *world = world_new(0, STORE_AUTO);
        struct node *node = &world->nodes[0];
        node->lease_margin_ms = margin_ms;
        node_start(node, STORE_AUTO);
        world_run_for(world, 2 * NS_PER_S); /* It has the duty by then. */
        struct ask grant = {.request = {.kind = STORE_LEASE_GRANT, .u.lease = {7, TTL_S}}};
        uint64_t began_ns = world->sched.now_ns;
        assert_int_equal(ask_run(node, &grant), ERR_OK);
        while (world->db.lease_count > 0) {
            assert_true(world_step(world, began_ns + 60 * NS_PER_S));
        }
        uint64_t lived_ns = world->sched.now_ns - began_ns;
        uint64_t due_ns = TTL_S * NS_PER_S + margin_ms * NS_PER_MS;
        assert_in_range(lived_ns, due_ns, due_ns + (READING_MS + 10) * NS_PER_MS);
        world_free(world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(polling_is_quick_while_others_write_and_slow_when_they_rest),
        cmocka_unit_test(a_batch_closes_at_its_ceiling_of_bytes),
        cmocka_unit_test(readers_beyond_the_ceiling_are_refused),
        cmocka_unit_test(rows_from_a_stated_pin_on_stay_for_as_long_as_it_is_stated),
        cmocka_unit_test(a_lease_ends_behind_its_ttl_and_the_margin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
