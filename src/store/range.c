/*
 * Range with all of etcd's options, on any snapshot: published ones on io threads, private ones
 * inside a batch.
 */
#include "store/internal.h"
#include "store/sort.h"

static bool range_has_filters(const struct store_range *range)
{
    ASSERT(range != NULL);
    return range->min_mod_rev != 0 || range->max_mod_rev != 0 || range->min_create_rev != 0 ||
           range->max_create_rev != 0;
}

/* As the index gives them. A target without an order is sorted, but after the limit: as in etcd. */
static bool range_order_is_default(const struct store_range *range)
{
    ASSERT(range != NULL);
    return range->sort_order == STORE_SORT_NONE ||
           (range->sort_target == STORE_SORT_KEY && range->sort_order == STORE_SORT_ASCEND);
}

bool store_range_is_plain(const struct store_range *range)
{
    ASSERT(range != NULL);
    return range_order_is_default(range) && !range_has_filters(range) &&
           (range->sort_target == STORE_SORT_KEY || range->count_only);
}

/* Keys to fetch: one more than the limit tells |more|; everything where the limit comes later. */
static uint64_t range_fetch_max(const struct store_range *range)
{
    if (range->limit <= 0 || !range_order_is_default(range) || range_has_filters(range)) {
        return UINT64_MAX;
    }
    return (uint64_t)range->limit + 1;
}

static bool range_keeps(const struct store_range *range, const struct cache_version *version)
{
    ASSERT(range != NULL);
    ASSERT(version != NULL);
    int64_t mod_rev = cache_version_mod_rev(version);
    int64_t create_rev = cache_version_create_rev(version);
    return (range->max_mod_rev == 0 || mod_rev <= range->max_mod_rev) &&
           (range->min_mod_rev == 0 || mod_rev >= range->min_mod_rev) &&
           (range->max_create_rev == 0 || create_rev <= range->max_create_rev) &&
           (range->min_create_rev == 0 || create_rev >= range->min_create_rev);
}

/* ---- sorting -------------------------------------------------------------------------------- */

static int compare_i64(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int compare_versions(const struct cache_version *a, const struct cache_version *b,
                            enum store_sort_target target)
{
    switch (target) {
    case STORE_SORT_KEY:
        return slice_compare(cache_version_key(a), cache_version_key(b));
    case STORE_SORT_VERSION:
        return compare_i64(cache_version_version(a), cache_version_version(b));
    case STORE_SORT_CREATE:
        return compare_i64(cache_version_create_rev(a), cache_version_create_rev(b));
    case STORE_SORT_MOD:
        return compare_i64(cache_version_mod_rev(a), cache_version_mod_rev(b));
    case STORE_SORT_VALUE:
        break;
    }
    return slice_compare(cache_version_value(a), cache_version_value(b));
}

static void reverse(const struct cache_version **kvs, uint64_t count)
{
    for (uint64_t i = 0; i < count / 2; i++) {
        const struct cache_version *kept = kvs[i];
        kvs[i] = kvs[count - 1 - i];
        kvs[count - 1 - i] = kept;
    }
}

static bool version_less(const void *a, const void *b, const void *arg)
{
    const struct store_range *range = arg;
    bool descend = range->sort_order == STORE_SORT_DESCEND;
    return compare_versions(descend ? b : a, descend ? a : b, range->sort_target) < 0;
}

static void range_sort(const struct store_range *range, struct store_range_answer *answer)
{
    ASSERT(range != NULL);
    ASSERT(answer != NULL);
    if (range->sort_target != STORE_SORT_KEY) {
        store_sort((const void **)answer->kvs, answer->kv_count, version_less, range);
    } else if (range->sort_order == STORE_SORT_DESCEND) {
        reverse(answer->kvs, answer->kv_count);
    }
}

/* ---- fetching ------------------------------------------------------------------------------- */

/* How many of |count| keys in the range can come into the answer's array. */
static uint64_t fetch_room(const struct store_range *range, uint64_t count)
{
    uint64_t max = range_fetch_max(range);
    return count < max ? count : max;
}

uint64_t store_range_cost(const struct cache_snapshot *snapshot, const struct store_range *range)
{
    struct cache_range keys = cache_range_of(range->key, range->range_end);
    uint64_t count = 0;
    if (range->count_only || cache_count(snapshot, &keys, range->revision, &count) != ERR_OK) {
        return 0;
    }
    return fetch_room(range, count) * sizeof(struct cache_version *);
}

static enum err range_fetch(const struct cache_snapshot *snapshot, const struct store_range *range,
                            struct arena *arena, struct store_range_answer *answer)
{
    ASSERT(snapshot != NULL);
    ASSERT(range != NULL);
    ASSERT(arena->size_max > 0);
    ASSERT(answer != NULL);
    struct cache_range keys = cache_range_of(range->key, range->range_end);
    uint64_t room = fetch_room(range, answer->count);
    answer->kvs = arena_alloc(arena, room * sizeof(*answer->kvs));
    if (answer->kvs == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    struct cache_walk walk;
    TRY(cache_walk_begin(&walk, snapshot, &keys, range->revision));
    for (uint64_t fetched = 0; fetched < room; fetched++) {
        const struct cache_version *version = cache_walk_next(&walk);
        ASSERT(version != NULL); /* The count is exact. */
        if (range_keeps(range, version)) {
            answer->kvs[answer->kv_count++] = version;
        }
    }
    return ERR_OK;
}

enum err store_range_run(const struct cache_snapshot *snapshot, const struct store_range *range,
                         struct arena *arena, struct store_range_answer *answer)
{
    struct cache_range keys = cache_range_of(range->key, range->range_end);
    *answer = (struct store_range_answer){
        .keys_only = range->keys_only,
        .no_lease = range->keys_only && range->sort_target != STORE_SORT_VALUE,
    };
    TRY(cache_count(snapshot, &keys, range->revision, &answer->count));
    if (range->count_only) {
        return ERR_OK;
    }
    TRY(range_fetch(snapshot, range, arena, answer));
    range_sort(range, answer);
    if (range->limit > 0 && answer->kv_count > (uint64_t)range->limit) {
        answer->kv_count = (uint64_t)range->limit;
        answer->more = true;
    }
    ASSERT(answer->kv_count <= answer->count);
    return ERR_OK;
}
