/*
 * Goal: the wire reader takes and refuses exactly what Go's protowire package does.
 * Method: a table of edges, and round trips over random numbers.
 */
#include "support.h"

#include "core/buf.h"
#include "core/limits.h"
#include "core/wire.h"

struct varint_case {
    struct slice bytes;
    bool is_valid;
    uint64_t value;
};

#define NINE_FF "\xff\xff\xff\xff\xff\xff\xff\xff\xff"
#define NINE_80 "\x80\x80\x80\x80\x80\x80\x80\x80\x80"

static void varints_end_at_64_bits(void **state)
{
    (void)state;
    const struct varint_case cases[] = {
        {SLICE_EMPTY, false, 0},
        {SLICE_LIT("\x00"), true, 0},
        {SLICE_LIT("\x7f"), true, 127},
        {SLICE_LIT("\x80"), false, 0},
        {SLICE_LIT("\x80\x01"), true, 128},
        {SLICE_LIT("\x80\x00"), true, 0}, /* Longer than needed is allowed. */
        {SLICE_LIT(NINE_FF "\x01"), true, UINT64_MAX},
        {SLICE_LIT(NINE_FF "\x02"), false, 0},
        {SLICE_LIT(NINE_80 "\x00"), true, 0},
        {SLICE_LIT(NINE_80 "\x80"), false, 0},
        {SLICE_LIT(NINE_80 "\x80\x00"), false, 0},
        {SLICE_LIT(NINE_FF), false, 0},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct wire_reader reader = wire_reader_of(cases[i].bytes);
        uint64_t value = 0;
        assert_int_equal(wire_get_varint(&reader, &value), cases[i].is_valid);
        assert_int_equal(value, cases[i].value);
        assert_int_equal(wire_is_at_end(&reader), cases[i].is_valid || cases[i].bytes.size == 0);
    }
}

static void varints_survive_a_round_trip(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, support_seed());
    for (uint32_t i = 0; i < 100000; i++) {
        uint64_t value = rng_next(&rng) >> rng_below(&rng, 64);
        uint8_t bytes[WIRE_VARINT_SIZE_MAX];
        size_t size = (size_t)(wire_put_varint(bytes, value) - bytes);
        assert_int_equal(size, wire_varint_size(value));
        struct wire_reader reader = wire_reader_of(slice_of(bytes, size));
        uint64_t again = ~value;
        assert_true(wire_get_varint(&reader, &again));
        assert_int_equal(again, value);
        assert_true(wire_is_at_end(&reader));
    }
    assert_int_equal(wire_varint_size(0), 1);
    assert_int_equal(wire_varint_size(UINT64_MAX), 10);
}

