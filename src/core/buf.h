/* A growable byte buffer for answers that are built piece by piece. */
#ifndef CORE_BUF_H
#define CORE_BUF_H

#include "core/slice.h"

/* Zero-initialised is valid and empty. One thread at a time. */
struct buf {
    uint8_t *data;
    size_t size;
    size_t room; /* Bytes allocated. */
};

void buf_fini(struct buf *buf);
static inline void buf_clear(struct buf *buf)
{
    buf->size = 0;
}
/* Make room for |more| bytes behind |size|; returns where they go. Does not change |size|. */
uint8_t *buf_reserve(struct buf *buf, size_t more);
void buf_add(struct buf *buf, const void *data, size_t size);
void buf_add_slice(struct buf *buf, struct slice slice);
void buf_add_byte(struct buf *buf, uint8_t byte);
void buf_printf(struct buf *buf, const char *format, ...) PRINTF_LIKE(2, 3);
static inline struct slice buf_slice(const struct buf *buf)
{
    return (struct slice){buf->data, buf->size};
}

#endif
