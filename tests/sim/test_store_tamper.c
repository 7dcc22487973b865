/*
 * Goal: what is changed in the log's rows, entries and effects is refused wherever it is read: by
 * the tail of a replica that lives, under the lock, and at a start; and a log that went back is
 * noticed by whatever statement sees it first.
 * Method: one field at a time is changed in the fake database, after its commit and before a
 * second replica reads it. Sums, hashes and chain are made good again as far as the table says, so
 * that exactly one check is left to see it.
 */
#include "nodes.h"

/* What the entry under attack holds. */
enum { HELD_LEASE = 7, REVOKED_LEASE = 8, NEW_LEASE = 9, COMPACTED = 4, ASKS = 5 };

/* What whoever changed the log has made good again, each with all before it. */
enum forge { FORGE_NOTHING, FORGE_SUMS, FORGE_HASH, FORGE_CHAIN };

struct attack {
    struct sql_entry *entry;
    struct fake_row *rows;      /* Three: put "k", and deletes of "a" and "b" in one revision. */
    struct sql_effect *effects; /* Three: a granted lease, a revoked one, a compaction. */
};
typedef void change_fn(const struct attack *attack);

static uint8_t *byte_of(struct slice slice)
{
    return (uint8_t *)(uintptr_t)slice.data;
}

#define CHANGE(name, statement)                   \
    static void name(const struct attack *attack) \
    {                                             \
        statement;                                \
    }

CHANGE(row_key, *byte_of(attack->rows[0].row.key) ^= 1)
CHANGE(row_value, *byte_of(attack->rows[0].row.value) ^= 1)
CHANGE(row_value_size, attack->rows[0].row.value.size--)
CHANGE(row_is_delete, attack->rows[0].row.is_delete = true)
CHANGE(row_revision, attack->rows[0].row.revision--)
CHANGE(row_sub, attack->rows[2].row.sub = 2)
CHANGE(row_create_rev, attack->rows[0].row.create_rev--)
CHANGE(row_version, attack->rows[0].row.version++)
CHANGE(row_lease, attack->rows[0].row.lease = 0)
CHANGE(row_prev_rev, attack->rows[1].row.prev_rev++)
CHANGE(row_prev_sub, attack->rows[1].row.prev_sub++)
CHANGE(row_sum, attack->rows[0].row.sum ^= 1)
CHANGE(row_gone, attack->rows[2].purged = true)
CHANGE(entry_incarnation, attack->entry->writer.incarnation[3] ^= 1)
CHANGE(entry_counter, attack->entry->writer.counter++)
CHANGE(entry_epoch, attack->entry->epoch++)
CHANGE(entry_first_rev, attack->entry->first_rev++)
CHANGE(entry_last_rev, attack->entry->last_rev++)
CHANGE(entry_byte_count, attack->entry->byte_count++)
CHANGE(entry_compact_rev, attack->entry->compact_rev--)
CHANGE(entry_auth_rev, attack->entry->auth_rev++)
CHANGE(entry_rows_hash, attack->entry->rows_hash.bytes[0] ^= 1)
CHANGE(entry_chain, attack->entry->chain.bytes[15] ^= 1)
CHANGE(effect_gone, attack->entry->effect_count--)
CHANGE(effect_kind, attack->effects[1].kind = SQL_LEASE_EXPIRE)
CHANGE(effect_lease, attack->effects[0].id++)
CHANGE(effect_no_lease, attack->effects[0].id = 0)
CHANGE(effect_ttl, attack->effects[0].ttl_s++)
CHANGE(effect_no_ttl, attack->effects[0].ttl_s = 0)
CHANGE(effect_revoked, attack->effects[1].id++)
CHANGE(effect_compact, attack->effects[2].id--)
CHANGE(effect_compact_ahead, attack->effects[2].id = attack->entry->last_rev + 1;
       attack->entry->compact_rev = attack->entry->last_rev + 1)
CHANGE(effect_compact_back, attack->effects[2].id = 1; attack->entry->compact_rev = 1)

#define SUM "a row does not match its checksum"
#define HASH "its rows do not match their hash"
#define CHAIN "it does not match the chain"
#define DENSE "its rows are not dense"
#define LOAD_HASH "an entry's rows do not match its hash"
#define LOAD_CHAIN "an entry does not match the chain"
#define LOAD_GAP "rows are missing in front of revision"

