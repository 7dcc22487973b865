/*
 * Goal: header lists are taken and refused as grpc-go does, so that old clients are served.
 * Method: a real server, lists sent exactly as they stand here; every row was seen on etcd 3.7.3,
 * too (tests/go/wire_grpc_test.go).
 */
#include "core/mem.h"
#include "support.h"
#include "support_http2.h"
#include "support_rpc.h"

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

#define METHOD ":method", "POST"
#define SCHEME ":scheme", "http"
#define PATH ":path", "/t.T/Echo"
#define HOST ":authority", "localhost"
#define TYPE "content-type", "application/grpc"
#define LIST METHOD, SCHEME, PATH, HOST, TYPE, "te", "trailers"

struct row {
    const char *fields[24];
    int http_status; /* 0: the stream is reset with PROTOCOL_ERROR. */
    int grpc_status;
    const char *message;
};

static void check_row(struct world *world, const struct row *row)
{
    struct client_call call;
    client_call_raw(&world->client, &call, row->fields);
    client_send(&call, SLICE_LIT("x"));
    client_send_end(&call);
    client_until(&world->client, call.is_closed);
    if (row->http_status == 0) {
        assert_int_equal(call.grpc_status, -1);
        assert_int_equal(call.error_code, NGHTTP2_PROTOCOL_ERROR);
    } else {
        assert_string_equal(call.grpc_message, row->message);
        assert_int_equal(call.http_status, row->http_status);
        assert_int_equal(call.grpc_status, row->grpc_status);
        assert_int_equal(call.messages, row->grpc_status == 0);
    }
    client_call_fini(&call);
}

static void check_rows(void **state, const struct row *rows, size_t count)
{
    struct world *world = *state;
    for (size_t i = 0; i < count; i++) {
        check_row(world, &rows[i]);
    }
    /* The connection is none the worse for it. */
    const struct row good = {{LIST, NULL}, 200, 0, ""};
    check_row(world, &good);
    assert_int_equal(world->client.goaways, 0);
}

static void what_old_and_odd_clients_send_is_served(void **state)
{
    static const struct row rows[] = {
        {{METHOD, SCHEME, PATH, ":authority", "http://127.0.0.1:2379", TYPE, NULL}, 200, 0, ""},
        {{METHOD, SCHEME, PATH, ":authority", "", TYPE, NULL}, 200, 0, ""},
        {{METHOD, SCHEME, PATH, ":authority", " a b ", TYPE, NULL}, 200, 0, ""},
        {{METHOD, SCHEME, PATH, "host", "localhost", TYPE, NULL}, 200, 0, ""},
        {{METHOD, PATH, HOST, TYPE, NULL}, 200, 0, ""},
        {{METHOD, ":scheme", "1 2", PATH, HOST, TYPE, NULL}, 200, 0, ""},
        {{":protocol", "websocket", LIST, NULL}, 200, 0, ""},
        {{LIST, "host", "other", NULL}, 200, 0, ""},
        {{LIST, "content-length", "1000", NULL}, 200, 0, ""},
        {{LIST, "content-length", "1", NULL}, 200, 0, ""},
        {{LIST, "content-length", "x", NULL}, 200, 0, ""},
        {{LIST, "keep-alive", "5", "transfer-encoding", "chunked", "upgrade", "h2c", NULL},
         200,
         0,
         ""},
        {{LIST, "te", "gzip", "x", "\ta\xff ", NULL}, 200, 0, ""},
        {{LIST, "content-type", "text/plain", NULL}, 200, 0, ""},
        {{LIST, "grpc-encoding", "zstd", "grpc-encoding", "identity", NULL}, 200, 0, ""},
    };
    check_rows(state, rows, ARRAY_COUNT(rows));
}

static void malformed_lists_reset_the_stream(void **state)
{
    static const struct row rows[] = {
        {{METHOD, LIST, NULL}, 0, 0, ""},
        {{PATH, LIST, NULL}, 0, 0, ""},
        {{HOST, LIST, NULL}, 0, 0, ""},
        {{":nope", "1", LIST, NULL}, 0, 0, ""},
        {{":status", "200", LIST, NULL}, 0, 0, ""},
        {{LIST, ":protocol", "x", NULL}, 0, 0, ""},
        {{"x", "y", LIST, NULL}, 0, 0, ""},
        {{LIST, "X-Up", "y", NULL}, 0, 0, ""},
        {{LIST, "", "y", NULL}, 0, 0, ""},
        {{LIST, "x y", "y", NULL}, 0, 0, ""},
        {{LIST, "x:y", "y", NULL}, 0, 0, ""},
        {{LIST, "x\xc3\xa9", "y", NULL}, 0, 0, ""},
        {{LIST, "x", "a\nb", NULL}, 0, 0, ""},
        {{LIST, "x", "a\x7f", NULL}, 0, 0, ""},
        {{METHOD, SCHEME, ":path", "/a\x01/b", HOST, TYPE, NULL}, 0, 0, ""},
        {{LIST, "connection", "close", NULL}, 0, 0, ""},
    };
    check_rows(state, rows, ARRAY_COUNT(rows));
}

