/* The script of support_conformance.h. */
#include "support_conformance.h"

#include <stdio.h>

enum { CONF_ARENA = 256 * 1024 * 1024 };

/* ---- comparing ------------------------------------------------------------------------------ */

static bool conf_rows_equal(const struct sql_row *a, const struct sql_row *b)
{
    return a->revision == b->revision && a->sub == b->sub && a->is_delete == b->is_delete &&
           slice_equal(a->key, b->key) && slice_equal(a->value, b->value) &&
           a->create_rev == b->create_rev && a->version == b->version && a->lease == b->lease &&
           a->prev_rev == b->prev_rev && a->prev_sub == b->prev_sub && a->sum == b->sum &&
           a->sum == sql_row_sum(a);
}

static bool conf_entry_is(const struct sql_entry *found, const struct sql_entry *wanted)
{
    ASSERT(found->seq == wanted->seq);
    ASSERT(found->row_count == wanted->row_count);
    ASSERT(found->effect_count == wanted->effect_count);
    for (uint32_t i = 0; i < found->row_count; i++) {
        ASSERT(conf_rows_equal(&found->rows[i], &wanted->rows[i]));
    }
    return hash128_equal(&found->chain, &wanted->chain);
}

/* The chain holds from |previous| on, over what was found, not over what was promised. */
static void conf_check_chain(const struct sql_tail *tail, struct hash128 previous)
{
    for (uint32_t i = 0; i < tail->entry_count; i++) {
        const struct sql_entry *entry = &tail->entries[i];
        struct hash128 rows_hash = sql_rows_hash(entry->rows, entry->row_count);
        ASSERT(hash128_equal(&rows_hash, &entry->rows_hash));
        struct hash128 chain = sql_entry_chain(&previous, entry);
        ASSERT(hash128_equal(&chain, &entry->chain));
        previous = chain;
    }
}

static bool conf_heads_equal(const struct sql_head *a, const struct sql_head *b)
{
    return a->seq == b->seq && hash128_equal(&a->chain, &b->chain) && a->revision == b->revision &&
           a->compact_rev == b->compact_rev && a->deleted_below == b->deleted_below &&
           a->schema_version == b->schema_version &&
           memcmp(a->fence.era, b->fence.era, SQL_ERA_SIZE) == 0 &&
           a->fence.epoch == b->fence.epoch && strcmp(a->fence.identity, b->fence.identity) == 0 &&
           strcmp(a->live_identity, b->live_identity) == 0;
}

static void conf_check_head(struct conf_world *world)
{
    struct sql_head head;
    ASSERT(conf_probe(world, world->c->log, &head) == ERR_OK);
    ASSERT(conf_heads_equal(&head, &world->head));
}

struct conf_loading {
    struct sql_load load;
    struct conf_world *world;
    uint32_t row_count;
    uint32_t lease_count;
    uint64_t next_seq; /* 0: none was seen yet. */
    bool saw_rows;
    uint32_t fail_after; /* Rows; 0 = never. */
};

static enum err conf_on_leases(struct sql_load *load, const struct sql_lease *leases,
                               uint32_t count)
{
    struct conf_loading *state = CONTAINER_OF(load, struct conf_loading, load);
    ASSERT(!state->saw_rows);
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(i == 0 || leases[i - 1].id < leases[i].id);
        ASSERT(leases[i].sum == sql_lease_sum(&leases[i]));
    }
    state->lease_count += count;
    return ERR_OK;
}

static enum err conf_on_rows(struct sql_load *load, const struct sql_row *rows, uint32_t count)
{
    struct conf_loading *state = CONTAINER_OF(load, struct conf_loading, load);
    ASSERT(state->next_seq == 0);
    state->saw_rows = true;
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(state->row_count < state->world->row_count);
        ASSERT(conf_rows_equal(&rows[i], &state->world->rows[state->row_count]));
        state->row_count++;
    }
    return state->fail_after > 0 && state->row_count >= state->fail_after ? ERR_CORRUPT : ERR_OK;
}

static enum err conf_on_entries(struct sql_load *load, const struct sql_entry *entries,
                                uint32_t count)
{
    struct conf_loading *state = CONTAINER_OF(load, struct conf_loading, load);
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(state->next_seq == 0 || entries[i].seq == state->next_seq);
        state->next_seq = entries[i].seq + 1;
        const char *wanted = state->world->entries[entries[i].seq - 1];
        for (uint32_t byte = 0; byte < 16; byte++) {
            char hex[3];
            (void)snprintf(hex, sizeof(hex), "%02x", entries[i].chain.bytes[byte]);
            ASSERT(memcmp(hex, wanted + 2 * (size_t)byte, 2) == 0);
        }
    }
    return ERR_OK;
}

void conf_check_load(struct conf_world *world, struct sql_log *log)
{
    struct conf_loading state = {.world = world};
    state.load.on_leases = conf_on_leases;
    state.load.on_rows = conf_on_rows;
    state.load.on_entries = conf_on_entries;
    ASSERT(conf_load(world, log, &state.load) == ERR_OK);
    ASSERT(state.row_count == world->row_count);
    ASSERT(IMPLIES(world->head.seq > 0, state.next_seq == world->head.seq + 1));
    ASSERT(conf_heads_equal(&state.load.head, &world->head));
    ASSERT(state.load.cluster_id != 0);
}

