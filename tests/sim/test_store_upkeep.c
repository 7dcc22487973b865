/*
 * Goal: what is done beside the requests ends, is paced, and holds up nothing for ever: purging,
 * trimming, the ends of leases, fences.
 * Method: stores over the fake database, which counts the statements that it is sent.
 */
#include "nodes.h"

#include "lease/lease.h"

#define MINUTE_NS (60 * NS_PER_S)

/* Another replica, whose heartbeats arrive and which never applies anything. */
static void member_beat(struct world *world, uint64_t id)
{
    struct fake_db *db = &world->db;
    uint32_t at = 0;
    while (at < db->member_count && db->members[at].member.id != id) {
        at++;
    }
    if (at == db->member_count) {
        db->members[db->member_count++] =
            (struct fake_member){.member = {.id = id, .pin_rev = INT64_MAX}};
    }
    db->members[at].seen_ns = world->sched.now_ns;
}

/* ---- purge ---------------------------------------------------------------------------------- */

/* With a compaction in every |period| of 5 seconds. */
static void run_with_laggard(uint32_t period)
{
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    struct ask first = put_of("k", "v");
    assert_int_equal(ask_run(node, &first), ERR_OK);
    uint64_t began_ns = world->sched.now_ns;
    uint64_t rows_after_ns = 0;
    uint64_t entries_after_ns = 0;
    for (uint32_t i = 0; world->sched.now_ns - began_ns < 25 * MINUTE_NS; i++) {
        member_beat(world, UINT64_MAX);
        if (i % period == 0) {
            struct ask put = put_of("k", "v");
            assert_int_equal(ask_run(node, &put), ERR_OK);
            struct ask compact = compact_of(put.request.revision);
            assert_int_equal(ask_run(node, &compact), ERR_OK);
        }
        world_run_for(world, 5 * NS_PER_S);
        uint64_t passed_ns = world->sched.now_ns - began_ns;
        if (rows_after_ns == 0 && world->db.deleted_below > 0) {
            rows_after_ns = passed_ns;
        }
        if (entries_after_ns == 0 && world->db.entries[0].trimmed) {
            entries_after_ns = passed_ns;
        }
    }
    assert_in_range(rows_after_ns, 10 * MINUTE_NS, 11 * MINUTE_NS);
    assert_in_range(entries_after_ns, 20 * MINUTE_NS, 22 * MINUTE_NS);
    /* At the end it is held up by ten minutes, not by more. */
    int64_t revision = cache_snapshot_info(store_snapshot(node->store))->revision;
    uint64_t behind = (uint64_t)(revision - world->db.deleted_below);
    assert_in_range(behind * period * 5 * NS_PER_S, 10 * MINUTE_NS, 12 * MINUTE_NS);
    world_free(world);
}

static void a_live_member_that_stands_still_holds_up_nothing_for_ever(void **state)
{
    (void)state;
    run_with_laggard(12);
    run_with_laggard(4);
    run_with_laggard(1);
}

static void a_member_that_has_applied_a_compaction_does_not_hold_it_up(void **state)
{
    (void)state;
    struct world *world = world_new(2, STORE_AUTO);
    struct node *node = &world->nodes[0];
    world_run_for(world, 2 * NS_PER_S);
    struct ask put = put_of("k", "v");
    assert_int_equal(ask_run(node, &put), ERR_OK);
    struct ask again = put_of("k", "w");
    assert_int_equal(ask_run(node, &again), ERR_OK);
    struct ask compact = compact_of(again.request.revision);
    assert_int_equal(ask_run(node, &compact), ERR_OK);
    world_run_for(world, 5 * NS_PER_S);
    assert_int_equal(world->db.deleted_below, again.request.revision);
    world_free(world);
}

/* |count| puts of one key, and a compaction of all but the newest. */
static int64_t make_dead_rows(struct node *node, uint32_t count)
{
    struct ask *puts = mem_alloc(count * sizeof(*puts));
    for (uint32_t i = 0; i < count; i++) {
        puts[i] = put_of("k", "v");
        ask_start(node, &puts[i]);
    }
    store_turn(node->store);
    world_run_until(node->world, &puts[count - 1].is_done);
    int64_t revision = puts[count - 1].request.revision;
    mem_free(puts);
    struct ask compact = compact_of(revision);
    assert_int_equal(ask_run(node, &compact), ERR_OK);
    return revision;
}

