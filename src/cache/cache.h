/*
 * The replicated state in memory: keys with their versions, leases with their keys, the event log,
 * and published snapshots of it all.
 *
 *   store thread  the only writer: begins an edit, changes its private copy-on-write state, then
 *                 publishes it (one pointer) or drops it. Frees memory by core/reclaim.h.
 *   io threads    load the newest snapshot with one acquire load, read it for the length of a loop
 *                 turn, without locks and without atomic read-modify-writes.
 *
 * What a snapshot shows never changes while a reader may look at it.
 */
#ifndef CACHE_CACHE_H
#define CACHE_CACHE_H

#include "cache/tree.h"
#include "core/err.h"
#include "core/reclaim.h"
#include "core/slice.h"

struct cache;
struct cache_edit;

/* ---- versions ------------------------------------------------------------------------------ */

/*
 * One revision of one key. Immutable after it is published, but for |older|, which trimming cuts
 * after a grace period. Holds the encoded mvccpb.KeyValue: fields 1 key, 2 create_revision,
 * 3 mod_revision, 4 version, 5 value, 6 lease, in this order, zero fields omitted, as Go's
 * marshaller writes them; so keys_only is the prefix in front of |value| (plus the lease).
 * A tombstone is encoded as key and mod_revision only: the kv of a DELETE event.
 */
struct cache_version; /* Layout private to cache/version.h; read by the functions below. */

struct slice cache_version_key(const struct cache_version *version);
struct slice cache_version_value(const struct cache_version *version);
int64_t cache_version_mod_rev(const struct cache_version *version);
/* Place of the change within its revision, from 0: etcd's sub. */
int32_t cache_version_sub(const struct cache_version *version);
int64_t cache_version_create_rev(const struct cache_version *version); /* 0 for a tombstone. */
int64_t cache_version_version(const struct cache_version *version);    /* 0 for a tombstone. */
int64_t cache_version_lease(const struct cache_version *version);
bool cache_version_is_tombstone(const struct cache_version *version);
/* The whole encoded KeyValue. */
struct slice cache_version_encoded(const struct cache_version *version);
/* Its part in front of the value field: key, create_revision, mod_revision, version. */
struct slice cache_version_encoded_head(const struct cache_version *version);
/* The encoded lease field, may be empty. */
struct slice cache_version_encoded_lease(const struct cache_version *version);
/*
 * The next older version of the key, or NULL (none, or trimmed). What it says about history is
 * whole only above the compact revision: follow it from versions with mod_rev > compact_rev of the
 * snapshot (or of the hold) that is being read. Memory is safe in any case.
 */
const struct cache_version *cache_version_older(const struct cache_version *version);

/* ---- snapshots ----------------------------------------------------------------------------- */

/* Scalars of the replicated state. */
struct cache_info {
    uint64_t seq;        /* Newest applied entry. */
    int64_t revision;    /* Newest applied revision; 1 on a fresh store. */
    int64_t compact_rev; /* -1 before the first compaction, as in etcd. */
    uint64_t epoch;
    int64_t auth_revision;
    uint64_t live_keys;
    uint64_t lease_count;
    uint64_t logical_bytes; /* Keys and values of all retained versions: Status.db_size_in_use. A
                               compaction lowers it as trimming goes on, on each replica alone. */
    uint64_t event_end;     /* Number of events ever appended: see cache_events. */
    uint64_t event_begin;   /* First event still readable (revision >= compact_rev). */
    uint64_t event_gap;     /* Events below it are not the whole history: some never came here. A
                               reader that has not passed it has missed events. */
};

struct cache_snapshot; /* Immutable. */

/* Newest published snapshot; valid until the calling reader's turn ends (core/reclaim.h), for the
 * store thread until it calls reclaim_run after its next publish or trim. One acquire load. */
const struct cache_snapshot *cache_snapshot(const struct cache *cache);
const struct cache_info *cache_snapshot_info(const struct cache_snapshot *snapshot);

/* [key, end); |end| empty and !open: the single key |key|; |open|: everything from |key| on. */
struct cache_range {
    struct slice key;
    struct slice end;
    bool open;
};

/* etcd's reading of (key, range_end): empty end = single key; "\0" = open; else [key, end). */
struct cache_range cache_range_of(struct slice key, struct slice range_end);

