/*
 * Goal: what all connections together may hold, queue and open has ceilings, and who stays below
 * an equal part of them feels nothing; bulk data moves beside urgent data that never ends.
 * Method: small ceilings in real servers; for what is queued, a server that the test drives.
 */
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/mem.h"
#include "core/metrics.h"
#include "support_driven.h"
#include "support_rpc.h"

enum { PIECE = 300 * 1000 };

/* ---- requests in flight ---------------------------------------------------------------------- */

static void with_small_input(struct rpc_config *config)
{
    config->in_max = 1000 * 1000;
}

/* One more call that holds PIECE bytes; true when it is taken. */
static bool hang_one(struct served_server *served, struct client *client, struct client_call *call)
{
    uint8_t *bytes = mem_alloc(PIECE);
    uint32_t before = atomic_load(&served->seen.messages);
    client_call(client, call, "/t.T/Hang", NULL);
    client_send(call, slice_of(bytes, PIECE));
    client_until(client, atomic_load(&served->seen.messages) > before || call->is_closed);
    mem_free(bytes);
    return !call->is_closed;
}

static void requests_beyond_the_process_ceiling_are_refused(void **state)
{
    (void)state;
    struct served_server served;
    struct client greedy;
    struct client modest;
    struct client_call calls[4];
    struct client_call small;
    served_open(&served, &greedy, with_small_input);
    client_open(&modest, served.port);
    served_check(&modest);
    for (size_t i = 0; i < 3; i++) {
        assert_true(hang_one(&served, &greedy, &calls[i]));
    }
    int64_t refused = metric_get(METRIC_drover_refused_requests_total);
    assert_false(hang_one(&served, &greedy, &calls[3]));
    assert_int_equal(calls[3].grpc_status, RPC_RESOURCE_EXHAUSTED);
    assert_string_equal(calls[3].grpc_message, "too many bytes of requests on all connections");
    assert_int_equal(metric_get(METRIC_drover_refused_requests_total), refused + 1);
    assert_true(hang_one(&served, &modest, &small)); /* Below its part. */
    for (size_t i = 0; i < 3; i++) {
        client_cancel(&calls[i]);
    }
    client_until(&greedy, atomic_load(&served.seen.gone) >= 4);
    client_call_fini(&calls[3]);
    assert_true(hang_one(&served, &greedy, &calls[3])); /* All is free again. */
    for (size_t i = 0; i < 4; i++) {
        client_call_fini(&calls[i]);
    }
    client_call_fini(&small);
    client_close(&modest);
    served_close(&served, &greedy);
}

/* The status line of the answer to a POST of two halves, the second sent when the first is read. */
static void post_halves(uint16_t port, size_t half, char *line, size_t line_size)
{
    int fd = client_socket(port);
    uint8_t *bytes = mem_alloc(half);
    struct buf head = {0};
    buf_printf(&head, "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", 2 * half);
    assert_int_equal(send(fd, head.data, head.size, MSG_NOSIGNAL), head.size);
    for (size_t sent = 0; sent < 2 * half;) {
        size_t left = 2 * half - sent;
        ssize_t size = send(fd, bytes, left < half ? left : half, MSG_NOSIGNAL);
        if (size < 0) {
            break; /* Refused meanwhile. */
        }
        sent += (size_t)size;
    }
    ssize_t got = recv(fd, line, line_size - 1, MSG_WAITALL);
    assert_true(got > 0);
    line[got] = '\0';
    (void)close(fd);
    buf_fini(&head);
    mem_free(bytes);
}

static void bodies_of_http_1_count_too(void **state)
{
    (void)state;
    struct served_server served;
    char line[32];
    served_start(&served, with_small_input);
    post_halves(served.port, 400 * 1000, line, 13);
    assert_string_equal(line, "HTTP/1.1 200");
    post_halves(served.port, 1000 * 1000, line, 13);
    assert_string_equal(line, "HTTP/1.1 503");
    post_halves(served.port, 400 * 1000, line, 13);
    assert_string_equal(line, "HTTP/1.1 200");
    served_stop(&served, NS_PER_S);
}

/* ---- streams and connections ----------------------------------------------------------------- */

static void with_few_calls(struct rpc_config *config)
{
    config->calls_max = 9;
}

