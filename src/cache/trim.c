/*
 * Trimming: freeing what a compaction made unreadable, in O(events popped).
 *
 *     idle ──compact_rev moved──▶ waiting ──grace, holds read──▶ cutting ──▶ idle
 *
 * Let C be the compact revision of a published snapshot, and T = min(C, lowest hold) as read after
 * a grace period that began behind that publish. Cutting event v means: v.older = NULL, and its old
 * value u is retired. Only events with mod_rev <= T are cut.
 *
 * Nobody needs u. A reader with a newer snapshot reads at revisions >= C >= T, and a walk through
 * history stops at the first version with mod_rev <= its revision: at v or above it. A reader that
 * had an older snapshot has ended that turn (the grace period), or it set a hold in it, and T is
 * not above the hold: it reads at revisions >= T too. Who sets a hold later has a snapshot with
 * compact_rev >= C. prev_kv of v is not given once mod_rev - 1 < C. No ring root shows u: the
 * publish of C left only roots at revisions >= C, which show v or newer. Events: u lies below v, so
 * below the first event that is kept, which is published before u is retired.
 *
 * Nobody touches u's memory after it is freed, needed or not: u is retired, so all who could have
 * loaded v.older or an event slot before are outlived by the second grace period. The second one is
 * there for pointers at large: an answer that holds u as prev_kv may have been posted to its thread
 * behind the publish of C; posts sent before a retirement are handled before the free.
 *
 * The order: cut v.older → publish event_first → retire. An open edit in between is harmless: its
 * versions stand above published ones, none of which is freed unless a newer published one replaced
 * it. The events of an open edit are not popped.
 *
 * Tombstones. One with mod_rev < T that is the newest of its key leaves the tree as well, else dead
 * keys would add up. Ring roots and older snapshots still point to it for the order of keys, so it
 * is garbage of the publish that takes it out. That changes the tree of keys: it is done by trim's
 * own edit, or by the open one at its publish (which must not be lost by a drop). Until then no
 * further slice begins, so that a tombstone in the queue cannot be freed as somebody's old value. A
 * tombstone at exactly T stays, as a watcher that starts there must see it; so does one that has a
 * newer version above T: it goes as old value of that.
 *
 * Why `older` is atomic then: a public function reads it, and a reader that follows it below its
 * compact revision, against the contract, must get NULL or valid memory.
 */
#include "cache/internal.h"

#include "core/mem.h"

enum { TOMB_ROOM_MIN = 64 };

/* |version| is given away: it leaves the counters of what is held. */
static void version_forget(struct cache *cache, const struct cache_version *version)
{
    size_t value_size = cache_version_value(version).size;
    size_t size = cache_version_size(version);
    ASSERT(cache->memory.value_bytes >= value_size);
    ASSERT(cache->memory.version_bytes >= size - value_size);
    cache->memory.value_bytes -= value_size;
    cache->memory.version_bytes -= size - value_size;
}

/* ---- tombstones ------------------------------------------------------------------------------ */

static void tomb_add(struct cache_trim *trim, struct cache_version *tomb)
{
    ASSERT(cache_version_is_tombstone(tomb));
    ASSERT(trim->tomb_count <= trim->tomb_room);
    if (trim->tomb_count == trim->tomb_room) {
        trim->tomb_room = trim->tomb_room == 0 ? TOMB_ROOM_MIN : trim->tomb_room * 2;
        trim->tombs = mem_realloc(trim->tombs, trim->tomb_room * sizeof(struct cache_version *));
    }
    trim->tombs[trim->tomb_count++] = tomb;
}

