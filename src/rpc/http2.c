/*
 * A connection's nghttp2 session. Callbacks only note and submit; bytes leave by gathering, at the
 * end of the loop's turn. Frame headers are copied, payloads of 1 KiB and more referenced.
 *
 * Order on the wire, of what is ready: PING and SETTINGS acknowledgements, other control frames and
 * headers, small answers and streams with urgent messages, bulk streams in turns frame by frame.
 * So that bulk never stands still, one of its streams joins the urgent ones for a frame whenever
 * LIMIT_CONN_URGENT_RUN bytes have gone before it.
 */
#include "core/limits.h"
#include "core/metrics.h"
#include "rpc/budget.h"
#include "rpc/call.h"

enum {
    HTTP2_PING_STRIKES_MAX = 2,
    HTTP2_URGENCY_BULK = 5, /* nghttp2's default is 3; 0 is the most urgent. */
};
#define HTTP2_PING_IDLE_NS (UINT64_C(2) * 3600 * NS_PER_S) /* grpc-go's, without streams. */

static const uint8_t http2_goaway_ping[8] = {'g', 'o', 'a', 'w', 'a', 'y', '!', '!'};
static const uint8_t http2_alive_ping[8] = {'a', 'l', 'i', 'v', 'e', '?', '?', '?'};

/* Submitting fails only without memory (a panic) or on a stream or session that is ending, where
 * there is nobody left to tell. */
static void http2_check(int result)
{
    ASSERT(result != NGHTTP2_ERR_NOMEM);
}

static struct rpc_call *http2_call_of(nghttp2_session *session, int32_t stream_id)
{
    return nghttp2_session_get_stream_user_data(session, stream_id);
}

/* ---- reading ------------------------------------------------------------------------------- */

static int http2_on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct rpc_conn *conn = arg;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        return 0;
    }
    if (rpc_budget_denies_stream(conn)) {
        metric_add(METRIC_drover_refused_streams_total, 1);
        http2_check(nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                              NGHTTP2_REFUSED_STREAM));
        return 0;
    }
    struct rpc_call *call = rpc_call_new(conn, frame->hd.stream_id);
    ASSERT(nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call) == 0);
    return 0;
}

/* The parameters are nghttp2's choice. NOLINTNEXTLINE(readability-function-size) */
static int http2_on_header(nghttp2_session *session, const nghttp2_frame *frame,
                           const uint8_t *name, size_t name_size, const uint8_t *value,
                           size_t value_size, uint8_t flags, void *arg)
{
    (void)flags;
    (void)arg;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
        return 0; /* Trailers of a request mean nothing in gRPC. */
    }
    struct rpc_call *call = http2_call_of(session, frame->hd.stream_id);
    if (call != NULL) {
        rpc_call_add_header(call, slice_of(name, name_size), slice_of(value, value_size));
    }
    return 0;
}

static int http2_on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                         const uint8_t *data, size_t size, void *arg)
{
    (void)flags;
    (void)arg;
    struct rpc_call *call = http2_call_of(session, stream_id);
    if (call == NULL) {
        http2_check(nghttp2_session_consume(session, stream_id, size));
    } else {
        rpc_call_data(call, slice_of(data, size));
    }
    return 0;
}

static void http2_end_calmly(struct rpc_conn *conn, struct slice words)
{
    int32_t last = nghttp2_session_get_last_proc_stream_id(conn->session);
    http2_check(nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE, last,
                                      NGHTTP2_ENHANCE_YOUR_CALM, words.data, words.size));
    conn->must_end = true;
}

/* grpc-go's policy: pings are fine after we sent something, else once per minimum time. */
static void http2_judge_ping(struct rpc_conn *conn)
{
    uint64_t now_ns = rpc_io_now_ns(conn->io);
    uint64_t least_ns =
        conn->call_count == 0 ? HTTP2_PING_IDLE_NS : conn->io->config->keepalive_min_time_ns;
    bool is_early = conn->last_ping_ns != 0 && now_ns - conn->last_ping_ns < least_ns;
    conn->last_ping_ns = now_ns;
    if (conn->ping_forgive) {
        conn->ping_forgive = false;
        conn->ping_strikes = 0;
        return;
    }
    if (!is_early || ++conn->ping_strikes <= HTTP2_PING_STRIKES_MAX || conn->must_end) {
        return;
    }
    http2_end_calmly(conn, SLICE_LIT("too_many_pings"));
}

