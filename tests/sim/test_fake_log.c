/* The fake database passes the script that the real engines pass. */
#include "support_conformance.h"

#include "support.h"

#include "fake_log.h"

static void on_deliver(void *arg)
{
    (void)arg;
}

static void world_pump(void *arg)
{
    struct sched *sched = arg;
    if (sched_next_ns(sched) != UINT64_MAX) {
        sched_run_one(sched);
    }
}

static void event_nothing(void *arg)
{
    *(bool *)arg = true;
}

static void world_wait_ms(void *arg, uint32_t ms)
{
    struct sched *sched = arg;
    bool passed = false;
    sched_add(sched, ms * NS_PER_MS, event_nothing, &passed);
    while (!passed) {
        sched_run_one(sched);
    }
}

static void on_opened(void *arg, enum err err, const char *why)
{
    (void)why;
    assert_int_equal(err, ERR_OK);
    (*(uint32_t *)arg)++;
}

static void on_hint(void *arg, uint64_t seq)
{
    (void)arg;
    assert_true(seq > 0);
}

static void on_closed(void *arg)
{
    (*(uint32_t *)arg)++;
}

static void the_fake_keeps_what_the_real_engines_promise(void **state)
{
    (void)state;
    struct sched sched;
    struct fake_db db;
    uint32_t opened = 0;
    uint32_t closed = 0;
    sched_init(&sched, support_seed());
    fake_db_init(&db, &sched);
    struct sql_log *logs[2];
    for (uint32_t i = 0; i < 2; i++) {
        logs[i] = fake_log_base(fake_log_new(&db, on_deliver, NULL));
        logs[i]->events = (struct sql_events){.opened = on_opened, .hint = on_hint, .arg = &opened};
        logs[i]->ops->open(logs[i]);
    }
    while (opened < 2) {
        world_pump(&sched);
    }
    struct sql_conformance conformance = {.log = logs[0],
                                          .other = logs[1],
                                          .pump = world_pump,
                                          .wait_ms = world_wait_ms,
                                          .arg = &sched,
                                          .seed = support_seed()};
    sql_conformance_run(&conformance);
    for (uint32_t i = 0; i < 2; i++) {
        logs[i]->ops->close(logs[i], on_closed, &closed);
    }
    while (sched_next_ns(&sched) != UINT64_MAX) {
        sched_run_one(&sched);
    }
    assert_int_equal(closed, 2);
    fake_db_fini(&db);
    sched_fini(&sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fake_keeps_what_the_real_engines_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
