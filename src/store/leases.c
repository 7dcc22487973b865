/*
 * Leases: keep-alives, TimeToLive and the end of what nobody keeps alive.
 *
 * Keep-alives clock themselves like batches: while one statement is under way, the next collects;
 * ids go out sorted and distinct, so that two replicas lock rows in one order. A keep-alive is
 * answered after its commit, from a state that knows the lease: when ours does not yet, by a read
 * index.
 *
 * The owner of the duty ends a lease whose counter stood still for its TTL and a margin, by an
 * entry that holds only if the counter still stands there. So nothing depends on clocks but how
 * late a lease ends.
 */
#include "core/metrics.h"
#include "store/internal.h"

enum { KEEPALIVE_RETRY_MS = 50, GAP_SLACK_MS = 500, LEASE_WHY_SIZE = 64 };

static void expiry_done(struct store_request *request)
{
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    ASSERT(store_expiry_of(request)->busy);
    store_expiry_of(request)->busy = false;
}

void store_leases_init(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->leases.table == NULL);
    uint64_t gap_ms = (uint64_t)store->config.upkeep_interval_ms + GAP_SLACK_MS;
    store->leases.table =
        lease_table_new(gap_ms * NS_PER_MS, store->config.lease_margin_ms * NS_PER_MS);
    for (uint32_t i = 0; i < EXPIRIES_MAX; i++) {
        struct store_request *request = &store->leases.expiries[i].request;
        request->store = store;
        request->kind = (enum store_kind)STORE_LEASE_EXPIRE;
        request->done = expiry_done;
    }
}

void store_leases_fini(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(!store->leases.in_flight);
    timers_disarm(store->timers, &store->leases.retry);
    lease_table_free(store->leases.table);
    store_vec_fini(&store->leases.items);
}

/* ---- the table ------------------------------------------------------------------------------ */

void store_leases_effect(struct store *store, const struct sql_effect *effect, uint64_t seq)
{
    ASSERT(store_is_sound(store));
    ASSERT(effect->kind != SQL_COMPACT);
    if (effect->kind == SQL_LEASE_PUT) {
        lease_table_grant(store->leases.table, effect->id, effect->ttl_s, seq, store_now_ns(store));
    } else {
        lease_table_revoke(store->leases.table, effect->id);
    }
}

void store_leases_reset(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(!store_batch_is_open(store));
    uint64_t gap_ms = (uint64_t)store->config.upkeep_interval_ms + GAP_SLACK_MS;
    lease_table_free(store->leases.table);
    store->leases.table =
        lease_table_new(gap_ms * NS_PER_MS, store->config.lease_margin_ms * NS_PER_MS);
    const struct cache_snapshot *snapshot = cache_snapshot(store->cache);
    struct cache_lease lease;
    int64_t from = INT64_MIN;
    while (cache_lease_next(snapshot, from, &lease)) {
        lease_table_grant(store->leases.table, lease.id, lease.ttl_s, lease.grant_seq,
                          store_now_ns(store));
        if (lease.id == INT64_MAX) {
            break;
        }
        from = lease.id + 1;
    }
}

bool store_lease_is_broken(const struct sql_lease *lease, char *why, size_t why_size)
{
    ASSERT(why != NULL);
    ASSERT(why_size > 0);
    if (lease->sum == sql_lease_sum(lease)) {
        return false;
    }
    (void)snprintf(why, why_size, "lease %016llx does not match its checksum",
                   (unsigned long long)lease->id);
    return true;
}

bool store_leases_read(struct store *store, const struct sql_lease *leases, uint32_t count)
{
    ASSERT(store_is_sound(store));
    ASSERT(count == 0 || leases != NULL);
    uint64_t now_ns = store_now_ns(store);
    lease_table_reading_begin(store->leases.table, now_ns);
    for (uint32_t i = 0; i < count; i++) {
        char why[LEASE_WHY_SIZE];
        if (store_lease_is_broken(&leases[i], why, sizeof(why))) {
            store_fatal(store, ERR_CHAIN_BROKEN, why);
            return false;
        }
        lease_table_reading(store->leases.table, leases[i].id, leases[i].grant_seq,
                            leases[i].counter, now_ns);
    }
    return true;
}

