/*
 * What a new session passes before it is used:
 *
 *   settings and facts   one string of statements; a standby or a read-only session is left
 *   schema               the first time only, on the append connection
 *   fence                the cluster row locked and committed: with synchronous replication, what
 *                        is read afterwards is replicated
 *   listen               on its own connection
 */
#include "sql/postgres.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "core/log.h"
#include "core/mem.h"
#include "sql/schema.h"

/* Of our own choosing; two drovers on different prefixes may wait for each other once. */
#define SCHEMA_LOCK "7236851938475640"

enum { SERVER_VERSION_MIN = 120000 };

static void setup_on_facts(struct pg_conn *conn, const struct pg_reply *reply);
static void setup_schema(struct pg_conn *conn);
static void setup_fence(struct pg_conn *conn);

/* Bounded waits, plans by primary key, and nothing that weakens a commit. */
static void setup_settings(const struct pg_log *log, struct buf *text, bool is_local)
{
    const char *scope = is_local ? "true" : "false";
    const struct {
        const char *name;
        const char *value;
    } settings[] = {
        {"idle_in_transaction_session_timeout", "1000"},
        {"enable_seqscan", "off"},
        {"enable_bitmapscan", "off"},
        {"enable_hashjoin", "off"},
        {"enable_mergejoin", "off"},
        {"jit", "off"},
        {"max_parallel_workers_per_gather", "0"},
        {"plan_cache_mode", "force_generic_plan"},
        {"client_min_messages", "warning"},
        /* A dead link's session ends on the server's side, too: it may hold an append's locks.
         * Between a session and a pooler there is none. */
        {"tcp_keepalives_idle", "5"},
        {"tcp_keepalives_interval", "2"},
        {"tcp_keepalives_count", "3"},
        {"tcp_user_timeout", "5000"},
    };
    uint32_t count = ARRAY_COUNT(settings) - (is_local ? 4 : 0);
    buf_printf(text,
               "SELECT set_config('synchronous_commit', CASE current_setting("
               "'synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END"
               ", %s)",
               scope);
    for (uint32_t i = 0; i < count; i++) {
        buf_printf(text, ", set_config('%s', '%s', %s)", settings[i].name, settings[i].value,
                   scope);
    }
    uint32_t lock_ms = log->statement_timeout_ms < 2000 ? log->statement_timeout_ms : 2000;
    buf_printf(text,
               ", set_config('lock_timeout', '%u', %s), set_config('statement_timeout', '%u',"
               " %s); ",
               lock_ms, scope, log->statement_timeout_ms, scope);
}

