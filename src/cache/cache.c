/* Making and freeing a cache, its memory, and the walk that checks everything. */
#include "cache/internal.h"

#include "core/mem.h"

struct cache *cache_new(struct reclaim *reclaim)
{
    ASSERT(reclaim != NULL);
    struct cache *cache = mem_alloc(sizeof(*cache));
    cache->reclaim = reclaim;
    cache->garbage_tail = &cache->garbage;
    cache->edit.cache = cache;
    cache->trim.done_rev = -1;
    cache->trim.target_rev = -1;
    cache->trim.wait_rev = -1;
    cache_events_init(&cache->events);
    struct cache_snapshot *snapshot = mem_alloc(sizeof(*snapshot));
    snapshot->info.revision = 1; /* As in etcd: the first write is revision 2. */
    snapshot->info.compact_rev = -1;
    snapshot->directory = cache->events.directory;
    atomic_init(&cache->published, snapshot);
    ASSERT(cache_is_sound(cache));
    return cache;
}

/* A cache_tree_free_item_fn: the newest version of a key and all older ones. */
static void chain_free(struct cache_tree_item *item, uint64_t edit)
{
    ASSERT(item != NULL);
    ASSERT(edit == UINT64_MAX);
    struct cache_version *version = cache_version_of(item);
    while (version != NULL) {
        struct cache_version *older = cache_version_before(version);
        mem_free(version);
        version = older;
    }
}

void cache_free(struct cache *cache)
{
    if (cache == NULL) {
        return;
    }
    if (cache->edit.is_open) {
        cache_edit_drop(&cache->edit);
    }
    struct cache_snapshot *snapshot = cache_published(cache);
    ASSERT(snapshot != NULL);
    cache_tree_free(snapshot->keys, chain_free);
    cache_tree_free(snapshot->leases, cache_lease_free_item);
    cache_tree_free(snapshot->lease_keys, cache_lease_free_item);
    mem_free(snapshot);
    while (cache->garbage != NULL) {
        struct cache_garbage *garbage = cache->garbage;
        cache->garbage = garbage->next;
        cache_garbage_free(garbage);
    }
    ASSERT(cache->edit.change.garbage.count == 0);
    mem_free(cache->edit.change.garbage.objects);
    cache_events_fini(&cache->events);
    mem_free(cache->trim.tombs);
    mem_free(cache);
}

const struct cache_snapshot *cache_snapshot(const struct cache *cache)
{
    const struct cache_snapshot *snapshot =
        atomic_load_explicit(&cache->published, memory_order_acquire);
    ASSERT(snapshot != NULL);
    ASSERT(snapshot->ring_count <= LIMIT_SNAPSHOT_RING);
    return snapshot;
}

void cache_memory(const struct cache *cache, struct cache_memory *memory)
{
    ASSERT(memory != NULL);
    *memory = cache->memory;
    memory->event_bytes = cache_events_size(&cache->events);
    memory->retired_objects = cache->garbage_count + cache->reclaim->count;
    ASSERT(memory->node_bytes <= INT64_MAX);
}

/* ---- soundness ------------------------------------------------------------------------------- */

/* What a walk over all keys adds up. */
struct sums {
    uint64_t live;
    uint64_t attached;
    uint64_t versions;
    uint64_t logical_bytes;
    uint64_t version_bytes;
    uint64_t value_bytes;
};

static bool chain_is_sound(const struct cache_version *version, struct sums *sums)
{
    struct slice key = cache_version_key(version);
    ASSERT(sums != NULL);
    sums->live += !cache_version_is_tombstone(version);
    sums->attached += cache_version_lease(version) != 0;
    const struct cache_version *newer = NULL;
    for (; version != NULL; newer = version, version = cache_version_older(version)) {
        size_t value_size = cache_version_value(version).size;
        sums->versions++;
        sums->logical_bytes += cache_version_logical(version);
        sums->value_bytes += value_size;
        sums->version_bytes += cache_version_size(version) - value_size;
        if (!slice_equal(cache_version_key(version), key)) {
            return false;
        }
        if (newer != NULL && version->mod_rev >= newer->mod_rev &&
            (version->mod_rev != newer->mod_rev ||
             cache_version_sub(version) >= cache_version_sub(newer))) {
            return false;
        }
    }
    return true;
}

