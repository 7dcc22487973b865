/* Blocks of API_OUT_BLOCK bytes; an answer that needs more goes on in larger ones. */
#include "api/out.h"

#include "core/mem.h"

enum {
    API_OUT_BLOCK = 64 * 1024,
    API_OUT_BLOCK_LARGE = 256 * 1024,
    API_OUT_SHARE = 1024,     /* Smaller answers are copied by rpc. */
    API_OUT_ROOM = 16 * 1024, /* Less left at the end of an answer: start a new block. */
};

void api_out_init(struct api_out *out)
{
    *out = (struct api_out){.block = shared_new(API_OUT_BLOCK)};
}

static void parts_drop(struct api_out *out)
{
    for (uint32_t i = 0; i < out->part_count; i++) {
        shared_unref(out->parts[i].owner);
    }
    out->part_count = 0;
    out->parts_size = 0;
}

void api_out_fini(struct api_out *out)
{
    parts_drop(out);
    mem_free(out->parts);
    shared_unref(out->block);
    *out = (struct api_out){0};
}

/* What the answer has in |block| becomes a part with a reference of its own. */
static void part_add(struct api_out *out)
{
    size_t size = out->at - out->begin;
    if (out->part_count == out->part_room) {
        out->part_room = out->part_room == 0 ? 8 : out->part_room * 2;
        out->parts = mem_realloc(out->parts, out->part_room * sizeof(*out->parts));
    }
    struct slice bytes = slice_of(out->block->bytes + out->begin, size);
    out->parts[out->part_count++] = (struct rpc_part){bytes, shared_ref(out->block)};
    out->parts_size += size;
    out->begin = out->at;
}

void api_out_next(struct api_out *out, size_t more)
{
    if (out->at > out->begin) {
        part_add(out);
    }
    shared_unref(out->block);
    out->block = shared_new(more < API_OUT_BLOCK_LARGE ? API_OUT_BLOCK_LARGE : more);
    out->begin = out->at = 0;
}

const struct rpc_part *api_out_parts(struct api_out *out, size_t *count)
{
    static const struct rpc_part nothing; /* Of no bytes. */
    bool copied = api_out_size(out) < API_OUT_SHARE;
    size_t begin = out->begin;
    if (out->at > out->begin) {
        part_add(out);
    }
    *count = out->part_count;
    if (out->part_count == 0) {
        return &nothing;
    }
    if (copied && out->part_count == 1) {
        shared_unref(out->parts[0].owner);
        out->parts[0].owner = NULL;
        out->begin = out->at = begin; /* The next answer may overwrite it. */
    }
    return out->parts;
}

void api_out_end(struct api_out *out)
{
    parts_drop(out);
    out->begin = out->at;
    if (out->block->size == API_OUT_BLOCK && out->block->size - out->at >= API_OUT_ROOM) {
        return;
    }
    if (out->block->size > API_OUT_BLOCK || out->block->refs > 1) {
        shared_unref(out->block);
        out->block = shared_new(API_OUT_BLOCK);
    }
    out->begin = out->at = 0;
}