static void http2_finish_goaway(struct rpc_conn *conn)
{
    if (conn->drain != CONN_NOTICED) {
        return;
    }
    conn->drain = CONN_DRAINING;
    rpc_conn_arm(conn, LIMIT_GOAWAY_MS * NS_PER_MS);
    int32_t last = nghttp2_session_get_last_proc_stream_id(conn->session);
    http2_check(
        nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0));
    rpc_conn_touch(conn);
}

/* Calls whose message has not even begun would last as long as the grace period. */
static void http2_fail_silent(struct rpc_conn *conn)
{
    for (struct rpc_call *call = conn->calls; call != NULL; call = call->conn_next) {
        if (!call->has_message && rpc_frame_is_between(&call->frame)) {
            rpc_fail_err(call, ERR_STOPPED); /* No-op if it has ended. */
        }
    }
}

static void http2_on_ping(struct rpc_conn *conn, const nghttp2_ping *ping)
{
    if ((ping->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
        http2_judge_ping(conn);
    } else if (memcmp(ping->opaque_data, http2_goaway_ping, sizeof(http2_goaway_ping)) == 0) {
        http2_finish_goaway(conn);
    }
}

/* The first ends the handshake. Each costs a walk over all streams, and an answer. */
static void http2_on_settings(struct rpc_conn *conn)
{
    uint64_t now_ns = rpc_io_now_ns(conn->io);
    if (!conn->is_settled) {
        conn->is_settled = true;
        if (conn->drain == CONN_SERVING) {
            rpc_conn_arm(conn, conn->io->config->keepalive_interval_ns);
        }
    }
    if (now_ns - conn->settings_ns >= NS_PER_S) {
        conn->settings_ns = now_ns;
        conn->settings = 0;
    }
    if (++conn->settings > LIMIT_SETTINGS_PER_S && !conn->must_end) {
        http2_end_calmly(conn, SLICE_LIT("too_many_settings"));
    }
}

static int http2_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct rpc_conn *conn = arg;
    if (frame->hd.type == NGHTTP2_SETTINGS && (frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) {
        http2_on_settings(conn);
        return 0;
    }
    if (frame->hd.type == NGHTTP2_PING) {
        http2_on_ping(conn, &frame->ping);
        return 0;
    }
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) {
        return 0;
    }
    struct rpc_call *call = http2_call_of(session, frame->hd.stream_id);
    if (call == NULL) {
        return 0;
    }
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        call->half_closed = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
        rpc_call_begin(call);
    }
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
        rpc_call_half_close(call);
    } else if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_HEADERS) {
        /* Trailers that end nothing. grpc-go hangs up on any, which other calls would feel. */
        rpc_http2_reset(call, NGHTTP2_PROTOCOL_ERROR);
    }
    return 0;
}

static int http2_on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                                 void *arg)
{
    (void)error_code;
    (void)arg;
    struct rpc_call *call = http2_call_of(session, stream_id);
    if (call != NULL) {
        ASSERT(nghttp2_session_set_stream_user_data(session, stream_id, NULL) == 0);
        rpc_call_gone(call);
    }
    return 0;
}

bool rpc_http2_read(struct rpc_conn *conn, struct slice bytes)
{
    ssize_t taken = nghttp2_session_mem_recv(conn->session, bytes.data, bytes.size);
    ASSERT(taken != NGHTTP2_ERR_NOMEM);
    return taken >= 0;
}

/* ---- writing ------------------------------------------------------------------------------- */

#define HTTP2_FIELD(n, v, size)                                                                \
    ((nghttp2_nv){(uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), sizeof(n) - 1, (size), \
                  NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE})
#define HTTP2_FIELD_LIT(n, v) HTTP2_FIELD(n, v, sizeof(v) - 1)

/* grpc-status and grpc-message; returns how many. All codes have static text. */
static size_t http2_status_fields(const struct rpc_call *call, nghttp2_nv fields[2])
{
    static const char digits[] = "012345678910111213141516";
    int code = call->status;
    ASSERT(code >= 0);
    bool is_known = code <= 16;
    size_t at = !is_known ? 2 : code < 10 ? (size_t)code : (size_t)(10 + (code - 10) * 2);
    fields[0] = HTTP2_FIELD("grpc-status", digits + at, is_known && code >= 10 ? 2 : 1);
    if (call->status_message.size == 0) {
        return 1;
    }
    fields[1] = HTTP2_FIELD("grpc-message", call->status_message.data, call->status_message.size);
    return 2;
}

