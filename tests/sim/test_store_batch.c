/*
 * Goal: every answer of an append ends as the log says, one step at a time.
 * Method: stores over the fake database; each append of a table row goes as scripted; then the
 * answer that the client got is compared with what stands in the log.
 */
#include "nodes.h"

/* ---- one writer ----------------------------------------------------------------------------- */

static void an_append_ends_as_the_log_says(void **state)
{
    static const struct {
        enum fake_script steps[4];
        uint32_t count;
        enum err err;
        uint32_t in_log;
        uint64_t entries;
    } table[] = {
        {{FAKE_AS_USUAL}, 0, ERR_OK, 1, 1},
        {{FAKE_COMMIT_LOST}, 1, ERR_OK, 1, 1},
        {{FAKE_NEVER}, 1, ERR_OK, 1, 1},
        {{FAKE_LATE}, 1, ERR_OK, 1, 1},
        {{FAKE_TWICE_SECOND}, 1, ERR_OK, 1, 1},
        {{FAKE_COMMIT_LOST, FAKE_COMMIT_LOST}, 2, ERR_OK, 1, 1},
        {{FAKE_COMMIT_LOST, FAKE_NEVER}, 2, ERR_OK, 1, 1},
        {{FAKE_COMMIT_LOST, FAKE_TWICE_SECOND}, 2, ERR_OK, 1, 1},
        {{FAKE_COMMIT_LOST, FAKE_REFUSE}, 2, ERR_OK, 1, 1},
        {{FAKE_COMMIT_LOST, FAKE_REFUSE_SPACE}, 2, ERR_OK, 1, 1},
        {{FAKE_NEVER, FAKE_COMMIT_LOST}, 2, ERR_OK, 1, 1},
        {{FAKE_NEVER, FAKE_LATE, FAKE_LATE}, 3, ERR_OK, 1, 1},
        {{FAKE_LATE, FAKE_NEVER, FAKE_REFUSE}, 3, ERR_OK, 1, 1},
        {{FAKE_REFUSE}, 1, ERR_OK, 1, 1},
        {{FAKE_REFUSE, FAKE_REFUSE, FAKE_REFUSE}, 3, ERR_OK, 1, 1},
        {{FAKE_REFUSE_SPACE}, 1, ERR_NO_SPACE, 0, 0},
        /* Disk full while in doubt: an empty entry takes the place, so that it is known. */
        {{FAKE_NEVER, FAKE_REFUSE_SPACE}, 2, ERR_NO_SPACE, 0, 1},
        {{FAKE_NEVER, FAKE_REFUSE_SPACE, FAKE_COMMIT_LOST}, 3, ERR_NO_SPACE, 0, 1},
    };
    (void)state;
    for (uint32_t mode = STORE_OPTIMISTIC; mode <= STORE_AUTO; mode++) {
        for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
            struct world *world = world_new(1, (enum store_transaction_mode)mode);
            fake_log_set_faults(world->nodes[0].log,
                                &(struct fake_faults){.late_ns = 50 * NS_PER_MS});
            fake_log_script(world->nodes[0].log, table[i].steps, table[i].count);
            struct ask ask = put_of("k", "v");
            if (ask_run(&world->nodes[0], &ask) != table[i].err) {
                fail_msg("row %u, mode %u: %s", i, mode, err_name(ask.request.err));
            }
            world_run_for(world, 5 * NS_PER_S);
            if (log_count(world, "v") != table[i].in_log ||
                world->db.entry_count != table[i].entries) {
                fail_msg("row %u, mode %u: %u times in %llu entries", i, mode,
                         log_count(world, "v"), (unsigned long long)world->db.entry_count);
            }
            /* Whatever happened: the next one goes. */
            struct ask next = put_of("k", "w");
            assert_int_equal(ask_run(&world->nodes[0], &next), ERR_OK);
            assert_int_equal(log_count(world, "w"), 1);
            world_free(world);
        }
    }
}

