/*
 * HTTP/1.1 on a connection: one request at a time; while its answer is awaited nothing is read,
 * so that pipelined requests wait in the kernel, and at most one read of them here.
 */
#include <stdio.h>
#include <time.h>

#include "core/mem.h"
#include "core/metrics.h"
#include "rpc/budget.h"
#include "rpc/conn.h"
#include "rpc/http1_parse.h"

struct rpc_http {
    struct rpc_io *io;
    struct rpc_conn *conn; /* NULL when it is gone. */
};

struct rpc_http1 {
    struct http1_parse parse;
    struct rpc_http *asked; /* The request whose answer is awaited. */
    struct shared *answer;  /* To be written. */
    struct buf behind;      /* Read behind it, ... */
    size_t behind_used;     /* ... and how much of it has been looked at. */
    size_t held;            /* Bytes of all this, within io->held_size. */
    bool continue_sent;
    bool is_ending; /* No more requests; linger when the answer is out. */
    bool has_ended; /* The client has sent all. */
};

static const char *http1_reason(int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {100, "Continue"},
        {200, "OK"},
        {202, "Accepted"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(reasons); i++) {
        if (reasons[i].status == status) {
            return reasons[i].reason;
        }
    }
    return "Status";
}

/* Queue an answer, for the end of this turn. */
static void http1_queue(struct rpc_conn *conn, const struct buf *head, struct slice body)
{
    struct shared *all = shared_new(head->size + body.size);
    memcpy(all->bytes, head->data, head->size);
    if (body.size > 0) {
        memcpy(all->bytes + head->size, body.data, body.size);
    }
    ASSERT(conn->http1->answer == NULL);
    conn->http1->answer = all;
    rpc_conn_touch(conn);
}

static void http1_add_date(struct buf *head)
{
    time_t now = time(NULL);
    struct tm utc;
    char text[64];
    if (gmtime_r(&now, &utc) != NULL &&
        strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &utc) > 0) {
        buf_printf(head, "Date: %s\r\n", text);
    }
}

/* Headers of an answer of |size| bytes, the connection's fate included. */
static void http1_begin(const struct rpc_http1 *http1, struct buf *head, int status, size_t size)
{
    buf_printf(head, "HTTP/1.1 %d %s\r\n", status, http1_reason(status));
    http1_add_date(head);
    buf_printf(head, "Content-Length: %zu\r\n", size);
    if (http1->is_ending) {
        buf_add_slice(head, SLICE_LIT("Connection: close\r\n"));
    } else if (http1->parse.is_old) {
        buf_add_slice(head, SLICE_LIT("Connection: keep-alive\r\n"));
    }
}

/* What the connection keeps in memory changed. */
static void http1_account(struct rpc_conn *conn)
{
    struct rpc_http1 *http1 = conn->http1;
    size_t held = http1->parse.head.size + http1->parse.body.size + http1->behind.size +
                  (http1->answer != NULL ? http1->answer->size : 0);
    ASSERT(conn->io->held_size >= http1->held);
    conn->io->held_size += held - http1->held;
    http1->held = held;
}

static void http1_refuse(struct rpc_conn *conn)
{
    struct rpc_http1 *http1 = conn->http1;
    int status = http1->parse.status;
    struct buf head = {0};
    char body[96];
    int size = snprintf(body, sizeof(body), "%d %s", status, http1_reason(status));
    http1->is_ending = true;
    http1_begin(http1, &head, status, (size_t)size);
    buf_add_slice(&head, SLICE_LIT("Content-Type: text/plain; charset=utf-8\r\n\r\n"));
    http1_queue(conn, &head, slice_of(body, (size_t)size));
    buf_fini(&head);
}

