/* SQLite: the conformance script, and what can be wrong with a file. */
#include "support_conformance.h"

#include "support.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sqlite3.h>

#include "core/mem.h"
#include "sql/sql.h"

/* One process: a loop and a log on it. */
struct fixture {
    struct loop loop;
    struct sql_log *log;
    char folder[64];
    char url[256];
    bool is_opened;
    enum err opened;
    char why[512];
    bool is_closed;
};

static void fixture_pump(void *arg)
{
    struct fixture *fixture = arg;
    if (uv_run(&fixture->loop.uv, UV_RUN_NOWAIT) == 0) {
        return;
    }
    (void)usleep(20);
}

static void fixture_wait_ms(void *arg, uint32_t ms)
{
    uint64_t until_ns = clock_now_ns(&clock_monotonic) + ms * NS_PER_MS;
    while (clock_now_ns(&clock_monotonic) < until_ns) {
        fixture_pump(arg);
        (void)usleep(1000);
    }
}

static void fixture_on_opened(void *arg, enum err err, const char *why)
{
    struct fixture *fixture = arg;
    fixture->is_opened = true;
    fixture->opened = err;
    (void)snprintf(fixture->why, sizeof(fixture->why), "%s", why == NULL ? "" : why);
}

static void fixture_on_hint(void *arg, uint64_t seq)
{
    (void)arg;
    (void)seq;
}

static void fixture_on_closed(void *arg)
{
    ((struct fixture *)arg)->is_closed = true;
}

/* Open |url|; the answer is in |opened| and |why|. */
static void fixture_open(struct fixture *fixture, const char *url)
{
    loop_init(&fixture->loop, &clock_monotonic);
    struct sql_config config = {.url = url, .loop = &fixture->loop};
    char why[256];
    assert_int_equal(sql_log_new(&config, &fixture->log, why, sizeof(why)), ERR_OK);
    fixture->log->events =
        (struct sql_events){.opened = fixture_on_opened, .hint = fixture_on_hint, .arg = fixture};
    fixture->is_opened = false;
    fixture->is_closed = false;
    fixture->log->ops->open(fixture->log);
    while (!fixture->is_opened) {
        fixture_pump(fixture);
    }
}

static void fixture_close(struct fixture *fixture)
{
    fixture->log->ops->close(fixture->log, fixture_on_closed, fixture);
    while (!fixture->is_closed) {
        fixture_pump(fixture);
    }
    fixture->log->ops->free(fixture->log);
    loop_fini(&fixture->loop);
}

static void fixture_init(struct fixture *fixture)
{
    *fixture = (struct fixture){0};
    (void)snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/drover-sqlite-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    (void)snprintf(fixture->url, sizeof(fixture->url), "sqlite://%s/data/x.db", fixture->folder);
}

static void fixture_fini(struct fixture *fixture)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", fixture->folder);
    assert_int_equal(system(command), 0);
}

