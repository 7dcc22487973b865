/*
 * Goal: clients that mean harm cost little, and only their own connection.
 * Method: what they would send, fed to a server that the test drives; addresses that block.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/mem.h"
#include "support_driven.h"
#include "support_rpc.h"

enum { KEPT_MAX = 32 };

static struct rpc_call *kept[KEPT_MAX];
static uint32_t kept_count;

/* As if the store had it: the call stays in memory when its client is gone. */
static void keep(struct rpc_call *call, struct slice message)
{
    (void)message;
    assert_true(kept_count < KEPT_MAX);
    kept[kept_count++] = rpc_call_ref(call);
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/Keep", .kind = RPC_UNARY, .on_message = keep},
};

static void start(struct driven *driven, uint32_t calls_max)
{
    struct rpc_config config = {
        .methods = methods, .method_count = ARRAY_COUNT(methods), .calls_max = calls_max};
    const struct client_options options = {0};
    driven_start(driven, &config, &options);
    kept_count = 0;
}

/* |count| frames without a payload. */
static void feed_frames(struct driven *driven, uint8_t type, uint8_t flags, uint32_t stream_id,
                        uint32_t count)
{
    struct buf frames = {0};
    const uint8_t frame[9] = {
        0, 0, 0, type, flags, 0, 0, (uint8_t)(stream_id >> 8), (uint8_t)stream_id};
    for (uint32_t i = 0; i < count; i++) {
        buf_add(&frames, frame, sizeof(frame));
    }
    driven_feed_raw(driven, buf_slice(&frames));
    buf_fini(&frames);
}

static bool is_gone(struct driven *driven)
{
    for (uint32_t i = 0; i < 4 && driven->io->conn_count > 0; i++) {
        driven->clock.now_ns += NS_PER_S; /* It may linger. */
        driven_turn(driven);
    }
    return driven->io->conn_count == 0;
}

static void a_preface_alone_does_not_hold_a_connection_open(void **state)
{
    (void)state;
    struct driven driven;
    start(&driven, 0);
    driven_feed_raw(&driven, slice_of(NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN));
    driven.clock.now_ns += (LIMIT_HANDSHAKE_MS - 1) * NS_PER_MS;
    driven_turn(&driven);
    driven_turn(&driven);
    assert_int_equal(driven.io->conn_count, 1);
    driven.clock.now_ns += NS_PER_MS;
    assert_true(is_gone(&driven));
    driven_stop(&driven);
    start(&driven, 0);
    driven_feed(&driven); /* With SETTINGS. */
    driven.clock.now_ns += 2 * LIMIT_HANDSHAKE_MS * NS_PER_MS;
    assert_false(is_gone(&driven));
    driven_stop(&driven);
}

static void floods_of_control_frames_end_the_connection(void **state)
{
    (void)state;
    static const struct {
        uint8_t type, flags;
        uint32_t stream_id, first;
    } floods[] = {
        {NGHTTP2_SETTINGS, 0, 0, 0},
        {NGHTTP2_CONTINUATION, 0, 1, NGHTTP2_HEADERS},
    };
    for (size_t i = 0; i < ARRAY_COUNT(floods); i++) {
        struct driven driven;
        start(&driven, 0);
        driven_feed(&driven);
        driven_turn(&driven);
        if (floods[i].first != 0) {
            feed_frames(&driven, (uint8_t)floods[i].first, 0, floods[i].stream_id, 1);
        }
        feed_frames(&driven, floods[i].type, floods[i].flags, floods[i].stream_id, 200);
        assert_true(is_gone(&driven));
        driven_stop(&driven);
    }
}

/* A few SETTINGS a second are what window estimators send. */
static void some_settings_now_and_then_are_fine(void **state)
{
    (void)state;
    struct driven driven;
    start(&driven, 0);
    driven_feed(&driven);
    for (uint32_t i = 0; i < 100; i++) {
        feed_frames(&driven, NGHTTP2_SETTINGS, 0, 0, 10);
        driven.clock.now_ns += NS_PER_S;
        driven_turn(&driven);
    }
    assert_false(is_gone(&driven));
    driven_stop(&driven);
}

static void empty_data_without_end_costs_nothing_but_time(void **state)
{
    (void)state;
    struct driven driven;
    struct client_call call;
    start(&driven, 0);
    client_call(&driven.client, &call, "/t.T/Keep", NULL);
    driven_feed(&driven);
    feed_frames(&driven, NGHTTP2_DATA, 0, (uint32_t)call.stream_id, 10000);
    assert_int_equal(driven.io->held_size, 0);
    assert_int_equal(driven.conn->call_count, 1);
    client_send(&call, SLICE_EMPTY);
    driven_feed(&driven);
    driven_turn(&driven);
    assert_int_equal(kept_count, 1);
    rpc_call_unref(kept[0]);
    client_call_fini(&call);
    driven_stop(&driven);
}

static void a_client_that_reads_no_answers_to_its_frames_is_not_heard(void **state)
{
    (void)state;
    struct driven driven;
    start(&driven, 0);
    driven_feed(&driven);
    driven_turn(&driven);
    driven.sink.is_full = true;
    /* Refused for their path: each is answered by a frame or two. */
    for (uint32_t i = 0; i < 2 * LIMIT_CONN_FRAMES && !driven.conn->is_held; i++) {
        static struct client_call calls[2 * LIMIT_CONN_FRAMES];
        client_call(&driven.client, &calls[i], "/t.T/None", NULL);
        driven_feed(&driven);
        driven_turn(&driven);
    }
    assert_true(driven.conn->is_held);
    assert_in_range(nghttp2_session_get_outbound_queue_size(driven.conn->session),
                    LIMIT_CONN_FRAMES, LIMIT_CONN_FRAMES + 100);
    driven_turn(&driven);
    assert_true(driven.conn->is_held);
    driven_drain(&driven);
    for (uint32_t i = 0; i < 10; i++) {
        driven_turn(&driven);
    }
    assert_false(driven.conn->is_held);
    assert_int_equal(driven.conn->call_count, 0);
    driven_stop(&driven);
}

