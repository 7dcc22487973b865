/* A call's life, its messages and its handler. Headers are headers.c, answers answer.c. */
#include "rpc/call.h"

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/metrics.h"
#include "rpc/budget.h"
#include "rpc/gzip.h"

enum {
    CALL_ARENA_KEEP = 64 * 1024, /* Of each of the LIMIT_CALLS_POOLED, at most. */
    CALL_ARENA_FREE = 4096, /* Not counted: the first block is within LIMIT_CONN_CALLS' 7 KB. */
};

static const struct sm_state call_states[CALL_STATE_COUNT] = {
    [CALL_HEADERS] = {"headers", SM_TO(CALL_OPEN) | SM_TO(CALL_ENDING) | SM_TO(CALL_GONE)},
    [CALL_OPEN] = {"open", SM_TO(CALL_ENDING) | SM_TO(CALL_GONE)},
    [CALL_ENDING] = {"ending", SM_TO(CALL_GONE)},
    [CALL_GONE] = {"gone", 0},
};

/* ---- life ---------------------------------------------------------------------------------- */

static void call_link(struct rpc_call *call)
{
    struct rpc_io *io = call->io;
    struct rpc_conn *conn = call->conn;
    call->next = io->calls;
    if (io->calls != NULL) {
        io->calls->previous = call;
    }
    io->calls = call;
    io->call_count++;
    call->conn_next = conn->calls;
    if (conn->calls != NULL) {
        conn->calls->conn_previous = call;
    }
    conn->calls = call;
    conn->call_count++;
    atomic_store_explicit(&io->load, io->conn_count + io->call_count, memory_order_relaxed);
}

static void call_unlink_conn(struct rpc_call *call)
{
    struct rpc_conn *conn = call->conn;
    if (call->conn_previous != NULL) {
        call->conn_previous->conn_next = call->conn_next;
    } else {
        conn->calls = call->conn_next;
    }
    if (call->conn_next != NULL) {
        call->conn_next->conn_previous = call->conn_previous;
    }
    call->conn_next = NULL;
    call->conn_previous = NULL;
    ASSERT(conn->call_count > 0);
    conn->call_count--;
}

static void call_unlink_io(struct rpc_call *call)
{
    struct rpc_io *io = call->io;
    if (call->previous != NULL) {
        call->previous->next = call->next;
    } else {
        io->calls = call->next;
    }
    if (call->next != NULL) {
        call->next->previous = call->previous;
    }
    ASSERT(io->call_count > 0);
    io->call_count--;
    atomic_store_explicit(&io->load, io->conn_count + io->call_count, memory_order_relaxed);
}

struct rpc_call *rpc_call_new(struct rpc_conn *conn, int32_t stream_id)
{
    struct rpc_io *io = conn->io;
    struct rpc_call *call = io->pool;
    if (call != NULL) {
        io->pool = call->next;
        io->pool_count--;
        struct arena arena = call->arena;
        memset(call, 0, offsetof(struct rpc_call, arena));
        call->arena = arena;
    } else {
        call = mem_alloc(sizeof(*call));
        arena_init(&call->arena, LIMIT_CALL_ARENA_MAX);
    }
    sm_init(&call->sm, call_states, CALL_STATE_COUNT, CALL_HEADERS);
    call->io = io;
    call->conn = conn;
    call->stream_id = stream_id;
    call->refs = 1;
    call->conn_held = conn->held;
    call->conn_held->refs++;
    call->deadline_ns = UINT64_MAX;
    call->http_status = 200;
    call_link(call);
    return call;
}

/* Counts memory of the call on the connection; |held| of the call follows. */
static void call_hold(struct rpc_call *call, size_t size)
{
    call->held += size;
    call->conn_held->size += size;
    call->io->held_size += size;
}

static void call_release(struct rpc_call *call, size_t size)
{
    ASSERT(call->held >= size);
    ASSERT(call->conn_held->size >= size);
    call->held -= size;
    call->conn_held->size -= size;
    ASSERT(call->io->held_size >= size);
    call->io->held_size -= size;
}

