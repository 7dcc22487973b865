/*
 * gRPC's length-prefixed messages, cut out of a byte stream that arrives in pieces of any size.
 *
 * A message that lies whole in one piece is borrowed from it; others are collected in memory that
 * grows with what has arrived, never with what the prefix claims.
 */
#ifndef RPC_FRAME_H
#define RPC_FRAME_H

#include "core/slice.h"

enum { RPC_FRAME_PREFIX = 5 };

/* Zero-initialised is at the start of a message. One thread at a time. */
struct rpc_frame {
    uint8_t prefix[RPC_FRAME_PREFIX];
    uint8_t prefix_have;
    uint32_t size; /* Of the message, when the prefix is complete. */
    uint8_t *data; /* Collected so far, or NULL. */
    uint32_t have;
    uint32_t room;
};

enum rpc_frame_result {
    RPC_FRAME_MORE,      /* All bytes were taken; the message is not complete. */
    RPC_FRAME_MESSAGE,   /* One message; call rpc_frame_next before feeding again. */
    RPC_FRAME_TOO_LARGE, /* |frame|->size is over the ceiling. Final. */
};

/* Takes bytes from the front of |bytes|. |message| is borrowed from the bytes or from the frame,
 * until rpc_frame_next. */
MUST_CHECK enum rpc_frame_result rpc_frame_feed(struct rpc_frame *frame, struct slice *bytes,
                                                uint32_t size_max, struct slice *message);
/* Frees the message that was returned, and stands at the next one. */
void rpc_frame_next(struct rpc_frame *frame);
/* Of the message that was returned: 0 plain, 1 compressed, all else is an error of the client. */
static inline uint8_t rpc_frame_flag(const struct rpc_frame *frame)
{
    return frame->prefix[0];
}
/* True when the stream may end here: between messages, or, as in grpc-go, inside of a prefix. */
static inline bool rpc_frame_is_between(const struct rpc_frame *frame)
{
    return frame->prefix_have < RPC_FRAME_PREFIX;
}

#endif
