/*
 * Goal: calls of every kind end as gRPC promises, whatever the client does.
 * Method: a real server on a port of its own, an nghttp2 client driven by the test.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/mem.h"
#include "support.h"
#include "support_http2.h"
#include "support_rpc.h"

/* A server and a client on it for each test. */
struct world {
    struct served_server served;
    struct client client;
};

static int world_begin(void **state)
{
    struct world *world = mem_alloc(sizeof(*world));
    served_start(&world->served, NULL);
    client_open(&world->client, world->served.port);
    *state = world;
    return 0;
}

static int world_end(void **state)
{
    struct world *world = *state;
    client_close(&world->client);
    served_stop(&world->served, 5 * NS_PER_S);
    mem_free(world);
    return 0;
}

#define world_until(world, condition) client_until(&(world)->client, (condition))

static void a_unary_call_of_any_size_is_answered(void **state)
{
    struct world *world = *state;
    static const size_t sizes[] = {0,     1,     5,     1018,  1019,   1023,    1024,   1025,
                                   16379, 16384, 65535, 65536, 300000, 1048577, 2097152};
    uint8_t *bytes = mem_alloc(2097152);
    for (size_t i = 0; i < 2097152; i++) {
        bytes[i] = (uint8_t)(i * 7 + i / 251);
    }
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct client_call call;
        client_unary(&world->client, &call, "/t.T/Echo", slice_of(bytes, sizes[i]));
        assert_int_equal(call.http_status, 200);
        assert_int_equal(call.grpc_status, 0);
        assert_int_equal(call.messages, 1);
        assert_int_equal(call.in.size, sizes[i] + 5);
        assert_slice_equal(client_message(&call, 0), slice_of(bytes, sizes[i]));
        client_call_fini(&call);
    }
    mem_free(bytes);
    world_until(world, atomic_load(&world->served.seen.gone) == ARRAY_COUNT(sizes));
}

static void a_message_in_single_bytes_is_one_message(void **state)
{
    struct world *world = *state;
    struct client_call call;
    client_call(&world->client, &call, "/t.T/Echo", NULL);
    call.out_piece = 1;
    client_send(&call, SLICE_LIT("hello world"));
    client_send_end(&call);
    world_until(world, call.is_closed);
    assert_slice_equal(client_message(&call, 0), SLICE_LIT("hello world"));
    client_call_fini(&call);
}

static void metadata_reaches_the_handler(void **state)
{
    struct world *world = *state;
    static const char *const headers[] = {"token", "a.b", "x-1",  "1",  "x-2",  "2",  "x-3",  "3",
                                          "x-4",   "4",   "x-5",  "5",  "x-6",  "6",  "x-7",  "7",
                                          "x-8",   "8",   "x-9",  "9",  "x-10", "10", "x-11", "11",
                                          "x-12",  "12",  "x-13", "13", NULL};
    struct client_call call;
    client_call(&world->client, &call, "/t.T/Meta", headers);
    client_send(&call, SLICE_EMPTY);
    client_send_end(&call);
    world_until(world, call.is_closed);
    assert_slice_equal(client_message(&call, 0), SLICE_LIT("a.b"));
    client_call_fini(&call);
}

struct refusal {
    const char *path;
    const char *headers[4];
    struct slice raw;
    int http_status;
    int grpc_status;
    const char *message;
};

#define BYTES(text)                                  \
    {                                                \
        (const uint8_t *)("" text), sizeof(text) - 1 \
    }

