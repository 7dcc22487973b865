/* SQLite: the conformance script, and what can be wrong with a file. */
#include "support_log.h"

#include "support.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sqlite3.h>

#include "core/mem.h"
#include "sql/schema.h"
#include "sql/sqlite.h"

struct sqlite_fixture {
    struct log_fixture f;
    char folder[64];
    char url[256];
};

static void fixture_init(struct sqlite_fixture *fixture)
{
    *fixture = (struct sqlite_fixture){0};
    (void)snprintf(fixture->folder, sizeof(fixture->folder), "/tmp/drover-sqlite-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    (void)snprintf(fixture->url, sizeof(fixture->url), "sqlite://%s/data/x.db", fixture->folder);
}

static void fixture_fini(struct sqlite_fixture *fixture)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", fixture->folder);
    assert_int_equal(system(command), 0);
}

/* Change the file behind drover's back, as it never runs at the same time. */
static void fixture_sql(const struct sqlite_fixture *fixture, const char *text)
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

/* The engine keeps everybody else out of its file: through its own connection, while it waits. */
static void fixture_alter(void *arg, enum conf_alter what, bool is_on)
{
    struct log_fixture *fixture = arg;
    struct sqlite_log *log = CONTAINER_OF(fixture->log, struct sqlite_log, log);
    char *text = sql_expand(conf_alter_text(what, is_on), log->prefix);
    assert_int_equal(sqlite3_exec(log->db, text, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_changes(log->db), 1);
    mem_free(text);
}

static void all_levels_of_the_directory_are_made(void **state)
{
    (void)state;
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    char url[256];
    (void)snprintf(url, sizeof(url), "sqlite://%s/a//b/c/x.db", fixture.folder);
    log_fixture_open(&fixture.f, url);
    assert_int_equal(fixture.f.opened, ERR_OK);
    log_fixture_close(&fixture.f);
    fixture_fini(&fixture);
}

static void sqlite_does_what_every_log_must(void **state)
{
    (void)state;
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    log_fixture_open(&fixture.f, fixture.url);
    assert_int_equal(fixture.f.opened, ERR_OK);
    assert_true(fixture.f.log->exclusive);
    struct sql_conformance conformance = log_fixture_conformance(&fixture.f, 1);
    conformance.alter = fixture_alter;
    sql_conformance_run(&conformance);
    log_fixture_close(&fixture.f);
    fixture_fini(&fixture);
}

static void what_was_written_is_there_after_a_restart(void **state)
{
    (void)state;
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    log_fixture_open(&fixture.f, fixture.url);
    struct sql_conformance conformance = log_fixture_conformance(&fixture.f, 2);
    struct conf_world world;
    log_world_open(&world, &conformance);
    for (uint32_t i = 0; i < 20; i++) {
        struct conf_batch batch;
        conf_batch_init(&world, &batch);
        conf_batch_put(&world, &batch, "kept", 500, i == 7);
        conf_batch_seal(&world, &batch);
        assert_int_equal(conf_batch_append(&world, fixture.f.log, &batch), SQL_COMMITTED);
        conf_batch_won(&world, &batch);
        conf_batch_fini(&batch);
        if (i % 7 == 0) {
            log_fixture_close(&fixture.f);
            log_fixture_open(&fixture.f, fixture.url);
            assert_int_equal(fixture.f.opened, ERR_OK);
            conformance.log = fixture.f.log;
        }
    }
    conf_check_load(&world, fixture.f.log);
    conf_world_fini(&world);
    log_fixture_close(&fixture.f);
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
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    log_fixture_open(&fixture.f, fixture.url);
    assert_int_equal(fixture.f.opened, ERR_OK);
    log_fixture_close(&fixture.f);
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
        fixture_sql(&fixture, cases[i].sql);
        log_fixture_open(&fixture.f, fixture.url);
        assert_int_equal(fixture.f.opened, cases[i].err);
        assert_non_null(strstr(fixture.f.why, cases[i].word));
        assert_null(strchr(fixture.f.why, '\n'));
        struct sql_conformance conformance = log_fixture_conformance(&fixture.f, 3);
        struct conf_world world; /* A log that did not open answers errors. */
        conf_world_init(&world, &conformance);
        assert_int_not_equal(conf_probe(&world, fixture.f.log, &world.head), ERR_OK);
        conf_world_fini(&world);
        log_fixture_close(&fixture.f);
    }
    fixture_fini(&fixture);

    fixture_init(&fixture);
    fixture_sql(&fixture, "CREATE TABLE other (x)");
    log_fixture_open(&fixture.f, fixture.url);
    assert_int_equal(fixture.f.opened, ERR_CONFIG);
    assert_non_null(strstr(fixture.f.why, "another program"));
    log_fixture_close(&fixture.f);
    fixture_fini(&fixture);
}

