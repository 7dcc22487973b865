/*
 * Goal: a transaction reaches the store as it was written, and its answer leaves as protobuf would
 * write it, nested as deep as etcd allows.
 * Method: requests through the handler, looking at what was posted; answers built by hand, encoded,
 * decoded and packed again.
 */
#include "support_api_fake.h"

#include "api/request.h"

static void set_put(Etcdserverpb__RequestOp *op, Etcdserverpb__PutRequest *put, const char *key)
{
    etcdserverpb__request_op__init(op);
    etcdserverpb__put_request__init(put);
    put->key = bytes_of(key);
    op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
    op->request_put = put;
}

static void set_range(Etcdserverpb__RequestOp *op, Etcdserverpb__RangeRequest *range,
                      const char *key)
{
    etcdserverpb__request_op__init(op);
    etcdserverpb__range_request__init(range);
    range->key = bytes_of(key);
    op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    op->request_range = range;
}

static void set_txn(Etcdserverpb__RequestOp *op, Etcdserverpb__TxnRequest *txn)
{
    etcdserverpb__request_op__init(op);
    op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
    op->request_txn = txn;
}

static struct rpc_call *txn_call(const Etcdserverpb__TxnRequest *request)
{
    struct rpc_call *call = call_new("/etcdserverpb.KV/Txn");
    call_send(call, request);
    return call;
}

static void a_txn_reaches_the_store_as_it_was_written(void **state)
{
    (void)state;
    Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT;
    compare.result = ETCDSERVERPB__COMPARE__COMPARE_RESULT__NOT_EQUAL;
    compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
    compare.key = bytes_of("k");
    compare.range_end = bytes_of("l");
    compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
    compare.mod_revision = 42;
    Etcdserverpb__Compare *compares[] = {&compare};

    Etcdserverpb__RequestOp ops[3];
    Etcdserverpb__PutRequest puts[2];
    Etcdserverpb__RangeRequest range;
    Etcdserverpb__TxnRequest inner = ETCDSERVERPB__TXN_REQUEST__INIT;
    set_put(&ops[0], &puts[0], "inner");
    Etcdserverpb__RequestOp *inner_ops[] = {&ops[0]};
    inner.failure = inner_ops;
    inner.n_failure = 1;
    set_txn(&ops[1], &inner);
    set_range(&ops[2], &range, "seen");
    Etcdserverpb__RequestOp *success[] = {&ops[1], &ops[2]};
    Etcdserverpb__RequestOp put_op;
    set_put(&put_op, &puts[1], "else");
    Etcdserverpb__RequestOp *failure[] = {&put_op};
    Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
    request.compare = compares;
    request.n_compare = 1;
    request.success = success;
    request.n_success = 2;
    request.failure = failure;
    request.n_failure = 1;

    struct rpc_call *call = txn_call(&request);
    assert_int_equal(world.posted_count, 1);
    struct store_request *posted = world.posted[0];
    assert_int_equal(posted->kind, STORE_TXN);
    const struct store_txn *txn = &posted->u.txn;
    assert_int_equal(txn->compare_count, 1);
    assert_int_equal(txn->compares[0].result, STORE_NOT_EQUAL);
    assert_int_equal(txn->compares[0].target, STORE_MOD);
    assert_int_equal(txn->compares[0].number, 42);
    assert_slice_equal(txn->compares[0].range_end, SLICE_LIT("l"));
    assert_int_equal(txn->success_count, 2);
    assert_int_equal(txn->success[0].kind, STORE_OP_TXN);
    assert_int_equal(txn->success[0].u.txn->failure_count, 1);
    assert_slice_equal(txn->success[0].u.txn->failure[0].u.put->key, SLICE_LIT("inner"));
    assert_slice_equal(txn->success[1].u.range->key, SLICE_LIT("seen"));
    assert_slice_equal(txn->failure[0].u.put->key, SLICE_LIT("else"));
    posted->err = ERR_TIMEOUT;
    posted_done(posted);
    assert_failed(call, ERR_TIMEOUT);
    call_end(call);
}

