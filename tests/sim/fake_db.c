/* A database in memory. Every function is one statement that runs whole at one moment. */
#include "fake_db.h"

#include <stdlib.h>

#include "core/mem.h"

enum { MEMBER_LIVE_S = 10 };

void fake_db_init(struct fake_db *db, struct sched *sched)
{
    *db = (struct fake_db){.sched = sched};
    rng_fill(&sched->rng, db->fence.era, sizeof(db->fence.era));
    db->fence.epoch = 1;
    db->schema_version = SQL_SCHEMA_VERSION;
    db->cluster_id = rng_next(&sched->rng) | 1;
    (void)snprintf(db->fence.identity, sizeof(db->fence.identity), "fake");
    (void)snprintf(db->live_identity, sizeof(db->live_identity), "fake");
}

const struct fake_entry *fake_db_entry(const struct fake_db *db, uint64_t seq)
{
    return seq == 0 || seq > db->entry_count ? NULL : &db->entries[seq - 1];
}

void fake_db_head(const struct fake_db *db, struct sql_head *head)
{
    *head = (struct sql_head){.revision = 1};
    const struct fake_entry *newest = fake_db_entry(db, db->entry_count);
    if (newest != NULL) {
        head->seq = newest->entry.seq;
        head->chain = newest->entry.chain;
        head->revision = newest->entry.last_rev;
        head->compact_rev = newest->entry.compact_rev;
    }
    head->deleted_below = db->deleted_below;
    head->schema_version = db->schema_version;
    head->fence = db->fence;
    memcpy(head->live_identity, db->live_identity, sizeof(head->live_identity));
}

static bool fence_holds(const struct fake_db *db, const struct sql_fence *fence)
{
    return memcmp(fence->era, db->fence.era, sizeof(fence->era)) == 0 &&
           fence->epoch == db->fence.epoch && strcmp(fence->identity, db->fence.identity) == 0 &&
           strcmp(fence->identity, db->live_identity) == 0 &&
           db->schema_version == SQL_SCHEMA_VERSION;
}

/* ---- leases --------------------------------------------------------------------------------- */

/* Where |id| is or would be. */
static uint32_t lease_place(const struct fake_db *db, int64_t id)
{
    uint32_t at = 0;
    while (at < db->lease_count && db->leases[at].lease.id < id) {
        at++;
    }
    return at;
}

static struct fake_lease *lease_find(struct fake_db *db, int64_t id)
{
    uint32_t at = lease_place(db, id);
    return at < db->lease_count && db->leases[at].lease.id == id ? &db->leases[at] : NULL;
}

static void lease_put(struct fake_db *db, struct sql_lease lease)
{
    uint32_t at = lease_place(db, lease.id);
    if (at == db->lease_count || db->leases[at].lease.id != lease.id) {
        if (db->lease_count == db->lease_room) {
            db->lease_room = db->lease_room == 0 ? 16 : 2 * db->lease_room;
            db->leases = mem_realloc(db->leases, db->lease_room * sizeof(*db->leases));
        }
        memmove(&db->leases[at + 1], &db->leases[at], (db->lease_count - at) * sizeof(*db->leases));
        db->lease_count++;
    }
    db->leases[at] = (struct fake_lease){lease, db->sched->now_ns};
}

static void lease_delete(struct fake_db *db, int64_t id)
{
    struct fake_lease *lease = lease_find(db, id);
    if (lease != NULL) {
        uint32_t at = (uint32_t)(lease - db->leases);
        memmove(lease, lease + 1, (db->lease_count - at - 1) * sizeof(*lease));
        db->lease_count--;
    }
}

enum err fake_db_keepalive(struct fake_db *db, const struct sql_fence *fence,
                           struct sql_keepalive_item *items, uint32_t count)
{
    if (!fence_holds(db, fence)) {
        return ERR_LEADER_CHANGED;
    }
    for (uint32_t i = 0; i < count; i++) {
        ASSERT(i == 0 || items[i - 1].id < items[i].id);
        struct fake_lease *lease = lease_find(db, items[i].id);
        items[i].found = lease != NULL;
        if (lease != NULL) {
            items[i].counter = ++lease->lease.counter;
            lease->renewed_ns = db->sched->now_ns;
        }
    }
    return ERR_OK;
}

