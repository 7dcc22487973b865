/*
 * PostgreSQL: the conformance script, and what only a server can do: race, vanish, refuse.
 *
 * Method: a private server (tests/integration/pg.sh), or the one that DROVER_TEST_POSTGRES names
 * (a superuser's URL without a database behind the last '/'). Without either the tests skip.
 */
#include "support_log.h"

#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "core/clock.h"
#include "core/mem.h"

static char server_url[256]; /* Up to and with the last '/'. */
static char server_folder[64];
static uint32_t database_count;

static int server_start(void **state)
{
    (void)state;
    const char *given = getenv("DROVER_TEST_POSTGRES");
    if (given != NULL) {
        (void)snprintf(server_url, sizeof(server_url), "%s", given);
        return 0;
    }
    (void)snprintf(server_folder, sizeof(server_folder), "/tmp/drover-pg-XXXXXX");
    if (mkdtemp(server_folder) == NULL || chmod(server_folder, 0755) != 0) {
        return -1;
    }
    char command[512];
    (void)snprintf(command, sizeof(command), "sh '%s' start '%s/pg' max_prepared_transactions=10",
                   DROVER_SOURCE_DIR "/tests/integration/pg.sh", server_folder);
    FILE *script = popen(command, "r");
    if (script == NULL || fgets(server_url, sizeof(server_url), script) == NULL) {
        server_url[0] = '\0';
    }
    int status = script == NULL ? -1 : pclose(script);
    if (status != 0) {
        (void)fprintf(stderr, "PostgreSQL did not start (%d): its tests are skipped\n", status);
        server_url[0] = '\0';
        return 0;
    }
    char *slash = strrchr(server_url, '/');
    slash[1] = '\0';
    return 0;
}

static int server_stop(void **state)
{
    (void)state;
    if (server_folder[0] == '\0') {
        return 0;
    }
    char command[512];
    (void)snprintf(command, sizeof(command), "sh '%s' stop '%s/pg'; rm -rf '%s'",
                   DROVER_SOURCE_DIR "/tests/integration/pg.sh", server_folder, server_folder);
    return system(command);
}

/* One statement as the superuser in |database|; the first field of the answer in |answer|. */
static void server_sql_answer(const char *database, const char *text, char *answer,
                              size_t answer_size)
{
    char url[320];
    (void)snprintf(url, sizeof(url), "%s%s", server_url, database);
    PGconn *pg = PQconnectdb(url);
    PGresult *result = PQexec(pg, text);
    ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        (void)fprintf(stderr, "%s: %s\n", text, PQerrorMessage(pg));
    }
    assert_true(status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK);
    bool has_value = PQntuples(result) > 0 && PQnfields(result) > 0;
    (void)snprintf(answer, answer_size, "%s", has_value ? PQgetvalue(result, 0, 0) : "");
    PQclear(result);
    PQfinish(pg);
}

static void server_sql(const char *database, const char *text)
{
    char answer[64];
    server_sql_answer(database, text, answer, sizeof(answer));
}

/* A fresh database: its name in |name|, its URL in |url|. False (skip) without a server. */
struct database {
    char name[32];
    char url[320];
};

static void database_make(struct database *database)
{
    if (server_url[0] == '\0') {
        skip();
    }
    char text[64];
    (void)snprintf(database->name, sizeof(database->name), "t%d_%u", (int)getpid(),
                   database_count++);
    (void)snprintf(text, sizeof(text), "CREATE DATABASE %s", database->name);
    server_sql("postgres", text);
    (void)snprintf(database->url, sizeof(database->url), "%s%s", server_url, database->name);
}

static void world_open(struct conf_world *world, struct log_fixture *fixture,
                       struct sql_conformance *conformance)
{
    *conformance = log_fixture_conformance(fixture, 7);
    conf_world_init(world, conformance);
    assert_int_equal(conf_probe(world, fixture->log, &world->head), ERR_OK);
}

static enum sql_outcome world_put(struct conf_world *world, struct sql_log *log, uint32_t rows,
                                  size_t value_size)
{
    struct conf_batch batch;
    conf_batch_init(world, &batch);
    for (uint32_t i = 0; i < rows; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "key%u", i);
        conf_batch_put(world, &batch, key, value_size, false);
    }
    conf_batch_seal(world, &batch);
    enum sql_outcome outcome = conf_batch_append(world, log, &batch);
    if (outcome == SQL_COMMITTED) {
        conf_batch_won(world, &batch);
    }
    conf_batch_fini(&batch);
    return outcome;
}

