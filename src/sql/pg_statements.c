/*
 * Every statement of the PostgreSQL engine. All find their rows by primary keys alone; sessions
 * switch the other plans off, because a plan made on an empty table would stay.
 */
#include "sql/postgres.h"

#include "core/mem.h"

/* Version 1 of the schema is written out: a text is a constant. */
static_assert(SQL_SCHEMA_VERSION == 1, "the fence below names the schema's version");

/* The timeline fails on a standby, and so does everything that carries the fence. */
#define TIMELINE                                                   \
    "pg_catalog.ltrim(pg_catalog.left(pg_catalog.pg_walfile_name(" \
    "pg_catalog.pg_current_wal_lsn()), 8), '0')"
const char *const pg_identity_full =
    "(SELECT system_identifier::text || '/' || " TIMELINE " FROM pg_catalog.pg_control_system())";
const char *const pg_identity_poor =
    "(SELECT 'oid-' || oid::text || '/' || " TIMELINE
    " FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())";

/* $1 era, $2 epoch, $3 identity: the row of |cluster| if all of it still holds. */
#define FENCE                                                   \
    "~cluster c WHERE c.id = 1 AND c.era = $1 AND c.epoch = $2" \
    " AND c.schema_version = 1 AND c.identity = $3 AND ^ = $3"
#define NEWEST(columns) "(SELECT " columns " FROM ~entry ORDER BY seq DESC LIMIT 1)"
#define ENTRY_COLUMNS                                                                 \
    "seq, writer, writer_counter, epoch, first_rev, last_rev, row_count, byte_count," \
    " compact_rev, auth_rev, rows_hash, chain, meta"
#define ROW_COLUMNS \
    "revision, sub, is_delete, key, value, create_rev, version, lease, prev_rev, prev_sub, sum"

/*
 * The lock on the cluster row makes appends wait for whoever locked it to be sure of the next
 * place; without it a replica that writes without a pause would win for ever. $4 expected seq,
 * $5 expected chain, $6.. the entry, $19.. the rows' columns.
 */
#define APPEND_ENTRY                                                                               \
    "WITH c AS MATERIALIZED (SELECT c.id FROM " FENCE " FOR NO KEY UPDATE),"                       \
    " e AS (INSERT INTO ~entry (" ENTRY_COLUMNS ")"                                                \
    " SELECT $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18"                          \
    " FROM c LEFT JOIN " NEWEST(                                                                   \
        "seq, chain") " n ON true"                                                                 \
                      " WHERE coalesce(n.seq, 0) = $4"                                             \
                      " AND coalesce(n.chain, decode('00000000000000000000000000000000', 'hex')) " \
                      "= $5"                                                                       \
                      " ON CONFLICT DO NOTHING RETURNING seq),"                                    \
                      " k AS (INSERT INTO ~kv (" ROW_COLUMNS ") SELECT u.* FROM e,"                \
                      " unnest($19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29) AS "         \
                      "u(" ROW_COLUMNS "))"
/* $30: the channel, NULL for silence. */
#define APPEND_NOTIFY "CASE WHEN $30 IS NOT NULL THEN pg_notify($30, e.seq::text)::text END"
#define APPEND_TYPES \
    "yltlyl"         \
    "yllllllllyyy"   \
    "LIBYYLLLLILt"
/* $31 granted, $32 their TTLs, $33 their sums, $34 deleted, $35 expired, $36 their counters. */
#define APPEND_LEASES                                                                         \
    ", lp AS (INSERT INTO ~lease (id, ttl_s, grant_seq, sum, counter)"                        \
    " SELECT p.id, p.ttl_s, e.seq, p.sum, e.seq"                                              \
    " FROM e, unnest($31, $32, $33) AS p(id, ttl_s, sum)"                                     \
    " ON CONFLICT (id) DO UPDATE SET ttl_s = excluded.ttl_s, grant_seq = excluded.grant_seq," \
    " sum = excluded.sum, counter = excluded.counter),"                                       \
    " ld AS (DELETE FROM ~lease l USING e, unnest($34) AS d(id) WHERE l.id = d.id),"          \
    " lx AS (DELETE FROM ~lease l USING e, unnest($35, $36) AS x(id, counter)"                \
    " WHERE l.id = x.id AND l.counter = x.counter RETURNING l.id)"
/* Division by zero (22012) unless each lease to expire had the counter that was seen. */
#define APPEND_EXPIRED_ALL \
    "1 / CASE WHEN (SELECT count(*) FROM lx) = cardinality($35) THEN 1 ELSE 0 END"

