/* The writer's side: what edit.c, lease.c, trim.c and cache.c share. Store thread only. */
#ifndef CACHE_INTERNAL_H
#define CACHE_INTERNAL_H

#include "cache/snapshot.h"

/* The one edit that may be open. Its view is its working state. */
struct cache_edit {
    struct cache *cache;
    bool is_open;
    int64_t ring_rev; /* Revision for which the view's ring was made. */
    struct cache_snapshot view;
    struct cache_tree_change change;
    uint64_t version_bytes; /* Made by the edit. */
    uint64_t value_bytes;
};

/* Where trimming stands: see trim.c. */
struct cache_trim {
    int64_t done_rev;   /* Everything below is trimmed. */
    int64_t target_rev; /* Of the round that runs; done_rev: none runs. */
    int64_t wait_rev;   /* Compact revision whose grace period began; done_rev or less: none. */
    uint64_t wait_epoch;
    uint64_t cut_next;            /* Events below need no cut: >= event_first. */
    struct cache_version **tombs; /* Must leave the tree by the next publish. */
    uint32_t tomb_count;
    uint32_t tomb_room;
};

struct cache {
    struct reclaim *reclaim;
    _Atomic(struct cache_snapshot *) published;
    uint64_t edit_count; /* Id of the newest edit. */
    struct cache_events events;
    struct cache_garbage *garbage; /* Queue, oldest first, and where the next one is hung. */
    struct cache_garbage **garbage_tail;
    uint64_t garbage_count; /* Objects in the queue. */
    struct cache_memory memory;
    struct cache_edit edit;
    struct cache_trim trim;
};

/* Not const: for the writer. */
static inline struct cache_snapshot *cache_published(const struct cache *cache)
{
    return atomic_load_explicit(&cache->published, memory_order_relaxed);
}

/* edit.c: publish a copy of |state| and retire the one before. */
void cache_publish(struct cache *cache, const struct cache_snapshot *state);

/* lease.c: the newest version of |key| goes from lease |old_id| to |new_id|; 0 = none. */
void cache_lease_move(struct cache_edit *edit, struct slice key, int64_t old_id, int64_t new_id);
/* lease.c: a cache_tree_free_item_fn for both lease trees. */
void cache_lease_free_item(struct cache_tree_item *item, uint64_t edit);

/* trim.c: take the tombstones that are due out of |edit|'s tree. Before its publish. */
void cache_trim_bury(struct cache_edit *edit);
/* trim.c: the publish went through. */
void cache_trim_buried(struct cache *cache);

#endif
