/*
 * One reader over the whole input and a list of open messages: entering a message narrows the
 * reader to its payload, leaving it restores the payload around it. Frames are taken from the arena
 * and used again, so that memory grows with depth, not with the number of messages.
 *
 * A string is stored behind its length (struct decoded_string), because protobuf-c's structs have
 * only a char * for it.
 */
#include "api/decode.h"

#include "core/limits.h"
#include "core/wire.h"

/* A message that is being read. */
struct frame {
    ProtobufCMessage *message;
    const uint8_t *end;  /* Of its payload. */
    struct frame *outer; /* NULL for the request itself; free list: the next free one. */
};

struct decoder {
    struct wire_reader reader; /* |reader.end| is always the end of |top|. */
    struct arena *arena;
    struct frame *top;
    struct frame *spare;
    uint32_t depth;
};

struct decoded_string {
    size_t size;
    char text[];
};

static void *member_of(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    return (uint8_t *)message + field->offset;
}

static void *quantifier_of(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    return (uint8_t *)message + field->quantifier_offset;
}

static bool is_oneof(const ProtobufCFieldDescriptor *field)
{
    return (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
}

/* ---- scalars ------------------------------------------------------------------------------- */

/* The wire type of one element of |type|. */
static enum wire_type wire_type_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return WIRE_I32;
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return WIRE_I64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return WIRE_LEN;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_ENUM:
    default:
        return WIRE_VARINT;
    }
}

/* Bytes of one element in protobuf-c's structs. */
static size_t size_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return sizeof(uint64_t);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_ENUM:
    default:
        return sizeof(uint32_t);
    }
}

static bool read_fixed(struct wire_reader *reader, size_t size, uint64_t *bits)
{
    if ((size_t)(reader->end - reader->at) < size) {
        return false;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        sum |= (uint64_t)reader->at[i] << (8 * i);
    }
    reader->at += size;
    *bits = sum;
    return true;
}

/* One number of |type| into |place|; wider ones are cut, as Go's conversions do. */
static bool read_number(struct wire_reader *reader, ProtobufCType type, void *place)
{
    enum wire_type wire = wire_type_of(type);
    uint64_t bits = 0;
    bool ok = wire == WIRE_VARINT ? wire_get_varint(reader, &bits)
                                  : read_fixed(reader, wire == WIRE_I32 ? 4 : 8, &bits);
    if (!ok) {
        return false;
    }
    if (type == PROTOBUF_C_TYPE_BOOL) {
        bits = bits != 0;
    } else if (type == PROTOBUF_C_TYPE_SINT32) {
        bits = (uint32_t)bits;
        bits = (bits >> 1) ^ (~(bits & 1) + 1);
    } else if (type == PROTOBUF_C_TYPE_SINT64) {
        bits = (bits >> 1) ^ (~(bits & 1) + 1);
    }
    if (size_of(type) == sizeof(uint64_t)) {
        memcpy(place, &bits, sizeof(uint64_t));
    } else {
        uint32_t narrow = (uint32_t)bits;
        memcpy(place, &narrow, sizeof(narrow));
    }
    return true;
}

/* ---- strings and bytes --------------------------------------------------------------------- */

static enum api_decode_result read_string(struct decoder *decoder, void *place)
{
    struct slice payload;
    if (!wire_get_len(&decoder->reader, &payload)) {
        return API_DECODE_MALFORMED;
    }
    if (!wire_utf8_is_valid(payload)) {
        return API_DECODE_UTF8;
    }
    struct decoded_string *string = arena_alloc(decoder->arena, sizeof(*string) + payload.size + 1);
    if (string == NULL) {
        return API_DECODE_CEILING;
    }
    string->size = payload.size;
    if (payload.size > 0) {
        memcpy(string->text, payload.data, payload.size);
    }
    char *text = string->text;
    memcpy(place, &text, sizeof(text));
    return API_DECODE_OK;
}

static enum api_decode_result read_bytes(struct decoder *decoder, void *place)
{
    struct slice payload;
    if (!wire_get_len(&decoder->reader, &payload)) {
        return API_DECODE_MALFORMED;
    }
    /* protobuf-c has no const here; nobody writes through it. */
    ProtobufCBinaryData bytes = {payload.size, (uint8_t *)(uintptr_t)payload.data};
    memcpy(place, &bytes, sizeof(bytes));
    return API_DECODE_OK;
}