/* One row: kind, nine integers, four byte strings, two texts. The eighth integer tells one run of
 * the server from the next. */
#define HEAD                                                                         \
    "SELECT 0::int8 AS kind, n.seq AS a, n.last_rev AS b, n.compact_rev AS c,"       \
    " c.deleted_below AS d, c.schema_version AS e, c.epoch AS f, c.cluster_id AS g," \
    " (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8 AS h,"        \
    " NULL::int8 AS i, n.chain AS w, c.era AS x, NULL::bytea AS y,"                  \
    " NULL::bytea AS z, c.identity AS t, ^ AS u FROM ~cluster c LEFT JOIN " NEWEST(  \
        "seq, last_rev, compact_rev, chain") " n ON true WHERE c.id = 1"
#define ENTRY_AS_COLUMNS                                                                \
    "1::int8, e.seq, e.writer_counter, e.epoch, e.first_rev, e.last_rev, e.row_count,"  \
    " e.byte_count, e.compact_rev, e.auth_rev, e.writer, e.rows_hash, e.chain, e.meta," \
    " NULL::text, NULL::text"
#define ROW_AS_COLUMNS                                                                    \
    "2::int8, k.revision, k.sub::int8, k.is_delete::int4::int8, k.create_rev, k.version," \
    " k.lease, k.prev_rev, k.prev_sub::int8, k.sum, k.key, k.value, NULL::bytea,"         \
    " NULL::bytea, NULL::text, NULL::text"

