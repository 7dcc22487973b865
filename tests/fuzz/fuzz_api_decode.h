/*
 * Goal: whatever bytes arrive, api_decode takes them as Go would, without harm.
 * Method: for any input, decode; what was accepted is packed by protobuf-c, decoded again and
 * packed again, and must not have changed. Where the input is plain enough for protobuf-c to agree
 * with Go (see is_plain), its own unpacking must give the same message.
 */
#ifndef FUZZ_API_DECODE_H
#define FUZZ_API_DECODE_H

#include "api/decode.h"
#include "core/limits.h"
#include "core/mem.h"
#include "core/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PLAIN_DEPTH = 50, PLAIN_FIELDS = 64 };

struct plain_level {
    const ProtobufCMessageDescriptor *descriptor;
    const uint8_t *end;
    uint64_t seen; /* Message fields by index. */
};

/* Known field, its own wire type, no message twice (protobuf-c replaces where Go merges). */
static bool plain_field(struct plain_level *level, struct wire_reader *reader,
                        const ProtobufCFieldDescriptor **message)
{
    uint32_t id = 0;
    enum wire_type type = WIRE_VARINT;
    *message = NULL;
    if (!wire_get_tag(reader, &id, &type)) {
        return false;
    }
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field(level->descriptor, id);
    if (field == NULL || (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        /* A oneof's members share a place: only one of them may come, once. */
        if (field == NULL || (level->seen & UINT64_C(1) << (PLAIN_FIELDS - 1)) != 0) {
            return false;
        }
        level->seen |= UINT64_C(1) << (PLAIN_FIELDS - 1);
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE && type == WIRE_LEN) {
        uint64_t bit = UINT64_C(1) << ((field - level->descriptor->fields) % (PLAIN_FIELDS - 1));
        if (field->label != PROTOBUF_C_LABEL_REPEATED && (level->seen & bit) != 0) {
            return false;
        }
        level->seen |= bit;
        *message = field;
        return true;
    }
    bool is_bytes = field->type == PROTOBUF_C_TYPE_BYTES || field->type == PROTOBUF_C_TYPE_STRING;
    bool fits =
        is_bytes ? type == WIRE_LEN : type == WIRE_VARINT && field->type != PROTOBUF_C_TYPE_MESSAGE;
    if (!fits) {
        return false;
    }
    if (type == WIRE_VARINT) {
        uint64_t value = 0;
        return wire_get_varint(reader, &value);
    }
    struct slice payload;
    return wire_get_len(reader, &payload) &&
           (payload.size == 0 || memchr(payload.data, 0, payload.size) == NULL ||
            field->type == PROTOBUF_C_TYPE_BYTES);
}

static bool is_plain(struct slice wire, const ProtobufCMessageDescriptor *descriptor)
{
    struct plain_level levels[PLAIN_DEPTH];
    uint32_t depth = 0;
    struct wire_reader reader = wire_reader_of(wire);
    levels[depth++] = (struct plain_level){descriptor, reader.end, 0};
    while (depth > 0) {
        struct plain_level *level = &levels[depth - 1];
        reader.end = level->end;
        if (reader.at == level->end) {
            depth--;
            continue;
        }
        const ProtobufCFieldDescriptor *field = NULL;
        if (!plain_field(level, &reader, &field)) {
            return false;
        }
        if (field != NULL) {
            struct slice payload;
            if (depth == PLAIN_DEPTH || !wire_get_len(&reader, &payload)) {
                return false;
            }
            reader.at = payload.data;
            levels[depth++] =
                (struct plain_level){field->descriptor, payload.data + payload.size, 0};
        }
    }
    return true;
}

static struct slice pack(const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = mem_alloc_raw(size + 1);
    size_t packed = protobuf_c_message_pack(message, bytes);
    ASSERT(packed == size);
    return slice_of(bytes, size);
}

static void release(struct slice packed)
{
    mem_free((void *)(uintptr_t)packed.data);
}

/* protobuf-c packs by recursion: only what cannot end this process is packed. */
static bool is_shallow(struct slice wire)
{
    return wire.size < 64 * 1024;
}

static void fuzz_decode(struct slice wire, const ProtobufCMessageDescriptor *descriptor)
{
    struct arena arena;
    struct arena again_arena;
    enum api_decode_result result;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    arena_init(&again_arena, LIMIT_CALL_ARENA_MAX);
    const ProtobufCMessage *message = api_decode(wire, descriptor, &arena, &result);
    ASSERT((message == NULL) == (result != API_DECODE_OK));
    if (message != NULL && is_shallow(wire)) {
        struct slice packed = pack(message);
        const ProtobufCMessage *again = api_decode(packed, descriptor, &again_arena, &result);
        ASSERT(again != NULL && result == API_DECODE_OK);
        struct slice repacked = pack(again);
        ASSERT(slice_equal(packed, repacked));
        release(repacked);
        if (is_plain(wire, descriptor)) {
            static const uint8_t nothing[1];
            ProtobufCMessage *theirs = protobuf_c_message_unpack(
                descriptor, NULL, wire.size, wire.size == 0 ? nothing : wire.data);
            ASSERT(theirs != NULL);
            struct slice expected = pack(theirs);
            ASSERT(slice_equal(packed, expected));
            release(expected);
            protobuf_c_message_free_unpacked(theirs, NULL);
        }
        release(packed);
    }
    arena_fini(&again_arena);
    arena_fini(&arena);
}

#endif
