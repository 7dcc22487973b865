/*
 * PostgreSQL: the conformance script, and what only a server can do: race, vanish, refuse.
 */
#include "support_postgres.h"

#include "support.h"

#include <stdio.h>
#include <unistd.h>

#include "sql/postgres.h"

static void postgres_does_what_every_log_must(void **state)
{
    (void)state;
    struct postgres_world pg;
    struct log_fixture other;
    postgres_world_open(&pg);
    struct sql_config config = {.url = pg.database.url, .loop = pg.fixture.loop};
    log_fixture_start(&other, &config);
    log_fixture_wait_opened(&other);
    assert_int_equal(other.opened, ERR_OK);
    assert_false(pg.fixture.log->exclusive);
    pg.conformance.other = other.log;
    sql_conformance_run(&pg.conformance);
    while (other.hint == 0) { /* The other one wrote, and this one hears of it. */
        log_fixture_pump(&other);
    }
    log_fixture_close(&other);
    postgres_world_close(&pg);
}

static void behind_a_pooler_it_does_the_same(void **state)
{
    (void)state;
    struct postgres_world pg;
    struct log_fixture other;
    struct sql_config config = {.pooler = true, .tables_prefix = "kine_2"};
    postgres_world_open_with(&pg, config);
    config.url = pg.database.url;
    config.loop = pg.fixture.loop;
    log_fixture_start(&other, &config);
    log_fixture_wait_opened(&other);
    assert_int_equal(other.opened, ERR_OK);
    pg.conformance.other = other.log;
    sql_conformance_run(&pg.conformance);
    char answer[32];
    postgres_sql_answer(pg.database.name, "SELECT count(*) FROM pg_prepared_statements", answer,
                        sizeof(answer));
    assert_string_equal(answer, "0");
    log_fixture_close(&other);
    postgres_world_close(&pg);
}

struct held_read {
    struct sql_probe probe;
    struct sql_tail tail;
    bool done;
};

static void held_on_probe(struct sql_probe *probe)
{
    CONTAINER_OF(probe, struct held_read, probe)->done = true;
}

static void held_on_tail(struct sql_tail *tail)
{
    CONTAINER_OF(tail, struct held_read, tail)->done = true;
}

/* One read of |kind| under a row lock of somebody else's; it must wait for that as |waits| says. */
static enum err held_read_run(struct postgres_world *pg, struct arena *arena, uint32_t kind,
                              bool waits)
{
    PGconn *holder = PQconnectdb(pg->database.url);
    PQclear(PQexec(holder, "BEGIN; SELECT 1 FROM cluster FOR UPDATE"));
    struct held_read held = {
        .probe = {.done = held_on_probe},
        .tail = {.entries_max = 9, .bytes_max = 99999, .arena = arena, .done = held_on_tail},
    };
    struct sql_log *log = pg->fixture.log;
    if (kind == 0) {
        log->ops->probe(log, &held.probe);
    } else {
        log->ops->tail(log, &held.tail);
    }
    char waiters[8] = "0";
    while (!held.done && strcmp(waiters, "0") == 0) {
        log_fixture_pump(&pg->fixture);
        postgres_sql_answer(pg->database.name, "SELECT count(*) FROM pg_locks WHERE NOT granted",
                            waiters, sizeof(waiters));
    }
    assert_int_equal(held.done, !waits);
    PQfinish(holder);
    while (!held.done) {
        log_fixture_pump(&pg->fixture);
    }
    enum err err = kind == 0 ? held.probe.err : held.tail.err;
    if (err == ERR_OK) {
        assert_int_equal(kind == 0 ? held.probe.head.seq : held.tail.entry_count, 1);
    }
    return err;
}

/*
 * Goal: behind a pooler, what a restarted server says is used after a committed lock only.
 * Method: the server's start is what a table says. Reads meet a row lock exactly when it changed.
 */
