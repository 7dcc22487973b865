/* What every unit test includes: cmocka, whose own header needs four others first. */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/clock.h"
#include "core/slice.h"

/* A clock that moves only when told. */
struct fake_clock {
    struct clock clock; /* First: handed out as a struct clock. */
    uint64_t now_ns;
};
void fake_clock_init(struct fake_clock *fake);

/* From DROVER_SEED, else 1. Printed when a test asks the first time. */
uint64_t support_seed(void);
/* True with DROVER_LONG=1: properties run a hundred times as long. */
bool support_is_long(void);

/* |run| in a child process must end by a panic. */
void support_assert_panics(void (*run)(void));
/* What |run| writes to standard error, as a string; free it with mem_free. */
char *support_capture_stderr(void (*run)(void));

#define assert_slice_equal(a, b)                                           \
    do {                                                                   \
        struct slice slice_a = (a);                                        \
        struct slice slice_b = (b);                                        \
        assert_int_equal(slice_a.size, slice_b.size);                      \
        if (slice_a.size > 0) {                                            \
            assert_memory_equal(slice_a.data, slice_b.data, slice_a.size); \
        }                                                                  \
    } while (0)

#endif
