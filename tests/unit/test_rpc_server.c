/*
 * Goal: servers and connections: addresses, threads, keep-alive, draining, garbage.
 * Method: real servers on ports of their own, clients driven by the test.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/mem.h"
#include "support.h"
#include "support_http2.h"
#include "support_rpc.h"

static uint64_t now_ns(void)
{
    return clock_now_ns(&clock_monotonic);
}

/* ---- addresses ----------------------------------------------------------------------------- */

static void bad_addresses_are_refused_with_one_line(void **state)
{
    (void)state;
    static const char *const urls[][2] = {
        {"", "want http://HOST:PORT or unix://PATH"},
        {"localhost:2379", "want http://HOST:PORT or unix://PATH"},
        {"ftp://localhost:1", "want http://HOST:PORT or unix://PATH"},
        {"https://localhost:2379", "TLS is not supported yet"},
        {"http://", "is not HOST:PORT"},
        {"http://localhost", "is not HOST:PORT"},
        {"http://localhost:", "is not HOST:PORT"},
        {"http://localhost:x", "is not HOST:PORT"},
        {"http://localhost:65536", "is not HOST:PORT"},
        {"http://::1:2379", "is not HOST:PORT"},
        {"http://[127.0.0.1:2379", "is not HOST:PORT"},
        {"http://203.0.113.7:1", "cannot listen on"},
        {"http://no.such.host.invalid:1", "cannot resolve"},
        {"unix://", "the path has 1 to 107 bytes"},
        {"unix:///no/such/folder/socket", "No such file"},
    };
    struct served_server served;
    served_start(&served, NULL);
    struct rpc_server *server = rpc_server_new(&served.config);
    for (size_t i = 0; i < ARRAY_COUNT(urls); i++) {
        char why[256] = {0};
        assert_int_equal(rpc_server_listen(server, urls[i][0], why, sizeof(why)), ERR_CONFIG);
        assert_non_null(strstr(why, urls[i][1]));
        assert_null(strchr(why, '\n'));
    }
    char why[256] = {0};
    char url[64];
    (void)snprintf(url, sizeof(url), "http://127.0.0.1:%u", served.port);
    assert_int_equal(rpc_server_listen(server, url, why, sizeof(why)), ERR_CONFIG);
    assert_non_null(strstr(why, "Address already in use"));
    rpc_server_free(server);
    served_stop(&served, NS_PER_S);
}

/* A folder for a unix socket, and a server whose settings others are made of. */
struct unix_place {
    struct served_server served;
    char folder[32];
    char path[64];
    char url[80];
    char why[256];
};

static void unix_place_make(struct unix_place *place, const char *scheme)
{
    (void)snprintf(place->folder, sizeof(place->folder), "/tmp/drover-rpc-XXXXXX");
    assert_non_null(mkdtemp(place->folder));
    (void)snprintf(place->path, sizeof(place->path), "%s/socket", place->folder);
    (void)snprintf(place->url, sizeof(place->url), "%s%s", scheme, place->path);
    served_start(&place->served, NULL);
}

/* The name must be gone by then. */
static void unix_place_remove(struct unix_place *place)
{
    served_stop(&place->served, NS_PER_S);
    assert_int_equal(rmdir(place->folder), 0);
}

/* Listens there, or fails with |expected|. */
static struct rpc_server *unix_place_listen(struct unix_place *place, enum err expected)
{
    struct rpc_server *server = rpc_server_new(&place->served.config);
    assert_int_equal(rpc_server_listen(server, place->url, place->why, sizeof(place->why)),
                     expected);
    return server;
}

static bool unix_place_has_name(const struct unix_place *place)
{
    struct stat found;
    return stat(place->path, &found) == 0;
}

static void a_unix_socket_serves_and_its_name_goes_with_it(void **state)
{
    (void)state;
    struct unix_place place;
    unix_place_make(&place, "unix://");
    for (uint32_t i = 0; i < 2; i++) {
        struct rpc_server *server = unix_place_listen(&place, ERR_OK);
        /* While one listens, a second one is refused. */
        rpc_server_free(unix_place_listen(&place, ERR_CONFIG));
        rpc_server_start(server);
        struct client client;
        struct client_call call;
        const struct client_options options = {0};
        client_open_fd(&client, client_socket_unix(place.path), &options);
        client_unary(&client, &call, "/t.T/Echo", SLICE_LIT("x"));
        assert_int_equal(call.grpc_status, 0);
        client_call_fini(&call);
        client_close(&client);
        rpc_server_stop(server, NS_PER_S);
        rpc_server_join(server);
        rpc_server_free(server);
        assert_false(unix_place_has_name(&place));
    }
    unix_place_remove(&place);
}

