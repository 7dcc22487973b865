/* Requests of the wire into the store's words. */
#include "api/request.h"

void api_range_from(const Etcdserverpb__RangeRequest *request, struct store_range *range)
{
    *range = (struct store_range){
        .key = api_slice(request->key),
        .range_end = api_slice(request->range_end),
        .limit = request->limit,
        .revision = request->revision,
        .sort_order = (enum store_sort_order)request->sort_order,
        .sort_target = (enum store_sort_target)request->sort_target,
        .serializable = request->serializable != 0,
        .keys_only = request->keys_only != 0,
        .count_only = request->count_only != 0,
        .min_mod_rev = request->min_mod_revision,
        .max_mod_rev = request->max_mod_revision,
        .min_create_rev = request->min_create_revision,
        .max_create_rev = request->max_create_revision,
    };
}

void api_put_from(const Etcdserverpb__PutRequest *request, struct store_put *put)
{
    *put = (struct store_put){
        .key = api_slice(request->key),
        .value = api_slice(request->value),
        .lease = request->lease,
        .prev_kv = request->prev_kv != 0,
        .ignore_value = request->ignore_value != 0,
        .ignore_lease = request->ignore_lease != 0,
    };
}

void api_delete_from(const Etcdserverpb__DeleteRangeRequest *request, struct store_delete *del)
{
    *del = (struct store_delete){
        .key = api_slice(request->key),
        .range_end = api_slice(request->range_end),
        .prev_kv = request->prev_kv != 0,
    };
}

enum err api_range_stream_check(const struct store_range *range)
{
    bool by_key = range->sort_order == STORE_SORT_NONE ||
                  (range->sort_order == STORE_SORT_ASCEND && range->sort_target == STORE_SORT_KEY);
    if (!by_key) {
        return ERR_RANGE_STREAM_SORT;
    }
    bool filters = range->min_mod_rev != 0 || range->max_mod_rev != 0 ||
                   range->min_create_rev != 0 || range->max_create_rev != 0;
    return filters ? ERR_RANGE_STREAM_FILTER : ERR_OK;
}

/* ---- compares ------------------------------------------------------------------------------ */

/* Numbers of the wire's enums that etcd gave no meaning; it lets them through. */
static bool target_is_known(const Etcdserverpb__Compare *compare)
{
    return (unsigned)compare->target <= ETCDSERVERPB__COMPARE__COMPARE_TARGET__LEASE;
}
static bool result_is_known(const Etcdserverpb__Compare *compare)
{
    return (unsigned)compare->result <= ETCDSERVERPB__COMPARE__COMPARE_RESULT__NOT_EQUAL;
}

/*
 * What etcd makes of an unknown target (equal to anything) or an unknown result (holds), said with
 * known ones: a version is never negative, and only a missing key's is zero.
 */
static void compare_from_unknown(const Etcdserverpb__Compare *compare, struct store_compare *to)
{
    bool holds = !result_is_known(compare) ||
                 compare->result == ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL;
    bool needs_key =
        target_is_known(compare) && compare->target == ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
    to->target = STORE_VERSION;
    to->result = holds ? STORE_GREATER : STORE_LESS;
    to->number = holds && !needs_key ? -1 : 0;
}

/* The operand, if the message carries the one that its target names; else zero. */
static void compare_operand(const Etcdserverpb__Compare *compare, struct store_compare *to)
{
    switch (to->target) {
    case STORE_VERSION:
        if (compare->target_union_case == ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION) {
            to->number = compare->version;
        }
        return;
    case STORE_CREATE:
        if (compare->target_union_case == ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION) {
            to->number = compare->create_revision;
        }
        return;
    case STORE_MOD:
        if (compare->target_union_case == ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION) {
            to->number = compare->mod_revision;
        }
        return;
    case STORE_VALUE:
        if (compare->target_union_case == ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE) {
            to->value = api_slice(compare->value);
        }
        return;
    case STORE_LEASE:
        if (compare->target_union_case == ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE) {
            to->number = compare->lease;
        }
        return;
    default:
        ASSERT(false); /* The caller checked it. */
    }
}

static void compare_from(const Etcdserverpb__Compare *compare, struct store_compare *to)
{
    to->key = api_slice(compare->key);
    to->range_end = api_slice(compare->range_end);
    if (!target_is_known(compare) || !result_is_known(compare)) {
        compare_from_unknown(compare, to);
        return;
    }
    to->result = (enum store_compare_result)compare->result;
    to->target = (enum store_compare_target)compare->target;
    compare_operand(compare, to);
}

