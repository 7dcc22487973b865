/*
 * Latencies in logarithmic buckets: 64 per power of two, so that a percentile is at most 1.6 % off.
 * 8 * 4,096 bytes, no allocation, O(1) to add. One thread.
 */
#ifndef LOAD_HIST_H
#define LOAD_HIST_H

#include "core/base.h"

enum {
    LOAD_HIST_SUB_BITS = 6,
    LOAD_HIST_BUCKETS = (64 - LOAD_HIST_SUB_BITS + 1) << LOAD_HIST_SUB_BITS,
};

/* Zero-initialised is valid and empty. */
struct load_hist {
    uint64_t counts[LOAD_HIST_BUCKETS];
    uint64_t count;
    uint64_t sum_ns;
    uint64_t max_ns; /* Exact. */
};

void load_hist_add(struct load_hist *hist, uint64_t ns);
/* Smallest latency that |per_mille| of 1000 do not exceed, 0 when empty; |per_mille| 1..1000. */
uint64_t load_hist_at(const struct load_hist *hist, uint32_t per_mille);
/* Mean, 0 when empty. */
uint64_t load_hist_mean(const struct load_hist *hist);

#endif
