/* Each word of a setting means what it says where it is used, and so do the defaults. */
#include "support.h"

#include "core/log.h"
#include "server/config.h"
#include "store/store.h"

static int choice(enum setting_id id, const char *flag, const char *word)
{
    struct config config;
    char why[256] = "";
    const char *argv[] = {flag, word, NULL};
    int argc = word == NULL ? 0 : 2;
    if (config_load(&config, argc, argv, NULL, why, sizeof(why)) != ERR_OK) {
        fail_msg("%s %s: %s", flag, word, why);
    }
    int which = config_choice(&config, id);
    config_fini(&config);
    return which;
}

static void each_word_names_what_the_program_takes_it_for(void **state)
{
    static const struct {
        enum setting_id id;
        const char *flag;
        const char *word; /* NULL: the default. */
        int which;
    } table[] = {
        {SETTING_ID_transaction_mode, "--transaction-mode", "optimistic", STORE_OPTIMISTIC},
        {SETTING_ID_transaction_mode, "--transaction-mode", "locking", STORE_LOCKING},
        {SETTING_ID_transaction_mode, "--transaction-mode", "auto", STORE_AUTO},
        {SETTING_ID_transaction_mode, "--transaction-mode", NULL, STORE_AUTO},
        {SETTING_ID_log_level, "--log-level", "error", LOG_ERROR},
        {SETTING_ID_log_level, "--log-level", "warn", LOG_WARN},
        {SETTING_ID_log_level, "--log-level", "info", LOG_INFO},
        {SETTING_ID_log_level, "--log-level", "debug", LOG_DEBUG},
        {SETTING_ID_log_level, "--log-level", NULL, LOG_INFO},
    };
    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        int which = choice(table[i].id, table[i].flag, table[i].word);
        if (which != table[i].which) {
            fail_msg("%s %s: %d, not %d", table[i].flag, table[i].word, which, table[i].which);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_word_names_what_the_program_takes_it_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
