/*
 * Opening a log on PostgreSQL: what makes the tables, what is wrong with a database, a role, a
 * server or a session, and what is said about it.
 */
#include "support_postgres.h"

#include "support.h"

#include <stdio.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "core/mem.h"

/* Open |url| once; the answer stays in the fixture, which is closed. */
static void open_once(struct log_fixture *fixture, const char *url)
{
    log_fixture_open(fixture, url);
    log_fixture_close(fixture);
}

/* Goal: whoever comes first makes the tables, and all eight come up, every time. */
static void eight_start_at_once_on_an_empty_database(void **state)
{
    (void)state;
    uint32_t rounds = support_is_long() ? 50 : 6;
    for (uint32_t round = 0; round < rounds; round++) {
        struct postgres_database database;
        postgres_database_make(&database);
        struct log_fixture fixtures[8];
        struct sql_config config = {.url = database.url};
        for (uint32_t i = 0; i < 8; i++) {
            log_fixture_start(&fixtures[i], &config);
            config.loop = fixtures[0].loop;
        }
        for (uint32_t i = 0; i < 8; i++) {
            log_fixture_wait_opened(&fixtures[i]);
            assert_string_equal(fixtures[i].why, "");
            assert_int_equal(fixtures[i].opened, ERR_OK);
        }
        char answer[32];
        postgres_sql_answer(database.name, "SELECT count(*) FROM cluster", answer, sizeof(answer));
        assert_string_equal(answer, "1");
        for (uint32_t i = 8; i > 0; i--) {
            log_fixture_close(&fixtures[i - 1]);
        }
    }
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
    struct postgres_database database;
    postgres_database_make(&database);
    struct log_fixture fixture;
    open_once(&fixture, database.url);
    assert_int_equal(fixture.opened, ERR_OK);
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
        postgres_sql(database.name, cases[i].sql);
        log_fixture_open(&fixture, database.url);
        assert_int_equal(fixture.opened, cases[i].err);
        assert_non_null(strstr(fixture.why, cases[i].word));
        assert_null(strchr(fixture.why, '\n'));
        struct sql_conformance conformance = log_fixture_conformance(&fixture, 3);
        struct conf_world world; /* A log that did not open answers errors. */
        conf_world_init(&world, &conformance);
        enum err err;
        assert_int_not_equal(conf_probe(&world, fixture.log, &world.head), ERR_OK);
        assert_int_equal(log_world_put(&world, 1, 10, &err), SQL_REFUSED);
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
    struct log_fixture fixture;
    for (uint32_t i = 0; i < ARRAY_COUNT(urls); i++) {
        struct sql_config config = {.url = urls[i], .open_timeout_ms = 200};
        log_fixture_start(&fixture, &config);
        log_fixture_wait_opened(&fixture);
        assert_int_equal(fixture.opened, ERR_NO_LEADER);
        assert_null(strstr(fixture.why, "secret"));
        assert_true(strlen(fixture.why) > 0);
        log_fixture_close(&fixture);
    }
    struct sql_config config = {.url = urls[1]}; /* Closed while it still tries. */
    log_fixture_start(&fixture, &config);
    log_fixture_wait_ms(&fixture, 20);
    log_fixture_close(&fixture);
}

/* A role of the server that may connect; its URL in |url|. */
static void role_make(const struct postgres_database *database, char *url, size_t url_size)
{
    char text[128];
    (void)snprintf(text, sizeof(text), "CREATE ROLE plain_%s LOGIN", database->name);
    postgres_sql("postgres", text);
    const char *at = strchr(postgres_url(), '@');
    (void)snprintf(url, url_size, "postgres://plain_%s%s%s", database->name, at, database->name);
}

/* |format| with the role's name in it. */
static void role_sql(const struct postgres_database *database, const char *before,
                     const char *behind)
{
    char text[160];
    (void)snprintf(text, sizeof(text), "%splain_%s%s", before, database->name, behind);
    postgres_sql(database->name, text);
}

static void open_and_write(const char *url)
{
    struct log_fixture fixture;
    struct conf_world world;
    enum err err;
    log_fixture_open(&fixture, url);
    assert_string_equal(fixture.why, "");
    assert_int_equal(fixture.opened, ERR_OK);
    struct sql_conformance conformance = log_fixture_conformance(&fixture, 9);
    log_world_open(&world, &conformance);
    assert_int_equal(log_world_put(&world, 3, 10, &err), SQL_COMMITTED);
    conf_world_fini(&world);
    log_fixture_close(&fixture);
}