static void http1_ask(struct rpc_conn *conn)
{
    struct rpc_http1 *http1 = conn->http1;
    const struct rpc_config *config = conn->io->config;
    struct rpc_http *asked = mem_alloc(sizeof(*asked));
    *asked = (struct rpc_http){.io = conn->io, .conn = conn};
    http1->asked = asked;
    http1->is_ending |= !http1->parse.keep_alive || conn->io->draining;
    conn->stream->ops->pause(conn->stream, true);
    timers_disarm(&conn->io->loop.timers, &conn->timer); /* The answer may take its time. */
    if (config->http == NULL) {
        rpc_http_answer(asked, 404, "text/plain; charset=utf-8", SLICE_LIT("404 page not found\n"),
                        NULL);
        return;
    }
    const struct rpc_http_request request = {
        .method = http1->parse.method,
        .path = http1->parse.path,
        .query = http1->parse.query,
        .body = buf_slice(&http1->parse.body),
    };
    config->http(asked, &request, config->http_arg);
}

static void http1_continue(struct rpc_conn *conn)
{
    struct buf head = {0};
    conn->http1->continue_sent = true;
    buf_add_slice(&head, SLICE_LIT("HTTP/1.1 100 Continue\r\n\r\n"));
    http1_queue(conn, &head, SLICE_EMPTY);
    buf_fini(&head);
}

/* Reads on until there is an answer to wait for or to write. */
static void http1_advance(struct rpc_conn *conn, struct slice bytes)
{
    struct rpc_http1 *http1 = conn->http1;
    http1_feed(&http1->parse, &bytes);
    bool expects = http1->parse.expects_continue && !http1->continue_sent && bytes.size == 0;
    if (bytes.size == 0) {
        buf_fini(&http1->behind);
        http1->behind_used = 0;
    } else if (http1->behind.size > 0) {
        http1->behind_used = http1->behind.size - bytes.size; /* They are its end. */
    } else {
        buf_add_slice(&http1->behind, bytes);
    }
    if (http1->parse.state == HTTP1_REFUSED) {
        http1_refuse(conn);
    } else if (http1->parse.state == HTTP1_DONE) {
        http1_ask(conn);
    } else if (expects) {
        http1_continue(conn);
    }
}

void rpc_http1_read(struct rpc_conn *conn, struct slice bytes)
{
    struct rpc_http1 *http1 = conn->http1;
    if (http1->asked != NULL || http1->answer != NULL || http1->behind.size > 0) {
        if (http1->parse.state != HTTP1_REFUSED) {
            buf_add_slice(&http1->behind, bytes); /* The rest of one read. */
        }
    } else if (rpc_budget_denies_input(conn->io, http1->held)) {
        metric_add(METRIC_drover_refused_requests_total, 1);
        http1->parse.state = HTTP1_REFUSED;
        http1->parse.status = 503;
        http1_refuse(conn);
    } else {
        http1_advance(conn, bytes);
    }
    http1_account(conn);
}

/* False when the socket is full or broken; it goes on from there. */
static bool http1_write(struct rpc_conn *conn)
{
    struct shared *answer = conn->http1->answer;
    if (answer == NULL) {
        return true;
    }
    conn->http1->answer = NULL;
    rpc_out_share(&conn->io->out, slice_of(answer->bytes, answer->size), answer);
    shared_unref(answer);
    if (!rpc_conn_write(conn)) {
        rpc_conn_close(conn);
        return false;
    }
    return conn->rest == NULL;
}

static void http1_gather(struct rpc_conn *conn)
{
    struct rpc_http1 *http1 = conn->http1;
    uint32_t answered = 0;
    while (http1_write(conn)) {
        if (http1->asked != NULL) {
            return;
        }
        if (http1->is_ending) {
            rpc_conn_linger(conn);
            return;
        }
        if (http1->behind.size == 0) {
            break;
        }
        if (answered++ == LIMIT_HTTP_PIPELINED) {
            rpc_conn_touch(conn); /* Others first. */
            return;
        }
        http1_advance(conn, slice_of(http1->behind.data + http1->behind_used,
                                     http1->behind.size - http1->behind_used));
        if (http1->answer == NULL) {
            break;
        }
    }
    if (!rpc_conn_is(conn, CONN_HTTP1) || conn->rest != NULL || http1->asked != NULL) {
        return;
    }
    if (http1->has_ended) {
        rpc_conn_close(conn);
    } else {
        conn->stream->ops->pause(conn->stream, false);
    }
}