/* Change the file behind drover's back, as it never runs at the same time. */
static void fixture_sql(const struct fixture *fixture, const char *text)
{
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/data", fixture->folder);
    (void)mkdir(path, 0700);
    (void)snprintf(path, sizeof(path), "%s/data/x.db", fixture->folder);
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static struct sql_conformance fixture_conformance(struct fixture *fixture, uint64_t seed)
{
    return (struct sql_conformance){.log = fixture->log,
                                    .pump = fixture_pump,
                                    .wait_ms = fixture_wait_ms,
                                    .arg = fixture,
                                    .seed = seed};
}

static void sqlite_does_what_every_log_must(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_init(&fixture);
    fixture_open(&fixture, fixture.url);
    assert_int_equal(fixture.opened, ERR_OK);
    assert_true(fixture.log->exclusive);
    struct sql_conformance conformance = fixture_conformance(&fixture, 1);
    sql_conformance_run(&conformance);
    fixture_close(&fixture);
    fixture_fini(&fixture);
}

static void what_was_written_is_there_after_a_restart(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_init(&fixture);
    fixture_open(&fixture, fixture.url);
    struct sql_conformance conformance = fixture_conformance(&fixture, 2);
    struct conf_world world;
    conf_world_init(&world, &conformance);
    assert_int_equal(conf_probe(&world, fixture.log, &world.head), ERR_OK);
    for (uint32_t i = 0; i < 20; i++) {
        struct conf_batch batch;
        conf_batch_init(&world, &batch);
        conf_batch_put(&world, &batch, "kept", 500, i == 7);
        conf_batch_seal(&world, &batch);
        assert_int_equal(conf_batch_append(&world, fixture.log, &batch), SQL_COMMITTED);
        conf_batch_won(&world, &batch);
        conf_batch_fini(&batch);
        if (i % 7 == 0) {
            fixture_close(&fixture);
            fixture_open(&fixture, fixture.url);
            assert_int_equal(fixture.opened, ERR_OK);
            conformance.log = fixture.log;
        }
    }
    conf_check_load(&world, fixture.log);
    conf_world_fini(&world);
    fixture_close(&fixture);
    fixture_fini(&fixture);
}

/* Each setting up of the file, what opening it answers, and a word of the reason. */
static void what_is_wrong_with_a_file_is_said_in_one_line(void **state)
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
        {"CREATE TABLE cluster (id INTEGER, name TEXT)", ERR_CONFIG, "not drover's"},
    };
    struct fixture fixture;
    fixture_init(&fixture);
    fixture_open(&fixture, fixture.url);
    assert_int_equal(fixture.opened, ERR_OK);
    fixture_close(&fixture);
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
        fixture_sql(&fixture, cases[i].sql);
        fixture_open(&fixture, fixture.url);
        assert_int_equal(fixture.opened, cases[i].err);
        assert_non_null(strstr(fixture.why, cases[i].word));
        assert_null(strchr(fixture.why, '\n'));
        struct sql_conformance conformance = fixture_conformance(&fixture, 3);
        struct conf_world world; /* A log that did not open answers errors. */
        conf_world_init(&world, &conformance);
        assert_int_not_equal(conf_probe(&world, fixture.log, &world.head), ERR_OK);
        conf_world_fini(&world);
        fixture_close(&fixture);
    }
    fixture_fini(&fixture);

    fixture_init(&fixture);
    fixture_sql(&fixture, "CREATE TABLE other (x)");
    fixture_open(&fixture, fixture.url);
    assert_int_equal(fixture.opened, ERR_CONFIG);
    assert_non_null(strstr(fixture.why, "another program"));
    fixture_close(&fixture);
    fixture_fini(&fixture);
}

static void a_place_that_cannot_be_used_is_said_in_one_line(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_init(&fixture);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/garbage", fixture.folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (uint32_t i = 0; i < 2000; i++) {
        (void)fputs("not a database ", file);
    }
    (void)fclose(file);
    static const char *const places[][2] = {
        {"garbage", "not a SQLite database"},
        {"garbage/x.db", "Not a directory"},
        {"missing/folder/x.db", "No such file"},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(places); i++) {
        char url[256];
        (void)snprintf(url, sizeof(url), "sqlite://%s/%s", fixture.folder, places[i][0]);
        fixture_open(&fixture, url);
        assert_int_equal(fixture.opened, ERR_CONFIG);
        assert_non_null(strstr(fixture.why, places[i][1]));
        fixture_close(&fixture);
    }
    fixture_open(&fixture, "sqlite:///proc/drover/x.db");
    assert_int_equal(fixture.opened, ERR_CONFIG);
    fixture_close(&fixture);
    fixture_fini(&fixture);
}

