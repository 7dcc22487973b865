/*
 * Goal: the small grammars of gRPC are read and written as grpc-go does.
 * Method: tables; the expected words are what google.golang.org/grpc 1.83 prints.
 */
#include "rpc/frame.h"
#include "rpc/grpc.h"
#include "support.h"

static const uint64_t hour_ns = 3600 * NS_PER_S;

static void timeouts_are_read_as_grpc_go_reads_them(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t ns; /* UINT64_MAX = refused with |why|. */
        const char *why;
    } rows[] = {
        {"1S", 1000000000, ""},
        {"0n", 0, ""},
        {"00000001n", 1, ""},
        {"99999999n", 99999999, ""},
        {"20000u", 20000000, ""},
        {"7m", 7000000, ""},
        {"3M", 180000000000, ""},
        {"2H", 7200000000000, ""},
        {"2562047H", UINT64_C(9223369200000000000), ""},
        {"2562048H", INT64_MAX, ""},
        {"99999999H", INT64_MAX, ""},
        {"99999999M", UINT64_C(5999999940000000000), ""},
        {"", UINT64_MAX, "transport: timeout string is too short: \"\""},
        {"S", UINT64_MAX, "transport: timeout string is too short: \"S\""},
        {"123456789S", UINT64_MAX, "transport: timeout string is too long: \"123456789S\""},
        {"1s", UINT64_MAX, "transport: timeout unit is not recognized: \"1s\""},
        {"10", UINT64_MAX, "transport: timeout unit is not recognized: \"10\""},
        {"-1S", UINT64_MAX, "strconv.ParseUint: parsing \"-1\": invalid syntax"},
        {"+1S", UINT64_MAX, "strconv.ParseUint: parsing \"+1\": invalid syntax"},
        {"1_0S", UINT64_MAX, "strconv.ParseUint: parsing \"1_0\": invalid syntax"},
        {" 1S", UINT64_MAX, "strconv.ParseUint: parsing \" 1\": invalid syntax"},
        {"a\"S", UINT64_MAX, "strconv.ParseUint: parsing \"a\\\"\": invalid syntax"},
    };
    assert_true(hour_ns == UINT64_C(3600000000000));
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct buf why = {0};
        uint64_t ns = UINT64_MAX;
        bool is_good = rpc_grpc_timeout(slice_str(rows[i].text), &ns, &why);
        assert_int_equal(is_good, rows[i].ns != UINT64_MAX);
        assert_true(ns == rows[i].ns);
        assert_slice_equal(buf_slice(&why), slice_str(rows[i].why));
        buf_fini(&why);
    }
}

static void messages_are_percent_encoded_as_grpc_go_does(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *encoded;
    } rows[] = {
        {"", ""},
        {"etcdserver: key not found", "etcdserver: key not found"},
        {"100%", "100%25"},
        {"a\nb\tc", "a%0Ab%09c"},
        {"\x7f", "%7F"},
        {"\xc3\xa9", "%C3%A9"},
        {"\xe2\x82\xac", "%E2%82%AC"},
        {"\xf0\x9f\x98\x80", "%F0%9F%98%80"},
        {"\xff", "%EF%BF%BD"},
        {"a\xc3", "a%EF%BF%BD"},
        {"\xc3(", "%EF%BF%BD("},
        {"\xed\xa0\x80", "%EF%BF%BD%EF%BF%BD%EF%BF%BD"},
        {"\xc0\x80", "%EF%BF%BD%EF%BF%BD"},
        {"\xf4\x90\x80\x80", "%EF%BF%BD%EF%BF%BD%EF%BF%BD%EF%BF%BD"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct buf encoded = {0};
        rpc_grpc_encode_message(slice_str(rows[i].text), &encoded);
        assert_slice_equal(buf_slice(&encoded), slice_str(rows[i].encoded));
        buf_fini(&encoded);
    }
}

static void quoting_follows_go(void **state)
{
    (void)state;
    static const struct {
        struct slice text;
        const char *quoted;
    } rows[] = {
        {{(const uint8_t *)"", 0}, "\"\""},
        {{(const uint8_t *)"/a b", 4}, "\"/a b\""},
        {{(const uint8_t *)"\"\\", 2}, "\"\\\"\\\\\""},
        {{(const uint8_t *)"\a\b\f\n\r\t\v", 7}, "\"\\a\\b\\f\\n\\r\\t\\v\""},
        {{(const uint8_t *)"\0\x1f\x7f\xff", 4}, "\"\\x00\\x1f\\x7f\\xff\""},
        {{(const uint8_t *)"\xc3\xa9", 2}, "\"\xc3\xa9\""},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct buf quoted = {0};
        rpc_grpc_quote(rows[i].text, &quoted);
        assert_slice_equal(buf_slice(&quoted), slice_str(rows[i].quoted));
        buf_fini(&quoted);
    }
}

static void content_types_are_matched_by_prefix_and_separator(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool is_valid;
    } rows[] = {
        {"application/grpc", true},
        {"application/grpc+proto", true},
        {"application/grpc+", true},
        {"application/grpc;charset=x", true},
        {"application/grpc-web", false},
        {"application/grpcproto", false},
        {"application/json", false},
        {"Application/grpc", false},
        {"", false},
        {"application/grp", false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        assert_int_equal(rpc_grpc_content_type_is_valid(slice_str(rows[i].text)), rows[i].is_valid);
    }
}

