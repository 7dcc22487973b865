/*
 * Goal: api_decode reads what Go's protobuf reads, and refuses what it refuses.
 * Method: tables of edges by hand; nesting up to the limit; the fuzzers compare with protobuf-c.
 */
#include "support.h"

#include "api/decode.h"
#include "core/buf.h"
#include "core/limits.h"
#include "core/wire.h"
#include "proto/health.pb-c.h"
#include "proto/rpc.pb-c.h"

static struct arena arena;
static enum api_decode_result result;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_fini(&arena);
    return 0;
}

static const Etcdserverpb__RangeRequest *range_of(struct slice wire)
{
    return api_decode(wire, &etcdserverpb__range_request__descriptor, &arena, &result);
}

static const Etcdserverpb__RequestOp *op_of(struct slice wire)
{
    return api_decode(wire, &etcdserverpb__request_op__descriptor, &arena, &result);
}

#define assert_bytes(bytes, text) \
    assert_slice_equal(slice_of((bytes).data, (bytes).len), SLICE_LIT(text))

static void an_empty_request_has_zeroes(void **state)
{
    (void)state;
    const Etcdserverpb__RangeRequest *range = range_of(SLICE_EMPTY);
    assert_non_null(range);
    assert_int_equal(range->key.len, 0);
    assert_int_equal(range->limit, 0);
}

static void the_last_scalar_wins(void **state)
{
    (void)state;
    const Etcdserverpb__RangeRequest *range = range_of(SLICE_LIT("\x0a\x01"
                                                                 "a"
                                                                 "\x18\x05"
                                                                 "\x0a\x02"
                                                                 "bc"
                                                                 "\x18\x07"));
    assert_non_null(range);
    assert_bytes(range->key, "bc");
    assert_int_equal(range->limit, 7);
}

static void bytes_are_borrowed_from_the_input(void **state)
{
    (void)state;
    struct slice wire = SLICE_LIT("\x0a\x03"
                                  "key");
    const Etcdserverpb__RangeRequest *range = range_of(wire);
    assert_non_null(range);
    assert_ptr_equal(range->key.data, wire.data + 2);
}

static void unknown_fields_and_wrong_wire_types_are_skipped(void **state)
{
    (void)state;
    const struct slice cases[] = {
        SLICE_LIT("\x0a\x01"
                  "k"
                  "\x98\x06\x01"), /* Field 99, varint. */
        SLICE_LIT("\x9a\x06\x02"
                  "zz"
                  "\x0a\x01"
                  "k"), /* Field 99, bytes. */
        SLICE_LIT("\x9b\x06\x08\x01\x9c\x06"
                  "\x0a\x01"
                  "k"), /* Field 99, group. */
        SLICE_LIT("\x0a\x01"
                  "k"
                  "\x08\x05"), /* Key as a number. */
        SLICE_LIT("\x0a\x01"
                  "k"
                  "\x1a\x01"
                  "x"), /* Limit as bytes. */
        SLICE_LIT("\x0a\x01"
                  "k"
                  "\x0d"
                  "abcd"), /* Key as a 32-bit number. */
        SLICE_LIT("\x0a\x01"
                  "k"
                  "\x09"
                  "abcdefgh"), /* Key as a 64-bit number. */
        SLICE_LIT("\x0a\x01"
                  "k"
                  "\x0b\x0c"), /* Key as a group. */
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        const Etcdserverpb__RangeRequest *range = range_of(cases[i]);
        assert_non_null(range);
        assert_bytes(range->key, "k");
        assert_int_equal(range->limit, 0);
    }
}

static void malformed_bytes_are_refused(void **state)
{
    (void)state;
    const struct slice cases[] = {
        SLICE_LIT("\x0a"), /* No length. */
        SLICE_LIT("\x0a\x05"
                  "ab"),       /* Too short. */
        SLICE_LIT("\x18"),     /* No number. */
        SLICE_LIT("\x18\x80"), /* Number cut. */
        SLICE_LIT("\x02\x01"
                  "k"),                /* Field zero. */
        SLICE_LIT("\x0c"),             /* End of a group that never began. */
        SLICE_LIT("\x0e"),             /* Wire type 6. */
        SLICE_LIT("\x0f"),             /* Wire type 7. */
        SLICE_LIT("\x9b\x06\x08\x01"), /* Group without end. */
        SLICE_LIT("\x9b\x06\xa4\x06"), /* Group ended by another number. */
        SLICE_LIT("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"), /* 65 bits. */
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        assert_null(range_of(cases[i]));
        assert_int_equal(result, API_DECODE_MALFORMED);
    }
    assert_string_equal(api_decode_text(API_DECODE_MALFORMED),
                        "proto: cannot parse invalid wire-format data");
}

