/*
 * Protobuf's wire format, primitives only: varints, tags, length-delimited fields.
 * Source of the rules: protobuf.dev "Encoding"; edge cases as Go's protowire package has them.
 *
 * Pure: any thread, no allocation, all bytes borrowed. Putting trusts the caller to have room;
 * getting trusts no byte. O(1), but skipping, copying and looking at text are O(size).
 */
#ifndef CORE_WIRE_H
#define CORE_WIRE_H

#include "core/slice.h"

enum wire_type {
    WIRE_VARINT = 0,
    WIRE_I64 = 1,
    WIRE_LEN = 2,
    WIRE_SGROUP = 3,
    WIRE_EGROUP = 4,
    WIRE_I32 = 5,
};

enum { WIRE_VARINT_SIZE_MAX = 10 };

static inline size_t wire_varint_size(uint64_t value)
{
    return ((size_t)(63 - __builtin_clzll(value | 1)) * 9 + 73) / 64;
}

/* Each put returns behind the last byte written; a number takes at most WIRE_VARINT_SIZE_MAX. */
static inline uint8_t *wire_put_varint(uint8_t *at, uint64_t value)
{
    while (value >= 0x80) {
        *at++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *at++ = (uint8_t)value;
    return at;
}
static inline uint8_t *wire_put_tag(uint8_t *at, uint32_t field, enum wire_type type)
{
    return wire_put_varint(at, ((uint64_t)field << 3) | (uint64_t)type);
}
static inline uint8_t *wire_put_bytes(uint8_t *at, const void *data, size_t size)
{
    if (size > 0) {
        memcpy(at, data, size);
    }
    return at + size;
}

/* A reader over borrowed bytes. */
struct wire_reader {
    const uint8_t *at;
    const uint8_t *end;
};

/* Over |bytes|, which may be empty with a NULL pointer. */
static inline struct wire_reader wire_reader_of(struct slice bytes)
{
    return (struct wire_reader){bytes.data, bytes.size == 0 ? bytes.data : bytes.data + bytes.size};
}
static inline bool wire_is_at_end(const struct wire_reader *reader)
{
    return reader->at == reader->end;
}

/* False when truncated, longer than ten bytes, or over 64 bits: Go's protowire rules. */
MUST_CHECK bool wire_get_varint(struct wire_reader *reader, uint64_t *value);
/* False also for field 0 or above 2^29-1. |type| is 0..5 on success. */
MUST_CHECK bool wire_get_tag(struct wire_reader *reader, uint32_t *field, enum wire_type *type);
/* Length-delimited payload, borrowed. */
MUST_CHECK bool wire_get_len(struct wire_reader *reader, struct slice *payload);
/*
 * Skip one field whose tag was just read; groups are skipped with their contents, iteratively, to
 * as many levels as Go allows (LIMIT_PROTO_DEPTH below the first). False: malformed, among it an
 * end of a group that was not begun. After false, |reader| stands anywhere in its bytes.
 */
MUST_CHECK bool wire_skip(struct wire_reader *reader, uint32_t field, enum wire_type type);
/* Go refuses invalid UTF-8 in proto3 strings. */
bool wire_utf8_is_valid(struct slice text);

#endif
