/* What a call sends: messages as queued pieces, the status, and when to stop and go on. */
#include "rpc/call.h"

#include "core/mem.h"
#include "core/metrics.h"
#include "rpc/budget.h"
#include "rpc/grpc.h"
#include "rpc/gzip.h"

enum {
    ANSWER_PIECE_ROOM = 2048,    /* Small parts are gathered in pieces of this size. */
    ANSWER_BULK_MIN = 16 * 1024, /* One frame: more waits behind other streams. */
};

/* etcd sends up to this, gRPC's own default. */
#define ANSWER_SIZE_MAX ((size_t)INT32_MAX)

/* ---- the queue ----------------------------------------------------------------------------- */

static void answer_free_piece(struct rpc_call *call, struct rpc_piece *piece)
{
    shared_unref(piece->owner);
    if (piece == &call->first_piece) {
        call->first_piece_used = false;
    } else {
        mem_free(piece);
    }
}

static void answer_append(struct rpc_call *call, struct rpc_piece *piece)
{
    if (call->out_last == NULL) {
        call->out_first = piece;
    } else {
        call->out_last->next = piece;
    }
    call->out_last = piece;
}

/* A piece for small bytes, at the end of the queue; |size| fits into it. */
static struct rpc_piece *answer_piece_for(struct rpc_call *call, size_t size)
{
    struct rpc_piece *last = call->out_last;
    if (last != NULL && last->owner == NULL && last->room - last->filled >= size) {
        return last;
    }
    struct rpc_piece *piece = &call->first_piece;
    if (!call->first_piece_used) {
        call->first_piece_used = true;
        *piece = (struct rpc_piece){.room = CALL_FIRST_PIECE, .inner = call->first_bytes};
    } else {
        piece = mem_alloc_raw(sizeof(*piece) + ANSWER_PIECE_ROOM);
        *piece = (struct rpc_piece){.room = ANSWER_PIECE_ROOM, .inner = (uint8_t *)(piece + 1)};
    }
    ASSERT(size <= piece->room);
    piece->data = piece->inner;
    answer_append(call, piece);
    return piece;
}

/* |size| <= CALL_FIRST_PIECE. */
static void answer_add_small(struct rpc_call *call, const void *data, size_t size)
{
    struct rpc_piece *piece = answer_piece_for(call, size);
    memcpy(piece->inner + piece->filled, data, size);
    piece->filled += (uint32_t)size;
    piece->size += size;
}

static void answer_add_large(struct rpc_call *call, struct slice bytes, struct shared *owner)
{
    struct rpc_piece *piece = mem_alloc_raw(sizeof(*piece));
    *piece = (struct rpc_piece){.size = bytes.size};
    if (owner != NULL) {
        ASSERT(bytes.data >= owner->bytes);
        piece->owner = shared_ref(owner);
        piece->data = bytes.data;
    } else {
        piece->owner = shared_new(bytes.size);
        memcpy(piece->owner->bytes, bytes.data, bytes.size);
        piece->data = piece->owner->bytes;
    }
    answer_append(call, piece);
}

static void answer_count(struct rpc_call *call, size_t size)
{
    struct rpc_conn *conn = call->conn;
    struct rpc_io *io = call->io;
    call->out_size += size;
    conn->out_size += size;
    conn->out_unary += call->method->kind == RPC_UNARY ? size : 0;
    io->out_size += size;
    if (io->out_size > io->out_max) {
        rpc_budget_watch(io);
    }
}

static void answer_uncount(struct rpc_call *call, size_t size)
{
    struct rpc_conn *conn = call->conn;
    size_t unary = call->method != NULL && call->method->kind == RPC_UNARY ? size : 0;
    ASSERT(call->out_size >= size);
    ASSERT(conn->out_size >= size && conn->out_unary >= unary);
    ASSERT(call->io->out_size >= size);
    call->out_size -= size;
    conn->out_size -= size;
    conn->out_unary -= unary;
    call->io->out_size -= size;
}

