/* Assertions, compiler attributes and the few macros that every module may use. */
#ifndef CORE_BASE_H
#define CORE_BASE_H

#include <assert.h> /* static_assert: C17 has no other name for it. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(format_index, first_arg) \
    __attribute__((format(printf, format_index, first_arg)))
#define NO_RETURN __attribute__((noreturn))

/* The struct of |type| whose |member| |pointer| points to. */
#define CONTAINER_OF(pointer, type, member) \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define CONTAINER_OF_CONST(pointer, type, member) \
    ((const type *)(const void *)((const char *)(pointer)-offsetof(type, member)))

#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Cheap truths, kept in release builds: a wrong server must stop, not answer. */
#define ASSERT(cond) ((cond) ? (void)0 : panic(__FILE__, __LINE__, __func__, #cond))
#define IMPLIES(a, b) (!(a) || (b))

/* Whole-structure walks (O(n)): tests, fuzzers and -DPARANOID=ON builds only. */
#ifdef PARANOID
#define ASSERT_SLOW(cond) ASSERT(cond)
#else
#define ASSERT_SLOW(cond) ((void)(false && (cond)))
#endif

/* Print where and what to standard error, flush the log, abort. Any thread. */
NO_RETURN void panic(const char *file, int line, const char *function, const char *what);

#endif
