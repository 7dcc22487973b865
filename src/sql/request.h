/* What both engines share of requests: their kinds, their failure, their completion. */
#ifndef SQL_REQUEST_H
#define SQL_REQUEST_H

#include "sql/sql.h"

/* At most one request of each kind is in flight. */
enum sql_kind {
    SQL_KIND_APPEND,
    SQL_KIND_LOCK,
    SQL_KIND_PROBE,
    SQL_KIND_TAIL,
    SQL_KIND_VERDICT,
    SQL_KIND_KEEPALIVE,
    SQL_KIND_UPKEEP,
    SQL_KIND_PURGE,
    SQL_KIND_LOAD,
    SQL_KIND_COUNT
};

/* "append": for logs. */
const char *sql_kind_name(enum sql_kind kind);
/* Note |err| in |request|, which is a struct sql_<kind>. An append becomes REFUSED. */
void sql_request_fail(enum sql_kind kind, void *request, enum err err);
/* Call its |done|: the last thing that touches it. */
void sql_request_done(enum sql_kind kind, void *request);

/* What a head is on an empty log: seq 0, revision 1, a chain of zeroes. */
enum { SQL_FIRST_REV = 1 };

/* The engines' constructors, used by sql_log_new alone. Contract as there. */
MUST_CHECK enum err sql_sqlite_new(const struct sql_config *config, struct sql_log **log, char *why,
                                   size_t why_size);
MUST_CHECK enum err sql_postgres_new(const struct sql_config *config, struct sql_log **log,
                                     char *why, size_t why_size);

#endif