static void tags_need_a_field_number_and_a_known_type(void **state)
{
    (void)state;
    const uint64_t last = (UINT64_C(1) << 29) - 1;
    const struct {
        uint64_t tag;
        bool is_valid;
    } cases[] = {
        {0, false},          {7, false},
        {8, true},           {8 | 5, true},
        {8 | 6, false},      {8 | 7, false},
        {last << 3, true},   {(last + 1) << 3, false},
        {UINT64_MAX, false}, {(UINT64_C(1) << 35) | 8, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        uint8_t bytes[WIRE_VARINT_SIZE_MAX];
        size_t size = (size_t)(wire_put_varint(bytes, cases[i].tag) - bytes);
        struct wire_reader reader = wire_reader_of(slice_of(bytes, size));
        uint32_t field = 0;
        enum wire_type type = WIRE_VARINT;
        assert_int_equal(wire_get_tag(&reader, &field, &type), cases[i].is_valid);
        if (cases[i].is_valid) {
            assert_int_equal(field, cases[i].tag >> 3);
            assert_int_equal(type, cases[i].tag & 7);
        }
    }
}

struct skip_case {
    const char *what;
    struct slice bytes; /* With the tag. */
    bool is_valid;
};

static void fields_are_skipped_whole_or_refused(void **state)
{
    (void)state;
    const struct skip_case cases[] = {
        {"a varint", SLICE_LIT("\x08\x96\x01"), true},
        {"eight bytes",
         SLICE_LIT("\x09"
                   "12345678"),
         true},
        {"seven of eight bytes",
         SLICE_LIT("\x09"
                   "1234567"),
         false},
        {"four bytes",
         SLICE_LIT("\x0d"
                   "1234"),
         true},
        {"three of four bytes",
         SLICE_LIT("\x0d"
                   "123"),
         false},
        {"bytes",
         SLICE_LIT("\x0a\x03"
                   "abc"),
         true},
        {"no bytes", SLICE_LIT("\x0a\x00"), true},
        {"bytes beyond the end",
         SLICE_LIT("\x0a\x04"
                   "abc"),
         false},
        {"bytes of a length near 2^64", SLICE_LIT("\x0a" NINE_FF "\x01"), false},
        {"an empty group", SLICE_LIT("\x0b\x0c"), true},
        {"a group in a group", SLICE_LIT("\x0b\x13\x08\x01\x14\x0c"), true},
        {"a group ended by another", SLICE_LIT("\x0b\x14"), false},
        {"groups ended in the wrong order", SLICE_LIT("\x0b\x13\x0c\x14"), false},
        {"a group without an end", SLICE_LIT("\x0b\x08\x01"), false},
        {"an end without a group", SLICE_LIT("\x0c"), false},
        {"a bad field in a group", SLICE_LIT("\x0b\x0f\x0c"), false},
        {"field 0 in a group", SLICE_LIT("\x0b\x00\x00\x0c"), false},
        {"field 2^31-1 in a group", SLICE_LIT("\x0b\xf8\xff\xff\xff\x3f\x01\x0c"), true},
        {"field 2^31 in a group", SLICE_LIT("\x0b\x80\x80\x80\x80\x40\x01\x0c"), false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct wire_reader reader = wire_reader_of(cases[i].bytes);
        uint32_t field = 0;
        enum wire_type type = WIRE_VARINT;
        assert_true(wire_get_tag(&reader, &field, &type));
        bool is_valid = wire_skip(&reader, field, type);
        if (is_valid != cases[i].is_valid || (is_valid && !wire_is_at_end(&reader))) {
            fail_msg("%s: skipped=%d", cases[i].what, is_valid);
        }
    }
}

/* |levels| groups in each other. */
static bool groups_are_skipped(uint32_t levels)
{
    struct buf buf = {0};
    for (uint32_t i = 0; i < levels; i++) {
        buf_add_byte(&buf, 0x0b);
    }
    for (uint32_t i = 0; i < levels; i++) {
        buf_add_byte(&buf, 0x0c);
    }
    struct wire_reader reader = wire_reader_of(buf_slice(&buf));
    uint32_t field = 0;
    enum wire_type type = WIRE_VARINT;
    assert_true(wire_get_tag(&reader, &field, &type));
    bool is_skipped = wire_skip(&reader, field, type);
    buf_fini(&buf);
    return is_skipped;
}

static void groups_nest_to_the_limit(void **state)
{
    (void)state;
    assert_true(groups_are_skipped(LIMIT_PROTO_DEPTH));
    assert_true(groups_are_skipped(LIMIT_PROTO_DEPTH + 1));
    assert_false(groups_are_skipped(LIMIT_PROTO_DEPTH + 2));
    assert_false(groups_are_skipped(1000000));
}

static void text_is_utf8_or_refused(void **state)
{
    (void)state;
    const struct {
        struct slice text;
        bool is_valid;
    } cases[] = {
        {SLICE_EMPTY, true},
        {SLICE_LIT("plain\0nul"), true},
        {SLICE_LIT("\xc2\x80\xdf\xbf"), true},
        {SLICE_LIT("\xe0\xa0\x80\xef\xbf\xbf"), true},
        {SLICE_LIT("\xed\x9f\xbf\xee\x80\x80"), true},
        {SLICE_LIT("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"), true},
        {SLICE_LIT("\x80"), false},
        {SLICE_LIT("\xc0\x80"), false},         /* Longer than needed. */
        {SLICE_LIT("\xc1\xbf"), false},         /* Likewise. */
        {SLICE_LIT("\xe0\x9f\xbf"), false},     /* Likewise. */
        {SLICE_LIT("\xf0\x8f\xbf\xbf"), false}, /* Likewise. */
        {SLICE_LIT("\xed\xa0\x80"), false},     /* A surrogate. */
        {SLICE_LIT("\xf4\x90\x80\x80"), false}, /* Over U+10FFFF. */
        {SLICE_LIT("\xf5\x80\x80\x80"), false},
        {SLICE_LIT("\xff"), false},
        {SLICE_LIT("\xc2"), false},
        {SLICE_LIT("\xe2\x82"), false},
        {SLICE_LIT("\xe2\x82\x41"), false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        assert_int_equal(wire_utf8_is_valid(cases[i].text), cases[i].is_valid);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(varints_end_at_64_bits),
        cmocka_unit_test(varints_survive_a_round_trip),
        cmocka_unit_test(tags_need_a_field_number_and_a_known_type),
        cmocka_unit_test(fields_are_skipped_whole_or_refused),
        cmocka_unit_test(groups_nest_to_the_limit),
        cmocka_unit_test(text_is_utf8_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
