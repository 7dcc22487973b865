/*
 * Lease timers: a hash of ids onto slots, and a binary heap of the slots by expiry.
 *
 * Memory: one slot of 56 bytes, one heap place and two hash places per lease. All operations are
 * O(log leases), but rearm, which is O(leases) and rare.
 *
 * Invariants
 *   1. heap[slots[i].place] == i for each used slot.
 *   2. each used slot is in the hash exactly once, and nothing else is.
 *   3. no slot expires before its start + TTL + margin.
 *   4. nobody in the heap expires before its parent.
 */
#include "lease/lease.h"

#include <stdlib.h>

#include "core/clock.h"
#include "core/hash.h"
#include "core/mem.h"

#define NO_SLOT UINT32_MAX

enum { TABLE_ROOM_MIN = 64 };

struct slot {
    int64_t id;
    int64_t ttl_s;
    uint64_t grant_seq;
    uint64_t counter;
    uint64_t start_ns;
    uint64_t due_ns; /* start + TTL + margin, saturating. */
    uint32_t place;  /* In the heap; in a free slot: the next free one. */
};

struct lease_table {
    uint64_t gap_ns;
    uint64_t margin_ns;
    uint64_t read_ns; /* When the last reading was received. */
    bool was_read;
    struct slot *slots;
    uint32_t *heap;
    uint32_t *hash; /* Slot indexes, open addressing; |hash_room| is a power of two. */
    uint32_t count;
    uint32_t room;
    uint32_t used; /* Slots ever used. */
    uint32_t free; /* First free slot below |used|, or NO_SLOT. */
    uint32_t hash_room;
};

struct lease_table *lease_table_new(uint64_t gap_ns, uint64_t margin_ns)
{
    ASSERT(gap_ns > 0);
    struct lease_table *table = mem_alloc(sizeof(*table));
    table->gap_ns = gap_ns;
    table->margin_ns = margin_ns;
    table->free = NO_SLOT;
    return table;
}

void lease_table_free(struct lease_table *table)
{
    if (table == NULL) {
        return;
    }
    mem_free(table->slots);
    mem_free(table->heap);
    mem_free(table->hash);
    mem_free(table);
}

/* ---- heap ----------------------------------------------------------------------------------- */

static void heap_put(struct lease_table *table, uint32_t place, uint32_t slot)
{
    ASSERT(place < table->count);
    table->heap[place] = slot;
    table->slots[slot].place = place;
}

static uint64_t heap_due(const struct lease_table *table, uint32_t place)
{
    ASSERT(place < table->count);
    return table->slots[table->heap[place]].due_ns;
}

/* Move the slot at |place| down to where it belongs, if what is below is in order. */
static void heap_sink(struct lease_table *table, uint32_t place)
{
    ASSERT(place < table->count);
    uint32_t slot = table->heap[place];
    uint64_t due = table->slots[slot].due_ns;
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= table->count) {
            break;
        }
        if (child + 1 < table->count && heap_due(table, child + 1) < heap_due(table, child)) {
            child++;
        }
        if (heap_due(table, child) >= due) {
            break;
        }
        heap_put(table, place, table->heap[child]);
        place = child;
    }
    heap_put(table, place, slot);
}

