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
    return size == 0 ? 0 : 1 + wire_varint_size(size) + size;
}

static size_t number_field_size(int64_t number)
{
    return number == 0 ? 0 : 1 + wire_varint_size((uint64_t)number);
}

static uint8_t *put_bytes_field(uint8_t *at, uint8_t tag, struct slice bytes)
{
    if (bytes.size == 0) {
        return at;
    }
    *at++ = tag;
    at = wire_put_varint(at, bytes.size);
    return wire_put_bytes(at, bytes.data, bytes.size);
}

static uint8_t *put_number_field(uint8_t *at, uint8_t tag, int64_t number)
{
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
    if (wire_is_at_end(reader) || *reader->at != tag) {
        return 0;
    }
    reader->at++;
    uint64_t number = 0;
    bool is_whole = wire_get_varint(reader, &number);
    ASSERT(is_whole); /* Our own encoding. */
    return (int64_t)number;
}

static struct slice take_value(struct wire_reader *reader)
{
    struct slice value = SLICE_EMPTY;
    if (wire_is_at_end(reader) || *reader->at != TAG_VALUE) {
        return value;
    }
    reader->at++;
    bool is_whole = wire_get_len(reader, &value);
    ASSERT(is_whole);
    return value;
}

/* Behind create_revision, mod_revision and version. */
static struct wire_reader reader_behind_head(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_key(version);
    (void)take_number(&reader, TAG_CREATE_REV);
    (void)take_number(&reader, TAG_MOD_REV);
    (void)take_number(&reader, TAG_VERSION);
    ASSERT(reader.at <= reader.end);
    return reader;
}

struct slice cache_version_key(const struct cache_version *version)
{
    return cache_tree_key(&version->item);
}

struct slice cache_version_value(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_head(version);
    return take_value(&reader);
}

int64_t cache_version_mod_rev(const struct cache_version *version)
{
    return version->mod_rev;
}

int32_t cache_version_sub(const struct cache_version *version)
{
    return (int32_t)(version->sub_and_kind & ~CACHE_VERSION_TOMBSTONE);
}

int64_t cache_version_create_rev(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_key(version);
    return take_number(&reader, TAG_CREATE_REV);
}

int64_t cache_version_version(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_key(version);
    (void)take_number(&reader, TAG_CREATE_REV);
    (void)take_number(&reader, TAG_MOD_REV);
    return take_number(&reader, TAG_VERSION);
}

int64_t cache_version_lease(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_head(version);
    (void)take_value(&reader);
    return take_number(&reader, TAG_LEASE);
}

bool cache_version_is_tombstone(const struct cache_version *version)
{
    return (version->sub_and_kind & CACHE_VERSION_TOMBSTONE) != 0;
}

struct slice cache_version_encoded(const struct cache_version *version)
{
    return slice_of(version->encoded, version->encoded_size);
}

struct slice cache_version_encoded_head(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_head(version);
    return slice_of(version->encoded, (size_t)(reader.at - version->encoded));
}

struct slice cache_version_encoded_lease(const struct cache_version *version)
{
    struct wire_reader reader = reader_behind_head(version);
    (void)take_value(&reader);
    return slice_of(reader.at, (size_t)(reader.end - reader.at));
}

const struct cache_version *cache_version_older(const struct cache_version *version)
{
    return cache_version_before(version);
}

size_t cache_version_size(const struct cache_version *version)
{
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
