/*
 * Goal: a version's bytes are exactly what Go's marshaller writes for the mvccpb.KeyValue, and what
 * is read back is what was put in.
 * Method: encode by the generic rule (fields in order, zero ones omitted, two's complement varints)
 * and compare bytes, over values at the edges and random ones; plus a few messages spelled out.
 */
#include "support.h"

#include "cache/version.h"
#include "core/buf.h"
#include "core/mem.h"

/* The rule, slowly: seven bits at a time, lowest first. */
static void add_varint(struct buf *buf, uint64_t value)
{
    do {
        uint8_t low = value % 128;
        value /= 128;
        buf_add_byte(buf, (uint8_t)(low + (value > 0 ? 128 : 0)));
    } while (value > 0);
}

static void add_number(struct buf *buf, uint32_t field, int64_t number)
{
    if (number != 0) {
        add_varint(buf, field * 8);
        add_varint(buf, (uint64_t)number);
    }
}

static void add_bytes(struct buf *buf, uint32_t field, struct slice bytes)
{
    if (bytes.size > 0) {
        add_varint(buf, field * 8 + 2);
        add_varint(buf, bytes.size);
        buf_add_slice(buf, bytes);
    }
}

static void check_row(const struct cache_row *row)
{
    struct cache_version *version = cache_version_new(row, NULL);
    bool is_put = !row->is_delete;
    struct buf head = {0};
    add_bytes(&head, 1, row->key);
    add_number(&head, 2, is_put ? row->create_rev : 0);
    add_number(&head, 3, row->revision);
    add_number(&head, 4, is_put ? row->version : 0);
    assert_slice_equal(cache_version_encoded_head(version), buf_slice(&head));
    struct buf lease = {0};
    add_number(&lease, 6, is_put ? row->lease : 0);
    assert_slice_equal(cache_version_encoded_lease(version), buf_slice(&lease));
    add_bytes(&head, 5, is_put ? row->value : SLICE_EMPTY);
    buf_add_slice(&head, buf_slice(&lease));
    assert_slice_equal(cache_version_encoded(version), buf_slice(&head));

    assert_slice_equal(cache_version_key(version), row->key);
    assert_slice_equal(cache_version_value(version), is_put ? row->value : SLICE_EMPTY);
    assert_int_equal(cache_version_mod_rev(version), row->revision);
    assert_int_equal(cache_version_sub(version), row->sub);
    assert_int_equal(cache_version_create_rev(version), is_put ? row->create_rev : 0);
    assert_int_equal(cache_version_version(version), is_put ? row->version : 0);
    assert_int_equal(cache_version_lease(version), is_put ? row->lease : 0);
    assert_int_equal(cache_version_is_tombstone(version), row->is_delete);
    assert_null(cache_version_older(version));
    assert_int_equal(cache_version_logical(version),
                     row->key.size + (is_put ? row->value.size : 0));
    buf_fini(&head);
    buf_fini(&lease);
    mem_free(version);
}

static void bytes_are_what_go_writes(void **state)
{
    (void)state;
    struct rng rng;
    rng_seed(&rng, support_seed());
    static const int64_t edges[] = {0,  1,     127,       128,       16383,   16384,
                                    -1, -1000, INT64_MIN, INT64_MAX, 1 << 20, INT64_C(1) << 35};
    static const size_t sizes[] = {0, 1, 2, 126, 127, 128, 129, 16383, 16384, 70000};
    uint8_t *bytes = mem_alloc(70000);
    for (uint32_t i = 0; i < 70000; i++) {
        bytes[i] = (uint8_t)rng_next(&rng);
    }
    for (uint32_t i = 0; i < 20000; i++) {
        size_t key_size = sizes[rng_below(&rng, ARRAY_COUNT(sizes) - (i % 64 != 0 ? 3 : 0))];
        size_t value_size = sizes[rng_below(&rng, ARRAY_COUNT(sizes) - (i % 64 != 0 ? 3 : 0))];
        struct cache_row row = {
            .revision = (int64_t)(rng_next(&rng) >> (1 + rng_below(&rng, 62))) + 1,
            .sub = (int32_t)(rng_next(&rng) >> (33 + rng_below(&rng, 31))),
            .is_delete = rng_below(&rng, 5) == 0,
            .key = slice_of(bytes, key_size == 0 ? 3 : key_size),
            .value = slice_of(value_size == 0 ? NULL : bytes, value_size),
            .create_rev = edges[rng_below(&rng, ARRAY_COUNT(edges))],
            .version = edges[rng_below(&rng, ARRAY_COUNT(edges))],
            .lease = edges[rng_below(&rng, ARRAY_COUNT(edges))],
        };
        check_row(&row);
    }
    mem_free(bytes);
}

static void a_known_message_has_known_bytes(void **state)
{
    (void)state;
    struct cache_row row = {.revision = 300,
                            .key = SLICE_LIT("k"),
                            .value = SLICE_LIT("vw"),
                            .create_rev = 2,
                            .version = 5,
                            .lease = 7};
    struct cache_version *version = cache_version_new(&row, NULL);
    assert_slice_equal(cache_version_encoded(version),
                       SLICE_LIT("\x0a\x01k\x10\x02\x18\xac\x02\x20\x05\x2a\x02vw\x30\x07"));
    mem_free(version);
    row.is_delete = true;
    version = cache_version_new(&row, NULL);
    assert_slice_equal(cache_version_encoded(version), SLICE_LIT("\x0a\x01k\x18\xac\x02"));
    mem_free(version);
}

/* etcd's reading of range_end. */
static void ranges_are_read_as_etcd_reads_them(void **state)
{
    (void)state;
    struct cache_range range = cache_range_of(SLICE_LIT("a"), SLICE_EMPTY);
    assert_true(range.end.size == 0 && !range.open);
    range = cache_range_of(SLICE_LIT("a"), slice_of("", 1));
    assert_true(range.open);
    range = cache_range_of(SLICE_LIT("a"), slice_of("\0\0", 2));
    assert_false(range.open);
    assert_slice_equal(range.end, slice_of("\0\0", 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_what_go_writes),
        cmocka_unit_test(a_known_message_has_known_bytes),
        cmocka_unit_test(ranges_are_read_as_etcd_reads_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
