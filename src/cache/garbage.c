/* Lists of objects that wait for readers. */
#include "cache/garbage.h"

#include "core/mem.h"

enum { GARBAGE_ROOM_MIN = 32 };

void cache_garbage_add(struct cache_garbage *garbage, void *object)
{
    ASSERT(object != NULL);
    ASSERT(garbage->count <= garbage->room);
    if (garbage->count == garbage->room) {
        ASSERT(garbage->room <= UINT32_MAX / 4);
        garbage->room = garbage->room == 0 ? GARBAGE_ROOM_MIN : garbage->room * 2;
        garbage->objects = mem_realloc(garbage->objects, garbage->room * sizeof(void *));
    }
    garbage->objects[garbage->count++] = object;
}

void cache_garbage_forget(struct cache_garbage *garbage)
{
    ASSERT(garbage->count <= garbage->room);
    ASSERT(garbage->next == NULL);
    garbage->count = 0;
}

struct cache_garbage *cache_garbage_take(struct cache_garbage *garbage, uint64_t publish)
{
    ASSERT(garbage->next == NULL);
    ASSERT(garbage->count <= garbage->room);
    if (garbage->count == 0) {
        return NULL;
    }
    struct cache_garbage *taken = mem_alloc_raw(sizeof(*taken));
    *taken = *garbage;
    taken->publish = publish;
    *garbage = (struct cache_garbage){0};
    return taken;
}

void cache_garbage_free(void *object)
{
    struct cache_garbage *garbage = object;
    ASSERT(garbage != NULL);
    ASSERT(garbage->count <= garbage->room);
    for (uint32_t i = 0; i < garbage->count; i++) {
        mem_free(garbage->objects[i]);
    }
    mem_free(garbage->objects);
    mem_free(garbage);
}
