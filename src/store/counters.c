/* What /metrics tells of the store: counted where it happens, gauges when facts are published. */
#include "core/metrics.h"
#include "store/internal.h"

void store_count_applied(const struct sql_entry *entry, bool own)
{
    ASSERT(entry != NULL);
    ASSERT(IMPLIES(entry->row_count > 0, entry->rows != NULL));
    int64_t deletes = 0;
    int64_t put_bytes = 0;
    for (uint32_t i = 0; i < entry->row_count; i++) {
        const struct sql_row *row = &entry->rows[i];
        deletes += row->is_delete;
        put_bytes += row->is_delete ? 0 : (int64_t)(row->key.size + row->value.size);
    }
    metric_add(METRIC_etcd_mvcc_put_total, (int64_t)entry->row_count - deletes);
    metric_add(METRIC_etcd_mvcc_delete_total, deletes);
    metric_add(METRIC_etcd_debugging_mvcc_total_put_size_in_bytes, put_bytes);
    for (uint32_t i = 0; i < entry->effect_count; i++) {
        enum sql_effect_kind kind = entry->effects[i].kind;
        metric_add(METRIC_etcd_debugging_lease_granted_total, kind == SQL_LEASE_PUT);
        metric_add(METRIC_etcd_debugging_lease_revoked_total,
                   kind == SQL_LEASE_DELETE || kind == SQL_LEASE_EXPIRE);
        metric_add(METRIC_etcd_debugging_server_lease_expired_total, kind == SQL_LEASE_EXPIRE);
    }
    if (!own) {
        metric_add(METRIC_drover_tail_entries_total, 1);
        return;
    }
    metric_add(METRIC_drover_sql_commits_total, 1);
    metric_add(METRIC_drover_sql_commit_rows_total, entry->row_count);
    metric_add(METRIC_drover_sql_commit_bytes_total, (int64_t)entry->byte_count);
}

void store_count_append(const struct store *store, const struct sql_append *append)
{
    ASSERT(append != NULL);
    ASSERT(append->entry != NULL);
    uint64_t took_ns = clock_now_ns(store->timers->clock) - store->batch.sent_ns;
    switch (append->outcome) {
    case SQL_COMMITTED:
        metric_observe_ns(HISTOGRAM_etcd_disk_wal_fsync_duration_seconds, took_ns);
        return;
    case SQL_LOST:
        metric_add(METRIC_drover_sql_lost_total, 1);
        return;
    case SQL_MOVED:
        return;
    case SQL_REFUSED:
        metric_add(METRIC_drover_sql_refused_total, 1);
        metric_add(METRIC_etcd_server_proposals_failed_total, 1);
        return;
    case SQL_IN_DOUBT:
        metric_add(METRIC_drover_sql_doubt_total, 1);
        metric_add(METRIC_etcd_server_proposals_failed_total, 1);
        return;
    }
}

void store_count_probe(const struct store *store, enum err err)
{
    ASSERT(store->reads.arrivals >= store->reads.answered);
    uint64_t took_ns = clock_now_ns(store->timers->clock) - store->reads.sent_ns;
    metric_add(METRIC_drover_read_index_total, 1);
    metric_add(METRIC_etcd_server_read_indexes_failed_total, err != ERR_OK);
    metric_observe_ns(HISTOGRAM_drover_read_index_duration_seconds, took_ns);
}

static void count_cache(const struct store *store)
{
    const struct cache_info *info = cache_snapshot_info(cache_snapshot(store->cache));
    struct cache_memory memory;
    cache_memory(store->cache, &memory);
    ASSERT(memory.value_bytes <= INT64_MAX);
    ASSERT(info->logical_bytes <= INT64_MAX);
    metric_set(METRIC_etcd_debugging_mvcc_keys_total, (int64_t)info->live_keys);
    metric_set(METRIC_etcd_debugging_mvcc_current_revision, info->revision);
    metric_set(METRIC_etcd_debugging_mvcc_compact_revision, info->compact_rev);
    metric_set(METRIC_etcd_mvcc_db_total_size_in_use_in_bytes, (int64_t)info->logical_bytes);
    metric_set(METRIC_drover_cache_bytes, (int64_t)(memory.node_bytes + memory.version_bytes +
                                                    memory.value_bytes + memory.event_bytes));
}

void store_count_facts(const struct store *store, const struct store_facts *facts)
{
    ASSERT(facts != NULL);
    bool leads = facts->leader == facts->member_id;
    metric_set(METRIC_etcd_server_has_leader, facts->ready && !facts->away);
    metric_set(METRIC_etcd_server_is_leader, leads);
    metric_set(METRIC_etcd_server_leader_changes_seen_total, (int64_t)store->upkeep.duty_term);
    metric_set(METRIC_etcd_server_proposals_applied_total, (int64_t)store->seq);
    metric_set(METRIC_etcd_server_proposals_committed_total,
               (int64_t)(store->seq + facts->lag_entries));
    metric_set(METRIC_etcd_server_proposals_pending,
               (int64_t)store->queue.count + store->batch.members.count);
    metric_set(METRIC_etcd_server_quota_backend_bytes, LIMIT_QUOTA_BYTES);
    metric_set(METRIC_etcd_mvcc_db_total_size_in_bytes, facts->database_bytes);
    metric_set(METRIC_drover_tail_lag_entries, (int64_t)facts->lag_entries);
    metric_set(METRIC_drover_breaker_open, facts->away);
    count_cache(store);
}
