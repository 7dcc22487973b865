/* What each statement does to the database, at one moment: the engines' rules. */
#ifndef SIM_FAKE_DB_H
#define SIM_FAKE_DB_H

#include "fake_log.h"

/* Copies what it keeps. COMMITTED, LOST or MOVED. */
enum sql_outcome fake_db_append(struct fake_db *db, const struct sql_append *append);
/* Slices and rows live as long as the database, lists in the arena. */
void fake_db_tail(const struct fake_db *db, struct sql_tail *tail, struct arena *arena);
void fake_db_verdict(const struct fake_db *db, struct sql_verdict *verdict);
enum err fake_db_keepalive(struct fake_db *db, const struct sql_fence *fence,
                           struct sql_keepalive_item *items, uint32_t count);
void fake_db_upkeep(struct fake_db *db, struct sql_upkeep *upkeep, struct arena *arena);
enum err fake_db_purge_statement(struct fake_db *db, struct sql_purge *purge);

/* All there is, as a load sees it. */
struct fake_dump {
    struct sql_head head;
    uint64_t cluster_id;
    struct sql_lease *leases;
    struct sql_row *rows;
    struct sql_entry *entries;
    uint32_t lease_count;
    uint32_t row_count;
    uint32_t entry_count;
};
void fake_db_dump(const struct fake_db *db, struct fake_dump *dump, struct arena *arena);

#endif
