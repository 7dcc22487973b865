/*
 * Inside rpc only: io threads and connections.
 *
 * A connection, by state:
 *
 *     NEW ──preface──▶ HTTP2 ──GOAWAY sent, or broken──▶ LINGERING ──end, or timer──▶ CLOSED
 *      └──anything else──▶ HTTP1 ──last answer────────────▲
 *      every state ──the peer is gone, or grace is over──▶ CLOSED
 *
 * NEW        fewer bytes than the HTTP/2 preface, and all of them match
 * LINGERING  nothing more is answered; what is queued is written, then end of file is sent and
 *            what still arrives is dropped, because closing with unread bytes would reset the
 *            connection and lose the last answer
 * CLOSED     the stream is closing; memory is freed in its on_closed
 *
 * Nothing is written inside the callback that asked for it: connections with something to say
 * are listed, and the hook at the end of the loop's turn flushes each by one vectored write.
 */
#ifndef RPC_CONN_H
#define RPC_CONN_H

#include <nghttp2/nghttp2.h>
#include <stdatomic.h>

#include "core/loop.h"
#include "core/sm.h"
#include "rpc/out.h"
#include "rpc/rpc.h"
#include "rpc/stream.h"

struct rpc_http1;
struct rpc_conn;

/* Path to method, read by all threads. See methods.c. */
struct rpc_methods;

/* One io thread. */
struct rpc_io {
    struct rpc_server *server;
    const struct rpc_config *config;
    const struct rpc_methods *methods;
    const nghttp2_session_callbacks *callbacks;
    const nghttp2_option *options;
    uint32_t index;
    uv_thread_t thread;
    struct loop loop;
    struct loop_hook flush;
    uv_idle_t again; /* Active while a connection is listed: the loop must not block. */
    struct rpc_out out;
    struct rpc_stream_scratch read_buffer;
    struct rpc_conn *conns;
    uint32_t conn_count;
    struct rpc_conn *dirty; /* To be flushed at the end of the turn, oldest first. */
    struct rpc_conn **dirty_tail;
    struct rpc_call *awake; /* rpc_call_wake is due; a reference each. */
    struct rpc_call *calls; /* All that are not in the pool. */
    uint32_t call_count;
    struct rpc_call *pool;
    uint32_t pool_count;
    _Atomic uint32_t load; /* Connections and calls, for choosing the least busy thread. */
    _Atomic uint32_t open; /* Connections alone. */
    size_t held_size;      /* Of all connections, ... */
    size_t held_max;       /* ... and this thread's share. */
    size_t out_size;       /* Likewise, queued by calls. */
    size_t out_max;
    uint32_t call_max;
    struct timer budget; /* Armed while |out_size| is beyond its share. */
    bool draining;
    bool grace_is_over;
    bool finished;
    struct timer grace;
};

/*
 * Bytes held for the calls of one connection. Outlives it for as long as somebody has a reference
 * on a call, because the call's memory does. Loop thread.
 */
struct rpc_held {
    size_t size;
    uint32_t refs; /* The connection, and each of its calls until that is free. */
};

enum rpc_conn_state {
    CONN_NEW,
    CONN_HTTP2,
    CONN_HTTP1,
    CONN_LINGERING,
    CONN_CLOSED,
    CONN_STATE_COUNT,
};

enum rpc_conn_drain {
    CONN_SERVING,
    CONN_NOTICED,  /* The first GOAWAY is out: streams up to 2^31-1 are still taken. */
    CONN_DRAINING, /* The final one is: what runs may end. */
};

/* HTTP/2 client connection preface, RFC 9113 section 3.4. */
enum { CONN_PREFACE_SIZE = NGHTTP2_CLIENT_MAGIC_LEN };

