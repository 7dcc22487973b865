/*
 * Sums, chain and effects: what makes one changed byte of the log visible. Pure.
 *
 * The row sum is XXH3-64 of the fixed fields, continued as the seed over key and value, so that
 * nothing is copied. The chain starts with a format byte: a later format never equals this one.
 * Effects are records of fixed width, so that each list has exactly one encoding:
 *
 *   version byte, then per effect: kind (1 byte), id (8, little-endian), and behind it
 *   LEASE_PUT: ttl (8); LEASE_EXPIRE: counter (8). No effects: no bytes at all.
 */
#include "sql/sql.h"

#include "core/buf.h"

enum { ENTRY_CHAIN_FORMAT = 1, ENTRY_EFFECTS_VERSION = 1 };
enum { EFFECT_SIZE_SHORT = 9, EFFECT_SIZE_LONG = 17 };

static uint8_t *entry_put_u64(uint8_t *at, uint64_t value)
{
    for (uint32_t i = 0; i < 8; i++) {
        *at++ = (uint8_t)(value >> (8 * i));
    }
    return at;
}

static uint64_t entry_get_u64(const uint8_t *at)
{
    uint64_t value = 0;
    for (uint32_t i = 0; i < 8; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

uint64_t sql_row_sum(const struct sql_row *row)
{
    uint8_t fixed[10 * 8];
    uint8_t *at = fixed;
    at = entry_put_u64(at, (uint64_t)row->revision);
    at = entry_put_u64(at, (uint64_t)row->sub);
    at = entry_put_u64(at, row->is_delete ? 1 : 0);
    at = entry_put_u64(at, (uint64_t)row->create_rev);
    at = entry_put_u64(at, (uint64_t)row->version);
    at = entry_put_u64(at, (uint64_t)row->lease);
    at = entry_put_u64(at, (uint64_t)row->prev_rev);
    at = entry_put_u64(at, (uint64_t)row->prev_sub);
    at = entry_put_u64(at, row->key.size);
    at = entry_put_u64(at, row->value.size);
    ASSERT(at == fixed + sizeof(fixed));
    uint64_t sum = hash_bytes(slice_of(fixed, sizeof(fixed)), 0);
    sum = hash_bytes(row->key, sum);
    return hash_bytes(row->value, sum);
}

uint64_t sql_lease_sum(const struct sql_lease *lease)
{
    uint8_t fixed[3 * 8];
    uint8_t *at = fixed;
    at = entry_put_u64(at, (uint64_t)lease->id);
    at = entry_put_u64(at, (uint64_t)lease->ttl_s);
    at = entry_put_u64(at, lease->grant_seq);
    ASSERT(at == fixed + sizeof(fixed));
    return hash_bytes(slice_of(fixed, sizeof(fixed)), 0);
}

struct sql_lease sql_lease_granted(const struct sql_effect *effect, uint64_t seq)
{
    ASSERT(effect->kind == SQL_LEASE_PUT);
    struct sql_lease lease = {
        .id = effect->id, .ttl_s = effect->ttl_s, .grant_seq = seq, .counter = seq};
    lease.sum = sql_lease_sum(&lease);
    return lease;
}

struct hash128 sql_rows_hash(const struct sql_row *rows, uint32_t count)
{
    ASSERT(count == 0 || rows != NULL);
    struct hash_stream *stream = hash_stream_new();
    for (uint32_t i = 0; i < count; i++) {
        hash_stream_add_u64(stream, rows[i].sum);
    }
    struct hash128 hash = hash_stream_digest(stream);
    hash_stream_free(stream);
    return hash;
}

struct hash128 sql_entry_chain(const struct hash128 *previous, const struct sql_entry *entry)
{
    struct buf effects = {0};
    sql_effects_encode(entry->effects, entry->effect_count, &effects);
    struct hash_stream *stream = hash_stream_new();
    uint8_t format = ENTRY_CHAIN_FORMAT;
    hash_stream_add(stream, &format, 1);
    hash_stream_add(stream, previous->bytes, sizeof(previous->bytes));
    hash_stream_add_u64(stream, entry->seq);
    hash_stream_add(stream, entry->writer.incarnation, sizeof(entry->writer.incarnation));
    hash_stream_add_u64(stream, entry->writer.counter);
    hash_stream_add_u64(stream, entry->epoch);
    hash_stream_add_u64(stream, (uint64_t)entry->first_rev);
    hash_stream_add_u64(stream, (uint64_t)entry->last_rev);
    hash_stream_add_u64(stream, entry->row_count);
    hash_stream_add_u64(stream, entry->byte_count);
    hash_stream_add_u64(stream, (uint64_t)entry->compact_rev);
    hash_stream_add_u64(stream, (uint64_t)entry->auth_rev);
    hash_stream_add(stream, entry->rows_hash.bytes, sizeof(entry->rows_hash.bytes));
    hash_stream_add_u64(stream, effects.size);
    hash_stream_add(stream, effects.data, effects.size);
    struct hash128 chain = hash_stream_digest(stream);
    hash_stream_free(stream);
    buf_fini(&effects);
    return chain;
}

/* Bytes of one record of |kind|; 0 for a kind that does not exist. */
static size_t effect_size(uint8_t kind)
{
    switch (kind) {
    case SQL_LEASE_PUT:
    case SQL_LEASE_EXPIRE:
        return EFFECT_SIZE_LONG;
    case SQL_LEASE_DELETE:
    case SQL_COMPACT:
        return EFFECT_SIZE_SHORT;
    default:
        return 0;
    }
}

void sql_effects_encode(const struct sql_effect *effects, uint32_t count, struct buf *buf)
{
    ASSERT(count == 0 || effects != NULL);
    if (count == 0) {
        return;
    }
    buf_add_byte(buf, ENTRY_EFFECTS_VERSION);
    for (uint32_t i = 0; i < count; i++) {
        const struct sql_effect *effect = &effects[i];
        size_t size = effect_size((uint8_t)effect->kind);
        ASSERT(size > 0);
        uint8_t *at = buf_reserve(buf, size);
        *at = (uint8_t)effect->kind;
        at = entry_put_u64(at + 1, (uint64_t)effect->id);
        if (effect->kind == SQL_LEASE_PUT) {
            (void)entry_put_u64(at, (uint64_t)effect->ttl_s);
        } else if (effect->kind == SQL_LEASE_EXPIRE) {
            (void)entry_put_u64(at, effect->counter);
        }
        buf->size += size;
    }
}

/* Count the records of |meta| behind its version byte; false when they don't fill it exactly. */
static bool effects_count(struct slice meta, uint32_t *count)
{
    size_t offset = 1;
    *count = 0;
    while (offset < meta.size) {
        size_t size = effect_size(meta.data[offset]);
        if (size == 0 || size > meta.size - offset || *count == UINT32_MAX) {
            return false;
        }
        offset += size;
        (*count)++;
    }
    return *count > 0;
}

enum err sql_effects_decode(struct slice meta, struct arena *arena,
                            const struct sql_effect **effects, uint32_t *count)
{
    *effects = NULL;
    *count = 0;
    if (meta.size == 0) {
        return ERR_OK;
    }
    uint32_t found;
    if (meta.data[0] != ENTRY_EFFECTS_VERSION || !effects_count(meta, &found)) {
        return ERR_CHAIN_BROKEN;
    }
    struct sql_effect *list = arena_alloc(arena, found * sizeof(*list));
    if (list == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    const uint8_t *at = meta.data + 1;
    for (uint32_t i = 0; i < found; i++) {
        list[i].kind = (enum sql_effect_kind) * at;
        list[i].id = (int64_t)entry_get_u64(at + 1);
        if (list[i].kind == SQL_LEASE_PUT) {
            list[i].ttl_s = (int64_t)entry_get_u64(at + EFFECT_SIZE_SHORT);
        } else if (list[i].kind == SQL_LEASE_EXPIRE) {
            list[i].counter = entry_get_u64(at + EFFECT_SIZE_SHORT);
        }
        at += effect_size(*at);
    }
    ASSERT(at == meta.data + meta.size);
    *effects = list;
    *count = found;
    return ERR_OK;
}
