/* The words that the script of support_conformance.c is written in: worlds, batches, requests. */
#include "support_conformance.h"

#include "core/buf.h"
#include "core/mem.h"

enum { CONF_ROWS_MAX = 8192, CONF_ENTRIES_MAX = 4096 };

/* ---- slow machines -------------------------------------------------------------------------- */

/* A little less than what servers grant a client that holds a lock. */
#define CONF_SLOW_NS (900 * NS_PER_MS)

static uint64_t conf_now_ns(const struct conf_world *world)
{
    return world->c->now_ns == NULL ? 0 : world->c->now_ns(world->c->arg);
}

/* Did it fail for want of time alone, or because the connection that did so is not yet replaced? */
static bool conf_is_slow(struct conf_world *world, uint64_t start_ns, bool is_failed, bool is_down)
{
    world->is_slow =
        is_failed && ((world->is_slow && is_down) || conf_now_ns(world) - start_ns >= CONF_SLOW_NS);
    return world->is_slow;
}

/* ---- the world ------------------------------------------------------------------------------ */

void conf_world_init(struct conf_world *world, const struct sql_conformance *conformance)
{
    *world = (struct conf_world){.c = conformance};
    rng_seed(&world->rng, conformance->seed);
    rng_fill(&world->rng, world->writer.incarnation, sizeof(world->writer.incarnation));
    world->entries = mem_alloc(CONF_ENTRIES_MAX * sizeof(*world->entries));
}

void conf_row_free(struct sql_row *row)
{
    mem_free((void *)(uintptr_t)row->key.data);
    mem_free((void *)(uintptr_t)row->value.data);
}

void conf_world_fini(struct conf_world *world)
{
    for (uint32_t i = 0; i < world->row_count; i++) {
        conf_row_free(&world->rows[i]);
    }
    mem_free(world->rows);
    for (uint32_t i = 0; i < CONF_ENTRIES_MAX; i++) {
        mem_free(world->entries[i]);
    }
    mem_free(world->entries);
}

static void conf_world_add(struct conf_world *world, const struct sql_row *row)
{
    if (world->row_count == world->row_room) {
        world->row_room = world->row_room == 0 ? 64 : world->row_room * 2;
        world->rows = mem_realloc(world->rows, world->row_room * sizeof(*world->rows));
    }
    struct sql_row *copy = &world->rows[world->row_count++];
    *copy = *row;
    copy->key.data = mem_copy(row->key.data, row->key.size);
    copy->value.data = mem_copy(row->value.data, row->value.size);
}

/* The newest row of |key| in |rows|, or NULL. */
const struct sql_row *conf_newest(const struct sql_row *rows, uint32_t count, struct slice key)
{
    for (uint32_t i = count; i > 0; i--) {
        if (slice_equal(rows[i - 1].key, key)) {
            return &rows[i - 1];
        }
    }
    return NULL;
}

/* ---- batches -------------------------------------------------------------------------------- */

void conf_batch_init(struct conf_world *world, struct conf_batch *batch)
{
    *batch = (struct conf_batch){0};
    batch->rows = mem_alloc(CONF_ROWS_MAX * sizeof(*batch->rows));
    batch->entry.rows = batch->rows;
    batch->entry.effects = batch->effects;
    batch->entry.seq = world->head.seq + 1;
    batch->entry.epoch = world->head.fence.epoch;
    batch->entry.last_rev = world->head.revision;
    batch->entry.compact_rev = world->head.compact_rev;
    world->writer.counter++;
    batch->entry.writer = world->writer;
}

void conf_batch_fini(struct conf_batch *batch)
{
    for (uint32_t i = 0; i < batch->entry.row_count; i++) {
        conf_row_free(&batch->rows[i]);
    }
    mem_free(batch->rows);
    batch->rows = NULL;
}