/* The prefix, with gRPC's |flag|, and |parts|, which have |size| bytes. */
static void answer_add_message(struct rpc_call *call, uint8_t flag, size_t size,
                               const struct rpc_part *parts, size_t part_count)
{
    const uint8_t prefix[RPC_FRAME_PREFIX] = {flag, (uint8_t)(size >> 24), (uint8_t)(size >> 16),
                                              (uint8_t)(size >> 8), (uint8_t)size};
    answer_add_small(call, prefix, sizeof(prefix));
    for (size_t i = 0; i < part_count; i++) {
        if (parts[i].bytes.size >= RPC_OUT_REFERENCE_MIN) {
            answer_add_large(call, parts[i].bytes, parts[i].owner);
        } else if (parts[i].bytes.size > 0) {
            answer_add_small(call, parts[i].bytes.data, parts[i].bytes.size);
        }
    }
    answer_count(call, size + sizeof(prefix));
}

/* False, and the call ended, when the message is too large for gRPC. */
static bool answer_queue(struct rpc_call *call, const struct rpc_part *parts, size_t part_count)
{
    size_t size = 0;
    for (size_t i = 0; i < part_count; i++) {
        size += parts[i].bytes.size;
    }
    if (size > ANSWER_SIZE_MAX) {
        struct buf words = {0};
        buf_printf(&words, "grpc: trying to send message larger than max (%zu vs. %zu)", size,
                   ANSWER_SIZE_MAX);
        rpc_call_end(call, RPC_RESOURCE_EXHAUSTED, buf_slice(&words));
        buf_fini(&words);
        return false;
    }
    if (call->is_gzip && size > 0 && size <= LIMIT_GZIP_ANSWER) {
        /* Compressed because the client compresses, as in grpc-go. */
        struct buf packed = {0};
        rpc_gzip_deflate(parts, part_count, &packed);
        const struct rpc_part part = {.bytes = buf_slice(&packed)};
        answer_add_message(call, 1, packed.size, &part, 1);
        buf_fini(&packed);
    } else {
        answer_add_message(call, 0, size, parts, part_count);
    }
    metrics_call_sent(call->counter);
    return true;
}

void rpc_call_drop_output(struct rpc_call *call)
{
    while (call->out_first != NULL) {
        struct rpc_piece *piece = call->out_first;
        call->out_first = piece->next;
        answer_free_piece(call, piece);
    }
    call->out_last = NULL;
    answer_uncount(call, call->out_size);
    call->urgent_left = 0;
}

/* Up to |size| bytes of the first piece. Returns how many. */
static size_t answer_take_piece(struct rpc_call *call, struct rpc_out *out, size_t size)
{
    struct rpc_piece *piece = call->out_first;
    size_t take = piece->size < size ? piece->size : size;
    if (piece->owner != NULL) {
        rpc_out_share(out, slice_of(piece->data, take), piece->owner);
    } else {
        rpc_out_copy(out, piece->data, take);
    }
    piece->data += take;
    piece->size -= take;
    if (piece->size == 0) {
        if (piece->ends_urgent) {
            ASSERT(call->urgent_left > 0);
            call->urgent_left--;
        }
        call->out_first = piece->next;
        if (call->out_first == NULL) {
            call->out_last = NULL;
        }
        answer_free_piece(call, piece);
    }
    return take;
}

void rpc_call_take(struct rpc_call *call, struct rpc_out *out, size_t size)
{
    answer_uncount(call, size);
    call->out_taken += size;
    call->conn->out_taken += size;
    while (size > 0) {
        size -= answer_take_piece(call, out, size);
    }
    bool is_waiting = call->is_blocked || call->backlog.size > 0;
    if (is_waiting && call->out_size <= LIMIT_STREAM_OUT_LOW) {
        rpc_call_await(call);
    }
}

/* ---- sending ------------------------------------------------------------------------------- */

