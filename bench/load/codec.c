/* Keys, values, requests and answers. Field numbers: etcd's rpc.proto and kv.proto. */
#include "codec.h"

#include "core/clock.h"
#include "core/mem.h"
#include "core/wire.h"

enum { NOISE_STARTS = 4096 };

void load_codec_init(struct load_codec *codec, const struct load_options *options)
{
    codec->options = options;
    codec->prefix_size = strlen(options->key_prefix);
    codec->key = mem_alloc(options->key_size);
    codec->noise = mem_alloc(options->value_size + NOISE_STARTS);
    codec->range_end = mem_copy(options->key_prefix, codec->prefix_size);
    codec->range_end[codec->prefix_size - 1]++;
    struct rng rng;
    rng_seed(&rng, options->seed + 1);
    rng_fill(&rng, codec->noise, options->value_size + NOISE_STARTS);
}

void load_codec_fini(struct load_codec *codec)
{
    mem_free(codec->key);
    mem_free(codec->noise);
    mem_free(codec->range_end);
}

/* ---- writing ------------------------------------------------------------------------------- */

static void put_number(struct buf *out, uint32_t field, uint64_t value)
{
    uint8_t *start = buf_reserve(out, 2 * WIRE_VARINT_SIZE_MAX);
    uint8_t *at = wire_put_tag(start, field, WIRE_VARINT);
    out->size += (size_t)(wire_put_varint(at, value) - start);
}

static void put_bytes(struct buf *out, uint32_t field, struct slice bytes)
{
    uint8_t *start = buf_reserve(out, 2 * WIRE_VARINT_SIZE_MAX + bytes.size);
    uint8_t *at = wire_put_tag(start, field, WIRE_LEN);
    at = wire_put_varint(at, bytes.size);
    out->size += (size_t)(wire_put_bytes(at, bytes.data, bytes.size) - start);
}

/* Begin a message in |field|; returns where its bytes start. */
static size_t put_open(struct buf *out, uint32_t field)
{
    uint8_t *start = buf_reserve(out, WIRE_VARINT_SIZE_MAX);
    out->size += (size_t)(wire_put_tag(start, field, WIRE_LEN) - start);
    return out->size;
}

/* End it: its size goes in front. */
static void put_close(struct buf *out, size_t start)
{
    uint8_t prefix[WIRE_VARINT_SIZE_MAX];
    size_t size = out->size - start;
    size_t prefix_size = (size_t)(wire_put_varint(prefix, size) - prefix);
    buf_reserve(out, prefix_size);
    memmove(out->data + start + prefix_size, out->data + start, size);
    memcpy(out->data + start, prefix, prefix_size);
    out->size += prefix_size;
}

static struct slice codec_key(struct load_codec *codec, uint64_t number)
{
    size_t size = codec->options->key_size;
    size_t at = size;
    memcpy(codec->key, codec->options->key_prefix, codec->prefix_size);
    while (at > codec->prefix_size) {
        codec->key[--at] = (uint8_t)('0' + number % 10);
        number /= 10;
    }
    return slice_of(codec->key, size);
}

static void put_u64_raw(uint8_t *at, uint64_t value)
{
    for (uint32_t i = 0; i < 8; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}
static uint64_t get_u64_raw(const uint8_t *at)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < 8; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

/* The fields of a PutRequest. */
static void put_put_fields(struct load_codec *codec, struct buf *out, uint64_t key, uint64_t serial)
{
    size_t size = codec->options->value_size;
    put_bytes(out, 1, codec_key(codec, key));
    put_bytes(out, 2, slice_of(codec->noise + (key * 31 + serial * 7) % NOISE_STARTS, size));
    uint8_t *value = out->data + out->size - size;
    put_u64_raw(value, key);
    put_u64_raw(value + 8, serial);
}

void load_put_range(struct load_codec *codec, struct buf *out, uint64_t key, bool serializable)
{
    put_bytes(out, 1, codec_key(codec, key));
    if (serializable) {
        put_number(out, 7, 1);
    }
}

void load_put_list(struct load_codec *codec, struct buf *out, uint64_t key, uint64_t limit)
{
    put_bytes(out, 1, codec_key(codec, key));
    put_bytes(out, 2, slice_of(codec->range_end, codec->prefix_size));
    if (limit > 0) {
        put_number(out, 3, limit);
    }
}

void load_put_put(struct load_codec *codec, struct buf *out, uint64_t key, uint64_t serial)
{
    put_put_fields(codec, out, key, serial);
}

/* A put as a RequestOp of the success list. */
static void put_put_op(struct load_codec *codec, struct buf *out, uint64_t key, uint64_t serial)
{
    size_t op = put_open(out, 2);
    size_t put = put_open(out, 2);
    put_put_fields(codec, out, key, serial);
    put_close(out, put);
    put_close(out, op);
}

void load_put_cas(struct load_codec *codec, struct buf *out, uint64_t key, int64_t mod_rev,
                  uint64_t serial)
{
    enum { COMPARE_TARGET_MOD = 2 };
    size_t compare = put_open(out, 1);
    put_number(out, 2, COMPARE_TARGET_MOD);
    put_bytes(out, 3, codec_key(codec, key));
    put_number(out, 6, (uint64_t)mod_rev);
    put_close(out, compare);
    put_put_op(codec, out, key, serial);
    size_t op = put_open(out, 3);
    size_t range = put_open(out, 1);
    put_bytes(out, 1, codec_key(codec, key));
    put_close(out, range);
    put_close(out, op);
}

void load_put_fill(struct load_codec *codec, struct buf *out, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        put_put_op(codec, out, first + i, 0);
    }
}