static void streams_beyond_the_process_ceiling_are_refused(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    struct client other;
    struct client_call calls[10];
    struct client_call extra;
    served_open(&served, &client, with_few_calls);
    client_open(&other, served.port);
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call(&client, &calls[i], "/t.T/Quiet", NULL);
    }
    client_call(&client, &extra, "/t.T/Quiet", NULL);
    client_until(&client, extra.is_closed);
    assert_int_equal(extra.error_code, NGHTTP2_REFUSED_STREAM);
    client_call_fini(&extra);
    served_check(&other); /* Below its part. */
    for (size_t i = 0; i < 5; i++) {
        client_cancel(&calls[i]);
    }
    client_until(&client, atomic_load(&served.seen.gone) == 6);
    served_check(&client);
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call_fini(&calls[i]);
    }
    client_call_fini(&extra);
    client_close(&other);
    served_close(&served, &client);
}

static void with_two_connections(struct rpc_config *config)
{
    config->connections_max = 2;
}

static void connections_beyond_the_ceiling_are_closed(void **state)
{
    (void)state;
    struct served_server served;
    struct client clients[3];
    served_open(&served, &clients[0], with_two_connections);
    client_open(&clients[1], served.port);
    served_check(&clients[0]);
    served_check(&clients[1]);
    client_open(&clients[2], served.port);
    client_until(&clients[2], clients[2].is_ended);
    client_close(&clients[2]);
    client_close(&clients[1]);
    do { /* Until the server has seen that. */
        client_open(&clients[2], served.port);
        (void)client_turn(&clients[2], 20);
        if (!clients[2].is_ended) {
            break;
        }
        client_close(&clients[2]);
    } while (true);
    served_check(&clients[2]);
    client_close(&clients[2]);
    served_close(&served, &clients[0]);
}

/* ---- answers --------------------------------------------------------------------------------- */

static uint8_t zeros[64 * 1024];

static void send_zeros(struct rpc_call *call, size_t size, bool is_urgent)
{
    const struct rpc_part part = {.bytes = slice_of(zeros, size)};
    (void)rpc_send(call, &part, 1, is_urgent);
}

static void flood(struct rpc_call *call, struct slice message)
{
    (void)message;
    for (uint32_t i = 0; i < 100; i++) {
        send_zeros(call, 30000, false);
    }
    rpc_finish(call);
}

static void reply_much(struct rpc_call *call, struct slice message)
{
    (void)message;
    uint8_t *bytes = mem_alloc(1024 * 1024);
    const struct rpc_part part = {.bytes = slice_of(bytes, 1024 * 1024)};
    rpc_reply(call, &part, 1);
    mem_free(bytes);
}

static struct rpc_call *noted;
static void *gone_user;
static uint32_t rooms;

static void note(struct rpc_call *call, struct slice message)
{
    (void)message;
    noted = call;
}

static void forget(struct rpc_call *call)
{
    assert_ptr_equal(noted, call);
    assert_null(gone_user); /* The connection goes behind its calls. */
    noted = NULL;
}

static void note_room(void *user)
{
    assert_ptr_equal(user, &rooms);
    rooms++;
}

static void note_gone(void *user)
{
    gone_user = user;
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/Flood", .kind = RPC_SERVER_STREAM, .on_message = flood},
    {.path = "/t.T/Much", .kind = RPC_UNARY, .on_message = reply_much},
    {.path = "/t.T/Note", .kind = RPC_UNARY, .on_message = note, .on_gone = forget},
    {.path = "/t.T/Urgent", .kind = RPC_BIDI, .on_message = note, .on_gone = forget},
};

static void start(struct driven *driven, size_t out_max, uint32_t window)
{
    struct rpc_config config = {
        .methods = methods,
        .method_count = ARRAY_COUNT(methods),
        .out_max = out_max,
        .conn_room = note_room,
        .conn_gone = note_gone,
    };
    const struct client_options options = {.stream_window = window, .window_more = window};
    driven_start(driven, &config, &options);
    noted = NULL;
    gone_user = NULL;
    rooms = 0;
}

static void ask(struct driven *driven, struct client_call *call, const char *path)
{
    client_call(&driven->client, call, path, NULL);
    client_send(call, SLICE_EMPTY);
    client_send_end(call);
    driven_feed(driven);
}

