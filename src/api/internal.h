/* Inside api only: what the handlers of one io thread share. */
#ifndef API_INTERNAL_H
#define API_INTERNAL_H

#include "api/api.h"
#include "api/codec.h"
#include "api/decode.h"
#include "watch/list.h"
#include "watch/watch.h"

enum {
    API_METHODS_MAX = 24,
    API_EVENT_RUNS = 8,
    API_COMPOSE_LEAST = 512, /* Bytes that an answer counts for besides its own: it costs time. */
};

/* A run of events, encoded once for all watchers that get it. */
struct api_event_run {
    uint64_t id;           /* watch_events.run_id; 0: empty. */
    struct shared *events; /* One reference. */
};

/* Every open stream, so that a drain or a lost database can end it. Embedded by its owner. */
struct api_stream {
    struct api_stream *next, *previous; /* In the thread's list. */
    struct rpc_call *call;
    bool needs_leader; /* The client sent hasleader. */
};

struct range_stream;

struct api_thread {
    struct api *api;
    uint32_t index;
    struct loop *loop; /* NULL: not started. */
    struct reclaim_reader *reader;
    struct arena arena; /* Scratch of one handler. */
    struct api_out out;
    struct api_stream streams;   /* Head of the list. */
    struct range_stream *ranges; /* Those that hold a revision, ... */
    int64_t ranges_rev;          /* ... none of them a lower one; INT64_MAX: none. */
    bool ranges_stale;           /* The lowest one went: the hold follows in this turn. */
    struct timer ranges_timer;   /* Armed while there are any: who reads nothing? */
    struct watch_hub *hub;
    struct loop_post hub_post; /* Asks for a turn of the hub. */
    bool hub_posted;
    bool hub_turning;           /* Streams may not be closed now ... */
    struct watch_call *closing; /* ... but right after. */
    struct timer progress;      /* When the hub wants a turn by itself. */
    struct timer leader;        /* Armed while the database is away. */
    struct loop_post publish_post;
    /* Set by the store's thread, cleared by ours; set for good while the thread does not run. */
    _Atomic bool publish_posted;
    struct api_event_run runs[API_EVENT_RUNS];
    size_t composed;   /* Bytes of answers in this turn, about; 1 ns counts as one. */
    struct list ready; /* Connections whose answers go on in this or the next turn. */
    struct loop_post ready_post;
    bool ready_posted;
    struct loop_hook turn_end; /* Begins to count again. */
};

struct api {
    struct api_config config;
    struct rpc_method methods[API_METHODS_MAX];
    size_t method_count;
    struct api_thread *threads; /* config.io_threads of them. */
};

/* ---- thread.c ------------------------------------------------------------------------------ */

struct api_thread *api_thread_of(const struct rpc_call *call);
/* The hub runs at the end of this turn, or in the next one. */
void api_thread_wake_hub(struct api_thread *thread);
/* Set the reader's hold to what hub and range streams still read. O(1), but once in a turn in which
 * a range stream went: O(range streams). */
void api_thread_hold(struct api_thread *thread);
/* A range stream joined or left thread->ranges. */
void api_thread_hold_add(struct api_thread *thread, const struct range_stream *stream);
void api_thread_hold_remove(struct api_thread *thread, const struct range_stream *stream);
/* compose.c: answers that waited, and the end of a turn. */
void api_compose_run(struct loop_post *post);
void api_compose_turn_ended(struct loop_hook *hook);
void api_stream_add(struct api_thread *thread, struct api_stream *stream, struct rpc_call *call);
void api_stream_remove(struct api_stream *stream);

/* ---- one call ------------------------------------------------------------------------------ */

/*
 * Decode the request of |call| into |arena|. NULL: it was refused and the call has been answered.
 * |arena| NULL: the thread's scratch, which this empties first.
 */
void *api_request(struct api_thread *thread, struct rpc_call *call, struct slice message,
                  const ProtobufCMessageDescriptor *descriptor, struct arena *arena);
/* What etcd's interceptors check: false when the call was refused (and answered). */
bool api_admit(struct api_thread *thread, struct rpc_call *call);
/* on_start of streams. */
void api_on_start(struct rpc_call *call);
/* Answer with what thread->out holds. */
void api_reply(struct api_thread *thread, struct rpc_call *call);
/* The same for one message of a stream. As rpc_send. */
bool api_send(struct api_thread *thread, struct rpc_call *call, bool urgent);
/* Reply with |err|, or with thread->out when it is ERR_OK. */
void api_reply_or_fail(struct api_thread *thread, struct rpc_call *call, enum err err);
/* Pack a small message of protobuf-c as the answer. */
void api_reply_packed(struct api_thread *thread, struct rpc_call *call,
                      const ProtobufCMessage *message);
struct api_header api_header(const struct api_thread *thread, int64_t revision);
/* The newest snapshot, and its revision. */
const struct cache_snapshot *api_snapshot(const struct api_thread *thread);
int64_t api_revision(const struct api_thread *thread);
/* Decode and check a RangeRequest, which |range| borrows; false: refused, and answered. */
bool api_range_request(struct api_thread *thread, struct rpc_call *call, struct slice message,
                       struct store_range *range);
/* True when it needs no read index. */
static inline bool api_range_is_local(const struct api_thread *thread,
                                      const struct store_range *range)
{
    return range->serializable || store_reads_are_local(thread->api->config.store);
}
/* Nothing from the database is to be expected: etcd without a leader. */
bool api_is_away(const struct api_thread *thread);

#endif
