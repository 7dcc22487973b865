/*
 * Goal: the store serves over a real database, and comes back with what it acknowledged.
 * Method: a store on a uv loop over a SQLite file; requests one by one; closed and opened again.
 * The clock stands still while the database works, however slow the disk is, and moves from timer
 * to timer where a test wants time to pass.
 */
#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <sqlite3.h>

#include "core/limits.h"
#include "core/mem.h"
#include "store/store.h"

enum { UPKEEP_MS = 200, PUTS = 10 };

struct fixture {
    struct shared_clock clock;
    struct loop loop;
    struct loop_hook hook;
    struct reclaim reclaim;
    struct reclaim_reader reader; /* Of the test that holds a revision. */
    struct rng rng;
    struct sql_log *log;
    struct store *store;
    struct arena arena;
    char folder[64];
    char url[160];
    char file[96];
    bool is_ready;
    enum err ready;
    char why[256];
    bool is_stopped;
    bool is_done;
};

static void on_hook(struct loop_hook *hook)
{
    struct fixture *fixture = CONTAINER_OF(hook, struct fixture, hook);
    store_turn(fixture->store);
}

static void on_ready(void *arg, enum err err, const char *why)
{
    struct fixture *fixture = arg;
    fixture->is_ready = true;
    fixture->ready = err;
    (void)snprintf(fixture->why, sizeof(fixture->why), "%s", why);
}

static void on_fatal(void *arg, enum err err, const char *why)
{
    (void)arg;
    (void)err;
    fail_msg("fatal: %s", why);
}

static void on_stopped(void *arg)
{
    struct fixture *fixture = arg;
    fixture->is_stopped = true;
}

static void pump(struct fixture *fixture, const bool *until)
{
    uint64_t until_ns = clock_now_ns(&clock_monotonic) + SUPPORT_HANG_NS;
    while (!*until) {
        assert_true(clock_now_ns(&clock_monotonic) < until_ns);
        (void)uv_run(&fixture->loop.uv, UV_RUN_ONCE);
    }
}

static void fixture_start(struct fixture *fixture)
{
    loop_init(&fixture->loop, &fixture->clock.clock);
    reclaim_init(&fixture->reclaim);
    rng_seed(&fixture->rng, support_seed());
    char why[256];
    struct sql_config sql = {.url = fixture->url, .loop = &fixture->loop, .tables_prefix = ""};
    assert_int_equal(sql_log_new(&sql, &fixture->log, why, sizeof(why)), ERR_OK);
    struct store_config config = {.log = fixture->log,
                                  .timers = &fixture->loop.timers,
                                  .loop = &fixture->loop,
                                  .rng = &fixture->rng,
                                  .reclaim = &fixture->reclaim,
                                  .transaction_mode = STORE_AUTO,
                                  .poll_interval_ms = 20,
                                  .upkeep_interval_ms = UPKEEP_MS,
                                  .max_txn_ops = 128,
                                  .request_size_max = LIMIT_REQUEST_SIZE_MAX,
                                  .on_ready = on_ready,
                                  .on_fatal = on_fatal,
                                  .arg = fixture};
    fixture->store = store_new(&config);
    fixture->hook.run = on_hook;
    loop_add_hook(&fixture->loop, &fixture->hook);
    fixture->is_ready = false;
    store_start(fixture->store);
    pump(fixture, &fixture->is_ready);
}

static void fixture_stop(struct fixture *fixture)
{
    fixture->is_stopped = false;
    store_stop(fixture->store, on_stopped, fixture);
    pump(fixture, &fixture->is_stopped);
    loop_remove_hook(&fixture->loop, &fixture->hook);
    store_free(fixture->store);
    fixture->log->ops->free(fixture->log);
    reclaim_fini(&fixture->reclaim);
    loop_stop(&fixture->loop);
    loop_run(&fixture->loop);
    loop_fini(&fixture->loop);
}

static struct fixture *fixture_new(void)
{
    struct fixture *fixture = mem_alloc(sizeof(*fixture));
    shared_clock_init(&fixture->clock);
    (void)snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/drover-store-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    (void)snprintf(fixture->file, sizeof(fixture->file), "%s/drover.db", fixture->folder);
    (void)snprintf(fixture->url, sizeof(fixture->url), "sqlite://%s", fixture->file);
    arena_init(&fixture->arena, 1 << 20);
    return fixture;
}