/* ---- transactions -------------------------------------------------------------------------- */

/* A transaction whose lists are still to be built. */
struct txn_work {
    const Etcdserverpb__TxnRequest *request;
    struct store_txn *txn;
    uint64_t budget; /* Operations that each of its lists may have. */
    struct txn_work *next;
};

struct txn_builder {
    struct arena *arena;
    uint64_t budget; /* Of transactions inside of the one at work. */
    struct txn_work *work;
};

static bool op_txn(struct txn_builder *builder, const Etcdserverpb__TxnRequest *request,
                   struct store_txn *txn)
{
    struct txn_work *work = arena_alloc(builder->arena, sizeof(*work));
    if (txn == NULL || work == NULL) {
        return false;
    }
    *work = (struct txn_work){request, txn, builder->budget, builder->work};
    builder->work = work;
    return true;
}

static bool op_from(struct txn_builder *builder, const Etcdserverpb__RequestOp *request,
                    struct store_op *op)
{
    switch (request->request_case) {
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE:
        op->kind = STORE_OP_RANGE;
        op->u.range = arena_alloc(builder->arena, sizeof(*op->u.range));
        if (op->u.range != NULL) {
            api_range_from(request->request_range, op->u.range);
        }
        return op->u.range != NULL;
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT:
        op->kind = STORE_OP_PUT;
        op->u.put = arena_alloc(builder->arena, sizeof(*op->u.put));
        if (op->u.put != NULL) {
            api_put_from(request->request_put, op->u.put);
        }
        return op->u.put != NULL;
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE:
        op->kind = STORE_OP_DELETE;
        op->u.del = arena_alloc(builder->arena, sizeof(*op->u.del));
        if (op->u.del != NULL) {
            api_delete_from(request->request_delete_range, op->u.del);
        }
        return op->u.del != NULL;
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN:
        op->kind = STORE_OP_TXN;
        op->u.txn = arena_alloc(builder->arena, sizeof(*op->u.txn));
        return op_txn(builder, request->request_txn, op->u.txn);
    case ETCDSERVERPB__REQUEST_OP__REQUEST__NOT_SET:
    case _ETCDSERVERPB__REQUEST_OP__REQUEST__CASE_IS_INT_SIZE:
    default:
        op->kind = STORE_OP_NONE;
        return true;
    }
}

static bool ops_from(struct txn_builder *builder, Etcdserverpb__RequestOp **requests, size_t count,
                     struct store_op **ops)
{
    if (count == 0) {
        return true;
    }
    *ops = arena_alloc(builder->arena, count * sizeof(**ops));
    if (*ops == NULL) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!op_from(builder, requests[i], &(*ops)[i])) {
            return false;
        }
    }
    return true;
}

/* The longest of its lists counts, as in etcd. */
static size_t txn_ops(const Etcdserverpb__TxnRequest *request)
{
    size_t ops = request->n_compare;
    ops = ops > request->n_success ? ops : request->n_success;
    return ops > request->n_failure ? ops : request->n_failure;
}

static bool txn_lists_from(struct txn_builder *builder, const Etcdserverpb__TxnRequest *request,
                           struct store_txn *txn)
{
    txn->compare_count = (uint32_t)request->n_compare;
    txn->success_count = (uint32_t)request->n_success;
    txn->failure_count = (uint32_t)request->n_failure;
    size_t ops = txn_ops(request);
    if (ops > builder->budget) {
        return true;
    }
    builder->budget -= ops;
    if (request->n_compare > 0) {
        txn->compares = arena_alloc(builder->arena, request->n_compare * sizeof(*txn->compares));
        if (txn->compares == NULL) {
            return false;
        }
    }
    for (size_t i = 0; i < request->n_compare; i++) {
        compare_from(request->compare[i], &txn->compares[i]);
    }
    return ops_from(builder, request->success, request->n_success, &txn->success) &&
           ops_from(builder, request->failure, request->n_failure, &txn->failure);
}

bool api_txn_from(const Etcdserverpb__TxnRequest *request, uint64_t max_ops, struct arena *arena,
                  struct store_txn *txn)
{
    struct txn_builder builder = {.arena = arena, .budget = max_ops};
    *txn = (struct store_txn){0};
    if (!op_txn(&builder, request, txn)) {
        return false;
    }
    while (builder.work != NULL) {
        struct txn_work *work = builder.work;
        builder.work = work->next;
        builder.budget = work->budget;
        if (!txn_lists_from(&builder, work->request, work->txn)) {
            return false;
        }
    }
    return true;
}
