/*
 * Unary calls per second of one io thread, and what one costs it: nghttp2 clients in this thread
 * against a server of one thread, both on this machine. Knobs: connections, streams (calls open at
 * once on each), calls, size (bytes of the message).
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "core/mem.h"
#include "rpc/rpc.h"

enum { ECHO_CONNECTIONS_MAX = 256 };

struct echo_client {
    struct echo *echo;
    int fd;
    nghttp2_session *session;
};

struct echo {
    struct echo_client clients[ECHO_CONNECTIONS_MAX];
    uint32_t client_count;
    uint64_t begun;
    uint64_t done;
    uint64_t calls;
    uint64_t bytes;
    uint8_t *message; /* With its prefix. */
    size_t message_size;
};

static void echo_handler(struct rpc_call *call, struct slice message)
{
    const struct rpc_part part = {.bytes = message};
    rpc_reply(call, &part, 1);
}

static ssize_t echo_source(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
                           size_t room, uint32_t *flags, nghttp2_data_source *source, void *arg)
{
    (void)session;
    (void)stream_id;
    struct echo *echo = ((struct echo_client *)arg)->echo;
    size_t at = (size_t)(uintptr_t)nghttp2_session_get_stream_user_data(session, stream_id);
    size_t size = echo->message_size - at < room ? echo->message_size - at : room;
    (void)source;
    memcpy(buffer, echo->message + at, size);
    at += size;
    ASSERT(nghttp2_session_set_stream_user_data(session, stream_id, (void *)(uintptr_t)at) == 0);
    *flags |= at == echo->message_size ? NGHTTP2_DATA_FLAG_EOF : 0;
    return (ssize_t)size;
}

#define ECHO_FIELD(n, v)                                                                    \
    {                                                                                       \
        (uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), sizeof(n) - 1, sizeof(v) - 1, \
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                    \
    }

static void echo_begin_call(struct echo_client *client)
{
    const nghttp2_nv fields[] = {
        ECHO_FIELD(":method", "POST"),
        ECHO_FIELD(":scheme", "http"),
        ECHO_FIELD(":path", "/bench.Echo/Echo"),
        ECHO_FIELD(":authority", "localhost"),
        ECHO_FIELD("content-type", "application/grpc"),
        ECHO_FIELD("user-agent", "bench"),
        ECHO_FIELD("te", "trailers"),
        ECHO_FIELD("grpc-timeout", "5S"),
    };
    const nghttp2_data_provider provider = {.read_callback = echo_source};
    client->echo->begun++;
    ASSERT(nghttp2_submit_request(client->session, NULL, fields, ARRAY_COUNT(fields), &provider,
                                  NULL) > 0);
}

static int echo_on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                        const uint8_t *data, size_t size, void *arg)
{
    (void)session;
    (void)flags;
    (void)stream_id;
    (void)data;
    ((struct echo_client *)arg)->echo->bytes += size;
    return 0;
}

static int echo_on_close(nghttp2_session *session, int32_t stream_id, uint32_t error, void *arg)
{
    (void)session;
    (void)stream_id;
    struct echo_client *client = arg;
    ASSERT(error == NGHTTP2_NO_ERROR);
    client->echo->done++;
    if (client->echo->begun < client->echo->calls) {
        echo_begin_call(client);
    }
    return 0;
}