/* ---- cases ---------------------------------------------------------------------------------- */

/* Append a batch of |count| small puts and count it in. */
static void conf_write(struct conf_world *world, uint32_t count, size_t value_size)
{
    struct conf_batch batch;
    conf_batch_init(world, &batch);
    for (uint32_t i = 0; i < count; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "k%u", (unsigned)rng_below(&world->rng, 1000));
        conf_batch_put(world, &batch, key, value_size, false);
    }
    conf_batch_seal(world, &batch);
    ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_COMMITTED);
    conf_batch_won(world, &batch);
    conf_batch_fini(&batch);
}

static void an_empty_log_stands_at_revision_one(struct conf_world *world)
{
    ASSERT(conf_probe(world, world->c->log, &world->head) == ERR_OK);
    const struct sql_head *head = &world->head;
    struct hash128 zero = {0};
    ASSERT(head->seq == 0);
    ASSERT(head->revision == 1);
    ASSERT(hash128_equal(&head->chain, &zero));
    ASSERT(head->compact_rev == 0);
    ASSERT(head->deleted_below == 0);
    ASSERT(head->schema_version == SQL_SCHEMA_VERSION);
    ASSERT(head->fence.epoch > 0);
    ASSERT(strcmp(head->fence.identity, head->live_identity) == 0);
    uint8_t no_era[SQL_ERA_SIZE] = {0};
    ASSERT(memcmp(head->fence.era, no_era, sizeof(no_era)) != 0);
    conf_check_load(world, world->c->log);
}

static void an_append_that_matches_is_committed(struct conf_world *world)
{
    conf_write(world, 1, 10);
    conf_check_head(world);
    conf_write(world, 100, 100);
    conf_check_head(world);
    conf_write(world, 1, 0); /* An empty value is a value. */
    conf_write(world, 0, 0); /* An entry without rows, as doubt uses it. */
    conf_check_head(world);
    conf_check_load(world, world->c->log);
}

/* Each of these differs from the log in one point, and must change nothing at all. */
static void an_append_that_does_not_match_is_lost(struct conf_world *world)
{
    for (uint32_t wrong = 0; wrong < 5; wrong++) {
        struct conf_batch batch;
        conf_batch_init(world, &batch);
        conf_batch_put(world, &batch, "lost", 10, false);
        conf_batch_effect(&batch, (struct sql_effect){.kind = SQL_LEASE_PUT, .id = 99, .ttl_s = 9});
        conf_batch_seal(world, &batch);
        switch (wrong) {
        case 0:
            batch.append.expected_seq--;
            batch.entry.seq--;
            break;
        case 1:
            batch.append.expected_chain.bytes[3] ^= 1;
            break;
        case 2:
            batch.append.fence.era[5] ^= 1;
            break;
        case 3:
            batch.append.fence.epoch++;
            break;
        default:
            batch.append.fence.identity[0] ^= 1;
            break;
        }
        ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_LOST);
        conf_check_head(world);
        conf_batch_fini(&batch);
    }
    conf_check_load(world, world->c->log);
}

/* The byte-identical batch again, as doubt sends it: one of the two exists, and it is ours. */
static void an_append_sent_twice_stands_once(struct conf_world *world)
{
    struct conf_batch batch;
    conf_batch_init(world, &batch);
    conf_batch_put(world, &batch, "twice", 10, false);
    conf_batch_seal(world, &batch);
    ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_COMMITTED);
    batch.append.fresh_connection = true;
    ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_LOST);
    conf_batch_won(world, &batch);
    bool found;
    struct sql_writer writer;
    ASSERT(conf_verdict(world, world->c->log, batch.entry.seq, &found, &writer) == ERR_OK);
    ASSERT(found);
    ASSERT(writer.counter == batch.entry.writer.counter);
    ASSERT(memcmp(writer.incarnation, batch.entry.writer.incarnation, SQL_WRITER_SIZE) == 0);
    ASSERT(conf_verdict(world, world->c->log, batch.entry.seq + 1, &found, &writer) == ERR_OK);
    ASSERT(!found);
    conf_batch_fini(&batch);
    conf_check_head(world);
}

static void conf_tail_init(struct sql_tail *tail, struct arena *arena, uint64_t after_seq)
{
    arena_init(arena, CONF_ARENA);
    *tail = (struct sql_tail){
        .after_seq = after_seq, .entries_max = 1000, .bytes_max = 64 << 20, .arena = arena};
}

