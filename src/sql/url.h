/* The --datastore URL: which engine, where, and how to show it. Private to src/sql. */
#ifndef SQL_URL_H
#define SQL_URL_H

#include "core/err.h"

enum sql_engine { SQL_ENGINE_SQLITE, SQL_ENGINE_POSTGRES };
enum { SQL_URL_SIZE_MAX = 4096 };

struct sql_url {
    enum sql_engine engine;
    char path[SQL_URL_SIZE_MAX]; /* SQLite: the file, percent-decoded. */
};

/* ERR_CONFIG with one clear line, never a password, in |why|. |url| keeps nothing of |text|. Pure,
 * any thread. A PostgreSQL URL is only recognised here; libpq reads the rest. */
MUST_CHECK enum err sql_url_parse(const char *text, struct sql_url *url, char *why,
                                  size_t why_size);

#endif