void conf_batch_put(struct conf_world *world, struct conf_batch *batch, const char *key,
                    size_t value_size, bool is_delete)
{
    struct sql_entry *entry = &batch->entry;
    ASSERT(entry->row_count < CONF_ROWS_MAX);
    const struct sql_row *old = conf_newest(batch->rows, entry->row_count, slice_str(key));
    if (old == NULL) {
        old = conf_newest(world->rows, world->row_count, slice_str(key));
    }
    struct sql_row *row = &batch->rows[entry->row_count++];
    uint8_t *value = mem_alloc(value_size + 1);
    rng_fill(&world->rng, value, value_size);
    *row = (struct sql_row){
        .revision = ++entry->last_rev,
        .is_delete = is_delete,
        .key = slice_of(mem_copy(key, strlen(key)), strlen(key)),
        .value = slice_of(value, value_size),
        .lease = (int64_t)rng_below(&world->rng, 3) - 1,
    };
    bool is_new = old == NULL || old->is_delete;
    row->create_rev = is_delete ? 0 : is_new ? row->revision : old->create_rev;
    row->version = is_delete ? 0 : is_new ? 1 : old->version + 1;
    row->prev_rev = old == NULL ? 0 : old->revision;
    row->prev_sub = old == NULL ? 0 : old->sub;
    row->sum = sql_row_sum(row);
    entry->first_rev = entry->first_rev == 0 ? row->revision : entry->first_rev;
    entry->byte_count += row->key.size + row->value.size;
}

void conf_batch_effect(struct conf_batch *batch, struct sql_effect effect)
{
    ASSERT(batch->entry.effect_count < ARRAY_COUNT(batch->effects));
    batch->effects[batch->entry.effect_count++] = effect;
    if (effect.kind == SQL_COMPACT) {
        batch->entry.compact_rev = effect.id;
    }
}

static void conf_append_done(struct sql_append *append)
{
    CONTAINER_OF(append, struct conf_batch, append)->done = true;
}

void conf_batch_seal(struct conf_world *world, struct conf_batch *batch)
{
    struct sql_entry *entry = &batch->entry;
    entry->rows_hash = sql_rows_hash(batch->rows, entry->row_count);
    entry->chain = sql_entry_chain(&world->head.chain, entry);
    batch->append = (struct sql_append){
        .fence = world->head.fence,
        .expected_seq = world->head.seq,
        .expected_chain = world->head.chain,
        .entry = entry,
        .done = conf_append_done,
    };
}

enum sql_outcome conf_batch_append(struct conf_world *world, struct sql_log *log,
                                   struct conf_batch *batch)
{
    uint64_t start_ns;
    bool is_down;
    bool is_lost;
    do {
        start_ns = conf_now_ns(world);
        batch->done = false;
        log->ops->append(log, &batch->append);
        ASSERT(!batch->done); /* Never inside the call. */
        while (!batch->done) {
            world->c->pump(world->c->arg);
        }
        is_down = batch->append.outcome == SQL_REFUSED && batch->append.err == ERR_NO_LEADER;
        is_lost = batch->append.outcome == SQL_LOST || is_down;
    } while (conf_is_slow(world, start_ns, is_lost, is_down));
    return batch->append.outcome;
}

bool conf_batch_append_locked(struct conf_world *world, struct conf_batch *batch)
{
    ASSERT(batch->append.locked);
    batch->done = false;
    world->c->log->ops->append(world->c->log, &batch->append);
    ASSERT(!batch->done);
    while (!batch->done) {
        world->c->pump(world->c->arg);
    }
    bool is_lost = batch->append.outcome == SQL_LOST ||
                   (batch->append.outcome == SQL_REFUSED && batch->append.err == ERR_NO_LEADER);
    return is_lost && conf_now_ns(world) - world->locked_ns >= CONF_SLOW_NS;
}

void conf_batch_won(struct conf_world *world, struct conf_batch *batch)
{
    const struct sql_entry *entry = &batch->entry;
    for (uint32_t i = 0; i < entry->row_count; i++) {
        conf_world_add(world, &batch->rows[i]);
    }
    world->head.seq = entry->seq;
    world->head.chain = entry->chain;
    world->head.revision = entry->last_rev;
    world->head.compact_rev = entry->compact_rev;
    ASSERT(entry->seq <= CONF_ENTRIES_MAX);
    struct buf hex = {0};
    for (uint32_t i = 0; i < sizeof(entry->chain.bytes); i++) {
        buf_printf(&hex, "%02x", entry->chain.bytes[i]);
    }
    buf_add_byte(&hex, '\0');
    world->entries[entry->seq - 1] = (char *)hex.data;
}