char *pg_begin_text(const struct pg_log *log, const char *behind)
{
    struct buf text = {0};
    buf_printf(&text, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; ");
    if (log->pooler) {
        setup_settings(log, &text, true);
    }
    buf_add(&text, behind, strlen(behind));
    buf_add_byte(&text, '\0');
    char *expanded = pg_expand((const char *)text.data, log->prefix, "");
    buf_fini(&text);
    return expanded;
}

/* Columns of the facts, all text. */
enum {
    FACT_RECOVERY,
    FACT_READ_ONLY,
    FACT_VERSION,
    FACT_FSYNC,
    FACT_FULL_PAGE_WRITES,
    FACT_SYNCHRONOUS_COMMIT,
    FACT_SYNCHRONOUS_STANDBYS,
    FACT_ISOLATION,
    FACT_IDENTITY,
    FACT_COUNT
};

void pg_setup_start(struct pg_conn *conn)
{
    struct pg_log *log = conn->log;
    struct buf text = {0};
    if (!log->pooler) {
        buf_printf(&text, "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL"
                          " READ COMMITTED; ");
        setup_settings(log, &text, false);
    }
    const char *identity = log->identity_is_poor ? pg_identity_poor : pg_identity_full;
    buf_printf(&text,
               "SELECT pg_is_in_recovery(), current_setting('transaction_read_only'),"
               " current_setting('server_version_num'), current_setting('fsync'),"
               " current_setting('full_page_writes'), current_setting('synchronous_commit'),"
               " current_setting('synchronous_standby_names'),"
               " current_setting('default_transaction_isolation'),"
               " CASE WHEN pg_is_in_recovery() THEN '' ELSE %s END",
               identity);
    buf_add_byte(&text, '\0');
    pg_conn_query(conn, (const char *)text.data, setup_on_facts);
    buf_fini(&text);
}

/* The server is what it is: say once what was found, loudly where it can lose writes. */
static void setup_report(struct pg_log *log, const PGresult *facts)
{
    if (log->reported) {
        return;
    }
    log->reported = true;
    LOG(LOG_INFO, "postgres open", LSTR("url", log->shown_url),
        LSTR("server_version", PQgetvalue(facts, 0, FACT_VERSION)),
        LSTR("identity", PQgetvalue(facts, 0, FACT_IDENTITY)),
        LSTR("fsync", PQgetvalue(facts, 0, FACT_FSYNC)),
        LSTR("full_page_writes", PQgetvalue(facts, 0, FACT_FULL_PAGE_WRITES)),
        LSTR("synchronous_commit", PQgetvalue(facts, 0, FACT_SYNCHRONOUS_COMMIT)),
        LSTR("synchronous_standby_names", PQgetvalue(facts, 0, FACT_SYNCHRONOUS_STANDBYS)),
        LSTR("isolation", PQgetvalue(facts, 0, FACT_ISOLATION)),
        LSTR("pooler", log->pooler ? "yes" : "no"));
    if (strcmp(PQgetvalue(facts, 0, FACT_FSYNC), "on") != 0) {
        LOG(LOG_WARN, "postgres unsafe",
            LSTR("why", "fsync is off: a crash of its machine loses acknowledged writes"));
    }
    if (strcmp(PQgetvalue(facts, 0, FACT_FULL_PAGE_WRITES), "on") != 0) {
        LOG(LOG_WARN, "postgres unsafe",
            LSTR("why", "full_page_writes is off: a crash of its machine may corrupt pages"));
    }
    if (log->identity_is_poor) {
        LOG(LOG_WARN, "postgres identity",
            LSTR("why", "the role may not call pg_control_system(): another server under the same "
                        "address is recognised by its timeline and its database's oid only"));
    }
}

/* A session on another server or timeline than the others: nothing that they say may be mixed. */
static void setup_take_identity(struct pg_conn *conn, const char *identity)
{
    struct pg_log *log = conn->log;
    if (strcmp(log->identity, identity) == 0) {
        return;
    }
    bool is_first = log->identity[0] == '\0';
    if (!is_first) {
        LOG(LOG_WARN, "postgres identity changed", LSTR("from", log->identity),
            LSTR("to", identity));
    }
    (void)snprintf(log->identity, sizeof(log->identity), "%s", identity);
    for (uint32_t role = 0; role < PG_ROLE_COUNT && !is_first; role++) {
        struct pg_conn *other = &log->conns[role];
        if (other != conn && (sm_is(&other->sm, PG_READY) || sm_is(&other->sm, PG_BUSY) ||
                              sm_is(&other->sm, PG_SETUP))) {
            pg_conn_drop(other, "another session reports another database");
        }
    }
}

static void setup_on_facts(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct pg_log *log = conn->log;
    if (!reply->ok && strcmp(reply->sqlstate, "42501") == 0 && !log->identity_is_poor) {
        log->identity_is_poor = true;
        pg_setup_start(conn);
        return;
    }
    const PGresult *facts = reply->rows;
    if (!reply->ok || facts == NULL || PQntuples(facts) != 1 || PQnfields(facts) != FACT_COUNT) {
        pg_conn_drop(conn, reply->ok ? "it does not answer like PostgreSQL" : reply->message);
        return;
    }
    if (strcmp(PQgetvalue(facts, 0, FACT_RECOVERY), "f") != 0) {
        pg_conn_drop(conn, "the server is a standby");
        return;
    }
    if (strcmp(PQgetvalue(facts, 0, FACT_READ_ONLY), "off") != 0) {
        pg_conn_drop(conn, "the session is read-only");
        return;
    }
    if (strtol(PQgetvalue(facts, 0, FACT_VERSION), NULL, 10) < SERVER_VERSION_MIN) {
        pg_log_open_fail(log, ERR_CONFIG, "the server is older than PostgreSQL 12");
        pg_conn_drop(conn, "the server is older than PostgreSQL 12");
        return;
    }
    setup_report(log, facts);
    setup_take_identity(conn, PQgetvalue(facts, 0, FACT_IDENTITY));
    const char *identity = log->identity_is_poor ? pg_identity_poor : pg_identity_full;
    for (uint32_t i = 0; i < PG_STMT_COUNT; i++) {
        if (log->texts[i] == NULL) {
            log->texts[i] = pg_expand(pg_stmt_texts[i].text, log->prefix, identity);
        }
    }
    if (log->schema_checked) {
        setup_fence(conn);
    } else {
        setup_schema(conn);
    }
}

/* ---- the fence ------------------------------------------------------------------------------ */

static void setup_on_listen(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok) {
        pg_conn_drop(conn, reply->message);
        return;
    }
    pg_conn_ready(conn);
}

