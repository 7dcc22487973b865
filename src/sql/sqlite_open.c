/* Opening the file: everything that can be wrong with it, said in one line. */
#include "sql/sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/log.h"
#include "core/mem.h"
#include "sql/schema.h"

enum { SQLITE_APPLICATION_ID = 0x64726f76 }; /* "drov" in the file's header. */

static enum err open_fail(struct sqlite_log *log, enum err err, const char *text)
{
    (void)snprintf(log->why, sizeof(log->why), "sqlite %s: %s", log->path, text);
    return err;
}

static enum err open_fail_errno(struct sqlite_log *log, const char *text)
{
    char line[256];
    (void)snprintf(line, sizeof(line), "%s: %s", text, strerror(errno));
    return open_fail(log, ERR_CONFIG, line);
}

static enum err open_fail_sqlite(struct sqlite_log *log, const char *text)
{
    int code = sqlite3_errcode(log->db);
    if (code == SQLITE_BUSY || code == SQLITE_LOCKED) {
        return open_fail(log, ERR_CONFIG, "the file is locked by another process");
    }
    if (code == SQLITE_NOTADB) {
        return open_fail(log, ERR_CONFIG, "the file is not a SQLite database");
    }
    char line[256];
    (void)snprintf(line, sizeof(line), "%s: %s", text, sqlite3_errmsg(log->db));
    return open_fail(log, ERR_CONFIG, line);
}

/* ---- where it lies -------------------------------------------------------------------------- */

/* File systems shared by machines: their locks and syncs do not hold what SQLite needs. */
static const struct {
    unsigned long magic;
    const char *name;
} network_types[] = {
    {0x6969, "NFS"},        {0x517b, "SMB"},       {0xff534d42, "CIFS"},  {0xfe534d42, "SMB2"},
    {0x5346414f, "AFS"},    {0x73757245, "Coda"},  {0x564c, "NCP"},       {0x00c36400, "Ceph"},
    {0x0bd00bd0, "Lustre"}, {0x61636673, "ACFS"},  {0x7461636f, "OCFS2"}, {0x47504653, "GPFS"},
    {0x6e736673, "NSFS"},   {0x19830326, "FHGFS"}, {0x013111a8, "IBRIX"},
};
enum { FUSE_MAGIC = 0x65735546 };

/* FUSE serves local and remote files alike: the mount's type tells which. */
static bool fuse_is_remote(const char *directory, char *type, size_t type_size)
{
    static const char *const remote[] = {"sshfs",   "glusterfs", "s3fs",      "rclone", "gcsfuse",
                                         "davfs",   "smbnetfs",  "ceph",      "cvmfs",  "goofys",
                                         "juicefs", "curlftpfs", "seaweedfs", "moosefs"};
    struct stat wanted;
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    if (mounts == NULL || stat(directory, &wanted) != 0) {
        if (mounts != NULL) {
            (void)fclose(mounts);
        }
        return false;
    }
    char line[4096];
    bool found = false;
    unsigned wanted_major = (unsigned)(wanted.st_dev >> 8 & 0xfff);
    unsigned wanted_minor = (unsigned)((wanted.st_dev & 0xff) | (wanted.st_dev >> 12 & 0xfff00));
    while (!found && fgets(line, sizeof(line), mounts) != NULL) {
        /* mount id, parent id, major:minor, ... - type: see proc(5), mountinfo. */
        char *at = line;
        (void)strtoul(at, &at, 10);
        (void)strtoul(at, &at, 10);
        unsigned long major = strtoul(at, &at, 10);
        unsigned long minor = *at == ':' ? strtoul(at + 1, &at, 10) : ULONG_MAX;
        const char *behind = strstr(at, " - ");
        if (behind == NULL || major != wanted_major || minor != wanted_minor) {
            continue;
        }
        (void)snprintf(type, type_size, "%.*s", (int)strcspn(behind + 3, " "), behind + 3);
        for (uint32_t i = 0; i < ARRAY_COUNT(remote); i++) {
            found = found || strstr(type, remote[i]) != NULL;
        }
    }
    (void)fclose(mounts);
    return found;
}