static void a_tail_gives_whole_entries_within_its_limits(struct conf_world *world)
{
    struct conf_batch batch;
    struct hash128 before = world->head.chain;
    uint64_t start = world->head.seq;
    conf_batch_init(world, &batch);
    for (uint32_t i = 0; i < 8; i++) {
        conf_batch_put(world, &batch, "big", 1000, i == 5);
    }
    batch.rows[7].revision = batch.rows[6].revision; /* Two rows of one revision. */
    batch.rows[7].sub = 1;
    batch.rows[7].sum = sql_row_sum(&batch.rows[7]);
    batch.entry.last_rev--;
    conf_batch_effect(&batch, (struct sql_effect){.kind = SQL_LEASE_PUT, .id = -7, .ttl_s = 60});
    conf_batch_seal(world, &batch);
    ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_COMMITTED);
    conf_batch_won(world, &batch);
    for (uint32_t i = 0; i < 4; i++) {
        conf_write(world, 2, 1000);
    }

    struct arena arena;
    struct sql_tail tail;
    conf_tail_init(&tail, &arena, start);
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    ASSERT(tail.entry_count == 5);
    ASSERT(conf_heads_equal(&tail.head, &world->head));
    ASSERT(conf_entry_is(&tail.entries[0], &batch.entry));
    ASSERT(tail.entries[0].effects[0].id == -7 && tail.entries[0].effects[0].ttl_s == 60);
    conf_check_chain(&tail, before);
    arena_fini(&arena);

    conf_tail_init(&tail, &arena, start);
    tail.entries_max = 2;
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    ASSERT(tail.entry_count == 2);
    conf_check_chain(&tail, before);
    arena_fini(&arena);

    conf_tail_init(&tail, &arena, start);
    tail.bytes_max = 1; /* Less than one entry: one entry all the same, and whole. */
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    ASSERT(tail.entry_count == 1 && tail.entries[0].row_count == 8);
    arena_fini(&arena);

    conf_tail_init(&tail, &arena, start + 1);
    tail.bytes_max = 5000; /* Two rows of 1000 bytes each: two entries, not three. */
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    ASSERT(tail.entry_count == 2);
    arena_fini(&arena);

    conf_tail_init(&tail, &arena, world->head.seq);
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    ASSERT(tail.entry_count == 0);
    ASSERT(conf_heads_equal(&tail.head, &world->head));
    arena_fini(&arena);

    conf_tail_init(&tail, &arena, 0);
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    conf_check_chain(&tail, (struct hash128){0});
    arena_fini(&arena);
    conf_batch_fini(&batch);
}

static void a_lock_pulls_and_its_append_ends_it(struct conf_world *world)
{
    struct arena arena;
    for (uint32_t round = 0; round < 3; round++) {
        struct sql_lock lock = {0};
        struct conf_batch batch;
        conf_batch_init(world, &batch);
        conf_batch_put(world, &batch, "locked", 10, false);
        conf_batch_seal(world, &batch);
        batch.append.locked = true;
        if (round == 1) { /* A mismatch ends the lock as well. */
            batch.append.expected_chain.bytes[0] ^= 1;
        }
        do {
            conf_tail_init(&lock.tail, &arena, world->head.seq - 1);
            ASSERT(conf_lock(world, world->c->log, &lock) == ERR_OK);
            ASSERT(lock.tail.entry_count == 1);
            ASSERT(conf_heads_equal(&lock.tail.head, &world->head));
            arena_fini(&arena);
        } while (conf_batch_append_locked(world, &batch));
        if (round == 1) {
            ASSERT(batch.append.outcome == SQL_LOST);
        } else {
            ASSERT(batch.append.outcome == SQL_COMMITTED);
            conf_batch_won(world, &batch);
        }
        conf_batch_fini(&batch);
        conf_check_head(world);
    }
    struct sql_lock lock = {0};
    conf_tail_init(&lock.tail, &arena, world->head.seq);
    ASSERT(conf_lock(world, world->c->log, &lock) == ERR_OK);
    world->c->log->ops->unlock(world->c->log);
    arena_fini(&arena);
    conf_write(world, 1, 10);
}

static void a_lock_is_given_up_after_a_second(struct conf_world *world)
{
    if (world->c->wait_ms == NULL) {
        return;
    }
    struct arena arena;
    struct sql_lock lock = {0};
    conf_tail_init(&lock.tail, &arena, world->head.seq);
    ASSERT(conf_lock(world, world->c->log, &lock) == ERR_OK);
    arena_fini(&arena);
    world->c->wait_ms(world->c->arg, 1300);
    struct sql_lock next = {0}; /* Only after the first one was given up. */
    conf_tail_init(&next.tail, &arena, world->head.seq);
    struct sql_log *other = world->c->other;
    while (other != NULL && conf_lock(world, other, &next) != ERR_OK) {
    }
    arena_fini(&arena);
    if (other != NULL) {
        other->ops->unlock(other);
    }
    struct conf_batch batch;
    conf_batch_init(world, &batch);
    conf_batch_put(world, &batch, "late", 10, false);
    conf_batch_seal(world, &batch);
    batch.append.locked = true;
    (void)conf_batch_append_locked(world, &batch);
    ASSERT(batch.append.outcome == SQL_LOST || batch.append.outcome == SQL_REFUSED);
    batch.append.locked = false; /* Engines with connections make a new one. */
    while (conf_batch_append(world, world->c->log, &batch) == SQL_REFUSED) {
        ASSERT(batch.append.err == ERR_NO_LEADER);
    }
    ASSERT(batch.append.outcome == SQL_COMMITTED);
    conf_batch_won(world, &batch);
    conf_batch_fini(&batch);
    conf_check_head(world);
}

/* Append an entry with effects and |rows| rows: a few large ones, or many. Counted in if it won. */
static enum sql_outcome conf_effects(struct conf_world *world, const struct sql_effect *effects,
                                     uint32_t count, uint32_t rows)
{
    struct conf_batch batch;
    conf_batch_init(world, &batch);
    for (uint32_t i = 0; i < rows; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "leased%u", i);
        conf_batch_put(world, &batch, key, rows < 100 ? 1 << 20 : 2000, false);
    }
    for (uint32_t i = 0; i < count; i++) {
        conf_batch_effect(&batch, effects[i]);
    }
    conf_batch_seal(world, &batch);
    enum sql_outcome outcome = conf_batch_append(world, world->c->log, &batch);
    if (outcome == SQL_COMMITTED) {
        conf_batch_won(world, &batch);
    }
    conf_batch_fini(&batch);
    return outcome;
}

