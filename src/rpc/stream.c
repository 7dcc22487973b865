/* Plaintext byte streams: uv's TCP and pipe handles. */
#include "rpc/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/mem.h"

enum {
    PLAIN_KEEPALIVE_S = 30,
    /* Bytes in the kernel that are not yet on the wire: what they are, urgent data cannot pass. */
    PLAIN_UNSENT_MAX = 128 * 1024,
};

struct plain_stream {
    struct rpc_stream base;
    const struct rpc_stream_scratch *scratch;
    bool paused;
    bool ended;
    bool closed;
    uv_write_t write;
    uv_shutdown_t shutdown;
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
};

static struct plain_stream *plain_of(struct rpc_stream *stream)
{
    return CONTAINER_OF(stream, struct plain_stream, base);
}

static void plain_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)suggested;
    struct plain_stream *plain = handle->data;
    *buf = uv_buf_init((char *)plain->scratch->data, (unsigned)plain->scratch->size);
}

static void plain_on_read(uv_stream_t *handle, ssize_t size, const uv_buf_t *buf)
{
    struct plain_stream *plain = handle->data;
    if (size > 0) {
        plain->base.events->on_read(&plain->base, slice_of(buf->base, (size_t)size));
    } else if (size < 0) {
        plain->ended = true;
        (void)uv_read_stop(handle);
        plain->base.events->on_end(&plain->base);
    }
}

static void plain_start(struct rpc_stream *stream)
{
    struct plain_stream *plain = plain_of(stream);
    ASSERT(!plain->closed);
    plain->paused = false;
    ASSERT(uv_read_start(&plain->uv.stream, plain_on_alloc, plain_on_read) == 0);
}

static ssize_t plain_try_write(struct rpc_stream *stream, const uv_buf_t *bufs, uint32_t count)
{
    struct plain_stream *plain = plain_of(stream);
    ASSERT(!plain->closed);
    int taken = uv_try_write(&plain->uv.stream, bufs, count);
    if (taken == UV_EAGAIN) {
        return 0;
    }
    return taken < 0 ? -1 : taken;
}

static void plain_on_written(uv_write_t *write, int status)
{
    struct plain_stream *plain = CONTAINER_OF(write, struct plain_stream, write);
    plain->base.events->on_written(&plain->base, status == 0);
}

static void plain_write(struct rpc_stream *stream, const uv_buf_t *bufs, uint32_t count)
{
    struct plain_stream *plain = plain_of(stream);
    ASSERT(!plain->closed);
    /* Fails only without memory or on a closed handle. */
    ASSERT(uv_write(&plain->write, &plain->uv.stream, bufs, count, plain_on_written) == 0);
}

static void plain_on_shutdown(uv_shutdown_t *shutdown, int status)
{
    (void)shutdown;
    (void)status;
}

static void plain_shutdown(struct rpc_stream *stream)
{
    struct plain_stream *plain = plain_of(stream);
    ASSERT(!plain->closed);
    /* ENOTCONN when the peer is gone already: the reader will see that. */
    (void)uv_shutdown(&plain->shutdown, &plain->uv.stream, plain_on_shutdown);
}

static void plain_pause(struct rpc_stream *stream, bool paused)
{
    struct plain_stream *plain = plain_of(stream);
    ASSERT(!plain->closed);
    if (plain->paused == paused || plain->ended) {
        return;
    }
    plain->paused = paused;
    if (paused) {
        (void)uv_read_stop(&plain->uv.stream);
    } else {
        ASSERT(uv_read_start(&plain->uv.stream, plain_on_alloc, plain_on_read) == 0);
    }
}

static void plain_on_closed(uv_handle_t *handle)
{
    struct plain_stream *plain = handle->data;
    plain->base.events->on_closed(&plain->base);
    mem_free(plain);
}

static void plain_close(struct rpc_stream *stream)
{
    struct plain_stream *plain = plain_of(stream);
    ASSERT(!plain->closed);
    plain->closed = true;
    uv_close(&plain->uv.handle, plain_on_closed);
}

static const struct rpc_stream_ops plain_ops = {
    .start = plain_start,
    .try_write = plain_try_write,
    .write = plain_write,
    .shutdown = plain_shutdown,
    .pause = plain_pause,
    .close = plain_close,
};

static void plain_on_discarded(uv_handle_t *handle)
{
    mem_free(handle->data);
}

static int plain_adopt(struct plain_stream *plain, struct loop *loop, int fd,
                       enum rpc_stream_kind kind)
{
    if (kind == RPC_STREAM_UNIX) {
        ASSERT(uv_pipe_init(&loop->uv, &plain->uv.pipe, 0) == 0);
        return uv_pipe_open(&plain->uv.pipe, fd);
    }
    ASSERT(uv_tcp_init(&loop->uv, &plain->uv.tcp) == 0);
    int failed = uv_tcp_open(&plain->uv.tcp, fd);
    if (failed == 0) {
        /* Best effort: a peer that has already left makes them fail. */
        (void)uv_tcp_nodelay(&plain->uv.tcp, 1);
        (void)uv_tcp_keepalive(&plain->uv.tcp, 1, PLAIN_KEEPALIVE_S);
        int unsent_max = PLAIN_UNSENT_MAX;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent_max, sizeof(unsent_max));
    }
    return failed;
}

struct rpc_stream *rpc_stream_open(struct loop *loop, int fd, enum rpc_stream_kind kind,
                                   const struct rpc_stream_scratch *scratch,
                                   const struct rpc_stream_events *events, void *owner)
{
    ASSERT_ON_LOOP(loop);
    struct plain_stream *plain = mem_alloc(sizeof(*plain));
    plain->base = (struct rpc_stream){&plain_ops, events, owner};
    plain->scratch = scratch;
    int failed = plain_adopt(plain, loop, fd, kind);
    plain->uv.handle.data = plain;
    if (failed != 0) {
        (void)close(fd);
        uv_close(&plain->uv.handle, plain_on_discarded);
        return NULL;
    }
    return &plain->base;
}