static void http2_submit_trailers(struct rpc_call *call)
{
    nghttp2_nv fields[2];
    size_t count = http2_status_fields(call, fields);
    http2_check(nghttp2_submit_trailer(call->conn->session, call->stream_id, fields, count));
}

/* nghttp2 asks how much a DATA frame may carry; the bytes follow in http2_on_send_data.
 * The parameters are its choice. NOLINTNEXTLINE(readability-function-size) */
static ssize_t http2_on_source(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
                               size_t room, uint32_t *flags, nghttp2_data_source *source, void *arg)
{
    (void)session;
    (void)stream_id;
    (void)buffer;
    (void)arg;
    struct rpc_call *call = source->ptr;
    size_t size = call->out_size < room ? call->out_size : room;
    bool is_last = rpc_call_is(call, CALL_ENDING) && size == call->out_size;
    if (size == 0 && !is_last) {
        call->is_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (size > 0) {
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    }
    if (is_last) {
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        http2_submit_trailers(call);
    }
    return (ssize_t)size;
}

static void http2_set_urgency(struct rpc_call *call, uint32_t urgency)
{
    const nghttp2_extpri priority = {.urgency = urgency, .inc = 1}; /* In turns with its equals. */
    http2_check(nghttp2_session_change_extpri_stream_priority(call->conn->session, call->stream_id,
                                                              &priority, 1));
}

static void http2_link_bulk(struct rpc_call *call)
{
    struct rpc_conn *conn = call->conn;
    call->bulk_previous = conn->bulk_last;
    call->bulk_next = NULL;
    if (conn->bulk_last != NULL) {
        conn->bulk_last->bulk_next = call;
    } else {
        conn->bulk_first = call;
    }
    conn->bulk_last = call;
}

static void http2_unlink_bulk(struct rpc_call *call)
{
    struct rpc_conn *conn = call->conn;
    if (call->bulk_previous != NULL) {
        call->bulk_previous->bulk_next = call->bulk_next;
    } else {
        conn->bulk_first = call->bulk_next;
    }
    if (call->bulk_next != NULL) {
        call->bulk_next->bulk_previous = call->bulk_previous;
    } else {
        conn->bulk_last = call->bulk_previous;
    }
}

void rpc_http2_forget_bulk(struct rpc_call *call)
{
    if (!call->is_bulk) {
        return;
    }
    call->is_bulk = false;
    http2_unlink_bulk(call);
    if (call->conn->promoted == call) {
        call->conn->promoted = NULL;
    }
}

void rpc_http2_set_bulk(struct rpc_call *call, bool is_bulk)
{
    ASSERT(call->is_bulk != is_bulk);
    if (is_bulk) {
        call->is_bulk = true;
        http2_link_bulk(call);
    } else {
        rpc_http2_forget_bulk(call);
    }
    http2_set_urgency(call, is_bulk ? HTTP2_URGENCY_BULK : NGHTTP2_EXTPRI_DEFAULT_URGENCY);
}

/* Bulk has waited long enough, or had its turn. A stream whose window is full gives its turn up. */
static bool http2_must_balance(const struct rpc_conn *conn)
{
    return conn->urgent_run >= LIMIT_CONN_URGENT_RUN ||
           (conn->promoted != NULL && conn->promoted_sent);
}

/* Not inside of a callback of the session. */
static void http2_balance(struct rpc_conn *conn)
{
    bool is_due = conn->urgent_run >= LIMIT_CONN_URGENT_RUN;
    struct rpc_call *call = conn->promoted;
    conn->urgent_run = 0;
    conn->promoted = NULL;
    conn->promoted_sent = false;
    if (call != NULL) {
        http2_set_urgency(call, HTTP2_URGENCY_BULK);
    }
    call = conn->bulk_first;
    if (is_due && call != NULL) {
        http2_unlink_bulk(call); /* The next one next time. */
        http2_link_bulk(call);
        http2_set_urgency(call, NGHTTP2_EXTPRI_DEFAULT_URGENCY);
        conn->promoted = call;
    }
}

static int http2_on_send_data(nghttp2_session *session, nghttp2_frame *frame,
                              const uint8_t *frame_header, size_t size, nghttp2_data_source *source,
                              void *arg)
{
    (void)session;
    struct rpc_conn *conn = arg;
    ASSERT(frame->data.padlen == 0);
    if (rpc_out_is_full(&conn->io->out) || http2_must_balance(conn)) {
        return NGHTTP2_ERR_WOULDBLOCK;
    }
    struct rpc_call *call = source->ptr;
    if (call->is_bulk) {
        conn->urgent_run = 0;
        conn->promoted_sent |= call == conn->promoted;
    } else if (conn->bulk_first != NULL) {
        conn->urgent_run += size;
    }
    rpc_out_copy(&conn->io->out, frame_header, 9);
    rpc_call_take(call, &conn->io->out, size);
    return 0;
}

static int http2_on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct rpc_conn *conn = arg;
    if (frame->hd.type != NGHTTP2_HEADERS) {
        conn->ping_forgive |= frame->hd.type == NGHTTP2_DATA;
        return 0;
    }
    conn->ping_forgive = true;
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
        struct rpc_call *call = http2_call_of(session, frame->hd.stream_id);
        if (call != NULL && !call->half_closed) {
            /* The client need not send the rest. */
            http2_check(nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                                  NGHTTP2_NO_ERROR));
        }
    }
    return 0;
}

