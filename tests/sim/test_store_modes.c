/*
 * Goal: each transaction mode takes the lock when it says so, and `auto` gets through beside
 * writers who never rest, however slow its own way to the database is.
 * Method: stores over the fake database, which counts locks and appends; what is bounded is the
 * world's own time.
 */
#include "nodes.h"

static void put_goes(struct node *node, const char *value)
{
    struct ask put = put_of("k", value);
    assert_int_equal(ask_run(node, &put), ERR_OK);
    assert_int_equal(log_count(node->world, value), 1);
}

/* The first node's put meets an entry of the second one that it has not seen. */
static void lose_once(struct world *world, const char *theirs, const char *ours)
{
    struct ask other = put_of("k", theirs);
    uint64_t seq = world->db.entry_count + 1;
    world_run_for(world, NS_PER_S); /* Both have all there is. */
    ask_start(&world->nodes[1], &other);
    store_turn(world->nodes[1].store);
    uint64_t end_ns = world->sched.now_ns + 60 * NS_PER_S;
    while (world->db.entry_count < seq) {
        assert_true(world_step(world, end_ns));
    }
    put_goes(&world->nodes[0], ours);
    world_run_until(world, &other.is_done);
    assert_int_equal(other.request.err, ERR_OK);
}

static void auto_locks_after_one_loss_until_it_has_written(void **state)
{
    (void)state;
    struct world *world = world_new(2, STORE_AUTO);
    const struct fake_db *db = &world->db;
    put_goes(&world->nodes[0], "first");
    assert_int_equal(db->lock_count, 0);
    uint64_t appends = db->append_count;
    lose_once(world, "theirs", "ours");
    assert_int_equal(db->lock_count, 1);
    assert_int_equal(db->append_count - appends, 3); /* Theirs, the lost one, the locked one. */
    put_goes(&world->nodes[0], "after");
    assert_int_equal(db->lock_count, 1);
    assert_int_equal(db->append_count - appends, 4);
    lose_once(world, "theirs again", "ours again");
    assert_int_equal(db->lock_count, 2);
    world_free(world);
}

static void optimistic_never_locks_and_locking_always_does(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        struct world *world = world_new(2, i == 0 ? STORE_OPTIMISTIC : STORE_LOCKING);
        const struct fake_db *db = &world->db;
        put_goes(&world->nodes[0], "first");
        assert_int_equal(db->lock_count, i == 0 ? 0 : 1);
        lose_once(world, "theirs", "ours");
        assert_int_equal(db->lock_count, i == 0 ? 0 : 3);
        put_goes(&world->nodes[0], "after");
        assert_int_equal(db->lock_count, i == 0 ? 0 : 4);
        assert_int_equal(db->append_count, i == 0 ? 5 : 4); /* Under the lock none is lost. */
        world_free(world);
    }
}

/* A batch that changes nothing loses by its probe: also a loss. */
static void auto_locks_after_a_batch_without_rows_that_lost(void **state)
{
    (void)state;
    struct world *world = world_new(2, STORE_AUTO);
    struct node *node = &world->nodes[0];
    struct ask other = put_of("k", "theirs");
    struct ask ask = {.request = {.kind = STORE_DELETE, .size = 10}};
    ask.request.u.del.key = slice_str("none");
    ask_start(&world->nodes[1], &other);
    store_turn(world->nodes[1].store);
    uint64_t end_ns = world->sched.now_ns + 60 * NS_PER_S;
    while (world->db.entry_count == 0) {
        assert_true(world_step(world, end_ns));
    }
    assert_int_equal(ask_run(node, &ask), ERR_OK);
    assert_int_equal(ask.request.revision, 2); /* It saw theirs. */
    assert_int_equal(world->db.lock_count, 1);
    world_run_until(world, &other.is_done);
    world_free(world);
}

/* ---- beside a writer who never rests -------------------------------------------------------- */

/* Its next put goes as soon as the last one is answered, for ever. */
struct restless {
    struct node *node;
    struct ask ask;
    uint64_t puts;
};

static void restless_go_on(struct restless *restless)
{
    if (restless->puts == 0 || restless->ask.is_done) {
        assert_true(restless->puts == 0 || restless->ask.request.err == ERR_OK);
        restless->ask = put_of("k", "busy");
        ask_start(restless->node, &restless->ask);
        store_turn(restless->node->store);
        restless->puts++;
    }
}

static void auto_gets_through_beside_a_writer_who_never_rests(void **state)
{
    /* A loss, a look at who won, the lock and the append in it: four round trips. */
    enum { PUTS = 20, WAY_MS = 20, WAITS_MS = 8 * WAY_MS + 50 };
    (void)state;
    struct world *world = world_new(2, STORE_AUTO);
    struct restless restless = {.node = &world->nodes[1]};
    fake_log_set_faults(world->nodes[0].log,
                        &(struct fake_faults){.travel_ns = WAY_MS * NS_PER_MS});
    for (uint32_t i = 0; i < PUTS; i++) {
        struct ask put = put_of("k", "slow");
        uint64_t began_ns = world->sched.now_ns;
        uint64_t others = restless.puts;
        ask_start(&world->nodes[0], &put);
        store_turn(world->nodes[0].store);
        while (!put.is_done) {
            restless_go_on(&restless);
            assert_true(world_step(world, began_ns + WAITS_MS * NS_PER_MS));
        }
        assert_int_equal(put.request.err, ERR_OK);
        assert_true(restless.puts > others);
    }
    assert_int_equal(log_count(world, "slow"), PUTS);
    assert_true(restless.puts > 100 * PUTS); /* It was no fair fight. */
    assert_true(world->db.lock_count >= PUTS / 2);
    world_run_until(world, &restless.ask.is_done);
    world_free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_locks_after_one_loss_until_it_has_written),
        cmocka_unit_test(optimistic_never_locks_and_locking_always_does),
        cmocka_unit_test(auto_locks_after_a_batch_without_rows_that_lost),
        cmocka_unit_test(auto_gets_through_beside_a_writer_who_never_rests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
