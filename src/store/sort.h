/*
 * Sorting as etcd's answers show it: where keys tie, clients see the order in which Go's sort.Sort
 * leaves them. That order is a property of the algorithm (pattern-defeating quicksort, Orson Peters
 * 2021, arXiv:2106.05123, with Go's thresholds and pivots), so the same algorithm is run here.
 */
#ifndef STORE_SORT_H
#define STORE_SORT_H

#include "core/base.h"

/* Whether |a| goes before |b|. */
typedef bool store_less_fn(const void *a, const void *b, const void *arg);

/* Sort |count| pointers in place, not stable. Any thread; allocates nothing; O(n log n). */
void store_sort(const void **items, uint64_t count, store_less_fn *less, const void *arg);

#endif