static void a_request_in_doubt_is_answered_at_its_deadline_and_resolved_without_it(void **state)
{
    static const enum fake_script never[] = {FAKE_NEVER, FAKE_NEVER, FAKE_NEVER, FAKE_NEVER,
                                             FAKE_NEVER, FAKE_NEVER, FAKE_NEVER, FAKE_NEVER};
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    fake_log_script(world->nodes[0].log, never, ARRAY_COUNT(never));
    struct ask ask = put_of("k", "v");
    ask.request.deadline_ns = world->sched.now_ns + 100 * NS_PER_MS;
    uint64_t began_ns = world->sched.now_ns;
    assert_int_equal(ask_run(&world->nodes[0], &ask), ERR_TIMEOUT);
    assert_int_equal(world->sched.now_ns - began_ns, 100 * NS_PER_MS);
    memset(&ask, 0xee, sizeof(ask)); /* The asker's memory is its own again. */
    world_run_for(world, 20 * NS_PER_S);
    assert_int_equal(log_count(world, "v"), 1);
    assert_int_equal(cache_snapshot_info(store_snapshot(world->nodes[0].store))->revision, 2);
    world_free(world);
}

static void a_request_whose_deadline_passed_in_the_queue_is_never_sent(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    fake_log_set_faults(world->nodes[0].log, &(struct fake_faults){.travel_ns = 200 * NS_PER_MS});
    struct ask first = put_of("k", "first");
    struct ask second = put_of("k", "second");
    second.request.deadline_ns = world->sched.now_ns + 1;
    ask_start(&world->nodes[0], &first);
    store_turn(world->nodes[0].store);
    ask_start(&world->nodes[0], &second);
    world_run_until(world, &second.is_done);
    assert_int_equal(second.request.err, ERR_TIMEOUT);
    world_run_until(world, &first.is_done);
    assert_int_equal(first.request.err, ERR_OK);
    world_run_for(world, NS_PER_S);
    assert_int_equal(log_count(world, "second"), 0);
    world_free(world);
}

static void many_requests_share_one_entry_and_read_each_others_writes(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    static struct ask asks[100];
    memset(asks, 0, sizeof(asks));
    for (uint32_t i = 0; i < ARRAY_COUNT(asks); i++) {
        asks[i] = put_of("k", "v");
        asks[i].request.u.put.prev_kv = true;
        ask_start(&world->nodes[0], &asks[i]);
    }
    store_turn(world->nodes[0].store);
    world_run_until(world, &asks[ARRAY_COUNT(asks) - 1].is_done);
    assert_int_equal(world->db.entry_count, 1);
    for (uint32_t i = 0; i < ARRAY_COUNT(asks); i++) {
        assert_int_equal(asks[i].request.err, ERR_OK);
        assert_int_equal(asks[i].request.revision, 2 + i);
        const struct cache_version *prev = asks[i].request.answer.put.prev;
        assert_true((prev == NULL) == (i == 0));
        assert_true(prev == NULL || cache_version_version(prev) == i);
    }
    world_free(world);
}

static void a_batch_closes_when_its_evaluation_has_taken_long(void **state)
{
    enum { COUNT = 200 };
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    static struct ask asks[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        asks[i] = put_of("k", "v");
        ask_start(node, &asks[i]);
    }
    world->look_ns = NS_PER_MS;
    store_turn(node->store);
    world->look_ns = 0;
    world_run_until(world, &asks[COUNT - 1].is_done);
    assert_int_equal(log_count(world, "v"), COUNT);
    assert_in_range(fake_db_entry(&world->db, 1)->entry.row_count, 1, LIMIT_BATCH_EVAL_MS + 1);
    assert_int_equal(world->db.entry_count, 2);
    world_free(world);
}

/* While a batch is under way and while its members are back in the queue. */
static void what_is_in_the_batch_counts_for_the_ceiling(void **state)
{
    enum { COUNT = LIMIT_WRITES_QUEUED_MAX + LIMIT_BATCH_ROWS };
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    struct ask *asks = mem_alloc(COUNT * sizeof(*asks));
    for (uint32_t large = 0; large < 2; large++) {
        /* By number, then by bytes. */
        size_t size = large == 1 ? NODE_REQUEST_SIZE_MAX : 10;
        uint32_t max = large == 1 ? LIMIT_WRITE_BYTES_QUEUED_MAX / NODE_REQUEST_SIZE_MAX
                                  : LIMIT_WRITES_QUEUED_MAX;
        for (uint32_t i = 0; i < max + 100; i++) {
            asks[i] = put_of("k", "v");
            asks[i].request.size = size;
            ask_start(node, &asks[i]);
            if (i == max / 2) {
                store_turn(node->store); /* Many of them are in the batch from now on. */
            }
        }
        store_turn(node->store);
        for (uint32_t i = 0; i < max + 100; i++) {
            assert_int_equal(asks[i].is_done, i >= max);
            assert_int_equal(asks[i].request.err, i >= max ? ERR_TOO_MANY_REQUESTS : ERR_OK);
        }
        world_run_until(world, &asks[max - 1].is_done);
    }
    mem_free(asks);
    world_free(world);
}