const struct pg_stmt_text pg_stmt_texts[PG_STMT_COUNT] = {
    [PG_STMT_APPEND] = {"append", APPEND_ENTRY " SELECT " APPEND_NOTIFY " FROM e", APPEND_TYPES},
    [PG_STMT_APPEND_LEASES] = {"append_leases",
                               APPEND_ENTRY APPEND_LEASES " SELECT " APPEND_NOTIFY
                                                          ", " APPEND_EXPIRED_ALL " FROM e",
                               APPEND_TYPES "LLLLLL"},
    /* More rows of an entry that this transaction has put. */
    [PG_STMT_APPEND_ROWS] = {"append_rows",
                             "INSERT INTO ~kv (" ROW_COLUMNS ") SELECT * FROM"
                             " unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                             "LIBYYLLLLIL"},
    [PG_STMT_LEASE_PUT] = {"lease_put",
                           "INSERT INTO ~lease (id, ttl_s, grant_seq, sum, counter)"
                           " VALUES ($1, $2, $3, $4, $3) ON CONFLICT (id) DO UPDATE SET"
                           " ttl_s = excluded.ttl_s, grant_seq = excluded.grant_seq,"
                           " sum = excluded.sum, counter = excluded.counter",
                           "llll"},
    [PG_STMT_LEASE_DELETE] = {"lease_delete", "DELETE FROM ~lease WHERE id = $1", "l"},
    [PG_STMT_LEASE_EXPIRE] = {"lease_expire",
                              "WITH x AS (DELETE FROM ~lease WHERE id = $1 AND counter = $2"
                              " RETURNING id) SELECT 1 / count(*) FROM x",
                              "ll"},
    [PG_STMT_HEAD] = {"head", HEAD, ""},
    [PG_STMT_TAIL] =
        {"tail",
         "WITH s AS (SELECT *, row_number() OVER w AS place, sum(byte_count) OVER w AS bytes"
         " FROM (SELECT " ENTRY_COLUMNS " FROM ~entry WHERE seq > $1 ORDER BY seq LIMIT $2) s"
         " WINDOW w AS (ORDER BY seq ROWS UNBOUNDED PRECEDING)),"
         " e AS MATERIALIZED (SELECT * FROM s WHERE place = 1 OR bytes <= $3) " HEAD
         " UNION ALL SELECT " ENTRY_AS_COLUMNS " FROM e"
         " UNION ALL SELECT " ROW_AS_COLUMNS " FROM e CROSS JOIN LATERAL (SELECT * FROM ~kv"
         " WHERE e.row_count > 0 AND revision >= e.first_rev AND revision <= e.last_rev"
         " ORDER BY revision, sub) k",
         "lll"},
    [PG_STMT_VERDICT] = {"verdict",
                         HEAD " UNION ALL SELECT 3::int8, e.seq, e.writer_counter, 0, 0, 0, 0, 0,"
                              " 0, 0, e.writer, NULL, NULL, NULL, NULL, NULL FROM ~entry e"
                              " WHERE e.seq = $1",
                         "l"},
    [PG_STMT_KEEPALIVE] =
        {"keepalive",
         "WITH c AS MATERIALIZED (SELECT c.id FROM " FENCE "),"
         " l AS MATERIALIZED (SELECT l.id FROM ~lease l WHERE l.id = ANY ($4)"
         " AND EXISTS (SELECT 1 FROM c) ORDER BY l.id FOR UPDATE OF l),"
         " u AS (UPDATE ~lease x SET counter = x.counter + 1 FROM l WHERE x.id = l.id"
         " RETURNING x.id, x.counter)"
         " SELECT 0::int8, 0::int8, 0::int8 FROM c UNION ALL SELECT 1, u.id, u.counter FROM u",
         "yltL"},
    /* $1 id, $2 name, $3 URLs, $4 version, $5 applied, $6 pin, $7 wants the duty, $8 leaves,
     * $9 milliseconds of duty, $10 asks for the size, $11 for snapshots and stuck sessions.
     *
     * Stuck: executed an append, and waits for the Sync behind it that a dead link keeps. No
     * time-out of PostgreSQL ends that, and its locks stop every other replica. */
    [PG_STMT_UPKEEP] =
        {"upkeep",
         "WITH gone AS (DELETE FROM ~member m WHERE ($8 AND m.id = $1)"
         " OR (m.id <> $1 AND m.heartbeat < now() - interval '10 minutes')),"
         " me AS (INSERT INTO ~member (id, name, client_urls, version, applied_seq, pin_rev,"
         " heartbeat) SELECT $1, $2, $3, $4, $5, $6, now() WHERE NOT $8"
         " ON CONFLICT (id) DO UPDATE SET name = excluded.name,"
         " client_urls = excluded.client_urls, version = excluded.version,"
         " applied_seq = excluded.applied_seq, pin_rev = excluded.pin_rev,"
         " heartbeat = excluded.heartbeat),"
         " taken AS (UPDATE ~duty d SET owner = CASE WHEN $8 THEN 0 ELSE $1 END,"
         " term = d.term + CASE WHEN $8 OR d.owner = $1 THEN 0 ELSE 1 END,"
         " expires = now() + CASE WHEN $8 THEN 0 ELSE $9 END * interval '1 millisecond'"
         " WHERE d.id = 1 AND CASE WHEN $8 THEN d.owner = $1"
         " ELSE $7 AND (d.owner IN (0, $1) OR d.expires <= now()) END"
         " RETURNING d.owner, d.term)"
         " SELECT 0::int8, owner, term, 0::int8, 0::int8, NULL::bytea, NULL::bytea, NULL::bytea,"
         " NULL::text, 0::int8 FROM taken"
         " UNION ALL SELECT 0, CASE WHEN d.expires <= now() THEN 0 ELSE d.owner END, d.term,"
         " 0, 0, NULL, NULL, NULL, NULL, 0 FROM ~duty d"
         " WHERE d.id = 1 AND NOT EXISTS (SELECT 1 FROM taken)"
         " UNION ALL (SELECT 1, m.id, m.applied_seq, m.pin_rev,"
         " (extract(epoch FROM now() - m.heartbeat) * 1000)::int8, m.name, m.client_urls,"
         " m.version, NULL, 0 FROM ~member m"
         " WHERE m.id <> $1 AND m.heartbeat > now() - interval '10 seconds' ORDER BY m.id)"
         " UNION ALL (SELECT 2, l.id, l.ttl_s, l.grant_seq, l.counter, NULL, NULL, NULL, NULL,"
         " l.sum FROM ~lease l ORDER BY l.id)"
         " UNION ALL SELECT 3, pg_database_size(current_database()), 0, 0, 0, NULL, NULL, NULL,"
         " NULL, 0 WHERE $10"
         " UNION ALL (SELECT 4, (extract(epoch FROM now() - s.since) * 1000)::int8, 0, 0, 0,"
         " NULL, NULL, NULL, s.xmin, 0 FROM"
         " (SELECT a.backend_xmin AS x, a.backend_xmin::text AS xmin, a.xact_start AS since"
         " FROM pg_stat_activity a WHERE $11 AND a.backend_xmin IS NOT NULL"
         " AND a.pid <> pg_backend_pid()"
         " UNION ALL SELECT r.xmin, r.xmin::text, NULL FROM pg_replication_slots r"
         " WHERE $11 AND r.xmin IS NOT NULL) s ORDER BY age(s.x) DESC LIMIT 1)"
         " UNION ALL SELECT 5, count(pg_terminate_backend(a.pid)), 0, 0, 0, NULL, NULL, NULL, "
         "NULL, 0"
         " FROM pg_stat_activity a WHERE $11 AND a.datname = current_database()"
         " AND a.usename = current_user AND a.application_name = 'drover' AND a.state = 'active'"
         " AND a.wait_event = 'ClientRead' AND a.xact_start < now() - interval '2 seconds'",
         "lyyyllbblbb"},
    /* $4 compact revision, $5 from, $6 to, $7 entries below, $8 how many of them at most,
     * $9 rows at most, 0: all. */
    [PG_STMT_PURGE] =
        {"purge",
         "WITH c AS MATERIALIZED (SELECT c.id FROM " FENCE " AND coalesce(" NEWEST(
             "compact_rev") ", 0) >= $4),"
                            " dead AS MATERIALIZED (SELECT d.revision, d.sub FROM (SELECT 0 AS"
                            " kind, k.revision AS by_rev, k.sub AS by_sub, x.revision, x.sub"
                            " FROM c, ~kv k JOIN ~kv x ON x.revision = k.prev_rev"
                            " AND x.sub = k.prev_sub"
                            " WHERE $5 < $6 AND k.revision >= $5 AND k.revision <= $6"
                            " AND k.prev_rev > 0 AND k.prev_rev < $6"
                            " AND NOT (x.is_delete AND x.revision >= $5)"
                            " UNION ALL SELECT 1, k.revision, k.sub, k.revision, k.sub FROM c, ~kv"
                            " k WHERE k.revision >= $5 AND k.revision < $6 AND k.is_delete) d"
                            " ORDER BY d.kind, d.by_rev, d.by_sub LIMIT nullif($9, 0)),"
                            " gone AS (DELETE FROM ~kv k USING dead WHERE k.revision = "
                            "dead.revision"
                            " AND k.sub = dead.sub RETURNING 1),"
                            " mark AS (UPDATE ~cluster x SET deleted_below = $6 FROM c"
                            " WHERE x.id = c.id AND $5 < $6 AND x.deleted_below < $6),"
                            " old AS (DELETE FROM ~entry x USING (SELECT o.seq FROM c, ~entry o "
                            "WHERE o.seq < $7"
                            " AND o.seq < " NEWEST(
                                "seq") " ORDER BY o.seq LIMIT $8) o WHERE x.seq = o.seq)"
                                       " SELECT count(*), (SELECT count(*) FROM dead) FROM c",
         "yltllllll"},
    [PG_STMT_LOAD_LEASES] = {"load_leases",
                             "SELECT id, ttl_s, grant_seq, sum, counter FROM ~lease ORDER BY id",
                             ""},
    [PG_STMT_LOAD_ROWS] = {"load_rows",
                           "SELECT " ROW_AS_COLUMNS " FROM ~kv k ORDER BY k.revision, k.sub", ""},
    [PG_STMT_LOAD_ENTRIES] = {"load_entries",
                              "SELECT " ENTRY_AS_COLUMNS " FROM ~entry e ORDER BY e.seq", ""},
};

int pg_stmt_types(enum pg_stmt stmt, Oid types[PG_PARAMS_MAX])
{
    static const struct {
        char letter;
        Oid oid;
    } letters[] = {{'l', 20},   {'b', 16},   {'y', 17},   {'t', 25},
                   {'L', 1016}, {'I', 1007}, {'B', 1000}, {'Y', 1001}};
    const char *text = pg_stmt_texts[stmt].types;
    int count = 0;
    for (; text[count] != '\0'; count++) {
        ASSERT(count < PG_PARAMS_MAX);
        types[count] = 0;
        for (uint32_t i = 0; i < ARRAY_COUNT(letters); i++) {
            types[count] = letters[i].letter == text[count] ? letters[i].oid : types[count];
        }
        ASSERT(types[count] != 0);
    }
    return count;
}

char *pg_expand(const char *text, const char *prefix, const char *identity)
{
    struct buf buf = {0};
    for (const char *at = text; *at != '\0'; at++) {
        if (*at == '~') {
            buf_add(&buf, prefix, strlen(prefix));
        } else if (*at == '^') {
            buf_add(&buf, identity, strlen(identity));
        } else {
            buf_add_byte(&buf, (uint8_t)*at);
        }
    }
    buf_add_byte(&buf, '\0');
    return (char *)buf.data;
}
