/*
 * Goal: the wire reader never reads beyond its bytes, and what it accepts is what it says.
 * Method: read the input as a message; write each field again in its shortest form; read that
 * back and compare. Skipping a field must land where reading it lands.
 */
#include "core/buf.h"
#include "core/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct field {
    uint32_t number;
    enum wire_type type;
    uint64_t varint;
    struct slice bytes; /* Payload, or the raw bytes of a fixed number or group. */
};

/* Read the value of |field| by the function for its type; false when malformed. */
static bool field_read(struct wire_reader *reader, struct field *field)
{
    if (field->type == WIRE_VARINT) {
        return wire_get_varint(reader, &field->varint);
    }
    if (field->type == WIRE_LEN) {
        return wire_get_len(reader, &field->bytes);
    }
    const uint8_t *from = reader->at;
    if (!wire_skip(reader, field->number, field->type)) {
        return false;
    }
    field->bytes = slice_of(from, (size_t)(reader->at - from));
    return true;
}

static void field_write(struct buf *buf, const struct field *field)
{
    uint8_t head[2 * WIRE_VARINT_SIZE_MAX];
    uint8_t *at = wire_put_tag(head, field->number, field->type);
    if (field->type == WIRE_VARINT) {
        uint8_t *from = at;
        at = wire_put_varint(at, field->varint);
        ASSERT((size_t)(at - from) == wire_varint_size(field->varint));
    } else if (field->type == WIRE_LEN) {
        at = wire_put_varint(at, field->bytes.size);
    }
    buf_add(buf, head, (size_t)(at - head));
    if (field->type != WIRE_VARINT) {
        buf_add_slice(buf, field->bytes);
    }
}

static void field_check_again(struct slice written, const struct field *field)
{
    struct wire_reader reader = wire_reader_of(written);
    struct field again = {0};
    ASSERT(wire_get_tag(&reader, &again.number, &again.type));
    ASSERT(again.number == field->number && again.type == field->type);
    ASSERT(field_read(&reader, &again));
    ASSERT(again.varint == field->varint);
    ASSERT(slice_equal(again.bytes, field->bytes));
    ASSERT(wire_is_at_end(&reader));
}

/* Slow and plain, from the definition: decode one code point, encode it, compare. */
static bool utf8_is_valid_slowly(struct slice text)
{
    size_t i = 0;
    while (i < text.size) {
        uint32_t lead = text.data[i];
        uint32_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        if ((lead >= 0x80 && lead < 0xc0) || lead >= 0xf8 || i + length > text.size) {
            return false;
        }
        uint32_t code = length == 1 ? lead : lead & ((1u << (7 - length)) - 1);
        for (uint32_t k = 1; k < length; k++) {
            if (text.data[i + k] >> 6 != 2) {
                return false;
            }
            code = code * 64 + text.data[i + k] % 64;
        }
        uint32_t shortest = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
        if (shortest != length || code >= 0x110000 || (code >= 0xd800 && code < 0xe000)) {
            return false;
        }
        i += length;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice input = slice_of(data, size);
    ASSERT(wire_utf8_is_valid(input) == utf8_is_valid_slowly(input));
    struct buf buf = {0};
    struct wire_reader reader = wire_reader_of(input);
    while (!wire_is_at_end(&reader)) {
        struct field field = {0};
        if (!wire_get_tag(&reader, &field.number, &field.type)) {
            break;
        }
        ASSERT(field.number > 0 && field.number < UINT32_C(1) << 29);
        ASSERT(field.type <= WIRE_I32);
        struct wire_reader skipper = reader;
        bool is_read = field_read(&reader, &field);
        ASSERT(is_read == wire_skip(&skipper, field.number, field.type));
        if (!is_read) {
            break;
        }
        ASSERT(skipper.at == reader.at);
        ASSERT(reader.at <= reader.end);
        buf_clear(&buf);
        field_write(&buf, &field);
        field_check_again(buf_slice(&buf), &field);
    }
    buf_fini(&buf);
    return 0;
}
