/*
 * What a run of the load generator is made of, and the phases that it goes through:
 *
 *     connect -> fill -> verify -> warm-up -> window -> drain -> result
 *
 * Only what completes within the window counts, answered wrongly or not at any time does. The
 * window's begin and end are printed as they happen, so that a caller can read the server's CPU
 * time at these moments. One thread.
 */
#ifndef LOAD_RUN_H
#define LOAD_RUN_H

#include "core/clock.h"
#include "codec.h"
#include "hist.h"
#include "http2.h"

struct load_stats {
    uint64_t ops;       /* In the window. */
    uint64_t errors;    /* Calls that ended with another status than 0, at any time. */
    uint64_t wrong;     /* Answers that can't be right, at any time. */
    uint64_t conflicts; /* txn-cas: compares that failed, in the window. */
    uint64_t kvs;       /* Key-values or events received in the window. */
    uint64_t checksum;  /* Over everything received: sum of (key + 1), any order. */
    uint64_t elapsed_ns;
    uint64_t bytes_in; /* Through the sockets, in the window. */
    uint64_t bytes_out;
    int first_error; /* gRPC status of the first error. */
    struct load_hist latency;
};

struct load_run {
    const struct load_options *options;
    struct load_codec codec;
    struct load_net *net;
    struct load_conn **conns; /* options->connections of them. */
    struct rng rng;
    struct load_stats stats;
    uint64_t serial;   /* Of the next written value. */
    uint64_t open;     /* Calls under way. */
    bool is_measuring; /* Within the window. */
    bool is_stopping;  /* No new calls. */
};

/* Connects. |options| is borrowed. */
void load_run_init(struct load_run *run, const struct load_options *options);
void load_run_fini(struct load_run *run);
/* Put every key, in transactions of --batch puts. Ends the program at the first error. */
void load_run_fill(struct load_run *run);
/* List every key by pages and compare with what the fill put; ends the program if it differs. */
void load_run_verify(struct load_run *run);
/* Closed loop: connections x streams calls of --workload, but not watch, at any time. */
void load_run_calls(struct load_run *run);

/* For the workloads. */

/* Turn until |until_ns|, calling |tick| (or NULL) before each; at most |step_ns| between two. */
void load_run_until(struct load_run *run, uint64_t until_ns, uint64_t step_ns,
                    void (*tick)(void *arg), void *arg);
/* Warm up, open the window, close it. */
void load_run_window(struct load_run *run, uint64_t step_ns, void (*tick)(void *arg), void *arg);
/* Turn until no call is open; ends the program after 30 s. */
void load_run_drain(struct load_run *run);
/* Count the end of a call; true when it succeeded. */
bool load_run_count(struct load_run *run, int status);

#endif
