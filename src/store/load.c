/*
 * Everything from the log at start, checked; and again when this replica is too far behind.
 *
 * Checks: every row's own sum; rows of revisions from |deleted_below| on dense up to the head; the
 * chain of all retained entries up to the head; the rows of each entry from |deleted_below| on
 * against its hash. A fault names the entry's seq.
 *
 * A second load does not replace the cache, because readers and watchers hold cursors into it: the
 * new state is built beside it, and the difference is applied as one edit. Keys that were deleted
 * meanwhile and whose tombstones were purged (they may have been created again) get one at the last
 * revision that we had seen. It lies below the compact revision, so no reader sees it, and a
 * watcher that has not seen what happened is told `compacted`.
 */
#include "store/internal.h"

enum {
    LOAD_RETRY_MS = 500,
    LOAD_WHY_SIZE = 160,
    LOAD_WHAT_SIZE = 120,
    LOAD_GRAVE_SUB = 1 << 30, /* Behind every sub that a request can have used. */
};

/* The sum of a row, to check its entry by. */
struct row_sum {
    int64_t revision;
    uint64_t sum;
};

struct store_load {
    struct sql_load load;
    struct store *store;
    struct cache *beside; /* A second load: the new state; NULL at the first. */
    struct cache_edit *edit;
    struct store_vec sums;     /* struct row_sum, of revisions >= |base|. */
    struct store_vec versions; /* const struct cache_version *: rows that we had not seen. */
    int64_t had_rev;           /* Our revision when a second load began. */
    int64_t base;              /* Rows from this revision on are complete. */
    int64_t last_rev;          /* Of the row before. */
    int32_t last_sub;
    int64_t bad_rev; /* A row that does not match its sum; 0 = none. */
    uint32_t sum_at; /* First of |sums| that no entry has taken. */
    bool has_entry;
    uint64_t entry_seq;
    struct hash128 entry_chain;
    uint64_t entry_epoch;
    int64_t auth_rev;
    struct timer retry;
    char why[LOAD_WHY_SIZE];
};

static enum err load_broken(struct store_load *load, const char *what, uint64_t seq)
{
    ASSERT(load->store->load == load);
    ASSERT(what != NULL && what[0] != '\0');
    if (load->why[0] == '\0') {
        (void)snprintf(load->why, sizeof(load->why), "%s (seq %llu)", what,
                       (unsigned long long)seq);
    }
    return ERR_CHAIN_BROKEN;
}

/* ---- what the log tells --------------------------------------------------------------------- */

static enum err on_leases(struct sql_load *request, const struct sql_lease *leases, uint32_t count)
{
    ASSERT(request->done != NULL);
    struct store_load *load = CONTAINER_OF(request, struct store_load, load);
    ASSERT(load->store->load == load && load->edit != NULL);
    for (uint32_t i = 0; i < count; i++) {
        if (store_lease_is_broken(&leases[i], load->why, sizeof(load->why))) {
            return ERR_CHAIN_BROKEN;
        }
        if (leases[i].ttl_s <= 0 || leases[i].id == 0) {
            return load_broken(load, "a lease without a TTL", leases[i].grant_seq);
        }
        cache_edit_grant(load->edit, leases[i].id, leases[i].ttl_s, leases[i].grant_seq);
    }
    return ERR_OK;
}

/* Rows come in order; from |base| on without a gap. */
static bool row_is_next(const struct store_load *load, const struct sql_row *row)
{
    ASSERT(load->store->load == load);
    ASSERT(load->base >= 2);
    bool same_rev = row->revision == load->last_rev;
    if (row->revision < load->base) {
        return row->revision > load->last_rev || (same_rev && row->sub > load->last_sub);
    }
    if (same_rev) {
        return row->sub == load->last_sub + 1;
    }
    int64_t previous = load->last_rev < load->base ? load->base - 1 : load->last_rev;
    return row->revision == previous + 1 && row->sub == 0;
}

