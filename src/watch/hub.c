/*
 * The hub of one io thread: match what is new, help those behind, tell progress.
 *
 * A turn, in this order, so that progress can never overtake events:
 *   1. walk   every event up to the newest snapshot is matched and handed to SYNCED watchers
 *   2. catch  those CATCHING_UP read old events in a bounded slice, the longest waiting first
 *   3. ask    requested progress is answered for streams whose watchers are all SYNCED
 *   4. offer  progress_notify watchers of streams whose client has just read at a newer revision
 *   5. tick   progress_notify watchers that heard nothing for an interval
 *
 * Cost of a new event: one hash look-up and one stab of the interval tree, then O(1) per group that
 * matches; of a hand-out: O(1) per watcher and a pass over its run only if it filters.
 */
#include "watch/internal.h"

struct watch_hub *watch_hub_new(const struct cache *cache, uint64_t progress_interval_ns,
                                uint64_t seed)
{
    ASSERT(progress_interval_ns > 0);
    struct watch_hub *hub = mem_alloc(sizeof(*hub));
    const struct cache_info *info = cache_snapshot_info(cache_snapshot(cache));
    hub->cache = cache;
    rng_seed(&hub->rng, seed);
    hub->progress_interval_ns = progress_interval_ns;
    hub->progress_due_ns = UINT64_MAX;
    hub->watcher_max = LIMIT_WATCHERS;
    hub->key_bytes_max = LIMIT_WATCH_KEY_BYTES;
    hub->next_event = info->event_end;
    hub->rev = info->revision;
    list_init(&hub->streams);
    list_init(&hub->catching_up);
    list_init(&hub->asked);
    list_init(&hub->offered);
    return hub;
}

void watch_hub_free(struct watch_hub *hub)
{
    if (hub == NULL) {
        return;
    }
    ASSERT(list_is_empty(&hub->streams));
    ASSERT(hub->watcher_count == 0 && hub->exact == NULL);
    mem_free(hub->versions);
    mem_free(hub->prevs);
    mem_free(hub);
}

void watch_hub_set_ceilings(struct watch_hub *hub, uint32_t watchers, size_t key_bytes)
{
    ASSERT(watchers > 0);
    ASSERT(key_bytes > 0);
    hub->watcher_max = watchers;
    hub->key_bytes_max = key_bytes;
}

uint64_t watch_hub_next_ns(const struct watch_hub *hub)
{
    return hub->progress_due_ns;
}

int64_t watch_hub_rev(const struct watch_hub *hub)
{
    return hub->rev;
}

uint32_t watch_hub_watcher_count(const struct watch_hub *hub)
{
    return hub->watcher_count;
}

uint32_t watch_hub_slow_count(const struct watch_hub *hub)
{
    return hub->unsynced_count;
}

void watch_hub_room(struct watch_hub *hub, uint32_t count)
{
    if (count <= hub->scratch_room) {
        return;
    }
    uint32_t room = hub->scratch_room == 0 ? 64 : hub->scratch_room;
    while (room < count) {
        ASSERT(room <= UINT32_MAX / 2);
        room *= 2;
    }
    hub->versions = mem_realloc(hub->versions, room * sizeof(struct cache_version *));
    hub->prevs = mem_realloc(hub->prevs, room * sizeof(struct cache_version *));
    hub->scratch_room = room;
}

/* ---- handing out --------------------------------------------------------------------------- */

static bool watcher_wants(const struct watcher *watcher, const struct cache_version *version)
{
    if (cache_version_mod_rev(version) < watcher->start_rev) {
        return false;
    }
    return cache_version_is_tombstone(version) ? !watcher->no_delete : !watcher->no_put;
}

static bool watcher_takes_all(const struct watcher *watcher, const struct cache_version *first)
{
    return !watcher->no_put && !watcher->no_delete &&
           cache_version_mod_rev(first) >= watcher->start_rev;
}

static const struct cache_version *const *prevs_of(struct watch_hub *hub,
                                                   const struct cache_snapshot *snapshot,
                                                   const struct cache_version *const *versions,
                                                   uint32_t count)
{
    watch_hub_room(hub, count);
    for (uint32_t i = 0; i < count; i++) {
        hub->prevs[i] = cache_event_prev(snapshot, versions[i]);
    }
    return hub->prevs;
}

/* False: the watcher's window is full now. */
static bool watcher_send(struct watcher *watcher, struct watch_events *events)
{
    ASSERT(events->count > 0);
    ASSERT(cache_version_mod_rev(events->versions[0]) >= watcher->start_rev);
    watcher->had_events = true;
    watcher->told_rev = events->header_rev;
    events->fragment = watcher->fragment;
    return watcher->stream->sink->events(watcher->stream->owner, watcher->id, events);
}