/* The words are grpc-go's, percent-encoded. */
static const struct refusal refusals[] = {
    {"/t.T/Fail", {NULL}, BYTES("\0\0\0\0\0"), 200, 11, "50%25 of %C3%A9%0A"},
    {"/t.T/Nope", {NULL}, BYTES(""), 200, 12, "unknown method Nope for service t.T"},
    {"/x.X/Echo", {NULL}, BYTES(""), 200, 12, "unknown service x.X"},
    {"/Echo", {NULL}, BYTES(""), 200, 12, "malformed method name: \"/Echo\""},
    {"/t.T/Echo",
     {"content-type", "application/json"},
     BYTES(""),
     415,
     3,
     "invalid gRPC request content-type \"application/json\""},
    {"/t.T/Echo",
     {":method", "PUT"},
     BYTES(""),
     405,
     13,
     "Received a HEADERS frame with :method \"PUT\" which should be POST"},
    {"/t.T/Echo",
     {"grpc-timeout", "1x"},
     BYTES(""),
     400,
     13,
     "malformed grpc-timeout: transport: timeout unit is not recognized: \"1x\""},
    {"/t.T/Echo", {"grpc-timeout", "0S"}, BYTES(""), 200, 4, "context deadline exceeded"},
    {"/t.T/Echo",
     {"grpc-encoding", "zstd"},
     BYTES(""),
     200,
     12,
     "grpc: Decompressor is not installed for grpc-encoding \"zstd\""},
    {"/t.T/Echo",
     {"grpc-encoding", "gzip"},
     BYTES("\1\0\0\0\3\x0a\1k"),
     200,
     13,
     "grpc: failed to decompress the message: unexpected EOF"},
    {"/t.T/Echo",
     {"x-bin", "!!!"},
     BYTES("\0\0\0\0\0"),
     400,
     13,
     "malformed binary metadata \"!!!\" in header \"x-bin\": illegal base64 data at input byte 0"},
    {"/t.T/Echo",
     {"grpc-encoding", "identity"},
     BYTES("\1\0\0\0\1x"),
     200,
     13,
     "grpc: compressed flag set with identity or empty encoding"},
    {"/t.T/Echo",
     {NULL},
     BYTES("\7\0\0\0\1x"),
     200,
     13,
     "grpc: received unexpected payload format 7"},
    {"/t.T/Echo",
     {NULL},
     BYTES("\0\0\x20\0\1x"),
     200,
     8,
     "grpc: received message larger than max (2097153 vs. 2097152)"},
    {"/t.T/Echo",
     {NULL},
     BYTES("\0\xff\xff\xff\xff"),
     200,
     8,
     "grpc: received message larger than max (4294967295 vs. 2097152)"},
    {"/t.T/Echo", {NULL}, BYTES(""), 200, 2, "EOF"},
    {"/t.T/Echo", {NULL}, BYTES("\0\0\0\0\2x"), 200, 2, "unexpected EOF"},
    {"/t.T/Echo", {NULL}, BYTES("\0\0\0"), 200, 2, "EOF"},
    {"/t.T/Echo", {NULL}, BYTES("\2\0\0\0\2x"), 200, 2, "unexpected EOF"},
    {"/t.T/Stream",
     {NULL},
     BYTES(""),
     200,
     13,
     "cardinality violation: received no request message from non-client-streaming RPC"},
    {"/t.T/Stream",
     {NULL},
     BYTES("\0\0\0\0\0\0\0\0\0\0"),
     200,
     13,
     "cardinality violation: received multiple request messages for "
     "non-client-streaming RPC"},
    {"/t.T/Bidi", {NULL}, BYTES("\0\0\0"), 200, 0, ""},
    {"/t.T/Bidi", {NULL}, BYTES("\0\0\0\0\1"), 200, 13, "unexpected EOF"},
};

static void what_grpc_go_refuses_is_refused_in_its_words(void **state)
{
    struct world *world = *state;
    for (size_t i = 0; i < ARRAY_COUNT(refusals); i++) {
        struct client_call call;
        client_call(&world->client, &call, refusals[i].path, refusals[i].headers);
        client_send_raw(&call, refusals[i].raw);
        client_send_end(&call);
        world_until(world, call.is_closed);
        assert_string_equal(call.grpc_message, refusals[i].message);
        assert_int_equal(call.http_status, refusals[i].http_status);
        assert_int_equal(call.grpc_status, refusals[i].grpc_status);
        client_call_fini(&call);
    }
}

