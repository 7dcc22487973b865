/*
 * Where a thread composes its answers: one block of shared memory after the other, so that an
 * answer costs no allocation, and a large one leaves without another copy.
 *
 *     api_out_begin ── api_out_reserve, add ... ── api_out_part ──▶ rpc ── api_out_end
 *
 * The block is replaced at api_out_end, never in the middle of an answer that fits.
 */
#ifndef API_OUT_H
#define API_OUT_H

#include "core/shared.h"
#include "rpc/rpc.h"

struct api_out {
    struct shared *block;
    size_t begin; /* Of the answer under construction. */
    size_t at;    /* Behind its last byte. */
};

void api_out_init(struct api_out *out);
void api_out_fini(struct api_out *out);

/* Start an answer; drops one that was not ended. */
static inline void api_out_begin(struct api_out *out)
{
    out->at = out->begin;
}
/* Slow path of api_out_reserve: move the answer to a larger block. */
void api_out_grow(struct api_out *out, size_t more);
/* Room for |more| bytes behind the answer; returns where they go. Does not change the size. */
static inline uint8_t *api_out_reserve(struct api_out *out, size_t more)
{
    if (out->block->size - out->at < more) {
        api_out_grow(out, more);
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
    return out->at - out->begin;
}
/* The answer so far, valid until the next call of this file. */
static inline struct slice api_out_slice(const struct api_out *out)
{
    return slice_of(out->block->bytes + out->begin, api_out_size(out));
}
/* The same as rpc takes it: by reference when that saves a copy. */
struct rpc_part api_out_part(const struct api_out *out);
/* The part was handed over: the next answer goes behind it, or over it when it was copied. */
void api_out_end(struct api_out *out);

#endif
