/*
 * Goal: no answer grows beyond its ceiling: RangeStream's chunks by bytes, every other answer by
 * gRPC's 2 GiB; and what Status and Inspect say of a replica that lags is so.
 * Method: calls against a fake rpc over a real cache. Sizes of gigabytes are only claimed: counters
 * are set as if so much had been written before, or an encoded run says that it is that long.
 */
#include "support_api_fake.h"

#include "proto/inspect.pb-c.h"

static struct arena arena;

static int setup(void **state)
{
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    return world_setup(state);
}

static int teardown(void **state)
{
    arena_fini(&arena);
    return world_teardown(state);
}

/* ---- chunks of RangeStream ------------------------------------------------------------------ */

/* Chunks double by keys while these are small, and then meet large ones. */
static void a_chunk_ends_at_its_ceiling_of_bytes(void **state)
{
    enum { SMALL = 200, LARGE = 12, LARGE_SIZE = 1000 * 1000 };
    (void)state;
    uint8_t *value = mem_alloc(LARGE_SIZE);
    for (uint32_t i = 0; i < SMALL + LARGE; i++) {
        char key[16];
        (void)snprintf(key, sizeof(key), "key/%04u", i);
        world_put_value(key, slice_of(value, i < SMALL ? 1 : LARGE_SIZE), 0);
    }
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("key/");
    request.range_end = bytes_of("key0");
    request.serializable = 1;
    struct rpc_call *call = call_new("/etcdserverpb.KV/RangeStream");
    call_start(call);
    call_send(call, &request);
    while (!call->replied) {
        call->method->on_writable(call);
    }
    uint64_t kvs = 0;
    for (uint32_t i = 0; i < call->message_count; i++) {
        const Etcdserverpb__RangeStreamResponse *chunk =
            message_of(call, i, &etcdserverpb__range_stream_response__descriptor, &arena);
        size_t count = chunk->range_response->n_kvs;
        /* The last key of a chunk may lie across the ceiling, and no other. */
        assert_true(count == 0 ||
                    call->messages[i].size < LIMIT_REQUEST_SIZE_MAX + LARGE_SIZE + 1000);
        kvs += count;
    }
    assert_int_equal(kvs, SMALL + LARGE);
    mem_free(value);
    call_end(call);
}

/* ---- 2 GiB ---------------------------------------------------------------------------------- */

static const struct cache_version *version_of(const char *key)
{
    const struct cache_version *version = NULL;
    assert_int_equal(cache_get(cache_snapshot(world.cache), slice_str(key), 0, &version), ERR_OK);
    assert_non_null(version);
    return version;
}

/* What of an answer comes behind |before| bytes of it: a Range, a Put or a Delete of one key. */
static enum err encode_behind(uint32_t which, size_t before, const struct cache_version *version)
{
    const struct api_header header = {.revision = 2};
    const struct cache_version *kvs[] = {version};
    const struct store_range_answer range = {.kvs = kvs, .kv_count = 1, .count = 1};
    const struct store_put_answer put = {.prev = version};
    const struct store_delete_answer del = {.prevs = kvs, .deleted = 1};
    struct api_out out;
    api_out_init(&out);
    api_out_begin(&out);
    out.parts_size = before;
    enum err err = which == 0   ? api_encode_range(&out, &header, &range)
                   : which == 1 ? api_encode_put(&out, &header, &put)
                                : api_encode_delete(&out, &header, &del);
    assert_true(err != ERR_OK || api_out_size(&out) <= INT32_MAX);
    out.parts_size = 0;
    api_out_fini(&out);
    return err;
}

