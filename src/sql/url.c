/* URLs of databases. */
#include "sql/url.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <libpq-fe.h>

#include "sql/request.h"
#include "sql/schema.h"

static int url_hex(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decode |text| of |size| bytes into |out|; false on bad escapes, a NUL, or too many bytes. */
static bool url_decode(const char *text, size_t size, char *out, size_t out_size)
{
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '%') {
            if (size - i < 3 || url_hex(text[i + 1]) < 0 || url_hex(text[i + 2]) < 0) {
                return false;
            }
            c = (char)(url_hex(text[i + 1]) * 16 + url_hex(text[i + 2]));
            i += 2;
        }
        if (c == '\0' || used + 1 >= out_size) {
            return false;
        }
        out[used++] = c;
    }
    out[used] = '\0';
    return true;
}

/* Behind "scheme://", or NULL when |text| has another scheme. */
static const char *url_after(const char *text, const char *scheme)
{
    size_t size = strlen(scheme);
    if (strncasecmp(text, scheme, size) != 0 || strncmp(text + size, "://", 3) != 0) {
        return NULL;
    }
    return text + size + 3;
}

static enum err url_parse_sqlite(const char *rest, struct sql_url *url, char *why, size_t why_size)
{
    size_t size = strcspn(rest, "?#");
    if (rest[size] != '\0') {
        (void)snprintf(
            why, why_size,
            "datastore sqlite://: options behind '%c' are not supported (write a literal "
            "one as %%%02X)",
            rest[size], (unsigned)rest[size]);
        return ERR_CONFIG;
    }
    if (!url_decode(rest, size, url->path, sizeof(url->path))) {
        (void)snprintf(why, why_size, "datastore sqlite://: the path is malformed or too long");
        return ERR_CONFIG;
    }
    if (size == 0 || url->path[strlen(url->path) - 1] == '/') {
        (void)snprintf(why, why_size, "datastore sqlite://: a path of a file is missing");
        return ERR_CONFIG;
    }
    if (strcmp(url->path, ":memory:") == 0) {
        (void)snprintf(why, why_size, "datastore sqlite://: memory keeps nothing; name a file");
        return ERR_CONFIG;
    }
    return ERR_OK;
}

enum err sql_url_parse(const char *text, struct sql_url *url, char *why, size_t why_size)
{
    *url = (struct sql_url){0};
    if (text == NULL || strlen(text) >= SQL_URL_SIZE_MAX) {
        (void)snprintf(why, why_size, "datastore: the URL is missing or too long");
        return ERR_CONFIG;
    }
    const char *rest = url_after(text, "sqlite");
    if (rest != NULL) {
        url->engine = SQL_ENGINE_SQLITE;
        return url_parse_sqlite(rest, url, why, why_size);
    }
    if (url_after(text, "postgres") != NULL || url_after(text, "postgresql") != NULL) {
        url->engine = SQL_ENGINE_POSTGRES;
        return ERR_OK;
    }
    (void)snprintf(why, why_size,
                   "datastore: the URL must start with sqlite://, postgres:// or postgresql://");
    return ERR_CONFIG;
}

/* A text that is built as far as it fits. */
struct redact {
    char *out;
    size_t used;
    size_t size;
};

static void redact_add(struct redact *to, const char *text, size_t size)
{
    size_t room = to->size - 1 - to->used;
    size_t part = size < room ? size : room;
    for (size_t i = 0; i < part; i++) { /* In one line, whatever was escaped. */
        bool is_control = (unsigned char)text[i] < 0x20 || text[i] == 0x7f;
        to->out[to->used++] = is_control ? '?' : text[i];
    }
    to->out[to->used] = '\0';
}

static void redact_add_text(struct redact *to, const char *text)
{
    redact_add(to, text, strlen(text));
}

static const char *redact_find(const PQconninfoOption *options, const char *keyword)
{
    for (; options->keyword != NULL; options++) {
        if (strcmp(options->keyword, keyword) == 0 && options->val != NULL) {
            return options->val;
        }
    }
    return "";
}

/* "a:1,b:2" of the lists "a,b" and "1,2". */
static void redact_hosts(struct redact *to, const char *hosts, const char *ports)
{
    for (;;) {
        size_t host = strcspn(hosts, ",");
        size_t port = strcspn(ports, ",");
        redact_add(to, hosts, host);
        if (port > 0) {
            redact_add_text(to, ":");
            redact_add(to, ports, port);
        }
        hosts += host;
        ports += port;
        ports += *ports == ',' ? 1 : 0;
        if (*hosts == '\0') {
            return;
        }
        redact_add_text(to, ",");
        hosts++;
    }
}

/* Built from what libpq finds in the URL, not cut out of it: whatever an unescaped character does
 * to the meaning of the rest, a password does not get here. */
static void redact_postgres(struct redact *to, const PQconninfoOption *options)
{
    const char *user = redact_find(options, "user");
    bool has_password = redact_find(options, "password")[0] != '\0';
    redact_add_text(to, user);
    redact_add_text(to, has_password ? ":***" : "");
    redact_add_text(to, has_password || user[0] != '\0' ? "@" : "");
    redact_hosts(to, redact_find(options, "host"), redact_find(options, "port"));
    redact_add_text(to, "/");
    redact_add_text(to, redact_find(options, "dbname"));
    static const char *const shown[] = {"hostaddr", "sslmode", "sslrootcert", "sslcert",
                                        "passfile", "service", "options",     "application_name"};
    const char *separator = "?";
    for (uint32_t i = 0; i < ARRAY_COUNT(shown); i++) {
        const char *value = redact_find(options, shown[i]);
        if (value[0] != '\0') {
            redact_add_text(to, separator);
            redact_add_text(to, shown[i]);
            redact_add_text(to, "=");
            redact_add_text(to, value);
            separator = "&";
        }
    }
}

void sql_url_redacted(const char *url, char *out, size_t out_size)
{
    ASSERT(out_size > 0);
    struct redact to = {.out = out, .size = out_size};
    out[0] = '\0';
    if (url_after(url, "sqlite") != NULL) {
        redact_add_text(&to, url);
        return;
    }
    bool is_postgres = url_after(url, "postgres") != NULL || url_after(url, "postgresql") != NULL;
    PQconninfoOption *options = is_postgres ? PQconninfoParse(url, NULL) : NULL;
    redact_add_text(&to, is_postgres ? "postgres://" : "");
    if (options == NULL) {
        redact_add_text(&to, "***"); /* Nobody knows what is in it. */
        return;
    }
    redact_postgres(&to, options);
    PQconninfoFree(options);
}

enum err sql_log_new(const struct sql_config *config, struct sql_log **log, char *why,
                     size_t why_size)
{
    ASSERT(config->loop != NULL);
    *log = NULL;
    if (config->tables_prefix != NULL && !sql_prefix_is_valid(config->tables_prefix)) {
        (void)snprintf(why, why_size,
                       "datastore: the tables' prefix must be at most %d of a-z, 0-9 and _",
                       SQL_PREFIX_SIZE_MAX);
        return ERR_CONFIG;
    }
    struct sql_url url;
    TRY(sql_url_parse(config->url, &url, why, why_size));
    return url.engine == SQL_ENGINE_SQLITE ? sql_sqlite_new(config, log, why, why_size)
                                           : sql_postgres_new(config, log, why, why_size);
}