static void a_place_that_cannot_be_used_is_said_in_one_line(void **state)
{
    (void)state;
    struct sqlite_fixture fixture;
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
        {"garbage/a/b/x.db", "Not a directory"},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(places); i++) {
        char url[256];
        (void)snprintf(url, sizeof(url), "sqlite://%s/%s", fixture.folder, places[i][0]);
        log_fixture_open(&fixture.f, url);
        assert_int_equal(fixture.f.opened, ERR_CONFIG);
        assert_non_null(strstr(fixture.f.why, places[i][1]));
        log_fixture_close(&fixture.f);
    }
    log_fixture_open(&fixture.f, "sqlite:///proc/drover/x.db");
    assert_int_equal(fixture.f.opened, ERR_CONFIG);
    log_fixture_close(&fixture.f);
    fixture_fini(&fixture);
}

/* In front of the C library's: what kind of file system the directory is said to be on. */
static unsigned long statfs_magic;
int statfs(const char *path, struct statfs *facts)
{
    long status = syscall(SYS_statfs, path, facts);
    if (status == 0 && statfs_magic != 0) {
        facts->f_type = (__fsword_t)statfs_magic;
    }
    return (int)status;
}

static void a_network_file_system_is_refused(void **state)
{
    (void)state;
    static const struct {
        unsigned long magic;
        const char *name; /* NULL: local. */
    } cases[] = {{0x6969, "NFS"},      {0xff534d42, "CIFS"}, {0xfe534d42, "SMB2"},
                 {0x00c36400, "Ceph"}, {0x65735546, NULL}, /* FUSE, on a mount of a local type. */
                 {0xef53, NULL}};
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
        statfs_magic = cases[i].magic;
        log_fixture_open(&fixture.f, fixture.url);
        statfs_magic = 0;
        assert_int_equal(fixture.f.opened, cases[i].name == NULL ? ERR_OK : ERR_CONFIG);
        if (cases[i].name != NULL) {
            assert_non_null(strstr(fixture.f.why, "network file system"));
            assert_non_null(strstr(fixture.f.why, cases[i].name));
        }
        log_fixture_close(&fixture.f);
    }
    fixture_fini(&fixture);
}

