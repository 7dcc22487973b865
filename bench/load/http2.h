/*
 * gRPC calls from one thread, as cheaply as HTTP/2 allows: frames are written and read by hand and
 * only HPACK's decoder is nghttp2's. The generator must cost less per call than the server that it
 * measures, and a server on nghttp2's session can be as cheap as 4 us a call.
 *
 * What the server sees is what a grpc-go client sends: the same header fields, indexed in HPACK's
 * dynamic table after their first use, large receive windows, PINGs answered at once.
 *
 * Errors of the connection itself (refused, closed, broken protocol) end the program with one line:
 * a load that lost its server has no result.
 */
#ifndef LOAD_HTTP2_H
#define LOAD_HTTP2_H

#include "core/buf.h"

enum load_method {
    LOAD_RANGE,
    LOAD_RANGE_STREAM,
    LOAD_PUT,
    LOAD_TXN,
    LOAD_WATCH,
    LOAD_METHOD_COUNT
};

struct load_net;  /* All connections of the program and the epoll over them. */
struct load_conn; /* One HTTP/2 connection. */

enum { LOAD_STATUS_BROKEN = -1 }; /* The stream ended without a grpc-status. */

/*
 * One call at a time; embedded by its owner, zero-initialised but for the callbacks. It may be
 * started again from its own |on_done|.
 */
struct load_call {
    /* One whole message, borrowed for the call. */
    void (*on_message)(struct load_call *call, struct slice message);
    /* The stream is over: |status| is gRPC's, or LOAD_STATUS_BROKEN. */
    void (*on_done)(struct load_call *call, int status);
    /* Private to http2.c. */
    struct load_conn *conn;
    uint32_t stream_id; /* 0 when idle. */
    int status;
    int64_t send_window;
    int64_t received; /* Bytes not yet given back to the stream's window. */
    struct buf in;    /* A message that is not complete yet. */
    struct buf out;   /* Framed bytes that wait for a window. */
    bool out_ends;    /* Half-close after |out|. */
    bool is_blocked;  /* In the connection's queue. */
    struct load_call *blocked_next;
};

struct load_net *load_net_new(void);
/* Closes everything; calls that are still open hear nothing. */
void load_net_free(struct load_net *net);
/* |endpoint| is HOST:PORT; blocks until the server's SETTINGS arrived. */
struct load_conn *load_net_connect(struct load_net *net, const char *endpoint);
/* Write what is queued, wait at most |wait_ns| for the sockets, run the callbacks. */
void load_net_turn(struct load_net *net, uint64_t wait_ns);
/* Bytes through all sockets so far. */
uint64_t load_net_bytes_in(const struct load_net *net);
uint64_t load_net_bytes_out(const struct load_net *net);

/* |message| is copied; |ends| half-closes behind it. The call must be idle. */
void load_call_start(struct load_call *call, struct load_conn *conn, enum load_method method,
                     struct slice message, bool ends);
/* One more message of a bidirectional call. */
void load_call_send(struct load_call *call, struct slice message, bool ends);
/* Buffers of an idle call. */
void load_call_fini(struct load_call *call);

/* Print one line "drover-bench: ..." to standard error and exit with status 1. */
NO_RETURN void load_fail(const char *format, ...) PRINTF_LIKE(1, 2);

#endif