static void row_take(struct store_load *load, const struct sql_row *row)
{
    ASSERT(load->store->load == load);
    ASSERT(row->revision >= load->last_rev && row->key.size > 0);
    const struct cache_row made = store_cache_row(row);
    const struct cache_version *version = cache_edit_apply(load->edit, &made);
    if (load->beside != NULL && row->revision > load->had_rev) {
        *(const struct cache_version **)store_vec_add(&load->versions, sizeof(version)) = version;
    }
    if (row->revision >= load->base) {
        struct row_sum *sum = store_vec_add(&load->sums, sizeof(*sum));
        *sum = (struct row_sum){row->revision, row->sum};
    }
    load->last_rev = row->revision;
    load->last_sub = row->sub;
}

static enum err on_rows(struct sql_load *request, const struct sql_row *rows, uint32_t count)
{
    ASSERT(request->done != NULL);
    struct store_load *load = CONTAINER_OF(request, struct store_load, load);
    ASSERT(load->store->load == load && !load->has_entry); /* Rows come first. */
    load->base = request->head.deleted_below > 2 ? request->head.deleted_below : 2;
    for (uint32_t i = 0; i < count; i++) {
        if (rows[i].sum != sql_row_sum(&rows[i]) || rows[i].key.size == 0) {
            load->bad_rev = load->bad_rev == 0 ? rows[i].revision : load->bad_rev;
            continue; /* Its entry names it. */
        }
        if (load->bad_rev == 0 && !row_is_next(load, &rows[i])) {
            char what[LOAD_WHAT_SIZE];
            (void)snprintf(what, sizeof(what), "rows are missing in front of revision %lld",
                           (long long)rows[i].revision);
            return load_broken(load, what, request->head.seq);
        }
        if (load->bad_rev == 0) {
            row_take(load, &rows[i]);
        }
    }
    return ERR_OK;
}

/* The rows of |entry| against its count and hash. */
static enum err entry_rows_check(struct store_load *load, const struct sql_entry *entry)
{
    ASSERT(load->store->load == load);
    ASSERT(entry != NULL);
    const struct row_sum *sums = load->sums.items;
    uint32_t count = 0;
    while (load->sum_at < load->sums.count && sums[load->sum_at].revision < entry->first_rev) {
        load->sum_at++;
    }
    while (load->sum_at + count < load->sums.count &&
           sums[load->sum_at + count].revision <= entry->last_rev) {
        count++;
    }
    if (count != entry->row_count) {
        return load_broken(load, "an entry's rows are not as many as it says", entry->seq);
    }
    struct sql_row *rows = mem_alloc((count + 1) * sizeof(*rows));
    for (uint32_t i = 0; i < count; i++) {
        rows[i].sum = sums[load->sum_at + i].sum;
    }
    struct hash128 hash = sql_rows_hash(rows, count);
    mem_free(rows);
    load->sum_at += count;
    return hash128_equal(&hash, &entry->rows_hash)
               ? ERR_OK
               : load_broken(load, "an entry's rows do not match its hash", entry->seq);
}

static enum err load_history_lost(struct store_load *load, const char *what, uint64_t seq)
{
    ASSERT(load->beside != NULL); /* The first load has no history to lose. */
    (void)load_broken(load, what, seq);
    return ERR_HISTORY_LOST;
}

/* A second load: is where we stand part of what is loaded? */
static enum err entry_history_check(struct store_load *load, const struct sql_entry *entry)
{
    ASSERT(load->store->load == load);
    ASSERT(entry != NULL);
    const struct store *store = load->store;
    if (load->beside == NULL || store->seq == 0) {
        return ERR_OK;
    }
    struct hash128 hash = entry->chain;
    if (entry->seq == store->seq + 1) {
        hash = sql_entry_chain(&store->chain, entry);
    } else if (entry->seq == store->seq) {
        hash = store->chain;
    }
    return hash128_equal(&hash, &entry->chain)
               ? ERR_OK
               : load_history_lost(load, "the log went back behind what was applied", entry->seq);
}

