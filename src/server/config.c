/* Settings: see config.h and config.def. The YAML file is read in config_file.c. */
#include "server/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/wire.h"
#include "rpc/rpc.h"
#include "server/config_file.h"
#include "sql/sql.h"

struct setting {
    const char *name;
    const char *fallback;
    const char *help;
    enum setting_kind kind;
    bool etcd;
};

static const struct setting settings[SETTING_COUNT] = {
#define SECTION(title)
#define SETTING(field, name, kind, fallback, etcd, help) \
    [SETTING_ID_##field] = {name, fallback, help, SETTING_##kind, etcd},
#include "server/config.def"
#undef SETTING
#undef SECTION
};

/* ---- values --------------------------------------------------------------------------------- */

struct duration_unit {
    const char *name;
    double ns;
};
/* Longer names first: "ms" before "m". */
static const struct duration_unit duration_units[] = {
    {"ns", 1}, {"us", 1e3}, {"µs", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9},
};

static const struct duration_unit *duration_unit_at(const char *text)
{
    for (size_t i = 0; i < ARRAY_COUNT(duration_units); i++) {
        if (strncmp(text, duration_units[i].name, strlen(duration_units[i].name)) == 0) {
            return &duration_units[i];
        }
    }
    return NULL;
}

/* Digits with at most one point: Go knows no exponents here, and strtod knows too much. */
static const char *parse_amount(const char *text, double *amount)
{
    double scale = 1;
    bool point = false;
    *amount = 0;
    const char *at = text;
    for (; isdigit((unsigned char)*at) || (*at == '.' && !point); at++) {
        if (*at == '.') {
            point = true;
            continue;
        }
        *amount = *amount * 10 + (*at - '0');
        scale *= point ? 10 : 1;
    }
    *amount /= scale;
    return at - point > text ? at : NULL;
}

bool config_parse_duration(const char *text, int64_t *ns)
{
    double total = 0;
    if (strcmp(text, "0") == 0) {
        *ns = 0;
        return true;
    }
    if (*text == '\0') {
        return false;
    }
    while (*text != '\0') {
        double amount = 0;
        const char *end = parse_amount(text, &amount);
        const struct duration_unit *unit = end == NULL ? NULL : duration_unit_at(end);
        if (unit == NULL) {
            return false;
        }
        total += amount * unit->ns;
        text = end + strlen(unit->name);
    }
    if (total > 9e18) {
        return false;
    }
    *ns = (int64_t)total;
    return true;
}

static bool parse_number(const char *text, int64_t *number)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end != '\0' || errno != 0) {
        return false;
    }
    *number = value;
    return true;
}

/* The words of Go's strconv.ParseBool. */
static bool parse_bool(const char *text, int64_t *number)
{
    static const char *const words[2][6] = {{"0", "f", "F", "false", "FALSE", "False"},
                                            {"1", "t", "T", "true", "TRUE", "True"}};
    for (int truth = 0; truth < 2; truth++) {
        for (size_t i = 0; i < ARRAY_COUNT(words[truth]); i++) {
            if (strcmp(text, words[truth][i]) == 0) {
                *number = truth;
                return true;
            }
        }
    }
    return false;
}

static bool parse_value(enum setting_kind kind, const char *text, int64_t *number)
{
    switch (kind) {
    case SETTING_TEXT:
        return true;
    case SETTING_NUMBER:
        return parse_number(text, number);
    case SETTING_DURATION:
        return config_parse_duration(text, number);
    case SETTING_BOOL:
        return parse_bool(text, number);
    }
    return false;
}

static const char *kind_name(enum setting_kind kind)
{
    switch (kind) {
    case SETTING_TEXT:
        return "text";
    case SETTING_NUMBER:
        return "a whole number";
    case SETTING_DURATION:
        return "a duration such as 100ms or 1h30m";
    case SETTING_BOOL:
        return "true or false";
    }
    return "";
}

/* DROVER_LISTEN_CLIENT_URLS of "listen-client-urls". */
static void env_name(const char *prefix, const char *name, char *out, size_t out_size)
{
    snprintf(out, out_size, "%s%s", prefix, name);
    for (char *at = out; *at != '\0'; at++) {
        *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
    }
}

enum { CALLED_SIZE = 128 };