/* One element that is no message. */
static enum api_decode_result read_plain(struct decoder *decoder, ProtobufCType type, void *place)
{
    if (type == PROTOBUF_C_TYPE_STRING) {
        return read_string(decoder, place);
    }
    if (type == PROTOBUF_C_TYPE_BYTES) {
        return read_bytes(decoder, place);
    }
    return read_number(&decoder->reader, type, place) ? API_DECODE_OK : API_DECODE_MALFORMED;
}

struct slice api_decoded_string(const char *text)
{
    if (text == protobuf_c_empty_string) {
        return SLICE_EMPTY;
    }
    /* read_string put the length in front. */
    size_t size;
    memcpy(&size, text - offsetof(struct decoded_string, text), sizeof(size));
    return slice_of(text, size);
}

/* ---- repeated fields ----------------------------------------------------------------------- */

/*
 * The place for one more element of |field|, NULL at the ceiling. Arrays double, so that the room
 * follows from the count: 4, 8, 16 ...
 */
static void *array_add(struct decoder *decoder, const ProtobufCFieldDescriptor *field)
{
    size_t *count = quantifier_of(decoder->top->message, field);
    void *member = member_of(decoder->top->message, field);
    size_t element = size_of(field->type);
    uint8_t *array;
    memcpy(&array, member, sizeof(array));
    bool full = *count == 0 || (*count >= 4 && (*count & (*count - 1)) == 0);
    if (full) {
        size_t room = *count == 0 ? 4 : *count * 2;
        uint8_t *larger = arena_alloc(decoder->arena, room * element);
        if (larger == NULL) {
            return NULL;
        }
        if (*count > 0) {
            memcpy(larger, array, *count * element);
        }
        array = larger;
        memcpy(member, &array, sizeof(array));
    }
    (*count)++;
    return array + (*count - 1) * element;
}

static enum api_decode_result read_packed(struct decoder *decoder,
                                          const ProtobufCFieldDescriptor *field)
{
    struct slice payload;
    if (!wire_get_len(&decoder->reader, &payload)) {
        return API_DECODE_MALFORMED;
    }
    struct wire_reader elements = {payload.data, payload.data + payload.size};
    while (elements.at < elements.end) {
        uint64_t element;
        if (!read_number(&elements, field->type, &element)) {
            return API_DECODE_MALFORMED;
        }
        void *place = array_add(decoder, field);
        if (place == NULL) {
            return API_DECODE_CEILING;
        }
        memcpy(place, &element, size_of(field->type));
    }
    return API_DECODE_OK;
}

/* ---- messages ------------------------------------------------------------------------------ */

static ProtobufCMessage *message_new(struct decoder *decoder,
                                     const ProtobufCMessageDescriptor *descriptor)
{
    ProtobufCMessage *message = arena_alloc(decoder->arena, descriptor->sizeof_message);
    if (message != NULL) {
        descriptor->message_init(message);
    }
    return message;
}

static enum api_decode_result enter(struct decoder *decoder, ProtobufCMessage *message,
                                    struct slice payload)
{
    if (decoder->depth == LIMIT_PROTO_DEPTH) {
        return API_DECODE_DEPTH;
    }
    struct frame *frame = decoder->spare;
    if (frame == NULL) {
        frame = arena_alloc(decoder->arena, sizeof(*frame));
        if (frame == NULL) {
            return API_DECODE_CEILING;
        }
    } else {
        decoder->spare = frame->outer;
    }
    *frame = (struct frame){message, payload.data + payload.size, decoder->top};
    decoder->top = frame;
    decoder->depth++;
    decoder->reader = (struct wire_reader){payload.data, frame->end};
    return API_DECODE_OK;
}

static void leave(struct decoder *decoder)
{
    struct frame *frame = decoder->top;
    ASSERT(frame != NULL);
    ASSERT(decoder->reader.at == frame->end);
    decoder->top = frame->outer;
    frame->outer = decoder->spare;
    decoder->spare = frame;
    decoder->depth--;
    if (decoder->top != NULL) {
        decoder->reader.end = decoder->top->end;
    }
}

