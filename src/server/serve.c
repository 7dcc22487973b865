/*
 * drover serve: put the parts together, run them, take them apart.
 *
 * Start   settings ▶ log ▶ cache readers, io loops ▶ open the database, load, catch up ▶ listen
 *         ▶ io threads serve. Until then connections are refused: clients go elsewhere.
 * Stop    SIGTERM ▶ stop accepting, GOAWAY, streams end, calls finish ▶ io threads end
 *         ▶ store finishes, leaves the members, closes the log ▶ status 0
 *
 * The main thread's loop is the store's. A second signal (not within a second of the first), or a
 * log that is found broken, ends the process at once with status 1: the database has all that was
 * acknowledged.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/api.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "core/sm.h"
#include "core/version.h"
#include "server/commands.h"
#include "server/config.h"
#include "server/files.h"
#include "server/http.h"

/* Signals this close together are one wish. */
#define SIGNAL_ECHO_NS NS_PER_S

enum serve_state {
    SERVE_STARTING, /* The database is being opened and loaded. */
    SERVE_READY,    /* Io threads run. */
    SERVE_DRAINING, /* Io threads finish their calls. */
    SERVE_CLOSING,  /* The store finishes. */
    SERVE_ENDED,
    SERVE_STATE_COUNT
};
static const struct sm_state serve_states[SERVE_STATE_COUNT] = {
    [SERVE_STARTING] = {"starting", SM_TO(SERVE_READY) | SM_TO(SERVE_CLOSING)},
    [SERVE_READY] = {"ready", SM_TO(SERVE_DRAINING)},
    [SERVE_DRAINING] = {"draining", SM_TO(SERVE_CLOSING)},
    [SERVE_CLOSING] = {"closing", SM_TO(SERVE_ENDED)},
    [SERVE_ENDED] = {"ended", 0},
};

/* One io thread as the main thread knows it. */
struct io_thread {
    struct reclaim_reader reader;
    struct serve *serve;
    struct loop *loop;
    struct loop_post nudge;   /* Makes the thread end a turn. */
    _Atomic bool nudged;      /* |nudge| is on its way. */
    struct loop_post stopped; /* Tells the main thread that this one has ended. */
};

struct serve {
    struct sm sm;
    struct config config;
    struct loop loop;
    struct rng rng;
    struct reclaim reclaim;
    struct sql_log *log;
    struct store *store;
    struct api *api;
    struct rpc_server *server;
    struct http_context http;
    struct io_thread *threads;
    uint32_t thread_count;
    uint32_t threads_running;
    struct loop_hook turn;
    uv_signal_t signals[3];
    uint64_t signalled_ns; /* When the first came; 0: none yet. */
    int status;
};

/* One clear line for the person who typed the command. */
static bool fail(const char *why)
{
    fprintf(stderr, "drover: %s\n", why);
    return false;
}

static int64_t setting(const struct serve *serve, enum setting_id id)
{
    return config_number(&serve->config, id);
}

static const char *setting_text(const struct serve *serve, enum setting_id id)
{
    return config_text(&serve->config, id);
}

/* ---- io threads ------------------------------------------------------------------------------ */

static void nudge_run(struct loop_post *post)
{
    struct io_thread *thread = CONTAINER_OF(post, struct io_thread, nudge);
    atomic_store_explicit(&thread->nudged, false, memory_order_release);
}

/* Main thread. That the post is handled is all that is wanted: a turn ends behind it. */
static void nudge(struct reclaim_reader *reader)
{
    struct io_thread *thread = CONTAINER_OF(reader, struct io_thread, reader);
    if (!atomic_exchange_explicit(&thread->nudged, true, memory_order_acq_rel)) {
        loop_post(thread->loop, &thread->nudge);
    }
}

static void thread_start(uint32_t index, struct loop *loop, void *arg)
{
    struct serve *serve = arg;
    api_thread_start(serve->api, index, loop, &serve->threads[index].reader);
}

static void store_stopped(void *arg)
{
    struct serve *serve = arg;
    sm_move(&serve->sm, SERVE_ENDED);
    for (size_t i = 0; i < ARRAY_COUNT(serve->signals); i++) {
        uv_close((uv_handle_t *)&serve->signals[i], NULL);
    }
    loop_remove_hook(&serve->loop, &serve->turn);
    loop_stop(&serve->loop);
}

static void close_store(struct serve *serve)
{
    sm_move(&serve->sm, SERVE_CLOSING);
    store_stop(serve->store, store_stopped, serve);
}

/* Main thread. */
static void thread_stopped(struct loop_post *post)
{
    struct io_thread *thread = CONTAINER_OF(post, struct io_thread, stopped);
    struct serve *serve = thread->serve;
    ASSERT(serve->threads_running > 0);
    serve->threads_running--;
    if (serve->threads_running == 0) {
        rpc_server_join(serve->server);
        close_store(serve);
    }
}

