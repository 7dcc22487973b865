/*
 * Goal: RangeStream's chunks merge into exactly Range's answer at one revision, are near the
 * wanted size, stop when the client's window is full, and hold their revision meanwhile.
 * Method: streams against a fake rpc over a real cache that changes between chunks.
 */
#include "support_api_fake.h"

#include "api/stream.h"

static void fill(uint32_t count, size_t value_size)
{
    uint8_t *value = mem_alloc(value_size + 1);
    struct cache_edit *edit = cache_edit_begin(world.cache);
    world.revision++;
    for (uint32_t i = 0; i < count; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "key/%06u", i);
        edit_row(edit, key, slice_of(value, value_size), 0, false, (int32_t)i);
    }
    world_publish(edit);
    mem_free(value);
}

static Etcdserverpb__RangeRequest whole(void)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("key/");
    request.range_end = bytes_of("key0");
    request.serializable = 1;
    return request;
}

static struct rpc_call *stream_call(const Etcdserverpb__RangeRequest *request)
{
    struct rpc_call *call = call_new("/etcdserverpb.KV/RangeStream");
    call_start(call);
    call_send(call, request);
    return call;
}

/* What all chunks merge to, as protobuf merges them; only the last has a header and no chunk but
 * the last may be empty. */
struct merged {
    struct buf keys; /* One after the other, with a newline. */
    uint64_t kvs;
    int64_t count;
    int64_t revision;
    bool more;
};

static struct merged merge(struct rpc_call *call)
{
    struct merged merged = {0};
    assert_true(call->replied);
    for (uint32_t i = 0; i < call->message_count; i++) {
        struct arena arena;
        arena_init(&arena, LIMIT_CALL_ARENA_MAX);
        const Etcdserverpb__RangeStreamResponse *chunk =
            message_of(call, i, &etcdserverpb__range_stream_response__descriptor, &arena);
        const Etcdserverpb__RangeResponse *range = chunk->range_response;
        bool is_last = i + 1 == call->message_count;
        assert_int_equal(range->header != NULL, is_last);
        assert_true(is_last || range->n_kvs > 0);
        for (size_t k = 0; k < range->n_kvs; k++) {
            buf_add(&merged.keys, range->kvs[k]->key.data, range->kvs[k]->key.len);
            buf_add_byte(&merged.keys, '\n');
        }
        merged.kvs += range->n_kvs;
        if (is_last) {
            merged.count = range->count;
            merged.more = range->more;
            merged.revision = range->header->revision;
            assert_int_equal(range->header->member_id, 7);
        }
        arena_fini(&arena);
    }
    return merged;
}

/* The same from a unary Range. */
static struct merged unary(const Etcdserverpb__RangeRequest *request)
{
    struct merged merged = {0};
    struct rpc_call *call = call_new("/etcdserverpb.KV/Range");
    call_send(call, request);
    struct arena arena;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    const Etcdserverpb__RangeResponse *range =
        message_of(call, 0, &etcdserverpb__range_response__descriptor, &arena);
    for (size_t k = 0; k < range->n_kvs; k++) {
        buf_add(&merged.keys, range->kvs[k]->key.data, range->kvs[k]->key.len);
        buf_add_byte(&merged.keys, '\n');
    }
    merged.kvs = range->n_kvs;
    merged.count = range->count;
    merged.more = range->more;
    merged.revision = range->header->revision;
    arena_fini(&arena);
    call_end(call);
    return merged;
}

static void chunks_merge_to_the_unary_answer(void **state)
{
    (void)state;
    fill(3000, 1000);
    const int64_t limits[] = {0, 1, 9, 10, 11, 2999, 3000, 3001, -1};
    for (size_t i = 0; i < ARRAY_COUNT(limits); i++) {
        Etcdserverpb__RangeRequest request = whole();
        request.limit = limits[i];
        struct rpc_call *call = stream_call(&request);
        struct merged stream = merge(call);
        struct merged expected = unary(&request);
        assert_slice_equal(buf_slice(&stream.keys), buf_slice(&expected.keys));
        assert_int_equal(stream.count, expected.count);
        assert_int_equal(stream.more, expected.more);
        assert_int_equal(stream.revision, expected.revision);
        buf_fini(&stream.keys);
        buf_fini(&expected.keys);
        call_end(call);
    }
}

