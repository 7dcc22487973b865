/* The words of support_log.h. */
#include "support_log.h"

#include <stdio.h>
#include <unistd.h>

#include "core/mem.h"

/* Where a test does not say otherwise: as long as it takes. */
enum { PATIENCE_MS = 60 * 1000 };

void log_fixture_pump(void *arg)
{
    struct log_fixture *fixture = arg;
    (void)uv_run(&fixture->loop->uv, UV_RUN_NOWAIT);
    (void)usleep(20);
}

void log_fixture_wait_ms(void *arg, uint32_t ms)
{
    uint64_t until_ns = clock_now_ns(&clock_monotonic) + ms * NS_PER_MS;
    while (clock_now_ns(&clock_monotonic) < until_ns) {
        log_fixture_pump(arg);
        (void)usleep(1000);
    }
}

static void log_fixture_on_opened(void *arg, enum err err, const char *why)
{
    struct log_fixture *fixture = arg;
    ASSERT(!fixture->is_opened);
    fixture->is_opened = true;
    fixture->opened = err;
    (void)snprintf(fixture->why, sizeof(fixture->why), "%s", why == NULL ? "" : why);
}

static void log_fixture_on_hint(void *arg, uint64_t seq)
{
    struct log_fixture *fixture = arg;
    fixture->hint = seq > fixture->hint ? seq : fixture->hint;
}

static void log_fixture_on_closed(void *arg)
{
    ((struct log_fixture *)arg)->is_closed = true;
}

void log_fixture_start(struct log_fixture *fixture, const struct sql_config *config)
{
    struct sql_config own = *config;
    own.connect_timeout_ms = own.connect_timeout_ms == 0 ? PATIENCE_MS : own.connect_timeout_ms;
    own.statement_timeout_ms =
        own.statement_timeout_ms == 0 ? PATIENCE_MS : own.statement_timeout_ms;
    own.open_timeout_ms = own.open_timeout_ms == 0 ? PATIENCE_MS : own.open_timeout_ms;
    fixture->owns_loop = own.loop == NULL;
    if (fixture->owns_loop) {
        own.loop = mem_alloc(sizeof(*own.loop));
        loop_init(own.loop, &clock_monotonic);
    }
    fixture->loop = own.loop;
    fixture->is_opened = false;
    fixture->is_closed = false;
    fixture->hint = 0;
    enum err err = sql_log_new(&own, &fixture->log, fixture->why, sizeof(fixture->why));
    ASSERT(err == ERR_OK);
    fixture->log->events = (struct sql_events){
        .opened = log_fixture_on_opened, .hint = log_fixture_on_hint, .arg = fixture};
    fixture->log->ops->open(fixture->log);
}

void log_fixture_open(struct log_fixture *fixture, const char *url)
{
    struct sql_config config = {.url = url};
    log_fixture_start(fixture, &config);
    log_fixture_wait_opened(fixture);
}

void log_fixture_wait_opened(struct log_fixture *fixture)
{
    while (!fixture->is_opened) {
        log_fixture_pump(fixture);
    }
}

void log_fixture_close(struct log_fixture *fixture)
{
    fixture->log->ops->close(fixture->log, log_fixture_on_closed, fixture);
    ASSERT(!fixture->is_closed);
    while (!fixture->is_closed) {
        log_fixture_pump(fixture);
    }
    fixture->log->ops->free(fixture->log);
    if (fixture->owns_loop) {
        loop_fini(fixture->loop);
        mem_free(fixture->loop);
    }
}

static uint64_t log_fixture_now_ns(void *arg)
{
    (void)arg;
    return clock_now_ns(&clock_monotonic);
}

struct sql_conformance log_fixture_conformance(struct log_fixture *fixture, uint64_t seed)
{
    return (struct sql_conformance){.log = fixture->log,
                                    .pump = log_fixture_pump,
                                    .wait_ms = log_fixture_wait_ms,
                                    .now_ns = log_fixture_now_ns,
                                    .arg = fixture,
                                    .seed = seed};
}

void log_world_open(struct conf_world *world, const struct sql_conformance *conformance)
{
    conf_world_init(world, conformance);
    enum err err = conf_probe(world, conformance->log, &world->head);
    ASSERT(err == ERR_OK);
}

enum sql_outcome log_world_put(struct conf_world *world, uint32_t rows, size_t value_size,
                               enum err *err)
{
    struct conf_batch batch;
    conf_batch_init(world, &batch);
    for (uint32_t i = 0; i < rows; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "key%u", i);
        conf_batch_put(world, &batch, key, value_size, false);
    }
    conf_batch_seal(world, &batch);
    enum sql_outcome outcome = conf_batch_append(world, world->c->log, &batch);
    *err = batch.append.err;
    if (outcome == SQL_COMMITTED) {
        conf_batch_won(world, &batch);
    }
    conf_batch_fini(&batch);
    return outcome;
}