static enum err check_file_system(struct sqlite_log *log, const char *directory)
{
    struct statfs facts;
    if (statfs(directory, &facts) != 0) {
        return open_fail_errno(log, "cannot examine the directory");
    }
    unsigned long magic = (unsigned long)facts.f_type & 0xffffffff;
    char type[64] = "";
    for (uint32_t i = 0; i < ARRAY_COUNT(network_types); i++) {
        if (network_types[i].magic == magic) {
            (void)snprintf(type, sizeof(type), "%s", network_types[i].name);
        }
    }
    bool is_remote = type[0] != '\0';
    if (magic == FUSE_MAGIC) {
        is_remote = fuse_is_remote(directory, type, sizeof(type));
    }
    if (is_remote) {
        char line[160];
        (void)snprintf(
            line, sizeof(line),
            "the directory is on a network file system (%s), which cannot hold it safely", type);
        return open_fail(log, ERR_CONFIG, line);
    }
    return ERR_OK;
}

/* SQLite takes the log beside an empty file for a leftover, and removes it: acknowledged writes. */
static enum err check_left_over(struct sqlite_log *log)
{
    struct stat file;
    struct stat wal;
    char *name = mem_printf("%s-wal", log->path);
    bool is_empty = stat(log->path, &file) != 0 || file.st_size == 0;
    bool has_wal = stat(name, &wal) == 0 && wal.st_size > 0;
    mem_free(name);
    if (is_empty && has_wal) {
        return open_fail(
            log, ERR_HISTORY_LOST,
            "the file is missing or empty, but its -wal is there: bring the file back, "
            "or remove the -wal to begin anew");
    }
    return ERR_OK;
}

/* All levels of |directory| that are missing; errno on failure. */
static bool make_directories(char *directory)
{
    for (char *at = directory + 1; *at != '\0'; at++) {
        if (*at != '/') {
            continue;
        }
        *at = '\0';
        bool made = mkdir(directory, 0700) == 0 || errno == EEXIST;
        int cause = errno;
        struct stat facts;
        made = made || stat(directory, &facts) == 0; /* EROFS and the like: it may be there. */
        *at = '/';
        if (!made) {
            errno = cause;
            return false;
        }
    }
    return mkdir(directory, 0700) == 0 || errno == EEXIST;
}

/* Make the directory if it is missing, and the file for its owner alone. */
static enum err prepare_place(struct sqlite_log *log)
{
    char *directory = mem_strdup(log->path);
    char *slash = strrchr(directory, '/');
    if (slash == NULL) {
        (void)strcpy(directory, "."); /* A path is one byte at least. */
    } else if (slash == directory) {
        slash[1] = '\0';
    } else {
        *slash = '\0';
    }
    enum err err = ERR_OK;
    if (!make_directories(directory)) {
        err = open_fail_errno(log, "cannot create the directory");
    }
    struct stat facts;
    if (err == ERR_OK && stat(directory, &facts) == 0 && !S_ISDIR(facts.st_mode)) {
        errno = ENOTDIR;
        err = open_fail_errno(log, "cannot create the directory");
    }
    if (err == ERR_OK) {
        err = check_file_system(log, directory);
    }
    if (err == ERR_OK && access(directory, W_OK | X_OK) != 0) {
        err = open_fail_errno(log, "the directory is not writable");
    }
    mem_free(directory);
    TRY(err);
    TRY(check_left_over(log));
    int file = open(log->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) {
        return open_fail_errno(log, "cannot open the file for writing");
    }
    (void)close(file); /* Before SQLite opens it: closing later would drop its locks. */
    return ERR_OK;
}

/* ---- what is in it -------------------------------------------------------------------------- */

static bool run_text(struct sqlite_log *log, const char *text)
{
    return sqlite3_exec(log->db, text, NULL, NULL, NULL) == SQLITE_OK;
}

/* One integer of one row; |fallback| without a row. False on an error. */
static bool query_int(struct sqlite_log *log, const char *text, int64_t fallback, int64_t *value)
{
    sqlite3_stmt *stmt;
    *value = fallback;
    if (sqlite3_prepare_v2(log->db, text, -1, &stmt, NULL) != SQLITE_OK) {
        return false;
    }
    int code = sqlite3_step(stmt);
    if (code == SQLITE_ROW) {
        *value = sqlite3_column_int64(stmt, 0);
    }
    return sqlite3_finalize(stmt) == SQLITE_OK && (code == SQLITE_ROW || code == SQLITE_DONE);
}

