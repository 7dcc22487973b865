/*
 * Goal: compressed messages are read and answered as grpc-go does, within the ceilings.
 * Method: members made by our own writer, then cut, changed and joined; a real server. What Go's
 * reader says about the same bytes is compared by tests/go/wire_grpc_test.go.
 */
#include "rpc/gzip.h"

#include <stdio.h>

#include "core/limits.h"
#include "core/mem.h"
#include "support.h"
#include "support_http2.h"
#include "support_rpc.h"

enum { GZIP_MAX = 2 * 1024 * 1024 };

/* |plain| as a member, added to |packed|. */
static void pack(struct slice plain, struct buf *packed)
{
    const struct rpc_part part = {.bytes = plain};
    rpc_gzip_deflate(&part, 1, packed);
}

static void check_fails(struct slice packed, uint32_t size_max, enum rpc_status status,
                        const char *words)
{
    struct buf plain = {0};
    struct buf why = {0};
    assert_int_equal(rpc_gzip_inflate(packed, size_max, &plain, &why), status);
    assert_slice_equal(buf_slice(&why), slice_str(words));
    assert_true(plain.size <= (size_t)size_max + 1);
    buf_fini(&plain);
    buf_fini(&why);
}

static void check_gives(struct slice packed, struct slice expected)
{
    struct buf plain = {0};
    struct buf why = {0};
    assert_int_equal(rpc_gzip_inflate(packed, (uint32_t)expected.size, &plain, &why), RPC_OK);
    assert_slice_equal(buf_slice(&plain), expected);
    assert_int_equal(why.size, 0);
    buf_fini(&plain);
}

static uint8_t *noise_new(size_t size)
{
    uint8_t *bytes = mem_alloc(size + 1);
    uint32_t state = 1;
    for (size_t i = 0; i < size; i++) {
        state = state * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(state >> (i % 100 < 50 ? 24 : 31)); /* Half of it compresses. */
    }
    return bytes;
}

static void what_is_packed_comes_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 100, 16383, 16384, 16385, 100000, GZIP_MAX};
    uint8_t *bytes = noise_new(GZIP_MAX);
    for (size_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        struct slice plain = slice_of(bytes, sizes[i]);
        struct buf packed = {0};
        size_t half = sizes[i] / 2;
        const struct rpc_part parts[] = {{.bytes = slice_of(bytes, half)},
                                         {.bytes = SLICE_EMPTY},
                                         {.bytes = slice_of(bytes + half, sizes[i] - half)}};
        rpc_gzip_deflate(parts, ARRAY_COUNT(parts), &packed);
        check_gives(buf_slice(&packed), plain);
        buf_fini(&packed);
    }
    mem_free(bytes);
}

static void members_are_joined(void **state)
{
    (void)state;
    struct buf packed = {0};
    pack(SLICE_EMPTY, &packed);
    pack(SLICE_LIT("hello "), &packed);
    pack(SLICE_EMPTY, &packed);
    pack(SLICE_LIT("world"), &packed);
    check_gives(buf_slice(&packed), SLICE_LIT("hello world"));
    check_fails(buf_slice(&packed), 10, RPC_RESOURCE_EXHAUSTED,
                "grpc: received message after decompression larger than max 10");
    buf_add_slice(&packed, SLICE_LIT("garbage behind"));
    check_fails(buf_slice(&packed), 11, RPC_INTERNAL,
                "grpc: failed to read decompressed data: gzip: invalid header");
    buf_fini(&packed);
}

static void every_cut_is_noticed(void **state)
{
    (void)state;
    struct buf packed = {0};
    pack(SLICE_LIT("hello hello hello world"), &packed);
    check_fails(SLICE_EMPTY, 100, RPC_INTERNAL, "grpc: failed to decompress the message: EOF");
    for (size_t size = 1; size < packed.size; size++) {
        /* On the heap at its size, so that reading beyond it is seen. */
        uint8_t *cut = mem_copy(packed.data, size);
        check_fails(slice_of(cut, size), 100, RPC_INTERNAL,
                    size < 10 ? "grpc: failed to decompress the message: unexpected EOF"
                              : "grpc: failed to read decompressed data: unexpected EOF");
        mem_free(cut);
    }
    buf_fini(&packed);
}

