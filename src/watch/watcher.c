/* Streams and their watchers: creation, cancelling, and which list each state stands in. */
#include "watch/internal.h"

const struct sm_state watcher_states[WATCHER_STATE_COUNT] = {
    [WATCHER_SYNCED] = {"synced", SM_TO(WATCHER_PAUSED)},
    [WATCHER_CATCHING_UP] = {"catching up", SM_TO(WATCHER_SYNCED) | SM_TO(WATCHER_PAUSED)},
    [WATCHER_PAUSED] = {"paused", SM_TO(WATCHER_CATCHING_UP)},
};

static void unsynced_add(struct watcher *watcher, int32_t change)
{
    ASSERT(change == 1 || change == -1);
    ASSERT(IMPLIES(change<0, watcher->stream->unsynced_count> 0));
    watcher->stream->unsynced_count += (uint32_t)change;
    watcher->stream->hub->unsynced_count += (uint32_t)change;
}

void watcher_synced(struct watcher *watcher)
{
    sm_move(&watcher->sm, WATCHER_SYNCED);
    list_leave(&watcher->in_work);
    list_push(&watcher->group->synced, &watcher->in_group);
    unsynced_add(watcher, -1);
}

void watcher_catch_up(struct watcher *watcher, uint64_t cursor)
{
    ASSERT(cursor <= watcher->stream->hub->next_event);
    sm_move(&watcher->sm, WATCHER_CATCHING_UP);
    watcher->cursor = cursor;
    list_leave(&watcher->in_work);
    list_push(&watcher->stream->hub->catching_up, &watcher->in_work);
}

void watcher_pause(struct watcher *watcher, uint64_t cursor)
{
    ASSERT(cursor <= watcher->stream->hub->next_event);
    if (sm_is(&watcher->sm, WATCHER_SYNCED)) {
        list_leave(&watcher->in_group);
        unsynced_add(watcher, 1);
    }
    sm_move(&watcher->sm, WATCHER_PAUSED);
    watcher->cursor = cursor;
    list_leave(&watcher->in_work);
    list_push(&watcher->stream->paused, &watcher->in_work);
}

/* No event concerns it any more. */
static void watcher_detach(struct watcher *watcher)
{
    list_leave(&watcher->in_group);
    list_leave(&watcher->in_work);
    watcher->group->prev_count -= watcher->want_prev;
    watch_group_leave(watcher->stream->hub, watcher->group);
    watcher->group = NULL;
}

void watcher_free(struct watcher *watcher)
{
    struct watch_stream *stream = watcher->stream;
    ASSERT(stream->watcher_count > 0);
    ASSERT(stream->hub->watcher_count > 0);
    if (!sm_is(&watcher->sm, WATCHER_SYNCED)) {
        unsynced_add(watcher, -1);
    }
    if (!watcher->buried) {
        watcher_detach(watcher);
    }
    HASH_DELETE(hh, stream->watchers, watcher);
    stream->watcher_count--;
    stream->hub->watcher_count--;
    mem_free(watcher);
}

/*
 * Its start was compacted, and its client is told so. As in etcd it keeps its id until the client
 * cancels it: the id cannot be used again before, and progress of the whole stream, of which this
 * watcher has none, is not answered.
 */
void watcher_bury(struct watcher *watcher)
{
    ASSERT(!watcher->buried);
    if (sm_is(&watcher->sm, WATCHER_SYNCED)) {
        unsynced_add(watcher, 1);
        sm_move(&watcher->sm, WATCHER_PAUSED);
    }
    watcher_detach(watcher);
    watcher->buried = true;
    watcher->want_progress = false;
}

struct watch_stream *watch_stream_open(struct watch_hub *hub, const struct watch_sink *sink,
                                       void *owner)
{
    ASSERT(sink->events != NULL && sink->compacted != NULL);
    ASSERT(sink->progress != NULL);
    struct watch_stream *stream = mem_alloc(sizeof(*stream));
    stream->hub = hub;
    stream->sink = sink;
    stream->owner = owner;
    stream->progress_due_ns = UINT64_MAX;
    list_init(&stream->paused);
    list_init(&stream->in_hub);
    list_init(&stream->in_asked);
    list_init(&stream->in_offered);
    list_push(&hub->streams, &stream->in_hub);
    return stream;
}

void watch_stream_close(struct watch_stream *stream)
{
    struct watcher *watcher = NULL;
    struct watcher *next = NULL;
    HASH_ITER(hh, stream->watchers, watcher, next)
    {
        watcher_free(watcher);
    }
    ASSERT(stream->watcher_count == 0);
    ASSERT(stream->unsynced_count == 0);
    list_leave(&stream->in_hub);
    list_leave(&stream->in_asked);
    list_leave(&stream->in_offered);
    mem_free(stream);
}

static struct watcher *watcher_find(const struct watch_stream *stream, int64_t id)
{
    struct watcher *watcher = NULL;
    HASH_FIND(hh, stream->watchers, &id, sizeof(id), watcher);
    return watcher;
}

