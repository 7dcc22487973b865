/*
 * Goal: what one connection may hold, queue and write at once has ceilings that hold.
 * Method: small ceilings in a real server; for writes a server whose loop is driven here, over a
 * stream of ours that takes everything and counts.
 */
#include "core/limits.h"
#include "core/mem.h"
#include "support_driven.h"
#include "support_rpc.h"

static void with_small_ceilings(struct rpc_config *config)
{
    config->conn_in_max = 1000 * 1000;
    config->conn_out_max = 500 * 1000;
}

/* ---- bytes held and queued ----------------------------------------------------------------- */

/* Fills a connection with calls of |size| bytes each that are never answered. */
static void check_held(const char *path, size_t size)
{
    struct served_server served;
    struct client client;
    served_open(&served, &client, with_small_ceilings);
    uint8_t *bytes = mem_alloc(size);
    uint32_t fit = (uint32_t)(1000 * 1000 / size);
    struct client_call *calls = mem_alloc((fit + 1) * sizeof(*calls));
    for (uint32_t i = 0; i <= fit; i++) {
        client_call(&client, &calls[i], path, NULL);
        client_send(&calls[i], slice_of(bytes, size));
        client_until(&client, atomic_load(&served.seen.messages) == i + 1 || calls[i].is_closed);
    }
    client_until(&client, calls[fit].is_closed);
    assert_int_equal(calls[fit].grpc_status, RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(calls[fit].grpc_message, "too many bytes of requests on one connection");
    assert_int_equal(atomic_load(&served.seen.messages), fit);
    struct client other;
    client_open(&other, served.port); /* The ceiling is each connection's own. */
    served_check(&other);
    client_close(&other);
    for (uint32_t i = 0; i < fit; i++) {
        assert_false(calls[i].is_closed);
        client_cancel(&calls[i]);
    }
    client_until(&client, atomic_load(&served.seen.gone) >= fit);
    served_check(&client); /* What was held is free again. */
    for (uint32_t i = 0; i <= fit; i++) {
        client_call_fini(&calls[i]);
    }
    mem_free(calls);
    mem_free(bytes);
    served_close(&served, &client);
}

static void requests_beyond_the_ceiling_are_refused(void **state)
{
    (void)state;
    check_held("/t.T/Hang", 300000); /* Collected from several frames ... */
    check_held("/t.T/Hang", 10000);  /* ... and whole in one. */
}

/* What handlers take from a call's arena counts, too. */
static void copies_of_messages_count_too(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, with_small_ceilings);
    uint8_t *bytes = mem_alloc(100 * 1000);
    struct client_call calls[6];
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call(&client, &calls[i], "/t.T/Copy", NULL);
        client_send(&calls[i], slice_of(bytes, 100 * 1000));
        client_until(&client, atomic_load(&served.seen.messages) == i + 1 || calls[i].is_closed);
    }
    assert_int_equal(calls[5].grpc_status, RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(atomic_load(&served.seen.messages), 5);
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call_fini(&calls[i]);
    }
    mem_free(bytes);
    served_close(&served, &client);
}

/* Opens streams with |name| as a header of 50 KB until one is refused, at most 100. */
static uint32_t open_with_header(struct client *client, struct client_call *calls, const char *name)
{
    char *value = mem_alloc(50 * 1000 + 1);
    memset(value, 'v', 50 * 1000);
    const char *const headers[] = {name, value, NULL};
    uint32_t count = 0;
    while (count < 100) {
        struct client_call echo;
        struct client_call *call = &calls[count++];
        client_call(client, call, "/t.T/Pause", headers);
        client_unary(client, &echo, "/t.T/Meta", SLICE_EMPTY); /* It came behind that one. */
        bool is_refused = echo.grpc_status != 0 || call->is_closed;
        client_call_fini(&echo);
        if (is_refused) {
            break;
        }
    }
    mem_free(value);
    return count;
}

static void count_arenas(void *arg)
{
    struct served_server *served = arg;
    const struct rpc_call *call = rpc_server_io(served->server, 0)->calls;
    size_t size = 0;
    for (; call != NULL; call = call->next) {
        size += call->arena.size_used;
    }
    assert_true(size <= 101 * 8192);
}

static void metadata_that_nobody_reads_takes_no_memory(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    struct client_call calls[100];
    served_open(&served, &client, with_small_ceilings);
    assert_int_equal(open_with_header(&client, calls, "unread"), 100);
    served_run(&served, count_arenas, &served);
    for (uint32_t i = 0; i < 100; i++) {
        client_call_fini(&calls[i]);
    }
    served_close(&served, &client);
}

static void metadata_that_is_read_counts_too(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    struct client_call calls[100];
    served_open(&served, &client, with_small_ceilings);
    uint32_t count = open_with_header(&client, calls, "token");
    assert_in_range(count, 15, 25); /* 20 fit; the next one may be gone before its echo comes. */
    for (uint32_t i = 0; i < count; i++) {
        client_call_fini(&calls[i]);
    }
    served_close(&served, &client);
}

static void drop_held(void *arg)
{
    struct served_server *served = arg;
    rpc_call_unref(atomic_exchange(&served->seen.held, NULL));
}

