/*
 * The conditions of every statement that writes: each in turn does not hold, all others do, and
 * each form of the statement must then change nothing at all.
 */
#include "support_conformance.h"

#include <stdio.h>

enum { FENCE_LEASE = 4242, FENCE_ARENA = 16 * 1024 * 1024 };

/* How an append is sent decides which statement carries the conditions. */
enum form { FORM_PLAIN, FORM_LEASES, FORM_ORDERED, FORM_LARGE, FORM_LOCKED, FORM_COUNT };

static void fence_batch_fill(struct conf_world *world, struct conf_batch *batch, enum form form)
{
    uint32_t rows = form == FORM_LARGE ? 5 : 2; /* 10 MB: several statements. */
    for (uint32_t i = 0; i < rows; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "fenced%u", i % 3);
        conf_batch_put(world, batch, key, form == FORM_LARGE ? 2 << 20 : 10, false);
    }
    if (form == FORM_LEASES || form == FORM_ORDERED) {
        conf_batch_effect(batch,
                          (struct sql_effect){.kind = SQL_LEASE_PUT, .id = 4343, .ttl_s = 9});
        conf_batch_effect(batch, (struct sql_effect){.kind = SQL_LEASE_DELETE, .id = FENCE_LEASE});
    }
    if (form == FORM_ORDERED) { /* One lease twice: effects go one by one. */
        conf_batch_effect(batch, (struct sql_effect){.kind = SQL_LEASE_DELETE, .id = 4343});
    }
}

static void fence_lock(struct conf_world *world)
{
    struct arena arena;
    arena_init(&arena, FENCE_ARENA);
    struct sql_lock lock = {.tail = {.after_seq = world->head.seq,
                                     .entries_max = 10,
                                     .bytes_max = 1 << 20,
                                     .arena = &arena}};
    ASSERT(conf_lock(world, world->c->log, &lock) == ERR_OK);
    arena_fini(&arena);
}

/* What |change| makes of a sealed append, in each form: lost. */
static void fence_appends_lose(struct conf_world *world,
                               void (*change)(struct sql_append *append, struct sql_entry *entry),
                               const struct sql_fence *fence)
{
    for (uint32_t form = 0; form < FORM_COUNT; form++) {
        struct conf_batch batch;
        conf_batch_init(world, &batch);
        fence_batch_fill(world, &batch, (enum form)form);
        conf_batch_seal(world, &batch);
        batch.append.fence = *fence;
        if (change != NULL) {
            change(&batch.append, &batch.entry);
        }
        if (form == FORM_LOCKED) {
            fence_lock(world);
            batch.append.locked = true;
        }
        ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_LOST);
        conf_batch_fini(&batch);
    }
}

static void fence_keepalive(struct conf_world *world, const struct sql_fence *fence, enum err err,
                            uint64_t counter)
{
    struct sql_keepalive_item item = {.id = FENCE_LEASE};
    struct sql_keepalive keepalive = {.fence = *fence, .items = &item, .count = 1};
    ASSERT(conf_keepalive(world, world->c->log, &keepalive) == err);
    ASSERT(err != ERR_OK || (item.found && item.counter == counter));
}

/* Rows and entries: |compact_rev| of the log is beyond both, so that the fence alone refuses. */
static void fence_purge_is_refused(struct conf_world *world, const struct sql_fence *fence)
{
    struct sql_purge purge = {.fence = *fence,
                              .compact_rev = world->head.compact_rev,
                              .from_rev = world->head.deleted_below,
                              .to_rev = world->head.compact_rev,
                              .entries_below = world->head.seq};
    ASSERT(purge.from_rev < purge.to_rev);
    ASSERT(conf_purge(world, world->c->log, &purge) == ERR_LEADER_CHANGED);
    ASSERT(purge.rows_deleted == 0);
    bool found;
    struct sql_writer writer;
    ASSERT(conf_verdict(world, world->c->log, 1, &found, &writer) == ERR_OK);
    ASSERT(found); /* The oldest entry would have gone. */
}

static void fence_refuses_all(struct conf_world *world, const struct sql_fence *fence)
{
    fence_appends_lose(world, NULL, fence);
    fence_keepalive(world, fence, ERR_LEADER_CHANGED, 0);
    fence_purge_is_refused(world, fence);
}

static void change_to_the_place_behind(struct sql_append *append, struct sql_entry *entry)
{
    append->expected_seq++; /* The chain is the newest entry's: the seq alone is wrong. */
    entry->seq++;
}

static void change_chain(struct sql_append *append, struct sql_entry *entry)
{
    (void)entry;
    append->expected_chain.bytes[15] ^= 0x80; /* Of the newest entry, whose seq is right. */
}

static void change_chain_to_none(struct sql_append *append, struct sql_entry *entry)
{
    (void)entry;
    append->expected_chain = (struct hash128){0}; /* As on an empty log. */
}

