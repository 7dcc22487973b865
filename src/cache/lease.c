/*
 * Leases and the keys attached to them: two more copy-on-write trees.
 *
 *   leases      by id, eight bytes big-endian with the sign bit flipped: bytewise order is numeric
 *   lease_keys  by id, then key: the keys of one lease lie together, in order, and are counted by
 *               the tree; a lease needs no list and no counter of its own
 *
 * A key is attached under the id that its newest live version names, granted or not: a load may see
 * rows before their lease. Items are ours, unlike the versions in the tree of keys: an item that
 * the edit made is freed at once when it goes, an older one becomes garbage.
 */
#include "cache/internal.h"

#include "core/mem.h"

enum { ID_SIZE = 8, KEY_ON_STACK = 512 };

/* How items of both trees begin. */
struct lease_item {
    struct cache_tree_item item;
    uint64_t edit;
};

struct lease_entry {
    struct lease_item head;
    int64_t ttl_s;
    uint64_t grant_seq;
    uint8_t id[ID_SIZE];
};

struct lease_key {
    struct lease_item head;
    uint8_t bytes[]; /* Id, then key. */
};

static void id_put(uint8_t *at, int64_t id)
{
    uint64_t ordered = (uint64_t)id ^ (UINT64_C(1) << 63);
    ASSERT(at != NULL);
    for (uint32_t i = 0; i < ID_SIZE; i++) {
        at[i] = (uint8_t)(ordered >> (8 * (ID_SIZE - 1 - i)));
    }
    ASSERT(IMPLIES(id < 0, at[0] < 0x80));
}

static int64_t id_get(const uint8_t *at)
{
    uint64_t ordered = 0;
    ASSERT(at != NULL);
    for (uint32_t i = 0; i < ID_SIZE; i++) {
        ordered = ordered << 8 | at[i];
    }
    ASSERT(IMPLIES(at[0] < 0x80, ordered >> 63 == 0));
    return (int64_t)(ordered ^ (UINT64_C(1) << 63));
}

static struct lease_entry *entry_of(struct cache_tree_item *item)
{
    struct lease_item *head = CONTAINER_OF(item, struct lease_item, item);
    ASSERT(item->key_size == ID_SIZE);
    ASSERT(item->key_at == offsetof(struct lease_entry, id));
    return CONTAINER_OF(head, struct lease_entry, head);
}

static size_t item_size(const struct cache_tree_item *item)
{
    ASSERT(item->key_size >= ID_SIZE);
    ASSERT(item->key_at >= sizeof(struct lease_item));
    bool is_entry = item->key_at == offsetof(struct lease_entry, id);
    return is_entry ? sizeof(struct lease_entry) : sizeof(struct lease_key) + item->key_size;
}

static void item_discard(struct cache_edit *edit, struct cache_tree_item *item)
{
    struct lease_item *head = CONTAINER_OF(item, struct lease_item, item);
    ASSERT(head->edit <= edit->change.edit);
    ASSERT(edit->is_open);
    edit->change.node_bytes -= (int64_t)item_size(item);
    if (head->edit == edit->change.edit) {
        mem_free(head);
    } else {
        cache_garbage_add(&edit->change.garbage, head);
    }
}

void cache_lease_free_item(struct cache_tree_item *item, uint64_t edit)
{
    struct lease_item *head = CONTAINER_OF(item, struct lease_item, item);
    ASSERT(item != NULL);
    ASSERT(head->edit <= edit);
    if (edit == UINT64_MAX || head->edit == edit) {
        mem_free(head);
    }
}

/* ---- the writer ------------------------------------------------------------------------------ */

void cache_edit_grant(struct cache_edit *edit, int64_t id, int64_t ttl_s, uint64_t grant_seq)
{
    ASSERT(edit->is_open);
    ASSERT(id != 0);
    struct lease_entry *entry = mem_alloc(sizeof(*entry));
    entry->head.item.key_at = offsetof(struct lease_entry, id);
    entry->head.item.key_size = ID_SIZE;
    entry->head.edit = edit->change.edit;
    entry->ttl_s = ttl_s;
    entry->grant_seq = grant_seq;
    id_put(entry->id, id);
    edit->change.node_bytes += (int64_t)sizeof(*entry);
    struct cache_tree_item *old =
        cache_tree_put(&edit->view.leases, &edit->change, &entry->head.item, true);
    if (old != NULL) {
        item_discard(edit, old);
    } else {
        edit->view.info.lease_count++;
    }
}

