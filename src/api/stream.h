/* Inside api only: RangeStream's state, for the thread's hold. */
#ifndef API_STREAM_H
#define API_STREAM_H

#include "api/ask.h"

/*
 * Chunks of one Range at one revision, the next one when the client's window has room. Between
 * chunks it keeps a key and a revision, no snapshot: compaction may go on, but what this revision
 * sees stays in memory by the thread's hold. When a compaction has passed it, a client that reads
 * less than LIMIT_STALL_BYTES in LIMIT_STALL_MS loses the hold, and any other one after
 * LIMIT_RANGE_STREAM_OUTLIVE_MS, so that nobody stops trimming for all.
 */
struct range_stream {
    struct api_ask ask; /* First: the read index. */
    struct api_stream stream;
    struct range_stream *next, **link; /* In thread->ranges, once the revision is pinned. */
    struct store_range range;
    int64_t revision;   /* Pinned: what is read. 0: not yet. */
    int64_t header_rev; /* The store's when the stream began. */
    struct buf key;     /* Where the next chunk begins; empty: at range.key. */
    uint64_t count;     /* Keys sent so far. */
    uint64_t limit;     /* In all. */
    uint64_t chunk;     /* Keys of the next chunk. */
    uint64_t taken;     /* Bytes that its client has read, when that was worth noting, ... */
    uint64_t moved_ns;  /* ... and when it was. */
    uint64_t passed_ns; /* When a compaction was seen to have passed |revision|; 0: not yet. */
};

/* End those whose revision is compacted and whose client reads nothing. False: none is left. */
bool api_range_streams_look(struct api_thread *thread, uint64_t now_ns);
/* What RangeStream makes of the size of a chunk: the keys of the next one. */
uint64_t api_range_stream_adjust(uint64_t chunk, size_t size, size_t target);

#endif
