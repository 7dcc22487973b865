/*
 * Goal: KV's handlers refuse what etcd refuses, ask the store what must be asked, and answer in
 * bytes that protobuf would have written.
 * Method: calls against a fake rpc and store over a real cache; each answer is decoded, packed
 * again by protobuf-c and must come out the same.
 */
#include "support_api_fake.h"

#include "api/ask.h"

static struct rpc_call *range_call(const Etcdserverpb__RangeRequest *request)
{
    struct rpc_call *call = call_new("/etcdserverpb.KV/Range");
    call_send(call, request);
    return call;
}

/* The answer to a serializable |request|, decoded in |arena|. */
static const Etcdserverpb__RangeResponse *range_answer(Etcdserverpb__RangeRequest *request,
                                                       struct arena *arena)
{
    request->serializable = 1;
    struct rpc_call *call = range_call(request);
    assert_true(call->replied);
    (void)message_of(call, 0, &etcdserverpb__range_response__descriptor, arena);
    /* What the response borrows from the call is copied. */
    struct slice copy;
    enum api_decode_result result;
    assert_true(arena_copy(arena, call->messages[0], &copy));
    const Etcdserverpb__RangeResponse *response =
        api_decode(copy, &etcdserverpb__range_response__descriptor, arena, &result);
    call_end(call);
    return response;
}

static void a_serializable_range_answers_at_once(void **state)
{
    (void)state;
    world_put("a", "1");
    world_put_value("b", SLICE_LIT("2"), 77);
    world_put("a", "3");
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("a");
    request.range_end = bytes_of("z");
    const Etcdserverpb__RangeResponse *response = range_answer(&request, &arena);
    assert_int_equal(response->header->cluster_id, world.facts->cluster_id);
    assert_int_equal(response->header->member_id, 7);
    assert_int_equal(response->header->raft_term, 3);
    assert_int_equal(response->header->revision, 4);
    assert_int_equal(response->n_kvs, 2);
    assert_bytes(response->kvs[0]->key, "a");
    assert_bytes(response->kvs[0]->value, "3");
    assert_int_equal(response->kvs[0]->version, 2);
    assert_int_equal(response->kvs[0]->create_revision, 2);
    assert_int_equal(response->kvs[0]->mod_revision, 4);
    assert_int_equal(response->kvs[1]->lease, 77);
    assert_int_equal(response->count, 2);
    assert_false(response->more);
    arena_fini(&arena);
}

static void range_obeys_limit_count_and_keys_only(void **state)
{
    (void)state;
    world_put("a", "1");
    world_put_value("b", SLICE_LIT("2"), 77);
    world_put("c", "3");
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("a");
    request.range_end = bytes_of("z");
    request.limit = 2;
    const Etcdserverpb__RangeResponse *response = range_answer(&request, &arena);
    assert_int_equal(response->n_kvs, 2);
    assert_true(response->more);
    assert_int_equal(response->count, 3);

    request.limit = 3;
    response = range_answer(&request, &arena);
    assert_int_equal(response->n_kvs, 3);
    assert_false(response->more);
    assert_int_equal(response->count, 3);

    request.keys_only = 1;
    response = range_answer(&request, &arena);
    assert_int_equal(response->kvs[1]->value.len, 0);
    assert_int_equal(response->kvs[1]->lease, 0); /* etcd 3.7 reads its index. */
    assert_int_equal(response->kvs[1]->mod_revision, 3);
    request.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE;
    response = range_answer(&request, &arena);
    assert_int_equal(response->kvs[1]->lease, 77);

    request.count_only = 1;
    response = range_answer(&request, &arena);
    assert_int_equal(response->n_kvs, 0);
    assert_false(response->more);
    assert_int_equal(response->count, 3);
    arena_fini(&arena);
}

static void range_reads_one_key_and_old_revisions(void **state)
{
    (void)state;
    world_put("a", "1");
    world_put("a", "2");
    world_delete("a");
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("a");
    const Etcdserverpb__RangeResponse *response = range_answer(&request, &arena);
    assert_int_equal(response->count, 0);
    request.revision = 3;
    response = range_answer(&request, &arena);
    assert_int_equal(response->count, 1);
    assert_bytes(response->kvs[0]->value, "2");
    assert_int_equal(response->header->revision, 4);
    request.revision = 0;
    request.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
    response = range_answer(&request, &arena);
    assert_int_equal(response->count, 0);
    arena_fini(&arena);
}

