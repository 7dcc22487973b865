/*
 * Goal: no bytes make the reader of gzip crash or exceed its ceiling; what it wrote it reads.
 * Method: the input as members, under a ceiling from its first byte; then as a message.
 */
#include "core/mem.h"
#include "rpc/gzip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_members(struct slice packed, uint32_t size_max)
{
    struct buf plain = {0};
    struct buf why = {0};
    enum rpc_status status = rpc_gzip_inflate(packed, size_max, &plain, &why);
    ASSERT(plain.size <= (size_t)size_max + 1);
    ASSERT((status == RPC_OK) == (why.size == 0));
    ASSERT((status == RPC_RESOURCE_EXHAUSTED) == (plain.size > size_max));
    ASSERT(status == RPC_OK || status == RPC_RESOURCE_EXHAUSTED || status == RPC_INTERNAL);
    buf_fini(&plain);
    buf_fini(&why);
}

static void check_message(struct slice message)
{
    struct buf packed = {0};
    struct buf plain = {0};
    struct buf why = {0};
    const struct rpc_part part = {.bytes = message};
    rpc_gzip_deflate(&part, 1, &packed);
    enum rpc_status status =
        rpc_gzip_inflate(buf_slice(&packed), (uint32_t)message.size, &plain, &why);
    ASSERT(status == RPC_OK);
    ASSERT(slice_equal(buf_slice(&plain), message));
    buf_fini(&packed);
    buf_fini(&plain);
    buf_fini(&why);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0) {
        struct slice bytes = slice_of(data + 1, size - 1);
        check_members(bytes, (uint32_t)data[0] * 50);
        check_message(bytes);
    }
    return 0;
}