/* What whoever gave the value has written: a flag's, a variable's or a key's name. */
static const char *called(size_t id, enum setting_source source, char *room, size_t room_size)
{
    const char *name = settings[id].name;
    switch (source) {
    case SOURCE_ENV:
        env_name("DROVER_", name, room, room_size);
        return room;
    case SOURCE_ETCD_ENV:
        env_name("ETCD_", name, room, room_size);
        return room;
    case SOURCE_FILE:
        snprintf(room, room_size, "configuration file: %s", name);
        return room;
    case SOURCE_DEFAULT:
    case SOURCE_FLAG:
        break;
    }
    snprintf(room, room_size, "--%s", name);
    return room;
}

static const char *called_now(const struct config *config, size_t id, char *room, size_t room_size)
{
    return called(id, config->values[id].source, room, room_size);
}

/* Keeps the stronger of two sources. */
static enum err set_value(struct config *config, size_t id, const char *text,
                          enum setting_source source, char *why, size_t why_size)
{
    ASSERT(id < SETTING_COUNT);
    struct setting_value *value = &config->values[id];
    int64_t number = 0;
    if (!parse_value(settings[id].kind, text, &number)) {
        char room[CALLED_SIZE];
        snprintf(why, why_size, "%s: \"%s\" is not %s", called(id, source, room, sizeof(room)),
                 text, kind_name(settings[id].kind));
        return ERR_CONFIG;
    }
    if (value->text != NULL && value->source > source) {
        return ERR_OK;
    }
    mem_free(value->text);
    value->text = mem_strdup(text);
    value->number = number;
    value->source = source;
    return ERR_OK;
}

static size_t find_setting(const char *name, size_t size)
{
    for (size_t id = 0; id < SETTING_COUNT; id++) {
        if (strlen(settings[id].name) == size && memcmp(settings[id].name, name, size) == 0) {
            return id;
        }
    }
    return SETTING_COUNT;
}

/* ---- sources -------------------------------------------------------------------------------- */

/* An empty value is as good as none, as in etcd: compose files are full of them. */
static const char *env_find(const char *const *env, const char *name)
{
    size_t size = strlen(name);
    for (; env != NULL && *env != NULL; env++) {
        if (strncmp(*env, name, size) == 0 && (*env)[size] == '=' && (*env)[size + 1] != '\0') {
            return *env + size + 1;
        }
    }
    return NULL;
}

static enum err load_env(struct config *config, const char *const *env, char *why, size_t why_size)
{
    char name[128];
    for (size_t id = 0; id < SETTING_COUNT; id++) {
        env_name("DROVER_", settings[id].name, name, sizeof(name));
        const char *text = env_find(env, name);
        if (text != NULL) {
            TRY(set_value(config, id, text, SOURCE_ENV, why, why_size));
        }
        env_name("ETCD_", settings[id].name, name, sizeof(name));
        text = settings[id].etcd ? env_find(env, name) : NULL;
        if (text != NULL) {
            TRY(set_value(config, id, text, SOURCE_ETCD_ENV, why, why_size));
        }
    }
    return ERR_OK;
}

struct file_visit {
    struct config *config;
    char *why;
    size_t why_size;
};

static enum err file_setting(const char *name, const char *text, void *arg)
{
    struct file_visit *visit = arg;
    size_t id = find_setting(name, strlen(name));
    if (id == SETTING_COUNT) {
        snprintf(visit->why, visit->why_size, "configuration file: unknown setting \"%s\"", name);
        return ERR_CONFIG;
    }
    /* etcd's files give durations as numbers of nanoseconds. */
    char in_ns[32];
    size_t size = strlen(text);
    if (settings[id].kind == SETTING_DURATION && size > 0 && size < sizeof(in_ns) - 2 &&
        strspn(text, "0123456789") == size) {
        snprintf(in_ns, sizeof(in_ns), "%sns", text);
        text = in_ns;
    }
    return set_value(visit->config, id, text, SOURCE_FILE, visit->why, visit->why_size);
}

