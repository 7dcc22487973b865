/* Watchers with the same keys, found by hash (single keys) or by interval tree (ranges). */
#include "core/hash.h"

#define HASH_FUNCTION(key, size, hash_out) \
    ((hash_out) = (unsigned)hash_bytes(slice_of((key), (size)), hash_table_seed()))
#include "watch/internal.h"

static bool range_is_exact(const struct cache_range *range)
{
    return !range->open && range->end.size == 0;
}

static struct watch_group *group_find(struct watch_hub *hub, const struct cache_range *range)
{
    struct watch_group *group = NULL;
    if (range_is_exact(range)) {
        HASH_FIND(hh, hub->exact, range->key.data, range->key.size, group);
        return group;
    }
    struct interval_node *node = interval_find(&hub->ranges, range);
    return node == NULL ? NULL : CONTAINER_OF(node, struct watch_group, node);
}

struct watch_group *watch_group_join(struct watch_hub *hub, const struct cache_range *range)
{
    ASSERT(range->key.size > 0);
    struct watch_group *group = group_find(hub, range);
    if (group != NULL) {
        group->watcher_count++;
        return group;
    }
    group = mem_alloc(sizeof(*group) + range->key.size + range->end.size);
    memcpy(group->bytes, range->key.data, range->key.size);
    if (range->end.size > 0) {
        memcpy(group->bytes + range->key.size, range->end.data, range->end.size);
    }
    group->node.range.key = slice_of(group->bytes, range->key.size);
    group->node.range.end = slice_of(group->bytes + range->key.size, range->end.size);
    group->node.range.open = range->open;
    group->exact = range_is_exact(range);
    group->watcher_count = 1;
    hub->key_bytes += range->key.size + range->end.size;
    list_init(&group->synced);
    if (group->exact) {
        HASH_ADD_KEYPTR(hh, hub->exact, group->bytes, range->key.size, group);
    } else {
        interval_insert(&hub->ranges, &group->node, rng_next(&hub->rng));
    }
    return group;
}

static void touched_remove(struct watch_hub *hub, struct watch_group *group)
{
    struct watch_group **link = &hub->touched;
    while (*link != group) {
        ASSERT(*link != NULL);
        link = &(*link)->touched_next;
    }
    *link = group->touched_next;
}

void watch_group_leave(struct watch_hub *hub, struct watch_group *group)
{
    ASSERT(group->watcher_count > 0);
    group->watcher_count--;
    if (group->watcher_count > 0) {
        return;
    }
    ASSERT(list_is_empty(&group->synced));
    if (group->touched) {
        touched_remove(hub, group);
    }
    size_t size = group->node.range.key.size + group->node.range.end.size;
    ASSERT(hub->key_bytes >= size);
    hub->key_bytes -= size;
    if (group->exact) {
        HASH_DELETE(hh, hub->exact, group);
    } else {
        interval_remove(&hub->ranges, &group->node);
    }
    mem_free(group->run);
    mem_free(group);
}

bool watch_group_holds(const struct watch_group *group, struct slice key)
{
    const struct cache_range *range = &group->node.range;
    if (group->exact) {
        return slice_equal(range->key, key);
    }
    return slice_compare(range->key, key) <= 0 &&
           (range->open || slice_compare(key, range->end) < 0);
}

static enum watch_match group_add(struct watch_hub *hub, struct watch_group *group,
                                  const struct cache_version *version)
{
    if (list_is_empty(&group->synced)) {
        return WATCH_MATCH_NONE;
    }
    if (!group->touched) {
        ASSERT(group->run_count == 0);
        group->touched = true;
        group->touched_next = hub->touched;
        hub->touched = group;
    }
    if (group->run_count == group->run_room) {
        group->run_room = group->run_room == 0 ? 8 : group->run_room * 2;
        group->run = mem_realloc(group->run, group->run_room * sizeof(struct cache_version *));
    }
    group->run[group->run_count++] = version;
    return group->prev_count > 0 ? WATCH_MATCH_PREV : WATCH_MATCH;
}

enum watch_match watch_groups_match(struct watch_hub *hub, const struct cache_version *version)
{
    ASSERT(version != NULL);
    enum watch_match best = WATCH_MATCH_NONE;
    struct slice key = cache_version_key(version);
    struct watch_group *exact = NULL;
    HASH_FIND(hh, hub->exact, key.data, key.size, exact);
    if (exact != NULL) {
        best = group_add(hub, exact, version);
    }
    struct interval_node *node = interval_first(&hub->ranges, key);
    for (; node != NULL; node = interval_next(node, key)) {
        enum watch_match match =
            group_add(hub, CONTAINER_OF(node, struct watch_group, node), version);
        best = match > best ? match : best;
    }
    return best;
}
