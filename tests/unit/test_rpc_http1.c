/*
 * Goal: HTTP/1.1 beside gRPC: good requests are answered in order, bad ones refused, none smuggled.
 * Method: the parser alone on a table cut at every place; then raw sockets against a server.
 */
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/mem.h"
#include "rpc/http1_parse.h"
#include "support.h"
#include "support_http2.h"
#include "support_rpc.h"

struct parse_row {
    const char *text;
    int status; /* 0 = DONE, -1 = more is wanted. */
    const char *body;
};

#define HOST "Host: h\r\n"

static const struct parse_row parse_rows[] = {
    {"GET / HTTP/1.1\r\n" HOST "\r\n", 0, ""},
    {"\r\n\r\nGET / HTTP/1.1\r\n" HOST "\r\n", 0, ""},
    {"GET http://h/x HTTP/1.1\r\n" HOST "\r\n", 0, ""},
    {"GET / HTTP/1.0\r\n\r\n", 0, ""},
    {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 0, ""},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc", 0, "abc"},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n", 0, ""},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nabc", -1, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 0,
     "abc"},
    {"POST / HTTP/1.1\r\n" HOST "transfer-encoding: CHUNKED\r\n\r\n"
     "1;x=y\r\na\r\nA\r\nbcdefghijk\r\n0\r\nTrailer: x\r\n\r\n",
     0, "abcdefghijk"},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\na\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 400,
     NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n", 413, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400,
     NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 3, 3\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: +3\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: -3\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999\r\n\r\n", 400, NULL},
    {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1001\r\n\r\n", 413, NULL},
    {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, NULL},
    {"GET / HTTP/1.1\r\n\r\n", 400, NULL},
    {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400, NULL},
    {"GET / HTTP/1.1\r\n" HOST "Expect: tea\r\n\r\n", 417, NULL},
    {"GET / HTTP/2.0\r\n" HOST "\r\n", 505, NULL},
    {"GET / HTTX/1.1\r\n" HOST "\r\n", 400, NULL},
    {"GET  / HTTP/1.1\r\n" HOST "\r\n", 400, NULL},
    {"GET / HTTP/1.1 \r\n" HOST "\r\n", 505, NULL},
    {"GET x HTTP/1.1\r\n" HOST "\r\n", 400, NULL},
    {"G(T / HTTP/1.1\r\n" HOST "\r\n", 400, NULL},
    {"GET /\x01 HTTP/1.1\r\n" HOST "\r\n", 400, NULL},
    {"GET /\xc3\xa9 HTTP/1.1\r\n" HOST "\r\n", 400, NULL},
    {"GET / HTTP/1.1\r\n" HOST "X : y\r\n\r\n", 400, NULL},
    {"GET / HTTP/1.1\r\n" HOST " folded\r\n\r\n", 400, NULL},
    {"GET / HTTP/1.1\r\n" HOST "X: a\x01\r\n\r\n", 400, NULL},
    {"GET / HTTP/1.1\r\n" HOST "X: a\nY: b\r\n\r\n", 400, NULL},
    {"GET / HTTP/1.1\n" HOST "\r\n\r\n", 400, NULL},
    {"GET / HTTP/1.1\r\n: x\r\n\r\n", 400, NULL},
    {"\x16\x03\x01\x02\r\n\r\n", 400, NULL},
};

static void check_row(const struct parse_row *row, size_t cut)
{
    struct http1_parse parse = {.body_max = 1000};
    size_t size = strlen(row->text);
    struct slice first = slice_of(row->text, cut);
    struct slice rest = slice_of(row->text + cut, size - cut);
    http1_feed(&parse, &first);
    http1_feed(&parse, &rest);
    if (row->status > 0) {
        assert_int_equal(parse.state, HTTP1_REFUSED);
        assert_int_equal(parse.status, row->status);
    } else if (row->status < 0) {
        assert_true(parse.state < HTTP1_DONE);
    } else {
        assert_int_equal(parse.state, HTTP1_DONE);
        assert_int_equal(rest.size, 0);
        assert_slice_equal(buf_slice(&parse.body), slice_str(row->body));
    }
    http1_parse_fini(&parse);
}

