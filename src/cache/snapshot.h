/*
 * A snapshot: the scalars and the roots, made at publish and never changed. About 600 bytes.
 *
 * The ring holds the roots of the last few revisions that were published, oldest first, all below
 * info.revision and not below info.compact_rev. A read at exactly one of them is as fast as at the
 * newest revision, and its count is exact in O(log keys).
 *
 * Made by the cache's thread, read by any reader thread until a grace period has passed.
 */
#ifndef CACHE_SNAPSHOT_H
#define CACHE_SNAPSHOT_H

#include "cache/cache.h"
#include "cache/events.h"

struct cache_root {
    int64_t revision;
    uint64_t publish; /* Number of the publish that made it: see cache/garbage.h. */
    struct cache_tree_node *keys;
};

struct cache_snapshot {
    struct cache_info info;
    uint64_t publish;
    struct cache_tree_node *keys; /* struct cache_version; live unless a tombstone. */
    struct cache_tree_node *leases;
    struct cache_tree_node *lease_keys;
    const struct cache_event_directory *directory;
    uint64_t event_first; /* First event that is not trimmed: <= info.event_begin. */
    uint32_t ring_count;
    struct cache_root ring[LIMIT_SNAPSHOT_RING];
};

/* Make the ring of |state|, which follows |before|: its ring and its root, without those that are
 * not below the revision or are compacted, and without the oldest ones beyond the limit. The
 * cache's thread, before |state| is published. Roots are borrowed. O(LIMIT_SNAPSHOT_RING). */
void cache_snapshot_set_ring(struct cache_snapshot *state, const struct cache_snapshot *before);

#endif