static void conf_upkeep_init(struct sql_upkeep *upkeep, struct arena *arena, uint64_t id)
{
    arena_init(arena, CONF_ARENA);
    *upkeep = (struct sql_upkeep){.arena = arena, .duty_ms = 60000};
    upkeep->self.id = id;
    upkeep->self.pin_rev = INT64_MAX;
    upkeep->self.applied_seq = 3;
    (void)snprintf(upkeep->self.name, sizeof(upkeep->self.name), "member-%u", (unsigned)id);
    (void)snprintf(upkeep->self.client_urls, sizeof(upkeep->self.client_urls),
                   "http://127.0.0.1:2379");
    (void)snprintf(upkeep->self.version, sizeof(upkeep->self.version), "1.2.3");
}

/* The lease |id| as upkeep reports it; false without it. */
static bool conf_lease(struct conf_world *world, int64_t id, struct sql_lease *lease)
{
    struct arena arena;
    struct sql_upkeep upkeep;
    conf_upkeep_init(&upkeep, &arena, 1);
    ASSERT(conf_upkeep(world, world->c->log, &upkeep) == ERR_OK);
    bool found = false;
    for (uint32_t i = 0; i < upkeep.lease_count; i++) {
        ASSERT(i == 0 || upkeep.leases[i - 1].id < upkeep.leases[i].id);
        ASSERT(upkeep.leases[i].sum == sql_lease_sum(&upkeep.leases[i]));
        if (upkeep.leases[i].id == id) {
            *lease = upkeep.leases[i];
            found = true;
        }
    }
    arena_fini(&arena);
    return found;
}

static void a_keepalive_counts_known_leases_alone(struct conf_world *world)
{
    const struct sql_effect grants[] = {
        {.kind = SQL_LEASE_PUT, .id = 5, .ttl_s = 50},
        {.kind = SQL_LEASE_PUT, .id = 6, .ttl_s = 60},
    };
    ASSERT(conf_effects(world, grants, 2, 0) == SQL_COMMITTED);
    uint64_t seq = world->head.seq;
    struct sql_lease lease;
    ASSERT(conf_lease(world, 5, &lease));
    ASSERT(lease.ttl_s == 50 && lease.grant_seq == seq && lease.counter == seq);

    struct sql_keepalive_item items[] = {{.id = 4}, {.id = 5}, {.id = 6}, {.id = 1000}};
    struct sql_keepalive keepalive = {.fence = world->head.fence, .items = items, .count = 4};
    for (uint32_t i = 1; i <= 3; i++) {
        ASSERT(conf_keepalive(world, world->c->log, &keepalive) == ERR_OK);
        ASSERT(!items[0].found && items[1].found && items[2].found && !items[3].found);
        ASSERT(items[1].counter == seq + i && items[2].counter == seq + i);
    }
    ASSERT(conf_lease(world, 6, &lease) && lease.counter == seq + 3 && lease.grant_seq == seq);
    keepalive.fence.epoch++;
    ASSERT(conf_keepalive(world, world->c->log, &keepalive) == ERR_LEADER_CHANGED);
    ASSERT(conf_lease(world, 6, &lease) && lease.counter == seq + 3);
}

/* |rows| of a megabyte decide how it is sent: in one statement, or in several. */
static void an_expiry_needs_the_counter_it_saw(struct conf_world *world, uint32_t rows)
{
    const struct sql_effect grants[] = {{.kind = SQL_LEASE_PUT, .id = 7, .ttl_s = 50},
                                        {.kind = SQL_LEASE_PUT, .id = 8, .ttl_s = 50}};
    ASSERT(conf_effects(world, grants, 2, 0) == SQL_COMMITTED);
    uint64_t seq = world->head.seq;
    struct sql_effect expiries[] = {{.kind = SQL_LEASE_EXPIRE, .id = 7, .counter = seq},
                                    {.kind = SQL_LEASE_EXPIRE, .id = 8, .counter = seq + 1}};
    ASSERT(conf_effects(world, expiries, 2, rows) == SQL_MOVED);
    conf_check_head(world);
    struct sql_lease lease;
    ASSERT(conf_lease(world, 7, &lease) && conf_lease(world, 8, &lease));
    expiries[1].counter = seq;
    ASSERT(conf_effects(world, expiries, 2, rows) == SQL_COMMITTED);
    ASSERT(!conf_lease(world, 7, &lease) && !conf_lease(world, 8, &lease));
    ASSERT(conf_effects(world, expiries, 1, rows) == SQL_MOVED); /* Gone is moved, too. */
    conf_check_load(world, world->c->log);
}

