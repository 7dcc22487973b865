/* The handlers of support_rpc.h. */
#include "support_rpc.h"

#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/mem.h"
#include "support.h"

static struct served *served_of(const struct rpc_call *call)
{
    return rpc_call_method(call)->arg;
}

static void served_note(struct rpc_call *call)
{
    struct served *seen = served_of(call);
    atomic_fetch_add(&seen->messages, 1);
    atomic_fetch_or(&seen->threads_used, UINT32_C(1) << rpc_call_thread(call));
    assert_true(loop_is_current(rpc_call_loop(call)));
}

static void served_on_gone(struct rpc_call *call)
{
    atomic_fetch_add(&served_of(call)->gone, 1);
    assert_false(rpc_call_is_alive(call));
}

static void served_echo(struct rpc_call *call, struct slice message)
{
    served_note(call);
    const struct rpc_part part = {.bytes = message};
    rpc_reply(call, &part, 1);
}

static void served_hold(struct rpc_call *call, struct slice message)
{
    (void)message;
    served_note(call);
    atomic_store(&served_of(call)->held, rpc_call_ref(call));
}

/* Hangs; for calls that will be cancelled by the thousand. */
static void served_hang(struct rpc_call *call, struct slice message)
{
    (void)message;
    served_note(call);
}

/* The same with a copy of the message for as long as the call lives. */
static void served_copy(struct rpc_call *call, struct slice message)
{
    struct slice copy;
    assert_true(arena_copy(rpc_call_arena(call), message, &copy));
    served_note(call);
}

static void served_meta(struct rpc_call *call, struct slice message)
{
    (void)message;
    const struct rpc_part part = {.bytes = rpc_call_metadata(call, "token")};
    assert_int_equal(rpc_call_metadata(call, "nothing").size, 0);
    rpc_reply(call, &part, 1);
}

static void served_fail(struct rpc_call *call, struct slice message)
{
    (void)message;
    rpc_fail(call, 11, SLICE_LIT("50% of \xc3\xa9\n"));
    rpc_fail(call, 3, SLICE_LIT("again")); /* Both no-ops. */
    rpc_fail_err(call, ERR_STOPPED);
}

/* ---- server stream ------------------------------------------------------------------------- */

struct served_stream {
    uint32_t left;
    uint32_t size;
    struct shared *zeros;
};

static void served_stream_go(struct rpc_call *call)
{
    struct served_stream *stream = *rpc_call_user(call);
    while (stream->left > 0) {
        stream->left--;
        /* Half of the message is shared, half of it copied. */
        const struct slice shared = slice_of(stream->zeros->bytes, stream->size / 2);
        const struct slice copied = slice_of(stream->zeros->bytes, stream->size - shared.size);
        const struct rpc_part parts[] = {{shared, stream->zeros}, {copied, NULL}};
        bool go_on = rpc_send(call, parts, 2, false);
        size_t queued = rpc_call_queued(call);
        if (queued > atomic_load(&served_of(call)->queued_max)) {
            atomic_store(&served_of(call)->queued_max, queued);
        }
        if (!go_on) {
            return;
        }
    }
    rpc_finish(call);
}

static void served_stream_begin(struct rpc_call *call, struct slice message)
{
    served_note(call);
    char text[64] = {0};
    assert_true(message.size < sizeof(text));
    memcpy(text, message.data, message.size);
    struct served_stream *stream = arena_alloc(rpc_call_arena(call), sizeof(*stream));
    char *end;
    stream->left = (uint32_t)strtoul(text, &end, 10);
    stream->size = (uint32_t)strtoul(end, NULL, 10);
    stream->zeros = shared_new(stream->size);
    memset(stream->zeros->bytes, 0, stream->size);
    *rpc_call_user(call) = stream;
    served_stream_go(call);
}

static void served_stream_gone(struct rpc_call *call)
{
    struct served_stream *stream = *rpc_call_user(call);
    if (stream != NULL) {
        shared_unref(stream->zeros);
    }
    served_on_gone(call);
}

/* ---- bidi ---------------------------------------------------------------------------------- */