static void admission_says_what_it_refuses(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct ask large = put_of("k", "v");
    large.request.size = NODE_REQUEST_SIZE_MAX + 1;
    assert_int_equal(ask_run(&world->nodes[0], &large), ERR_REQUEST_TOO_LARGE);
    uint32_t count = LIMIT_WRITES_QUEUED_MAX + 1;
    struct ask *asks = mem_alloc(count * sizeof(*asks));
    for (uint32_t i = 0; i < count; i++) {
        asks[i] = put_of("k", "v");
        ask_start(&world->nodes[0], &asks[i]);
    }
    store_turn(world->nodes[0].store);
    assert_true(asks[count - 1].is_done);
    assert_int_equal(asks[count - 1].request.err, ERR_TOO_MANY_REQUESTS);
    world_run_until(world, &asks[count - 2].is_done);
    assert_int_equal(asks[count - 2].request.err, ERR_OK);
    assert_int_equal(log_count(world, "v"), LIMIT_WRITES_QUEUED_MAX);
    mem_free(asks);
    world_free(world);
}

/* ---- two writers ---------------------------------------------------------------------------- */

static void a_batch_that_lost_is_evaluated_again(void **state)
{
    (void)state;
    for (uint32_t mode = STORE_OPTIMISTIC; mode <= STORE_AUTO; mode++) {
        struct world *world = world_new(2, (enum store_transaction_mode)mode);
        struct store_compare absent = {
            .result = STORE_EQUAL, .target = STORE_CREATE, .key = SLICE_LIT("k")};
        struct store_put put = {.key = SLICE_LIT("k"), .value = SLICE_LIT("mine")};
        struct store_op then = {.kind = STORE_OP_PUT, .u.put = &put};
        struct ask asks[2] = {0};
        for (uint32_t i = 0; i < 2; i++) {
            asks[i].request.kind = STORE_TXN;
            asks[i].request.u.txn = (struct store_txn){
                .compares = &absent, .compare_count = 1, .success = &then, .success_count = 1};
            ask_start(&world->nodes[i], &asks[i]);
            store_turn(world->nodes[i].store);
        }
        world_run_until(world, &asks[0].is_done);
        world_run_until(world, &asks[1].is_done);
        assert_int_equal(asks[0].request.err, ERR_OK);
        assert_int_equal(asks[1].request.err, ERR_OK);
        assert_int_equal(
            asks[0].request.answer.txn.succeeded + asks[1].request.answer.txn.succeeded, 1);
        assert_int_equal(log_count(world, "mine"), 1);
        world_free(world);
    }
}

static void what_a_lost_evaluation_took_of_the_arena_is_given_back(void **state)
{
    enum { KEYS = 3000 };
    static_assert(KEYS * sizeof(void *) < NODE_ARENA_MAX, "one answer fits");
    static_assert(3 * KEYS * sizeof(void *) > NODE_ARENA_MAX, "three do not");
    static struct ask puts[KEYS];
    static char keys[KEYS][8];
    (void)state;
    struct world *world = world_new(2, STORE_OPTIMISTIC);
    for (uint32_t i = 0; i < KEYS; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]), "k%05u", i);
        puts[i] = put_of(keys[i], "v");
        ask_start(&world->nodes[0], &puts[i]);
    }
    store_turn(world->nodes[0].store);
    world_run_until(world, &puts[KEYS - 1].is_done);
    struct store_put put = {.key = SLICE_LIT("mine"), .value = SLICE_LIT("mine")};
    struct store_range range = {.key = SLICE_LIT("k"), .range_end = SLICE_LIT("l")};
    struct store_op then[] = {{.kind = STORE_OP_PUT, .u.put = &put},
                              {.kind = STORE_OP_RANGE, .u.range = &range}};
    struct ask txn = {.request = {.kind = STORE_TXN, .size = 10}};
    txn.request.u.txn = (struct store_txn){.success = then, .success_count = 2};
    /* Each attempt is refused and evaluated again. */
    static const enum fake_script refuse[] = {FAKE_REFUSE, FAKE_REFUSE, FAKE_REFUSE, FAKE_REFUSE};
    fake_log_script(world->nodes[0].log, refuse, ARRAY_COUNT(refuse));
    assert_int_equal(ask_run(&world->nodes[0], &txn), ERR_OK);
    assert_int_equal(txn.request.answer.txn.ops[1].u.range.kv_count, KEYS);
    assert_int_equal(log_count(world, "mine"), 1);
    world_free(world);
}

