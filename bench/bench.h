/*
 * What every micro bench needs: its size, the time, one line of result.
 *
 * A bench is a program with a main() that measures one or more things and returns 0. In ctest it
 * runs at smoke size, so that it cannot rot; `BENCH=1 build/bin/bench_<name>` runs it at full size.
 * Every knob is a parameter with a name, which the environment overrides:
 *
 *     BENCH=1 keys=5000000 build/bin/bench_cache_tree
 *
 * Seeds are fixed, so that two runs do the same work; the checksum proves that they did, and keeps
 * the compiler from dropping it. One thread.
 */
#ifndef BENCH_H
#define BENCH_H

#include "core/base.h"

/* True with BENCH=1 in the environment. */
bool bench_is_full(void);

/*
 * The value of knob |name|: the environment's, else |full| or |smoke| by bench_is_full().
 * Something that is not a decimal number ends the program with one line and status 2.
 */
uint64_t bench_param(const char *name, uint64_t smoke, uint64_t full);

/* Monotonic. */
uint64_t bench_now_ns(void);

/*
 * Print one line: |name| ("module/what/how"), |ops| done in |elapsed_ns|, time of one, rate,
 * and |checksum| of the answers. |ops| > 0.
 */
void bench_report(const char *name, uint64_t ops, uint64_t elapsed_ns, uint64_t checksum);

/* Print a measured figure that is not a rate, such as bytes of memory per key. */
void bench_figure(const char *name, double value, const char *unit);

/* Fold |value| into |checksum|; order matters. */
static inline uint64_t bench_mix(uint64_t checksum, uint64_t value)
{
    checksum = (checksum ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return checksum ^ (checksum >> 32);
}

#endif
