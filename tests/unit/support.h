/* What every unit test includes: cmocka, whose own header needs four others first. */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
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

/* The same for servers with threads of their own: any thread may read it and move it on. Their
 * loops look at it again after as long as the wait would have taken in truth. */
struct shared_clock {
    struct clock clock; /* First: handed out as a struct clock. */
    _Atomic uint64_t now_ns;
};
void shared_clock_init(struct shared_clock *shared);
void shared_clock_advance(struct shared_clock *shared, uint64_t by_ns);

/* How long a test waits for what must come before it calls it hanging. No test may depend on how
 * fast the machine is: what else is bounded is bounded by counts, order or a clock as above. */
enum { SUPPORT_HANG_S = 120 };
#define SUPPORT_HANG_NS (SUPPORT_HANG_S * NS_PER_S)

/* From DROVER_SEED, else 1. Printed when a test asks the first time. */
uint64_t support_seed(void);
/* True with DROVER_LONG=1: properties run a hundred times as long. */
bool support_is_long(void);

/* |run| in a child process must end by a panic. */
void support_assert_panics(void (*run)(void));
/* What |run| writes to standard error, as a string; free it with mem_free. */
char *support_capture_stderr(void (*run)(void));
/* How often |what| stands in |text|. */
uint32_t support_text_count(const char *text, const char *what);

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
