/*
 * A world of whole replicas in one thread and one seed: real stores, caches and watch hubs over one
 * fake database, clocks that nobody can trust, clients who remember what they were told, and a
 * model that replays the log and knows what they should have been told.
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "fake_db.h"
#include "fake_log.h"
#include "simtime.h"

#include "core/mem.h"
#include "store/store.h"
#include "watch/watch.h"

enum { REPLICAS_MAX = 3, CLIENTS_MAX = 8, KEY_COUNT = 6, WATCHERS = 2, OPS_MAX = 4096 };

/* ---- the model: what the log says (model.c) ------------------------------------------------- */

struct model_row {
    const struct sql_row *row;     /* Owned by the database. */
    const struct model_row *older; /* Of the same key. */
    uint64_t seq;
};
struct model {
    struct model_row **rows; /* In (revision, sub) order. */
    uint32_t row_count;
    uint32_t row_room;
    const struct model_row *newest[KEY_COUNT];
    int64_t *compact_revs; /* After entry seq, by seq - 1. */
    uint64_t seq;          /* Entries replayed. */
    int64_t revision;
    int64_t compact_rev;
};
void model_init(struct model *model);
void model_fini(struct model *model);
/* The live row of key |key| at |revision|, or NULL. */
const struct model_row *model_get(const struct model *model, uint32_t key, int64_t revision);
/* Index of the first row with a revision >= |revision|. */
uint32_t model_at(const struct model *model, int64_t revision);
bool model_row_is(const struct model_row *row, const struct cache_version *version);
/* 'a', 'b' ...: the keys of this world. */
struct slice model_key(uint32_t key);

/* ---- replicas (world.c) --------------------------------------------------------------------- */

struct watcher {
    int64_t id;
    uint32_t next; /* The model's row that must come next. */
    int64_t start_rev;
    int64_t asked_rev; /* As asked for: 0 = from now on. */
    bool is_gone;
};

struct replica {
    struct clock clock; /* First: handed out. */
    struct world *world;
    uint32_t index;
    uint64_t local_ns; /* What the clock showed ... */
    uint64_t since_ns; /* ... at this true time ... */
    uint32_t percent;  /* ... and how fast it runs. */
    struct timers timers;
    struct rng rng;
    struct reclaim reclaim;
    struct reclaim_reader reader;
    struct fake_log *log;
    struct store *store;
    struct watch_hub *hub;
    struct watch_stream *stream;
    struct watcher watchers[WATCHERS];
    bool is_up; /* on_ready came. */
    bool is_dying;
    bool held;
    bool dirty;
    bool is_stopped;
    bool window_full;
};

/* ---- clients (client.c) --------------------------------------------------------------------- */

enum op_kind_sim {
    SIM_PUT,
    SIM_DELETE,
    SIM_TXN,
    SIM_READ,
    SIM_READ_SERIALIZABLE,
    SIM_GRANT,
    SIM_REVOKE,
    SIM_KEEPALIVE,
    SIM_TTL,
    SIM_COMPACT,
    SIM_KIND_COUNT
};

struct sim_op {
    struct store_request request;
    struct world *world;
    struct replica *replica;
    uint32_t client;
    uint32_t id; /* Index in the world's ops. */
    enum op_kind_sim kind;
    struct arena arena;
    uint32_t key;
    uint32_t other_key;
    char value[32];
    char other_value[32];
    /* Of SIM_TXN. */
    struct store_compare compare;
    struct store_op success[3];
    struct store_op failure[2];
    struct store_op inner_success[1];
    struct store_txn inner;
    struct store_put put;
    struct store_put other_put;
    struct store_delete del;
    struct store_range range;
    uint64_t begun_ns;
    int64_t acked_rev; /* The newest that anybody was told when this began. */
    int64_t begun_rev; /* The log's when this began. */
    int64_t begun_compact;
    uint64_t begun_seq;
    bool answered;
    bool unknown;    /* Timed out. */
    bool forbidden;  /* It was told not to have been executed. */
    int64_t log_rev; /* Where its value stands in the log; 0: nowhere. */
};

/* One life of a lease, by the log. */
struct lease_life {
    int64_t id;
    uint64_t granted_seq;
    uint64_t ended_seq; /* UINT64_MAX: lives. */
};

struct world {
    uint64_t seed;
    struct sched sched;
    struct fake_db db;
    struct model model;
    struct replica replicas[REPLICAS_MAX];
    uint32_t replica_count;
    uint32_t client_count;
    struct sim_op *ops[OPS_MAX];
    uint32_t op_count;
    struct lease_life *lives;
    uint32_t life_count;
    uint32_t life_room;
    int64_t acked_rev;
    bool chaos;  /* Faults happen. */
    bool renews; /* Half of all requests are keep-alives, and all are rare. */
    bool dense;  /* Clients hardly think. */
    uint32_t upkeep_ms;
    bool ending;      /* Nobody is started again. */
    bool fast_clocks; /* A clock ran too fast: lease times hold by a tenth only. */
    enum store_transaction_mode mode;
    struct fake_faults faults;
    uint64_t acked; /* For the summary. */
    uint64_t reads;
    uint64_t events_seen;
    uint64_t expiries;
    uint64_t reloads;
};

/* Ends the process with the seed and |what|. */
void sim_fail(struct world *world, const char *what) NO_RETURN;
#define CHECK(world, cond) ((cond) ? (void)0 : sim_fail((world), #cond))

/* Replay what is new in the log. */
void world_replay(struct world *world);
void world_run(struct world *world, uint64_t for_ns);
void world_chaos_start(struct world *world);
void world_chaos_end(struct world *world);
void replica_init_clock(struct replica *replica);
/* Stop all replicas and run until they are gone. */
void world_stop(struct world *world);
void replica_start(struct replica *replica);
void replica_touch(struct replica *replica);
void clients_start(struct world *world);
/* A replica's watchers (watchers.c). */
void watchers_open(struct replica *replica);
void watchers_close(struct replica *replica);
void watchers_turn(struct replica *replica);
/* Everything that must hold when the world has come to rest (check.c). */
void check_rest(struct world *world);
void check_snapshot(struct world *world, const struct cache_snapshot *snapshot);
/* |op| was answered (check.c). */
void check_answer(struct sim_op *op);
/* Lived between the entries |from| and |to|, somewhere; was absent somewhere. */
bool lease_lived(const struct world *world, int64_t id, uint64_t from, uint64_t to);
bool lease_was_absent(const struct world *world, int64_t id, uint64_t from, uint64_t to);

void sim_run_seed(uint64_t seed, struct world *world);

#endif