static enum err configure(struct sqlite_log *log)
{
    /* The lock comes first: it keeps the log's index in our own memory, and everybody else out. */
    static const char *const settings[] = {
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA secure_delete = OFF",
        "PRAGMA temp_store = MEMORY",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA wal_autocheckpoint = 4000",
        "PRAGMA journal_size_limit = 67108864",
        "PRAGMA cache_size = -32768",
        "BEGIN IMMEDIATE",
        "COMMIT",
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(settings); i++) {
        if (!run_text(log, settings[i])) {
            return open_fail_sqlite(log, "cannot set it up");
        }
    }
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(log->db, "PRAGMA journal_mode", -1, &stmt, NULL) != SQLITE_OK) {
        return open_fail_sqlite(log, "cannot read its settings");
    }
    bool is_wal = sqlite3_step(stmt) == SQLITE_ROW &&
                  strcmp((const char *)sqlite3_column_text(stmt, 0), "wal") == 0;
    (void)sqlite3_finalize(stmt);
    return is_wal ? ERR_OK : open_fail(log, ERR_CONFIG, "cannot use a write-ahead log here");
}

static enum err create_tables(struct sqlite_log *log)
{
    for (uint32_t i = 0; i < SQL_TABLE_COUNT; i++) {
        char *text = sql_expand(sql_tables[i].sqlite, log->prefix);
        bool done = run_text(log, text);
        mem_free(text);
        if (!done) {
            return open_fail_sqlite(log, "cannot create the tables");
        }
    }
    uint8_t random[SQL_ERA_SIZE + sizeof(uint64_t)];
    ASSERT(getrandom(random, sizeof(random), 0) == (ssize_t)sizeof(random));
    uint64_t cluster_id;
    memcpy(&cluster_id, random + SQL_ERA_SIZE, sizeof(cluster_id));
    cluster_id = (cluster_id >> 1) | 1; /* Positive and never 0, as etcd's clients print it. */
    char *text = sql_expand("INSERT INTO ~cluster (id, cluster_id, schema_version, min_reader, era,"
                            " epoch, identity, deleted_below) VALUES (1, ?, ?, ?, ?, 1, '', 0)",
                            log->prefix);
    sqlite3_stmt *stmt = NULL;
    bool done = sqlite3_prepare_v2(log->db, text, -1, &stmt, NULL) == SQLITE_OK;
    mem_free(text);
    if (done) {
        (void)sqlite3_bind_int64(stmt, 1, (int64_t)cluster_id);
        (void)sqlite3_bind_int64(stmt, 2, SQL_SCHEMA_VERSION);
        (void)sqlite3_bind_int64(stmt, 3, SQL_SCHEMA_VERSION);
        (void)sqlite3_bind_blob(stmt, 4, random, SQL_ERA_SIZE, SQLITE_STATIC);
        done = sqlite3_step(stmt) == SQLITE_DONE;
    }
    (void)sqlite3_finalize(stmt);
    char application[64];
    (void)snprintf(application, sizeof(application), "PRAGMA application_id = %d",
                   SQLITE_APPLICATION_ID);
    return done && run_text(log, application) ? ERR_OK
                                              : open_fail_sqlite(log, "cannot create the tables");
}

/* Our tables are there: can this drover read them? */
static enum err check_versions(struct sqlite_log *log)
{
    int64_t version;
    int64_t entries;
    char *text = sql_expand("SELECT max(schema_version, min_reader) FROM ~cluster WHERE id = 1",
                            log->prefix);
    bool done = query_int(log, text, 0, &version);
    mem_free(text);
    text = sql_expand("SELECT count(*) FROM (SELECT 1 FROM ~entry LIMIT 1)", log->prefix);
    done = done && query_int(log, text, 0, &entries);
    mem_free(text);
    if (!done) {
        return open_fail_sqlite(log, "cannot read the tables");
    }
    if (version > SQL_SCHEMA_VERSION) {
        char line[128];
        (void)snprintf(line, sizeof(line), "schema version %lld is newer than %d, which I know",
                       (long long)version, SQL_SCHEMA_VERSION);
        return open_fail(log, ERR_SCHEMA_TOO_NEW, line);
    }
    if (version == 0) {
        return open_fail(log, ERR_HISTORY_LOST,
                         entries > 0 ? "entries without a cluster row: its history is lost"
                                     : "the cluster row is missing: its history is lost");
    }
    return ERR_OK;
}

/* Each table is there with its marker, or none is. */
static enum err check_tables(struct sqlite_log *log, uint32_t *found)
{
    *found = 0;
    for (uint32_t i = 0; i < SQL_TABLE_COUNT; i++) {
        char text[256];
        int64_t columns;
        int64_t markers;
        (void)snprintf(text, sizeof(text), "SELECT count(*) FROM pragma_table_info('%s%s')",
                       log->prefix, sql_tables[i].name);
        bool done = query_int(log, text, 0, &columns);
        (void)snprintf(text, sizeof(text),
                       "SELECT count(*) FROM pragma_table_info('%s%s') WHERE name = '%s'",
                       log->prefix, sql_tables[i].name, sql_tables[i].marker);
        done = done && query_int(log, text, 0, &markers);
        if (!done) {
            return open_fail_sqlite(log, "cannot read its schema");
        }
        if (columns > 0 && markers == 0) {
            (void)snprintf(text, sizeof(text), "the table %s%s in it is not drover's", log->prefix,
                           sql_tables[i].name);
            return open_fail(log, ERR_CONFIG, text);
        }
        *found += columns > 0 ? 1 : 0;
    }
    return ERR_OK;
}