/* One flag; returns how many arguments it took, 0 on an error told in |why|. */
static int load_flag(struct config *config, int argc, const char *const *argv, const char **file,
                     char *why, size_t why_size)
{
    const char *flag = argv[0];
    if (flag[0] != '-' || flag[1] == '\0') {
        snprintf(why, why_size, "\"%s\" is not a flag", flag);
        return 0;
    }
    const char *name = flag + (flag[1] == '-' ? 2 : 1);
    size_t name_size = strcspn(name, "=");
    const char *text = name[name_size] == '=' ? name + name_size + 1 : NULL;
    if ((name_size == 4 && memcmp(name, "help", 4) == 0) || (name_size == 1 && *name == 'h')) {
        config->help_asked = true;
        return 1;
    }
    bool is_file = name_size == 11 && memcmp(name, "config-file", 11) == 0;
    size_t id = find_setting(name, name_size);
    if (id == SETTING_COUNT && !is_file) {
        snprintf(why, why_size, "unknown flag %s", flag);
        return 0;
    }
    int taken = 1;
    if (text == NULL && !is_file && settings[id].kind == SETTING_BOOL) {
        text = "true";
    } else if (text == NULL) {
        if (argc < 2) {
            snprintf(why, why_size, "flag %s needs a value", flag);
            return 0;
        }
        text = argv[1];
        taken = 2;
    }
    if (is_file) {
        *file = text;
        return taken;
    }
    return set_value(config, id, text, SOURCE_FLAG, why, why_size) == ERR_OK ? taken : 0;
}

/* Settings that are one of a few words, in the order that config_choice counts them. */
static const struct {
    enum setting_id id;
    const char *words[7];
} choices[] = {
    /* etcd's levels above error are taken as error. */
    {SETTING_ID_log_level, {"error", "warn", "info", "debug", "dpanic", "panic", "fatal"}},
    {SETTING_ID_log_format, {"plain", "json", "console"}},
    {SETTING_ID_transaction_mode, {"optimistic", "locking", "auto"}},
};

/* Place of the value among its words, -1 if it is none of them. */
static int choice_of(const char *text, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count && words[i] != NULL; i++) {
        if (strcmp(text, words[i]) == 0) {
            return (int)i;
        }
    }
    return -1;
}

int config_choice(const struct config *config, enum setting_id id)
{
    for (size_t i = 0; i < ARRAY_COUNT(choices); i++) {
        if (choices[i].id == id) {
            return choice_of(config->values[id].text, choices[i].words,
                             ARRAY_COUNT(choices[i].words));
        }
    }
    ASSERT(false);
    return -1;
}

static enum err check_choices(const struct config *config, char *why, size_t why_size)
{
    for (size_t i = 0; i < ARRAY_COUNT(choices); i++) {
        if (config_choice(config, choices[i].id) >= 0) {
            continue;
        }
        char room[CALLED_SIZE];
        int size = snprintf(why, why_size, "%s: \"%s\" is none of",
                            called_now(config, choices[i].id, room, sizeof(room)),
                            config->values[choices[i].id].text);
        for (size_t w = 0; w < ARRAY_COUNT(choices[i].words) && choices[i].words[w] != NULL; w++) {
            size_t at = size < 0 || (size_t)size > why_size ? why_size : (size_t)size;
            size += snprintf(why + at, why_size - at, " %s", choices[i].words[w]);
        }
        return ERR_CONFIG;
    }
    return ERR_OK;
}

/* What clients are told must be something that they can dial. */
static enum err check_advertised_url(const char *url, char *why, size_t why_size)
{
    static const char *const schemes[] = {"http://", "https://", "unix://", "unixs://"};
    for (size_t i = 0; i < ARRAY_COUNT(schemes); i++) {
        if (strncmp(url, schemes[i], strlen(schemes[i])) == 0) {
            return ERR_OK;
        }
    }
    snprintf(why, why_size, "\"%s\" is not a URL", url);
    return ERR_CONFIG;
}

/* Each of the comma-separated URLs of |id|; spaces around commas are no part of them. */
static enum err check_urls(const struct config *config, enum setting_id id,
                           enum err (*check)(const char *url, char *why, size_t why_size),
                           char *why, size_t why_size)
{
    char *urls = mem_strdup(config->values[id].text);
    char *rest = NULL;
    enum err err = ERR_OK;
    char *url = strtok_r(urls, ",", &rest);
    for (; err == ERR_OK && url != NULL; url = strtok_r(NULL, ",", &rest)) {
        char reason[512];
        url += strspn(url, " ");
        url[strcspn(url, " ")] = '\0';
        err = check(url, reason, sizeof(reason));
        if (err != ERR_OK) {
            char room[CALLED_SIZE];
            snprintf(why, why_size, "%s: %s", called_now(config, id, room, sizeof(room)), reason);
        }
    }
    mem_free(urls);
    return err;
}

