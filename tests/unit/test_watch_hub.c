/* The hub against a plain list of all events: every watcher gets exactly what etcd would send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/cache.h"
#include "core/clock.h"
#include "core/mem.h"
#include "watch/watch.h"

enum { KEYS = 12, EVENTS_MAX = 4096, WATCHERS = 40, STREAMS = 4 };

/* What happened, in order. */
struct event {
    int64_t rev;
    int32_t sub;
    uint8_t key;
    bool is_delete;
    int64_t prev_rev; /* 0: a create. */
};

struct world {
    struct reclaim reclaim;
    struct reclaim_reader reader;
    struct cache *cache;
    struct watch_hub *hub;
    struct rng rng;
    uint64_t now_ns;
    int64_t rev;
    int64_t compact_rev;
    struct event events[EVENTS_MAX];
    uint32_t event_count;
    int64_t mod_rev[KEYS]; /* 0: not there. */
    int64_t create_rev[KEYS];
    int64_t version[KEYS];
};

/* One watcher as its client sees it. */
struct client {
    bool open;
    bool ended;
    bool buried; /* Told of a compaction, and still holding its id. */
    int64_t id;
    uint8_t first; /* Keys first..last. */
    uint8_t last;
    int64_t start_rev;
    bool prev_kv;
    bool no_put;
    bool no_delete;
    uint32_t at;           /* Next event of the world to be seen. */
    int64_t seen_rev;      /* Of the last event or progress. */
    int64_t compacted_rev; /* As told, 0 = not. */
    uint32_t progress_count;
};

struct stream {
    struct world *world;
    struct watch_stream *stream;
    struct client clients[WATCHERS];
    bool full;              /* The window: events are taken, but answered with false. */
    int64_t asked_progress; /* Last -1 progress revision. */
};

static struct slice key_of(uint8_t index, uint8_t *bytes)
{
    bytes[0] = 'k';
    bytes[1] = (uint8_t)('a' + index);
    return slice_of(bytes, 2);
}

static void world_init(struct world *world, uint64_t seed)
{
    memset(world, 0, sizeof(*world));
    reclaim_init(&world->reclaim);
    reclaim_add_reader(&world->reclaim, &world->reader);
    world->cache = cache_new(&world->reclaim);
    rng_seed(&world->rng, seed);
    world->rev = cache_snapshot_info(cache_snapshot(world->cache))->revision;
    world->compact_rev = -1;
    world->hub = watch_hub_new(world->cache, 10 * NS_PER_S, seed);
    reclaim_reader_hold(&world->reader, watch_hub_rev(world->hub));
}

static void world_fini(struct world *world)
{
    watch_hub_free(world->hub);
    reclaim_reader_hold(&world->reader, RECLAIM_NO_HOLD);
    reclaim_reader_announce(&world->reader, UINT64_MAX);
    cache_free(world->cache);
    reclaim_fini(&world->reclaim);
}

/* End of the reader's turn, and some of the writer's upkeep. */
static void world_turn(struct world *world)
{
    reclaim_reader_hold(&world->reader, watch_hub_rev(world->hub));
    reclaim_reader_announce(&world->reader, reclaim_reader_load(&world->reader));
    (void)cache_trim(world->cache, 64);
    reclaim_run(&world->reclaim);
}

static void change_key(struct world *world, struct cache_edit *edit, uint8_t index, int32_t sub)
{
    uint8_t bytes[2];
    bool is_delete = world->mod_rev[index] != 0 && rng_below(&world->rng, 3) == 0;
    struct event *event = &world->events[world->event_count++];
    *event = (struct event){.rev = world->rev,
                            .sub = sub,
                            .key = index,
                            .is_delete = is_delete,
                            .prev_rev = world->mod_rev[index]};
    if (!is_delete && world->mod_rev[index] == 0) {
        world->create_rev[index] = world->rev;
        world->version[index] = 0;
    }
    world->version[index]++;
    struct cache_row row = {
        .revision = world->rev,
        .sub = sub,
        .is_delete = is_delete,
        .key = key_of(index, bytes),
        .value = is_delete ? SLICE_EMPTY : SLICE_LIT("value"),
        .create_rev = is_delete ? 0 : world->create_rev[index],
        .version = is_delete ? 0 : world->version[index],
    };
    assert_non_null(cache_edit_apply(edit, &row));
    world->mod_rev[index] = is_delete ? 0 : world->rev;
}

