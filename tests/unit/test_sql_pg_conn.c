/*
 * Goal: whatever a server says, nothing crashes, nothing hangs, and every request is answered.
 * Method: a server of our own that knows what PostgreSQL would say to each statement, and says
 * something else at one place: no result, too few columns, NULLs, COPY, noise, nothing more.
 */
#include "support_log.h"

#include "support.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/buf.h"
#include "core/log.h"

/* What drover says; each is answered by one list of messages. */
enum step {
    STEP_FACTS,
    STEP_TABLES,
    STEP_VERSIONS,
    STEP_LOCK,
    STEP_COMMIT,
    STEP_EXECUTE,
    STEP_COUNT
};

enum oddity {
    ODD_NONE,
    ODD_NO_RESULT,
    ODD_EMPTY_QUERY,
    ODD_NO_COLUMNS,
    ODD_ONE_COLUMN,
    ODD_NO_ROWS,
    ODD_MANY_ROWS,
    ODD_NULLS,
    ODD_COPY_OUT,
    ODD_COPY_IN,
    ODD_COPY_BOTH,
    ODD_ROWS_FIRST,
    ODD_BARE_ERROR,
    ODD_WARNINGS,
    ODD_UNKNOWN_MESSAGE,
    ODD_HUGE_LENGTH,
    ODD_TOO_SHORT,
    ODD_NOTIFY,
    ODD_CLOSE,
    ODD_COUNT
};

/* ---- the server: in a process of its own, one more for each connection ----------------------- */

struct speaker {
    int socket;
    struct buf out;
    struct rng rng;
    enum step odd_step;
    enum oddity oddity;
};

static void put_u32(struct buf *buf, uint32_t value)
{
    const uint8_t bytes[4] = {(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8),
                              (uint8_t)value};
    buf_add(buf, bytes, sizeof(bytes));
}

static void put_u16(struct buf *buf, uint32_t value)
{
    buf_add_byte(buf, (uint8_t)(value >> 8));
    buf_add_byte(buf, (uint8_t)value);
}

static void say(struct speaker *speaker, char type, const struct buf *body)
{
    buf_add_byte(&speaker->out, (uint8_t)type);
    put_u32(&speaker->out, (uint32_t)body->size + 4);
    buf_add_slice(&speaker->out, buf_slice(body));
}

static void say_text(struct speaker *speaker, char type, const char *text)
{
    struct buf body = {0};
    buf_add(&body, text, strlen(text) + 1);
    say(speaker, type, &body);
    buf_fini(&body);
}

static void say_columns(struct speaker *speaker, uint32_t count, bool is_binary)
{
    struct buf body = {0};
    put_u16(&body, count);
    for (uint32_t i = 0; i < count; i++) {
        buf_add(&body, "c", 2);
        put_u32(&body, 0);
        put_u16(&body, 0);
        put_u32(&body, 17);
        put_u16(&body, 0xffff);
        put_u32(&body, 0xffffffff);
        put_u16(&body, is_binary ? 1 : 0);
    }
    say(speaker, 'T', &body);
    buf_fini(&body);
}

/* A field of the statements' answers: the first tells the kind of row, the others are anything. */
static void put_binary_field(struct speaker *speaker, struct buf *body, uint32_t column)
{
    static const uint32_t sizes[] = {0, 1, 4, 8, 8, 8, 8, 16, 16, 100};
    uint32_t size = column == 0 ? 8 : sizes[rng_below(&speaker->rng, ARRAY_COUNT(sizes))];
    if (column > 0 && rng_below(&speaker->rng, 8) == 0) {
        put_u32(body, 0xffffffff); /* NULL */
        return;
    }
    put_u32(body, size);
    uint32_t taste = (uint32_t)rng_below(&speaker->rng, 4);
    for (uint32_t i = 0; i < size; i++) {
        uint8_t small = i + 1 == size ? (uint8_t)rng_below(&speaker->rng, 4) : 0;
        uint8_t any = (uint8_t)rng_below(&speaker->rng, 256);
        buf_add_byte(body, column == 0 || taste == 0 ? small
                           : taste == 1              ? 0xff
                           : taste == 2 && i == 0    ? 0x7f
                                                     : any);
    }
}

static void say_row(struct speaker *speaker, const char *const *texts, uint32_t count)
{
    struct buf body = {0};
    put_u16(&body, count);
    for (uint32_t i = 0; i < count; i++) {
        if (speaker->oddity == ODD_NULLS) {
            put_u32(&body, 0xffffffff);
        } else if (texts == NULL) {
            put_binary_field(speaker, &body, i);
        } else {
            put_u32(&body, (uint32_t)strlen(texts[i]));
            buf_add(&body, texts[i], strlen(texts[i]));
        }
    }
    say(speaker, 'D', &body);
    buf_fini(&body);
}

