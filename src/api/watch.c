/*
 * Watch: requests to the thread's hub, and what the hub says back to the client.
 *
 * Creations and cancellations are answered at once, in the order of the requests; events come only
 * from a turn of the hub, which runs after the handlers: so `created` is always first. All messages
 * of a stream are urgent: they must not overtake each other.
 *
 * A run of events is encoded once per thread: watchers that get the same run share its bytes, and
 * only the head of the response is theirs.
 */
#include "api/watch.h"

#include "api/conn.h"
#include "api/handlers.h"
#include "api/request.h"
#include "core/mem.h"
#include "core/metrics.h"

enum { WATCH_ID_NONE = -1 };

/* ---- what the hub says --------------------------------------------------------------------- */

static const struct cache_version *event_prev(const struct watch_events *events, uint32_t i)
{
    return events->prevs == NULL ? NULL : events->prevs[i];
}

static struct shared *events_encode(const struct watch_events *events)
{
    size_t size = 0;
    for (uint32_t i = 0; i < events->count; i++) {
        size += api_event_size(events->versions[i], event_prev(events, i));
    }
    struct shared *shared = shared_new(size);
    uint8_t *at = shared->bytes;
    for (uint32_t i = 0; i < events->count; i++) {
        at = api_put_event(at, events->versions[i], event_prev(events, i));
    }
    ASSERT(at == shared->bytes + size);
    return shared;
}

/* The encoded run, borrowed until the end of the hub's turn. */
static struct shared *events_shared(struct api_thread *thread, const struct watch_events *events)
{
    struct api_event_run *run = &thread->runs[events->run_id % API_EVENT_RUNS];
    if (run->events == NULL || run->id != events->run_id) {
        shared_unref(run->events);
        *run = (struct api_event_run){events->run_id, events_encode(events)};
    }
    return run->events;
}

uint32_t api_watch_fragment(const struct watch_events *events, uint32_t from, size_t head_size,
                            size_t size_max, size_t *size)
{
    ASSERT(from < events->count);
    uint32_t count = 0;
    *size = 0;
    while (from + count < events->count) {
        uint32_t i = from + count;
        size_t more = api_event_size(events->versions[i], event_prev(events, i));
        if (count > 0 && head_size + *size + more >= size_max) {
            break;
        }
        *size += more;
        count++;
    }
    return count;
}

/* A response: head, then |events|, which are inside of |owner|. */
static bool watch_send(struct watch_call *own, const struct api_watch_head *head,
                       struct slice events, struct shared *owner)
{
    uint8_t bytes[API_WATCH_HEAD_SIZE_MAX];
    size_t size = (size_t)(api_put_watch_head(bytes, head) - bytes);
    ASSERT(size <= sizeof(bytes));
    const struct rpc_part parts[] = {{slice_of(bytes, size), NULL}, {events, owner}};
    return rpc_send(own->stream.call, parts, events.size > 0 ? 2 : 1, true);
}

static bool send_fragments(struct watch_call *own, struct api_watch_head *head,
                           const struct watch_events *events, struct shared *shared)
{
    uint8_t bytes[API_WATCH_HEAD_SIZE_MAX];
    head->fragment = true;
    size_t head_size = (size_t)(api_put_watch_head(bytes, head) - bytes);
    size_t offset = 0;
    bool room = true;
    for (uint32_t from = 0; from < events->count;) {
        size_t size = 0;
        from += api_watch_fragment(events, from, head_size, LIMIT_WATCH_FRAGMENT_SIZE, &size);
        head->fragment = from < events->count;
        room = watch_send(own, head, slice_of(shared->bytes + offset, size), shared);
        offset += size;
    }
    ASSERT(offset == shared->size);
    return room;
}

