/* Settings: sources, precedence, kinds, and one clear line for every mistake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/limits.h"
#include "server/config.h"
#include "sql/sql.h"

struct load {
    struct config config;
    char why[512];
    enum err err;
};

static void load(struct load *load, const char *const *argv, const char *const *env)
{
    int argc = 0;
    while (argv[argc] != NULL) {
        argc++;
    }
    load->why[0] = '\0';
    load->err = config_load(&load->config, argc, argv, env, load->why, sizeof(load->why));
}

/* A file with |text|; the caller unlinks and frees. */
static char *file_with(const char *text)
{
    char *path = strdup("/tmp/drover-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
    return path;
}

static void stronger_sources_win(void **state)
{
    (void)state;
    char *path = file_with("name: from-file\ndata-dir: from-file\nlog-level: warn\n"
                           "poll-interval: 20ms\n");
    struct load l;
    const char *argv[] = {"--config-file", path, "--name=from-flag", NULL};
    const char *env[] = {"DROVER_NAME=from-env",
                         "ETCD_DATA_DIR=from-etcd",
                         "DROVER_LOG_LEVEL=debug",
                         "DROVER_DATA_DIR=",
                         "ETCD_LOG_LEVEL=error",
                         "ETCD_POLL_INTERVAL=5s",
                         NULL};
    load(&l, argv, env);
    assert_int_equal(l.err, ERR_OK);
    assert_string_equal(config_text(&l.config, SETTING_ID_name), "from-flag");
    assert_string_equal(config_text(&l.config, SETTING_ID_data_dir), "from-etcd");
    assert_string_equal(config_text(&l.config, SETTING_ID_log_level), "debug");
    /* Not a setting of etcd's: its environment does not count. */
    assert_int_equal(config_number(&l.config, SETTING_ID_poll_interval), 20000000);
    assert_string_equal(config_text(&l.config, SETTING_ID_transaction_mode), "auto");
    config_fini(&l.config);
    unlink(path);
    free(path);
}

static void flags_take_every_form_of_go(void **state)
{
    (void)state;
    struct load l;
    const char *argv[] = {
        "-name", "a", "--io-threads", "4", "--datastore-pooler", "-poll-interval=1s", NULL};
    load(&l, argv, NULL);
    assert_int_equal(l.err, ERR_OK);
    assert_string_equal(config_text(&l.config, SETTING_ID_name), "a");
    assert_int_equal(config_number(&l.config, SETTING_ID_io_threads), 4);
    assert_int_equal(config_number(&l.config, SETTING_ID_datastore_pooler), 1);
    assert_int_equal(config_number(&l.config, SETTING_ID_poll_interval), 1000000000);
    config_fini(&l.config);

    const char *off[] = {"--datastore-pooler=false", NULL};
    load(&l, off, NULL);
    assert_int_equal(config_number(&l.config, SETTING_ID_datastore_pooler), 0);
    config_fini(&l.config);
}

static void mistakes_are_told_in_one_line(void **state)
{
    (void)state;
    static const struct {
        const char *argv[3];
        const char *why;
    } cases[] = {
        {{"--nonsense", "1"}, "unknown flag --nonsense"},
        {{"--name"}, "flag --name needs a value"},
        {{"stray"}, "\"stray\" is not a flag"},
        {{"--io-threads", "many"}, "--io-threads: \"many\" is not a whole number"},
        {{"--io-threads", "65"}, "--io-threads: 65 is not between 0 and 64"},
        {{"--poll-interval", "fast"},
         "--poll-interval: \"fast\" is not a duration such as 100ms or 1h30m"},
        {{"--poll-interval", "0"}, "--poll-interval: 0 is not between 1ms and 60000ms"},
        {{"--data-dir", ""}, "--data-dir is empty"},
        {{"--log-format", "xml"}, "--log-format: \"xml\" is none of plain json console"},
        {{"--advertise-client-urls", "http://a:1,b:2"},
         "--advertise-client-urls: \"b:2\" is not a URL"},
        {{"--advertise-client-urls", "http://\xff:1"}, "--advertise-client-urls is not UTF-8"},
        {{"--name", "a\xff"}, "--name is not UTF-8"},
        {{"--listen-client-urls", " "}, "--listen-client-urls is empty"},
        {{"--listen-client-urls", "http://127.0.0.1:2379, https://b:1"},
         "--listen-client-urls: \"https://b:1\": TLS is not supported yet"},
        {{"--listen-client-urls", "http://h:99999"},
         "--listen-client-urls: \"h:99999\" is not HOST:PORT"},
        {{"--listen-client-urls", ":2379"},
         "--listen-client-urls: \":2379\": want http://HOST:PORT or unix://PATH"},
        {{"--datastore-pooler=perhaps"}, "--datastore-pooler: \"perhaps\" is not true or false"},
        {{"--config-file", "/does/not/exist"}, "/does/not/exist: No such file or directory"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct load l;
        load(&l, cases[i].argv, NULL);
        assert_int_equal(l.err, ERR_CONFIG);
        assert_string_equal(l.why, cases[i].why);
        config_fini(&l.config);
    }
}

static void long_names_are_refused(void **state)
{
    (void)state;
    char name[SQL_MEMBER_NAME_SIZE + 1];
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    struct load l;
    const char *argv[] = {"--name", name, NULL};
    load(&l, argv, NULL);
    assert_int_equal(l.err, ERR_CONFIG);
    assert_non_null(strstr(l.why, "--name has more than"));
    config_fini(&l.config);
    name[sizeof(name) - 2] = '\0';
    load(&l, argv, NULL);
    assert_int_equal(l.err, ERR_OK);
    config_fini(&l.config);
}

/* In etcd's files durations are numbers. */
static void a_file_may_count_nanoseconds(void **state)
{
    (void)state;
    char *path = file_with("watch-progress-notify-interval: 5000000000\npoll-interval: 20ms\n");
    struct load l;
    const char *argv[] = {"--config-file", path, NULL};
    load(&l, argv, NULL);
    assert_int_equal(l.err, ERR_OK);
    assert_int_equal(config_number(&l.config, SETTING_ID_watch_progress_notify_interval),
                     5 * INT64_C(1000000000));
    assert_int_equal(config_number(&l.config, SETTING_ID_poll_interval), 20000000);
    config_fini(&l.config);
    unlink(path);
    free(path);
}

static void mistakes_name_where_they_stand(void **state)
{
    (void)state;
    struct load l;
    const char *none[] = {NULL};
    load(&l, none, (const char *const[]){"ETCD_LOG_FORMAT=foo", NULL});
    assert_string_equal(l.why, "ETCD_LOG_FORMAT: \"foo\" is none of plain json console");
    config_fini(&l.config);
    load(&l, none, (const char *const[]){"DROVER_IO_THREADS=many", NULL});
    assert_string_equal(l.why, "DROVER_IO_THREADS: \"many\" is not a whole number");
    config_fini(&l.config);
    load(&l, none, (const char *const[]){"DROVER_IO_THREADS=65", NULL});
    assert_string_equal(l.why, "DROVER_IO_THREADS: 65 is not between 0 and 64");
    config_fini(&l.config);
}

static void a_wrong_file_names_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        const char *why;
    } cases[] = {
        {"name: a\nnonsense: 1\n", "configuration file: unknown setting \"nonsense\""},
        {"- a\n- b\n", ":1: lists and aliases have no meaning here"},
        {"name: a\ndata-dir:\n  nested: 1\n", ":3: values are not nested here"},
        {"name: \"a\n", ": found unexpected end of stream"},
        {"just words\n", ":1: a mapping of names to values is expected"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        char *path = file_with(cases[i].text);
        struct load l;
        const char *argv[] = {"--config-file", path, NULL};
        load(&l, argv, NULL);
        assert_int_equal(l.err, ERR_CONFIG);
        assert_non_null(strstr(l.why, cases[i].why));
        config_fini(&l.config);
        unlink(path);
        free(path);
    }
}

static void durations_are_read_as_go_does(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool ok;
        int64_t ns;
    } cases[] = {
        {"0", true, 0},         {"100ms", true, 100000000}, {"1h2m3.5s", true, 3723500000000},
        {"1.5us", true, 1500},  {"7ns", true, 7},           {"", false, 0},
        {"5", false, 0},        {"-1s", false, 0},          {"1d", false, 0},
        {"s", false, 0},        {"1e3s", false, 0},         {"0x10s", false, 0},
        {"9999999h", false, 0}, {"1s ", false, 0},          {".5s", true, 500000000},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        int64_t ns = 0;
        assert_int_equal(config_parse_duration(cases[i].text, &ns), cases[i].ok);
        assert_int_equal(ns, cases[i].ns);
    }
}

