/*
 * io threads and their end. The first thread accepts for all and hands each socket to the thread
 * that has the fewest connections and running calls: clients hold few, long connections.
 */
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/metrics.h"
#include "rpc/budget.h"
#include "rpc/call.h"
#include "rpc/listen.h"

enum { SERVER_READ_SIZE = 256 * 1024 };

struct rpc_server {
    struct rpc_config config;
    struct rpc_methods *methods;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *options;
    struct rpc_listen *listens[LIMIT_LISTENERS];
    uint32_t listen_count;
    uint32_t io_count;
    uint32_t turn; /* Breaks ties in the choice of a thread. First thread only. */
    bool is_started;
    bool is_joined;
    struct rpc_io *ios;
    struct server_stop *stops;
};

/* A socket on its way to its thread. */
struct server_handover {
    struct loop_post post;
    struct rpc_io *io;
    int fd;
    enum rpc_stream_kind kind;
};

/* The order to stop, one for each thread. */
struct server_stop {
    struct loop_post post;
    struct rpc_io *io;
    uint64_t grace_ns;
};

/* ---- one thread ---------------------------------------------------------------------------- */

static void io_on_flush(struct loop_hook *hook)
{
    rpc_io_flush(CONTAINER_OF(hook, struct rpc_io, flush));
}

static void io_init(struct rpc_io *io, struct rpc_server *server, uint32_t index)
{
    io->server = server;
    io->config = &server->config;
    io->methods = server->methods;
    io->callbacks = server->callbacks;
    io->options = server->options;
    io->index = index;
    io->dirty_tail = &io->dirty;
    atomic_init(&io->load, 0);
    atomic_init(&io->open, 0);
    loop_init(&io->loop, server->config.clock);
    ASSERT(uv_idle_init(&io->loop.uv, &io->again) == 0);
    rpc_out_init(&io->out);
    io->read_buffer =
        (struct rpc_stream_scratch){mem_alloc_raw(SERVER_READ_SIZE), SERVER_READ_SIZE};
    io->flush.run = io_on_flush;
    loop_add_hook(&io->loop, &io->flush);
    rpc_budget_init(io);
}

static void io_close_idle(uv_handle_t *handle)
{
    (void)handle;
}

/* After the loop has ended, or when it never ran. */
static void io_fini(struct rpc_io *io)
{
    if (!io->finished) {
        loop_remove_hook(&io->loop, &io->flush);
        uv_close((uv_handle_t *)&io->again, io_close_idle);
    }
    while (io->calls != NULL) {
        rpc_call_free(io->calls); /* Their answers never came. */
    }
    while (io->pool != NULL) {
        struct rpc_call *call = io->pool;
        io->pool = call->next;
        arena_fini(&call->arena);
        mem_free(call);
    }
    loop_fini(&io->loop);
    rpc_out_fini(&io->out);
    mem_free(io->read_buffer.data);
}

void rpc_io_check_end(struct rpc_io *io)
{
    bool calls_done = io->call_count == 0 || io->grace_is_over;
    if (!io->draining || io->finished || io->conn_count > 0 || !calls_done) {
        return;
    }
    io->finished = true;
    timers_disarm(&io->loop.timers, &io->grace);
    rpc_budget_stop(io);
    loop_remove_hook(&io->loop, &io->flush);
    uv_close((uv_handle_t *)&io->again, io_close_idle);
    loop_stop(&io->loop);
}

static void io_on_grace_over(struct timer *timer)
{
    struct rpc_io *io = CONTAINER_OF(timer, struct rpc_io, grace);
    io->grace_is_over = true;
    if (io->conn_count > 0 || io->call_count > 0) {
        LOG(LOG_WARN, "grace period is over", LUINT("connections", io->conn_count),
            LUINT("calls", io->call_count));
    }
    for (struct rpc_conn *conn = io->conns; conn != NULL; conn = conn->next) {
        rpc_conn_close(conn);
    }
    rpc_io_check_end(io);
}

/* The other threads are told by the first one, behind the last socket that it handed over. */
static void server_stop_listening(struct rpc_server *server)
{
    for (uint32_t i = 0; i < server->listen_count; i++) {
        rpc_listen_stop(server->listens[i]);
    }
    for (uint32_t i = 1; i < server->io_count; i++) {
        loop_post(&server->ios[i].loop, &server->stops[i].post);
    }
}

