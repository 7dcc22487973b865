/* A table of keys in order that are hard on trees: shared prefixes, prefixes of each other, bytes
 * above 0x7f and NUL bytes, lengths from 1 to some hundred. */
#ifndef TESTS_SUPPORT_KEYS_H
#define TESTS_SUPPORT_KEYS_H

#include "core/clock.h"
#include "core/slice.h"

struct support_keys {
    struct slice *keys; /* Ascending, no two equal. */
    uint32_t count;
};

/* |count| keys, the same for the same state of |rng|. */
void support_keys_init(struct support_keys *keys, struct rng *rng, uint32_t count);
void support_keys_fini(struct support_keys *keys);

#endif
