/* URLs of databases. */
#include "sql/url.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

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

/* Copies |size| bytes of |text|, as far as they fit; returns the bytes used then. */
static size_t redact_add(char *out, size_t used, size_t out_size, const char *text, size_t size)
{
    size_t room = out_size - 1 - used;
    size_t part = size < room ? size : room;
    memcpy(out + used, text, part);
    out[used + part] = '\0';
    return used + part;
}

/* True for the parameters of a query that hold a secret. */
static bool redact_is_secret(const char *text, size_t size)
{
    char name[32];
    if (!url_decode(text, size, name, sizeof(name))) {
        return true; /* Whatever it is, it is shown to nobody. */
    }
    return strcasecmp(name, "password") == 0 || strcasecmp(name, "sslpassword") == 0;
}

/* The query, with the values of secrets replaced. */
static void redact_query(const char *query, char *out, size_t used, size_t out_size)
{
    while (*query != '\0') {
        size_t size = strcspn(query, "&");
        const char *equals = memchr(query, '=', size);
        size_t name_size = equals == NULL ? size : (size_t)(equals - query);
        size_t name_start = query[0] == '?' ? 1 : 0;
        bool is_secret =
            equals != NULL && redact_is_secret(query + name_start, name_size - name_start);
        used = redact_add(out, used, out_size, query, is_secret ? name_size + 1 : size);
        if (is_secret) {
            used = redact_add(out, used, out_size, "***", 3);
        }
        query += size;
        if (*query == '&') {
            used = redact_add(out, used, out_size, "&", 1);
            query++;
        }
    }
}

void sql_url_redacted(const char *url, char *out, size_t out_size)
{
    ASSERT(out_size > 0);
    out[0] = '\0';
    const char *rest = strstr(url, "://");
    if (rest == NULL) {
        (void)redact_add(out, 0, out_size, "***", 3); /* Not a URL: nobody knows what is in it. */
        return;
    }
    rest += 3;
    size_t used = redact_add(out, 0, out_size, url, (size_t)(rest - url));
    /* A password may hold an '@', '/' or '?' that should have been escaped (libpq takes some of
     * them): all up to the last '@' is user and password. */
    const char *at = strrchr(rest, '@');
    if (at != NULL) {
        size_t user = strcspn(rest, ":@");
        used = redact_add(out, used, out_size, rest, user);
        if (rest[user] == ':') {
            used = redact_add(out, used, out_size, ":***", 4);
        }
        rest = at;
    }
    size_t authority = strcspn(rest, "?");
    used = redact_add(out, used, out_size, rest, authority);
    redact_query(rest + authority, out, used, out_size);
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