static void fixture_free(struct fixture *fixture)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    char path[192];
    for (uint32_t i = 0; i < ARRAY_COUNT(ends); i++) {
        (void)snprintf(path, sizeof(path), "%s%s", fixture->file, ends[i]);
        (void)unlink(path);
    }
    (void)rmdir(fixture->folder);
    arena_fini(&fixture->arena);
    mem_free(fixture);
}

struct ask {
    struct store_request request;
    struct fixture *fixture;
    bool is_done;
};

static void on_done(struct store_request *request)
{
    struct ask *ask = CONTAINER_OF(request, struct ask, request);
    ask->is_done = true;
}

static void ask_begin(struct fixture *fixture, struct ask *ask)
{
    ask->fixture = fixture;
    ask->request.arena = &fixture->arena;
    ask->request.deadline_ns = UINT64_MAX;
    ask->request.done = on_done;
    store_post(fixture->store, &ask->request);
}

static enum err ask_run(struct fixture *fixture, struct ask *ask)
{
    ask_begin(fixture, ask);
    pump(fixture, &ask->is_done);
    return ask->request.err;
}

static uint64_t now_ns(const struct fixture *fixture)
{
    return clock_now_ns(&fixture->clock.clock);
}

/* Move the clock to the next timer. What its turn asked of the database is answered on return: the
 * database takes one request after the other, and the last one here is ours. */
static void tick(struct fixture *fixture)
{
    uint64_t due_ns = timers_next_due_ns(&fixture->loop.timers);
    assert_true(due_ns < UINT64_MAX);
    if (due_ns > now_ns(fixture)) {
        shared_clock_advance(&fixture->clock, due_ns - now_ns(fixture));
    }
    struct ask last = {.request = {.kind = STORE_LEASE_KEEPALIVE, .u.lease = {.id = 999}}};
    assert_int_equal(ask_run(fixture, &last), ERR_OK);
}

static int64_t put(struct fixture *fixture, const char *key, const char *value, int64_t lease)
{
    struct ask ask = {
        .request = {.kind = STORE_PUT,
                    .u.put = {.key = slice_str(key), .value = slice_str(value), .lease = lease}}};
    assert_int_equal(ask_run(fixture, &ask), ERR_OK);
    return ask.request.revision;
}

static uint64_t count(struct fixture *fixture)
{
    struct store_range range = {.key = SLICE_LIT("\0"), .range_end = SLICE_LIT("\0")};
    struct store_range_answer answer;
    assert_int_equal(
        store_range_run(store_snapshot(fixture->store), &range, &fixture->arena, &answer), ERR_OK);
    return answer.count;
}

static void a_store_comes_back_with_what_it_acknowledged(void **state)
{
    struct fixture *fixture = fixture_new();
    (void)state;
    fixture_start(fixture);
    assert_int_equal(fixture->ready, ERR_OK);
    assert_true(store_reads_are_local(fixture->store));
    assert_int_equal(cache_snapshot_info(store_snapshot(fixture->store))->revision, 1);
    assert_int_equal(cache_snapshot_info(store_snapshot(fixture->store))->compact_rev, -1);
    assert_int_equal(put(fixture, "a", "1", 0), 2);
    assert_int_equal(put(fixture, "b", "2", 0), 3);
    struct ask grant = {.request = {.kind = STORE_LEASE_GRANT, .u.lease = {.id = 7, .ttl_s = 0}}};
    assert_int_equal(ask_run(fixture, &grant), ERR_OK);
    assert_int_equal(grant.request.answer.lease.ttl_s, 2);
    assert_int_equal(put(fixture, "c", "3", 7), 4);
    struct ask renew = {.request = {.kind = STORE_LEASE_KEEPALIVE, .u.lease = {.id = 7}}};
    assert_int_equal(ask_run(fixture, &renew), ERR_OK);
    assert_int_equal(renew.request.answer.lease.ttl_s, 2);
    struct ask unknown = {.request = {.kind = STORE_LEASE_KEEPALIVE, .u.lease = {.id = 8}}};
    assert_int_equal(ask_run(fixture, &unknown), ERR_OK);
    assert_int_equal(unknown.request.answer.lease.ttl_s, 0);
    struct ask ttl = {.request = {.kind = STORE_LEASE_TTL, .u.lease = {.id = 7}}};
    assert_int_equal(ask_run(fixture, &ttl), ERR_OK);
    assert_int_equal(ttl.request.answer.lease.granted_s, 2);
    assert_true(ttl.request.answer.lease.ttl_s >= 0 && ttl.request.answer.lease.ttl_s <= 2);
    fixture_stop(fixture);

    fixture_start(fixture);
    assert_int_equal(fixture->ready, ERR_OK);
    assert_int_equal(count(fixture), 3);
    struct ask revoke = {.request = {.kind = STORE_LEASE_REVOKE, .u.lease = {.id = 7}}};
    assert_int_equal(ask_run(fixture, &revoke), ERR_OK);
    assert_int_equal(revoke.request.revision, 5);
    assert_int_equal(count(fixture), 2);
    fixture_stop(fixture);
    fixture_free(fixture);
}