static void served_bidi(struct rpc_call *call, struct slice message)
{
    served_note(call);
    const struct rpc_part part = {.bytes = message};
    (void)rpc_send(call, &part, 1, false);
}

static void served_urgent(struct rpc_call *call, struct slice message)
{
    served_note(call);
    const struct rpc_part part = {.bytes = message};
    (void)rpc_send(call, &part, 1, true);
}

static void served_half_close(struct rpc_call *call)
{
    atomic_fetch_add(&served_of(call)->half_closes, 1);
    rpc_finish(call);
}

static void served_pause(struct rpc_call *call, struct slice message)
{
    (void)message;
    served_note(call);
    if (atomic_load(&served_of(call)->held) == NULL) {
        rpc_call_pause(call, true);
        atomic_store(&served_of(call)->held, rpc_call_ref(call));
    }
}

/* Streams that end when the thread drains: one list for each test server is enough. */
static _Thread_local struct rpc_call *quiet_calls[16];

static void served_quiet_start(struct rpc_call *call)
{
    for (size_t i = 0; i < ARRAY_COUNT(quiet_calls); i++) {
        if (quiet_calls[i] == NULL) {
            quiet_calls[i] = call;
            return;
        }
    }
}

static void served_quiet_gone(struct rpc_call *call)
{
    for (size_t i = 0; i < ARRAY_COUNT(quiet_calls); i++) {
        if (quiet_calls[i] == call) {
            quiet_calls[i] = NULL;
        }
    }
    served_on_gone(call);
}

static void served_drain(uint32_t thread, struct loop *loop, void *arg)
{
    (void)thread;
    struct served *seen = arg;
    assert_true(loop_is_current(loop));
    atomic_fetch_add(&seen->drains, 1);
    for (size_t i = 0; i < ARRAY_COUNT(quiet_calls); i++) {
        if (quiet_calls[i] != NULL) {
            rpc_fail_err(quiet_calls[i], ERR_STOPPED);
        }
    }
}

/* ---- HTTP/1.1 ------------------------------------------------------------------------------ */

/* "METHOD PATH?QUERY SIZE:HEADER\n"; "/late" answers from a later turn. */
struct served_late {
    struct loop_post post;
    struct rpc_http *http;
};

static void served_answer_late(struct loop_post *post)
{
    struct served_late *late = CONTAINER_OF(post, struct served_late, post);
    rpc_http_answer(late->http, 200, "text/plain", SLICE_LIT("late\n"), NULL);
    mem_free(late);
}

static void served_http(struct rpc_http *http, const struct rpc_http_request *request, void *arg)
{
    (void)arg;
    if (slice_equal(request->path, SLICE_LIT("/late"))) {
        struct served_late *late = mem_alloc(sizeof(*late));
        late->http = http;
        late->post.run = served_answer_late;
        loop_post(rpc_http_loop(http), &late->post);
        return;
    }
    if (slice_equal(request->path, SLICE_LIT("/body"))) {
        rpc_http_answer(http, 200, "application/octet-stream", request->body, NULL);
        return;
    }
    struct slice header = rpc_http_header(http, "x-test");
    struct buf body = {0};
    buf_add_slice(&body, request->method);
    buf_add_byte(&body, ' ');
    buf_add_slice(&body, request->path);
    buf_add_byte(&body, '?');
    buf_add_slice(&body, request->query);
    buf_printf(&body, " %zu:", request->body.size);
    buf_add_slice(&body, header);
    bool is_get = !slice_equal(request->method, SLICE_LIT("PUT"));
    rpc_http_answer(http, is_get ? 200 : 405, "text/plain", buf_slice(&body),
                    is_get ? NULL : "GET");
    buf_fini(&body);
}

/* ---- the server ---------------------------------------------------------------------------- */