/* One watcher that filters, or starts inside the run. */
static bool watcher_send_filtered(struct watcher *watcher, const struct cache_snapshot *snapshot)
{
    struct watch_hub *hub = watcher->stream->hub;
    const struct watch_group *group = watcher->group;
    watch_hub_room(hub, group->run_count);
    uint32_t count = 0;
    for (uint32_t i = 0; i < group->run_count; i++) {
        if (watcher_wants(watcher, group->run[i])) {
            hub->versions[count++] = group->run[i];
        }
    }
    if (count == 0) {
        return true;
    }
    struct watch_events events = {
        .versions = hub->versions,
        .count = count,
        .header_rev = cache_version_mod_rev(hub->versions[count - 1]),
        .run_id = ++hub->run_id,
    };
    if (watcher->want_prev) {
        events.prevs = prevs_of(hub, snapshot, hub->versions, count);
    }
    return watcher_send(watcher, &events);
}

/* The run of |group| to its synced watchers; those with and without prev_kv are two runs. */
static void group_hand_out(struct watch_hub *hub, struct watch_group *group,
                           const struct cache_snapshot *snapshot)
{
    ASSERT(group->run_count > 0);
    struct watch_events plain = {
        .versions = group->run,
        .count = group->run_count,
        .header_rev = cache_version_mod_rev(group->run[group->run_count - 1]),
        .run_id = ++hub->run_id,
    };
    struct watch_events with_prev = plain;
    with_prev.run_id = ++hub->run_id;
    struct list *at = group->synced.next;
    while (at != &group->synced) {
        struct watcher *watcher = CONTAINER_OF(at, struct watcher, in_group);
        at = at->next; /* The watcher may leave the list below. */
        bool room = false;
        if (!watcher_takes_all(watcher, group->run[0])) {
            room = watcher_send_filtered(watcher, snapshot);
            with_prev.prevs = NULL; /* The scratch was used for others. */
        } else if (!watcher->want_prev) {
            room = watcher_send(watcher, &plain);
        } else {
            if (with_prev.prevs == NULL) {
                with_prev.prevs = prevs_of(hub, snapshot, group->run, group->run_count);
            }
            room = watcher_send(watcher, &with_prev);
        }
        if (!room) {
            watcher_pause(watcher, hub->next_event);
        }
    }
}

static void hand_out(struct watch_hub *hub, const struct cache_snapshot *snapshot)
{
    while (hub->touched != NULL) {
        struct watch_group *group = hub->touched;
        group_hand_out(hub, group, snapshot);
        hub->touched = group->touched_next;
        group->touched = false;
        group->run_count = 0;
    }
}

/* ---- 1: what is new ------------------------------------------------------------------------ */

/* Events that the hub has not seen are gone, all of revisions below compact_rev (the state was
 * loaded anew, or the hub stood still): who waits for a later one can go on, nobody else. */
static void cancel_all(struct watch_hub *hub, const struct cache_info *info)
{
    struct list *at = hub->streams.next;
    while (at != &hub->streams) {
        struct watch_stream *stream = CONTAINER_OF(at, struct watch_stream, in_hub);
        at = at->next;
        struct watcher *watcher = stream->watchers;
        for (; watcher != NULL; watcher = watcher->hh.next) {
            if (watcher->buried || watcher->start_rev >= info->compact_rev) {
                continue;
            }
            watcher_bury(watcher);
            stream->sink->compacted(stream->owner, watcher->id, info->compact_rev);
        }
    }
}

/* What an event takes in a response, about. */
static size_t event_size(const struct cache_snapshot *snapshot, const struct cache_version *version,
                         bool want_prev)
{
    ASSERT(version != NULL);
    const struct cache_version *prev = want_prev ? cache_event_prev(snapshot, version) : NULL;
    return cache_version_encoded(version).size +
           (prev != NULL ? cache_version_encoded(prev).size : 0);
}

