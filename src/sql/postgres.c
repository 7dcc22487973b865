/* The PostgreSQL engine. */
#include "sql/request.h"

#include <stdio.h>

enum err sql_postgres_new(const struct sql_config *config, struct sql_log **log, char *why,
                          size_t why_size)
{
    (void)config;
    *log = NULL;
    (void)snprintf(why, why_size, "datastore: PostgreSQL is not built in yet");
    return ERR_CONFIG;
}