static void say_rows(struct speaker *speaker, const char *const *texts, uint32_t columns)
{
    uint32_t rows = 1;
    columns = speaker->oddity == ODD_NO_COLUMNS ? 0 : columns;
    columns = speaker->oddity == ODD_ONE_COLUMN ? 1 : columns;
    rows = speaker->oddity == ODD_NO_ROWS ? 0 : rows;
    rows = speaker->oddity == ODD_MANY_ROWS ? 3000 : rows;
    if (texts == NULL && speaker->oddity == ODD_NONE) {
        rows = (uint32_t)rng_below(&speaker->rng, 5);
    }
    if (speaker->oddity != ODD_ROWS_FIRST) {
        say_columns(speaker, columns, texts == NULL);
    }
    for (uint32_t i = 0; i < rows; i++) {
        say_row(speaker, texts, columns);
    }
    if (speaker->oddity == ODD_ROWS_FIRST) {
        say_columns(speaker, columns, texts == NULL);
    }
    say_text(speaker, 'C', "SELECT 1");
}

static void say_notice(struct speaker *speaker, char type, const char *severity)
{
    struct buf body = {0};
    buf_add_byte(&body, 'S');
    buf_add(&body, severity, strlen(severity) + 1);
    buf_add_byte(&body, 'V');
    buf_add(&body, severity, strlen(severity) + 1);
    buf_add(&body, "Mby the way", 12);
    buf_add_byte(&body, 0);
    say(speaker, type, &body);
    buf_fini(&body);
}

static void say_answer(struct speaker *speaker, enum step step)
{
    static const char *const facts[] = {"f",  "off", "150000",         "on", "on",
                                        "on", "",    "read committed", "1/1"};
    static const char *const tables[] = {"1", "1", "1", "1", "1", "1",
                                         "1", "1", "1", "1", "1", "1"};
    static const char *const versions[] = {"1", "0", "t"};
    static const char *const lock[] = {"1"};
    switch (step) {
    case STEP_FACTS:
        say_rows(speaker, facts, ARRAY_COUNT(facts));
        return;
    case STEP_TABLES:
        say_rows(speaker, tables, ARRAY_COUNT(tables));
        return;
    case STEP_VERSIONS:
        say_rows(speaker, versions, ARRAY_COUNT(versions));
        return;
    case STEP_LOCK:
        say_rows(speaker, lock, ARRAY_COUNT(lock));
        return;
    case STEP_COMMIT:
        say_text(speaker, 'C', "COMMIT");
        return;
    case STEP_EXECUTE:
        say_rows(speaker, NULL, 16);
        return;
    case STEP_COUNT:
        break;
    }
}

/* False: nothing more is said on this connection. */
static bool say_oddly(struct speaker *speaker, enum step step)
{
    static const uint8_t copy[] = {0, 0, 0};
    struct buf body = {0};
    switch (speaker->oddity) {
    case ODD_NO_RESULT:
        return true;
    case ODD_EMPTY_QUERY:
        say(speaker, 'I', &body);
        return true;
    case ODD_COPY_OUT:
    case ODD_COPY_IN:
    case ODD_COPY_BOTH:
        buf_add(&body, copy, sizeof(copy));
        say(speaker, "HGW"[speaker->oddity - ODD_COPY_OUT], &body);
        buf_fini(&body);
        return true;
    case ODD_BARE_ERROR:
        buf_add_byte(&body, 0);
        say(speaker, 'E', &body);
        buf_fini(&body);
        return true;
    case ODD_WARNINGS:
        for (uint32_t i = 0; i < 2000; i++) {
            say_notice(speaker, 'N', "WARNING");
        }
        say_answer(speaker, step);
        return true;
    case ODD_UNKNOWN_MESSAGE:
        say(speaker, '~', &body);
        return true;
    case ODD_HUGE_LENGTH:
        buf_add(&speaker->out, "D\x7f\xff\xff\xff", 5);
        return false;
    case ODD_TOO_SHORT:
        buf_add(&speaker->out, "D\0\0\0\4", 5);
        return true;
    case ODD_NOTIFY:
        put_u32(&body, 7);
        buf_add(&body, "drover\0-1", 10);
        for (uint32_t i = 0; i < 100; i++) {
            say(speaker, 'A', &body);
        }
        buf_fini(&body);
        say_answer(speaker, step);
        return true;
    case ODD_CLOSE:
        return false;
    case ODD_NONE: /* In the shape of the rows. */
    case ODD_NO_COLUMNS:
    case ODD_ONE_COLUMN:
    case ODD_NO_ROWS:
    case ODD_MANY_ROWS:
    case ODD_NULLS:
    case ODD_ROWS_FIRST:
    case ODD_COUNT:
        break;
    }
    say_answer(speaker, step);
    return true;
}

