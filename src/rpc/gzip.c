/* gzip's members are taken apart here, because zlib tells less about what is wrong than grpc-go. */
#define ZLIB_CONST
#include "rpc/gzip.h"

#include <zlib.h>

#include "core/mem.h"

enum {
    GZIP_STEP = 16 * 1024, /* Bytes of output between two looks at the ceiling. */
    GZIP_HEAD = 10,
    GZIP_TAIL = 8,
    GZIP_TEXT_MAX = 512, /* Of a name or comment, its NUL included; Go's. */
    GZIP_HAS_CRC = 2,
    GZIP_HAS_EXTRA = 4,
    GZIP_HAS_NAME = 8,
    GZIP_HAS_COMMENT = 16,
    GZIP_WINDOW_BITS = 15,
    GZIP_WITH_HEADER = 16, /* Added to the window bits: zlib writes header and trailer. */
    GZIP_MEMORY_LEVEL = 8,
};

static const char gzip_cut_off[] = "unexpected EOF";
static const char gzip_bad_header[] = "gzip: invalid header";

static void *gzip_alloc(void *arg, uInt count, uInt size)
{
    (void)arg;
    return mem_alloc((size_t)count * size);
}

static void gzip_free(void *arg, void *memory)
{
    (void)arg;
    mem_free(memory);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Takes |size| bytes from the front of |rest|; false when it has fewer. */
static bool gzip_take(struct slice *rest, size_t size, struct slice *taken)
{
    if (rest->size < size) {
        return false;
    }
    *taken = slice_of(rest->data, size);
    rest->data += size;
    rest->size -= size;
    return true;
}

static uint32_t gzip_u16(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

/* Takes a text that ends with NUL. NULL, or what is wrong. */
static const char *gzip_skip_text(struct slice *rest)
{
    size_t look = rest->size < GZIP_TEXT_MAX ? rest->size : GZIP_TEXT_MAX;
    const uint8_t *end = look == 0 ? NULL : memchr(rest->data, 0, look);
    if (end == NULL) {
        return look == GZIP_TEXT_MAX ? gzip_bad_header : gzip_cut_off;
    }
    struct slice text;
    bool is_whole = gzip_take(rest, (size_t)(end - rest->data) + 1, &text);
    ASSERT(is_whole);
    return NULL;
}

/* Takes the parts of a header that its flags announce. NULL, or what is wrong. */
static const char *gzip_skip_options(struct slice *rest, uint8_t flags, const uint8_t *head)
{
    struct slice taken;
    if ((flags & GZIP_HAS_EXTRA) != 0) {
        if (!gzip_take(rest, 2, &taken) || !gzip_take(rest, gzip_u16(taken.data), &taken)) {
            return gzip_cut_off;
        }
    }
    const char *wrong = (flags & GZIP_HAS_NAME) != 0 ? gzip_skip_text(rest) : NULL;
    if (wrong == NULL && (flags & GZIP_HAS_COMMENT) != 0) {
        wrong = gzip_skip_text(rest);
    }
    if (wrong != NULL || (flags & GZIP_HAS_CRC) == 0) {
        return wrong;
    }
    uint32_t sum = (uint32_t)crc32_z(0, head, (size_t)(rest->data - head));
    if (!gzip_take(rest, 2, &taken)) {
        return gzip_cut_off;
    }
    return gzip_u16(taken.data) == (sum & 0xffff) ? NULL : gzip_bad_header;
}

/* Takes a member's header. NULL, or what is wrong; "EOF" when there is nothing at all. */
static const char *gzip_skip_header(struct slice *rest)
{
    struct slice head;
    if (rest->size == 0) {
        return "EOF";
    }
    if (!gzip_take(rest, GZIP_HEAD, &head)) {
        return gzip_cut_off;
    }
    if (head.data[0] != 0x1f || head.data[1] != 0x8b || head.data[2] != Z_DEFLATED) {
        return gzip_bad_header;
    }
    return gzip_skip_options(rest, head.data[3], head.data);
}

static enum rpc_status gzip_fail_data(struct buf *why, const char *wrong)
{
    buf_printf(why, "grpc: failed to read decompressed data: %s", wrong);
    return RPC_INTERNAL;
}

/* The deflated bytes at the front of |rest|, until they say that they end. */
static enum rpc_status gzip_inflate_data(z_stream *z, struct slice *rest, uint32_t size_max,
                                         struct buf *plain, struct buf *why)
{
    ASSERT(rest->size <= UINT32_MAX);
    z->next_in = rest->data;
    z->avail_in = (uInt)rest->size;
    for (int result = Z_OK; result != Z_STREAM_END;) {
        ASSERT(plain->size <= size_max);
        size_t room = (size_t)size_max + 1 - plain->size;
        uInt step = room < GZIP_STEP ? (uInt)room : GZIP_STEP;
        z->next_out = buf_reserve(plain, step);
        z->avail_out = step;
        result = inflate(z, Z_NO_FLUSH);
        plain->size += step - z->avail_out;
        if (plain->size > size_max) {
            buf_printf(why, "grpc: received message after decompression larger than max %u",
                       size_max);
            return RPC_RESOURCE_EXHAUSTED;
        }
        if (result == Z_BUF_ERROR) {
            return gzip_fail_data(why, gzip_cut_off);
        }
        if (result != Z_OK && result != Z_STREAM_END) {
            ASSERT(result == Z_DATA_ERROR || result == Z_NEED_DICT);
            buf_printf(why,
                       "grpc: failed to read decompressed data: flate: corrupt input before "
                       "offset %lu",
                       z->total_in);
            return RPC_INTERNAL;
        }
    }
    *rest = slice_of(z->next_in, z->avail_in);
    return RPC_OK;
}

/* A member behind its header. */
static enum rpc_status gzip_inflate_member(z_stream *z, struct slice *rest, uint32_t size_max,
                                           struct buf *plain, struct buf *why)
{
    size_t start = plain->size;
    enum rpc_status status = gzip_inflate_data(z, rest, size_max, plain, why);
    if (status != RPC_OK) {
        return status;
    }
    struct slice tail;
    if (!gzip_take(rest, GZIP_TAIL, &tail)) {
        return gzip_fail_data(why, gzip_cut_off);
    }
    size_t size = plain->size - start;
    uint32_t sum = (uint32_t)crc32_z(0, plain->data + start, size);
    uint32_t want_sum = gzip_u16(tail.data) | gzip_u16(tail.data + 2) << 16;
    uint32_t want_size = gzip_u16(tail.data + 4) | gzip_u16(tail.data + 6) << 16;
    if (sum != want_sum || size != want_size) {
        return gzip_fail_data(why, "gzip: invalid checksum");
    }
    return RPC_OK;
}

enum rpc_status rpc_gzip_inflate(struct slice packed, uint32_t size_max, struct buf *plain,
                                 struct buf *why)
{
    ASSERT(plain->size == 0);
    const char *wrong = gzip_skip_header(&packed);
    if (wrong != NULL) {
        buf_printf(why, "grpc: failed to decompress the message: %s", wrong);
        return RPC_INTERNAL;
    }
    z_stream z = {.zalloc = gzip_alloc, .zfree = gzip_free};
    ASSERT(inflateInit2(&z, -GZIP_WINDOW_BITS) == Z_OK);
    enum rpc_status status = gzip_inflate_member(&z, &packed, size_max, plain, why);
    while (status == RPC_OK && packed.size > 0) {
        ASSERT(inflateReset(&z) == Z_OK);
        wrong = gzip_skip_header(&packed);
        status = wrong != NULL ? gzip_fail_data(why, wrong)
                               : gzip_inflate_member(&z, &packed, size_max, plain, why);
    }
    (void)inflateEnd(&z);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------- */

/* Feeds |bytes| to |z|; |flush| Z_FINISH writes all that is left. */
static void gzip_deflate_bytes(z_stream *z, struct slice bytes, int flush, struct buf *packed)
{
    ASSERT(bytes.size <= UINT32_MAX);
    z->next_in = bytes.data;
    z->avail_in = (uInt)bytes.size;
    do {
        z->next_out = buf_reserve(packed, GZIP_STEP);
        z->avail_out = GZIP_STEP;
        int result = deflate(z, flush);
        ASSERT(result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR);
        packed->size += GZIP_STEP - z->avail_out;
    } while (z->avail_out == 0);
    ASSERT(z->avail_in == 0);
}

void rpc_gzip_deflate(const struct rpc_part *parts, size_t part_count, struct buf *packed)
{
    z_stream z = {.zalloc = gzip_alloc, .zfree = gzip_free};
    /* Fast: others of the io thread wait meanwhile. */
    ASSERT(deflateInit2(&z, Z_BEST_SPEED, Z_DEFLATED, GZIP_WINDOW_BITS + GZIP_WITH_HEADER,
                        GZIP_MEMORY_LEVEL, Z_DEFAULT_STRATEGY) == Z_OK);
    for (size_t i = 0; i < part_count; i++) {
        gzip_deflate_bytes(&z, parts[i].bytes, Z_NO_FLUSH, packed);
    }
    gzip_deflate_bytes(&z, SLICE_EMPTY, Z_FINISH, packed);
    (void)deflateEnd(&z);
}