static void echo_connect(struct echo_client *client, struct echo *echo, uint16_t port)
{
    client->echo = echo;
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT(connect(client->fd, (const struct sockaddr *)&address, sizeof(address)) == 0);
    int on = 1;
    ASSERT(setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    ASSERT(nghttp2_session_callbacks_new(&callbacks) == 0);
    ASSERT(nghttp2_option_new(&option) == 0);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, echo_on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, echo_on_close);
    nghttp2_option_set_peer_max_concurrent_streams(option, UINT32_MAX);
    ASSERT(nghttp2_session_client_new2(&client->session, callbacks, client, option) == 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    ASSERT(nghttp2_submit_settings(client->session, NGHTTP2_FLAG_NONE, NULL, 0) == 0);
}

/* One write of all that the session has. */
static void echo_write(struct echo_client *client)
{
    static uint8_t out[1024 * 1024];
    size_t used = 0;
    for (;;) {
        const uint8_t *data;
        ssize_t size = nghttp2_session_mem_send(client->session, &data);
        ASSERT(size >= 0);
        bool is_full = used + (size_t)size > sizeof(out);
        if (size == 0 || is_full) {
            for (size_t at = 0; at < used;) {
                ssize_t sent = send(client->fd, out + at, used - at, MSG_NOSIGNAL);
                ASSERT(sent > 0);
                at += (size_t)sent;
            }
            used = 0;
        }
        if (size == 0) {
            return;
        }
        memcpy(out + used, data, (size_t)size);
        used += (size_t)size;
    }
}

static void echo_read(struct echo_client *client)
{
    static uint8_t in[256 * 1024];
    ssize_t size = recv(client->fd, in, sizeof(in), MSG_DONTWAIT);
    ASSERT(size > 0);
    ASSERT(nghttp2_session_mem_recv(client->session, in, (size_t)size) == size);
}

static void echo_run(struct echo *echo, uint64_t streams)
{
    struct pollfd polls[ECHO_CONNECTIONS_MAX];
    for (uint32_t i = 0; i < echo->client_count; i++) {
        polls[i] = (struct pollfd){.fd = echo->clients[i].fd, .events = POLLIN};
        for (uint64_t k = 0; k < streams && echo->begun < echo->calls; k++) {
            echo_begin_call(&echo->clients[i]);
        }
        echo_write(&echo->clients[i]);
    }
    while (echo->done < echo->calls) {
        ASSERT(poll(polls, echo->client_count, -1) > 0);
        for (uint32_t i = 0; i < echo->client_count; i++) {
            if (polls[i].revents != 0) {
                echo_read(&echo->clients[i]);
                echo_write(&echo->clients[i]);
            }
        }
    }
}

static uint64_t echo_cpu_ns(clockid_t clock)
{
    struct timespec used;
    ASSERT(clock_gettime(clock, &used) == 0);
    return (uint64_t)used.tv_sec * NS_PER_S + (uint64_t)used.tv_nsec;
}

static void echo_bench(struct rpc_server *server, const char *name, uint64_t connections,
                       uint64_t streams, uint64_t calls)
{
    static struct echo echo;
    echo = (struct echo){.calls = calls};
    size_t size = (size_t)bench_param("size", 64, 64);
    ASSERT(connections > 0 && connections <= ECHO_CONNECTIONS_MAX && size < UINT32_MAX);
    echo.message_size = size + 5;
    echo.message = mem_alloc(echo.message_size);
    for (uint32_t i = 0; i < 4; i++) {
        echo.message[1 + i] = (uint8_t)(size >> (24 - 8 * i));
    }
    echo.client_count = (uint32_t)connections;
    for (uint32_t i = 0; i < echo.client_count; i++) {
        echo_connect(&echo.clients[i], &echo, rpc_server_port(server, 0));
    }
    uint64_t start_ns = bench_now_ns();
    uint64_t all_ns = echo_cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t mine_ns = echo_cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    echo_run(&echo, streams);
    mine_ns = echo_cpu_ns(CLOCK_THREAD_CPUTIME_ID) - mine_ns;
    all_ns = echo_cpu_ns(CLOCK_PROCESS_CPUTIME_ID) - all_ns;
    bench_report(name, calls, bench_now_ns() - start_ns, bench_mix(0, echo.bytes));
    bench_figure("  server CPU per call", (double)(all_ns - mine_ns) / (double)calls / 1e3, "us");
    for (uint32_t i = 0; i < echo.client_count; i++) {
        nghttp2_session_del(echo.clients[i].session);
        (void)close(echo.clients[i].fd);
    }
    mem_free(echo.message);
}

int main(void)
{
    static const struct rpc_method methods[] = {
        {.path = "/bench.Echo/Echo", .kind = RPC_UNARY, .on_message = echo_handler},
    };
    const struct rpc_config config = {
        .methods = methods,
        .method_count = 1,
        .io_threads = 1,
        .request_size_max = 2 * 1024 * 1024,
        .concurrent_streams = UINT32_MAX,
        .keepalive_min_time_ns = 5 * NS_PER_S,
        .keepalive_interval_ns = 7200 * NS_PER_S,
        .keepalive_timeout_ns = 20 * NS_PER_S,
        .clock = &clock_monotonic,
    };
    struct rpc_server *server = rpc_server_new(&config);
    char why[256];
    if (rpc_server_listen(server, "http://127.0.0.1:0", why, sizeof(why)) != ERR_OK) {
        (void)fprintf(stderr, "%s\n", why);
        return 1;
    }
    rpc_server_start(server);
    uint64_t calls = bench_param("calls", 2000, 500000);
    uint64_t connections = bench_param("connections", 8, 8);
    uint64_t streams = bench_param("streams", 32, 32);
    echo_bench(server, "rpc/echo/multiplexed", connections, streams, calls);
    echo_bench(server, "rpc/echo/one_stream_each", connections, 1, calls / 4);
    rpc_server_stop(server, NS_PER_S);
    rpc_server_join(server);
    rpc_server_free(server);
    return 0;
}
