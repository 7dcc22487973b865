/*
 * The writer: private states, and how they become the newest snapshot.
 *
 * Who sees what: nodes, items and versions made by an edit hang on roots that only the edit holds,
 * and its events lie behind the published event_end; so readers meet none of them before the one
 * release store in cache_publish, which makes all of it visible at once.
 *
 * What a publish replaces (nodes, separators, lease items, buried tombstones) is reachable from
 * roots made before it: the snapshot before, and ring roots. It waits in a queue until the oldest
 * ring root is not older than that publish, and then goes to reclaim, whose grace period outlasts
 * everybody who still has an older snapshot. The ring is bounded, so the queue is.
 *
 * What a drop leaves: nodes of the edit are found by their edit id from its roots, its versions by
 * its events. Discarded old objects are simply forgotten: they are still in use.
 */
#include "cache/internal.h"

#include "core/mem.h"

enum { SOUND_EVENTS_MAX = 2000 };

void cache_publish(struct cache *cache, const struct cache_snapshot *state)
{
    struct cache_snapshot *before = cache_published(cache);
    ASSERT(state->info.revision >= before->info.revision);
    ASSERT(state->event_first <= state->info.event_begin);
    struct cache_snapshot *snapshot = mem_copy(state, sizeof(*state));
    atomic_store_explicit(&cache->published, snapshot, memory_order_release);
    reclaim_retire(cache->reclaim, before, mem_free);
    struct cache_garbage *directories = cache_garbage_take(&cache->events.replaced, 0);
    if (directories != NULL) {
        reclaim_retire(cache->reclaim, directories, cache_garbage_free);
    }
}

/* Hand over what no root of the newest snapshot reaches. */
static void garbage_release(struct cache *cache)
{
    const struct cache_snapshot *snapshot = cache_published(cache);
    uint64_t oldest = snapshot->ring_count > 0 ? snapshot->ring[0].publish : snapshot->publish;
    ASSERT(oldest <= snapshot->publish);
    while (cache->garbage != NULL && cache->garbage->publish <= oldest) {
        struct cache_garbage *garbage = cache->garbage;
        cache->garbage = garbage->next;
        ASSERT(cache->garbage_count >= garbage->count);
        cache->garbage_count -= garbage->count;
        garbage->next = NULL;
        reclaim_retire(cache->reclaim, garbage, cache_garbage_free);
    }
    if (cache->garbage == NULL) {
        cache->garbage_tail = &cache->garbage;
    }
}

struct cache_edit *cache_edit_begin(struct cache *cache)
{
    struct cache_edit *edit = &cache->edit;
    ASSERT(!edit->is_open);
    ASSERT(edit->change.garbage.count == 0);
    edit->is_open = true;
    edit->view = *cache_published(cache);
    edit->view.directory = cache->events.directory;
    edit->ring_rev = edit->view.info.revision;
    edit->change.edit = ++cache->edit_count;
    edit->change.node_bytes = 0;
    edit->version_bytes = 0;
    edit->value_bytes = 0;
    return edit;
}

const struct cache_snapshot *cache_edit_view(struct cache_edit *edit)
{
    ASSERT(edit->is_open);
    if (edit->ring_rev != edit->view.info.revision) {
        cache_snapshot_set_ring(&edit->view, cache_published(edit->cache));
        edit->ring_rev = edit->view.info.revision;
    }
    ASSERT(edit->view.directory == edit->cache->events.directory);
    return &edit->view;
}

const struct cache_info *cache_edit_info(const struct cache_edit *edit)
{
    ASSERT(edit->is_open);
    ASSERT(edit->view.info.event_end >= cache_published(edit->cache)->info.event_end);
    return &edit->view.info;
}

