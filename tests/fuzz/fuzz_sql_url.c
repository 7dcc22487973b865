/*
 * Goal: no URL harms, and none that libpq understands shows its password.
 * Method: for any text, parse and redact into rooms of all sizes; where libpq finds a password that
 * no other part of the URL repeats, it must not stand in what is shown.
 */
#include <libpq-fe.h>

#include "core/mem.h"
#include "sql/sql.h"
#include "sql/url.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SECRET_SIZE_MIN = 4 };

static bool is_elsewhere(const PQconninfoOption *options, const char *secret)
{
    for (; options->keyword != NULL; options++) {
        bool is_secret = strcmp(options->keyword, "password") == 0 ||
                         strcmp(options->keyword, "sslpassword") == 0;
        if (!is_secret && options->val != NULL && strstr(options->val, secret) != NULL) {
            return true;
        }
        if (strstr(options->keyword, secret) != NULL) {
            return true;
        }
    }
    return false;
}

static void check_secrets(const char *url, const char *shown)
{
    char *message = NULL;
    PQconninfoOption *options = PQconninfoParse(url, &message);
    PQfreemem(message);
    if (options == NULL || strstr(shown, "://") == NULL) {
        PQconninfoFree(options);
        return;
    }
    for (const PQconninfoOption *at = options; at->keyword != NULL; at++) {
        bool is_secret =
            strcmp(at->keyword, "password") == 0 || strcmp(at->keyword, "sslpassword") == 0;
        if (is_secret && at->val != NULL && strlen(at->val) >= SECRET_SIZE_MIN &&
            !is_elsewhere(options, at->val)) {
            ASSERT(strstr(strstr(shown, "://") + 3, at->val) == NULL);
        }
    }
    PQconninfoFree(options);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_printf("%.*s", (int)size, (const char *)data);
    struct sql_url url;
    char why[128];
    if (sql_url_parse(text, &url, why, sizeof(why)) == ERR_OK) {
        ASSERT(url.engine != SQL_ENGINE_SQLITE || url.path[0] != '\0');
    }
    for (size_t room = 1; room < 20; room++) {
        char shown[20];
        sql_url_redacted(text, shown, room);
        ASSERT(strlen(shown) < room);
    }
    char *shown = mem_alloc(2 * size + 16);
    sql_url_redacted(text, shown, 2 * size + 16);
    check_secrets(text, shown);
    mem_free(shown);
    mem_free(text);
    return 0;
}