static void read_only_txns_are_answered_from_memory(void **state)
{
    (void)state;
    world_put("k", "v");
    Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
    struct rpc_call *call = txn_call(&request); /* An empty one needs no read index, as in etcd. */
    assert_true(call->replied);
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    const Etcdserverpb__TxnResponse *response =
        message_of(call, 0, &etcdserverpb__txn_response__descriptor, &arena);
    assert_true(response->succeeded);
    assert_int_equal(response->header->revision, 2);
    assert_int_equal(response->n_responses, 0);
    call_end(call);

    Etcdserverpb__RequestOp op;
    Etcdserverpb__RangeRequest range;
    set_range(&op, &range, "k");
    Etcdserverpb__RequestOp *success[] = {&op};
    request.success = success;
    request.n_success = 1;
    call = txn_call(&request);
    assert_int_equal(world.posted_count, 1);
    assert_int_equal(world.posted[0]->kind, STORE_READ_INDEX);
    world.posted[0]->err = ERR_OK;
    posted_done(world.posted[0]);
    assert_true(call->replied);
    response = message_of(call, 0, &etcdserverpb__txn_response__descriptor, &arena);
    assert_int_equal(response->n_responses, 1);
    const Etcdserverpb__RangeResponse *ranged = response->responses[0]->response_range;
    assert_bytes(ranged->kvs[0]->value, "v");
    assert_int_equal(ranged->header->revision, 2);
    assert_int_equal(ranged->header->cluster_id, 0); /* Only the revision. */
    call_end(call);
    arena_fini(&arena);
}

static void txns_are_refused_as_etcd_does(void **state)
{
    (void)state;
    Etcdserverpb__RequestOp op;
    Etcdserverpb__PutRequest put;
    set_put(&op, &put, "k");
    Etcdserverpb__RequestOp *ops[LIMIT_TXN_OPS_MAX + 1];
    for (size_t i = 0; i < ARRAY_COUNT(ops); i++) {
        ops[i] = &op;
    }
    Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
    request.success = ops;
    request.n_success = ARRAY_COUNT(ops);
    struct rpc_call *call = txn_call(&request);
    assert_failed(call, ERR_TOO_MANY_OPS);
    call_end(call);
    request.n_success = 2;
    call = txn_call(&request);
    assert_failed(call, ERR_DUPLICATE_KEY);
    call_end(call);
    Etcdserverpb__RequestOp empty = ETCDSERVERPB__REQUEST_OP__INIT;
    ops[0] = &empty;
    call = txn_call(&request);
    assert_failed(call, ERR_KEY_NOT_FOUND);
    call_end(call);
    Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT;
    Etcdserverpb__Compare *compares[] = {&compare};
    request.compare = compares;
    request.n_compare = 1;
    call = txn_call(&request);
    assert_failed(call, ERR_EMPTY_KEY);
    call_end(call);
    assert_int_equal(world.posted_count, 0);
}

/* More operations than memory is reserved for are too many, too. */
static void a_flood_of_operations_is_too_many(void **state)
{
    (void)state;
    struct buf wire = {0};
    for (uint32_t i = 0; i < 1000 * 1000; i++) {
        buf_add(&wire, "\x12", 2);
    }
    struct rpc_call *call = call_new("/etcdserverpb.KV/Txn");
    call->method->on_message(call, buf_slice(&wire));
    assert_failed(call, ERR_TOO_MANY_OPS);
    call_end(call);
    buf_fini(&wire);
}

/* What is refused for its operations is not built first: a client that reads nothing keeps it. */
static void operations_beyond_the_limit_take_no_memory(void **state)
{
    (void)state;
    struct buf wire = {0};
    for (uint32_t i = 0; i < 200 * 1000; i++) {
        buf_add(&wire, "\x12\x02\x0a\x00", 4); /* A Range of no key, in success. */
    }
    struct rpc_call *call = call_new("/etcdserverpb.KV/Txn");
    call->method->on_message(call, buf_slice(&wire));
    assert_failed(call, ERR_TOO_MANY_OPS);
    assert_true(call->arena.size_used < wire.size + 128 * 1024);
    call_end(call);

    /* The same inside of a transaction; then behind a fault that etcd finds first. */
    for (int with_fault = 0; with_fault < 2; with_fault++) {
        uint8_t head[16];
        size_t nested = wire.size;
        struct buf outer = {0};
        if (with_fault) {
            buf_add(&outer, "\x12\x02\x0a\x00", 4);
        }
        uint8_t *end = wire_put_varint(head, nested);
        size_t inner_size = 1 + (size_t)(end - head) + nested;
        buf_add(&outer, "\x12", 1); /* success: RequestOp { request_txn { ... } } */
        end = wire_put_varint(head, inner_size);
        buf_add(&outer, head, (size_t)(end - head));
        buf_add(&outer, "\x22", 1);
        end = wire_put_varint(head, nested);
        buf_add(&outer, head, (size_t)(end - head));
        buf_add_slice(&outer, buf_slice(&wire));
        call = call_new("/etcdserverpb.KV/Txn");
        call->method->on_message(call, buf_slice(&outer));
        assert_failed(call, with_fault ? ERR_EMPTY_KEY : ERR_TOO_MANY_OPS);
        assert_true(call->arena.size_used < outer.size + 128 * 1024);
        call_end(call);
        buf_fini(&outer);
    }
    buf_fini(&wire);
}

