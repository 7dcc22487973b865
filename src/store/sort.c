/*
 * Pattern-defeating quicksort with the choices of Go's sort.Sort: see sort.h. Every comparison and
 * exchange must happen in Go's order, or ties come out differently; tests/unit/test_store_sort.c
 * holds it against orders that Go produced.
 *
 * A part is [begin, end). The larger side of a partition waits on a stack while the smaller one is
 * sorted, so the stack holds at most log2(n) parts.
 */
#include "store/sort.h"

enum {
    INSERTION_MAX = 12,    /* Parts up to this are sorted by insertion. */
    NINTHER_MIN = 50,      /* From here on the pivot is a median of three medians. */
    SWAPS_ALL = 12,        /* All comparisons of a pivot's choice went the wrong way. */
    SHIFTS_MAX = 5,        /* Misplaced neighbours that are mended one by one. */
    SHIFT_LENGTH_MIN = 50, /* Not in shorter parts. */
    PENDING_MAX = 64,      /* Each pending part is at most half of the one before. */
};

struct sorter {
    const void **items;
    store_less_fn *less;
    const void *arg;
};

struct part {
    int64_t begin;
    int64_t end;
    uint32_t bad_choices; /* Left before heap sort takes over. */
    bool balanced;        /* The last partition was. */
    bool partitioned;     /* The last partition moved nothing. */
};

static bool less(const struct sorter *sorter, int64_t a, int64_t b)
{
    return sorter->less(sorter->items[a], sorter->items[b], sorter->arg);
}

static void swap(const struct sorter *sorter, int64_t a, int64_t b)
{
    const void *kept = sorter->items[a];
    sorter->items[a] = sorter->items[b];
    sorter->items[b] = kept;
}

static void insertion_sort(const struct sorter *sorter, int64_t begin, int64_t end)
{
    for (int64_t next = begin + 1; next < end; next++) {
        for (int64_t at = next; at > begin && less(sorter, at, at - 1); at--) {
            swap(sorter, at, at - 1);
        }
    }
}

/* Let the element at |root| of the heap that starts at |first| sink. */
static void sift_down(const struct sorter *sorter, int64_t root, int64_t size, int64_t first)
{
    int64_t child = 2 * root + 1;
    while (child < size) {
        if (child + 1 < size && less(sorter, first + child, first + child + 1)) {
            child++;
        }
        if (!less(sorter, first + root, first + child)) {
            return;
        }
        swap(sorter, first + root, first + child);
        root = child;
        child = 2 * root + 1;
    }
}

static void heap_sort(const struct sorter *sorter, int64_t begin, int64_t end)
{
    int64_t size = end - begin;
    for (int64_t root = (size - 1) / 2; root >= 0; root--) {
        sift_down(sorter, root, size, begin);
    }
    for (int64_t last = size - 1; last >= 0; last--) {
        swap(sorter, begin, begin + last);
        sift_down(sorter, 0, last, begin);
    }
}

/* ---- the pivot ------------------------------------------------------------------------------ */

/* The middle one of three, counting comparisons that went the wrong way. */
static int64_t median(const struct sorter *sorter, int64_t a, int64_t b, int64_t c, int *swaps)
{
    int64_t at[3] = {a, b, c};
    static const int pairs[3][2] = {{0, 1}, {1, 2}, {0, 1}};
    for (size_t i = 0; i < ARRAY_COUNT(pairs); i++) {
        int low = pairs[i][0];
        int high = pairs[i][1];
        if (less(sorter, at[high], at[low])) {
            int64_t kept = at[low];
            at[low] = at[high];
            at[high] = kept;
            (*swaps)++;
        }
    }
    return at[1];
}

static int64_t choose_pivot(const struct sorter *sorter, const struct part *part, int *swaps)
{
    int64_t quarter = (part->end - part->begin) / 4;
    int64_t at[3];
    ASSERT(part->end - part->begin > INSERTION_MAX);
    for (int64_t i = 0; i < 3; i++) {
        at[i] = part->begin + quarter * (i + 1);
        if (part->end - part->begin >= NINTHER_MIN) {
            at[i] = median(sorter, at[i] - 1, at[i], at[i] + 1, swaps);
        }
    }
    return median(sorter, at[0], at[1], at[2], swaps);
}

static void reverse(const struct sorter *sorter, int64_t begin, int64_t end)
{
    for (int64_t last = end - 1; begin < last; begin++, last--) {
        swap(sorter, begin, last);
    }
}

/* Exchange three elements around the middle with pseudo-random ones, seeded by the length. */
static void break_patterns(const struct sorter *sorter, const struct part *part)
{
    uint64_t length = (uint64_t)(part->end - part->begin);
    uint64_t random = length;
    uint64_t mask = (UINT64_C(1) << (64 - __builtin_clzll(length))) - 1;
    int64_t middle = part->begin + (int64_t)(length / 4) * 2;
    for (int64_t at = middle - 1; at <= middle + 1; at++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        uint64_t other = random & mask;
        if (other >= length) {
            other -= length;
        }
        swap(sorter, at, part->begin + (int64_t)other);
    }
}

/* ---- partitions ----------------------------------------------------------------------------- */