static void effects_on_one_lease_keep_their_order(struct conf_world *world)
{
    const struct sql_effect effects[] = {
        {.kind = SQL_LEASE_PUT, .id = 9, .ttl_s = 10},
        {.kind = SQL_LEASE_DELETE, .id = 9},
        {.kind = SQL_LEASE_PUT, .id = 9, .ttl_s = 20},
        {.kind = SQL_LEASE_PUT, .id = 10, .ttl_s = 1},
        {.kind = SQL_LEASE_DELETE, .id = 10},
    };
    ASSERT(conf_effects(world, effects, 5, 1) == SQL_COMMITTED);
    struct sql_lease lease;
    ASSERT(conf_lease(world, 9, &lease) && lease.ttl_s == 20);
    ASSERT(lease.counter == world->head.seq);
    ASSERT(!conf_lease(world, 10, &lease));
    const struct sql_effect moved[] = {
        {.kind = SQL_LEASE_PUT, .id = 10, .ttl_s = 1},
        {.kind = SQL_LEASE_DELETE, .id = 10},
        {.kind = SQL_LEASE_EXPIRE, .id = 9, .counter = world->head.seq - 1},
    };
    ASSERT(conf_effects(world, moved, 3, 1) == SQL_MOVED);
    ASSERT(conf_lease(world, 9, &lease) && !conf_lease(world, 10, &lease));
    conf_check_head(world);
    const struct sql_effect again[] = {
        {.kind = SQL_LEASE_EXPIRE, .id = 9, .counter = world->head.seq},
        {.kind = SQL_LEASE_PUT, .id = 9, .ttl_s = 30},
        {.kind = SQL_LEASE_DELETE, .id = 12345}, /* Unknown: nothing to do, no error. */
    };
    ASSERT(conf_effects(world, again, 3, 0) == SQL_COMMITTED);
    ASSERT(conf_lease(world, 9, &lease) && lease.ttl_s == 30);
    ASSERT(lease.grant_seq == world->head.seq);
}

static bool conf_has_member(const struct sql_upkeep *upkeep, uint64_t id)
{
    bool found = false;
    for (uint32_t i = 0; i < upkeep->member_count; i++) {
        found = found || upkeep->members[i].id == id;
    }
    return found;
}

static void the_duty_has_one_owner_and_is_handed_over(struct conf_world *world)
{
    struct arena arena;
    struct sql_upkeep upkeep;
    conf_upkeep_init(&upkeep, &arena, 11);
    ASSERT(conf_upkeep(world, world->c->log, &upkeep) == ERR_OK);
    ASSERT(upkeep.duty_owner == 0);
    uint64_t term = upkeep.duty_term;
    ASSERT(upkeep.database_bytes > 0);
    upkeep.want_duty = true;
    upkeep.self.pin_rev = 77;
    for (uint32_t i = 0; i < 3; i++) {
        ASSERT(conf_upkeep(world, world->c->log, &upkeep) == ERR_OK);
        ASSERT(upkeep.duty_owner == 11 && upkeep.duty_term == term + 1);
    }
    struct sql_upkeep rival;
    struct arena rival_arena;
    conf_upkeep_init(&rival, &rival_arena, 12);
    rival.want_duty = true;
    ASSERT(conf_upkeep(world, world->c->log, &rival) == ERR_OK);
    ASSERT(rival.duty_owner == 11 && rival.duty_term == term + 1);
    while (!conf_has_member(&rival, 11)) { /* So slow that it counted as gone. */
        ASSERT(conf_upkeep(world, world->c->log, &upkeep) == ERR_OK);
        ASSERT(conf_upkeep(world, world->c->log, &rival) == ERR_OK);
    }
    uint32_t seen = 0;
    for (uint32_t i = 0; i < rival.member_count; i++) {
        const struct sql_member *member = &rival.members[i];
        ASSERT(i == 0 || rival.members[i - 1].id < member->id);
        if (member->id == 11 || member->id == 12) {
            seen++;
            ASSERT(member->applied_seq == 3);
            ASSERT(member->pin_rev == (member->id == 11 ? 77 : INT64_MAX));
            ASSERT(strcmp(member->name, member->id == 11 ? "member-11" : "member-12") == 0);
            ASSERT(strcmp(member->client_urls, "http://127.0.0.1:2379") == 0);
            ASSERT(strcmp(member->version, "1.2.3") == 0);
            ASSERT(member->age_ms >= 0 && member->age_ms < 10000);
        }
    }
    ASSERT(seen == 2);
    rival.leave = true; /* Not its owner: the duty stays where it is. */
    ASSERT(conf_upkeep(world, world->c->log, &rival) == ERR_OK);
    ASSERT(rival.duty_owner == 11 && rival.duty_term == term + 1);
    rival.leave = false;
    upkeep.leave = true;
    ASSERT(conf_upkeep(world, world->c->log, &upkeep) == ERR_OK);
    ASSERT(upkeep.duty_owner == 0);
    rival.duty_ms = 200;
    ASSERT(conf_upkeep(world, world->c->log, &rival) == ERR_OK);
    ASSERT(rival.duty_owner == 12 && rival.duty_term == term + 2);
    for (uint32_t i = 0; i < rival.member_count; i++) {
        ASSERT(rival.members[i].id != 11);
    }
    if (world->c->wait_ms != NULL) { /* Not renewed: it runs out. */
        world->c->wait_ms(world->c->arg, 400);
        upkeep.leave = false;
        ASSERT(conf_upkeep(world, world->c->log, &upkeep) == ERR_OK);
        ASSERT(upkeep.duty_owner == 11 && upkeep.duty_term == term + 3);
        upkeep.leave = true;
        ASSERT(conf_upkeep(world, world->c->log, &upkeep) == ERR_OK);
    }
    rival.leave = true;
    ASSERT(conf_upkeep(world, world->c->log, &rival) == ERR_OK);
    arena_fini(&arena);
    arena_fini(&rival_arena);
}

