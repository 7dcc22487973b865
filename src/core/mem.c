/* Long-lived memory on top of malloc. */
#include "core/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *mem_alloc(size_t size)
{
    ASSERT(size > 0);
    void *memory = calloc(1, size);
    ASSERT(memory != NULL);
    return memory;
}

void *mem_alloc_raw(size_t size)
{
    ASSERT(size > 0);
    void *memory = malloc(size);
    ASSERT(memory != NULL);
    return memory;
}

void *mem_realloc(void *memory, size_t size)
{
    ASSERT(size > 0);
    void *moved = realloc(memory, size);
    ASSERT(moved != NULL);
    return moved;
}

void *mem_copy(const void *data, size_t size)
{
    ASSERT(IMPLIES(size > 0, data != NULL));
    void *memory = mem_alloc_raw(size > 0 ? size : 1);
    if (size > 0) {
        memcpy(memory, data, size);
    }
    return memory;
}

char *mem_strdup(const char *text)
{
    ASSERT(text != NULL);
    return mem_copy(text, strlen(text) + 1);
}

char *mem_printf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int size = vasprintf(&text, format, args);
    va_end(args);
    ASSERT(size >= 0);
    return text;
}

void mem_free(void *memory)
{
    free(memory);
}