const struct cache_version *cache_edit_apply(struct cache_edit *edit, const struct cache_row *row)
{
    struct cache_snapshot *view = &edit->view;
    ASSERT(edit->is_open);
    ASSERT(row->revision > 0 && row->revision >= view->info.revision);
    struct cache_version *older = cache_version_of(cache_tree_get(view->keys, row->key));
    struct cache_version *version = cache_version_new(row, older);
    struct cache_tree_item *replaced =
        cache_tree_put(&view->keys, &edit->change, &version->item, !row->is_delete);
    ASSERT(cache_version_of(replaced) == older);

    bool was_live = older != NULL && !cache_version_is_tombstone(older);
    view->info.live_keys += !row->is_delete;
    view->info.live_keys -= was_live;
    ASSERT(view->keys->live == view->info.live_keys);
    int64_t old_lease = was_live ? cache_version_lease(older) : 0;
    cache_lease_move(edit, cache_version_key(version), old_lease, row->is_delete ? 0 : row->lease);

    size_t value_size = row->is_delete ? 0 : row->value.size;
    view->info.logical_bytes += row->key.size + value_size;
    edit->version_bytes += cache_version_size(version) - value_size;
    edit->value_bytes += value_size;
    cache_events_append(&edit->cache->events, view->info.event_end, version);
    view->directory = edit->cache->events.directory;
    view->info.event_end++;
    view->info.revision = row->revision;
    return version;
}

void cache_edit_set_revision(struct cache_edit *edit, int64_t revision)
{
    ASSERT(edit->is_open);
    ASSERT(revision >= edit->view.info.revision);
    edit->view.info.revision = revision;
}

void cache_edit_set_compact_rev(struct cache_edit *edit, int64_t compact_rev)
{
    struct cache_snapshot *view = &edit->view;
    ASSERT(edit->is_open);
    ASSERT(compact_rev >= view->info.compact_rev);
    ASSERT(compact_rev <= view->info.revision);
    view->info.compact_rev = compact_rev;
    view->info.event_begin =
        cache_events_find(view->directory, view->event_first, view->info.event_end, compact_rev);
    edit->ring_rev = 0; /* Make it again. */
}

void cache_edit_set_gap(struct cache_edit *edit)
{
    ASSERT(edit->is_open);
    ASSERT(edit->view.info.event_begin >= edit->view.info.event_gap);
    edit->view.info.event_gap = edit->view.info.event_begin;
}

void cache_edit_set_position(struct cache_edit *edit, uint64_t seq, uint64_t epoch,
                             int64_t auth_revision)
{
    ASSERT(edit->is_open);
    ASSERT(seq >= edit->view.info.seq);
    edit->view.info.seq = seq;
    edit->view.info.epoch = epoch;
    edit->view.info.auth_revision = auth_revision;
}

void cache_edit_publish(struct cache_edit *edit)
{
    struct cache *cache = edit->cache;
    ASSERT(edit->is_open);
    cache_trim_bury(edit);
    edit->view.publish++;
    cache_snapshot_set_ring(&edit->view, cache_published(cache));
    cache_publish(cache, &edit->view);
    cache_trim_buried(cache);
    cache->memory.node_bytes += (uint64_t)edit->change.node_bytes;
    cache->memory.version_bytes += edit->version_bytes;
    cache->memory.value_bytes += edit->value_bytes;
    struct cache_garbage *garbage = cache_garbage_take(&edit->change.garbage, edit->view.publish);
    if (garbage != NULL) {
        *cache->garbage_tail = garbage;
        cache->garbage_tail = &garbage->next;
        cache->garbage_count += garbage->count;
    }
    garbage_release(cache);
    edit->is_open = false;
    /* O(keys): in large tests it would cost more than it finds. */
    ASSERT_SLOW(edit->view.info.event_end > SOUND_EVENTS_MAX || cache_is_sound(cache));
}

void cache_edit_drop(struct cache_edit *edit)
{
    struct cache *cache = edit->cache;
    ASSERT(edit->is_open);
    struct cache_snapshot *view = &edit->view;
    cache_tree_drop(view->keys, edit->change.edit, NULL);
    cache_tree_drop(view->leases, edit->change.edit, cache_lease_free_item);
    cache_tree_drop(view->lease_keys, edit->change.edit, cache_lease_free_item);
    uint64_t event_end = cache_published(cache)->info.event_end;
    ASSERT(event_end <= view->info.event_end);
    for (uint64_t n = event_end; n < view->info.event_end; n++) {
        mem_free(cache_events_at(cache->events.directory, n));
    }
    cache_garbage_forget(&edit->change.garbage);
    edit->is_open = false;
}