static void a_second_message_of_a_unary_call_is_ignored(void **state)
{
    struct world *world = *state;
    struct client_call call;
    client_call(&world->client, &call, "/t.T/Echo", NULL);
    client_send(&call, SLICE_LIT("one"));
    client_send(&call, SLICE_LIT("two"));
    world_until(world, call.is_closed); /* Without the client's end. */
    assert_int_equal(call.error_code, NGHTTP2_NO_ERROR);
    assert_int_equal(call.grpc_status, 0);
    assert_int_equal(call.messages, 1);
    assert_slice_equal(client_message(&call, 0), SLICE_LIT("one"));
    client_call_fini(&call);
}

static void too_many_headers_reset_the_stream_only(void **state)
{
    struct world *world = *state;
    char *value = mem_alloc(20001);
    memset(value, 'v', 20000);
    const char *const headers[] = {"x-a", value, "x-b", value, "x-c", value, "x-d", value, NULL};
    struct client_call call;
    client_call(&world->client, &call, "/t.T/Echo", headers);
    client_send_end(&call);
    world_until(world, call.is_closed);
    assert_int_equal(call.grpc_status, -1);
    assert_int_equal(call.error_code, NGHTTP2_FRAME_SIZE_ERROR);
    struct client_call echo;
    client_unary(&world->client, &echo, "/t.T/Echo", SLICE_LIT("x"));
    assert_int_equal(echo.grpc_status, 0);
    client_call_fini(&echo);
    mem_free(value);
    client_call_fini(&call);
}

static struct shared_clock still; /* Until the test moves it on. */

static void with_time_standing_still(struct rpc_config *config)
{
    shared_clock_init(&still);
    config->clock = &still.clock;
}

static void a_deadline_ends_a_call_with_its_status(void **state)
{
    (void)state;
    static const char *const headers[] = {"grpc-timeout", "50m", NULL};
    struct served_server served;
    struct client client;
    struct client_call call;
    struct client_call echo;
    served_open(&served, &client, with_time_standing_still);
    client_call(&client, &call, "/t.T/Hang", headers);
    client_send(&call, SLICE_EMPTY);
    client_send_end(&call);
    client_until(&client, atomic_load(&served.seen.messages) == 1);
    shared_clock_advance(&still, 50 * NS_PER_MS - 1);
    for (uint32_t i = 0; i < 10; i++) {
        client_unary(&client, &echo, "/t.T/Echo", SLICE_LIT("x")); /* Some turns of the server. */
        client_call_fini(&echo);
    }
    assert_false(call.is_closed);
    shared_clock_advance(&still, 1);
    client_until(&client, call.is_closed);
    assert_int_equal(call.grpc_status, 4);
    assert_string_equal(call.grpc_message, "context deadline exceeded");
    client_until(&client, atomic_load(&served.seen.gone) == 11);
    client_call_fini(&call);
    served_close(&served, &client);
}

static void a_bidi_stream_answers_each_message_and_ends_after_the_client(void **state)
{
    struct world *world = *state;
    struct client_call call;
    client_call(&world->client, &call, "/t.T/Bidi", NULL);
    char text[32];
    for (uint32_t i = 0; i < 1000; i++) {
        (void)snprintf(text, sizeof(text), "message %u", i);
        client_send(&call, slice_str(text));
        if (i % 3 == 0) {
            world_until(world, call.messages == i + 1);
        }
    }
    world_until(world, call.messages == 1000);
    assert_slice_equal(client_message(&call, 999), SLICE_LIT("message 999"));
    assert_int_equal(atomic_load(&world->served.seen.half_closes), 0);
    client_send_end(&call);
    world_until(world, call.is_closed);
    assert_int_equal(call.grpc_status, 0);
    assert_int_equal(atomic_load(&world->served.seen.half_closes), 1);
    client_call_fini(&call);
}