static void setup_on_fence_commit(struct pg_conn *conn, const struct pg_reply *reply)
{
    struct pg_log *log = conn->log;
    if (!reply->ok || reply->warnings > 0 || reply->rows == NULL ||
        strcmp(PQcmdStatus((PGresult *)(uintptr_t)reply->rows), "COMMIT") != 0) {
        conn->down_err = ERR_NO_LEADER;
        pg_conn_drop(conn, reply->ok ? "the lock of the cluster row was not committed cleanly"
                                     : reply->message);
        return;
    }
    if (conn->role != PG_ROLE_LISTEN) {
        pg_conn_ready(conn);
        return;
    }
    char *text = pg_expand("LISTEN ~drover", log->prefix, "");
    pg_conn_query(conn, text, setup_on_listen);
    mem_free(text);
}

/* COMMIT on its own: a warning beside the lock says nothing about what was replicated. */
static void setup_on_fence(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok) {
        bool is_gone = strcmp(reply->sqlstate, "42P01") == 0;
        conn->down_err = is_gone ? ERR_HISTORY_LOST : ERR_NO_LEADER;
        pg_conn_drop(conn, reply->message);
        return;
    }
    pg_conn_query(conn, "COMMIT", setup_on_fence_commit);
}

static void setup_fence(struct pg_conn *conn)
{
    char *text = pg_begin_text(conn->log, "SELECT 1 FROM ~cluster WHERE id = 1 FOR UPDATE");
    pg_conn_query(conn, text, setup_on_fence);
    mem_free(text);
}

/* ---- the schema ----------------------------------------------------------------------------- */

static void setup_on_tables(struct pg_conn *conn, const struct pg_reply *reply);
static void setup_on_created(struct pg_conn *conn, const struct pg_reply *reply);

/* Opening fails for good: the operator must change something. */
static void setup_refuse(struct pg_conn *conn, enum err err, const char *why)
{
    pg_log_open_fail(conn->log, err, why);
    pg_conn_drop(conn, why);
}

/* For each table two columns: is it there, has it our column. */
static void setup_add_tables_query(struct buf *text)
{
    buf_printf(text, "SELECT ");
    for (uint32_t i = 0; i < SQL_TABLE_COUNT; i++) {
        buf_printf(text,
                   "%s(to_regclass('~%s') IS NOT NULL)::int, (EXISTS (SELECT 1 FROM pg_attribute"
                   " WHERE attrelid = to_regclass('~%s') AND attname = '%s' AND NOT attisdropped))"
                   "::int",
                   i == 0 ? "" : ", ", sql_tables[i].name, sql_tables[i].name,
                   sql_tables[i].marker);
    }
}