void cache_trim_bury(struct cache_edit *edit)
{
    struct cache *cache = edit->cache;
    ASSERT(edit->is_open);
    for (uint32_t i = 0; i < cache->trim.tomb_count; i++) {
        struct cache_version *tomb = cache->trim.tombs[i];
        struct slice key = cache_version_key(tomb);
        if (cache_tree_get(edit->view.keys, key) != &tomb->item) {
            continue; /* Created again by this edit: an old value like others now. */
        }
        struct cache_tree_item *removed = cache_tree_remove(&edit->view.keys, &edit->change, key);
        ASSERT(removed == &tomb->item);
        ASSERT(cache_version_before(tomb) == NULL);
        ASSERT(edit->view.info.logical_bytes >= cache_version_logical(tomb));
        edit->view.info.logical_bytes -= cache_version_logical(tomb);
        version_forget(cache, tomb);
        cache_garbage_add(&edit->change.garbage, tomb);
    }
}

void cache_trim_buried(struct cache *cache)
{
    ASSERT(cache->trim.tomb_count <= cache->trim.tomb_room);
    ASSERT(cache->edit.is_open);
    cache->trim.tomb_count = 0;
}

/* False while the open edit stands in the way. */
static bool tombs_settle(struct cache *cache)
{
    if (cache->trim.tomb_count == 0) {
        return true;
    }
    if (cache->edit.is_open) {
        return false;
    }
    cache_edit_publish(cache_edit_begin(cache));
    ASSERT(cache->trim.tomb_count == 0);
    ASSERT(!cache->edit.is_open);
    return true;
}

/* ---- versions -------------------------------------------------------------------------------- */

/* What one slice gives up. */
struct slice_cut {
    struct cache_garbage garbage;
    uint64_t logical_bytes;
};

static void event_cut(struct cache *cache, struct slice_cut *cut, struct cache_version *version)
{
    struct cache_version *old = cache_version_before(version);
    if (old == NULL) {
        return;
    }
    ASSERT(old->mod_rev < cache->trim.target_rev);
    ASSERT(cache_version_before(old) == NULL); /* It was an event before this one. */
    atomic_store_explicit(&version->older, NULL, memory_order_release);
    cut->logical_bytes += cache_version_logical(old);
    version_forget(cache, old);
    cache_garbage_add(&cut->garbage, old);
}

/* Publish that events begin at |first|, then retire what the slice cut. */
static void slice_finish(struct cache *cache, struct slice_cut *cut, uint64_t first)
{
    struct cache_snapshot state = *cache_published(cache);
    if (first == state.event_first && cut->garbage.count == 0) {
        return;
    }
    ASSERT(first >= state.event_first && first <= state.info.event_begin);
    ASSERT(state.info.logical_bytes >= cut->logical_bytes);
    state.event_first = first;
    state.directory = cache->events.directory;
    state.info.logical_bytes -= cut->logical_bytes;
    cache_publish(cache, &state);
    if (cache->edit.is_open) {
        cache->edit.view.event_first = first;
        cache->edit.view.info.logical_bytes -= cut->logical_bytes;
    }
    struct cache_garbage *garbage = cache_garbage_take(&cut->garbage, 0);
    if (garbage != NULL) {
        reclaim_retire(cache->reclaim, garbage, cache_garbage_free);
    }
    struct cache_event_chunk *chunk = cache_events_take_chunk(&cache->events, first);
    for (; chunk != NULL; chunk = cache_events_take_chunk(&cache->events, first)) {
        reclaim_retire(cache->reclaim, chunk, mem_free);
    }
}

/* Pop events below the target revision; returns how many. */
static uint32_t slice_pop(struct cache *cache, struct slice_cut *cut, uint64_t *first,
                          uint32_t budget)
{
    const struct cache_snapshot *snapshot = cache_published(cache);
    struct cache_trim *trim = &cache->trim;
    ASSERT(trim->tomb_count == 0);
    uint32_t count = 0;
    for (; count < budget && *first < snapshot->info.event_end; count++, (*first)++) {
        struct cache_version *version = cache_events_at(snapshot->directory, *first);
        ASSERT(version->mod_rev <= snapshot->info.revision);
        if (version->mod_rev >= trim->target_rev) {
            break;
        }
        event_cut(cache, cut, version);
        if (cache_version_is_tombstone(version) &&
            cache_tree_get(snapshot->keys, cache_version_key(version)) == &version->item) {
            tomb_add(trim, version);
        }
    }
    trim->cut_next = *first > trim->cut_next ? *first : trim->cut_next;
    return count;
}

