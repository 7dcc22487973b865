/*
 * etcd's transactions.
 *
 * Pass 1, on the state in front of the transaction: compares choose a branch of every transaction
 * that will run, the tree of answers is laid out, and each operation that will run is checked.
 * Pass 2 executes them in order; ranges see earlier writes. Pass 2 cannot fail: the memory that its
 * answers need is reserved in between.
 *
 * Nesting is as deep as the budget of operations allows, so both passes walk with their own stack.
 */
#include "store/internal.h"

/* ---- compares ------------------------------------------------------------------------------- */

static int compare_i64(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* |version| NULL: a key that is not there, all zero. */
static int compare_order(const struct store_compare *compare, const struct cache_version *version)
{
    bool none = version == NULL;
    switch (compare->target) {
    case STORE_VALUE:
        return slice_compare(none ? SLICE_EMPTY : cache_version_value(version), compare->value);
    case STORE_CREATE:
        return compare_i64(none ? 0 : cache_version_create_rev(version), compare->number);
    case STORE_MOD:
        return compare_i64(none ? 0 : cache_version_mod_rev(version), compare->number);
    case STORE_VERSION:
        return compare_i64(none ? 0 : cache_version_version(version), compare->number);
    case STORE_LEASE:
        return compare_i64(none ? 0 : cache_version_lease(version), compare->number);
    }
    return 0; /* A target that etcd does not know compares as equal ... */
}

static bool compare_holds(const struct store_compare *compare, const struct cache_version *version)
{
    int order = compare_order(compare, version);
    switch (compare->result) {
    case STORE_EQUAL:
        return order == 0;
    case STORE_GREATER:
        return order > 0;
    case STORE_LESS:
        return order < 0;
    case STORE_NOT_EQUAL:
        return order != 0;
    }
    return true; /* ... and a result that it does not know holds. */
}

/* Every key of the range must satisfy; no key at all counts as a missing one. */
static bool compare_run(const struct store_compare *compare, const struct cache_snapshot *view)
{
    ASSERT(compare != NULL);
    ASSERT(view != NULL);
    struct cache_range keys = cache_range_of(compare->key, compare->range_end);
    struct cache_walk walk;
    if (cache_walk_begin(&walk, view, &keys, 0) != ERR_OK) {
        return false;
    }
    const struct cache_version *version = cache_walk_next(&walk);
    if (version == NULL) {
        return compare->target != STORE_VALUE && compare_holds(compare, NULL);
    }
    for (; version != NULL; version = cache_walk_next(&walk)) {
        if (!compare_holds(compare, version)) {
            return false;
        }
    }
    return true;
}

static bool compares_run(const struct store_txn *txn, const struct cache_snapshot *view)
{
    ASSERT(txn != NULL);
    ASSERT(view != NULL);
    for (uint32_t i = 0; i < txn->compare_count; i++) {
        if (!compare_run(&txn->compares[i], view)) {
            return false;
        }
    }
    return true;
}

/* ---- pass 1 --------------------------------------------------------------------------------- */

/* One transaction that is being walked. */
struct txn_frame {
    const struct store_op *ops; /* Of the branch taken. */
    struct store_txn_answer *answer;
    uint32_t next;
};

/* Choose |txn|'s branch, lay out its answer and push it. */
static enum err txn_enter(struct store_vec *frames, const struct store_txn *txn,
                          const struct cache_snapshot *view, struct arena *arena,
                          struct store_txn_answer *answer)
{
    ASSERT(frames->count <= frames->room);
    ASSERT(txn != NULL);
    ASSERT(view != NULL);
    ASSERT(arena->size_max > 0);
    ASSERT(answer != NULL);
    bool succeeded = compares_run(txn, view);
    const struct store_op *ops = succeeded ? txn->success : txn->failure;
    uint32_t count = succeeded ? txn->success_count : txn->failure_count;
    *answer = (struct store_txn_answer){.succeeded = succeeded, .op_count = count};
    answer->ops = arena_alloc(arena, count * sizeof(*answer->ops));
    if (answer->ops == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    struct txn_frame *frame = store_vec_add(frames, sizeof(*frame));
    *frame = (struct txn_frame){.ops = ops, .answer = answer};
    return ERR_OK;
}

/* etcd looks at negative revisions here, too, unlike in a Range of its own. */
static enum err range_check_rev(const struct store_range *range, const struct cache_info *info)
{
    ASSERT(range != NULL);
    if (range->revision == 0) {
        return ERR_OK;
    }
    if (range->revision > info->revision) {
        return ERR_FUTURE_REV;
    }
    return range->revision < info->compact_rev ? ERR_COMPACTED : ERR_OK;
}

/* Check one operation; a nested transaction is entered. |cost| grows by what its answer takes. */
static enum err op_prepare(struct store_vec *frames, const struct store_op *op,
                           const struct cache_snapshot *view, struct arena *arena,
                           struct store_op_answer *answer, uint64_t *cost)
{
    ASSERT(frames->count <= frames->room);
    ASSERT((unsigned)op->kind <= STORE_OP_NONE);
    ASSERT(view != NULL);
    ASSERT(arena->size_max > 0);
    const struct cache_info *info = cache_snapshot_info(view);
    struct cache_range keys;
    uint64_t count = 0;
    answer->kind = (int)op->kind;
    switch (op->kind) {
    case STORE_OP_RANGE:
        *cost += store_range_cost(view, op->u.range);
        return range_check_rev(op->u.range, info);
    case STORE_OP_PUT:
        return store_eval_put_check(view, op->u.put);
    case STORE_OP_DELETE:
        keys = cache_range_of(op->u.del->key, op->u.del->range_end);
        TRY(cache_count(view, &keys, 0, &count));
        *cost += op->u.del->prev_kv ? count * sizeof(const void *) : 0;
        return count > INT32_MAX / 2 ? ERR_REQUEST_TOO_LARGE : ERR_OK;
    case STORE_OP_TXN:
        answer->u.txn = arena_alloc(arena, sizeof(*answer->u.txn));
        if (answer->u.txn == NULL) {
            return ERR_REQUEST_TOO_LARGE;
        }
        return txn_enter(frames, op->u.txn, view, arena, answer->u.txn);
    case STORE_OP_NONE:
        break;
    }
    return ERR_KEY_NOT_FOUND;
}

static enum err txn_prepare(const struct cache_snapshot *view, const struct store_txn *txn,
                            struct arena *arena, struct store_txn_answer *answer, uint64_t *cost)
{
    ASSERT(view != NULL);
    ASSERT(txn != NULL);
    ASSERT(arena->size_max > 0);
    ASSERT(answer != NULL);
    struct store_vec frames = {0};
    *cost = 0;
    enum err err = txn_enter(&frames, txn, view, arena, answer);
    while (err == ERR_OK && frames.count > 0) {
        struct txn_frame *top = store_vec_last(&frames, sizeof(*top));
        if (top->next == top->answer->op_count) {
            frames.count--;
            continue;
        }
        uint32_t at = top->next++;
        err = op_prepare(&frames, &top->ops[at], view, arena, &top->answer->ops[at], cost);
    }
    store_vec_fini(&frames);
    if (err == ERR_OK && *cost > arena->size_max - arena->size_used) {
        err = ERR_REQUEST_TOO_LARGE;
    }
    return err;
}

/* ---- pass 2 --------------------------------------------------------------------------------- */

static void op_execute(struct store_eval *eval, struct eval_write *write, const struct store_op *op,
                       struct arena *arena, struct store_op_answer *answer)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT(write->revision > 1 && write->sub >= 0);
    ASSERT((unsigned)op->kind <= STORE_OP_NONE);
    ASSERT(arena->size_max > 0);
    enum err err = ERR_OK;
    const struct cache_version *prev = NULL;
    switch (op->kind) {
    case STORE_OP_RANGE:
        err = store_range_run(cache_edit_view(eval->edit), op->u.range, arena, &answer->u.range);
        break;
    case STORE_OP_PUT:
        store_eval_put(eval, write, op->u.put, &prev);
        answer->u.put.prev = op->u.put->prev_kv ? prev : NULL;
        break;
    case STORE_OP_DELETE:
        err = store_eval_delete(eval, write, op->u.del, arena, &answer->u.del);
        break;
    case STORE_OP_TXN:
    case STORE_OP_NONE:
        break;
    }
    ASSERT(err == ERR_OK); /* Checked and reserved by pass 1. */
    answer->revision = cache_edit_info(eval->edit)->revision;
}

static void txn_execute(struct store_eval *eval, const struct store_txn *txn, struct arena *arena,
                        struct store_txn_answer *answer)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT(txn != NULL);
    ASSERT(arena->size_max > 0);
    ASSERT(answer != NULL);
    struct eval_write write = {.revision = cache_edit_info(eval->edit)->revision + 1};
    struct store_vec frames = {0};
    struct txn_frame *top = store_vec_add(&frames, sizeof(*top));
    *top = (struct txn_frame){answer->succeeded ? txn->success : txn->failure, answer, 0};
    while (frames.count > 0) {
        top = store_vec_last(&frames, sizeof(*top));
        if (top->next == top->answer->op_count) {
            frames.count--;
            continue;
        }
        uint32_t at = top->next++;
        const struct store_op *op = &top->ops[at];
        struct store_op_answer *op_answer = &top->answer->ops[at];
        op_execute(eval, &write, op, arena, op_answer);
        if (op->kind == STORE_OP_TXN) {
            struct store_txn_answer *inner = op_answer->u.txn;
            top = store_vec_add(&frames, sizeof(*top));
            *top = (struct txn_frame){inner->succeeded ? op->u.txn->success : op->u.txn->failure,
                                      inner, 0};
        }
    }
    store_vec_fini(&frames);
}

