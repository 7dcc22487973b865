/* Logarithmic buckets. */
#include "hist.h"

/* Values below 64 have a bucket each; above, the top seven bits name it. */
static uint32_t hist_bucket(uint64_t ns)
{
    uint32_t top = 63 - (uint32_t)__builtin_clzll(ns | 1);
    if (top < LOAD_HIST_SUB_BITS) {
        return (uint32_t)ns;
    }
    uint32_t shift = top - LOAD_HIST_SUB_BITS;
    return ((shift + 1) << LOAD_HIST_SUB_BITS) +
           (uint32_t)((ns >> shift) & ((1U << LOAD_HIST_SUB_BITS) - 1));
}

/* Upper end of a bucket. */
static uint64_t hist_value(uint32_t bucket)
{
    uint32_t group = bucket >> LOAD_HIST_SUB_BITS;
    uint64_t sub = bucket & ((1U << LOAD_HIST_SUB_BITS) - 1);
    if (group == 0) {
        return sub;
    }
    uint32_t shift = group - 1;
    return (((UINT64_C(1) << LOAD_HIST_SUB_BITS) + sub + 1) << shift) - 1;
}

void load_hist_add(struct load_hist *hist, uint64_t ns)
{
    uint32_t bucket = hist_bucket(ns);
    ASSERT(bucket < LOAD_HIST_BUCKETS);
    hist->counts[bucket]++;
    hist->count++;
    hist->sum_ns += ns;
    if (ns > hist->max_ns) {
        hist->max_ns = ns;
    }
}

uint64_t load_hist_at(const struct load_hist *hist, uint32_t per_mille)
{
    ASSERT(per_mille >= 1 && per_mille <= 1000);
    uint64_t want = (hist->count * per_mille + 999) / 1000;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < LOAD_HIST_BUCKETS && want > 0; i++) {
        seen += hist->counts[i];
        if (seen >= want) {
            uint64_t value = hist_value(i);
            return value < hist->max_ns ? value : hist->max_ns;
        }
    }
    return 0;
}

uint64_t load_hist_mean(const struct load_hist *hist)
{
    return hist->count == 0 ? 0 : hist->sum_ns / hist->count;
}
