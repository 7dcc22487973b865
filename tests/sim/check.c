/* Answers against the model. */
#include "sim.h"

static bool live_is(const struct model_row *row, const struct cache_version *version)
{
    return row == NULL ? version == NULL : version != NULL && model_row_is(row, version);
}

/* ---- snapshots ------------------------------------------------------------------------------ */

static void check_keys(struct world *world, const struct cache_snapshot *snapshot, int64_t revision)
{
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        const struct cache_version *version = NULL;
        enum err err = cache_get(snapshot, model_key(key), revision, &version);
        CHECK(world, err == ERR_OK);
        CHECK(world, live_is(model_get(&world->model, key, revision), version));
    }
}

static void check_leases(struct world *world, const struct cache_snapshot *snapshot)
{
    uint64_t seq = cache_snapshot_info(snapshot)->seq;
    uint64_t count = 0;
    for (uint32_t i = 0; i < world->life_count; i++) {
        const struct lease_life *life = &world->lives[i];
        struct cache_lease lease;
        if (life->granted_seq <= seq && life->ended_seq > seq) {
            CHECK(world, cache_lease_get(snapshot, life->id, &lease));
            CHECK(world, lease.grant_seq == life->granted_seq);
            count++;
        }
    }
    CHECK(world, cache_snapshot_info(snapshot)->lease_count == count);
}

void check_snapshot(struct world *world, const struct cache_snapshot *snapshot)
{
    const struct cache_info *info = cache_snapshot_info(snapshot);
    world_replay(world);
    world->reads++;
    CHECK(world, info->seq <= world->model.seq);
    CHECK(world, info->revision <= world->model.revision);
    CHECK(world, IMPLIES(info->seq > 0,
                         fake_db_entry(&world->db, info->seq)->entry.last_rev == info->revision));
    CHECK(world, info->compact_rev <= world->model.compact_rev);
    check_keys(world, snapshot, info->revision);
    int64_t low = info->compact_rev < 1 ? 1 : info->compact_rev;
    check_keys(world, snapshot,
               (int64_t)sched_between(&world->sched, (uint64_t)low, (uint64_t)info->revision));
    check_leases(world, snapshot);
}

/* ---- writes --------------------------------------------------------------------------------- */

/* The rows of |revision|, |count| of them. */
static struct model_row **rows_at(const struct world *world, int64_t revision, uint32_t *count)
{
    uint32_t from = model_at(&world->model, revision);
    *count = model_at(&world->model, revision + 1) - from;
    return &world->model.rows[from];
}

static void check_put(struct sim_op *op)
{
    struct world *world = op->world;
    int64_t revision = op->request.revision;
    uint32_t count = 0;
    struct model_row **rows = rows_at(world, revision, &count);
    CHECK(world, op->log_rev == revision);
    CHECK(world, count == 1 && slice_equal(rows[0]->row->key, model_key(op->key)));
    CHECK(world, slice_equal(rows[0]->row->value, slice_str(op->value)));
    CHECK(world, rows[0]->row->lease == op->request.u.put.lease);
    CHECK(world,
          live_is(model_get(&world->model, op->key, revision - 1), op->request.answer.put.prev));
}

/* |answer| of a delete of [first, last] on the state at |base|. */
static void check_deleted(struct world *world, uint32_t first, uint32_t last, int64_t base,
                          const struct store_delete_answer *answer)
{
    uint64_t deleted = 0;
    for (uint32_t key = first; key <= last; key++) {
        const struct model_row *row = model_get(&world->model, key, base);
        if (row != NULL) {
            CHECK(world, deleted < answer->deleted);
            CHECK(world, model_row_is(row, answer->prevs[deleted]));
            deleted++;
        }
    }
    CHECK(world, deleted == answer->deleted);
}

static void check_delete(struct sim_op *op)
{
    struct world *world = op->world;
    const struct store_delete_answer *answer = &op->request.answer.del;
    uint32_t last = op->request.u.del.range_end.size == 0 ? op->key : KEY_COUNT - 1;
    bool wrote = answer->deleted > 0;
    check_deleted(world, op->key, last, op->request.revision - wrote, answer);
    if (wrote) {
        uint32_t count = 0;
        struct model_row **rows = rows_at(world, op->request.revision, &count);
        CHECK(world, count == answer->deleted);
        for (uint32_t i = 0; i < count; i++) {
            CHECK(world, rows[i]->row->is_delete);
        }
    }
}