bool rpc_http2_gather(struct rpc_conn *conn)
{
    struct rpc_out *out = &conn->io->out;
    while (!rpc_out_is_full(out)) {
        if (http2_must_balance(conn)) {
            http2_balance(conn);
        }
        const uint8_t *data;
        ssize_t size = nghttp2_session_mem_send(conn->session, &data);
        ASSERT(size != NGHTTP2_ERR_NOMEM);
        if (size < 0) {
            return false;
        }
        if (size == 0 && !http2_must_balance(conn)) {
            break;
        }
        rpc_out_copy(out, data, (size_t)size);
    }
    return true;
}

static nghttp2_nv http2_status_field(uint32_t http_status)
{
    switch (http_status) {
    case 400:
        return HTTP2_FIELD_LIT(":status", "400");
    case 405:
        return HTTP2_FIELD_LIT(":status", "405");
    case 415:
        return HTTP2_FIELD_LIT(":status", "415");
    default:
        return HTTP2_FIELD_LIT(":status", "200");
    }
}

void rpc_http2_respond(struct rpc_call *call)
{
    nghttp2_nv fields[4] = {http2_status_field(call->http_status),
                            HTTP2_FIELD_LIT("content-type", "application/grpc")};
    size_t count = 2;
    bool is_whole = rpc_call_is(call, CALL_ENDING) && call->out_size == 0;
    if (is_whole) {
        count += http2_status_fields(call, fields + 2);
        http2_check(
            nghttp2_submit_response(call->conn->session, call->stream_id, fields, count, NULL));
        return;
    }
    if (call->is_gzip) {
        fields[count++] = HTTP2_FIELD_LIT("grpc-encoding", "gzip");
    }
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = http2_on_source};
    http2_check(
        nghttp2_submit_response(call->conn->session, call->stream_id, fields, count, &provider));
    if (call->method->kind != RPC_UNARY) {
        http2_set_urgency(call, NGHTTP2_EXTPRI_DEFAULT_URGENCY); /* Streams take turns. */
    }
}

void rpc_http2_resume(struct rpc_call *call)
{
    http2_check(nghttp2_session_resume_data(call->conn->session, call->stream_id));
}

void rpc_http2_reset(struct rpc_call *call, uint32_t error_code)
{
    http2_check(nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE, call->stream_id,
                                          error_code));
    rpc_conn_touch(call->conn);
}

static void http2_consumed(struct rpc_call *call, int result)
{
    http2_check(result);
    rpc_conn_touch(call->conn); /* A WINDOW_UPDATE may be due. */
}

void rpc_http2_consume_both(struct rpc_call *call, size_t size)
{
    http2_consumed(call, nghttp2_session_consume(call->conn->session, call->stream_id, size));
}

void rpc_http2_consume_conn(struct rpc_call *call, size_t size)
{
    http2_consumed(call, nghttp2_session_consume_connection(call->conn->session, size));
}

void rpc_http2_consume_stream(struct rpc_call *call, size_t size)
{
    http2_consumed(call,
                   nghttp2_session_consume_stream(call->conn->session, call->stream_id, size));
}

/* ---- life ---------------------------------------------------------------------------------- */

nghttp2_session_callbacks *rpc_http2_callbacks_new(void)
{
    nghttp2_session_callbacks *callbacks;
    ASSERT(nghttp2_session_callbacks_new(&callbacks) == 0);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, http2_on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, http2_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, http2_on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, http2_on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, http2_on_stream_close);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, http2_on_send_data);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, http2_on_sent);
    return callbacks;
}