/* Where a walk stands. On the caller's stack; valid as long as the snapshot. Private fields. */
struct cache_walk {
    int64_t at_rev;                     /* Of a walk through history, else 0. */
    const struct cache_version *single; /* What a walk of one key still has to give. */
    struct cache_tree_cursor cursor;
};

/*
 * Walk the live keys of |range| in key order as they were at |at_rev| (0 or negative: newest).
 * Ring hit: when a recently published root stands exactly at |at_rev|, that root is walked.
 *
 * ERR_COMPACTED   0 < at_rev < compact_rev
 * ERR_FUTURE_REV  at_rev > revision
 *
 * Reader of the snapshot. Allocates nothing. O(log keys) to start, O(1) amortised per key.
 */
MUST_CHECK enum err cache_walk_begin(struct cache_walk *walk, const struct cache_snapshot *snapshot,
                                     const struct cache_range *range, int64_t at_rev);
/*
 * The same, for a reader whose thread has held |at_rev| (reclaim_reader_hold) without a break since
 * the turn of a snapshot in which it was not compacted: never ERR_COMPACTED then. O(log keys) to
 * start, O(1) amortised per key and newer version.
 */
MUST_CHECK enum err cache_walk_begin_held(struct cache_walk *walk,
                                          const struct cache_snapshot *snapshot,
                                          const struct cache_range *range, int64_t at_rev);
/* The next live version, NULL at the end. */
const struct cache_version *cache_walk_next(struct cache_walk *walk);
/* The live version of one key at |at_rev|, or NULL: same errors by cache_walk_begin's rules. */
MUST_CHECK enum err cache_get(const struct cache_snapshot *snapshot, struct slice key,
                              int64_t at_rev, const struct cache_version **version);
/* Exact number of live keys of |range| at |at_rev|: O(log keys) at the newest revision or on a ring
 * hit, else O(keys in range). Errors as cache_walk_begin. */
MUST_CHECK enum err cache_count(const struct cache_snapshot *snapshot,
                                const struct cache_range *range, int64_t at_rev, uint64_t *count);

/* ---- events -------------------------------------------------------------------------------- */

/*
 * The event log: every version in (revision, sub) order since compaction. Events are numbered from
 * 0 for the cache's life; a cursor is a number. info.event_begin <= n < info.event_end is readable,
 * and so are older ones that are not trimmed yet: at least those above the revision of a reader's
 * hold. NULL when |number| < event_end is trimmed. O(1); reader of the snapshot.
 */
const struct cache_version *cache_event(const struct cache_snapshot *snapshot, uint64_t number);
/* Number of the first event with mod_rev >= |rev| that is not trimmed (event_end if none): below
 * event_begin only if |rev| is below compact_rev. O(log events). */
uint64_t cache_event_at(const struct cache_snapshot *snapshot, int64_t rev);
/* The version that stood at |event|'s mod_rev - 1, if etcd would give it as prev_kv: not for
 * a create, and only if mod_rev - 1 is not compacted in |snapshot|; else NULL. O(1). */
const struct cache_version *cache_event_prev(const struct cache_snapshot *snapshot,
                                             const struct cache_version *event);

/* ---- leases -------------------------------------------------------------------------------- */

struct cache_lease {
    int64_t id;
    int64_t ttl_s;      /* Granted. */
    uint64_t grant_seq; /* Entry that granted it: tells a re-granted id apart. */
    uint64_t key_count;
};
/* False if unknown. O(log leases + log attached keys). */
bool cache_lease_get(const struct cache_snapshot *snapshot, int64_t id, struct cache_lease *lease);
/* In order of id: first lease with id >= |from|; false at the end. O(log leases). */
bool cache_lease_next(const struct cache_snapshot *snapshot, int64_t from,
                      struct cache_lease *lease);
/* In order of key: first key attached to |id| that is > |after| (or the first when |after_none|).
 * |key| is borrowed from the snapshot. Also for ids that are attached but not granted. */
bool cache_lease_key_next(const struct cache_snapshot *snapshot, int64_t id, bool after_none,
                          struct slice after, struct slice *key);