/* Who ends last must not take the name of who came after it. */
static void a_unix_socket_of_the_next_process_stays(void **state)
{
    (void)state;
    struct unix_place place;
    unix_place_make(&place, "unix:");
    struct rpc_server *first = unix_place_listen(&place, ERR_OK);
    rpc_server_start(first);
    rpc_server_stop(first, NS_PER_S);
    rpc_server_join(first);
    struct rpc_server *next = unix_place_listen(&place, ERR_OK);
    rpc_server_free(first);
    assert_true(unix_place_has_name(&place));
    rpc_server_free(next);
    assert_false(unix_place_has_name(&place));
    unix_place_remove(&place);
}

/* Somebody has removed the name and serves there now. */
static void a_unix_socket_of_somebody_else_stays(void **state)
{
    (void)state;
    struct unix_place place;
    unix_place_make(&place, "unix:");
    struct rpc_server *first = unix_place_listen(&place, ERR_OK);
    assert_int_equal(unlink(place.path), 0);
    struct rpc_server *next = unix_place_listen(&place, ERR_OK);
    rpc_server_free(first);
    assert_true(unix_place_has_name(&place));
    rpc_server_free(next);
    assert_false(unix_place_has_name(&place));
    unix_place_remove(&place);
}

/* What a process that was killed left behind. */
static void a_stale_unix_socket_is_no_obstacle(void **state)
{
    (void)state;
    struct unix_place place;
    unix_place_make(&place, "unix:");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, place.path, sizeof(place.path));
    int left = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(left, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(close(left), 0);
    assert_true(unix_place_has_name(&place));
    rpc_server_free(unix_place_listen(&place, ERR_OK));
    unix_place_remove(&place);
}

static void with_four_threads(struct rpc_config *config)
{
    config->io_threads = 4;
}

static void connections_spread_over_all_threads(void **state)
{
    (void)state;
    struct served_server served;
    served_start(&served, with_four_threads);
    struct client clients[8];
    for (size_t i = 0; i < ARRAY_COUNT(clients); i++) {
        struct client_call call;
        client_open(&clients[i], served.port);
        client_unary(&clients[i], &call, "/t.T/Echo", SLICE_LIT("x"));
        assert_int_equal(call.grpc_status, 0);
        client_call_fini(&call);
    }
    assert_int_equal(atomic_load(&served.seen.threads_used), 15);
    for (size_t i = 0; i < ARRAY_COUNT(clients); i++) {
        client_close(&clients[i]);
    }
    served_stop(&served, NS_PER_S);
}

static void a_server_that_never_started_can_be_freed(void **state)
{
    (void)state;
    struct served_server served;
    served_start(&served, NULL);
    struct rpc_server *server = rpc_server_new(&served.config);
    char why[256];
    assert_int_equal(rpc_server_listen(server, "http://127.0.0.1:0", why, sizeof(why)), ERR_OK);
    assert_int_equal(rpc_server_port(server, 1), 0);
    rpc_server_free(server);
    rpc_server_free(NULL);
    served_stop(&served, NS_PER_S);
}

/* ---- keep-alive ---------------------------------------------------------------------------- */

static void pings_without_calls_end_the_connection(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, NULL);
    /* The first is free, the next two are strikes, the fourth is one too many. */
    for (uint32_t i = 1; i <= 3; i++) {
        client_ping(&client);
        client_until(&client, client.pongs == i);
        assert_int_equal(client.goaways, 0);
    }
    client_ping(&client);
    client_until(&client, client.is_ended);
    assert_int_equal(client.goaways, 1);
    assert_int_equal(client.goaway_error, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_string_equal(client.goaway_words, "too_many_pings");
    served_close(&served, &client);
}

static void pings_between_answers_are_forgiven(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, NULL);
    for (uint32_t i = 1; i <= 20; i++) {
        struct client_call call;
        client_unary(&client, &call, "/t.T/Echo", SLICE_LIT("x"));
        assert_int_equal(call.grpc_status, 0);
        client_call_fini(&call);
        client_ping(&client);
        client_until(&client, client.pongs == i);
    }
    assert_int_equal(client.goaways, 0);
    served_close(&served, &client);
}

static void with_fast_pings_allowed(struct rpc_config *config)
{
    config->keepalive_min_time_ns = NS_PER_MS;
}