static bool watch_on_events(void *owner, int64_t watch_id, const struct watch_events *events)
{
    struct watch_call *own = owner;
    struct api_thread *thread = own->thread;
    struct shared *shared = events_shared(thread, events);
    struct api_watch_head head = {
        .header = api_header(thread, events->header_rev),
        .watch_id = watch_id,
    };
    metric_add(METRIC_etcd_debugging_mvcc_events_total, events->count);
    if (shared->size > INT32_MAX - API_WATCH_HEAD_SIZE_MAX && !events->fragment) {
        rpc_fail_err(own->stream.call, ERR_ANSWER_TOO_LARGE);
        return false;
    }
    bool large = shared->size + API_WATCH_HEAD_SIZE_MAX >= LIMIT_WATCH_FRAGMENT_SIZE;
    if (events->fragment && large && events->count > 1) {
        return send_fragments(own, &head, events, shared);
    }
    return watch_send(own, &head, slice_of(shared->bytes, shared->size), shared);
}

/* Without a revision, as etcd says it. */
static void watch_on_compacted(void *owner, int64_t watch_id, int64_t compact_rev)
{
    struct watch_call *own = owner;
    struct api_watch_head head = {
        .header = api_header(own->thread, 0),
        .watch_id = watch_id,
        .canceled = true,
        .compact_rev = compact_rev,
    };
    (void)watch_send(own, &head, SLICE_EMPTY, NULL);
}

static void watch_on_progress(void *owner, int64_t watch_id, int64_t revision)
{
    struct watch_call *own = owner;
    /* What nobody asked for may be left out while the client does not read; the next comes. */
    if (watch_id != WATCH_ID_NONE && rpc_call_queued(own->stream.call) > LIMIT_STREAM_OUT_HIGH) {
        return;
    }
    struct api_watch_head head = {
        .header = api_header(own->thread, revision),
        .watch_id = watch_id,
    };
    (void)watch_send(own, &head, SLICE_EMPTY, NULL);
}

static const struct watch_sink watch_call_sink = {
    .events = watch_on_events,
    .compacted = watch_on_compacted,
    .progress = watch_on_progress,
};

/* ---- what the client says ------------------------------------------------------------------ */

static void count_watchers(const struct api_thread *thread)
{
    metric_set(METRIC_etcd_debugging_mvcc_watcher_total, watch_hub_watcher_count(thread->hub));
    metric_set(METRIC_etcd_debugging_mvcc_slow_watcher_total, watch_hub_slow_count(thread->hub));
}

/* The answer to a creation: |reason| NULL when it succeeded. */
static void send_created(struct watch_call *own, int64_t watch_id, const char *reason)
{
    struct api_watch_head head = {
        .header = api_header(own->thread, api_revision(own->thread)),
        .watch_id = watch_id,
        .created = true,
        .canceled = reason != NULL,
        .cancel_reason = reason,
    };
    (void)watch_send(own, &head, SLICE_EMPTY, NULL);
}

static void create_filters(const Etcdserverpb__WatchCreateRequest *request,
                           struct watch_create *create)
{
    for (size_t i = 0; i < request->n_filters; i++) {
        create->no_put |=
            request->filters[i] == ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NOPUT;
        create->no_delete |=
            request->filters[i] == ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NODELETE;
    }
}

static const char *refusal_reason(enum watch_result result)
{
    switch (result) {
    case WATCH_DUPLICATE_ID:
        return "mvcc: duplicate watch ID provided on the WatchStream";
    case WATCH_EMPTY_RANGE:
        return "mvcc: watcher range is empty";
    case WATCH_TOO_MANY:
        return "etcdserver: too many requests";
    case WATCH_OK:
    default:
        return NULL;
    }
}

