/* Single-stepping a child and looking at its instructions. */
#include "support_stepper.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { INSTRUCTION_SIZE_MAX = 15 };

static volatile bool stepper_is_child;

bool stepper_is_usable(const char **why)
{
#if !defined(__x86_64__) || !defined(__linux__)
    *why = "instructions are decoded on x86-64 Linux only";
    return false;
#elif defined(SANITIZED) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    *why = "sanitizers add instructions of their own";
    return false;
#else
    *why = "";
    return true;
#endif
}

/* A breakpoint: the parent takes it for the switch between running and stepping. */
static void mark(void)
{
#if defined(__x86_64__)
    if (stepper_is_child) {
        __asm__ volatile("int3" ::: "memory");
    }
#endif
}

__attribute__((noinline)) void stepper_begin(void)
{
    mark();
}

__attribute__((noinline)) void stepper_end(void)
{
    mark();
}

static bool is_legacy_prefix(uint8_t byte)
{
    switch (byte) {
    case 0x26: /* Segments. */
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66: /* Sizes. */
    case 0x67:
    case 0xf2: /* Repeats. */
    case 0xf3:
        return true;
    default:
        return false;
    }
}

enum stepper_kind stepper_decode(const uint8_t *bytes, size_t size)
{
    size_t at = 0;
    while (at < size && (is_legacy_prefix(bytes[at]) || bytes[at] == 0xf0)) {
        if (bytes[at] == 0xf0) {
            return STEPPER_LOCKED;
        }
        at++;
    }
    if (at < size && (bytes[at] & 0xf0) == 0x40) {
        at++; /* REX. */
    }
    if (at + 1 >= size) {
        return STEPPER_PLAIN;
    }
    bool is_xchg = bytes[at] == 0x86 || bytes[at] == 0x87;
    if (is_xchg && bytes[at + 1] >> 6 != 3) { /* ModRM: mod 3 means two registers. */
        return STEPPER_EXCHANGE;
    }
    bool is_syscall = bytes[at] == 0x0f && (bytes[at + 1] == 0x05 || bytes[at + 1] == 0x34);
    bool is_int80 = bytes[at] == 0xcd && bytes[at + 1] == 0x80;
    return is_syscall || is_int80 ? STEPPER_SYSCALL : STEPPER_PLAIN;
}

#if defined(__x86_64__) && defined(__linux__)
#include <sys/uio.h>
#include <sys/user.h>

enum { CODE_PAGE_SIZE = 4096, OPCODE_INT3 = 0xcc, CODES = 1 << 16 };

struct code {
    uint64_t address;
    enum stepper_kind kind;
    bool is_marker;
};

static struct code codes[CODES];

/* What is there of |size| bytes of code at |address|. */
static size_t read_code(pid_t child, uint64_t address, uint8_t *bytes, size_t size)
{
    union {
        uint64_t number;
        void *pointer;
    } at = {.number = address};
    struct iovec here = {bytes, size};
    struct iovec there = {at.pointer, size};
    ssize_t got = process_vm_readv(child, &here, 1, &there, 1, 0);
    if (got < 0) { /* It may cross into a page that is not mapped. */
        here.iov_len = CODE_PAGE_SIZE - address % CODE_PAGE_SIZE;
        there.iov_len = here.iov_len;
        got = here.iov_len < size ? process_vm_readv(child, &here, 1, &there, 1, 0) : 0;
    }
    return got < 0 ? 0 : (size_t)got;
}

static void count_one(struct stepper_count *count, enum stepper_kind kind, uint64_t address)
{
    count->instructions++;
    count->locked += kind == STEPPER_LOCKED;
    count->exchanges += kind == STEPPER_EXCHANGE;
    count->syscalls += kind == STEPPER_SYSCALL;
    if (kind != STEPPER_PLAIN && count->seen_count < STEPPER_SEEN_MAX) {
        count->seen[count->seen_count++] = address;
    }
}

/* What stands at |address|. Code does not change, so each place is read once. */
static const struct code *code_at(pid_t child, uint64_t address)
{
    struct code *code = &codes[address % CODES];
    if (code->address != address) {
        uint8_t bytes[INSTRUCTION_SIZE_MAX] = {0};
        size_t size = read_code(child, address, bytes, sizeof(bytes));
        code->address = address;
        code->is_marker = size > 0 && bytes[0] == OPCODE_INT3;
        code->kind = stepper_decode(bytes, size);
    }
    return code;
}

/* The child stands before an instruction: count it. False at the end marker, which is skipped. */
static bool look(pid_t child, struct stepper_count *count)
{
    errno = 0;
    size_t rip_at = offsetof(struct user, regs.rip);
    uint64_t rip = (uint64_t)ptrace(PTRACE_PEEKUSER, child, rip_at, 0);
    if (errno != 0) {
        return false;
    }
    const struct code *code = code_at(child, rip);
    if (code->is_marker) {
        (void)ptrace(PTRACE_POKEUSER, child, rip_at, rip + 1);
        return false;
    }
    count_one(count, code->kind, rip);
    return true;
}

static bool parent_run(pid_t child, struct stepper_count *count)
{
    int status = 0;
    bool is_stepping = false;
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        int signal = WSTOPSIG(status);
        /* Not stepping, a trap is the begin marker; it stands behind that already. */
        if (signal == SIGTRAP) {
            is_stepping = look(child, count);
        }
        bool is_ours = signal == SIGTRAP || signal == SIGSTOP;
        (void)ptrace(is_stepping ? PTRACE_SINGLESTEP : PTRACE_CONT, child, 0, is_ours ? 0 : signal);
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 && count->instructions > 0;
}
#else
static bool parent_run(pid_t child, struct stepper_count *count)
{
    (void)child;
    (void)count;
    return false;
}
#endif

static void *nothing(void *arg)
{
    return arg;
}

/* The C library leaves out atomics in a process that never had a second thread; ours has many. */
static void become_threaded(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0) {
        _exit(3);
    }
}

bool stepper_run(void (*run)(void *arg), void *arg, struct stepper_count *count)
{
    *count = (struct stepper_count){0};
    /* Both on one processor: each step is a switch between the two, and waking another one is
     * several times as slow. */
    cpu_set_t before;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    bool is_saved = sched_getaffinity(0, sizeof(before), &before) == 0;
    (void)sched_setaffinity(0, sizeof(one), &one);
    pid_t child = fork();
    if (child < 0) {
        return false;
    }
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0) {
            _exit(3);
        }
        stepper_is_child = true;
        become_threaded();
        (void)raise(SIGSTOP);
        run(arg);
        _exit(0);
    }
    bool is_whole = parent_run(child, count);
    if (is_saved) {
        (void)sched_setaffinity(0, sizeof(before), &before);
    }
    return is_whole;
}