static struct rpc_method served_methods[] = {
    {.path = "/t.T/Echo", .kind = RPC_UNARY, .on_message = served_echo},
    {.path = "/t.T/Hold", .kind = RPC_UNARY, .on_message = served_hold},
    {.path = "/t.T/Hang", .kind = RPC_UNARY, .on_message = served_hang},
    {.path = "/t.T/Copy", .kind = RPC_UNARY, .on_message = served_copy},
    {.path = "/t.T/Meta", .kind = RPC_UNARY, .on_message = served_meta},
    {.path = "/t.T/Fail", .kind = RPC_UNARY, .on_message = served_fail},
    {.path = "/t.T/Stream",
     .kind = RPC_SERVER_STREAM,
     .on_message = served_stream_begin,
     .on_writable = served_stream_go,
     .on_gone = served_stream_gone},
    {.path = "/t.T/Bidi",
     .kind = RPC_BIDI,
     .on_message = served_bidi,
     .on_half_close = served_half_close},
    {.path = "/t.T/Urgent",
     .kind = RPC_BIDI,
     .on_message = served_urgent,
     .on_half_close = served_half_close},
    {.path = "/t.T/Quiet",
     .kind = RPC_BIDI,
     .on_message = served_hang,
     .on_start = served_quiet_start,
     .on_gone = served_quiet_gone},
    {.path = "/t.T/Pause",
     .kind = RPC_BIDI,
     .on_message = served_pause,
     .on_half_close = served_half_close},
};

void served_start(struct served_server *served, void (*change)(struct rpc_config *config))
{
    *served = (struct served_server){0};
    for (size_t i = 0; i < ARRAY_COUNT(served_methods); i++) {
        served_methods[i].arg = &served->seen;
        if (served_methods[i].on_gone == NULL) {
            served_methods[i].on_gone = served_on_gone;
        }
    }
    static const char *const metadata[] = {"other", "token", NULL};
    served->config = (struct rpc_config){
        .metadata = metadata,
        .methods = served_methods,
        .method_count = ARRAY_COUNT(served_methods),
        .http = served_http,
        .io_threads = 1,
        .request_size_max = 2 * 1024 * 1024,
        .concurrent_streams = UINT32_MAX,
        .keepalive_min_time_ns = 5 * NS_PER_S,
        .keepalive_interval_ns = 7200 * NS_PER_S,
        .keepalive_timeout_ns = 20 * NS_PER_S,
        .clock = &clock_monotonic,
        .on_drain = served_drain,
        .thread_arg = &served->seen,
    };
    if (change != NULL) {
        change(&served->config);
    }
    served->server = rpc_server_new(&served->config);
    char why[256] = {0};
    assert_int_equal(rpc_server_listen(served->server, "http://127.0.0.1:0", why, sizeof(why)),
                     ERR_OK);
    served->port = rpc_server_port(served->server, 0);
    assert_int_not_equal(served->port, 0);
    rpc_server_start(served->server);
}

void served_stop(struct served_server *served, uint64_t grace_ns)
{
    (void)alarm(SUPPORT_HANG_S);
    rpc_server_stop(served->server, grace_ns);
    rpc_server_join(served->server);
    (void)alarm(0);
    rpc_server_free(served->server);
}

void served_open(struct served_server *served, struct client *client,
                 void (*change)(struct rpc_config *config))
{
    served_start(served, change);
    client_open(client, served->port);
}

void served_close(struct served_server *served, struct client *client)
{
    client_close(client);
    served_stop(served, NS_PER_S);
}

void served_check(struct client *client)
{
    struct client_call echo;
    client_unary(client, &echo, "/t.T/Echo", SLICE_LIT("x"));
    assert_int_equal(echo.grpc_status, 0);
    assert_slice_equal(client_message(&echo, 0), SLICE_LIT("x"));
    client_call_fini(&echo);
}

struct served_job {
    struct loop_post post;
    void (*run)(void *arg);
    void *arg;
    sem_t done;
};

static void served_run_job(struct loop_post *post)
{
    struct served_job *job = CONTAINER_OF(post, struct served_job, post);
    job->run(job->arg);
    (void)sem_post(&job->done);
}

void served_run(struct served_server *served, void (*run)(void *arg), void *arg)
{
    struct served_job job = {.post.run = served_run_job, .run = run, .arg = arg};
    assert_int_equal(sem_init(&job.done, 0, 0), 0);
    loop_post(rpc_server_loop(served->server, 0), &job.post);
    while (sem_wait(&job.done) != 0) {
    }
    (void)sem_destroy(&job.done);
}