static void a_server_stream_obeys_tiny_windows(void **state)
{
    struct world *world = *state;
    struct client client;
    const struct client_options options = {.stream_window = 7};
    client_open_fd(&client, client_socket(world->served.port), &options);
    struct client_call call;
    client_call(&client, &call, "/t.T/Stream", NULL);
    client_send(&call, SLICE_LIT("20 2500"));
    client_send_end(&call);
    client_until(&client, call.is_closed);
    assert_int_equal(call.grpc_status, 0);
    assert_int_equal(call.messages, 20);
    assert_int_equal(call.in.size, 20 * 2505);
    client_call_fini(&call);
    client_close(&client);
}

static void a_reader_that_stalls_stops_the_sender(void **state)
{
    struct world *world = *state;
    struct client client;
    const struct client_options options = {.no_window_updates = true};
    client_open_fd(&client, client_socket(world->served.port), &options);
    struct client_call call;
    client_call(&client, &call, "/t.T/Stream", NULL);
    client_send(&call, SLICE_LIT("1000 20000"));
    client_send_end(&call);
    client_until(&client, call.in.size == 65535);
    for (uint32_t i = 0; i < 20; i++) {
        (void)client_turn(&client, 5);
    }
    assert_int_equal(call.in.size, 65535);
    size_t queued_max = atomic_load(&world->served.seen.queued_max);
    assert_in_range(queued_max, LIMIT_STREAM_OUT_HIGH, LIMIT_STREAM_OUT_HIGH + 20005);
    /* The connection itself is alive, and the sender goes on when the reader does. */
    client_ping(&client);
    client_until(&client, client.pongs == 1);
    client.no_window_updates = false;
    assert_int_equal(nghttp2_session_consume(client.session, call.stream_id, 65535), 0);
    client_until(&client, call.is_closed);
    assert_int_equal(call.messages, 1000);
    assert_int_equal(call.grpc_status, 0);
    assert_true(atomic_load(&world->served.seen.queued_max) <= LIMIT_STREAM_OUT_HIGH + 20005);
    client_call_fini(&call);
    client_close(&client);
}

static void unpause_held(void *arg)
{
    struct served_server *served = arg;
    rpc_call_pause(atomic_load(&served->seen.held), false);
}

static void drop_held(void *arg)
{
    struct served_server *served = arg;
    rpc_call_unref(atomic_exchange(&served->seen.held, NULL));
}

static void a_paused_stream_presses_back_on_its_client(void **state)
{
    struct world *world = *state;
    uint8_t *bytes = mem_alloc(100000);
    struct client_call call;
    client_call(&world->client, &call, "/t.T/Pause", NULL);
    for (uint32_t i = 0; i < 40; i++) {
        client_send(&call, slice_of(bytes, 100000));
    }
    client_send_end(&call);
    for (uint32_t i = 0; i < 50; i++) {
        (void)client_turn(&world->client, 5);
    }
    assert_int_equal(atomic_load(&world->served.seen.messages), 1);
    assert_true(call.out.size >= 40 * 100005 - LIMIT_STREAM_WINDOW - 2 * 100005);
    /* Other streams are not held up. */
    struct client_call echo;
    client_unary(&world->client, &echo, "/t.T/Echo", slice_of(bytes, 100000));
    assert_int_equal(echo.grpc_status, 0);
    served_run(&world->served, unpause_held, &world->served);
    world_until(world, call.is_closed);
    assert_int_equal(atomic_load(&world->served.seen.messages), 41);
    assert_int_equal(call.grpc_status, 0);
    served_run(&world->served, drop_held, &world->served);
    client_call_fini(&echo);
    client_call_fini(&call);
    mem_free(bytes);
}

static void answer_held(void *arg)
{
    struct served_server *served = arg;
    struct rpc_call *call = atomic_load(&served->seen.held);
    const struct rpc_part part = {.bytes = SLICE_LIT("late")};
    rpc_reply(call, &part, 1);
    rpc_fail_err(call, ERR_INTERNAL);
}

