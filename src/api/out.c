/* Blocks of API_OUT_BLOCK bytes; an answer that needs more gets a block of its own. */
#include "api/out.h"

enum {
    API_OUT_BLOCK = 64 * 1024,
    API_OUT_SHARE = 1024,     /* Smaller answers are copied by rpc. */
    API_OUT_ROOM = 16 * 1024, /* Less left at the end of an answer: start a new block. */
};

void api_out_init(struct api_out *out)
{
    *out = (struct api_out){.block = shared_new(API_OUT_BLOCK)};
}

void api_out_fini(struct api_out *out)
{
    shared_unref(out->block);
    *out = (struct api_out){0};
}

void api_out_grow(struct api_out *out, size_t more)
{
    size_t size = api_out_size(out);
    ASSERT(more <= SIZE_MAX / 4 && size <= SIZE_MAX / 4);
    size_t room = (size + more) * 2;
    struct shared *larger = shared_new(room < API_OUT_BLOCK ? API_OUT_BLOCK : room);
    memcpy(larger->bytes, out->block->bytes + out->begin, size);
    shared_unref(out->block);
    *out = (struct api_out){.block = larger, .begin = 0, .at = size};
}

struct rpc_part api_out_part(const struct api_out *out)
{
    struct slice answer = api_out_slice(out);
    return (struct rpc_part){answer, answer.size >= API_OUT_SHARE ? out->block : NULL};
}

void api_out_end(struct api_out *out)
{
    if (api_out_size(out) >= API_OUT_SHARE) {
        out->begin = out->at;
    }
    out->at = out->begin;
    if (out->block->size > API_OUT_BLOCK || out->block->size - out->begin < API_OUT_ROOM) {
        if (out->block->refs == 1 && out->block->size <= API_OUT_BLOCK) {
            out->begin = out->at = 0; /* Nobody reads it any more. */
            return;
        }
        shared_unref(out->block);
        api_out_init(out);
    }
}