/* The naive model: at |compact|, a row is dead when a row at or below |compact| replaces it, or
 * when it is a tombstone below |compact|. */
static uint32_t conf_forget_dead(struct conf_world *world, int64_t compact)
{
    uint32_t kept = 0;
    uint32_t before = world->row_count;
    for (uint32_t i = 0; i < before; i++) {
        const struct sql_row *row = &world->rows[i];
        bool is_dead = row->is_delete && row->revision < compact;
        for (uint32_t later = i + 1; later < before && !is_dead; later++) {
            is_dead = world->rows[later].revision <= compact && row->revision < compact &&
                      slice_equal(world->rows[later].key, row->key);
        }
        if (is_dead) {
            conf_row_free(&world->rows[i]);
        } else {
            world->rows[kept++] = *row;
        }
    }
    world->row_count = kept;
    return before - kept;
}

static void a_purge_deletes_what_the_compaction_made_dead(struct conf_world *world)
{
    for (uint32_t round = 0; round < 4; round++) {
        for (uint32_t i = 0; i < 12; i++) {
            struct conf_batch batch;
            conf_batch_init(world, &batch);
            for (uint32_t row = 0; row < 10; row++) {
                char key[32];
                (void)snprintf(key, sizeof(key), "p%u", (unsigned)rng_below(&world->rng, 12));
                const struct sql_row *old =
                    conf_newest(batch.rows, batch.entry.row_count, slice_str(key));
                old =
                    old != NULL ? old : conf_newest(world->rows, world->row_count, slice_str(key));
                bool can_delete = old != NULL && !old->is_delete;
                conf_batch_put(world, &batch, key, 20,
                               can_delete && rng_below(&world->rng, 3) == 0);
            }
            conf_batch_seal(world, &batch);
            ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_COMMITTED);
            conf_batch_won(world, &batch);
            conf_batch_fini(&batch);
        }
        int64_t compact = world->head.revision - (int64_t)rng_below(&world->rng, 40);
        for (uint32_t i = world->row_count; i > 0 && round % 2 == 1; i--) {
            const struct sql_row *row = &world->rows[i - 1];
            if (row->is_delete && row->revision <= compact) {
                compact = row->revision; /* Its own tombstone stays: watchers still get it. */
                break;
            }
        }
        struct sql_purge purge = {.fence = world->head.fence,
                                  .compact_rev = compact,
                                  .from_rev = world->head.deleted_below,
                                  .to_rev = compact};
        /* Not compacted yet: refused, nothing changes. */
        ASSERT(conf_purge(world, world->c->log, &purge) == ERR_LEADER_CHANGED);
        conf_check_load(world, world->c->log);
        struct sql_effect effect = {.kind = SQL_COMPACT, .id = compact};
        ASSERT(conf_effects(world, &effect, 1, 0) == SQL_COMMITTED);
        purge.fence.era[0] ^= 1;
        ASSERT(conf_purge(world, world->c->log, &purge) == ERR_LEADER_CHANGED);
        purge.fence.era[0] ^= 1;
        uint64_t deleted = 0;
        while (purge.from_rev < compact) {
            int64_t to = purge.from_rev + 1 + (int64_t)rng_below(&world->rng, 60);
            purge.to_rev = to < compact ? to : compact;
            purge.rows_max = (uint32_t)rng_below(&world->rng, 10);
            do {
                ASSERT(conf_purge(world, world->c->log, &purge) == ERR_OK);
                ASSERT(purge.rows_max == 0 || purge.rows_deleted <= purge.rows_max);
                deleted += purge.rows_deleted;
                world->head.deleted_below = purge.to_rev;
                conf_check_head(world);
            } while (purge.rows_max > 0 && purge.rows_deleted == purge.rows_max);
            purge.from_rev = purge.to_rev;
        }
        ASSERT(deleted == conf_forget_dead(world, compact));
        conf_check_load(world, world->c->log);
    }
}

/* An entry of one row, or of two in one revision, or of none but a compaction to |compact|. */
static void conf_put(struct conf_world *world, const char *key, bool is_delete, bool is_twice,
                     int64_t compact)
{
    struct conf_batch batch;
    conf_batch_init(world, &batch);
    if (key != NULL) {
        conf_batch_put(world, &batch, key, 5, is_delete);
    }
    if (is_twice) {
        conf_batch_put(world, &batch, key, 5, is_delete);
        batch.rows[1].revision = batch.rows[0].revision;
        batch.rows[1].sub = 1;
        batch.rows[1].sum = sql_row_sum(&batch.rows[1]);
        batch.entry.last_rev--;
    }
    if (compact > 0) {
        conf_batch_effect(&batch, (struct sql_effect){.kind = SQL_COMPACT, .id = compact});
    }
    conf_batch_seal(world, &batch);
    ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_COMMITTED);
    conf_batch_won(world, &batch);
    conf_batch_fini(&batch);
}

