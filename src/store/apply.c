/*
 * The only door into the cache: entries in order of seq, each exactly once, each checked.
 *
 * An entry of our own that was just committed publishes the edit that it was evaluated on. Every
 * other one is checked whole before a row of it is applied: its place (dense), its rows (count,
 * order, sums, their hash) and its chain over the previous one.
 *
 * Within an entry: leases are granted, rows are applied, leases are removed, compaction moves. An
 * entry holds at most one effect per lease (eval.c), so this order says the same as the original.
 */
#include "core/metrics.h"
#include "store/internal.h"

enum { WHY_SIZE = 160 };

void store_fatal(struct store *store, enum err err, const char *why)
{
    ASSERT(store_is_sound(store));
    ASSERT(err != ERR_OK);
    if (store->fatal) {
        return;
    }
    store->fatal = true;
    store->facts_stale = true;
    LOG(LOG_ERROR, "store stopped", LSTR("error", err_name(err)), LSTR("why", why));
    if (store->config.on_fatal != NULL) {
        store->config.on_fatal(store->config.arg, err, why);
    }
}

bool store_read_was_fatal(struct store *store, enum err err)
{
    ASSERT(store_is_sound(store));
    if ((err != ERR_CHAIN_BROKEN && err != ERR_HISTORY_LOST) || !store_is_loaded(store)) {
        return false;
    }
    store_fatal(store, err,
                err == ERR_CHAIN_BROKEN ? "the log holds an entry that cannot be read"
                                        : "the log's own tables or rows are gone");
    return true;
}

static enum apply_result entry_broken(struct store *store, const struct sql_entry *entry,
                                      const char *what)
{
    ASSERT(store_is_sound(store));
    ASSERT(entry != NULL);
    char why[WHY_SIZE];
    (void)snprintf(why, sizeof(why), "entry seq %llu: %s", (unsigned long long)entry->seq, what);
    store_fatal(store, ERR_CHAIN_BROKEN, why);
    return APPLY_FATAL;
}

/* ---- checks --------------------------------------------------------------------------------- */

bool store_head_check(struct store *store, const struct sql_head *head, uint64_t seq,
                      const struct hash128 *chain)
{
    ASSERT(store_is_sound(store));
    ASSERT(seq <= store->seq); /* Where we stand now, or stood when it was asked. */
    bool same = memcmp(head->fence.era, store->fence.era, sizeof(head->fence.era)) == 0 &&
                head->fence.epoch == store->fence.epoch &&
                strncmp(head->fence.identity, store->fence.identity, SQL_IDENTITY_SIZE) == 0 &&
                strncmp(head->live_identity, store->fence.identity, SQL_IDENTITY_SIZE) == 0;
    store_health_fence(store, !same);
    if (!same) {
        return false;
    }
    if (head->seq < seq || (head->seq == seq && !hash128_equal(&head->chain, chain))) {
        char why[WHY_SIZE];
        (void)snprintf(why, sizeof(why), "the log stands at seq %llu, behind or beside seq %llu",
                       (unsigned long long)head->seq, (unsigned long long)seq);
        store_fatal(store, ERR_HISTORY_LOST, why);
        return false;
    }
    store->seen_seq = head->seq > store->seen_seq ? head->seq : store->seen_seq;
    if (head->deleted_below > store->deleted_below) {
        store->deleted_below = head->deleted_below;
    }
    return true;
}

/* NULL, or what is wrong with the rows of |entry| that follow revision |revision|. */
static const char *rows_fault(const struct sql_entry *entry, int64_t revision)
{
    int32_t sub = -1;
    for (uint32_t i = 0; i < entry->row_count; i++) {
        const struct sql_row *row = &entry->rows[i];
        bool next_sub = sub >= 0 && row->revision == revision && row->sub == sub + 1;
        bool next_rev = row->revision == revision + 1 && row->sub == 0;
        if (!next_sub && !next_rev) {
            return "its rows are not dense";
        }
        if (row->key.size == 0 || row->sum != sql_row_sum(row)) {
            return "a row does not match its checksum";
        }
        revision = row->revision;
        sub = row->sub;
    }
    if (revision != entry->last_rev) {
        return "its rows do not end at its revision";
    }
    struct hash128 hash = sql_rows_hash(entry->rows, entry->row_count);
    return hash128_equal(&hash, &entry->rows_hash) ? NULL : "its rows do not match their hash";
}

/* NULL, or what is wrong with the effects of |entry| behind compact revision |compact_rev|. */
static const char *effects_fault(const struct sql_entry *entry, int64_t compact_rev)
{
    for (uint32_t i = 0; i < entry->effect_count; i++) {
        const struct sql_effect *effect = &entry->effects[i];
        if (effect->kind < SQL_LEASE_PUT || effect->kind > SQL_COMPACT ||
            (effect->kind != SQL_COMPACT && effect->id == 0) ||
            (effect->kind == SQL_LEASE_PUT && effect->ttl_s <= 0)) {
            return "an effect is not known";
        }
        if (effect->kind == SQL_COMPACT) {
            if (effect->id <= compact_rev || effect->id > entry->last_rev) {
                return "its compactions are out of order";
            }
            compact_rev = effect->id;
        }
    }
    return compact_rev == entry->compact_rev ? NULL : "its compact revision is another one";
}

