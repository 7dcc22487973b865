/*
 * Goal: grpc-timeout and grpc-message take any bytes.
 * Method: a timeout is accepted exactly when it is 1..8 digits and a unit, and then it is their
 * product; an encoded message is printable and decodes to itself when it was valid UTF-8.
 */
#include "core/buf.h"
#include "core/clock.h"
#include "core/limits.h"
#include "core/wire.h"
#include "rpc/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_timeout(struct slice text)
{
    if (text.size < 2 || text.size > 9 || strchr("HMSmun", text.data[text.size - 1]) == NULL ||
        text.data[text.size - 1] == 0) {
        return false;
    }
    for (size_t i = 0; i + 1 < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') {
            return false;
        }
    }
    return true;
}

static void check_timeout(struct slice text)
{
    struct buf why = {0};
    uint64_t ns = 0;
    bool is_good = rpc_grpc_timeout(text, &ns, &why);
    ASSERT(is_good == is_timeout(text));
    ASSERT(is_good == (why.size == 0));
    ASSERT(ns <= INT64_MAX);
    buf_fini(&why);
}

static int hex_digit(uint8_t byte)
{
    ASSERT((byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'F'));
    return byte <= '9' ? byte - '0' : byte - 'A' + 10;
}

static void check_message(struct slice text)
{
    struct buf encoded = {0};
    struct buf decoded = {0};
    rpc_grpc_encode_message(text, &encoded);
    for (size_t i = 0; i < encoded.size; i++) {
        uint8_t byte = encoded.data[i];
        ASSERT(byte >= ' ' && byte <= '~');
        if (byte == '%') {
            ASSERT(i + 2 < encoded.size);
            byte = (uint8_t)(hex_digit(encoded.data[i + 1]) * 16 + hex_digit(encoded.data[i + 2]));
            i += 2;
        }
        buf_add_byte(&decoded, byte);
    }
    ASSERT(wire_utf8_is_valid(buf_slice(&decoded)));
    if (text.size <= LIMIT_STATUS_MESSAGE && wire_utf8_is_valid(text)) {
        ASSERT(slice_equal(text, buf_slice(&decoded)));
    }
    struct buf quoted = {0};
    rpc_grpc_quote(text, &quoted);
    ASSERT(quoted.size >= text.size + 2);
    buf_fini(&quoted);
    buf_fini(&encoded);
    buf_fini(&decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice text = slice_of(data, size);
    struct slice service;
    struct slice method;
    check_timeout(text);
    check_message(text);
    (void)rpc_grpc_content_type_is_valid(text);
    if (rpc_grpc_split_path(text, &service, &method)) {
        ASSERT(service.size + method.size + 2 == size);
    }
    return 0;
}
