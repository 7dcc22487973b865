/* Changing the tree: copies on write, splits, joins, and what is freed with them. */
#include "cache/tree.h"

#include "core/mem.h"

enum {
    FANOUT = CACHE_TREE_FANOUT,
    JOIN_BELOW = FANOUT / 4, /* A node with fewer asks its neighbour ... */
    JOIN_UP_TO = FANOUT / 2, /* ... and joins it when both make no more than this. */
};
static_assert(JOIN_BELOW < JOIN_UP_TO, "a join does not ask for the next one");
static_assert(FANOUT == 64, "one bit for each item of a leaf");

/* Not const: nodes below a root that is being edited. */
static struct cache_tree_leaf *leaf_of(struct cache_tree_node *node)
{
    ASSERT(node->level == 0);
    ASSERT(node->count <= FANOUT);
    return CONTAINER_OF(node, struct cache_tree_leaf, head);
}

static struct cache_tree_inner *inner_of(struct cache_tree_node *node)
{
    ASSERT(node->level > 0);
    ASSERT(node->level < CACHE_TREE_DEPTH && node->count <= FANOUT);
    return CONTAINER_OF(node, struct cache_tree_inner, head);
}

static size_t node_size(const struct cache_tree_node *node)
{
    return node->level == 0 ? sizeof(struct cache_tree_leaf) : sizeof(struct cache_tree_inner);
}

static struct cache_tree_node *node_new(struct cache_tree_change *change, uint32_t level)
{
    ASSERT(level < CACHE_TREE_DEPTH);
    ASSERT(change->edit > 0);
    size_t size = level == 0 ? sizeof(struct cache_tree_leaf) : sizeof(struct cache_tree_inner);
    struct cache_tree_node *node = mem_alloc(size);
    node->edit = change->edit;
    node->level = (uint16_t)level;
    change->node_bytes += (int64_t)size;
    return node;
}

static void node_discard(struct cache_tree_change *change, struct cache_tree_node *node)
{
    ASSERT(node->edit <= change->edit);
    ASSERT(node->count <= FANOUT);
    change->node_bytes -= (int64_t)node_size(node);
    if (node->edit == change->edit) {
        mem_free(node); /* Nobody else has ever seen it. */
    } else {
        cache_garbage_add(&change->garbage, node);
    }
}

/* |node| itself if this edit made it, else a copy in its place. */
static struct cache_tree_node *node_own(struct cache_tree_change *change,
                                        struct cache_tree_node *node)
{
    ASSERT(node->edit <= change->edit);
    ASSERT(node->count > 0);
    if (node->edit == change->edit) {
        return node;
    }
    struct cache_tree_node *copy = mem_copy(node, node_size(node));
    copy->edit = change->edit;
    change->node_bytes += (int64_t)node_size(node);
    node_discard(change, node);
    return copy;
}

static size_t sep_size(uint32_t size)
{
    return sizeof(struct cache_tree_sep) + size;
}

/* The shortest key that is above |low| and not above |high|. */
static struct cache_tree_sep *sep_new(struct cache_tree_change *change, struct slice low,
                                      struct slice high)
{
    ASSERT(slice_compare(low, high) < 0);
    size_t shared = 0;
    while (shared < low.size && low.data[shared] == high.data[shared]) {
        shared++;
    }
    ASSERT(shared < high.size);
    uint32_t size = (uint32_t)shared + 1;
    struct cache_tree_sep *sep = mem_alloc_raw(sep_size(size));
    sep->edit = change->edit;
    sep->size = size;
    memcpy(sep->bytes, high.data, size);
    change->node_bytes += (int64_t)sep_size(size);
    return sep;
}

static void sep_discard(struct cache_tree_change *change, struct cache_tree_sep *sep)
{
    ASSERT(sep != NULL);
    ASSERT(sep->edit <= change->edit);
    change->node_bytes -= (int64_t)sep_size(sep->size);
    if (sep->edit == change->edit) {
        mem_free(sep);
    } else {
        cache_garbage_add(&change->garbage, sep);
    }
}

