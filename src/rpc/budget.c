/* See budget.h. */
#include "rpc/budget.h"

#include "core/log.h"
#include "core/metrics.h"

enum { BUDGET_LOOK_MS = 1000 };

void rpc_budget_init(struct rpc_io *io)
{
    const struct rpc_config *config = io->config;
    io->held_max = config->in_max / config->io_threads;
    io->out_max = config->out_max / config->io_threads;
    io->call_max = config->calls_max / config->io_threads + 1;
}

/* The same part of |share| for every connection. */
static size_t budget_part(const struct rpc_io *io, size_t share)
{
    return share / (io->conn_count > 0 ? io->conn_count : 1);
}

bool rpc_budget_denies_input(const struct rpc_io *io, size_t held)
{
    return io->held_size > io->held_max && held > budget_part(io, io->held_max);
}

bool rpc_budget_is_over(const struct rpc_conn *conn)
{
    const struct rpc_io *io = conn->io;
    return io->out_size > io->out_max && conn->out_size > budget_part(io, io->out_max);
}

bool rpc_budget_denies_stream(const struct rpc_conn *conn)
{
    const struct rpc_io *io = conn->io;
    /* Those that are gone count as long as the store has them. */
    size_t calls = conn->held->refs - 1;
    bool is_full = io->call_count >= io->call_max && calls >= budget_part(io, io->call_max);
    return conn->out_size > io->config->conn_out_max || calls >= LIMIT_CONN_CALLS || is_full ||
           rpc_budget_is_over(conn);
}

/* ---- connections that hoard ------------------------------------------------------------------ */

/* True when it took less than the least rate since it was first seen to hoard, long enough ago. */
static bool budget_is_stalled(struct rpc_conn *conn, uint64_t now_ns)
{
    if (!rpc_budget_is_over(conn)) {
        conn->hoards_since_ns = 0;
        return false;
    }
    if (conn->hoards_since_ns == 0 || conn->out_taken - conn->hoards_taken >= LIMIT_STALL_BYTES) {
        conn->hoards_since_ns = now_ns;
        conn->hoards_taken = conn->out_taken;
        return false;
    }
    return now_ns - conn->hoards_since_ns >= LIMIT_STALL_MS * NS_PER_MS;
}

static void budget_on_timer(struct timer *timer)
{
    struct rpc_io *io = CONTAINER_OF(timer, struct rpc_io, budget);
    uint64_t now_ns = rpc_io_now_ns(io);
    bool was_over = io->out_size > io->out_max;
    for (struct rpc_conn *conn = io->conns; conn != NULL; conn = conn->next) {
        if (budget_is_stalled(conn, now_ns)) {
            LOG(LOG_WARN, "closing a connection that does not read its answers",
                LUINT("bytes", conn->out_size));
            metric_add(METRIC_drover_refused_connections_total, 1);
            rpc_http2_calm(conn);
        } else if (conn->awaits_room) {
            rpc_conn_touch(conn); /* Room may have come from others. */
        }
    }
    if (was_over) {
        rpc_budget_watch(io);
    }
}

void rpc_budget_watch(struct rpc_io *io)
{
    if (!timer_is_armed(&io->budget)) {
        timers_arm(&io->loop.timers, &io->budget, BUDGET_LOOK_MS * NS_PER_MS, budget_on_timer);
    }
}

void rpc_budget_stop(struct rpc_io *io)
{
    timers_disarm(&io->loop.timers, &io->budget);
}