enum err store_eval_txn(struct store_eval *eval, const struct store_txn *txn, struct arena *arena,
                        struct store_txn_answer *answer, int64_t *revision)
{
    uint64_t cost = 0;
    TRY(txn_prepare(cache_edit_view(eval->edit), txn, arena, answer, &cost));
    /* The reserve is exact but for keys that the transaction itself adds: lift the ceiling, so that
     * nothing can fail once the first row was made. */
    size_t size_max = arena->size_max;
    arena->size_max = SIZE_MAX / 2;
    txn_execute(eval, txn, arena, answer);
    arena->size_max = size_max > arena->size_used ? size_max : arena->size_used;
    *revision = cache_edit_info(eval->edit)->revision;
    return ERR_OK;
}

enum err store_txn_run_readonly(const struct cache_snapshot *snapshot, const struct store_txn *txn,
                                struct arena *arena, struct store_txn_answer *answer,
                                int64_t *revision)
{
    ASSERT(store_txn_is_readonly(txn));
    uint64_t cost = 0;
    TRY(txn_prepare(snapshot, txn, arena, answer, &cost));
    const struct store_op *ops = answer->succeeded ? txn->success : txn->failure;
    *revision = cache_snapshot_info(snapshot)->revision;
    for (uint32_t i = 0; i < answer->op_count; i++) {
        TRY(store_range_run(snapshot, ops[i].u.range, arena, &answer->ops[i].u.range));
        answer->ops[i].revision = *revision;
    }
    return ERR_OK;
}