static enum err check_or_create(struct sqlite_log *log)
{
    uint32_t found;
    TRY(check_tables(log, &found));
    if (found == SQL_TABLE_COUNT) {
        return check_versions(log);
    }
    if (found > 0) {
        return open_fail(log, ERR_HISTORY_LOST, "some of drover's tables are missing");
    }
    int64_t others;
    if (!query_int(log, "SELECT count(*) FROM sqlite_master", 0, &others)) {
        return open_fail_sqlite(log, "cannot read its schema");
    }
    if (others > 0 && log->prefix[0] == '\0') {
        return open_fail(log, ERR_CONFIG, "the database belongs to another program");
    }
    if (!run_text(log, "BEGIN IMMEDIATE")) {
        return open_fail_sqlite(log, "cannot write");
    }
    enum err err = create_tables(log);
    if (err == ERR_OK && !run_text(log, "COMMIT")) {
        err = open_fail_sqlite(log, "cannot write");
    }
    if (err != ERR_OK) {
        (void)run_text(log, "ROLLBACK");
    }
    return err;
}

/* Members and duty are of processes; ours is the only one, and its clock has just started. */
static enum err forget_processes(struct sqlite_log *log)
{
    char *text = sql_expand("BEGIN IMMEDIATE; DELETE FROM ~member;"
                            " UPDATE ~duty SET owner = 0, expires = 0; COMMIT",
                            log->prefix);
    bool done = run_text(log, text);
    mem_free(text);
    return done ? ERR_OK : open_fail_sqlite(log, "cannot write");
}

static enum err prepare_all(struct sqlite_log *log)
{
    for (uint32_t i = 0; i < STMT_COUNT; i++) {
        char *text = sql_expand(sqlite_texts[i], log->prefix);
        int code =
            sqlite3_prepare_v3(log->db, text, -1, SQLITE_PREPARE_PERSISTENT, &log->stmts[i], NULL);
        mem_free(text);
        if (code != SQLITE_OK) {
            return open_fail_sqlite(log, "cannot prepare");
        }
    }
    return ERR_OK;
}

/* Under the exclusive lock both stay for as long as they are open. */
static enum err note_files(struct sqlite_log *log)
{
    for (uint32_t i = 0; i < ARRAY_COUNT(log->files); i++) {
        struct stat facts;
        mem_free(log->files[i].path);
        log->files[i].path = mem_printf("%s%s", log->path, i == 0 ? "" : "-wal");
        if (stat(log->files[i].path, &facts) != 0) {
            return open_fail_errno(log, "cannot examine the file");
        }
        log->files[i].device = facts.st_dev;
        log->files[i].inode = facts.st_ino;
    }
    return ERR_OK;
}

static enum err open_all(struct sqlite_log *log)
{
    TRY(prepare_place(log));
    int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (sqlite3_open_v2(log->path, &log->db, flags, NULL) != SQLITE_OK) {
        return open_fail_sqlite(log, "cannot open");
    }
    TRY(configure(log));
    TRY(check_or_create(log));
    TRY(forget_processes(log));
    TRY(note_files(log));
    return prepare_all(log);
}

void sqlite_open(struct sqlite_log *log)
{
    ASSERT(log->db == NULL);
    log->open_err = open_all(log);
    if (log->open_err != ERR_OK) {
        sqlite_close(log);
        return;
    }
    LOG(LOG_INFO, "sqlite open", LSTR("path", log->path), LSTR("journal", "wal"),
        LSTR("synchronous", "full"), LSTR("version", sqlite3_libversion()));
}

void sqlite_close(struct sqlite_log *log)
{
    for (uint32_t i = 0; i < STMT_COUNT; i++) {
        (void)sqlite3_finalize(log->stmts[i]);
        log->stmts[i] = NULL;
    }
    if (sqlite3_close(log->db) != SQLITE_OK) {
        panic(__FILE__, __LINE__, __func__, "a SQLite statement is still open");
    }
    log->db = NULL;
}
