/*
 * Immutable bytes with a reference count that is not atomic: encoded events and answers that
 * several streams of ONE io thread send without copying. Never crosses a thread.
 */
#ifndef CORE_SHARED_H
#define CORE_SHARED_H

#include "core/slice.h"

struct shared {
    uint32_t refs;
    size_t size;
    uint8_t bytes[];
};

/* One reference, contents not initialised; fill |bytes| before sharing it. */
struct shared *shared_new(size_t size);
static inline struct shared *shared_ref(struct shared *shared)
{
    ASSERT(shared->refs > 0 && shared->refs < UINT32_MAX);
    shared->refs++;
    return shared;
}
/* NULL is a no-op. Frees with the last reference. */
void shared_unref(struct shared *shared);

#endif
