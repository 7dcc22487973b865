/* Table definitions: only ever added to, with a new SQL_SCHEMA_VERSION. */
#include "sql/schema.h"

#include <string.h>

#include "core/buf.h"
#include "core/mem.h"

/* Rows that are updated in place leave room for it, and are vacuumed by count, not by share. */
#define POSTGRES_HOT_ROWS                                         \
    " WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0," \
    " autovacuum_vacuum_threshold = 500, autovacuum_analyze_threshold = 10000)"

const struct sql_table sql_tables[SQL_TABLE_COUNT] = {
    {"cluster", "min_reader",
     "CREATE TABLE ~cluster (id INTEGER PRIMARY KEY CHECK (id = 1), cluster_id INTEGER NOT NULL,"
     " schema_version INTEGER NOT NULL, min_reader INTEGER NOT NULL, era BLOB NOT NULL,"
     " epoch INTEGER NOT NULL, identity TEXT NOT NULL, deleted_below INTEGER NOT NULL)",
     "CREATE TABLE ~cluster (id smallint PRIMARY KEY CHECK (id = 1), cluster_id bigint NOT NULL,"
     " schema_version bigint NOT NULL, min_reader bigint NOT NULL, era bytea NOT NULL,"
     " epoch bigint NOT NULL, identity text NOT NULL, deleted_below bigint NOT NULL)"},
    {"entry", "rows_hash",
     "CREATE TABLE ~entry (seq INTEGER PRIMARY KEY, writer BLOB NOT NULL,"
     " writer_counter INTEGER NOT NULL, epoch INTEGER NOT NULL, first_rev INTEGER NOT NULL,"
     " last_rev INTEGER NOT NULL, row_count INTEGER NOT NULL, byte_count INTEGER NOT NULL,"
     " compact_rev INTEGER NOT NULL, auth_rev INTEGER NOT NULL, rows_hash BLOB NOT NULL,"
     " chain BLOB NOT NULL, meta BLOB NOT NULL, created INTEGER NOT NULL DEFAULT (unixepoch()))",
     "CREATE TABLE ~entry (seq bigint PRIMARY KEY, writer bytea NOT NULL,"
     " writer_counter bigint NOT NULL, epoch bigint NOT NULL, first_rev bigint NOT NULL,"
     " last_rev bigint NOT NULL, row_count bigint NOT NULL, byte_count bigint NOT NULL,"
     " compact_rev bigint NOT NULL, auth_rev bigint NOT NULL, rows_hash bytea NOT NULL,"
     " chain bytea NOT NULL, meta bytea NOT NULL, created timestamptz NOT NULL DEFAULT now())"},
    {"kv", "prev_sub",
     "CREATE TABLE ~kv (revision INTEGER NOT NULL, sub INTEGER NOT NULL,"
     " is_delete INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL,"
     " create_rev INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER NOT NULL,"
     " prev_rev INTEGER NOT NULL, prev_sub INTEGER NOT NULL, sum INTEGER NOT NULL,"
     " PRIMARY KEY (revision, sub)) WITHOUT ROWID",
     "CREATE TABLE ~kv (revision bigint NOT NULL, sub integer NOT NULL,"
     " is_delete boolean NOT NULL, key bytea NOT NULL, value bytea NOT NULL,"
     " create_rev bigint NOT NULL, version bigint NOT NULL, lease bigint NOT NULL,"
     " prev_rev bigint NOT NULL, prev_sub integer NOT NULL, sum bigint NOT NULL,"
     " PRIMARY KEY (revision, sub));"
     " ALTER TABLE ~kv ALTER COLUMN value SET STORAGE EXTERNAL"},
    {"lease", "sum",
     "CREATE TABLE ~lease (id INTEGER PRIMARY KEY, ttl_s INTEGER NOT NULL,"
     " grant_seq INTEGER NOT NULL, sum INTEGER NOT NULL, counter INTEGER NOT NULL)",
     "CREATE TABLE ~lease (id bigint PRIMARY KEY, ttl_s bigint NOT NULL,"
     " grant_seq bigint NOT NULL, sum bigint NOT NULL, counter bigint NOT NULL)" POSTGRES_HOT_ROWS},
    {"member", "pin_rev",
     "CREATE TABLE ~member (id INTEGER PRIMARY KEY, name BLOB NOT NULL, client_urls BLOB NOT NULL,"
     " version BLOB NOT NULL, applied_seq INTEGER NOT NULL, pin_rev INTEGER NOT NULL,"
     " heartbeat INTEGER NOT NULL)",
     "CREATE TABLE ~member (id bigint PRIMARY KEY, name bytea NOT NULL,"
     " client_urls bytea NOT NULL, version bytea NOT NULL, applied_seq bigint NOT NULL,"
     " pin_rev bigint NOT NULL, heartbeat timestamptz NOT NULL)" POSTGRES_HOT_ROWS},
    {"duty", "term",
     "CREATE TABLE ~duty (id INTEGER PRIMARY KEY CHECK (id = 1), owner INTEGER NOT NULL,"
     " term INTEGER NOT NULL, expires INTEGER NOT NULL)",
     "CREATE TABLE ~duty (id smallint PRIMARY KEY CHECK (id = 1), owner bigint NOT NULL,"
     " term bigint NOT NULL, expires timestamptz NOT NULL)" POSTGRES_HOT_ROWS},
};

char *sql_expand(const char *text, const char *prefix)
{
    ASSERT(text != NULL && prefix != NULL);
    struct buf buf = {0};
    for (const char *at = text; *at != '\0'; at++) {
        if (*at == '~') {
            buf_add(&buf, prefix, strlen(prefix));
        } else {
            buf_add_byte(&buf, (uint8_t)*at);
        }
    }
    buf_add_byte(&buf, '\0');
    return (char *)buf.data; /* From core/mem, as all buffers. */
}

bool sql_prefix_is_valid(const char *prefix)
{
    size_t size = strlen(prefix);
    if (size > SQL_PREFIX_SIZE_MAX) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        char c = prefix[i];
        bool is_word = (c >= 'a' && c <= 'z') || c == '_' || (i > 0 && c >= '0' && c <= '9');
        if (!is_word) {
            return false;
        }
    }
    return true;
}
