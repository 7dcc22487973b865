/* Reading a snapshot: keys, counts, events. Nothing here writes to shared memory. */
#include "cache/snapshot.h"

void cache_snapshot_set_ring(struct cache_snapshot *state, const struct cache_snapshot *before)
{
    ASSERT(state != before);
    ASSERT(state->info.revision >= before->info.revision);
    struct cache_root roots[LIMIT_SNAPSHOT_RING + 1];
    uint32_t count = 0;
    for (uint32_t i = 0; i < before->ring_count; i++) {
        roots[count++] = before->ring[i];
    }
    roots[count++] = (struct cache_root){before->info.revision, before->publish, before->keys};
    state->ring_count = 0;
    uint32_t from = count > LIMIT_SNAPSHOT_RING && before->info.revision < state->info.revision;
    for (uint32_t i = from; i < count; i++) {
        bool is_below = roots[i].revision < state->info.revision;
        if (is_below && roots[i].revision >= state->info.compact_rev) {
            ASSERT(state->ring_count < LIMIT_SNAPSHOT_RING);
            state->ring[state->ring_count++] = roots[i];
        }
    }
}

const struct cache_info *cache_snapshot_info(const struct cache_snapshot *snapshot)
{
    ASSERT(snapshot != NULL);
    ASSERT(snapshot->info.event_begin <= snapshot->info.event_end);
    return &snapshot->info;
}

struct cache_range cache_range_of(struct slice key, struct slice range_end)
{
    ASSERT(IMPLIES(key.size > 0, key.data != NULL));
    ASSERT(IMPLIES(range_end.size > 0, range_end.data != NULL));
    if (range_end.size == 1 && range_end.data[0] == 0) {
        return (struct cache_range){.key = key, .end = SLICE_EMPTY, .open = true};
    }
    return (struct cache_range){.key = key, .end = range_end, .open = false};
}

static bool range_is_single(const struct cache_range *range)
{
    return range->end.size == 0 && !range->open;
}

/* Which tree shows |at_rev|, and whether its versions must be looked at for history. */
struct view {
    const struct cache_tree_node *keys;
    int64_t at_rev; /* 0: newest versions of |keys|. */
};

static enum err view_at(const struct cache_snapshot *snapshot, int64_t at_rev, struct view *view)
{
    const struct cache_info *info = cache_snapshot_info(snapshot);
    *view = (struct view){.keys = snapshot->keys};
    if (at_rev > info->revision) {
        return ERR_FUTURE_REV;
    }
    if (at_rev > 0 && at_rev < info->compact_rev) {
        return ERR_COMPACTED;
    }
    if (at_rev <= 0 || at_rev == info->revision) {
        return ERR_OK;
    }
    for (uint32_t i = snapshot->ring_count; i > 0; i--) {
        const struct cache_root *root = &snapshot->ring[i - 1];
        if (root->revision == at_rev) {
            view->keys = root->keys;
            return ERR_OK;
        }
    }
    view->at_rev = at_rev;
    ASSERT(view->at_rev > 0);
    ASSERT(view->at_rev < info->revision);
    return ERR_OK;
}

/* What |item| shows at |at_rev| (0: newest), NULL if it was not live then. */
static const struct cache_version *version_shown(struct cache_tree_item *item, int64_t at_rev)
{
    const struct cache_version *version = cache_version_of(item);
    ASSERT(at_rev >= 0);
    if (version != NULL && at_rev > 0) {
        version = cache_version_at(version, at_rev);
    }
    ASSERT(IMPLIES(version != NULL && at_rev > 0, version->mod_rev <= at_rev));
    return version == NULL || cache_version_is_tombstone(version) ? NULL : version;
}