/* ---- keep-alives ---------------------------------------------------------------------------- */

static int item_order(const void *a, const void *b)
{
    int64_t left = ((const struct sql_keepalive_item *)a)->id;
    int64_t right = ((const struct sql_keepalive_item *)b)->id;
    return (left > right) - (left < right);
}

void store_leases_keepalive(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    ASSERT(request->kind == STORE_LEASE_KEEPALIVE);
    request->state = REQUEST_WAITING;
    store_list_add(&store->leases.waiting, request);
}

static void list_answer(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT(request->kind == STORE_LEASE_LIST);
    const struct lease_table *table = store->leases.table;
    uint32_t count = lease_table_count(table);
    ASSERT(count == cache_snapshot_info(store_snapshot(store))->lease_count);
    struct lease_left *items = arena_alloc(request->arena, (count + 1) * sizeof(*items));
    if (items == NULL) {
        store_answer(request, ERR_REQUEST_TOO_LARGE);
        return;
    }
    lease_table_list(table, items);
    request->answer.leases.items = items;
    request->answer.leases.count = count;
    store_answer_now(request);
}

void store_leases_answer(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    if (request->kind == STORE_LEASE_LIST) {
        list_answer(store, request);
        return;
    }
    const struct cache_snapshot *snapshot = cache_snapshot(store->cache);
    int64_t id = request->u.lease.id;
    struct cache_lease lease = {0};
    bool known = cache_lease_get(snapshot, id, &lease);
    request->answer.lease.id = id;
    request->answer.lease.granted_s = known ? lease.ttl_s : 0;
    if (request->kind == STORE_LEASE_KEEPALIVE) {
        request->answer.lease.ttl_s = known ? lease.ttl_s : 0;
    } else {
        ASSERT(request->kind == STORE_LEASE_TTL);
        request->answer.lease.ttl_s =
            known ? lease_table_remaining_s(store->leases.table, id, store_now_ns(store)) : -1;
    }
    store_answer_now(request);
}

static void keepalive_answer(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    struct store_leases *leases = &store->leases;
    const struct sql_keepalive_item key = {.id = request->u.lease.id};
    const struct sql_keepalive_item *item =
        bsearch(&key, leases->items.items, leases->items.count, sizeof(key), item_order);
    ASSERT(item != NULL);
    struct cache_lease lease;
    if (!item->found) {
        request->answer.lease.id = item->id;
        request->answer.lease.ttl_s = 0;
        store_answer_now(request);
    } else if (cache_lease_get(cache_snapshot(store->cache), item->id, &lease)) {
        store_leases_answer(store, request);
    } else {
        store_list_remove(request); /* Granted elsewhere, and not here yet. */
        store_reads_add(store, request);
    }
}

static void retry_due(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    ASSERT(!timer_is_armed(timer)); /* The turn that is under way sends what waits. */
}

static void keepalive_done(struct sql_keepalive *keepalive)
{
    ASSERT(keepalive->done != NULL);
    struct store_leases *leases = CONTAINER_OF(keepalive, struct store_leases, keepalive);
    struct store *store = CONTAINER_OF(leases, struct store, leases);
    leases->in_flight = false;
    ASSERT(keepalive->count <= LIMIT_BATCH_ROWS && leases->items.count == keepalive->count);
    if (keepalive->err == ERR_OK) {
        for (uint32_t i = 0; i < keepalive->count; i++) {
            if (keepalive->items[i].found) {
                lease_table_renewed(leases->table, keepalive->items[i].id,
                                    keepalive->items[i].counter, store_now_ns(store));
                metric_add(METRIC_etcd_debugging_lease_renewed_total, 1);
            }
        }
        while (leases->sent.first != NULL) {
            keepalive_answer(store, leases->sent.first);
        }
        return;
    }
    if (keepalive->err == ERR_LEADER_CHANGED || keepalive->err == ERR_STOPPED ||
        store_health_is_away(&store->health)) {
        enum err err = keepalive->err == ERR_DATABASE ? ERR_NO_LEADER : keepalive->err;
        store_answer_all(&leases->sent, err);
        return;
    }
    /* Renewing once more does no harm. */
    store_list_prepend(&leases->waiting, &leases->sent);
    timers_arm(store->timers, &leases->retry, KEEPALIVE_RETRY_MS * NS_PER_MS, retry_due);
}

