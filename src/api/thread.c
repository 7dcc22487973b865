/*
 * What each io thread has, and its turns: a publish of the store's thread, a wish of a handler or
 * a timer wakes the watch hub; then the thread's hold follows what is still read.
 */
#include "api/watch.h"

#include "api/stream.h"
#include "core/mem.h"

/* Streams that asked for a leader end when the database was away so long: three elections. */
enum { LEADER_PATIENCE_MS = 3000 };
/* How often range streams are asked whether their clients read. */
enum { RANGES_LOOK_MS = LIMIT_STALL_MS / 10 };

/* ---- streams ------------------------------------------------------------------------------- */

void api_stream_add(struct api_thread *thread, struct api_stream *stream, struct rpc_call *call)
{
    struct api_stream *head = &thread->streams;
    stream->call = call;
    stream->needs_leader = slice_equal(rpc_call_metadata(call, "hasleader"), SLICE_LIT("true"));
    stream->previous = head->previous;
    stream->next = head;
    head->previous->next = stream;
    head->previous = stream;
}

void api_stream_remove(struct api_stream *stream)
{
    stream->previous->next = stream->next;
    stream->next->previous = stream->previous;
    stream->next = stream->previous = stream;
}

/* End streams with |err|. */
static void streams_end(struct api_thread *thread, enum err err, bool needs_leader_only)
{
    struct api_stream *stream = thread->streams.next;
    while (stream != &thread->streams) {
        struct api_stream *next = stream->next;
        if (stream->needs_leader || !needs_leader_only) {
            rpc_fail_err(stream->call, err);
        }
        stream = next;
    }
}

void api_thread_drain(struct api *api, uint32_t thread)
{
    ASSERT(thread < api->config.io_threads);
    ASSERT_ON_LOOP(api->threads[thread].loop);
    streams_end(&api->threads[thread], ERR_STOPPED, false);
}

/* ---- the hub ------------------------------------------------------------------------------- */

static void ranges_rescan(struct api_thread *thread)
{
    thread->ranges_stale = false;
    thread->ranges_rev = INT64_MAX;
    for (const struct range_stream *stream = thread->ranges; stream != NULL;
         stream = stream->next) {
        thread->ranges_rev =
            stream->revision < thread->ranges_rev ? stream->revision : thread->ranges_rev;
    }
}

void api_thread_hold(struct api_thread *thread)
{
    if (thread->ranges_stale) {
        ranges_rescan(thread);
    }
    int64_t hub_rev = watch_hub_rev(thread->hub);
    reclaim_reader_hold(thread->reader,
                        hub_rev < thread->ranges_rev ? hub_rev : thread->ranges_rev);
}

static void ranges_on_timer(struct timer *timer);

static void ranges_arm(struct api_thread *thread)
{
    timers_arm(&thread->loop->timers, &thread->ranges_timer, RANGES_LOOK_MS * NS_PER_MS,
               ranges_on_timer);
}

static void ranges_on_timer(struct timer *timer)
{
    struct api_thread *thread = CONTAINER_OF(timer, struct api_thread, ranges_timer);
    if (api_range_streams_look(thread, clock_now_ns(thread->loop->timers.clock))) {
        ranges_arm(thread);
    }
}

void api_thread_hold_add(struct api_thread *thread, const struct range_stream *stream)
{
    if (stream->revision < thread->ranges_rev) {
        thread->ranges_rev = stream->revision;
        api_thread_hold(thread); /* Within the turn that read the snapshot, see reclaim.h. */
    }
    if (!timer_is_armed(&thread->ranges_timer)) {
        ranges_arm(thread);
    }
}

void api_thread_hold_remove(struct api_thread *thread, const struct range_stream *stream)
{
    /* A hold that is too low for a moment does no harm, and many may leave in one turn. */
    if (stream->revision == thread->ranges_rev) {
        thread->ranges_stale = true;
        api_thread_wake_hub(thread);
    }
}

static void hub_on_progress(struct timer *timer)
{
    api_thread_wake_hub(CONTAINER_OF(timer, struct api_thread, progress));
}

static void hub_turn(struct api_thread *thread)
{
    struct timers *timers = &thread->loop->timers;
    uint64_t now_ns = clock_now_ns(timers->clock);
    thread->hub_turning = true;
    bool again = watch_hub_turn(thread->hub, now_ns);
    thread->hub_turning = false;
    api_watch_turn_ended(thread);
    api_thread_hold(thread);
    if (again) {
        api_thread_wake_hub(thread);
    }
    uint64_t next_ns = watch_hub_next_ns(thread->hub);
    if (next_ns == UINT64_MAX) {
        timers_disarm(timers, &thread->progress);
    } else if (!timer_is_armed(&thread->progress) || thread->progress.due_ns != next_ns) {
        timers_arm(timers, &thread->progress, next_ns > now_ns ? next_ns - now_ns : 0,
                   hub_on_progress);
    }
}

