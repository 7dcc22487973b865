/* The monotonic clock, xoshiro256** and the heap of timers. */
#include "core/clock.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/mem.h"

static uint64_t clock_monotonic_now_ns(const struct clock *clock)
{
    (void)clock;
    struct timespec now;
    ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

const struct clock clock_monotonic = {clock_monotonic_now_ns};

/* splitmix64: spreads any seed, 0 included, over the whole state. */
void rng_seed(struct rng *rng, uint64_t seed)
{
    for (uint32_t i = 0; i < ARRAY_COUNT(rng->state); i++) {
        seed += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t mixed = seed;
        mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
        rng->state[i] = mixed ^ (mixed >> 31);
    }
}

void rng_seed_from_system(struct rng *rng)
{
    uint64_t seed = 0;
    ASSERT(getrandom(&seed, sizeof(seed), 0) == (ssize_t)sizeof(seed));
    rng_seed(rng, seed);
    uint64_t more[ARRAY_COUNT(rng->state)];
    ASSERT(getrandom(more, sizeof(more), 0) == (ssize_t)sizeof(more));
    for (uint32_t i = 0; i < ARRAY_COUNT(more); i++) {
        rng->state[i] ^= more[i];
    }
    rng->state[0] |= 1; /* Never all zero. */
}

static uint64_t rng_rotate(uint64_t value, uint32_t bits)
{
    return (value << bits) | (value >> (64 - bits));
}

uint64_t rng_next(struct rng *rng)
{
    uint64_t *s = rng->state;
    uint64_t result = rng_rotate(s[1] * 5, 7) * 9;
    uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rng_rotate(s[3], 45);
    return result;
}

uint64_t rng_below(struct rng *rng, uint64_t bound)
{
    ASSERT(bound > 0);
    /* Numbers under 2^64 mod bound would make the low results more likely. */
    uint64_t biased = (0 - bound) % bound;
    uint64_t value;
    do {
        value = rng_next(rng);
    } while (value < biased);
    return value % bound;
}

void rng_fill(struct rng *rng, void *bytes, size_t size)
{
    uint8_t *at = bytes;
    while (size > 0) {
        uint64_t value = rng_next(rng);
        size_t part = size < sizeof(value) ? size : sizeof(value);
        memcpy(at, &value, part);
        at += part;
        size -= part;
    }
}

void timers_init(struct timers *timers, const struct clock *clock)
{
    ASSERT(clock != NULL);
    *timers = (struct timers){.clock = clock};
}

void timers_fini(struct timers *timers)
{
    for (uint32_t i = 0; i < timers->count; i++) {
        timers->heap[i]->index = 0;
    }
    mem_free(timers->heap);
    timers_init(timers, timers->clock);
}

static void timers_place(struct timers *timers, uint32_t place, struct timer *timer)
{
    timers->heap[place] = timer;
    timer->index = place + 1;
}

/* Let the timer at |place| rise to where it belongs. */
static void timers_rise(struct timers *timers, uint32_t place)
{
    struct timer *timer = timers->heap[place];
    while (place > 0) {
        uint32_t parent = (place - 1) / 2;
        if (timers->heap[parent]->due_ns <= timer->due_ns) {
            break;
        }
        timers_place(timers, place, timers->heap[parent]);
        place = parent;
    }
    timers_place(timers, place, timer);
}

/* Let the timer at |place| sink to where it belongs. */
static void timers_sink(struct timers *timers, uint32_t place)
{
    struct timer *timer = timers->heap[place];
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= timers->count) {
            break;
        }
        if (child + 1 < timers->count &&
            timers->heap[child + 1]->due_ns < timers->heap[child]->due_ns) {
            child++;
        }
        if (timer->due_ns <= timers->heap[child]->due_ns) {
            break;
        }
        timers_place(timers, place, timers->heap[child]);
        place = child;
    }
    timers_place(timers, place, timer);
}

void timers_arm(struct timers *timers, struct timer *timer, uint64_t after_ns, timer_cb *callback)
{
    ASSERT(callback != NULL);
    timers_disarm(timers, timer);
    uint64_t now_ns = clock_now_ns(timers->clock);
    /* UINT64_MAX itself means "none armed". */
    timer->due_ns = after_ns < UINT64_MAX - 1 - now_ns ? now_ns + after_ns : UINT64_MAX - 1;
    timer->callback = callback;
    if (timers->count == timers->room) {
        ASSERT(timers->room < UINT32_MAX / 4);
        timers->room = timers->room == 0 ? 16 : timers->room * 2;
        timers->heap = mem_realloc(timers->heap, timers->room * sizeof(struct timer *));
    }
    timers_place(timers, timers->count++, timer);
    timers_rise(timers, timers->count - 1);
}

void timers_disarm(struct timers *timers, struct timer *timer)
{
    if (timer->index == 0) {
        return;
    }
    uint32_t place = timer->index - 1;
    ASSERT(place < timers->count);
    ASSERT(timers->heap[place] == timer);
    timer->index = 0;
    struct timer *last = timers->heap[--timers->count];
    if (last == timer) {
        return;
    }
    timers_place(timers, place, last);
    timers_rise(timers, place);
    timers_sink(timers, last->index - 1);
}

uint64_t timers_next_due_ns(const struct timers *timers)
{
    return timers->count == 0 ? UINT64_MAX : timers->heap[0]->due_ns;
}

void timers_run(struct timers *timers)
{
    uint64_t now_ns = clock_now_ns(timers->clock);
    /* At most as many as there are now: one that re-arms itself at once waits for the next run. */
    for (uint32_t left = timers->count; left > 0 && timers_next_due_ns(timers) <= now_ns; left--) {
        struct timer *timer = timers->heap[0];
        timers_disarm(timers, timer);
        timer->callback(timer);
    }
}