static void walk(struct watch_hub *hub, const struct cache_snapshot *snapshot)
{
    const struct cache_info *info = cache_snapshot_info(snapshot);
    ASSERT(hub->next_event <= info->event_end);
    if (hub->next_event < info->event_gap ||
        (hub->next_event < info->event_end && cache_event(snapshot, hub->next_event) == NULL)) {
        /* Events were missed, all of them below compact_rev. */
        hub->next_event = info->event_begin;
        cancel_all(hub, info);
    }
    uint32_t matched = 0;
    size_t bytes = 0;
    int64_t rev = 0;
    for (; hub->next_event < info->event_end; hub->next_event++) {
        const struct cache_version *version = cache_event(snapshot, hub->next_event);
        ASSERT(version != NULL);
        bool is_full = matched >= LIMIT_WATCH_RUN_EVENTS || bytes >= LIMIT_WATCH_RUN_BYTES;
        if (is_full && cache_version_mod_rev(version) != rev) {
            hand_out(hub, snapshot);
            matched = 0;
            bytes = 0;
        }
        rev = cache_version_mod_rev(version);
        enum watch_match match = watch_groups_match(hub, version);
        if (match != WATCH_MATCH_NONE) {
            bytes += event_size(snapshot, version, match == WATCH_MATCH_PREV);
        }
        matched++;
    }
    hand_out(hub, snapshot);
    hub->rev = info->revision;
}

/* ---- 2: those behind ------------------------------------------------------------------------ */

struct slice_end {
    uint64_t cursor; /* Behind the last event read. */
    uint32_t count;  /* Matches in hub->versions. */
    uint32_t read;
};

/* Read events from the watcher's cursor on, whole revisions, until a response is full. */
static struct slice_end catch_up_read(struct watcher *watcher,
                                      const struct cache_snapshot *snapshot, uint32_t budget)
{
    struct watch_hub *hub = watcher->stream->hub;
    struct slice_end end = {.cursor = watcher->cursor};
    uint32_t revs = 0;
    size_t bytes = 0;
    int64_t rev = 0;
    for (; end.cursor < hub->next_event; end.cursor++, end.read++) {
        const struct cache_version *version = cache_event(snapshot, end.cursor);
        ASSERT(version != NULL);
        bool new_rev = cache_version_mod_rev(version) != rev;
        if (new_rev && (end.read >= budget || revs >= LIMIT_WATCH_CATCHUP_REVS ||
                        bytes >= LIMIT_WATCH_CATCHUP_BYTES)) {
            break;
        }
        rev = cache_version_mod_rev(version);
        if (!watcher_wants(watcher, version) ||
            !watch_group_holds(watcher->group, cache_version_key(version))) {
            continue;
        }
        revs += new_rev;
        bytes += event_size(snapshot, version, watcher->want_prev);
        watch_hub_room(hub, end.count + 1);
        hub->versions[end.count++] = version;
    }
    return end;
}

/* One slice for one watcher; returns how many events were read. */
static uint32_t catch_up(struct watcher *watcher, const struct cache_snapshot *snapshot,
                         uint32_t budget)
{
    struct watch_hub *hub = watcher->stream->hub;
    const struct cache_info *info = cache_snapshot_info(snapshot);
    if (watcher->compacted || watcher->cursor < info->event_begin) {
        watcher_bury(watcher);
        watcher->stream->sink->compacted(watcher->stream->owner, watcher->id, info->compact_rev);
        return 1;
    }
    struct slice_end end = catch_up_read(watcher, snapshot, budget);
    bool room = true;
    if (end.count > 0) {
        struct watch_events events = {
            .versions = hub->versions,
            .count = end.count,
            .header_rev = info->revision,
            .run_id = ++hub->run_id,
        };
        if (watcher->want_prev) {
            events.prevs = prevs_of(hub, snapshot, hub->versions, end.count);
        }
        room = watcher_send(watcher, &events);
    }
    watcher->cursor = end.cursor;
    if (!room) {
        watcher_pause(watcher, end.cursor);
    } else if (end.cursor == hub->next_event) {
        watcher_synced(watcher);
    } else {
        list_leave(&watcher->in_work); /* To the end of the queue. */
        list_push(&hub->catching_up, &watcher->in_work);
    }
    return end.read + 1;
}

static void catch_up_some(struct watch_hub *hub, const struct cache_snapshot *snapshot)
{
    uint32_t budget = LIMIT_WATCH_CATCHUP_EVENTS;
    while (budget > 0 && !list_is_empty(&hub->catching_up)) {
        struct watcher *watcher = CONTAINER_OF(hub->catching_up.next, struct watcher, in_work);
        ASSERT(sm_is(&watcher->sm, WATCHER_CATCHING_UP));
        uint32_t read = catch_up(watcher, snapshot, budget);
        budget = read < budget ? budget - read : 0;
    }
}

/* ---- 3 to 5: progress ----------------------------------------------------------------------- */