/*
 * Cut the events at the target revision; they stay in the log. True when that is all. One whose old
 * value is of the same revision keeps it: that one is still an event that can be read.
 */
static bool slice_cut_target(struct cache *cache, struct slice_cut *cut, uint32_t budget)
{
    const struct cache_snapshot *snapshot = cache_published(cache);
    struct cache_trim *trim = &cache->trim;
    ASSERT(trim->cut_next >= snapshot->event_first);
    for (uint32_t i = 0; i < budget; i++, trim->cut_next++) {
        if (trim->cut_next == snapshot->info.event_end) {
            return true;
        }
        struct cache_version *version = cache_events_at(snapshot->directory, trim->cut_next);
        const struct cache_version *old = cache_version_before(version);
        if (version->mod_rev > trim->target_rev ||
            (old != NULL && old->mod_rev == trim->target_rev)) {
            return true;
        }
        ASSERT(version->mod_rev == trim->target_rev);
        event_cut(cache, cut, version);
    }
    return false;
}

/* ---- rounds ---------------------------------------------------------------------------------- */

/* Begin to wait for all who may still read below |compact_rev|. */
static void round_wait(struct cache *cache, int64_t compact_rev)
{
    ASSERT(cache->trim.wait_rev <= cache->trim.done_rev);
    ASSERT(compact_rev > cache->trim.done_rev);
    cache->trim.wait_rev = compact_rev;
    /* Something of this epoch in reclaim's queue, so that reclaim_run wakes readers that sleep. */
    reclaim_retire(cache->reclaim, mem_alloc(1), mem_free);
    cache->trim.wait_epoch = reclaim_advance(cache->reclaim);
}

/* True when a round runs. */
static bool round_begin(struct cache *cache, int64_t compact_rev)
{
    struct cache_trim *trim = &cache->trim;
    ASSERT(trim->target_rev >= trim->done_rev);
    if (trim->target_rev > trim->done_rev) {
        return true;
    }
    if (trim->wait_rev <= trim->done_rev) {
        round_wait(cache, compact_rev);
    }
    if (!reclaim_passed(cache->reclaim, trim->wait_epoch)) {
        return false;
    }
    int64_t hold_rev = reclaim_hold_rev(cache->reclaim);
    int64_t target_rev = hold_rev < trim->wait_rev ? hold_rev : trim->wait_rev;
    if (target_rev <= trim->done_rev) {
        return false; /* Held. Ask again at the next call. */
    }
    trim->target_rev = target_rev;
    ASSERT(trim->target_rev <= compact_rev);
    return true;
}

bool cache_trim(struct cache *cache, uint32_t budget)
{
    struct cache_trim *trim = &cache->trim;
    ASSERT(budget > 0);
    if (!tombs_settle(cache)) {
        return true;
    }
    int64_t compact_rev = cache_published(cache)->info.compact_rev;
    ASSERT(compact_rev >= trim->done_rev);
    if (compact_rev == trim->done_rev) {
        return false;
    }
    if (!round_begin(cache, compact_rev)) {
        return true;
    }
    struct slice_cut cut = {.logical_bytes = 0};
    uint64_t first = cache_published(cache)->event_first;
    uint32_t popped = slice_pop(cache, &cut, &first, budget);
    bool is_done = popped < budget && slice_cut_target(cache, &cut, budget - popped);
    slice_finish(cache, &cut, first);
    is_done = tombs_settle(cache) && is_done;
    if (is_done) {
        trim->done_rev = trim->target_rev;
    }
    return trim->done_rev < cache_published(cache)->info.compact_rev;
}

int64_t cache_trimmed_rev(const struct cache *cache)
{
    ASSERT(cache->trim.done_rev <= cache->trim.target_rev);
    ASSERT(cache->trim.done_rev <= cache_published(cache)->info.compact_rev);
    return cache->trim.done_rev;
}
