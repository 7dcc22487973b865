/*
 * Goal: arenas give separate, aligned, zeroed memory up to their ceiling and not a byte beyond;
 * buffers grow without losing a byte. Method: random sizes, each allocation filled with its own
 * byte and checked at the end.
 */
#include "support.h"

#include "core/arena.h"
#include "core/buf.h"
#include "core/mem.h"

enum { PIECES = 500 };

static bool is_all(const uint8_t *bytes, size_t size, uint8_t byte)
{
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != byte) {
            return false;
        }
    }
    return true;
}

static void allocations_do_not_overlap(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, support_seed());
    struct arena arena;
    arena_init(&arena, 16 * 1024 * 1024);
    for (uint32_t round = 0; round < 20; round++) {
        uint8_t *pieces[PIECES];
        size_t sizes[PIECES];
        for (uint32_t i = 0; i < PIECES; i++) {
            sizes[i] = rng_below(&rng, rng_below(&rng, 20) == 0 ? 10000 : 100);
            bool is_bytes = rng_below(&rng, 2) == 0;
            pieces[i] =
                is_bytes ? arena_alloc_bytes(&arena, sizes[i]) : arena_alloc(&arena, sizes[i]);
            assert_non_null(pieces[i]);
            assert_true(is_bytes || (uintptr_t)pieces[i] % 16 == 0);
            assert_true(is_bytes || is_all(pieces[i], sizes[i], 0));
            memset(pieces[i], (int)(i % 251), sizes[i]);
        }
        for (uint32_t i = 0; i < PIECES; i++) {
            assert_true(is_all(pieces[i], sizes[i], (uint8_t)(i % 251)));
        }
        arena_reset(&arena); /* The next round finds dirty memory. */
    }
    arena_fini(&arena);
}

static void the_ceiling_holds_to_the_byte(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 10000);
    assert_non_null(arena_alloc_bytes(&arena, 10000));
    assert_null(arena_alloc_bytes(&arena, 1));
    assert_null(arena_alloc(&arena, 1));
    assert_int_equal(arena.size_used, 10000);
    struct slice copy;
    assert_false(arena_copy(&arena, SLICE_LIT("x"), &copy));
    assert_true(arena_copy(&arena, SLICE_EMPTY, &copy));
    assert_int_equal(copy.size, 0);
    arena_fini(&arena);
    assert_null(arena_alloc(&arena, 10001));
    assert_null(arena_alloc_bytes(&arena, SIZE_MAX));
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_true(arena_copy(&arena, SLICE_LIT("abc"), &copy));
    assert_slice_equal(copy, SLICE_LIT("abc"));
    arena_fini(&arena);
}

static void small_pieces_reach_the_ceiling(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 100000);
    size_t count = 0;
    while (arena_alloc(&arena, 16) != NULL) {
        count++;
    }
    assert_true(arena.size_used <= 100000);
    assert_true(count > 6000); /* Of 6250 that an ideal arena holds. */
    arena_fini(&arena);
}

static void a_reset_arena_keeps_one_block(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 1024 * 1024);
    arena_reset(&arena);
    assert_int_equal(arena.size_used, 0);
    assert_non_null(arena_alloc(&arena, 100));
    size_t first = arena.size_used;
    for (uint32_t i = 0; i < 100; i++) {
        assert_non_null(arena_alloc(&arena, 5000));
    }
    arena_reset(&arena);
    assert_int_equal(arena.size_used, first);
    arena_fini(&arena);
}

static void a_buffer_keeps_every_byte(void **state)
{
    (void)state;
    struct buf buf = {0};
    for (uint32_t i = 0; i < 10000; i++) {
        buf_add_byte(&buf, (uint8_t)i);
    }
    buf_add(&buf, NULL, 0);
    buf_add_slice(&buf, SLICE_LIT("end"));
    assert_int_equal(buf.size, 10003);
    for (uint32_t i = 0; i < 10000; i++) {
        assert_int_equal(buf.data[i], (uint8_t)i);
    }
    assert_memory_equal(buf.data + 10000, "end", 3);
    buf_clear(&buf);
    assert_int_equal(buf_slice(&buf).size, 0);
    buf_fini(&buf);
}

static void a_buffer_prints_any_length(void **state)
{
    (void)state;
    char *text = mem_alloc(1001);
    for (size_t size = 0; size <= 1000; size += 7) {
        memset(text, 'x', size);
        text[size] = '\0';
        struct buf buf = {0};
        buf_printf(&buf, "%s", text);
        buf_printf(&buf, "%s|", text);
        assert_int_equal(buf.size, 2 * size + 1);
        assert_memory_equal(buf.data, text, size);
        assert_int_equal(buf.data[2 * size], '|');
        buf_fini(&buf);
    }
    mem_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_do_not_overlap),
        cmocka_unit_test(the_ceiling_holds_to_the_byte),
        cmocka_unit_test(small_pieces_reach_the_ceiling),
        cmocka_unit_test(a_reset_arena_keeps_one_block),
        cmocka_unit_test(a_buffer_keeps_every_byte),
        cmocka_unit_test(a_buffer_prints_any_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
