/* Watchers on every replica: each event once, in order, whole revisions, honest progress. */
#include "sim.h"

#include <stdio.h>

static struct watcher *watcher_find(struct replica *replica, int64_t id)
{
    for (uint32_t i = 0; i < WATCHERS; i++) {
        if (replica->watchers[i].id == id && !replica->watchers[i].is_gone) {
            return &replica->watchers[i];
        }
    }
    return NULL;
}

/* Rows in front of a start that was in the future when the watcher was made. */
static void watcher_skip(const struct world *world, struct watcher *watcher)
{
    uint32_t first = model_at(&world->model, watcher->start_rev);
    watcher->next = watcher->next > first ? watcher->next : first;
}

/* prev_kv is the row that was replaced; none for a create, or when it may be compacted. */
static void check_prev(struct world *world, const struct model_row *row,
                       const struct cache_version *prev)
{
    if (prev != NULL) {
        CHECK(world, row->older != NULL && !row->older->row->is_delete);
        CHECK(world, model_row_is(row->older, prev));
    }
}

static bool on_events(void *owner, int64_t watch_id, const struct watch_events *events)
{
    struct replica *replica = owner;
    struct world *world = replica->world;
    struct watcher *watcher = watcher_find(replica, watch_id);
    world_replay(world);
    CHECK(world, watcher != NULL && events->count > 0);
    watcher_skip(world, watcher);
    CHECK(world, events->header_rev <= world->model.revision);
    for (uint32_t i = 0; i < events->count; i++) {
        CHECK(world, watcher->next < world->model.row_count);
        const struct model_row *row = world->model.rows[watcher->next++];
        if (!model_row_is(row, events->versions[i])) {
            (void)fprintf(stderr, "replica %u watcher %lld from %lld: got %lld.%d, want %lld.%d\n",
                          replica->index, (long long)watch_id, (long long)watcher->start_rev,
                          (long long)cache_version_mod_rev(events->versions[i]),
                          cache_version_sub(events->versions[i]), (long long)row->row->revision,
                          row->row->sub);
            sim_fail(world, "the next event is another one");
        }
        check_prev(world, row, events->prevs == NULL ? NULL : events->prevs[i]);
        world->events_seen++;
    }
    /* Never in the middle of a revision. */
    if (watcher->next < world->model.row_count) {
        CHECK(world, world->model.rows[watcher->next]->row->sub == 0);
    }
    bool full = sched_chance(&world->sched, 50);
    replica->window_full |= full;
    return !full;
}

static void on_compacted(void *owner, int64_t watch_id, int64_t compact_rev)
{
    struct replica *replica = owner;
    struct watcher *watcher = watcher_find(replica, watch_id);
    world_replay(replica->world);
    CHECK(replica->world, watcher != NULL);
    watcher_skip(replica->world, watcher);
    CHECK(replica->world, compact_rev <= replica->world->model.compact_rev);
    int64_t next_rev = watcher->next < replica->world->model.row_count
                           ? replica->world->model.rows[watcher->next]->row->revision
                           : INT64_MAX;
    CHECK(replica->world, watcher->start_rev < compact_rev || next_rev < compact_rev);
    watcher->is_gone = true;
}

static void on_progress(void *owner, int64_t watch_id, int64_t revision)
{
    struct replica *replica = owner;
    struct world *world = replica->world;
    world_replay(world);
    CHECK(world, revision <= world->model.revision);
    for (uint32_t i = 0; i < WATCHERS; i++) {
        struct watcher *watcher = &replica->watchers[i];
        watcher_skip(world, watcher);
        if (watcher->is_gone || (watch_id != -1 && watch_id != watcher->id)) {
            continue;
        }
        CHECK(world, revision >= watcher->asked_rev);
        if (watcher->next < world->model.row_count) {
            CHECK(world, world->model.rows[watcher->next]->row->revision > revision);
        }
    }
}

static const struct watch_sink sink = {
    .events = on_events, .compacted = on_compacted, .progress = on_progress};

static void watcher_create(struct replica *replica, struct watcher *watcher)
{
    struct world *world = replica->world;
    const struct cache_info *info = cache_snapshot_info(store_snapshot(replica->store));
    world_replay(world);
    int64_t low = info->compact_rev < 1 ? 1 : info->compact_rev;
    int64_t start = 0;
    if (sched_chance(&world->sched, 800)) {
        start = (int64_t)sched_between(&world->sched, (uint64_t)low, (uint64_t)info->revision + 2);
    }
    struct watch_create create = {
        .key = SLICE_LIT("a"),
        .range_end = SLICE_LIT("\0"),
        .start_rev = start,
        .progress_notify = true,
        .prev_kv = true,
    };
    start = start == 0 ? info->revision + 1 : start;
    enum watch_result result = watch_stream_create(
        replica->stream, &create, replica->timers.clock->now_ns(&replica->clock), &watcher->id);
    CHECK(world, result == WATCH_OK);
    watcher->start_rev = start;
    watcher->asked_rev = create.start_rev;
    watcher->next = model_at(&world->model, start);
    watcher->is_gone = false;
}

void watchers_open(struct replica *replica)
{
    replica->hub = watch_hub_new(store_cache(replica->store), 300 * NS_PER_MS, replica->index + 1);
    replica->stream = watch_stream_open(replica->hub, &sink, replica);
    for (uint32_t i = 0; i < WATCHERS; i++) {
        replica->watchers[i] = (struct watcher){.id = -1, .is_gone = true};
        watcher_create(replica, &replica->watchers[i]);
    }
}

void watchers_close(struct replica *replica)
{
    if (replica->hub != NULL) {
        watch_stream_close(replica->stream);
        watch_hub_free(replica->hub);
        replica->hub = NULL;
    }
}

void watchers_turn(struct replica *replica)
{
    struct world *world = replica->world;
    if (replica->hub == NULL) {
        return;
    }
    for (uint32_t i = 0; i < WATCHERS; i++) {
        if (replica->watchers[i].is_gone) {
            (void)watch_stream_cancel(replica->stream, replica->watchers[i].id);
            watcher_create(replica, &replica->watchers[i]);
        }
    }
    if (sched_chance(&world->sched, 20)) {
        watch_stream_request_progress(replica->stream);
    }
    if (replica->window_full && sched_chance(&world->sched, 300)) {
        replica->window_full = false;
        watch_stream_writable(replica->stream);
    }
    uint64_t epoch = reclaim_reader_load(&replica->reader);
    (void)watch_hub_turn(replica->hub, replica->clock.now_ns(&replica->clock));
    reclaim_reader_announce(&replica->reader, epoch);
}