/* The client takes |size| bytes of |call|. */
static void take(struct driven *driven, const struct client_call *call, int32_t size)
{
    nghttp2_session *session = driven->client.session;
    assert_int_equal(nghttp2_submit_window_update(session, 0, call->stream_id, size), 0);
    assert_int_equal(nghttp2_submit_window_update(session, 0, 0, size), 0);
    driven_feed(driven);
    driven_turn(driven);
}

static void pass_s(struct driven *driven, uint32_t seconds)
{
    for (uint32_t i = 0; i < seconds; i++) {
        driven->clock.now_ns += NS_PER_S;
        driven_turn(driven);
    }
}

static void who_hoards_answers_and_reads_nothing_is_disconnected(void **state)
{
    (void)state;
    struct driven driven;
    struct client_call hoard;
    struct client_call refused;
    start(&driven, 1000 * 1000, 1000);
    ask(&driven, &hoard, "/t.T/Flood");
    driven_turn(&driven);
    assert_true(driven.io->out_size > 2 * 1000 * 1000);
    int64_t streams = metric_get(METRIC_drover_refused_streams_total);
    ask(&driven, &refused, "/t.T/Note");
    assert_null(noted);
    assert_int_equal(metric_get(METRIC_drover_refused_streams_total), streams + 1);
    pass_s(&driven, 5);
    for (uint32_t i = 0; i < 5; i++) { /* Who reads, slowly, stays. */
        take(&driven, &hoard, LIMIT_STALL_BYTES);
        pass_s(&driven, 8);
        assert_int_equal(driven.io->conn_count, 1);
    }
    take(&driven, &hoard, 1000); /* Too slowly. */
    pass_s(&driven, 12);
    assert_int_equal(driven.io->out_size, 0);
    client_call_fini(&hoard);
    client_call_fini(&refused);
    driven_stop(&driven);
}

static void a_client_may_hoard_while_there_is_room(void **state)
{
    (void)state;
    struct driven driven;
    struct client_call hoard;
    struct client_call other;
    start(&driven, 10 * 1000 * 1000, 1000);
    ask(&driven, &hoard, "/t.T/Flood");
    pass_s(&driven, 100);
    ask(&driven, &other, "/t.T/Note");
    assert_non_null(noted);
    client_call_fini(&hoard);
    client_call_fini(&other);
    driven_stop(&driven);
}

static void unary_answers_wait_until_the_client_reads(void **state)
{
    (void)state;
    struct driven driven;
    struct client_call calls[5];
    struct client_call waiting;
    start(&driven, 0, 1000);
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        ask(&driven, &calls[i], "/t.T/Much");
    }
    ask(&driven, &waiting, "/t.T/Note");
    driven_turn(&driven);
    *rpc_call_connection_user(noted) = &rooms;
    assert_false(rpc_call_has_room(noted));
    rpc_call_await_room(noted);
    driven_turn(&driven);
    assert_int_equal(rooms, 0);
    take(&driven, &calls[0], 900 * 1000);
    assert_int_equal(rooms, 0);
    take(&driven, &calls[1], 900 * 1000);
    assert_int_equal(rooms, 1);
    assert_true(rpc_call_has_room(noted));
    take(&driven, &calls[2], 10 * 1000); /* Once. */
    assert_int_equal(rooms, 1);
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call_fini(&calls[i]);
    }
    client_call_fini(&waiting);
    driven_stop(&driven);
    assert_ptr_equal(gone_user, &rooms);
}

/* ---- bulk beside urgent data ----------------------------------------------------------------- */

