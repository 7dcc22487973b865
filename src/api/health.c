/*
 * grpc.health.v1 and the check behind /health. As in etcd only the service "" is known, and it is
 * SERVING for as long as the server serves.
 */
#include "api/handlers.h"
#include "api/internal.h"
#include "core/mem.h"
#include "proto/health.pb-c.h"

/* ---- gRPC ---------------------------------------------------------------------------------- */

void api_health_check(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Grpc__Health__V1__HealthCheckRequest *request = api_request(
        thread, call, message, &grpc__health__v1__health_check_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    if (api_decoded_string(request->service).size > 0) {
        rpc_fail_err(call, ERR_HEALTH_UNKNOWN_SERVICE);
        return;
    }
    Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    response.status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    api_reply_packed(thread, call, &response.base);
}

void api_health_list(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    if (api_request(thread, call, message, &grpc__health__v1__health_list_request__descriptor,
                    NULL) == NULL) {
        return;
    }
    Grpc__Health__V1__HealthCheckResponse serving = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    serving.status = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING;
    Grpc__Health__V1__HealthListResponse__StatusesEntry entry;
    grpc__health__v1__health_list_response__statuses_entry__init(&entry);
    entry.value = &serving;
    Grpc__Health__V1__HealthListResponse__StatusesEntry *entries[] = {&entry};
    Grpc__Health__V1__HealthListResponse response = GRPC__HEALTH__V1__HEALTH_LIST_RESPONSE__INIT;
    response.statuses = entries;
    response.n_statuses = 1;
    api_reply_packed(thread, call, &response.base);
}

/* One message with the status now; the stream stays open until the client or a drain ends it. */
void api_health_watch_on_message(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Grpc__Health__V1__HealthCheckRequest *request = api_request(
        thread, call, message, &grpc__health__v1__health_check_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    bool known = api_decoded_string(request->service).size == 0;
    struct api_stream *stream = mem_alloc(sizeof(*stream));
    *rpc_call_user(call) = stream;
    api_stream_add(thread, stream, call);
    api_out_begin(&thread->out);
    uint8_t *at = api_out_reserve(&thread->out, API_NUMBER_SIZE_MAX);
    api_out_commit(
        &thread->out,
        api_put_number(
            at, 1,
            known ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                  : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN));
    (void)api_send(thread, call, true);
}

void api_health_watch_on_gone(struct rpc_call *call)
{
    struct api_stream *stream = *rpc_call_user(call);
    if (stream != NULL) {
        api_stream_remove(stream);
        mem_free(stream);
    }
}

/* ---- HTTP ---------------------------------------------------------------------------------- */

struct health_ask {
    struct store_request request;
    struct arena arena;
    void (*done)(void *arg, enum err err);
    void *arg;
};

static void health_on_index(struct store_request *request)
{
    struct health_ask *ask = CONTAINER_OF(request, struct health_ask, request);
    void (*done)(void *arg, enum err err) = ask->done;
    void *arg = ask->arg;
    enum err err = request->err;
    arena_fini(&ask->arena);
    mem_free(ask);
    done(arg, err);
}

void api_health(struct api *api, uint32_t thread, bool serializable,
                void (*done)(void *arg, enum err err), void *arg)
{
    ASSERT(thread < api->config.io_threads);
    struct api_thread *own = &api->threads[thread];
    ASSERT_ON_LOOP(own->loop);
    const struct store_facts *facts = store_facts(api->config.store);
    if (!facts->ready) {
        done(arg, ERR_NO_LEADER);
        return;
    }
    if (serializable || store_reads_are_local(api->config.store)) {
        done(arg, ERR_OK);
        return;
    }
    struct health_ask *ask = mem_alloc(sizeof(*ask));
    arena_init(&ask->arena, LIMIT_CALL_ARENA_MAX);
    ask->done = done;
    ask->arg = arg;
    ask->request.kind = STORE_READ_INDEX;
    ask->request.home = own->loop;
    ask->request.deadline_ns = UINT64_MAX;
    ask->request.arena = &ask->arena;
    ask->request.done = health_on_index;
    store_post(api->config.store, &ask->request);
}
