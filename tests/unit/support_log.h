/* A loop and a log on it, as the owner of a store would have them: for tests of the engines. */
#ifndef SUPPORT_LOG_H
#define SUPPORT_LOG_H

#include "support_conformance.h"

struct log_fixture {
    struct loop *loop; /* May be shared with others. */
    struct sql_log *log;
    bool owns_loop;
    bool is_opened;
    enum err opened;
    char why[512];
    bool is_closed;
    uint64_t hint; /* The newest that came. */
};

/* Open |url| on a loop of its own and wait for the answer: |opened|, |why|. */
void log_fixture_open(struct log_fixture *fixture, const char *url);
/* The same with all settings. |config->loop| NULL: a loop of its own. Does not wait. */
void log_fixture_start(struct log_fixture *fixture, const struct sql_config *config);
/* Until |is_opened|. */
void log_fixture_wait_opened(struct log_fixture *fixture);
void log_fixture_close(struct log_fixture *fixture);
/* One turn of its loop that does not block, then a short rest. */
void log_fixture_pump(void *arg);
void log_fixture_wait_ms(void *arg, uint32_t ms);
struct sql_conformance log_fixture_conformance(struct log_fixture *fixture, uint64_t seed);

/* A world at the head of the conformance's log, which opened well. */
void log_world_open(struct conf_world *world, const struct sql_conformance *conformance);
/* Append |rows| puts of "key0", "key1", ...; counted in when they won. |err|: the append's. */
enum sql_outcome log_world_put(struct conf_world *world, uint32_t rows, size_t value_size,
                               enum err *err);

#endif
