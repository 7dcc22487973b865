/* Memory of one call or one batch: bump allocation with a ceiling, freed all at once. */
#ifndef CORE_ARENA_H
#define CORE_ARENA_H

#include "core/slice.h"

struct arena_block;

/* Grows by blocks up to |size_max| bytes in total. One thread at a time. */
struct arena {
    struct arena_block *blocks; /* The one with room first. */
    struct arena_block *first;  /* The oldest, which arena_reset keeps. */
    uint8_t *at;                /* Next free byte of the newest block. */
    size_t room;                /* Bytes left in it. */
    size_t size_used;           /* Bytes of all blocks, without their small headers. */
    size_t size_max;
};

/* Of an arena whose contents are bounded by other ceilings. Sums of sizes cannot wrap. */
#define ARENA_NO_CEILING (SIZE_MAX / 4)

/* Allocates nothing yet. |size_max| > 0, in bytes. */
void arena_init(struct arena *arena, size_t size_max);
/* Frees every block; the arena may be used again as after arena_init. */
void arena_fini(struct arena *arena);
/* Keep the first block, free the rest: for arenas that are used again and again. */
void arena_reset(struct arena *arena);

/*
 * Zeroed, 16-byte aligned; NULL only at the ceiling (the caller answers ERR_REQUEST_TOO_LARGE).
 * Size 0 gives a pointer of its own.
 */
void *arena_alloc(struct arena *arena, size_t size);
/* The same, not zeroed and not aligned: for bytes. */
void *arena_alloc_bytes(struct arena *arena, size_t size);
/* Copy of |slice| in the arena; false at the ceiling. */
MUST_CHECK bool arena_copy(struct arena *arena, struct slice slice, struct slice *copy);

#endif
