/* Encoding a row once, and reading it back from its encoding. */
#include "cache/version.h"

#include "core/mem.h"
#include "core/wire.h"

/* Tags of mvccpb.KeyValue, one byte each: (field << 3) | wire type. */
enum {
    TAG_KEY = 1 << 3 | WIRE_LEN,
    TAG_CREATE_REV = 2 << 3 | WIRE_VARINT,
    TAG_MOD_REV = 3 << 3 | WIRE_VARINT,
    TAG_VERSION = 4 << 3 | WIRE_VARINT,
    TAG_VALUE = 5 << 3 | WIRE_LEN,
    TAG_LEASE = 6 << 3 | WIRE_VARINT,
};

static_assert(offsetof(struct cache_version, encoded) == 32, "32 bytes in front of the encoding");

static size_t bytes_field_size(size_t size)
{
    ASSERT(size <= UINT32_MAX / 4);
    return size == 0 ? 0 : 1 + wire_varint_size(size) + size;
}

static size_t number_field_size(int64_t number)
{
    return number == 0 ? 0 : 1 + wire_varint_size((uint64_t)number);
}

static uint8_t *put_bytes_field(uint8_t *at, uint8_t tag, struct slice bytes)
{
    ASSERT(tag < 0x80 && (tag & 7) == WIRE_LEN); /* One byte. */
    if (bytes.size == 0) {
        return at;
    }
    ASSERT(bytes.data != NULL);
    *at++ = tag;
    at = wire_put_varint(at, bytes.size);
    return wire_put_bytes(at, bytes.data, bytes.size);
}

static uint8_t *put_number_field(uint8_t *at, uint8_t tag, int64_t number)
{
    ASSERT(at != NULL);
    ASSERT(tag < 0x80 && (tag & 7) == WIRE_VARINT);
    if (number == 0) {
        return at;
    }
    *at++ = tag;
    return wire_put_varint(at, (uint64_t)number);
}

static size_t row_encoded_size(const struct cache_row *row)
{
    ASSERT(row->key.size <= UINT32_MAX / 4);
    ASSERT(row->value.size <= UINT32_MAX / 4);
    return bytes_field_size(row->key.size) + number_field_size(row->create_rev) +
           number_field_size(row->revision) + number_field_size(row->version) +
           bytes_field_size(row->value.size) + number_field_size(row->lease);
}