static bool keys_are_sound(const struct cache *cache, const struct cache_snapshot *snapshot)
{
    struct sums sums = {0};
    struct cache_tree_range all = {.open = true};
    struct cache_tree_cursor cursor;
    cache_tree_seek(&cursor, snapshot->keys, &all);
    struct cache_tree_item *item = cache_tree_next(&cursor);
    for (; item != NULL; item = cache_tree_next(&cursor)) {
        uint64_t live = sums.live;
        struct slice key = cache_tree_key(item);
        if (!chain_is_sound(cache_version_of(item), &sums) ||
            cache_tree_rank(snapshot->keys, key) != live) {
            return false;
        }
    }
    uint64_t attached = snapshot->lease_keys == NULL ? 0 : snapshot->lease_keys->live;
    return sums.live == snapshot->info.live_keys && attached <= sums.attached &&
           sums.logical_bytes == snapshot->info.logical_bytes &&
           sums.version_bytes == cache->memory.version_bytes &&
           sums.value_bytes == cache->memory.value_bytes &&
           sums.versions <= snapshot->info.event_end;
}

/* The key of each attachment is live, and names the lease. */
static bool lease_keys_are_sound(const struct cache_snapshot *snapshot)
{
    struct cache_tree_range all = {.open = true};
    struct cache_tree_cursor cursor;
    cache_tree_seek(&cursor, snapshot->lease_keys, &all);
    struct cache_tree_item *item = cache_tree_next(&cursor);
    for (; item != NULL; item = cache_tree_next(&cursor)) {
        struct slice bytes = cache_tree_key(item);
        struct slice key = slice_of(bytes.data + 8, bytes.size - 8);
        struct cache_tree_item *found = cache_tree_get(snapshot->keys, key);
        if (found == NULL || cache_version_lease(cache_version_of(found)) == 0) {
            return false;
        }
    }
    return true;
}

static bool events_are_sound(const struct cache_snapshot *snapshot)
{
    const struct cache_version *last = NULL;
    ASSERT(snapshot->directory != NULL);
    ASSERT(snapshot->event_first <= snapshot->info.event_end);
    for (uint64_t n = snapshot->event_first; n < snapshot->info.event_end; n++) {
        const struct cache_version *version = cache_event(snapshot, n);
        bool is_after = last == NULL || last->mod_rev < version->mod_rev ||
                        (last->mod_rev == version->mod_rev &&
                         cache_version_sub(last) < cache_version_sub(version));
        bool is_readable = version->mod_rev >= snapshot->info.compact_rev;
        if (!is_after || is_readable != (n >= snapshot->info.event_begin)) {
            return false;
        }
        last = version;
    }
    return true;
}

static bool ring_is_sound(const struct cache_snapshot *snapshot)
{
    int64_t last = 0;
    ASSERT(snapshot->ring_count <= LIMIT_SNAPSHOT_RING);
    for (uint32_t i = 0; i < snapshot->ring_count; i++) {
        const struct cache_root *root = &snapshot->ring[i];
        if (root->revision <= last || root->revision < snapshot->info.compact_rev ||
            root->revision >= snapshot->info.revision || root->publish >= snapshot->publish ||
            !cache_tree_is_sound(root->keys)) {
            return false;
        }
        last = root->revision;
    }
    return true;
}

bool cache_is_sound(const struct cache *cache)
{
    const struct cache_snapshot *snapshot = cache_published(cache);
    const struct cache_info *info = &snapshot->info;
    ASSERT(cache->garbage_tail != NULL);
    ASSERT(IMPLIES(cache->garbage == NULL, cache->garbage_count == 0));
    if (info->compact_rev > info->revision || snapshot->event_first > info->event_begin ||
        info->event_begin > info->event_end || cache->trim.done_rev > info->compact_rev) {
        return false;
    }
    uint64_t leases = snapshot->leases == NULL ? 0 : snapshot->leases->live;
    return leases == info->lease_count && cache_tree_is_sound(snapshot->keys) &&
           cache_tree_is_sound(snapshot->leases) && cache_tree_is_sound(snapshot->lease_keys) &&
           keys_are_sound(cache, snapshot) && lease_keys_are_sound(snapshot) &&
           events_are_sound(snapshot) && ring_is_sound(snapshot);
}
