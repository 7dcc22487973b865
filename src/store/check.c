/*
 * Validity of requests, in etcd's order of errors: pure functions of the request alone.
 *
 * A Txn may be nested as deep as its budget of operations allows, so everything here is iterative.
 * Two passes, as in etcd: operations first (all of them), then overlapping keys, so that the second
 * pass only sees requests of bounded width.
 */
#include "store/internal.h"

enum err store_range_check(const struct store_range *range)
{
    if (range->key.size == 0) {
        return ERR_EMPTY_KEY;
    }
    if ((unsigned)range->sort_order > STORE_SORT_DESCEND ||
        (unsigned)range->sort_target > STORE_SORT_VALUE) {
        return ERR_INVALID_SORT_OPTION;
    }
    return ERR_OK;
}

enum err store_put_check(const struct store_put *put)
{
    if (put->key.size == 0) {
        return ERR_EMPTY_KEY;
    }
    if (put->ignore_value && put->value.size != 0) {
        return ERR_VALUE_PROVIDED;
    }
    if (put->ignore_lease && put->lease != 0) {
        return ERR_LEASE_PROVIDED;
    }
    return ERR_OK;
}

enum err store_delete_check(const struct store_delete *del)
{
    return del->key.size == 0 ? ERR_EMPTY_KEY : ERR_OK;
}

static bool list_is_ranges(const struct store_op *ops, uint32_t count, bool serializable)
{
    ASSERT(count == 0 || ops != NULL);
    for (uint32_t i = 0; i < count; i++) {
        if (ops[i].kind != STORE_OP_RANGE || (serializable && !ops[i].u.range->serializable)) {
            return false;
        }
    }
    return true;
}

bool store_txn_is_readonly(const struct store_txn *txn)
{
    ASSERT(txn != NULL);
    return list_is_ranges(txn->success, txn->success_count, false) &&
           list_is_ranges(txn->failure, txn->failure_count, false);
}

bool store_txn_is_serializable(const struct store_txn *txn)
{
    ASSERT(txn != NULL);
    return list_is_ranges(txn->success, txn->success_count, true) &&
           list_is_ranges(txn->failure, txn->failure_count, true);
}

/* ---- first pass: operations ----------------------------------------------------------------- */

struct ops_frame {
    const struct store_txn *txn;
    uint64_t budget; /* For transactions inside. */
    uint64_t next;   /* Operations checked: success first, then failure. */
};

/* What checking |txn| itself, without its operations, says; the budget left for its children. */
static enum err txn_head_check(const struct store_txn *txn, uint64_t max_ops, uint64_t *budget)
{
    ASSERT(txn != NULL);
    uint64_t ops = txn->compare_count;
    ops = ops > txn->success_count ? ops : txn->success_count;
    ops = ops > txn->failure_count ? ops : txn->failure_count;
    if (ops > max_ops) {
        return ERR_TOO_MANY_OPS;
    }
    for (uint32_t i = 0; i < txn->compare_count; i++) {
        if (txn->compares[i].key.size == 0) {
            return ERR_EMPTY_KEY;
        }
    }
    *budget = max_ops - ops;
    return ERR_OK;
}

static enum err op_check(const struct store_op *op)
{
    ASSERT((unsigned)op->kind <= STORE_OP_NONE);
    switch (op->kind) {
    case STORE_OP_RANGE:
        return store_range_check(op->u.range);
    case STORE_OP_PUT:
        return store_put_check(op->u.put);
    case STORE_OP_DELETE:
        return store_delete_check(op->u.del);
    case STORE_OP_TXN:
        return ERR_OK;
    case STORE_OP_NONE:
        break;
    }
    return ERR_KEY_NOT_FOUND;
}

