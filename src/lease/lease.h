/*
 * Lease timers by counters: pure bookkeeping, no clock of its own, no I/O.
 *
 * Every replica keeps one table. A lease's time starts anew whenever its counter was seen to move,
 * stamped with the time at which the answer that showed it was received. Time counts only while
 * counters are being read: a gap of more than |gap_ns| between two readings starts all timers
 * again.
 *
 * A table belongs to one thread, the store's. Every |now_ns| is of one monotonic clock; a reading
 * that is older than the one before counts as a gap. Nothing fails; memory grows with the leases.
 * O(log leases) unless another cost is told.
 */
#ifndef LEASE_LEASE_H
#define LEASE_LEASE_H

#include "core/base.h"

struct lease_table;

/* |gap_ns| > 0. No reading was taken yet: nothing is due. The caller owns the result. */
struct lease_table *lease_table_new(uint64_t gap_ns, uint64_t margin_ns);
/* NULL is a no-op. O(1). */
void lease_table_free(struct lease_table *table);

/* The replicated state granted |id| with entry |grant_seq|: the timer starts at |now_ns|, the
 * counter at |grant_seq|. A grant of a known id with another |grant_seq| replaces it, with the same
 * one it is known already. |ttl_s| > 0. */
void lease_table_grant(struct lease_table *table, int64_t id, int64_t ttl_s, uint64_t grant_seq,
                       uint64_t now_ns);
/* An unknown |id| is a no-op. */
void lease_table_revoke(struct lease_table *table, int64_t id);

/* One reading of all counters begins, then one counter of it after the other. |now_ns|: when the
 * answer was received. A counter is taken only for the same |grant_seq|, and only if it is above
 * the known one; of an unknown id never. The beginning is O(1), behind a gap O(leases). */
void lease_table_reading_begin(struct lease_table *table, uint64_t now_ns);
void lease_table_reading(struct lease_table *table, int64_t id, uint64_t grant_seq,
                         uint64_t counter, uint64_t now_ns);
/* Our own keep-alive was answered with |counter|: the timer starts again if that is above the
 * known one; an unknown |id| is a no-op. The counter itself is only taken from readings, because
 * the answer does not say which grant of the id it renewed. */
void lease_table_renewed(struct lease_table *table, int64_t id, uint64_t counter, uint64_t now_ns);
/* Breaker open, stalled loop, reload: start all timers again at |now_ns|. O(leases). */
void lease_table_rearm(struct lease_table *table, uint64_t now_ns);

/* Remaining seconds (rounded as etcd does), -1 if unknown, else never below 0. O(1). */
int64_t lease_table_remaining_s(const struct lease_table *table, int64_t id, uint64_t now_ns);

/* When a lease's time is over, by our clock; the margin is not in it. */
struct lease_left {
    int64_t id;
    uint64_t ends_ns;
};
/* All leases, in no order; |items| is the caller's, with room for lease_table_count. O(leases). */
void lease_table_list(const struct lease_table *table, struct lease_left *items);
/* By time, then by id. Pure, any thread. O(count log count). */
void lease_left_sort(struct lease_left *items, uint32_t count);

struct lease_due {
    int64_t id;
    uint64_t grant_seq;
    uint64_t counter; /* The last one seen: the expiry is conditional on it. */
};
enum { LEASE_DUE_MAX = 1024 };
/* Up to |max| leases (LEASE_DUE_MAX at most) whose counter has not moved for TTL + margin, the
 * longest overdue first, into |due|, which is the caller's. Returns how many. None when the last
 * reading is older than the gap. O(max log max). */
uint32_t lease_table_due(const struct lease_table *table, uint64_t now_ns, struct lease_due *due,
                         uint32_t max);
/* O(1). */
uint32_t lease_table_count(const struct lease_table *table);
/* The invariants of lease.c hold everywhere. O(leases + places of the hash). */
bool lease_table_is_sound(const struct lease_table *table);

#endif