/* One published batch: a few revisions of a few keys each. */
static void world_write(struct world *world, uint32_t revs)
{
    struct cache_edit *edit = cache_edit_begin(world->cache);
    for (uint32_t i = 0; i < revs; i++) {
        world->rev++;
        uint8_t first = (uint8_t)rng_below(&world->rng, KEYS);
        uint32_t width = 1 + (uint32_t)rng_below(&world->rng, 3);
        for (uint32_t sub = 0; sub < width && first + sub < KEYS; sub++) {
            change_key(world, edit, (uint8_t)(first + sub), (int32_t)sub);
        }
    }
    cache_edit_publish(edit);
}

static void world_compact(struct world *world, int64_t rev)
{
    struct cache_edit *edit = cache_edit_begin(world->cache);
    cache_edit_set_compact_rev(edit, rev);
    cache_edit_publish(edit);
    world->compact_rev = rev;
}

/* ---- the sink: every answer is checked as it comes ------------------------------------------- */

static struct client *client_of(struct stream *stream, int64_t id)
{
    for (uint32_t i = 0; i < WATCHERS; i++) {
        if (stream->clients[i].open && stream->clients[i].id == id) {
            return &stream->clients[i];
        }
    }
    fail_msg("no watcher has id %lld", (long long)id);
    return NULL;
}

static bool wants(const struct client *client, const struct event *event)
{
    return event->key >= client->first && event->key <= client->last &&
           event->rev >= client->start_rev &&
           !(event->is_delete ? client->no_delete : client->no_put);
}

/* The next event that |client| must see at or below |rev|, or NULL. */
static const struct event *expect_next(const struct stream *stream, struct client *client,
                                       int64_t rev)
{
    for (; client->at < stream->world->event_count; client->at++) {
        const struct event *event = &stream->world->events[client->at];
        if (event->rev > rev) {
            return NULL;
        }
        if (wants(client, event)) {
            return event;
        }
    }
    return NULL;
}

static bool on_events(void *owner, int64_t watch_id, const struct watch_events *events)
{
    struct stream *stream = owner;
    struct client *client = client_of(stream, watch_id);
    assert_false(client->ended);
    assert_true(events->count > 0);
    for (uint32_t i = 0; i < events->count; i++) {
        const struct cache_version *version = events->versions[i];
        const struct event *event = expect_next(stream, client, INT64_MAX);
        assert_non_null(event);
        uint8_t bytes[2];
        assert_true(slice_equal(cache_version_key(version), key_of(event->key, bytes)));
        assert_int_equal(cache_version_mod_rev(version), event->rev);
        assert_int_equal(cache_version_sub(version), event->sub);
        assert_int_equal(cache_version_is_tombstone(version), event->is_delete);
        bool prev_due =
            client->prev_kv && event->prev_rev != 0 && event->rev - 1 >= stream->world->compact_rev;
        const struct cache_version *prev = events->prevs == NULL ? NULL : events->prevs[i];
        assert_int_equal(prev != NULL, prev_due);
        if (prev != NULL) {
            assert_int_equal(cache_version_mod_rev(prev), event->prev_rev);
        }
        client->seen_rev = event->rev;
        client->at++;
    }
    /* Whole revisions: the next wanted event is of a later one. */
    uint32_t at = client->at;
    const struct event *next = expect_next(stream, client, INT64_MAX);
    assert_true(next == NULL || next->rev > client->seen_rev);
    client->at = at;
    assert_true(events->header_rev >= client->seen_rev);
    return !stream->full;
}

static void on_compacted(void *owner, int64_t watch_id, int64_t compact_rev)
{
    struct stream *stream = owner;
    struct client *client = client_of(stream, watch_id);
    assert_int_equal(compact_rev, stream->world->compact_rev);
    client->ended = true;
    client->open = false;
    client->buried = true;
    client->compacted_rev = compact_rev;
}

static void on_progress(void *owner, int64_t watch_id, int64_t revision)
{
    struct stream *stream = owner;
    for (uint32_t i = 0; i < WATCHERS; i++) {
        struct client *client = &stream->clients[i];
        if (!client->open || (watch_id != -1 && client->id != watch_id)) {
            continue;
        }
        /* Never ahead of events. */
        assert_null(expect_next(stream, client, revision));
        assert_true(revision >= client->start_rev || client->start_rev == stream->world->rev + 1 ||
                    revision + 1 >= client->start_rev);
        client->progress_count++;
    }
    if (watch_id == -1) {
        stream->asked_progress = revision;
    }
}

