/*
 * RangeStream: kvs in chunks near the largest request's size, the header with the last one. Sends
 * until rpc says stop, and goes on from on_writable, so that a stream holds a few chunks.
 */
#include "api/stream.h"

#include "api/conn.h"
#include "api/handlers.h"
#include "api/request.h"
#include "core/mem.h"
#include "core/metrics.h"

enum { RANGE_STREAM_FIRST = 10 }; /* Keys in the first chunk. */

/* One chunk's worth of a walk. */
struct chunk {
    const struct cache_version **kvs;
    uint64_t count;
    size_t size; /* Encoded. */
    bool more;   /* Keys remain behind it. */
};

uint64_t api_range_stream_adjust(uint64_t chunk, size_t size, size_t target)
{
    ASSERT(chunk > 0);
    if (size < target / 2) {
        return chunk <= UINT64_MAX / 2 ? chunk * 2 : chunk;
    }
    return size > target * 2 && chunk > 1 ? chunk / 2 : chunk;
}

static void stream_pin(struct api_thread *thread, struct range_stream *stream, int64_t revision)
{
    stream->header_rev = revision;
    stream->revision = stream->range.revision > 0 ? stream->range.revision : revision;
    stream->next = thread->ranges;
    stream->link = &thread->ranges;
    if (stream->next != NULL) {
        stream->next->link = &stream->next;
    }
    thread->ranges = stream;
    stream->moved_ns = clock_now_ns(thread->loop->timers.clock);
    api_thread_hold_add(thread, stream);
}

static void stream_unpin(struct api_thread *thread, struct range_stream *stream)
{
    if (stream->link == NULL) {
        return;
    }
    *stream->link = stream->next;
    if (stream->next != NULL) {
        stream->next->link = stream->link;
    }
    stream->link = NULL;
    api_thread_hold_remove(thread, stream);
}

/* True when the client has read almost nothing for long. */
static bool stream_is_stalled(struct range_stream *stream, uint64_t now_ns)
{
    uint64_t taken = rpc_call_taken(stream->stream.call);
    if (taken - stream->taken >= LIMIT_STALL_BYTES) {
        stream->taken = taken;
        stream->moved_ns = now_ns;
    }
    return now_ns - stream->moved_ns >= LIMIT_STALL_MS * NS_PER_MS;
}

/* True when the stream has outlived a compaction long enough. */
static bool stream_is_overdue(struct range_stream *stream, uint64_t now_ns)
{
    if (stream->passed_ns == 0) {
        stream->passed_ns = now_ns;
    }
    return now_ns - stream->passed_ns >= LIMIT_RANGE_STREAM_OUTLIVE_MS * NS_PER_MS;
}

bool api_range_streams_look(struct api_thread *thread, uint64_t now_ns)
{
    int64_t compact_rev = cache_snapshot_info(api_snapshot(thread))->compact_rev;
    struct range_stream *stream = thread->ranges;
    while (stream != NULL) {
        struct range_stream *next = stream->next; /* Failing unpins. */
        bool is_stalled = stream_is_stalled(stream, now_ns);
        if (stream->revision < compact_rev && (stream_is_overdue(stream, now_ns) || is_stalled)) {
            rpc_fail_err(stream->stream.call, ERR_COMPACTED);
        }
        stream = next;
    }
    return thread->ranges != NULL;
}

static struct cache_range stream_rest(const struct range_stream *stream)
{
    struct slice from = stream->key.size > 0 ? buf_slice(&stream->key) : stream->range.key;
    struct cache_range rest = cache_range_of(stream->range.key, stream->range.range_end);
    rest.key = from;
    return rest;
}

static struct api_kv_form stream_form(const struct range_stream *stream)
{
    return (struct api_kv_form){
        .keys_only = stream->range.keys_only,
        .no_lease = stream->range.sort_target != STORE_SORT_VALUE,
    };
}

/* Room for one more kv; arrays double. */
static bool chunk_room(struct chunk *chunk, struct arena *arena, uint64_t *room)
{
    if (chunk->count < *room) {
        return true;
    }
    uint64_t larger = *room == 0 ? 64 : *room * 2;
    const struct cache_version **kvs = arena_alloc(arena, larger * sizeof(*kvs));
    if (kvs == NULL) {
        return false;
    }
    if (chunk->count > 0) {
        memcpy(kvs, chunk->kvs, chunk->count * sizeof(*kvs));
    }
    chunk->kvs = kvs;
    *room = larger;
    return true;
}

/* The first chunk is refused below a compaction, the further ones read what the thread holds. */
static enum err stream_walk(struct api_thread *thread, const struct range_stream *stream,
                            const struct cache_range *rest, struct cache_walk *walk)
{
    const struct cache_snapshot *snapshot = api_snapshot(thread);
    return stream->count == 0 ? cache_walk_begin(walk, snapshot, rest, stream->revision)
                              : cache_walk_begin_held(walk, snapshot, rest, stream->revision);
}

