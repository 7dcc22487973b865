/* The words of support_postgres.h. */
#include "support_postgres.h"

#include "support.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "core/mem.h"
#include "sql/postgres.h"

static char server_url[256];
static char server_folder[64];
static uint32_t database_count;

int postgres_start(void **state)
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
    /* Nothing here outlives the machine: its disk may be slow, and nobody waits for it. */
    char command[512];
    (void)snprintf(command, sizeof(command),
                   "sh '%s' start '%s/pg' max_prepared_transactions=10 fsync=off",
                   DROVER_SOURCE_DIR "/tests/unit/support_postgres.sh", server_folder);
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

int postgres_stop(void **state)
{
    (void)state;
    if (server_folder[0] == '\0') {
        return 0;
    }
    char command[512];
    (void)snprintf(command, sizeof(command), "sh '%s' stop '%s/pg'; rm -rf '%s'",
                   DROVER_SOURCE_DIR "/tests/unit/support_postgres.sh", server_folder,
                   server_folder);
    return system(command);
}

const char *postgres_url(void)
{
    return server_url;
}

void postgres_sql_answer(const char *database, const char *text, char *answer, size_t answer_size)
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

void postgres_sql(const char *database, const char *text)
{
    char answer[64];
    postgres_sql_answer(database, text, answer, sizeof(answer));
}

void postgres_database_make(struct postgres_database *database)
{
    if (server_url[0] == '\0') {
        skip();
    }
    char text[64];
    (void)snprintf(database->name, sizeof(database->name), "t%d_%u", (int)getpid(),
                   database_count++);
    (void)snprintf(text, sizeof(text), "CREATE DATABASE %s", database->name);
    postgres_sql("postgres", text);
    (void)snprintf(database->url, sizeof(database->url), "%s%s", server_url, database->name);
}

/* ---- a world -------------------------------------------------------------------------------- */

static void world_alter(void *arg, enum conf_alter what, bool is_on)
{
    const struct postgres_world *world = arg;
    const char *text = conf_alter_text(what, is_on);
    size_t before = strcspn(text, "~");
    char *expanded = mem_printf("%.*s%s%s", (int)before, text, world->prefix, text + before + 1);
    postgres_world_sql(world, expanded);
    mem_free(expanded);
}

static void world_start(struct postgres_world *world, struct sql_config config)
{
    config.url = world->database.url;
    config.loop = NULL;
    world->prefix = config.tables_prefix == NULL ? "" : config.tables_prefix;
    log_fixture_start(&world->fixture, &config);
    log_fixture_wait_opened(&world->fixture);
    assert_string_equal(world->fixture.why, "");
    assert_int_equal(world->fixture.opened, ERR_OK);
    /* Its listener holds a lock for a moment: a superuser's statement must not wait for it, because
     * the loop stands still meanwhile. */
    struct pg_log *log = CONTAINER_OF(world->fixture.log, struct pg_log, log);
    while (!config.pooler && !sm_is(&log->conns[PG_ROLE_LISTEN].sm, PG_READY)) {
        log_fixture_pump(&world->fixture);
    }
    world->conformance = log_fixture_conformance(&world->fixture, 7);
    world->conformance.alter = world_alter;
}

void postgres_world_open_with(struct postgres_world *world, struct sql_config config)
{
    postgres_database_make(&world->database);
    world_start(world, config);
    log_world_open(&world->world, &world->conformance);
}

void postgres_world_reopen(struct postgres_world *world, struct sql_config config)
{
    log_fixture_close(&world->fixture);
    world_start(world, config);
}

void postgres_world_open(struct postgres_world *world)
{
    postgres_world_open_with(world, (struct sql_config){0});
}

void postgres_world_close(struct postgres_world *world)
{
    conf_world_fini(&world->world);
    log_fixture_close(&world->fixture);
}

enum sql_outcome postgres_world_put(struct postgres_world *world, uint32_t rows, size_t value_size)
{
    enum err err;
    return log_world_put(&world->world, rows, value_size, &err);
}

void postgres_world_sql(const struct postgres_world *world, const char *text)
{
    postgres_sql(world->database.name, text);
}