static bool compare_holds(const struct sim_op *op, int64_t base)
{
    const struct model_row *row = model_get(&op->world->model, op->key, base);
    int64_t value = row == NULL                       ? 0
                    : op->compare.target == STORE_MOD ? row->row->revision
                                                      : row->row->version;
    return op->compare.result == STORE_EQUAL ? value == op->compare.number
                                             : value > op->compare.number;
}

static void check_range(struct sim_op *op, const struct store_range_answer *answer,
                        int64_t revision)
{
    struct world *world = op->world;
    uint64_t at = 0;
    for (uint32_t key = 0; key < KEY_COUNT; key++) {
        const struct model_row *row = model_get(&world->model, key, revision);
        if (row != NULL) {
            CHECK(world, at < answer->kv_count && model_row_is(row, answer->kvs[at]));
            at++;
        }
    }
    CHECK(world, at == answer->kv_count && at == answer->count);
}

static void check_txn_success(struct sim_op *op, const struct store_txn_answer *answer)
{
    struct world *world = op->world;
    int64_t base = op->request.revision - 1;
    CHECK(world, answer->op_count == 3 && op->log_rev == base + 1);
    CHECK(world, compare_holds(op, base));
    CHECK(world, live_is(model_get(&world->model, op->key, base), answer->ops[0].u.put.prev));
    const struct store_op_answer *second = &answer->ops[1];
    if (second->kind == STORE_OP_DELETE) {
        check_deleted(world, op->other_key, op->other_key, base, &second->u.del);
    } else {
        /* The inner compare is on the state in front of the whole transaction: it holds, too. */
        CHECK(world, second->kind == STORE_OP_TXN && second->u.txn->succeeded);
        CHECK(world, second->u.txn->op_count == 1);
        CHECK(world, live_is(model_get(&world->model, op->other_key, base),
                             second->u.txn->ops[0].u.put.prev));
    }
    check_range(op, &answer->ops[2].u.range, base + 1);
}

static void check_txn(struct sim_op *op)
{
    struct world *world = op->world;
    const struct store_txn_answer *answer = &op->request.answer.txn;
    if (answer->succeeded) {
        check_txn_success(op, answer);
        return;
    }
    bool wrote = answer->op_count == 2 && answer->ops[1].u.del.deleted > 0;
    int64_t base = op->request.revision - wrote;
    CHECK(world, !compare_holds(op, base));
    check_range(op, &answer->ops[0].u.range, base);
    if (answer->op_count == 2) {
        check_deleted(world, op->other_key, op->other_key, base, &answer->ops[1].u.del);
    }
}

/* ---- leases and compaction ------------------------------------------------------------------ */

static bool ended_within(const struct world *world, int64_t id, uint64_t from, uint64_t to)
{
    for (uint32_t i = 0; i < world->life_count; i++) {
        const struct lease_life *life = &world->lives[i];
        if (life->id == id && life->ended_seq > from && life->ended_seq <= to) {
            return true;
        }
    }
    return false;
}

static bool granted_within(const struct world *world, int64_t id, uint64_t from, uint64_t to)
{
    for (uint32_t i = 0; i < world->life_count; i++) {
        const struct lease_life *life = &world->lives[i];
        if (life->id == id && life->granted_seq > from && life->granted_seq <= to) {
            return true;
        }
    }
    return false;
}

static void check_lease(struct sim_op *op)
{
    struct world *world = op->world;
    const struct store_request *request = &op->request;
    int64_t id = request->u.lease.id;
    uint64_t to = world->model.seq;
    int64_t ttl_s = request->answer.lease.ttl_s;
    switch ((int)op->kind) {
    case SIM_GRANT:
        CHECK(world, granted_within(world, id, op->begun_seq, to));
        CHECK(world, ttl_s >= LIMIT_LEASE_TTL_MIN_S && request->answer.lease.id == id);
        break;
    case SIM_REVOKE:
        CHECK(world, ended_within(world, id, op->begun_seq, to));
        break;
    case SIM_KEEPALIVE:
        CHECK(world, ttl_s > 0 ? lease_lived(world, id, op->begun_seq, to)
                               : lease_was_absent(world, id, op->begun_seq, to));
        break;
    default:
        CHECK(world, ttl_s >= 0 ? lease_lived(world, id, op->begun_seq, to)
                                : lease_was_absent(world, id, op->begun_seq, to));
        CHECK(world, ttl_s <= request->answer.lease.granted_s);
        break;
    }
}