/* A cancelled call whose answer is still to come from elsewhere keeps its memory, so it counts. */
static void what_is_referenced_counts_until_it_is_free(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, with_small_ceilings);
    uint8_t *bytes = mem_alloc(600 * 1000);
    struct client_call held;
    client_call(&client, &held, "/t.T/Hold", NULL);
    client_send(&held, slice_of(bytes, 600 * 1000));
    client_until(&client, atomic_load(&served.seen.held) != NULL);
    client_cancel(&held);
    client_until(&client, atomic_load(&served.seen.gone) == 1);
    struct client_call echo;
    client_unary(&client, &echo, "/t.T/Echo", slice_of(bytes, 600 * 1000));
    assert_int_equal(echo.grpc_status, RPC_RESOURCE_EXHAUSTED);
    client_call_fini(&echo);
    served_run(&served, drop_held, &served);
    client_unary(&client, &echo, "/t.T/Echo", slice_of(bytes, 600 * 1000));
    assert_int_equal(echo.grpc_status, 0);
    client_call_fini(&echo);
    client_call_fini(&held);
    mem_free(bytes);
    served_close(&served, &client);
}

/* Messages that are still on their way count as they arrive. */
static void unfinished_messages_count_too(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, with_small_ceilings);
    static const uint8_t prefix[5] = {0, 0, 0x1f, 0, 0}; /* 2,031,616 bytes, half of them sent. */
    uint8_t *bytes = mem_alloc(1000 * 1000);
    struct client_call call;
    client_call(&client, &call, "/t.T/Hang", NULL);
    client_send_raw(&call, slice_of(prefix, sizeof(prefix)));
    client_send_raw(&call, slice_of(bytes, 1000 * 1000));
    client_until(&client, call.is_closed);
    assert_int_equal(call.grpc_status, RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(atomic_load(&served.seen.messages), 0);
    served_check(&client);
    client_call_fini(&call);
    mem_free(bytes);
    served_close(&served, &client);
}

static void streams_are_refused_while_too_many_answers_wait(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    const struct client_options options = {.no_window_updates = true};
    served_start(&served, with_small_ceilings);
    client_open_fd(&client, client_socket(served.port), &options);
    struct client_call stream;
    client_call(&client, &stream, "/t.T/Stream", NULL);
    client_send(&stream, SLICE_LIT("60 20000")); /* 1 MiB waits, 64 KiB leave. */
    client_send_end(&stream);
    client_until(&client, stream.in.size == 65535);
    struct client_call refused;
    client_call(&client, &refused, "/t.T/Echo", NULL);
    client_send(&refused, SLICE_EMPTY);
    client_until(&client, refused.is_closed);
    assert_int_equal(refused.grpc_status, -1);
    assert_int_equal(refused.error_code, NGHTTP2_REFUSED_STREAM);
    assert_int_equal(atomic_load(&served.seen.messages), 1);
    client.no_window_updates = false; /* The reader goes on, and all is well again. */
    assert_int_equal(nghttp2_session_consume(client.session, stream.stream_id, 65535), 0);
    client_until(&client, stream.is_closed);
    assert_int_equal(stream.messages, 60);
    served_check(&client);
    client_call_fini(&refused);
    client_call_fini(&stream);
    served_close(&served, &client);
}

/* ---- bytes written ------------------------------------------------------------------------- */

static void flood(struct rpc_call *call, struct slice message)
{
    (void)message;
    static uint8_t zeros[30000];
    const struct rpc_part part = {.bytes = slice_of(zeros, sizeof(zeros))};
    for (uint32_t i = 0; i < 100; i++) {
        (void)rpc_send(call, &part, 1, false);
    }
    rpc_finish(call);
}

static void one_turn_writes_no_more_than_its_share(void **state)
{
    (void)state;
    const struct rpc_method method = {
        .path = "/t.T/Flood", .kind = RPC_SERVER_STREAM, .on_message = flood};
    struct rpc_config config = {.methods = &method, .method_count = 1};
    const struct client_options options = {.stream_window = 1 << 30, .window_more = 1 << 30};
    struct driven driven;
    driven_start(&driven, &config, &options);
    struct client_call calls[4];
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call(&driven.client, &calls[i], "/t.T/Flood", NULL);
        client_send(&calls[i], SLICE_EMPTY);
        client_send_end(&calls[i]);
    }
    driven_feed(&driven);
    uint32_t turns = 0;
    for (; driven.conn->out_size > 0; turns++) {
        assert_true(turns < 100);
        driven_turn(&driven);
        assert_true(driven.sink.turn_size < LIMIT_CONN_TURN_WRITE + RPC_OUT_SCRATCH);
    }
    assert_in_range(driven.sink.total_size, 4 * 100 * 30005, 4 * 100 * 30005 + 100000);
    assert_in_range(driven.sink.write_max, LIMIT_CONN_WRITE, RPC_OUT_SCRATCH);
    assert_in_range(turns, 12 * 1000 * 1000 / (LIMIT_CONN_TURN_WRITE + RPC_OUT_SCRATCH), 13);
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call_fini(&calls[i]);
    }
    driven_stop(&driven);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_beyond_the_ceiling_are_refused),
        cmocka_unit_test(unfinished_messages_count_too),
        cmocka_unit_test(copies_of_messages_count_too),
        cmocka_unit_test(metadata_that_nobody_reads_takes_no_memory),
        cmocka_unit_test(metadata_that_is_read_counts_too),
        cmocka_unit_test(what_is_referenced_counts_until_it_is_free),
        cmocka_unit_test(streams_are_refused_while_too_many_answers_wait),
        cmocka_unit_test(one_turn_writes_no_more_than_its_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
