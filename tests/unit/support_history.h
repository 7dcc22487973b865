/*
 * The naive model of a cache: the list of all rows, and everything answered by walking it.
 * A check takes a length, so that an old snapshot is compared with the history as it was then.
 */
#ifndef TESTS_SUPPORT_HISTORY_H
#define TESTS_SUPPORT_HISTORY_H

#include "support_keys.h"

#include "cache/cache.h"

struct history_row {
    int64_t revision;
    int32_t sub;
    bool is_delete;
    uint32_t key; /* Index into the table of keys. */
    struct slice value;
    int64_t create_rev;
    int64_t version;
    int64_t lease;
};

struct history {
    const struct support_keys *keys;
    struct history_row *rows;
    uint32_t count;
    uint32_t room;
};

/* What a snapshot must equal. */
struct history_view {
    uint32_t count; /* Rows. */
    int64_t revision;
    int64_t compact_rev;
};

/* |keys| is borrowed. */
void history_init(struct history *history, const struct support_keys *keys);
void history_fini(struct history *history);
/* Forget the rows behind |count|. */
void history_cut(struct history *history, uint32_t count);
/* Index of the newest row of |key| with revision <= |at_rev| among |count| rows, or -1. */
int64_t history_find(const struct history *history, uint32_t count, uint32_t key, int64_t at_rev);
/* Give |row| its create_rev and version as a store would, append it, and apply it to |edit|. */
void history_put(struct history *history, struct cache_edit *edit, struct history_row row);
/* Nothing happens when |key| is not live; returns whether it was. */
bool history_delete(struct history *history, struct cache_edit *edit, int64_t revision, int32_t sub,
                    uint32_t key);

/* Compare all that |snapshot| says with |view|: walks, gets, counts and errors at some revisions,
 * events and what they replaced. */
void history_check(const struct history *history, const struct history_view *view,
                   const struct cache_snapshot *snapshot, struct rng *rng);

#endif