/* ---- errors --------------------------------------------------------------------------------- */

/* Words that say "not executed" must be true, and true at some moment since the question. */
static void check_error(struct sim_op *op)
{
    struct world *world = op->world;
    int64_t lease = op->kind == SIM_PUT ? op->request.u.put.lease : op->request.u.lease.id;
    if (op->unknown) {
        return;
    }
    op->forbidden = true;
    CHECK(world, op->log_rev == 0);
    switch ((int)op->request.err) {
    case ERR_LEASE_NOT_FOUND:
        CHECK(world, lease_was_absent(world, lease, op->begun_seq, world->model.seq));
        break;
    case ERR_LEASE_EXIST:
        CHECK(world, lease_lived(world, lease, op->begun_seq, world->model.seq));
        break;
    case ERR_COMPACTED:
        CHECK(world, op->request.u.compact.revision <= world->model.compact_rev);
        break;
    case ERR_FUTURE_REV:
        CHECK(world, op->request.u.compact.revision > op->begun_rev);
        break;
    case ERR_NO_LEADER:
    case ERR_LEADER_CHANGED:
    case ERR_STOPPED:
        break;
    default:
        sim_fail(world, err_name(op->request.err));
    }
}

void check_answer(struct sim_op *op)
{
    struct world *world = op->world;
    if (op->request.err != ERR_OK) {
        check_error(op);
        return;
    }
    world->acked++;
    /* A keep-alive is not ordered: its header says where this replica stands, as in etcd. */
    CHECK(world, op->kind == SIM_KEEPALIVE || op->request.revision >= op->acked_rev);
    CHECK(world, op->request.revision <= world->model.revision);
    switch (op->kind) {
    case SIM_PUT:
        check_put(op);
        break;
    case SIM_DELETE:
        check_delete(op);
        break;
    case SIM_TXN:
        check_txn(op);
        break;
    case SIM_READ:
        CHECK(world,
              cache_snapshot_info(store_snapshot(op->replica->store))->revision >= op->acked_rev);
        check_snapshot(world, store_snapshot(op->replica->store));
        break;
    case SIM_GRANT:
    case SIM_REVOKE:
    case SIM_KEEPALIVE:
    case SIM_TTL:
        check_lease(op);
        break;
    case SIM_COMPACT:
        CHECK(world, op->request.u.compact.revision > op->begun_compact);
        CHECK(world, op->request.u.compact.revision <= world->model.compact_rev);
        break;
    case SIM_READ_SERIALIZABLE:
    case SIM_KIND_COUNT:
        break;
    }
    if (op->kind != SIM_KEEPALIVE && op->request.revision > world->acked_rev) {
        world->acked_rev = op->request.revision;
    }
}

/* ---- at rest -------------------------------------------------------------------------------- */

static void check_replica(struct replica *replica)
{
    struct world *world = replica->world;
    const struct store_facts *facts = store_facts(replica->store);
    CHECK(world, replica->is_up && facts->ready && !facts->away && !facts->fenced);
    const struct cache_snapshot *snapshot = store_snapshot(replica->store);
    CHECK(world, cache_snapshot_info(snapshot)->seq == world->model.seq);
    CHECK(world, facts->chain_seq == world->model.seq);
    if (world->model.seq > 0) {
        const struct fake_entry *newest = fake_db_entry(&world->db, world->model.seq);
        CHECK(world, hash128_equal(&facts->chain, &newest->entry.chain));
    }
    check_snapshot(world, snapshot);
    CHECK(world, cache_is_sound(store_cache(replica->store)));
    CHECK(world, facts->member_count >= 1);
    for (uint32_t i = 0; i < WATCHERS; i++) {
        const struct watcher *watcher = &replica->watchers[i];
        CHECK(world, !watcher->is_gone);
        CHECK(world, watcher->next >= world->model.row_count ||
                         watcher->start_rev > world->model.revision);
    }
}

void check_rest(struct world *world)
{
    world_replay(world);
    for (uint32_t i = 0; i < world->op_count; i++) {
        CHECK(world, world->ops[i]->answered);
    }
    for (uint32_t i = 0; i < world->replica_count; i++) {
        check_replica(&world->replicas[i]);
    }
    CHECK(world, world->db.lease_count == 0); /* Nobody keeps them alive. */
}