/* Sorted, distinct ids of |sent|. */
static void keepalive_items(struct store_leases *leases)
{
    ASSERT(leases->table != NULL);
    leases->items.count = 0;
    for (const struct store_request *r = leases->sent.first; r != NULL; r = r->next) {
        struct sql_keepalive_item *item = store_vec_add(&leases->items, sizeof(*item));
        item->id = r->u.lease.id;
    }
    struct sql_keepalive_item *items = leases->items.items;
    uint32_t distinct = 0;
    qsort(items, leases->items.count, sizeof(*items), item_order);
    for (uint32_t i = 0; i < leases->items.count; i++) {
        if (distinct == 0 || items[distinct - 1].id != items[i].id) {
            items[distinct++] = items[i];
        }
    }
    leases->items.count = distinct;
    ASSERT(distinct > 0);
}

void store_leases_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_leases *leases = &store->leases;
    if (leases->in_flight || leases->waiting.count == 0 || timer_is_armed(&leases->retry) ||
        !store_is_live(store) || store_health_error(store) != ERR_OK) {
        return;
    }
    while (leases->waiting.first != NULL && leases->sent.count < LIMIT_BATCH_ROWS) {
        struct store_request *request = leases->waiting.first;
        store_list_remove(request);
        store_list_add(&leases->sent, request);
    }
    keepalive_items(leases);
    ASSERT(leases->items.count <= leases->sent.count);
    leases->keepalive = (struct sql_keepalive){
        .fence = store->fence,
        .items = leases->items.items,
        .count = leases->items.count,
        .done = keepalive_done,
    };
    leases->in_flight = true;
    store->log->ops->keepalive(store->log, &leases->keepalive);
}

/* ---- expiry --------------------------------------------------------------------------------- */

static bool expiry_is_busy(const struct store_leases *leases, int64_t id)
{
    ASSERT(leases->table != NULL);
    for (uint32_t i = 0; i < EXPIRIES_MAX; i++) {
        if (leases->expiries[i].busy && leases->expiries[i].due.id == id) {
            return true;
        }
    }
    return false;
}

static struct store_expiry *expiry_free(struct store_leases *leases)
{
    ASSERT(leases->table != NULL);
    for (uint32_t i = 0; i < EXPIRIES_MAX; i++) {
        if (!leases->expiries[i].busy) {
            return &leases->expiries[i];
        }
    }
    return NULL;
}

void store_leases_expire(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_leases *leases = &store->leases;
    if (!store_upkeep_is_owner(store) || !sm_is(&store->life, LIFE_READY) ||
        !store_is_live(store) || store_health_error(store) != ERR_OK) {
        return;
    }
    struct lease_due due[EXPIRIES_MAX];
    uint32_t count = lease_table_due(leases->table, store_now_ns(store), due, EXPIRIES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        struct store_expiry *expiry = expiry_free(leases);
        if (expiry == NULL) {
            return;
        }
        if (!expiry_is_busy(leases, due[i].id)) {
            expiry->busy = true;
            expiry->due = due[i];
            store_enqueue(store, &expiry->request);
        }
    }
}

void store_leases_stop(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(sm_is(&store->life, LIFE_STOPPING));
    for (uint32_t i = 0; i < EXPIRIES_MAX; i++) {
        struct store_expiry *expiry = &store->leases.expiries[i];
        if (expiry->busy && expiry->request.state != REQUEST_ANSWERED) {
            store_answer(&expiry->request, ERR_STOPPED);
        }
    }
}