static void an_answer_of_two_gibibytes_is_refused_before_it_is_written(void **state)
{
    enum { KV_SIZE = 1000, SLACK = 100 }; /* Header, numbers, tags. */
    (void)state;
    char *value = mem_alloc(KV_SIZE);
    world_put_value("k", slice_of(value, KV_SIZE), 0);
    const struct cache_version *version = version_of("k");
    for (uint32_t which = 0; which < 3; which++) {
        assert_int_equal(encode_behind(which, 0, version), ERR_OK);
        assert_int_equal(encode_behind(which, INT32_MAX - KV_SIZE - SLACK, version), ERR_OK);
        assert_int_equal(encode_behind(which, INT32_MAX - KV_SIZE, version), ERR_ANSWER_TOO_LARGE);
        assert_int_equal(encode_behind(which, INT32_MAX, version), ERR_ANSWER_TOO_LARGE);
    }
    mem_free(value);
}

/* Its answer is written back to front, in one piece: the ceiling is brought down instead. */
static void a_txn_is_refused_as_soon_as_it_is_too_large(void **state)
{
    enum { KEYS = 1000, KV_SIZE = 100 };
    (void)state;
    char value[KV_SIZE] = {0};
    world_put_value("k", slice_of(value, sizeof(value)), 0);
    const struct cache_version *kvs[KEYS];
    for (uint32_t i = 0; i < KEYS; i++) {
        kvs[i] = version_of("k");
    }
    struct store_op_answer ops[2] = {{.kind = STORE_OP_RANGE}, {.kind = STORE_OP_DELETE}};
    ops[0].u.range = (struct store_range_answer){.kvs = kvs, .kv_count = KEYS, .count = KEYS};
    ops[1].u.del = (struct store_delete_answer){.prevs = kvs, .deleted = KEYS};
    const struct store_txn_answer answer = {true, 2, ops};
    const struct api_header header = {.revision = 2};
    struct api_out out;
    api_out_init(&out);
    api_out_begin(&out);
    assert_int_equal(api_encode_txn(&out, &header, &answer, &arena), ERR_OK);
    size_t size = api_out_size(&out);
    assert_true(size > (size_t)2 * KEYS * KV_SIZE);
    for (size_t more = 0; more < 2; more++) {
        api_out_begin(&out);
        enum err err = api_encode_txn_within(&out, &header, &answer, &arena, size - 1 + more);
        assert_int_equal(err, more == 1 ? ERR_OK : ERR_ANSWER_TOO_LARGE);
    }
    /* Far too large: it is not read to its end, where there is nothing to read. */
    kvs[0] = NULL;
    api_out_begin(&out);
    assert_int_equal(api_encode_txn_within(&out, &header, &answer, &arena, size / 4),
                     ERR_ANSWER_TOO_LARGE);
    ops[1].u.del.deleted = 0;
    api_out_begin(&out);
    assert_int_equal(api_encode_txn_within(&out, &header, &answer, &arena, size / 4),
                     ERR_ANSWER_TOO_LARGE);
    api_out_fini(&out);
}

static void time_to_live_with_too_many_keys_is_refused(void **state)
{
    (void)state;
    for (uint32_t over = 0; over < 2; over++) {
        struct cache_edit *edit = cache_edit_begin(world.cache);
        world.revision++;
        if (over == 0) {
            cache_edit_grant(edit, 7, 60, 1);
        }
        edit_row(edit, "a-key-of-it", SLICE_LIT("v"), 7, false, 0);
        world_publish(edit);
        Etcdserverpb__LeaseTimeToLiveRequest request =
            ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
        request.id = 7;
        request.keys = 1;
        struct rpc_call *call = call_new("/etcdserverpb.Lease/LeaseTimeToLive");
        call_send(call, &request);
        struct store_request *posted = world.posted[0];
        posted->answer.lease.ttl_s = 50;
        posted->answer.lease.granted_s = 60;
        if (over == 1) {
            world_thread()->out.parts_size = INT32_MAX - 20;
        }
        posted_done(posted);
        world_thread()->out.parts_size = 0;
        if (over == 1) {
            assert_failed(call, ERR_ANSWER_TOO_LARGE);
        } else {
            assert_true(call->replied);
        }
        call_end(call);
    }
}