static void numbers_are_cut_as_go_cuts_them(void **state)
{
    (void)state;
    /* limit = -1, sort_order = 2^32 + 2, serializable = 2. */
    const Etcdserverpb__RangeRequest *range =
        range_of(SLICE_LIT("\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
                           "\x28\x82\x80\x80\x80\x10"
                           "\x38\x02"));
    assert_non_null(range);
    assert_int_equal(range->limit, -1);
    assert_int_equal(range->sort_order, 2);
    assert_int_equal(range->serializable, 1);
}

static void a_message_that_comes_again_is_merged(void **state)
{
    (void)state;
    const Etcdserverpb__RangeStreamResponse *stream =
        api_decode(SLICE_LIT("\x0a\x04\x0a\x02\x18\x05"
                             "\x0a\x06\x0a\x02\x20\x09\x20\x03"),
                   &etcdserverpb__range_stream_response__descriptor, &arena, &result);
    assert_non_null(stream);
    assert_int_equal(stream->range_response->header->revision, 5);
    assert_int_equal(stream->range_response->header->raft_term, 9);
    assert_int_equal(stream->range_response->count, 3);
}

static void a_oneof_keeps_its_last_member_and_merges_the_same_one(void **state)
{
    (void)state;
    /* Range(key a), Range(limit 5): one and the same. */
    const Etcdserverpb__RequestOp *op = op_of(SLICE_LIT("\x0a\x03\x0a\x01"
                                                        "a"
                                                        "\x0a\x02\x18\x05"));
    assert_non_null(op);
    assert_int_equal(op->request_case, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE);
    assert_bytes(op->request_range->key, "a");
    assert_int_equal(op->request_range->limit, 5);
    /* Range(key a), Put(key b): the Put. */
    op = op_of(SLICE_LIT("\x0a\x03\x0a\x01"
                         "a"
                         "\x12\x03\x0a\x01"
                         "b"));
    assert_non_null(op);
    assert_int_equal(op->request_case, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT);
    assert_bytes(op->request_put->key, "b");
    /* Range(key a), Put, Range(limit 5): the last Range, without a key. */
    op = op_of(SLICE_LIT("\x0a\x03\x0a\x01"
                         "a"
                         "\x12\x00"
                         "\x0a\x02\x18\x05"));
    assert_non_null(op);
    assert_int_equal(op->request_case, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE);
    assert_int_equal(op->request_range->key.len, 0);
    assert_int_equal(op->request_range->limit, 5);
    /* A member with a wrong wire type does not switch. */
    op = op_of(SLICE_LIT("\x0a\x03\x0a\x01"
                         "a"
                         "\x10\x01"));
    assert_non_null(op);
    assert_int_equal(op->request_case, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE);
}

static void a_scalar_oneof_keeps_the_last(void **state)
{
    (void)state;
    const Etcdserverpb__Compare *compare =
        api_decode(SLICE_LIT("\x3a\x03"
                             "val"
                             "\x30\x2a"
                             "\x82\x04\x01"
                             "z"),
                   &etcdserverpb__compare__descriptor, &arena, &result);
    assert_non_null(compare);
    assert_int_equal(compare->target_union_case, ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION);
    assert_int_equal(compare->mod_revision, 42);
    assert_bytes(compare->range_end, "z");
}

static void repeated_numbers_may_be_packed_or_not(void **state)
{
    (void)state;
    const Etcdserverpb__WatchCreateRequest *create =
        api_decode(SLICE_LIT("\x28\x01"
                             "\x2a\x02\x00\x01"
                             "\x28\x00"
                             "\x2a\x00"
                             "\x2a\x03\x01\x01\x01"),
                   &etcdserverpb__watch_create_request__descriptor, &arena, &result);
    assert_non_null(create);
    const int expected[] = {1, 0, 1, 0, 1, 1, 1};
    assert_int_equal(create->n_filters, ARRAY_COUNT(expected));
    for (size_t i = 0; i < ARRAY_COUNT(expected); i++) {
        assert_int_equal(create->filters[i], expected[i]);
    }
    assert_null(api_decode(SLICE_LIT("\x2a\x02\x01\x80"),
                           &etcdserverpb__watch_create_request__descriptor, &arena, &result));
}

