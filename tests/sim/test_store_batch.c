/*
 * Goal: every answer of an append ends as the log says, one step at a time.
 * Method: stores over the fake database; each append of a table row goes as scripted; then the
 * answer that the client got is compared with what stands in the log.
 */
#include "support.h"

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "fake_log.h"
#include "store/store.h"

struct world;

struct node {
    struct clock clock; /* First: handed out. */
    struct world *world;
    struct timers timers;
    struct rng rng;
    struct reclaim reclaim;
    struct fake_log *log;
    struct store *store;
    struct reclaim_reader reader;
    bool is_ready;
    bool is_stopped;
    bool may_end; /* on_fatal is expected. */
    enum err fatal;
};

struct world {
    struct sched sched;
    struct fake_db db;
    struct fake_faults faults; /* Of nodes that start. */
    struct node nodes[2];
    struct arena arena;
};

static uint64_t node_now_ns(const struct clock *clock)
{
    return ((const struct node *)(const void *)clock)->world->sched.now_ns;
}

static void on_deliver(void *arg)
{
    store_turn(((struct node *)arg)->store);
}

static void on_ready(void *arg, enum err err, const char *why)
{
    if (err != ERR_OK) {
        fail_msg("not ready: %s", why);
    }
    ((struct node *)arg)->is_ready = true;
}

static void on_fatal(void *arg, enum err err, const char *why)
{
    struct node *node = arg;
    node->fatal = err;
    if (!node->may_end) {
        fail_msg("fatal: %s", why);
    }
}

static void on_stopped(void *arg)
{
    ((struct node *)arg)->is_stopped = true;
}

/* One event or timer of the world, if it comes before |until_ns|. */
static bool world_step(struct world *world, uint64_t until_ns)
{
    uint64_t next_ns = sched_next_ns(&world->sched);
    struct node *next = NULL;
    for (uint32_t i = 0; i < ARRAY_COUNT(world->nodes); i++) {
        struct node *node = &world->nodes[i];
        uint64_t due_ns = node->store == NULL || node->is_stopped
                              ? UINT64_MAX
                              : timers_next_due_ns(&node->timers);
        if (due_ns < next_ns) {
            next_ns = due_ns;
            next = node;
        }
    }
    if (next_ns > until_ns) {
        return false;
    }
    if (next == NULL) {
        sched_run_one(&world->sched);
    } else {
        world->sched.now_ns = next_ns > world->sched.now_ns ? next_ns : world->sched.now_ns;
        timers_run(&next->timers);
        store_turn(next->store);
    }
    return true;
}

static void world_run_until(struct world *world, const bool *until)
{
    uint64_t end_ns = world->sched.now_ns + 60 * NS_PER_S;
    while (!*until) {
        assert_true(world_step(world, end_ns));
    }
}

static void world_run_for(struct world *world, uint64_t for_ns)
{
    uint64_t end_ns = world->sched.now_ns + for_ns;
    while (world_step(world, end_ns)) {
    }
    world->sched.now_ns = end_ns;
}

static void node_start(struct node *node, enum store_transaction_mode mode)
{
    struct world *world = node->world;
    node->clock.now_ns = node_now_ns;
    timers_init(&node->timers, &node->clock);
    rng_seed(&node->rng, rng_next(&world->sched.rng));
    reclaim_init(&node->reclaim);
    node->log = fake_log_new(&world->db, on_deliver, node);
    fake_log_set_faults(node->log, &world->faults);
    struct store_config config = {.log = fake_log_base(node->log),
                                  .timers = &node->timers,
                                  .rng = &node->rng,
                                  .reclaim = &node->reclaim,
                                  .transaction_mode = mode,
                                  .poll_interval_ms = 100,
                                  .upkeep_interval_ms = 500,
                                  .max_txn_ops = 128,
                                  .request_size_max = 1000,
                                  .on_ready = on_ready,
                                  .on_fatal = on_fatal,
                                  .arg = node};
    node->store = store_new(&config);
    store_start(node->store);
    world_run_until(world, &node->is_ready);
}

static struct world *world_new(uint32_t nodes, enum store_transaction_mode mode)
{
    struct world *world = mem_alloc(sizeof(*world));
    log_level_max = LOG_ERROR;
    sched_init(&world->sched, support_seed());
    fake_db_init(&world->db, &world->sched);
    arena_init(&world->arena, 1 << 20);
    for (uint32_t i = 0; i < ARRAY_COUNT(world->nodes); i++) {
        world->nodes[i].world = world;
        if (i < nodes) {
            node_start(&world->nodes[i], mode);
        }
    }
    return world;
}

