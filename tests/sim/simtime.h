/* The one time of a simulated world: events in order, one at a time, from one seed. */
#ifndef SIM_SIMTIME_H
#define SIM_SIMTIME_H

#include "core/base.h"
#include "core/clock.h"

typedef void sched_fn(void *arg);

struct sched_event {
    uint64_t at_ns;
    uint64_t order; /* Events of one moment run in the order in which they were made. */
    sched_fn *run;
    void *arg;
};

struct sched {
    uint64_t now_ns; /* True time: what nobody in the world can read. */
    uint64_t made;
    struct sched_event *heap;
    uint32_t count;
    uint32_t room;
    struct rng rng;
};

void sched_init(struct sched *sched, uint64_t seed);
void sched_fini(struct sched *sched);
void sched_add(struct sched *sched, uint64_t after_ns, sched_fn *run, void *arg);
/* UINT64_MAX: none. */
uint64_t sched_next_ns(const struct sched *sched);
/* Run the next event; time moves to it. At least one is there. */
void sched_run_one(struct sched *sched);

/* True in |per_mille| of 1000 cases. */
bool sched_chance(struct sched *sched, uint32_t per_mille);
/* In [low, high]. */
uint64_t sched_between(struct sched *sched, uint64_t low, uint64_t high);

#endif
