/*
 * The byte stream under a connection, as a table of functions: plaintext TCP and unix sockets
 * today (stream.c), TLS as another filling of the same table.
 *
 * Everything runs on the loop's thread. A stream reads from start until close; events may run
 * inside start's loop callbacks only, never inside a call of an operation.
 */
#ifndef RPC_STREAM_H
#define RPC_STREAM_H

#include <sys/types.h>
#include <uv.h>

#include "core/loop.h"
#include "core/slice.h"

struct rpc_stream;

struct rpc_stream_events {
    /* Bytes arrived; borrowed for the call. */
    void (*on_read)(struct rpc_stream *stream, struct slice bytes);
    /* A write ended; |ok| false means that the stream is broken and should be closed. */
    void (*on_written)(struct rpc_stream *stream, bool ok);
    /* End of file or an error: nothing more will be read. */
    void (*on_end)(struct rpc_stream *stream);
    /* The last event, after close: |owner| may free its memory now; the stream frees itself. */
    void (*on_closed)(struct rpc_stream *stream);
};

struct rpc_stream_ops {
    /* Begin to read. */
    void (*start)(struct rpc_stream *stream);
    /* Write what fits at once; nothing is borrowed. Returns the bytes taken, 0 when none fit now,
     * -1 when the stream is broken. Not while a write is in flight. */
    ssize_t (*try_write)(struct rpc_stream *stream, const uv_buf_t *bufs, uint32_t count);
    /* Write it all; |bufs| and contents are borrowed until on_written. One in flight at a time. */
    void (*write)(struct rpc_stream *stream, const uv_buf_t *bufs, uint32_t count);
    /* Send end of file after what was written. Reading goes on. */
    void (*shutdown)(struct rpc_stream *stream);
    /* Stop and resume reading: back-pressure. */
    void (*pause)(struct rpc_stream *stream, bool paused);
    /* Drop what is not written yet; on_closed follows in a later callback. Once. */
    void (*close)(struct rpc_stream *stream);
};

/* The common head of every stream. */
struct rpc_stream {
    const struct rpc_stream_ops *ops;
    const struct rpc_stream_events *events;
    void *owner; /* For the events' receiver. */
};

enum rpc_stream_kind { RPC_STREAM_TCP, RPC_STREAM_UNIX };

/* Where all streams of one thread read into, in turn. */
struct rpc_stream_scratch {
    uint8_t *data;
    size_t size;
};

/*
 * A plaintext stream over the connected, non-blocking socket |fd|, which it takes over, also when
 * it fails. TCP gets TCP_NODELAY and keep-alive. |scratch| and |events| are borrowed for life.
 * NULL when the kernel refuses the socket. Loop thread.
 */
struct rpc_stream *rpc_stream_open(struct loop *loop, int fd, enum rpc_stream_kind kind,
                                   const struct rpc_stream_scratch *scratch,
                                   const struct rpc_stream_events *events, void *owner);

#endif