static void world_free(struct world *world)
{
    for (uint32_t i = 0; i < ARRAY_COUNT(world->nodes); i++) {
        struct node *node = &world->nodes[i];
        if (node->store != NULL) {
            store_stop(node->store, on_stopped, node);
            store_turn(node->store);
            world_run_until(world, &node->is_stopped);
        }
    }
    while (sched_next_ns(&world->sched) != UINT64_MAX) {
        sched_run_one(&world->sched);
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(world->nodes); i++) {
        struct node *node = &world->nodes[i];
        if (node->store != NULL) {
            store_free(node->store);
            reclaim_fini(&node->reclaim);
            timers_fini(&node->timers);
        }
    }
    fake_db_fini(&world->db);
    sched_fini(&world->sched);
    arena_fini(&world->arena);
    mem_free(world);
}

struct ask {
    struct store_request request;
    bool is_done;
};

static void on_done(struct store_request *request)
{
    struct ask *ask = CONTAINER_OF(request, struct ask, request);
    assert_false(ask->is_done);
    ask->is_done = true;
}

static void ask_start(struct node *node, struct ask *ask)
{
    ask->request.arena = &node->world->arena;
    ask->request.done = on_done;
    if (ask->request.deadline_ns == 0) {
        ask->request.deadline_ns = UINT64_MAX;
    }
    store_submit(node->store, &ask->request);
}

static enum err ask_run(struct node *node, struct ask *ask)
{
    ask_start(node, ask);
    store_turn(node->store);
    world_run_until(node->world, &ask->is_done);
    return ask->request.err;
}

static struct ask put_of(const char *key, const char *value)
{
    return (struct ask){.request = {.kind = STORE_PUT,
                                    .size = 10,
                                    .u.put = {.key = slice_str(key), .value = slice_str(value)}}};
}

/* How often |value| stands in the log. */
static uint32_t log_count(const struct world *world, const char *value)
{
    uint32_t count = 0;
    for (uint64_t seq = 1; seq <= world->db.entry_count; seq++) {
        const struct fake_entry *entry = fake_db_entry(&world->db, seq);
        for (uint32_t i = 0; i < entry->entry.row_count; i++) {
            count += slice_equal(entry->rows[i].row.value, slice_str(value));
        }
    }
    return count;
}

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

static void admission_says_what_it_refuses(void **state)
{
    (void)state;
    struct world *world = world_new(1, STORE_AUTO);
    struct ask large = put_of("k", "v");
    large.request.size = 1001;
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
    uint32_t left = 0;
    for (uint64_t seq = 1; seq <= world->db.entry_count; seq++) {
        const struct fake_entry *entry = fake_db_entry(&world->db, seq);
        for (uint32_t i = 0; i < entry->entry.row_count; i++) {
            left += !entry->rows[i].purged;
        }
    }
    assert_int_equal(left, 1);
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

/* The database went back to |seq|: what came behind it is forgotten. */
static void db_roll_back(struct fake_db *db, uint64_t seq)
{
    while (db->entry_count > seq) {
        fake_db_forget_newest(db);
    }
}

static void a_reload_of_another_history_is_noticed(void **state)
{
    (void)state;
    for (uint32_t trimmed = 0; trimmed < 2; trimmed++) {
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
            assert_int_equal(ask_run(second, &put), ERR_OK);
        }
        struct ask compact = {.request = {.kind = STORE_COMPACT, .u.compact = {.revision = 11}}};
        assert_int_equal(ask_run(second, &compact), ERR_OK);
        (void)fake_db_purge(&world->db, 11, 0, 11);
        fake_db_trim(&world->db, trimmed == 1 ? 9 : 1);
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
        cmocka_unit_test(a_batch_that_lost_is_evaluated_again),
        cmocka_unit_test(a_linearizable_read_sees_what_another_replica_acknowledged),
        cmocka_unit_test(waiting_reads_share_one_probe),
        cmocka_unit_test(a_database_that_is_away_is_said_at_once_and_comes_back),
        cmocka_unit_test(another_identity_fences),
        cmocka_unit_test(a_physical_compaction_waits_as_long_as_its_client),
        cmocka_unit_test(who_serves_is_in_the_list_of_members),
        cmocka_unit_test(many_leases_end_together_and_never_early),
        cmocka_unit_test(one_revision_of_many_rows_is_purged_in_pieces),
        cmocka_unit_test(a_log_that_cannot_be_read_any_more_ends_the_store),
        cmocka_unit_test(a_reload_of_another_history_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
