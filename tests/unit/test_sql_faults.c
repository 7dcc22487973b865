/*
 * Goal: a full disk refuses a write and harms nothing; any other failure of a commit ends the
 * process, because nobody knows what is on the disk then.
 * Method: a file system of SQLite's that passes everything on, and fails writes or syncs of the
 * write-ahead log when told.
 */
#include "support_log.h"

#include "support.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <sqlite3.h>

#include "core/mem.h"

enum fault { FAULT_NONE, FAULT_WRITE_FULL, FAULT_WRITE_ERROR, FAULT_SYNC_ERROR };

static _Atomic int fault; /* Read on the engine's thread. */
static sqlite3_vfs *vfs_real;
static sqlite3_vfs vfs_faulty;

struct faulty_file {
    sqlite3_file base; /* First: handed out as a sqlite3_file. */
    bool is_wal;
    _Alignas(8) unsigned char real[];
};

static struct faulty_file *faulty_of(sqlite3_file *file)
{
    return (struct faulty_file *)(void *)file;
}

static sqlite3_file *real_of(sqlite3_file *file)
{
    return (sqlite3_file *)(void *)faulty_of(file)->real;
}

static int faulty_close(sqlite3_file *file)
{
    return real_of(file)->pMethods->xClose(real_of(file));
}

static int faulty_read(sqlite3_file *file, void *data, int size, sqlite3_int64 offset)
{
    return real_of(file)->pMethods->xRead(real_of(file), data, size, offset);
}

static int faulty_write(sqlite3_file *file, const void *data, int size, sqlite3_int64 offset)
{
    int now = atomic_load(&fault);
    if (faulty_of(file)->is_wal && now == FAULT_WRITE_FULL) {
        return SQLITE_FULL;
    }
    if (faulty_of(file)->is_wal && now == FAULT_WRITE_ERROR) {
        return SQLITE_IOERR_WRITE;
    }
    return real_of(file)->pMethods->xWrite(real_of(file), data, size, offset);
}

static int faulty_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    return real_of(file)->pMethods->xTruncate(real_of(file), size);
}

static int faulty_sync(sqlite3_file *file, int flags)
{
    if (faulty_of(file)->is_wal && atomic_load(&fault) == FAULT_SYNC_ERROR) {
        return SQLITE_IOERR_FSYNC;
    }
    return real_of(file)->pMethods->xSync(real_of(file), flags);
}

static int faulty_size(sqlite3_file *file, sqlite3_int64 *size)
{
    return real_of(file)->pMethods->xFileSize(real_of(file), size);
}

static int faulty_lock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int faulty_unlock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int faulty_check(sqlite3_file *file, int *result)
{
    return real_of(file)->pMethods->xCheckReservedLock(real_of(file), result);
}

static int faulty_control(sqlite3_file *file, int operation, void *arg)
{
    return real_of(file)->pMethods->xFileControl(real_of(file), operation, arg);
}