const char *conf_alter_text(enum conf_alter what, bool is_on)
{
    static const char *const texts[CONF_ALTER_COUNT][2] = {
        [CONF_ALTER_SCHEMA_VERSION] = {"UPDATE ~cluster SET schema_version = schema_version - 1",
                                       "UPDATE ~cluster SET schema_version = schema_version + 1"},
        [CONF_ALTER_IDENTITY] = {"UPDATE ~cluster SET identity = substr(identity, 2)",
                                 "UPDATE ~cluster SET identity = 'x' || identity"},
    };
    return texts[what][is_on ? 1 : 0];
}

/* ---- requests ------------------------------------------------------------------------------- */

/* One request of a kind at a time, so one flag each is enough. */
#define CONF_CALL(kind)                                                               \
    static bool conf_##kind##_is_done;                                                \
    static void conf_##kind##_done(struct sql_##kind *request)                        \
    {                                                                                 \
        (void)request;                                                                \
        conf_##kind##_is_done = true;                                                 \
    }                                                                                 \
    static enum err conf_##kind##_call(struct conf_world *world, struct sql_log *log, \
                                       struct sql_##kind *request)                    \
    {                                                                                 \
        uint64_t start_ns;                                                            \
        bool is_down;                                                                 \
        bool is_failed;                                                               \
        request->done = conf_##kind##_done;                                           \
        do {                                                                          \
            start_ns = conf_now_ns(world);                                            \
            conf_##kind##_is_done = false;                                            \
            log->ops->kind(log, request);                                             \
            ASSERT(!conf_##kind##_is_done);                                           \
            while (!conf_##kind##_is_done) {                                          \
                world->c->pump(world->c->arg);                                        \
            }                                                                         \
            is_down = request->err == ERR_NO_LEADER;                                  \
            is_failed = is_down || request->err == ERR_DATABASE;                      \
        } while (conf_is_slow(world, start_ns, is_failed, is_down));                  \
        return request->err;                                                          \
    }

CONF_CALL(lock)
CONF_CALL(probe)
CONF_CALL(tail)
CONF_CALL(verdict)
CONF_CALL(keepalive)
CONF_CALL(upkeep)
CONF_CALL(purge)
CONF_CALL(load)

enum err conf_probe(struct conf_world *world, struct sql_log *log, struct sql_head *head)
{
    struct sql_probe probe = {0};
    enum err err = conf_probe_call(world, log, &probe);
    *head = probe.head;
    return err;
}

enum err conf_verdict(struct conf_world *world, struct sql_log *log, uint64_t seq, bool *found,
                      struct sql_writer *writer)
{
    struct sql_verdict verdict = {.seq = seq};
    enum err err = conf_verdict_call(world, log, &verdict);
    *found = verdict.found;
    *writer = verdict.writer;
    return err;
}

enum err conf_tail(struct conf_world *world, struct sql_log *log, struct sql_tail *tail)
{
    return conf_tail_call(world, log, tail);
}

enum err conf_lock(struct conf_world *world, struct sql_log *log, struct sql_lock *lock)
{
    world->locked_ns = conf_now_ns(world);
    return conf_lock_call(world, log, lock);
}

enum err conf_keepalive(struct conf_world *world, struct sql_log *log,
                        struct sql_keepalive *keepalive)
{
    return conf_keepalive_call(world, log, keepalive);
}

enum err conf_upkeep(struct conf_world *world, struct sql_log *log, struct sql_upkeep *upkeep)
{
    return conf_upkeep_call(world, log, upkeep);
}

enum err conf_purge(struct conf_world *world, struct sql_log *log, struct sql_purge *purge)
{
    return conf_purge_call(world, log, purge);
}

enum err conf_load(struct conf_world *world, struct sql_log *log, struct sql_load *load)
{
    return conf_load_call(world, log, load);
}
