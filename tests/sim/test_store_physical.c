/*
 * Goal: a physical compaction is answered when its dead rows are gone from the database, whichever
 * replica is asked, not before; it waits for whom purging waits for, as long as its client does.
 * Method: two stores over the fake database; the first has the duty, the second is asked.
 */
#include "nodes.h"

/* Two nodes; the first one has had the duty for a while. */
static struct world *world_with_owner(void)
{
    struct world *world = world_new(2, STORE_AUTO);
    world_run_for(world, 2 * NS_PER_S);
    uint64_t owner = store_facts(world->nodes[0].store)->member_id;
    assert_int_equal(world->db.duty_owner, owner);
    assert_int_equal(store_facts(world->nodes[1].store)->leader, owner);
    return world;
}

static struct ask physical_of(int64_t revision)
{
    struct ask ask = compact_of(revision);
    ask.request.u.compact.physical = true;
    return ask;
}

/* |count| puts of one key; the revision of the last one. */
static int64_t put_often(struct node *node, uint32_t count)
{
    int64_t revision = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct ask put = put_of("k", "v");
        assert_int_equal(ask_run(node, &put), ERR_OK);
        revision = put.request.revision;
    }
    return revision;
}

static void without_the_duty_it_is_answered_when_the_rows_are_gone(void **state)
{
    (void)state;
    struct world *world = world_with_owner();
    struct node *node = &world->nodes[1];
    for (uint32_t i = 0; i < 5; i++) { /* Each finds rows that the one before has left. */
        int64_t revision = put_often(node, 50);
        struct ask compact = physical_of(revision);
        assert_int_equal(ask_run(node, &compact), ERR_OK);
        assert_int_equal(log_rows_left(world), 1);
        assert_int_equal(world->db.deleted_below, revision);
    }
    world_free(world);
}

/* The owner has begun, which all can see, and cannot go on. */
static void without_the_duty_a_slice_that_was_begun_is_not_enough(void **state)
{
    enum { COUNT = LIMIT_DELETE_SLICE_ROWS };
    (void)state;
    struct world *world = world_with_owner();
    struct node *node = &world->nodes[1];
    struct ask *puts = mem_alloc(COUNT * sizeof(*puts));
    char(*keys)[16] = mem_alloc(COUNT * sizeof(*keys));
    for (uint32_t i = 0; i < COUNT; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]), "k%05u", i);
        puts[i] = put_of(keys[i], "v");
        ask_start(node, &puts[i]);
    }
    store_turn(node->store);
    world_run_until(world, &puts[COUNT - 1].is_done);
    struct ask del = {.request = {.kind = STORE_DELETE, .size = 10}};
    del.request.u.del = (struct store_delete){slice_str("k"), slice_str("l"), false};
    assert_int_equal(ask_run(node, &del), ERR_OK);
    struct ask put = put_of("z", "kept");
    assert_int_equal(ask_run(node, &put), ERR_OK);
    int64_t revision = put.request.revision;
    struct ask compact = physical_of(revision);
    ask_start(node, &compact);
    store_turn(node->store);
    while (world->db.deleted_below < revision) {
        assert_true(world_step(world, world->sched.now_ns + 60 * NS_PER_S));
    }
    world->db.purge_err = ERR_DATABASE;
    world_run_for(world, 20 * NS_PER_S);
    assert_true(log_rows_left(world) > 1);
    assert_false(compact.is_done);
    world->db.purge_err = ERR_OK;
    world_run_until(world, &compact.is_done);
    assert_int_equal(compact.request.err, ERR_OK);
    assert_int_equal(log_rows_left(world), 1);
    world_free(world);
    mem_free(puts);
    mem_free(keys);
}

/* Another replica, whose heartbeats arrive and which never applies anything. */
static void laggard_beat(struct world *world)
{
    struct fake_db *db = &world->db;
    uint32_t last = db->member_count - 1;
    if (db->members[last].member.id != UINT64_MAX) {
        last = db->member_count++;
        db->members[last] =
            (struct fake_member){.member = {.id = UINT64_MAX, .pin_rev = INT64_MAX}};
    }
    db->members[last].seen_ns = world->sched.now_ns;
}

static void a_member_that_lags_holds_it_up_as_long_as_its_client_waits(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        bool patient = i % 2 == 1;
        struct world *world = world_with_owner();
        struct node *node = &world->nodes[i / 2]; /* The owner waits the same. */
        laggard_beat(world);
        world_run_for(world, 2 * NS_PER_S);
        struct ask compact = physical_of(put_often(node, 3));
        uint64_t began_ns = world->sched.now_ns;
        compact.request.deadline_ns = patient ? UINT64_MAX : began_ns + 15 * NS_PER_S;
        ask_start(node, &compact);
        store_turn(node->store);
        while (!compact.is_done && world->sched.now_ns - began_ns < 700 * NS_PER_S) {
            laggard_beat(world);
            (void)world_step(world, world->sched.now_ns + NS_PER_S);
        }
        uint64_t waited_ns = world->sched.now_ns - began_ns;
        assert_true(compact.is_done);
        assert_int_equal(compact.request.err, patient ? ERR_OK : ERR_TIMEOUT);
        assert_int_equal(log_rows_left(world), patient ? 1 : 3);
        if (patient) {
            assert_in_range(waited_ns, 600 * NS_PER_S, 610 * NS_PER_S);
        } else {
            assert_int_equal(waited_ns, 15 * NS_PER_S);
        }
        world_free(world);
    }
}

static void an_owner_that_is_gone_is_followed_by_who_waits(void **state)
{
    (void)state;
    struct world *world = world_with_owner();
    struct node *node = &world->nodes[1];
    fake_log_set_reachable(world->nodes[0].log, false);
    int64_t revision = put_often(node, 10);
    struct ask compact = physical_of(revision);
    assert_int_equal(ask_run(node, &compact), ERR_OK);
    assert_int_equal(log_rows_left(world), 1);
    assert_int_equal(world->db.duty_owner, store_facts(node->store)->member_id);
    fake_log_set_reachable(world->nodes[0].log, true);
    world_run_for(world, 10 * NS_PER_S);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_the_duty_it_is_answered_when_the_rows_are_gone),
        cmocka_unit_test(without_the_duty_a_slice_that_was_begun_is_not_enough),
        cmocka_unit_test(a_member_that_lags_holds_it_up_as_long_as_its_client_waits),
        cmocka_unit_test(an_owner_that_is_gone_is_followed_by_who_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