static void watch_create(struct watch_call *own, const Etcdserverpb__WatchCreateRequest *request)
{
    if (request->start_revision < 0) {
        send_created(own, WATCH_ID_NONE, err_text(ERR_COMPACTED));
        return;
    }
    struct api_thread *thread = own->thread;
    struct watch_create create = {
        .watch_id = request->watch_id,
        .key = request->key.len == 0 ? slice_of("", 1) : api_slice(request->key),
        .range_end = api_slice(request->range_end),
        .start_rev = request->start_revision,
        .progress_notify = request->progress_notify != 0,
        .prev_kv = request->prev_kv != 0,
        .fragment = request->fragment != 0,
    };
    create_filters(request, &create);
    int64_t watch_id = WATCH_ID_NONE;
    uint64_t now_ns = clock_now_ns(thread->loop->timers.clock);
    enum watch_result result = watch_stream_create(own->watchers, &create, now_ns, &watch_id);
    count_watchers(thread);
    metric_add(METRIC_drover_refused_watchers_total, result == WATCH_TOO_MANY);
    api_conn_watch_more(own->conn);
    /* The revision is read behind the creation: an event may come although the header has it,
     * but none that it lacks can be missed. */
    send_created(own, result == WATCH_OK ? watch_id : WATCH_ID_NONE, refusal_reason(result));
    api_thread_wake_hub(thread);
}

static void watch_cancel(struct watch_call *own, int64_t watch_id)
{
    if (!watch_stream_cancel(own->watchers, watch_id)) {
        return; /* etcd says nothing. */
    }
    struct api_watch_head head = {
        .header = api_header(own->thread, api_revision(own->thread)),
        .watch_id = watch_id,
        .canceled = true,
    };
    count_watchers(own->thread);
    (void)watch_send(own, &head, SLICE_EMPTY, NULL);
}

void api_watch_on_message(struct rpc_call *call, struct slice message)
{
    struct watch_call *own = *rpc_call_user(call);
    const Etcdserverpb__WatchRequest *request =
        api_request(own->thread, call, message, &etcdserverpb__watch_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    switch (request->request_union_case) {
    case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST:
        watch_create(own, request->create_request);
        return;
    case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CANCEL_REQUEST:
        watch_cancel(own, request->cancel_request->watch_id);
        return;
    case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST:
        watch_stream_request_progress(own->watchers);
        api_thread_wake_hub(own->thread);
        return;
    case ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION__NOT_SET:
    case _ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION__CASE_IS_INT_SIZE:
    default:
        return; /* Ignored, as etcd does. */
    }
}

/* ---- life ---------------------------------------------------------------------------------- */

void api_watch_on_start(struct rpc_call *call)
{
    struct api_thread *thread = api_thread_of(call);
    struct watch_call *own = mem_alloc(sizeof(*own));
    own->thread = thread;
    own->watchers = watch_stream_open(thread->hub, &watch_call_sink, own);
    *rpc_call_user(call) = own;
    api_stream_add(thread, &own->stream, call);
    api_conn_add_watch(api_conn_of(thread, call), own);
    metric_add(METRIC_etcd_debugging_mvcc_watch_stream_total, 1);
    (void)api_admit(thread, call);
}

void api_watch_on_half_close(struct rpc_call *call)
{
    (void)call; /* The client has no more requests; its watchers go on, as in etcd. */
}

void api_watch_on_writable(struct rpc_call *call)
{
    struct watch_call *own = *rpc_call_user(call);
    watch_stream_writable(own->watchers);
    api_thread_wake_hub(own->thread);
}

static void watch_call_free(struct watch_call *own)
{
    watch_stream_close(own->watchers);
    count_watchers(own->thread);
    metric_add(METRIC_etcd_debugging_mvcc_watch_stream_total, -1);
    mem_free(own);
}

void api_watch_on_gone(struct rpc_call *call)
{
    struct watch_call *own = *rpc_call_user(call);
    if (own == NULL) {
        return;
    }
    api_stream_remove(&own->stream);
    api_conn_remove_watch(own);
    struct api_thread *thread = own->thread;
    if (thread->hub_turning) {
        own->next = thread->closing;
        thread->closing = own;
        return;
    }
    watch_call_free(own);
}

void api_watch_turn_ended(struct api_thread *thread)
{
    ASSERT(!thread->hub_turning);
    while (thread->closing != NULL) {
        struct watch_call *own = thread->closing;
        thread->closing = own->next;
        watch_call_free(own);
    }
    for (uint32_t i = 0; i < API_EVENT_RUNS; i++) {
        shared_unref(thread->runs[i].events);
        thread->runs[i] = (struct api_event_run){0};
    }
    count_watchers(thread);
}
