/*
 * A list of blocks, newest first, the bump pointer in the newest. Allocations that would waste
 * most of a block get one of their own behind the newest, so that its room stays in use.
 */
#include "core/arena.h"

#include "core/mem.h"

enum { ARENA_BLOCK_MIN = 4096, ARENA_BLOCK_MAX = 64 * 1024, ARENA_ALIGN = 16 };

struct arena_block {
    struct arena_block *next;
    size_t size; /* Of |bytes|. */
    _Alignas(ARENA_ALIGN) uint8_t bytes[];
};

void arena_init(struct arena *arena, size_t size_max)
{
    ASSERT(size_max > 0);
    *arena = (struct arena){.size_max = size_max};
}

void arena_fini(struct arena *arena)
{
    struct arena_block *block = arena->blocks;
    while (block != NULL) {
        struct arena_block *next = block->next;
        mem_free(block);
        block = next;
    }
    arena_init(arena, arena->size_max);
}

void arena_reset(struct arena *arena)
{
    struct arena_block *first = arena->first;
    struct arena_block *block = arena->blocks;
    while (block != NULL) {
        struct arena_block *next = block->next;
        if (block != first) {
            mem_free(block);
        }
        block = next;
    }
    arena_init(arena, arena->size_max);
    if (first != NULL) {
        first->next = NULL;
        arena->blocks = first;
        arena->first = first;
        arena->at = first->bytes;
        arena->room = first->size;
        arena->size_used = first->size;
    }
}

/* Blocks double with the arena, so that their number stays small. */
static size_t arena_block_size(const struct arena *arena, size_t need)
{
    size_t size = arena->size_used < ARENA_BLOCK_MIN ? ARENA_BLOCK_MIN : arena->size_used;
    size = size > ARENA_BLOCK_MAX ? ARENA_BLOCK_MAX : size;
    size_t left = arena->size_max - arena->size_used;
    size = size > left ? left : size;
    return size < need ? need : size;
}

static struct arena_block *arena_block_new(struct arena *arena, size_t size)
{
    struct arena_block *block = mem_alloc_raw(sizeof(*block) + size);
    block->size = size;
    arena->size_used += size;
    ASSERT(arena->size_used <= arena->size_max);
    return block;
}

/* |size| bytes from a new block. NULL at the ceiling. */
static uint8_t *arena_alloc_slow(struct arena *arena, size_t size)
{
    ASSERT(arena->size_used <= arena->size_max);
    if (size > arena->size_max - arena->size_used) {
        return NULL;
    }
    struct arena_block *block = arena_block_new(arena, arena_block_size(arena, size));
    if (arena->blocks != NULL && block->size - size < arena->room) {
        block->next = arena->blocks->next;
        arena->blocks->next = block;
        return block->bytes;
    }
    block->next = arena->blocks;
    arena->blocks = block;
    arena->first = arena->first == NULL ? block : arena->first;
    arena->at = block->bytes + size;
    arena->room = block->size - size;
    return block->bytes;
}

void *arena_alloc_bytes(struct arena *arena, size_t size)
{
    ASSERT(arena->size_max > 0);
    size_t need = size == 0 ? 1 : size;
    if (need > arena->room) {
        return arena_alloc_slow(arena, need);
    }
    uint8_t *memory = arena->at;
    arena->at += need;
    arena->room -= need;
    return memory;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    ASSERT(arena->size_max > 0);
    size_t need = size == 0 ? 1 : size;
    size_t skew = (uintptr_t)arena->at % ARENA_ALIGN;
    size_t pad = skew == 0 ? 0 : ARENA_ALIGN - skew;
    uint8_t *memory;
    if (pad <= arena->room && need <= arena->room - pad) {
        memory = arena->at + pad;
        arena->at = memory + need;
        arena->room -= pad + need;
    } else {
        memory = arena_alloc_slow(arena, need); /* A block's first byte is aligned. */
    }
    if (memory == NULL) {
        return NULL;
    }
    ASSERT((uintptr_t)memory % ARENA_ALIGN == 0);
    return memset(memory, 0, need);
}

bool arena_copy(struct arena *arena, struct slice slice, struct slice *copy)
{
    if (slice.size == 0) {
        *copy = SLICE_EMPTY;
        return true;
    }
    void *bytes = arena_alloc_bytes(arena, slice.size);
    if (bytes == NULL) {
        return false;
    }
    memcpy(bytes, slice.data, slice.size);
    *copy = slice_of(bytes, slice.size);
    return true;
}
