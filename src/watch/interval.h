/*
 * Which ranges hold a key: a treap of [key, end) ranges ordered by (key, end), each node knowing
 * the greatest end below it. Embedded nodes, parent pointers, no recursion, no allocation. A tree
 * belongs to one thread, that of its hub.
 */
#ifndef WATCH_INTERVAL_H
#define WATCH_INTERVAL_H

#include "cache/cache.h"
#include "core/slice.h"

/* Embedded by its owner, which lends |range| for as long as the node is in a tree. */
struct interval_node {
    struct cache_range range; /* |end| not empty, or |open|. */
    struct interval_node *parent;
    struct interval_node *child[2];
    struct interval_node
        *widest;       /* Of this node and all below it, the one with the greatest end. */
    uint64_t priority; /* Random: a heap, the greatest on top. */
};

struct interval_tree {
    struct interval_node *root;
    uint32_t count;
};

/* The node with exactly |range|, or NULL. O(log nodes) expected, like insert and remove. */
struct interval_node *interval_find(const struct interval_tree *tree,
                                    const struct cache_range *range);
/* |node->range| is set and not in the tree yet; |priority| is random. */
void interval_insert(struct interval_tree *tree, struct interval_node *node, uint64_t priority);
/* |node| is in |tree|; then its owner's again. */
void interval_remove(struct interval_tree *tree, struct interval_node *node);
/* The first node in order whose range holds |key| / the next one behind |node|; NULL at the end.
 * O(log nodes + nodes whose range starts at or before |key| on the way). */
struct interval_node *interval_first(const struct interval_tree *tree, struct slice key);
struct interval_node *interval_next(struct interval_node *node, struct slice key);
/* Order, heap and ends are right everywhere: O(nodes). */
bool interval_is_sound(const struct interval_tree *tree);

#endif
