/* The fake database passes the script that the real engines pass. */
#include "support_conformance.h"

#include "support.h"

#include "fake_log.h"

static void on_deliver(void *arg)
{
    (void)arg;
}

struct world {
    struct sched sched;
    struct fake_db db;
};

static void world_pump(void *arg)
{
    struct sched *sched = &((struct world *)arg)->sched;
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
    struct sched *sched = &((struct world *)arg)->sched;
    bool passed = false;
    sched_add(sched, ms * NS_PER_MS, event_nothing, &passed);
    while (!passed) {
        sched_run_one(sched);
    }
}

static void world_alter(void *arg, enum conf_alter what, bool is_on)
{
    struct fake_db *db = &((struct world *)arg)->db;
    if (what == CONF_ALTER_SCHEMA_VERSION) {
        db->schema_version = is_on ? db->schema_version + 1 : db->schema_version - 1;
        return;
    }
    size_t size = strlen(db->fence.identity) + 1;
    if (is_on) {
        memmove(db->fence.identity + 1, db->fence.identity, size);
        db->fence.identity[0] = 'x';
    } else {
        memmove(db->fence.identity, db->fence.identity + 1, size - 1);
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
    struct world world;
    uint32_t opened = 0;
    uint32_t closed = 0;
    sched_init(&world.sched, support_seed());
    fake_db_init(&world.db, &world.sched);
    struct sql_log *logs[2];
    for (uint32_t i = 0; i < 2; i++) {
        logs[i] = fake_log_base(fake_log_new(&world.db, on_deliver, NULL));
        logs[i]->events = (struct sql_events){.opened = on_opened, .hint = on_hint, .arg = &opened};
        logs[i]->ops->open(logs[i]);
    }
    while (opened < 2) {
        world_pump(&world);
    }
    struct sql_conformance conformance = {.log = logs[0],
                                          .other = logs[1],
                                          .pump = world_pump,
                                          .wait_ms = world_wait_ms,
                                          .alter = world_alter,
                                          .arg = &world,
                                          .seed = support_seed()};
    sql_conformance_run(&conformance);
    for (uint32_t i = 0; i < 2; i++) {
        logs[i]->ops->close(logs[i], on_closed, &closed);
    }
    while (sched_next_ns(&world.sched) != UINT64_MAX) {
        sched_run_one(&world.sched);
    }
    assert_int_equal(closed, 2);
    fake_db_fini(&world.db);
    sched_fini(&world.sched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fake_keeps_what_the_real_engines_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
