/* Clients: one request at a time each, to any replica, with deadlines; they remember everything. */
#include "sim.h"

enum {
    THINK_MAX_MS = 60,
    THINK_FAST_MAX_MS = 4,
    THINK_SLOW_MAX_MS = 1500,
    LEASE_IDS = 3,
    DEADLINE_MIN_MS = 20,
    DEADLINE_MAX_MS = 3000
};

static void client_next(struct world *world, uint32_t client);

struct client_event {
    struct world *world;
    uint32_t client;
};

static void event_client(void *arg)
{
    struct client_event *event = arg;
    struct world *world = event->world;
    uint32_t client = event->client;
    mem_free(event);
    client_next(world, client);
}

static void client_later(struct world *world, uint32_t client)
{
    struct client_event *event = mem_alloc(sizeof(*event));
    *event = (struct client_event){world, client};
    uint64_t think_ms = world->renews  ? THINK_SLOW_MAX_MS
                        : world->dense ? THINK_FAST_MAX_MS
                                       : THINK_MAX_MS;
    sched_add(&world->sched, sched_between(&world->sched, 0, think_ms) * NS_PER_MS, event_client,
              event);
}

static void on_done(struct store_request *request)
{
    struct sim_op *op = CONTAINER_OF(request, struct sim_op, request);
    struct world *world = op->world;
    CHECK(world, !op->answered);
    op->answered = true;
    op->unknown = request->err == ERR_TIMEOUT;
    world_replay(world);
    check_answer(op);
    if (world->chaos) {
        client_later(world, op->client);
    }
}

/* ---- what is asked -------------------------------------------------------------------------- */

static uint32_t some_key(struct world *world)
{
    return (uint32_t)sched_between(&world->sched, 0, KEY_COUNT - 1);
}

static int64_t some_lease(struct world *world)
{
    return (int64_t)sched_between(&world->sched, 1, LEASE_IDS) *
           (sched_chance(&world->sched, 100) ? -1 : 1);
}

static void value_set(char *value, size_t size, const struct sim_op *op, uint32_t n)
{
    (void)snprintf(value, size, "%u.%u", op->id, n);
}

static void put_set(struct sim_op *op, struct store_put *put, uint32_t key, const char *value)
{
    *put = (struct store_put){
        .key = model_key(key),
        .value = slice_str(value),
        .lease = sched_chance(&op->world->sched, 200) ? some_lease(op->world) : 0,
        .prev_kv = true,
    };
}

/* Compare what the log last said, or something stale, of one key. */
static void txn_compare(struct sim_op *op)
{
    struct world *world = op->world;
    const struct model_row *row =
        model_get(&world->model, op->key,
                  world->model.revision - (int64_t)sched_between(&world->sched, 0, 2));
    int64_t mod_rev = row == NULL ? 0 : row->row->revision;
    op->compare = (struct store_compare){
        .result = sched_chance(&world->sched, 800) ? STORE_EQUAL : STORE_GREATER,
        .target = sched_chance(&world->sched, 800) ? STORE_MOD : STORE_VERSION,
        .key = model_key(op->key),
    };
    op->compare.number = op->compare.target == STORE_MOD ? mod_rev
                         : row == NULL                   ? 0
                                                         : row->row->version;
}

/* If the key is as seen: put it, delete another, read both, or put both, one nested. */
static void txn_set(struct sim_op *op)
{
    txn_compare(op);
    put_set(op, &op->put, op->key, op->value);
    op->put.lease = 0;
    put_set(op, &op->other_put, op->other_key, op->other_value);
    op->other_put.lease = 0;
    op->del = (struct store_delete){.key = model_key(op->other_key), .prev_kv = true};
    op->range = (struct store_range){.key = SLICE_LIT("a"), .range_end = SLICE_LIT("\0")};
    op->inner = (struct store_txn){.compares = &op->compare,
                                   .compare_count = 1,
                                   .success = op->inner_success,
                                   .success_count = 1};
    op->inner_success[0] = (struct store_op){.kind = STORE_OP_PUT, .u.put = &op->other_put};
    op->success[0] = (struct store_op){.kind = STORE_OP_PUT, .u.put = &op->put};
    if (sched_chance(&op->world->sched, 500)) {
        op->success[1] = (struct store_op){.kind = STORE_OP_DELETE, .u.del = &op->del};
    } else {
        op->success[1] = (struct store_op){.kind = STORE_OP_TXN, .u.txn = &op->inner};
    }
    op->success[2] = (struct store_op){.kind = STORE_OP_RANGE, .u.range = &op->range};
    op->failure[0] = op->success[2];
    op->failure[1] = (struct store_op){.kind = STORE_OP_DELETE, .u.del = &op->del};
    op->request.u.txn = (struct store_txn){
        .compares = &op->compare,
        .compare_count = 1,
        .success = op->success,
        .success_count = 3,
        .failure = op->failure,
        .failure_count = sched_chance(&op->world->sched, 800) ? 1 : 2,
    };
}