static void conf_forget(struct conf_world *world, int64_t revision)
{
    uint32_t at = 0;
    while (world->rows[at].revision != revision) {
        at++;
    }
    conf_row_free(&world->rows[at]);
    world->row_count--;
    memmove(&world->rows[at], &world->rows[at + 1], (world->row_count - at) * sizeof(*world->rows));
}

/* A later part first, then what lies before it, then the whole again: what each may delete. */
static void a_purge_keeps_to_its_revisions(struct conf_world *world)
{
    static const struct {
        const char *key;
        bool is_delete;
    } puts[] = {{"q", false}, {"q", true},  {"q", false}, {"r", false},
                {"r", true},  {"s", false}, {"s", false}, {"s", false}};
    int64_t base = world->head.revision;
    for (uint32_t i = 0; i < ARRAY_COUNT(puts); i++) {
        conf_put(world, puts[i].key, puts[i].is_delete, i == 6, 0);
    }
    conf_put(world, NULL, false, false, base + 7);
    struct sql_purge purge = {.fence = world->head.fence, .compact_rev = base + 7};
    const struct {
        int64_t from;
        int64_t to;
        uint32_t rows_max;
        uint64_t deleted;
        int64_t mark;
    } steps[] = {
        {7, 7, 0, 0, 0}, /* Entries alone: no row, no mark. */
        {6, 7, 0, 1, 7}, /* The first s; not what lies before, nor anything of 7 itself. */
        {1, 6, 4, 4, 7}, /* Two of q, two of r; the mark does not go back. */
        {1, 6, 4, 0, 7}, {1, 7, 0, 0, 7},
    };
    static const int64_t gone[] = {6, 1, 2, 4, 5};
    uint32_t forgotten = 0;
    for (uint32_t i = 0; i < ARRAY_COUNT(steps); i++) {
        purge.from_rev = base + steps[i].from;
        purge.to_rev = base + steps[i].to;
        purge.rows_max = steps[i].rows_max;
        ASSERT(conf_purge(world, world->c->log, &purge) == ERR_OK);
        ASSERT(purge.rows_deleted == steps[i].deleted);
        for (uint64_t row = 0; row < steps[i].deleted; row++) {
            conf_forget(world, base + gone[forgotten++]);
        }
        if (steps[i].mark > 0) {
            world->head.deleted_below = base + steps[i].mark;
        }
        conf_check_load(world, world->c->log); /* And the head. */
    }
    purge.from_rev = base; /* A compaction that has not happened, of nothing but entries. */
    purge.to_rev = base;
    purge.compact_rev = base + 8;
    ASSERT(conf_purge(world, world->c->log, &purge) == ERR_LEADER_CHANGED);
}

static void old_entries_go_but_never_the_newest(struct conf_world *world)
{
    conf_write(world, 1, 10);
    uint64_t newest = world->head.seq;
    struct sql_purge purge = {.fence = world->head.fence, .compact_rev = world->head.compact_rev};
    purge.from_rev = purge.to_rev = world->head.deleted_below;
    purge.entries_below = newest - 3;
    ASSERT(conf_purge(world, world->c->log, &purge) == ERR_OK);
    struct arena arena;
    struct sql_tail tail;
    conf_tail_init(&tail, &arena, 0);
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    ASSERT(tail.entry_count == 4 && tail.entries[0].seq == newest - 3);
    arena_fini(&arena);
    purge.entries_below = newest + 100;
    ASSERT(conf_purge(world, world->c->log, &purge) == ERR_OK);
    bool found;
    struct sql_writer writer;
    ASSERT(conf_verdict(world, world->c->log, newest, &found, &writer) == ERR_OK && found);
    ASSERT(conf_verdict(world, world->c->log, newest - 1, &found, &writer) == ERR_OK && !found);
    conf_check_head(world);
    conf_write(world, 1, 10);
    conf_check_load(world, world->c->log);
}

static void a_huge_entry_is_one_entry(struct conf_world *world)
{
    struct hash128 before = world->head.chain;
    uint64_t start = world->head.seq;
    struct sql_effect effect = {.kind = SQL_LEASE_PUT, .id = 77, .ttl_s = 77};
    ASSERT(conf_effects(world, &effect, 1, 5000) == SQL_COMMITTED);
    struct sql_lease lease;
    ASSERT(conf_lease(world, 77, &lease) && lease.counter == start + 1);
    struct arena arena;
    struct sql_tail tail;
    conf_tail_init(&tail, &arena, start);
    tail.bytes_max = 1000;
    ASSERT(conf_tail(world, world->c->log, &tail) == ERR_OK);
    ASSERT(tail.entry_count == 1 && tail.entries[0].row_count == 5000);
    conf_check_chain(&tail, before);
    arena_fini(&arena);
    struct conf_batch batch; /* And one that does not match is lost as a whole. */
    conf_batch_init(world, &batch);
    for (uint32_t i = 0; i < 10; i++) {
        conf_batch_put(world, &batch, "huge", 1 << 20, false);
    }
    conf_batch_seal(world, &batch);
    batch.append.expected_chain.bytes[9] ^= 1;
    ASSERT(conf_batch_append(world, world->c->log, &batch) == SQL_LOST);
    conf_batch_fini(&batch);
    conf_check_head(world);
    conf_check_load(world, world->c->log);
}