static void io_on_stop(struct loop_post *post)
{
    struct server_stop *stop = CONTAINER_OF(post, struct server_stop, post);
    struct rpc_io *io = stop->io;
    const struct rpc_config *config = io->config;
    io->draining = true;
    if (io->index == 0) {
        server_stop_listening(io->server);
    }
    timers_arm(&io->loop.timers, &io->grace, stop->grace_ns, io_on_grace_over);
    for (struct rpc_conn *conn = io->conns; conn != NULL; conn = conn->next) {
        rpc_conn_drain(conn); /* Closing takes it off the list in a later callback only. */
    }
    if (config->on_drain != NULL) {
        config->on_drain(io->index, &io->loop, config->thread_arg);
    }
    /* Those that handlers do not know yet. */
    for (struct rpc_call *call = io->calls; call != NULL; call = call->next) {
        if (call->method != NULL && call->method->kind != RPC_UNARY) {
            rpc_fail_err(call, ERR_STOPPED); /* No-op if it has ended. */
        }
    }
    rpc_io_check_end(io);
}

static void server_on_accepted(void *arg, int fd, enum rpc_stream_kind kind);

static void io_run(void *arg)
{
    struct rpc_io *io = arg;
    const struct rpc_config *config = io->config;
    char name[16];
    (void)snprintf(name, sizeof(name), "drover-io-%u", io->index % 1000);
    (void)pthread_setname_np(pthread_self(), name);
    if (config->thread_start != NULL) {
        config->thread_start(io->index, &io->loop, config->thread_arg);
    }
    for (uint32_t i = 0; io->index == 0 && i < io->server->listen_count; i++) {
        rpc_listen_start(io->server->listens[i], &io->loop, server_on_accepted, io->server);
    }
    loop_run(&io->loop);
    if (config->thread_stop != NULL) {
        config->thread_stop(io->index, &io->loop, config->thread_arg);
    }
}

/* ---- handing sockets over ------------------------------------------------------------------ */

static void server_on_handover(struct loop_post *post)
{
    struct server_handover *handover = CONTAINER_OF(post, struct server_handover, post);
    if (handover->io->draining) {
        (void)close(handover->fd);
    } else {
        rpc_conn_open(handover->io, handover->fd, handover->kind);
    }
    mem_free(handover);
}

static struct rpc_io *server_least_busy(struct rpc_server *server, uint32_t *open)
{
    struct rpc_io *best = NULL;
    uint32_t best_load = UINT32_MAX;
    *open = 0;
    server->turn++;
    for (uint32_t i = 0; i < server->io_count; i++) {
        struct rpc_io *io = &server->ios[(server->turn + i) % server->io_count];
        uint32_t load = atomic_load_explicit(&io->load, memory_order_relaxed);
        *open += atomic_load_explicit(&io->open, memory_order_relaxed);
        if (best == NULL || load < best_load) {
            best = io;
            best_load = load;
        }
    }
    return best;
}

static void server_on_accepted(void *arg, int fd, enum rpc_stream_kind kind)
{
    struct rpc_server *server = arg;
    uint32_t open;
    struct rpc_io *io = server_least_busy(server, &open);
    if (open >= server->config.connections_max) {
        metric_add(METRIC_drover_refused_connections_total, 1);
        (void)close(fd);
        return;
    }
    struct server_handover *handover = mem_alloc(sizeof(*handover));
    *handover =
        (struct server_handover){.post.run = server_on_handover, .io = io, .fd = fd, .kind = kind};
    /* Counted at once, so that a burst of connections spreads. The thread sets the truth. */
    atomic_fetch_add_explicit(&io->load, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&io->open, 1, memory_order_relaxed);
    loop_post(&io->loop, &handover->post);
}

/* ---- the server ---------------------------------------------------------------------------- */

static void server_set_defaults(struct rpc_config *config)
{
    if (config->conn_in_max == 0) {
        config->conn_in_max = LIMIT_CONN_IN_MAX;
    }
    if (config->conn_out_max == 0) {
        config->conn_out_max = LIMIT_CONN_OUT_MAX;
    }
    if (config->conn_turn_write == 0) {
        config->conn_turn_write = LIMIT_CONN_TURN_WRITE;
    }
    if (config->in_max == 0) {
        config->in_max = LIMIT_IN_MAX;
    }
    if (config->out_max == 0) {
        config->out_max = LIMIT_OUT_MAX;
    }
    if (config->calls_max == 0) {
        config->calls_max = LIMIT_CALLS;
    }
    if (config->connections_max == 0) {
        config->connections_max = LIMIT_CONNECTIONS;
    }
}

