/* Flags as a table. */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { KIND_TEXT, KIND_NUMBER, KIND_SECONDS, KIND_BOOL, KIND_WORKLOAD, KIND_OUTPUT };

struct flag {
    const char *name;
    enum kind kind;
    size_t offset; /* In struct load_options. */
    uint64_t min;
    uint64_t max; /* Seconds have theirs in ms. */
    const char *normal;
    const char *help;
};

#define AT(member) offsetof(struct load_options, member)

static const struct flag flags[] = {
    {"endpoint", KIND_TEXT, AT(endpoint), 0, 0, "127.0.0.1:2379", "HOST:PORT, plaintext"},
    {"workload", KIND_WORKLOAD, AT(workload), 0, 0, "range", "see below"},
    {"connections", KIND_NUMBER, AT(connections), 1, 1024, "8", ""},
    {"streams", KIND_NUMBER, AT(streams), 1, 4096, "32", "calls at once on each connection"},
    {"duration", KIND_SECONDS, AT(duration_ms), 0, 86400000, "5", "seconds that count"},
    {"warmup", KIND_SECONDS, AT(warmup_ms), 0, 3600000, "1", "seconds before, that don't"},
    {"keys", KIND_NUMBER, AT(keys), 1, 100000000, "10000", ""},
    {"key-prefix", KIND_TEXT, AT(key_prefix), 0, 0, "/registry/bench/default/", ""},
    {"key-size", KIND_NUMBER, AT(key_size), 12, 4096, "64", "bytes, the prefix included"},
    {"value-size", KIND_NUMBER, AT(value_size), 16, 1048576, "256", "bytes"},
    {"seed", KIND_NUMBER, AT(seed), 0, UINT64_MAX, "1", ""},
    {"fill", KIND_BOOL, AT(fill), 0, 0, "true", "put every key first"},
    {"verify", KIND_BOOL, AT(verify), 0, 0, "false", "list every key after the fill, compare"},
    {"batch", KIND_NUMBER, AT(batch), 1, 128, "100", "puts in one Txn of the fill"},
    {"limit", KIND_NUMBER, AT(limit), 0, 100000000, "500", "keys in one list, 0 for all"},
    {"watchers", KIND_NUMBER, AT(watchers), 1, 1000000, "100", ""},
    {"watch-groups", KIND_NUMBER, AT(watch_groups), 1, 1000000, "1",
     "ranges that share the keys evenly; a watcher watches one"},
    {"rate", KIND_NUMBER, AT(rate), 0, 1000000, "1000", "puts/s of the watch workload, 0: unpaced"},
    {"writers", KIND_NUMBER, AT(writers), 1, 4096, "16", "puts at once of the watch workload"},
    {"o", KIND_OUTPUT, AT(json), 0, 0, "text", "text, or json: one object a line, as it happens"},
};

static const char *const workload_names[LOAD_WORK_COUNT] = {
    [LOAD_WORK_FILL] = "fill",
    [LOAD_WORK_RANGE] = "range",
    [LOAD_WORK_RANGE_LIN] = "range-lin",
    [LOAD_WORK_PUT] = "put",
    [LOAD_WORK_TXN_CAS] = "txn-cas",
    [LOAD_WORK_LIST] = "list",
    [LOAD_WORK_LIST_STREAM] = "list-stream",
    [LOAD_WORK_WATCH] = "watch",
    [LOAD_WORK_MIXED] = "mixed",
};

static const char workload_help[] =
    "workloads:\n"
    "  fill         the fill alone\n"
    "  range        one random key, serializable\n"
    "  range-lin    one random key, linearizable\n"
    "  put          one random key\n"
    "  txn-cas      Kubernetes' update: If mod(k)==r Then Put Else Range, 16 keys per call slot\n"
    "  list         a page of --limit keys from a random key to the prefix's end, linearizable\n"
    "  list-stream  the same by RangeStream\n"
    "  watch        --watchers on connections x streams streams, a writer of --rate puts/s;\n"
    "               operations are delivered events\n"
    "  mixed        60 % range, 20 % range-lin, 15 % put, 5 % list\n";

const char *load_workload_name(enum load_workload workload)
{
    ASSERT(workload < LOAD_WORK_COUNT);
    return workload_names[workload];
}

