/*
 * Goal: no bytes of a client end the server, and none of its calls outlives its connection.
 * Method: a server whose loop is driven here, a socket pair; the input is written in pieces, behind
 * a preface and SETTINGS when its first byte is odd. In the end every call must be gone.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "core/limits.h"
#include "rpc/conn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t opening[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                 "\0\0\0\4\0\0\0\0\0"; /* Empty SETTINGS. */

static uint32_t known; /* Calls that a handler has seen and on_gone not. */

static void on_start(struct rpc_call *call)
{
    (void)call;
    known++;
}

static void on_gone(struct rpc_call *call)
{
    ASSERT(known > 0);
    ASSERT(!rpc_call_is_alive(call));
    known--;
}

static void on_unary(struct rpc_call *call, struct slice message)
{
    const struct rpc_part part = {.bytes = message};
    rpc_reply(call, &part, 1);
}

static void on_stream(struct rpc_call *call, struct slice message)
{
    static uint8_t zeros[5000];
    const struct rpc_part parts[] = {{.bytes = message}, {.bytes = slice_of(zeros, sizeof(zeros))}};
    for (uint32_t i = 0; i < 20 && rpc_send(call, parts, 2, i % 2 == 0); i++) {
    }
    rpc_finish(call);
}

static void on_bidi(struct rpc_call *call, struct slice message)
{
    const struct rpc_part part = {.bytes = message};
    if (message.size == 3) {
        rpc_call_pause(call, true);
    }
    (void)rpc_send(call, &part, 1, true);
    if (message.size == 4) {
        rpc_fail_err(call, ERR_STOPPED);
    }
}

static const struct rpc_method methods[] = {
    {.path = "/t.T/U",
     .kind = RPC_UNARY,
     .on_start = on_start,
     .on_message = on_unary,
     .on_gone = on_gone},
    {.path = "/t.T/S",
     .kind = RPC_SERVER_STREAM,
     .on_start = on_start,
     .on_message = on_stream,
     .on_gone = on_gone},
    {.path = "/t.T/B",
     .kind = RPC_BIDI,
     .on_start = on_start,
     .on_message = on_bidi,
     .on_half_close = rpc_finish,
     .on_gone = on_gone},
};

static struct rpc_io *io_get(void)
{
    static const struct rpc_config config = {
        .methods = methods,
        .method_count = ARRAY_COUNT(methods),
        .io_threads = 1,
        .request_size_max = 100000,
        .concurrent_streams = 1000,
        .keepalive_min_time_ns = NS_PER_S,
        .keepalive_interval_ns = NS_PER_S,
        .keepalive_timeout_ns = NS_PER_S,
        .clock = &clock_monotonic,
    };
    static struct rpc_server *server;
    if (server == NULL) {
        server = rpc_server_new(&config);
    }
    return rpc_server_io(server, 0);
}

static void turn(struct rpc_io *io)
{
    (void)uv_run(&io->loop.uv, UV_RUN_NOWAIT);
}

/* The answers are not looked at, but must not fill the socket. */
static void drop_answers(int fd)
{
    static uint8_t bytes[65536];
    while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
    }
}

static void write_piece(struct rpc_io *io, int fd, const uint8_t *data, size_t size)
{
    if (size > 0 && send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
        turn(io);
        drop_answers(fd);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    struct rpc_io *io = io_get();
    int fds[2];
    ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    rpc_conn_open(io, fds[0], RPC_STREAM_UNIX);
    if (data[0] % 2 == 1) {
        write_piece(io, fds[1], opening, sizeof(opening) - 1);
    }
    size_t half = (size - 1) * (data[0] / 2) / 127;
    write_piece(io, fds[1], data + 1, half);
    write_piece(io, fds[1], data + 1 + half, size - 1 - half);
    (void)close(fds[1]);
    for (uint32_t i = 0; io->conn_count > 0 || io->call_count > 0; i++) {
        ASSERT(i < 1000);
        turn(io);
    }
    ASSERT(known == 0);
    return 0;
}