/* ---- entries -------------------------------------------------------------------------------- */

static struct slice keep(struct slice slice)
{
    return slice_of(mem_copy(slice.data, slice.size), slice.size);
}

static bool effects_hold(struct fake_db *db, const struct sql_entry *entry)
{
    for (uint32_t i = 0; i < entry->effect_count; i++) {
        const struct sql_effect *effect = &entry->effects[i];
        if (effect->kind == SQL_LEASE_EXPIRE) {
            const struct fake_lease *lease = lease_find(db, effect->id);
            if (lease == NULL || lease->lease.counter != effect->counter) {
                return false;
            }
        }
    }
    return true;
}

static void effects_run(struct fake_db *db, const struct sql_entry *entry)
{
    for (uint32_t i = 0; i < entry->effect_count; i++) {
        const struct sql_effect *effect = &entry->effects[i];
        switch (effect->kind) {
        case SQL_LEASE_PUT:
            lease_put(db, sql_lease_granted(effect, entry->seq));
            break;
        case SQL_LEASE_EXPIRE:
            if (db->on_expire != NULL) {
                db->on_expire(db->arg, lease_find(db, effect->id));
            }
            lease_delete(db, effect->id);
            break;
        case SQL_LEASE_DELETE:
            lease_delete(db, effect->id);
            break;
        case SQL_COMPACT:
            break;
        }
    }
}

static void entry_keep(struct fake_db *db, const struct sql_entry *entry)
{
    if (db->entry_count == db->entry_room) {
        db->entry_room = db->entry_room == 0 ? 64 : 2 * db->entry_room;
        db->entries = mem_realloc(db->entries, db->entry_room * sizeof(*db->entries));
    }
    struct fake_entry *kept = &db->entries[db->entry_count++];
    *kept = (struct fake_entry){.entry = *entry, .at_ns = db->sched->now_ns};
    kept->entry.rows = NULL;
    kept->entry.effects = mem_copy(entry->effects, entry->effect_count * sizeof(*entry->effects));
    kept->rows = mem_alloc((entry->row_count + 1) * sizeof(*kept->rows));
    for (uint32_t i = 0; i < entry->row_count; i++) {
        kept->rows[i].row = entry->rows[i];
        kept->rows[i].row.key = keep(entry->rows[i].key);
        kept->rows[i].row.value = keep(entry->rows[i].value);
    }
}

enum sql_outcome fake_db_append(struct fake_db *db, const struct sql_append *append)
{
    struct sql_head head;
    fake_db_head(db, &head);
    if (!fence_holds(db, &append->fence) || head.seq != append->expected_seq ||
        !hash128_equal(&head.chain, &append->expected_chain)) {
        return SQL_LOST;
    }
    ASSERT(append->entry->seq == head.seq + 1);
    if (!effects_hold(db, append->entry)) {
        return SQL_MOVED;
    }
    entry_keep(db, append->entry);
    effects_run(db, append->entry);
    return SQL_COMMITTED;
}

/* |entry| as a reader finds it: with the rows that are still there. */
static struct sql_entry entry_read(const struct fake_entry *entry, struct arena *arena)
{
    struct sql_entry read = entry->entry;
    struct sql_row *rows = arena_alloc(arena, (entry->entry.row_count + 1) * sizeof(*rows));
    ASSERT(rows != NULL);
    read.row_count = 0;
    for (uint32_t i = 0; i < entry->entry.row_count; i++) {
        if (!entry->rows[i].purged) {
            rows[read.row_count++] = entry->rows[i].row;
        }
    }
    read.rows = rows;
    return read;
}

void fake_db_tail(const struct fake_db *db, struct sql_tail *tail, struct arena *arena)
{
    fake_db_head(db, &tail->head);
    uint64_t left = db->entry_count > tail->after_seq ? db->entry_count - tail->after_seq : 0;
    left = left < tail->entries_max ? left : tail->entries_max;
    tail->entries = arena_alloc(arena, left * sizeof(*tail->entries));
    tail->entry_count = 0;
    tail->err = ERR_OK;
    uint64_t bytes = 0;
    uint64_t seq = tail->after_seq + 1;
    ASSERT(tail->entries != NULL);
    for (; seq <= db->entry_count && tail->entry_count < tail->entries_max; seq++) {
        const struct fake_entry *entry = fake_db_entry(db, seq);
        if (entry->trimmed) {
            continue;
        }
        bytes += entry->entry.byte_count;
        if (tail->entry_count > 0 && bytes > tail->bytes_max) {
            break;
        }
        tail->entries[tail->entry_count++] = entry_read(entry, arena);
    }
}

