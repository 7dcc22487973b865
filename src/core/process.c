/* Linux: /proc and getrusage. */
#include "core/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PROCESS_FILE_SIZE = 2048 };

/* The beginning of |path| as a string, "" when it cannot be read. */
static void process_read(const char *path, char text[PROCESS_FILE_SIZE])
{
    text[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    ssize_t size = read(fd, text, PROCESS_FILE_SIZE - 1);
    text[size < 0 ? 0 : size] = '\0';
    (void)close(fd);
}

static void process_memory_get(struct process_usage *usage)
{
    char text[PROCESS_FILE_SIZE];
    process_read("/proc/self/statm", text);
    uint64_t page_size = (uint64_t)sysconf(_SC_PAGESIZE);
    char *end = text;
    usage->virtual_bytes = strtoull(text, &end, 10) * page_size;
    usage->resident_bytes = strtoull(end, NULL, 10) * page_size;
}

static void process_fds_get(struct process_usage *usage)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        usage->fds_max = limit.rlim_cur;
    }
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL) {
        return;
    }
    while (readdir(folder) != NULL) {
        usage->fds_open++;
    }
    (void)closedir(folder);
    /* Less ".", ".." and the one that listed them. */
    usage->fds_open = usage->fds_open > 3 ? usage->fds_open - 3 : 0;
}

/* Ticks from boot to the start: the 22nd field, the 20th behind the name, which may have spaces. */
static double process_start_after_boot_s(void)
{
    char text[PROCESS_FILE_SIZE];
    process_read("/proc/self/stat", text);
    const char *at = strrchr(text, ')');
    for (uint32_t i = 0; at != NULL && i < 20; i++) {
        at = strchr(at + 1, ' ');
    }
    return at == NULL ? 0 : strtod(at, NULL) / (double)sysconf(_SC_CLK_TCK);
}

static double process_clock_s(clockid_t id)
{
    struct timespec now;
    if (clock_gettime(id, &now) != 0) {
        return 0;
    }
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void process_usage_get(struct process_usage *usage)
{
    *usage = (struct process_usage){0};
    process_memory_get(usage);
    process_fds_get(usage);
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used) == 0) {
        usage->cpu_s = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    }
    double boot_s = process_clock_s(CLOCK_REALTIME) - process_clock_s(CLOCK_BOOTTIME);
    usage->start_time_s = boot_s + process_start_after_boot_s();
}
