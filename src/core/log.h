/* Log lines: an event name and key=value pairs, one per state change, none per request. */
#ifndef CORE_LOG_H
#define CORE_LOG_H

#include "core/slice.h"

/* In order of noise. */
enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_PLAIN, LOG_JSON };

/* One field; made by the L* macros below. */
struct log_field {
    const char *key;
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_UINT } kind;
    union {
        const char *str;
        int64_t i64;
        uint64_t u64;
    } v;
};
#define LSTR(k, s) ((struct log_field){.key = (k), .kind = LOG_FIELD_STR, .v.str = (s)})
#define LINT(k, i) ((struct log_field){.key = (k), .kind = LOG_FIELD_INT, .v.i64 = (int64_t)(i)})
#define LUINT(k, u) ((struct log_field){.key = (k), .kind = LOG_FIELD_UINT, .v.u64 = (uint64_t)(u)})

/* LOG_INFO until log_init. Read by LOG, set by log_init alone. */
extern enum log_level log_level_max;

/* Once, before threads start. Lines go to standard error. */
void log_init(enum log_level level, enum log_format format);

/*
 * Write one line by one write(2). Any thread; allocates nothing. Use LOG below.
 *
 *     plain  2026-01-31T12:00:00.000Z INFO store ready revision=7
 *     JSON   {"level":"info","ts":"2026-...","msg":"store ready","revision":7}
 *
 * Fields that do not fit into LIMIT_LOG_LINE_SIZE are left out and truncated=true says so.
 */
void log_write(enum log_level level, const char *event, const struct log_field *fields,
               size_t field_count);

/*
 * LOG(LOG_INFO, "store ready", LINT("revision", rev)): arguments are not evaluated when off.
 * At least an event; the fields are optional (standard C17 has no __VA_OPT__, so a last field
 * that does not count stands where a comma would be too much).
 */
#define LOG(level, ...)                                                              \
    ((level) <= log_level_max                                                        \
         ? log_write((level), LOG_EVENT(__VA_ARGS__, 0), LOG_FIELDS(__VA_ARGS__),    \
                     sizeof(LOG_FIELDS(__VA_ARGS__)) / sizeof(struct log_field) - 1) \
         : (void)0)
/* Private to LOG. */
#define LOG_EVENT(event, ...) (event)
#define LOG_REST(event, ...) __VA_ARGS__
#define LOG_FIELDS(...) \
    ((const struct log_field[]){LOG_REST(__VA_ARGS__, (struct log_field){.key = NULL})})

#endif