static void behind_a_pooler_a_restarted_server_is_locked_first(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open_with(&pg, (struct sql_config){.pooler = true});
    char text[128];
    (void)snprintf(text, sizeof(text), "ALTER DATABASE %s SET search_path = public, pg_catalog",
                   pg.database.name);
    postgres_world_sql(&pg, text);
    postgres_world_sql(&pg, "CREATE TABLE started (at timestamptz); INSERT INTO started VALUES"
                            " ('2001-01-01'); CREATE FUNCTION public.pg_postmaster_start_time()"
                            " RETURNS timestamptz LANGUAGE sql AS 'SELECT at FROM started'");
    postgres_world_reopen(&pg, (struct sql_config){.pooler = true});
    assert_int_equal(postgres_world_put(&pg, 2, 10), SQL_COMMITTED);
    struct sql_head head;
    assert_int_equal(conf_probe(&pg.world, pg.fixture.log, &head), ERR_OK);
    struct arena arena;
    arena_init(&arena, 1 << 20);
    for (uint32_t kind = 0; kind < 2; kind++) {
        assert_int_equal(held_read_run(&pg, &arena, kind, false), ERR_OK);
        postgres_world_sql(&pg, "UPDATE started SET at = at + interval '1 day'");
        enum err err;
        do { /* Locks are not waited for for ever: a slow holder makes it fail, and ask again. */
            err = held_read_run(&pg, &arena, kind, true);
        } while (err == ERR_DATABASE || err == ERR_NO_LEADER);
        assert_int_equal(err, ERR_OK);
    }
    postgres_world_sql(&pg, "UPDATE started SET at = at + interval '1 day'");
    struct sql_lock lock = {.tail = {.entries_max = 9, .bytes_max = 99999, .arena = &arena}};
    assert_int_equal(conf_lock(&pg.world, pg.fixture.log, &lock), ERR_OK);
    assert_int_equal(lock.tail.entry_count, 1);
    pg.fixture.log->ops->unlock(pg.fixture.log);
    postgres_world_sql(&pg, "BEGIN; SELECT 1 FROM cluster FOR UPDATE; COMMIT");
    assert_int_equal(conf_probe(&pg.world, pg.fixture.log, &head), ERR_OK);
    arena_fini(&arena);
    postgres_world_close(&pg);
}

/*
 * Start the append of |batch| and end its backend: while it waits for a lock that somebody else
 * holds (|is_held|), or after |us| microseconds, wherever it is then.
 */
static void doubt_make(struct postgres_world *pg, struct conf_batch *batch, bool is_held,
                       uint32_t us)
{
    PGconn *holder = NULL;
    if (is_held) {
        holder = PQconnectdb(pg->database.url);
        PQclear(PQexec(holder, "BEGIN; SELECT 1 FROM cluster FOR UPDATE"));
    }
    pg->fixture.log->ops->append(pg->fixture.log, &batch->append);
    (void)uv_run(&pg->fixture.loop->uv, UV_RUN_NOWAIT);
    char waiters[8] = "0";
    while (is_held && !batch->done && strcmp(waiters, "0") == 0) {
        log_fixture_pump(&pg->fixture);
        postgres_sql_answer(pg->database.name, "SELECT count(*) FROM pg_locks WHERE NOT granted",
                            waiters, sizeof(waiters));
    }
    (void)usleep(us);
    postgres_sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                             " application_name = 'drover' AND backend_type = 'client backend'");
    while (!batch->done) {
        log_fixture_pump(&pg->fixture);
    }
    PQfinish(holder);
}

/*
 * Goal: a backend that dies in the middle of an append leaves doubt, and the verdict ends it.
 * Method: twice it is certain that nothing was written; then the moment is anybody's guess, and
 * the outcome may be any that agrees with the verdict.
 */
static void a_killed_backend_leaves_doubt_and_the_verdict_ends_it(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    assert_int_equal(postgres_world_put(&pg, 1, 10), SQL_COMMITTED);
    uint32_t held_in_doubt = 0;
    for (uint32_t round = 0; round < (support_is_long() ? 100U : 20U); round++) {
        bool is_held = held_in_doubt < 2;
        struct conf_batch batch;
        conf_batch_init(&pg.world, &batch);
        for (uint32_t i = 0; i < 200; i++) {
            conf_batch_put(&pg.world, &batch, "doubt", 1000, false);
        }
        conf_batch_seal(&pg.world, &batch);
        doubt_make(&pg, &batch, is_held, is_held ? 0 : 200 * round);
        enum sql_outcome outcome = batch.append.outcome;
        bool found = false;
        struct sql_writer writer;
        while (conf_verdict(&pg.world, pg.fixture.log, batch.entry.seq, &found, &writer) !=
               ERR_OK) {
            log_fixture_pump(&pg.fixture);
        }
        /* Lost: waited too long for the lock, on a machine that stood still. */
        assert_true(!is_held || (!found && (outcome == SQL_IN_DOUBT || outcome == SQL_LOST)));
        assert_true(is_held || outcome != SQL_LOST);
        assert_int_not_equal(outcome, SQL_MOVED);
        assert_true(IMPLIES(outcome == SQL_COMMITTED, found));
        assert_true(IMPLIES(outcome == SQL_REFUSED, !found));
        held_in_doubt += is_held && outcome == SQL_IN_DOUBT ? 1 : 0;
        if (found) {
            assert_int_equal(writer.counter, batch.entry.writer.counter);
            conf_batch_won(&pg.world, &batch);
        }
        conf_batch_fini(&batch);
        struct sql_head head;
        while (conf_probe(&pg.world, pg.fixture.log, &head) != ERR_OK) {
            log_fixture_pump(&pg.fixture);
        }
        assert_int_equal(head.seq, pg.world.head.seq);
    }
    assert_int_equal(held_in_doubt, 2);
    conf_check_load(&pg.world, pg.fixture.log);
    postgres_world_close(&pg);
}

