/* What the operating system knows of this process. */
#ifndef CORE_PROCESS_H
#define CORE_PROCESS_H

#include "core/base.h"

/* 0 where the system does not tell. */
struct process_usage {
    uint64_t resident_bytes;
    uint64_t virtual_bytes;
    uint64_t fds_open;
    uint64_t fds_max;
    double cpu_s;        /* User and system. */
    double start_time_s; /* Since 1970. */
};

/* Any thread. Reads a few files of /proc: some tens of microseconds. */
void process_usage_get(struct process_usage *usage);

#endif
