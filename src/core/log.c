/* Log lines are built on the stack and leave by one write, so that threads cannot mix them. */
#include "core/log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/wire.h"

/* What always still fits behind the fields: truncated=true, a brace, a newline. */
enum { LOG_TAIL_SIZE = 32 };
static_assert(LOG_TAIL_SIZE < LIMIT_LOG_LINE_SIZE / 2, "most of a line is fields");

/* One line under construction. */
struct log_line {
    size_t size;
    size_t room;  /* Of |text|, less what is kept for the tail. */
    bool is_full; /* Something did not fit. */
    char text[LIMIT_LOG_LINE_SIZE];
};

struct log_name {
    const char *plain;
    const char *json;
};

static const struct log_name log_names[] = {
    [LOG_ERROR] = {"ERROR", "error"},
    [LOG_WARN] = {"WARN", "warn"},
    [LOG_INFO] = {"INFO", "info"},
    [LOG_DEBUG] = {"DEBUG", "debug"},
};

enum log_level log_level_max = LOG_INFO;
static enum log_format log_format_now = LOG_PLAIN;

void log_init(enum log_level level, enum log_format format)
{
    ASSERT(level <= LOG_DEBUG);
    ASSERT(format == LOG_PLAIN || format == LOG_JSON);
    log_level_max = level;
    log_format_now = format;
}

static void log_add(struct log_line *line, const char *text, size_t size)
{
    if (line->is_full || size > line->room - line->size) {
        line->is_full = true;
        return;
    }
    memcpy(line->text + line->size, text, size);
    line->size += size;
}

static void log_printf(struct log_line *line, const char *format, ...) PRINTF_LIKE(2, 3);
static void log_printf(struct log_line *line, const char *format, ...)
{
    char piece[64];
    va_list args;
    va_start(args, format);
    int size = vsnprintf(piece, sizeof(piece), format, args);
    va_end(args);
    ASSERT(size >= 0 && (size_t)size < sizeof(piece));
    log_add(line, piece, (size_t)size);
}

/* Bytes between quotes. In JSON a byte that is no UTF-8 shows as the text \xNN, too. */
static void log_add_quoted(struct log_line *line, struct slice bytes)
{
    bool is_json = log_format_now == LOG_JSON;
    bool is_utf8 = wire_utf8_is_valid(bytes);
    log_add(line, "\"", 1);
    for (size_t i = 0; i < bytes.size && !line->is_full; i++) {
        uint8_t byte = bytes.data[i];
        if (byte == '"' || byte == '\\') {
            log_printf(line, "\\%c", byte);
        } else if (byte >= 0x20 && byte != 0x7f && (byte < 0x80 || is_utf8)) {
            log_add(line, (const char *)&bytes.data[i], 1);
        } else if (is_json && byte < 0x80) {
            log_printf(line, "\\u%04x", byte);
        } else {
            log_printf(line, is_json ? "\\\\x%02x" : "\\x%02x", byte);
        }
    }
    log_add(line, "\"", 1);
}

/* Printable and without anything that would end a plain value. */
static bool log_is_bare(struct slice bytes)
{
    for (size_t i = 0; i < bytes.size; i++) {
        uint8_t byte = bytes.data[i];
        if (byte <= ' ' || byte >= 0x7f || byte == '"' || byte == '\\' || byte == '=') {
            return false;
        }
    }
    return bytes.size > 0;
}

static void log_add_text(struct log_line *line, struct slice bytes)
{
    if (log_format_now == LOG_PLAIN && log_is_bare(bytes)) {
        log_add(line, (const char *)bytes.data, bytes.size);
    } else {
        log_add_quoted(line, bytes);
    }
}

/* The whole field, or nothing and |is_full|. */
static void log_add_field(struct log_line *line, const struct log_field *field)
{
    size_t size_before = line->size;
    if (log_format_now == LOG_JSON) {
        log_add(line, ",", 1);
        log_add_quoted(line, slice_str(field->key));
        log_add(line, ":", 1);
    } else {
        log_add(line, " ", 1);
        log_add(line, field->key, strlen(field->key));
        log_add(line, "=", 1);
    }
    switch (field->kind) {
    case LOG_FIELD_STR:
        log_add_text(line, slice_str(field->v.str == NULL ? "" : field->v.str));
        break;
    case LOG_FIELD_INT:
        log_printf(line, "%lld", (long long)field->v.i64);
        break;
    case LOG_FIELD_UINT:
        log_printf(line, "%llu", (unsigned long long)field->v.u64);
        break;
    }
    if (line->is_full) {
        line->size = size_before;
    }
}

static void log_add_head(struct log_line *line, enum log_level level, const char *event)
{
    struct timespec now;
    struct tm utc;
    char stamp[32] = "";
    if (clock_gettime(CLOCK_REALTIME, &now) == 0 && gmtime_r(&now.tv_sec, &utc) != NULL) {
        size_t size = strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
        (void)snprintf(stamp + size, sizeof(stamp) - size, ".%03uZ",
                       (unsigned)(now.tv_nsec / 1000000) % 1000);
    }
    if (log_format_now == LOG_JSON) {
        log_printf(line, "{\"level\":\"%s\",\"ts\":\"%s\",\"msg\":", log_names[level].json, stamp);
        log_add_quoted(line, slice_str(event));
    } else {
        log_printf(line, "%s %s ", stamp, log_names[level].plain);
        log_add(line, event, strlen(event));
    }
}

void log_write(enum log_level level, const char *event, const struct log_field *fields,
               size_t field_count)
{
    ASSERT(level <= LOG_DEBUG);
    ASSERT(event != NULL);
    struct log_line line;
    line.size = 0;
    line.room = sizeof(line.text) - LOG_TAIL_SIZE;
    line.is_full = false;
    log_add_head(&line, level, event);
    bool was_full = false;
    for (size_t i = 0; i < field_count; i++) {
        line.is_full = false; /* A shorter field may still fit. */
        log_add_field(&line, &fields[i]);
        was_full = was_full || line.is_full;
    }
    line.room = sizeof(line.text);
    line.is_full = false;
    bool is_json = log_format_now == LOG_JSON;
    if (was_full) {
        log_printf(&line, "%s", is_json ? ",\"truncated\":true" : " truncated=true");
    }
    log_printf(&line, "%s", is_json ? "}\n" : "\n");
    ssize_t written = write(STDERR_FILENO, line.text, line.size);
    (void)written; /* Where else could it be told? */
}