/* NULL, or what is wrong with |entry| as the one behind |info| and |chain|. */
static const char *entry_fault(const struct sql_entry *entry, const struct cache_info *info,
                               const struct hash128 *chain)
{
    if (entry->seq != info->seq + 1) {
        return "its seq is not the next one";
    }
    struct hash128 hash = sql_entry_chain(chain, entry);
    if (!hash128_equal(&hash, &entry->chain)) {
        return "it does not match the chain";
    }
    const char *fault = rows_fault(entry, info->revision);
    if (fault == NULL) {
        fault = effects_fault(entry, info->compact_rev);
    }
    return fault;
}

/* ---- applying ------------------------------------------------------------------------------- */

static void entry_effects(struct cache_edit *edit, const struct sql_entry *entry, bool grants)
{
    ASSERT(edit != NULL);
    ASSERT(entry != NULL);
    for (uint32_t i = 0; i < entry->effect_count; i++) {
        const struct sql_effect *effect = &entry->effects[i];
        switch (effect->kind) {
        case SQL_LEASE_PUT:
            if (grants) {
                cache_edit_grant(edit, effect->id, effect->ttl_s, entry->seq);
            }
            break;
        case SQL_LEASE_DELETE:
        case SQL_LEASE_EXPIRE:
            if (!grants) {
                cache_edit_revoke(edit, effect->id);
            }
            break;
        case SQL_COMPACT:
            if (!grants) {
                cache_edit_set_compact_rev(edit, effect->id);
            }
            break;
        }
    }
}

static void entry_apply(struct cache_edit *edit, const struct sql_entry *entry)
{
    ASSERT(edit != NULL);
    ASSERT(entry != NULL);
    entry_effects(edit, entry, true);
    for (uint32_t i = 0; i < entry->row_count; i++) {
        const struct sql_row *row = &entry->rows[i];
        const struct cache_row made = store_cache_row(row);
        (void)cache_edit_apply(edit, &made);
    }
    entry_effects(edit, entry, false);
    cache_edit_set_position(edit, entry->seq, entry->epoch, entry->auth_rev);
    ASSERT(cache_edit_info(edit)->revision == entry->last_rev);
    ASSERT(cache_edit_info(edit)->compact_rev == entry->compact_rev);
}

/* |entry| is part of what was just published. */
static void entry_published(struct store *store, const struct sql_entry *entry, bool own)
{
    ASSERT(store_is_sound(store));
    ASSERT(entry != NULL);
    ASSERT(entry->seq == store->seq + 1);
    store_count_applied(entry, own);
    store->seq = entry->seq;
    store->chain = entry->chain;
    store->seen_seq = entry->seq > store->seen_seq ? entry->seq : store->seen_seq;
    for (uint32_t i = 0; i < entry->effect_count; i++) {
        if (entry->effects[i].kind == SQL_COMPACT) {
            store_upkeep_compacted(store, entry->seq, entry->effects[i].id);
        } else {
            store_leases_effect(store, &entry->effects[i], entry->seq);
        }
    }
}

void store_apply_own(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(batch->eval.edit != NULL && !batch->beaten);
    ASSERT(batch->entry.seq == store->seq + 1);
    uint64_t begun_ns = clock_now_ns(store->timers->clock);
    cache_edit_publish(batch->eval.edit);
    batch->eval.edit = NULL;
    entry_published(store, &batch->entry, true);
    store_published(store);
    metric_observe_ns(HISTOGRAM_etcd_disk_backend_commit_duration_seconds,
                      clock_now_ns(store->timers->clock) - begun_ns);
}

static enum apply_result apply_new(struct store *store, const struct sql_entry *entries,
                                   uint32_t count)
{
    ASSERT(store_is_sound(store));
    ASSERT(entries != NULL);
    ASSERT(count > 0 && entries[0].seq == store->seq + 1);
    struct cache_edit *edit = cache_edit_begin(store->cache);
    const struct hash128 *chain = &store->chain;
    const char *fault = NULL;
    uint32_t good = 0;
    for (; good < count; good++) {
        fault = entry_fault(&entries[good], cache_edit_info(edit), chain);
        if (fault != NULL) {
            break;
        }
        entry_apply(edit, &entries[good]);
        chain = &entries[good].chain;
    }
    cache_edit_publish(edit);
    for (uint32_t i = 0; i < good; i++) {
        entry_published(store, &entries[i], false);
    }
    store_published(store);
    return fault == NULL ? APPLY_OK : entry_broken(store, &entries[good], fault);
}

enum apply_result store_apply_entries(struct store *store, const struct sql_head *head,
                                      const struct sql_entry *entries, uint32_t count)
{
    ASSERT(store_is_loaded(store));
    ASSERT(head->seq <= store->seen_seq && (count == 0 || entries != NULL));
    while (count > 0 && entries->seq <= store->seq) {
        entries++; /* Had by now: the batch or another pull was faster. */
        count--;
    }
    if (head->seq <= store->seq) {
        return APPLY_OK;
    }
    /* Rows below |deleted_below| may be gone: what has not come so far cannot be continued. */
    const struct cache_info *info = cache_snapshot_info(cache_snapshot(store->cache));
    if (count == 0 || entries[0].seq > store->seq + 1 || info->revision + 1 < head->deleted_below) {
        return APPLY_RELOAD;
    }
    if (store_batch_is_open(store) && !store_batch_seen(store, &entries[0])) {
        return APPLY_OWN;
    }
    return apply_new(store, entries, count);
}
