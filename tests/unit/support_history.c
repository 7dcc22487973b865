/* A cache's history as a plain list. */
#include "support_history.h"

#include "support.h"

#include "core/mem.h"

void history_init(struct history *history, const struct support_keys *keys)
{
    *history = (struct history){.keys = keys};
}

void history_cut(struct history *history, uint32_t count)
{
    assert_true(count <= history->count);
    while (history->count > count) {
        union {
            const uint8_t *read;
            void *owned;
        } value = {.read = history->rows[--history->count].value.data};
        mem_free(value.owned);
    }
}

void history_fini(struct history *history)
{
    history_cut(history, 0);
    mem_free(history->rows);
}

int64_t history_find(const struct history *history, uint32_t count, uint32_t key, int64_t at_rev)
{
    for (uint32_t i = count; i > 0; i--) {
        const struct history_row *row = &history->rows[i - 1];
        if (row->key == key && row->revision <= at_rev) {
            return i - 1;
        }
    }
    return -1;
}

static void history_apply(struct history *history, struct cache_edit *edit, struct history_row row)
{
    if (history->count == history->room) {
        history->room = history->room == 0 ? 64 : history->room * 2;
        history->rows = mem_realloc(history->rows, history->room * sizeof(history->rows[0]));
    }
    row.value = slice_of(mem_copy(row.value.data, row.value.size), row.value.size);
    history->rows[history->count++] = row;
    struct cache_row applied = {
        .revision = row.revision,
        .sub = row.sub,
        .is_delete = row.is_delete,
        .key = history->keys->keys[row.key],
        .value = row.value,
        .create_rev = row.create_rev,
        .version = row.version,
        .lease = row.lease,
    };
    const struct cache_version *version = cache_edit_apply(edit, &applied);
    assert_slice_equal(cache_version_key(version), applied.key);
}

void history_put(struct history *history, struct cache_edit *edit, struct history_row row)
{
    int64_t old = history_find(history, history->count, row.key, INT64_MAX);
    bool is_new = old < 0 || history->rows[old].is_delete;
    row.create_rev = is_new ? row.revision : history->rows[old].create_rev;
    row.version = is_new ? 1 : history->rows[old].version + 1;
    history_apply(history, edit, row);
}

bool history_delete(struct history *history, struct cache_edit *edit, int64_t revision, int32_t sub,
                    uint32_t key)
{
    int64_t old = history_find(history, history->count, key, INT64_MAX);
    if (old < 0 || history->rows[old].is_delete) {
        return false;
    }
    struct history_row row = {.revision = revision, .sub = sub, .is_delete = true, .key = key};
    history_apply(history, edit, row);
    return true;
}

/* ---- comparing ------------------------------------------------------------------------------- */

static void check_version(const struct history *history, const struct history_row *row,
                          const struct cache_version *version)
{
    assert_non_null(version);
    assert_slice_equal(cache_version_key(version), history->keys->keys[row->key]);
    assert_slice_equal(cache_version_value(version), row->value);
    assert_int_equal(cache_version_mod_rev(version), row->revision);
    assert_int_equal(cache_version_sub(version), row->sub);
    assert_int_equal(cache_version_create_rev(version), row->create_rev);
    assert_int_equal(cache_version_version(version), row->version);
    assert_int_equal(cache_version_lease(version), row->lease);
    assert_int_equal(cache_version_is_tombstone(version), row->is_delete);
}

/* Rows that show each key at |at_rev|: -1 for none or a tombstone. */
static void rows_shown(const struct history *history, uint32_t count, int64_t at_rev,
                       int64_t *shown)
{
    for (uint32_t k = 0; k < history->keys->count; k++) {
        shown[k] = -1;
    }
    for (uint32_t i = 0; i < count && history->rows[i].revision <= at_rev; i++) {
        shown[history->rows[i].key] = history->rows[i].is_delete ? -1 : (int64_t)i;
    }
}

static bool is_in_range(struct slice key, const struct cache_range *range)
{
    if (range->open) {
        return slice_compare(key, range->key) >= 0;
    }
    if (range->end.size == 0) {
        return slice_equal(key, range->key);
    }
    return slice_compare(key, range->key) >= 0 && slice_compare(key, range->end) < 0;
}

static void check_range(const struct history *history, const struct cache_snapshot *snapshot,
                        const struct cache_range *range, int64_t at_rev, const int64_t *shown)
{
    struct cache_walk walk;
    assert_int_equal(cache_walk_begin(&walk, snapshot, range, at_rev), ERR_OK);
    uint64_t expected = 0;
    for (uint32_t k = 0; k < history->keys->count; k++) {
        if (shown[k] >= 0 && is_in_range(history->keys->keys[k], range)) {
            check_version(history, &history->rows[shown[k]], cache_walk_next(&walk));
            expected++;
        }
    }
    assert_null(cache_walk_next(&walk));
    assert_null(cache_walk_next(&walk));
    uint64_t count = UINT64_MAX;
    assert_int_equal(cache_count(snapshot, range, at_rev, &count), ERR_OK);
    assert_int_equal(count, expected);
}