static void one_turn_reads_no_more_than_its_share(void **state)
{
    (void)state;
    struct driven driven;
    start(&driven, 0);
    driven_feed(&driven);
    driven_turn(&driven);
    /* Frames of a type that nobody knows. */
    feed_frames(&driven, 0x7f, 0, 0, LIMIT_CONN_TURN_READ / 9);
    assert_false(driven.conn->is_held);
    feed_frames(&driven, 0x7f, 0, 0, 1);
    assert_true(driven.conn->is_held);
    driven_turn(&driven);
    assert_false(driven.conn->is_held);
    feed_frames(&driven, 0x7f, 0, 0, 1000);
    assert_false(driven.conn->is_held);
    driven_stop(&driven);
}

static void cancelled_calls_count_until_they_are_free(void **state)
{
    (void)state;
    struct driven driven;
    struct client_call calls[10];
    struct client_call refused;
    start(&driven, 9);
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call(&driven.client, &calls[i], "/t.T/Keep", NULL);
        client_send(&calls[i], SLICE_EMPTY);
        driven_feed(&driven);
        client_cancel(&calls[i]);
        driven_feed(&driven);
        driven_turn(&driven);
    }
    assert_int_equal(kept_count, ARRAY_COUNT(calls));
    assert_int_equal(driven.conn->call_count, 0);
    client_call(&driven.client, &refused, "/t.T/Keep", NULL);
    client_send(&refused, SLICE_EMPTY);
    driven_feed(&driven);
    assert_int_equal(kept_count, ARRAY_COUNT(calls));
    for (uint32_t i = 0; i < kept_count; i++) {
        rpc_call_unref(kept[i]);
    }
    client_call_fini(&refused);
    kept_count = 0;
    client_call(&driven.client, &refused, "/t.T/Keep", NULL);
    client_send(&refused, SLICE_EMPTY);
    driven_feed(&driven);
    driven_turn(&driven);
    assert_int_equal(kept_count, 1);
    rpc_call_unref(kept[0]);
    for (uint32_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call_fini(&calls[i]);
    }
    client_call_fini(&refused);
    driven_stop(&driven);
}

/* ---- addresses ------------------------------------------------------------------------------- */

static void an_address_may_be_given_twice(void **state)
{
    (void)state;
    struct served_server served;
    char url[64];
    char why[256];
    served_start(&served, NULL);
    uint16_t port = served.port;
    served_stop(&served, NS_PER_S);
    struct rpc_server *server = rpc_server_new(&served.config);
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u", port);
    assert_int_equal(rpc_server_listen(server, url, why, sizeof(why)), ERR_OK);
    assert_int_equal(rpc_server_listen(server, url, why, sizeof(why)), ERR_OK);
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u/", port);
    assert_int_equal(rpc_server_listen(server, url, why, sizeof(why)), ERR_OK);
    assert_int_equal(rpc_server_port(server, 1), 0);
    assert_int_equal(rpc_server_listen(server, "http://127.0.0.1:0", why, sizeof(why)), ERR_OK);
    assert_int_equal(rpc_server_listen(server, "http://127.0.0.1:0", why, sizeof(why)), ERR_OK);
    assert_int_not_equal(rpc_server_port(server, 1), rpc_server_port(server, 2));
    rpc_server_free(server);
}

/* Somebody listens there, and accepts nothing: the name is taken, and start-up must not hang. */
static void a_unix_socket_with_a_full_backlog_is_in_use(void **state)
{
    (void)state;
    char folder[] = "/tmp/drover-rpc-XXXXXX";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char url[120];
    char why[256] = {0};
    int callers[16];
    uint32_t count = 0;
    assert_non_null(mkdtemp(folder));
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", folder);
    (void)snprintf(url, sizeof(url), "unix://%s/socket", folder);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 0), 0);
    int failed = 0;
    while (failed == 0) {
        assert_true(count < ARRAY_COUNT(callers));
        callers[count] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        failed = connect(callers[count++], (const struct sockaddr *)&address, sizeof(address));
    }
    assert_int_equal(errno, EAGAIN);
    struct served_server served;
    served_start(&served, NULL);
    struct rpc_server *server = rpc_server_new(&served.config);
    assert_int_equal(rpc_server_listen(server, url, why, sizeof(why)), ERR_CONFIG);
    assert_non_null(strstr(why, "Address already in use"));
    rpc_server_free(server);
    served_stop(&served, NS_PER_S);
    for (uint32_t i = 0; i < count; i++) {
        (void)close(callers[i]);
    }
    (void)close(fd);
    assert_int_equal(unlink(address.sun_path), 0);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_preface_alone_does_not_hold_a_connection_open),
        cmocka_unit_test(floods_of_control_frames_end_the_connection),
        cmocka_unit_test(some_settings_now_and_then_are_fine),
        cmocka_unit_test(empty_data_without_end_costs_nothing_but_time),
        cmocka_unit_test(a_client_that_reads_no_answers_to_its_frames_is_not_heard),
        cmocka_unit_test(one_turn_reads_no_more_than_its_share),
        cmocka_unit_test(cancelled_calls_count_until_they_are_free),
        cmocka_unit_test(an_address_may_be_given_twice),
        cmocka_unit_test(a_unix_socket_with_a_full_backlog_is_in_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
