/*
 * What etcd means: its services as rpc methods over the store, and drover.v1.Inspect.
 *
 *   request.c   requests of the wire into the store's words
 *   kv.c        Range, Put, DeleteRange, Txn, Compact
 *   stream.c    RangeStream
 *   lease.c     Grant, Revoke, TimeToLive, Leases
 *   keepalive.c  LeaseKeepAlive
 *   watch.c     Watch
 *   conn.c      what the calls of one connection share
 *   compose.c   when answers to reads are composed
 *   cluster.c   MemberList
 *   maintenance.c  Status, Alarm
 *   health.c    grpc.health.v1, and the check behind /health
 *   inspect.c   drover.v1.Inspect
 *   thread.c    what each io thread has, and its turns
 *   ask.c       a question to the store and its way back
 *   call.c      answering a call, by message or error
 *   decode.c, codec.c, codec_txn.c, out.c   bytes in, bytes out
 *
 * One struct api per process; everything that a handler touches belongs to its io thread.
 */
#ifndef API_API_H
#define API_API_H

#include "rpc/rpc.h"
#include "store/store.h"

struct api;

/* All pointers borrowed for the api's life. */
struct api_config {
    struct store *store;
    const struct cache *cache;     /* The store's. */
    uint32_t io_threads;           /* As rpc_config's. */
    uint64_t progress_interval_ns; /* --watch-progress-notify-interval */
    uint64_t request_size_max;     /* --max-request-bytes: size of a RangeStream chunk. */
    uint64_t max_txn_ops;          /* --max-txn-ops */
    uint64_t seed;                 /* Of the jitter of progress notices. */
};

/* Owner frees, after every thread has stopped. */
struct api *api_new(const struct api_config *config);
void api_free(struct api *api);

/* For rpc_config; borrowed, valid until api_free. */
const struct rpc_method *api_methods(const struct api *api, size_t *count);

/* For rpc_config: the request headers that handlers read. */
const char *const *api_metadata(void);

/* On io thread |thread|, before it serves. |reader| is the loop's, already registered: api sets its
 * hold. */
void api_thread_start(struct api *api, uint32_t thread, struct loop *loop,
                      struct reclaim_reader *reader);
/* On the thread (or after its end), when all its calls are gone. */
void api_thread_stop(struct api *api, uint32_t thread);
/* On the thread: end every stream with `etcdserver: server stopped` (UNAVAILABLE: clients resume
 * elsewhere). Unary calls go on. */
void api_thread_drain(struct api *api, uint32_t thread);
/* rpc_config.conn_gone and conn_room. */
void api_connection_gone(void *user);
void api_connection_room(void *user);
/* Store thread: a snapshot or facts were published. Wakes each thread that runs, at most once until
 * it has looked. */
void api_on_publish(struct api *api);

/*
 * etcd's health check: would a Range be answered? |serializable|: from this replica's memory alone.
 * |done| runs once, on |thread|, perhaps inside of the call. On the thread.
 */
void api_health(struct api *api, uint32_t thread, bool serializable,
                void (*done)(void *arg, enum err err), void *arg);

#endif