static bool speaker_flush(struct speaker *speaker)
{
    size_t sent = 0;
    while (sent < speaker->out.size) {
        ssize_t size =
            send(speaker->socket, speaker->out.data + sent, speaker->out.size - sent, MSG_NOSIGNAL);
        if (size <= 0) {
            return false;
        }
        sent += (size_t)size;
    }
    buf_clear(&speaker->out);
    return true;
}

static bool hear(int socket, void *bytes, size_t size)
{
    size_t got = 0;
    while (got < size) {
        ssize_t part = recv(socket, (uint8_t *)bytes + got, size - got, 0);
        if (part <= 0) {
            return false;
        }
        got += (size_t)part;
    }
    return true;
}

/* The body of a message of |type| behind its length. False at the end. */
static bool hear_body(int socket, struct buf *body)
{
    uint8_t length[4];
    if (!hear(socket, length, sizeof(length))) {
        return false;
    }
    size_t size =
        ((size_t)length[0] << 24 | (size_t)length[1] << 16 | (size_t)length[2] << 8 | length[3]) -
        4;
    buf_clear(body);
    void *bytes = buf_reserve(body, size + 1);
    body->size = size;
    ((char *)bytes)[size] = '\0';
    return hear(socket, bytes, size);
}

static enum step step_of(const char *text)
{
    if (strstr(text, "pg_is_in_recovery") != NULL) {
        return STEP_FACTS;
    }
    if (strstr(text, "to_regclass") != NULL) {
        return STEP_TABLES;
    }
    if (strstr(text, "min_reader") != NULL) {
        return STEP_VERSIONS;
    }
    return strstr(text, "FOR UPDATE") != NULL ? STEP_LOCK : STEP_COMMIT;
}

static bool speaker_answer(struct speaker *speaker, enum step step)
{
    enum oddity oddity = speaker->oddity;
    bool is_odd = step == speaker->odd_step && oddity != ODD_NONE;
    bool goes_on = true;
    if (is_odd) {
        goes_on = say_oddly(speaker, step);
    } else {
        speaker->oddity = ODD_NONE;
        say_answer(speaker, step);
        speaker->oddity = oddity;
    }
    if (goes_on) {
        buf_add(&speaker->out, "Z\0\0\0\5I", 6);
    }
    return speaker_flush(speaker) && goes_on;
}

static void speaker_run(struct speaker *speaker)
{
    struct buf body = {0};
    char type = 0;
    bool goes_on = hear_body(speaker->socket, &body); /* The start-up message has no type. */
    buf_add(&speaker->out, "R\0\0\0\10\0\0\0\0Z\0\0\0\5I", 15);
    goes_on = goes_on && speaker_flush(speaker);
    while (goes_on && hear(speaker->socket, &type, 1) && hear_body(speaker->socket, &body)) {
        switch (type) {
        case 'Q':
            goes_on = speaker_answer(speaker, step_of((const char *)body.data));
            break;
        case 'P':
            buf_add(&speaker->out, "1\0\0\0\4", 5);
            break;
        case 'B':
            buf_add(&speaker->out, "2\0\0\0\4", 5);
            break;
        case 'E':
            goes_on = speaker_answer(speaker, STEP_EXECUTE);
            break;
        case 'S': /* Behind Execute it was said already; behind Parse it ends the answer. */
            if (speaker->out.size > 0) {
                buf_add(&speaker->out, "Z\0\0\0\5I", 6);
                goes_on = speaker_flush(speaker);
            }
            break;
        default:
            break;
        }
    }
    buf_fini(&body);
    buf_fini(&speaker->out);
}

static pid_t server_start(enum step step, enum oddity oddity, uint64_t seed, char *url,
                          size_t url_size)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(listener, 16), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    (void)snprintf(url, url_size, "postgres://x@127.0.0.1:%u/x?sslmode=disable",
                   (unsigned)ntohs(address.sin_port));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)setpgid(0, 0);
        (void)signal(SIGCHLD, SIG_IGN);
        for (;; seed++) {
            int socket = accept(listener, NULL, NULL);
            if (socket < 0 || fork() != 0) {
                (void)close(socket);
                continue;
            }
            struct speaker speaker = {.socket = socket, .odd_step = step, .oddity = oddity};
            rng_seed(&speaker.rng, seed);
            speaker_run(&speaker);
            _exit(0);
        }
    }
    (void)setpgid(child, child);
    (void)close(listener);
    return child;
}

