/*
 * Objects that a publish replaced: reachable from older roots, never from the newest one. They
 * wait, in order of publish, until no ring root is older, then go to core/reclaim.h as one object.
 */
#ifndef CACHE_GARBAGE_H
#define CACHE_GARBAGE_H

#include "core/base.h"

/* Zero-initialised is valid and empty. */
struct cache_garbage {
    struct cache_garbage *next; /* In the queue of the cache, oldest first. */
    uint64_t publish;           /* Number of the publish that replaced these objects. */
    uint32_t count;
    uint32_t room;
    void **objects; /* Each freed by mem_free. */
};

/* |object| is given away. O(1) amortised. Store thread. */
void cache_garbage_add(struct cache_garbage *garbage, void *object);
/* Forget the objects without freeing them; keeps the memory of the list. */
void cache_garbage_forget(struct cache_garbage *garbage);
/* Move what |garbage| holds into a new, queueable one; NULL when it is empty. */
struct cache_garbage *cache_garbage_take(struct cache_garbage *garbage, uint64_t publish);
/* A reclaim_free_fn: frees the objects and the struct cache_garbage, which cache_garbage_take
 * made. Touches nothing else, so it may run after cache_free. */
void cache_garbage_free(void *object);

#endif
