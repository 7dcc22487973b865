/*
 * A database in memory and logs on it: an implementation of sql_log_ops for simulation and tests.
 *
 * Each statement travels, runs whole at one moment of true time, and its answer travels back; all
 * three can go wrong, as |faults| says: an answer is lost, a statement arrives after its connection
 * died, or twice, or never. What runs, runs by the rules of the real engines: the script in
 * tests/unit/support_conformance.h holds both to them.
 */
#ifndef SIM_FAKE_LOG_H
#define SIM_FAKE_LOG_H

#include "simtime.h"

#include "core/limits.h"
#include "sql/sql.h"

/* Chances in 1000, and times. All zero: a good database 0.1 ms away. */
struct fake_faults {
    uint32_t lose_answer;  /* It ran; the client hears nothing or of a dead connection. */
    uint32_t lose_request; /* It never arrives; the client hears of a dead connection. */
    uint32_t late;         /* The connection dies, the statement arrives afterwards. */
    uint32_t twice;        /* It runs twice; one of the two answers is heard. */
    uint32_t fail;         /* A known error: rolled back, the connection lives on. */
    uint32_t stall;        /* Travel takes up to |stall_ns|. */
    uint64_t travel_ns;    /* Up to, each way, when nothing goes wrong. */
    uint64_t stall_ns;
    uint64_t late_ns; /* Up to, for what arrives late. */
    uint32_t lose_hint;
};

struct fake_row {
    struct sql_row row; /* Its slices are owned. */
    bool purged;
};
struct fake_entry {
    struct sql_entry entry; /* Owned, as written; rows are in |rows|. */
    struct fake_row *rows;
    bool trimmed;
    uint64_t at_ns; /* True time of its commit. */
};
struct fake_lease {
    struct sql_lease lease;
    uint64_t renewed_ns; /* True time of its grant or last keep-alive. */
};
struct fake_member {
    struct sql_member member;
    uint64_t seen_ns;
};

struct fake_log;
struct fake_op;

struct fake_db {
    struct sched *sched;
    struct sql_fence fence;
    char live_identity[SQL_IDENTITY_SIZE];
    uint32_t schema_version;
    uint64_t cluster_id;
    int64_t deleted_below;
    struct fake_entry *entries; /* By seq - 1. */
    uint64_t entry_count;
    uint64_t entry_room;
    struct fake_lease *leases; /* By id. */
    uint32_t lease_count;
    uint32_t lease_room;
    struct fake_member members[LIMIT_MEMBERS];
    uint32_t member_count;
    uint64_t duty_owner;
    uint64_t duty_term;
    uint64_t duty_until_ns;
    struct fake_log *locked_by; /* Of the cluster row. */
    uint64_t locked_until_ns;
    struct fake_op *lock_queue;
    struct fake_log *logs; /* All that are open, for hints. */
    enum err read_err;     /* What reads of entries and the head answer; ERR_OK: as usual. */
    /* For tests: refusals, and how many statements were sent. */
    enum err append_err;    /* Every append is REFUSED with it; ERR_OK: as usual. */
    enum err purge_err;     /* Likewise, purges ... */
    enum err load_err;      /* ... and loads. */
    int64_t purge_revs_max; /* A purge of more revisions fails; 0: none does. */
    uint64_t append_count;
    uint64_t lock_count;
    uint64_t probe_count;
    uint64_t tail_count;
    uint64_t upkeep_count;
    uint64_t purge_count;
    uint64_t load_count;
    /* Called when a lease ends by expiry, in front of its removal. NULL: nobody asks. */
    void (*on_expire)(void *arg, const struct fake_lease *lease);
    void *arg;
};

void fake_db_init(struct fake_db *db, struct sched *sched);
void fake_db_fini(struct fake_db *db);
/* As the statements do, at once: for operators in the world, and for tests. */
void fake_db_trim(struct fake_db *db, uint64_t entries_below);
/* As after a restore of an older state. Leases are not restored. */
void fake_db_forget_newest(struct fake_db *db);
uint64_t fake_db_purge(struct fake_db *db, int64_t compact_rev, int64_t from_rev, int64_t to_rev);
void fake_db_head(const struct fake_db *db, struct sql_head *head);
/* The entry |seq|, or NULL when there is none (trimmed ones are still shown). */
const struct fake_entry *fake_db_entry(const struct fake_db *db, uint64_t seq);

/* A log on |db|. |deliver| wakes the owner: it runs behind each completion. */
struct fake_log *fake_log_new(struct fake_db *db, void (*deliver)(void *arg), void *arg);
struct sql_log *fake_log_base(struct fake_log *log);
void fake_log_set_faults(struct fake_log *log, const struct fake_faults *faults);
/* Cut off: nothing arrives and nothing is answered until the statements' time-outs. */
void fake_log_set_reachable(struct fake_log *log, bool reachable);
/* While held, answers wait: the owner's process stands still. */
void fake_log_hold(struct fake_log *log, bool hold);

/* For tests of single steps: what to do with the next append of this log, then as usual. */
enum fake_script {
    FAKE_AS_USUAL,
    FAKE_COMMIT_LOST,  /* Runs; IN_DOUBT. */
    FAKE_NEVER,        /* Does not run; IN_DOUBT. */
    FAKE_LATE,         /* IN_DOUBT; runs |late_ns| afterwards. */
    FAKE_TWICE_SECOND, /* Runs twice; the second answer is heard. */
    FAKE_REFUSE,       /* Does not run; REFUSED, NO_LEADER. */
    FAKE_REFUSE_SPACE, /* Does not run; REFUSED, NO_SPACE. */
};
void fake_log_script(struct fake_log *log, const enum fake_script *steps, uint32_t count);

#endif