/* Keys of the next chunk. */
static uint64_t chunk_max(const struct range_stream *stream)
{
    uint64_t left = stream->limit - stream->count;
    return stream->chunk < left ? stream->chunk : left;
}

static void chunk_measure(struct chunk *chunk, const struct cache_version *version,
                          struct api_kv_form form)
{
    size_t size = api_kv_size(api_kv_of(version, form));
    chunk->size += 1 + wire_varint_size(size) + size;
}

/* Walk up to the chunk's ceiling of keys or bytes, whichever comes first. */
static enum err chunk_walk(struct api_thread *thread, const struct range_stream *stream,
                           struct chunk *chunk)
{
    const size_t size_max = thread->api->config.request_size_max;
    struct cache_range rest = stream_rest(stream);
    struct api_kv_form form = stream_form(stream);
    uint64_t max = chunk_max(stream);
    uint64_t room = 0;
    struct cache_walk walk;
    TRY(stream_walk(thread, stream, &rest, &walk));
    const struct cache_version *version = NULL;
    while ((version = cache_walk_next(&walk)) != NULL) {
        if (chunk->count >= max || chunk->size >= size_max) {
            chunk->more = true;
            break;
        }
        if (!chunk_room(chunk, &thread->arena, &room)) {
            return ERR_REQUEST_TOO_LARGE;
        }
        chunk->kvs[chunk->count++] = version;
        chunk_measure(chunk, version, form);
    }
    return ERR_OK;
}

/*
 * A sort target without an order: etcd sorts each chunk by itself, and goes on behind the key that
 * came out last, so that keys may come twice.
 */
static enum err chunk_sort(struct api_thread *thread, const struct range_stream *stream,
                           struct chunk *chunk)
{
    struct store_range range = stream->range;
    struct store_range_answer answer;
    range.key = stream_rest(stream).key;
    range.revision = stream->revision;
    if (range.limit >= 0) { /* etcd takes a negative one for the chunk's, and reads all at once. */
        range.limit = (int64_t)chunk_max(stream); /* Chunks double from ten. */
        ASSERT(range.limit > 0);
    }
    TRY(store_range_run(api_snapshot(thread), &range, &thread->arena, &answer));
    chunk->kvs = answer.kvs;
    chunk->count = answer.kv_count;
    chunk->more = answer.more;
    for (uint64_t i = 0; i < chunk->count; i++) {
        chunk_measure(chunk, chunk->kvs[i], stream_form(stream));
    }
    return ERR_OK;
}

static enum err chunk_read(struct api_thread *thread, const struct range_stream *stream,
                           struct chunk *chunk)
{
    *chunk = (struct chunk){0};
    arena_reset(&thread->arena);
    return store_range_is_plain(&stream->range) ? chunk_walk(thread, stream, chunk)
                                                : chunk_sort(thread, stream, chunk);
}

/* |prefix|: the outer message's tag and length, and a header when this is the last chunk. */
static bool chunk_send(struct api_thread *thread, struct range_stream *stream,
                       const struct chunk *chunk, bool is_last, uint64_t count)
{
    uint8_t prefix[API_NUMBER_SIZE_MAX + API_HEADER_SIZE_MAX];
    uint8_t suffix[2 * API_NUMBER_SIZE_MAX];
    uint8_t header[API_HEADER_SIZE_MAX];
    uint8_t *header_end = header;
    uint8_t *suffix_end = suffix;
    if (is_last) {
        struct api_header fields = api_header(thread, stream->header_rev);
        header_end = api_put_header(header, 1, &fields);
        suffix_end = api_put_number(suffix, 3, chunk->more);
        suffix_end = api_put_number(suffix_end, 4, count);
    }
    struct api_kv_form form = stream_form(stream);
    struct shared *body = shared_new(chunk->size);
    uint8_t *at = body->bytes;
    for (uint64_t i = 0; i < chunk->count; i++) {
        struct api_kv kv = api_kv_of(chunk->kvs[i], form);
        at = api_put_len(at, 2, api_kv_size(kv));
        at = api_put_kv(at, kv);
    }
    ASSERT(at == body->bytes + chunk->size);

    size_t header_size = (size_t)(header_end - header);
    size_t suffix_size = (size_t)(suffix_end - suffix);
    uint8_t *prefix_end = api_put_len(prefix, 1, header_size + chunk->size + suffix_size);
    prefix_end = wire_put_bytes(prefix_end, header, header_size);
    const struct rpc_part parts[] = {
        {slice_of(prefix, (size_t)(prefix_end - prefix)), NULL},
        {slice_of(body->bytes, chunk->size), body},
        {slice_of(suffix, suffix_size), NULL},
    };
    thread->composed += API_COMPOSE_LEAST + chunk->size;
    bool room = rpc_send(stream->stream.call, parts, ARRAY_COUNT(parts), false);
    shared_unref(body);
    return room;
}

