/* The watch workload. */
#ifndef LOAD_WATCH_H
#define LOAD_WATCH_H

#include "run.h"

/*
 * --watchers watchers and a writer for the window; operations are delivered events, their latency
 * counts from the sending of the put. |after_answer| gets the same from the put's answer.
 */
void load_run_watch(struct load_run *run, struct load_hist *after_answer);

#endif
