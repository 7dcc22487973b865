/* Connections of one io thread: first bytes, writing, ends. Protocols are http2.c and http1.c. */
#include "rpc/conn.h"

#include "core/mem.h"
#include "core/metrics.h"
#include "rpc/budget.h"
#include "rpc/call.h"

static const struct sm_state conn_states[CONN_STATE_COUNT] = {
    [CONN_NEW] = {"new", SM_TO(CONN_HTTP2) | SM_TO(CONN_HTTP1) | SM_TO(CONN_CLOSED)},
    [CONN_HTTP2] = {"http2", SM_TO(CONN_LINGERING) | SM_TO(CONN_CLOSED)},
    [CONN_HTTP1] = {"http1", SM_TO(CONN_LINGERING) | SM_TO(CONN_CLOSED)},
    [CONN_LINGERING] = {"lingering", SM_TO(CONN_CLOSED)},
    [CONN_CLOSED] = {"closed", 0},
};

uint64_t rpc_io_now_ns(const struct rpc_io *io)
{
    return clock_now_ns(io->loop.timers.clock);
}

/* ---- life ---------------------------------------------------------------------------------- */

static void conn_on_timer(struct timer *timer)
{
    struct rpc_conn *conn = CONTAINER_OF(timer, struct rpc_conn, timer);
    if (rpc_conn_is(conn, CONN_HTTP2)) {
        rpc_http2_on_timer(conn);
    } else if (rpc_conn_is(conn, CONN_HTTP1)) {
        rpc_http1_on_timer(conn);
    } else {
        rpc_conn_close(conn);
    }
}

void rpc_conn_arm(struct rpc_conn *conn, uint64_t after_ns)
{
    ASSERT(!rpc_conn_is(conn, CONN_CLOSED));
    timers_arm(&conn->io->loop.timers, &conn->timer, after_ns, conn_on_timer);
}

static void conn_link(struct rpc_conn *conn)
{
    struct rpc_io *io = conn->io;
    conn->next = io->conns;
    if (io->conns != NULL) {
        io->conns->previous = conn;
    }
    io->conns = conn;
    io->conn_count++;
    metric_add(METRIC_drover_connections, 1);
    atomic_store_explicit(&io->load, io->conn_count + io->call_count, memory_order_relaxed);
    atomic_store_explicit(&io->open, io->conn_count, memory_order_relaxed);
}

static void conn_unlink(struct rpc_conn *conn)
{
    struct rpc_io *io = conn->io;
    if (conn->previous != NULL) {
        conn->previous->next = conn->next;
    } else {
        io->conns = conn->next;
    }
    if (conn->next != NULL) {
        conn->next->previous = conn->previous;
    }
    ASSERT(io->conn_count > 0);
    io->conn_count--;
    metric_add(METRIC_drover_connections, -1);
    atomic_store_explicit(&io->load, io->conn_count + io->call_count, memory_order_relaxed);
    atomic_store_explicit(&io->open, io->conn_count, memory_order_relaxed);
}

static void conn_forget_dirty(struct rpc_conn *conn)
{
    struct rpc_conn **at = &conn->io->dirty;
    while (*at != conn) {
        at = &(*at)->dirty_next;
    }
    *at = conn->dirty_next;
    if (conn->io->dirty_tail == &conn->dirty_next) {
        conn->io->dirty_tail = at;
    }
    conn->is_dirty = false;
}

void rpc_held_unref(struct rpc_held *held)
{
    ASSERT(held->refs > 0);
    if (--held->refs == 0) {
        ASSERT(held->size == 0);
        mem_free(held);
    }
}

static void conn_end_calls(struct rpc_conn *conn)
{
    while (conn->calls != NULL) {
        rpc_call_gone(conn->calls);
    }
}

void rpc_conn_close(struct rpc_conn *conn)
{
    if (rpc_conn_is(conn, CONN_CLOSED)) {
        return;
    }
    conn_end_calls(conn);
    if (conn->user != NULL && conn->io->config->conn_gone != NULL) {
        conn->io->config->conn_gone(conn->user);
    }
    conn->user = NULL;
    sm_move(&conn->sm, CONN_CLOSED);
    timers_disarm(&conn->io->loop.timers, &conn->timer);
    conn->stream->ops->close(conn->stream);
}