/* Something was queued, or the end became known. */
static void answer_push(struct rpc_call *call)
{
    if (!call->headers_sent) {
        call->headers_sent = true;
        rpc_http2_respond(call);
    }
    bool is_bulk = call->urgent_left == 0 && call->out_size > ANSWER_BULK_MIN;
    if (is_bulk != call->is_bulk && (is_bulk || call->urgent_left > 0)) {
        rpc_http2_set_bulk(call, is_bulk);
    }
    if (call->is_deferred) {
        call->is_deferred = false;
        rpc_http2_resume(call);
    }
    rpc_conn_touch(call->conn);
}

void rpc_call_end(struct rpc_call *call, int status, struct slice message)
{
    sm_move(&call->sm, CALL_ENDING);
    timers_disarm(&call->io->loop.timers, &call->deadline);
    rpc_call_drop_input(call);
    rpc_call_tell_end(call);
    call->status = status;
    if (message.size > 0) {
        struct buf encoded = {0};
        rpc_grpc_encode_message(message, &encoded);
        if (!arena_copy(&call->arena, buf_slice(&encoded), &call->status_message)) {
            call->status_message = SLICE_EMPTY; /* The code alone must do. */
        }
        buf_fini(&encoded);
    }
    rpc_call_count_arena(call);
    answer_push(call);
}

void rpc_reply(struct rpc_call *call, const struct rpc_part *parts, size_t part_count)
{
    ASSERT_ON_LOOP(&call->io->loop);
    ASSERT(IMPLIES(call->method != NULL, call->method->kind == RPC_UNARY));
    if (rpc_call_is(call, CALL_OPEN) && answer_queue(call, parts, part_count)) {
        rpc_call_end(call, RPC_OK, SLICE_EMPTY);
    }
}

void rpc_fail(struct rpc_call *call, int grpc_code, struct slice message)
{
    ASSERT_ON_LOOP(&call->io->loop);
    if (rpc_call_is(call, CALL_OPEN)) {
        rpc_call_end(call, grpc_code, message);
    }
}

void rpc_fail_err(struct rpc_call *call, enum err err)
{
    ASSERT(err != ERR_OK);
    rpc_fail(call, err_grpc_code(err), slice_str(err_text(err)));
}

bool rpc_send(struct rpc_call *call, const struct rpc_part *parts, size_t part_count, bool urgent)
{
    ASSERT_ON_LOOP(&call->io->loop);
    ASSERT(call->method->kind != RPC_UNARY);
    if (!rpc_call_is(call, CALL_OPEN) || !answer_queue(call, parts, part_count)) {
        return false;
    }
    if (urgent && !call->out_last->ends_urgent) {
        call->out_last->ends_urgent = true;
        call->urgent_left++;
    }
    answer_push(call);
    bool is_over = rpc_budget_is_over(call->conn);
    if (call->out_size > (size_t)(is_over ? LIMIT_STREAM_OUT_LOW : LIMIT_STREAM_OUT_HIGH)) {
        call->is_blocked = true;
    }
    return !call->is_blocked;
}

void rpc_finish(struct rpc_call *call)
{
    ASSERT_ON_LOOP(&call->io->loop);
    ASSERT(call->method->kind != RPC_UNARY);
    if (rpc_call_is(call, CALL_OPEN)) {
        rpc_call_end(call, RPC_OK, SLICE_EMPTY);
    }
}

size_t rpc_call_queued(const struct rpc_call *call)
{
    return call->out_size;
}

uint64_t rpc_call_taken(const struct rpc_call *call)
{
    return call->out_taken;
}

bool rpc_call_has_room(const struct rpc_call *call)
{
    ASSERT(call->conn != NULL);
    return rpc_conn_has_room(call->conn);
}

void rpc_call_await_room(struct rpc_call *call)
{
    ASSERT(call->io->config->conn_room != NULL);
    ASSERT(!rpc_call_has_room(call));
    call->conn->awaits_room = true;
}