void fake_db_verdict(const struct fake_db *db, struct sql_verdict *verdict)
{
    const struct fake_entry *entry = fake_db_entry(db, verdict->seq);
    fake_db_head(db, &verdict->head);
    verdict->found = entry != NULL && !entry->trimmed;
    if (verdict->found) {
        verdict->writer = entry->entry.writer;
    }
    verdict->err = ERR_OK;
}

void fake_db_dump(const struct fake_db *db, struct fake_dump *dump, struct arena *arena)
{
    fake_db_head(db, &dump->head);
    dump->cluster_id = db->cluster_id;
    uint64_t row_count = 0;
    for (uint64_t i = 0; i < db->entry_count; i++) {
        row_count += db->entries[i].entry.row_count;
    }
    dump->leases = arena_alloc(arena, db->lease_count * sizeof(*dump->leases));
    dump->rows = arena_alloc(arena, row_count * sizeof(*dump->rows));
    dump->entries = arena_alloc(arena, db->entry_count * sizeof(*dump->entries));
    ASSERT(dump->leases != NULL && dump->rows != NULL && dump->entries != NULL);
    for (uint32_t i = 0; i < db->lease_count; i++) {
        dump->leases[dump->lease_count++] = db->leases[i].lease;
    }
    for (uint64_t i = 0; i < db->entry_count; i++) {
        const struct fake_entry *entry = &db->entries[i];
        for (uint32_t j = 0; j < entry->entry.row_count; j++) {
            if (!entry->rows[j].purged) {
                dump->rows[dump->row_count++] = entry->rows[j].row;
            }
        }
        if (!entry->trimmed) {
            dump->entries[dump->entry_count++] = entry->entry;
        }
    }
}

/* ---- upkeep --------------------------------------------------------------------------------- */

static void member_heartbeat(struct fake_db *db, const struct sql_member *self, bool leave)
{
    uint32_t at = 0;
    while (at < db->member_count && db->members[at].member.id < self->id) {
        at++;
    }
    bool known = at < db->member_count && db->members[at].member.id == self->id;
    uint32_t behind = db->member_count - at;
    if (leave) {
        if (known) {
            memmove(&db->members[at], &db->members[at + 1], (behind - 1) * sizeof(*db->members));
            db->member_count--;
        }
        return;
    }
    if (!known) {
        ASSERT(db->member_count < LIMIT_MEMBERS);
        memmove(&db->members[at + 1], &db->members[at], behind * sizeof(*db->members));
        db->member_count++;
    }
    db->members[at] = (struct fake_member){*self, db->sched->now_ns};
}

static void duty_take(struct fake_db *db, const struct sql_upkeep *upkeep)
{
    uint64_t now_ns = db->sched->now_ns;
    uint64_t self = upkeep->self.id;
    bool is_free = db->duty_owner == 0 || db->duty_until_ns <= now_ns;
    if (upkeep->leave) {
        db->duty_owner = db->duty_owner == self ? 0 : db->duty_owner;
    } else if (upkeep->want_duty && (is_free || db->duty_owner == self)) {
        db->duty_term += db->duty_owner != self;
        db->duty_owner = self;
        db->duty_until_ns = now_ns + upkeep->duty_ms * NS_PER_MS;
    }
}

