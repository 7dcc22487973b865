/* Borrowed bytes with a length: the only form in which keys, values and messages travel. */
#ifndef CORE_SLICE_H
#define CORE_SLICE_H

#include <string.h>

#include "core/base.h"

/* |data| may be NULL only when |size| is 0. Never owns; the lender says for how long. */
struct slice {
    const uint8_t *data;
    size_t size;
};

#define SLICE_EMPTY ((struct slice){NULL, 0})
/* A string literal, without its NUL. */
#define SLICE_LIT(literal) ((struct slice){(const uint8_t *)("" literal), sizeof(literal) - 1})

static inline struct slice slice_of(const void *data, size_t size)
{
    return (struct slice){(const uint8_t *)data, size};
}

/* Borrows |text| up to its NUL. */
static inline struct slice slice_str(const char *text)
{
    return (struct slice){(const uint8_t *)text, strlen(text)};
}

/* Bytewise order, a prefix before its extensions: etcd's key order. <0, 0 or >0. */
static inline int slice_compare(struct slice a, struct slice b)
{
    size_t shared = a.size < b.size ? a.size : b.size;
    int order = shared == 0 ? 0 : memcmp(a.data, b.data, shared);
    if (order != 0) {
        return order;
    }
    return (a.size > b.size) - (a.size < b.size);
}

static inline bool slice_equal(struct slice a, struct slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline bool slice_starts_with(struct slice a, struct slice prefix)
{
    return a.size >= prefix.size &&
           (prefix.size == 0 || memcmp(a.data, prefix.data, prefix.size) == 0);
}

#endif
