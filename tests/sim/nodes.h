/*
 * Stores over the fake database, stepped by a test: what test_store_*.c share. One thread, one
 * true time, which moves only from one event to the next.
 */
#ifndef SIM_NODES_H
#define SIM_NODES_H

#include "support.h"

#include "fake_log.h"

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "store/store.h"

enum { NODE_REQUEST_SIZE_MAX = 1024 * 1024, NODE_ARENA_MAX = 64 * 1024 };

struct world;

struct node {
    struct clock clock; /* First: handed out. */
    struct world *world;
    struct timers timers;
    struct rng rng;
    struct reclaim reclaim;
    struct fake_log *log;
    struct store *store;
    struct reclaim_reader reader;
    bool is_ready;
    bool is_stopped;
    bool may_end;     /* on_fatal is expected, ... */
    enum err fatal;   /* ... and this is what it said. */
    enum err refusal; /* Why it could not start, with |may_end|. */
    char why[160];    /* The line that came with either. */
    bool may_wait;    /* node_start returns before it is ready. */
    bool exclusive;   /* To start with: nobody else can write. */
    uint64_t lease_margin_ms;
};

struct world {
    struct sched sched;
    struct fake_db db;
    struct fake_faults faults; /* Of nodes that start. */
    uint64_t look_ns;          /* So long takes each look at a clock, ... */
    uint64_t looked_ns;        /* ... all of them so long. */
    struct node nodes[2];
    struct ask_arena *arenas; /* Of all asks: one each. */
};

/* With |nodes| of two started and ready. */
struct world *world_new(uint32_t nodes, enum store_transaction_mode mode);
/* Stops what runs. */
void world_free(struct world *world);
/* Starts |node| and, unless it |may_wait|, runs until it is ready (or refused, if it |may_end|). */
void node_start(struct node *node, enum store_transaction_mode mode);
/* One event or timer of the world, if it comes before |until_ns|. */
bool world_step(struct world *world, uint64_t until_ns);
/* Fails after a minute of the world's time. */
void world_run_until(struct world *world, const bool *until);
void world_run_for(struct world *world, uint64_t for_ns);

struct ask {
    struct store_request request;
    bool is_done;
};
/* With an arena of NODE_ARENA_MAX bytes, which lives as long as the world. */
void ask_start(struct node *node, struct ask *ask);
/* Until it is answered. */
enum err ask_run(struct node *node, struct ask *ask);
struct ask put_of(const char *key, const char *value);
struct ask compact_of(int64_t revision);
/* How often |value| stands in the log. */
uint32_t log_count(const struct world *world, const char *value);
/* Rows that no purge has removed. */
uint32_t log_rows_left(const struct world *world);

#endif