/* Another identity in the cluster row than the server's own: nothing may be written. */
static void another_database_is_fenced_off(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    assert_int_equal(postgres_world_put(&pg, 1, 10), SQL_COMMITTED);
    postgres_world_sql(&pg, "UPDATE cluster SET identity = '1/1'");
    struct sql_head head;
    assert_int_equal(conf_probe(&pg.world, pg.fixture.log, &head), ERR_OK);
    assert_string_equal(head.fence.identity, "1/1");
    assert_string_equal(head.live_identity, pg.world.head.live_identity);
    assert_int_equal(postgres_world_put(&pg, 1, 10), SQL_LOST);
    /* Even one that believes in the wrong identity: the live one is not it. */
    (void)snprintf(pg.world.head.fence.identity, sizeof(pg.world.head.fence.identity), "1/1");
    assert_int_equal(postgres_world_put(&pg, 1, 10), SQL_LOST);
    postgres_world_close(&pg);
}

static void a_changed_row_arrives_as_it_is(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(postgres_world_put(&pg, 2, 10), SQL_COMMITTED);
    }
    postgres_world_sql(&pg, "UPDATE kv SET value = '\\x00' || substr(value, 2) WHERE revision = 2;"
                            "DELETE FROM kv WHERE revision = 4; INSERT INTO kv SELECT revision,"
                            " 9, is_delete, key, value, create_rev, version, lease, prev_rev,"
                            " prev_sub, sum FROM kv WHERE revision = 6");
    struct arena arena;
    arena_init(&arena, 1 << 24);
    struct sql_tail tail = {.entries_max = 100, .bytes_max = 1 << 20, .arena = &arena};
    assert_int_equal(conf_tail(&pg.world, pg.fixture.log, &tail), ERR_OK);
    assert_int_equal(tail.entry_count, 3);
    assert_int_equal(tail.entries[0].row_count, 2);
    assert_int_not_equal(sql_row_sum(&tail.entries[0].rows[0]), tail.entries[0].rows[0].sum);
    assert_int_equal(sql_row_sum(&tail.entries[0].rows[1]), tail.entries[0].rows[1].sum);
    assert_int_equal(tail.entries[1].row_count, 1); /* As found, so that the chain breaks. */
    assert_int_equal(tail.entries[2].row_count, 3);
    postgres_world_sql(&pg, "UPDATE entry SET row_count = row_count + 4294967296 WHERE seq = 2");
    assert_int_equal(conf_tail(&pg.world, pg.fixture.log, &tail), ERR_CHAIN_BROKEN);
    postgres_world_sql(&pg, "UPDATE entry SET row_count = row_count - 4294967296 WHERE seq = 2");
    assert_int_equal(conf_tail(&pg.world, pg.fixture.log, &tail), ERR_OK);
    postgres_world_sql(&pg, "UPDATE entry SET meta = '\\xff' WHERE seq = 2");
    assert_int_equal(conf_tail(&pg.world, pg.fixture.log, &tail), ERR_CHAIN_BROKEN);
    arena_fini(&arena);
    postgres_world_close(&pg);
}