static void conn_on_closed(struct rpc_stream *stream)
{
    struct rpc_conn *conn = stream->owner;
    struct rpc_io *io = conn->io;
    ASSERT(rpc_conn_is(conn, CONN_CLOSED));
    ASSERT(conn->calls == NULL);
    if (conn->is_dirty) {
        conn_forget_dirty(conn);
    }
    rpc_http2_free(conn);
    rpc_http1_free(conn);
    rpc_out_rest_free(conn->rest);
    conn_unlink(conn);
    rpc_held_unref(conn->held);
    mem_free(conn);
    rpc_io_check_end(io);
}

/* ---- writing ------------------------------------------------------------------------------- */

void rpc_conn_touch(struct rpc_conn *conn)
{
    struct rpc_io *io = conn->io;
    if (conn->is_dirty || rpc_conn_is(conn, CONN_CLOSED)) {
        return;
    }
    conn->is_dirty = true;
    conn->dirty_next = NULL;
    *io->dirty_tail = conn;
    io->dirty_tail = &conn->dirty_next;
    rpc_io_stay_awake(io);
}

bool rpc_conn_write(struct rpc_conn *conn)
{
    struct rpc_out *out = &conn->io->out;
    ASSERT(conn->rest == NULL);
    if (out->count == 0) {
        return true;
    }
    ssize_t taken = conn->stream->ops->try_write(conn->stream, out->bufs, out->count);
    if (taken < 0) {
        rpc_out_clear(out);
        return false;
    }
    if ((size_t)taken == out->size) {
        rpc_out_clear(out);
        return true;
    }
    conn->rest = rpc_out_keep_rest(out, (size_t)taken);
    conn->stream->ops->write(conn->stream, conn->rest->bufs, conn->rest->count);
    return true;
}

static void conn_shutdown(struct rpc_conn *conn)
{
    conn->stream->ops->shutdown(conn->stream);
    rpc_conn_arm(conn, LIMIT_LINGER_MS * NS_PER_MS);
}

void rpc_conn_linger(struct rpc_conn *conn)
{
    if (rpc_conn_is(conn, CONN_LINGERING) || rpc_conn_is(conn, CONN_CLOSED)) {
        return;
    }
    bool is_fine = true;
    if (rpc_conn_is(conn, CONN_HTTP2) && conn->rest == NULL) {
        /* A GOAWAY leaves before any data. A broken session may still say why. */
        is_fine = rpc_http2_gather(conn) && rpc_conn_write(conn);
        rpc_out_clear(&conn->io->out);
    }
    conn_end_calls(conn);
    if (!is_fine) {
        rpc_conn_close(conn);
        return;
    }
    sm_move(&conn->sm, CONN_LINGERING);
    conn->stream->ops->pause(conn->stream, false);
    if (conn->rest == NULL) {
        conn_shutdown(conn);
    } else {
        rpc_conn_arm(conn, LIMIT_HANDSHAKE_MS * NS_PER_MS);
    }
}

/* All that the session has, in writes of a limited size. False when broken. */
static bool conn_flush_http2(struct rpc_conn *conn)
{
    for (size_t written = 0; conn->rest == NULL;) {
        if (!rpc_http2_gather(conn)) {
            rpc_out_clear(&conn->io->out);
            return false;
        }
        size_t size = conn->io->out.size;
        if (size == 0) {
            break;
        }
        metric_add(METRIC_etcd_network_client_grpc_sent_bytes_total, (int64_t)size);
        if (!rpc_conn_write(conn)) {
            return false;
        }
        written += size;
        if (written >= conn->io->config->conn_turn_write) {
            rpc_conn_touch(conn); /* Others first; then go on. */
            break;
        }
    }
    return true;
}

bool rpc_conn_has_room(const struct rpc_conn *conn)
{
    return conn->out_unary < LIMIT_CONN_UNREAD && !rpc_budget_is_over(conn);
}

