/* Reading protobuf's primitives from bytes that nobody has checked. */
#include "core/wire.h"

#include "core/limits.h"

/* A group within a group within ...: Go counts from its limit down to zero, both included. */
enum { WIRE_GROUP_LEVELS = LIMIT_PROTO_DEPTH + 1 };

#define WIRE_FIELD_MAX ((UINT32_C(1) << 29) - 1)

bool wire_get_varint(struct wire_reader *reader, uint64_t *value)
{
    uint64_t sum = 0;
    const uint8_t *at = reader->at;
    for (uint32_t i = 0; i < WIRE_VARINT_SIZE_MAX; i++) {
        if (at == reader->end) {
            return false;
        }
        uint8_t byte = *at++;
        if (i == WIRE_VARINT_SIZE_MAX - 1 && byte > 1) {
            return false; /* More than 64 bits. */
        }
        sum |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            reader->at = at;
            *value = sum;
            return true;
        }
    }
    return false;
}

/* Fields above |field_max| are refused. */
static bool wire_get_tag_to(struct wire_reader *reader, uint64_t field_max, uint32_t *field,
                            enum wire_type *type)
{
    uint64_t tag;
    if (!wire_get_varint(reader, &tag)) {
        return false;
    }
    if (tag >> 3 == 0 || tag >> 3 > field_max || (tag & 7) > WIRE_I32) {
        return false;
    }
    *field = (uint32_t)(tag >> 3);
    *type = (enum wire_type)(tag & 7);
    return true;
}

bool wire_get_tag(struct wire_reader *reader, uint32_t *field, enum wire_type *type)
{
    return wire_get_tag_to(reader, WIRE_FIELD_MAX, field, type);
}

bool wire_get_len(struct wire_reader *reader, struct slice *payload)
{
    uint64_t size;
    if (!wire_get_varint(reader, &size) || size > (uint64_t)(reader->end - reader->at)) {
        return false;
    }
    *payload = slice_of(reader->at, (size_t)size);
    reader->at += size;
    return true;
}

static bool wire_skip_fixed(struct wire_reader *reader, size_t size)
{
    if ((size_t)(reader->end - reader->at) < size) {
        return false;
    }
    reader->at += size;
    return true;
}

/* Everything but groups. */
static bool wire_skip_plain(struct wire_reader *reader, enum wire_type type)
{
    uint64_t number;
    struct slice payload;
    switch (type) {
    case WIRE_VARINT:
        return wire_get_varint(reader, &number);
    case WIRE_I64:
        return wire_skip_fixed(reader, 8);
    case WIRE_LEN:
        return wire_get_len(reader, &payload);
    case WIRE_I32:
        return wire_skip_fixed(reader, 4);
    case WIRE_SGROUP:
    case WIRE_EGROUP:
    default:
        return false;
    }
}

/* Up to and including the end of the group |field|. */
static bool wire_skip_group(struct wire_reader *reader, uint32_t field)
{
    uint32_t open[WIRE_GROUP_LEVELS];
    uint32_t depth = 0;
    open[depth++] = field;
    while (depth > 0) {
        uint32_t inner;
        enum wire_type type;
        /* Inside of groups that it skips, Go lets numbers up to 2^31-1 pass. */
        if (!wire_get_tag_to(reader, INT32_MAX, &inner, &type)) {
            return false;
        }
        if (type == WIRE_EGROUP) {
            if (inner != open[--depth]) {
                return false;
            }
        } else if (type == WIRE_SGROUP) {
            if (depth == WIRE_GROUP_LEVELS) {
                return false;
            }
            open[depth++] = inner;
        } else if (!wire_skip_plain(reader, type)) {
            return false;
        }
    }
    return true;
}

bool wire_skip(struct wire_reader *reader, uint32_t field, enum wire_type type)
{
    ASSERT(reader->at <= reader->end);
    return type == WIRE_SGROUP ? wire_skip_group(reader, field) : wire_skip_plain(reader, type);
}

/* Bytes of the sequence that |lead| begins and the least code point that needs them; 0 = none. */
static uint32_t wire_utf8_length(uint8_t lead, uint32_t *least)
{
    if (lead >= 0xc2 && lead <= 0xdf) {
        *least = 0x80;
        return 2;
    }
    if (lead >= 0xe0 && lead <= 0xef) {
        *least = 0x800;
        return 3;
    }
    *least = 0x10000;
    return lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
}

bool wire_utf8_is_valid(struct slice text)
{
    for (size_t i = 0; i < text.size;) {
        uint8_t lead = text.data[i];
        if (lead < 0x80) {
            i++;
            continue;
        }
        uint32_t least;
        uint32_t length = wire_utf8_length(lead, &least);
        if (length == 0 || length > text.size - i) {
            return false;
        }
        uint32_t code = lead & (0x7fu >> length);
        for (uint32_t k = 1; k < length; k++) {
            uint8_t byte = text.data[i + k];
            if ((byte & 0xc0) != 0x80) {
                return false;
            }
            code = code << 6 | (byte & 0x3fu);
        }
        if (code < least || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
            return false;
        }
        i += length;
    }
    return true;
}