static void an_empty_range_is_one_message(void **state)
{
    (void)state;
    Etcdserverpb__RangeRequest request = whole();
    struct rpc_call *call = stream_call(&request);
    assert_int_equal(call->message_count, 1);
    struct merged stream = merge(call);
    assert_int_equal(stream.kvs, 0);
    assert_int_equal(stream.revision, 1);
    call_end(call);
    fill(20, 1);
    request.count_only = 1;
    request.limit = 5;
    call = stream_call(&request);
    assert_int_equal(call->message_count, 1);
    stream = merge(call);
    assert_int_equal(stream.count, 20);
    assert_false(stream.more);
    call_end(call);
}

static void chunks_grow_to_the_size_of_a_request(void **state)
{
    (void)state;
    fill(5000, 1000);
    Etcdserverpb__RangeRequest request = whole();
    struct rpc_call *call = stream_call(&request);
    assert_true(call->message_count < 20);
    for (uint32_t i = 0; i < call->message_count; i++) {
        assert_true(call->messages[i].size < LIMIT_REQUEST_SIZE_MAX + 2000);
    }
    call_end(call);
    assert_int_equal(api_range_stream_adjust(10, 100, 1000), 20);
    assert_int_equal(api_range_stream_adjust(10, 500, 1000), 10);
    assert_int_equal(api_range_stream_adjust(10, 2000, 1000), 10);
    assert_int_equal(api_range_stream_adjust(10, 2001, 1000), 5);
    assert_int_equal(api_range_stream_adjust(1, 5000, 1000), 1);
}

static void a_full_window_stops_the_stream_and_its_revision_stays(void **state)
{
    (void)state;
    fill(3000, 1000);
    Etcdserverpb__RangeRequest request = whole();
    struct rpc_call *call = call_new("/etcdserverpb.KV/RangeStream");
    call->room = false;
    call_start(call);
    call_send(call, &request);
    assert_int_equal(call->message_count, 1);
    assert_false(call->replied);
    /* The state changes, but not what the stream shows, nor may it be trimmed away. */
    world_put("key/000500", "changed");
    world_delete("key/000600");
    world_put("key/000600x", "new");
    world_turn();
    assert_true(reclaim_hold_rev(&world.reclaim) <= 2);
    while (!call->replied) {
        uint32_t before = call->message_count;
        call->method->on_writable(call);
        assert_int_equal(call->message_count, before + 1);
    }
    struct merged stream = merge(call);
    assert_int_equal(stream.kvs, 3000);
    assert_int_equal(stream.count, 3000);
    assert_int_equal(stream.revision, 2);
    buf_fini(&stream.keys);
    call->method->on_writable(call); /* After the end: nothing. */
    world_turn();
    assert_true(reclaim_hold_rev(&world.reclaim) > 2);
    call_end(call);
}

static void a_compaction_does_not_cut_a_stream(void **state)
{
    (void)state;
    fill(3000, 1000);
    const int64_t limits[] = {0, 2500};
    for (size_t i = 0; i < ARRAY_COUNT(limits); i++) {
        Etcdserverpb__RangeRequest request = whole();
        request.revision = i == 0 ? 0 : world.revision;
        request.limit = limits[i];
        struct rpc_call *call = call_new("/etcdserverpb.KV/RangeStream");
        call->room = false;
        call_start(call);
        call_send(call, &request);
        for (uint32_t k = 0; k < 20; k++) {
            world_put("key/002900", "changed");
            world_put("key/000700", "changed");
        }
        world_delete("key/002000");
        world_compact(world.revision);
        while (!call->replied) {
            assert_true(call->alive);
            call->method->on_writable(call);
        }
        struct merged stream = merge(call);
        assert_int_equal(stream.kvs, i == 0 ? 3000 : 2500);
        assert_int_equal(stream.count, 3000);
        buf_fini(&stream.keys);
        call_end(call);
        request.revision = world.revision - 1;
        call = stream_call(&request);
        assert_failed(call, ERR_COMPACTED);
        call_end(call);
        world_put("key/002000", "again");
    }
}

