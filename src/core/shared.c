/* Reference-counted bytes of one thread. */
#include "core/shared.h"

#include "core/mem.h"

struct shared *shared_new(size_t size)
{
    ASSERT(size <= SIZE_MAX / 2);
    struct shared *shared = mem_alloc_raw(sizeof(*shared) + size);
    shared->refs = 1;
    shared->size = size;
    return shared;
}

void shared_unref(struct shared *shared)
{
    if (shared == NULL) {
        return;
    }
    ASSERT(shared->refs > 0);
    if (--shared->refs == 0) {
        mem_free(shared);
    }
}