/* Where a new watcher stands: in step with the hub, or behind it. */
static void watcher_place(struct watcher *watcher, const struct cache_snapshot *snapshot)
{
    struct watch_hub *hub = watcher->stream->hub;
    const struct cache_info *info = cache_snapshot_info(snapshot);
    if (watcher->asked_rev == 0) {
        watcher->start_rev = info->revision + 1;
    }
    watcher->compacted = watcher->start_rev < info->compact_rev;
    uint64_t cursor = watcher->start_rev > info->revision
                          ? info->event_end
                          : cache_event_at(snapshot, watcher->start_rev);
    if (cursor >= hub->next_event && !watcher->compacted) {
        sm_init(&watcher->sm, watcher_states, WATCHER_STATE_COUNT, WATCHER_SYNCED);
        list_push(&watcher->group->synced, &watcher->in_group);
        return;
    }
    sm_init(&watcher->sm, watcher_states, WATCHER_STATE_COUNT, WATCHER_CATCHING_UP);
    watcher->cursor = cursor < hub->next_event ? cursor : hub->next_event;
    list_push(&hub->catching_up, &watcher->in_work);
    unsynced_add(watcher, 1);
}

static void watcher_register(struct watch_stream *stream, struct watcher *watcher, uint64_t now_ns)
{
    struct watch_hub *hub = stream->hub;
    HASH_ADD(hh, stream->watchers, id, sizeof(watcher->id), watcher);
    stream->watcher_count++;
    hub->watcher_count++;
    if (watcher->want_progress && stream->progress_due_ns == UINT64_MAX) {
        stream->progress_due_ns = watch_stream_progress_after(hub, now_ns);
        if (stream->progress_due_ns < hub->progress_due_ns) {
            hub->progress_due_ns = stream->progress_due_ns;
        }
    }
}

enum watch_result watch_stream_create(struct watch_stream *stream,
                                      const struct watch_create *create, uint64_t now_ns,
                                      int64_t *watch_id)
{
    struct watch_hub *hub = stream->hub;
    ASSERT(create->key.size > 0);
    ASSERT(create->start_rev >= 0);

    struct cache_range range = cache_range_of(create->key, create->range_end);
    if (range.end.size > 0 && slice_compare(range.key, range.end) >= 0) {
        return WATCH_EMPTY_RANGE;
    }
    int64_t id = create->watch_id;
    if (id != 0 && watcher_find(stream, id) != NULL) {
        return WATCH_DUPLICATE_ID;
    }
    if (stream->watcher_count >= LIMIT_WATCHERS_PER_STREAM ||
        hub->watcher_count >= hub->watcher_max || hub->key_bytes >= hub->key_bytes_max) {
        return WATCH_TOO_MANY;
    }
    if (id == 0) {
        while (watcher_find(stream, stream->next_id) != NULL) {
            stream->next_id++;
        }
        id = stream->next_id++;
    }
    struct watcher *watcher = mem_alloc(sizeof(*watcher));
    watcher->stream = stream;
    watcher->id = id;
    watcher->asked_rev = create->start_rev;
    watcher->start_rev = create->start_rev;
    watcher->want_progress = create->progress_notify;
    watcher->want_prev = create->prev_kv;
    watcher->fragment = create->fragment;
    watcher->no_put = create->no_put;
    watcher->no_delete = create->no_delete;
    list_init(&watcher->in_group);
    list_init(&watcher->in_work);
    watcher->group = watch_group_join(hub, &range);
    watcher->group->prev_count += watcher->want_prev;
    watcher_place(watcher, cache_snapshot(hub->cache));
    watcher_register(stream, watcher, now_ns);
    *watch_id = id;
    return WATCH_OK;
}

bool watch_stream_cancel(struct watch_stream *stream, int64_t watch_id)
{
    struct watcher *watcher = watcher_find(stream, watch_id);
    if (watcher == NULL) {
        return false;
    }
    ASSERT(watcher->stream == stream);
    watcher_free(watcher);
    return true;
}

void watch_stream_request_progress(struct watch_stream *stream)
{
    ASSERT(stream->hub != NULL);
    if (!stream->progress_asked) {
        stream->progress_asked = true;
        list_push(&stream->hub->asked, &stream->in_asked);
    }
}

void watch_stream_offer_progress(struct watch_stream *stream)
{
    ASSERT(stream->hub != NULL);
    ASSERT(stream->sink->progress != NULL);
    list_leave(&stream->in_offered);
    list_push(&stream->hub->offered, &stream->in_offered);
}

void watch_stream_writable(struct watch_stream *stream)
{
    while (!list_is_empty(&stream->paused)) {
        struct watcher *watcher = CONTAINER_OF(stream->paused.next, struct watcher, in_work);
        ASSERT(sm_is(&watcher->sm, WATCHER_PAUSED));
        watcher_catch_up(watcher, watcher->cursor);
    }
}
