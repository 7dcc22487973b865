/*
 * Plain gRPC over HTTP/2: calls, methods and servers. Knows no service; could serve any.
 *
 * Threads: a server has N io threads, each with one loop; a connection belongs to one loop for
 * life, and so do its calls. Every function below that takes a call runs on that loop's thread.
 *
 * A call, as its handler sees it:
 *
 *     unary            on_message once (with the whole message), then rpc_reply or rpc_fail, once
 *     server stream    on_message once, then rpc_send ..., then rpc_finish
 *     bidi             on_message for each, on_half_close when the client is done sending;
 *                      rpc_send at any time, rpc_finish once
 *
 * on_gone runs exactly once per call that its handler has seen, last: after the answer has been
 * handed to the connection, or when the client cancelled, its deadline passed, or the connection
 * died. A handler that waits for another thread takes a reference with rpc_call_ref and drops it
 * when the answer came; answering a call that is gone or already ended is a no-op, so a late answer
 * needs no check. Calls are refused without their handler for what grpc-go refuses: an unknown
 * method, a bad content type or timeout, a message too large or badly compressed, none at all.
 * Messages in gzip are inflated before the handler sees them, and answered in gzip.
 * As in grpc-go, a unary handler runs as soon as its message is whole, and what follows is ignored;
 * a server stream's runs when the client is done sending.
 */
#ifndef RPC_RPC_H
#define RPC_RPC_H

#include "core/arena.h"
#include "core/buf.h"
#include "core/err.h"
#include "core/loop.h"
#include "core/shared.h"

struct rpc_call;
struct rpc_server;

enum { RPC_METADATA_MAX = 8 };

enum rpc_kind { RPC_UNARY, RPC_SERVER_STREAM, RPC_BIDI };

struct rpc_method {
    const char *path; /* "/etcdserverpb.KV/Range" */
    enum rpc_kind kind;
    /* One whole message, borrowed for the call of on_message; for RPC_UNARY and RPC_SERVER_STREAM
     * it stays valid until on_gone. */
    void (*on_message)(struct rpc_call *call, struct slice message);
    void (*on_half_close)(struct rpc_call *call); /* RPC_BIDI only. */
    /* Output went below the low-water mark after rpc_send had returned false. Streams only. */
    void (*on_writable)(struct rpc_call *call);
    /* The call ended, by whomever; on_gone may be long in coming, when the client reads nothing. At
     * most once, inside of what ended it; not before on_gone of a call that did not end. Streams
     * only. May be NULL. */
    void (*on_end)(struct rpc_call *call);
    void (*on_gone)(struct rpc_call *call); /* May be NULL. */
    /* Before the first message, right after headers; may rpc_fail. May be NULL. */
    void (*on_start)(struct rpc_call *call);
    void *arg; /* The handler's own, see rpc_call_method. */
};

/* gRPC status codes by number are in core/err.def; these are the ones rpc itself answers with. */
enum rpc_status {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE = 4,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
};

/* ---- a call -------------------------------------------------------------------------------- */

const struct rpc_method *rpc_call_method(const struct rpc_call *call);
struct loop *rpc_call_loop(const struct rpc_call *call);
/* The io thread's own data, as given to rpc_server_start (index of the thread, 0-based). */
uint32_t rpc_call_thread(const struct rpc_call *call);
/* One pointer of the service for the whole connection, NULL at first; rpc_config.conn_gone gets it
 * at the end. Not after on_gone of |call|. */
void **rpc_call_connection_user(const struct rpc_call *call);
/*
 * True while a unary answer may be composed for |call|: LIMIT_CONN_UNREAD is not reached by unary
 * answers that wait on its connection, nor is the thread's share of LIMIT_OUT_MAX. A handler that
 * finds false asks to be told by rpc_config.conn_room, once, and composes then: the client feels it
 * by flow control, and memory holds few answers. Not after on_gone.
 */