static void a_linearizable_read_sees_what_another_replica_acknowledged(void **state)
{
    (void)state;
    struct world *world = world_new(2, STORE_AUTO);
    for (uint32_t i = 0; i < 20; i++) {
        struct ask put = put_of("k", "v");
        assert_int_equal(ask_run(&world->nodes[i % 2], &put), ERR_OK);
        struct ask read = {.request = {.kind = STORE_READ_INDEX}};
        assert_int_equal(ask_run(&world->nodes[(i + 1) % 2], &read), ERR_OK);
        assert_true(read.request.revision >= put.request.revision);
    }
    world_free(world);
}

static void waiting_reads_share_one_probe(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    uint64_t before = store_facts(world->nodes[0].store)->probe_count;
    static struct ask reads[1000];
    memset(reads, 0, sizeof(reads));
    for (uint32_t i = 0; i < ARRAY_COUNT(reads); i++) {
        reads[i].request.kind = STORE_READ_INDEX;
        ask_start(&world->nodes[0], &reads[i]);
    }
    store_turn(world->nodes[0].store);
    world_run_until(world, &reads[ARRAY_COUNT(reads) - 1].is_done);
    struct ask put = put_of("k", "v"); /* Facts are told anew. */
    assert_int_equal(ask_run(&world->nodes[0], &put), ERR_OK);
    assert_int_equal(store_facts(world->nodes[0].store)->probe_count - before, 1);
    world_free(world);
}

/* ---- the breaker ---------------------------------------------------------------------------- */

static void a_database_that_is_away_is_said_at_once_and_comes_back(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    fake_log_set_reachable(node->log, false);
    world_run_for(world, 4 * NS_PER_S);
    assert_true(store_facts(node->store)->away);
    struct ask put = put_of("k", "v");
    struct ask read = {.request = {.kind = STORE_READ_INDEX}};
    uint64_t began_ns = world->sched.now_ns;
    assert_int_equal(ask_run(node, &put), ERR_NO_LEADER);
    assert_int_equal(ask_run(node, &read), ERR_NO_LEADER);
    assert_int_equal(world->sched.now_ns, began_ns);
    fake_log_set_reachable(node->log, true);
    world_run_for(world, 5 * NS_PER_S);
    assert_false(store_facts(node->store)->away);
    struct ask again = put_of("k", "v");
    assert_int_equal(ask_run(node, &again), ERR_OK);
    assert_int_equal(log_count(world, "v"), 1);
    world_free(world);
}

static void another_identity_fences(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    (void)snprintf(world->db.live_identity, sizeof(world->db.live_identity), "another");
    world_run_for(world, NS_PER_S);
    assert_true(store_facts(node->store)->fenced);
    struct ask put = put_of("k", "v");
    assert_int_equal(ask_run(node, &put), ERR_LEADER_CHANGED);
    assert_int_equal(world->db.entry_count, 0);
    world_free(world);
}

/* ---- compactions, members, leases ----------------------------------------------------------- */

static void a_physical_compaction_waits_as_long_as_its_client(void **state)
{
    (void)state;
    for (uint32_t patient = 0; patient < 2; patient++) {
        struct world *world = world_new(1, STORE_AUTO);
        struct node *node = &world->nodes[0];
        reclaim_add_reader(&node->reclaim, &node->reader);
        for (uint32_t i = 0; i < 3; i++) {
            struct ask put = put_of("k", "v");
            assert_int_equal(ask_run(node, &put), ERR_OK);
        }
        reclaim_reader_hold(&node->reader, 1);
        reclaim_reader_announce(&node->reader, UINT64_MAX);
        struct ask ask = {
            .request = {.kind = STORE_COMPACT, .u.compact = {.revision = 3, .physical = true}}};
        uint64_t began_ns = world->sched.now_ns;
        ask.request.deadline_ns = patient == 1 ? UINT64_MAX : began_ns + 20 * NS_PER_S;
        ask_start(node, &ask);
        store_turn(node->store);
        world_run_for(world, 19 * NS_PER_S);
        assert_false(ask.is_done); /* LIMIT_REQUEST_TIMEOUT_MS is for what is not committed. */
        world_run_for(world, 30 * NS_PER_S);
        assert_int_equal(ask.is_done, patient == 0);
        reclaim_reader_hold(&node->reader, RECLAIM_NO_HOLD);
        world_run_until(world, &ask.is_done);
        assert_int_equal(ask.request.err, patient == 1 ? ERR_OK : ERR_TIMEOUT);
        world_free(world);
    }
}