/* Look without a lock first: nearly always, everything is there. */
static void setup_schema(struct pg_conn *conn)
{
    struct buf query = {0};
    setup_add_tables_query(&query);
    buf_add_byte(&query, '\0');
    char *text = pg_expand((const char *)query.data, conn->log->prefix, "");
    buf_fini(&query);
    conn->step = 0; /* Not yet under the lock. */
    pg_conn_query(conn, text, setup_on_tables);
    mem_free(text);
}

/* Look again under a lock that every starting replica takes, to create what is missing. */
static void setup_schema_locked(struct pg_conn *conn)
{
    struct buf query = {0};
    buf_printf(&query, "SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = '30s';"
                       " SELECT pg_advisory_xact_lock(" SCHEMA_LOCK "); ");
    setup_add_tables_query(&query);
    buf_add_byte(&query, '\0');
    char *text = pg_begin_text(conn->log, (const char *)query.data);
    buf_fini(&query);
    conn->step = 1;
    pg_conn_query(conn, text, setup_on_tables);
    mem_free(text);
}

static void setup_on_versions(struct pg_conn *conn, const struct pg_reply *reply)
{
    const PGresult *rows = reply->rows;
    if (!reply->ok || rows == NULL || PQntuples(rows) != 1 || PQnfields(rows) != 3) {
        bool is_denied = strcmp(reply->sqlstate, "42501") == 0;
        if (is_denied) {
            setup_refuse(conn, ERR_CONFIG, reply->message);
        } else {
            pg_conn_drop(conn, reply->ok ? "no answer about versions" : reply->message);
        }
        return;
    }
    long version = strtol(PQgetvalue(rows, 0, 0), NULL, 10);
    if (version == 0) {
        bool has_entries = strcmp(PQgetvalue(rows, 0, 1), "0") != 0;
        setup_refuse(conn, ERR_HISTORY_LOST,
                     has_entries ? "entries without a cluster row: its history is lost"
                                 : "the cluster row is missing: its history is lost");
        return;
    }
    if (version > SQL_SCHEMA_VERSION) {
        char why[128];
        (void)snprintf(why, sizeof(why), "schema version %ld is newer than %d, which I know",
                       version, SQL_SCHEMA_VERSION);
        setup_refuse(conn, ERR_SCHEMA_TOO_NEW, why);
        return;
    }
    if (strcmp(PQgetvalue(rows, 0, 2), "t") != 0) {
        setup_refuse(conn, ERR_CONFIG, "the role may not read and write drover's tables");
        return;
    }
    conn->log->schema_checked = true;
    setup_fence(conn);
}

static void setup_versions(struct pg_conn *conn)
{
    struct buf query = {0};
    buf_printf(&query, "COMMIT; SELECT coalesce((SELECT greatest(schema_version, min_reader)"
                       " FROM ~cluster WHERE id = 1), 0), (SELECT count(*) FROM"
                       " (SELECT 1 FROM ~entry LIMIT 1) e), true");
    for (uint32_t i = 0; i < SQL_TABLE_COUNT; i++) {
        static const char *const rights[] = {"SELECT", "INSERT", "UPDATE", "DELETE"};
        for (uint32_t right = 0; right < ARRAY_COUNT(rights); right++) {
            buf_printf(&query, " AND has_table_privilege('~%s', '%s')", sql_tables[i].name,
                       rights[right]);
        }
    }
    buf_add_byte(&query, '\0');
    /* The COMMIT ends the look under the lock; without one it would warn. */
    const char *start = (const char *)query.data + (conn->step == 1 ? 0 : strlen("COMMIT; "));
    char *text = pg_expand(start, conn->log->prefix, "");
    buf_fini(&query);
    pg_conn_query(conn, text, setup_on_versions);
    mem_free(text);
}