static void a_second_process_on_the_file_is_told_that_it_is_locked(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_init(&fixture);
    fixture_open(&fixture, fixture.url);
    assert_int_equal(fixture.opened, ERR_OK);
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/data/x.db", fixture.folder);
    pid_t child = fork(); /* Locks belong to a process: the second one must be another. */
    assert_true(child >= 0);
    if (child == 0) {
        sqlite3 *db;
        bool is_kept_out = sqlite3_open(path, &db) != SQLITE_OK ||
                           sqlite3_exec(db, "SELECT * FROM cluster", NULL, NULL, NULL) != SQLITE_OK;
        _exit(is_kept_out ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    fixture_close(&fixture);

    /* And the other way round: somebody else holds it while we open. */
    int ready[2];
    int end[2];
    assert_int_equal(pipe(ready) | pipe(end), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        sqlite3 *db;
        char byte = 0;
        bool is_held = sqlite3_open(path, &db) == SQLITE_OK &&
                       sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) == SQLITE_OK;
        is_held = is_held && write(ready[1], &byte, 1) == 1 && read(end[0], &byte, 1) == 1;
        _exit(is_held ? 0 : 1);
    }
    char byte = 0;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    fixture_open(&fixture, fixture.url);
    assert_int_equal(fixture.opened, ERR_CONFIG);
    assert_non_null(strstr(fixture.why, "locked"));
    fixture_close(&fixture);
    assert_int_equal(write(end[1], &byte, 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    for (uint32_t i = 0; i < 2; i++) {
        (void)close(ready[i]);
        (void)close(end[i]);
    }
    fixture_fini(&fixture);
}

/* One byte of one row, changed by SQL: it arrives as it is, and its sum says so. */
static void a_changed_row_arrives_as_it_is(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_init(&fixture);
    fixture_open(&fixture, fixture.url);
    struct sql_conformance conformance = fixture_conformance(&fixture, 4);
    struct conf_world world;
    conf_world_init(&world, &conformance);
    assert_int_equal(conf_probe(&world, fixture.log, &world.head), ERR_OK);
    for (uint32_t i = 0; i < 3; i++) {
        struct conf_batch batch;
        conf_batch_init(&world, &batch);
        conf_batch_put(&world, &batch, "a", 10, false);
        conf_batch_put(&world, &batch, "b", 10, false);
        conf_batch_seal(&world, &batch);
        assert_int_equal(conf_batch_append(&world, fixture.log, &batch), SQL_COMMITTED);
        conf_batch_won(&world, &batch);
        conf_batch_fini(&batch);
    }
    fixture_close(&fixture);
    fixture_sql(&fixture, "UPDATE kv SET value = x'00' || substr(value, 2) WHERE revision = 2;"
                          "DELETE FROM kv WHERE revision = 4; INSERT INTO kv SELECT revision, 9,"
                          " is_delete, key, value, create_rev, version, lease, prev_rev, prev_sub,"
                          " sum FROM kv WHERE revision = 6");
    fixture_open(&fixture, fixture.url);
    conformance.log = fixture.log;
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
    arena_fini(&arena);
    conf_world_fini(&world);
    fixture_close(&fixture);
    fixture_sql(&fixture, "UPDATE entry SET meta = x'ff' WHERE seq = 2");
    fixture_open(&fixture, fixture.url);
    conf_world_init(&world, &conformance);
    conformance.log = fixture.log;
    arena_init(&arena, 1 << 24);
    assert_int_equal(conf_tail(&world, fixture.log, &tail), ERR_CHAIN_BROKEN);
    arena_fini(&arena);
    conf_world_fini(&world);
    fixture_close(&fixture);
    fixture_fini(&fixture);
}

static void urls_that_name_no_database_are_refused(void **state)
{
    (void)state;
    static const char *const urls[] = {
        "",
        "sqlite",
        "sqlite://",
        "sqlite:///tmp/",
        "sqlite://a%0",
        "sqlite://a%00b",
        "sqlite://x?mode=ro",
        "sqlite://:memory:",
        "mysql://x/y",
        "/tmp/x.db",
        "postgres:/x",
    };
    struct loop loop;
    loop_init(&loop, &clock_monotonic);
    for (uint32_t i = 0; i < ARRAY_COUNT(urls); i++) {
        struct sql_config config = {.url = urls[i], .loop = &loop};
        struct sql_log *log;
        char why[256] = "";
        assert_int_equal(sql_log_new(&config, &log, why, sizeof(why)), ERR_CONFIG);
        assert_null(log);
        assert_true(strlen(why) > 0);
    }
    loop_fini(&loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sqlite_does_what_every_log_must),
        cmocka_unit_test(what_was_written_is_there_after_a_restart),
        cmocka_unit_test(what_is_wrong_with_a_file_is_said_in_one_line),
        cmocka_unit_test(a_place_that_cannot_be_used_is_said_in_one_line),
        cmocka_unit_test(a_second_process_on_the_file_is_told_that_it_is_locked),
        cmocka_unit_test(a_changed_row_arrives_as_it_is),
        cmocka_unit_test(urls_that_name_no_database_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
