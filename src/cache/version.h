/*
 * One revision of one key: 32 bytes in front of the encoded mvccpb.KeyValue, in one allocation.
 *
 * Only what is needed without looking at the bytes is kept beside them; create_revision, version,
 * value and lease are read from the encoding, which costs some ten nanoseconds and saves 24 bytes
 * per version.
 *
 * Made by the cache's thread. Readers follow what their snapshot shows, on any reader thread; all
 * but |older| never changes. Nothing allocates but cache_version_new; O(1) unless told.
 */
#ifndef CACHE_VERSION_H
#define CACHE_VERSION_H

#include <stdatomic.h>

#include "cache/cache.h"
#include "cache/tree.h"

#define CACHE_VERSION_TOMBSTONE (UINT32_C(1) << 31)

struct cache_version {
    struct cache_tree_item item; /* First: the newest version is the item of its key. */
    /* Written when made and when cut; see cache/trim.c for who may still follow it. */
    _Atomic(struct cache_version *) older;
    int64_t mod_rev;
    uint32_t sub_and_kind; /* Sub, and CACHE_VERSION_TOMBSTONE. */
    uint32_t encoded_size;
    uint8_t encoded[];
};

static inline struct cache_version *cache_version_of(struct cache_tree_item *item)
{
    return item == NULL ? NULL : CONTAINER_OF(item, struct cache_version, item);
}

/* The next older one, or NULL; not const: for the writer. */
static inline struct cache_version *cache_version_before(const struct cache_version *version)
{
    return atomic_load_explicit(&version->older, memory_order_acquire);
}

/* Encodes |row|, copying its bytes; |older| is what it replaces, or NULL, borrowed until it is cut.
 * The caller owns the result (mem_free). O(size of the row). */
struct cache_version *cache_version_new(const struct cache_row *row, struct cache_version *older);
/* Bytes of the allocation. */
size_t cache_version_size(const struct cache_version *version);
/* Bytes that it counts in cache_info.logical_bytes: its key and value. */
size_t cache_version_logical(const struct cache_version *version);
/* The newest one, from |version| on, with mod_rev <= |at_rev|; NULL if none. |at_rev| is not
 * compacted in the reader's snapshot. O(versions passed). */
const struct cache_version *cache_version_at(const struct cache_version *version, int64_t at_rev);

#endif
