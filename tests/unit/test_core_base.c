/*
 * Goal: the small words (assertions, errors, slices, memory, state machines) do what their
 * headers say. Method: examples; what must panic runs in a child process.
 */
#include "support.h"

#include "core/err.h"
#include "core/mem.h"
#include "core/shared.h"
#include "core/sm.h"

static void assert_false_thing(void)
{
    ASSERT(1 + 1 == 3);
}

static void a_wrong_truth_panics(void **state)
{
    (void)state;
    support_assert_panics(assert_false_thing);
    ASSERT(1 + 1 == 2);
    assert_true(IMPLIES(false, false) && IMPLIES(true, true) && !IMPLIES(true, false));
}

static void errors_have_codes_words_and_names(void **state)
{
    (void)state;
    assert_int_equal(err_grpc_code(ERR_OK), 0);
    assert_string_equal(err_text(ERR_OK), "");
    assert_string_equal(err_name(ERR_OK), "OK");
    assert_int_equal(err_grpc_code(ERR_COMPACTED), 11);
    assert_string_equal(err_name(ERR_COMPACTED), "COMPACTED");
    for (uint32_t i = 1; i < ERR_COUNT; i++) {
        int code = err_grpc_code((enum err)i);
        assert_true(code >= 1 && code <= 16);
        assert_true(strlen(err_text((enum err)i)) > 0);
        assert_true(strlen(err_name((enum err)i)) > 0);
    }
}

static enum err try_it(enum err first, bool *went_on)
{
    TRY(first);
    *went_on = true;
    return ERR_OK;
}

static void try_passes_a_failure_up(void **state)
{
    (void)state;
    bool went_on = false;
    assert_int_equal(try_it(ERR_TIMEOUT, &went_on), ERR_TIMEOUT);
    assert_false(went_on);
    assert_int_equal(try_it(ERR_OK, &went_on), ERR_OK);
    assert_true(went_on);
}

static void slices_order_bytewise_and_prefix_first(void **state)
{
    (void)state;
    const struct slice ordered[] = {
        SLICE_EMPTY,       SLICE_LIT("\0"),   SLICE_LIT("a"),
        SLICE_LIT("a\0"),  SLICE_LIT("aa"),   SLICE_LIT("b"),
        SLICE_LIT("\x7f"), SLICE_LIT("\x80"), SLICE_LIT("\xff\xff"),
    };
    for (size_t i = 0; i < ARRAY_COUNT(ordered); i++) {
        for (size_t j = 0; j < ARRAY_COUNT(ordered); j++) {
            int order = slice_compare(ordered[i], ordered[j]);
            assert_int_equal((order > 0) - (order < 0), (i > j) - (i < j));
            assert_int_equal(slice_equal(ordered[i], ordered[j]), i == j);
        }
    }
    assert_true(slice_starts_with(SLICE_LIT("abc"), SLICE_LIT("ab")));
    assert_true(slice_starts_with(SLICE_LIT("abc"), SLICE_EMPTY));
    assert_false(slice_starts_with(SLICE_LIT("a"), SLICE_LIT("ab")));
    assert_slice_equal(slice_str("xyz"), SLICE_LIT("xyz"));
}

static void memory_comes_zeroed_and_never_null(void **state)
{
    (void)state;
    uint8_t *bytes = mem_alloc(1000);
    for (size_t i = 0; i < 1000; i++) {
        assert_int_equal(bytes[i], 0);
    }
    bytes = mem_realloc(bytes, 2000);
    mem_free(bytes);
    mem_free(NULL);
    void *nothing = mem_copy(NULL, 0);
    assert_non_null(nothing);
    mem_free(nothing);
    char *text = mem_printf("%d-%s", 7, "x");
    char *copy = mem_strdup(text);
    assert_string_equal(copy, "7-x");
    mem_free(text);
    mem_free(copy);
}

static void alloc_nothing(void)
{
    mem_free(mem_alloc(0));
}

static void alloc_too_much(void)
{
    mem_free(mem_alloc_raw(SIZE_MAX / 2));
}

static void impossible_memory_panics(void **state)
{
    (void)state;
    support_assert_panics(alloc_nothing);
#ifndef SANITIZED
    support_assert_panics(alloc_too_much); /* Sanitizers end the process in their own way. */
#else
    (void)alloc_too_much;
#endif
}

static void shared_bytes_die_with_their_last_reference(void **state)
{
    (void)state;
    struct shared *shared = shared_new(3);
    memcpy(shared->bytes, "abc", 3);
    struct shared *again = shared_ref(shared);
    assert_ptr_equal(again, shared);
    shared_unref(shared);
    assert_memory_equal(again->bytes, "abc", 3);
    assert_int_equal(again->refs, 1);
    shared_unref(again); /* The leak check of the address sanitizer sees a missing free. */
    shared_unref(NULL);
}

enum { DOOR_OPEN, DOOR_CLOSED, DOOR_GONE, DOOR_STATE_COUNT };

static const struct sm_state door_states[DOOR_STATE_COUNT] = {
    [DOOR_OPEN] = {"open", SM_TO(DOOR_CLOSED) | SM_TO(DOOR_GONE)},
    [DOOR_CLOSED] = {"closed", SM_TO(DOOR_OPEN)},
    [DOOR_GONE] = {"gone", 0},
};

static void states_move_as_the_table_allows(void **state)
{
    (void)state;
    struct sm door;
    sm_init(&door, door_states, DOOR_STATE_COUNT, DOOR_OPEN);
    assert_true(sm_is(&door, DOOR_OPEN));
    sm_move(&door, DOOR_CLOSED);
    assert_string_equal(sm_name(&door), "closed");
    sm_move(&door, DOOR_OPEN);
    sm_move(&door, DOOR_GONE);
    assert_true(sm_is(&door, DOOR_GONE));
}

static void move_out_of_a_final_state(void)
{
    struct sm door;
    sm_init(&door, door_states, DOOR_STATE_COUNT, DOOR_OPEN);
    sm_move(&door, DOOR_GONE);
    sm_move(&door, DOOR_OPEN);
}

static void move_to_no_state(void)
{
    struct sm door;
    sm_init(&door, door_states, DOOR_STATE_COUNT, DOOR_OPEN);
    sm_move(&door, DOOR_STATE_COUNT);
}

static void an_illegal_move_panics(void **state)
{
    (void)state;
    support_assert_panics(move_out_of_a_final_state);
    support_assert_panics(move_to_no_state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wrong_truth_panics),
        cmocka_unit_test(errors_have_codes_words_and_names),
        cmocka_unit_test(try_passes_a_failure_up),
        cmocka_unit_test(slices_order_bytewise_and_prefix_first),
        cmocka_unit_test(memory_comes_zeroed_and_never_null),
        cmocka_unit_test(impossible_memory_panics),
        cmocka_unit_test(shared_bytes_die_with_their_last_reference),
        cmocka_unit_test(states_move_as_the_table_allows),
        cmocka_unit_test(an_illegal_move_panics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
