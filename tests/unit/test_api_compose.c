/*
 * Goal: reads are composed in pieces of a turn, in turns of their connections, and only as fast as
 * clients read; none is lost, whoever leaves meanwhile.
 * Method: many large ranges at once against a fake rpc whose connections can be full.
 */
#include "support_api_fake.h"

enum { VALUE_SIZE = 1024 * 1024, PER_TURN = LIMIT_TURN_COMPOSE / VALUE_SIZE };

static void put_large(void)
{
    uint8_t *value = mem_alloc(VALUE_SIZE);
    world_put_value("large", slice_of(value, VALUE_SIZE), 0);
    mem_free(value);
    world_turn();
}

static struct rpc_call *read_on(struct fake_connection *connection, bool serializable)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("large");
    request.serializable = serializable;
    struct rpc_call *call = call_new("/etcdserverpb.KV/Range");
    call->connection = connection;
    size_t size = etcdserverpb__range_request__get_packed_size(&request);
    uint8_t *bytes = arena_alloc_bytes(&call->arena, size + 1);
    size_t packed = etcdserverpb__range_request__pack(&request, bytes);
    call->method->on_message(call, slice_of(bytes, packed));
    return call;
}

static uint32_t count_replied(struct rpc_call *const *calls, uint32_t count)
{
    uint32_t replied = 0;
    for (uint32_t i = 0; i < count; i++) {
        replied += calls[i]->replied;
    }
    return replied;
}

/* One probe's answer for all that wait. */
static void release_all(void)
{
    while (world.posted_count > 0) {
        world.posted[0]->err = ERR_OK;
        posted_done(world.posted[0]);
    }
}

static void end_all(struct rpc_call **calls, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        call_end(calls[i]);
    }
}

/* Turns until all are answered; no turn answers more than its share. */
static void check_spread(struct rpc_call *const *calls, uint32_t count)
{
    uint32_t replied = count_replied(calls, count);
    assert_true(replied <= PER_TURN);
    for (uint32_t turns = 0; replied < count; turns++) {
        assert_true(turns < 2 * count);
        world_turn();
        uint32_t now = count_replied(calls, count);
        assert_true(now - replied <= 2 * PER_TURN); /* The ends of two turns are in one. */
        replied = now;
    }
}

static void reads_that_one_probe_releases_are_spread_over_turns(void **state)
{
    (void)state;
    struct rpc_call *calls[40];
    put_large();
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        calls[i] = read_on(&fake_connection, false);
    }
    release_all();
    check_spread(calls, ARRAY_COUNT(calls));
    end_all(calls, ARRAY_COUNT(calls));
}

static void reads_from_memory_are_spread_over_turns_too(void **state)
{
    (void)state;
    struct rpc_call *calls[40];
    put_large();
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        calls[i] = read_on(&fake_connection, true);
    }
    check_spread(calls, ARRAY_COUNT(calls));
    end_all(calls, ARRAY_COUNT(calls));
}

static void connections_take_turns(void **state)
{
    (void)state;
    struct fake_connection other = {0};
    struct rpc_call *calls[40];
    put_large();
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        calls[i] = read_on(&fake_connection, true);
    }
    struct rpc_call *late = read_on(&other, true);
    world_turn();
    assert_true(late->replied);
    assert_true(count_replied(calls, ARRAY_COUNT(calls)) <= 3 * PER_TURN);
    call_end(late);
    fake_connection_end(&other);
    check_spread(&calls[3 * PER_TURN], ARRAY_COUNT(calls) - 3 * PER_TURN);
    end_all(calls, ARRAY_COUNT(calls));
}

static void a_client_that_does_not_read_waits_alone(void **state)
{
    (void)state;
    struct fake_connection full = {.is_full = true};
    struct rpc_call *calls[6];
    put_large();
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        calls[i] = read_on(&full, i % 2 == 0);
    }
    release_all();
    for (uint32_t i = 0; i < 10; i++) {
        world_turn();
    }
    assert_int_equal(count_replied(calls, ARRAY_COUNT(calls)), 0);
    struct rpc_call *other = read_on(&fake_connection, true);
    assert_true(other->replied);
    call_end(other);
    call_end(calls[0]); /* Cancelled while it waits. */
    full.is_full = false;
    assert_true(full.is_awaited);
    api_connection_room(full.user);
    check_spread(&calls[1], ARRAY_COUNT(calls) - 1);
    end_all(&calls[1], ARRAY_COUNT(calls) - 1);
    fake_connection_end(&full);
}

static void a_connection_may_go_while_its_reads_wait(void **state)
{
    (void)state;
    struct fake_connection full = {.is_full = true};
    struct fake_connection busy = {0};
    struct rpc_call *calls[20];
    put_large();
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        calls[i] = read_on(i < 10 ? &full : &busy, true);
    }
    end_all(calls, ARRAY_COUNT(calls)); /* Some of them are READY. */
    fake_connection_end(&full);
    fake_connection_end(&busy);
    world_turn();
    struct rpc_call *other = read_on(&fake_connection, true);
    assert_true(other->replied);
    call_end(other);
}

static void pass_time(void)
{
    world.clock.now_ns += LIMIT_TURN_COMPOSE;
}

/* A range that looks at all keys to answer with none. */
static void slow_reads_count_by_their_time(void **state)
{
    (void)state;
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("l");
    request.range_end = bytes_of("m");
    request.serializable = 1;
    request.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE;
    put_large();
    fake_on_reply = pass_time;
    struct rpc_call *call = call_new("/etcdserverpb.KV/Range");
    request.keys_only = 1;
    call_send(call, &request);
    assert_true(call->replied);
    assert_true(world_thread()->composed >= LIMIT_TURN_COMPOSE);
    fake_on_reply = NULL;
    call_end(call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(reads_that_one_probe_releases_are_spread_over_turns),
        CASE(reads_from_memory_are_spread_over_turns_too),
        CASE(connections_take_turns),
        CASE(a_client_that_does_not_read_waits_alone),
        CASE(a_connection_may_go_while_its_reads_wait),
        CASE(slow_reads_count_by_their_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