static enum err entry_check(struct store_load *load, const struct sql_entry *entry)
{
    ASSERT(load->store->load == load);
    ASSERT(entry != NULL);
    if (load->bad_rev != 0 && entry->row_count > 0 && load->bad_rev >= entry->first_rev &&
        load->bad_rev <= entry->last_rev) {
        return load_broken(load, "a row does not match its checksum", entry->seq);
    }
    if (load->has_entry && entry->seq != load->entry_seq + 1) {
        return load_broken(load, "an entry is missing", load->entry_seq + 1);
    }
    TRY(entry_history_check(load, entry));
    if (load->has_entry || entry->seq == 1) {
        struct hash128 hash = sql_entry_chain(&load->entry_chain, entry);
        if (!hash128_equal(&hash, &entry->chain)) {
            return load_broken(load, "an entry does not match the chain", entry->seq);
        }
    }
    if (load->bad_rev == 0 && entry->row_count > 0 && entry->first_rev >= load->base) {
        TRY(entry_rows_check(load, entry));
    }
    load->has_entry = true;
    load->entry_seq = entry->seq;
    load->entry_chain = entry->chain;
    load->entry_epoch = entry->epoch;
    load->auth_rev = entry->auth_rev;
    return ERR_OK;
}

static enum err on_entries(struct sql_load *request, const struct sql_entry *entries,
                           uint32_t count)
{
    ASSERT(request->done != NULL);
    ASSERT(entries != NULL);
    struct store_load *load = CONTAINER_OF(request, struct store_load, load);
    for (uint32_t i = 0; i < count; i++) {
        TRY(entry_check(load, &entries[i]));
    }
    return ERR_OK;
}

/* What only the end can tell. */
static enum err load_end_check(struct store_load *load)
{
    ASSERT(load->store->load == load);
    const struct sql_head *head = &load->load.head;
    ASSERT(load->edit != NULL && load->base >= 2);
    if (load->bad_rev != 0) {
        char what[LOAD_WHAT_SIZE];
        (void)snprintf(what, sizeof(what),
                       "a row of revision %lld, whose entry is gone, does not match its checksum",
                       (long long)load->bad_rev);
        return load_broken(load, what, 0);
    }
    if (load->entry_seq != head->seq ||
        (head->seq > 0 && !hash128_equal(&load->entry_chain, &head->chain))) {
        return load_broken(load, "the newest entry is not the one that was counted", head->seq);
    }
    if (head->seq > 0 && (head->revision < load->last_rev || head->compact_rev > head->revision ||
                          (head->deleted_below > 0 && head->deleted_below > head->compact_rev))) {
        return load_broken(load, "the newest entry does not fit the rows", head->seq);
    }
    if (head->seq > 0 && head->revision >= load->base && load->last_rev != head->revision) {
        return load_broken(load, "the newest rows are missing", head->seq);
    }
    return ERR_OK;
}

/* ---- a second load: the difference ---------------------------------------------------------- */

/* By key, then as they came. */
static int version_order(const void *a, const void *b)
{
    const struct cache_version *left = *(const struct cache_version *const *)a;
    const struct cache_version *right = *(const struct cache_version *const *)b;
    int order = slice_compare(cache_version_key(left), cache_version_key(right));
    if (order == 0) {
        int64_t revs = cache_version_mod_rev(left) - cache_version_mod_rev(right);
        int32_t subs = cache_version_sub(left) - cache_version_sub(right);
        order = revs != 0 ? (revs > 0) - (revs < 0) : (subs > 0) - (subs < 0);
    }
    return order;
}

