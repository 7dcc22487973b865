/*
 * The event log: pointers to versions by event number, in chunks.
 *
 * The store thread appends behind what is published; readers look only below the event_end of their
 * snapshot, so nothing that they read is ever written again. The directory of chunks is replaced by
 * a larger one when it is full; snapshots keep the directory that they were published with.
 * 8 bytes per event.
 */
#ifndef CACHE_EVENTS_H
#define CACHE_EVENTS_H

#include "cache/garbage.h"
#include "cache/version.h"

enum { CACHE_EVENTS_CHUNK = 1024 }; /* Events of one chunk. */

struct cache_event_chunk {
    struct cache_version *versions[CACHE_EVENTS_CHUNK];
};

/* chunks[i] holds the events from (base + i) * CACHE_EVENTS_CHUNK on. Chunks below the first event
 * of a snapshot may be freed: their pointers stay here and are not followed. */
struct cache_event_directory {
    uint64_t base;
    uint64_t count; /* Chunks made. Store thread only. */
    uint64_t room;
    struct cache_event_chunk *chunks[];
};

/* |number| is readable through the snapshot that |directory| comes from. Any reader. O(1). */
static inline struct cache_version *cache_events_at(const struct cache_event_directory *directory,
                                                    uint64_t number)
{
    uint64_t chunk = number / CACHE_EVENTS_CHUNK - directory->base;
    return directory->chunks[chunk]->versions[number % CACHE_EVENTS_CHUNK];
}

/* The first of the events |from| <= n < |end| with mod_rev >= |rev|; |end| if none. O(log). */
uint64_t cache_events_find(const struct cache_event_directory *directory, uint64_t from,
                           uint64_t end, int64_t rev);

/* The writer's part: store thread. */
struct cache_events {
    struct cache_event_directory *directory;
    struct cache_garbage replaced; /* Directories that published snapshots still use. */
    uint64_t freed_below;          /* Chunks with a lower number are freed (or retired). */
};

void cache_events_init(struct cache_events *events);
/* Frees chunks and directories, not the versions. */
void cache_events_fini(struct cache_events *events);
/* |number| follows the last one; the same number again overwrites it (after a drop). */
void cache_events_append(struct cache_events *events, uint64_t number,
                         struct cache_version *version);
/* The next chunk that holds only events below |first|, or NULL. Taken out: the caller retires it
 * after publishing a snapshot that begins at |first|. */
struct cache_event_chunk *cache_events_take_chunk(struct cache_events *events, uint64_t first);
/* Bytes of chunks and directory. */
uint64_t cache_events_size(const struct cache_events *events);

#endif