static void a_lease_that_nobody_keeps_alive_takes_its_keys_along(void **state)
{
    struct fixture *fixture = fixture_new();
    (void)state;
    fixture_start(fixture);
    struct ask grant = {.request = {.kind = STORE_LEASE_GRANT, .u.lease = {.id = 0, .ttl_s = 2}}};
    uint64_t began_ns = now_ns(fixture);
    assert_int_equal(ask_run(fixture, &grant), ERR_OK);
    assert_true(grant.request.answer.lease.id > 0);
    (void)put(fixture, "k", "v", grant.request.answer.lease.id);
    assert_int_equal(count(fixture), 1);
    while (count(fixture) > 0) {
        tick(fixture);
        assert_true(now_ns(fixture) - began_ns <= 2 * NS_PER_S + 2 * UPKEEP_MS * NS_PER_MS);
    }
    assert_true(now_ns(fixture) - began_ns >= 2 * NS_PER_S);
    fixture_stop(fixture);
    fixture_free(fixture);
}

/* Trimming that a reader holds up must not keep the thread awake, and goes on when it lets go. */
static void a_held_revision_does_not_keep_the_store_awake(void **state)
{
    struct fixture *fixture = fixture_new();
    (void)state;
    fixture_start(fixture);
    reclaim_add_reader(&fixture->reclaim, &fixture->reader);
    reclaim_reader_hold(&fixture->reader, 2);
    reclaim_reader_announce(&fixture->reader, UINT64_MAX);
    for (uint32_t i = 0; i < PUTS; i++) {
        (void)put(fixture, "k", "v", 0);
    }
    struct ask compact = {.request = {.kind = STORE_COMPACT, .u.compact = {.revision = PUTS + 1}}};
    assert_int_equal(ask_run(fixture, &compact), ERR_OK);
    uint64_t end_ns = now_ns(fixture) + 500 * NS_PER_MS;
    for (uint32_t wakes = 0; now_ns(fixture) < end_ns; wakes++) {
        assert_true(wakes < 25); /* One a millisecond would be 500. */
        tick(fixture);
    }
    assert_true(cache_trimmed_rev(store_cache(fixture->store)) <= 2);
    reclaim_reader_hold(&fixture->reader, RECLAIM_NO_HOLD);
    end_ns = now_ns(fixture) + 64 * NS_PER_MS; /* So long it waits at most. */
    while (cache_trimmed_rev(store_cache(fixture->store)) < PUTS + 1) {
        tick(fixture);
        assert_true(now_ns(fixture) <= end_ns);
    }
    fixture_stop(fixture);
    fixture_free(fixture);
}