static void no_changed_bit_changes_the_message(void **state)
{
    (void)state;
    const struct slice hello = SLICE_LIT("hello hello hello world");
    struct buf packed = {0};
    pack(hello, &packed);
    uint32_t refused = 0;
    for (size_t bit = 0; bit < packed.size * 8; bit++) {
        struct buf plain = {0};
        struct buf why = {0};
        packed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (rpc_gzip_inflate(buf_slice(&packed), 1000, &plain, &why) == RPC_OK) {
            assert_in_range(bit / 8, 3, 9); /* Flags, time, system: they say nothing of it. */
            assert_slice_equal(buf_slice(&plain), hello);
        } else {
            refused++;
            assert_true(why.size > 0);
        }
        packed.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        buf_fini(&plain);
        buf_fini(&why);
    }
    assert_true(refused >= (packed.size - 7) * 8);
    buf_fini(&packed);
}

static void optional_headers_are_skipped(void **state)
{
    (void)state;
    struct buf packed = {0};
    pack(SLICE_LIT("x"), &packed);
    static const struct {
        uint8_t flags;
        struct slice more;
        const char *wrong; /* NULL: none. */
    } rows[] = {
        {0xe0, {(const uint8_t *)"", 0}, NULL},
        {8, {(const uint8_t *)"name\0", 5}, NULL},
        {16, {(const uint8_t *)"comment\0", 8}, NULL},
        {4, {(const uint8_t *)"\2\0ab", 4}, NULL},
        {28, {(const uint8_t *)"\1\0an\0c\0", 7}, NULL},
        {4, {(const uint8_t *)"\xff\xff", 2}, "unexpected EOF"},
        {2, {(const uint8_t *)"\0\0", 2}, "gzip: invalid header"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct buf bytes = {0};
        buf_add(&bytes, packed.data, 10);
        bytes.data[3] = rows[i].flags;
        buf_add_slice(&bytes, rows[i].more);
        buf_add(&bytes, packed.data + 10, packed.size - 10);
        if (rows[i].wrong == NULL) {
            check_gives(buf_slice(&bytes), SLICE_LIT("x"));
        } else {
            char words[128];
            (void)snprintf(words, sizeof(words), "grpc: failed to decompress the message: %s",
                           rows[i].wrong);
            check_fails(buf_slice(&bytes), 100, RPC_INTERNAL, words);
        }
        buf_fini(&bytes);
    }
    buf_fini(&packed);
}

static void a_bomb_costs_no_more_than_the_ceiling(void **state)
{
    (void)state;
    const size_t size = (size_t)64 * 1024 * 1024;
    uint8_t *zeros = mem_alloc(size);
    struct buf packed = {0};
    pack(slice_of(zeros, size), &packed);
    mem_free(zeros);
    assert_true(packed.size < size / 200);
    struct buf plain = {0};
    struct buf why = {0};
    assert_int_equal(rpc_gzip_inflate(buf_slice(&packed), 100000, &plain, &why),
                     RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(plain.size, 100001);
    assert_true(plain.room <= 2 * 100001);
    buf_fini(&plain);
    buf_fini(&why);
    buf_fini(&packed);
}

/* ---- a server ------------------------------------------------------------------------------ */

static const char *const gzip_headers[] = {"grpc-encoding", "gzip", NULL};

static void with_little_room(struct rpc_config *config)
{
    config->conn_in_max = 4 * 1000 * 1000;
}

/* The |index|-th message of a call, as its reader sees it. */
static void check_answer(const struct client_call *call, uint32_t index, struct slice expected)
{
    check_gives(client_message(call, index), expected);
}

static void who_compresses_is_answered_compressed(void **state)
{
    (void)state;
    static const char *const paths[] = {"/t.T/Echo", "/t.T/Bidi", "/t.T/Urgent"};
    struct served_server served;
    struct client client;
    served_open(&served, &client, NULL);
    uint8_t *bytes = noise_new(1000000);
    struct buf packed = {0};
    pack(slice_of(bytes, 1000000), &packed);
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        struct client_call call;
        client_call(&client, &call, paths[i], gzip_headers);
        client_send_compressed(&call, buf_slice(&packed));
        bool is_unary = i == 0;
        if (!is_unary) {
            client_send(&call, SLICE_LIT("plain")); /* Either way is fine, message by message. */
            client_send(&call, SLICE_EMPTY);        /* Never compressed. */
        }
        client_send_end(&call);
        client_until(&client, call.is_closed);
        assert_int_equal(call.grpc_status, 0);
        assert_string_equal(call.grpc_encoding, "gzip");
        assert_int_equal(call.messages, is_unary ? 1 : 3);
        assert_int_equal(call.compressed, is_unary ? 1 : 2);
        check_answer(&call, 0, slice_of(bytes, 1000000));
        if (!is_unary) {
            check_answer(&call, 1, SLICE_LIT("plain"));
            assert_int_equal(client_message(&call, 2).size, 0);
        }
        client_call_fini(&call);
    }
    buf_fini(&packed);
    mem_free(bytes);
    served_close(&served, &client);
}

static void a_stream_in_gzip_is_inflated_and_deflated(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, NULL);
    struct buf packed = {0};
    pack(SLICE_LIT("20 70000"), &packed);
    struct client_call call;
    client_call(&client, &call, "/t.T/Stream", gzip_headers);
    client_send_compressed(&call, buf_slice(&packed));
    client_send_end(&call);
    client_until(&client, call.is_closed);
    assert_int_equal(call.grpc_status, 0);
    assert_int_equal(call.messages, 20);
    assert_int_equal(call.compressed, 20);
    uint8_t *zeros = mem_alloc(70000);
    check_answer(&call, 19, slice_of(zeros, 70000));
    mem_free(zeros);
    client_call_fini(&call);
    buf_fini(&packed);
    served_close(&served, &client);
}