static char *printed(void (*print)(const struct config *config, FILE *out),
                     const struct config *config)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    print(config, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void print_example(const struct config *config, FILE *out)
{
    (void)config;
    config_print_example(out);
}

static void the_printed_configuration_hides_passwords_and_loads_again(void **state)
{
    (void)state;
    struct load l;
    const char *argv[] = {"--datastore", "postgres://me:secret@127.0.0.1:5432/db", "--name",
                          "x: \"y\"\\", NULL};
    load(&l, argv, NULL);
    assert_int_equal(l.err, ERR_OK);
    char *text = printed(config_print, &l.config);
    config_fini(&l.config);
    assert_null(strstr(text, "secret"));
    assert_non_null(strstr(text, "name: \"x: \\\"y\\\"\\\\\" # flag"));

    char *path = file_with(text);
    const char *again[] = {"--config-file", path, NULL};
    load(&l, again, NULL);
    assert_int_equal(l.err, ERR_OK);
    assert_string_equal(config_text(&l.config, SETTING_ID_name), "x: \"y\"\\");
    config_fini(&l.config);
    unlink(path);
    free(path);
    free(text);
}

static void print_help(const struct config *config, FILE *out)
{
    (void)config;
    config_print_help(out);
}

static void defaults_and_what_help_says_of_ceilings_are_core_limits(void **state)
{
    (void)state;
    struct load l;
    const char *none[] = {NULL};
    load(&l, none, NULL);
    assert_int_equal(config_number(&l.config, SETTING_ID_max_txn_ops), LIMIT_TXN_OPS_MAX);
    assert_int_equal(config_number(&l.config, SETTING_ID_max_request_bytes),
                     LIMIT_REQUEST_SIZE_MAX);
    config_fini(&l.config);

    const struct {
        const char *before;
        int value;
        const char *behind;
    } said[] = {
        {"one transaction, at most ", LIMIT_BATCH_ROWS, "."},
        {"in bytes, at most ", LIMIT_REQUEST_SIZE_CEILING >> 20, " MiB."},
        {"has processors, at most ", LIMIT_IO_THREADS_AUTO, "."},
    };
    char *help = printed(print_help, NULL);
    for (size_t i = 0; i < ARRAY_COUNT(said); i++) {
        char words[64];
        (void)snprintf(words, sizeof(words), "%s%d%s", said[i].before, said[i].value,
                       said[i].behind);
        assert_non_null(strstr(help, words));
    }
    free(help);
}

static void help_shows_forms_that_are_taken_and_what_etcd_has(void **state)
{
    (void)state;
    char *help = printed(print_help, NULL);
    assert_non_null(strstr(help, "  --datastore-pooler=false\n"));
    assert_non_null(strstr(help, "  --data-dir 'default.drover'  (etcd's)\n"));
    assert_non_null(strstr(help, "  --poll-interval '100ms'\n"));
    free(help);
}

static void configs_full_yaml_is_what_the_table_says(void **state)
{
    (void)state;
    char *expected = printed(print_example, NULL);
    FILE *file = fopen(DROVER_SOURCE_DIR "/configs/full.yaml", "rbe");
    assert_non_null(file);
    size_t size = strlen(expected);
    char *found = calloc(1, size + 2);
    assert_int_equal(fread(found, 1, size + 1, file), size);
    assert_string_equal(found, expected);
    assert_int_equal(fclose(file), 0);
    free(found);
    free(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stronger_sources_win),
        cmocka_unit_test(flags_take_every_form_of_go),
        cmocka_unit_test(mistakes_are_told_in_one_line),
        cmocka_unit_test(long_names_are_refused),
        cmocka_unit_test(mistakes_name_where_they_stand),
        cmocka_unit_test(a_file_may_count_nanoseconds),
        cmocka_unit_test(a_wrong_file_names_its_line),
        cmocka_unit_test(durations_are_read_as_go_does),
        cmocka_unit_test(the_printed_configuration_hides_passwords_and_loads_again),
        cmocka_unit_test(defaults_and_what_help_says_of_ceilings_are_core_limits),
        cmocka_unit_test(help_shows_forms_that_are_taken_and_what_etcd_has),
        cmocka_unit_test(configs_full_yaml_is_what_the_table_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