/* What other replicas and their clients get to read. */
static enum err check_shown(const struct config *config, enum setting_id id, size_t size_max,
                            char *why, size_t why_size)
{
    const char *text = config->values[id].text;
    char room[CALLED_SIZE];
    if (strlen(text) >= size_max) {
        snprintf(why, why_size, "%s has more than %zu bytes",
                 called_now(config, id, room, sizeof(room)), size_max - 1);
        return ERR_CONFIG;
    }
    if (!wire_utf8_is_valid(slice_str(text))) {
        snprintf(why, why_size, "%s is not UTF-8", called_now(config, id, room, sizeof(room)));
        return ERR_CONFIG;
    }
    return ERR_OK;
}

static enum err check_places(const struct config *config, char *why, size_t why_size)
{
    static const struct {
        enum setting_id id;
        size_t size_max;
    } shown[] = {
        {SETTING_ID_name, SQL_MEMBER_NAME_SIZE},
        {SETTING_ID_advertise_client_urls, SQL_MEMBER_URLS_SIZE},
        {SETTING_ID_listen_client_urls, SQL_MEMBER_URLS_SIZE}, /* Advertised if nothing else is. */
    };
    for (size_t i = 0; i < ARRAY_COUNT(shown); i++) {
        TRY(check_shown(config, shown[i].id, shown[i].size_max, why, why_size));
    }
    const char *listens = config->values[SETTING_ID_listen_client_urls].text;
    if (listens[strspn(listens, " ,")] == '\0') {
        snprintf(why, why_size, "--listen-client-urls is empty");
        return ERR_CONFIG;
    }
    if (config->values[SETTING_ID_data_dir].text[0] == '\0') {
        snprintf(why, why_size, "--data-dir is empty");
        return ERR_CONFIG;
    }
    TRY(check_urls(config, SETTING_ID_listen_client_urls, rpc_url_check, why, why_size));
    return check_urls(config, SETTING_ID_advertise_client_urls, check_advertised_url, why,
                      why_size);
}

static enum err check_values(const struct config *config, char *why, size_t why_size)
{
    static const struct {
        enum setting_id id;
        int64_t min;
        int64_t max;
    } bounds[] = {
        {SETTING_ID_poll_interval, 1000000, INT64_C(60000000000)},
        {SETTING_ID_watch_progress_notify_interval, 100000000, INT64_C(8640000000000000)},
        {SETTING_ID_io_threads, 0, LIMIT_IO_THREADS},
        {SETTING_ID_max_request_bytes, 1024, LIMIT_REQUEST_SIZE_CEILING},
        {SETTING_ID_max_txn_ops, 1, LIMIT_BATCH_ROWS},
        {SETTING_ID_max_concurrent_streams, 1, UINT32_MAX},
        {SETTING_ID_datastore_connect_timeout, 1000000, INT64_C(600000000000)},
        {SETTING_ID_datastore_statement_timeout, 1000000, INT64_C(600000000000)},
    };
    for (size_t i = 0; i < ARRAY_COUNT(bounds); i++) {
        const struct setting_value *value = &config->values[bounds[i].id];
        if (value->number < bounds[i].min || value->number > bounds[i].max) {
            bool is_time = settings[bounds[i].id].kind == SETTING_DURATION;
            int64_t unit = is_time ? 1000000 : 1;
            char room[CALLED_SIZE];
            snprintf(why, why_size, "%s: %s is not between %lld%s and %lld%s",
                     called_now(config, bounds[i].id, room, sizeof(room)), value->text,
                     (long long)(bounds[i].min / unit), is_time ? "ms" : "",
                     (long long)(bounds[i].max / unit), is_time ? "ms" : "");
            return ERR_CONFIG;
        }
    }
    TRY(check_choices(config, why, why_size));
    return check_places(config, why, why_size);
}

enum err config_load(struct config *config, int argc, const char *const *argv,
                     const char *const *env, char *why, size_t why_size)
{
    memset(config, 0, sizeof(*config));
    for (size_t id = 0; id < SETTING_COUNT; id++) {
        TRY(set_value(config, id, settings[id].fallback, SOURCE_DEFAULT, why, why_size));
    }
    const char *file = env_find(env, "DROVER_CONFIG_FILE");
    for (int at = 0; at < argc;) {
        int taken = load_flag(config, argc - at, argv + at, &file, why, why_size);
        if (taken == 0) {
            return ERR_CONFIG;
        }
        at += taken;
    }
    TRY(load_env(config, env, why, why_size));
    if (file != NULL && !config->help_asked) {
        struct file_visit visit = {config, why, why_size};
        TRY(config_file_read(file, file_setting, &visit, why, why_size));
    }
    return check_values(config, why, why_size);
}