static void requests_are_read_the_same_however_they_are_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(parse_rows); i++) {
        for (size_t cut = 0; cut <= strlen(parse_rows[i].text); cut++) {
            check_row(&parse_rows[i], cut);
        }
    }
}

static void parts_of_a_request_are_found(void **state)
{
    (void)state;
    struct http1_parse parse = {.body_max = 10};
    struct slice bytes = SLICE_LIT("PATCH /a/b?c=d?e HTTP/1.1\r\nHost: h\r\nX-ONE: \t a b \t\r\n"
                                   "Connection: foo, Close\r\n\r\nGET");
    http1_feed(&parse, &bytes);
    assert_int_equal(parse.state, HTTP1_DONE);
    assert_slice_equal(parse.method, SLICE_LIT("PATCH"));
    assert_slice_equal(parse.path, SLICE_LIT("/a/b"));
    assert_slice_equal(parse.query, SLICE_LIT("c=d?e"));
    assert_slice_equal(http1_find(&parse, "x-one"), SLICE_LIT("a b"));
    assert_int_equal(http1_find(&parse, "x-two").size, 0);
    assert_false(parse.keep_alive);
    assert_slice_equal(bytes, SLICE_LIT("GET")); /* The next request is left alone. */
    http1_parse_fini(&parse);
}

static void a_head_without_end_is_refused_at_the_ceiling(void **state)
{
    (void)state;
    struct http1_parse parse = {.body_max = 10};
    struct slice bytes = SLICE_LIT("GET / HTTP/1.1\r\nHost: h\r\n");
    http1_feed(&parse, &bytes);
    size_t sent = 0;
    while (parse.state == HTTP1_HEAD && sent < 1000000) {
        bytes = SLICE_LIT("X-Filler: 0123456789\r\n");
        sent += bytes.size;
        http1_feed(&parse, &bytes);
    }
    assert_int_equal(parse.status, 431);
    assert_in_range(sent, LIMIT_HTTP_HEADER_SIZE - 100, LIMIT_HTTP_HEADER_SIZE);
    http1_parse_fini(&parse);
}

/* ---- against a server ---------------------------------------------------------------------- */

static int server_begin(void **state)
{
    struct served_server *served = mem_alloc(sizeof(*served));
    served_start(served, NULL);
    *state = served;
    return 0;
}

static int server_end(void **state)
{
    struct served_server *served = *state;
    served_stop(served, 5 * NS_PER_S);
    mem_free(served);
    return 0;
}

static bool was_reset; /* The last conversation. */

/* Send |text|, read until |last| has come; NULL: until the other side closes. */
static char *converse(int fd, const char *text, size_t size, const char *last)
{
    if (size > 0) {
        assert_int_equal(send(fd, text, size, MSG_NOSIGNAL), size);
    }
    struct buf answer = {0};
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    buf_add_byte(&answer, 0);
    while (last == NULL || strstr((const char *)answer.data, last) == NULL) {
        assert_int_equal(poll(&poll_fd, 1, SUPPORT_HANG_S * 1000), 1);
        answer.size--;
        ssize_t got = recv(fd, buf_reserve(&answer, 65536), 65536, 0);
        was_reset = got < 0;
        answer.size += got > 0 ? (size_t)got : 0;
        buf_add_byte(&answer, 0);
        if (got <= 0) {
            break;
        }
    }
    return (char *)answer.data;
}

static uint32_t count_text(const char *text, const char *what)
{
    uint32_t count = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what)) {
        count++;
    }
    return count;
}