static void an_answer_may_come_later(void **state)
{
    struct world *world = *state;
    struct client_call call;
    client_call(&world->client, &call, "/t.T/Hold", NULL);
    client_send(&call, SLICE_EMPTY);
    client_send_end(&call);
    world_until(world, atomic_load(&world->served.seen.held) != NULL);
    served_run(&world->served, answer_held, &world->served);
    world_until(world, call.is_closed);
    assert_slice_equal(client_message(&call, 0), SLICE_LIT("late"));
    served_run(&world->served, drop_held, &world->served);
    client_call_fini(&call);
}

static void an_answer_that_comes_too_late_is_dropped(void **state)
{
    struct world *world = *state;
    struct client_call call;
    client_call(&world->client, &call, "/t.T/Hold", NULL);
    client_send(&call, SLICE_EMPTY);
    world_until(world, atomic_load(&world->served.seen.held) != NULL);
    client_cancel(&call);
    world_until(world, atomic_load(&world->served.seen.gone) == 1);
    served_run(&world->served, answer_held, &world->served);
    served_run(&world->served, drop_held, &world->served);
    struct client_call echo;
    client_unary(&world->client, &echo, "/t.T/Echo", SLICE_LIT("x"));
    assert_int_equal(echo.grpc_status, 0);
    client_call_fini(&echo);
    client_call_fini(&call);
}

static void a_call_whose_connection_dies_is_gone_once(void **state)
{
    struct world *world = *state;
    struct client client;
    client_open(&client, world->served.port);
    struct client_call calls[3];
    client_call(&client, &calls[0], "/t.T/Hold", NULL);
    client_send(&calls[0], SLICE_EMPTY);
    client_call(&client, &calls[1], "/t.T/Quiet", NULL);
    client_call(&client, &calls[2], "/t.T/Stream", NULL);
    client_send(&calls[2], SLICE_LIT("100000 10000"));
    client_send_end(&calls[2]);
    client_until(&client, atomic_load(&world->served.seen.held) != NULL && client.received > 0);
    client_close(&client);
    world_until(world, atomic_load(&world->served.seen.gone) == 3);
    served_run(&world->served, answer_held, &world->served);
    served_run(&world->served, drop_held, &world->served);
    assert_int_equal(atomic_load(&world->served.seen.gone), 3);
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call_fini(&calls[i]);
    }
}

static void ten_thousand_cancels_leave_the_connection_alive(void **state)
{
    struct world *world = *state;
    enum { CALLS = 10000 };
    struct client_call *calls = mem_alloc(CALLS * sizeof(*calls));
    for (uint32_t i = 0; i < CALLS; i++) {
        client_call(&world->client, &calls[i], i % 2 == 0 ? "/t.T/Hang" : "/t.T/Quiet", NULL);
        client_send(&calls[i], SLICE_LIT("request"));
    }
    world_until(world, atomic_load(&world->served.seen.messages) == CALLS);
    for (uint32_t i = 0; i < CALLS; i++) {
        client_cancel(&calls[i]);
    }
    world_until(world, atomic_load(&world->served.seen.gone) == CALLS);
    struct client_call echo;
    client_unary(&world->client, &echo, "/t.T/Echo", SLICE_LIT("x"));
    assert_int_equal(echo.grpc_status, 0);
    assert_int_equal(world->client.goaways, 0);
    client_call_fini(&echo);
    for (uint32_t i = 0; i < CALLS; i++) {
        client_call_fini(&calls[i]);
    }
    mem_free(calls);
}