static void range_refuses_as_etcd_does(void **state)
{
    (void)state;
    world_put("a", "1");
    world_put("a", "2");
    world_compact(3);
    struct {
        Etcdserverpb__RangeRequest request;
        enum err err;
    } cases[5];
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        etcdserverpb__range_request__init(&cases[i].request);
        cases[i].request.serializable = 1;
        cases[i].request.key = bytes_of(i == 0 ? "" : "a");
    }
    cases[0].err = ERR_EMPTY_KEY;
    cases[1].request.sort_order = (Etcdserverpb__RangeRequest__SortOrder)9;
    cases[1].err = ERR_INVALID_SORT_OPTION;
    cases[2].request.sort_target = (Etcdserverpb__RangeRequest__SortTarget)-1;
    cases[2].err = ERR_INVALID_SORT_OPTION;
    cases[3].request.revision = 99;
    cases[3].err = ERR_FUTURE_REV;
    cases[4].request.revision = 2;
    cases[4].err = ERR_COMPACTED;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct rpc_call *call = range_call(&cases[i].request);
        assert_failed(call, cases[i].err);
        call_end(call);
    }
}

static void malformed_requests_get_grpcs_words(void **state)
{
    (void)state;
    struct rpc_call *call = call_new("/etcdserverpb.KV/Range");
    call->method->on_message(call, SLICE_LIT("\x0a\x05"));
    assert_int_equal(call->code, RPC_INTERNAL);
    assert_slice_equal(call->text, SLICE_LIT("grpc: error unmarshalling request: "
                                             "proto: cannot parse invalid wire-format data"));
    call_end(call);
    call = call_new("/etcdserverpb.KV/RangeStream");
    call_start(call);
    call->method->on_message(call, SLICE_LIT("\x0a\x05"));
    assert_slice_equal(call->text, SLICE_LIT("grpc: failed to unmarshal the received message: "
                                             "proto: cannot parse invalid wire-format data"));
    call_end(call);
}

static void metadata_is_checked_as_etcds_interceptors_do(void **state)
{
    (void)state;
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("a");
    request.serializable = 1;
    struct rpc_call *call = call_new("/etcdserverpb.KV/Range");
    call_header(call, "client-api-version", SLICE_LIT("3.\xff"));
    call_send(call, &request);
    assert_failed(call, ERR_INVALID_CLIENT_API_VERSION);
    call_end(call);

    world.facts->away = true;
    call = call_new("/etcdserverpb.KV/Range");
    call_header(call, "hasleader", SLICE_LIT("true"));
    call_send(call, &request);
    assert_failed(call, ERR_NO_LEADER);
    call_end(call);
    call = call_new("/etcdserverpb.KV/Range"); /* Serializable, and did not ask for a leader. */
    call_send(call, &request);
    assert_true(call->replied);
    call_end(call);
}

static void a_linearizable_range_waits_for_its_read_index(void **state)
{
    (void)state;
    world_put("a", "1");
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("a");
    struct rpc_call *call = range_call(&request);
    assert_false(call->replied);
    assert_int_equal(world.posted_count, 1);
    assert_int_equal(world.posted[0]->kind, STORE_READ_INDEX);
    assert_ptr_equal(world.posted[0]->home, &world.loop);
    world_put("a", "2"); /* Arrives meanwhile, and is seen. */
    world.posted[0]->err = ERR_OK;
    posted_done(world.posted[0]);
    assert_true(call->replied);
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    const Etcdserverpb__RangeResponse *response =
        message_of(call, 0, &etcdserverpb__range_response__descriptor, &arena);
    assert_bytes(response->kvs[0]->value, "2");
    arena_fini(&arena);
    call_end(call);

    call = range_call(&request);
    world.posted[0]->err = ERR_NO_LEADER;
    posted_done(world.posted[0]);
    assert_failed(call, ERR_NO_LEADER);
    call_end(call);

    call = range_call(&request); /* The client goes away first. */
    call_end(call);
    world.posted[0]->err = ERR_OK;
    posted_done(world.posted[0]);

    world.reads_are_local = true;
    call = range_call(&request);
    assert_true(call->replied);
    call_end(call);
}

static void put_asks_the_store_and_answers_the_old_kv(void **state)
{
    (void)state;
    world_put("k", "old");
    Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
    request.key = bytes_of("k");
    request.value = bytes_of("new");
    request.lease = 5;
    request.prev_kv = 1;
    struct rpc_call *call = call_new("/etcdserverpb.KV/Put");
    call_send(call, &request);
    assert_int_equal(world.posted_count, 1);
    struct store_request *posted = world.posted[0];
    assert_int_equal(posted->kind, STORE_PUT);
    assert_slice_equal(posted->u.put.key, SLICE_LIT("k"));
    assert_slice_equal(posted->u.put.value, SLICE_LIT("new"));
    assert_int_equal(posted->u.put.lease, 5);
    assert_true(posted->u.put.prev_kv);
    assert_true(posted->size > 10);
    enum err err =
        cache_get(cache_snapshot(world.cache), SLICE_LIT("k"), 0, &posted->answer.put.prev);
    assert_int_equal(err, ERR_OK);
    posted->revision = 3;
    posted_done(posted);
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    const Etcdserverpb__PutResponse *response =
        message_of(call, 0, &etcdserverpb__put_response__descriptor, &arena);
    assert_int_equal(response->header->revision, 3);
    assert_bytes(response->prev_kv->value, "old");
    arena_fini(&arena);
    call_end(call);
}