/* Tables that vanish under a running replica are lost history, and not a reason to end. */
static void tables_that_vanish_are_lost_history(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    assert_int_equal(postgres_world_put(&pg, 2, 10), SQL_COMMITTED);
    postgres_world_sql(&pg, "DELETE FROM cluster");
    struct sql_head head;
    assert_int_equal(conf_probe(&pg.world, pg.fixture.log, &head), ERR_HISTORY_LOST);
    assert_int_equal(postgres_world_put(&pg, 2, 10), SQL_LOST);
    postgres_world_sql(&pg, "DROP TABLE entry, kv, cluster, lease, member, duty");
    assert_int_equal(conf_probe(&pg.world, pg.fixture.log, &head), ERR_HISTORY_LOST);
    assert_int_equal(postgres_world_put(&pg, 2, 10), SQL_REFUSED);
    postgres_world_close(&pg);
}

/*
 * Goal: a prepared statement that is of no use any more is prepared again.
 * Method: a column of its result gets another type, which its plan may not.
 */
static void a_statement_that_does_not_fit_is_prepared_again(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    postgres_world_sql(&pg, "ALTER TABLE cluster ALTER identity TYPE varchar(200)");
    struct sql_head head;
    assert_int_equal(conf_probe(&pg.world, pg.fixture.log, &head), ERR_DATABASE);
    while (conf_probe(&pg.world, pg.fixture.log, &head) != ERR_OK) {
        log_fixture_pump(&pg.fixture);
    }
    assert_string_equal(head.fence.identity, pg.world.head.fence.identity);
    postgres_world_close(&pg);
}

/* A commit that is answered with a warning may not be replicated: doubt, not success. */
static void a_warning_beside_a_commit_is_doubt(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    postgres_world_sql(
        &pg, "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
             " RAISE WARNING 'not replicated'; RETURN NULL; END $$;"
             "CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON kv DEFERRABLE INITIALLY DEFERRED"
             " FOR EACH ROW EXECUTE FUNCTION warn()");
    assert_int_equal(postgres_world_put(&pg, 1, 10), SQL_IN_DOUBT);
    bool found = false;
    struct sql_writer writer;
    while (conf_verdict(&pg.world, pg.fixture.log, 1, &found, &writer) != ERR_OK) {
        log_fixture_pump(&pg.fixture);
    }
    assert_true(found);
    postgres_world_close(&pg);
}

/* An error that a commit meets at its very end is the answer, whatever was said before it. */
static void an_error_at_the_commit_is_a_refusal(void **state)
{
    (void)state;
    static const struct {
        const char *sqlstate;
        enum sql_outcome outcome;
        enum err err;
    } cases[] = {
        {"53100", SQL_REFUSED, ERR_NO_SPACE}, {"40001", SQL_LOST, ERR_OK},
        {"40P01", SQL_LOST, ERR_OK},          {"40003", SQL_IN_DOUBT, ERR_OK},
        {"XX000", SQL_IN_DOUBT, ERR_OK},      {"23505", SQL_REFUSED, ERR_DATABASE},
        {"54000", SQL_REFUSED, ERR_DATABASE}, {"25P03", SQL_LOST, ERR_OK},
    };
    struct postgres_world pg;
    postgres_world_open(&pg);
    for (uint32_t size = 0; size < 2; size++) { /* In one statement, and in several. */
        for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
            char text[512];
            (void)snprintf(text, sizeof(text),
                           "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
                           " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '%s'; END $$;"
                           "DROP TRIGGER IF EXISTS fail ON entry;"
                           "CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON entry DEFERRABLE"
                           " INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()",
                           cases[i].sqlstate);
            postgres_world_sql(&pg, text);
            struct conf_batch batch;
            conf_batch_init(&pg.world, &batch);
            for (uint32_t row = 0; row < 1 + size * 3000; row++) {
                conf_batch_put(&pg.world, &batch, "k", 4000, false);
            }
            conf_batch_seal(&pg.world, &batch);
            do { /* A session that was dropped comes back soon. */
                log_fixture_pump(&pg.fixture);
            } while (conf_batch_append(&pg.world, pg.fixture.log, &batch) == SQL_REFUSED &&
                     batch.append.err == ERR_NO_LEADER);
            assert_int_equal(batch.append.outcome, cases[i].outcome);
            assert_int_equal(batch.append.err, cases[i].err);
            conf_batch_fini(&batch);
            struct sql_head head;
            assert_int_equal(conf_probe(&pg.world, pg.fixture.log, &head), ERR_OK);
            assert_int_equal(head.seq, 0);
        }
    }
    postgres_world_sql(&pg, "DROP TRIGGER fail ON entry");
    while (postgres_world_put(&pg, 2, 10) != SQL_COMMITTED) {
        log_fixture_pump(&pg.fixture);
    }
    conf_check_load(&pg.world, pg.fixture.log);
    postgres_world_close(&pg);
}

