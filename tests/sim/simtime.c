/* A binary heap of events. */
#include "simtime.h"

#include "core/mem.h"

void sched_init(struct sched *sched, uint64_t seed)
{
    *sched = (struct sched){.now_ns = 1000 * NS_PER_S};
    rng_seed(&sched->rng, seed);
}

void sched_fini(struct sched *sched)
{
    mem_free(sched->heap);
    *sched = (struct sched){0};
}

static bool event_less(const struct sched_event *a, const struct sched_event *b)
{
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->order < b->order);
}

void sched_add(struct sched *sched, uint64_t after_ns, sched_fn *run, void *arg)
{
    if (sched->count == sched->room) {
        sched->room = sched->room == 0 ? 64 : 2 * sched->room;
        sched->heap = mem_realloc(sched->heap, sched->room * sizeof(*sched->heap));
    }
    struct sched_event event = {sched->now_ns + after_ns, sched->made++, run, arg};
    uint32_t at = sched->count++;
    while (at > 0 && event_less(&event, &sched->heap[(at - 1) / 2])) {
        sched->heap[at] = sched->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    sched->heap[at] = event;
}

uint64_t sched_next_ns(const struct sched *sched)
{
    return sched->count == 0 ? UINT64_MAX : sched->heap[0].at_ns;
}

void sched_run_one(struct sched *sched)
{
    ASSERT(sched->count > 0);
    struct sched_event first = sched->heap[0];
    struct sched_event last = sched->heap[--sched->count];
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= sched->count) {
            break;
        }
        if (child + 1 < sched->count && event_less(&sched->heap[child + 1], &sched->heap[child])) {
            child++;
        }
        if (!event_less(&sched->heap[child], &last)) {
            break;
        }
        sched->heap[at] = sched->heap[child];
        at = child;
    }
    sched->heap[at] = last;
    ASSERT(first.at_ns >= sched->now_ns);
    sched->now_ns = first.at_ns;
    first.run(first.arg);
}

bool sched_chance(struct sched *sched, uint32_t per_mille)
{
    return rng_below(&sched->rng, 1000) < per_mille;
}

uint64_t sched_between(struct sched *sched, uint64_t low, uint64_t high)
{
    ASSERT(low <= high);
    return low + rng_below(&sched->rng, high - low + 1);
}
