/* The reader of frame.h. */
#include "rpc/frame.h"

#include "core/mem.h"

enum { FRAME_ROOM_MIN = 4096 };

/* Takes bytes of the prefix; true when it is complete. */
static bool frame_feed_prefix(struct rpc_frame *frame, struct slice *bytes)
{
    while (frame->prefix_have < RPC_FRAME_PREFIX && bytes->size > 0) {
        frame->prefix[frame->prefix_have++] = bytes->data[0];
        bytes->data++;
        bytes->size--;
    }
    if (frame->prefix_have < RPC_FRAME_PREFIX) {
        return false;
    }
    const uint8_t *size = frame->prefix + 1;
    frame->size = (uint32_t)size[0] << 24 | (uint32_t)size[1] << 16 | (uint32_t)size[2] << 8 |
                  (uint32_t)size[3];
    return true;
}

/* Copies what belongs to the message. Doubles, so a claimed size costs nothing by itself. */
static void frame_collect(struct rpc_frame *frame, struct slice *bytes)
{
    uint32_t left = frame->size - frame->have;
    uint32_t take = bytes->size < left ? (uint32_t)bytes->size : left;
    if (take == 0) {
        return;
    }
    uint32_t need = frame->have + take;
    if (need > frame->room) {
        uint64_t room = (uint64_t)frame->room * 2;
        room = room < FRAME_ROOM_MIN ? FRAME_ROOM_MIN : room;
        room = room < need ? need : room;
        frame->room = room > frame->size ? frame->size : (uint32_t)room;
        frame->data = mem_realloc(frame->data, frame->room);
    }
    memcpy(frame->data + frame->have, bytes->data, take);
    frame->have = need;
    bytes->data += take;
    bytes->size -= take;
}

enum rpc_frame_result rpc_frame_feed(struct rpc_frame *frame, struct slice *bytes,
                                     uint32_t size_max, struct slice *message)
{
    if (!frame_feed_prefix(frame, bytes)) {
        return RPC_FRAME_MORE;
    }
    if (frame->size > size_max) {
        return RPC_FRAME_TOO_LARGE;
    }
    if (frame->have == 0 && bytes->size >= frame->size) {
        *message = slice_of(bytes->data, frame->size);
        bytes->data += frame->size;
        bytes->size -= frame->size;
        return RPC_FRAME_MESSAGE;
    }
    frame_collect(frame, bytes);
    if (frame->have < frame->size) {
        return RPC_FRAME_MORE;
    }
    *message = slice_of(frame->data, frame->size);
    return RPC_FRAME_MESSAGE;
}

void rpc_frame_next(struct rpc_frame *frame)
{
    mem_free(frame->data);
    *frame = (struct rpc_frame){0};
}