static void requests_on_one_connection_are_answered_in_order(void **state)
{
    struct served_server *served = *state;
    int fd = client_socket(served->port);
    static const char text[] = "GET /a?x=1 HTTP/1.1\r\nHost: h\r\nX-Test: t\r\n\r\n"
                               "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
                               "GET /late HTTP/1.1\r\nHost: h\r\n\r\n"
                               "HEAD /c HTTP/1.1\r\nHost: h\r\n\r\n"
                               "PUT /d HTTP/1.1\r\nHost: h\r\n\r\n"
                               "GET /e HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
                               "GET /never HTTP/1.1\r\nHost: h\r\n\r\n";
    char *answer = converse(fd, text, sizeof(text) - 1, NULL);
    const char *const in_order[] = {"200 OK",     "GET /a?x=1 0:t",  "POST /b? 5:",
                                    "late\n",     "HTTP/1.1 200 OK", "HTTP/1.1 405",
                                    "Allow: GET", "PUT /d? 0:",      "Connection: close",
                                    "GET /e? 0:"};
    const char *at = answer;
    for (size_t i = 0; i < ARRAY_COUNT(in_order); i++) {
        at = strstr(at, in_order[i]);
        assert_non_null(at);
    }
    assert_int_equal(count_text(answer, "HTTP/1.1 "), 6);
    assert_null(strstr(answer, "HEAD /c"));
    assert_null(strstr(answer, "never"));
    mem_free(answer);
    (void)close(fd);
}

static void a_thousand_pipelined_requests_are_all_answered(void **state)
{
    struct served_server *served = *state;
    int fd = client_socket(served->port);
    struct buf text = {0};
    for (uint32_t i = 0; i < 1000; i++) {
        buf_printf(&text, "GET /%u HTTP/1.1\r\nHost: h\r\n\r\n", i);
    }
    char *answer = converse(fd, (const char *)text.data, text.size, "GET /999? 0:");
    assert_int_equal(count_text(answer, "HTTP/1.1 200 OK"), 1000);
    assert_non_null(strstr(answer, "GET /999? 0:"));
    mem_free(answer);
    buf_fini(&text);
    (void)close(fd);
}

static void a_client_that_expects_is_told_to_continue(void **state)
{
    struct served_server *served = *state;
    int fd = client_socket(served->port);
    static const char head[] = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n"
                               "Expect: 100-continue\r\n\r\n";
    char *answer = converse(fd, head, sizeof(head) - 1, "\r\n\r\n");
    assert_string_equal(answer, "HTTP/1.1 100 Continue\r\n\r\n");
    mem_free(answer);
    answer = converse(fd, "abc", 3, "POST /b? 3:");
    assert_int_equal(count_text(answer, "HTTP/1.1 "), 1);
    mem_free(answer);
    (void)close(fd);
}

static void a_large_body_comes_back_whole(void **state)
{
    struct served_server *served = *state;
    enum { SIZE = 2 * 1024 * 1024 };
    int fd = client_socket(served->port);
    struct buf text = {0};
    buf_printf(&text,
               "POST /body HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
               "Content-Length: %d\r\n\r\n",
               SIZE);
    size_t head = text.size;
    memset(buf_reserve(&text, SIZE), 'b', SIZE);
    text.size += SIZE;
    char *answer = converse(fd, (const char *)text.data, text.size, NULL);
    const char *body = strstr(answer, "\r\n\r\n");
    assert_non_null(body);
    assert_int_equal(strlen(body + 4), SIZE);
    assert_memory_equal(body + 4, text.data + head, SIZE);
    mem_free(answer);
    buf_fini(&text);
    (void)close(fd);
}

static struct shared_clock still;

static void with_time_standing_still(struct rpc_config *config)
{
    shared_clock_init(&still);
    config->clock = &still.clock;
}