static void who_serves_is_in_the_list_of_members(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        struct world *world = world_new(1, STORE_AUTO);
        world->faults.travel_ns = 200 * NS_PER_MS;
        rng_seed(&world->sched.rng, support_seed() + i);
        node_start(&world->nodes[1], STORE_AUTO);
        assert_int_equal(world->db.member_count, 2);
        world_free(world);
    }
}

static void many_leases_end_together_and_never_early(void **state)
{
    enum { COUNT = 1000 };
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    static struct ask grants[COUNT];
    memset(grants, 0, sizeof(grants));
    for (uint32_t i = 0; i < COUNT; i++) {
        grants[i].request.kind = STORE_LEASE_GRANT;
        grants[i].request.u.lease.id = i + 1;
        grants[i].request.u.lease.ttl_s = 4;
        ask_start(node, &grants[i]);
    }
    store_turn(node->store);
    world_run_until(world, &grants[COUNT - 1].is_done);
    assert_int_equal(world->db.lease_count, COUNT);
    world_run_for(world, 4 * NS_PER_S - 10 * NS_PER_MS);
    assert_int_equal(world->db.lease_count, COUNT);
    world_run_for(world, 1100 * NS_PER_MS); /* One reading of the counters, and a little. */
    assert_int_equal(world->db.lease_count, 0);
    world_free(world);
}

static void one_revision_of_many_rows_is_purged_in_pieces(void **state)
{
    enum { COUNT = LIMIT_DELETE_SLICE_ROWS / 2 + 1000 };
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct node *node = &world->nodes[0];
    static struct ask puts[COUNT];
    static char keys[COUNT][16];
    for (uint32_t i = 0; i < COUNT; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]), "k%05u", i);
        puts[i] = put_of(keys[i], "v");
        ask_start(node, &puts[i]);
    }
    store_turn(node->store);
    world_run_until(world, &puts[COUNT - 1].is_done);
    struct ask del = {.request = {.kind = STORE_DELETE,
                                  .u.del = {.key = SLICE_LIT("k"), .range_end = SLICE_LIT("l")}}};
    assert_int_equal(ask_run(node, &del), ERR_OK);
    struct ask put = put_of("z", "kept");
    assert_int_equal(ask_run(node, &put), ERR_OK);
    world_run_for(world, 2 * NS_PER_S); /* It has the duty by then. */
    struct ask compact = {.request = {.kind = STORE_COMPACT, .u.compact = {.physical = true}}};
    compact.request.u.compact.revision = put.request.revision;
    assert_int_equal(ask_run(node, &compact), ERR_OK);
    assert_int_equal(log_rows_left(world), 1);
    world_free(world);
}

/* ---- a log that is broken ------------------------------------------------------------------- */

static void a_log_that_cannot_be_read_any_more_ends_the_store(void **state)
{
    static const enum err errs[] = {ERR_CHAIN_BROKEN, ERR_HISTORY_LOST};
    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(errs); i++) {
        for (uint32_t mode = STORE_OPTIMISTIC; mode <= STORE_LOCKING; mode++) {
            struct world *world = world_new(1, (enum store_transaction_mode)mode);
            struct node *node = &world->nodes[0];
            node->may_end = true;
            world->db.read_err = errs[i];
            struct ask ask = put_of("k", "v");
            struct ask read = {.request = {.kind = STORE_READ_INDEX}};
            ask_start(node, i == 0 ? &ask : &read);
            store_turn(node->store);
            world_run_for(world, 8 * NS_PER_S);
            assert_int_equal(node->fatal, errs[i]);
            world->db.read_err = ERR_OK;
            world_free(world);
        }
    }
}