/* ---- compares that have no name ------------------------------------------------------------ */

static struct store_compare compare_of(int result, int target, int64_t version)
{
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT;
    compare.key = bytes_of("k");
    compare.result = (Etcdserverpb__Compare__CompareResult)result;
    compare.target = (Etcdserverpb__Compare__CompareTarget)target;
    compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
    compare.version = version;
    Etcdserverpb__Compare *compares[] = {&compare};
    Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
    request.compare = compares;
    request.n_compare = 1;
    struct store_txn txn;
    assert_true(api_txn_from(&request, 1, &arena, &txn));
    struct store_compare converted = txn.compares[0];
    arena_fini(&arena);
    return converted;
}

static bool holds(struct store_compare compare, int64_t version)
{
    assert_int_equal(compare.target, STORE_VERSION);
    if (compare.result == STORE_GREATER) {
        return version > compare.number;
    }
    assert_int_equal(compare.result, STORE_LESS);
    return version < compare.number;
}

static void unknown_compares_do_what_etcd_makes_of_them(void **state)
{
    (void)state;
    /* The operand of another target counts as zero. */
    assert_int_equal(compare_of(0, 2, 5).number, 0);
    assert_int_equal(compare_of(0, 0, 5).number, 5);
    const struct {
        int result, target;
        bool without_key, with_key;
    } cases[] = {
        {0, 9, true, true},                         /* Unknown target: equal to anything ... */
        {3, 9, false, false},                       /* ... so never different, */
        {1, 9, false, false},                       /* nor greater. */
        {2, -1, false, false}, {9, 0, true, true},  /* Unknown result: holds. */
        {-1, 9, true, true},   {9, 3, false, true}, /* But a value needs a key. */
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct store_compare compare = compare_of(cases[i].result, cases[i].target, 1);
        assert_int_equal(holds(compare, 0), cases[i].without_key);
        assert_int_equal(holds(compare, 1), cases[i].with_key);
        assert_int_equal(holds(compare, 7), cases[i].with_key);
    }
}

/* ---- answers ------------------------------------------------------------------------------- */

static struct store_txn_answer *random_txn(struct rng *rng, struct arena *arena, uint32_t depth,
                                           const struct cache_version **kvs, uint32_t kv_count)
{
    struct store_txn_answer *outermost = NULL;
    struct store_txn_answer **place = &outermost;
    for (uint32_t level = 0; level < depth; level++) {
        struct store_txn_answer *txn = arena_alloc(arena, sizeof(*txn));
        txn->succeeded = rng_below(rng, 2) == 1;
        txn->op_count = (uint32_t)rng_below(rng, 5) + (level + 1 < depth);
        txn->ops = arena_alloc(arena, (txn->op_count + 1) * sizeof(*txn->ops));
        uint32_t nested = level + 1 < depth ? (uint32_t)rng_below(rng, txn->op_count) : UINT32_MAX;
        *place = txn;
        for (uint32_t i = 0; i < txn->op_count; i++) {
            struct store_op_answer *op = &txn->ops[i];
            op->revision = (int64_t)rng_below(rng, 1000);
            op->kind = (int)rng_below(rng, 3);
            if (i == nested) {
                op->kind = STORE_OP_TXN;
                place = &op->u.txn;
            } else if (op->kind == STORE_OP_RANGE) {
                op->u.range.kvs = kvs;
                op->u.range.kv_count = rng_below(rng, kv_count + 1);
                op->u.range.count = rng_below(rng, 1000);
                op->u.range.more = rng_below(rng, 2) == 1;
                op->u.range.keys_only = rng_below(rng, 2) == 1;
                op->u.range.no_lease = rng_below(rng, 2) == 1;
            } else if (op->kind == STORE_OP_PUT) {
                op->u.put.prev = rng_below(rng, 2) == 1 ? kvs[0] : NULL;
            } else {
                op->u.del.deleted = rng_below(rng, kv_count + 1);
                op->u.del.prevs = rng_below(rng, 2) == 1 ? kvs : NULL;
            }
        }
    }
    return outermost;
}