static void conn_tell_room(struct rpc_conn *conn)
{
    if (conn->awaits_room && !rpc_conn_is(conn, CONN_CLOSED) && rpc_conn_has_room(conn)) {
        conn->awaits_room = false;
        conn->io->config->conn_room(conn->user);
    }
}

/* At the end of a turn. */
static void conn_unhold(struct rpc_conn *conn)
{
    conn->turn_read = 0;
    if (conn->is_held && rpc_conn_is(conn, CONN_HTTP2) && !rpc_http2_is_clogged(conn)) {
        conn->is_held = false;
        conn->stream->ops->pause(conn->stream, false);
    }
}

static void conn_flush(struct rpc_conn *conn)
{
    if (rpc_conn_is(conn, CONN_HTTP1)) {
        if (conn->rest == NULL) {
            rpc_http1_gather(conn);
        }
        return;
    }
    if (!rpc_conn_is(conn, CONN_HTTP2)) {
        return;
    }
    if (!conn_flush_http2(conn)) {
        rpc_conn_close(conn);
    } else if (conn->must_end || (conn->rest == NULL && rpc_http2_is_over(conn))) {
        rpc_conn_linger(conn);
    }
}

void rpc_io_stay_awake(struct rpc_io *io)
{
    ASSERT(io->again.loop != NULL);
    if (uv_is_active((uv_handle_t *)&io->again) == 0) {
        ASSERT(uv_idle_start(&io->again, rpc_io_on_idle) == 0);
    }
}

void rpc_io_on_idle(uv_idle_t *idle)
{
    (void)idle; /* Its being active is what keeps uv from blocking. */
}

static void io_wake_calls(struct rpc_io *io)
{
    struct rpc_call *call = io->awake;
    io->awake = NULL;
    while (call != NULL) {
        struct rpc_call *next = call->awake_next;
        call->is_awaited = false;
        rpc_call_wake(call);
        rpc_call_unref(call);
        call = next;
    }
}

void rpc_io_flush(struct rpc_io *io)
{
    io_wake_calls(io);
    struct rpc_conn *conn = io->dirty;
    io->dirty = NULL;
    io->dirty_tail = &io->dirty;
    while (conn != NULL) {
        struct rpc_conn *next = conn->dirty_next;
        conn->is_dirty = false;
        conn_flush(conn); /* Freed no earlier than in a later callback of uv. */
        conn_tell_room(conn);
        conn_unhold(conn);
        conn = next;
    }
    io_wake_calls(io);
    metric_set(METRIC_drover_request_bytes, (int64_t)io->held_size);
    metric_set(METRIC_drover_answer_bytes, (int64_t)io->out_size);
    if (io->dirty == NULL && io->awake == NULL) {
        ASSERT(uv_idle_stop(&io->again) == 0);
    }
}

static void conn_on_written(struct rpc_stream *stream, bool ok)
{
    struct rpc_conn *conn = stream->owner;
    rpc_out_rest_free(conn->rest);
    conn->rest = NULL;
    if (rpc_conn_is(conn, CONN_CLOSED)) {
        return;
    }
    if (!ok) {
        rpc_conn_close(conn);
    } else if (rpc_conn_is(conn, CONN_LINGERING)) {
        conn_shutdown(conn);
    } else {
        rpc_conn_touch(conn);
    }
}

/* ---- reading ------------------------------------------------------------------------------- */

static void conn_read_http2(struct rpc_conn *conn, struct slice bytes)
{
    metric_add(METRIC_etcd_network_client_grpc_received_bytes_total, (int64_t)bytes.size);
    bool is_fine = rpc_http2_read(conn, bytes);
    rpc_conn_touch(conn);
    if (!is_fine || conn->must_end) {
        rpc_conn_linger(conn);
    }
}