/* The keys that the limit cut off count, too. */
static enum err stream_count(struct api_thread *thread, const struct range_stream *stream,
                             bool more, uint64_t *count)
{
    uint64_t rest = 0;
    struct cache_range keys = stream_rest(stream);
    enum err err = ERR_OK;
    if (more) {
        err = cache_count(api_snapshot(thread), &keys, stream->revision, &rest);
    }
    if (err == ERR_COMPACTED && stream->count > 0) {
        struct cache_walk walk;
        TRY(stream_walk(thread, stream, &keys, &walk));
        while (cache_walk_next(&walk) != NULL) {
            rest++;
        }
    } else if (err != ERR_OK) {
        return err;
    }
    *count = stream->count + rest;
    return ERR_OK;
}

/* The next chunk begins right behind |last|. */
static void stream_advance(struct range_stream *stream, const struct chunk *chunk)
{
    stream->count += chunk->count;
    if (chunk->count > 0) {
        buf_clear(&stream->key);
        buf_add_slice(&stream->key, cache_version_key(chunk->kvs[chunk->count - 1]));
        buf_add_byte(&stream->key, 0);
    }
}

/* One chunk. |done|: it was the last; |room|: rpc would take another. */
static enum err stream_step(struct api_thread *thread, struct range_stream *stream, bool *done,
                            bool *room)
{
    struct chunk chunk;
    TRY(chunk_read(thread, stream, &chunk));
    stream_advance(stream, &chunk);
    *done = !chunk.more || stream->count == stream->limit;
    uint64_t count = 0;
    if (*done) {
        TRY(stream_count(thread, stream, chunk.more, &count));
    }
    *room = chunk_send(thread, stream, &chunk, *done, count);
    stream->chunk =
        api_range_stream_adjust(stream->chunk, chunk.size, thread->api->config.request_size_max);
    return ERR_OK;
}

static void stream_pump(struct api_thread *thread, struct range_stream *stream)
{
    struct rpc_call *call = stream->stream.call;
    bool done = false;
    bool room = true;
    while (room && !done) {
        enum err err = stream_step(thread, stream, &done, &room);
        if (err != ERR_OK) {
            rpc_fail_err(call, err);
            return;
        }
    }
    if (done) {
        rpc_finish(call);
    }
}

/* count_only: one message, without `more`. */
static void stream_send_count(struct api_thread *thread, struct range_stream *stream)
{
    struct rpc_call *call = stream->stream.call;
    uint64_t count = 0;
    stream->limit = UINT64_MAX;
    enum err err = stream_count(thread, stream, true, &count);
    if (err != ERR_OK) {
        rpc_fail_err(call, err);
        return;
    }
    (void)chunk_send(thread, stream, &(struct chunk){0}, true, count);
    rpc_finish(call);
}

static void stream_begin(struct api_ask *ask)
{
    struct range_stream *stream = CONTAINER_OF(ask, struct range_stream, ask);
    struct api_thread *thread = ask->thread;
    metric_add(METRIC_etcd_mvcc_range_total, 1);
    if (stream->range.count_only) {
        int64_t revision = api_revision(thread);
        stream->header_rev = revision;
        stream->revision = stream->range.revision > 0 ? stream->range.revision : revision;
        stream_send_count(thread, stream);
        return;
    }
    stream_pin(thread, stream, api_revision(thread));
    stream_pump(thread, stream);
    if (!stream->range.serializable) {
        api_conn_read_answered(thread, stream->stream.call);
    }
}

void api_range_stream_on_message(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    struct store_range range;
    if (!api_range_request(thread, call, message, &range)) {
        return;
    }
    enum err err = api_range_stream_check(&range);
    if (err != ERR_OK) {
        rpc_fail_err(call, err);
        return;
    }
    struct range_stream *stream = api_ask_new(thread, call, STORE_READ_INDEX, sizeof(*stream));
    if (stream == NULL) {
        return;
    }
    stream->range = range; /* Borrows |message|, which stays while the call is alive. */
    stream->limit = range.limit > 0 ? (uint64_t)range.limit : UINT64_MAX;
    stream->chunk = RANGE_STREAM_FIRST;
    *rpc_call_user(call) = stream;
    api_stream_add(thread, &stream->stream, call);
    api_ask_read(&stream->ask, api_range_is_local(thread, &range), stream_begin);
}

void api_range_stream_on_writable(struct rpc_call *call)
{
    struct range_stream *stream = *rpc_call_user(call);
    /* Unpinned: the end is queued already. */
    if (stream != NULL && stream->link != NULL) {
        stream_pump(api_thread_of(call), stream);
    }
}

void api_range_stream_on_end(struct rpc_call *call)
{
    struct range_stream *stream = *rpc_call_user(call);
    if (stream != NULL) {
        stream_unpin(api_thread_of(call), stream);
    }
}

void api_range_stream_on_gone(struct rpc_call *call)
{
    struct range_stream *stream = *rpc_call_user(call);
    if (stream == NULL) {
        return;
    }
    stream_unpin(api_thread_of(call), stream);
    api_stream_remove(&stream->stream);
    buf_fini(&stream->key);
    api_compose_forget(&stream->ask);
}