/* |live|: what the tail says; |start|: what a load says, NULL: it does not look at it. */
static const struct {
    const char *name;
    change_fn *change;
    enum forge forge;
    const char *live;
    const char *start;
} attacks[] = {
    {"key", row_key, FORGE_NOTHING, SUM, SUM},
    {"value", row_value, FORGE_NOTHING, SUM, SUM},
    {"size of the value", row_value_size, FORGE_NOTHING, SUM, SUM},
    {"is_delete", row_is_delete, FORGE_NOTHING, SUM, SUM},
    {"create_rev", row_create_rev, FORGE_NOTHING, SUM, SUM},
    {"version", row_version, FORGE_NOTHING, SUM, SUM},
    {"lease", row_lease, FORGE_NOTHING, SUM, SUM},
    {"prev_rev", row_prev_rev, FORGE_NOTHING, SUM, SUM},
    {"prev_sub", row_prev_sub, FORGE_NOTHING, SUM, SUM},
    {"sum", row_sum, FORGE_NOTHING, SUM, SUM},
    {"value and its sum", row_value, FORGE_SUMS, HASH, LOAD_HASH},
    {"lease and its sum", row_lease, FORGE_SUMS, HASH, LOAD_HASH},
    {"version, sum and hash", row_version, FORGE_HASH, CHAIN, LOAD_CHAIN},
    {"revision, well forged", row_revision, FORGE_CHAIN, DENSE, LOAD_GAP},
    {"sub, well forged", row_sub, FORGE_CHAIN, DENSE, LOAD_GAP},
    {"a row less", row_gone, FORGE_NOTHING, CHAIN, "an entry's rows are not as many as it says"},
    {"incarnation", entry_incarnation, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"counter", entry_counter, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"epoch", entry_epoch, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"first_rev", entry_first_rev, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"last_rev", entry_last_rev, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"last_rev, well forged", entry_last_rev, FORGE_CHAIN, "its rows do not end at its revision",
     "the newest rows are missing"},
    {"byte_count", entry_byte_count, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"compact_rev", entry_compact_rev, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"compact_rev, well forged", entry_compact_rev, FORGE_CHAIN,
     "its compact revision is another one", NULL},
    {"auth_rev", entry_auth_rev, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"rows_hash", entry_rows_hash, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"chain", entry_chain, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"an effect less", effect_gone, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"kind of an effect", effect_kind, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"id of a granted lease", effect_lease, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"no id, well forged", effect_no_lease, FORGE_CHAIN, "an effect is not known", NULL},
    {"TTL of a granted lease", effect_ttl, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"no TTL, well forged", effect_no_ttl, FORGE_CHAIN, "an effect is not known", NULL},
    {"id of a revoked lease", effect_revoked, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"compaction", effect_compact, FORGE_NOTHING, CHAIN, LOAD_CHAIN},
    {"compaction ahead, well forged", effect_compact_ahead, FORGE_CHAIN,
     "its compactions are out of order", "the newest entry does not fit the rows"},
    {"compaction twice, well forged", effect_compact_back, FORGE_CHAIN,
     "its compactions are out of order", NULL},
};

/* Change entry |seq| of the database as |attacks[nth]| says. */
static void attack_run(struct fake_db *db, uint64_t seq, uint32_t nth)
{
    struct fake_entry *at = &db->entries[seq - 1];
    struct attack attack = {&at->entry, at->rows,
                            (struct sql_effect *)(uintptr_t)at->entry.effects};
    attacks[nth].change(&attack);
    enum forge forge = attacks[nth].forge;
    struct sql_row *rows = mem_alloc(at->entry.row_count * sizeof(*rows));
    for (uint32_t i = 0; i < at->entry.row_count; i++) {
        if (forge >= FORGE_SUMS) {
            at->rows[i].row.sum = sql_row_sum(&at->rows[i].row);
        }
        rows[i] = at->rows[i].row;
    }
    if (forge >= FORGE_HASH) {
        at->entry.rows_hash = sql_rows_hash(rows, at->entry.row_count);
    }
    if (forge >= FORGE_CHAIN) {
        at->entry.chain = sql_entry_chain(&db->entries[seq - 2].entry.chain, &at->entry);
    }
    mem_free(rows);
}

/* ---- the entry ------------------------------------------------------------------------------ */

static struct ask lease_of(enum store_kind kind, int64_t id)
{
    return (struct ask){.request = {.kind = kind, .u.lease = {id, 60}}};
}

/* Two nodes, or the first one alone, with "a", "b" and "c" in the log and two leases. */
static struct world *world_with_keys(uint32_t nodes, enum store_transaction_mode mode)
{
    struct world *world = world_new(nodes, mode);
    struct ask asks[] = {put_of("a", "old"),
                         put_of("b", "old"),
                         put_of("c", "old"),
                         lease_of(STORE_LEASE_GRANT, HELD_LEASE),
                         lease_of(STORE_LEASE_GRANT, REVOKED_LEASE),
                         compact_of(2)};
    for (uint32_t i = 0; i < ARRAY_COUNT(asks); i++) {
        assert_int_equal(ask_run(&world->nodes[0], &asks[i]), ERR_OK);
    }
    world_run_for(world, NS_PER_S); /* Whoever listens has it all. */
    for (uint32_t i = 0; i < ARRAY_COUNT(world->nodes); i++) {
        world->nodes[i].may_end = true;
    }
    return world;
}