/* A few misplaced neighbours in an otherwise sorted part; true when it is sorted then. */
static bool mend_neighbours(const struct sorter *sorter, int64_t begin, int64_t end)
{
    int64_t at = begin + 1;
    for (int shifts = 0; shifts < SHIFTS_MAX; shifts++) {
        while (at < end && !less(sorter, at, at - 1)) {
            at++;
        }
        if (at == end) {
            return true;
        }
        if (end - begin < SHIFT_LENGTH_MIN) {
            return false;
        }
        swap(sorter, at, at - 1);
        /* The smaller one to the left, even past |begin|: what is there is not greater. */
        for (int64_t left = at - 1; at - begin >= 2 && left >= 1; left--) {
            if (!less(sorter, left, left - 1)) {
                break;
            }
            swap(sorter, left, left - 1);
        }
        for (int64_t right = at + 1; end - at >= 2 && right < end; right++) {
            if (!less(sorter, right, right - 1)) {
                break;
            }
            swap(sorter, right, right - 1);
        }
    }
    return false;
}

/* Smaller ones before the pivot, the rest behind it; returns where the pivot is. */
static int64_t partition(const struct sorter *sorter, struct part *part, int64_t pivot)
{
    int64_t first = part->begin;
    int64_t low = first + 1;
    int64_t high = part->end - 1;
    part->partitioned = true;
    swap(sorter, first, pivot);
    for (;;) {
        while (low <= high && less(sorter, low, first)) {
            low++;
        }
        while (low <= high && !less(sorter, high, first)) {
            high--;
        }
        if (low > high) {
            break;
        }
        part->partitioned = false;
        swap(sorter, low++, high--);
    }
    swap(sorter, high, first);
    return high;
}

/* Those equal to the pivot first; returns where the greater ones begin. */
static int64_t partition_equal(const struct sorter *sorter, const struct part *part, int64_t pivot)
{
    int64_t first = part->begin;
    int64_t low = first + 1;
    int64_t high = part->end - 1;
    swap(sorter, first, pivot);
    for (;;) {
        while (low <= high && !less(sorter, first, low)) {
            low++;
        }
        while (low <= high && less(sorter, first, high)) {
            high--;
        }
        if (low > high) {
            return low;
        }
        swap(sorter, low++, high--);
    }
}

/* Split |part| around |pivot|: the larger side stays in it, the smaller one is returned. */
static struct part split(const struct sorter *sorter, struct part *part, int64_t pivot)
{
    int64_t threshold = (part->end - part->begin) / 8;
    int64_t middle = partition(sorter, part, pivot);
    struct part side = {.bad_choices = part->bad_choices, .balanced = true, .partitioned = true};
    if (middle - part->begin < part->end - middle) {
        part->balanced = middle - part->begin >= threshold;
        side.begin = part->begin;
        side.end = middle;
        part->begin = middle + 1;
    } else {
        part->balanced = part->end - middle >= threshold;
        side.begin = middle + 1;
        side.end = part->end;
        part->end = middle;
    }
    return side;
}

/* One round; false when |part| is sorted. A |side| that is not empty is to be sorted, too. */
static bool sort_round(const struct sorter *sorter, struct part *part, struct part *side)
{
    side->begin = side->end = 0;
    if (part->end - part->begin <= INSERTION_MAX) {
        insertion_sort(sorter, part->begin, part->end);
        return false;
    }
    if (part->bad_choices == 0) {
        heap_sort(sorter, part->begin, part->end);
        return false;
    }
    if (!part->balanced) {
        break_patterns(sorter, part);
        part->bad_choices--;
    }
    int swaps = 0;
    int64_t pivot = choose_pivot(sorter, part, &swaps);
    if (swaps == SWAPS_ALL) {
        reverse(sorter, part->begin, part->end);
        pivot = part->end - 1 - (pivot - part->begin);
    }
    bool looks_sorted = swaps == 0 || swaps == SWAPS_ALL;
    if (part->balanced && part->partitioned && looks_sorted &&
        mend_neighbours(sorter, part->begin, part->end)) {
        return false;
    }
    if (part->begin > 0 && !less(sorter, part->begin - 1, pivot)) {
        part->begin = partition_equal(sorter, part, pivot);
        return true;
    }
    *side = split(sorter, part, pivot);
    return true;
}

void store_sort(const void **items, uint64_t count, store_less_fn *less_fn, const void *arg)
{
    ASSERT(count <= INT64_MAX);
    const struct sorter sorter = {items, less_fn, arg};
    struct part pending[PENDING_MAX];
    uint32_t pending_count = 0;
    if (count < 2) {
        return;
    }
    struct part part = {.end = (int64_t)count,
                        .bad_choices = (uint32_t)(64 - __builtin_clzll(count)),
                        .balanced = true,
                        .partitioned = true};
    for (;;) {
        struct part side;
        bool more = sort_round(&sorter, &part, &side);
        if (more && side.end - side.begin > 1) {
            ASSERT(pending_count < PENDING_MAX);
            pending[pending_count++] = part;
            part = side;
        } else if (!more && pending_count == 0) {
            return;
        } else if (!more) {
            part = pending[--pending_count];
        }
    }
}
