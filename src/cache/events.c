/* Appending to the event log, searching it, and giving up its oldest chunks. */
#include "cache/events.h"

#include "core/mem.h"

enum { EVENTS_ROOM_MIN = 64 };

uint64_t cache_events_find(const struct cache_event_directory *directory, uint64_t from,
                           uint64_t end, int64_t rev)
{
    ASSERT(from <= end);
    ASSERT(directory != NULL);
    while (from < end) {
        uint64_t middle = from + (end - from) / 2;
        if (cache_events_at(directory, middle)->mod_rev < rev) {
            from = middle + 1;
        } else {
            end = middle;
        }
    }
    return from;
}

static struct cache_event_directory *directory_new(uint64_t base, uint64_t room)
{
    ASSERT(room >= EVENTS_ROOM_MIN);
    ASSERT(room <= SIZE_MAX / sizeof(void *) / 2);
    struct cache_event_directory *directory =
        mem_alloc(sizeof(*directory) + room * sizeof(directory->chunks[0]));
    directory->base = base;
    directory->room = room;
    return directory;
}

void cache_events_init(struct cache_events *events)
{
    *events = (struct cache_events){.directory = directory_new(0, EVENTS_ROOM_MIN)};
    ASSERT(events->directory->count == 0);
    ASSERT(events->freed_below == 0);
}

void cache_events_fini(struct cache_events *events)
{
    struct cache_event_directory *directory = events->directory;
    ASSERT(directory != NULL);
    ASSERT(events->freed_below >= directory->base);
    for (uint64_t i = events->freed_below - directory->base; i < directory->count; i++) {
        mem_free(directory->chunks[i]);
    }
    mem_free(directory);
    for (uint32_t i = 0; i < events->replaced.count; i++) {
        mem_free(events->replaced.objects[i]);
    }
    mem_free(events->replaced.objects);
    *events = (struct cache_events){0};
}

/* A larger directory without the chunks that are freed. Published snapshots keep the old one. */
static void events_grow(struct cache_events *events)
{
    struct cache_event_directory *old = events->directory;
    ASSERT(old->count == old->room);
    uint64_t skipped = events->freed_below - old->base;
    ASSERT(skipped <= old->count);
    uint64_t kept = old->count - skipped;
    uint64_t room = kept * 2 < EVENTS_ROOM_MIN ? EVENTS_ROOM_MIN : kept * 2;
    struct cache_event_directory *grown = directory_new(events->freed_below, room);
    memcpy(grown->chunks, &old->chunks[skipped], kept * sizeof(grown->chunks[0]));
    grown->count = kept;
    events->directory = grown;
    cache_garbage_add(&events->replaced, old);
}

void cache_events_append(struct cache_events *events, uint64_t number,
                         struct cache_version *version)
{
    ASSERT(version != NULL);
    uint64_t chunk = number / CACHE_EVENTS_CHUNK;
    ASSERT(chunk >= events->freed_below);
    struct cache_event_directory *directory = events->directory;
    if (chunk == directory->base + directory->count) {
        if (directory->count == directory->room) {
            events_grow(events);
            directory = events->directory;
        }
        directory->chunks[directory->count++] = mem_alloc_raw(sizeof(struct cache_event_chunk));
    }
    ASSERT(chunk - directory->base < directory->count);
    directory->chunks[chunk - directory->base]->versions[number % CACHE_EVENTS_CHUNK] = version;
}

struct cache_event_chunk *cache_events_take_chunk(struct cache_events *events, uint64_t first)
{
    struct cache_event_directory *directory = events->directory;
    ASSERT(events->freed_below >= directory->base);
    if ((events->freed_below + 1) * CACHE_EVENTS_CHUNK > first) {
        return NULL;
    }
    ASSERT(events->freed_below - directory->base < directory->count);
    struct cache_event_chunk *chunk = directory->chunks[events->freed_below - directory->base];
    events->freed_below++;
    return chunk;
}

uint64_t cache_events_size(const struct cache_events *events)
{
    const struct cache_event_directory *directory = events->directory;
    ASSERT(directory != NULL);
    uint64_t chunks = directory->base + directory->count - events->freed_below;
    ASSERT(chunks <= directory->count);
    return chunks * sizeof(struct cache_event_chunk) +
           directory->room * sizeof(directory->chunks[0]) + sizeof(*directory);
}