static void a_purge_that_fails_goes_on_in_smaller_pieces(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    world_run_for(world, 2 * NS_PER_S); /* It has the duty by then. */
    world->db.purge_revs_max = 100;     /* Ten halvings of 1000 are below it. */
    int64_t revision = make_dead_rows(node, 3000);
    world_run_for(world, 30 * NS_PER_S);
    assert_int_equal(world->db.deleted_below, revision);
    assert_int_equal(log_rows_left(world), 1);
    world_free(world);
}

static void a_purge_that_keeps_failing_is_tried_once_per_upkeep(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    world_run_for(world, 2 * NS_PER_S);
    world->db.purge_err = ERR_DATABASE;
    struct ask compact = compact_of(1);
    compact.request.u.compact.physical = true;
    ask_start(node, &compact); /* It waits, and asks for the purge in each turn. */
    int64_t revision = make_dead_rows(node, 50);
    uint64_t purges = world->db.purge_count;
    uint64_t upkeeps = world->db.upkeep_count;
    world_run_for(world, 20 * NS_PER_S);
    upkeeps = world->db.upkeep_count - upkeeps;
    assert_in_range(world->db.purge_count - purges, upkeeps - 1, upkeeps + 1);
    world->db.purge_err = ERR_OK;
    world_run_for(world, 30 * NS_PER_S);
    assert_int_equal(world->db.deleted_below, revision);
    assert_true(compact.is_done);
    world_free(world);
}

static void nothing_is_purged_where_nothing_is_dead(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    world_run_for(world, 2 * NS_PER_S);
    (void)make_dead_rows(node, 2500);
    world_run_for(world, 5 * NS_PER_S);
    assert_int_equal(log_rows_left(world), 1);
    uint64_t purges = world->db.purge_count;
    assert_in_range(purges, 3, 5); /* 2500 revisions in slices of 1000, and perhaps a look. */
    world_run_for(world, 5 * MINUTE_NS);
    assert_int_equal(world->db.purge_count, purges);
    world_free(world);
}

static void the_newest_entry_is_checked_at_start_when_all_others_are_old(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    for (uint32_t i = 0; i < 5; i++) {
        struct ask put = put_of("k", "v");
        assert_int_equal(ask_run(node, &put), ERR_OK);
    }
    world_run_for(world, 15 * MINUTE_NS);
    assert_true(world->db.entries[2].trimmed);
    struct sql_entry *newest = &world->db.entries[world->db.entry_count - 1].entry;
    struct node *second = &world->nodes[1];
    second->may_end = true;
    newest->auth_rev++;
    node_start(second, STORE_AUTO);
    assert_int_equal(second->refusal, ERR_CHAIN_BROKEN);
    newest->auth_rev--;
    world_free(world);
}

/* ---- leases --------------------------------------------------------------------------------- */

static void leases_that_end_together_take_few_entries(void **state)
{
    enum { LEASES = 1000, KEYS = 3 };
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    static struct ask asks[LEASES * (KEYS + 1)];
    static char keys[LEASES * KEYS][16];
    memset(asks, 0, sizeof(asks));
    uint32_t at = 0;
    for (uint32_t i = 0; i < LEASES; i++) {
        struct ask *grant = &asks[at++];
        grant->request.kind = STORE_LEASE_GRANT;
        grant->request.u.lease.id = i + 1;
        grant->request.u.lease.ttl_s = 5;
        ask_start(node, grant);
        for (uint32_t j = 0; j < KEYS; j++) {
            (void)snprintf(keys[i * KEYS + j], sizeof(keys[0]), "k%04u.%u", i, j);
            asks[at] = put_of(keys[i * KEYS + j], "v");
            asks[at].request.u.put.lease = i + 1;
            ask_start(node, &asks[at++]);
        }
    }
    store_turn(node->store);
    uint64_t began_ns = world->sched.now_ns;
    world_run_until(world, &asks[at - 1].is_done);
    assert_int_equal(asks[at - 1].request.err, ERR_OK);
    assert_int_equal(world->db.lease_count, LEASES);
    uint64_t entries = world->db.entry_count;
    world_run_for(world, began_ns + 5 * NS_PER_S - world->sched.now_ns);
    assert_int_equal(world->db.entry_count, entries);
    assert_int_equal(world->db.lease_count, LEASES);
    world_run_for(world, 1200 * NS_PER_MS); /* Two readings of the counters, and a little. */
    assert_int_equal(world->db.lease_count, 0);
    assert_int_equal(cache_snapshot_info(store_snapshot(node->store))->live_keys, 0);
    /* 4000 changes, and the leases of the first reading apart from those of the second. */
    assert_in_range(world->db.entry_count - entries, 4, 6);
    world_free(world);
}