static void hub_on_post(struct loop_post *post)
{
    struct api_thread *thread = CONTAINER_OF(post, struct api_thread, hub_post);
    thread->hub_posted = false;
    if (thread->hub != NULL) {
        hub_turn(thread);
    }
}

void api_thread_wake_hub(struct api_thread *thread)
{
    if (!thread->hub_posted) {
        thread->hub_posted = true;
        loop_post(thread->loop, &thread->hub_post);
    }
}

/* ---- publishing ---------------------------------------------------------------------------- */

static void leader_on_timer(struct timer *timer)
{
    struct api_thread *thread = CONTAINER_OF(timer, struct api_thread, leader);
    streams_end(thread, ERR_NO_LEADER, true);
}

static void thread_on_publish(struct loop_post *post)
{
    struct api_thread *thread = CONTAINER_OF(post, struct api_thread, publish_post);
    if (thread->hub == NULL) {
        return; /* Stopped meanwhile. */
    }
    /* Before looking: what is published from here on posts again. */
    (void)atomic_exchange_explicit(&thread->publish_posted, false, memory_order_acq_rel);
    struct timers *timers = &thread->loop->timers;
    if (!api_is_away(thread)) {
        timers_disarm(timers, &thread->leader);
    } else if (!timer_is_armed(&thread->leader)) {
        timers_arm(timers, &thread->leader, LEADER_PATIENCE_MS * NS_PER_MS, leader_on_timer);
    }
    hub_turn(thread);
}

void api_on_publish(struct api *api)
{
    for (uint32_t i = 0; i < api->config.io_threads; i++) {
        struct api_thread *thread = &api->threads[i];
        /* Also true before the thread has started, and after its end. */
        if (!atomic_exchange_explicit(&thread->publish_posted, true, memory_order_acq_rel)) {
            loop_post(thread->loop, &thread->publish_post);
        }
    }
}

/* ---- life ---------------------------------------------------------------------------------- */

void api_thread_start(struct api *api, uint32_t thread, struct loop *loop,
                      struct reclaim_reader *reader)
{
    ASSERT(thread < api->config.io_threads);
    ASSERT_ON_LOOP(loop);
    struct api_thread *own = &api->threads[thread];
    ASSERT(own->hub == NULL);
    own->reader = reader;
    own->streams.next = own->streams.previous = &own->streams;
    arena_init(&own->arena, LIMIT_CALL_ARENA_MAX);
    api_out_init(&own->out);
    own->hub = watch_hub_new(api->config.cache, api->config.progress_interval_ns,
                             api->config.seed + thread);
    watch_hub_set_ceilings(own->hub, LIMIT_WATCHERS / api->config.io_threads,
                           LIMIT_WATCH_KEY_BYTES / api->config.io_threads);
    own->hub_post.run = hub_on_post;
    own->publish_post.run = thread_on_publish;
    list_init(&own->ready);
    own->ready_post.run = api_compose_run;
    own->turn_end.run = api_compose_turn_ended;
    loop_add_hook(loop, &own->turn_end);
    own->loop = loop;
    own->ranges_rev = INT64_MAX;
    api_thread_hold(own);
    loop_post(loop, &own->publish_post); /* From now on api_on_publish reaches this thread. */
}

void api_thread_stop(struct api *api, uint32_t thread)
{
    ASSERT(thread < api->config.io_threads);
    struct api_thread *own = &api->threads[thread];
    ASSERT(own->streams.next == &own->streams);
    ASSERT(own->ranges == NULL);
    ASSERT(list_is_empty(&own->ready));
    atomic_store_explicit(&own->publish_posted, true, memory_order_release);
    loop_remove_hook(own->loop, &own->turn_end);
    timers_disarm(&own->loop->timers, &own->progress);
    timers_disarm(&own->loop->timers, &own->leader);
    timers_disarm(&own->loop->timers, &own->ranges_timer);
    reclaim_reader_hold(own->reader, RECLAIM_NO_HOLD);
    watch_hub_free(own->hub);
    own->hub = NULL;
    api_out_fini(&own->out);
    arena_fini(&own->arena);
}
