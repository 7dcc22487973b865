/* Size, time and result lines of the micro benches. */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool bench_is_full(void)
{
    const char *bench = getenv("BENCH");
    return bench != NULL && strcmp(bench, "1") == 0;
}

uint64_t bench_param(const char *name, uint64_t smoke, uint64_t full)
{
    const char *text = getenv(name);
    if (text == NULL) {
        return bench_is_full() ? full : smoke;
    }
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) {
        fprintf(stderr, "%s=%s: want a decimal number\n", name, text);
        exit(2);
    }
    return value;
}

uint64_t bench_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void bench_report(const char *name, uint64_t ops, uint64_t elapsed_ns, uint64_t checksum)
{
    double ns_per_op = (double)elapsed_ns / (double)ops;
    double rate = elapsed_ns == 0 ? 0 : (double)ops * 1e9 / (double)elapsed_ns;
    printf("%-32s %10" PRIu64 " ops %12.1f ns/op %14.0f op/s  checksum %016" PRIx64 "%s\n", name,
           ops, ns_per_op, rate, checksum, bench_is_full() ? "" : "  (smoke)");
}

void bench_figure(const char *name, double value, const char *unit)
{
    printf("%-32s %14.1f %s\n", name, value, unit);
}