static void key_attach(struct cache_edit *edit, struct slice key, int64_t id)
{
    ASSERT(id != 0);
    ASSERT(key.size > 0);
    struct lease_key *attached = mem_alloc_raw(sizeof(*attached) + ID_SIZE + key.size);
    attached->head.item.key_at = offsetof(struct lease_key, bytes);
    attached->head.item.key_size = (uint32_t)(ID_SIZE + key.size);
    attached->head.edit = edit->change.edit;
    id_put(attached->bytes, id);
    memcpy(attached->bytes + ID_SIZE, key.data, key.size);
    edit->change.node_bytes += (int64_t)item_size(&attached->head.item);
    struct cache_tree_item *old =
        cache_tree_put(&edit->view.lease_keys, &edit->change, &attached->head.item, true);
    if (old != NULL) {
        item_discard(edit, old);
    }
}

/* |id| and |key| as one; in |stack| if it fits, else allocated: free with composite_free. */
static struct slice composite(uint8_t stack[KEY_ON_STACK], int64_t id, struct slice key)
{
    uint8_t *bytes = ID_SIZE + key.size <= KEY_ON_STACK ? stack : mem_alloc_raw(ID_SIZE + key.size);
    id_put(bytes, id);
    ASSERT(bytes != NULL);
    ASSERT(IMPLIES(key.size > 0, key.data != NULL));
    if (key.size > 0) {
        memcpy(bytes + ID_SIZE, key.data, key.size);
    }
    return slice_of(bytes, ID_SIZE + key.size);
}

static void composite_free(const uint8_t *stack, struct slice slice)
{
    ASSERT(slice.size >= ID_SIZE);
    ASSERT(slice.data != NULL);
    if (slice.data != stack) {
        union {
            const uint8_t *read;
            void *owned;
        } bytes = {.read = slice.data};
        mem_free(bytes.owned);
    }
}

/* Whether |key| is attached to |id|: not so, if the lease was revoked without its keys. */
static bool key_is_attached(const struct cache_edit *edit, struct slice key, int64_t id)
{
    ASSERT(id != 0);
    ASSERT(key.size > 0);
    uint8_t stack[KEY_ON_STACK];
    struct slice attached = composite(stack, id, key);
    bool is_attached = cache_tree_get(edit->view.lease_keys, attached) != NULL;
    composite_free(stack, attached);
    return is_attached;
}

static void key_detach(struct cache_edit *edit, struct slice key, int64_t id)
{
    ASSERT(id != 0);
    ASSERT(key.size > 0);
    uint8_t stack[KEY_ON_STACK];
    struct slice attached = composite(stack, id, key);
    struct cache_tree_item *item =
        cache_tree_remove(&edit->view.lease_keys, &edit->change, attached);
    composite_free(stack, attached);
    if (item != NULL) {
        item_discard(edit, item);
    }
}

void cache_lease_move(struct cache_edit *edit, struct slice key, int64_t old_id, int64_t new_id)
{
    ASSERT(edit->is_open);
    ASSERT(key.size > 0);
    if (old_id != 0 && old_id != new_id) {
        key_detach(edit, key, old_id);
    }
    if (new_id != 0 && (new_id != old_id || !key_is_attached(edit, key, new_id))) {
        key_attach(edit, key, new_id);
    }
}

/* All keys of lease |id|, as a range of the tree of lease keys. |bytes| holds the bounds. */
static struct cache_tree_range id_range(uint8_t bytes[2 * ID_SIZE], int64_t id)
{
    ASSERT(bytes != NULL);
    id_put(bytes, id);
    struct cache_tree_range range = {.key = slice_of(bytes, ID_SIZE), .open = id == INT64_MAX};
    if (!range.open) {
        id_put(bytes + ID_SIZE, id + 1);
        range.end = slice_of(bytes + ID_SIZE, ID_SIZE);
    }
    ASSERT(range.open || slice_compare(range.key, range.end) < 0);
    return range;
}