static enum err grant(struct node *node, int64_t id, int64_t ttl_s)
{
    struct ask ask = {.request = {.kind = STORE_LEASE_GRANT, .u.lease = {id, ttl_s}}};
    return ask_run(node, &ask);
}

static void leases_are_listed_as_they_end_on_all_replicas_and_without_a_database(void **state)
{
    static const int64_t ids[] = {4, 9, -2, 7};
    (void)state;
    struct world *world = world_new(2, STORE_AUTO);
    assert_int_equal(grant(&world->nodes[0], 7, 60), ERR_OK);
    assert_int_equal(grant(&world->nodes[1], 9, 50), ERR_OK);
    assert_int_equal(grant(&world->nodes[0], -2, 55), ERR_OK);
    assert_int_equal(grant(&world->nodes[1], 4, 30), ERR_OK);
    for (uint32_t i = 0; i < 4; i++) {
        if (i == 2) {
            fake_log_set_reachable(world->nodes[0].log, false);
            fake_log_set_reachable(world->nodes[1].log, false);
            world_run_for(world, 5 * NS_PER_S);
        }
        struct ask list = {.request = {.kind = STORE_LEASE_LIST}};
        assert_int_equal(ask_run(&world->nodes[i % 2], &list), ERR_OK);
        struct lease_left *items = list.request.answer.leases.items;
        assert_int_equal(list.request.answer.leases.count, ARRAY_COUNT(ids));
        lease_left_sort(items, ARRAY_COUNT(ids));
        for (uint32_t j = 0; j < ARRAY_COUNT(ids); j++) {
            assert_int_equal(items[j].id, ids[j]);
        }
    }
    world_free(world);
}

/* ---- another database ----------------------------------------------------------------------- */

static void set_identity(struct world *world, const char *identity)
{
    (void)snprintf(world->db.live_identity, sizeof(world->db.live_identity), "%s", identity);
}

static void while_fenced_only_probes_are_sent_and_they_back_off(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    fake_log_set_faults(node->log, &(struct fake_faults){.travel_ns = 10 * NS_PER_MS});
    world_run_for(world, 2 * NS_PER_S);
    struct ask read = {.request = {.kind = STORE_READ_INDEX}};
    ask_start(node, &read);
    set_identity(world, "another");
    store_turn(node->store);
    world_run_until(world, &read.is_done);
    assert_int_equal(read.request.err, ERR_LEADER_CHANGED);
    world_run_for(world, 5 * NS_PER_S);
    const struct fake_db before = world->db;
    world_run_for(world, 30 * NS_PER_S);
    assert_true(store_facts(node->store)->fenced);
    assert_in_range(world->db.probe_count - before.probe_count, 10, 30); /* Each 1 to 3 s. */
    assert_int_equal(world->db.tail_count, before.tail_count);
    assert_int_equal(world->db.upkeep_count, before.upkeep_count);
    assert_int_equal(world->db.load_count, before.load_count);
    assert_int_equal(world->db.append_count, before.append_count);
    set_identity(world, "fake");
    world_run_for(world, 4 * NS_PER_S);
    assert_false(store_facts(node->store)->fenced);
    struct ask put = put_of("k", "v");
    assert_int_equal(ask_run(node, &put), ERR_OK);
    assert_true(world->db.upkeep_count > before.upkeep_count);
    world_free(world);
}

static void who_waits_is_told_that_the_database_is_another(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    fake_log_set_faults(node->log, &(struct fake_faults){.travel_ns = 10 * NS_PER_MS});
    struct store_compare compare = {
        .result = STORE_GREATER, .target = STORE_CREATE, .key = SLICE_LIT("k"), .number = 1};
    struct ask txn = {.request = {.kind = STORE_TXN}}; /* Nothing to append: answered by a probe. */
    txn.request.u.txn = (struct store_txn){.compares = &compare, .compare_count = 1};
    struct ask renew = {.request = {.kind = STORE_LEASE_KEEPALIVE, .u.lease.id = 1}};
    uint64_t began_ns = world->sched.now_ns;
    set_identity(world, "another");
    ask_start(node, &txn);
    store_turn(node->store);
    ask_start(node, &renew);
    world_run_until(world, &txn.is_done);
    world_run_until(world, &renew.is_done);
    assert_int_equal(txn.request.err, ERR_LEADER_CHANGED);
    assert_int_equal(renew.request.err, ERR_LEADER_CHANGED);
    assert_true(world->sched.now_ns - began_ns < NS_PER_S);
    world_free(world);
}