static enum op_kind_sim some_kind(struct world *world)
{
    static const struct {
        enum op_kind_sim kind;
        uint32_t weight;
    } table[] = {
        {SIM_PUT, 24},    {SIM_DELETE, 10},           {SIM_TXN, 22},
        {SIM_READ, 16},   {SIM_READ_SERIALIZABLE, 4}, {SIM_GRANT, 7},
        {SIM_REVOKE, 3},  {SIM_KEEPALIVE, 8},         {SIM_TTL, 3},
        {SIM_COMPACT, 3},
    };
    if (world->renews && sched_chance(&world->sched, 500)) {
        return SIM_KEEPALIVE;
    }
    uint64_t at = sched_between(&world->sched, 0, 99);
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        if (at < table[i].weight) {
            return table[i].kind;
        }
        at -= table[i].weight;
    }
    return SIM_PUT;
}

static void request_set(struct sim_op *op)
{
    struct world *world = op->world;
    struct store_request *request = &op->request;
    switch (op->kind) {
    case SIM_PUT:
        request->kind = STORE_PUT;
        put_set(op, &request->u.put, op->key, op->value);
        break;
    case SIM_DELETE:
        request->kind = STORE_DELETE;
        request->u.del = (struct store_delete){.key = model_key(op->key), .prev_kv = true};
        if (sched_chance(&world->sched, 300)) {
            request->u.del.range_end = SLICE_LIT("\0");
        }
        break;
    case SIM_TXN:
        request->kind = STORE_TXN;
        txn_set(op);
        break;
    case SIM_READ:
    case SIM_READ_SERIALIZABLE:
        request->kind = STORE_READ_INDEX;
        break;
    case SIM_GRANT:
        request->kind = STORE_LEASE_GRANT;
        request->u.lease.id = some_lease(world);
        request->u.lease.ttl_s = (int64_t)sched_between(&world->sched, 0, 4);
        break;
    case SIM_REVOKE:
    case SIM_KEEPALIVE:
    case SIM_TTL:
        request->kind = op->kind == SIM_REVOKE      ? STORE_LEASE_REVOKE
                        : op->kind == SIM_KEEPALIVE ? STORE_LEASE_KEEPALIVE
                                                    : STORE_LEASE_TTL;
        request->u.lease.id = some_lease(world);
        break;
    case SIM_COMPACT:
        request->kind = STORE_COMPACT;
        request->u.compact.revision =
            world->model.revision - (int64_t)sched_between(&world->sched, 0, 20) + 1;
        request->u.compact.physical = sched_chance(&world->sched, 200);
        break;
    case SIM_KIND_COUNT:
        break;
    }
}

/* ---- asking --------------------------------------------------------------------------------- */

static struct sim_op *op_new(struct world *world, uint32_t client, struct replica *replica)
{
    struct sim_op *op = mem_alloc(sizeof(*op));
    CHECK(world, world->op_count < OPS_MAX);
    op->world = world;
    op->replica = replica;
    op->client = client;
    op->id = world->op_count;
    world->ops[world->op_count++] = op;
    arena_init(&op->arena, 1 << 20);
    op->key = some_key(world);
    op->other_key =
        (op->key + 1 + (uint32_t)sched_between(&world->sched, 0, KEY_COUNT - 2)) % KEY_COUNT;
    op->kind = some_kind(world);
    value_set(op->value, sizeof(op->value), op, 0);
    value_set(op->other_value, sizeof(op->other_value), op, 1);
    op->begun_ns = world->sched.now_ns;
    op->acked_rev = world->acked_rev;
    op->begun_rev = world->model.revision;
    op->begun_compact = world->model.compact_rev;
    op->begun_seq = world->model.seq;
    return op;
}

static void client_next(struct world *world, uint32_t client)
{
    struct replica *replica = &world->replicas[rng_below(&world->sched.rng, world->replica_count)];
    if (!world->chaos || world->op_count == OPS_MAX) {
        return;
    }
    if (!replica->is_up || replica->held) {
        client_later(world, client);
        return;
    }
    world_replay(world);
    struct sim_op *op = op_new(world, client, replica);
    request_set(op);
    op->request.arena = &op->arena;
    op->request.done = on_done;
    op->request.size = 40;
    op->request.deadline_ns = UINT64_MAX;
    if (sched_chance(&world->sched, 300)) {
        op->request.deadline_ns =
            clock_now_ns(&replica->clock) +
            sched_between(&world->sched, DEADLINE_MIN_MS, DEADLINE_MAX_MS) * NS_PER_MS;
    }
    if (op->kind == SIM_READ_SERIALIZABLE) {
        op->answered = true;
        check_snapshot(world, store_snapshot(replica->store));
        client_later(world, client);
        return;
    }
    store_submit(replica->store, &op->request);
    replica_touch(replica);
}

void clients_start(struct world *world)
{
    for (uint32_t i = 0; i < world->client_count; i++) {
        client_later(world, i);
    }
}
