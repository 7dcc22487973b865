/* Stores over the fake database, stepped by a test. */
#include "nodes.h"

struct ask_arena {
    struct arena arena;
    struct ask_arena *next;
};

static uint64_t node_now_ns(const struct clock *clock)
{
    struct world *world = ((const struct node *)(const void *)clock)->world;
    world->looked_ns += world->look_ns;
    return world->sched.now_ns + world->looked_ns;
}

static void on_deliver(void *arg)
{
    store_turn(((struct node *)arg)->store);
}

static void on_ready(void *arg, enum err err, const char *why)
{
    struct node *node = arg;
    if (err != ERR_OK && !node->may_end) {
        fail_msg("not ready: %s", why);
    }
    node->refusal = err;
    (void)snprintf(node->why, sizeof(node->why), "%s", why);
    node->is_ready = true;
}

static void on_fatal(void *arg, enum err err, const char *why)
{
    struct node *node = arg;
    node->fatal = err;
    (void)snprintf(node->why, sizeof(node->why), "%s", why);
    if (!node->may_end) {
        fail_msg("fatal: %s", why);
    }
}

static void on_stopped(void *arg)
{
    ((struct node *)arg)->is_stopped = true;
}

bool world_step(struct world *world, uint64_t until_ns)
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

void world_run_until(struct world *world, const bool *until)
{
    uint64_t end_ns = world->sched.now_ns + 60 * NS_PER_S;
    while (!*until) {
        assert_true(world_step(world, end_ns));
    }
}

void world_run_for(struct world *world, uint64_t for_ns)
{
    uint64_t end_ns = world->sched.now_ns + for_ns;
    while (world_step(world, end_ns)) {
    }
    world->sched.now_ns = end_ns;
}

void node_start(struct node *node, enum store_transaction_mode mode)
{
    struct world *world = node->world;
    node->clock.now_ns = node_now_ns;
    timers_init(&node->timers, &node->clock);
    rng_seed(&node->rng, rng_next(&world->sched.rng));
    reclaim_init(&node->reclaim);
    node->log = fake_log_new(&world->db, on_deliver, node);
    fake_log_set_faults(node->log, &world->faults);
    fake_log_base(node->log)->exclusive = node->exclusive;
    struct store_config config = {.log = fake_log_base(node->log),
                                  .timers = &node->timers,
                                  .rng = &node->rng,
                                  .reclaim = &node->reclaim,
                                  .transaction_mode = mode,
                                  .poll_interval_ms = 100,
                                  .upkeep_interval_ms = 500,
                                  .lease_margin_ms = node->lease_margin_ms,
                                  .max_txn_ops = 128,
                                  .request_size_max = NODE_REQUEST_SIZE_MAX,
                                  .on_ready = on_ready,
                                  .on_fatal = on_fatal,
                                  .arg = node};
    node->store = store_new(&config);
    store_start(node->store);
    if (!node->may_wait) {
        world_run_until(world, &node->is_ready);
    }
}

struct world *world_new(uint32_t nodes, enum store_transaction_mode mode)
{
    struct world *world = mem_alloc(sizeof(*world));
    log_level_max = LOG_ERROR;
    sched_init(&world->sched, support_seed());
    fake_db_init(&world->db, &world->sched);
    for (uint32_t i = 0; i < ARRAY_COUNT(world->nodes); i++) {
        world->nodes[i].world = world;
        if (i < nodes) {
            node_start(&world->nodes[i], mode);
        }
    }
    return world;
}

void world_free(struct world *world)
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
    while (world->arenas != NULL) {
        struct ask_arena *next = world->arenas->next;
        arena_fini(&world->arenas->arena);
        mem_free(world->arenas);
        world->arenas = next;
    }
    mem_free(world);
}

static void on_done(struct store_request *request)
{
    struct ask *ask = CONTAINER_OF(request, struct ask, request);
    assert_false(ask->is_done);
    ask->is_done = true;
}

void ask_start(struct node *node, struct ask *ask)
{
    struct ask_arena *arena = mem_alloc(sizeof(*arena));
    arena_init(&arena->arena, NODE_ARENA_MAX);
    arena->next = node->world->arenas;
    node->world->arenas = arena;
    ask->request.arena = &arena->arena;
    ask->request.done = on_done;
    if (ask->request.deadline_ns == 0) {
        ask->request.deadline_ns = UINT64_MAX;
    }
    store_submit(node->store, &ask->request);
}

enum err ask_run(struct node *node, struct ask *ask)
{
    ask_start(node, ask);
    store_turn(node->store);
    world_run_until(node->world, &ask->is_done);
    return ask->request.err;
}

struct ask put_of(const char *key, const char *value)
{
    return (struct ask){.request = {.kind = STORE_PUT,
                                    .size = 10,
                                    .u.put = {.key = slice_str(key), .value = slice_str(value)}}};
}

uint32_t log_count(const struct world *world, const char *value)
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

struct ask compact_of(int64_t revision)
{
    return (struct ask){.request = {.kind = STORE_COMPACT, .u.compact = {.revision = revision}}};
}

uint32_t log_rows_left(const struct world *world)
{
    uint32_t left = 0;
    for (uint64_t seq = 1; seq <= world->db.entry_count; seq++) {
        const struct fake_entry *entry = fake_db_entry(&world->db, seq);
        for (uint32_t i = 0; i < entry->entry.row_count; i++) {
            left += !entry->rows[i].purged;
        }
    }
    return left;
}
