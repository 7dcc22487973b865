/* Long-lived memory. Never NULL: running out is a panic, because no caller could go on. */
#ifndef CORE_MEM_H
#define CORE_MEM_H

#include "core/base.h"

/* Zeroed. |size| > 0. Any thread; free with mem_free on any thread. */
void *mem_alloc(size_t size);
/* Not zeroed: for buffers that are filled at once. */
void *mem_alloc_raw(size_t size);
/* Like realloc; new bytes are not zeroed. |memory| may be NULL. */
void *mem_realloc(void *memory, size_t size);
/* Copies |size| bytes; |size| may be 0 (returns a valid pointer all the same). */
void *mem_copy(const void *data, size_t size);
char *mem_strdup(const char *text);
/* printf into fresh memory. */
char *mem_printf(const char *format, ...) PRINTF_LIKE(1, 2);
/* NULL is a no-op. */
void mem_free(void *memory);

#endif