bool rpc_call_has_room(const struct rpc_call *call);
void rpc_call_await_room(struct rpc_call *call);
/* Memory that lives until the last reference is dropped. Ceiling: LIMIT_CALL_ARENA_MAX. */
struct arena *rpc_call_arena(struct rpc_call *call);
/* One pointer for the handler, NULL at first. */
void **rpc_call_user(struct rpc_call *call);
/* Value of a request header that rpc_config.metadata names, borrowed for the call's life; of
 * several the first one. Empty if absent. */
struct slice rpc_call_metadata(const struct rpc_call *call, const char *name);
/* Absolute, monotonic (the loop's clock); UINT64_MAX without grpc-timeout. */
uint64_t rpc_call_deadline_ns(const struct rpc_call *call);
/* False once the call has ended: answered, failed, or gone. */
bool rpc_call_is_alive(const struct rpc_call *call);
struct rpc_call *rpc_call_ref(struct rpc_call *call);
void rpc_call_unref(struct rpc_call *call);

/* A piece of a message: |bytes| are copied unless |owner| is set; then they are inside
 * |owner|->bytes, and the connection takes a reference of its own. Pieces >= 1 KiB are sent
 * without a copy. */
struct rpc_part {
    struct slice bytes;
    struct shared *owner;
};

/* Unary: the answer, with status OK. The parts together are one message. */
void rpc_reply(struct rpc_call *call, const struct rpc_part *parts, size_t part_count);
/* Any kind: end with a status. |message| is copied and percent-encoded as gRPC demands;
 * trailers-only when nothing has been sent yet. */
void rpc_fail(struct rpc_call *call, int grpc_code, struct slice message);
/* rpc_fail with the error's own code and words. */
void rpc_fail_err(struct rpc_call *call, enum err err);
/* Streams: queue one message. Queued unless the call has ended; false asks the sender to stop
 * until on_writable, because more than LIMIT_STREAM_OUT_HIGH bytes wait on this stream (or, when
 * the call has ended, for good). |urgent| messages (watch events) leave before bulk ones of the
 * same connection: a stream with an urgent message waiting is scheduled like small answers, any
 * other one with more than 16 KiB waiting behind them. */
bool rpc_send(struct rpc_call *call, const struct rpc_part *parts, size_t part_count, bool urgent);
/* Streams: end with status OK after what is queued. */
void rpc_finish(struct rpc_call *call);
/* Bytes queued on this call and not yet given to the socket, and those that were given. */
size_t rpc_call_queued(const struct rpc_call *call);
uint64_t rpc_call_taken(const struct rpc_call *call);
/* Bidi: hold on_message back, or let it go on from a later callback. The client feels it by flow
 * control. Input is held back by itself, too, while twice LIMIT_STREAM_OUT_HIGH wait for output. */
void rpc_call_pause(struct rpc_call *call, bool paused);

/* ---- HTTP/1.1 on the same port ------------------------------------------------------------- */

/* One whole request, borrowed until its answer, which may come later, from the same thread,
 * exactly once, and may point into the request. */
struct rpc_http_request {
    struct slice method; /* "GET" */
    struct slice path;   /* Without the query, percent-decoded not. */
    struct slice query;  /* Behind '?', may be empty. */
    struct slice body;   /* At most LIMIT_REQUEST_SIZE_MAX + LIMIT_REQUEST_OVERHEAD. */
};
struct rpc_http;
/* Value of a header by its lower-case name, borrowed until the answer; empty if absent. */
struct slice rpc_http_header(const struct rpc_http *http, const char *name);
typedef void rpc_http_fn(struct rpc_http *http, const struct rpc_http_request *request, void *arg);
/* |content_type| is a static string; |allow| adds an Allow header, or NULL. A no-op when the
 * connection is gone; frees |http|. HEAD gets the headers only. */
void rpc_http_answer(struct rpc_http *http, int status, const char *content_type, struct slice body,
                     const char *allow);
struct loop *rpc_http_loop(const struct rpc_http *http);
uint32_t rpc_http_thread(const struct rpc_http *http);

/* ---- a server ------------------------------------------------------------------------------ */