static void put_refuses_as_etcd_does(void **state)
{
    (void)state;
    Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
    struct rpc_call *call = call_new("/etcdserverpb.KV/Put");
    call_send(call, &request);
    assert_failed(call, ERR_EMPTY_KEY);
    call_end(call);
    request.key = bytes_of("k");
    request.value = bytes_of("v");
    request.ignore_value = 1;
    call = call_new("/etcdserverpb.KV/Put");
    call_send(call, &request);
    assert_failed(call, ERR_VALUE_PROVIDED);
    call_end(call);
    request.ignore_value = 0;
    request.ignore_lease = 1;
    request.lease = 1;
    call = call_new("/etcdserverpb.KV/Put");
    call_send(call, &request);
    assert_failed(call, ERR_LEASE_PROVIDED);
    call_end(call);
    assert_int_equal(world.posted_count, 0);
}

static void delete_answers_count_and_old_kvs(void **state)
{
    (void)state;
    world_put("a", "1");
    world_put("b", "2");
    Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    request.key = bytes_of("a");
    request.range_end = bytes_of("c");
    request.prev_kv = 1;
    struct rpc_call *call = call_new("/etcdserverpb.KV/DeleteRange");
    call_send(call, &request);
    struct store_request *posted = world.posted[0];
    assert_int_equal(posted->kind, STORE_DELETE);
    assert_slice_equal(posted->u.del.range_end, SLICE_LIT("c"));
    const struct cache_version *prevs[2];
    assert_int_equal(cache_get(cache_snapshot(world.cache), SLICE_LIT("a"), 0, &prevs[0]), ERR_OK);
    assert_int_equal(cache_get(cache_snapshot(world.cache), SLICE_LIT("b"), 0, &prevs[1]), ERR_OK);
    posted->answer.del = (struct store_delete_answer){.prevs = prevs, .deleted = 2};
    posted->revision = 4;
    posted_done(posted);
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    const Etcdserverpb__DeleteRangeResponse *response =
        message_of(call, 0, &etcdserverpb__delete_range_response__descriptor, &arena);
    assert_int_equal(response->deleted, 2);
    assert_int_equal(response->n_prev_kvs, 2);
    assert_bytes(response->prev_kvs[1]->value, "2");
    arena_fini(&arena);
    call_end(call);
}

static void compact_passes_revision_and_physical(void **state)
{
    (void)state;
    Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
    request.revision = 9;
    request.physical = 1;
    struct rpc_call *call = call_new("/etcdserverpb.KV/Compact");
    call_send(call, &request);
    assert_int_equal(world.posted[0]->u.compact.revision, 9);
    assert_true(world.posted[0]->u.compact.physical);
    world.posted[0]->err = ERR_FUTURE_REV;
    posted_done(world.posted[0]);
    assert_failed(call, ERR_FUTURE_REV);
    call_end(call);
}

/* A large answer goes by reference, a small one by copy; both leave the thread's memory usable. */
static void answers_of_any_size_leave_whole(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    const size_t sizes[] = {1, 900, 1024, 20000, 65000, 300000, 1500000, 10};
    uint8_t *value = mem_alloc(1500000);
    memset(value, 'v', 1500000);
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("k");
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        world_put_value("k", slice_of(value, sizes[i]), 0);
        for (uint32_t k = 0; k < 10; k++) {
            const Etcdserverpb__RangeResponse *response = range_answer(&request, &arena);
            assert_int_equal(response->kvs[0]->value.len, sizes[i]);
        }
    }
    mem_free(value);
    arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_serializable_range_answers_at_once),
        CASE(range_obeys_limit_count_and_keys_only),
        CASE(range_reads_one_key_and_old_revisions),
        CASE(range_refuses_as_etcd_does),
        CASE(malformed_requests_get_grpcs_words),
        CASE(metadata_is_checked_as_etcds_interceptors_do),
        CASE(a_linearizable_range_waits_for_its_read_index),
        CASE(put_asks_the_store_and_answers_the_old_kv),
        CASE(put_refuses_as_etcd_does),
        CASE(delete_answers_count_and_old_kvs),
        CASE(compact_passes_revision_and_physical),
        CASE(answers_of_any_size_leave_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