static void a_physical_compaction_is_answered_when_the_dead_rows_are_gone(void **state)
{
    struct fixture *fixture = fixture_new();
    (void)state;
    fixture_start(fixture);
    for (uint32_t i = 0; i < PUTS; i++) {
        (void)put(fixture, "k", "v", 0);
    }
    struct ask compact = {
        .request = {.kind = STORE_COMPACT, .u.compact = {.revision = PUTS + 1, .physical = true}}};
    ask_begin(fixture, &compact);
    for (uint32_t ticks = 0; !compact.is_done; ticks++) {
        assert_true(ticks < 100);
        tick(fixture);
    }
    assert_int_equal(compact.request.err, ERR_OK);
    assert_int_equal(cache_trimmed_rev(store_cache(fixture->store)), PUTS + 1);
    struct ask again = {.request = {.kind = STORE_COMPACT, .u.compact = {.revision = PUTS + 1}}};
    assert_int_equal(ask_run(fixture, &again), ERR_COMPACTED);
    struct ask future = {.request = {.kind = STORE_COMPACT, .u.compact = {.revision = PUTS + 2}}};
    assert_int_equal(ask_run(fixture, &future), ERR_FUTURE_REV);
    fixture_stop(fixture);
    sqlite3 *db = NULL;
    sqlite3_stmt *rows = NULL;
    assert_int_equal(sqlite3_open(fixture->file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT count(*) FROM kv", -1, &rows, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(rows), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(rows, 0), 1);
    (void)sqlite3_finalize(rows);
    (void)sqlite3_close(db);
    fixture_start(fixture);
    assert_int_equal(fixture->ready, ERR_OK);
    assert_int_equal(count(fixture), 1);
    fixture_stop(fixture);
    fixture_free(fixture);
}

/* Run |text| on the file of a store that is stopped. */
static void spoil(const struct fixture *fixture, const char *text)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(fixture->file, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_changes(db), 1);
    (void)sqlite3_close(db);
}

static void one_changed_byte_is_refused_at_start_with_its_seq(void **state)
{
    static const struct {
        const char *what;
        const char *named;
    } table[] = {
        {"UPDATE kv SET value = x'32' WHERE revision = 4", "seq 3"},
        {"UPDATE kv SET key = x'7a' WHERE revision = 3", "seq 2"},
        {"UPDATE kv SET lease = 1 WHERE revision = 2", "seq 1"},
        {"DELETE FROM kv WHERE revision = 3", "revision 4"},
        {"DELETE FROM kv WHERE revision = 5", "seq 4"},
        {"UPDATE entry SET last_rev = 9 WHERE seq = 2", "seq 2"},
        {"DELETE FROM entry WHERE seq = 2", "seq 2"},
        {"UPDATE lease SET ttl_s = 9999", "lease 000000000000002a"},
        {"UPDATE lease SET id = 43", "lease 000000000000002b"},
        {"UPDATE lease SET grant_seq = 1", "lease 000000000000002a"},
        {"UPDATE lease SET sum = sum + 1", "lease 000000000000002a"},
    };
    (void)state;
    struct fixture *good = fixture_new();
    fixture_start(good);
    for (uint32_t n = 0; n < 4; n++) {
        (void)put(good, n % 2 == 0 ? "k" : "l", "1", 0);
    }
    struct ask grant = {.request = {.kind = STORE_LEASE_GRANT, .u.lease = {42, 3600}}};
    assert_int_equal(ask_run(good, &grant), ERR_OK);
    fixture_stop(good);
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        struct fixture *fixture = fixture_new();
        char copy[256];
        (void)snprintf(copy, sizeof(copy), "cp '%s' '%s'", good->file, fixture->file);
        assert_int_equal(system(copy), 0);
        spoil(fixture, table[i].what);
        fixture_start(fixture);
        assert_int_equal(fixture->ready, ERR_CHAIN_BROKEN);
        if (strstr(fixture->why, table[i].named) == NULL) {
            fail_msg("%s: %s", table[i].what, fixture->why);
        }
        fixture_stop(fixture);
        fixture_free(fixture);
    }
    fixture_free(good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_store_comes_back_with_what_it_acknowledged),
        cmocka_unit_test(a_lease_that_nobody_keeps_alive_takes_its_keys_along),
        cmocka_unit_test(a_held_revision_does_not_keep_the_store_awake),
        cmocka_unit_test(a_physical_compaction_is_answered_when_the_dead_rows_are_gone),
        cmocka_unit_test(one_changed_byte_is_refused_at_start_with_its_seq),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