void rpc_call_count_arena(struct rpc_call *call)
{
    size_t used = call->arena.size_used;
    size_t counts = used > CALL_ARENA_FREE ? used - CALL_ARENA_FREE : 0;
    ASSERT(counts >= call->arena_counted);
    call_hold(call, counts - call->arena_counted);
    call->arena_counted = counts;
}

/* What stays until the last reference goes. */
static size_t call_kept_size(const struct rpc_call *call)
{
    return call->arena_counted + (call->kept != NULL ? call->message.size : 0);
}

/* The call's memory is free, or about to be. */
static void call_let_go(struct rpc_call *call)
{
    mem_free(call->kept);
    call_release(call, call->held);
    rpc_held_unref(call->conn_held);
}

/* Input that will not be looked at any more. */
void rpc_call_drop_input(struct rpc_call *call)
{
    call->input_done = true;
    if (call->backlog.size > 0) {
        rpc_http2_consume_stream(call, call->backlog.size);
    }
    buf_fini(&call->backlog);
    rpc_frame_next(&call->frame);
    call->frame_counted = 0;
    call_release(call, call->held - call_kept_size(call));
}

void rpc_call_tell_end(struct rpc_call *call)
{
    if (call->is_known && !call->end_told && call->method->on_end != NULL) {
        call->end_told = true;
        call->method->on_end(call);
    }
}

void rpc_call_gone(struct rpc_call *call)
{
    if (rpc_call_is(call, CALL_GONE)) {
        return;
    }
    if (call->method != NULL) {
        bool has_status = rpc_call_is(call, CALL_ENDING);
        metrics_call_handled(call->counter, has_status ? call->status : RPC_CANCELLED);
    }
    sm_move(&call->sm, CALL_GONE);
    timers_disarm(&call->io->loop.timers, &call->deadline);
    rpc_call_drop_input(call);
    rpc_call_drop_output(call);
    if (call->is_known && call->method->on_gone != NULL) {
        call->method->on_gone(call);
    }
    rpc_http2_forget_bulk(call);
    call_unlink_conn(call);
    call->conn = NULL;
    rpc_call_unref(call);
}

struct rpc_call *rpc_call_ref(struct rpc_call *call)
{
    ASSERT(call->refs > 0 && call->refs < UINT32_MAX);
    call->refs++;
    return call;
}

void rpc_call_free(struct rpc_call *call)
{
    call_let_go(call);
    call_unlink_io(call);
    arena_fini(&call->arena);
    mem_free(call);
}

void rpc_call_unref(struct rpc_call *call)
{
    ASSERT_ON_LOOP(&call->io->loop);
    ASSERT(call->refs > 0);
    if (--call->refs > 0) {
        return;
    }
    ASSERT(rpc_call_is(call, CALL_GONE));
    struct rpc_io *io = call->io;
    if (io->pool_count >= LIMIT_CALLS_POOLED) {
        rpc_call_free(call);
        rpc_io_check_end(io);
        return;
    }
    call_let_go(call);
    call_unlink_io(call);
    arena_reset(&call->arena);
    if (call->arena.size_used > CALL_ARENA_KEEP) {
        arena_fini(&call->arena);
    }
    call->next = io->pool;
    io->pool = call;
    io->pool_count++;
    rpc_io_check_end(io);
}

/* ---- what a handler may ask ---------------------------------------------------------------- */

const struct rpc_method *rpc_call_method(const struct rpc_call *call)
{
    return call->method;
}

struct loop *rpc_call_loop(const struct rpc_call *call)
{
    return &call->io->loop;
}

uint32_t rpc_call_thread(const struct rpc_call *call)
{
    return call->io->index;
}

void **rpc_call_connection_user(const struct rpc_call *call)
{
    ASSERT(call->conn != NULL);
    return &call->conn->user;
}

struct arena *rpc_call_arena(struct rpc_call *call)
{
    return &call->arena;
}

void **rpc_call_user(struct rpc_call *call)
{
    return &call->user;
}

struct slice rpc_call_metadata(const struct rpc_call *call, const char *name)
{
    const char *const *names = call->io->config->metadata;
    for (uint32_t i = 0; names != NULL && names[i] != NULL; i++) {
        if (strcmp(names[i], name) == 0) {
            return call->metadata[i];
        }
    }
    return SLICE_EMPTY;
}