/* Follows the nesting; every level must be what was answered. */
static void assert_same_txn(const struct store_txn_answer *answer,
                            const Etcdserverpb__TxnResponse *response)
{
    while (answer != NULL) {
        const struct store_txn_answer *inner = NULL;
        const Etcdserverpb__TxnResponse *inner_response = NULL;
        assert_int_equal(response->succeeded, answer->succeeded);
        assert_int_equal(response->n_responses, answer->op_count);
        assert_non_null(response->header);
        for (uint32_t i = 0; i < answer->op_count; i++) {
            const struct store_op_answer *op = &answer->ops[i];
            const Etcdserverpb__ResponseOp *got = response->responses[i];
            assert_int_equal((int)got->response_case, op->kind == STORE_OP_TXN ? 4 : op->kind + 1);
            if (op->kind == STORE_OP_TXN) {
                inner = op->u.txn;
                inner_response = got->response_txn;
            } else if (op->kind == STORE_OP_RANGE) {
                assert_int_equal(got->response_range->n_kvs, op->u.range.kv_count);
                assert_int_equal(got->response_range->count, op->u.range.count);
                assert_int_equal(got->response_range->header->revision, op->revision);
            } else if (op->kind == STORE_OP_DELETE) {
                assert_int_equal(got->response_delete_range->deleted, op->u.del.deleted);
                assert_int_equal(got->response_delete_range->header->revision, op->revision);
            } else {
                assert_int_equal(got->response_put->prev_kv != NULL, op->u.put.prev != NULL);
                assert_int_equal(got->response_put->header->revision, op->revision);
            }
        }
        answer = inner;
        response = inner_response;
    }
}

static void answers_are_what_protobuf_would_write(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, support_seed());
    uint32_t rounds = support_is_long() ? 20000 : 200;
    world_put("a", "1");
    world_put_value("b", SLICE_LIT("two"), 99);
    world_put("c", "");
    for (uint32_t round = 0; round < rounds; round++) {
        const struct cache_version *kvs[3];
        const struct cache_snapshot *snapshot = cache_snapshot(world.cache);
        assert_int_equal(cache_get(snapshot, SLICE_LIT("a"), 0, &kvs[0]), ERR_OK);
        assert_int_equal(cache_get(snapshot, SLICE_LIT("b"), 0, &kvs[1]), ERR_OK);
        assert_int_equal(cache_get(snapshot, SLICE_LIT("c"), 0, &kvs[2]), ERR_OK);
        struct arena arena;
        arena_init(&arena, LIMIT_CALL_ARENA_MAX);
        uint32_t depth = round == 0 ? 127 : 1 + (uint32_t)rng_below(&rng, 6);
        struct store_txn_answer *answer = random_txn(&rng, &arena, depth, kvs, 3);

        Etcdserverpb__RequestOp op;
        Etcdserverpb__PutRequest put;
        set_put(&op, &put, "k");
        Etcdserverpb__RequestOp *ops[] = {&op};
        Etcdserverpb__TxnRequest request = ETCDSERVERPB__TXN_REQUEST__INIT;
        request.success = ops;
        request.n_success = 1;
        struct rpc_call *call = txn_call(&request);
        world.posted[0]->answer.txn = *answer;
        world.posted[0]->revision = 77;
        posted_done(world.posted[0]);
        assert_true(call->replied);
        const Etcdserverpb__TxnResponse *response =
            message_of(call, 0, &etcdserverpb__txn_response__descriptor, &arena);
        assert_int_equal(response->header->revision, 77);
        assert_int_equal(response->header->member_id, 7);
        assert_same_txn(answer, response);
        call_end(call);
        arena_fini(&arena);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_txn_reaches_the_store_as_it_was_written),
        CASE(read_only_txns_are_answered_from_memory),
        CASE(txns_are_refused_as_etcd_does),
        CASE(a_flood_of_operations_is_too_many),
        CASE(operations_beyond_the_limit_take_no_memory),
        CASE(unknown_compares_do_what_etcd_makes_of_them),
        CASE(answers_are_what_protobuf_would_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