/* The process stood still, not the database: timers run before the answer is read. */
static void a_pause_of_the_process_is_no_outage(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    fake_log_set_faults(node->log, &(struct fake_faults){.travel_ns = 10 * NS_PER_MS});
    struct ask read = {.request = {.kind = STORE_READ_INDEX}};
    ask_start(node, &read);
    store_turn(node->store);
    fake_log_hold(node->log, true);
    uint64_t until_ns = world->sched.now_ns + 3 * NS_PER_S;
    while (sched_next_ns(&world->sched) <= until_ns) {
        sched_run_one(&world->sched);
    }
    world->sched.now_ns = until_ns;
    timers_run(&node->timers);
    fake_log_hold(node->log, false);
    store_turn(node->store);
    assert_false(store_facts(node->store)->away);
    world_run_until(world, &read.is_done);
    assert_int_equal(read.request.err, ERR_OK);
    /* A database that does not answer afterwards, either, is away. */
    fake_log_set_reachable(node->log, false);
    uint64_t began_ns = world->sched.now_ns;
    read = (struct ask){.request = {.kind = STORE_READ_INDEX}};
    assert_int_equal(ask_run(node, &read), ERR_NO_LEADER);
    assert_in_range(world->sched.now_ns - began_ns, NS_PER_S, 2 * NS_PER_S);
    world_free(world);
}

static void what_was_refused_by_another_database_is_told_at_once(void **state)
{
    static const enum fake_script refuse[] = {FAKE_REFUSE};
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    fake_log_script(node->log, refuse, 1);
    fake_log_set_faults(node->log, &(struct fake_faults){.travel_ns = 900 * NS_PER_MS});
    struct ask put = put_of("k", "v");
    uint64_t began_ns = world->sched.now_ns;
    ask_start(node, &put);
    store_turn(node->store);
    /* The fence is known before the append is refused. */
    fake_log_set_faults(node->log, &(struct fake_faults){0});
    set_identity(world, "another");
    struct ask read = {.request = {.kind = STORE_READ_INDEX}};
    assert_int_equal(ask_run(node, &read), ERR_LEADER_CHANGED);
    assert_false(put.is_done);
    world_run_until(world, &put.is_done);
    assert_int_equal(put.request.err, ERR_LEADER_CHANGED);
    assert_true(world->sched.now_ns - began_ns < NS_PER_S);
    assert_int_equal(log_count(world, "v"), 0);
    world_free(world);
}

static void nothing_is_loaded_from_another_database(void **state)
{
    (void)state;
    struct world *world = world_new(2, STORE_AUTO);
    struct node *node = &world->nodes[0];
    fake_log_set_reachable(node->log, false);
    world_run_for(world, 20 * NS_PER_S);
    int64_t revision = make_dead_rows(&world->nodes[1], 10);
    world_run_for(world, 5 * NS_PER_S);
    assert_int_equal(world->db.deleted_below, revision);
    world->db.load_err = ERR_NO_LEADER;
    fake_log_set_reachable(node->log, true);
    world_run_for(world, 5 * NS_PER_S);
    assert_true(world->db.load_count > 4); /* It is behind, and tries. */
    set_identity(world, "another");
    struct ask read = {.request = {.kind = STORE_READ_INDEX}};
    assert_int_equal(ask_run(node, &read), ERR_LEADER_CHANGED);
    uint64_t loads = world->db.load_count;
    world_run_for(world, 10 * NS_PER_S);
    assert_in_range(world->db.load_count, loads, loads + 1);
    world->db.load_err = ERR_OK;
    set_identity(world, "fake");
    world_run_for(world, 5 * NS_PER_S);
    assert_int_equal(cache_snapshot_info(store_snapshot(node->store))->revision, revision);
    world_free(world);
}

static void another_database_settles_no_doubt(void **state)
{
    static const enum fake_script lost[] = {FAKE_COMMIT_LOST};
    (void)state;
    for (uint32_t committed = 0; committed < 2; committed++) {
        struct world *world = world_new(1, STORE_AUTO);
        struct node *node = &world->nodes[0];
        fake_log_script(node->log, lost, 1);
        struct ask put = put_of("k", "v");
        ask_start(node, &put);
        store_turn(node->store);
        while (world->db.entry_count == 0) {
            assert_true(world_step(world, UINT64_MAX));
        }
        set_identity(world, "another");
        struct sql_writer writer = world->db.entries[0].entry.writer;
        if (committed == 0) { /* There, somebody else stands at its place. */
            world->db.entries[0].entry.writer.counter += 1000;
        }
        world_run_for(world, 2 * NS_PER_S);
        assert_false(put.is_done);
        uint64_t appends = world->db.append_count;
        world_run_for(world, NS_PER_S);
        assert_int_equal(world->db.append_count, appends);
        world->db.entries[0].entry.writer = writer;
        set_identity(world, "fake");
        world_run_until(world, &put.is_done);
        assert_int_equal(put.request.err, ERR_OK);
        world_run_for(world, 5 * NS_PER_S);
        assert_int_equal(log_count(world, "v"), 1);
        world_free(world);
    }
}