static void a_stream_that_dies_lets_go_of_its_revision(void **state)
{
    (void)state;
    fill(3000, 1000);
    Etcdserverpb__RangeRequest request = whole();
    struct rpc_call *calls[3];
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        calls[i] = call_new("/etcdserverpb.KV/RangeStream");
        calls[i]->room = false;
        call_start(calls[i]);
        call_send(calls[i], &request);
        world_put("other", "x");
        world_turn();
    }
    assert_int_equal(reclaim_hold_rev(&world.reclaim), 2);
    call_end(calls[1]);
    world_turn();
    assert_int_equal(reclaim_hold_rev(&world.reclaim), 2);
    call_end(calls[0]);
    world_turn();
    assert_int_equal(reclaim_hold_rev(&world.reclaim), 4);
    call_end(calls[2]);
    world_turn();
    assert_int_equal(reclaim_hold_rev(&world.reclaim), world.revision);
}

static void a_stream_refuses_what_etcd_refuses(void **state)
{
    (void)state;
    fill(10, 1);
    Etcdserverpb__RangeRequest request = whole();
    request.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
    struct rpc_call *call = stream_call(&request);
    assert_failed(call, ERR_RANGE_STREAM_SORT);
    assert_int_equal(call->code, RPC_UNIMPLEMENTED);
    call_end(call);
    request.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND;
    request.max_mod_revision = 1;
    call = stream_call(&request);
    assert_failed(call, ERR_RANGE_STREAM_FILTER);
    call_end(call);
    request.max_mod_revision = 0;
    request.revision = 99;
    call = stream_call(&request);
    assert_failed(call, ERR_FUTURE_REV);
    call_end(call);
    request.revision = 0;
    call = stream_call(&request);
    assert_true(call->replied);
    call_end(call);
}

/* A target without an order: etcd sorts chunk by chunk. */
static void a_target_without_an_order_sorts_each_chunk(void **state)
{
    (void)state;
    world_put("key/b", "1");
    world_put("key/c", "1");
    world_put("key/a", "1");
    Etcdserverpb__RangeRequest request = whole();
    request.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__MOD;
    struct rpc_call *call = stream_call(&request);
    struct merged stream = merge(call);
    assert_slice_equal(buf_slice(&stream.keys), SLICE_LIT("key/b\nkey/c\nkey/a\n"));
    assert_int_equal(stream.count, 3);
    buf_fini(&stream.keys);
    call_end(call);
    fill(25, 1);
    call = stream_call(&request);
    stream = merge(call);
    assert_true(stream.kvs >= 28);
    buf_fini(&stream.keys);
    call_end(call);
}

static void a_linearizable_stream_waits_and_a_drain_ends_it(void **state)
{
    (void)state;
    fill(3000, 1000);
    Etcdserverpb__RangeRequest request = whole();
    request.serializable = 0;
    struct rpc_call *call = call_new("/etcdserverpb.KV/RangeStream");
    call->room = false;
    call_start(call);
    call_send(call, &request);
    assert_int_equal(call->message_count, 0);
    world.posted[0]->err = ERR_OK;
    posted_done(world.posted[0]);
    assert_int_equal(call->message_count, 1);
    world_put("other", "x");
    world_turn();
    assert_int_equal(reclaim_hold_rev(&world.reclaim), 2);
    api_thread_drain(world.api, 0);
    assert_failed(call, ERR_STOPPED);
    /* Its client may be slow to hear of it; the revision goes at once. */
    world_turn();
    assert_int_equal(reclaim_hold_rev(&world.reclaim), world.revision);
    call_end(call);
}

