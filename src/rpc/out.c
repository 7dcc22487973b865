/* Gathering of out.h. */
#include "rpc/out.h"

#include "core/mem.h"

/* A frame is at most 16 KiB and its header, a header block 64 KiB. */
enum { OUT_COPY_MAX = 72 * 1024, OUT_PIECES_SPARE = 64 };

static_assert(RPC_OUT_SCRATCH >= LIMIT_CONN_WRITE + OUT_COPY_MAX, "not full means that it fits");

void rpc_out_init(struct rpc_out *out)
{
    *out = (struct rpc_out){0};
    out->scratch = mem_alloc_raw(RPC_OUT_SCRATCH);
}

void rpc_out_fini(struct rpc_out *out)
{
    rpc_out_clear(out);
    mem_free(out->scratch);
    out->scratch = NULL;
}

void rpc_out_clear(struct rpc_out *out)
{
    for (uint32_t i = 0; i < out->count; i++) {
        shared_unref(out->owners[i]);
    }
    out->count = 0;
    out->scratch_used = 0;
    out->size = 0;
}

bool rpc_out_is_full(const struct rpc_out *out)
{
    return out->size >= LIMIT_CONN_WRITE || out->count + OUT_PIECES_SPARE > RPC_OUT_PIECES;
}

static void out_add_piece(struct rpc_out *out, const uint8_t *data, size_t size,
                          struct shared *owner)
{
    ASSERT(out->count < RPC_OUT_PIECES);
    /* uv's buffers are not const; writing does not change them. */
    out->bufs[out->count] = uv_buf_init((char *)(uintptr_t)data, (unsigned)size);
    out->owners[out->count] = owner;
    out->count++;
}

void rpc_out_copy(struct rpc_out *out, const void *data, size_t size)
{
    ASSERT(size <= RPC_OUT_SCRATCH - out->scratch_used);
    if (size == 0) {
        return;
    }
    uint8_t *at = out->scratch + out->scratch_used;
    memcpy(at, data, size);
    out->scratch_used += size;
    out->size += size;
    if (out->count > 0 && out->owners[out->count - 1] == NULL) {
        out->bufs[out->count - 1].len += size; /* The scratch is filled in order. */
    } else {
        out_add_piece(out, at, size, NULL);
    }
}

void rpc_out_share(struct rpc_out *out, struct slice bytes, struct shared *owner)
{
    if (bytes.size < RPC_OUT_REFERENCE_MIN || out->count + 2 > RPC_OUT_PIECES) {
        rpc_out_copy(out, bytes.data, bytes.size);
        return;
    }
    ASSERT(bytes.data >= owner->bytes && bytes.data + bytes.size <= owner->bytes + owner->size);
    out_add_piece(out, bytes.data, bytes.size, shared_ref(owner));
    out->size += bytes.size;
}

/* Skips |taken| bytes; returns the index of the first piece that is left, shortened. */
static uint32_t out_skip(struct rpc_out *out, size_t taken)
{
    uint32_t first = 0;
    while (taken > 0 && taken >= out->bufs[first].len) {
        taken -= out->bufs[first].len;
        shared_unref(out->owners[first]);
        first++;
    }
    if (taken > 0) {
        out->bufs[first].base += taken;
        out->bufs[first].len -= taken;
    }
    return first;
}

struct rpc_out_rest *rpc_out_keep_rest(struct rpc_out *out, size_t taken)
{
    ASSERT(taken < out->size);
    uint32_t first = out_skip(out, taken);
    uint32_t count = out->count - first;
    size_t copied = 0;
    for (uint32_t i = first; i < out->count; i++) {
        copied += out->owners[i] == NULL ? out->bufs[i].len : 0;
    }
    struct rpc_out_rest *rest =
        mem_alloc_raw(sizeof(*rest) + count * (sizeof(uv_buf_t) + sizeof(void *)) + copied);
    rest->count = count;
    rest->bufs = (uv_buf_t *)(void *)(rest + 1);
    rest->owners = (struct shared **)(void *)(rest->bufs + count);
    rest->copied = (uint8_t *)(rest->owners + count);
    uint8_t *at = rest->copied;
    for (uint32_t i = 0; i < count; i++) {
        uv_buf_t *buf = &out->bufs[first + i];
        rest->owners[i] = out->owners[first + i];
        rest->bufs[i] = *buf;
        if (rest->owners[i] == NULL) {
            memcpy(at, buf->base, buf->len);
            rest->bufs[i].base = (char *)at;
            at += buf->len;
        }
    }
    out->count = 0; /* The references moved. */
    rpc_out_clear(out);
    return rest;
}

void rpc_out_rest_free(struct rpc_out_rest *rest)
{
    if (rest == NULL) {
        return;
    }
    for (uint32_t i = 0; i < rest->count; i++) {
        shared_unref(rest->owners[i]);
    }
    mem_free(rest);
}