/* The message that |field| adds to: a new element, or the one that is already there. */
static ProtobufCMessage *message_for(struct decoder *decoder, const ProtobufCFieldDescriptor *field)
{
    ProtobufCMessage *parent = decoder->top->message;
    void *place = NULL;
    ProtobufCMessage *message = NULL;
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        place = array_add(decoder, field);
        if (place == NULL) {
            return NULL;
        }
    } else {
        place = member_of(parent, field);
        uint32_t now = field->id;
        if (is_oneof(field)) {
            memcpy(&now, quantifier_of(parent, field), sizeof(now));
        }
        if (now == field->id) {
            memcpy(&message, place, sizeof(message));
        }
    }
    if (message == NULL) {
        message = message_new(decoder, field->descriptor);
        memcpy(place, &message, sizeof(message));
    }
    return message;
}

static enum api_decode_result read_message(struct decoder *decoder,
                                           const ProtobufCFieldDescriptor *field)
{
    struct slice payload;
    if (!wire_get_len(&decoder->reader, &payload)) {
        return API_DECODE_MALFORMED;
    }
    ProtobufCMessage *parent = decoder->top->message;
    ProtobufCMessage *message = message_for(decoder, field);
    if (message == NULL) {
        return API_DECODE_CEILING;
    }
    if (is_oneof(field)) {
        memcpy(quantifier_of(parent, field), &field->id, sizeof(field->id));
    }
    return enter(decoder, message, payload);
}

/* ---- fields -------------------------------------------------------------------------------- */

static enum api_decode_result read_single(struct decoder *decoder,
                                          const ProtobufCFieldDescriptor *field)
{
    ProtobufCMessage *message = decoder->top->message;
    enum api_decode_result result = read_plain(decoder, field->type, member_of(message, field));
    if (result != API_DECODE_OK) {
        return result;
    }
    if (is_oneof(field)) {
        memcpy(quantifier_of(message, field), &field->id, sizeof(field->id));
    }
    return API_DECODE_OK;
}

static enum api_decode_result read_element(struct decoder *decoder,
                                           const ProtobufCFieldDescriptor *field)
{
    void *place = array_add(decoder, field);
    return place == NULL ? API_DECODE_CEILING : read_plain(decoder, field->type, place);
}

/* Whatever comes next in the message on top. */
static enum api_decode_result read_field(struct decoder *decoder)
{
    uint32_t id;
    enum wire_type wire;
    if (!wire_get_tag(&decoder->reader, &id, &wire)) {
        return API_DECODE_MALFORMED;
    }
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(decoder->top->message->descriptor, id);
    if (field != NULL) {
        bool repeated = field->label == PROTOBUF_C_LABEL_REPEATED;
        enum wire_type own = wire_type_of(field->type);
        if (wire == own && field->type == PROTOBUF_C_TYPE_MESSAGE) {
            return read_message(decoder, field);
        }
        if (wire == own) {
            return repeated ? read_element(decoder, field) : read_single(decoder, field);
        }
        if (wire == WIRE_LEN && repeated) {
            return read_packed(decoder, field);
        }
    }
    return wire_skip(&decoder->reader, id, wire) ? API_DECODE_OK : API_DECODE_MALFORMED;
}

void *api_decode(struct slice wire, const ProtobufCMessageDescriptor *descriptor,
                 struct arena *arena, enum api_decode_result *result)
{
    static const uint8_t nothing[1];
    struct decoder decoder = {.arena = arena};
    ProtobufCMessage *message = message_new(&decoder, descriptor);
    if (message == NULL) {
        *result = API_DECODE_CEILING;
        return NULL;
    }
    struct slice payload = wire.size == 0 ? slice_of(nothing, 0) : wire;
    *result = enter(&decoder, message, payload);
    while (*result == API_DECODE_OK && decoder.top != NULL) {
        if (decoder.reader.at == decoder.reader.end) {
            leave(&decoder);
        } else {
            *result = read_field(&decoder);
        }
    }
    return *result == API_DECODE_OK ? message : NULL;
}

const char *api_decode_text(enum api_decode_result result)
{
    switch (result) {
    case API_DECODE_DEPTH:
        return "proto: exceeded maximum recursion depth";
    case API_DECODE_UTF8:
        return "string field contains invalid UTF-8";
    case API_DECODE_OK:
    case API_DECODE_MALFORMED:
    case API_DECODE_CEILING:
    default:
        return "proto: cannot parse invalid wire-format data";
    }
}
