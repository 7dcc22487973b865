/* Time as a table of one function, and timers over it: simulation fills in its own. */
#ifndef CORE_CLOCK_H
#define CORE_CLOCK_H

#include "core/base.h"

/* Monotonic nanoseconds from an arbitrary start. Never the wall clock. */
struct clock {
    uint64_t (*now_ns)(const struct clock *clock);
};
/* CLOCK_MONOTONIC. */
extern const struct clock clock_monotonic;

static inline uint64_t clock_now_ns(const struct clock *clock)
{
    return clock->now_ns(clock);
}
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

/* Randomness, likewise. Production: seeded from getrandom(2). One thread at a time; not for
 * secrets. */
struct rng {
    uint64_t state[4]; /* xoshiro256**; never all zero. */
};
/* Equal seeds give equal sequences. */
void rng_seed(struct rng *rng, uint64_t seed);
void rng_seed_from_system(struct rng *rng);
uint64_t rng_next(struct rng *rng);
/* In [0, bound), |bound| > 0. */
uint64_t rng_below(struct rng *rng, uint64_t bound);
void rng_fill(struct rng *rng, void *bytes, size_t size);

struct timer;
typedef void timer_cb(struct timer *timer);

/* Embedded by its owner; zero-initialised is "not armed". */
struct timer {
    uint64_t due_ns;
    timer_cb *callback;
    uint32_t index; /* 1-based place in the heap, 0 = not armed. Private. */
};

/* A binary heap of timers: the owner's loop asks when to wake and runs what is due. One thread. */
struct timers {
    const struct clock *clock;
    struct timer **heap;
    uint32_t count;
    uint32_t room;
};
/* |clock| is borrowed until timers_fini. */
void timers_init(struct timers *timers, const struct clock *clock);
/* Frees the heap; timers that are still armed never fire. */
void timers_fini(struct timers *timers);
/* (Re)arm to fire |after_ns| from now. O(log timers). */
void timers_arm(struct timers *timers, struct timer *timer, uint64_t after_ns, timer_cb *callback);
/* No-op when not armed. O(log timers). */
void timers_disarm(struct timers *timers, struct timer *timer);
static inline bool timer_is_armed(const struct timer *timer)
{
    return timer->index != 0;
}
/* When the next one is due, UINT64_MAX when none is armed. */
uint64_t timers_next_due_ns(const struct timers *timers);
/* Run those that are due now, each disarmed before its callback. */
void timers_run(struct timers *timers);

#endif