static const struct watch_sink sink = {on_events, on_compacted, on_progress};

static void client_create(struct stream *stream, struct client *client)
{
    struct world *world = stream->world;
    uint8_t key[2];
    uint8_t end[2];
    memset(client, 0, sizeof(*client));
    client->first = (uint8_t)rng_below(&world->rng, KEYS);
    client->last = (uint8_t)(client->first + rng_below(&world->rng, KEYS - client->first));
    client->prev_kv = rng_below(&world->rng, 2) == 0;
    client->no_put = rng_below(&world->rng, 6) == 0;
    client->no_delete = rng_below(&world->rng, 6) == 0;
    int64_t asked = 0;
    if (rng_below(&world->rng, 3) != 0) {
        asked = 1 + (int64_t)rng_below(&world->rng, (uint64_t)world->rev + 5);
    }
    struct watch_create create = {
        .key = key_of(client->first, key),
        .start_rev = asked,
        .prev_kv = client->prev_kv,
        .no_put = client->no_put,
        .no_delete = client->no_delete,
        .progress_notify = rng_below(&world->rng, 2) == 0,
    };
    if (client->last != client->first) {
        end[0] = 'k';
        end[1] = (uint8_t)('a' + client->last + 1);
        create.range_end = slice_of(end, 2);
    }
    client->start_rev = asked == 0 ? world->rev + 1 : asked;
    assert_int_equal(watch_stream_create(stream->stream, &create, world->now_ns, &client->id),
                     WATCH_OK);
    client->open = true;
}

/* Everything wanted up to now has been seen, or the client was told of a compaction. */
static void client_check_complete(struct stream *stream, struct client *client)
{
    if (client->open) {
        assert_null(expect_next(stream, client, stream->world->rev));
    } else if (client->ended) {
        assert_true(client->compacted_rev > 0);
    }
}

static void world_step(struct world *world, struct stream *streams)
{
    struct stream *stream = &streams[rng_below(&world->rng, STREAMS)];
    struct client *client = &stream->clients[rng_below(&world->rng, WATCHERS)];
    switch (rng_below(&world->rng, 8)) {
    case 0:
    case 1:
        if (!client->open && !client->buried) {
            client_create(stream, client);
        }
        break;
    case 2:
        if ((client->open || client->buried) && rng_below(&world->rng, 3) == 0) {
            assert_true(watch_stream_cancel(stream->stream, client->id));
            client->open = false;
            client->buried = false;
        }
        break;
    case 3:
        stream->full = !stream->full;
        if (!stream->full) {
            watch_stream_writable(stream->stream);
        }
        break;
    case 4:
        if (rng_below(&world->rng, 2) == 0) {
            watch_stream_request_progress(stream->stream);
        } else {
            watch_stream_offer_progress(stream->stream);
        }
        break;
    case 5:
        if (rng_below(&world->rng, 6) == 0 && world->rev > world->compact_rev + 8) {
            world_compact(world, world->rev - (int64_t)rng_below(&world->rng, 8));
        }
        break;
    default:
        if (world->event_count + 64 < EVENTS_MAX) {
            world_write(world, 1 + (uint32_t)rng_below(&world->rng, 4));
        }
        break;
    }
}

static void streams_settle(struct world *world, struct stream *streams)
{
    for (uint32_t i = 0; i < STREAMS; i++) {
        streams[i].full = false;
        watch_stream_writable(streams[i].stream);
    }
    for (uint32_t turn = 0; watch_hub_turn(world->hub, world->now_ns); turn++) {
        assert_true(turn < 10000);
        world_turn(world);
    }
    world_turn(world);
}

/*
 * Goal: no watcher misses, repeats, reorders or splits an event; progress is never ahead.
 * Method: random programs over writes, compactions, watchers and full windows; each answer is held
 * against the list of everything that happened.
 */