static void server_stop(pid_t child)
{
    assert_int_equal(kill(-child, SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
}

/* ---- the requests --------------------------------------------------------------------------- */

static enum err on_leases(struct sql_load *load, const struct sql_lease *leases, uint32_t count)
{
    (void)load;
    (void)leases;
    return count > 0 ? ERR_OK : ERR_INTERNAL;
}

static enum err on_rows(struct sql_load *load, const struct sql_row *rows, uint32_t count)
{
    (void)load;
    for (uint32_t i = 0; i < count; i++) {
        (void)sql_row_sum(&rows[i]); /* All of it can be read. */
    }
    return ERR_OK;
}

static enum err on_entries(struct sql_load *load, const struct sql_entry *entries, uint32_t count)
{
    (void)load;
    struct hash128 chain = {0};
    for (uint32_t i = 0; i < count; i++) {
        chain = sql_entry_chain(&chain, &entries[i]);
    }
    return ERR_OK;
}

static void requests_run(struct log_fixture *fixture)
{
    struct sql_conformance conformance = log_fixture_conformance(fixture, 1);
    conformance.now_ns = NULL; /* Every answer is taken as it is. */
    struct conf_world world;
    struct arena arena;
    arena_init(&arena, 16 << 20);
    conf_world_init(&world, &conformance);
    struct sql_log *log = fixture->log;
    enum err err;
    bool found;
    struct sql_writer writer;
    struct sql_tail tail = {.entries_max = 10, .bytes_max = 1 << 20, .arena = &arena};
    (void)conf_probe(&world, log, &world.head);
    world.head.seq = 0;
    if (conf_tail(&world, log, &tail) == ERR_OK) {
        for (uint32_t i = 0; i < tail.entry_count; i++) {
            (void)sql_rows_hash(tail.entries[i].rows, tail.entries[i].row_count);
            (void)on_rows(NULL, tail.entries[i].rows, tail.entries[i].row_count);
        }
    }
    (void)conf_verdict(&world, log, 1, &found, &writer);
    (void)log_world_put(&world, 2, 10, &err);
    struct sql_lock lock = {.tail = tail};
    if (conf_lock(&world, log, &lock) == ERR_OK) {
        log->ops->unlock(log);
    }
    struct sql_keepalive_item items[2] = {{.id = 1}, {.id = 2}};
    struct sql_keepalive keepalive = {.items = items, .count = 2};
    (void)conf_keepalive(&world, log, &keepalive);
    struct sql_upkeep upkeep = {.self = {.id = 1}, .arena = &arena};
    (void)conf_upkeep(&world, log, &upkeep);
    struct sql_purge purge = {0};
    (void)conf_purge(&world, log, &purge);
    struct sql_load load = {.on_leases = on_leases, .on_rows = on_rows, .on_entries = on_entries};
    (void)conf_load(&world, log, &load);
    conf_world_fini(&world);
    arena_fini(&arena);
}

static void serve_oddly(enum step step, enum oddity oddity, uint64_t seed)
{
    char url[128];
    pid_t server = server_start(step, oddity, seed, url, sizeof(url));
    struct log_fixture fixture;
    struct sql_config config = {.url = url, .open_timeout_ms = 200, .statement_timeout_ms = 100};
    log_fixture_start(&fixture, &config);
    log_fixture_wait_opened(&fixture);
    assert_null(strchr(fixture.why, '\n'));
    requests_run(&fixture);
    log_fixture_close(&fixture);
    server_stop(server);
}

static void whatever_a_server_says_is_answered(void **state)
{
    (void)state;
    log_level_max = LOG_ERROR;
    for (uint32_t step = 0; step < STEP_COUNT; step++) {
        for (uint32_t oddity = ODD_NO_RESULT; oddity < ODD_COUNT; oddity++) {
            serve_oddly((enum step)step, (enum oddity)oddity, 1);
        }
    }
}

/* Rows of any shape behind a good opening. */
static void rows_of_any_shape_are_answered(void **state)
{
    (void)state;
    log_level_max = LOG_ERROR;
    uint64_t rounds = support_is_long() ? 2000 : 15;
    for (uint64_t round = 0; round < rounds; round++) {
        serve_oddly(STEP_COUNT, ODD_NONE, support_seed() + round * 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_any_shape_are_answered),
        cmocka_unit_test(whatever_a_server_says_is_answered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
