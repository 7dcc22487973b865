/* XXH3 behind our own names; the library's header stays in this file. */
#include "core/hash.h"

#include <assert.h>
#include <stdatomic.h>
#include <sys/random.h>

#include <xxhash.h>

#include "core/mem.h"

struct hash_stream {
    XXH3_state_t *state; /* Of the library: it wants an alignment that malloc does not give. */
};

uint64_t hash_table_seed(void)
{
    static _Atomic uint64_t seed; /* 0 = not chosen yet. */
    uint64_t now = atomic_load_explicit(&seed, memory_order_relaxed);
    if (now != 0) {
        return now;
    }
    uint64_t chosen = 0;
    ASSERT(getrandom(&chosen, sizeof(chosen), 0) == (ssize_t)sizeof(chosen));
    chosen |= 1; /* Never 0. */
    /* Of several first users one wins, and all take its seed. */
    return atomic_compare_exchange_strong(&seed, &now, chosen) ? chosen : now;
}

uint64_t hash_bytes(struct slice bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes.data, bytes.size, seed);
}

struct hash_stream *hash_stream_new(void)
{
    struct hash_stream *stream = mem_alloc(sizeof(*stream));
    stream->state = XXH3_createState();
    ASSERT(stream->state != NULL);
    hash_stream_reset(stream);
    return stream;
}

void hash_stream_free(struct hash_stream *stream)
{
    if (stream != NULL) {
        (void)XXH3_freeState(stream->state);
        mem_free(stream);
    }
}

void hash_stream_reset(struct hash_stream *stream)
{
    ASSERT(XXH3_128bits_reset(stream->state) == XXH_OK);
}

void hash_stream_add(struct hash_stream *stream, const void *data, size_t size)
{
    if (size > 0) {
        ASSERT(XXH3_128bits_update(stream->state, data, size) == XXH_OK);
    }
}

void hash_stream_add_u64(struct hash_stream *stream, uint64_t value)
{
    uint8_t bytes[8];
    for (uint32_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    hash_stream_add(stream, bytes, sizeof(bytes));
}

struct hash128 hash_stream_digest(const struct hash_stream *stream)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(stream->state));
    struct hash128 hash;
    static_assert(sizeof(canonical) == sizeof(hash), "128 bits either way");
    memcpy(hash.bytes, canonical.digest, sizeof(hash.bytes));
    return hash;
}