static void check_revision(const struct history *history, const struct history_view *view,
                           const struct cache_snapshot *snapshot, int64_t at_rev, struct rng *rng)
{
    const struct support_keys *keys = history->keys;
    int64_t *shown = mem_alloc(keys->count * sizeof(shown[0]));
    rows_shown(history, view->count, at_rev <= 0 ? INT64_MAX : at_rev, shown);
    struct slice from = keys->keys[rng_below(rng, keys->count)];
    struct slice to = keys->keys[rng_below(rng, keys->count)];
    struct cache_range ranges[] = {cache_range_of(slice_of("", 1), slice_of("", 1)),
                                   cache_range_of(from, to), cache_range_of(from, SLICE_EMPTY),
                                   cache_range_of(from, slice_of("", 1))};
    for (uint32_t i = 0; i < ARRAY_COUNT(ranges); i++) {
        check_range(history, snapshot, &ranges[i], at_rev, shown);
    }
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t key = (uint32_t)rng_below(rng, keys->count);
        const struct cache_version *version = NULL;
        assert_int_equal(cache_get(snapshot, keys->keys[key], at_rev, &version), ERR_OK);
        assert_int_equal(version == NULL, shown[key] < 0);
        if (version != NULL) {
            check_version(history, &history->rows[shown[key]], version);
        }
    }
    mem_free(shown);
}

static void check_refusals(const struct cache_snapshot *snapshot, int64_t at_rev, enum err expected)
{
    struct cache_walk walk;
    uint64_t count = 0;
    const struct cache_version *version = NULL;
    struct cache_range range = cache_range_of(SLICE_LIT("a"), slice_of("", 1));
    assert_int_equal(cache_walk_begin(&walk, snapshot, &range, at_rev), expected);
    assert_int_equal(cache_count(snapshot, &range, at_rev, &count), expected);
    assert_int_equal(cache_get(snapshot, range.key, at_rev, &version), expected);
}

/* Events from compact_rev on, each with what it replaced. */
static void check_events(const struct history *history, const struct history_view *view,
                         const struct cache_snapshot *snapshot, struct rng *rng)
{
    const struct cache_info *info = cache_snapshot_info(snapshot);
    uint32_t first = 0;
    while (first < view->count && history->rows[first].revision < view->compact_rev) {
        first++;
    }
    assert_int_equal(info->event_end, view->count);
    assert_int_equal(info->event_begin, first);
    for (uint32_t n = first; n < view->count; n++) {
        const struct history_row *row = &history->rows[n];
        const struct cache_version *event = cache_event(snapshot, n);
        check_version(history, row, event);
        int64_t prev = history_find(history, n, row->key, row->revision);
        bool is_given =
            prev >= 0 && !history->rows[prev].is_delete && row->revision - 1 >= view->compact_rev;
        const struct cache_version *replaced = cache_event_prev(snapshot, event);
        assert_int_equal(replaced != NULL, is_given);
        if (is_given) {
            check_version(history, &history->rows[prev], replaced);
        }
    }
    int64_t rev = view->compact_rev +
                  (int64_t)rng_below(rng, (uint64_t)(view->revision - view->compact_rev + 2));
    uint32_t at = first;
    while (at < view->count && history->rows[at].revision < rev) {
        at++;
    }
    assert_int_equal(cache_event_at(snapshot, rev), at);
}

void history_check(const struct history *history, const struct history_view *view,
                   const struct cache_snapshot *snapshot, struct rng *rng)
{
    const struct cache_info *info = cache_snapshot_info(snapshot);
    assert_int_equal(info->revision, view->revision);
    assert_int_equal(info->compact_rev, view->compact_rev);
    int64_t lowest = view->compact_rev < 1 ? 1 : view->compact_rev;
    check_revision(history, view, snapshot, 0, rng);
    check_revision(history, view, snapshot, -5, rng);
    check_revision(history, view, snapshot, lowest, rng);
    check_revision(history, view, snapshot, view->revision, rng);
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t span = (uint64_t)(view->revision - lowest) + 1;
        uint64_t below = rng_below(rng, i % 2 == 0 ? span : (span < 8 ? span : 8));
        check_revision(history, view, snapshot, view->revision - (int64_t)below, rng);
    }
    check_refusals(snapshot, view->revision + 1, ERR_FUTURE_REV);
    if (view->compact_rev > 1) {
        check_refusals(snapshot, view->compact_rev - 1, ERR_COMPACTED);
        check_refusals(snapshot, 1, ERR_COMPACTED);
    }
    check_events(history, view, snapshot, rng);
}
