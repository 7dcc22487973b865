/*
 * Goal: any bytes in entry.meta are one exact list of effects, or refused.
 * Method: what decodes must encode to the same bytes.
 */
#include "core/buf.h"
#include "sql/sql.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    const struct sql_effect *effects;
    uint32_t count;
    if (sql_effects_decode(slice_of(data, size), &arena, &effects, &count) == ERR_OK) {
        struct buf buf = {0};
        sql_effects_encode(effects, count, &buf);
        ASSERT(slice_equal(buf_slice(&buf), slice_of(data, size)));
        buf_fini(&buf);
    } else {
        ASSERT(count == 0);
    }
    arena_fini(&arena);
    return 0;
}