uint64_t rpc_call_deadline_ns(const struct rpc_call *call)
{
    return call->deadline_ns;
}

bool rpc_call_is_alive(const struct rpc_call *call)
{
    return rpc_call_is(call, CALL_OPEN);
}

static void call_fail_words(struct rpc_call *call, int code, const char *words)
{
    rpc_fail(call, code, slice_str(words));
}

/* False, and the call failed, when too much is held for its connection's calls. */
static bool call_check_ceiling(struct rpc_call *call)
{
    const char *words;
    if (call->conn_held->size > call->io->config->conn_in_max) {
        words = "too many bytes of requests on one connection";
    } else if (rpc_budget_denies_input(call->io, call->conn_held->size)) {
        words = "too many bytes of requests on all connections";
    } else {
        return true;
    }
    metric_add(METRIC_drover_refused_requests_total, 1);
    call_fail_words(call, RPC_RESOURCE_EXHAUSTED, words);
    return false;
}

/* ---- headers ------------------------------------------------------------------------------- */

void rpc_call_refuse(struct rpc_call *call, uint32_t http_status, int code, const struct buf *words)
{
    call->http_status = http_status;
    rpc_call_end(call, code, buf_slice(words));
}

/* grpc-go resets the stream instead, and leaves the status to the client, which has a clock of its
 * own: it sees DeadlineExceeded either way. Trailers also tell those that have none. */
static void call_on_deadline(struct timer *timer)
{
    struct rpc_call *call = CONTAINER_OF(timer, struct rpc_call, deadline);
    ASSERT(rpc_call_is(call, CALL_OPEN));
    if (call->out_size > 0) {
        /* Trailers may not cut a message in two. */
        rpc_http2_reset(call, NGHTTP2_CANCEL);
        rpc_call_tell_end(call);
        return;
    }
    rpc_fail_err(call, ERR_DEADLINE_EXCEEDED);
}

void rpc_call_begin(struct rpc_call *call)
{
    rpc_call_count_arena(call);
    if (rpc_call_refuse_headers(call)) {
        return;
    }
    call->method = rpc_methods_find(call->io->methods, call->path);
    if (call->method == NULL) {
        rpc_call_refuse_method(call);
        return;
    }
    call->counter = rpc_methods_counter(call->io->methods, call->method);
    metrics_call_started(call->counter);
    if (rpc_call_refuse_encoding(call)) {
        return;
    }
    sm_move(&call->sm, CALL_OPEN);
    if (call->io->draining && call->method->kind != RPC_UNARY) {
        rpc_fail_err(call, ERR_STOPPED);
        return;
    }
    if (!call_check_ceiling(call)) {
        return;
    }
    if (call->has_timeout) {
        uint64_t now_ns = rpc_io_now_ns(call->io);
        uint64_t left_ns = call->deadline_ns > now_ns ? call->deadline_ns - now_ns : 0;
        timers_arm(&call->io->loop.timers, &call->deadline, left_ns, call_on_deadline);
    }
    if (call->method->on_start != NULL) {
        call->is_known = true;
        call->method->on_start(call);
    }
}

/* ---- messages in --------------------------------------------------------------------------- */

static void call_fail_size(struct rpc_call *call)
{
    struct buf words = {0};
    buf_printf(&words, "grpc: received message larger than max (%u vs. %u)", call->frame.size,
               call->io->config->request_size_max);
    rpc_fail(call, RPC_RESOURCE_EXHAUSTED, buf_slice(&words));
    buf_fini(&words);
}

static void call_fail_flag(struct rpc_call *call)
{
    uint8_t flag = rpc_frame_flag(&call->frame);
    struct buf words = {0};
    if (flag == 1) {
        buf_add_slice(&words,
                      SLICE_LIT("grpc: compressed flag set with identity or empty encoding"));
    } else {
        buf_printf(&words, "grpc: received unexpected payload format %u", flag);
    }
    rpc_fail(call, RPC_INTERNAL, buf_slice(&words));
    buf_fini(&words);
}