static void every_watcher_sees_what_a_list_says(void **state)
{
    (void)state;
    const char *seed_text = getenv("DROVER_SEED");
    uint64_t first = seed_text == NULL ? 1 : strtoull(seed_text, NULL, 10);
    uint32_t compacted = 0;
    uint32_t asked = 0;
    for (uint64_t seed = first; seed < first + 40; seed++) {
        static struct world world;
        static struct stream streams[STREAMS];
        world_init(&world, seed);
        memset(streams, 0, sizeof(streams));
        for (uint32_t i = 0; i < STREAMS; i++) {
            streams[i].world = &world;
            streams[i].stream = watch_stream_open(world.hub, &sink, &streams[i]);
        }
        for (uint32_t step = 0; step < 1500; step++) {
            world_step(&world, streams);
            if (rng_below(&world.rng, 3) == 0) {
                (void)watch_hub_turn(world.hub, world.now_ns);
                world_turn(&world);
            }
            world.now_ns += rng_below(&world.rng, NS_PER_S / 10);
        }
        streams_settle(&world, streams);
        for (uint32_t i = 0; i < STREAMS; i++) {
            for (uint32_t w = 0; w < WATCHERS; w++) {
                client_check_complete(&streams[i], &streams[i].clients[w]);
                compacted += streams[i].clients[w].ended;
            }
            asked += streams[i].asked_progress > 0;
            watch_stream_close(streams[i].stream);
        }
        assert_int_equal(watch_hub_watcher_count(world.hub), 0);
        world_fini(&world);
    }
    assert_true(compacted > 0);
    assert_true(asked > 0);
}

/* Ids count from 0, an id in use is refused, an empty range too; a cancelled one is free again. */
static void ids_are_given_as_etcd_gives_them(void **state)
{
    (void)state;
    static struct world world;
    static struct stream stream;
    world_init(&world, 1);
    memset(&stream, 0, sizeof(stream));
    stream.world = &world;
    stream.stream = watch_stream_open(world.hub, &sink, &stream);
    struct watch_create create = {.key = SLICE_LIT("a")};
    int64_t id = -1;
    for (int64_t expected = 0; expected < 3; expected++) {
        assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_OK);
        assert_int_equal(id, expected);
    }
    create.watch_id = 3;
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_OK);
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_DUPLICATE_ID);
    create.watch_id = 0;
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_OK);
    assert_int_equal(id, 4);
    create.range_end = SLICE_LIT("a");
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_EMPTY_RANGE);
    create.range_end = SLICE_LIT("\0");
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_OK);
    assert_true(watch_stream_cancel(stream.stream, 3));
    assert_false(watch_stream_cancel(stream.stream, 3));
    watch_stream_close(stream.stream);
    world_fini(&world);
}

static void watchers_beyond_a_ceiling_are_refused(void **state)
{
    (void)state;
    static struct world world;
    static struct stream stream;
    world_init(&world, 1);
    memset(&stream, 0, sizeof(stream));
    stream.world = &world;
    stream.stream = watch_stream_open(world.hub, &sink, &stream);
    struct watch_stream *other = watch_stream_open(world.hub, &sink, &stream);
    watch_hub_set_ceilings(world.hub, 3, 1000);
    struct watch_create create = {.key = SLICE_LIT("a")};
    int64_t id = 0;
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_OK);
    }
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_TOO_MANY);
    assert_int_equal(watch_stream_create(other, &create, 0, &id), WATCH_TOO_MANY);
    assert_true(watch_stream_cancel(stream.stream, 1));
    assert_int_equal(watch_stream_create(other, &create, 0, &id), WATCH_OK);
    watch_hub_set_ceilings(world.hub, 100, 7); /* One group has "a": six are left. */
    create = (struct watch_create){.key = SLICE_LIT("bcd"), .range_end = SLICE_LIT("xyz")};
    assert_int_equal(watch_stream_create(other, &create, 0, &id), WATCH_OK);
    assert_int_equal(watch_stream_create(other, &create, 0, &id), WATCH_TOO_MANY);
    watch_stream_close(other);
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_OK);
    watch_stream_close(stream.stream);
    world_fini(&world);
}