NO_RETURN static void options_help(void)
{
    printf("usage: drover-bench [--FLAG VALUE]...\nLoad on an etcd endpoint, from one thread.\n\n");
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        printf("  --%-13s %s%s(default %s)\n", flags[i].name, flags[i].help,
               flags[i].help[0] == '\0' ? "" : " ", flags[i].normal);
    }
    printf("\n%s", workload_help);
    exit(0);
}

static bool number_parse(const struct flag *flag, const char *text, uint64_t *number)
{
    char *end;
    errno = 0;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    if (flag->kind == KIND_SECONDS) {
        double seconds = strtod(text, &end);
        *number = (uint64_t)llround(seconds * 1000);
    } else {
        *number = strtoull(text, &end, 10);
    }
    return errno == 0 && *end == '\0' && *number >= flag->min && *number <= flag->max;
}

static bool word_parse(const char *text, const char *const *words, size_t count, size_t *index)
{
    for (*index = 0; *index < count; (*index)++) {
        if (strcmp(text, words[*index]) == 0) {
            return true;
        }
    }
    return false;
}

static bool flag_set(struct load_options *options, const struct flag *flag, const char *text)
{
    static const char *const bools[] = {"false", "true"};
    static const char *const outputs[] = {"text", "json"};
    void *at = (char *)options + flag->offset;
    size_t index;
    bool ok;
    switch (flag->kind) {
    case KIND_TEXT:
        *(const char **)at = text;
        return text[0] != '\0';
    case KIND_NUMBER:
    case KIND_SECONDS:
        return number_parse(flag, text, (uint64_t *)at);
    case KIND_WORKLOAD:
        ok = word_parse(text, workload_names, LOAD_WORK_COUNT, &index);
        *(enum load_workload *)at = (enum load_workload)index;
        return ok;
    case KIND_BOOL:
    case KIND_OUTPUT:
        ok = word_parse(text, flag->kind == KIND_BOOL ? bools : outputs, 2, &index);
        *(bool *)at = index == 1;
        return ok;
    }
    return false;
}

NO_RETURN static void options_refuse(const char *name, const char *what)
{
    fprintf(stderr, "drover-bench: %s: %s (see --help)\n", name, what);
    exit(2);
}

/* Flags in Go's forms: -x v, --x v, --x=v. */
static void argument_parse(struct load_options *options, char **argv, int *at)
{
    const char *given = argv[*at];
    const char *name = given + (given[0] == '-') + (given[0] == '-' && given[1] == '-');
    size_t size = strcspn(name, "=");
    if (strcmp(name, "help") == 0 || strcmp(name, "h") == 0) {
        options_help();
    }
    for (size_t i = 0; i < ARRAY_COUNT(flags) && name != given; i++) {
        if (strlen(flags[i].name) != size || strncmp(flags[i].name, name, size) != 0) {
            continue;
        }
        const char *value = name[size] == '=' ? name + size + 1 : argv[++*at];
        if (value == NULL) {
            options_refuse(given, "needs a value");
        }
        if (!flag_set(options, &flags[i], value)) {
            options_refuse(given, "a value that can't be");
        }
        return;
    }
    options_refuse(given, "no such flag");
}

void load_options_parse(struct load_options *options, int argc, char **argv)
{
    memset(options, 0, sizeof(*options));
    for (size_t i = 0; i < ARRAY_COUNT(flags); i++) {
        bool ok = flag_set(options, &flags[i], flags[i].normal);
        ASSERT(ok);
    }
    for (int at = 1; at < argc; at++) {
        argument_parse(options, argv, &at);
    }
    if (strlen(options->key_prefix) + 8 > options->key_size) {
        options_refuse("--key-size", "too small for the prefix and 8 digits");
    }
    if (options->limit > options->keys) {
        options->limit = options->keys;
    }
    if (options->watch_groups > options->keys) {
        options_refuse("--watch-groups", "more than keys");
    }
    /* One request holds at most 1 MiB of values: below etcd's 1.5 MiB. */
    uint64_t pair_size = options->key_size + options->value_size;
    while (options->batch > 1 && options->batch * pair_size > 1 << 20) {
        options->batch--;
    }
}
