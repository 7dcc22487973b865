/* What hub.c, watcher.c and groups.c share; nobody else includes it. */
#ifndef WATCH_INTERNAL_H
#define WATCH_INTERNAL_H

#include "core/clock.h"
#include "core/mem.h"
#include "core/sm.h"
#include "watch/interval.h"
#include "watch/list.h"
#include "watch/watch.h"

#include <uthash.h>

/*
 *                      create, start in the past
 *                                 │
 *      create, start in   ┌───────▼──────┐ window full  ┌────────┐
 *      the future ──┐     │ CATCHING_UP  ├─────────────▶│ PAUSED │
 *                   │     └──┬────────▲──┘              └─▲────┬─┘
 *                   ▼        │caught  │ window has room   │    │
 *                 SYNCED ◀───┘up      └───────────────────┼────┘
 *                   └──────────────── window full ────────┘
 *
 * SYNCED       has been handed every match with a number below hub->next_event
 * CATCHING_UP  has been handed every match below its own |cursor|, which the hub has passed
 * PAUSED       the same, and is not worked on
 */
enum watcher_state { WATCHER_SYNCED, WATCHER_CATCHING_UP, WATCHER_PAUSED, WATCHER_STATE_COUNT };
extern const struct sm_state watcher_states[WATCHER_STATE_COUNT];

/* Watchers with the same keys: matched once per event for all of them. */
struct watch_group {
    struct interval_node node; /* |node.range| borrows |bytes|. In hub->ranges unless |exact|. */
    bool exact;                /* A single key: in hub->exact. */
    UT_hash_handle hh;
    struct list synced; /* watcher.in_group; the others are only counted. */
    uint32_t watcher_count;
    uint32_t prev_count; /* Watchers that want prev_kv. */
    bool touched;        /* In hub->touched, because |run| is not empty. */
    struct watch_group *touched_next;
    const struct cache_version **run; /* Matches since the last hand-out. */
    uint32_t run_count;
    uint32_t run_room;
    uint8_t bytes[]; /* key, then end */
};

struct watcher {
    struct sm sm;
    struct watch_stream *stream;
    struct watch_group *group; /* NULL when buried. */
    int64_t id;
    int64_t start_rev; /* Nothing older is handed out. */
    int64_t asked_rev; /* As the client said it; 0 = from now on. */
    int64_t told_rev;  /* Of the newest response that the client got by this id. */
    uint64_t cursor;   /* CATCHING_UP, PAUSED: next event to read. */
    bool want_progress;
    bool had_events; /* Since the last progress tick. */
    bool want_prev;
    bool fragment;
    bool no_put;
    bool no_delete;
    bool compacted;       /* Started below compact_rev: is told so in the next turn. */
    bool buried;          /* Was told so: keeps its id until it is cancelled, see watcher_bury. */
    struct list in_group; /* While SYNCED. */
    struct list in_work;  /* While CATCHING_UP: hub->catching_up; PAUSED: stream->paused. */
    UT_hash_handle hh;    /* stream->watchers, by id */
};

struct watch_stream {
    struct watch_hub *hub;
    const struct watch_sink *sink;
    void *owner;
    struct watcher *watchers; /* By id. */
    uint32_t watcher_count;
    uint32_t unsynced_count;
    int64_t next_id;
    bool progress_asked;
    uint64_t progress_due_ns;
    struct list paused;
    struct list in_hub;
    struct list in_asked;   /* hub->asked while progress_asked. */
    struct list in_offered; /* hub->offered until the next turn's end. */
};

struct watch_hub {
    const struct cache *cache;
    struct rng rng;
    uint64_t progress_interval_ns;
    uint64_t progress_due_ns;  /* Not later than any stream's. */
    uint64_t next_event;       /* Everything below has been matched. */
    int64_t rev;               /* The revision that goes with it. */
    uint64_t run_id;           /* The last one given out. */
    struct watch_group *exact; /* Hash by key. */
    struct interval_tree ranges;
    struct watch_group *touched;
    struct list streams;
    struct list catching_up;
    struct list asked;
    struct list offered;
    uint32_t watcher_count;
    uint32_t unsynced_count;
    uint32_t watcher_max;
    size_t key_bytes; /* Of all groups. */
    size_t key_bytes_max;
    /* Scratch of a hand-out, reused. */
    const struct cache_version **versions;
    const struct cache_version **prevs;
    uint32_t scratch_room;
};

/* groups.c */
struct watch_group *watch_group_join(struct watch_hub *hub, const struct cache_range *range);
void watch_group_leave(struct watch_hub *hub, struct watch_group *group);
/* Add |version| to the run of every group with synced watchers that it matches. Tells whether there
 * is one, and whether one of its watchers wants what was there before. */
enum watch_match { WATCH_MATCH_NONE, WATCH_MATCH, WATCH_MATCH_PREV };
enum watch_match watch_groups_match(struct watch_hub *hub, const struct cache_version *version);
bool watch_group_holds(const struct watch_group *group, struct slice key);

/* watcher.c */
void watcher_free(struct watcher *watcher);
void watcher_bury(struct watcher *watcher);
void watcher_synced(struct watcher *watcher);
void watcher_catch_up(struct watcher *watcher, uint64_t cursor);
void watcher_pause(struct watcher *watcher, uint64_t cursor);

/* hub.c */
void watch_hub_room(struct watch_hub *hub, uint32_t count);
uint64_t watch_stream_progress_after(struct watch_hub *hub, uint64_t now_ns);

#endif