static enum err txn_ops_check(const struct store_txn *txn, uint64_t max_ops)
{
    ASSERT(txn != NULL);
    struct store_vec frames = {0};
    struct ops_frame *top = store_vec_add(&frames, sizeof(*top));
    *top = (struct ops_frame){.txn = txn};
    enum err err = txn_head_check(txn, max_ops, &top->budget);
    while (err == ERR_OK && frames.count > 0) {
        top = store_vec_last(&frames, sizeof(*top));
        uint64_t at = top->next++;
        const struct store_op *op = NULL;
        if (at < top->txn->success_count) {
            op = &top->txn->success[at];
        } else if (at - top->txn->success_count < top->txn->failure_count) {
            op = &top->txn->failure[at - top->txn->success_count];
        } else {
            frames.count--;
            continue;
        }
        err = op_check(op);
        if (err == ERR_OK && op->kind == STORE_OP_TXN) {
            uint64_t budget = top->budget;
            struct ops_frame *child = store_vec_add(&frames, sizeof(*child));
            *child = (struct ops_frame){.txn = op->u.txn};
            err = txn_head_check(child->txn, budget, &child->budget);
        }
    }
    store_vec_fini(&frames);
    return err;
}

/* ---- second pass: overlapping keys ---------------------------------------------------------- */

/* [begin, end) of bytes as given, so "\0" is no open end here; a point has |point| set. */
struct span {
    struct slice begin;
    struct slice end;
    bool point;
};
struct key_set {
    struct slice *keys; /* Sorted, distinct. */
    size_t count;
};
struct span_set {
    struct span *spans; /* Sorted by begin, disjoint. */
    size_t count;
};
struct touched {
    struct key_set puts;
    struct span_set dels;
};

/* One list of operations that is being worked on. */
struct list_frame {
    const struct store_op *ops;
    uint32_t count;
    uint32_t next; /* Of the nested transactions. */
    bool in_else;
    struct touched sum;
    struct touched then; /* Of the nested transaction whose else-branch is being worked on. */
};

/* Whether |key| lies before the end of |span|. */
static bool span_ends_behind(const struct span *span, struct slice key)
{
    int order = slice_compare(key, span->end);
    return span->point ? order <= 0 : order < 0;
}

/* Order of two ends: "k" as a point ends right behind k. */
static bool span_end_less(const struct span *a, const struct span *b)
{
    int order = slice_compare(a->end, b->end);
    return order < 0 || (order == 0 && !a->point && b->point);
}

static int span_order(const void *a, const void *b)
{
    return slice_compare(((const struct span *)a)->begin, ((const struct span *)b)->begin);
}

static int key_order(const void *a, const void *b)
{
    return slice_compare(*(const struct slice *)a, *(const struct slice *)b);
}

/* Make |set|, sorted by begin, disjoint. */
static void spans_melt(struct span_set *set)
{
    ASSERT(set->count == 0 || set->spans != NULL);
    size_t out = 0;
    for (size_t i = 0; i < set->count; i++) {
        struct span *last = out == 0 ? NULL : &set->spans[out - 1];
        if (last != NULL && span_ends_behind(last, set->spans[i].begin)) {
            if (span_end_less(last, &set->spans[i])) {
                last->end = set->spans[i].end;
                last->point = set->spans[i].point;
            }
            continue;
        }
        set->spans[out++] = set->spans[i];
    }
    ASSERT(out <= set->count);
    set->count = out;
}

