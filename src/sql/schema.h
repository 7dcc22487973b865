/*
 * The tables, for both engines. In these texts and in every statement '~' stands for the prefix
 * of all table names.
 *
 *   cluster  one row: who we are, and the fence of every write. The row to lock
 *   entry    one row per commit, dense by seq; the newest is the state of the world
 *   kv       one row per changed key; no index but the primary key
 *   lease    id, ttl, when it was granted, the sum of these; and the counter
 *   member   one row per live process, with its heartbeat
 *   duty     one row: who expires leases and compacts, until when
 *
 * Unsigned 64-bit values are stored as the signed integer of the same bits. Everything here is
 * constant or pure: any thread.
 */
#ifndef SQL_SCHEMA_H
#define SQL_SCHEMA_H

#include "core/base.h"

enum { SQL_TABLE_COUNT = 6, SQL_PREFIX_SIZE_MAX = 32 };

struct sql_table {
    const char *name;   /* Without prefix. */
    const char *marker; /* A column that tells our table from others of the same name. */
    const char *sqlite; /* CREATE TABLE. */
    const char *postgres;
};
/* |cluster| first. */
extern const struct sql_table sql_tables[SQL_TABLE_COUNT];

/* |text| with each '~' replaced by |prefix|. Caller frees by mem_free. O(size of the result). */
char *sql_expand(const char *text, const char *prefix);
/* Lower-case letters, digits and '_', not too long: needs no quotes anywhere. */
bool sql_prefix_is_valid(const char *prefix);

#endif