static void a_second_process_on_the_file_is_told_that_it_is_locked(void **state)
{
    (void)state;
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    log_fixture_open(&fixture.f, fixture.url);
    assert_int_equal(fixture.f.opened, ERR_OK);
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
    log_fixture_close(&fixture.f);

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
    log_fixture_open(&fixture.f, fixture.url);
    assert_int_equal(fixture.f.opened, ERR_CONFIG);
    assert_non_null(strstr(fixture.f.why, "locked"));
    log_fixture_close(&fixture.f);
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
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    log_fixture_open(&fixture.f, fixture.url);
    struct sql_conformance conformance = log_fixture_conformance(&fixture.f, 4);
    struct conf_world world;
    log_world_open(&world, &conformance);
    for (uint32_t i = 0; i < 3; i++) {
        enum err err;
        assert_int_equal(log_world_put(&world, 2, 10, &err), SQL_COMMITTED);
    }
    log_fixture_close(&fixture.f);
    fixture_sql(&fixture, "UPDATE kv SET value = x'00' || substr(value, 2) WHERE revision = 2;"
                          "DELETE FROM kv WHERE revision = 4; INSERT INTO kv SELECT revision, 9,"
                          " is_delete, key, value, create_rev, version, lease, prev_rev, prev_sub,"
                          " sum FROM kv WHERE revision = 6");
    log_fixture_open(&fixture.f, fixture.url);
    conformance.log = fixture.f.log;
    struct arena arena;
    arena_init(&arena, 1 << 24);
    struct sql_tail tail = {.entries_max = 100, .bytes_max = 1 << 20, .arena = &arena};
    assert_int_equal(conf_tail(&world, fixture.f.log, &tail), ERR_OK);
    assert_int_equal(tail.entry_count, 3);
    assert_int_equal(tail.entries[0].row_count, 2);
    assert_int_not_equal(sql_row_sum(&tail.entries[0].rows[0]), tail.entries[0].rows[0].sum);
    assert_int_equal(sql_row_sum(&tail.entries[0].rows[1]), tail.entries[0].rows[1].sum);
    assert_int_equal(tail.entries[1].row_count, 1); /* As found, so that the chain breaks. */
    assert_int_equal(tail.entries[2].row_count, 3);
    arena_fini(&arena);
    conf_world_fini(&world);
    log_fixture_close(&fixture.f);
    fixture_sql(&fixture, "UPDATE entry SET meta = x'ff' WHERE seq = 2");
    log_fixture_open(&fixture.f, fixture.url);
    conf_world_init(&world, &conformance);
    conformance.log = fixture.f.log;
    arena_init(&arena, 1 << 24);
    assert_int_equal(conf_tail(&world, fixture.f.log, &tail), ERR_CHAIN_BROKEN);
    arena_fini(&arena);
    conf_world_fini(&world);
    log_fixture_close(&fixture.f);
    fixture_fini(&fixture);
}

/* A value that would be read as the one that was written is a changed one all the same. */
static void a_value_of_another_type_or_size_is_broken(void **state)
{
    (void)state;
    static const char *const changes[][2] = {
        {"UPDATE kv SET version = version + 0.5", "UPDATE kv SET version = 1"},
        {"UPDATE kv SET lease = CAST(lease AS TEXT) || 'x'",
         "UPDATE kv SET lease = CAST(substr(lease, 1, length(lease) - 1) AS INTEGER)"},
        {"UPDATE kv SET sub = sub + 4294967296", "UPDATE kv SET sub = sub - 4294967296"},
        {"UPDATE kv SET prev_sub = prev_sub - 4294967296",
         "UPDATE kv SET prev_sub = prev_sub + 4294967296"},
        {"UPDATE kv SET is_delete = 4294967296", "UPDATE kv SET is_delete = 0"},
        {"UPDATE entry SET row_count = row_count + 4294967296",
         "UPDATE entry SET row_count = row_count - 4294967296"},
        {"UPDATE entry SET auth_rev = auth_rev || 'y'", "UPDATE entry SET auth_rev = 0"},
    };
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    log_fixture_open(&fixture.f, fixture.url);
    struct sql_conformance conformance = log_fixture_conformance(&fixture.f, 4);
    struct conf_world world;
    enum err err;
    log_world_open(&world, &conformance);
    assert_int_equal(log_world_put(&world, 2, 10, &err), SQL_COMMITTED);
    struct arena arena;
    arena_init(&arena, 1 << 24);
    for (uint32_t i = 0; i < ARRAY_COUNT(changes) * 2; i++) {
        log_fixture_close(&fixture.f);
        fixture_sql(&fixture, changes[i / 2][i % 2]);
        log_fixture_open(&fixture.f, fixture.url);
        conformance.log = fixture.f.log;
        struct sql_tail tail = {.entries_max = 100, .bytes_max = 1 << 20, .arena = &arena};
        err = conf_tail(&world, fixture.f.log, &tail);
        assert_int_equal(err, i % 2 == 0 ? ERR_CHAIN_BROKEN : ERR_OK);
    }
    conf_check_load(&world, fixture.f.log);
    arena_fini(&arena);
    conf_world_fini(&world);
    log_fixture_close(&fixture.f);
    fixture_fini(&fixture);
}

