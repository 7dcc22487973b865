/* See support_driven.h. */
#include "support_driven.h"

#include <sys/socket.h>

static struct driven_sink *sink_of(struct rpc_stream *stream)
{
    return CONTAINER_OF(stream, struct driven_sink, base);
}

static ssize_t sink_try_write(struct rpc_stream *stream, const uv_buf_t *bufs, uint32_t count)
{
    struct driven_sink *sink = sink_of(stream);
    if (sink->is_full) {
        return 0;
    }
    size_t size = 0;
    for (uint32_t i = 0; i < count; i++) {
        size += bufs[i].len;
    }
    sink->turn_size += size;
    sink->total_size += size;
    sink->write_max = size > sink->write_max ? size : sink->write_max;
    return (ssize_t)size;
}

static void sink_write(struct rpc_stream *stream, const uv_buf_t *bufs, uint32_t count)
{
    (void)bufs;
    assert_true(count > 0);
    assert_false(sink_of(stream)->is_waiting);
    sink_of(stream)->is_waiting = true;
}

static void sink_shutdown(struct rpc_stream *stream)
{
    sink_of(stream)->real->ops->shutdown(sink_of(stream)->real);
}

static void sink_pause(struct rpc_stream *stream, bool paused)
{
    sink_of(stream)->real->ops->pause(sink_of(stream)->real, paused);
}

static void sink_close(struct rpc_stream *stream)
{
    sink_of(stream)->real->ops->close(sink_of(stream)->real);
}

static const struct rpc_stream_ops sink_ops = {
    .try_write = sink_try_write,
    .write = sink_write,
    .shutdown = sink_shutdown,
    .pause = sink_pause,
    .close = sink_close,
};

void driven_start(struct driven *driven, struct rpc_config *config,
                  const struct client_options *options)
{
    *driven = (struct driven){0};
    fake_clock_init(&driven->clock);
    config->io_threads = 1;
    config->request_size_max = 1000 * 1000;
    config->concurrent_streams = UINT32_MAX;
    config->keepalive_interval_ns = NS_PER_S * 1000;
    config->clock = &driven->clock.clock;
    driven->server = rpc_server_new(config);
    driven->io = rpc_server_io(driven->server, 0);
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    rpc_conn_open(driven->io, fds[0], RPC_STREAM_UNIX);
    driven->conn = driven->io->conns;
    client_open_fd(&driven->client, fds[1], options);
    driven->sink =
        (struct driven_sink){.base = {&sink_ops, driven->conn->stream->events, driven->conn},
                             .real = driven->conn->stream};
    driven->conn->stream = &driven->sink.base;
}

void driven_feed(struct driven *driven)
{
    for (;;) {
        const uint8_t *data;
        ssize_t size = nghttp2_session_mem_send(driven->client.session, &data);
        assert_true(size >= 0);
        if (size == 0) {
            return;
        }
        driven_feed_raw(driven, slice_of(data, (size_t)size));
    }
}

void driven_feed_raw(struct driven *driven, struct slice bytes)
{
    struct rpc_stream *stream = driven->conn->stream;
    stream->events->on_read(stream, bytes);
}

void driven_drain(struct driven *driven)
{
    struct rpc_stream *stream = driven->conn->stream;
    driven->sink.is_full = false;
    if (driven->sink.is_waiting) {
        driven->sink.is_waiting = false;
        stream->events->on_written(stream, true);
    }
}

void driven_turn(struct driven *driven)
{
    driven->sink.turn_size = 0;
    (void)uv_run(&driven->io->loop.uv, UV_RUN_NOWAIT);
}

void driven_stop(struct driven *driven)
{
    if (driven->io->conn_count > 0) {
        driven->conn->stream = driven->sink.real;
    }
    client_close(&driven->client);
    while (driven->io->conn_count > 0) {
        (void)uv_run(&driven->io->loop.uv, UV_RUN_NOWAIT);
    }
    rpc_server_free(driven->server);
}