/* Writes the entry, and steps until it is committed: nobody has read it. Returns its seq. */
static uint64_t write_entry(struct world *world, struct ask asks[ASKS])
{
    struct node *node = &world->nodes[0];
    uint64_t seq = world->db.entry_count + 1;
    asks[0] = put_of("k", "new");
    asks[0].request.u.put.lease = HELD_LEASE;
    asks[1] = (struct ask){.request = {.kind = STORE_DELETE, .size = 10}};
    asks[1].request.u.del = (struct store_delete){slice_str("a"), slice_str("c"), false};
    asks[2] = lease_of(STORE_LEASE_GRANT, NEW_LEASE);
    asks[3] = lease_of(STORE_LEASE_REVOKE, REVOKED_LEASE);
    asks[4] = compact_of(COMPACTED);
    for (uint32_t i = 0; i < ASKS; i++) {
        ask_start(node, &asks[i]);
    }
    store_turn(node->store);
    uint64_t end_ns = world->sched.now_ns + 60 * NS_PER_S;
    while (world->db.entry_count < seq) {
        assert_true(world_step(world, end_ns));
    }
    const struct sql_entry *entry = &fake_db_entry(&world->db, seq)->entry;
    assert_int_equal(world->db.entry_count, seq);
    assert_int_equal(entry->row_count, 3);
    assert_int_equal(entry->effect_count, 3);
    return seq;
}

static int64_t revision_of(const struct node *node)
{
    return cache_snapshot_info(store_snapshot(node->store))->revision;
}

/* ---- rows, entries, effects ----------------------------------------------------------------- */

/* The second node lives; it comes to the entry by its tail, or under the lock for a write. */
static void attack_a_live_replica(uint32_t nth, bool by_lock)
{
    struct world *world = world_with_keys(2, by_lock ? STORE_LOCKING : STORE_AUTO);
    struct node *node = &world->nodes[1];
    struct ask asks[ASKS];
    struct ask put = put_of("z", "after");
    char named[200];
    int64_t revision = revision_of(node);
    uint64_t seq = write_entry(world, asks);
    attack_run(&world->db, seq, nth);
    if (by_lock) {
        ask_start(node, &put);
        store_turn(node->store);
    }
    world_run_for(world, 8 * NS_PER_S);
    (void)snprintf(named, sizeof(named), "entry seq %llu: %s", (unsigned long long)seq,
                   attacks[nth].live);
    if (node->fatal != ERR_CHAIN_BROKEN || strcmp(node->why, named) != 0) {
        fail_msg("%s: %s, \"%s\"", attacks[nth].name, err_name(node->fatal), node->why);
    }
    assert_int_equal(revision_of(node), revision); /* Not a row of it is served. */
    assert_int_equal(log_count(world, "after"), 0);
    world_free(world);
}

static void what_was_changed_is_refused_by_the_tail(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(attacks); i++) {
        attack_a_live_replica(i, false);
    }
}

static void what_was_changed_is_refused_under_the_lock(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(attacks); i++) {
        attack_a_live_replica(i, true);
    }
}

static void what_was_changed_is_refused_at_a_start(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(attacks); i++) {
        if (attacks[i].start == NULL) {
            continue;
        }
        struct world *world = world_with_keys(1, STORE_AUTO);
        struct node *node = &world->nodes[1];
        struct ask asks[ASKS];
        char named[32];
        uint64_t seq = write_entry(world, asks);
        attack_run(&world->db, seq, i);
        node_start(node, STORE_AUTO);
        (void)snprintf(named, sizeof(named), "(seq %llu)", (unsigned long long)seq);
        if (node->refusal != ERR_CHAIN_BROKEN || strstr(node->why, attacks[i].start) == NULL ||
            strstr(node->why, named) == NULL) {
            fail_msg("%s: %s, \"%s\"", attacks[i].name, err_name(node->refusal), node->why);
        }
        world_free(world);
    }
}

/* The attacks are seen because of what they change, not because of how they are made. */
static void what_was_not_changed_is_applied(void **state)
{
    (void)state;
    struct world *world = world_with_keys(2, STORE_AUTO);
    struct ask asks[ASKS];
    (void)write_entry(world, asks);
    world_run_for(world, 8 * NS_PER_S);
    assert_int_equal(world->nodes[1].fatal, ERR_OK);
    assert_int_equal(revision_of(&world->nodes[1]), revision_of(&world->nodes[0]));
    world_free(world);
}