static void bad_values_are_refused_in_grpc_go_s_order_and_words(void **state)
{
#define HOSTS(n)                                                                                  \
    "num values of :authority: " n ", num values of host: 2, both must only have 1 value as per " \
    "HTTP/2 spec"
#define SHOULD_BE_POST(method) \
    "Received a HEADERS frame with :method \"" method "\" which should be POST"
    static const struct row rows[] = {
        {{METHOD, SCHEME, ":path", "nope", HOST, TYPE, NULL},
         200,
         12,
         "malformed method name: \"nope\""},
        {{METHOD, SCHEME, HOST, TYPE, NULL}, 200, 12, "malformed method name: \"\""},
        {{METHOD, SCHEME, ":path", "*", HOST, TYPE, NULL}, 200, 12, "malformed method name: \"*\""},
        {{SCHEME, PATH, HOST, TYPE, NULL}, 405, 13, SHOULD_BE_POST("")},
        {{":method", "CONNECT", SCHEME, PATH, HOST, TYPE, NULL},
         405,
         13,
         SHOULD_BE_POST("CONNECT")},
        {{"x", "y", NULL}, 415, 3, "invalid gRPC request content-type \"\""},
        {{":status", "200", NULL}, 415, 3, "invalid gRPC request content-type \"\""},
        {{METHOD, SCHEME, PATH, TYPE, NULL}, 400, 13, "no host or :authority header present"},
        {{LIST, "host", "a", "host", "b", "connection", "x", NULL}, 400, 13, HOSTS("1")},
        {{METHOD, SCHEME, PATH, TYPE, "host", "a", "host", "b", NULL}, 400, 13, HOSTS("0")},
        {{LIST, "grpc-timeout", "x", "grpc-timeout", "5S", NULL},
         400,
         13,
         "malformed grpc-timeout: transport: timeout string is too short: \"x\""},
        {{LIST, "grpc-timeout", "x", "a-bin", "!", NULL},
         400,
         13,
         "malformed binary metadata \"!\" in header \"a-bin\": illegal base64 data at input byte "
         "0"},
        {{LIST, "a-bin", "!", "grpc-timeout", "x", NULL},
         400,
         13,
         "malformed grpc-timeout: transport: timeout string is too short: \"x\""},
        {{LIST, "grpc-encoding", "identity", "grpc-encoding", "zstd", NULL},
         200,
         12,
         "grpc: Decompressor is not installed for grpc-encoding \"zstd\""},
    };
    check_rows(state, rows, ARRAY_COUNT(rows));
}

static void a_request_s_trailers_may_only_end_it(void **state)
{
    struct world *world = *state;
    const nghttp2_nv field = {(uint8_t *)(uintptr_t) "x", (uint8_t *)(uintptr_t) "y", 1, 1,
                              NGHTTP2_NV_FLAG_NONE};
    for (uint8_t ends = 0; ends < 2; ends++) {
        struct client_call call;
        client_call(&world->client, &call, "/t.T/Bidi", NULL);
        client_send(&call, SLICE_LIT("x"));
        client_until(&world->client, call.messages == 1);
        uint8_t flags = ends != 0 ? NGHTTP2_FLAG_END_STREAM : NGHTTP2_FLAG_NONE;
        assert_int_equal(nghttp2_submit_headers(world->client.session, flags, call.stream_id, NULL,
                                                &field, 1, NULL),
                         0);
        client_until(&world->client, call.is_closed);
        assert_int_equal(call.error_code, ends != 0 ? NGHTTP2_NO_ERROR : NGHTTP2_PROTOCOL_ERROR);
        assert_int_equal(call.grpc_status, ends != 0 ? 0 : -1);
        client_call_fini(&call);
    }
}

int main(void)
{
#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)
    const struct CMUnitTest tests[] = {
        WORLD_TEST(what_old_and_odd_clients_send_is_served),
        WORLD_TEST(malformed_lists_reset_the_stream),
        WORLD_TEST(bad_values_are_refused_in_grpc_go_s_order_and_words),
        WORLD_TEST(a_request_s_trailers_may_only_end_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