/* Progress of a silent progress_notify watcher comes once per interval, and not after events. */
static void silent_watchers_hear_progress(void **state)
{
    (void)state;
    static struct world world;
    static struct stream stream;
    world_init(&world, 1);
    memset(&stream, 0, sizeof(stream));
    stream.world = &world;
    stream.stream = watch_stream_open(world.hub, &sink, &stream);
    struct client *client = &stream.clients[0];
    client->last = KEYS - 1;
    client->start_rev = world.rev + 1;
    client->open = true;
    struct watch_create create = {
        .key = SLICE_LIT("k"), .range_end = SLICE_LIT("l"), .progress_notify = true};
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &client->id), WATCH_OK);
    world_write(&world, 1);
    (void)watch_hub_turn(world.hub, 0);
    uint64_t due_ns = watch_hub_next_ns(world.hub);
    assert_true(due_ns >= 10 * NS_PER_S && due_ns <= 11 * NS_PER_S);
    (void)watch_hub_turn(world.hub, due_ns); /* It had events meanwhile. */
    assert_int_equal(client->progress_count, 0);
    (void)watch_hub_turn(world.hub, watch_hub_next_ns(world.hub));
    assert_int_equal(client->progress_count, 1);
    watch_stream_close(stream.stream);
    world_fini(&world);
}

static struct client *client_add(struct stream *stream, uint32_t index, int64_t start_rev,
                                 bool progress_notify)
{
    struct client *client = &stream->clients[index];
    *client = (struct client){.last = KEYS - 1, .open = true};
    client->start_rev = start_rev == 0 ? stream->world->rev + 1 : start_rev;
    const struct watch_create create = {.key = SLICE_LIT("k"),
                                        .range_end = SLICE_LIT("l"),
                                        .start_rev = start_rev,
                                        .progress_notify = progress_notify};
    assert_int_equal(watch_stream_create(stream->stream, &create, 0, &client->id), WATCH_OK);
    return client;
}

static void offer(struct stream *stream)
{
    watch_stream_offer_progress(stream->stream);
    (void)watch_hub_turn(stream->world->hub, 0);
}

/* A write of nothing that the watchers look at. */
static void world_write_beside(struct world *world)
{
    struct cache_edit *edit = cache_edit_begin(world->cache);
    const struct cache_row row = {
        .revision = ++world->rev, .key = SLICE_LIT("z"), .create_rev = world->rev, .version = 1};
    assert_non_null(cache_edit_apply(edit, &row));
    cache_edit_publish(edit);
}

/* Offered progress is for those who asked for notices, are level with the hub and have reached
 * their start, and says nothing that they know. */
static void offered_progress_is_new_to_synced_watchers(void **state)
{
    (void)state;
    static struct world world;
    static struct stream stream;
    world_init(&world, 1);
    memset(&stream, 0, sizeof(stream));
    stream.world = &world;
    stream.stream = watch_stream_open(world.hub, &sink, &stream);
    struct client *fresh = client_add(&stream, 0, 0, true);
    struct client *plain = client_add(&stream, 1, 0, false);
    struct client *future = client_add(&stream, 2, world.rev + 3, true);
    offer(&stream);
    assert_int_equal(fresh->progress_count, 1);
    offer(&stream); /* The same revision again. */
    assert_int_equal(fresh->progress_count, 1);
    world_write(&world, 1);
    offer(&stream); /* Its event has just told it. */
    assert_int_equal(fresh->progress_count, 1);
    assert_int_equal(future->progress_count, 0);
    world_write_beside(&world);
    world_write_beside(&world);
    offer(&stream);
    assert_int_equal(fresh->progress_count, 2);
    assert_int_equal(future->progress_count, 1);
    assert_int_equal(plain->progress_count, 0);
    stream.full = true;
    world_write(&world, 1);
    world_write_beside(&world);
    offer(&stream); /* Paused by the first event. */
    assert_int_equal(fresh->progress_count, 2);
    for (uint32_t i = 3; i <= LIMIT_PROGRESS_OFFER; i++) {
        (void)client_add(&stream, i, 0, true);
    }
    world_write_beside(&world);
    offer(&stream);
    assert_int_equal(stream.clients[LIMIT_PROGRESS_OFFER].progress_count, 0); /* Too many. */
    assert_true(watch_stream_cancel(stream.stream, future->id));
    future->open = false;
    offer(&stream);
    assert_int_equal(stream.clients[LIMIT_PROGRESS_OFFER].progress_count, 1);
    watch_stream_offer_progress(stream.stream);
    watch_stream_close(stream.stream);
    (void)watch_hub_turn(world.hub, 0); /* Nothing is left of the offer. */
    world_fini(&world);
}