static void postgres_does_what_every_log_must(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    struct log_fixture other;
    log_fixture_open(&fixture, database.url);
    assert_string_equal(fixture.why, "");
    assert_int_equal(fixture.opened, ERR_OK);
    struct sql_config config = {.url = database.url, .loop = fixture.loop};
    log_fixture_start(&other, &config);
    while (!other.is_opened) {
        log_fixture_pump(&other);
    }
    assert_int_equal(other.opened, ERR_OK);
    assert_false(fixture.log->exclusive);
    struct sql_conformance conformance = log_fixture_conformance(&fixture, 1);
    conformance.other = other.log;
    sql_conformance_run(&conformance);
    log_fixture_wait_ms(&other, 50);
    assert_true(other.hint > 0); /* The other one wrote, and this one heard of it. */
    log_fixture_close(&other);
    log_fixture_close(&fixture);
}

static void behind_a_pooler_it_does_the_same(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    struct log_fixture other;
    struct sql_config config = {.url = database.url, .pooler = true, .tables_prefix = "kine_2"};
    log_fixture_start(&fixture, &config);
    config.loop = fixture.loop;
    log_fixture_start(&other, &config);
    while (!fixture.is_opened || !other.is_opened) {
        log_fixture_pump(&fixture);
    }
    assert_int_equal(fixture.opened, ERR_OK);
    assert_int_equal(other.opened, ERR_OK);
    struct sql_conformance conformance = log_fixture_conformance(&fixture, 1);
    conformance.other = other.log;
    sql_conformance_run(&conformance);
    char answer[32];
    server_sql_answer(database.name, "SELECT count(*) FROM pg_prepared_statements", answer,
                      sizeof(answer));
    assert_string_equal(answer, "0");
    log_fixture_close(&other);
    log_fixture_close(&fixture);
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

/*
 * Goal: behind a pooler, what a restarted server says is used after a committed lock only.
 * Method: the server's start is what a table says. Reads meet a row lock exactly when it changed.
 */
static void behind_a_pooler_a_restarted_server_is_locked_first(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    char text[128];
    (void)snprintf(text, sizeof(text), "ALTER DATABASE %s SET search_path = public, pg_catalog",
                   database.name);
    server_sql(database.name, text);
    server_sql(database.name, "CREATE TABLE started (at timestamptz); INSERT INTO started VALUES"
                              " ('2001-01-01'); CREATE FUNCTION public.pg_postmaster_start_time()"
                              " RETURNS timestamptz LANGUAGE sql AS 'SELECT at FROM started'");
    struct log_fixture fixture;
    struct sql_config config = {.url = database.url, .pooler = true};
    log_fixture_start(&fixture, &config);
    while (!fixture.is_opened) {
        log_fixture_pump(&fixture);
    }
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    assert_int_equal(world_put(&world, fixture.log, 2, 10), SQL_COMMITTED);
    struct arena arena;
    arena_init(&arena, 1 << 20);
    for (uint32_t kind = 0; kind < 2; kind++) {
        for (uint32_t is_new = 0; is_new < 2; is_new++) {
            server_sql(database.name,
                       is_new == 0 ? "SELECT 1" : "UPDATE started SET at = at + interval '1 day'");
            PGconn *holder = PQconnectdb(database.url);
            PQclear(PQexec(holder, "BEGIN; SELECT 1 FROM cluster FOR UPDATE"));
            struct held_read held = {
                .probe = {.done = held_on_probe},
                .tail = {.entries_max = 9,
                         .bytes_max = 99999,
                         .arena = &arena,
                         .done = held_on_tail},
            };
            if (kind == 0) {
                fixture.log->ops->probe(fixture.log, &held.probe);
            } else {
                fixture.log->ops->tail(fixture.log, &held.tail);
            }
            log_fixture_wait_ms(&fixture, 500);
            assert_int_equal(held.done, is_new == 0);
            PQfinish(holder);
            while (!held.done) {
                log_fixture_pump(&fixture);
            }
            assert_int_equal(kind == 0 ? held.probe.err : held.tail.err, ERR_OK);
            assert_int_equal(kind == 0 ? held.probe.head.seq : held.tail.entry_count, 1);
        }
    }
    server_sql(database.name, "UPDATE started SET at = at + interval '1 day'");
    struct sql_lock lock = {.tail = {.entries_max = 9, .bytes_max = 99999, .arena = &arena}};
    assert_int_equal(conf_lock(&world, fixture.log, &lock), ERR_OK);
    assert_int_equal(lock.tail.entry_count, 1);
    fixture.log->ops->unlock(fixture.log);
    server_sql(database.name, "BEGIN; SELECT 1 FROM cluster FOR UPDATE; COMMIT");
    struct sql_head head;
    assert_int_equal(conf_probe(&world, fixture.log, &head), ERR_OK);
    arena_fini(&arena);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

/* Goal: whoever comes first makes the tables, and all eight come up, every time. */
static void eight_start_at_once_on_an_empty_database(void **state)
{
    (void)state;
    uint32_t rounds = support_is_long() ? 50 : 6;
    for (uint32_t round = 0; round < rounds; round++) {
        struct database database;
        database_make(&database);
        struct log_fixture fixtures[8];
        struct sql_config config = {.url = database.url};
        for (uint32_t i = 0; i < 8; i++) {
            log_fixture_start(&fixtures[i], &config);
            config.loop = fixtures[0].loop;
        }
        for (uint32_t i = 0; i < 8; i++) {
            while (!fixtures[i].is_opened) {
                log_fixture_pump(&fixtures[0]);
            }
            assert_string_equal(fixtures[i].why, "");
            assert_int_equal(fixtures[i].opened, ERR_OK);
        }
        char answer[32];
        server_sql_answer(database.name, "SELECT count(*) FROM cluster", answer, sizeof(answer));
        assert_string_equal(answer, "1");
        for (uint32_t i = 8; i > 0; i--) {
            log_fixture_close(&fixtures[i - 1]);
        }
    }
}

/*
 * Goal: a backend that dies in the middle of an append leaves doubt, and the verdict ends it.
 * Method: terminate the append session while its statement waits for a lock that a third session
 * holds; once before, once after that lock is let go.
 */
static void a_killed_backend_leaves_doubt_and_the_verdict_ends_it(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    assert_int_equal(fixture.opened, ERR_OK);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    assert_int_equal(world_put(&world, fixture.log, 1, 10), SQL_COMMITTED);
    uint32_t outcomes[SQL_IN_DOUBT + 1] = {0};
    for (uint32_t round = 0; round < 40; round++) {
        log_fixture_wait_ms(&fixture, 1050); /* A session that lives longer is replaced at once. */
        struct conf_batch batch;
        conf_batch_init(&world, &batch);
        for (uint32_t i = 0; i < 200; i++) {
            conf_batch_put(&world, &batch, "doubt", 1000, false);
        }
        conf_batch_seal(&world, &batch);
        fixture.log->ops->append(fixture.log, &batch.append);
        (void)uv_run(&fixture.loop->uv, UV_RUN_NOWAIT);
        (void)usleep(200 * (round % 20));
        server_sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                               " application_name = 'drover' AND backend_type = 'client backend'");
        while (!batch.done) {
            log_fixture_pump(&fixture);
        }
        enum sql_outcome outcome = batch.append.outcome;
        outcomes[outcome]++;
        bool found = false;
        struct sql_writer writer;
        while (conf_verdict(&world, fixture.log, batch.entry.seq, &found, &writer) != ERR_OK) {
            log_fixture_pump(&fixture);
        }
        assert_true(outcome == SQL_COMMITTED || outcome == SQL_IN_DOUBT || outcome == SQL_REFUSED);
        assert_true(IMPLIES(outcome == SQL_COMMITTED, found));
        assert_true(IMPLIES(outcome == SQL_REFUSED, !found));
        if (found) {
            assert_int_equal(writer.counter, batch.entry.writer.counter);
            conf_batch_won(&world, &batch);
        }
        conf_batch_fini(&batch);
        struct sql_head head;
        while (conf_probe(&world, fixture.log, &head) != ERR_OK) {
            log_fixture_pump(&fixture);
        }
        assert_int_equal(head.seq, world.head.seq);
        if (outcomes[SQL_IN_DOUBT] >= 2 && round >= (support_is_long() ? 39U : 5U)) {
            break;
        }
    }
    assert_true(outcomes[SQL_IN_DOUBT] > 0);
    conf_check_load(&world, fixture.log);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

static void what_is_wrong_with_a_database_is_said_in_one_line(void **state)
{
    (void)state;
    static const struct {
        const char *sql;
        enum err err;
        const char *word;
    } cases[] = {
        {"UPDATE cluster SET schema_version = 2", ERR_SCHEMA_TOO_NEW, "newer"},
        {"UPDATE cluster SET schema_version = 1, min_reader = 7", ERR_SCHEMA_TOO_NEW, "newer"},
        {"UPDATE cluster SET min_reader = 1; DELETE FROM cluster", ERR_HISTORY_LOST, "cluster row"},
        {"DROP TABLE cluster", ERR_HISTORY_LOST, "missing"},
        {"CREATE TABLE cluster (id int, name text)", ERR_CONFIG, "not drover's"},
    };
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    assert_int_equal(fixture.opened, ERR_OK);
    log_fixture_close(&fixture);
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
        server_sql(database.name, cases[i].sql);
        log_fixture_open(&fixture, database.url);
        assert_int_equal(fixture.opened, cases[i].err);
        assert_non_null(strstr(fixture.why, cases[i].word));
        assert_null(strchr(fixture.why, '\n'));
        struct sql_conformance conformance = log_fixture_conformance(&fixture, 3);
        struct conf_world world; /* A log that did not open answers errors. */
        conf_world_init(&world, &conformance);
        assert_int_not_equal(conf_probe(&world, fixture.log, &world.head), ERR_OK);
        assert_int_equal(world_put(&world, fixture.log, 1, 10), SQL_REFUSED);
        conf_world_fini(&world);
        log_fixture_close(&fixture);
    }
}

static void a_server_that_is_not_there_is_said_and_no_password_with_it(void **state)
{
    (void)state;
    static const char *const urls[] = {
        "postgres://user:secret@127.0.0.1:1/db",
        "postgres://user:secret@no-such-host.invalid,127.0.0.1:1/db?connect_timeout=1",
        "postgres:///db?host=/nonexistent&password=secret",
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(urls); i++) {
        struct log_fixture fixture;
        log_fixture_open(&fixture, urls[i]);
        assert_int_equal(fixture.opened, ERR_NO_LEADER);
        assert_null(strstr(fixture.why, "secret"));
        assert_true(strlen(fixture.why) > 0);
        log_fixture_close(&fixture);
    }
    struct log_fixture fixture; /* Closed while it still tries. */
    struct sql_config config = {.url = urls[1]};
    log_fixture_start(&fixture, &config);
    log_fixture_wait_ms(&fixture, 20);
    log_fixture_close(&fixture);
    struct loop loop;
    loop_init(&loop, &clock_monotonic);
    config = (struct sql_config){.url = "postgres://user:secret@host:%zz/db", .loop = &loop};
    struct sql_log *log;
    char why[256];
    assert_int_equal(sql_log_new(&config, &log, why, sizeof(why)), ERR_CONFIG);
    assert_null(strstr(why, "secret"));
    loop_fini(&loop);
}

static void a_role_without_rights_is_told_so(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    char text[128];
    (void)snprintf(text, sizeof(text), "CREATE ROLE plain_%s LOGIN", database.name);
    server_sql("postgres", text);
    char url[512];
    char *at = strchr(server_url, '@');
    (void)snprintf(url, sizeof(url), "postgres://plain_%s%s%s", database.name, at, database.name);
    struct log_fixture fixture;
    log_fixture_open(&fixture, url);
    assert_int_equal(fixture.opened, ERR_CONFIG);
    assert_non_null(strstr(fixture.why, "permission denied"));
    log_fixture_close(&fixture);
    (void)snprintf(text, sizeof(text), "GRANT CREATE ON SCHEMA public TO plain_%s", database.name);
    server_sql(database.name, text);
    log_fixture_open(&fixture, url);
    assert_string_equal(fixture.why, "");
    assert_int_equal(fixture.opened, ERR_OK);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    assert_int_equal(world_put(&world, fixture.log, 3, 10), SQL_COMMITTED);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
    (void)snprintf(text, sizeof(text), "REVOKE UPDATE ON lease FROM plain_%s", database.name);
    server_sql(database.name, text);
    log_fixture_open(&fixture, url);
    assert_int_equal(fixture.opened, ERR_CONFIG);
    assert_non_null(strstr(fixture.why, "may not read and write"));
    log_fixture_close(&fixture);
    /* Without the system identifier it goes on with less, and says so. */
    (void)snprintf(text, sizeof(text), "GRANT UPDATE ON lease TO plain_%s", database.name);
    server_sql(database.name, text);
    server_sql(database.name, "REVOKE EXECUTE ON FUNCTION"
                              " pg_control_system() FROM PUBLIC; UPDATE cluster SET identity ="
                              " 'oid-' || (SELECT oid FROM pg_database WHERE datname ="
                              " current_database()) || '/1'");
    log_fixture_open(&fixture, url);
    assert_int_equal(fixture.opened, ERR_OK);
    world_open(&world, &fixture, &conformance);
    assert_int_equal(world_put(&world, fixture.log, 3, 10), SQL_COMMITTED);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

/* Another identity in the cluster row than the server's own: nothing may be written. */
static void another_database_is_fenced_off(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    assert_int_equal(world_put(&world, fixture.log, 1, 10), SQL_COMMITTED);
    server_sql(database.name, "UPDATE cluster SET identity = '1/1'");
    struct sql_head head;
    assert_int_equal(conf_probe(&world, fixture.log, &head), ERR_OK);
    assert_string_equal(head.fence.identity, "1/1");
    assert_string_equal(head.live_identity, world.head.live_identity);
    assert_int_equal(world_put(&world, fixture.log, 1, 10), SQL_LOST);
    /* Even one that believes in the wrong identity: the live one is not it. */
    (void)snprintf(world.head.fence.identity, sizeof(world.head.fence.identity), "1/1");
    assert_int_equal(world_put(&world, fixture.log, 1, 10), SQL_LOST);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

static void a_changed_row_arrives_as_it_is(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(world_put(&world, fixture.log, 2, 10), SQL_COMMITTED);
    }
    server_sql(database.name,
               "UPDATE kv SET value = '\\x00' || substr(value, 2) WHERE revision = 2;"
               "DELETE FROM kv WHERE revision = 4; INSERT INTO kv SELECT revision,"
               " 9, is_delete, key, value, create_rev, version, lease, prev_rev,"
               " prev_sub, sum FROM kv WHERE revision = 6");
    struct arena arena;
    arena_init(&arena, 1 << 24);
    struct sql_tail tail = {.entries_max = 100, .bytes_max = 1 << 20, .arena = &arena};
    assert_int_equal(conf_tail(&world, fixture.log, &tail), ERR_OK);
    assert_int_equal(tail.entry_count, 3);
    assert_int_equal(tail.entries[0].row_count, 2);
    assert_int_not_equal(sql_row_sum(&tail.entries[0].rows[0]), tail.entries[0].rows[0].sum);
    assert_int_equal(sql_row_sum(&tail.entries[0].rows[1]), tail.entries[0].rows[1].sum);
    assert_int_equal(tail.entries[1].row_count, 1); /* As found, so that the chain breaks. */
    assert_int_equal(tail.entries[2].row_count, 3);
    server_sql(database.name, "UPDATE entry SET meta = '\\xff' WHERE seq = 2");
    assert_int_equal(conf_tail(&world, fixture.log, &tail), ERR_CHAIN_BROKEN);
    arena_fini(&arena);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

/* Tables that vanish under a running replica are lost history, and not a reason to end. */
static void tables_that_vanish_are_lost_history(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    assert_int_equal(world_put(&world, fixture.log, 2, 10), SQL_COMMITTED);
    server_sql(database.name, "DELETE FROM cluster");
    struct sql_head head;
    assert_int_equal(conf_probe(&world, fixture.log, &head), ERR_HISTORY_LOST);
    assert_int_equal(world_put(&world, fixture.log, 2, 10), SQL_LOST);
    server_sql(database.name, "DROP TABLE entry, kv, cluster, lease, member, duty");
    assert_int_equal(conf_probe(&world, fixture.log, &head), ERR_HISTORY_LOST);
    assert_int_equal(world_put(&world, fixture.log, 2, 10), SQL_REFUSED);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

/*
 * Goal: a prepared statement that is of no use any more is prepared again.
 * Method: a column of its result gets another type, which its plan may not.
 */
static void a_statement_that_does_not_fit_is_prepared_again(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    server_sql(database.name, "ALTER TABLE cluster ALTER identity TYPE varchar(200)");
    struct sql_head head;
    assert_int_equal(conf_probe(&world, fixture.log, &head), ERR_DATABASE);
    enum err err = ERR_DATABASE;
    for (uint32_t i = 0; i < 200 && err != ERR_OK; i++) {
        log_fixture_wait_ms(&fixture, 10);
        err = conf_probe(&world, fixture.log, &head);
    }
    assert_int_equal(err, ERR_OK);
    assert_string_equal(head.fence.identity, world.head.fence.identity);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

/* A commit that is answered with a warning may not be replicated: doubt, not success. */
static void a_warning_beside_a_commit_is_doubt(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    server_sql(database.name,
               "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
               " RAISE WARNING 'not replicated'; RETURN NULL; END $$;"
               "CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON kv DEFERRABLE INITIALLY DEFERRED"
               " FOR EACH ROW EXECUTE FUNCTION warn()");
    assert_int_equal(world_put(&world, fixture.log, 1, 10), SQL_IN_DOUBT);
    bool found = false;
    struct sql_writer writer;
    while (conf_verdict(&world, fixture.log, 1, &found, &writer) != ERR_OK) {
        log_fixture_pump(&fixture);
    }
    assert_true(found);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
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
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
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
            server_sql(database.name, text);
            struct conf_batch batch;
            conf_batch_init(&world, &batch);
            for (uint32_t row = 0; row < 1 + size * 3000; row++) {
                conf_batch_put(&world, &batch, "k", 4000, false);
            }
            conf_batch_seal(&world, &batch);
            do { /* A session that was dropped comes back soon. */
                log_fixture_pump(&fixture);
            } while (conf_batch_append(&world, fixture.log, &batch) == SQL_REFUSED &&
                     batch.append.err == ERR_NO_LEADER);
            assert_int_equal(batch.append.outcome, cases[i].outcome);
            assert_int_equal(batch.append.err, cases[i].err);
            conf_batch_fini(&batch);
            struct sql_head head;
            assert_int_equal(conf_probe(&world, fixture.log, &head), ERR_OK);
            assert_int_equal(head.seq, 0);
        }
    }
    server_sql(database.name, "DROP TRIGGER fail ON entry");
    while (world_put(&world, fixture.log, 2, 10) != SQL_COMMITTED) {
        log_fixture_pump(&fixture);
    }
    conf_check_load(&world, fixture.log);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

/* Hosts are tried in turn: one that refuses, one that has no name, and the one that answers. */
static void the_host_that_answers_is_found(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    char url[512];
    const char *host = strchr(server_url, '@') + 1;
    const char *port = strrchr(server_url, ':') + 1;
    (void)snprintf(url, sizeof(url),
                   "postgres://drover@127.0.0.1:1,no-such-host.invalid:2,"
                   "localhost:%.*s/%s?target_session_attrs=read-write",
                   (int)strcspn(port, "/"), port, database.name);
    assert_non_null(host);
    struct log_fixture fixture;
    log_fixture_open(&fixture, url);
    assert_string_equal(fixture.why, "");
    assert_int_equal(fixture.opened, ERR_OK);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    assert_int_equal(world_put(&world, fixture.log, 3, 10), SQL_COMMITTED);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
    /* A session that may only read is a standby to us: nobody is left. */
    (void)snprintf(url, sizeof(url), "%s?options=-c%%20default_transaction_read_only%%3Don",
                   database.url);
    log_fixture_open(&fixture, url);
    assert_int_equal(fixture.opened, ERR_NO_LEADER);
    assert_non_null(strstr(fixture.why, "read-only"));
    log_fixture_close(&fixture);
}

static void upkeep_tells_how_old_the_oldest_snapshot_is(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    PGconn *pg = PQconnectdb(database.url);
    PQclear(PQexec(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"));
    log_fixture_wait_ms(&fixture, 1200);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    struct arena arena;
    arena_init(&arena, 1 << 24);
    struct sql_upkeep upkeep = {.self = {.id = 1}, .arena = &arena};
    assert_int_equal(conf_upkeep(&world, fixture.log, &upkeep), ERR_OK);
    assert_true(upkeep.oldest_snapshot_ms >= 1000);
    assert_true(upkeep.database_bytes > 1000000);
    PQfinish(pg);
    arena_fini(&arena);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

/* Requests that are in flight or wait when the log closes all complete, before |closed|. */
static void closing_completes_every_request(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    for (uint32_t turns = 0; turns < 6; turns++) {
        struct log_fixture fixture;
        log_fixture_open(&fixture, database.url);
        struct sql_conformance conformance;
        struct conf_world world;
        world_open(&world, &fixture, &conformance);
        struct conf_batch batch;
        conf_batch_init(&world, &batch);
        conf_batch_put(&world, &batch, "last", 100, false);
        conf_batch_seal(&world, &batch);
        fixture.log->ops->append(fixture.log, &batch.append);
        for (uint32_t i = 0; i < turns; i++) {
            log_fixture_pump(&fixture);
        }
        log_fixture_close(&fixture);
        assert_true(batch.done);
        enum sql_outcome outcome = batch.append.outcome;
        assert_true(outcome == SQL_IN_DOUBT || outcome == SQL_COMMITTED || outcome == SQL_REFUSED);
        conf_batch_fini(&batch);
        conf_world_fini(&world);
    }
}

/* An append that lost is lost, also when the statement said something beside it. */
static void a_warning_beside_a_lost_append_changes_nothing(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    struct sql_config config = {.url = database.url, .pooler = true, .tables_prefix = ""};
    log_fixture_start(&fixture, &config); /* Pooled: in a transaction of several statements. */
    while (!fixture.is_opened) {
        log_fixture_pump(&fixture);
    }
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    assert_int_equal(world_put(&world, fixture.log, 1, 10), SQL_COMMITTED);
    server_sql(database.name, "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                              " RAISE WARNING 'by the way'; RETURN NULL; END $$;"
                              "CREATE TRIGGER warn AFTER INSERT ON kv"
                              " FOR EACH STATEMENT EXECUTE FUNCTION warn();"
                              "UPDATE cluster SET identity = '1/1'");
    assert_int_equal(world_put(&world, fixture.log, 1, 10), SQL_LOST);
    char answer[32];
    server_sql_answer(database.name, "SELECT count(*) FROM kv", answer, sizeof(answer));
    assert_string_equal(answer, "1");
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

static void pump_for(struct log_fixture *fixture, uint32_t ms)
{
    uint64_t end_ns = clock_now_ns(&clock_monotonic) + ms * NS_PER_MS;
    while (!fixture->is_opened && clock_now_ns(&clock_monotonic) < end_ns) {
        log_fixture_pump(fixture);
    }
}

/* As a server does near the wrap-around of its transaction numbers: only the COMMIT counts. */
static void a_warning_beside_the_first_lock_keeps_nobody_out(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture first;
    log_fixture_open(&first, database.url);
    log_fixture_close(&first);
    server_sql(database.name, "CREATE FUNCTION warn() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
                              " RAISE WARNING 'must be vacuumed'; RETURN true; END $$;"
                              "ALTER TABLE cluster RENAME TO cluster_table;"
                              "CREATE VIEW cluster AS SELECT * FROM cluster_table WHERE warn()");
    struct log_fixture fixture;
    struct sql_config config = {.url = database.url, .tables_prefix = ""};
    log_fixture_start(&fixture, &config);
    pump_for(&fixture, 5000);
    assert_true(fixture.is_opened);
    assert_int_equal(fixture.opened, ERR_OK);
    log_fixture_close(&fixture);
}

/* Goal: a look that sees half of a creation is not believed before the lock was taken. */
static void half_a_schema_is_refused_only_under_the_lock(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    PGconn *creator = PQconnectdb(database.url);
    PQclear(PQexec(creator, "BEGIN; SELECT pg_advisory_xact_lock(7236851938475640)"));
    server_sql(database.name, "CREATE TABLE entry (seq int8)");
    struct log_fixture fixture;
    struct sql_config config = {.url = database.url, .tables_prefix = ""};
    log_fixture_start(&fixture, &config);
    pump_for(&fixture, 500);
    assert_false(fixture.is_opened);
    PQclear(PQexec(creator, "DROP TABLE entry; COMMIT"));
    PQfinish(creator);
    pump_for(&fixture, 5000);
    assert_true(fixture.is_opened);
    assert_int_equal(fixture.opened, ERR_OK);
    log_fixture_close(&fixture);
}

/* The queue of notifications is full for somebody's idle listener: appends go on without. */
static void a_full_queue_of_notifications_does_not_fail_locked_appends(void **state)
{
    (void)state;
    struct database database;
    database_make(&database);
    struct log_fixture fixture;
    log_fixture_open(&fixture, database.url);
    struct sql_conformance conformance;
    struct conf_world world;
    world_open(&world, &fixture, &conformance);
    server_sql(database.name,
               "CREATE SEQUENCE tries;"
               "CREATE FUNCTION full_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
               " IF nextval('tries') = 1 THEN RAISE EXCEPTION 'full' USING ERRCODE = '54000';"
               " END IF; RETURN NULL; END $$;"
               "CREATE CONSTRAINT TRIGGER full_once AFTER INSERT ON kv DEFERRABLE INITIALLY"
               " DEFERRED FOR EACH ROW EXECUTE FUNCTION full_once()");
    struct arena arena;
    arena_init(&arena, 1 << 20);
    enum sql_outcome outcomes[2];
    for (uint32_t i = 0; i < 2; i++) {
        struct sql_lock lock = {.tail = {.entries_max = 10, .bytes_max = 1 << 20, .arena = &arena}};
        assert_int_equal(conf_lock(&world, fixture.log, &lock), ERR_OK);
        struct conf_batch batch;
        conf_batch_init(&world, &batch);
        conf_batch_put(&world, &batch, "k", 10, false);
        conf_batch_seal(&world, &batch);
        batch.append.locked = true;
        outcomes[i] = conf_batch_append(&world, fixture.log, &batch);
        conf_batch_fini(&batch);
    }
    assert_int_equal(outcomes[0], SQL_REFUSED);
    assert_int_equal(outcomes[1], SQL_COMMITTED);
    log_fixture_wait_ms(&fixture, 200);
    assert_int_equal(fixture.hint, 0); /* It was not even tried. */
    arena_fini(&arena);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(postgres_does_what_every_log_must),
        cmocka_unit_test(behind_a_pooler_it_does_the_same),
        cmocka_unit_test(behind_a_pooler_a_restarted_server_is_locked_first),
        cmocka_unit_test(eight_start_at_once_on_an_empty_database),
        cmocka_unit_test(what_is_wrong_with_a_database_is_said_in_one_line),
        cmocka_unit_test(a_server_that_is_not_there_is_said_and_no_password_with_it),
        cmocka_unit_test(a_role_without_rights_is_told_so),
        cmocka_unit_test(another_database_is_fenced_off),
        cmocka_unit_test(a_changed_row_arrives_as_it_is),
        cmocka_unit_test(tables_that_vanish_are_lost_history),
        cmocka_unit_test(a_statement_that_does_not_fit_is_prepared_again),
        cmocka_unit_test(a_warning_beside_a_commit_is_doubt),
        cmocka_unit_test(a_warning_beside_a_lost_append_changes_nothing),
        cmocka_unit_test(a_warning_beside_the_first_lock_keeps_nobody_out),
        cmocka_unit_test(half_a_schema_is_refused_only_under_the_lock),
        cmocka_unit_test(a_full_queue_of_notifications_does_not_fail_locked_appends),
        cmocka_unit_test(an_error_at_the_commit_is_a_refusal),
        cmocka_unit_test(the_host_that_answers_is_found),
        cmocka_unit_test(upkeep_tells_how_old_the_oldest_snapshot_is),
        cmocka_unit_test(closing_completes_every_request),
        cmocka_unit_test(a_killed_backend_leaves_doubt_and_the_verdict_ends_it),
    };
    return cmocka_run_group_tests(tests, server_start, server_stop);
}
