/*
 * What every log in SQL must do, as one script: SQLite, PostgreSQL and the simulation's fake log
 * run through it. A broken promise is a panic that names the case and the condition.
 */
#ifndef SUPPORT_CONFORMANCE_H
#define SUPPORT_CONFORMANCE_H

#include "sql/sql.h"

/* What can be changed in the cluster row behind a log's back. */
enum conf_alter {
    CONF_ALTER_SCHEMA_VERSION, /* One more than it was. */
    CONF_ALTER_IDENTITY,       /* With an x in front. */
    CONF_ALTER_COUNT
};

struct sql_conformance {
    struct sql_log *log;   /* Opened well, on an empty database. */
    struct sql_log *other; /* A second one on the same database, or NULL: one writer only. */
    /* Run the owner's loop until something has happened (one turn). */
    void (*pump)(void *arg);
    /* Let |ms| pass, on the clock of the log; the loop may run meanwhile. NULL: it cannot. */
    void (*wait_ms)(void *arg, uint32_t ms);
    /* True time. A machine may stand still for longer than a server waits for its client: what
     * failed and took that long is tried again. NULL: never. */
    uint64_t (*now_ns)(void *arg);
    /* Change the cluster row, or change it back; no request is in flight. NULL: it cannot. */
    void (*alter)(void *arg, enum conf_alter what, bool is_on);
    void *arg;
    uint64_t seed;
};

/* Runs all cases. Leaves the log open, with entries, rows and leases in it. */
void sql_conformance_run(const struct sql_conformance *conformance);

/* ---- the words it is written in, for further tests on a database ----------------------------- */

/* A log as the script knows it: what is in it, by the script's own account. */
struct conf_world {
    const struct sql_conformance *c;
    struct sql_head head;
    struct sql_writer writer;
    struct rng rng;
    struct sql_row *rows; /* Everything that ought to be in kv, in order. Owned. */
    uint32_t row_count;
    uint32_t row_room;
    char **entries;     /* Each entry's chain in hexadecimal, by seq - 1. */
    uint64_t locked_ns; /* Before the last lock was asked for. */
    bool is_slow;       /* The last request failed for want of time. */
};

void conf_world_init(struct conf_world *world, const struct sql_conformance *conformance);
void conf_world_fini(struct conf_world *world);

/* An entry in the making: rows of |count| keys "k<n>" of the next revisions. */
struct conf_batch {
    struct sql_entry entry;
    struct sql_row *rows;
    struct sql_effect effects[8];
    struct sql_append append;
    bool done;
};
void conf_batch_init(struct conf_world *world, struct conf_batch *batch);
/* One put (or delete) of |key| with |value_size| bytes, a revision of its own. */
void conf_batch_put(struct conf_world *world, struct conf_batch *batch, const char *key,
                    size_t value_size, bool is_delete);
void conf_batch_effect(struct conf_batch *batch, struct sql_effect effect);
/* Sums, hashes, chain and expectation, as of |world|'s head. */
void conf_batch_seal(struct conf_world *world, struct conf_batch *batch);
/* Append on |log| and wait. Lost for being slow: once more. */
enum sql_outcome conf_batch_append(struct conf_world *world, struct sql_log *log,
                                   struct conf_batch *batch);
/* The same with the lock, once. True when the machine was so slow that the lock was taken from us:
 * then lock again. */
bool conf_batch_append_locked(struct conf_world *world, struct conf_batch *batch);
/* It is in the log: move the world's head and rows behind it. */
void conf_batch_won(struct conf_world *world, struct conf_batch *batch);
void conf_batch_fini(struct conf_batch *batch);

/* Each runs the request and waits for it; the answer is the request's |err|. */
enum err conf_probe(struct conf_world *world, struct sql_log *log, struct sql_head *head);
enum err conf_verdict(struct conf_world *world, struct sql_log *log, uint64_t seq, bool *found,
                      struct sql_writer *writer);
enum err conf_tail(struct conf_world *world, struct sql_log *log, struct sql_tail *tail);
enum err conf_lock(struct conf_world *world, struct sql_log *log, struct sql_lock *lock);
enum err conf_keepalive(struct conf_world *world, struct sql_log *log,
                        struct sql_keepalive *keepalive);
enum err conf_upkeep(struct conf_world *world, struct sql_log *log, struct sql_upkeep *upkeep);
enum err conf_purge(struct conf_world *world, struct sql_log *log, struct sql_purge *purge);
enum err conf_load(struct conf_world *world, struct sql_log *log, struct sql_load *load);
/* The newest row of |key| in |rows|, or NULL. */
const struct sql_row *conf_newest(const struct sql_row *rows, uint32_t count, struct slice key);
/* Frees the bytes of a row that the world or a batch owns. */
void conf_row_free(struct sql_row *row);
/* |alter| as SQL, with '~' for the tables' prefix. */
const char *conf_alter_text(enum conf_alter what, bool is_on);

/* support_conformance_fence.c: cases of the script. */
void conf_an_empty_log_expects_no_chain(struct conf_world *world);
void conf_each_condition_is_needed(struct conf_world *world);
/* Load, and compare all of it with what the world ought to hold. */
void conf_check_load(struct conf_world *world, struct sql_log *log);

#endif