/* As in etcd: a compacted watcher's id is in use until its client cancels it. */
static void a_compacted_watcher_keeps_its_id(void **state)
{
    (void)state;
    static struct world world;
    static struct stream stream;
    world_init(&world, 1);
    memset(&stream, 0, sizeof(stream));
    stream.world = &world;
    stream.stream = watch_stream_open(world.hub, &sink, &stream);
    world_write(&world, 3);
    world_compact(&world, world.rev);
    struct client *client = &stream.clients[0];
    client->id = 7;
    client->open = true;
    struct watch_create create = {.key = SLICE_LIT("k"), .watch_id = 7, .start_rev = 1};
    int64_t id = 0;
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_OK);
    (void)watch_hub_turn(world.hub, 0);
    assert_true(client->buried);
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_DUPLICATE_ID);
    watch_stream_request_progress(stream.stream);
    (void)watch_hub_turn(world.hub, 0);
    assert_int_equal(stream.asked_progress, 0);
    assert_true(watch_stream_cancel(stream.stream, 7));
    assert_int_equal(watch_stream_create(stream.stream, &create, 0, &id), WATCH_OK);
    watch_stream_close(stream.stream);
    world_fini(&world);
}

static bool check_prevs(void *owner, int64_t watch_id, const struct watch_events *events)
{
    bool *seen = owner;
    (void)watch_id;
    assert_int_equal(events->count, 4);
    assert_null(events->prevs[0]);
    assert_int_equal(cache_version_mod_rev(events->prevs[1]), 2);
    assert_int_equal(cache_version_mod_rev(events->prevs[2]), 2);
    assert_null(events->prevs[3]); /* A create, though the key was there at revision 2. */
    *seen = true;
    return true;
}

/* A Txn may put a key and delete it by a range: both events follow what was there before it. */
static void prev_kv_is_what_stood_one_revision_earlier(void **state)
{
    (void)state;
    static const struct watch_sink checking = {check_prevs, on_compacted, on_progress};
    static struct world world;
    bool seen = false;
    world_init(&world, 1);
    struct watch_stream *stream = watch_stream_open(world.hub, &checking, &seen);
    struct watch_create create = {.key = SLICE_LIT("k"), .prev_kv = true};
    int64_t id = 0;
    assert_int_equal(watch_stream_create(stream, &create, 0, &id), WATCH_OK);
    struct cache_edit *edit = cache_edit_begin(world.cache);
    struct cache_row rows[] = {
        {.revision = 2, .key = SLICE_LIT("k"), .create_rev = 2, .version = 1},
        {.revision = 3, .key = SLICE_LIT("k"), .create_rev = 2, .version = 2},
        {.revision = 3, .sub = 1, .key = SLICE_LIT("k"), .is_delete = true},
        {.revision = 3, .sub = 2, .key = SLICE_LIT("k"), .create_rev = 3, .version = 1},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        assert_non_null(cache_edit_apply(edit, &rows[i]));
    }
    cache_edit_publish(edit);
    (void)watch_hub_turn(world.hub, 0);
    assert_true(seen);
    watch_stream_close(stream);
    world_fini(&world);
}

/* What a watcher of large values was given. */
struct sizes {
    size_t max; /* Of one response. */
    uint32_t count;
    int64_t rev;
};

static bool measure_events(void *owner, int64_t watch_id, const struct watch_events *events)
{
    struct sizes *sizes = owner;
    (void)watch_id;
    size_t size = 0;
    for (uint32_t i = 0; i < events->count; i++) {
        assert_true(cache_version_mod_rev(events->versions[i]) > sizes->rev);
        sizes->rev = cache_version_mod_rev(events->versions[i]);
        size += cache_version_encoded(events->versions[i]).size;
        size += cache_version_encoded(events->prevs[i]).size;
    }
    sizes->count += events->count;
    sizes->max = size > sizes->max ? size : sizes->max;
    return true;
}

/* A hub that stood still, or a watcher that is behind: responses are cut by bytes, prevs among
 * them, since a delete is small and what it deleted is not. */