static void a_load_ends_with_its_callbacks_error(struct conf_world *world)
{
    struct conf_loading state = {.world = world, .fail_after = 10};
    state.load.on_leases = conf_on_leases;
    state.load.on_rows = conf_on_rows;
    state.load.on_entries = conf_on_entries;
    ASSERT(conf_load(world, world->c->log, &state.load) == ERR_CORRUPT);
    ASSERT(state.next_seq == 0);
    conf_check_load(world, world->c->log);
}

/* Two writers on one state: one wins, the other loses, finds the winner, and goes on. */
static void of_two_racing_appends_one_wins(struct conf_world *world)
{
    if (world->c->other == NULL) {
        return;
    }
    uint32_t wins[2] = {0, 0};
    for (uint32_t round = 0; round < 50; round++) {
        struct conf_batch batches[2];
        struct sql_log *logs[2] = {world->c->log, world->c->other};
        for (uint32_t i = 0; i < 2; i++) {
            conf_batch_init(world, &batches[i]);
            conf_batch_put(world, &batches[i], "raced", 10, false);
            conf_batch_seal(world, &batches[i]);
        }
        uint32_t first = round % 2;
        logs[first]->ops->append(logs[first], &batches[first].append);
        logs[1 - first]->ops->append(logs[1 - first], &batches[1 - first].append);
        while (!batches[0].done || !batches[1].done) {
            world->c->pump(world->c->arg);
        }
        uint32_t winner = batches[0].append.outcome == SQL_COMMITTED ? 0 : 1;
        ASSERT(batches[winner].append.outcome == SQL_COMMITTED);
        ASSERT(batches[1 - winner].append.outcome == SQL_LOST);
        wins[winner]++;
        conf_batch_won(world, &batches[winner]);
        bool found;
        struct sql_writer writer;
        ASSERT(conf_verdict(world, logs[1 - winner], world->head.seq, &found, &writer) == ERR_OK);
        ASSERT(found && writer.counter == batches[winner].entry.writer.counter);
        conf_batch_fini(&batches[0]);
        conf_batch_fini(&batches[1]);
    }
    conf_check_load(world, world->c->other);
}

/* One round: false when the holder was so slow that the lock was taken from it. */
static bool conf_lock_keeps_other_waiting(struct conf_world *world)
{
    struct arena arena;
    struct sql_lock lock = {0};
    conf_tail_init(&lock.tail, &arena, world->head.seq);
    ASSERT(conf_lock(world, world->c->log, &lock) == ERR_OK);
    arena_fini(&arena);
    struct conf_batch batches[2];
    for (uint32_t i = 0; i < 2; i++) {
        conf_batch_init(world, &batches[i]);
        conf_batch_put(world, &batches[i], "guarded", 10, false);
        conf_batch_seal(world, &batches[i]);
    }
    world->c->other->ops->append(world->c->other, &batches[1].append);
    if (world->c->wait_ms != NULL) {
        world->c->wait_ms(world->c->arg, 50); /* Let it arrive there first. */
    }
    bool is_overtaken = batches[1].done;
    batches[0].append.locked = true;
    (void)conf_batch_append_locked(world, &batches[0]);
    while (!batches[1].done) {
        world->c->pump(world->c->arg);
    }
    bool is_kept = batches[0].append.outcome == SQL_COMMITTED;
    ASSERT(!is_kept || (batches[1].append.outcome == SQL_LOST && !is_overtaken));
    if (is_kept || batches[1].append.outcome == SQL_COMMITTED) {
        conf_batch_won(world, &batches[is_kept ? 0 : 1]);
    }
    conf_batch_fini(&batches[0]);
    conf_batch_fini(&batches[1]);
    conf_check_head(world);
    return is_kept;
}

/* Who holds the lock is not overtaken by an optimistic writer that never asks for it. */
static void a_lock_keeps_others_waiting(struct conf_world *world)
{
    if (world->c->other == NULL) {
        return;
    }
    bool is_kept = false;
    for (uint32_t i = 0; i < 60 && !is_kept; i++) {
        is_kept = conf_lock_keeps_other_waiting(world);
    }
    ASSERT(is_kept);
}

void sql_conformance_run(const struct sql_conformance *conformance)
{
    struct conf_world world;
    conf_world_init(&world, conformance);
    an_empty_log_stands_at_revision_one(&world);
    conf_an_empty_log_expects_no_chain(&world);
    an_append_that_matches_is_committed(&world);
    an_append_that_does_not_match_is_lost(&world);
    an_append_sent_twice_stands_once(&world);
    a_tail_gives_whole_entries_within_its_limits(&world);
    a_lock_pulls_and_its_append_ends_it(&world);
    a_lock_is_given_up_after_a_second(&world);
    a_keepalive_counts_known_leases_alone(&world);
    an_expiry_needs_the_counter_it_saw(&world, 1);
    effects_on_one_lease_keep_their_order(&world);
    the_duty_has_one_owner_and_is_handed_over(&world);
    of_two_racing_appends_one_wins(&world);
    a_lock_keeps_others_waiting(&world);
    a_purge_deletes_what_the_compaction_made_dead(&world);
    a_purge_keeps_to_its_revisions(&world);
    conf_each_condition_is_needed(&world);
    old_entries_go_but_never_the_newest(&world);
    an_expiry_needs_the_counter_it_saw(&world, 10);
    a_huge_entry_is_one_entry(&world);
    a_load_ends_with_its_callbacks_error(&world);
    conf_world_fini(&world);
}