static void an_append_that_finds_another_log_ends_the_store(void **state)
{
    (void)state;
    for (uint32_t exclusive = 0; exclusive < 2; exclusive++) {
        struct world *world = world_new(0, STORE_AUTO);
        struct node *node = &world->nodes[0];
        node->may_end = true;
        node->exclusive = exclusive == 1;
        node_start(node, STORE_AUTO);
        struct ask ask = put_of("k", "v");
        if (exclusive == 1) {
            world->db.fence.epoch++; /* The append inserts nothing. */
        } else {
            world->db.append_err = ERR_HISTORY_LOST;
        }
        assert_int_equal(ask_run(node, &ask), exclusive == 1 ? ERR_TIMEOUT : ERR_CORRUPT);
        assert_int_equal(node->fatal, ERR_HISTORY_LOST);
        assert_int_equal(log_count(world, "v"), 0);
        struct ask next = put_of("k", "w");
        assert_int_equal(ask_run(node, &next), ERR_CORRUPT);
        world_free(world);
    }
}

/* The database went back to |seq|: what came behind it is forgotten. */
static void db_roll_back(struct fake_db *db, uint64_t seq)
{
    while (db->entry_count > seq) {
        fake_db_forget_newest(db);
    }
}

/* The newest entries go away and others come. What differs: rows and entries; rows, the entries are
 * gone; entries, the rows are the same. */
static void a_reload_of_another_history_is_noticed(void **state)
{
    enum { BOTH, ROWS, ENTRIES, CASES };
    (void)state;
    for (uint32_t differs = 0; differs < CASES; differs++) {
        struct world *world = world_new(1, STORE_AUTO);
        struct node *first = &world->nodes[0];
        struct node *second = &world->nodes[1];
        static const char *const keys[] = {"a", "b", "c", "d", "e", "f"};
        for (uint32_t i = 0; i < 6; i++) {
            struct ask put = put_of(keys[i], "old");
            assert_int_equal(ask_run(first, &put), ERR_OK);
        }
        first->may_end = true;
        fake_log_set_reachable(first->log, false);
        db_roll_back(&world->db, 4);
        node_start(second, STORE_AUTO);
        for (uint32_t i = 0; i < 6; i++) {
            struct ask put = put_of(i == 0 ? "e" : "a", "new");
            if (differs == ENTRIES && i < 2) {
                put = put_of(keys[4 + i], "old");
            }
            assert_int_equal(ask_run(second, &put), ERR_OK);
        }
        struct ask compact = {.request = {.kind = STORE_COMPACT, .u.compact = {.revision = 11}}};
        assert_int_equal(ask_run(second, &compact), ERR_OK);
        (void)fake_db_purge(&world->db, 11, 0, 11);
        fake_db_trim(&world->db, differs == ROWS ? 9 : 1);
        world->db.deleted_below = 11;
        fake_log_set_reachable(first->log, true);
        world_run_for(world, 10 * NS_PER_S);
        assert_int_equal(first->fatal, ERR_HISTORY_LOST);
        world_free(world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_append_ends_as_the_log_says),
        cmocka_unit_test(a_request_in_doubt_is_answered_at_its_deadline_and_resolved_without_it),
        cmocka_unit_test(a_request_whose_deadline_passed_in_the_queue_is_never_sent),
        cmocka_unit_test(many_requests_share_one_entry_and_read_each_others_writes),
        cmocka_unit_test(admission_says_what_it_refuses),
        cmocka_unit_test(a_batch_closes_when_its_evaluation_has_taken_long),
        cmocka_unit_test(what_is_in_the_batch_counts_for_the_ceiling),
        cmocka_unit_test(a_batch_that_lost_is_evaluated_again),
        cmocka_unit_test(what_a_lost_evaluation_took_of_the_arena_is_given_back),
        cmocka_unit_test(a_linearizable_read_sees_what_another_replica_acknowledged),
        cmocka_unit_test(waiting_reads_share_one_probe),
        cmocka_unit_test(a_database_that_is_away_is_said_at_once_and_comes_back),
        cmocka_unit_test(another_identity_fences),
        cmocka_unit_test(a_physical_compaction_waits_as_long_as_its_client),
        cmocka_unit_test(who_serves_is_in_the_list_of_members),
        cmocka_unit_test(many_leases_end_together_and_never_early),
        cmocka_unit_test(one_revision_of_many_rows_is_purged_in_pieces),
        cmocka_unit_test(a_log_that_cannot_be_read_any_more_ends_the_store),
        cmocka_unit_test(an_append_that_finds_another_log_ends_the_store),
        cmocka_unit_test(a_reload_of_another_history_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
