/*
 * Walks at a revision that its reader has held since before it was compacted: what such a revision
 * shows is not trimmed (cache/trim.c cuts nothing above the lowest hold), only refused to others.
 */
#include "cache/internal.h"

static const struct cache_version *held_version(const struct cache_snapshot *snapshot,
                                                struct slice key, int64_t at_rev)
{
    ASSERT(at_rev > 0);
    const struct cache_version *version = cache_version_of(cache_tree_get(snapshot->keys, key));
    version = version == NULL ? NULL : cache_version_at(version, at_rev);
    ASSERT(IMPLIES(version != NULL, version->mod_rev <= at_rev));
    return version == NULL || cache_version_is_tombstone(version) ? NULL : version;
}

enum err cache_walk_begin_held(struct cache_walk *walk, const struct cache_snapshot *snapshot,
                               const struct cache_range *range, int64_t at_rev)
{
    ASSERT(walk != NULL);
    ASSERT(range != NULL);
    if (at_rev <= 0 || at_rev >= cache_snapshot_info(snapshot)->compact_rev) {
        return cache_walk_begin(walk, snapshot, range, at_rev);
    }
    struct cache_tree_range keys = {range->key, range->end, range->open};
    bool is_single = range->end.size == 0 && !range->open;
    walk->at_rev = at_rev;
    walk->single = is_single ? held_version(snapshot, range->key, at_rev) : NULL;
    if (is_single) {
        keys.end = range->key; /* An empty range. */
    }
    cache_tree_seek(&walk->cursor, snapshot->keys, &keys);
    return ERR_OK;
}