/* The first of |sorted| with |key|, or NULL. */
static const struct cache_version *version_first(const struct cache_version *const *sorted,
                                                 uint32_t count, struct slice key)
{
    uint32_t low = 0;
    uint32_t high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (slice_compare(cache_version_key(sorted[middle]), key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    ASSERT(low <= count);
    return low < count && slice_equal(cache_version_key(sorted[low]), key) ? sorted[low] : NULL;
}

static void merge_leases(struct cache_edit *edit, const struct cache_snapshot *old,
                         const struct cache_snapshot *new)
{
    ASSERT(edit != NULL);
    ASSERT(old != NULL);
    ASSERT(new != NULL);
    struct cache_lease lease;
    struct cache_lease other;
    int64_t from = INT64_MIN;
    while (cache_lease_next(old, from, &lease)) {
        if (!cache_lease_get(new, lease.id, &other) || other.grant_seq != lease.grant_seq) {
            cache_edit_revoke(edit, lease.id);
        }
        if (lease.id == INT64_MAX) {
            break;
        }
        from = lease.id + 1;
    }
    from = INT64_MIN;
    while (cache_lease_next(new, from, &lease)) {
        if (!cache_lease_get(old, lease.id, &other) || other.grant_seq != lease.grant_seq) {
            cache_edit_grant(edit, lease.id, lease.ttl_s, lease.grant_seq);
        }
        if (lease.id == INT64_MAX) {
            break;
        }
        from = lease.id + 1;
    }
}

static void merge_version(struct cache_edit *edit, const struct cache_version *version)
{
    ASSERT(edit != NULL);
    ASSERT(version != NULL);
    const struct cache_row row = {
        .revision = cache_version_mod_rev(version),
        .sub = cache_version_sub(version),
        .is_delete = cache_version_is_tombstone(version),
        .key = cache_version_key(version),
        .value = cache_version_value(version),
        .create_rev = cache_version_create_rev(version),
        .version = cache_version_version(version),
        .lease = cache_version_lease(version),
    };
    (void)cache_edit_apply(edit, &row);
}

/* Live keys of |old| that were deleted since by a row that is gone. */
static struct store_vec lost_keys(const struct store_load *load, const struct cache_snapshot *old,
                                  const struct cache_snapshot *new)
{
    ASSERT(load->store->load == load);
    ASSERT(old != NULL);
    ASSERT(new != NULL);
    struct store_vec lost = {0};
    uint32_t count = load->versions.count;
    const struct cache_version **sorted = mem_copy(load->versions.items, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), version_order);
    const struct cache_range all = {.key = SLICE_LIT("\0"), .open = true};
    struct cache_walk walk;
    enum err err = cache_walk_begin(&walk, old, &all, 0);
    ASSERT(err == ERR_OK);
    for (const struct cache_version *v = cache_walk_next(&walk); v != NULL;
         v = cache_walk_next(&walk)) {
        const struct cache_version *now = NULL;
        err = cache_get(new, cache_version_key(v), 0, &now);
        ASSERT(err == ERR_OK);
        const struct cache_version *first = version_first(sorted, count, cache_version_key(v));
        bool gone = first == NULL ? now == NULL
                                  : !cache_version_is_tombstone(first) &&
                                        cache_version_create_rev(first) > load->had_rev;
        if (gone) {
            *(const struct cache_version **)store_vec_add(&lost, sizeof(v)) = v;
        }
    }
    mem_free(sorted);
    return lost;
}

/* A tombstone of |key| at the last revision that we had seen, the |nth| of them. */
static void merge_grave(struct store_load *load, struct cache_edit *edit, struct slice key,
                        uint32_t nth)
{
    ASSERT(load->store->load == load);
    ASSERT(edit != NULL);
    const struct cache_row row = {.revision = load->had_rev,
                                  .sub = LOAD_GRAVE_SUB + (int32_t)nth,
                                  .is_delete = true,
                                  .key = key};
    (void)cache_edit_apply(edit, &row);
}

/*
 * Rows behind ours may be gone. Say so in the event log: one event below compact_rev, so that a
 * cursor that stands at its end today is behind the gap. It is the tombstone of a key that nobody
 * has.
 */
static void merge_gap(struct store_load *load, struct cache_edit *edit, uint32_t nth)
{
    ASSERT(load->store->load == load);
    ASSERT(edit != NULL);
    struct slice key;
    struct store_vec bytes = {0};
    const struct cache_version *old = NULL;
    const struct cache_version *new = NULL;
    do {
        (void)store_vec_add(&bytes, 1);
        key = slice_of(bytes.items, bytes.count);
        enum err err = cache_get(cache_snapshot(load->store->cache), key, 0, &old);
        ASSERT(err == ERR_OK);
        err = cache_get(cache_edit_view(load->edit), key, 0, &new);
        ASSERT(err == ERR_OK);
    } while (old != NULL || new != NULL);
    merge_grave(load, edit, key, nth);
    store_vec_fini(&bytes);
}

static bool version_equal(const struct cache_version *a, const struct cache_version *b)
{
    return cache_version_mod_rev(a) == cache_version_mod_rev(b) &&
           cache_version_sub(a) == cache_version_sub(b) &&
           cache_version_create_rev(a) == cache_version_create_rev(b) &&
           cache_version_version(a) == cache_version_version(b) &&
           cache_version_lease(a) == cache_version_lease(b) &&
           slice_equal(cache_version_value(a), cache_version_value(b));
}

/*
 * Entries between ours and theirs may be gone, rows that still live are not: each row up to our
 * revision that nothing replaced by then must be what we have for its key.
 */
static enum err merge_history_check(struct store_load *load, const struct cache_snapshot *old,
                                    const struct cache_snapshot *new)
{
    ASSERT(load->beside != NULL);
    const struct cache_range all = {.key = SLICE_LIT("\0"), .open = true};
    struct cache_walk walk;
    uint64_t seq = load->store->seq;
    if (cache_walk_begin(&walk, new, &all, load->had_rev) != ERR_OK) {
        return load_history_lost(load, "the log ends below a revision that was served", seq);
    }
    for (const struct cache_version *v = cache_walk_next(&walk); v != NULL;
         v = cache_walk_next(&walk)) {
        const struct cache_version *had = NULL;
        enum err err = cache_get(old, cache_version_key(v), 0, &had);
        ASSERT(err == ERR_OK);
        if (had == NULL || !version_equal(v, had)) {
            return load_history_lost(load, "the log holds other rows than were applied", seq);
        }
    }
    return ERR_OK;
}

static enum err merge(struct store_load *load)
{
    ASSERT(load->store->load == load);
    struct store *store = load->store;
    ASSERT(load->beside != NULL && !store_batch_is_open(store));
    const struct cache_snapshot *old = cache_snapshot(store->cache);
    const struct cache_snapshot *new = cache_edit_view(load->edit);
    TRY(merge_history_check(load, old, new));
    struct store_vec lost = lost_keys(load, old, new);
    if (lost.count > 0 && load->had_rev + 1 >= load->load.head.compact_rev) {
        store_vec_fini(&lost);
        return load_broken(load, "keys are gone without a trace", load->load.head.seq);
    }
    struct cache_edit *edit = cache_edit_begin(store->cache);
    merge_leases(edit, old, new);
    const struct cache_version *const *gone = lost.items;
    for (uint32_t i = 0; i < lost.count; i++) {
        merge_grave(load, edit, cache_version_key(gone[i]), i);
    }
    if (load->had_rev + 1 < load->load.head.compact_rev) {
        merge_gap(load, edit, lost.count);
    }
    const struct cache_version *const *versions = load->versions.items;
    for (uint32_t i = 0; i < load->versions.count; i++) {
        merge_version(edit, versions[i]);
    }
    store_vec_fini(&lost);
    cache_edit_drop(load->edit);
    load->edit = edit;
    return ERR_OK;
}

/* ---- the end -------------------------------------------------------------------------------- */

static void load_free(struct store_load *load)
{
    ASSERT(load->store->load == load);
    if (load->edit != NULL) {
        cache_edit_drop(load->edit);
    }
    cache_free(load->beside);
    store_vec_fini(&load->sums);
    store_vec_fini(&load->versions);
    timers_disarm(load->store->timers, &load->retry);
    load->store->load = NULL;
    mem_free(load);
}

static void load_publish(struct store_load *load)
{
    ASSERT(load->store->load == load);
    struct store *store = load->store;
    const struct sql_head *head = &load->load.head;
    ASSERT(head->seq >= store->seq && load->edit != NULL);
    bool empty = head->seq == 0;
    cache_edit_set_revision(load->edit, empty ? 1 : head->revision);
    if (!empty && head->compact_rev > cache_edit_info(load->edit)->compact_rev) {
        cache_edit_set_compact_rev(load->edit, head->compact_rev);
    }
    if (load->beside != NULL && load->had_rev + 1 < head->compact_rev) {
        cache_edit_set_gap(load->edit);
    }
    cache_edit_set_position(load->edit, head->seq, empty ? head->fence.epoch : load->entry_epoch,
                            load->auth_rev);
    cache_edit_publish(load->edit);
    load->edit = NULL;
    store->seq = head->seq;
    store->chain = load->entry_chain;
    store->deleted_below =
        head->deleted_below > store->deleted_below ? head->deleted_below : store->deleted_below;
    store->seen_seq = head->seq > store->seen_seq ? head->seq : store->seen_seq;
    store_leases_reset(store);
    if (head->compact_rev > 0) {
        store_upkeep_compacted(store, head->seq, head->compact_rev);
    }
}

static void retry_due(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_load *load = CONTAINER_OF(timer, struct store_load, retry);
    struct store *store = load->store;
    load_free(load);
    if (sm_is(&store->life, LIFE_LOADING)) {
        store_load_start(store);
    }
    ASSERT(store->load != NULL || store->reload_wanted || !store_is_loaded(store));
}

static void load_failed(struct store_load *load, enum err err)
{
    ASSERT(load->store->load == load);
    struct store *store = load->store;
    bool first = load->beside == NULL;
    ASSERT(err != ERR_OK && !timer_is_armed(&load->retry));
    char why[LOAD_WHY_SIZE];
    memcpy(why, load->why, sizeof(why));
    if (sm_is(&store->life, LIFE_CLOSING) || sm_is(&store->life, LIFE_STOPPED)) {
        load_free(load);
        return;
    }
    if (err == ERR_NO_LEADER || err == ERR_DATABASE) {
        timers_arm(store->timers, &load->retry, LOAD_RETRY_MS * NS_PER_MS, retry_due);
        return;
    }
    load_free(load);
    if (first) {
        store_loaded(store, err, why[0] != '\0' ? why : err_text(err));
    } else {
        store_fatal(store, err, why[0] != '\0' ? why : err_text(err));
    }
}

static void load_done(struct sql_load *request)
{
    ASSERT(request->done != NULL);
    struct store_load *load = CONTAINER_OF(request, struct store_load, load);
    struct store *store = load->store;
    ASSERT(store->load == load && !store_batch_is_open(store));
    enum err err = request->err;
    bool first = load->beside == NULL;
    if (err == ERR_OK) {
        err = load_end_check(load);
    }
    if (err == ERR_OK && !first) {
        err = store_head_check(store, &request->head, store->seq, &store->chain) ? merge(load)
                                                                                 : ERR_NO_LEADER;
    }
    if (err != ERR_OK) {
        load_failed(load, err);
        return;
    }
    if (first) {
        store->fence = request->head.fence;
        store->cluster_id = request->cluster_id;
    }
    load_publish(load);
    if (first) {
        /* Where it is another one, nothing is written before that is known. */
        (void)store_head_check(store, &request->head, store->seq, &store->chain);
    }
    load_free(load);
    store->reload_wanted = false;
    LOG(LOG_INFO, first ? "store loaded" : "store loaded again", LUINT("seq", store->seq));
    store_published(store);
    if (first) {
        store_loaded(store, ERR_OK, "");
    } else {
        store_batch_reloaded(store);
        store_tail_want(store);
    }
}

void store_load_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->load == NULL && !store_batch_is_open(store));
    struct store_load *load = mem_alloc(sizeof(*load));
    bool first = sm_is(&store->life, LIFE_LOADING);
    store->load = load;
    load->store = store;
    load->beside = first ? NULL : cache_new(store->config.reclaim);
    load->edit = cache_edit_begin(first ? store->cache : load->beside);
    load->had_rev = cache_snapshot_info(cache_snapshot(store->cache))->revision;
    load->base = 2;
    load->load = (struct sql_load){
        .on_leases = on_leases,
        .on_rows = on_rows,
        .on_entries = on_entries,
        .done = load_done,
    };
    store->log->ops->load(store->log, &load->load);
}

void store_load_fini(struct store *store)
{
    ASSERT(store_is_sound(store));
    if (store->load != NULL) {
        load_free(store->load);
    }
    ASSERT(store->load == NULL);
}

void store_reload_want(struct store *store, const char *why)
{
    ASSERT(store_is_sound(store));
    ASSERT(why != NULL && !store->log->exclusive); /* Nobody else purges. */
    if (!store->reload_wanted) {
        LOG(LOG_WARN, "loading again", LSTR("why", why), LUINT("seq", store->seq));
        store->reload_wanted = true;
    }
}