/* Seconds in which the io thread has nothing to do but look at its timers. */
static void wait_s(uint32_t seconds)
{
    for (uint32_t i = 0; i < seconds; i++) {
        world.clock.now_ns += NS_PER_S;
        world_turn();
        world_turn();
    }
}

static void a_client_that_reads_nothing_loses_a_compacted_revision(void **state)
{
    (void)state;
    fill(3000, 1000);
    Etcdserverpb__RangeRequest request = whole();
    struct rpc_call *stalled = call_new("/etcdserverpb.KV/RangeStream");
    struct rpc_call *slow = call_new("/etcdserverpb.KV/RangeStream");
    stalled->room = slow->room = false;
    call_start(stalled);
    call_send(stalled, &request);
    call_start(slow);
    call_send(slow, &request);
    world_put("other", "x");
    wait_s(60); /* Nobody minds. */
    assert_true(stalled->alive);
    assert_int_equal(reclaim_hold_rev(&world.reclaim), 2);
    slow->taken += LIMIT_STALL_BYTES;
    wait_s(1);
    world_compact(world.revision);
    wait_s(5);
    assert_failed(stalled, ERR_COMPACTED);
    assert_true(slow->alive);
    for (uint32_t i = 0; i < 4; i++) {
        slow->taken += LIMIT_STALL_BYTES; /* One that reads goes on. */
        wait_s(8);
        assert_true(slow->alive);
    }
    assert_int_equal(reclaim_hold_rev(&world.reclaim), 2);
    for (uint32_t i = 0; i < 12; i++) {
        slow->taken++; /* A byte now and then is as good as none. */
        wait_s(1);
    }
    assert_failed(slow, ERR_COMPACTED);
    assert_int_equal(reclaim_hold_rev(&world.reclaim), world.revision);
    assert_false(timer_is_armed(&world_thread()->ranges_timer));
    call_end(slow);
    call_end(stalled);
}

static void no_client_outlives_a_compaction_for_ever(void **state)
{
    (void)state;
    fill(3000, 1000);
    Etcdserverpb__RangeRequest request = whole();
    struct rpc_call *call = call_new("/etcdserverpb.KV/RangeStream");
    call->room = false;
    call_start(call);
    call_send(call, &request);
    world_put("other", "x");
    world_compact(world.revision);
    uint32_t lived_s = 0;
    for (; call->alive; lived_s++) {
        assert_true(lived_s < 2 * LIMIT_RANGE_STREAM_OUTLIVE_MS / 1000);
        call->taken += LIMIT_STALL_BYTES;
        wait_s(1);
    }
    assert_true(lived_s >= LIMIT_RANGE_STREAM_OUTLIVE_MS / 1000);
    assert_failed(call, ERR_COMPACTED);
    assert_int_equal(reclaim_hold_rev(&world.reclaim), world.revision);
    call_end(call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(chunks_merge_to_the_unary_answer),
        CASE(an_empty_range_is_one_message),
        CASE(chunks_grow_to_the_size_of_a_request),
        CASE(a_full_window_stops_the_stream_and_its_revision_stays),
        CASE(a_compaction_does_not_cut_a_stream),
        CASE(a_stream_that_dies_lets_go_of_its_revision),
        CASE(a_stream_refuses_what_etcd_refuses),
        CASE(a_target_without_an_order_sorts_each_chunk),
        CASE(a_linearizable_stream_waits_and_a_drain_ends_it),
        CASE(a_client_that_reads_nothing_loses_a_compacted_revision),
        CASE(no_client_outlives_a_compaction_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