struct rpc_conn {
    struct rpc_io *io;
    struct rpc_stream *stream;
    struct sm sm;
    struct rpc_conn *next, *previous; /* Of the io thread. */
    struct rpc_conn *dirty_next;
    bool is_dirty;
    bool must_end;     /* Linger as soon as no callback of the session is on the stack. */
    bool is_settled;   /* The client's SETTINGS have come. */
    bool is_held;      /* Nothing is read until the end of the turn, or until it is written. */
    bool ping_waits;   /* A keep-alive ping of ours is not answered. */
    bool ping_forgive; /* Headers or data were sent since the client's last ping. */
    uint8_t ping_strikes;
    uint8_t head_size;
    uint8_t head[CONN_PREFACE_SIZE];
    enum rpc_conn_drain drain;
    nghttp2_session *session;  /* HTTP2 only. */
    struct rpc_http1 *http1;   /* HTTP1 only. */
    struct rpc_out_rest *rest; /* In flight. */
    struct rpc_call *calls;    /* Those not gone. */
    uint32_t call_count;
    struct rpc_held *held;
    void *user;               /* The service's. */
    size_t out_size;          /* Bytes queued by calls, ... */
    size_t out_unary;         /* ... by unary ones of them, ... */
    uint64_t out_taken;       /* ... and taken from them since the beginning. */
    uint64_t hoards_taken;    /* |out_taken| when it was seen to hoard, ... */
    uint64_t hoards_since_ns; /* ... and when that was; 0: it does not. */
    bool awaits_room;         /* rpc_config.conn_room is due. */
    struct rpc_call *bulk_first,
        *bulk_last;            /* Calls with bulk data, the next promoted one first. */
    struct rpc_call *promoted; /* One of them goes with the urgent ones, ... */
    bool promoted_sent;        /* ... until it has sent a frame. */
    size_t urgent_run;         /* Bytes sent since bulk data waits. */
    size_t turn_read;          /* Bytes read in this turn. */
    uint32_t settings;         /* SETTINGS frames of the second that began ... */
    uint64_t settings_ns;      /* ... then. */
    uint64_t read_ns;          /* When something was last read. */
    uint64_t last_ping_ns;     /* Of the client. 0 = never. */
    uint64_t our_ping_ns;
    struct timer timer;
};

/* For fuzzers, which drive a thread's loop themselves. */
struct rpc_io *rpc_server_io(struct rpc_server *server, uint32_t thread);

/* Takes over |fd|. Loop thread. */
void rpc_conn_open(struct rpc_io *io, int fd, enum rpc_stream_kind kind);
/* Flush at the end of this turn. */
void rpc_conn_touch(struct rpc_conn *conn);
/* Writes as much of io->out as the socket takes, keeps the rest. False when broken: close. */
MUST_CHECK bool rpc_conn_write(struct rpc_conn *conn);
/* Write what is queued, then end; see LINGERING. Never inside a session's callback. */
void rpc_conn_linger(struct rpc_conn *conn);
/* Gives one reference back. */
void rpc_held_unref(struct rpc_held *held);
/* At once. No-op when closed. Never inside a session's callback. */
void rpc_conn_close(struct rpc_conn *conn);
/* Announce the end: see rpc_server_stop. */
void rpc_conn_drain(struct rpc_conn *conn);
/* (Re)arm the connection's one timer. */
void rpc_conn_arm(struct rpc_conn *conn, uint64_t after_ns);
static inline bool rpc_conn_is(const struct rpc_conn *conn, enum rpc_conn_state state)
{
    return sm_is(&conn->sm, state);
}
/* See rpc_call_has_room. */
bool rpc_conn_has_room(const struct rpc_conn *conn);
uint64_t rpc_io_now_ns(const struct rpc_io *io);
/* The loop must not block before its next turn ends. */
void rpc_io_stay_awake(struct rpc_io *io);
/* The callback of io->again. */
void rpc_io_on_idle(uv_idle_t *idle);
/* The end-of-turn hook: flush what is listed, run what became writable. */
void rpc_io_flush(struct rpc_io *io);
/* After a connection or call went: ends a draining thread that has none left. */
void rpc_io_check_end(struct rpc_io *io);

/* ---- http2.c: a session of nghttp2 --------------------------------------------------------- */

nghttp2_session_callbacks *rpc_http2_callbacks_new(void);
nghttp2_option *rpc_http2_options_new(void);
void rpc_http2_start(struct rpc_conn *conn);
void rpc_http2_free(struct rpc_conn *conn);
/* Feeds the session. False when it is beyond repair. */
MUST_CHECK bool rpc_http2_read(struct rpc_conn *conn, struct slice bytes);
/* Fills io->out until it is full or nothing is left. False as above. */
MUST_CHECK bool rpc_http2_gather(struct rpc_conn *conn);
/* Answers to the client's frames wait for a socket that takes none: it may send no more. */
bool rpc_http2_is_clogged(const struct rpc_conn *conn);
/* Nothing to read and nothing to write any more. */
/* The client asks for more than it takes: GOAWAY with ENHANCE_YOUR_CALM, then the end. */
void rpc_http2_calm(struct rpc_conn *conn);
bool rpc_http2_is_over(const struct rpc_conn *conn);
void rpc_http2_drain(struct rpc_conn *conn);
void rpc_http2_on_timer(struct rpc_conn *conn);

/* ---- http1.c: requests of HTTP/1.1 --------------------------------------------------------- */

void rpc_http1_start(struct rpc_conn *conn);
void rpc_http1_free(struct rpc_conn *conn);
void rpc_http1_read(struct rpc_conn *conn, struct slice bytes);
void rpc_http1_gather(struct rpc_conn *conn);
void rpc_http1_on_end(struct rpc_conn *conn);
void rpc_http1_drain(struct rpc_conn *conn);
void rpc_http1_on_timer(struct rpc_conn *conn);

#endif