static void thread_stop(uint32_t index, struct loop *loop, void *arg)
{
    struct serve *serve = arg;
    ASSERT_ON_LOOP(loop);
    api_thread_stop(serve->api, index);
    /* Nothing more is read here: the rest may be freed without asking this thread. */
    reclaim_reader_hold(&serve->threads[index].reader, RECLAIM_NO_HOLD);
    reclaim_reader_announce(&serve->threads[index].reader, UINT64_MAX);
    loop_post(&serve->loop, &serve->threads[index].stopped);
}

static void thread_drain(uint32_t index, struct loop *loop, void *arg)
{
    struct serve *serve = arg;
    ASSERT_ON_LOOP(loop);
    api_thread_drain(serve->api, index);
}

/* ---- what the store says --------------------------------------------------------------------- */

static void on_publish(void *arg)
{
    struct serve *serve = arg;
    if (serve->threads_running > 0) {
        api_on_publish(serve->api);
    }
}

static void on_fatal(void *arg, enum err err, const char *why)
{
    (void)arg;
    (void)err; /* The store has logged it. */
    fprintf(stderr, "drover: %s\n", why);
    _exit(EXIT_FAILED); /* No clean-up: what it would write could rest on a broken state. */
}

static bool listen_all(struct serve *serve)
{
    char *urls = mem_strdup(setting_text(serve, SETTING_ID_listen_client_urls));
    char *rest = NULL;
    bool ok = true;
    char *url = strtok_r(urls, ",", &rest);
    for (; ok && url != NULL; url = strtok_r(NULL, ",", &rest)) {
        char why[512];
        url += strspn(url, " ");
        url[strcspn(url, " ")] = '\0';
        if (rpc_server_listen(serve->server, url, why, sizeof(why)) != ERR_OK) {
            ok = fail(why);
        }
    }
    mem_free(urls);
    return ok;
}

static void on_ready(void *arg, enum err err, const char *why)
{
    struct serve *serve = arg;
    if (err != ERR_OK) {
        fprintf(stderr, "drover: %s\n", why);
        serve->status = EXIT_FAILED;
        if (sm_is(&serve->sm, SERVE_STARTING)) {
            close_store(serve);
        }
        return;
    }
    if (!sm_is(&serve->sm, SERVE_STARTING)) {
        return; /* A signal came first. */
    }
    if (!listen_all(serve)) {
        serve->status = EXIT_FAILED;
        close_store(serve);
        return;
    }
    sm_move(&serve->sm, SERVE_READY);
    serve->threads_running = serve->thread_count;
    rpc_server_start(serve->server);
    const struct cache_info *info = cache_snapshot_info(store_snapshot(serve->store));
    LOG(LOG_INFO, "ready to serve client requests",
        LSTR("urls", setting_text(serve, SETTING_ID_listen_client_urls)),
        LUINT("port", rpc_server_port(serve->server, 0)), LINT("revision", info->revision),
        LUINT("keys", info->live_keys));
}

static void turn_run(struct loop_hook *hook)
{
    struct serve *serve = CONTAINER_OF(hook, struct serve, turn);
    store_turn(serve->store);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct serve *serve = handle->data;
    uint64_t now_ns = clock_now_ns(&clock_monotonic);
    LOG(LOG_INFO, "signal", LINT("number", number), LSTR("state", sm_name(&serve->sm)));
    if (serve->signalled_ns != 0 && now_ns - serve->signalled_ns < SIGNAL_ECHO_NS) {
        return; /* timeout(1), shells and supervisors send one to the process and its group. */
    }
    serve->signalled_ns = now_ns;
    if (sm_is(&serve->sm, SERVE_STARTING)) {
        close_store(serve);
    } else if (sm_is(&serve->sm, SERVE_READY)) {
        sm_move(&serve->sm, SERVE_DRAINING);
        rpc_server_stop(serve->server, (uint64_t)setting(serve, SETTING_ID_shutdown_grace));
    } else {
        _exit(EXIT_FAILED); /* The second one: somebody is in a hurry. */
    }
}

/* ---- putting it together --------------------------------------------------------------------- */

static void start_log(const struct serve *serve)
{
    int level = config_choice(&serve->config, SETTING_ID_log_level);
    static_assert(LOG_ERROR == 0 && LOG_DEBUG == 3, "levels are in the order of their words");
    log_init(level > LOG_DEBUG ? LOG_ERROR : (enum log_level)level,
             config_choice(&serve->config, SETTING_ID_log_format) == 1 ? LOG_JSON : LOG_PLAIN);
}