static void setup_create(struct pg_conn *conn)
{
    uint8_t random[SQL_ERA_SIZE + sizeof(uint64_t)];
    ASSERT(getrandom(random, sizeof(random), 0) == (ssize_t)sizeof(random));
    uint64_t cluster_id;
    memcpy(&cluster_id, random + SQL_ERA_SIZE, sizeof(cluster_id));
    cluster_id = (cluster_id >> 1) | 1; /* Positive and never 0, as etcd's clients print it. */
    struct buf query = {0};
    for (uint32_t i = 0; i < SQL_TABLE_COUNT; i++) {
        buf_printf(&query, "%s; ", sql_tables[i].postgres);
    }
    buf_printf(&query,
               "INSERT INTO ~cluster (id, cluster_id, schema_version, min_reader, era, epoch,"
               " identity, deleted_below) VALUES (1, %lld, %d, %d, '\\x",
               (long long)cluster_id, SQL_SCHEMA_VERSION, SQL_SCHEMA_VERSION);
    for (uint32_t i = 0; i < SQL_ERA_SIZE; i++) {
        buf_printf(&query, "%02x", random[i]);
    }
    buf_printf(&query,
               "', 1, '%s', 0);"
               " INSERT INTO ~duty (id, owner, term, expires) VALUES (1, 0, 0, now());"
               " COMMIT",
               conn->log->identity);
    buf_add_byte(&query, '\0');
    char *text = pg_expand((const char *)query.data, conn->log->prefix, "");
    buf_fini(&query);
    pg_conn_query(conn, text, setup_on_created);
    mem_free(text);
}

static void setup_on_created(struct pg_conn *conn, const struct pg_reply *reply)
{
    if (!reply->ok) {
        char why[300];
        (void)snprintf(why, sizeof(why), "cannot create the tables: %s", reply->message);
        if (strncmp(reply->sqlstate, "42", 2) == 0) { /* Not allowed, or no such schema. */
            setup_refuse(conn, ERR_CONFIG, why);
        } else {
            pg_conn_drop(conn, why);
        }
        return;
    }
    LOG(LOG_INFO, "postgres schema created", LINT("version", SQL_SCHEMA_VERSION));
    conn->log->schema_checked = true;
    setup_fence(conn);
}

static void setup_on_tables(struct pg_conn *conn, const struct pg_reply *reply)
{
    const PGresult *rows = reply->rows;
    if (!reply->ok || rows == NULL || PQntuples(rows) != 1 ||
        PQnfields(rows) != 2 * SQL_TABLE_COUNT) {
        pg_conn_drop(conn, reply->ok ? "no answer about tables" : reply->message);
        return;
    }
    uint32_t found = 0;
    for (int i = 0; i < SQL_TABLE_COUNT; i++) {
        bool is_there = strcmp(PQgetvalue(rows, 0, 2 * i), "1") == 0;
        bool is_ours = strcmp(PQgetvalue(rows, 0, 2 * i + 1), "1") == 0;
        if (is_there && !is_ours && conn->step == 1) {
            char why[128];
            (void)snprintf(why, sizeof(why), "the table %s%s in the database is not drover's",
                           conn->log->prefix, sql_tables[i].name);
            setup_refuse(conn, ERR_CONFIG, why);
            return;
        }
        found += is_there && is_ours ? 1 : 0;
    }
    /* One statement is not one state of the catalog: half of a creation is not believed. */
    if (found == SQL_TABLE_COUNT) {
        setup_versions(conn);
    } else if (conn->step == 0) {
        setup_schema_locked(conn);
    } else if (found > 0) {
        setup_refuse(conn, ERR_HISTORY_LOST, "some of drover's tables are missing");
    } else {
        setup_create(conn);
    }
}