/* A process that ends without closing leaves its writes in the log beside the file. */
static void writes_left_in_the_wal_are_not_thrown_away(void **state)
{
    (void)state;
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    char path[128];
    char aside[128];
    (void)snprintf(path, sizeof(path), "%s/data/x.db", fixture.folder);
    (void)snprintf(aside, sizeof(aside), "%s/aside.db", fixture.folder);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        enum err err;
        struct conf_world world;
        log_fixture_open(&fixture.f, fixture.url);
        struct sql_conformance conformance = log_fixture_conformance(&fixture.f, 4);
        log_world_open(&world, &conformance);
        _exit(log_world_put(&world, 2, 10, &err) == SQL_COMMITTED ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(rename(path, aside), 0);
    for (uint32_t i = 0; i < 2; i++) { /* Without the file; and again, nothing was made. */
        log_fixture_open(&fixture.f, fixture.url);
        assert_int_equal(fixture.f.opened, ERR_HISTORY_LOST);
        assert_non_null(strstr(fixture.f.why, "-wal is there"));
        log_fixture_close(&fixture.f);
        assert_int_equal(access(path, F_OK), -1);
    }
    assert_int_equal(rename(aside, path), 0);
    log_fixture_open(&fixture.f, fixture.url);
    assert_int_equal(fixture.f.opened, ERR_OK);
    struct sql_conformance conformance = log_fixture_conformance(&fixture.f, 4);
    struct conf_world world;
    log_world_open(&world, &conformance);
    assert_int_equal(world.head.seq, 1);
    conf_world_fini(&world);
    log_fixture_close(&fixture.f);
    fixture_fini(&fixture);
}

/* Nothing is acknowledged that the next start would not find. */
static void a_file_that_was_removed_takes_no_writes(void **state)
{
    (void)state;
    struct sqlite_fixture fixture;
    fixture_init(&fixture);
    log_fixture_open(&fixture.f, fixture.url);
    struct sql_conformance conformance = log_fixture_conformance(&fixture.f, 4);
    struct conf_world world;
    enum err err;
    log_world_open(&world, &conformance);
    assert_int_equal(log_world_put(&world, 2, 10, &err), SQL_COMMITTED);
    static const char *const names[] = {"x.db", "x.db-wal"};
    for (uint32_t i = 0; i < ARRAY_COUNT(names); i++) {
        char path[128];
        char aside[128];
        (void)snprintf(path, sizeof(path), "%s/data/%s", fixture.folder, names[i]);
        (void)snprintf(aside, sizeof(aside), "%s/aside", fixture.folder);
        assert_int_equal(rename(path, aside), 0);
        assert_int_equal(log_world_put(&world, 2, 10, &err), SQL_REFUSED);
        assert_int_equal(err, ERR_DATABASE);
        FILE *other = fopen(path, "w"); /* Another file under its name is not it. */
        assert_non_null(other);
        (void)fclose(other);
        assert_int_equal(log_world_put(&world, 2, 10, &err), SQL_REFUSED);
        assert_int_equal(rename(aside, path), 0);
        assert_int_equal(log_world_put(&world, 2, 10, &err), SQL_COMMITTED);
    }
    conf_check_load(&world, fixture.f.log);
    conf_world_fini(&world);
    log_fixture_close(&fixture.f);
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
        "postgres://a,b,c:1,2/x?port=1,2",
        "postgres://a,b/x?hostaddr=127.0.0.1",
        "postgres://a/%zz",
        "postgres://a/x?no_such_option=1",
        "postgres://a%0Ab,c/x?port=1,2,3",
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
        assert_null(strchr(why, '\n'));
    }
    loop_fini(&loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_levels_of_the_directory_are_made),
        cmocka_unit_test(sqlite_does_what_every_log_must),
        cmocka_unit_test(what_was_written_is_there_after_a_restart),
        cmocka_unit_test(what_is_wrong_with_a_file_is_said_in_one_line),
        cmocka_unit_test(a_place_that_cannot_be_used_is_said_in_one_line),
        cmocka_unit_test(a_network_file_system_is_refused),
        cmocka_unit_test(a_second_process_on_the_file_is_told_that_it_is_locked),
        cmocka_unit_test(a_changed_row_arrives_as_it_is),
        cmocka_unit_test(a_value_of_another_type_or_size_is_broken),
        cmocka_unit_test(writes_left_in_the_wal_are_not_thrown_away),
        cmocka_unit_test(a_file_that_was_removed_takes_no_writes),
        cmocka_unit_test(urls_that_name_no_database_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