void rpc_http1_gather(struct rpc_conn *conn)
{
    http1_gather(conn);
    http1_account(conn);
}

struct slice rpc_http_header(const struct rpc_http *http, const char *name)
{
    return http->conn == NULL ? SLICE_EMPTY : http1_find(&http->conn->http1->parse, name);
}

struct loop *rpc_http_loop(const struct rpc_http *http)
{
    return &http->io->loop;
}

uint32_t rpc_http_thread(const struct rpc_http *http)
{
    return http->io->index;
}

void rpc_http_answer(struct rpc_http *http, int status, const char *content_type, struct slice body,
                     const char *allow)
{
    ASSERT_ON_LOOP(&http->io->loop);
    struct rpc_conn *conn = http->conn;
    if (conn == NULL) {
        mem_free(http);
        return;
    }
    struct rpc_http1 *http1 = conn->http1;
    ASSERT(http1->asked == http);
    http1->asked = NULL;
    mem_free(http);
    if (!rpc_conn_is(conn, CONN_HTTP1)) {
        return; /* Closing. */
    }
    bool is_head = slice_equal(http1->parse.method, SLICE_LIT("HEAD"));
    struct buf head = {0};
    http1->is_ending |= conn->io->draining;
    http1_begin(http1, &head, status, body.size);
    if (content_type != NULL) {
        buf_printf(&head, "Content-Type: %s\r\nX-Content-Type-Options: nosniff\r\n", content_type);
    }
    if (allow != NULL) {
        buf_printf(&head, "Allow: %s\r\n", allow);
    }
    buf_add_slice(&head, SLICE_LIT("\r\n"));
    http1_queue(conn, &head, is_head ? SLICE_EMPTY : body);
    buf_fini(&head);
    http1_next(&http1->parse); /* |body| may have been inside the request. */
    http1->continue_sent = false;
    rpc_conn_arm(conn, LIMIT_HTTP_IDLE_MS * NS_PER_MS);
}

void rpc_http1_on_end(struct rpc_conn *conn)
{
    struct rpc_http1 *http1 = conn->http1;
    http1->has_ended = true;
    if (http1->asked == NULL) {
        rpc_conn_touch(conn); /* Closes when nothing is left to say. */
    }
}

void rpc_http1_drain(struct rpc_conn *conn)
{
    struct rpc_http1 *http1 = conn->http1;
    if (http1->asked != NULL) {
        return; /* The answer will be the last one. */
    }
    if (http1->parse.state == HTTP1_HEAD && http1->parse.head.size == 0) {
        http1->is_ending = true;
        rpc_conn_touch(conn); /* Lingers when nothing is left to say. */
    } else {
        rpc_conn_arm(conn, LIMIT_GOAWAY_MS * NS_PER_MS); /* For the rest of the request. */
    }
}

void rpc_http1_on_timer(struct rpc_conn *conn)
{
    rpc_conn_close(conn);
}

void rpc_http1_start(struct rpc_conn *conn)
{
    conn->http1 = mem_alloc(sizeof(*conn->http1));
    conn->http1->parse.body_max = LIMIT_REQUEST_SIZE_MAX + LIMIT_REQUEST_OVERHEAD;
    rpc_conn_arm(conn, LIMIT_HTTP_IDLE_MS * NS_PER_MS);
}

void rpc_http1_free(struct rpc_conn *conn)
{
    struct rpc_http1 *http1 = conn->http1;
    if (http1 == NULL) {
        return;
    }
    if (http1->asked != NULL) {
        http1->asked->conn = NULL;
    }
    ASSERT(conn->io->held_size >= http1->held);
    conn->io->held_size -= http1->held;
    shared_unref(http1->answer);
    http1_parse_fini(&http1->parse);
    buf_fini(&http1->behind);
    mem_free(http1);
    conn->http1 = NULL;
}
