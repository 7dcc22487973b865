/*
 * Settings from flags, environment, a YAML file and defaults, in this order of precedence:
 * flag > DROVER_NAME > ETCD_NAME (where etcd has the same setting) > file > default.
 * Flags take Go's forms: -x v, --x v, --x=v, --bool, --bool=false.
 */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdio.h>

#include "core/buf.h"
#include "core/err.h"

enum setting_kind { SETTING_TEXT, SETTING_NUMBER, SETTING_DURATION, SETTING_BOOL };

/* Where a value came from, weakest first. */
enum setting_source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ETCD_ENV, SOURCE_ENV, SOURCE_FLAG };

enum setting_id {
#define SECTION(title)
#define SETTING(field, name, kind, fallback, etcd, help) SETTING_ID_##field,
#include "server/config.def"
#undef SETTING
#undef SECTION
    SETTING_COUNT
};

struct setting_value {
    char *text; /* As written; owned. */
    enum setting_source source;
    int64_t number; /* NUMBER; DURATION in nanoseconds; BOOL 0 or 1. */
};

struct config {
    struct setting_value values[SETTING_COUNT];
    bool help_asked;
};

/* |env| is a NULL-terminated list of NAME=value. |argv| is what follows the command's name.
 * ERR_CONFIG with one clear line in |why|. Call config_fini in either case. */
MUST_CHECK enum err config_load(struct config *config, int argc, const char *const *argv,
                                const char *const *env, char *why, size_t why_size);
void config_fini(struct config *config);

static inline const char *config_text(const struct config *config, enum setting_id id)
{
    return config->values[id].text;
}
static inline int64_t config_number(const struct config *config, enum setting_id id)
{
    return config->values[id].number;
}

/* Of a setting that is one of a few words: which, by the order in config.c; config_load has
 * checked that it is one. */
int config_choice(const struct config *config, enum setting_id id);

/* Go's duration syntax ("1h2m3.5s", "100ms", "0") into nanoseconds, not negative. */
MUST_CHECK bool config_parse_duration(const char *text, int64_t *ns);

/* All settings with their help, for --help. */
void config_print_help(FILE *out);
/* The effective configuration as YAML, sources in comments, passwords redacted. */
void config_print(const struct config *config, FILE *out);
/* The same as one log line. */
void config_log(const struct config *config);
/* configs/full.yaml: every setting commented, at its default. */
void config_print_example(FILE *out);

#endif