static struct rpc_call *watch_of(const char *key, bool fragment)
{
    struct rpc_call *call = call_new("/etcdserverpb.Watch/Watch");
    call_start(call);
    Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    create.key = bytes_of(key);
    create.fragment = fragment;
    Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
    request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
    request.create_request = &create;
    call_send(call, &request);
    world_turn();
    return call;
}

static void a_revision_too_large_for_one_response_ends_a_watch_without_fragments(void **state)
{
    (void)state;
    struct rpc_call *call = watch_of("k", false);
    /* What the next events are encoded to is there already, and it says that it is long: ids of
     * runs are counted from 1. */
    struct shared *long_run = shared_new(8);
    long_run->size = (size_t)INT32_MAX - API_WATCH_HEAD_SIZE_MAX + 1;
    for (uint64_t id = 1; id <= API_EVENT_RUNS; id++) {
        struct api_event_run *run = &world_thread()->runs[id % API_EVENT_RUNS];
        shared_unref(run->events);
        *run = (struct api_event_run){id, shared_ref(long_run)};
    }
    world_put("k", "1");
    world_turn();
    assert_failed(call, ERR_ANSWER_TOO_LARGE);
    assert_int_equal(call->message_count, 1); /* That it was created. */
    shared_unref(long_run);
    call_end(call);
}

/* ---- a replica that lags -------------------------------------------------------------------- */

/* At seq 40 of 47. */
static void set_lag(void)
{
    struct cache_edit *edit = cache_edit_begin(world.cache);
    cache_edit_set_position(edit, 40, 1, 0);
    world_publish(edit);
    world.facts->lag_entries = 7;
}

static void status_tells_applied_from_known(void **state)
{
    (void)state;
    for (uint32_t lags = 0; lags < 2; lags++) {
        set_lag();
        world.facts->lag_entries = lags == 1 ? 7 : 0;
        Etcdserverpb__StatusRequest request = ETCDSERVERPB__STATUS_REQUEST__INIT;
        struct rpc_call *call = call_new("/etcdserverpb.Maintenance/Status");
        call_send(call, &request);
        const Etcdserverpb__StatusResponse *status =
            message_of(call, 0, &etcdserverpb__status_response__descriptor, &arena);
        assert_int_equal(status->raftappliedindex, 40);
        assert_int_equal(status->raftindex, lags == 1 ? 47 : 40);
        call_end(call);
    }
}

static void inspect_tells_the_lag(void **state)
{
    (void)state;
    set_lag();
    world.facts->fenced = true;
    world.facts->batch_count = 11;
    world.facts->probe_count = 12;
    world.facts->doubt_count = 13;
    Drover__V1__StateRequest request = DROVER__V1__STATE_REQUEST__INIT;
    struct rpc_call *call = call_new("/drover.v1.Inspect/State");
    call_send(call, &request);
    const Drover__V1__StateResponse *state_of =
        message_of(call, 0, &drover__v1__state_response__descriptor, &arena);
    assert_int_equal(state_of->seq, 40);
    assert_int_equal(state_of->lag_entries, 7);
    assert_int_equal(state_of->batches, 11);
    assert_int_equal(state_of->probes, 12);
    assert_int_equal(state_of->doubts, 13);
    assert_true(state_of->fenced);
    assert_false(state_of->away);
    call_end(call);
}

int main(void)
{
#undef CASE
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_chunk_ends_at_its_ceiling_of_bytes),
        CASE(an_answer_of_two_gibibytes_is_refused_before_it_is_written),
        CASE(a_txn_is_refused_as_soon_as_it_is_too_large),
        CASE(time_to_live_with_too_many_keys_is_refused),
        CASE(a_revision_too_large_for_one_response_ends_a_watch_without_fragments),
        CASE(status_tells_applied_from_known),
        CASE(inspect_tells_the_lag),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