static void pings_beside_a_stream_obey_the_minimum_time(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    struct client_call call;
    served_open(&served, &client, with_fast_pings_allowed);
    client_call(&client, &call, "/t.T/Quiet", NULL);
    for (uint32_t i = 1; i <= 8; i++) {
        client_ping(&client);
        client_until(&client, client.pongs == i);
        (void)usleep(5000);
    }
    assert_int_equal(client.goaways, 0);
    client_call_fini(&call);
    served_close(&served, &client);
}

static struct shared_clock test_clock; /* Stands still until a test moves it on. */

static void with_impatient_keepalive(struct rpc_config *config)
{
    config->keepalive_interval_ns = 60 * NS_PER_MS;
    config->keepalive_timeout_ns = 50 * NS_PER_MS;
    shared_clock_init(&test_clock);
    config->clock = &test_clock.clock;
}

static void a_silent_peer_is_pinged_and_a_dead_one_dropped(void **state)
{
    (void)state;
    struct served_server served;
    served_start(&served, with_impatient_keepalive);
    struct client alive;
    struct client dead;
    const struct client_options no_pongs = {.no_pongs = true};
    client_open(&alive, served.port);
    client_open_fd(&dead, client_socket(served.port), &no_pongs);
    served_check(&alive);
    served_check(&dead);
    shared_clock_advance(&test_clock, 60 * NS_PER_MS - 1);
    served_check(&alive);
    assert_int_equal(alive.pings + dead.pings, 0);
    shared_clock_advance(&test_clock, 60 * NS_PER_MS);
    client_until(&alive, alive.pings == 1);
    client_until(&dead, dead.pings == 1);
    served_check(&alive); /* Behind its answer. */
    shared_clock_advance(&test_clock, 50 * NS_PER_MS);
    client_until(&dead, dead.is_ended);
    assert_int_equal(dead.pings, 1);
    served_check(&alive);
    shared_clock_advance(&test_clock, 60 * NS_PER_MS);
    client_until(&alive, alive.pings == 2);
    served_check(&alive);
    client_close(&alive);
    client_close(&dead);
    served_stop(&served, NS_PER_S);
}

/* ---- draining ------------------------------------------------------------------------------ */

static void with_four_threads_out_of_time(struct rpc_config *config)
{
    with_four_threads(config);
    shared_clock_init(&test_clock);
    config->clock = &test_clock.clock;
}

static void an_idle_server_waits_for_nothing_to_stop(void **state)
{
    (void)state;
    struct served_server served;
    served_start(&served, with_four_threads_out_of_time);
    served_stop(&served, 10 * NS_PER_S); /* Whoever waits for time to pass waits for ever. */
}

static void stop_server(void *arg)
{
    struct served_server *served = arg;
    rpc_server_stop(served->server, 5 * NS_PER_S);
}

static void finish_held(void *arg)
{
    struct served_server *served = arg;
    struct rpc_call *call = atomic_exchange(&served->seen.held, NULL);
    rpc_reply(call, NULL, 0);
    rpc_call_unref(call);
}

/* The whole order: notice, streams end, new streams refused, the running call ends, then all. */
static void draining_lets_calls_finish_and_ends_streams(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    struct client_call hold;
    struct client_call quiet;
    served_open(&served, &client, NULL);
    client_call(&client, &quiet, "/t.T/Quiet", NULL);
    client_call(&client, &hold, "/t.T/Hold", NULL);
    client_send(&hold, SLICE_EMPTY);
    client_send_end(&hold);
    client_until(&client, atomic_load(&served.seen.held) != NULL);
    stop_server(&served);
    client_until(&client, quiet.is_closed);
    assert_int_equal(quiet.grpc_status, 14);
    assert_string_equal(quiet.grpc_message, "etcdserver: server stopped");
    assert_int_equal(atomic_load(&served.seen.drains), 1);
    client_until(&client, client.goaways == 2);
    assert_int_equal(client.goaway_last, hold.stream_id);
    assert_int_equal(client.goaway_error, NGHTTP2_NO_ERROR);
    assert_false(hold.is_closed);
    served_run(&served, finish_held, &served);
    client_until(&client, hold.is_closed && client.is_ended);
    assert_int_equal(hold.grpc_status, 0);
    rpc_server_join(served.server);
    rpc_server_free(served.server);
    client_close(&client);
    client_call_fini(&hold);
    client_call_fini(&quiet);
}