static int faulty_sector(sqlite3_file *file)
{
    return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int faulty_characteristics(sqlite3_file *file)
{
    return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

/* Version 1: the index of the log stays in memory, as it must under an exclusive lock. */
static const sqlite3_io_methods faulty_methods = {
    .iVersion = 1,
    .xClose = faulty_close,
    .xRead = faulty_read,
    .xWrite = faulty_write,
    .xTruncate = faulty_truncate,
    .xSync = faulty_sync,
    .xFileSize = faulty_size,
    .xLock = faulty_lock,
    .xUnlock = faulty_unlock,
    .xCheckReservedLock = faulty_check,
    .xFileControl = faulty_control,
    .xSectorSize = faulty_sector,
    .xDeviceCharacteristics = faulty_characteristics,
};

static int faulty_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                       int *out_flags)
{
    (void)vfs;
    faulty_of(file)->is_wal = (flags & SQLITE_OPEN_WAL) != 0;
    int code = vfs_real->xOpen(vfs_real, name, real_of(file), flags, out_flags);
    file->pMethods = code == SQLITE_OK ? &faulty_methods : NULL;
    return code;
}

static int faults_begin(void **state)
{
    (void)state;
    vfs_real = sqlite3_vfs_find(NULL);
    vfs_faulty = *vfs_real;
    vfs_faulty.zName = "faulty";
    vfs_faulty.szOsFile += (int)sizeof(struct faulty_file);
    vfs_faulty.xOpen = faulty_open;
    return sqlite3_vfs_register(&vfs_faulty, 1) == SQLITE_OK ? 0 : -1;
}

/* ---- one log  */

static char folder[64];

static void folder_make(void)
{
    (void)snprintf(folder, sizeof(folder), "/tmp/drover-faults-XXXXXX");
    assert_non_null(mkdtemp(folder));
}

static void log_open(struct log_fixture *fixture, struct sql_conformance *conformance,
                     struct conf_world *world)
{
    char url[128];
    if (folder[0] == '\0') {
        folder_make();
    }
    (void)snprintf(url, sizeof(url), "sqlite://%s/x.db", folder);
    log_fixture_open(fixture, url);
    assert_int_equal(fixture->opened, ERR_OK);
    *conformance = log_fixture_conformance(fixture, 5);
    log_world_open(world, conformance);
}

static void folder_remove(void)
{
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
    folder[0] = '\0';
}

static void a_full_disk_refuses_and_harms_nothing(void **state)
{
    (void)state;
    struct log_fixture fixture;
    struct sql_conformance conformance;
    struct conf_world world;
    enum err err;
    log_open(&fixture, &conformance, &world);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(log_world_put(&world, 1, 5000, &err), SQL_COMMITTED);
        atomic_store(&fault, FAULT_WRITE_FULL);
        assert_int_equal(log_world_put(&world, 1, 5000, &err), SQL_REFUSED);
        assert_int_equal(err, ERR_NO_SPACE);
        atomic_store(&fault, FAULT_NONE);
        conf_check_load(&world, fixture.log);
    }
    conf_world_fini(&world);
    log_fixture_close(&fixture);
    folder_remove();
}

enum { REFUSALS = 20 };

static void refuse_many(void)
{
    struct log_fixture fixture;
    struct sql_conformance conformance;
    struct conf_world world;
    enum err err;
    log_open(&fixture, &conformance, &world);
    for (uint32_t i = 0; i < 2; i++) {
        atomic_store(&fault, FAULT_WRITE_FULL);
        for (uint32_t j = 0; j < REFUSALS; j++) {
            assert_int_equal(log_world_put(&world, 1, 5000, &err), SQL_REFUSED);
        }
        atomic_store(&fault, FAULT_NONE);
        assert_int_equal(log_world_put(&world, 1, 5000, &err), SQL_COMMITTED);
    }
    conf_world_fini(&world);
    log_fixture_close(&fixture);
    folder_remove();
}

static void an_error_that_lasts_is_told_when_it_begins_and_when_it_ends(void **state)
{
    (void)state;
    char *said = support_capture_stderr(refuse_many);
    assert_int_equal(support_text_count(said, "sqlite error"), 2);
    assert_int_equal(support_text_count(said, "sqlite goes on"), 2);
    assert_int_equal(support_text_count(said, "errors=20"), 2);
    mem_free(said);
}

static void commit_with(enum fault what)
{
    struct log_fixture fixture;
    struct sql_conformance conformance;
    struct conf_world world;
    enum err err;
    log_open(&fixture, &conformance, &world);
    assert_int_equal(log_world_put(&world, 1, 5000, &err), SQL_COMMITTED);
    atomic_store(&fault, what);
    (void)log_world_put(&world, 1, 5000, &err);
}

static void commit_without_sync(void)
{
    commit_with(FAULT_SYNC_ERROR);
}

static void commit_without_write(void)
{
    commit_with(FAULT_WRITE_ERROR);
}

static void an_error_at_the_commit_ends_the_process(void **state)
{
    (void)state;
    folder_make(); /* Here: the process that panics removes nothing. */
    support_assert_panics(commit_without_sync);
    support_assert_panics(commit_without_write);
    folder_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_disk_refuses_and_harms_nothing),
        cmocka_unit_test(an_error_that_lasts_is_told_when_it_begins_and_when_it_ends),
        cmocka_unit_test(an_error_at_the_commit_ends_the_process),
    };
    return cmocka_run_group_tests(tests, faults_begin, NULL);
}
