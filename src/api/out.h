/*
 * Where a thread composes its answers: one block of shared memory after the other, so that a small
 * answer costs no allocation, and a large one leaves without another copy.
 *
 *     api_out_begin ── api_out_reserve, api_out_commit ... ── api_out_parts ──▶ rpc ── api_out_end
 *
 * An answer that outgrows its block goes on in a further one: nothing is moved. Blocks are replaced
 * at api_out_end, never in the middle of an answer that fits.
 */
#ifndef API_OUT_H
#define API_OUT_H

#include "core/shared.h"
#include "rpc/rpc.h"

struct api_out {
    struct shared *block;   /* One reference. */
    size_t begin;           /* Of the answer's part in |block|. */
    size_t at;              /* Behind its last byte. */
    struct rpc_part *parts; /* What is complete; each holds a reference. */
    uint32_t part_count;
    uint32_t part_room;
    size_t parts_size; /* Bytes of them. */
};

void api_out_init(struct api_out *out);
void api_out_fini(struct api_out *out);

/* Slow path of api_out_reserve: go on in a new block. */
void api_out_next(struct api_out *out, size_t more);
/* Room for |more| bytes behind the answer, in one piece; returns where they go. Does not change
 * the size. */
static inline uint8_t *api_out_reserve(struct api_out *out, size_t more)
{
    if (out->block->size - out->at < more) {
        api_out_next(out, more);
    }
    return out->block->bytes + out->at;
}
/* Behind the last byte written into what was reserved. */
static inline void api_out_commit(struct api_out *out, const uint8_t *end)
{
    out->at = (size_t)(end - out->block->bytes);
    ASSERT(out->at <= out->block->size);
}
static inline size_t api_out_size(const struct api_out *out)
{
    return out->parts_size + (out->at - out->begin);
}
/* The whole answer as rpc takes it, by reference where that saves a copy. Valid until the next call
 * of this file; nothing may be added any more. */
const struct rpc_part *api_out_parts(struct api_out *out, size_t *count);
/* The parts were handed over: the next answer goes behind them, or over them when copied. */
void api_out_end(struct api_out *out);
/* Start an answer; drops one that was not ended. */
static inline void api_out_begin(struct api_out *out)
{
    if (out->part_count > 0) {
        api_out_end(out);
    }
    out->at = out->begin;
}

#endif