/* What a server is made of. All pointers borrowed for the server's life. */
struct rpc_config {
    const struct rpc_method *methods;
    size_t method_count;
    /* Lower-case names of the request headers that handlers read, NULL at the end; at most
     * RPC_METADATA_MAX. All others are checked and forgotten. NULL: none is read. */
    const char *const *metadata;
    rpc_http_fn *http; /* HTTP/1.1 requests; NULL answers 404. */
    void *http_arg;
    uint32_t io_threads;            /* 1..LIMIT_IO_THREADS */
    uint32_t request_size_max;      /* gRPC message in, bytes: larger is ResourceExhausted. */
    uint32_t concurrent_streams;    /* SETTINGS_MAX_CONCURRENT_STREAMS, etcd: 2^32-1. */
    uint64_t keepalive_min_time_ns; /* Pings more often than this: GOAWAY too_many_pings. */
    uint64_t keepalive_interval_ns; /* Server pings an idle connection, etcd: 2 h. */
    uint64_t keepalive_timeout_ns;  /* And waits so long, etcd: 20 s. */
    /* Bytes of one connection; 0 takes the LIMIT_CONN_... of the same name. */
    size_t conn_in_max;     /* Held for its calls, arenas too: beyond it ResourceExhausted. */
    size_t conn_out_max;    /* Answers queued: beyond it new streams are REFUSED_STREAM. */
    size_t conn_turn_write; /* Written in one turn; then other connections come first. */
    /* Of all connections; 0 takes LIMIT_IN_MAX, LIMIT_OUT_MAX, LIMIT_CALLS, LIMIT_CONNECTIONS. Each
     * thread has an equal share of the first three. */
    size_t in_max;
    size_t out_max;
    uint32_t calls_max;
    uint32_t connections_max;
    const struct clock *clock;
    /* What rpc_call_await_room waits for. At the end of a turn, on its thread. May be NULL when
     * nobody waits. */
    void (*conn_room)(void *user);
    /* A connection ended, after on_gone of all its calls: |user| is what rpc_call_connection_user
     * was set to, not NULL. On its thread. May be NULL. */
    void (*conn_gone)(void *user);
    /* Runs on each io thread before it serves, and after it has stopped. May be NULL. */
    void (*thread_start)(uint32_t thread, struct loop *loop, void *arg);
    void (*thread_stop)(uint32_t thread, struct loop *loop, void *arg);
    /* On each io thread when it begins to drain: end streams, with rpc_fail_err(ERR_STOPPED); rpc
     * does so to those that are left, and to unary calls whose message does not come. New streams
     * are refused by rpc from then on; new unary calls still come. May be NULL. */
    void (*on_drain)(uint32_t thread, struct loop *loop, void *arg);
    void *thread_arg;
};

/* Makes the loops (not yet running), so that others may post to them. Owner frees. The process
 * ignores SIGPIPE from then on. */
struct rpc_server *rpc_server_new(const struct rpc_config *config);
struct loop *rpc_server_loop(struct rpc_server *server, uint32_t thread);
/* |url| is "http://HOST:PORT", "unix://PATH" or "unix:PATH"; else ERR_CONFIG and one clear line in
 * |why|. Resolves and opens nothing. */
MUST_CHECK enum err rpc_url_check(const char *url, char *why, size_t why_size);
/* Binds and listens at once, accepts with rpc_server_start. |url| as above. On failure returns
 * ERR_CONFIG and one clear line in |why|. */
MUST_CHECK enum err rpc_server_listen(struct rpc_server *server, const char *url, char *why,
                                      size_t why_size);
/* The port actually bound by the n-th TCP listen call (port 0 picks one); 0 if none. */
uint16_t rpc_server_port(const struct rpc_server *server, size_t index);
/* Starts the threads. */
void rpc_server_start(struct rpc_server *server);
/* Any thread, once. Stop accepting, GOAWAY on every connection, tell handlers through
 * |on_drain| of each io thread (streams end themselves with rpc_fail UNAVAILABLE), close
 * connections when their calls are done or after |grace_ns|; then the threads end. */
void rpc_server_stop(struct rpc_server *server, uint64_t grace_ns);
/* Waits for the threads after rpc_server_stop. */
void rpc_server_join(struct rpc_server *server);
void rpc_server_free(struct rpc_server *server);

#endif