/* ---- the writer ---------------------------------------------------------------------------- */

/* |reclaim| and its readers are borrowed for the cache's life; its owner calls reclaim_run once a
 * turn, never while it still uses a snapshot loaded before. Store thread from here on. */
struct cache *cache_new(struct reclaim *reclaim);
/* No reader may run any more; what is already retired goes with reclaim_fini. Drops an open edit.
 * NULL is a no-op. */
void cache_free(struct cache *cache);

/*
 * A private copy-on-write state. One edit at a time. Reads through cache_edit_view see the edit's
 * own writes: a snapshot that stays private, valid until the next change of the edit.
 */
struct cache_edit *cache_edit_begin(struct cache *cache);
const struct cache_snapshot *cache_edit_view(struct cache_edit *edit);
const struct cache_info *cache_edit_info(const struct cache_edit *edit);

/* One changed key. Slices are copied. The caller has checked what came from a database: order,
 * sub >= 0, a key that is not empty, sizes below 1 GiB; here they are asserted. */
struct cache_row {
    int64_t revision; /* >= info.revision, > 0: rows come in (revision, sub) order. */
    int32_t sub;
    bool is_delete;
    struct slice key;
    struct slice value;
    int64_t create_rev;
    int64_t version;
    int64_t lease; /* Attached to the key when > 0 or < 0; 0 detaches. Unknown leases are kept as
                      numbers only (a load may see them before their lease). */
};
/* Returns the version made, which belongs to the edit (it is freed when the edit is dropped, stays
 * when published). O(log keys) amortised, node copies once per edit. */
const struct cache_version *cache_edit_apply(struct cache_edit *edit, const struct cache_row *row);
/* Set info.revision without rows (never down). */
void cache_edit_set_revision(struct cache_edit *edit, int64_t revision);
/* Move compact_rev up (never down, never above info.revision); readable events and ring roots below
 * it leave with publish. O(log events). */
void cache_edit_set_compact_rev(struct cache_edit *edit, int64_t compact_rev);
/* Events below compact_rev are incomplete (a reload over purged rows): moves event_gap up to
 * event_begin. */
void cache_edit_set_gap(struct cache_edit *edit);
void cache_edit_set_position(struct cache_edit *edit, uint64_t seq, uint64_t epoch,
                             int64_t auth_revision);
/* An id that is there is set anew and keeps its keys. |id| is not 0. O(log leases). */
void cache_edit_grant(struct cache_edit *edit, int64_t id, int64_t ttl_s, uint64_t grant_seq);
/* The lease only; its keys are deleted by rows. Keys still attached are detached. No-op if
 * unknown. */
void cache_edit_revoke(struct cache_edit *edit, int64_t id);

/* Make it the newest snapshot. Frees |edit|. O(1) + nodes changed. */
void cache_edit_publish(struct cache_edit *edit);
/* As if it had never been. Frees |edit| and what it made. */
void cache_edit_drop(struct cache_edit *edit);

/*
 * After a compaction: cut and free versions that nobody can read any more, in slices. Waits for the
 * grace period and for readers' holds by itself. Call once a turn, behind the turn's posts of
 * answers, with reclaim_run after it; true while work remains (physical compaction waits for
 * false). Each call does at most |budget| events. May publish a snapshot with the same content.
 * An open edit does not stop it for longer than to its end; tombstones leave with its publish.
 */
bool cache_trim(struct cache *cache, uint32_t budget);
/* Revision below which trimming is complete: >= compact_rev once cache_trim returned false. */
int64_t cache_trimmed_rev(const struct cache *cache);

/* Bytes held by tree nodes, versions and event log: for metrics and benches. */
struct cache_memory {
    uint64_t node_bytes;      /* Tree nodes, separators, leases: what the newest roots reach. */
    uint64_t version_bytes;   /* Versions without their values. */
    uint64_t value_bytes;     /* Values. */
    uint64_t event_bytes;     /* Event log: pointers only. */
    uint64_t retired_objects; /* Not counted above: wait for ring roots or readers. */
};
void cache_memory(const struct cache *cache, struct cache_memory *memory);

/* Walk everything and check every invariant: O(n), tests and PARANOID builds. */
bool cache_is_sound(const struct cache *cache);

#endif