static void paths_are_split_at_their_last_slash(void **state)
{
    (void)state;
    struct slice service;
    struct slice method;
    assert_true(rpc_grpc_split_path(SLICE_LIT("/a.B/C"), &service, &method));
    assert_slice_equal(service, SLICE_LIT("a.B"));
    assert_slice_equal(method, SLICE_LIT("C"));
    assert_true(rpc_grpc_split_path(SLICE_LIT("/a/b/c"), &service, &method));
    assert_slice_equal(service, SLICE_LIT("a/b"));
    assert_true(rpc_grpc_split_path(SLICE_LIT("//"), &service, &method));
    assert_int_equal(service.size + method.size, 0);
    assert_false(rpc_grpc_split_path(SLICE_LIT("/abc"), &service, &method));
    assert_false(rpc_grpc_split_path(SLICE_LIT("abc/d"), &service, &method));
    assert_false(rpc_grpc_split_path(SLICE_EMPTY, &service, &method));
}

/* Three messages, one of them empty, cut at every place. */
static void messages_come_out_whole_however_they_are_cut(void **state)
{
    (void)state;
    static const uint8_t bytes[] = "\0\0\0\0\3abc\0\0\0\0\0\0\0\0\0\7defghij";
    const size_t size = sizeof(bytes) - 1;
    static const char *const expected[] = {"abc", "", "defghij"};
    for (size_t first = 0; first <= size; first++) {
        for (size_t second = first; second <= size; second++) {
            const size_t cuts[] = {0, first, second, size};
            struct rpc_frame frame = {0};
            uint32_t found = 0;
            for (size_t i = 0; i < 3; i++) {
                struct slice part = slice_of(bytes + cuts[i], cuts[i + 1] - cuts[i]);
                struct slice message;
                while (part.size > 0 &&
                       rpc_frame_feed(&frame, &part, 7, &message) == RPC_FRAME_MESSAGE) {
                    assert_slice_equal(message, slice_str(expected[found]));
                    found++;
                    rpc_frame_next(&frame);
                }
            }
            assert_int_equal(found, 3);
            assert_true(rpc_frame_is_between(&frame));
        }
    }
}

static void a_claimed_size_costs_no_memory(void **state)
{
    (void)state;
    struct rpc_frame frame = {0};
    struct slice part = SLICE_LIT("\0\0\x20\0\0x");
    struct slice message;
    assert_int_equal(rpc_frame_feed(&frame, &part, UINT32_MAX, &message), RPC_FRAME_MORE);
    assert_true(frame.room <= 4096);
    rpc_frame_next(&frame);
    part = SLICE_LIT("\0\0\0\0\x0bhello world");
    assert_int_equal(rpc_frame_feed(&frame, &part, 10, &message), RPC_FRAME_TOO_LARGE);
    rpc_frame_next(&frame);
}

static void a_flag_is_judged_when_its_message_is_whole(void **state)
{
    (void)state;
    for (uint8_t flag = 0; flag < 3; flag++) {
        const uint8_t bytes[] = {flag, 0, 0, 0, 2, 'a', 'b'};
        struct rpc_frame frame = {0};
        struct slice part = slice_of(bytes, sizeof(bytes) - 1);
        struct slice message;
        assert_int_equal(rpc_frame_feed(&frame, &part, 10, &message), RPC_FRAME_MORE);
        assert_false(rpc_frame_is_between(&frame));
        part = slice_of(bytes + sizeof(bytes) - 1, 1);
        assert_int_equal(rpc_frame_feed(&frame, &part, 10, &message), RPC_FRAME_MESSAGE);
        assert_int_equal(rpc_frame_flag(&frame), flag);
        rpc_frame_next(&frame);
    }
}

static void base64_is_read_as_grpc_go_reads_it(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *bytes; /* NULL = refused at |bad_at|. */
        size_t bad_at;
    } rows[] = {
        {"", "", 0},
        {"YQ==", "a", 0},
        {"YQ", "a", 0},
        {"YWI=", "ab", 0},
        {"YWI", "ab", 0},
        {"YWJj", "abc", 0},
        {"YR", "a", 0},
        {"YWJjZA", "abcd", 0},
        {"YWJjZA==", "abcd", 0},
        {"Cg/+", "\n\x0f\xfe", 0},
        {"!!!", NULL, 0},
        {"A", NULL, 0},
        {"AAAAA", NULL, 4},
        {"AA=", NULL, 2},
        {"AAAA=", NULL, 4},
        {"A===", NULL, 1},
        {"====", NULL, 0},
        {"AA=A", NULL, 2},
        {"AAA=AAAA", NULL, 4},
        {"AA==AAAA", NULL, 4},
        {"AAAAAA=A", NULL, 6},
        {"AAAAA===", NULL, 5},
        {"AA_-", NULL, 2},
        {"AAAAAAA!", NULL, 7},
        {"AAA=A=AA", NULL, 4},
        {"AAAAAAAA=", NULL, 8},
        {"AA\xff"
         "A",
         NULL, 2},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct buf bytes = {0};
        size_t bad_at = 0;
        bool is_fine = rpc_grpc_base64(slice_str(rows[i].text), &bytes, &bad_at);
        assert_int_equal(is_fine, rows[i].bytes != NULL);
        if (is_fine) {
            assert_slice_equal(buf_slice(&bytes), slice_str(rows[i].bytes));
        } else {
            assert_int_equal(bad_at, rows[i].bad_at);
        }
        buf_fini(&bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timeouts_are_read_as_grpc_go_reads_them),
        cmocka_unit_test(messages_are_percent_encoded_as_grpc_go_does),
        cmocka_unit_test(quoting_follows_go),
        cmocka_unit_test(content_types_are_matched_by_prefix_and_separator),
        cmocka_unit_test(paths_are_split_at_their_last_slash),
        cmocka_unit_test(messages_come_out_whole_however_they_are_cut),
        cmocka_unit_test(a_claimed_size_costs_no_memory),
        cmocka_unit_test(a_flag_is_judged_when_its_message_is_whole),
        cmocka_unit_test(base64_is_read_as_grpc_go_reads_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