struct cache_version *cache_version_new(const struct cache_row *row, struct cache_version *older)
{
    ASSERT(row->key.size > 0);
    ASSERT(row->sub >= 0);
    struct cache_row kept = *row;
    if (row->is_delete) { /* The kv of a DELETE event: key and mod_revision. */
        kept.value = SLICE_EMPTY;
        kept.create_rev = 0;
        kept.version = 0;
        kept.lease = 0;
    }
    size_t size = row_encoded_size(&kept);
    struct cache_version *version = mem_alloc_raw(sizeof(*version) + size);
    *version = (struct cache_version){
        .item = {.key_at = (uint32_t)(sizeof(*version) + 1 + wire_varint_size(kept.key.size)),
                 .key_size = (uint32_t)kept.key.size},
        .mod_rev = kept.revision,
        .sub_and_kind = (uint32_t)kept.sub | (kept.is_delete ? CACHE_VERSION_TOMBSTONE : 0),
        .encoded_size = (uint32_t)size,
    };
    atomic_init(&version->older, older);
    uint8_t *at = put_bytes_field(version->encoded, TAG_KEY, kept.key);
    at = put_number_field(at, TAG_CREATE_REV, kept.create_rev);
    at = put_number_field(at, TAG_MOD_REV, kept.revision);
    at = put_number_field(at, TAG_VERSION, kept.version);
    at = put_bytes_field(at, TAG_VALUE, kept.value);
    at = put_number_field(at, TAG_LEASE, kept.lease);
    ASSERT(at == version->encoded + size);
    return version;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Behind the key field. */
static struct wire_reader reader_behind_key(const struct cache_version *version)
{
    const uint8_t *from = (const uint8_t *)version + version->item.key_at + version->item.key_size;
    const uint8_t *end = version->encoded + version->encoded_size;
    ASSERT(from > version->encoded);
    ASSERT(from <= end);
    return (struct wire_reader){from, end};
}

/* The number of the field |tag| if it comes next, else 0. */
static int64_t take_number(struct wire_reader *reader, uint8_t tag)
{
    ASSERT(reader->at <= reader->end);
    if (wire_is_at_end(reader) || *reader->at != tag) {
        return 0;
    }
    reader->at++;
    uint64_t number = 0;
    bool is_whole = wire_get_varint(reader, &number);
    ASSERT(is_whole);    /* Our own encoding, ... */
    ASSERT(number != 0); /* ... in which zero is left out. */
    return (int64_t)number;
}

static struct slice take_value(struct wire_reader *reader)
{
    struct slice value = SLICE_EMPTY;
    ASSERT(reader->at <= reader->end);
    if (wire_is_at_end(reader) || *reader->at != TAG_VALUE) {
        return value;
    }
    reader->at++;
    bool is_whole = wire_get_len(reader, &value);
    ASSERT(is_whole);
    ASSERT(value.size > 0);
    return value;
}

/* Behind create_revision, mod_revision and version. */
static struct wire_reader reader_behind_head(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_key(version);
    (void)take_number(&reader, TAG_CREATE_REV);
    int64_t mod_rev = take_number(&reader, TAG_MOD_REV);
    (void)take_number(&reader, TAG_VERSION);
    ASSERT(mod_rev == version->mod_rev);
    ASSERT(reader.at <= reader.end);
    return reader;
}

struct slice cache_version_key(const struct cache_version *version)
{
    ASSERT(version->item.key_at > offsetof(struct cache_version, encoded));
    ASSERT(version->item.key_size > 0);
    return cache_tree_key(&version->item);
}

struct slice cache_version_value(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_head(version);
    struct slice value = take_value(&reader);
    ASSERT(value.size < version->encoded_size);
    ASSERT(IMPLIES(cache_version_is_tombstone(version), value.size == 0));
    return value;
}

int64_t cache_version_mod_rev(const struct cache_version *version)
{
    ASSERT(version->mod_rev > 0);
    return version->mod_rev;
}

int32_t cache_version_sub(const struct cache_version *version)
{
    return (int32_t)(version->sub_and_kind & ~CACHE_VERSION_TOMBSTONE);
}

int64_t cache_version_create_rev(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_key(version);
    int64_t create_rev = take_number(&reader, TAG_CREATE_REV);
    ASSERT(IMPLIES(cache_version_is_tombstone(version), create_rev == 0));
    return create_rev;
}

int64_t cache_version_version(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_key(version);
    (void)take_number(&reader, TAG_CREATE_REV);
    int64_t mod_rev = take_number(&reader, TAG_MOD_REV);
    ASSERT(mod_rev == version->mod_rev);
    int64_t number = take_number(&reader, TAG_VERSION);
    ASSERT(IMPLIES(cache_version_is_tombstone(version), number == 0));
    return number;
}

int64_t cache_version_lease(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_head(version);
    (void)take_value(&reader);
    int64_t lease = take_number(&reader, TAG_LEASE);
    ASSERT(wire_is_at_end(&reader)); /* The last field. */
    ASSERT(IMPLIES(cache_version_is_tombstone(version), lease == 0));
    return lease;
}

bool cache_version_is_tombstone(const struct cache_version *version)
{
    return (version->sub_and_kind & CACHE_VERSION_TOMBSTONE) != 0;
}

struct slice cache_version_encoded(const struct cache_version *version)
{
    ASSERT(version->encoded_size > version->item.key_size);
    ASSERT(version->encoded[0] == TAG_KEY);
    return slice_of(version->encoded, version->encoded_size);
}

struct slice cache_version_encoded_head(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_head(version);
    size_t size = (size_t)(reader.at - version->encoded);
    ASSERT(size > version->item.key_size);
    ASSERT(size <= version->encoded_size);
    return slice_of(version->encoded, size);
}

struct slice cache_version_encoded_lease(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_head(version);
    (void)take_value(&reader);
    ASSERT(wire_is_at_end(&reader) || *reader.at == TAG_LEASE);
    ASSERT(reader.end - reader.at <= 1 + WIRE_VARINT_SIZE_MAX);
    return slice_of(reader.at, (size_t)(reader.end - reader.at));
}

const struct cache_version *cache_version_older(const struct cache_version *version)
{
    const struct cache_version *older = cache_version_before(version);
    ASSERT(older != version);
    ASSERT(IMPLIES(older != NULL, older->mod_rev <= version->mod_rev));
    return older;
}

size_t cache_version_size(const struct cache_version *version)
{
    ASSERT(version->encoded_size > 0);
    return sizeof(*version) + version->encoded_size;
}

size_t cache_version_logical(const struct cache_version *version)
{
    return version->item.key_size + cache_version_value(version).size;
}

const struct cache_version *cache_version_at(const struct cache_version *version, int64_t at_rev)
{
    ASSERT(at_rev > 0);
    while (version != NULL && version->mod_rev > at_rev) {
        const struct cache_version *older = cache_version_before(version);
        ASSERT(older == NULL || older->mod_rev <= version->mod_rev);
        version = older;
    }
    return version;
}
