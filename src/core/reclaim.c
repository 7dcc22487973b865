/* The writer's side of quiescent-state reclamation. */
#include "core/reclaim.h"

#include "core/mem.h"

enum { RECLAIM_ROOM_MIN = 64 };

static uint64_t reclaim_epoch(const struct reclaim *reclaim)
{
    /* Only this thread stores it. */
    return atomic_load_explicit(&reclaim->epoch, memory_order_relaxed);
}

static struct reclaim_item *reclaim_at(const struct reclaim *reclaim, uint32_t place)
{
    ASSERT(place < reclaim->count);
    return &reclaim->items[(reclaim->first + place) & (reclaim->room - 1)];
}

void reclaim_init(struct reclaim *reclaim)
{
    *reclaim = (struct reclaim){.room = RECLAIM_ROOM_MIN};
    atomic_init(&reclaim->epoch, 1);
    reclaim->items = mem_alloc(RECLAIM_ROOM_MIN * sizeof(reclaim->items[0]));
}

/* Pop before free: a free function may retire more. */
static void reclaim_free_first(struct reclaim *reclaim)
{
    struct reclaim_item item = *reclaim_at(reclaim, 0);
    reclaim->first = (reclaim->first + 1) & (reclaim->room - 1);
    reclaim->count--;
    item.free(item.object);
}

void reclaim_fini(struct reclaim *reclaim)
{
    while (reclaim->count > 0) {
        reclaim_free_first(reclaim);
    }
    mem_free(reclaim->items);
    reclaim->items = NULL;
}

void reclaim_add_reader(struct reclaim *reclaim, struct reclaim_reader *reader)
{
    ASSERT(reclaim->reader_count < LIMIT_IO_THREADS);
    reader->reclaim = reclaim;
    reader->nudged = 0;
    /* It has read nothing yet, so it holds nothing up. */
    atomic_init(&reader->announced, reclaim_epoch(reclaim));
    atomic_init(&reader->hold_rev, RECLAIM_NO_HOLD);
    reclaim->readers[reclaim->reader_count++] = reader;
}

uint64_t reclaim_advance(struct reclaim *reclaim)
{
    uint64_t epoch = reclaim_epoch(reclaim) + 1;
    atomic_store_explicit(&reclaim->epoch, epoch, memory_order_release);
    return epoch;
}

bool reclaim_passed(const struct reclaim *reclaim, uint64_t epoch)
{
    for (uint32_t i = 0; i < reclaim->reader_count; i++) {
        const struct reclaim_reader *reader = reclaim->readers[i];
        if (atomic_load_explicit(&reader->announced, memory_order_acquire) < epoch) {
            return false;
        }
    }
    return true;
}

static void reclaim_grow(struct reclaim *reclaim)
{
    ASSERT(reclaim->room <= UINT32_MAX / 4);
    uint32_t room = reclaim->room * 2;
    struct reclaim_item *items = mem_alloc_raw(room * sizeof(items[0]));
    for (uint32_t i = 0; i < reclaim->count; i++) {
        items[i] = *reclaim_at(reclaim, i);
    }
    mem_free(reclaim->items);
    reclaim->items = items;
    reclaim->first = 0;
    reclaim->room = room;
}

void reclaim_retire(struct reclaim *reclaim, void *object, reclaim_free_fn *free)
{
    ASSERT(object != NULL);
    ASSERT(free != NULL);
    if (reclaim->count == reclaim->room) {
        reclaim_grow(reclaim);
    }
    reclaim->count++;
    *reclaim_at(reclaim, reclaim->count - 1) = (struct reclaim_item){
        .object = object,
        .free = free,
        .epoch = reclaim_epoch(reclaim) + 1,
    };
}

/* The oldest epoch that some reader may still be in. UINT64_MAX without readers. */
static uint64_t reclaim_oldest(const struct reclaim *reclaim)
{
    uint64_t oldest = UINT64_MAX;
    for (uint32_t i = 0; i < reclaim->reader_count; i++) {
        const struct reclaim_reader *reader = reclaim->readers[i];
        uint64_t at = atomic_load_explicit(&reader->announced, memory_order_acquire);
        oldest = at < oldest ? at : oldest;
    }
    return oldest;
}

/* Once per reader and epoch: a turn that starts after the nudge sees the epoch of now. */
static void reclaim_nudge(struct reclaim *reclaim, uint64_t wanted)
{
    for (uint32_t i = 0; i < reclaim->reader_count; i++) {
        struct reclaim_reader *reader = reclaim->readers[i];
        uint64_t at = atomic_load_explicit(&reader->announced, memory_order_acquire);
        if (at < wanted && reader->nudged < wanted && reader->nudge != NULL) {
            reader->nudged = reclaim_epoch(reclaim);
            reader->nudge(reader);
        }
    }
}

uint32_t reclaim_run(struct reclaim *reclaim)
{
    if (reclaim->count == 0) {
        return 0;
    }
    if (reclaim_at(reclaim, reclaim->count - 1)->epoch > reclaim_epoch(reclaim)) {
        (void)reclaim_advance(reclaim);
    }
    uint64_t oldest = reclaim_oldest(reclaim);
    while (reclaim->count > 0 && reclaim_at(reclaim, 0)->epoch <= oldest) {
        reclaim_free_first(reclaim);
    }
    if (reclaim->count > 0) {
        reclaim_nudge(reclaim, reclaim_at(reclaim, 0)->epoch);
    }
    return reclaim->count;
}

int64_t reclaim_hold_rev(const struct reclaim *reclaim)
{
    int64_t hold_rev = RECLAIM_NO_HOLD;
    for (uint32_t i = 0; i < reclaim->reader_count; i++) {
        const struct reclaim_reader *reader = reclaim->readers[i];
        int64_t rev = atomic_load_explicit(&reader->hold_rev, memory_order_acquire);
        hold_rev = rev < hold_rev ? rev : hold_rev;
    }
    return hold_rev;
}
