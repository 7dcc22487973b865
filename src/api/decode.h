/*
 * Wire bytes into protobuf-c structs, as Go's protobuf reads them: the only way in for messages
 * of clients. protobuf-c's own unpacking recurses without limit and differs at the edges.
 *
 * As Go does: unknown fields and wrong wire types are skipped (but must be well-formed), the last
 * scalar wins, a message field that comes again is merged, a oneof keeps its last member, repeated
 * scalars may be packed or not, a string must be UTF-8, messages nest to LIMIT_PROTO_DEPTH levels.
 */
#ifndef API_DECODE_H
#define API_DECODE_H

#include <protobuf-c/protobuf-c.h>

#include "core/arena.h"

enum api_decode_result {
    API_DECODE_OK,
    API_DECODE_MALFORMED, /* Not protobuf. */
    API_DECODE_DEPTH,     /* More than LIMIT_PROTO_DEPTH levels. */
    API_DECODE_UTF8,      /* A string field holds something else. */
    API_DECODE_CEILING,   /* |arena| is full. */
};

/*
 * Decode |wire| as the message that |descriptor| describes.
 *
 * |wire|   borrowed for as long as the message is used: bytes fields point into it
 * |arena|  holds the message, its arrays, and copies of its strings
 *
 * Returns the message, or NULL with the reason in |result|. Never frees: the arena's owner does.
 * Any thread. Iterative; O(bytes), no allocation but from |arena|.
 */
void *api_decode(struct slice wire, const ProtobufCMessageDescriptor *descriptor,
                 struct arena *arena, enum api_decode_result *result);

/*
 * A string field of a decoded message with its true length, as strings of protobuf may hold NULs.
 * |text| must come from api_decode, or be protobuf-c's empty string.
 */
struct slice api_decoded_string(const char *text);

/* Go's words for a failure, without grpc's in front of them. */
const char *api_decode_text(enum api_decode_result result);

#endif
