/*
 * What /metrics shows. Every thread counts in a block of its own: a count is one plain 64-bit
 * load and store of memory that no other thread writes, never an atomic read-modify-write;
 * metrics_render adds the blocks up. A thread gets its block at its first count, and the block
 * stays when the thread ends, so that nothing that was counted is lost.
 */
#ifndef CORE_METRICS_H
#define CORE_METRICS_H

#include <stdatomic.h>

#include "core/buf.h"
#include "core/limits.h"

/* metric_add(METRIC_etcd_mvcc_put_total, 1): the name on the page is the name in the code. */
enum metric {
#define METRIC(name, kind, help) METRIC_##name,
#define HISTOGRAM(name, help)
#define INFO(name, label, value, help)
#include "core/metrics.def"
#undef METRIC
#undef HISTOGRAM
#undef INFO
    METRIC_COUNT
};

enum metric_histogram {
#define METRIC(name, kind, help)
#define HISTOGRAM(name, help) HISTOGRAM_##name,
#define INFO(name, label, value, help)
#include "core/metrics.def"
#undef METRIC
#undef HISTOGRAM
#undef INFO
    HISTOGRAM_COUNT
};

enum {
    METRICS_BUCKETS = 14, /* 1 ms, 2 ms, ... 8.192 s: etcd's buckets for disks. */
    METRICS_GRPC_CODES = 17,
};

/* One gRPC method's counts. */
struct metrics_call {
    _Atomic uint64_t started;
    _Atomic uint64_t received; /* Messages. */
    _Atomic uint64_t sent;     /* Likewise. */
    _Atomic uint64_t handled[METRICS_GRPC_CODES];
};

struct metrics_spread {
    _Atomic uint64_t buckets[METRICS_BUCKETS + 1]; /* Each alone, not cumulated; last: beyond. */
    _Atomic uint64_t sum_ns;
};

/* One thread's counts. Written by its thread, read by all. */
struct metrics_block {
    struct metrics_block *next;
    _Atomic uint64_t values[METRIC_COUNT];
    struct metrics_spread spreads[HISTOGRAM_COUNT];
    struct metrics_call calls[LIMIT_RPC_METHODS];
    uint8_t pad[64]; /* The next block begins on another cache line. */
};

/* This thread's block; made at first use. */
struct metrics_block *metrics_mine(void);

/* Any thread; never from two threads on one counter's block, which metrics_mine ensures. */
static inline void metrics_bump(_Atomic uint64_t *slot, uint64_t by)
{
    uint64_t now = atomic_load_explicit(slot, memory_order_relaxed);
    atomic_store_explicit(slot, now + by, memory_order_relaxed);
}
/* Counters; gauges too where threads add up, as with watchers (a negative |by| wraps rightly). */
static inline void metric_add(enum metric metric, int64_t by)
{
    metrics_bump(&metrics_mine()->values[metric], (uint64_t)by);
}
/* Gauges that one thread alone sets. */
static inline void metric_set(enum metric metric, int64_t value)
{
    atomic_store_explicit(&metrics_mine()->values[metric], (uint64_t)value, memory_order_relaxed);
}
/* The sum over all threads, as /metrics would show it: for tests and tools. */
int64_t metric_get(enum metric metric);

void metric_observe_ns(enum metric_histogram histogram, uint64_t ns);

/*
 * Name a method of grpc_server_*; returns its index for the calls below. At start, on one thread,
 * before any of them is counted. |service| as in "etcdserverpb.KV"; |type| as in "unary",
 * "server_stream", "client_stream", "bidi_stream". All are copied, for the process's life.
 * The same (service, method) again gives the same index. At most LIMIT_RPC_METHODS.
 */
uint32_t metrics_call_add(const char *service, const char *method, const char *type);
/* Any thread. */
void metrics_call_started(uint32_t call);
void metrics_call_received(uint32_t call);
void metrics_call_sent(uint32_t call);
/* |grpc_code| outside of 0..16 counts as Unknown. */
void metrics_call_handled(uint32_t call, int grpc_code);

/* Append Prometheus' text format. Any thread. Reads a few files of /proc. */
void metrics_render(struct buf *page);

#endif
