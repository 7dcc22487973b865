/*
 * A PostgreSQL server for tests: a private one (tests/unit/support_postgres.sh), or the one that
 * DROVER_TEST_POSTGRES names (a superuser's URL, up to and with the last '/'). Without either, the
 * tests that ask for a database skip.
 */
#ifndef SUPPORT_POSTGRES_H
#define SUPPORT_POSTGRES_H

#include "support_log.h"

/* Setup and teardown of a group of tests. */
int postgres_start(void **state);
int postgres_stop(void **state);
/* Up to and with the last '/'. */
const char *postgres_url(void);

/* Statements as the superuser in |database|; the last one's first field in |answer|. */
void postgres_sql(const char *database, const char *text);
void postgres_sql_answer(const char *database, const char *text, char *answer, size_t answer_size);

struct postgres_database {
    char name[32];
    char url[320];
};
/* A fresh one; skips the test without a server. */
void postgres_database_make(struct postgres_database *database);

/* A fresh database, a log on it that opened well, and the script's account of it. */
struct postgres_world {
    struct log_fixture fixture; /* First: the argument of pumps. */
    struct postgres_database database;
    const char *prefix;
    struct sql_conformance conformance;
    struct conf_world world;
};
void postgres_world_open(struct postgres_world *world);
/* The same with settings; their URL and loop are filled in. */
void postgres_world_open_with(struct postgres_world *world, struct sql_config config);
/* Close the log and open it again on the same database; the account goes on. */
void postgres_world_reopen(struct postgres_world *world, struct sql_config config);
void postgres_world_close(struct postgres_world *world);
/* |rows| puts of |value_size| bytes each, counted in when they won. */
enum sql_outcome postgres_world_put(struct postgres_world *world, uint32_t rows, size_t value_size);
/* Statements in its database. */
void postgres_world_sql(const struct postgres_world *world, const char *text);

#endif