static void who_starts_on_another_database_writes_nothing_and_waits(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    set_identity(world, "another");
    struct node *second = &world->nodes[1];
    uint32_t members = world->db.member_count;
    second->may_wait = true;
    node_start(second, STORE_AUTO);
    world_run_for(world, 20 * NS_PER_S);
    assert_false(second->is_ready);
    assert_int_equal(world->db.member_count, members);
    set_identity(world, "fake");
    world_run_until(world, &second->is_ready);
    assert_int_equal(world->db.member_count, members + 1);
    world_free(world);
}

/* ---- appends that are refused --------------------------------------------------------------- */

static struct world *refusing;

static void run_refused(void)
{
    struct world *world = refusing;
    struct node *node = &world->nodes[0];
    log_level_max = LOG_INFO;
    world->db.append_err = ERR_DATABASE;
    struct ask put = put_of("k", "v");
    uint64_t sent = world->db.append_count;
    ask_start(node, &put);
    store_turn(node->store);
    world_run_for(world, 6500 * NS_PER_MS);
    assert_false(put.is_done);
    assert_in_range(world->db.append_count - sent, 6, 14);
    world->db.append_err = ERR_OK;
    world_run_until(world, &put.is_done); /* At the deadline. */
    world_run_for(world, 3 * NS_PER_S);
    uint64_t began_ns = world->sched.now_ns;
    struct ask next = put_of("k", "w");
    assert_int_equal(ask_run(node, &next), ERR_OK);
    assert_true(world->sched.now_ns - began_ns < NS_PER_S);
    log_level_max = LOG_ERROR;
    /* The next row of failures begins with a short wait again. */
    static const enum fake_script refuse[] = {FAKE_REFUSE};
    fake_log_script(node->log, refuse, 1);
    began_ns = world->sched.now_ns;
    struct ask last = put_of("k", "x");
    assert_int_equal(ask_run(node, &last), ERR_OK);
    assert_true(world->sched.now_ns - began_ns < 100 * NS_PER_MS);
}

static void appends_that_are_refused_back_off_and_are_told_once(void **state)
{
    (void)state;
    for (uint32_t mode = STORE_OPTIMISTIC; mode <= STORE_LOCKING; mode++) {
        refusing = world_new(1, (enum store_transaction_mode)mode);
        char *said = support_capture_stderr(run_refused);
        assert_int_equal(support_text_count(said, "appends are refused"), 1);
        assert_int_equal(support_text_count(said, "appends go again"), 1);
        mem_free(said);
        world_free(refusing);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_live_member_that_stands_still_holds_up_nothing_for_ever),
        cmocka_unit_test(a_member_that_has_applied_a_compaction_does_not_hold_it_up),
        cmocka_unit_test(a_purge_that_fails_goes_on_in_smaller_pieces),
        cmocka_unit_test(a_purge_that_keeps_failing_is_tried_once_per_upkeep),
        cmocka_unit_test(nothing_is_purged_where_nothing_is_dead),
        cmocka_unit_test(the_newest_entry_is_checked_at_start_when_all_others_are_old),
        cmocka_unit_test(leases_that_end_together_take_few_entries),
        cmocka_unit_test(leases_are_listed_as_they_end_on_all_replicas_and_without_a_database),
        cmocka_unit_test(a_pause_of_the_process_is_no_outage),
        cmocka_unit_test(while_fenced_only_probes_are_sent_and_they_back_off),
        cmocka_unit_test(who_waits_is_told_that_the_database_is_another),
        cmocka_unit_test(what_was_refused_by_another_database_is_told_at_once),
        cmocka_unit_test(nothing_is_loaded_from_another_database),
        cmocka_unit_test(another_database_settles_no_doubt),
        cmocka_unit_test(who_starts_on_another_database_writes_nothing_and_waits),
        cmocka_unit_test(appends_that_are_refused_back_off_and_are_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
