/*
 * What one write gathers: small bytes copied into one scratch, large ones referenced. One per io
 * thread, used for one connection at a time; what the socket does not take moves to the heap.
 */
#ifndef RPC_OUT_H
#define RPC_OUT_H

#include <uv.h>

#include "core/limits.h"
#include "core/shared.h"

enum {
    RPC_OUT_PIECES = 512,
    RPC_OUT_REFERENCE_MIN = 1024, /* Below it a copy is cheaper than a piece. */
    RPC_OUT_SCRATCH = LIMIT_CONN_WRITE + 128 * 1024,
};

struct rpc_out {
    uint8_t *scratch;
    size_t scratch_used;
    size_t size; /* Bytes in all pieces. */
    uint32_t count;
    uv_buf_t bufs[RPC_OUT_PIECES];
    struct shared *owners[RPC_OUT_PIECES]; /* A reference each, NULL for the scratch. */
};

void rpc_out_init(struct rpc_out *out);
void rpc_out_fini(struct rpc_out *out);
/* Drops references; empty again. */
void rpc_out_clear(struct rpc_out *out);
/* True when the next frame may not fit: write first. */
bool rpc_out_is_full(const struct rpc_out *out);
/* At most 64 KiB at once, not when full. */
void rpc_out_copy(struct rpc_out *out, const void *data, size_t size);
/* |bytes| are inside |owner|; takes a reference of its own. Small ones are copied. */
void rpc_out_share(struct rpc_out *out, struct slice bytes, struct shared *owner);

/* The rest of a gathered write, on the heap until the socket has taken it. */
struct rpc_out_rest {
    uint32_t count;
    uv_buf_t *bufs;
    struct shared **owners;
    uint8_t *copied;
};
/* Moves everything behind the first |taken| bytes out of |out|, which is empty then. */
struct rpc_out_rest *rpc_out_keep_rest(struct rpc_out *out, size_t taken);
/* NULL is a no-op. */
void rpc_out_rest_free(struct rpc_out_rest *rest);

#endif
