/*
 * Watch fan-out: one hub per io thread matches each new event once against all its watchers.
 *
 * A watcher is a cursor into the cache's event log, so a slow one costs nothing and loses nothing:
 *   CATCHING_UP  reads events from its own cursor, a slice per turn
 *   SYNCED       has everything up to the hub's position; new events come by matching (those below
 *                its start revision, which may lie in the future, are left out)
 *   PAUSED       its stream's window is full: goes on as CATCHING_UP
 *
 * The hub reads events above watch_hub_rev() even when a newer snapshot has compacted them, so that
 * a compaction right behind a write takes nothing from synced watchers: its thread must keep
 * reclaim_reader_hold at or below watch_hub_rev() at all times.
 * It knows nothing of protobuf or gRPC: what it has to say goes through a table of functions.
 * No clock, thread or socket: the caller says what time it is.
 */
#ifndef WATCH_WATCH_H
#define WATCH_WATCH_H

#include "cache/cache.h"
#include "core/err.h"

struct watch_hub;
struct watch_stream; /* The watchers of one Watch RPC. */

/*
 * Events of one watcher in order, whole revisions, all matched and filtered. Borrowed for the call.
 * |run_id| is the same number for every watcher that gets exactly these events with these prevs,
 * and is never used again for others: the owner encodes the run once per thread and sends it to
 * all.
 */
struct watch_events {
    const struct cache_version *const *versions;
    const struct cache_version *const *prevs; /* NULL when not wanted; elements may be NULL. */
    uint32_t count;
    int64_t header_rev; /* The last event's revision when live, the store's when catching up. */
    uint64_t run_id;
    bool fragment; /* The watcher allows responses to be split inside a revision. */
};

/* What the hub tells a stream's owner. All run inside watch_hub_turn, and must not call back into
 * watch: a stream that has to go is closed later. */
struct watch_sink {
    /* False: the window is full. The events WERE taken, but the watcher pauses until
     * watch_stream_writable, and reads on from the event log then. */
    bool (*events)(void *owner, int64_t watch_id, const struct watch_events *events);
    /* start_revision fell below compact_rev: canceled with it; the watcher hears nothing more, but
     * keeps its id until watch_stream_cancel. */
    void (*compacted)(void *owner, int64_t watch_id, int64_t compact_rev);
    /* Progress: watch_id, or -1 for a requested one that covers the whole stream. */
    void (*progress)(void *owner, int64_t watch_id, int64_t revision);
};

struct watch_create {
    int64_t watch_id; /* 0 = pick. */
    struct slice key; /* etcd's rules applied: empty key became "\0". Copied. */
    struct slice range_end;
    int64_t start_rev; /* 0 = from the next event on. */
    bool progress_notify;
    bool prev_kv;
    bool fragment;
    bool no_put;
    bool no_delete;
};

/* |cache| is read by this thread's reader; |progress_interval_ns| for progress_notify watchers. */
struct watch_hub *watch_hub_new(const struct cache *cache, uint64_t progress_interval_ns,
                                uint64_t seed);
/* Beyond |watchers| of them, or |key_bytes| of their keys, more are refused with WATCH_TOO_MANY. At
 * first LIMIT_WATCHERS and LIMIT_WATCH_KEY_BYTES. */
void watch_hub_set_ceilings(struct watch_hub *hub, uint32_t watchers, size_t key_bytes);
/* All streams must be closed. */
void watch_hub_free(struct watch_hub *hub);
/* Walk what is new up to the newest snapshot, serve catch-ups (a bounded slice), progress that is
 * due. Call at the end of a turn when something was published, created, became writable, or
 * watch_hub_next_ns passed. True when catching up is not finished: call again next turn. */
bool watch_hub_turn(struct watch_hub *hub, uint64_t now_ns);
/* When a progress notice is due next, UINT64_MAX if never. */
uint64_t watch_hub_next_ns(const struct watch_hub *hub);
/* The revision that this hub has walked and queued. */
int64_t watch_hub_rev(const struct watch_hub *hub);
uint32_t watch_hub_watcher_count(const struct watch_hub *hub);
/* Watchers that are not synced, for metrics. */
uint32_t watch_hub_slow_count(const struct watch_hub *hub);

struct watch_stream *watch_stream_open(struct watch_hub *hub, const struct watch_sink *sink,
                                       void *owner);
/* Drops all its watchers. */
void watch_stream_close(struct watch_stream *stream);
/* ERR_OK and *|watch_id|; the caller sends `created` before the next watch_hub_turn. Fails with
 * WATCH_DUPLICATE_ID or WATCH_EMPTY_RANGE. Events come only from watch_hub_turn. */
enum watch_result { WATCH_OK, WATCH_DUPLICATE_ID, WATCH_EMPTY_RANGE, WATCH_TOO_MANY };
enum watch_result watch_stream_create(struct watch_stream *stream,
                                      const struct watch_create *create, uint64_t now_ns,
                                      int64_t *watch_id);
/* False if unknown: etcd then answers nothing. */
bool watch_stream_cancel(struct watch_stream *stream, int64_t watch_id);
/* WatchProgressRequest: answered by sink->progress(-1) at the end of the next turn iff all watchers
 * are synced and the hub's revision >= each start revision, else never (etcd's rule). */
void watch_stream_request_progress(struct watch_stream *stream);
/* Tell each progress_notify watcher of |stream| at the end of the next turn where the hub stands,
 * by its own id: only if it is synced, has reached its start revision, and was told neither this
 * revision nor an event of it. A stream of more than LIMIT_PROGRESS_OFFER watchers waits for the
 * timer, so that one offer costs little. */
void watch_stream_offer_progress(struct watch_stream *stream);
/* The stream's window has room again. */
void watch_stream_writable(struct watch_stream *stream);

#endif
