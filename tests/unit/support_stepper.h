/*
 * Counts, instruction by instruction, what a piece of code executes that other cores can feel:
 * locked instructions, exchanges with memory (locked by themselves) and system calls.
 *
 * A child process runs the code under ptrace, single-stepped between two markers; the parent reads
 * each instruction before it runs. x86-64 Linux only. Not under sanitizers, which add atomics of
 * their own. 30,000 to 100,000 instructions per second: read hundreds of keys, not millions.
 * Run the code once before stepper_begin: the dynamic linker binds calls at the first time.
 */
#ifndef TESTS_SUPPORT_STEPPER_H
#define TESTS_SUPPORT_STEPPER_H

#include "core/base.h"

enum { STEPPER_SEEN_MAX = 8 };

struct stepper_count {
    uint64_t instructions;
    uint64_t locked;    /* LOCK prefix. */
    uint64_t exchanges; /* XCHG with memory. */
    uint64_t syscalls;
    uint64_t seen[STEPPER_SEEN_MAX]; /* Addresses of the first ones of these three. */
    uint32_t seen_count;
};

/* False where it cannot count: other processors, sanitizers. |why| gets a static text. */
bool stepper_is_usable(const char **why);

/*
 * Fork; the child calls run(arg), in which stepper_begin() and stepper_end() surround what is
 * counted, any number of times. False when the child did not end by itself or never began.
 */
bool stepper_run(void (*run)(void *arg), void *arg, struct stepper_count *count);
/* In the child. Outside of stepper_run: no-ops. */
void stepper_begin(void);
void stepper_end(void);

/* One instruction's first bytes, at most 15: exported for its own test. */
enum stepper_kind { STEPPER_PLAIN, STEPPER_LOCKED, STEPPER_EXCHANGE, STEPPER_SYSCALL };
enum stepper_kind stepper_decode(const uint8_t *bytes, size_t size);

#endif