void load_put_watch(struct load_codec *codec, struct buf *out, uint64_t first, uint64_t end,
                    uint64_t watch_id)
{
    size_t create = put_open(out, 1);
    put_bytes(out, 1, codec_key(codec, first));
    if (end >= codec->options->keys) {
        put_bytes(out, 2, slice_of(codec->range_end, codec->prefix_size));
    } else {
        put_bytes(out, 2, codec_key(codec, end));
    }
    put_number(out, 7, watch_id);
    put_close(out, create);
}

/* ---- reading ------------------------------------------------------------------------------- */

struct field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;     /* WIRE_VARINT */
    struct slice bytes; /* WIRE_LEN */
};

/* The next field; false at the end or when broken (then reader->at stays in front of the end). */
static bool field_next(struct wire_reader *reader, struct field *field)
{
    if (reader->at == reader->end) {
        return false;
    }
    const uint8_t *start = reader->at;
    bool ok = wire_get_tag(reader, &field->number, &field->type);
    if (ok && field->type == WIRE_VARINT) {
        ok = wire_get_varint(reader, &field->value);
    } else if (ok && field->type == WIRE_LEN) {
        ok = wire_get_len(reader, &field->bytes);
    } else if (ok) {
        ok = wire_skip(reader, field->number, field->type);
    }
    if (!ok) {
        reader->at = start;
    }
    return ok;
}

static struct wire_reader reader_of(struct slice message)
{
    return (struct wire_reader){message.data, message.data + message.size};
}

static bool reader_is_done(const struct wire_reader *reader)
{
    return reader->at == reader->end;
}

static bool get_header(struct slice message, int64_t *revision)
{
    struct wire_reader reader = reader_of(message);
    struct field field;
    while (field_next(&reader, &field)) {
        if (field.number == 3 && field.type == WIRE_VARINT) {
            *revision = (int64_t)field.value;
        }
    }
    return reader_is_done(&reader);
}

/* The number in a key; false when it isn't one of ours. */
static bool key_number(const struct load_codec *codec, struct slice key, uint64_t *number)
{
    if (key.size != codec->options->key_size ||
        memcmp(key.data, codec->options->key_prefix, codec->prefix_size) != 0) {
        return false;
    }
    *number = 0;
    for (size_t i = key.size - LOAD_KEY_DIGITS; i < key.size; i++) {
        *number = *number * 10 + (uint64_t)(key.data[i] - '0');
    }
    return true;
}

static bool get_kv(struct load_codec *codec, struct slice message, struct load_kv *kv)
{
    struct wire_reader reader = reader_of(message);
    struct field field;
    bool has_key = false;
    bool has_value = false;
    uint64_t value_key = 0;
    memset(kv, 0, sizeof(*kv));
    while (field_next(&reader, &field)) {
        if (field.number == 1 && field.type == WIRE_LEN) {
            has_key = key_number(codec, field.bytes, &kv->key);
        } else if (field.number == 3 && field.type == WIRE_VARINT) {
            kv->mod_rev = (int64_t)field.value;
        } else if (field.number == 5 && field.type == WIRE_LEN) {
            has_value = field.bytes.size == codec->options->value_size;
            if (has_value) {
                value_key = get_u64_raw(field.bytes.data);
                kv->serial = get_u64_raw(field.bytes.data + 8);
            }
        }
    }
    kv->is_ours = has_key && has_value && kv->key == value_key && kv->mod_rev > 0;
    return reader_is_done(&reader);
}

static void answer_add_kv(struct load_answer *answer, const struct load_kv *kv)
{
    bool follows = answer->kvs == 0 || kv->key == answer->last_key + 1;
    answer->kvs_wrong += !kv->is_ours || !follows;
    if (answer->kvs == 0) {
        answer->first_key = kv->key;
    }
    answer->kvs++;
    answer->key_sum += kv->key;
    answer->last_key = kv->key;
    answer->last_mod_rev = kv->mod_rev;
}