/* Move the slot at |place| to where it belongs, if all others are in order. */
static void heap_fix(struct lease_table *table, uint32_t place)
{
    ASSERT(place < table->count);
    uint32_t slot = table->heap[place];
    uint64_t due = table->slots[slot].due_ns;
    while (place > 0 && heap_due(table, (place - 1) / 2) > due) {
        heap_put(table, place, table->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    heap_put(table, place, slot);
    heap_sink(table, place);
}

/* ---- hash ----------------------------------------------------------------------------------- */

static uint32_t hash_home(const struct lease_table *table, int64_t id)
{
    ASSERT(table->hash_room > 0);
    uint64_t hash = hash_bytes(slice_of(&id, sizeof(id)), hash_table_seed());
    return (uint32_t)hash & (table->hash_room - 1);
}

/* Where |id| is or would be. */
static uint32_t hash_find(const struct lease_table *table, int64_t id)
{
    uint32_t at = hash_home(table, id);
    while (table->hash[at] != NO_SLOT && table->slots[table->hash[at]].id != id) {
        at = (at + 1) & (table->hash_room - 1);
    }
    return at;
}

static void hash_remove(struct lease_table *table, int64_t id)
{
    uint32_t mask = table->hash_room - 1;
    uint32_t hole = hash_find(table, id);
    ASSERT(table->hash[hole] != NO_SLOT);
    uint32_t at = hole;
    for (;;) {
        at = (at + 1) & mask;
        if (table->hash[at] == NO_SLOT) {
            break;
        }
        uint32_t home = hash_home(table, table->slots[table->hash[at]].id);
        /* Movable unless its home lies behind the hole, going round. */
        if (((at - home) & mask) >= ((at - hole) & mask)) {
            table->hash[hole] = table->hash[at];
            hole = at;
        }
    }
    table->hash[hole] = NO_SLOT;
}

static void table_grow(struct lease_table *table)
{
    ASSERT(table->count == table->room);
    uint32_t room = table->room == 0 ? TABLE_ROOM_MIN : table->room * 2;
    ASSERT(room > table->room);
    table->slots = mem_realloc(table->slots, room * sizeof(*table->slots));
    table->heap = mem_realloc(table->heap, room * sizeof(*table->heap));
    mem_free(table->hash);
    table->hash = mem_alloc_raw(2 * (size_t)room * sizeof(*table->hash));
    table->hash_room = 2 * room;
    table->room = room;
    memset(table->hash, 0xff, table->hash_room * sizeof(*table->hash));
    for (uint32_t i = 0; i < table->count; i++) {
        uint32_t slot = table->heap[i];
        table->hash[hash_find(table, table->slots[slot].id)] = slot;
    }
}

/* ---- slots ---------------------------------------------------------------------------------- */

static struct slot *slot_find(const struct lease_table *table, int64_t id)
{
    if (table->count == 0) {
        return NULL;
    }
    uint32_t index = table->hash[hash_find(table, id)];
    ASSERT(index == NO_SLOT || table->slots[index].id == id);
    return index == NO_SLOT ? NULL : &table->slots[index];
}

/* When a lease of |ttl_s| that starts at |start_ns| is due. */
static uint64_t due_of(const struct lease_table *table, uint64_t start_ns, int64_t ttl_s)
{
    ASSERT(ttl_s > 0);
    uint64_t ttl_ns =
        (uint64_t)ttl_s > UINT64_MAX / NS_PER_S / 2 ? UINT64_MAX / 2 : (uint64_t)ttl_s * NS_PER_S;
    uint64_t due_ns = start_ns + ttl_ns + table->margin_ns;
    return due_ns < start_ns ? UINT64_MAX : due_ns;
}

static void slot_start(const struct lease_table *table, struct slot *slot, uint64_t now_ns)
{
    slot->start_ns = now_ns;
    slot->due_ns = due_of(table, now_ns, slot->ttl_s);
}

static void slot_restart(struct lease_table *table, struct slot *slot, uint64_t now_ns)
{
    slot_start(table, slot, now_ns);
    heap_fix(table, slot->place);
    ASSERT(slot->due_ns >= now_ns);
}

void lease_table_grant(struct lease_table *table, int64_t id, int64_t ttl_s, uint64_t grant_seq,
                       uint64_t now_ns)
{
    ASSERT(ttl_s > 0);
    struct slot *slot = slot_find(table, id);
    if (slot != NULL) {
        if (slot->grant_seq != grant_seq) {
            slot->ttl_s = ttl_s;
            slot->grant_seq = grant_seq;
            slot->counter = grant_seq;
            slot_restart(table, slot, now_ns);
        }
        return;
    }
    if (table->count == table->room) {
        table_grow(table);
    }
    uint32_t index = table->free;
    if (index != NO_SLOT) {
        table->free = table->slots[index].place;
    } else {
        index = table->used++;
    }
    ASSERT(index < table->room);
    slot = &table->slots[index];
    *slot = (struct slot){.id = id, .ttl_s = ttl_s, .grant_seq = grant_seq, .counter = grant_seq};
    table->hash[hash_find(table, id)] = index;
    table->count++;
    heap_put(table, table->count - 1, index);
    slot_restart(table, slot, now_ns);
}

void lease_table_revoke(struct lease_table *table, int64_t id)
{
    struct slot *slot = slot_find(table, id);
    if (slot == NULL) {
        return;
    }
    hash_remove(table, id);
    uint32_t index = (uint32_t)(slot - table->slots);
    uint32_t place = slot->place;
    uint32_t last = table->heap[table->count - 1];
    if (last != index) {
        heap_put(table, place, last);
        table->count--;
        heap_fix(table, place);
    } else {
        table->count--;
    }
    slot->place = table->free;
    table->free = index;
}

void lease_table_rearm(struct lease_table *table, uint64_t now_ns)
{
    for (uint32_t i = 0; i < table->count; i++) {
        slot_start(table, &table->slots[table->heap[i]], now_ns);
    }
    for (uint32_t i = table->count / 2; i > 0; i--) {
        heap_sink(table, i - 1);
    }
}

void lease_table_reading_begin(struct lease_table *table, uint64_t now_ns)
{
    if (!table->was_read || now_ns < table->read_ns || now_ns - table->read_ns > table->gap_ns) {
        lease_table_rearm(table, now_ns);
    }
    table->was_read = true;
    table->read_ns = now_ns;
}

void lease_table_reading(struct lease_table *table, int64_t id, uint64_t grant_seq,
                         uint64_t counter, uint64_t now_ns)
{
    struct slot *slot = slot_find(table, id);
    if (slot != NULL && slot->grant_seq == grant_seq && counter > slot->counter) {
        slot->counter = counter;
        slot_restart(table, slot, now_ns);
    }
}

void lease_table_renewed(struct lease_table *table, int64_t id, uint64_t counter, uint64_t now_ns)
{
    struct slot *slot = slot_find(table, id);
    /* The counter may be of an earlier grant of this id, so it is not kept: the next reading,
     * which names the grant, shows it. */
    if (slot != NULL && counter > slot->counter) {
        slot_restart(table, slot, now_ns);
    }
}

int64_t lease_table_remaining_s(const struct lease_table *table, int64_t id, uint64_t now_ns)
{
    const struct slot *slot = slot_find(table, id);
    if (slot == NULL) {
        return -1;
    }
    uint64_t passed_ns = now_ns > slot->start_ns ? now_ns - slot->start_ns : 0;
    uint64_t passed_s = (passed_ns + NS_PER_S - 1) / NS_PER_S; /* What remains is rounded down. */
    return passed_s >= (uint64_t)slot->ttl_s ? 0 : slot->ttl_s - (int64_t)passed_s;
}

/* ---- what is due ---------------------------------------------------------------------------- */

/* Places of the heap that are not taken, but their parents are: a heap by expiry itself. */
struct open_places {
    uint32_t items[LEASE_DUE_MAX + 1];
    uint32_t count;
};

static void open_add(const struct lease_table *table, struct open_places *open, uint32_t place)
{
    ASSERT(open->count < ARRAY_COUNT(open->items));
    uint64_t due = heap_due(table, place);
    uint32_t at = open->count++;
    while (at > 0 && heap_due(table, open->items[(at - 1) / 2]) > due) {
        open->items[at] = open->items[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    open->items[at] = place;
}

static uint32_t open_take(const struct lease_table *table, struct open_places *open)
{
    ASSERT(open->count > 0);
    uint32_t first = open->items[0];
    uint32_t last = open->items[--open->count];
    uint32_t at = 0;
    for (uint32_t child = 1; child < open->count; child = 2 * at + 1) {
        if (child + 1 < open->count &&
            heap_due(table, open->items[child + 1]) < heap_due(table, open->items[child])) {
            child++;
        }
        if (heap_due(table, open->items[child]) >= heap_due(table, last)) {
            break;
        }
        open->items[at] = open->items[child];
        at = child;
    }
    open->items[at] = last;
    return first;
}

uint32_t lease_table_due(const struct lease_table *table, uint64_t now_ns, struct lease_due *due,
                         uint32_t max)
{
    if (!table->was_read || now_ns < table->read_ns || now_ns - table->read_ns > table->gap_ns) {
        return 0;
    }
    struct open_places open = {.count = 0};
    uint32_t count = 0;
    max = max < LEASE_DUE_MAX ? max : LEASE_DUE_MAX;
    if (table->count > 0) {
        open_add(table, &open, 0);
    }
    while (count < max && open.count > 0) {
        uint32_t place = open_take(table, &open);
        const struct slot *slot = &table->slots[table->heap[place]];
        if (slot->due_ns > now_ns) {
            break;
        }
        due[count++] = (struct lease_due){slot->id, slot->grant_seq, slot->counter};
        for (uint32_t child = 2 * place + 1; child <= 2 * place + 2; child++) {
            if (child < table->count) {
                open_add(table, &open, child);
            }
        }
    }
    return count;
}

void lease_table_list(const struct lease_table *table, struct lease_left *items)
{
    ASSERT(table->count == 0 || items != NULL);
    for (uint32_t i = 0; i < table->count; i++) {
        const struct slot *slot = &table->slots[table->heap[i]];
        ASSERT(slot->due_ns >= slot->start_ns);
        items[i] = (struct lease_left){slot->id, slot->due_ns - table->margin_ns};
    }
}

static int left_order(const void *a, const void *b)
{
    const struct lease_left *left = a;
    const struct lease_left *right = b;
    if (left->ends_ns != right->ends_ns) {
        return left->ends_ns < right->ends_ns ? -1 : 1;
    }
    return (left->id > right->id) - (left->id < right->id);
}

void lease_left_sort(struct lease_left *items, uint32_t count)
{
    if (count > 1) {
        qsort(items, count, sizeof(*items), left_order);
    }
}

uint32_t lease_table_count(const struct lease_table *table)
{
    ASSERT(table->count <= table->room);
    return table->count;
}

bool lease_table_is_sound(const struct lease_table *table)
{
    uint32_t in_hash = 0;
    for (uint32_t at = 0; at < table->hash_room; at++) {
        in_hash += table->hash[at] != NO_SLOT;
    }
    bool is_sound = in_hash == table->count && table->count <= table->used;
    for (uint32_t place = 0; is_sound && place < table->count; place++) {
        uint32_t index = table->heap[place];
        const struct slot *slot = &table->slots[index];
        is_sound = index < table->used && slot->place == place &&
                   table->hash[hash_find(table, slot->id)] == index &&
                   slot->due_ns == due_of(table, slot->start_ns, slot->ttl_s) &&
                   (place == 0 || heap_due(table, (place - 1) / 2) <= slot->due_ns);
    }
    return is_sound;
}