static bool stream_is_synced(const struct watch_stream *stream, int64_t rev)
{
    if (stream->unsynced_count > 0) {
        return false;
    }
    const struct watcher *watcher = NULL;
    for (watcher = stream->watchers; watcher != NULL; watcher = watcher->hh.next) {
        if (rev < watcher->asked_rev) {
            return false;
        }
    }
    return true;
}

static void answer_asked(struct watch_hub *hub)
{
    while (!list_is_empty(&hub->asked)) {
        struct watch_stream *stream = CONTAINER_OF(hub->asked.next, struct watch_stream, in_asked);
        ASSERT(stream->progress_asked);
        stream->progress_asked = false;
        list_leave(&stream->in_asked);
        if (stream->watcher_count > 0 && stream_is_synced(stream, hub->rev)) {
            stream->sink->progress(stream->owner, -1, hub->rev);
        }
    }
}

/* The hub's revision, by the watcher's own id. It has all events up to there: only when SYNCED. */
static void watcher_tell(struct watcher *watcher)
{
    struct watch_stream *stream = watcher->stream;
    ASSERT(sm_is(&watcher->sm, WATCHER_SYNCED));
    ASSERT(stream->hub->rev >= watcher->asked_rev);
    watcher->told_rev = stream->hub->rev;
    stream->sink->progress(stream->owner, watcher->id, stream->hub->rev);
}

static bool watcher_may_tell(const struct watcher *watcher)
{
    return watcher->want_progress && sm_is(&watcher->sm, WATCHER_SYNCED) &&
           watcher->stream->hub->rev >= watcher->asked_rev;
}

static void answer_offered(struct watch_hub *hub)
{
    while (!list_is_empty(&hub->offered)) {
        struct watch_stream *stream =
            CONTAINER_OF(hub->offered.next, struct watch_stream, in_offered);
        ASSERT(stream->hub == hub);
        list_leave(&stream->in_offered);
        struct watcher *watcher =
            stream->watcher_count <= LIMIT_PROGRESS_OFFER ? stream->watchers : NULL;
        for (; watcher != NULL; watcher = watcher->hh.next) {
            if (watcher_may_tell(watcher) && watcher->told_rev < hub->rev) {
                watcher_tell(watcher);
            }
        }
    }
}

/* Up to a tenth later than asked for, so that many streams do not speak at once (as etcd does). */
uint64_t watch_stream_progress_after(struct watch_hub *hub, uint64_t now_ns)
{
    uint64_t jitter = hub->progress_interval_ns / 10;
    return now_ns + hub->progress_interval_ns + (jitter == 0 ? 0 : rng_below(&hub->rng, jitter));
}

/* False: nobody on the stream wants progress any more. */
static bool stream_tick(struct watch_stream *stream)
{
    bool wanted = false;
    struct watcher *watcher = NULL;
    for (watcher = stream->watchers; watcher != NULL; watcher = watcher->hh.next) {
        if (!watcher->want_progress) {
            continue;
        }
        wanted = true;
        if (!watcher->had_events && watcher_may_tell(watcher)) {
            watcher_tell(watcher);
        }
        watcher->had_events = false;
    }
    return wanted;
}

static void tick(struct watch_hub *hub, uint64_t now_ns)
{
    if (now_ns < hub->progress_due_ns) {
        return;
    }
    /* Streams due within the next fiftieth of an interval go now: bounds the scans per interval. */
    uint64_t horizon_ns = now_ns + hub->progress_interval_ns / 50;
    uint64_t next_ns = UINT64_MAX;
    for (struct list *at = hub->streams.next; at != &hub->streams; at = at->next) {
        struct watch_stream *stream = CONTAINER_OF(at, struct watch_stream, in_hub);
        if (stream->progress_due_ns <= horizon_ns) {
            stream->progress_due_ns =
                stream_tick(stream) ? watch_stream_progress_after(hub, now_ns) : UINT64_MAX;
        }
        if (stream->progress_due_ns < next_ns) {
            next_ns = stream->progress_due_ns;
        }
    }
    hub->progress_due_ns = next_ns;
}

bool watch_hub_turn(struct watch_hub *hub, uint64_t now_ns)
{
    const struct cache_snapshot *snapshot = cache_snapshot(hub->cache);
    ASSERT(hub->touched == NULL);
    walk(hub, snapshot);
    catch_up_some(hub, snapshot);
    answer_asked(hub);
    answer_offered(hub);
    tick(hub, now_ns);
    ASSERT(hub->touched == NULL);
    return !list_is_empty(&hub->catching_up);
}
