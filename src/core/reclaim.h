/*
 * Quiescent-state reclamation: readers use published memory without locks or atomic
 * read-modify-writes; the one writer frees what it retired when every reader has since been
 * quiescent (has announced an epoch not older than the retirement).
 *
 * Why not liburcu: its QSBR flavour hides its fences from thread sanitizer, and all that is needed
 * here is one counter per reader. See docs/architecture.md.
 *
 * A reader also may hold a revision: versions visible at or after it are not trimmed while the
 * hold stands. Setting a hold within the turn in which the snapshot was pinned is always in time,
 * because trimming waits for a grace period first and reads the holds after it.
 */
#ifndef CORE_RECLAIM_H
#define CORE_RECLAIM_H

#include <stdatomic.h>

#include "core/base.h"
#include "core/limits.h"

#define RECLAIM_NO_HOLD INT64_MAX

enum { RECLAIM_LINE_SIZE = 64 }; /* Bytes of a cache line. */

struct reclaim;

/*
 * One per reading thread. Padded on both sides to be alone on its cache lines; not _Alignas,
 * because owners embed it in memory of mem_alloc, which does not align that far.
 */
struct reclaim_reader {
    uint8_t pad_before[RECLAIM_LINE_SIZE];
    _Atomic uint64_t announced;
    _Atomic int64_t hold_rev; /* RECLAIM_NO_HOLD, or the lowest revision this thread still reads. */
    struct reclaim *reclaim;
    /* Ask the thread to end a turn soon. Set by its owner, NULL in tests; the writer calls it. */
    void (*nudge)(struct reclaim_reader *reader);
    uint64_t nudged; /* Epoch of the last nudge. Writer thread only. */
    uint8_t pad_after[RECLAIM_LINE_SIZE];
};

typedef void reclaim_free_fn(void *object);

struct reclaim_item {
    void *object;
    reclaim_free_fn *free;
    uint64_t epoch;
};

/* Owned by the one writer thread. */
struct reclaim {
    uint8_t pad_before[RECLAIM_LINE_SIZE];
    _Atomic uint64_t epoch; /* Read by every reader once a turn, so its line is its own. */
    uint8_t pad_after[RECLAIM_LINE_SIZE];
    struct reclaim_reader *readers[LIMIT_IO_THREADS];
    uint32_t reader_count;
    struct reclaim_item *items; /* A ring, oldest first. */
    uint32_t first;
    uint32_t count;
    uint32_t room;
};

void reclaim_init(struct reclaim *reclaim);
/* Frees everything retired; no reader may run any more. */
void reclaim_fini(struct reclaim *reclaim);
/* Before the reader's thread starts. |reader| is borrowed. */
void reclaim_add_reader(struct reclaim *reclaim, struct reclaim_reader *reader);

/* Reader thread. Load before draining posts; announce what was loaded at the turn's end. */
static inline uint64_t reclaim_reader_load(const struct reclaim_reader *reader)
{
    return atomic_load_explicit(&reader->reclaim->epoch, memory_order_acquire);
}
static inline void reclaim_reader_announce(struct reclaim_reader *reader, uint64_t epoch)
{
    atomic_store_explicit(&reader->announced, epoch, memory_order_release);
}
/* Reader thread. Replaces the hold of the whole thread. */
static inline void reclaim_reader_hold(struct reclaim_reader *reader, int64_t rev)
{
    atomic_store_explicit(&reader->hold_rev, rev, memory_order_release);
}

/* Writer thread. The epoch after which everything published so far is seen by all: O(1). */
uint64_t reclaim_advance(struct reclaim *reclaim);
/* Writer thread. True when every reader has announced |epoch| or newer. */
bool reclaim_passed(const struct reclaim *reclaim, uint64_t epoch);
/*
 * Writer thread. Free |object| by |free| after a grace period; reclaim_run advances the epoch.
 * |object| must already be unreachable for who starts to look now.
 */
void reclaim_retire(struct reclaim *reclaim, void *object, reclaim_free_fn *free);
/* Writer thread, once a turn: frees what has passed, nudges readers that hold the rest up.
 * Returns how many objects still wait. */
uint32_t reclaim_run(struct reclaim *reclaim);
/* Writer thread. The lowest hold of all readers, RECLAIM_NO_HOLD if none. */
int64_t reclaim_hold_rev(const struct reclaim *reclaim);

#endif