enum err cache_walk_begin(struct cache_walk *walk, const struct cache_snapshot *snapshot,
                          const struct cache_range *range, int64_t at_rev)
{
    ASSERT(walk != NULL);
    ASSERT(range != NULL);
    struct view view;
    TRY(view_at(snapshot, at_rev, &view));
    walk->at_rev = view.at_rev;
    walk->single = NULL;
    struct cache_tree_range keys = {range->key, range->end, range->open};
    if (range_is_single(range)) {
        walk->single = version_shown(cache_tree_get(view.keys, range->key), view.at_rev);
        keys.end = range->key; /* An empty range. */
    }
    cache_tree_seek(&walk->cursor, view.keys, &keys);
    return ERR_OK;
}

const struct cache_version *cache_walk_next(struct cache_walk *walk)
{
    ASSERT(walk->at_rev >= 0);
    if (walk->single != NULL) {
        const struct cache_version *single = walk->single;
        walk->single = NULL;
        return single;
    }
    if (walk->at_rev == 0) {
        const struct cache_version *version = cache_version_of(cache_tree_next_live(&walk->cursor));
        ASSERT(version == NULL || !cache_version_is_tombstone(version));
        return version;
    }
    for (;;) {
        struct cache_tree_item *item = cache_tree_next(&walk->cursor);
        if (item == NULL) {
            return NULL;
        }
        const struct cache_version *version = version_shown(item, walk->at_rev);
        if (version != NULL) {
            return version;
        }
    }
}

enum err cache_get(const struct cache_snapshot *snapshot, struct slice key, int64_t at_rev,
                   const struct cache_version **version)
{
    ASSERT(version != NULL);
    ASSERT(IMPLIES(key.size > 0, key.data != NULL));
    struct view view;
    *version = NULL;
    TRY(view_at(snapshot, at_rev, &view));
    *version = version_shown(cache_tree_get(view.keys, key), view.at_rev);
    return ERR_OK;
}

enum err cache_count(const struct cache_snapshot *snapshot, const struct cache_range *range,
                     int64_t at_rev, uint64_t *count)
{
    ASSERT(range != NULL);
    ASSERT(count != NULL);
    struct view view;
    *count = 0;
    TRY(view_at(snapshot, at_rev, &view));
    if (view.at_rev == 0 && !range_is_single(range)) {
        struct cache_tree_range keys = {range->key, range->end, range->open};
        *count = cache_tree_count(view.keys, &keys);
        return ERR_OK;
    }
    struct cache_walk walk;
    TRY(cache_walk_begin(&walk, snapshot, range, at_rev));
    while (cache_walk_next(&walk) != NULL) {
        (*count)++;
    }
    return ERR_OK;
}

/* ---- events ---------------------------------------------------------------------------------- */

const struct cache_version *cache_event(const struct cache_snapshot *snapshot, uint64_t number)
{
    ASSERT(number < snapshot->info.event_end);
    if (number < snapshot->event_first) {
        return NULL;
    }
    const struct cache_version *version = cache_events_at(snapshot->directory, number);
    ASSERT(version->mod_rev <= snapshot->info.revision);
    return version;
}

uint64_t cache_event_at(const struct cache_snapshot *snapshot, int64_t rev)
{
    ASSERT(snapshot->event_first <= snapshot->info.event_begin);
    ASSERT(snapshot->info.event_begin <= snapshot->info.event_end);
    return cache_events_find(snapshot->directory, snapshot->event_first, snapshot->info.event_end,
                             rev);
}

const struct cache_version *cache_event_prev(const struct cache_snapshot *snapshot,
                                             const struct cache_version *event)
{
    ASSERT(event != NULL);
    ASSERT(event->mod_rev <= snapshot->info.revision);
    bool is_create =
        !cache_version_is_tombstone(event) && cache_version_create_rev(event) == event->mod_rev;
    if (is_create || event->mod_rev - 1 < snapshot->info.compact_rev) {
        return NULL;
    }
    const struct cache_version *older = cache_version_older(event);
    /* As the key was at mod_rev - 1: one Txn may change it twice. */
    while (older != NULL && older->mod_rev == event->mod_rev) {
        older = cache_version_older(older);
    }
    return older == NULL || cache_version_is_tombstone(older) ? NULL : older;
}
