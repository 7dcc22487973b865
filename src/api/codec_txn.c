/*
 * A TxnResponse, back to front: the last operation first, each message's length in front of it when
 * its first byte is written. One frame per open transaction: nesting costs arena, not stack.
 *
 * Headers inside of a transaction carry only a revision; that of a nested one is empty.
 */
#include "api/codec.h"

#include <limits.h>

#include "core/mem.h"

/* Bytes that are written from their end to their beginning. */
struct back {
    uint8_t *bytes;
    size_t size;
    size_t at; /* First byte written; size: none yet. */
    size_t size_max;
};

/* An open transaction whose operations [0, next) are still to be written. */
struct txn_frame {
    const struct store_txn_answer *txn;
    uint32_t next;
    size_t end; /* Bytes that were written when it was opened. */
    struct txn_frame *outer;
};

struct txn_writer {
    struct back back;
    struct arena *arena;
    struct txn_frame *top;
    struct txn_frame *spare;
    const struct api_header *header;
};

static size_t back_written(const struct back *back)
{
    return back->size - back->at;
}

/* More than fits one answer: nothing large is written any more, and what there is, is no answer. */
static bool back_is_over(const struct back *back)
{
    return back_written(back) > back->size_max;
}

/* Room for |more| bytes in front; returns where they begin. */
static uint8_t *back_reserve(struct back *back, size_t more)
{
    if (more > back->at) {
        size_t written = back_written(back);
        ASSERT(written <= SIZE_MAX / 4 && more <= SIZE_MAX / 4);
        size_t size = (written + more) * 2;
        uint8_t *bytes = mem_alloc_raw(size);
        if (written > 0) {
            memcpy(bytes + size - written, back->bytes + back->at, written);
        }
        mem_free(back->bytes);
        *back = (struct back){bytes, size, size - written, back->size_max};
    }
    ASSERT(more > 0 && back->bytes != NULL);
    back->at -= more;
    return back->bytes + back->at;
}

static void back_varint(struct back *back, uint64_t value)
{
    (void)wire_put_varint(back_reserve(back, wire_varint_size(value)), value);
}

static void back_number(struct back *back, uint32_t field, uint64_t value)
{
    if (value != 0) {
        back_varint(back, value);
        back_varint(back, field << 3 | WIRE_VARINT);
    }
}

/* Tag and length of the message that began at |end| bytes written and is complete now. */
static void back_close(struct back *back, uint32_t field, size_t end)
{
    back_varint(back, back_written(back) - end);
    back_varint(back, field << 3 | WIRE_LEN);
}

static void back_kv(struct back *back, uint32_t field, const struct cache_version *version,
                    struct api_kv_form form)
{
    struct api_kv kv = api_kv_of(version, form);
    size_t size = api_kv_size(kv);
    (void)api_put_kv(back_reserve(back, size), kv);
    back_varint(back, size);
    back_varint(back, field << 3 | WIRE_LEN);
}

static void back_header(struct back *back, const struct api_header *header)
{
    uint8_t bytes[API_HEADER_SIZE_MAX];
    size_t size = (size_t)(api_put_header(bytes, 1, header) - bytes);
    memcpy(back_reserve(back, size), bytes, size);
}

/* ---- operations ---------------------------------------------------------------------------- */

static void write_range(struct back *back, const struct store_range_answer *range)
{
    struct api_kv_form form = {range->keys_only, range->no_lease};
    back_number(back, 4, range->count);
    back_number(back, 3, range->more);
    for (uint64_t i = range->kv_count; i > 0 && !back_is_over(back); i--) {
        back_kv(back, 2, range->kvs[i - 1], form);
    }
}

static void write_delete(struct back *back, const struct store_delete_answer *del)
{
    uint64_t count = del->prevs == NULL ? 0 : del->deleted;
    for (uint64_t i = count; i > 0 && !back_is_over(back); i--) {
        back_kv(back, 3, del->prevs[i - 1], (struct api_kv_form){0});
    }
    back_number(back, 2, del->deleted);
}

/* One operation that is no transaction, as a ResponseOp in `responses`. */
static void write_op(struct back *back, const struct store_op_answer *op)
{
    size_t end = back_written(back);
    uint32_t field = 1; /* ResponseOp.response_range */
    if (op->kind == STORE_OP_PUT) {
        if (op->u.put.prev != NULL) {
            back_kv(back, 2, op->u.put.prev, (struct api_kv_form){0});
        }
        field = 2;
    } else if (op->kind == STORE_OP_DELETE) {
        write_delete(back, &op->u.del);
        field = 3;
    } else {
        ASSERT(op->kind == STORE_OP_RANGE);
        write_range(back, &op->u.range);
    }
    back_header(back, &(struct api_header){.revision = op->revision});
    back_close(back, field, end);
    back_close(back, 3, end);
}

/* ---- transactions -------------------------------------------------------------------------- */

static bool txn_open(struct txn_writer *writer, const struct store_txn_answer *txn)
{
    struct txn_frame *frame = writer->spare;
    if (frame != NULL) {
        writer->spare = frame->outer;
    } else {
        frame = arena_alloc(writer->arena, sizeof(*frame));
        if (frame == NULL) {
            return false;
        }
    }
    *frame = (struct txn_frame){txn, txn->op_count, back_written(&writer->back), writer->top};
    writer->top = frame;
    return true;
}

/* All operations are written: what stands in front of them. */
static void txn_close(struct txn_writer *writer)
{
    struct txn_frame *frame = writer->top;
    struct back *back = &writer->back;
    back_number(back, 2, frame->txn->succeeded);
    writer->top = frame->outer;
    if (writer->top == NULL) {
        back_header(back, writer->header);
    } else {
        back_header(back, &(struct api_header){0}); /* etcd leaves it empty. */
        back_close(back, 4, frame->end);
        back_close(back, 3, frame->end);
    }
    frame->outer = writer->spare;
    writer->spare = frame;
}

/* Every operation, the last one first. */
static enum err write_all(struct txn_writer *writer, const struct store_txn_answer *answer)
{
    if (!txn_open(writer, answer)) {
        return ERR_REQUEST_TOO_LARGE;
    }
    while (writer->top != NULL) {
        struct txn_frame *frame = writer->top;
        if (frame->next == 0) {
            txn_close(writer);
            continue;
        }
        const struct store_op_answer *op = &frame->txn->ops[--frame->next];
        if (op->kind != STORE_OP_TXN) {
            write_op(&writer->back, op);
        } else if (!txn_open(writer, op->u.txn)) {
            return ERR_REQUEST_TOO_LARGE;
        }
        if (back_is_over(&writer->back)) {
            return ERR_ANSWER_TOO_LARGE;
        }
    }
    return back_is_over(&writer->back) ? ERR_ANSWER_TOO_LARGE : ERR_OK;
}

enum err api_encode_txn_within(struct api_out *out, const struct api_header *header,
                               const struct store_txn_answer *answer, struct arena *arena,
                               size_t size_max)
{
    struct txn_writer writer = {.back.size_max = size_max, .arena = arena, .header = header};
    enum err err = write_all(&writer, answer);
    if (err == ERR_OK) {
        size_t size = back_written(&writer.back);
        uint8_t *at = api_out_reserve(out, size);
        api_out_commit(out, wire_put_bytes(at, writer.back.bytes + writer.back.at, size));
    }
    mem_free(writer.back.bytes);
    return err;
}

enum err api_encode_txn(struct api_out *out, const struct api_header *header,
                        const struct store_txn_answer *answer, struct arena *arena)
{
    return api_encode_txn_within(out, header, answer, arena, INT_MAX);
}