static void upkeep_tells_how_old_the_oldest_snapshot_is(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    PGconn *holder = PQconnectdb(pg.database.url);
    PQclear(PQexec(holder, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"));
    log_fixture_wait_ms(&pg.fixture, 300);
    struct arena arena;
    arena_init(&arena, 1 << 24);
    struct sql_upkeep upkeep = {.self = {.id = 1}, .arena = &arena};
    assert_int_equal(conf_upkeep(&pg.world, pg.fixture.log, &upkeep), ERR_OK);
    assert_true(upkeep.oldest_snapshot_ms >= 250);
    assert_true(upkeep.database_bytes > 1000000);
    PQfinish(holder);
    arena_fini(&arena);
    postgres_world_close(&pg);
}

/* Whoever is silent for 10 s is not shown, and after 10 minutes its row goes. */
static void a_silent_member_is_not_shown_and_later_forgotten(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    struct arena arena;
    arena_init(&arena, 1 << 24);
    for (uint64_t id = 1; id <= 3; id++) {
        struct sql_upkeep upkeep = {.self = {.id = id}, .arena = &arena};
        assert_int_equal(conf_upkeep(&pg.world, pg.fixture.log, &upkeep), ERR_OK);
    }
    postgres_world_sql(&pg, "UPDATE member SET heartbeat = now() - CASE id WHEN 1 THEN"
                            " interval '11 seconds' ELSE interval '11 minutes' END WHERE id < 3");
    char count[8];
    for (uint32_t i = 0; i < 2; i++) {
        struct sql_upkeep upkeep = {.self = {.id = 3}, .arena = &arena};
        assert_int_equal(conf_upkeep(&pg.world, pg.fixture.log, &upkeep), ERR_OK);
        assert_int_equal(upkeep.member_count, 1);
        assert_int_equal(upkeep.members[0].id, 3);
        postgres_sql_answer(pg.database.name, "SELECT count(*) FROM member", count, sizeof(count));
        assert_string_equal(count, "2");
    }
    arena_fini(&arena);
    postgres_world_close(&pg);
}

/* Requests that are in flight or wait when the log closes all complete, before |closed|. */
static void closing_completes_every_request(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    for (uint32_t turns = 0; turns < 6; turns++) {
        assert_int_equal(conf_probe(&pg.world, pg.fixture.log, &pg.world.head), ERR_OK);
        struct log_fixture closing;
        struct sql_config config = {.url = pg.database.url, .loop = pg.fixture.loop};
        log_fixture_start(&closing, &config);
        log_fixture_wait_opened(&closing);
        struct conf_batch batch;
        conf_batch_init(&pg.world, &batch);
        conf_batch_put(&pg.world, &batch, "last", 100, false);
        conf_batch_seal(&pg.world, &batch);
        closing.log->ops->append(closing.log, &batch.append);
        for (uint32_t i = 0; i < turns; i++) {
            log_fixture_pump(&closing);
        }
        log_fixture_close(&closing);
        assert_true(batch.done);
        enum sql_outcome outcome = batch.append.outcome; /* Lost: to one that was in doubt. */
        assert_true(outcome <= SQL_IN_DOUBT && outcome != SQL_MOVED);
        assert_true(turns > 0 || outcome != SQL_LOST);
        conf_batch_fini(&batch);
    }
    postgres_world_close(&pg);
}

/* An append that lost is lost, also when the statement said something beside it. */
static void a_warning_beside_a_lost_append_changes_nothing(void **state)
{
    (void)state;
    struct postgres_world pg; /* Pooled: in a transaction of several statements. */
    postgres_world_open_with(&pg, (struct sql_config){.pooler = true});
    assert_int_equal(postgres_world_put(&pg, 1, 10), SQL_COMMITTED);
    postgres_world_sql(&pg, "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                            " RAISE WARNING 'by the way'; RETURN NULL; END $$;"
                            "CREATE TRIGGER warn AFTER INSERT ON kv"
                            " FOR EACH STATEMENT EXECUTE FUNCTION warn();"
                            "UPDATE cluster SET identity = '1/1'");
    assert_int_equal(postgres_world_put(&pg, 1, 10), SQL_LOST);
    char answer[32];
    postgres_sql_answer(pg.database.name, "SELECT count(*) FROM kv", answer, sizeof(answer));
    assert_string_equal(answer, "1");
    postgres_world_close(&pg);
}

/*
 * Goal: while somebody's idle listener keeps the queue of notifications full, every append goes on
 * without one, at once.
 * Method: telling puts a row into a table, whose deferred trigger fails the COMMIT as the server
 * would; each form of an append must be committed, told or not.
 */
static void a_full_queue_of_notifications_fails_no_append(void **state)
{
    (void)state;
    struct postgres_world pg;
    postgres_world_open(&pg);
    char text[128];
    (void)snprintf(text, sizeof(text), "ALTER DATABASE %s SET search_path = public, pg_catalog",
                   pg.database.name);
    postgres_world_sql(&pg, text);
    postgres_world_sql(
        &pg, "CREATE TABLE told (seq text);"
             "CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS"
             " 'INSERT INTO told VALUES ($2)';"
             "CREATE FUNCTION full_queue() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
             " RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE ="
             " '54000'; END $$;"
             "CREATE CONSTRAINT TRIGGER full_queue AFTER INSERT ON told DEFERRABLE INITIALLY"
             " DEFERRED FOR EACH ROW EXECUTE FUNCTION full_queue()");
    postgres_world_reopen(&pg, (struct sql_config){0});
    struct pg_log *log = CONTAINER_OF(pg.fixture.log, struct pg_log, log);
    struct arena arena;
    arena_init(&arena, 64 << 20);
    for (uint32_t form = 0; form < 8; form++) {
        bool is_locked = form % 2 == 1;
        bool is_large = form / 2 % 2 == 1;
        bool is_quiet = form / 4 == 1; /* The next one: not even tried. */
        log->notify_off_until_ns = is_quiet ? log->notify_off_until_ns : 0;
        assert_true(!is_quiet || log->notify_off_until_ns > 0);
        struct conf_batch batch;
        conf_batch_init(&pg.world, &batch);
        for (uint32_t row = 0; row < 5; row++) {
            conf_batch_put(&pg.world, &batch, "k", is_large ? 2 << 20 : 10, false);
        }
        conf_batch_seal(&pg.world, &batch);
        batch.append.locked = is_locked;
        bool is_late = false;
        do {
            struct sql_lock lock = {.tail = {.after_seq = pg.world.head.seq,
                                             .entries_max = 10,
                                             .bytes_max = 1 << 20,
                                             .arena = &arena}};
            if (is_locked) {
                assert_int_equal(conf_lock(&pg.world, pg.fixture.log, &lock), ERR_OK);
                is_late = conf_batch_append_locked(&pg.world, &batch);
            } else {
                (void)conf_batch_append(&pg.world, pg.fixture.log, &batch);
            }
        } while (is_late);
        assert_int_equal(batch.append.outcome, SQL_COMMITTED);
        conf_batch_won(&pg.world, &batch);
        conf_batch_fini(&batch);
        assert_true(log->notify_off_until_ns > 0);
    }
    char told[16];
    postgres_sql_answer(pg.database.name, "SELECT count(*) FROM told", told, sizeof(told));
    assert_string_equal(told, "0");
    conf_check_load(&pg.world, pg.fixture.log);
    arena_fini(&arena);
    postgres_world_close(&pg);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(postgres_does_what_every_log_must),
        cmocka_unit_test(behind_a_pooler_it_does_the_same),
        cmocka_unit_test(behind_a_pooler_a_restarted_server_is_locked_first),
        cmocka_unit_test(a_killed_backend_leaves_doubt_and_the_verdict_ends_it),
        cmocka_unit_test(another_database_is_fenced_off),
        cmocka_unit_test(a_changed_row_arrives_as_it_is),
        cmocka_unit_test(tables_that_vanish_are_lost_history),
        cmocka_unit_test(a_statement_that_does_not_fit_is_prepared_again),
        cmocka_unit_test(a_warning_beside_a_commit_is_doubt),
        cmocka_unit_test(an_error_at_the_commit_is_a_refusal),
        cmocka_unit_test(upkeep_tells_how_old_the_oldest_snapshot_is),
        cmocka_unit_test(a_silent_member_is_not_shown_and_later_forgotten),
        cmocka_unit_test(closing_completes_every_request),
        cmocka_unit_test(a_warning_beside_a_lost_append_changes_nothing),
        cmocka_unit_test(a_full_queue_of_notifications_fails_no_append),
    };
    return cmocka_run_group_tests(tests, postgres_start, postgres_stop);
}
