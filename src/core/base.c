/* The end of the process when it has been found wrong. */
#include "core/base.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PANIC_FRAMES = 32, PANIC_LINE_SIZE = 512 };

void panic(const char *file, int line, const char *function, const char *what)
{
    /* No allocation and no stdio buffer: the heap may be what is broken. */
    char text[PANIC_LINE_SIZE];
    int size = snprintf(text, sizeof(text), "panic: %s:%d: %s: %s\n", file, line, function, what);
    if (size > 0) {
        size_t wanted = (size_t)size < sizeof(text) ? (size_t)size : sizeof(text) - 1;
        if (write(STDERR_FILENO, text, wanted) < 0) {
            abort(); /* Nobody listens. */
        }
    }
    void *frames[PANIC_FRAMES];
    backtrace_symbols_fd(frames, backtrace(frames, PANIC_FRAMES), STDERR_FILENO);
    abort();
}
