/* Treap with greatest ends: see interval.h. */
#include "watch/interval.h"

/* Order of ends: an open range ends behind every other. */
static int end_compare(const struct cache_range *a, const struct cache_range *b)
{
    if (a->open || b->open) {
        return (int)a->open - (int)b->open;
    }
    return slice_compare(a->end, b->end);
}

static int range_compare(const struct cache_range *a, const struct cache_range *b)
{
    int order = slice_compare(a->key, b->key);
    return order != 0 ? order : end_compare(a, b);
}

/* |key| lies in front of the end of |range|. */
static bool ends_behind(const struct cache_range *range, struct slice key)
{
    return range->open || slice_compare(key, range->end) < 0;
}

static void widest_update(struct interval_node *node)
{
    node->widest = node;
    for (int side = 0; side < 2; side++) {
        struct interval_node *child = node->child[side];
        if (child != NULL && end_compare(&child->widest->range, &node->widest->range) > 0) {
            node->widest = child->widest;
        }
    }
}

static void widest_update_up(struct interval_node *node)
{
    for (; node != NULL; node = node->parent) {
        widest_update(node);
    }
}

static int side_of(const struct interval_node *node)
{
    ASSERT(node->parent != NULL);
    ASSERT(node->parent->child[0] == node || node->parent->child[1] == node);
    return node->parent->child[1] == node;
}

/* Put |node| in the place of |old| under old's parent. */
static void replace(struct interval_tree *tree, struct interval_node *old,
                    struct interval_node *node)
{
    if (old->parent == NULL) {
        ASSERT(tree->root == old);
        tree->root = node;
    } else {
        old->parent->child[side_of(old)] = node;
    }
    if (node != NULL) {
        node->parent = old->parent;
    }
}

/* |node| changes places with its parent. */
static void rotate_up(struct interval_tree *tree, struct interval_node *node)
{
    struct interval_node *parent = node->parent;
    ASSERT(parent != NULL);
    int side = side_of(node);

    replace(tree, parent, node);
    parent->child[side] = node->child[!side];
    if (parent->child[side] != NULL) {
        parent->child[side]->parent = parent;
    }
    node->child[!side] = parent;
    parent->parent = node;
    widest_update(parent);
    widest_update(node);
}

struct interval_node *interval_find(const struct interval_tree *tree,
                                    const struct cache_range *range)
{
    ASSERT(range->open || range->end.size > 0);
    struct interval_node *node = tree->root;
    while (node != NULL) {
        int order = range_compare(range, &node->range);
        if (order == 0) {
            return node;
        }
        node = node->child[order > 0];
    }
    return NULL;
}

void interval_insert(struct interval_tree *tree, struct interval_node *node, uint64_t priority)
{
    ASSERT(node->range.open || slice_compare(node->range.key, node->range.end) < 0);
    struct interval_node **link = &tree->root;
    struct interval_node *parent = NULL;
    while (*link != NULL) {
        int order = range_compare(&node->range, &(*link)->range);
        ASSERT(order != 0);
        parent = *link;
        link = &parent->child[order > 0];
    }
    *link = node;
    node->parent = parent;
    node->child[0] = NULL;
    node->child[1] = NULL;
    node->priority = priority;
    widest_update_up(node);
    while (node->parent != NULL && node->parent->priority < node->priority) {
        rotate_up(tree, node);
    }
    widest_update_up(node->parent);
    tree->count++;
}

void interval_remove(struct interval_tree *tree, struct interval_node *node)
{
    ASSERT(tree->count > 0);
    ASSERT(node->parent != NULL || tree->root == node);
    while (node->child[0] != NULL && node->child[1] != NULL) {
        bool right = node->child[1]->priority > node->child[0]->priority;
        rotate_up(tree, node->child[right]);
    }
    struct interval_node *parent = node->parent;
    replace(tree, node, node->child[0] != NULL ? node->child[0] : node->child[1]);
    widest_update_up(parent);
    node->parent = NULL;
    tree->count--;
}

/* The leftmost node at or below |node| that could hold |key|, as far as ends can tell. */
static struct interval_node *descend(struct interval_node *node, struct slice key)
{
    while (node->child[0] != NULL && ends_behind(&node->child[0]->widest->range, key)) {
        node = node->child[0];
    }
    return node;
}

/* The next node in order whose subtree path could hold |key|; NULL when keys are past it. */
static struct interval_node *step(struct interval_node *node, struct slice key)
{
    struct interval_node *right = node->child[1];
    if (right != NULL && ends_behind(&right->widest->range, key)) {
        return descend(right, key);
    }
    while (node->parent != NULL && side_of(node) == 1) {
        node = node->parent;
    }
    return node->parent;
}

static struct interval_node *match_from(struct interval_node *node, struct slice key)
{
    while (node != NULL && slice_compare(node->range.key, key) <= 0) {
        if (ends_behind(&node->range, key)) {
            return node;
        }
        node = step(node, key);
    }
    return NULL; /* Every later range starts behind |key|. */
}

struct interval_node *interval_first(const struct interval_tree *tree, struct slice key)
{
    if (tree->root == NULL || !ends_behind(&tree->root->widest->range, key)) {
        return NULL;
    }
    return match_from(descend(tree->root, key), key);
}

struct interval_node *interval_next(struct interval_node *node, struct slice key)
{
    ASSERT(node->range.open || node->range.end.size > 0);
    return match_from(step(node, key), key);
}

/* One node against its neighbours. */
static bool node_is_sound(const struct interval_node *node)
{
    const struct interval_node *widest = node;
    for (int side = 0; side < 2; side++) {
        const struct interval_node *child = node->child[side];
        if (child == NULL) {
            continue;
        }
        int order = range_compare(&child->range, &node->range);
        if (child->parent != node || child->priority > node->priority ||
            (side == 0 ? order >= 0 : order <= 0)) {
            return false;
        }
        if (end_compare(&child->widest->range, &widest->range) > 0) {
            widest = child->widest;
        }
    }
    return end_compare(&widest->range, &node->widest->range) == 0;
}

bool interval_is_sound(const struct interval_tree *tree)
{
    uint32_t count = 0;
    const struct interval_node *node = tree->root;
    while (node != NULL && node->child[0] != NULL) {
        node = node->child[0];
    }
    while (node != NULL) {
        count++;
        if (!node_is_sound(node)) {
            return false;
        }
        if (node->child[1] != NULL) {
            node = node->child[1];
            while (node->child[0] != NULL) {
                node = node->child[0];
            }
            continue;
        }
        while (node->parent != NULL && side_of(node) == 1) {
            node = node->parent;
        }
        node = node->parent;
    }
    return count == tree->count;
}