void config_fini(struct config *config)
{
    for (size_t id = 0; id < SETTING_COUNT; id++) {
        mem_free(config->values[id].text);
        config->values[id].text = NULL;
    }
}

/* ---- printing ------------------------------------------------------------------------------- */

/* |text| in lines of at most 96 columns, each behind |indent|. */
static void print_wrapped(FILE *out, const char *indent, const char *text)
{
    size_t width = 96 - strlen(indent);
    while (*text != '\0') {
        size_t size = strlen(text);
        if (size > width) {
            size = width;
            while (size > 0 && text[size] != ' ') {
                size--;
            }
        }
        fprintf(out, "%s%.*s\n", indent, (int)size, text);
        text += size;
        text += *text == ' ';
    }
}

void config_print_help(FILE *out)
{
#define SECTION(title) fprintf(out, "\n%s:\n", title);
#define SETTING(field, name, kind, fallback, etcd, help)                                     \
    fprintf(out, SETTING_##kind == SETTING_BOOL ? "  --%s=%s%s\n" : "  --%s '%s'%s\n", name, \
            fallback, (etcd) ? "  (etcd's)" : "");                                           \
    print_wrapped(out, "      ", help);
#include "server/config.def"
#undef SETTING
#undef SECTION
    fprintf(out, "\n  --config-file PATH\n");
    print_wrapped(out, "      ",
                  "YAML file with the names above as keys; configs/full.yaml has them "
                  "all. Also DROVER_CONFIG_FILE.");
    fprintf(
        out,
        "\nEach is also read from the environment: DROVER_DATA_DIR for --data-dir. Those marked "
        "(etcd's)\nare read from ETCD_…, too: ETCD_DATA_DIR. A flag wins over DROVER_…, then "
        "ETCD_…, then the file.\n");
}

static bool needs_quotes(const char *text)
{
    for (const char *at = text; *at != '\0'; at++) {
        if (iscntrl((unsigned char)*at)) {
            return true;
        }
    }
    return *text == '\0' || *text == '-' || strpbrk(text, ":#'\"{}[],&*!|>%@`\\ ") != NULL;
}

static void print_setting(FILE *out, const char *name, const char *text)
{
    if (!needs_quotes(text)) {
        fprintf(out, "%s: %s", name, text);
        return;
    }
    fprintf(out, "%s: \"", name);
    for (; *text != '\0'; text++) {
        if (iscntrl((unsigned char)*text)) {
            fprintf(out, "\\x%02X", (unsigned char)*text);
        } else {
            fprintf(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
        }
    }
    fprintf(out, "\"");
}

/* The value as it may be shown; |room| holds a redacted one. */
static const char *shown(const struct config *config, size_t id, char *room, size_t room_size)
{
    const char *text = config->values[id].text;
    if (id != SETTING_ID_datastore || text[0] == '\0') {
        return text;
    }
    sql_url_redacted(text, room, room_size);
    return room;
}

void config_print(const struct config *config, FILE *out)
{
    static const char *const sources[] = {"default", "file", "ETCD_ environment",
                                          "DROVER_ environment", "flag"};
    char room[4096];
    for (size_t id = 0; id < SETTING_COUNT; id++) {
        print_setting(out, settings[id].name, shown(config, id, room, sizeof(room)));
        fprintf(out, " # %s\n", sources[config->values[id].source]);
    }
}

void config_log(const struct config *config)
{
    struct log_field fields[SETTING_COUNT];
    char room[4096];
    for (size_t id = 0; id < SETTING_COUNT; id++) {
        fields[id] = LSTR(settings[id].name, shown(config, id, room, sizeof(room)));
    }
    if (log_level_max >= LOG_INFO) {
        log_write(LOG_INFO, "effective configuration", fields, SETTING_COUNT);
    }
}

void config_print_example(FILE *out)
{
    fprintf(out, "# Every setting of drover at its default: drover serve --config-file full.yaml\n"
                 "# A flag wins over DROVER_…, then ETCD_…, then this file.\n");
#define SECTION(title) fprintf(out, "\n# ---- %s ----\n", title);
#define SETTING(field, name, kind, fallback, etcd, help) \
    fprintf(out, "\n");                                  \
    print_wrapped(out, "# ", help);                      \
    print_setting(out, name, fallback);                  \
    fprintf(out, "\n");
#include "server/config.def"
#undef SETTING
#undef SECTION
}
