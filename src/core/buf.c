/* Growth by doubling, so that adding bytes is O(1) each. */
#include "core/buf.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/mem.h"

enum { BUF_ROOM_MIN = 64 };

void buf_fini(struct buf *buf)
{
    mem_free(buf->data);
    *buf = (struct buf){0};
}

uint8_t *buf_reserve(struct buf *buf, size_t more)
{
    ASSERT(buf->size <= buf->room);
    ASSERT(more <= SIZE_MAX / 4 && buf->size <= SIZE_MAX / 4);
    size_t need = buf->size + more;
    if (need > buf->room || buf->data == NULL) {
        size_t room = buf->room < BUF_ROOM_MIN / 2 ? BUF_ROOM_MIN : buf->room * 2;
        buf->room = room < need ? need : room;
        buf->data = mem_realloc(buf->data, buf->room);
    }
    return buf->data + buf->size;
}

void buf_add(struct buf *buf, const void *data, size_t size)
{
    ASSERT(IMPLIES(size > 0, data != NULL));
    if (size > 0) {
        memcpy(buf_reserve(buf, size), data, size);
        buf->size += size;
    }
}

void buf_add_slice(struct buf *buf, struct slice slice)
{
    buf_add(buf, slice.data, slice.size);
}

void buf_add_byte(struct buf *buf, uint8_t byte)
{
    *buf_reserve(buf, 1) = byte;
    buf->size++;
}

void buf_printf(struct buf *buf, const char *format, ...)
{
    /* Printed in place; a second pass only when the first finds too little room. */
    for (size_t room = BUF_ROOM_MIN;;) {
        va_list args;
        va_start(args, format);
        char *at = (char *)buf_reserve(buf, room);
        int size = vsnprintf(at, room, format, args);
        va_end(args);
        ASSERT(size >= 0);
        if ((size_t)size < room) {
            buf->size += (size_t)size;
            return;
        }
        room = (size_t)size + 1;
    }
}