void cache_edit_revoke(struct cache_edit *edit, int64_t id)
{
    ASSERT(edit->is_open);
    uint8_t bounds[2 * ID_SIZE];
    struct cache_tree_range range = id_range(bounds, id);
    struct cache_tree_item *entry = cache_tree_remove(&edit->view.leases, &edit->change, range.key);
    if (entry == NULL) {
        return;
    }
    item_discard(edit, entry);
    ASSERT(edit->view.info.lease_count > 0);
    edit->view.info.lease_count--;
    for (;;) {
        struct cache_tree_cursor cursor;
        cache_tree_seek(&cursor, edit->view.lease_keys, &range);
        struct cache_tree_item *item = cache_tree_next(&cursor);
        if (item == NULL) {
            return;
        }
        (void)cache_tree_remove(&edit->view.lease_keys, &edit->change, cache_tree_key(item));
        item_discard(edit, item);
    }
}

/* ---- readers --------------------------------------------------------------------------------- */

static void lease_fill(const struct cache_snapshot *snapshot, struct cache_tree_item *item,
                       struct cache_lease *lease)
{
    const struct lease_entry *entry = entry_of(item);
    ASSERT(lease != NULL);
    uint8_t bounds[2 * ID_SIZE];
    *lease = (struct cache_lease){
        .id = id_get(entry->id), .ttl_s = entry->ttl_s, .grant_seq = entry->grant_seq};
    struct cache_tree_range range = id_range(bounds, lease->id);
    lease->key_count = cache_tree_count(snapshot->lease_keys, &range);
    ASSERT(snapshot->info.lease_count > 0);
}

bool cache_lease_get(const struct cache_snapshot *snapshot, int64_t id, struct cache_lease *lease)
{
    ASSERT(snapshot != NULL);
    ASSERT(lease != NULL);
    uint8_t bytes[ID_SIZE];
    id_put(bytes, id);
    struct cache_tree_item *item = cache_tree_get(snapshot->leases, slice_of(bytes, ID_SIZE));
    if (item == NULL) {
        return false;
    }
    lease_fill(snapshot, item, lease);
    return true;
}

bool cache_lease_next(const struct cache_snapshot *snapshot, int64_t from,
                      struct cache_lease *lease)
{
    ASSERT(snapshot != NULL);
    ASSERT(lease != NULL);
    uint8_t bytes[ID_SIZE];
    id_put(bytes, from);
    struct cache_tree_range range = {.key = slice_of(bytes, ID_SIZE), .open = true};
    struct cache_tree_cursor cursor;
    cache_tree_seek(&cursor, snapshot->leases, &range);
    struct cache_tree_item *item = cache_tree_next(&cursor);
    if (item == NULL) {
        return false;
    }
    lease_fill(snapshot, item, lease);
    return true;
}

bool cache_lease_key_next(const struct cache_snapshot *snapshot, int64_t id, bool after_none,
                          struct slice after, struct slice *key)
{
    ASSERT(snapshot != NULL);
    ASSERT(key != NULL);
    uint8_t bounds[2 * ID_SIZE];
    uint8_t stack[KEY_ON_STACK];
    struct cache_tree_range range = id_range(bounds, id);
    struct slice from = composite(stack, id, after_none ? SLICE_EMPTY : after);
    range.key = from;
    struct cache_tree_cursor cursor;
    cache_tree_seek(&cursor, snapshot->lease_keys, &range);
    struct cache_tree_item *item = cache_tree_next(&cursor);
    if (item != NULL && !after_none && slice_equal(cache_tree_key(item), from)) {
        item = cache_tree_next(&cursor);
    }
    composite_free(stack, from);
    if (item == NULL) {
        return false;
    }
    struct slice found = cache_tree_key(item);
    ASSERT(found.size > ID_SIZE);
    *key = slice_of(found.data + ID_SIZE, found.size - ID_SIZE);
    return true;
}