/* Keep the first message for the call's life: out of the frame, or copied. */
static bool call_keep(struct rpc_call *call, struct slice message)
{
    call->has_message = true;
    if (message.size > 0 && message.data == call->frame.data) {
        call->kept = call->frame.data;
        call->frame.data = NULL;
        call->message = message;
        call_release(call, call->frame_counted);
        call->frame_counted = 0;
        call_hold(call, message.size);
    } else if (!arena_copy(&call->arena, message, &call->message)) {
        call->message = SLICE_EMPTY;
        rpc_fail_err(call, ERR_REQUEST_TOO_LARGE);
        return false;
    }
    rpc_call_count_arena(call);
    return call_check_ceiling(call);
}

/* What the handler takes from the arena counts from now on; later answers take little. */
static void call_deliver(struct rpc_call *call, struct slice message)
{
    call->is_known = true;
    call->method->on_message(call, message);
    rpc_call_count_arena(call);
}

static void call_message_bidi(struct rpc_call *call, struct slice message)
{
    /* Out of the frame meanwhile: a handler that ends the call may go on reading it. */
    uint8_t *memory = call->frame.data;
    call->frame.data = NULL;
    call->has_message = true;
    call_deliver(call, message);
    mem_free(memory);
}

static void call_message(struct rpc_call *call, struct slice message)
{
    metrics_call_received(call->counter);
    switch (call->method->kind) {
    case RPC_UNARY:
        call->input_done = true;
        if (call_keep(call, message)) {
            call_deliver(call, call->message);
        }
        break;
    case RPC_SERVER_STREAM:
        if (call->has_message) {
            call_fail_words(call, RPC_INTERNAL,
                            "cardinality violation: received multiple request messages for "
                            "non-client-streaming RPC");
        } else {
            (void)call_keep(call, message);
        }
        break;
    case RPC_BIDI:
        call_message_bidi(call, message);
        break;
    }
}

/* Counts the memory of a message that is being collected. False when that fails the call. */
static bool call_count_frame(struct rpc_call *call)
{
    if (call->frame.room <= call->frame_counted) {
        return true;
    }
    call_hold(call, call->frame.room - call->frame_counted);
    call->frame_counted = call->frame.room;
    return call_check_ceiling(call);
}

/* The plain message takes the place of |packed| in the frame. False when that fails the call. */
static bool call_unpack(struct rpc_call *call, struct slice packed, struct slice *message)
{
    struct buf plain = {0};
    struct buf why = {0};
    uint32_t size_max = call->io->config->request_size_max;
    enum rpc_status status = rpc_gzip_inflate(packed, size_max, &plain, &why);
    if (status != RPC_OK) {
        rpc_fail(call, (int)status, buf_slice(&why));
        buf_fini(&plain);
        buf_fini(&why);
        return false;
    }
    struct rpc_frame *frame = &call->frame;
    call_release(call, call->frame_counted);
    call->frame_counted = 0;
    mem_free(frame->data);
    frame->data = mem_realloc(plain.data, plain.size + 1); /* Gives back what is not needed. */
    frame->have = (uint32_t)plain.size;
    frame->room = (uint32_t)plain.size + 1;
    *message = slice_of(frame->data, plain.size);
    return call_count_frame(call);
}

/* |message| is whole, as it came. */
static void call_message_whole(struct rpc_call *call, struct slice message)
{
    uint8_t flag = rpc_frame_flag(&call->frame);
    if (flag == 0) {
        call_message(call, message);
    } else if (flag != 1 || !call->is_gzip) {
        call_fail_flag(call);
    } else if (call_unpack(call, message, &message)) {
        call_message(call, message);
    }
    if (!call->input_done) {
        call_release(call, call->frame_counted);
        call->frame_counted = 0;
        rpc_frame_next(&call->frame);
    }
}

static bool call_is_stalled(const struct rpc_call *call)
{
    return call->is_paused || (call->method != NULL && call->method->kind == RPC_BIDI &&
                               call->out_size > (size_t)2 * LIMIT_STREAM_OUT_HIGH);
}

