/*
 * Goal: the HTTP/1.1 parser takes any bytes in any pieces.
 * Method: feed the input whole and in pieces of a size that the first byte chooses; both must see
 * the same requests and refuse at the same place. Bodies stay under their ceiling.
 */
#include "core/buf.h"
#include "rpc/http1_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BODY_MAX = 1000 };

/* A line for each request, and the end. */
static void read_all(struct slice input, size_t piece, struct buf *seen)
{
    struct http1_parse parse = {.body_max = BODY_MAX};
    for (size_t at = 0; at < input.size && parse.state != HTTP1_REFUSED;) {
        size_t take = input.size - at < piece ? input.size - at : piece;
        struct slice bytes = slice_of(input.data + at, take);
        http1_feed(&parse, &bytes);
        ASSERT(bytes.size <= take);
        ASSERT(parse.body.size <= BODY_MAX);
        ASSERT(parse.head.size <= LIMIT_HTTP_HEADER_SIZE);
        ASSERT(bytes.size == 0 || parse.state == HTTP1_DONE || parse.state == HTTP1_REFUSED);
        at += take - bytes.size;
        if (parse.state == HTTP1_DONE) {
            ASSERT(parse.path.size > 0 && parse.method.size > 0);
            ASSERT(parse.left == 0);
            buf_add_slice(seen, parse.method);
            buf_add_slice(seen, parse.path);
            buf_add_slice(seen, parse.query);
            buf_add_slice(seen, buf_slice(&parse.body));
            buf_printf(seen, " %u %d\n", parse.header_count, parse.keep_alive);
            http1_next(&parse);
        }
    }
    buf_printf(seen, "%d %d %zu", parse.state, parse.status, parse.left);
    http1_parse_fini(&parse);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }
    struct slice input = slice_of(data + 1, size - 1);
    struct buf whole = {0};
    struct buf pieces = {0};
    read_all(input, SIZE_MAX, &whole);
    read_all(input, (size_t)(data[0] % 32) + 1, &pieces);
    ASSERT(slice_equal(buf_slice(&whole), buf_slice(&pieces)));
    buf_fini(&whole);
    buf_fini(&pieces);
    return 0;
}