/* "sqlite://DIR/drover.db" with what has a meaning in URLs escaped; the caller frees. */
static char *embedded_url(const char *directory)
{
    struct buf url = {0};
    buf_printf(&url, "sqlite://");
    for (; *directory != '\0'; directory++) {
        if (strchr("%?#", *directory) != NULL) {
            buf_printf(&url, "%%%02X", (unsigned char)*directory);
        } else {
            buf_add_byte(&url, (uint8_t)*directory);
        }
    }
    buf_printf(&url, "/drover.db");
    buf_add_byte(&url, '\0');
    return (char *)url.data;
}

static bool make_log(struct serve *serve)
{
    const char *url = setting_text(serve, SETTING_ID_datastore);
    char *embedded = embedded_url(setting_text(serve, SETTING_ID_data_dir));
    struct sql_config config = {
        .url = url[0] == '\0' ? embedded : url,
        .loop = &serve->loop,
        .connect_timeout_ms =
            (uint32_t)(setting(serve, SETTING_ID_datastore_connect_timeout) / (int64_t)NS_PER_MS),
        .statement_timeout_ms =
            (uint32_t)(setting(serve, SETTING_ID_datastore_statement_timeout) / (int64_t)NS_PER_MS),
        .tables_prefix = "",
        .pooler = setting(serve, SETTING_ID_datastore_pooler) != 0,
    };
    char why[1024];
    enum err err = sql_log_new(&config, &serve->log, why, sizeof(why));
    mem_free(embedded);
    return err == ERR_OK || fail(why);
}

static void make_store(struct serve *serve)
{
    static_assert(STORE_OPTIMISTIC == 0 && STORE_LOCKING == 1 && STORE_AUTO == 2,
                  "modes are in the order of their words");
    struct store_config config = {
        .log = serve->log,
        .timers = &serve->loop.timers,
        .loop = &serve->loop,
        .rng = &serve->rng,
        .reclaim = &serve->reclaim,
        .transaction_mode =
            (enum store_transaction_mode)config_choice(&serve->config, SETTING_ID_transaction_mode),
        .poll_interval_ms =
            (uint32_t)(setting(serve, SETTING_ID_poll_interval) / (int64_t)NS_PER_MS),
        .upkeep_interval_ms = LIMIT_UPKEEP_MS,
        .lease_margin_ms = LIMIT_LEASE_MARGIN_MS,
        .max_txn_ops = (uint64_t)setting(serve, SETTING_ID_max_txn_ops),
        .request_size_max = (uint64_t)setting(serve, SETTING_ID_max_request_bytes),
        .on_publish = on_publish,
        .on_ready = on_ready,
        .on_fatal = on_fatal,
        .arg = serve,
    };
    const char *advertised = setting_text(serve, SETTING_ID_advertise_client_urls);
    if (advertised[0] == '\0') {
        advertised = setting_text(serve, SETTING_ID_listen_client_urls);
    }
    if (strstr(advertised, "//0.0.0.0") != NULL || strstr(advertised, "//[::]") != NULL) {
        LOG(LOG_WARN, "clients cannot dial what is advertised to them: --advertise-client-urls",
            LSTR("urls", advertised));
    }
    const char *name = setting_text(serve, SETTING_ID_name);
    ASSERT(strlen(advertised) < sizeof(config.self.client_urls));
    ASSERT(strlen(name) < sizeof(config.self.name));
    memcpy(config.self.name, name, strlen(name) + 1);
    char *to = config.self.client_urls; /* Zeroed; spaces around commas are no part of URLs. */
    for (const char *at = advertised; *at != '\0'; at++) {
        if (*at != ' ') {
            *to++ = *at;
        }
    }
    memcpy(config.self.version, ETCD_VERSION, sizeof(ETCD_VERSION));
    serve->store = store_new(&config);
}

static void make_api(struct serve *serve)
{
    struct api_config config = {
        .store = serve->store,
        .cache = store_cache(serve->store),
        .io_threads = serve->thread_count,
        .progress_interval_ns = (uint64_t)setting(serve, SETTING_ID_watch_progress_notify_interval),
        .request_size_max = (uint64_t)setting(serve, SETTING_ID_max_request_bytes),
        .max_txn_ops = (uint64_t)setting(serve, SETTING_ID_max_txn_ops),
        .seed = rng_next(&serve->rng),
    };
    serve->api = api_new(&config);
    serve->http = (struct http_context){serve->api, serve->store};
}

/* As in etcd, both count only if neither is 0; else gRPC's own defaults hold. */
static uint64_t keepalive(const struct serve *serve, enum setting_id id, uint64_t default_s)
{
    bool given = setting(serve, SETTING_ID_grpc_keepalive_interval) > 0 &&
                 setting(serve, SETTING_ID_grpc_keepalive_timeout) > 0;
    return given ? (uint64_t)setting(serve, id) : default_s * NS_PER_S;
}

