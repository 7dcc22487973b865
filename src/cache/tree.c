/* Searching, counting and walking the tree. Nothing here writes to it. */
#include "cache/tree.h"

/* First place whose key is at or above |key|; |is_there|: it is |key|. */
static uint32_t leaf_find(const struct cache_tree_leaf *leaf, struct slice key, bool *is_there)
{
    ASSERT(leaf->head.level == 0);
    ASSERT(leaf->head.count <= CACHE_TREE_FANOUT);
    uint32_t low = 0;
    uint32_t high = leaf->head.count;
    *is_there = false;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order = slice_compare(cache_tree_key(leaf->items[middle]), key);
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
            *is_there = *is_there || order == 0; /* Keys differ: once found, all above are lower. */
        }
    }
    return low;
}

uint32_t cache_tree_child_of(const struct cache_tree_inner *inner, struct slice key)
{
    ASSERT(inner->head.level > 0);
    ASSERT(inner->head.count > 0);
    uint32_t low = 1;
    uint32_t high = inner->head.count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        const struct cache_tree_sep *sep = inner->seps[middle];
        if (slice_compare(slice_of(sep->bytes, sep->size), key) <= 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    ASSERT(low <= inner->head.count);
    return low - 1;
}

struct cache_tree_item *cache_tree_get(const struct cache_tree_node *root, struct slice key)
{
    if (root == NULL) {
        return NULL;
    }
    const struct cache_tree_node *node = root;
    while (node->level > 0) {
        const struct cache_tree_inner *inner = cache_tree_inner(node);
        node = inner->children[cache_tree_child_of(inner, key)];
        ASSERT(node->level + 1 == inner->head.level);
    }
    bool is_there = false;
    uint32_t at = leaf_find(cache_tree_leaf(node), key, &is_there);
    ASSERT(IMPLIES(is_there, at < node->count));
    return is_there ? cache_tree_leaf(node)->items[at] : NULL;
}

uint64_t cache_tree_rank(const struct cache_tree_node *root, struct slice key)
{
    if (root == NULL) {
        return 0;
    }
    uint64_t rank = 0;
    const struct cache_tree_node *node = root;
    while (node->level > 0) {
        const struct cache_tree_inner *inner = cache_tree_inner(node);
        uint32_t at = cache_tree_child_of(inner, key);
        for (uint32_t i = 0; i < at; i++) {
            rank += inner->live[i];
        }
        node = inner->children[at];
    }
    bool is_there = false;
    uint32_t at = leaf_find(cache_tree_leaf(node), key, &is_there);
    ASSERT(at <= CACHE_TREE_FANOUT);
    uint64_t below = at == CACHE_TREE_FANOUT ? UINT64_MAX : (UINT64_C(1) << at) - 1;
    rank += (uint64_t)__builtin_popcountll(cache_tree_leaf(node)->live_bits & below);
    ASSERT(rank <= root->live);
    return rank;
}

uint64_t cache_tree_count(const struct cache_tree_node *root, const struct cache_tree_range *range)
{
    if (root == NULL || (!range->open && slice_compare(range->key, range->end) >= 0)) {
        return 0;
    }
    uint64_t below = range->key.size == 0 ? 0 : cache_tree_rank(root, range->key);
    uint64_t up_to = range->open ? root->live : cache_tree_rank(root, range->end);
    ASSERT(below <= up_to);
    ASSERT(up_to <= root->live);
    return up_to - below;
}

/* ---- walking --------------------------------------------------------------------------------- */

/* The cursor came to a leaf: find out how much of it lies in the range. */
static void cursor_enter_leaf(struct cache_tree_cursor *cursor)
{
    ASSERT(cursor->depth > 0);
    const struct cache_tree_node *node = cursor->path[cursor->depth - 1].node;
    ASSERT(node->level == 0);
    const struct cache_tree_leaf *leaf = cache_tree_leaf(node);
    cursor->stop = node->count;
    cursor->is_last = false;
    if (cursor->open ||
        slice_compare(cache_tree_key(leaf->items[node->count - 1]), cursor->end) < 0) {
        return; /* One comparison for a whole leaf. */
    }
    bool is_there = false;
    cursor->stop = (uint16_t)leaf_find(leaf, cursor->end, &is_there);
    cursor->is_last = true;
}

void cache_tree_seek(struct cache_tree_cursor *cursor, const struct cache_tree_node *root,
                     const struct cache_tree_range *range)
{
    cursor->end = range->end;
    cursor->open = range->open;
    cursor->depth = 0;
    cursor->stop = 0;
    cursor->is_last = true;
    ASSERT(IMPLIES(!range->open && range->end.size > 0, range->end.data != NULL));
    if (root == NULL || (!range->open && slice_compare(range->key, range->end) >= 0)) {
        return;
    }
    ASSERT(root->level < CACHE_TREE_DEPTH);
    const struct cache_tree_node *node = root;
    for (; node->level > 0; cursor->depth++) {
        const struct cache_tree_inner *inner = cache_tree_inner(node);
        uint32_t at = cache_tree_child_of(inner, range->key);
        cursor->path[cursor->depth].node = node;
        cursor->path[cursor->depth].at = at;
        node = inner->children[at];
    }
    bool is_there = false;
    cursor->path[cursor->depth].node = node;
    cursor->path[cursor->depth].at = leaf_find(cache_tree_leaf(node), range->key, &is_there);
    cursor->depth++;
    cursor_enter_leaf(cursor);
}

/* First child at or behind |at| that may be entered; count if none. */
static uint64_t inner_skip(const struct cache_tree_inner *inner, uint64_t at, bool live_only)
{
    ASSERT(inner->head.level > 0);
    ASSERT(at <= inner->head.count);
    while (live_only && at < inner->head.count && inner->live[at] == 0) {
        at++;
    }
    return at;
}

/* To the start of the next leaf (with live items, if |live_only|); false at the end. */
static bool cursor_next_leaf(struct cache_tree_cursor *cursor, bool live_only)
{
    if (cursor->is_last || cursor->depth == 0) {
        cursor->depth = 0;
        return false;
    }
    uint16_t leaf_depth = cursor->depth;
    cursor->depth--;
    while (cursor->depth > 0) {
        uint64_t *at = &cursor->path[cursor->depth - 1].at;
        const struct cache_tree_inner *inner =
            cache_tree_inner(cursor->path[cursor->depth - 1].node);
        *at = inner_skip(inner, *at + 1, live_only);
        if (*at < inner->head.count) {
            break;
        }
        cursor->depth--;
    }
    if (cursor->depth == 0) {
        return false;
    }
    while (cursor->depth < leaf_depth) {
        const struct cache_tree_inner *inner =
            cache_tree_inner(cursor->path[cursor->depth - 1].node);
        const struct cache_tree_node *child = inner->children[cursor->path[cursor->depth - 1].at];
        cursor->path[cursor->depth].node = child;
        cursor->path[cursor->depth].at =
            child->level == 0 ? 0 : inner_skip(cache_tree_inner(child), 0, live_only);
        ASSERT(cursor->path[cursor->depth].at < child->count);
        cursor->depth++;
    }
    ASSERT(cursor->depth == leaf_depth);
    cursor_enter_leaf(cursor);
    return true;
}

struct cache_tree_item *cache_tree_next(struct cache_tree_cursor *cursor)
{
    ASSERT(cursor->depth <= CACHE_TREE_DEPTH);
    while (cursor->depth > 0) {
        uint64_t at = cursor->path[cursor->depth - 1].at;
        if (at < cursor->stop) {
            cursor->path[cursor->depth - 1].at = at + 1;
            ASSERT(cursor->path[cursor->depth - 1].node->level == 0);
            return cache_tree_leaf(cursor->path[cursor->depth - 1].node)->items[at];
        }
        (void)cursor_next_leaf(cursor, false);
    }
    return NULL;
}

struct cache_tree_item *cache_tree_next_live(struct cache_tree_cursor *cursor)
{
    ASSERT(cursor->depth <= CACHE_TREE_DEPTH);
    while (cursor->depth > 0) {
        const struct cache_tree_leaf *leaf = cache_tree_leaf(cursor->path[cursor->depth - 1].node);
        uint64_t at = cursor->path[cursor->depth - 1].at;
        uint64_t left = at >= CACHE_TREE_FANOUT ? 0 : leaf->live_bits >> at;
        at += left == 0 ? CACHE_TREE_FANOUT : (uint64_t)__builtin_ctzll(left);
        if (at < cursor->stop) {
            cursor->path[cursor->depth - 1].at = at + 1;
            ASSERT(leaf->items[at] != NULL);
            return leaf->items[at];
        }
        (void)cursor_next_leaf(cursor, true);
    }
    return NULL;
}

/* ---- soundness ------------------------------------------------------------------------------- */

struct sound_walk {
    struct {
        const struct cache_tree_node *node;
        uint32_t at;
        uint64_t live;
    } path[CACHE_TREE_DEPTH];
    uint32_t depth;
    const struct cache_tree_item *last; /* Item before. */
    const struct cache_tree_sep *floor; /* Separator passed last. */
};

static bool sound_leaf(struct sound_walk *walk, const struct cache_tree_leaf *leaf)
{
    ASSERT(leaf->head.level == 0);
    ASSERT(leaf->head.count <= CACHE_TREE_FANOUT);
    for (uint32_t i = 0; i < leaf->head.count; i++) {
        struct slice key = cache_tree_key(leaf->items[i]);
        if (walk->last != NULL && slice_compare(cache_tree_key(walk->last), key) >= 0) {
            return false;
        }
        if (walk->floor != NULL &&
            slice_compare(slice_of(walk->floor->bytes, walk->floor->size), key) > 0) {
            return false;
        }
        walk->last = leaf->items[i];
    }
    uint64_t live = (uint64_t)__builtin_popcountll(leaf->live_bits);
    bool no_stray_bits =
        leaf->head.count == CACHE_TREE_FANOUT || leaf->live_bits >> leaf->head.count == 0;
    return no_stray_bits && live == leaf->head.live;
}

/* Step to child |at| of the inner node on top: check what stands between it and the one before. */
static bool sound_child(struct sound_walk *walk, const struct cache_tree_inner *inner, uint32_t at)
{
    const struct cache_tree_node *child = inner->children[at];
    ASSERT(at < inner->head.count);
    ASSERT(child != NULL);
    if (at > 0) {
        const struct cache_tree_sep *sep = inner->seps[at];
        if (walk->last == NULL ||
            slice_compare(cache_tree_key(walk->last), slice_of(sep->bytes, sep->size)) >= 0 ||
            sep->edit > inner->head.edit) {
            return false;
        }
        walk->floor = sep;
    }
    return child->level + 1 == inner->head.level && child->count > 0 &&
           child->edit <= inner->head.edit && child->live == inner->live[at];
}

bool cache_tree_is_sound(const struct cache_tree_node *root)
{
    if (root == NULL) {
        return true;
    }
    if (root->level >= CACHE_TREE_DEPTH || root->count == 0 ||
        (root->level > 0 && root->count < 2)) {
        return false;
    }
    struct sound_walk walk = {.path = {{.node = root}}, .depth = 1};
    while (walk.depth > 0) {
        const struct cache_tree_node *node = walk.path[walk.depth - 1].node;
        uint32_t at = walk.path[walk.depth - 1].at++;
        if (node->level == 0) {
            if (!sound_leaf(&walk, cache_tree_leaf(node))) {
                return false;
            }
            walk.depth--;
        } else if (at < node->count) {
            const struct cache_tree_inner *inner = cache_tree_inner(node);
            if (!sound_child(&walk, inner, at)) {
                return false;
            }
            walk.path[walk.depth - 1].live += inner->live[at];
            ASSERT(walk.depth < CACHE_TREE_DEPTH);
            walk.path[walk.depth].node = inner->children[at];
            walk.path[walk.depth].at = 0;
            walk.path[walk.depth].live = 0;
            walk.depth++;
        } else {
            if (walk.path[walk.depth - 1].live != node->live) {
                return false;
            }
            walk.depth--;
        }
    }
    return true;
}