/* First place at or above |key|. */
static uint32_t item_find(const struct cache_tree_leaf *leaf, struct slice key)
{
    ASSERT(leaf->head.count <= FANOUT);
    uint32_t low = 0;
    uint32_t high = leaf->head.count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (slice_compare(cache_tree_key(leaf->items[middle]), key) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    ASSERT(low <= leaf->head.count);
    return low;
}

static uint64_t bits_below(uint32_t at)
{
    ASSERT(at <= FANOUT);
    return at == FANOUT ? UINT64_MAX : (UINT64_C(1) << at) - 1;
}

/* ---- inserting ------------------------------------------------------------------------------- */

static void leaf_insert(struct cache_tree_leaf *leaf, uint32_t at, struct cache_tree_item *item,
                        bool is_live)
{
    ASSERT(leaf->head.count < FANOUT);
    ASSERT(at <= leaf->head.count);
    memmove(&leaf->items[at + 1], &leaf->items[at],
            (leaf->head.count - at) * sizeof(leaf->items[0]));
    leaf->items[at] = item;
    uint64_t below = leaf->live_bits & bits_below(at);
    uint64_t above = (leaf->live_bits & ~bits_below(at)) << 1;
    leaf->live_bits = below | (uint64_t)is_live << at | above;
    leaf->head.count++;
    leaf->head.live += is_live;
    ASSERT(leaf->head.live == (uint64_t)__builtin_popcountll(leaf->live_bits));
}

/* Make room for a child and its separator at |at| > 0. */
static void inner_insert(struct cache_tree_inner *inner, uint32_t at, struct cache_tree_node *child,
                         struct cache_tree_sep *sep)
{
    ASSERT(inner->head.count < FANOUT);
    ASSERT(at > 0 && at <= inner->head.count);
    size_t moved = inner->head.count - at;
    memmove(&inner->children[at + 1], &inner->children[at], moved * sizeof(inner->children[0]));
    memmove(&inner->seps[at + 1], &inner->seps[at], moved * sizeof(inner->seps[0]));
    memmove(&inner->live[at + 1], &inner->live[at], moved * sizeof(inner->live[0]));
    inner->children[at] = child;
    inner->seps[at] = sep;
    inner->live[at] = child->live;
    inner->head.count++;
}

/* Where to cut a full leaf: behind the last item when |key| goes there, for keys that come in
 * order; else in the middle. */
static uint32_t leaf_cut(const struct cache_tree_leaf *leaf, struct slice key)
{
    ASSERT(leaf->head.count == FANOUT);
    ASSERT(key.size > 0);
    bool is_behind = slice_compare(cache_tree_key(leaf->items[FANOUT - 1]), key) < 0;
    return is_behind ? FANOUT - 1 : FANOUT / 2;
}

static struct cache_tree_node *leaf_split(struct cache_tree_change *change,
                                          struct cache_tree_leaf *left, struct slice key,
                                          struct cache_tree_sep **sep)
{
    ASSERT(left->head.edit == change->edit);
    uint32_t cut = leaf_cut(left, key);
    struct cache_tree_leaf *right = leaf_of(node_new(change, 0));
    right->head.count = (uint16_t)(FANOUT - cut);
    memcpy(right->items, &left->items[cut], right->head.count * sizeof(right->items[0]));
    right->live_bits = left->live_bits >> cut;
    right->head.live = (uint64_t)__builtin_popcountll(right->live_bits);
    left->head.count = (uint16_t)cut;
    left->live_bits &= bits_below(cut);
    left->head.live -= right->head.live;
    *sep = sep_new(change, cache_tree_key(left->items[cut - 1]), cache_tree_key(right->items[0]));
    ASSERT(left->head.count > 0 && right->head.count > 0);
    return &right->head;
}

static struct cache_tree_node *inner_split(struct cache_tree_change *change,
                                           struct cache_tree_inner *left, bool is_behind,
                                           struct cache_tree_sep **sep)
{
    ASSERT(left->head.edit == change->edit);
    ASSERT(left->head.count == FANOUT);
    uint32_t cut = is_behind ? FANOUT - 1 : FANOUT / 2;
    struct cache_tree_inner *right = inner_of(node_new(change, left->head.level));
    right->head.count = (uint16_t)(FANOUT - cut);
    memcpy(right->children, &left->children[cut], right->head.count * sizeof(right->children[0]));
    memcpy(right->seps, &left->seps[cut], right->head.count * sizeof(right->seps[0]));
    memcpy(right->live, &left->live[cut], right->head.count * sizeof(right->live[0]));
    for (uint32_t i = 0; i < right->head.count; i++) {
        right->head.live += right->live[i];
    }
    *sep = right->seps[0]; /* It becomes the bound between the two. */
    right->seps[0] = NULL;
    left->head.count = (uint16_t)cut;
    ASSERT(left->head.live >= right->head.live);
    ASSERT(*sep != NULL);
    left->head.live -= right->head.live;
    return &right->head;
}

/* Split the full child |at| of |parent|, both owned by the edit and |parent| not full. */
static void child_split(struct cache_tree_change *change, struct cache_tree_inner *parent,
                        uint32_t at, struct slice key)
{
    struct cache_tree_node *left = parent->children[at];
    ASSERT(left->count == FANOUT);
    ASSERT(parent->head.count < FANOUT);
    struct cache_tree_sep *sep = NULL;
    struct cache_tree_node *right = NULL;
    if (left->level == 0) {
        right = leaf_split(change, leaf_of(left), key, &sep);
    } else {
        bool is_behind = cache_tree_child_of(inner_of(left), key) == FANOUT - 1;
        right = inner_split(change, inner_of(left), is_behind, &sep);
    }
    parent->live[at] = left->live;
    inner_insert(parent, at + 1, right, sep);
}

/* The root is full: put a new one above. */
static void root_grow(struct cache_tree_node **root, struct cache_tree_change *change)
{
    ASSERT((*root)->count == FANOUT);
    ASSERT((*root)->edit == change->edit);
    struct cache_tree_inner *above = inner_of(node_new(change, (*root)->level + 1u));
    above->head.count = 1;
    above->head.live = (*root)->live;
    above->children[0] = *root;
    above->live[0] = (*root)->live;
    *root = &above->head;
}

static void tree_insert(struct cache_tree_node **root, struct cache_tree_change *change,
                        struct cache_tree_item *item, bool is_live)
{
    struct slice key = cache_tree_key(item);
    *root = *root == NULL ? node_new(change, 0) : node_own(change, *root);
    if ((*root)->count == FANOUT) {
        root_grow(root, change);
    }
    struct cache_tree_node *node = *root;
    while (node->level > 0) {
        struct cache_tree_inner *inner = inner_of(node);
        uint32_t at = cache_tree_child_of(inner, key);
        inner->children[at] = node_own(change, inner->children[at]);
        if (inner->children[at]->count == FANOUT) {
            child_split(change, inner, at, key);
            at = cache_tree_child_of(inner, key);
        }
        inner->head.live += is_live;
        inner->live[at] += is_live;
        node = inner->children[at];
        ASSERT(node->edit == change->edit);
    }
    ASSERT(node->count < FANOUT);
    leaf_insert(leaf_of(node), item_find(leaf_of(node), key), item, is_live);
}

/* Put |item| in the place of the one with its key. */
static void tree_replace(struct cache_tree_node **root, struct cache_tree_change *change,
                         struct cache_tree_item *item, bool was_live, bool is_live)
{
    struct slice key = cache_tree_key(item);
    ASSERT(*root != NULL);
    struct cache_tree_node **link = root;
    for (;;) {
        struct cache_tree_node *node = node_own(change, *link);
        *link = node;
        node->live += is_live;
        node->live -= was_live;
        if (node->level == 0) {
            break;
        }
        struct cache_tree_inner *inner = inner_of(node);
        uint32_t at = cache_tree_child_of(inner, key);
        inner->live[at] += is_live;
        inner->live[at] -= was_live;
        link = &inner->children[at];
    }
    struct cache_tree_leaf *leaf = leaf_of(*link);
    uint32_t at = item_find(leaf, key);
    ASSERT(at < leaf->head.count);
    leaf->items[at] = item;
    leaf->live_bits &= ~(UINT64_C(1) << at);
    leaf->live_bits |= (uint64_t)is_live << at;
    ASSERT(leaf->head.live == (uint64_t)__builtin_popcountll(leaf->live_bits));
}

/* The item with |key| and whether it is live; NULL if absent. */
static struct cache_tree_item *tree_find(const struct cache_tree_node *root, struct slice key,
                                         bool *is_live)
{
    struct cache_tree_item *item = cache_tree_get(root, key);
    if (item == NULL) {
        return NULL;
    }
    const struct cache_tree_node *node = root;
    while (node->level > 0) {
        const struct cache_tree_inner *inner = cache_tree_inner(node);
        node = inner->children[cache_tree_child_of(inner, key)];
    }
    const struct cache_tree_leaf *leaf = cache_tree_leaf(node);
    uint32_t at = item_find(leaf, key);
    ASSERT(at < leaf->head.count);
    ASSERT(leaf->items[at] == item);
    *is_live = (leaf->live_bits >> at & 1) != 0;
    return item;
}

struct cache_tree_item *cache_tree_put(struct cache_tree_node **root,
                                       struct cache_tree_change *change,
                                       struct cache_tree_item *item, bool is_live)
{
    ASSERT(item != NULL);
    ASSERT(*root == NULL || (*root)->edit <= change->edit);
    bool was_live = false;
    struct cache_tree_item *old = tree_find(*root, cache_tree_key(item), &was_live);
    if (old == NULL) {
        tree_insert(root, change, item, is_live);
    } else {
        tree_replace(root, change, item, was_live, is_live);
    }
    return old;
}

/* ---- removing -------------------------------------------------------------------------------- */

static void leaf_remove(struct cache_tree_leaf *leaf, uint32_t at)
{
    ASSERT(at < leaf->head.count);
    uint64_t below = leaf->live_bits & bits_below(at);
    uint64_t above = (leaf->live_bits & ~bits_below(at + 1)) >> 1;
    leaf->live_bits = below | above;
    leaf->head.live = (uint64_t)__builtin_popcountll(leaf->live_bits);
    leaf->head.count--;
    memmove(&leaf->items[at], &leaf->items[at + 1],
            (leaf->head.count - at) * sizeof(leaf->items[0]));
    ASSERT(leaf->head.live <= leaf->head.count);
}

/* Take out child |at|, which is discarded by the caller, and the separator that it leaves over. */
static struct cache_tree_sep *inner_remove(struct cache_tree_inner *inner, uint32_t at)
{
    ASSERT(at < inner->head.count);
    uint32_t sep_at = at == 0 ? 1 : at;
    struct cache_tree_sep *sep = inner->head.count == 1 ? NULL : inner->seps[sep_at];
    inner->head.count--;
    size_t moved = inner->head.count - at;
    memmove(&inner->children[at], &inner->children[at + 1], moved * sizeof(inner->children[0]));
    memmove(&inner->seps[at], &inner->seps[at + 1], moved * sizeof(inner->seps[0]));
    memmove(&inner->live[at], &inner->live[at + 1], moved * sizeof(inner->live[0]));
    inner->seps[0] = NULL;
    ASSERT(IMPLIES(inner->head.count > 0, sep != NULL));
    return sep;
}

static void leaf_append(struct cache_tree_leaf *left, const struct cache_tree_leaf *right)
{
    ASSERT(left->head.count + right->head.count <= JOIN_UP_TO);
    memcpy(&left->items[left->head.count], right->items,
           right->head.count * sizeof(right->items[0]));
    left->live_bits |= right->live_bits << left->head.count;
    left->head.live += right->head.live;
    left->head.count = (uint16_t)(left->head.count + right->head.count);
    ASSERT(left->head.live <= left->head.count);
}

static void inner_append(struct cache_tree_inner *left, const struct cache_tree_inner *right,
                         struct cache_tree_sep *sep)
{
    ASSERT(left->head.count + right->head.count <= JOIN_UP_TO);
    ASSERT(sep != NULL);
    uint32_t at = left->head.count;
    memcpy(&left->children[at], right->children, right->head.count * sizeof(right->children[0]));
    memcpy(&left->seps[at], right->seps, right->head.count * sizeof(right->seps[0]));
    memcpy(&left->live[at], right->live, right->head.count * sizeof(right->live[0]));
    left->seps[at] = sep;
    left->head.live += right->head.live;
    left->head.count = (uint16_t)(left->head.count + right->head.count);
}

/* Join the children |at| and |at| + 1 if they fit into one with room to spare. */
static void children_join(struct cache_tree_change *change, struct cache_tree_inner *parent,
                          uint32_t at)
{
    ASSERT(at + 1 < parent->head.count);
    struct cache_tree_node *right = parent->children[at + 1];
    ASSERT(right->level == parent->children[at]->level);
    if (parent->children[at]->count + right->count > JOIN_UP_TO) {
        return;
    }
    struct cache_tree_node *left = node_own(change, parent->children[at]);
    parent->children[at] = left;
    struct cache_tree_sep *sep = inner_remove(parent, at + 1);
    if (left->level == 0) {
        leaf_append(leaf_of(left), cache_tree_leaf(right));
        sep_discard(change, sep);
    } else {
        inner_append(inner_of(left), cache_tree_inner(right), sep);
    }
    parent->live[at] = left->live;
    node_discard(change, right);
}

/* Child |at| of |parent| lost something: take it out when it is empty, join it when it is small. */
static void child_settle(struct cache_tree_change *change, struct cache_tree_inner *parent,
                         uint32_t at)
{
    struct cache_tree_node *child = parent->children[at];
    ASSERT(child->edit == change->edit);
    ASSERT(parent->head.edit == change->edit);
    if (child->count == 0) {
        struct cache_tree_sep *sep = inner_remove(parent, at);
        if (sep != NULL) {
            sep_discard(change, sep);
        }
        node_discard(change, child);
    } else if (child->count < JOIN_BELOW && parent->head.count > 1) {
        children_join(change, parent, at + 1 < parent->head.count ? at : at - 1);
    }
}

/* No empty root, and no inner root with a single child. */
static void root_shrink(struct cache_tree_node **root, struct cache_tree_change *change)
{
    while (*root != NULL && (*root)->count <= ((*root)->level > 0 ? 1 : 0)) {
        struct cache_tree_node *old = *root;
        ASSERT(old->edit == change->edit);
        *root = old->count == 0 ? NULL : inner_of(old)->children[0];
        node_discard(change, old);
    }
    ASSERT(*root == NULL || (*root)->count > 0);
}

struct cache_tree_item *cache_tree_remove(struct cache_tree_node **root,
                                          struct cache_tree_change *change, struct slice key)
{
    bool was_live = false;
    struct cache_tree_item *item = tree_find(*root, key, &was_live);
    if (item == NULL) {
        return NULL;
    }
    struct cache_tree_inner *path[CACHE_TREE_DEPTH];
    uint32_t places[CACHE_TREE_DEPTH];
    uint32_t depth = 0;
    struct cache_tree_node **link = root;
    for (;;) {
        *link = node_own(change, *link);
        if ((*link)->level == 0) {
            break;
        }
        struct cache_tree_inner *inner = inner_of(*link);
        ASSERT(depth < CACHE_TREE_DEPTH);
        path[depth] = inner;
        places[depth] = cache_tree_child_of(inner, key);
        inner->head.live -= was_live;
        inner->live[places[depth]] -= was_live;
        link = &inner->children[places[depth]];
        depth++;
    }
    leaf_remove(leaf_of(*link), item_find(leaf_of(*link), key));
    while (depth > 0) {
        depth--;
        child_settle(change, path[depth], places[depth]);
    }
    root_shrink(root, change);
    ASSERT(cache_tree_key(item).size == key.size);
    return item;
}

/* ---- freeing --------------------------------------------------------------------------------- */

struct free_walk {
    struct {
        struct cache_tree_node *node;
        uint32_t at;
    } path[CACHE_TREE_DEPTH];
    uint32_t depth;
};

/* Free what hangs on one node, and the node. Only what |edit| made; UINT64_MAX: everything. */
static void node_free(struct cache_tree_node *node, uint64_t edit,
                      cache_tree_free_item_fn *free_item)
{
    ASSERT(node->count <= FANOUT);
    ASSERT(node->edit == edit || edit == UINT64_MAX);
    if (node->level == 0) {
        for (uint32_t i = 0; free_item != NULL && i < node->count; i++) {
            free_item(leaf_of(node)->items[i], edit);
        }
    } else {
        for (uint32_t i = 1; i < node->count; i++) {
            struct cache_tree_sep *sep = inner_of(node)->seps[i];
            if (edit == UINT64_MAX || sep->edit == edit) {
                mem_free(sep);
            }
        }
    }
    mem_free(node);
}

void cache_tree_drop(struct cache_tree_node *root, uint64_t edit,
                     cache_tree_free_item_fn *free_item)
{
    struct free_walk walk = {.depth = 0};
    if (root != NULL && (edit == UINT64_MAX || root->edit == edit)) {
        walk.path[walk.depth++].node = root;
    }
    while (walk.depth > 0) {
        struct cache_tree_node *node = walk.path[walk.depth - 1].node;
        uint32_t at = walk.path[walk.depth - 1].at++;
        if (node->level == 0 || at >= node->count) {
            node_free(node, edit, free_item);
            walk.depth--;
            continue;
        }
        struct cache_tree_node *child = inner_of(node)->children[at];
        ASSERT(child->edit <= node->edit);
        if (edit == UINT64_MAX || child->edit == edit) {
            ASSERT(walk.depth < CACHE_TREE_DEPTH);
            walk.path[walk.depth].node = child;
            walk.path[walk.depth].at = 0;
            walk.depth++;
        }
    }
}

void cache_tree_free(struct cache_tree_node *root, cache_tree_free_item_fn *free_item)
{
    ASSERT(IMPLIES(root != NULL, root->edit < UINT64_MAX));
    ASSERT(IMPLIES(root != NULL, root->count > 0));
    cache_tree_drop(root, UINT64_MAX, free_item);
}
