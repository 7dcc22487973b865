/* Keys that are hard on trees. */
#include "support_keys.h"

#include <stdlib.h>

#include "core/mem.h"

static int key_order(const void *a, const void *b)
{
    return slice_compare(*(const struct slice *)a, *(const struct slice *)b);
}

static struct slice key_make(struct rng *rng)
{
    static const char *const heads[] = {"",  "/registry/pods/", "/registry/pods/default/",
                                        "/", "\xff\xff",        "a"};
    uint8_t bytes[256];
    size_t size = 0;
    struct slice head = slice_str(heads[rng_below(rng, ARRAY_COUNT(heads))]);
    memcpy(bytes, head.data, head.size);
    size += head.size;
    size_t more = 1 + rng_below(rng, rng_below(rng, 30) == 0 ? 200 : 6);
    uint64_t letters = rng_below(rng, 3) == 0 ? 256 : 4;
    for (size_t i = 0; i < more; i++) {
        bytes[size++] = (uint8_t)rng_below(rng, letters);
    }
    return slice_of(mem_copy(bytes, size), size);
}

static void key_free(struct slice key)
{
    union {
        const uint8_t *read;
        void *owned;
    } bytes = {.read = key.data};
    mem_free(bytes.owned);
}

void support_keys_init(struct support_keys *keys, struct rng *rng, uint32_t count)
{
    keys->keys = mem_alloc(count * sizeof(keys->keys[0]));
    keys->count = 0;
    while (keys->count < count) {
        while (keys->count < count) {
            keys->keys[keys->count++] = key_make(rng);
        }
        qsort(keys->keys, count, sizeof(keys->keys[0]), key_order);
        uint32_t kept = 1;
        for (uint32_t i = 1; i < count; i++) {
            if (slice_equal(keys->keys[i], keys->keys[kept - 1])) {
                key_free(keys->keys[i]);
            } else {
                keys->keys[kept++] = keys->keys[i];
            }
        }
        keys->count = kept;
    }
}

void support_keys_fini(struct support_keys *keys)
{
    for (uint32_t i = 0; i < keys->count; i++) {
        key_free(keys->keys[i]);
    }
    mem_free(keys->keys);
    *keys = (struct support_keys){0};
}