/* All that reads tells of the database as it is stored there, so that a store can refuse it. */
static void fence_reads_tell(struct conf_world *world, const struct sql_head *wanted)
{
    struct arena arena;
    arena_init(&arena, FENCE_ARENA);
    struct sql_head heads[3];
    struct sql_tail tail = {
        .after_seq = wanted->seq - 1, .entries_max = 10, .bytes_max = 1 << 20, .arena = &arena};
    struct sql_lock lock = {.tail = tail};
    ASSERT(conf_probe(world, world->c->log, &heads[0]) == ERR_OK);
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    ASSERT(conf_lock(world, world->c->log, &lock) == ERR_OK);
    world->c->log->ops->unlock(world->c->log);
    heads[1] = tail.head;
    heads[2] = lock.tail.head;
    for (uint32_t i = 0; i < ARRAY_COUNT(heads); i++) {
        ASSERT(heads[i].seq == wanted->seq);
        ASSERT(hash128_equal(&heads[i].chain, &wanted->chain));
        ASSERT(heads[i].schema_version == wanted->schema_version);
        ASSERT(memcmp(heads[i].fence.era, wanted->fence.era, SQL_ERA_SIZE) == 0);
        ASSERT(heads[i].fence.epoch == wanted->fence.epoch);
        ASSERT(strcmp(heads[i].fence.identity, wanted->fence.identity) == 0);
        ASSERT(strcmp(heads[i].live_identity, wanted->live_identity) == 0);
    }
    arena_fini(&arena);
}

/* What is stored changes under a replica that knows nothing of it. */
static void fence_follows_what_is_stored(struct conf_world *world)
{
    if (world->c->alter == NULL) {
        return;
    }
    struct sql_head wanted = world->head;
    wanted.schema_version++;
    world->c->alter(world->c->arg, CONF_ALTER_SCHEMA_VERSION, true);
    fence_reads_tell(world, &wanted);
    fence_refuses_all(world, &world->head.fence);
    world->c->alter(world->c->arg, CONF_ALTER_SCHEMA_VERSION, false);

    wanted = world->head;
    (void)snprintf(wanted.fence.identity, sizeof(wanted.fence.identity), "x%.60s",
                   world->head.fence.identity);
    world->c->alter(world->c->arg, CONF_ALTER_IDENTITY, true);
    fence_reads_tell(world, &wanted);
    fence_refuses_all(world, &world->head.fence); /* Live as expected, sanctioned is another. */
    if (wanted.live_identity[0] != '\0') {
        fence_refuses_all(world, &wanted.fence); /* Sanctioned as expected, live is another. */
    }
    world->c->alter(world->c->arg, CONF_ALTER_IDENTITY, false);
    fence_reads_tell(world, &world->head);
}

void conf_each_condition_is_needed(struct conf_world *world)
{
    const struct sql_effect effects[] = {
        {.kind = SQL_LEASE_PUT, .id = FENCE_LEASE, .ttl_s = 50},
        {.kind = SQL_COMPACT, .id = world->head.revision + 2},
    };
    struct conf_batch batch; /* A lease to keep alive, and dead rows to purge. */
    conf_batch_init(world, &batch);
    fence_batch_fill(world, &batch, FORM_PLAIN);
    conf_batch_effect(&batch, effects[0]);
    conf_batch_effect(&batch, effects[1]);
    conf_batch_seal(world, &batch);
    ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_COMMITTED);
    conf_batch_won(world, &batch);
    conf_batch_fini(&batch);

    fence_appends_lose(world, change_to_the_place_behind, &world->head.fence);
    fence_appends_lose(world, change_chain, &world->head.fence);
    fence_appends_lose(world, change_chain_to_none, &world->head.fence);
    struct sql_fence fence = world->head.fence;
    fence.era[SQL_ERA_SIZE - 1] ^= 1;
    fence_refuses_all(world, &fence);
    fence = world->head.fence;
    fence.epoch--;
    fence_refuses_all(world, &fence);
    fence.epoch += 2;
    fence_refuses_all(world, &fence);
    fence = world->head.fence;
    fence.identity[0] ^= 1;
    fence_refuses_all(world, &fence);
    fence_follows_what_is_stored(world);

    conf_check_load(world, world->c->log);
    fence_keepalive(world, &world->head.fence, ERR_OK, world->head.seq + 1);
}

/* On an empty log there is no chain to compare with; nothing else may be expected there. */
void conf_an_empty_log_expects_no_chain(struct conf_world *world)
{
    ASSERT(world->head.seq == 0);
    fence_appends_lose(world, change_chain, &world->head.fence);
    fence_appends_lose(world, change_to_the_place_behind, &world->head.fence);
    conf_check_load(world, world->c->log);
}