static void make_server(struct serve *serve)
{
    struct rpc_config config = {
        .metadata = api_metadata(),
        .http = http_serve,
        .http_arg = &serve->http,
        .io_threads = serve->thread_count,
        .request_size_max =
            (uint32_t)setting(serve, SETTING_ID_max_request_bytes) + LIMIT_REQUEST_OVERHEAD,
        .concurrent_streams = (uint32_t)setting(serve, SETTING_ID_max_concurrent_streams),
        .keepalive_min_time_ns = (uint64_t)setting(serve, SETTING_ID_grpc_keepalive_min_time),
        .keepalive_interval_ns = keepalive(serve, SETTING_ID_grpc_keepalive_interval, 7200),
        .keepalive_timeout_ns = keepalive(serve, SETTING_ID_grpc_keepalive_timeout, 20),
        .clock = &clock_monotonic,
        .thread_start = thread_start,
        .thread_stop = thread_stop,
        .on_drain = thread_drain,
        .conn_gone = api_connection_gone,
        .conn_room = api_connection_room,
        .thread_arg = serve,
    };
    config.methods = api_methods(serve->api, &config.method_count);
    serve->server = rpc_server_new(&config);
    for (uint32_t i = 0; i < serve->thread_count; i++) {
        struct io_thread *thread = &serve->threads[i];
        thread->loop = rpc_server_loop(serve->server, i);
        thread->loop->reader = &thread->reader;
    }
}

static void make_threads(struct serve *serve)
{
    int64_t count = setting(serve, SETTING_ID_io_threads);
    if (count == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online < 1 ? 1 : online > LIMIT_IO_THREADS_AUTO ? LIMIT_IO_THREADS_AUTO : online;
    }
    serve->thread_count = (uint32_t)count;
    serve->threads = mem_alloc((size_t)count * sizeof(struct io_thread));
    reclaim_init(&serve->reclaim);
    for (uint32_t i = 0; i < serve->thread_count; i++) {
        struct io_thread *thread = &serve->threads[i];
        thread->serve = serve;
        thread->nudge.run = nudge_run;
        thread->stopped.run = thread_stopped;
        thread->reader.nudge = nudge;
        reclaim_add_reader(&serve->reclaim, &thread->reader);
    }
}

static void make_signals(struct serve *serve)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    (void)signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
        int failed = uv_signal_init(&serve->loop.uv, &serve->signals[i]);
        ASSERT(failed == 0);
        serve->signals[i].data = serve;
        failed = uv_signal_start(&serve->signals[i], on_signal, numbers[i]);
        ASSERT(failed == 0);
    }
}

static int run(struct serve *serve)
{
    loop_init(&serve->loop, &clock_monotonic);
    rng_seed_from_system(&serve->rng);
    (void)server_raise_open_files();
    make_threads(serve);
    if (!make_log(serve)) {
        return EXIT_USAGE; /* Nothing was opened yet: its URL is no good. */
    }
    make_store(serve);
    make_api(serve);
    make_server(serve);
    config_log(&serve->config);
    make_signals(serve);
    sm_init(&serve->sm, serve_states, SERVE_STATE_COUNT, SERVE_STARTING);
    serve->turn.run = turn_run;
    loop_add_hook(&serve->loop, &serve->turn);
    store_start(serve->store);
    loop_run(&serve->loop);

    ASSERT(sm_is(&serve->sm, SERVE_ENDED));
    if (serve->status == 0) { /* Else the last line says what failed. */
        LOG(LOG_INFO, "stopped");
    }
    rpc_server_free(serve->server);
    api_free(serve->api);
    store_free(serve->store);
    serve->log->ops->free(serve->log);
    reclaim_fini(&serve->reclaim);
    loop_fini(&serve->loop);
    mem_free(serve->threads);
    return serve->status;
}

int command_serve(int argc, const char *const *argv)
{
    struct serve *serve = mem_alloc(sizeof(*serve));
    char why[1024];
    int status = EXIT_USAGE;
    if (config_load(&serve->config, argc, argv, (const char *const *)environ, why, sizeof(why)) !=
        ERR_OK) {
        fprintf(stderr, "drover serve: %s\ndrover serve --help tells all flags\n", why);
    } else if (serve->config.help_asked) {
        printf("Usage: drover serve [FLAGS]\n\nServes etcd's v3 API. Without flags: SQLite in "
               "./default.drover, http://127.0.0.1:2379.\n");
        config_print_help(stdout);
        status = 0;
    } else {
        start_log(serve);
        status = run(serve);
    }
    config_fini(&serve->config);
    mem_free(serve);
    return status;
}
