/* The command line of drover-bench. */
#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

#include "core/base.h"

enum load_workload {
    LOAD_WORK_FILL,
    LOAD_WORK_RANGE,
    LOAD_WORK_RANGE_LIN,
    LOAD_WORK_PUT,
    LOAD_WORK_TXN_CAS,
    LOAD_WORK_LIST,
    LOAD_WORK_LIST_STREAM,
    LOAD_WORK_WATCH,
    LOAD_WORK_MIXED,
    LOAD_WORK_COUNT
};

/* Numbers are within the bounds of the table in options.c. */
struct load_options {
    const char *endpoint;
    enum load_workload workload;
    const char *key_prefix;
    bool json;
    bool fill;   /* Put every key first. */
    bool verify; /* Then list every key and compare. */
    uint64_t connections;
    uint64_t streams; /* Calls at once on each connection. */
    uint64_t duration_ms;
    uint64_t warmup_ms;
    uint64_t keys;
    uint64_t key_size;
    uint64_t value_size;
    uint64_t seed;
    uint64_t batch; /* Puts in one Txn of the fill. */
    uint64_t limit; /* Of a list; 0 lists everything. */
    uint64_t watchers;
    uint64_t watch_groups; /* Prefix ranges over which the watchers are spread. */
    uint64_t rate;         /* Puts/s of the watch workload's writer, 0: as fast as it goes. */
    uint64_t writers;      /* Its puts at once. */
};

/* "range-lin" and so on. */
const char *load_workload_name(enum load_workload workload);

/* Fill |options| from |argv|, or end the program: status 2 and one line on a mistake. Borrows
 * |argv|'s strings. */
void load_options_parse(struct load_options *options, int argc, char **argv);

#endif
