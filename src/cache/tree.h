/*
 * An ordered B+tree of items, copy-on-write per edit.
 *
 *   inner   seps   children of one level below, each with its number of live items; seps[i] is the
 *                  lower bound of children[i] (seps[0] is not used: the parent's bound holds)
 *   leaf    items  pointers in key order, and one bit each: live or not
 *
 * Every node carries the edit that made it. That edit changes it in place; a later edit copies it
 * and discards the old one (cache/garbage.h). So a root that was published never changes below,
 * and an edit costs one copy of each node that it touches, however many items it changes there.
 * A node made by an edit has only parents made by the same edit: cache_tree_drop relies on it.
 *
 * A separator is a short key of its own, not an item's, because items are replaced and freed.
 * The history of the tree is one line (a dropped edit leaves nothing), so a separator lives from
 * the edit that split to the edit that joins, in each root between: it is discarded like a node and
 * needs no counter.
 *
 * Depth: a node of level n+1 gets a child more only by a split in level n, and a split node needs
 * half the fanout of them before it splits again, whatever is removed between. So height h takes at
 * least 32^h inserts; 12 levels are beyond any count.
 *
 * Memory: 14 bytes per item when keys come in random order (leaves are 70 % full), 10 when they
 * come in order (a split behind the last item leaves the left leaf full).
 *
 * Invariants, checked by cache_tree_is_sound:
 *   1 keys ascend through the leaves    2 seps[i] is above all keys before it, below all behind it
 *   3 no node is empty                  4 live counts are exact at each level
 *   5 all leaves are on level 0         6 the root is a leaf or has two children at least
 *   7 a node is not newer than its parent
 */
#ifndef CACHE_TREE_H
#define CACHE_TREE_H

#include "cache/garbage.h"
#include "core/slice.h"

enum {
    CACHE_TREE_FANOUT = 64, /* Items of a leaf, children of an inner node; bits of a word. */
    CACHE_TREE_DEPTH = 12,
};

/* How every item begins: where its key is. The key never changes while the item is in a tree. */
struct cache_tree_item {
    uint32_t key_at; /* Bytes from the item's own address. */
    uint32_t key_size;
};

struct cache_tree_sep {
    uint64_t edit;
    uint32_t size;
    uint8_t bytes[];
};

/* What both kinds of nodes begin with. */
struct cache_tree_node {
    uint64_t edit;
    uint64_t live;  /* Live items at and below. */
    uint16_t count; /* Items or children. */
    uint16_t level; /* 0: a leaf. */
};

struct cache_tree_leaf {
    struct cache_tree_node head;
    uint64_t live_bits;
    struct cache_tree_item *items[CACHE_TREE_FANOUT];
};

struct cache_tree_inner {
    struct cache_tree_node head;
    struct cache_tree_node *children[CACHE_TREE_FANOUT];
    struct cache_tree_sep *seps[CACHE_TREE_FANOUT];
    uint64_t live[CACHE_TREE_FANOUT];
};

static inline struct slice cache_tree_key(const struct cache_tree_item *item)
{
    return slice_of((const uint8_t *)item + item->key_at, item->key_size);
}
static inline const struct cache_tree_leaf *cache_tree_leaf(const struct cache_tree_node *node)
{
    return CONTAINER_OF_CONST(node, struct cache_tree_leaf, head);
}
static inline const struct cache_tree_inner *cache_tree_inner(const struct cache_tree_node *node)
{
    return CONTAINER_OF_CONST(node, struct cache_tree_inner, head);
}

/* ---- reading: any thread that may see |root|; NULL is the empty tree ------------------------- */

/* Items with |key| <= their key; then |end|, unless |open|, is above them. Slices are borrowed. */
struct cache_tree_range {
    struct slice key;
    struct slice end;
    bool open;
};

/* Which child's range holds |key|: for the tree's own files. O(log children). */
uint32_t cache_tree_child_of(const struct cache_tree_inner *inner, struct slice key);
/* NULL if absent. O(log items). */
struct cache_tree_item *cache_tree_get(const struct cache_tree_node *root, struct slice key);
/* Live items with a key below |key|. O(log items). */
uint64_t cache_tree_rank(const struct cache_tree_node *root, struct slice key);
/* Live items of |range|. O(log items). */
uint64_t cache_tree_count(const struct cache_tree_node *root, const struct cache_tree_range *range);

/* A place in a tree. On the caller's stack, valid as long as the root. */
struct cache_tree_cursor {
    struct slice end;
    bool open;
    bool is_last;   /* The range ends in the current leaf. */
    uint16_t depth; /* Nodes on the path; 0: at the end. */
    uint16_t stop;  /* Items of the current leaf that lie in the range. */
    struct {
        const struct cache_tree_node *node;
        uint64_t at;
    } path[CACHE_TREE_DEPTH];
};

/* O(log items). */
void cache_tree_seek(struct cache_tree_cursor *cursor, const struct cache_tree_node *root,
                     const struct cache_tree_range *range);
/* The next item, live or not; NULL at the end. O(1) amortised. */
struct cache_tree_item *cache_tree_next(struct cache_tree_cursor *cursor);
/* The next live item. Subtrees without live items are not entered. */
struct cache_tree_item *cache_tree_next_live(struct cache_tree_cursor *cursor);

/* ---- writing: the store thread --------------------------------------------------------------- */

/* What an edit does to trees; several trees may share one. */
struct cache_tree_change {
    uint64_t edit;                /* Unique and above all before. */
    struct cache_garbage garbage; /* Replaced nodes and separators. */
    int64_t node_bytes;           /* Made minus discarded. */
};

/* Insert |item|, or put it in the place of the one with its key, which is returned (else NULL) and
 * is the caller's to discard. |item| is borrowed for as long as it is in a reachable tree. */
struct cache_tree_item *cache_tree_put(struct cache_tree_node **root,
                                       struct cache_tree_change *change,
                                       struct cache_tree_item *item, bool is_live);
/* Returns the removed item, the caller's to discard; NULL if absent. */
struct cache_tree_item *cache_tree_remove(struct cache_tree_node **root,
                                          struct cache_tree_change *change, struct slice key);

/* Called for each item of a leaf that is freed. */
typedef void cache_tree_free_item_fn(struct cache_tree_item *item, uint64_t edit);
/* Free the nodes and separators below |root| that |edit| made. |free_item| may be NULL. */
void cache_tree_drop(struct cache_tree_node *root, uint64_t edit,
                     cache_tree_free_item_fn *free_item);
/* Free all. */
void cache_tree_free(struct cache_tree_node *root, cache_tree_free_item_fn *free_item);

/* Invariants 1 to 7, O(items). Liveness itself is the caller's to check. */
bool cache_tree_is_sound(const struct cache_tree_node *root);

#endif