nghttp2_option *rpc_http2_options_new(void)
{
    nghttp2_option *options;
    ASSERT(nghttp2_option_new(&options) == 0);
    nghttp2_option_set_no_auto_window_update(options, 1);
    nghttp2_option_set_no_closed_streams(options, 1);
    nghttp2_option_set_no_http_messaging(options, 1); /* Ours are in headers.c. */
    /* A client may cancel thousands of calls at once; nghttp2's default ends the connection. */
    nghttp2_option_set_stream_reset_rate_limit(options, LIMIT_STREAM_RESETS, LIMIT_STREAM_RESETS);
    return options;
}

void rpc_http2_start(struct rpc_conn *conn)
{
    const struct rpc_config *config = conn->io->config;
    ASSERT(nghttp2_session_server_new2(&conn->session, conn->io->callbacks, conn,
                                       conn->io->options) == 0);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, config->concurrent_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, LIMIT_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, LIMIT_HTTP_HEADER_SIZE},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1}, /* Ours: rpc_http2_set_bulk. */
    };
    ASSERT(nghttp2_submit_settings(conn->session, NGHTTP2_FLAG_NONE, settings,
                                   ARRAY_COUNT(settings)) == 0);
    ASSERT(nghttp2_session_set_local_window_size(conn->session, NGHTTP2_FLAG_NONE, 0,
                                                 LIMIT_CONN_WINDOW) == 0);
    /* The timer of the handshake runs on until SETTINGS come. */
    if (conn->io->draining) {
        rpc_http2_drain(conn);
    }
}

void rpc_http2_free(struct rpc_conn *conn)
{
    nghttp2_session_del(conn->session); /* NULL is fine. */
    conn->session = NULL;
}

void rpc_http2_calm(struct rpc_conn *conn)
{
    if (rpc_conn_is(conn, CONN_HTTP2) && !conn->must_end) {
        http2_end_calmly(conn, SLICE_LIT("unread_answers"));
        rpc_conn_touch(conn);
    }
}

bool rpc_http2_is_clogged(const struct rpc_conn *conn)
{
    return conn->rest != NULL && conn->session != NULL &&
           nghttp2_session_get_outbound_queue_size(conn->session) >= LIMIT_CONN_FRAMES;
}

bool rpc_http2_is_over(const struct rpc_conn *conn)
{
    return conn->drain != CONN_NOTICED && nghttp2_session_want_write(conn->session) == 0 &&
           nghttp2_session_want_read(conn->session) == 0;
}

void rpc_http2_drain(struct rpc_conn *conn)
{
    if (conn->drain != CONN_SERVING) {
        return;
    }
    /* A request that is on its way now is still taken. When the ping comes back, the client has
     * seen the notice and sends no more. */
    conn->drain = CONN_NOTICED;
    http2_check(nghttp2_submit_shutdown_notice(conn->session));
    http2_check(nghttp2_submit_ping(conn->session, NGHTTP2_FLAG_NONE, http2_goaway_ping));
    rpc_conn_arm(conn, LIMIT_GOAWAY_MS * NS_PER_MS);
    rpc_conn_touch(conn);
}

void rpc_http2_on_timer(struct rpc_conn *conn)
{
    const struct rpc_config *config = conn->io->config;
    if (conn->drain == CONN_NOTICED) {
        http2_finish_goaway(conn);
        return;
    }
    if (conn->drain == CONN_DRAINING) {
        http2_fail_silent(conn);
        return;
    }
    if (!conn->is_settled) {
        rpc_conn_close(conn);
        return;
    }
    uint64_t now_ns = rpc_io_now_ns(conn->io);
    if (conn->ping_waits && conn->read_ns < conn->our_ping_ns) {
        rpc_conn_close(conn); /* Nothing came, not even the answer to our ping. */
        return;
    }
    conn->ping_waits = false;
    uint64_t silent_ns = now_ns - conn->read_ns;
    if (silent_ns < config->keepalive_interval_ns) {
        rpc_conn_arm(conn, config->keepalive_interval_ns - silent_ns);
        return;
    }
    conn->ping_waits = true;
    conn->our_ping_ns = now_ns;
    http2_check(nghttp2_submit_ping(conn->session, NGHTTP2_FLAG_NONE, http2_alive_ping));
    rpc_conn_arm(conn, config->keepalive_timeout_ns);
    rpc_conn_touch(conn);
}
