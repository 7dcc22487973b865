/* XXH3 for tables (seeded against flooding) and for the log's chain. */
#ifndef CORE_HASH_H
#define CORE_HASH_H

#include "core/slice.h"

/* Process-wide random seed for hash tables, set at first use. Never for stored data. Any thread. */
uint64_t hash_table_seed(void);
/* XXH3-64. Pure, any thread. O(size). */
uint64_t hash_bytes(struct slice bytes, uint64_t seed);

struct hash128 {
    uint8_t bytes[16]; /* XXH3-128, canonical (big-endian) form. */
};
static inline bool hash128_equal(const struct hash128 *a, const struct hash128 *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}
/* Streaming, so that a batch need not be copied to be hashed. One thread at a time; what is added
 * is read in the call and not kept. */
struct hash_stream;
/* Empty; the caller owns it. The only one that allocates. */
struct hash_stream *hash_stream_new(void);
/* NULL is a no-op. */
void hash_stream_free(struct hash_stream *stream);
/* Empty again. */
void hash_stream_reset(struct hash_stream *stream);
void hash_stream_add(struct hash_stream *stream, const void *data, size_t size);
/* Integers are hashed little-endian, 8 bytes. */
void hash_stream_add_u64(struct hash_stream *stream, uint64_t value);
/* Of all that was added since the reset; more may be added behind it. O(1). */
struct hash128 hash_stream_digest(const struct hash_stream *stream);

#endif