static void large_previous_values_cut_responses(void **state)
{
    (void)state;
    enum { PAIRS = 40, VALUE = 1024 * 1024 };
    static const struct watch_sink measuring = {measure_events, on_compacted, on_progress};
    static struct world world;
    struct sizes live = {0};
    struct sizes late = {0};
    world_init(&world, 1);
    struct watch_stream *stream = watch_stream_open(world.hub, &measuring, &live);
    struct watch_create create = {.key = SLICE_LIT("k"), .prev_kv = true, .no_put = true};
    int64_t id = 0;
    assert_int_equal(watch_stream_create(stream, &create, 0, &id), WATCH_OK);
    uint8_t *value = mem_alloc(VALUE);
    struct cache_edit *edit = cache_edit_begin(world.cache);
    for (int64_t rev = 2; rev < 2 + 2 * PAIRS; rev += 2) {
        const struct cache_row put = {.revision = rev,
                                      .key = SLICE_LIT("k"),
                                      .value = slice_of(value, VALUE),
                                      .create_rev = rev,
                                      .version = 1};
        const struct cache_row del = {
            .revision = rev + 1, .key = SLICE_LIT("k"), .is_delete = true};
        assert_non_null(cache_edit_apply(edit, &put));
        assert_non_null(cache_edit_apply(edit, &del));
    }
    cache_edit_publish(edit);
    (void)watch_hub_turn(world.hub, 0);
    assert_int_equal(live.count, PAIRS);
    assert_in_range(live.max, 2 * VALUE, LIMIT_WATCH_RUN_BYTES + 2 * VALUE);
    struct watch_stream *behind = watch_stream_open(world.hub, &measuring, &late);
    create.start_rev = 2;
    assert_int_equal(watch_stream_create(behind, &create, 0, &id), WATCH_OK);
    while (watch_hub_turn(world.hub, 0)) {
    }
    assert_int_equal(late.count, PAIRS);
    assert_in_range(late.max, VALUE, LIMIT_WATCH_CATCHUP_BYTES + 2 * VALUE);
    watch_stream_close(behind);
    watch_stream_close(stream);
    mem_free(value);
    world_fini(&world);
}

static bool count_events(void *owner, int64_t watch_id, const struct watch_events *events)
{
    uint32_t *count = owner;
    (void)watch_id;
    if (events->count > 1) {
        *count = events->count;
    }
    return true;
}

/* A response that is full ends at the next revision, not inside one. */
static void catching_up_never_cuts_a_revision(void **state)
{
    (void)state;
    enum { ROWS = 64, VALUE_SIZE = 64 * 1024 };
    static const struct watch_sink counting = {count_events, on_compacted, on_progress};
    static struct world world;
    uint32_t count = 0;
    world_init(&world, 1);
    struct cache_edit *edit = cache_edit_begin(world.cache);
    uint8_t *value = mem_alloc(VALUE_SIZE);
    for (int32_t sub = 0; sub < ROWS; sub++) {
        uint8_t bytes[2];
        struct cache_row row = {.revision = 2,
                                .sub = sub,
                                .key = key_of((uint8_t)sub, bytes),
                                .value = slice_of(value, VALUE_SIZE),
                                .create_rev = 2,
                                .version = 1};
        assert_non_null(cache_edit_apply(edit, &row));
    }
    cache_edit_publish(edit);
    assert_false(watch_hub_turn(world.hub, 0));
    struct watch_stream *stream = watch_stream_open(world.hub, &counting, &count);
    struct watch_create create = {
        .key = SLICE_LIT("k"), .range_end = SLICE_LIT("l"), .start_rev = 1};
    int64_t id = 0;
    assert_int_equal(watch_stream_create(stream, &create, 0, &id), WATCH_OK);
    assert_false(watch_hub_turn(world.hub, 0));
    assert_int_equal(count, ROWS);
    watch_stream_close(stream);
    mem_free(value);
    world_fini(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_watcher_sees_what_a_list_says),
        cmocka_unit_test(ids_are_given_as_etcd_gives_them),
        cmocka_unit_test(watchers_beyond_a_ceiling_are_refused),
        cmocka_unit_test(silent_watchers_hear_progress),
        cmocka_unit_test(offered_progress_is_new_to_synced_watchers),
        cmocka_unit_test(a_compacted_watcher_keeps_its_id),
        cmocka_unit_test(prev_kv_is_what_stood_one_revision_earlier),
        cmocka_unit_test(large_previous_values_cut_responses),
        cmocka_unit_test(catching_up_never_cuts_a_revision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