/* Others of the thread would wait for a large message to be packed. */
static void large_answers_leave_as_they_are(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, NULL);
    uint8_t *zeros = mem_alloc(LIMIT_GZIP_ANSWER + 1);
    for (size_t more = 0; more < 2; more++) {
        struct buf packed = {0};
        struct client_call call;
        pack(slice_of(zeros, LIMIT_GZIP_ANSWER + more), &packed);
        client_call(&client, &call, "/t.T/Echo", gzip_headers);
        client_send_compressed(&call, buf_slice(&packed));
        client_until(&client, call.is_closed);
        assert_int_equal(call.grpc_status, 0);
        assert_int_equal(call.messages, 1);
        assert_int_equal(call.compressed, 1 - more);
        client_call_fini(&call);
        buf_fini(&packed);
    }
    mem_free(zeros);
    served_close(&served, &client);
}

static void inflated_messages_count_as_held(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, with_little_room);
    uint8_t *zeros = mem_alloc(1500000);
    struct buf packed = {0};
    pack(slice_of(zeros, 1500000), &packed);
    assert_true(packed.size < 10000);
    struct client_call calls[3];
    for (size_t i = 0; i < 3; i++) {
        client_call(&client, &calls[i], "/t.T/Hang", gzip_headers);
        client_send_compressed(&calls[i], buf_slice(&packed));
    }
    client_until(&client, calls[2].is_closed); /* The third one does not fit. */
    assert_int_equal(calls[2].grpc_status, 8);
    assert_string_equal(calls[2].grpc_message, "too many bytes of requests on one connection");
    assert_int_equal(atomic_load(&served.seen.messages), 2);
    assert_false(calls[0].is_closed || calls[1].is_closed);
    client_cancel(&calls[0]);
    client_until(&client, atomic_load(&served.seen.gone) == 1);
    struct client_call echo;
    client_call(&client, &echo, "/t.T/Echo", gzip_headers);
    client_send_compressed(&echo, buf_slice(&packed));
    client_until(&client, echo.is_closed);
    assert_int_equal(echo.grpc_status, 0);
    client_call_fini(&echo);
    for (size_t i = 0; i < 3; i++) {
        client_call_fini(&calls[i]);
    }
    buf_fini(&packed);
    mem_free(zeros);
    served_close(&served, &client);
}

static void a_failed_call_of_a_client_in_gzip_has_no_encoding(void **state)
{
    (void)state;
    struct served_server served;
    struct client client;
    served_open(&served, &client, NULL);
    struct client_call call;
    client_call(&client, &call, "/t.T/Fail", gzip_headers);
    client_send(&call, SLICE_EMPTY);
    client_send_end(&call);
    client_until(&client, call.is_closed);
    assert_int_equal(call.grpc_status, 11);
    assert_string_equal(call.grpc_encoding, "");
    client_call_fini(&call);
    served_close(&served, &client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_packed_comes_back),
        cmocka_unit_test(members_are_joined),
        cmocka_unit_test(every_cut_is_noticed),
        cmocka_unit_test(no_changed_bit_changes_the_message),
        cmocka_unit_test(optional_headers_are_skipped),
        cmocka_unit_test(a_bomb_costs_no_more_than_the_ceiling),
        cmocka_unit_test(who_compresses_is_answered_compressed),
        cmocka_unit_test(a_stream_in_gzip_is_inflated_and_deflated),
        cmocka_unit_test(large_answers_leave_as_they_are),
        cmocka_unit_test(inflated_messages_count_as_held),
        cmocka_unit_test(a_failed_call_of_a_client_in_gzip_has_no_encoding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
