/*
 * Goal: one event is one line, whatever bytes its fields have; what is off costs nothing.
 * Method: capture standard error, compare, and take the time stamps out.
 */
#include "support.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"

static enum log_format format;

static void write_all_kinds(void)
{
    log_init(LOG_INFO, format);
    LOG(LOG_WARN, "all kinds", LINT("int", -5), LUINT("uint", UINT64_MAX), LSTR("bare", "a/b:c"),
        LSTR("quoted", "a b\"c\\"), LSTR("none", NULL), LSTR("bytes", "k\x01\n\xff"),
        LSTR("text", "\xc3\xa4"));
    LOG(LOG_INFO, "no fields");
    LOG(LOG_DEBUG, "off", LINT("int", (abort(), 1)));
}

/* Overwrites each YYYY-MM-DDTHH:MM:SS.mmmZ by a T. */
static void drop_stamps(char *text)
{
    for (char *at = text; (at = strstr(at, "20")) != NULL;) {
        if (strlen(at) > 24 && at[4] == '-' && at[10] == 'T' && at[19] == '.' && at[23] == 'Z') {
            at[0] = 'T';
            memmove(at + 1, at + 24, strlen(at + 24) + 1);
        }
        at++;
    }
}

static void plain_lines_are_key_value_pairs(void **state)
{
    (void)state;
    format = LOG_PLAIN;
    char *text = support_capture_stderr(write_all_kinds);
    drop_stamps(text);
    assert_string_equal(text, "T WARN all kinds int=-5 uint=18446744073709551615 bare=a/b:c"
                              " quoted=\"a b\\\"c\\\\\" none=\"\" bytes=\"k\\x01\\x0a\\xff\""
                              " text=\"\xc3\xa4\"\n"
                              "T INFO no fields\n");
    mem_free(text);
}

static void json_lines_are_objects(void **state)
{
    (void)state;
    format = LOG_JSON;
    char *text = support_capture_stderr(write_all_kinds);
    drop_stamps(text);
    assert_string_equal(
        text, "{\"level\":\"warn\",\"ts\":\"T\",\"msg\":\"all kinds\",\"int\":-5,"
              "\"uint\":18446744073709551615,\"bare\":\"a/b:c\",\"quoted\":\"a b\\\"c\\\\\","
              "\"none\":\"\",\"bytes\":\"k\\u0001\\u000a\\\\xff\",\"text\":\"\xc3\xa4\"}\n"
              "{\"level\":\"info\",\"ts\":\"T\",\"msg\":\"no fields\"}\n");
    mem_free(text);
}

static void write_too_much(void)
{
    log_init(LOG_INFO, format);
    char *huge = mem_alloc(100000);
    memset(huge, '"', 99999);
    LOG(LOG_ERROR, "too much", LINT("first", 1), LSTR("huge", huge), LINT("last", 2));
    mem_free(huge);
}

static void a_line_has_a_ceiling(void **state)
{
    (void)state;
    format = LOG_PLAIN;
    char *text = support_capture_stderr(write_too_much);
    drop_stamps(text);
    assert_string_equal(text, "T ERROR too much first=1 last=2 truncated=true\n");
    mem_free(text);
    format = LOG_JSON;
    text = support_capture_stderr(write_too_much);
    drop_stamps(text);
    assert_string_equal(text, "{\"level\":\"error\",\"ts\":\"T\",\"msg\":\"too much\",\"first\":1,"
                              "\"last\":2,\"truncated\":true}\n");
    mem_free(text);
}

static void write_every_length(void)
{
    log_init(LOG_INFO, LOG_JSON);
    char value[LIMIT_LOG_LINE_SIZE + 1] = {0};
    for (uint32_t size = LIMIT_LOG_LINE_SIZE - 200; size < LIMIT_LOG_LINE_SIZE; size++) {
        memset(value, 'v', size);
        LOG(LOG_INFO, "length", LSTR("a", value), LSTR("b", "b"));
    }
}

static void every_length_ends_its_line_well(void **state)
{
    (void)state;
    char *text = support_capture_stderr(write_every_length);
    uint32_t count = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        size_t size = strlen(line);
        assert_in_range(size, 50, LIMIT_LOG_LINE_SIZE - 1);
        assert_int_equal(line[0], '{');
        assert_int_equal(line[size - 1], '}');
        count++;
    }
    assert_int_equal(count, 200);
    mem_free(text);
}

enum { WRITERS = 4, LINES = 500 };

static void *write_lines(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < LINES; i++) {
        LOG(LOG_INFO, "line", LSTR("fill", "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"));
    }
    return NULL;
}

static void write_from_threads(void)
{
    log_init(LOG_INFO, LOG_PLAIN);
    pthread_t threads[WRITERS];
    for (uint32_t i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, NULL), 0);
    }
    for (uint32_t i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
}

static void threads_do_not_mix_their_lines(void **state)
{
    (void)state;
    char *text = support_capture_stderr(write_from_threads);
    drop_stamps(text);
    uint32_t count = 0;
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        assert_string_equal(line, "T INFO line fill=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
        count++;
    }
    assert_int_equal(count, WRITERS * LINES);
    mem_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_lines_are_key_value_pairs),
        cmocka_unit_test(json_lines_are_objects),
        cmocka_unit_test(a_line_has_a_ceiling),
        cmocka_unit_test(every_length_ends_its_line_well),
        cmocka_unit_test(threads_do_not_mix_their_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