/* Takes messages from the front of |bytes| until they end, the call does, or it is stalled. */
static void call_input(struct rpc_call *call, struct slice *bytes)
{
    while (bytes->size > 0 && !call->input_done && !call_is_stalled(call)) {
        struct slice message;
        enum rpc_frame_result result =
            rpc_frame_feed(&call->frame, bytes, call->io->config->request_size_max, &message);
        if (!call_count_frame(call)) {
            return;
        }
        switch (result) {
        case RPC_FRAME_MORE:
            break;
        case RPC_FRAME_MESSAGE:
            call_message_whole(call, message);
            break;
        case RPC_FRAME_TOO_LARGE:
            call_fail_size(call);
            break;
        }
    }
}

static void call_end_of_unary(struct rpc_call *call)
{
    if (!call->has_message) {
        call_fail_words(call, RPC_UNKNOWN,
                        rpc_frame_is_between(&call->frame) ? "EOF" : "unexpected EOF");
    }
}

static void call_end_of_input(struct rpc_call *call)
{
    if (call->end_delivered || !rpc_call_is(call, CALL_OPEN)) {
        return;
    }
    call->end_delivered = true;
    if (call->method->kind == RPC_UNARY) {
        call_end_of_unary(call);
        return;
    }
    if (!rpc_frame_is_between(&call->frame)) {
        call_fail_words(call, RPC_INTERNAL, "unexpected EOF");
        return;
    }
    if (call->method->kind == RPC_BIDI) {
        if (call->method->on_half_close != NULL) {
            call->is_known = true;
            call->method->on_half_close(call);
        }
        return;
    }
    if (!call->has_message) {
        call_fail_words(call, RPC_INTERNAL,
                        "cardinality violation: received no request message from "
                        "non-client-streaming RPC");
        return;
    }
    call_deliver(call, call->message);
}

void rpc_call_data(struct rpc_call *call, struct slice bytes)
{
    size_t size = bytes.size;
    if (call->backlog.size == 0) {
        call_input(call, &bytes);
    }
    if (bytes.size == 0 || call->input_done) {
        rpc_http2_consume_both(call, size);
        return;
    }
    /* Stalled. Bounded by the stream's window, which is not given back for these. */
    buf_add_slice(&call->backlog, bytes);
    call_hold(call, bytes.size);
    rpc_http2_consume_conn(call, size);
    rpc_http2_consume_stream(call, size - bytes.size);
    (void)call_check_ceiling(call);
}

void rpc_call_half_close(struct rpc_call *call)
{
    call->half_closed = true;
    if (call->backlog.size == 0) {
        call_end_of_input(call);
    }
}

static void call_feed_backlog(struct rpc_call *call)
{
    struct slice bytes = buf_slice(&call->backlog);
    /* Out of the call while handlers run: ending it drops the backlog. */
    struct buf taken = call->backlog;
    call->backlog = (struct buf){0};
    call_input(call, &bytes);
    size_t used = taken.size - bytes.size;
    if (call->input_done) {
        used = taken.size;
    } else {
        call_release(call, used);
        memmove(taken.data, bytes.data, bytes.size);
        taken.size = bytes.size;
        call->backlog = taken;
        taken = (struct buf){0};
    }
    rpc_http2_consume_stream(call, used);
    buf_fini(&taken);
    if (call->half_closed && call->backlog.size == 0) {
        call_end_of_input(call);
    }
}

void rpc_call_wake(struct rpc_call *call)
{
    if (rpc_call_is(call, CALL_OPEN) && call->backlog.size > 0 && !call_is_stalled(call)) {
        call_feed_backlog(call);
    }
    bool is_due =
        rpc_call_is(call, CALL_OPEN) && call->is_blocked && call->out_size <= LIMIT_STREAM_OUT_LOW;
    if (is_due) {
        call->is_blocked = false;
        if (call->method->on_writable != NULL) {
            call->method->on_writable(call);
        }
    }
}

void rpc_call_await(struct rpc_call *call)
{
    if (!call->is_awaited) {
        call->is_awaited = true;
        call->awake_next = call->io->awake;
        call->io->awake = rpc_call_ref(call);
        rpc_io_stay_awake(call->io);
    }
}

void rpc_call_pause(struct rpc_call *call, bool paused)
{
    ASSERT_ON_LOOP(&call->io->loop);
    call->is_paused = paused;
    if (!paused && call->backlog.size > 0) {
        rpc_call_await(call);
    }
}
