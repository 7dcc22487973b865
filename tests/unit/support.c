/* Helpers of all unit tests. */
#include "support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/mem.h"

static uint64_t fake_clock_now_ns(const struct clock *clock)
{
    return CONTAINER_OF_CONST(clock, struct fake_clock, clock)->now_ns;
}

void fake_clock_init(struct fake_clock *fake)
{
    *fake = (struct fake_clock){.clock = {fake_clock_now_ns}, .now_ns = NS_PER_S};
}

static uint64_t shared_clock_now_ns(const struct clock *clock)
{
    return atomic_load(&CONTAINER_OF_CONST(clock, struct shared_clock, clock)->now_ns);
}

void shared_clock_init(struct shared_clock *shared)
{
    *shared = (struct shared_clock){.clock = {shared_clock_now_ns}};
    atomic_init(&shared->now_ns, NS_PER_S);
}

void shared_clock_advance(struct shared_clock *shared, uint64_t by_ns)
{
    (void)atomic_fetch_add(&shared->now_ns, by_ns);
}

uint64_t support_seed(void)
{
    static bool is_printed;
    const char *text = getenv("DROVER_SEED");
    uint64_t seed = text == NULL || text[0] == '\0' ? 1 : strtoull(text, NULL, 0);
    if (!is_printed) {
        print_message("DROVER_SEED=%llu\n", (unsigned long long)seed);
        is_printed = true;
    }
    return seed;
}

bool support_is_long(void)
{
    const char *text = getenv("DROVER_LONG");
    return text != NULL && strcmp(text, "1") == 0;
}

void support_assert_panics(void (*run)(void))
{
    (void)fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &none);
        (void)signal(SIGABRT, SIG_DFL); /* cmocka and sanitizers have their own. */
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        (void)dup2(null, STDERR_FILENO);
        run();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
}

char *support_capture_stderr(void (*run)(void))
{
    FILE *file = tmpfile();
    assert_non_null(file);
    int saved = dup(STDERR_FILENO);
    assert_true(saved >= 0);
    assert_true(dup2(fileno(file), STDERR_FILENO) >= 0);
    run();
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    long size = lseek(fileno(file), 0, SEEK_END);
    assert_true(size >= 0);
    char *text = mem_alloc((size_t)size + 1);
    assert_int_equal(pread(fileno(file), text, (size_t)size, 0), size);
    (void)fclose(file);
    return text;
}

uint32_t support_text_count(const char *text, const char *what)
{
    uint32_t count = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what)) {
        count++;
    }
    return count;
}