/* ---- leases --------------------------------------------------------------------------------- */

static void lease_id(struct sql_lease *lease)
{
    lease->id ^= 32;
}

static void lease_ttl(struct sql_lease *lease)
{
    lease->ttl_s = 9999;
}

static void lease_grant_seq(struct sql_lease *lease)
{
    lease->grant_seq--;
}

static void lease_sum(struct sql_lease *lease)
{
    lease->sum ^= 1;
}

/* The table of leases is no part of an entry; each row has a sum of its own. */
static void a_changed_lease_is_refused_at_the_next_reading_and_at_a_start(void **state)
{
    static void (*const changes[])(struct sql_lease *) = {lease_id, lease_ttl, lease_grant_seq,
                                                          lease_sum};
    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(changes); i++) {
        struct world *world = world_with_keys(1, STORE_AUTO);
        struct node *nodes = world->nodes;
        struct sql_lease *lease = &world->db.leases[world->db.lease_count - 1].lease;
        char named[100];
        changes[i](lease);
        (void)snprintf(named, sizeof(named), "lease %016llx does not match its checksum",
                       (unsigned long long)lease->id);
        node_start(&nodes[1], STORE_AUTO);
        assert_int_equal(nodes[1].refusal, ERR_CHAIN_BROKEN);
        assert_string_equal(nodes[1].why, named);
        world_run_for(world, NS_PER_S);
        assert_int_equal(nodes[0].fatal, ERR_CHAIN_BROKEN);
        assert_string_equal(nodes[0].why, named);
        world_free(world);
    }
}

static void a_lease_that_was_renewed_is_no_changed_one(void **state)
{
    (void)state;
    struct world *world = world_with_keys(1, STORE_AUTO);
    struct ask renew = {.request = {.kind = STORE_LEASE_KEEPALIVE, .u.lease.id = HELD_LEASE}};
    assert_int_equal(ask_run(&world->nodes[0], &renew), ERR_OK);
    world->db.leases[0].lease.counter += 5;
    world_run_for(world, 2 * NS_PER_S);
    node_start(&world->nodes[1], STORE_AUTO);
    assert_int_equal(world->nodes[0].fatal, ERR_OK);
    assert_int_equal(world->nodes[1].refusal, ERR_OK);
    world_free(world);
}

/* ---- a log that went back ------------------------------------------------------------------- */

static void a_log_behind_or_beside_ours_is_lost_history(void **state)
{
    enum { BY_POLL, BY_READ, BY_WRITE, WAYS };
    (void)state;
    for (uint32_t i = 0; i < 2 * WAYS; i++) {
        bool beside = i >= WAYS;
        struct world *world = world_with_keys(1, STORE_AUTO);
        struct node *node = &world->nodes[0];
        struct fake_db *db = &world->db;
        char named[100];
        uint64_t seq = db->entry_count;
        if (beside) {
            db->entries[seq - 1].entry.chain.bytes[7] ^= 1;
        } else {
            fake_db_forget_newest(db);
        }
        struct ask ask = put_of("z", "after");
        if (i % WAYS == BY_READ) {
            ask = (struct ask){.request = {.kind = STORE_READ_INDEX}};
        }
        if (i % WAYS != BY_POLL) {
            ask_start(node, &ask);
            store_turn(node->store);
        }
        world_run_for(world, 8 * NS_PER_S);
        (void)snprintf(named, sizeof(named),
                       "the log stands at seq %llu, behind or beside seq %llu",
                       (unsigned long long)db->entry_count, (unsigned long long)seq);
        if (node->fatal != ERR_HISTORY_LOST || strcmp(node->why, named) != 0) {
            fail_msg("row %u: %s, \"%s\"", i, err_name(node->fatal), node->why);
        }
        assert_int_equal(log_count(world, "after"), 0);
        assert_true(i % WAYS == BY_POLL || (ask.is_done && ask.request.err != ERR_OK));
        world_free(world);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_changed_is_refused_by_the_tail),
        cmocka_unit_test(what_was_changed_is_refused_under_the_lock),
        cmocka_unit_test(what_was_changed_is_refused_at_a_start),
        cmocka_unit_test(what_was_not_changed_is_applied),
        cmocka_unit_test(a_changed_lease_is_refused_at_the_next_reading_and_at_a_start),
        cmocka_unit_test(a_lease_that_was_renewed_is_no_changed_one),
        cmocka_unit_test(a_log_behind_or_beside_ours_is_lost_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