static bool spans_cover(const struct span_set *set, struct slice key)
{
    ASSERT(set->count == 0 || set->spans != NULL);
    size_t low = 0;
    size_t high = set->count; /* The first span that begins behind |key|. */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (slice_compare(set->spans[middle].begin, key) <= 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    ASSERT(low <= set->count);
    return low > 0 && span_ends_behind(&set->spans[low - 1], key);
}

static bool spans_cover_any(const struct span_set *set, const struct key_set *keys)
{
    ASSERT(set->count == 0 || set->spans != NULL);
    ASSERT(keys->count == 0 || keys->keys != NULL);
    for (size_t i = 0; set->count > 0 && i < keys->count; i++) {
        if (spans_cover(set, keys->keys[i])) {
            return true;
        }
    }
    return false;
}

/* Both sorted and distinct. */
static bool keys_meet(const struct key_set *a, const struct key_set *b)
{
    ASSERT(a->count == 0 || a->keys != NULL);
    ASSERT(b->count == 0 || b->keys != NULL);
    size_t i = 0;
    size_t j = 0;
    while (i < a->count && j < b->count) {
        int order = slice_compare(a->keys[i], b->keys[j]);
        if (order == 0) {
            return true;
        }
        i += order < 0;
        j += order > 0;
    }
    ASSERT(i <= a->count && j <= b->count);
    return false;
}

static bool keys_add(struct arena *arena, struct key_set *to, const struct key_set *more)
{
    ASSERT(arena->size_max > 0);
    ASSERT(to->count == 0 || to->keys != NULL);
    ASSERT(more->count == 0 || more->keys != NULL);
    if (more->count == 0) {
        return true;
    }
    struct slice *keys = arena_alloc(arena, (to->count + more->count) * sizeof(*keys));
    if (keys == NULL) {
        return false;
    }
    size_t i = 0;
    size_t j = 0;
    size_t out = 0;
    while (i < to->count || j < more->count) {
        int order = i == to->count     ? 1
                    : j == more->count ? -1
                                       : slice_compare(to->keys[i], more->keys[j]);
        keys[out++] = order <= 0 ? to->keys[i] : more->keys[j];
        i += order <= 0;
        j += order >= 0;
    }
    ASSERT(out <= to->count + more->count);
    *to = (struct key_set){keys, out};
    return true;
}

static bool spans_add(struct arena *arena, struct span_set *to, const struct span_set *more)
{
    ASSERT(arena->size_max > 0);
    ASSERT(to->count == 0 || to->spans != NULL);
    ASSERT(more->count == 0 || more->spans != NULL);
    if (more->count == 0) {
        return true;
    }
    struct span *spans = arena_alloc(arena, (to->count + more->count) * sizeof(*spans));
    if (spans == NULL) {
        return false;
    }
    size_t i = 0;
    size_t j = 0;
    for (size_t out = 0; out < to->count + more->count; out++) {
        bool left =
            j == more->count || (i < to->count && span_order(&to->spans[i], &more->spans[j]) <= 0);
        spans[out] = left ? to->spans[i++] : more->spans[j++];
    }
    ASSERT(i == to->count && j == more->count);
    *to = (struct span_set){spans, i + j};
    spans_melt(to);
    return true;
}

/* The deletes of the list itself, first: puts of nested transactions are held against them. */
static bool frame_add_deletes(struct arena *arena, struct list_frame *frame)
{
    ASSERT(arena->size_max > 0);
    ASSERT(frame->next <= frame->count);
    struct span *spans = arena_alloc(arena, frame->count * sizeof(*spans));
    if (spans == NULL) {
        return false;
    }
    size_t count = 0;
    for (uint32_t i = 0; i < frame->count; i++) {
        if (frame->ops[i].kind != STORE_OP_DELETE) {
            continue;
        }
        const struct store_delete *del = frame->ops[i].u.del;
        if (del->range_end.size == 0) {
            spans[count++] = (struct span){del->key, del->key, true};
        } else if (slice_compare(del->key, del->range_end) < 0) {
            spans[count++] = (struct span){del->key, del->range_end, false};
        }
    }
    qsort(spans, count, sizeof(*spans), span_order);
    frame->sum.dels = (struct span_set){spans, count};
    spans_melt(&frame->sum.dels);
    return true;
}

/* The puts of the list itself, last of all. */
static enum err frame_add_puts(struct arena *arena, struct list_frame *frame)
{
    ASSERT(arena->size_max > 0);
    ASSERT(frame->next <= frame->count);
    struct key_set own = {arena_alloc(arena, frame->count * sizeof(*own.keys)), 0};
    if (own.keys == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    for (uint32_t i = 0; i < frame->count; i++) {
        if (frame->ops[i].kind == STORE_OP_PUT) {
            own.keys[own.count++] = frame->ops[i].u.put->key;
        }
    }
    qsort(own.keys, own.count, sizeof(*own.keys), key_order);
    for (size_t i = 1; i < own.count; i++) {
        if (slice_equal(own.keys[i - 1], own.keys[i])) {
            return ERR_DUPLICATE_KEY;
        }
    }
    if (keys_meet(&frame->sum.puts, &own) || spans_cover_any(&frame->sum.dels, &own)) {
        return ERR_DUPLICATE_KEY;
    }
    return keys_add(arena, &frame->sum.puts, &own) ? ERR_OK : ERR_REQUEST_TOO_LARGE;
}

/*
 * Both branches of a nested transaction are known. The branches exclude each other, so they may
 * share keys. Deletes of a later sibling are not held against puts of an earlier one: etcd's rule.
 */
static enum err frame_add_child(struct arena *arena, struct list_frame *frame,
                                const struct touched *then, const struct touched *other)
{
    ASSERT(arena->size_max > 0);
    ASSERT(frame->next <= frame->count);
    const struct touched *branches[2] = {then, other};
    for (uint32_t i = 0; i < 2; i++) {
        if (keys_meet(&frame->sum.puts, &branches[i]->puts) ||
            spans_cover_any(&frame->sum.dels, &branches[i]->puts)) {
            return ERR_DUPLICATE_KEY;
        }
    }
    for (uint32_t i = 0; i < 2; i++) {
        if (!keys_add(arena, &frame->sum.puts, &branches[i]->puts) ||
            !spans_add(arena, &frame->sum.dels, &branches[i]->dels)) {
            return ERR_REQUEST_TOO_LARGE;
        }
    }
    return ERR_OK;
}

static bool frame_push(struct arena *arena, struct store_vec *frames, const struct store_op *ops,
                       uint32_t count)
{
    ASSERT(arena->size_max > 0);
    ASSERT(frames->count <= frames->room);
    struct list_frame *frame = store_vec_add(frames, sizeof(*frame));
    *frame = (struct list_frame){.ops = ops, .count = count};
    return frame_add_deletes(arena, frame);
}

/* The list on top is done: hand what it touched to the one below. */
static enum err frame_pop(struct arena *arena, struct store_vec *frames)
{
    ASSERT(arena->size_max > 0);
    ASSERT(frames->count <= frames->room);
    struct list_frame *done = store_vec_last(frames, sizeof(*done));
    TRY(frame_add_puts(arena, done));
    struct touched sum = done->sum;
    frames->count--;
    if (frames->count == 0) {
        return ERR_OK;
    }
    struct list_frame *below = store_vec_last(frames, sizeof(*below));
    const struct store_txn *txn = below->ops[below->next].u.txn;
    if (!below->in_else) {
        below->in_else = true;
        below->then = sum;
        return frame_push(arena, frames, txn->failure, txn->failure_count) ? ERR_OK
                                                                           : ERR_REQUEST_TOO_LARGE;
    }
    below->in_else = false;
    below->next++;
    return frame_add_child(arena, below, &below->then, &sum);
}

static enum err list_overlap_check(struct arena *arena, struct store_vec *frames,
                                   const struct store_op *ops, uint32_t count)
{
    ASSERT(arena->size_max > 0);
    ASSERT(frames->count <= frames->room);
    ASSERT(frames->count == 0);
    enum err err = frame_push(arena, frames, ops, count) ? ERR_OK : ERR_REQUEST_TOO_LARGE;
    while (err == ERR_OK && frames->count > 0) {
        struct list_frame *top = store_vec_last(frames, sizeof(*top));
        while (top->next < top->count && top->ops[top->next].kind != STORE_OP_TXN) {
            top->next++;
        }
        if (top->next < top->count) {
            const struct store_txn *txn = top->ops[top->next].u.txn;
            if (!frame_push(arena, frames, txn->success, txn->success_count)) {
                err = ERR_REQUEST_TOO_LARGE;
            }
            continue;
        }
        err = frame_pop(arena, frames);
    }
    frames->count = 0;
    return err;
}

enum err store_txn_check(const struct store_txn *txn, uint64_t max_ops)
{
    TRY(txn_ops_check(txn, max_ops));
    struct arena arena;
    struct store_vec frames = {0};
    /* Keys are borrowed: this takes a few words per operation and level. */
    arena_init(&arena, LIMIT_CHECK_ARENA);
    enum err err = list_overlap_check(&arena, &frames, txn->success, txn->success_count);
    if (err == ERR_OK) {
        err = list_overlap_check(&arena, &frames, txn->failure, txn->failure_count);
    }
    store_vec_fini(&frames);
    arena_fini(&arena);
    return err;
}