static void bulk_moves_beside_urgent_data_that_never_ends(void **state)
{
    (void)state;
    struct driven driven;
    struct client_call urgent;
    struct client_call bulk[2];
    start(&driven, 0, 1 << 30);
    client_call(&driven.client, &urgent, "/t.T/Urgent", NULL);
    client_send(&urgent, SLICE_EMPTY);
    driven_feed(&driven);
    struct rpc_call *watch = noted;
    for (size_t i = 0; i < ARRAY_COUNT(bulk); i++) {
        ask(&driven, &bulk[i], "/t.T/Flood"); /* 3 MB each. */
    }
    uint64_t urgent_size = 0;
    uint32_t turns = 0;
    for (; driven.conn->call_count > 1; turns++) {
        assert_true(turns < 200);
        while (rpc_call_queued(watch) < 3 * 1024 * 1024) {
            send_zeros(watch, sizeof(zeros), true);
        }
        driven_turn(&driven);
    }
    urgent_size = rpc_call_taken(watch);
    /* Both came through, and most of the bytes were urgent ones. */
    assert_true(urgent_size > (uint64_t)10 * 6 * 1000 * 1000);
    client_call_fini(&urgent);
    for (size_t i = 0; i < ARRAY_COUNT(bulk); i++) {
        client_call_fini(&bulk[i]);
    }
    driven_stop(&driven);
}

static void streams_that_are_both_urgent_take_turns(void **state)
{
    (void)state;
    struct driven driven;
    struct client_call calls[2];
    struct rpc_call *watches[2];
    start(&driven, 0, 1 << 30);
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        client_call(&driven.client, &calls[i], "/t.T/Urgent", NULL);
        client_send(&calls[i], SLICE_EMPTY);
        driven_feed(&driven);
        watches[i] = noted;
    }
    for (uint32_t turns = 0; turns < 20; turns++) {
        for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
            while (rpc_call_queued(watches[i]) < 3 * 1024 * 1024) {
                send_zeros(watches[i], sizeof(zeros), true);
            }
        }
        driven_turn(&driven);
    }
    uint64_t first = rpc_call_taken(watches[0]);
    uint64_t second = rpc_call_taken(watches[1]);
    assert_in_range(first, second / 2, second * 2);
    noted = watches[0];
    nghttp2_session *session = driven.client.session;
    assert_int_equal(nghttp2_submit_rst_stream(session, 0, calls[0].stream_id, 0), 0);
    driven_feed(&driven);
    noted = watches[1];
    client_call_fini(&calls[0]);
    client_call_fini(&calls[1]);
    driven_stop(&driven);
}

/* A bulk stream whose window is full gives its turn to the others. */
static void a_bulk_stream_that_cannot_move_holds_up_none(void **state)
{
    (void)state;
    struct driven driven;
    struct client_call urgent;
    struct client_call stuck;
    struct client_call bulk;
    start(&driven, 0, 40 * 1000);
    ask(&driven, &stuck, "/t.T/Flood");
    driven_turn(&driven);
    client_call(&driven.client, &urgent, "/t.T/Urgent", NULL);
    client_send(&urgent, SLICE_EMPTY);
    driven_feed(&driven);
    ask(&driven, &bulk, "/t.T/Flood");
    nghttp2_session *session = driven.client.session;
    const int32_t much = 1 << 30;
    assert_int_equal(nghttp2_submit_window_update(session, 0, bulk.stream_id, much), 0);
    assert_int_equal(nghttp2_submit_window_update(session, 0, urgent.stream_id, much), 0);
    assert_int_equal(nghttp2_submit_window_update(session, 0, 0, much), 0);
    driven_feed(&driven);
    struct rpc_call *watch = noted;
    for (uint32_t turns = 0; driven.conn->call_count > 2; turns++) {
        assert_true(turns < 200);
        while (rpc_call_queued(watch) < 3 * 1024 * 1024) {
            send_zeros(watch, sizeof(zeros), true);
        }
        driven_turn(&driven);
    }
    client_call_fini(&urgent);
    client_call_fini(&stuck);
    client_call_fini(&bulk);
    driven_stop(&driven);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_beyond_the_process_ceiling_are_refused),
        cmocka_unit_test(bodies_of_http_1_count_too),
        cmocka_unit_test(streams_beyond_the_process_ceiling_are_refused),
        cmocka_unit_test(connections_beyond_the_ceiling_are_closed),
        cmocka_unit_test(who_hoards_answers_and_reads_nothing_is_disconnected),
        cmocka_unit_test(a_client_may_hoard_while_there_is_room),
        cmocka_unit_test(unary_answers_wait_until_the_client_reads),
        cmocka_unit_test(bulk_moves_beside_urgent_data_that_never_ends),
        cmocka_unit_test(streams_that_are_both_urgent_take_turns),
        cmocka_unit_test(a_bulk_stream_that_cannot_move_holds_up_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