static void a_role_without_rights_is_told_so(void **state)
{
    (void)state;
    struct postgres_database database;
    struct log_fixture fixture;
    char url[512];
    postgres_database_make(&database);
    role_make(&database, url, sizeof(url));
    open_once(&fixture, url);
    assert_int_equal(fixture.opened, ERR_CONFIG);
    assert_non_null(strstr(fixture.why, "permission denied"));
    role_sql(&database, "GRANT CREATE ON SCHEMA public TO ", "");
    open_and_write(url);
    static const char *const rights[] = {"SELECT", "INSERT", "UPDATE", "DELETE"};
    static const char *const tables[] = {"cluster", "entry", "kv", "lease", "member", "duty"};
    for (uint32_t i = 0; i < ARRAY_COUNT(rights) * ARRAY_COUNT(tables); i++) {
        char text[96];
        const char *right = rights[i % ARRAY_COUNT(rights)];
        const char *table = tables[i / ARRAY_COUNT(rights)];
        (void)snprintf(text, sizeof(text), "REVOKE %s ON %s FROM ", right, table);
        role_sql(&database, text, "");
        open_once(&fixture, url);
        assert_int_equal(fixture.opened, ERR_CONFIG);
        bool is_said = strstr(fixture.why, "may not read and write") != NULL ||
                       strstr(fixture.why, "permission denied") != NULL;
        assert_true(is_said);
        assert_null(strchr(fixture.why, '\n'));
        (void)snprintf(text, sizeof(text), "GRANT %s ON %s TO ", right, table);
        role_sql(&database, text, "");
    }
    open_and_write(url);
    /* Without the system identifier it goes on with less, and says so. */
    postgres_sql(database.name, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;"
                                " UPDATE cluster SET identity = 'oid-' || (SELECT oid FROM"
                                " pg_database WHERE datname = current_database()) || '/1'");
    open_and_write(url);
}

/* Hosts are tried in turn: one that refuses, one that has no name, and the one that answers. */
static void the_host_that_answers_is_found(void **state)
{
    (void)state;
    struct postgres_database database;
    postgres_database_make(&database);
    char url[512];
    const char *port = strrchr(postgres_url(), ':') + 1;
    (void)snprintf(url, sizeof(url),
                   "postgres://drover@127.0.0.1:1,no-such-host.invalid:2,"
                   "localhost:%.*s/%s?target_session_attrs=read-write",
                   (int)strcspn(port, "/"), port, database.name);
    open_and_write(url);
}

/* As a server does near the wrap-around of its transaction numbers: only the COMMIT counts. */
static void a_warning_beside_the_first_lock_keeps_nobody_out(void **state)
{
    (void)state;
    struct postgres_database database;
    postgres_database_make(&database);
    struct log_fixture fixture;
    open_once(&fixture, database.url);
    postgres_sql(database.name,
                 "CREATE FUNCTION warn() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN"
                 " RAISE WARNING 'must be vacuumed'; RETURN true; END $$;"
                 "ALTER TABLE cluster RENAME TO cluster_table;"
                 "CREATE VIEW cluster AS SELECT * FROM cluster_table WHERE warn()");
    open_once(&fixture, database.url);
    assert_int_equal(fixture.opened, ERR_OK);
}

/* Goal: a look that sees half of a creation is not believed before the lock was taken. */
static void half_a_schema_is_refused_only_under_the_lock(void **state)
{
    (void)state;
    struct postgres_database database;
    postgres_database_make(&database);
    PGconn *creator = PQconnectdb(database.url);
    PQclear(PQexec(creator, "BEGIN; SELECT pg_advisory_xact_lock(7236851938475640)"));
    postgres_sql(database.name, "CREATE TABLE entry (seq int8)");
    struct log_fixture fixture;
    struct sql_config config = {.url = database.url};
    log_fixture_start(&fixture, &config);
    char waiters[8] = "0";
    while (strcmp(waiters, "0") == 0) {
        log_fixture_pump(&fixture);
        postgres_sql_answer(database.name,
                            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype ="
                            " 'advisory'",
                            waiters, sizeof(waiters));
    }
    assert_false(fixture.is_opened);
    PQclear(PQexec(creator, "DROP TABLE entry; COMMIT"));
    PQfinish(creator);
    log_fixture_wait_opened(&fixture);
    assert_string_equal(fixture.why, "");
    assert_int_equal(fixture.opened, ERR_OK);
    log_fixture_close(&fixture);
}