/* Headers alone: handlers know nothing of these calls, so nobody else can end them. */
static void calls_without_a_message_do_not_hold_up_the_end(void **state)
{
    (void)state;
    static const char *const paths[] = {"/t.T/Stream", "/t.T/Bidi", "/t.T/Echo"};
    struct served_server served;
    struct client client;
    struct client_call calls[ARRAY_COUNT(paths)];
    struct client_call echo;
    served_open(&served, &client, NULL);
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        client_call(&client, &calls[i], paths[i], NULL);
    }
    client_unary(&client, &echo, "/t.T/Echo", SLICE_LIT("x")); /* Came behind those. */
    uint64_t start_ns = now_ns();
    rpc_server_stop(served.server, 2 * SUPPORT_HANG_NS);
    client_until(&client, client.is_ended);
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        assert_true(calls[i].is_closed);
        assert_int_equal(calls[i].grpc_status, 14);
        client_call_fini(&calls[i]);
    }
    rpc_server_join(served.server);
    assert_true(now_ns() - start_ns < SUPPORT_HANG_NS);
    rpc_server_free(served.server);
    client_close(&client);
    client_call_fini(&echo);
}

static void a_client_that_never_answers_does_not_hold_up_the_end(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    struct client_call call;
    served_open(&served, &client, NULL);
    client_unary(&client, &call, "/t.T/Echo", SLICE_LIT("x"));
    served_stop(&served, 2 * SUPPORT_HANG_NS);
    client_until(&client, client.is_ended);
    client_close(&client);
    client_call_fini(&call);
}

static void the_grace_period_ends_what_hangs(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    struct client_call call;
    served_open(&served, &client, NULL);
    client_call(&client, &call, "/t.T/Hang", NULL);
    client_send(&call, SLICE_EMPTY);
    client_until(&client, atomic_load(&served.seen.messages) == 1);
    uint64_t start_ns = now_ns();
    served_stop(&served, 100 * NS_PER_MS);
    assert_true(now_ns() - start_ns >= 100 * NS_PER_MS);
    client_until(&client, client.is_ended);
    assert_int_equal(atomic_load(&served.seen.gone), 1);
    client_close(&client);
    client_call_fini(&call);
}

/* ---- garbage ------------------------------------------------------------------------------- */

static void send_all(int fd, const void *bytes, size_t size)
{
    (void)send(fd, bytes, size, MSG_NOSIGNAL);
}

/* Whatever arrives behind a preface, the server goes on serving others. */
static void garbage_ends_only_its_own_connection(void **state)
{
    (void)state;
    struct served_server served;
    served_start(&served, NULL);
    struct rng rng;
    rng_seed(&rng, support_seed());
    for (uint32_t i = 0; i < 200; i++) {
        uint8_t bytes[512];
        int fd = client_socket(served.port);
        rng_fill(&rng, bytes, sizeof(bytes));
        if (i % 2 == 0) {
            send_all(fd, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
        }
        if (i % 4 == 0) { /* A frame of a known type and plausible length. */
            bytes[0] = bytes[1] = 0;
            bytes[3] = (uint8_t)(i / 4 % 10);
        }
        send_all(fd, bytes, 1 + rng_below(&rng, sizeof(bytes)));
        (void)close(fd);
    }
    struct client client;
    client_open(&client, served.port);
    served_check(&client);
    served_close(&served, &client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_addresses_are_refused_with_one_line),
        cmocka_unit_test(a_unix_socket_serves_and_its_name_goes_with_it),
        cmocka_unit_test(a_unix_socket_of_the_next_process_stays),
        cmocka_unit_test(a_unix_socket_of_somebody_else_stays),
        cmocka_unit_test(a_stale_unix_socket_is_no_obstacle),
        cmocka_unit_test(connections_spread_over_all_threads),
        cmocka_unit_test(a_server_that_never_started_can_be_freed),
        cmocka_unit_test(pings_without_calls_end_the_connection),
        cmocka_unit_test(pings_between_answers_are_forgiven),
        cmocka_unit_test(pings_beside_a_stream_obey_the_minimum_time),
        cmocka_unit_test(a_silent_peer_is_pinged_and_a_dead_one_dropped),
        cmocka_unit_test(an_idle_server_waits_for_nothing_to_stop),
        cmocka_unit_test(draining_lets_calls_finish_and_ends_streams),
        cmocka_unit_test(calls_without_a_message_do_not_hold_up_the_end),
        cmocka_unit_test(a_client_that_never_answers_does_not_hold_up_the_end),
        cmocka_unit_test(the_grace_period_ends_what_hangs),
        cmocka_unit_test(garbage_ends_only_its_own_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