void fake_db_upkeep(struct fake_db *db, struct sql_upkeep *upkeep, struct arena *arena)
{
    uint64_t now_ns = db->sched->now_ns;
    member_heartbeat(db, &upkeep->self, upkeep->leave);
    duty_take(db, upkeep);
    upkeep->duty_owner = db->duty_until_ns > now_ns ? db->duty_owner : 0;
    upkeep->duty_term = db->duty_term;
    upkeep->members = arena_alloc(arena, db->member_count * sizeof(*upkeep->members));
    upkeep->leases = arena_alloc(arena, db->lease_count * sizeof(*upkeep->leases));
    ASSERT(upkeep->members != NULL && upkeep->leases != NULL);
    upkeep->member_count = 0;
    for (uint32_t i = 0; i < db->member_count; i++) {
        const struct fake_member *member = &db->members[i];
        if (now_ns - member->seen_ns < MEMBER_LIVE_S * NS_PER_S) {
            struct sql_member *told = &upkeep->members[upkeep->member_count++];
            *told = member->member;
            told->age_ms = (int64_t)((now_ns - member->seen_ns) / NS_PER_MS);
        }
    }
    upkeep->lease_count = db->lease_count;
    for (uint32_t i = 0; i < db->lease_count; i++) {
        upkeep->leases[i] = db->leases[i].lease;
    }
    upkeep->database_bytes = (int64_t)(db->entry_count * 1000);
    upkeep->err = ERR_OK;
}

/* ---- purge ---------------------------------------------------------------------------------- */

/* The row (|revision|, |sub|), which some entry has. */
static struct fake_row *row_find(struct fake_db *db, int64_t revision, int32_t sub)
{
    uint64_t low = 0;
    uint64_t high = db->entry_count; /* The first entry that ends at |revision| or behind it. */
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (db->entries[middle].entry.last_rev < revision) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    struct fake_entry *entry = &db->entries[low];
    for (uint32_t i = 0; i < entry->entry.row_count; i++) {
        if (entry->rows[i].row.revision == revision && entry->rows[i].row.sub == sub) {
            return &entry->rows[i];
        }
    }
    return NULL;
}

/* True when |row| dies with a purge of [from, to): replaced, or (|tombs|) a tombstone. */
static struct fake_row *row_dead(struct fake_db *db, struct fake_row *row, int64_t from_rev,
                                 int64_t to_rev, bool tombs)
{
    int64_t rev = row->row.revision;
    if (tombs) {
        return row->row.is_delete && rev >= from_rev && rev < to_rev ? row : NULL;
    }
    bool replaces =
        rev >= from_rev && rev <= to_rev && row->row.prev_rev > 0 && row->row.prev_rev < to_rev;
    return replaces ? row_find(db, row->row.prev_rev, row->row.prev_sub) : NULL;
}

static uint64_t purge_some(struct fake_db *db, int64_t from_rev, int64_t to_rev, uint64_t max)
{
    uint64_t count = 0;
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint64_t i = 0; i < db->entry_count; i++) {
            struct fake_entry *entry = &db->entries[i];
            for (uint32_t j = 0; j < entry->entry.row_count && count < max; j++) {
                struct fake_row *dead = row_dead(db, &entry->rows[j], from_rev, to_rev, pass == 1);
                if (dead != NULL && !dead->purged) {
                    dead->purged = true;
                    count++;
                }
            }
        }
    }
    db->deleted_below = to_rev > db->deleted_below ? to_rev : db->deleted_below;
    return count;
}

uint64_t fake_db_purge(struct fake_db *db, int64_t compact_rev, int64_t from_rev, int64_t to_rev)
{
    struct sql_head head;
    fake_db_head(db, &head);
    ASSERT(head.compact_rev >= compact_rev && compact_rev >= to_rev);
    return purge_some(db, from_rev, to_rev, UINT64_MAX);
}

void fake_db_trim(struct fake_db *db, uint64_t entries_below)
{
    for (uint64_t i = 0; i + 1 < db->entry_count && i + 1 < entries_below; i++) {
        db->entries[i].trimmed = true;
    }
}

enum err fake_db_purge_statement(struct fake_db *db, struct sql_purge *purge)
{
    struct sql_head head;
    fake_db_head(db, &head);
    if (!fence_holds(db, &purge->fence) || head.compact_rev < purge->compact_rev) {
        return ERR_LEADER_CHANGED;
    }
    purge->rows_deleted = 0;
    if (purge->to_rev > purge->from_rev) {
        purge->rows_deleted = purge_some(db, purge->from_rev, purge->to_rev,
                                         purge->rows_max == 0 ? UINT64_MAX : purge->rows_max);
    }
    fake_db_trim(db, purge->entries_below);
    return ERR_OK;
}