static void strings_are_utf8_and_keep_their_nuls(void **state)
{
    (void)state;
    const Grpc__Health__V1__HealthCheckRequest *check =
        api_decode(SLICE_LIT("\x0a\x03"
                             "a\0b"),
                   &grpc__health__v1__health_check_request__descriptor, &arena, &result);
    assert_non_null(check);
    assert_slice_equal(api_decoded_string(check->service), SLICE_LIT("a\0b"));
    check = api_decode(SLICE_EMPTY, &grpc__health__v1__health_check_request__descriptor, &arena,
                       &result);
    assert_non_null(check);
    assert_int_equal(api_decoded_string(check->service).size, 0);
    assert_null(api_decode(SLICE_LIT("\x0a\x02\xc3\x28"),
                           &grpc__health__v1__health_check_request__descriptor, &arena, &result));
    assert_int_equal(result, API_DECODE_UTF8);
    assert_string_equal(api_decode_text(result), "string field contains invalid UTF-8");
}

/* Txn in success in Txn ...: |txns| of them, from the inside out. */
static void nest(struct buf *wire, uint32_t txns)
{
    struct buf inner = {0};
    for (uint32_t i = 1; i < txns; i++) {
        uint8_t head[4 * WIRE_VARINT_SIZE_MAX];
        size_t op = 1 + wire_varint_size(inner.size) + inner.size;
        uint8_t *at = wire_put_tag(head, 2, WIRE_LEN); /* success */
        at = wire_put_varint(at, op);
        at = wire_put_tag(at, 4, WIRE_LEN); /* request_txn */
        at = wire_put_varint(at, inner.size);
        buf_clear(wire);
        buf_add(wire, head, (size_t)(at - head));
        buf_add_slice(wire, buf_slice(&inner));
        struct buf swap = inner;
        inner = *wire;
        *wire = swap;
    }
    buf_fini(wire);
    *wire = inner;
}

static void messages_nest_to_the_limit_and_not_beyond(void **state)
{
    (void)state;
    struct buf wire = {0};
    nest(&wire, LIMIT_PROTO_DEPTH / 2); /* A Txn and its op are two levels; the first is one. */
    assert_non_null(
        api_decode(buf_slice(&wire), &etcdserverpb__txn_request__descriptor, &arena, &result));
    buf_clear(&wire);
    nest(&wire, LIMIT_PROTO_DEPTH / 2 + 1);
    assert_null(
        api_decode(buf_slice(&wire), &etcdserverpb__txn_request__descriptor, &arena, &result));
    assert_int_equal(result, API_DECODE_DEPTH);
    assert_string_equal(api_decode_text(result), "proto: exceeded maximum recursion depth");
    buf_fini(&wire);
}

static void a_million_operations_end_at_the_ceiling(void **state)
{
    (void)state;
    struct buf wire = {0};
    for (uint32_t i = 0; i < 1024 * 1024; i++) {
        buf_add(&wire, "\x12", 2); /* An empty op in success. */
    }
    assert_null(
        api_decode(buf_slice(&wire), &etcdserverpb__txn_request__descriptor, &arena, &result));
    assert_int_equal(result, API_DECODE_CEILING);
    assert_true(arena.size_used <= arena.size_max);
    buf_fini(&wire);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(an_empty_request_has_zeroes),
        CASE(the_last_scalar_wins),
        CASE(bytes_are_borrowed_from_the_input),
        CASE(unknown_fields_and_wrong_wire_types_are_skipped),
        CASE(malformed_bytes_are_refused),
        CASE(numbers_are_cut_as_go_cuts_them),
        CASE(a_message_that_comes_again_is_merged),
        CASE(a_oneof_keeps_its_last_member_and_merges_the_same_one),
        CASE(a_scalar_oneof_keeps_the_last),
        CASE(repeated_numbers_may_be_packed_or_not),
        CASE(strings_are_utf8_and_keep_their_nuls),
        CASE(messages_nest_to_the_limit_and_not_beyond),
        CASE(a_million_operations_end_at_the_ceiling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