/* Collects the preface as long as it is one. */
static void conn_read_new(struct rpc_conn *conn, struct slice bytes)
{
    size_t take = CONN_PREFACE_SIZE - conn->head_size;
    take = bytes.size < take ? bytes.size : take;
    memcpy(conn->head + conn->head_size, bytes.data, take);
    conn->head_size = (uint8_t)(conn->head_size + take);
    struct slice head = slice_of(conn->head, conn->head_size);
    bool is_preface = memcmp(conn->head, NGHTTP2_CLIENT_MAGIC, conn->head_size) == 0;
    if (is_preface && conn->head_size < CONN_PREFACE_SIZE) {
        return;
    }
    struct slice more = slice_of(bytes.data + take, bytes.size - take);
    if (is_preface) {
        sm_move(&conn->sm, CONN_HTTP2);
        rpc_http2_start(conn);
        conn_read_http2(conn, head);
        if (rpc_conn_is(conn, CONN_HTTP2) && more.size > 0) {
            conn_read_http2(conn, more);
        }
        return;
    }
    sm_move(&conn->sm, CONN_HTTP1);
    rpc_http1_start(conn);
    rpc_http1_read(conn, head);
    if (rpc_conn_is(conn, CONN_HTTP1) && more.size > 0) {
        rpc_http1_read(conn, more);
    }
}

/* Others first; and a client that does not read what its own frames cause is not heard. */
static void conn_hold(struct rpc_conn *conn)
{
    bool is_due = conn->turn_read >= LIMIT_CONN_TURN_READ || rpc_http2_is_clogged(conn);
    if (is_due && !conn->is_held && rpc_conn_is(conn, CONN_HTTP2)) {
        conn->is_held = true;
        conn->stream->ops->pause(conn->stream, true);
        rpc_conn_touch(conn);
    }
}

static void conn_on_read(struct rpc_stream *stream, struct slice bytes)
{
    struct rpc_conn *conn = stream->owner;
    conn->read_ns = rpc_io_now_ns(conn->io);
    conn->turn_read += bytes.size;
    if (rpc_conn_is(conn, CONN_HTTP2)) {
        conn_read_http2(conn, bytes);
    } else if (rpc_conn_is(conn, CONN_HTTP1)) {
        rpc_http1_read(conn, bytes);
    } else if (rpc_conn_is(conn, CONN_NEW)) {
        conn_read_new(conn, bytes);
    }
    conn_hold(conn);
}

static void conn_on_end(struct rpc_stream *stream)
{
    struct rpc_conn *conn = stream->owner;
    if (rpc_conn_is(conn, CONN_HTTP1)) {
        rpc_http1_on_end(conn); /* Half-closed: what was asked is answered. */
    } else {
        rpc_conn_close(conn);
    }
}

static const struct rpc_stream_events conn_events = {
    .on_read = conn_on_read,
    .on_written = conn_on_written,
    .on_end = conn_on_end,
    .on_closed = conn_on_closed,
};

void rpc_conn_open(struct rpc_io *io, int fd, enum rpc_stream_kind kind)
{
    ASSERT_ON_LOOP(&io->loop);
    struct rpc_conn *conn = mem_alloc(sizeof(*conn));
    conn->stream = rpc_stream_open(&io->loop, fd, kind, &io->read_buffer, &conn_events, conn);
    if (conn->stream == NULL) {
        mem_free(conn);
        return;
    }
    conn->io = io;
    conn->held = mem_alloc(sizeof(*conn->held));
    conn->held->refs = 1;
    conn->read_ns = rpc_io_now_ns(io);
    sm_init(&conn->sm, conn_states, CONN_STATE_COUNT, CONN_NEW);
    conn_link(conn);
    rpc_conn_arm(conn, LIMIT_HANDSHAKE_MS * NS_PER_MS);
    conn->stream->ops->start(conn->stream);
    if (io->draining) {
        rpc_conn_drain(conn);
    }
}

void rpc_conn_drain(struct rpc_conn *conn)
{
    if (rpc_conn_is(conn, CONN_HTTP2)) {
        rpc_http2_drain(conn);
    } else if (rpc_conn_is(conn, CONN_HTTP1)) {
        rpc_http1_drain(conn);
    } else if (rpc_conn_is(conn, CONN_NEW)) {
        rpc_conn_close(conn);
    }
}