/* Ten bulk streams wait for the connection's window; it opens by one frame. */
static void an_urgent_message_leaves_before_bulk(void **state)
{
    struct world *world = *state;
    struct client client;
    const struct client_options options = {.stream_window = 1 << 30, .no_window_updates = true};
    client_open_fd(&client, client_socket(world->served.port), &options);
    struct client_call bulk[10];
    struct client_call urgent;
    for (size_t i = 0; i < ARRAY_COUNT(bulk); i++) {
        client_call(&client, &bulk[i], "/t.T/Stream", NULL);
        client_send(&bulk[i], SLICE_LIT("100 30000"));
        client_send_end(&bulk[i]);
    }
    client_until(&client, client.received == 65535);
    for (uint32_t i = 0; i < 50; i++) {
        client_call(&client, &urgent, "/t.T/Urgent", NULL);
        client_send(&urgent, SLICE_LIT("now"));
        /* The pong comes behind the request in the server's order of reading. */
        struct client_call echo;
        client_call(&client, &echo, "/t.T/Fail", NULL);
        client_send(&echo, SLICE_EMPTY);
        client_until(&client, echo.is_closed);
        size_t before = client.received;
        assert_int_equal(urgent.messages, 0);
        assert_int_equal(nghttp2_submit_window_update(client.session, NGHTTP2_FLAG_NONE, 0, 8), 0);
        client_until(&client, client.received == before + 8);
        assert_int_equal(urgent.messages, 1);
        client_cancel(&urgent);
        client_call_fini(&urgent);
        client_call_fini(&echo);
    }
    client_close(&client);
    for (size_t i = 0; i < ARRAY_COUNT(bulk); i++) {
        client_call_fini(&bulk[i]);
    }
}

/* Fast readers, 60 MB: what was chosen for one write may go first, not what waits behind it. */
static void bulk_streams_share_a_connection_with_an_urgent_one(void **state)
{
    struct world *world = *state;
    struct client client;
    const struct client_options options = {.stream_window = 1 << 30, .window_more = 1 << 30};
    client_open_fd(&client, client_socket(world->served.port), &options);
    struct client_call bulk[2];
    struct client_call urgent;
    client_call(&client, &urgent, "/t.T/Urgent", NULL);
    for (size_t i = 0; i < ARRAY_COUNT(bulk); i++) {
        client_call(&client, &bulk[i], "/t.T/Stream", NULL);
        client_send(&bulk[i], SLICE_LIT("1000 30000"));
        client_send_end(&bulk[i]);
    }
    client_until(&client, client.received > 1000000);
    client_send(&urgent, SLICE_LIT("now"));
    size_t before = client.received;
    client_until(&client, urgent.messages == 1);
    /* Kernel buffers of both sides, and what one turn may gather. */
    assert_true(client.received - before < 16 * 1000 * 1000);
    client_until(&client, bulk[0].is_closed && bulk[1].is_closed);
    assert_int_equal(bulk[0].messages + bulk[1].messages, 2000);
    client_send_end(&urgent);
    client_until(&client, urgent.is_closed);
    for (size_t i = 0; i < ARRAY_COUNT(bulk); i++) {
        client_call_fini(&bulk[i]);
    }
    client_call_fini(&urgent);
    client_close(&client);
}

int main(void)
{
#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        WORLD_TEST(a_unary_call_of_any_size_is_answered),
        WORLD_TEST(a_message_in_single_bytes_is_one_message),
        WORLD_TEST(metadata_reaches_the_handler),
        WORLD_TEST(what_grpc_go_refuses_is_refused_in_its_words),
        WORLD_TEST(a_second_message_of_a_unary_call_is_ignored),
        WORLD_TEST(too_many_headers_reset_the_stream_only),
        cmocka_unit_test(a_deadline_ends_a_call_with_its_status),
        WORLD_TEST(a_bidi_stream_answers_each_message_and_ends_after_the_client),
        WORLD_TEST(a_server_stream_obeys_tiny_windows),
        WORLD_TEST(a_reader_that_stalls_stops_the_sender),
        WORLD_TEST(a_paused_stream_presses_back_on_its_client),
        WORLD_TEST(an_answer_may_come_later),
        WORLD_TEST(an_answer_that_comes_too_late_is_dropped),
        WORLD_TEST(a_call_whose_connection_dies_is_gone_once),
        WORLD_TEST(ten_thousand_cancels_leave_the_connection_alive),
        WORLD_TEST(an_urgent_message_leaves_before_bulk),
        WORLD_TEST(bulk_streams_share_a_connection_with_an_urgent_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