/* The server reads on until the client has ended, or for a time, which does not pass here. */
static void a_refusal_arrives_although_the_client_sends_on(void **state)
{
    (void)state;
    struct served_server served;
    served_start(&served, with_time_standing_still);
    int fd = client_socket(served.port);
    struct buf text = {0};
    buf_printf(&text, "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n");
    memset(buf_reserve(&text, 1000000), 'x', 1000000);
    text.size += 1000000;
    assert_int_equal(send(fd, text.data, text.size, MSG_NOSIGNAL), text.size);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    char *answer = converse(fd, "", 0, NULL);
    assert_false(was_reset);
    assert_non_null(strstr(answer, "HTTP/1.1 413 Content Too Large"));
    assert_non_null(strstr(answer, "Connection: close"));
    assert_int_equal(count_text(answer, "HTTP/1.1 "), 1);
    mem_free(answer);
    buf_fini(&text);
    (void)close(fd);
    served_stop(&served, NS_PER_S);
}

static void a_half_closed_client_gets_its_answers(void **state)
{
    struct served_server *served = *state;
    int fd = client_socket(served->port);
    static const char text[] =
        "GET /late HTTP/1.1\r\nHost: h\r\n\r\nGET /z HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_int_equal(send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL), sizeof(text) - 1);
    assert_int_equal(shutdown(fd, SHUT_WR), 0);
    char *answer = converse(fd, "", 0, NULL);
    assert_non_null(strstr(answer, "late"));
    assert_non_null(strstr(answer, "GET /z"));
    mem_free(answer);
    (void)close(fd);
}

static void the_preface_may_arrive_in_pieces(void **state)
{
    struct served_server *served = *state;
    int fd = client_socket(served->port);
    struct client client;
    struct client_call call;
    const struct client_options options = {0};
    client_open_fd(&client, fd, &options);
    const uint8_t *data;
    ssize_t size = nghttp2_session_mem_send(client.session, &data);
    assert_true(size >= NGHTTP2_CLIENT_MAGIC_LEN);
    for (ssize_t i = 0; i < size; i++) {
        assert_int_equal(send(fd, data + i, 1, MSG_NOSIGNAL), 1);
        (void)usleep(500);
    }
    client_unary(&client, &call, "/t.T/Echo", SLICE_LIT("x"));
    assert_int_equal(call.grpc_status, 0);
    client_call_fini(&call);
    client_close(&client);
    fd = client_socket(served->port);
    char *answer = converse(fd, "PRI * HTTP/2.0\r\n\r\nXX", 20, NULL);
    assert_non_null(strstr(answer, "HTTP/1.1 505 "));
    mem_free(answer);
    (void)close(fd);
}

static void draining_does_not_wait_for_idle_connections(void **state)
{
    (void)state;
    struct served_server served;
    served_start(&served, NULL);
    int fd = client_socket(served.port);
    static const char text[] = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    int half = client_socket(served.port);
    assert_int_equal(send(half, text, 5, MSG_NOSIGNAL), 5);
    for (uint32_t i = 0; i < 10; i++) { /* Some turns later the server has read that, too. */
        char *answer = converse(fd, text, sizeof(text) - 1, "GET /a");
        mem_free(answer);
    }
    served_stop(&served, 2 * SUPPORT_HANG_NS); /* Longer than what is called a hang. */
    (void)close(fd);
    (void)close(half);
}

int main(void)
{
#define SERVER_TEST(f) cmocka_unit_test_setup_teardown(f, server_begin, server_end)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_read_the_same_however_they_are_cut),
        cmocka_unit_test(parts_of_a_request_are_found),
        cmocka_unit_test(a_head_without_end_is_refused_at_the_ceiling),
        SERVER_TEST(requests_on_one_connection_are_answered_in_order),
        SERVER_TEST(a_thousand_pipelined_requests_are_all_answered),
        SERVER_TEST(a_client_that_expects_is_told_to_continue),
        SERVER_TEST(a_large_body_comes_back_whole),
        cmocka_unit_test(a_refusal_arrives_although_the_client_sends_on),
        SERVER_TEST(a_half_closed_client_gets_its_answers),
        SERVER_TEST(the_preface_may_arrive_in_pieces),
        cmocka_unit_test(draining_does_not_wait_for_idle_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