/* A session that may only read is a standby to us: nobody is left. */
static void a_session_that_may_only_read_is_said(void **state)
{
    (void)state;
    struct postgres_database database;
    postgres_database_make(&database);
    char url[512];
    (void)snprintf(url, sizeof(url), "%s?options=-c%%20default_transaction_read_only%%3Don",
                   database.url);
    struct log_fixture fixture;
    uint32_t timeout_ms = 250; /* Until it has got as far as that. */
    do {
        struct sql_config config = {.url = url, .open_timeout_ms = timeout_ms};
        log_fixture_start(&fixture, &config);
        log_fixture_wait_opened(&fixture);
        log_fixture_close(&fixture);
        assert_int_equal(fixture.opened, ERR_NO_LEADER);
        timeout_ms *= 2;
    } while (strstr(fixture.why, "read-only") == NULL && timeout_ms < 60 * 1000);
    assert_non_null(strstr(fixture.why, "read-only"));
    assert_null(strchr(fixture.why, '\n'));
}

static char report_url[512];

static void report_open(void)
{
    open_and_write(report_url);
}

/* What weakens a commit is set right in each session, what cannot be is said loudly; and once. */
static void what_was_found_is_said_once(void **state)
{
    (void)state;
    struct postgres_database database;
    postgres_database_make(&database);
    char fsync[8];
    char full[8];
    postgres_sql_answer(database.name, "SHOW fsync", fsync, sizeof(fsync));
    postgres_sql_answer(database.name, "SHOW full_page_writes", full, sizeof(full));
    static const char *const settings[] = {"synchronous_commit = off",
                                           "default_transaction_isolation = serializable"};
    for (uint32_t i = 0; i < ARRAY_COUNT(settings); i++) {
        char text[160];
        (void)snprintf(text, sizeof(text), "ALTER DATABASE %s SET %s", database.name, settings[i]);
        postgres_sql("postgres", text);
    }
    (void)snprintf(report_url, sizeof(report_url), "%s", database.url);
    char *said = support_capture_stderr(report_open);
    char word[64];
    assert_int_equal(support_text_count(said, "postgres open"), 1);
    assert_int_equal(support_text_count(said, "synchronous_commit=on"), 1);
    assert_int_equal(support_text_count(said, "isolation=\"read committed\""), 1);
    (void)snprintf(word, sizeof(word), "fsync=%s", fsync);
    assert_int_equal(support_text_count(said, word), 1);
    (void)snprintf(word, sizeof(word), "full_page_writes=%s", full);
    assert_int_equal(support_text_count(said, word), 1);
    assert_int_equal(support_text_count(said, "fsync is off"), strcmp(fsync, "off") == 0);
    assert_int_equal(support_text_count(said, "full_page_writes is off"), strcmp(full, "off") == 0);
    assert_int_equal(support_text_count(said, "pg_control_system"), 0);
    mem_free(said);
    /* A role that may not ask for the system identifier. */
    postgres_sql(database.name, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    postgres_sql(database.name, "GRANT CREATE ON SCHEMA public TO PUBLIC;"
                                " DROP TABLE cluster, entry, kv, lease, member, duty");
    role_make(&database, report_url, sizeof(report_url));
    said = support_capture_stderr(report_open);
    assert_int_equal(support_text_count(said, "may not call pg_control_system"), 1);
    mem_free(said);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_start_at_once_on_an_empty_database),
        cmocka_unit_test(what_is_wrong_with_a_database_is_said_in_one_line),
        cmocka_unit_test(a_server_that_is_not_there_is_said_and_no_password_with_it),
        cmocka_unit_test(a_role_without_rights_is_told_so),
        cmocka_unit_test(the_host_that_answers_is_found),
        cmocka_unit_test(a_warning_beside_the_first_lock_keeps_nobody_out),
        cmocka_unit_test(a_session_that_may_only_read_is_said),
        cmocka_unit_test(what_was_found_is_said_once),
        cmocka_unit_test(half_a_schema_is_refused_only_under_the_lock),
    };
    return cmocka_run_group_tests(tests, postgres_start, postgres_stop);
}