struct rpc_server *rpc_server_new(const struct rpc_config *config)
{
    ASSERT(config->io_threads >= 1 && config->io_threads <= LIMIT_IO_THREADS);
    ASSERT(config->clock != NULL);
    ASSERT(config->request_size_max > 0);
    for (uint32_t i = 0; config->metadata != NULL && config->metadata[i] != NULL; i++) {
        ASSERT(i < RPC_METADATA_MAX);
    }
    /* uv writes to sockets whose reader may be gone. */
    ASSERT(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    struct rpc_server *server = mem_alloc(sizeof(*server));
    server->config = *config;
    server_set_defaults(&server->config);
    server->methods = rpc_methods_new(config->methods, config->method_count);
    server->callbacks = rpc_http2_callbacks_new();
    server->options = rpc_http2_options_new();
    server->io_count = config->io_threads;
    server->ios = mem_alloc(server->io_count * sizeof(*server->ios));
    server->stops = mem_alloc(server->io_count * sizeof(*server->stops));
    for (uint32_t i = 0; i < server->io_count; i++) {
        io_init(&server->ios[i], server, i);
    }
    return server;
}

struct rpc_io *rpc_server_io(struct rpc_server *server, uint32_t thread)
{
    ASSERT(thread < server->io_count);
    return &server->ios[thread];
}

struct loop *rpc_server_loop(struct rpc_server *server, uint32_t thread)
{
    ASSERT(thread < server->io_count);
    return &server->ios[thread].loop;
}

enum err rpc_server_listen(struct rpc_server *server, const char *url, char *why, size_t why_size)
{
    ASSERT(!server->is_started);
    if (server->listen_count == LIMIT_LISTENERS) {
        (void)snprintf(why, why_size, "more than %d addresses to listen on", LIMIT_LISTENERS);
        return ERR_CONFIG;
    }
    for (uint32_t i = 0; i < server->listen_count; i++) {
        if (rpc_listen_is(server->listens[i], url)) {
            return ERR_OK; /* Given twice. */
        }
    }
    struct rpc_listen *listen = rpc_listen_new(url, why, why_size);
    if (listen == NULL) {
        return ERR_CONFIG;
    }
    server->listens[server->listen_count++] = listen;
    return ERR_OK;
}

uint16_t rpc_server_port(const struct rpc_server *server, size_t index)
{
    for (uint32_t i = 0; i < server->listen_count; i++) {
        uint16_t port = rpc_listen_port(server->listens[i]);
        if (port != 0 && index-- == 0) {
            return port;
        }
    }
    return 0;
}

void rpc_server_start(struct rpc_server *server)
{
    ASSERT(!server->is_started);
    server->is_started = true;
    for (uint32_t i = 0; i < server->io_count; i++) {
        ASSERT(uv_thread_create(&server->ios[i].thread, io_run, &server->ios[i]) == 0);
    }
}

void rpc_server_stop(struct rpc_server *server, uint64_t grace_ns)
{
    ASSERT(server->is_started);
    for (uint32_t i = 0; i < server->io_count; i++) {
        struct server_stop *stop = &server->stops[i];
        *stop = (struct server_stop){
            .post.run = io_on_stop, .io = &server->ios[i], .grace_ns = grace_ns};
    }
    loop_post(&server->ios[0].loop, &server->stops[0].post);
}

void rpc_server_join(struct rpc_server *server)
{
    ASSERT(server->is_started && !server->is_joined);
    server->is_joined = true;
    for (uint32_t i = 0; i < server->io_count; i++) {
        ASSERT(uv_thread_join(&server->ios[i].thread) == 0);
    }
}

void rpc_server_free(struct rpc_server *server)
{
    if (server == NULL) {
        return;
    }
    ASSERT(server->is_joined || !server->is_started);
    for (uint32_t i = 0; i < server->io_count; i++) {
        io_fini(&server->ios[i]);
    }
    for (uint32_t i = 0; i < server->listen_count; i++) {
        rpc_listen_free(server->listens[i]);
    }
    rpc_methods_free(server->methods);
    nghttp2_session_callbacks_del(server->callbacks);
    nghttp2_option_del(server->options);
    mem_free(server->ios);
    mem_free(server->stops);
    mem_free(server);
}