bool load_get_range(struct load_codec *codec, struct slice message, struct load_answer *answer)
{
    struct wire_reader reader = reader_of(message);
    struct field field;
    bool ok = true;
    while (ok && field_next(&reader, &field)) {
        struct load_kv kv;
        if (field.number == 1 && field.type == WIRE_LEN) {
            ok = get_header(field.bytes, &answer->revision);
        } else if (field.number == 2 && field.type == WIRE_LEN) {
            ok = get_kv(codec, field.bytes, &kv);
            answer_add_kv(answer, &kv);
        } else if (field.number == 3 && field.type == WIRE_VARINT) {
            answer->more = field.value != 0;
        } else if (field.number == 4 && field.type == WIRE_VARINT) {
            answer->count = field.value;
        }
    }
    return ok && reader_is_done(&reader);
}

bool load_get_range_chunk(struct load_codec *codec, struct slice message,
                          struct load_answer *answer)
{
    struct wire_reader reader = reader_of(message);
    struct field field;
    bool ok = true;
    while (ok && field_next(&reader, &field)) {
        if (field.number == 1 && field.type == WIRE_LEN) {
            ok = load_get_range(codec, field.bytes, answer);
        }
    }
    return ok && reader_is_done(&reader);
}

bool load_get_put(struct slice message, struct load_answer *answer)
{
    struct wire_reader reader = reader_of(message);
    struct field field;
    bool ok = true;
    while (ok && field_next(&reader, &field)) {
        if (field.number == 1 && field.type == WIRE_LEN) {
            ok = get_header(field.bytes, &answer->revision);
        }
    }
    return ok && reader_is_done(&reader);
}

/* A ResponseOp: only an inner Range adds something. */
static bool get_op(struct load_codec *codec, struct slice message, struct load_answer *answer)
{
    struct wire_reader reader = reader_of(message);
    struct field field;
    bool ok = true;
    while (ok && field_next(&reader, &field)) {
        if (field.number == 1 && field.type == WIRE_LEN) {
            ok = load_get_range(codec, field.bytes, answer);
        }
    }
    return ok && reader_is_done(&reader);
}

bool load_get_txn(struct load_codec *codec, struct slice message, struct load_answer *answer)
{
    struct wire_reader reader = reader_of(message);
    struct field field;
    int64_t revision = 0; /* An inner Range has a header, too: the outer one counts. */
    bool ok = true;
    while (ok && field_next(&reader, &field)) {
        if (field.number == 1 && field.type == WIRE_LEN) {
            ok = get_header(field.bytes, &revision);
        } else if (field.number == 2 && field.type == WIRE_VARINT) {
            answer->succeeded = field.value != 0;
        } else if (field.number == 3 && field.type == WIRE_LEN) {
            ok = get_op(codec, field.bytes, answer);
        }
    }
    answer->revision = revision;
    return ok && reader_is_done(&reader);
}

/* An Event: its kv. */
static bool get_event(struct load_codec *codec, struct slice message, struct load_kv *kv)
{
    struct wire_reader reader = reader_of(message);
    struct field field;
    bool ok = true;
    memset(kv, 0, sizeof(*kv));
    while (ok && field_next(&reader, &field)) {
        if (field.number == 2 && field.type == WIRE_LEN) {
            ok = get_kv(codec, field.bytes, kv);
        }
    }
    return ok && reader_is_done(&reader);
}

bool load_get_watch(struct load_codec *codec, struct slice message,
                    struct load_watch_answer *answer, load_event_fn *event, void *arg)
{
    struct field field;
    struct load_kv kv;
    bool ok = true;
    memset(answer, 0, sizeof(*answer));
    struct wire_reader reader = reader_of(message);
    /* Servers write fields in order of number, so events come last. */
    while (ok && field_next(&reader, &field)) {
        if (field.number == 1 && field.type == WIRE_LEN) {
            ok = get_header(field.bytes, &answer->revision);
        } else if (field.number == 2 && field.type == WIRE_VARINT) {
            answer->watch_id = field.value;
        } else if (field.number == 3 && field.type == WIRE_VARINT) {
            answer->created = field.value != 0;
        } else if (field.number == 4 && field.type == WIRE_VARINT) {
            answer->canceled = field.value != 0;
        } else if (field.number == 11 && field.type == WIRE_LEN) {
            ok = get_event(codec, field.bytes, &kv);
            event(arg, answer, &kv);
        }
    }
    return ok && reader_is_done(&reader);
}
