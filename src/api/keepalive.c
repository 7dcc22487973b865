/*
 * LeaseKeepAlive: renewals go to the store as they come, their answers leave in the order in which
 * they came. A client that asks faster than the store answers is held back.
 *
 *     ASKED ──the store answered──▶ ANSWERED ──all before it were sent──▶ sent, freed
 */
#include "api/handlers.h"
#include "api/internal.h"
#include "core/mem.h"
#include "proto/rpc.pb-c.h"

struct keepalive_call {
    struct api_stream stream;
    struct api_thread *thread;
    struct renewal *first, *last; /* In order of arrival. */
    uint32_t count;
    bool half_closed;
    bool paused;
};

/* Outlives its call when the store answers late. */
struct renewal {
    struct store_request request;
    struct arena arena;
    struct keepalive_call *call; /* NULL when it is gone. */
    struct renewal *next;
    struct api_header header; /* As of before the renewal, so that it is never ahead of it. */
    bool answered;
};

static void renewal_free(struct renewal *renewal)
{
    arena_fini(&renewal->arena);
    mem_free(renewal);
}

static void renewal_send(struct keepalive_call *call, const struct renewal *renewal)
{
    struct api_out *out = &call->thread->out;
    api_out_begin(out);
    api_encode_header(out, &renewal->header);
    uint8_t *at = api_out_reserve(out, 2 * API_NUMBER_SIZE_MAX);
    at = api_put_number(at, 2, (uint64_t)renewal->request.u.lease.id);
    at = api_put_number(at, 3, (uint64_t)renewal->request.answer.lease.ttl_s);
    api_out_commit(out, at);
    (void)api_send(call->thread, call->stream.call, false); /* Input is held back instead. */
}

/* Send what is complete, in order; end the stream when the client has and all is answered. */
static void keepalive_flush(struct keepalive_call *call)
{
    while (call->first != NULL && call->first->answered) {
        struct renewal *renewal = call->first;
        enum err err = renewal->request.err;
        if (err != ERR_OK) {
            rpc_fail_err(call->stream.call, err); /* The rest is dropped with the call. */
            return;
        }
        renewal_send(call, renewal);
        call->first = renewal->next;
        call->last = call->first == NULL ? NULL : call->last;
        call->count--;
        renewal_free(renewal);
    }
    if (call->paused && call->count <= LIMIT_KEEPALIVES_PENDING / 2) {
        call->paused = false;
        rpc_call_pause(call->stream.call, false);
    }
    if (call->half_closed && call->first == NULL) {
        rpc_finish(call->stream.call);
    }
}

static void renewal_done(struct store_request *request)
{
    struct renewal *renewal = CONTAINER_OF(request, struct renewal, request);
    struct keepalive_call *call = renewal->call;
    if (call == NULL) {
        renewal_free(renewal);
        return;
    }
    renewal->answered = true;
    if (rpc_call_is_alive(call->stream.call)) {
        keepalive_flush(call);
    }
}

static void renewal_post(struct keepalive_call *call, int64_t id)
{
    struct api_thread *thread = call->thread;
    struct renewal *renewal = mem_alloc(sizeof(*renewal));
    arena_init(&renewal->arena, LIMIT_CALL_ARENA_MAX);
    renewal->call = call;
    renewal->header = api_header(thread, api_revision(thread));
    renewal->request.kind = STORE_LEASE_KEEPALIVE;
    renewal->request.u.lease.id = id;
    renewal->request.home = thread->loop;
    renewal->request.deadline_ns = UINT64_MAX; /* The stream's own is rpc's business. */
    renewal->request.arena = &renewal->arena;
    renewal->request.done = renewal_done;
    if (call->last == NULL) {
        call->first = renewal;
    } else {
        call->last->next = renewal;
    }
    call->last = renewal;
    call->count++;
    store_post(thread->api->config.store, &renewal->request);
}

void api_keepalive_on_start(struct rpc_call *call)
{
    struct api_thread *thread = api_thread_of(call);
    struct keepalive_call *own = mem_alloc(sizeof(*own));
    own->thread = thread;
    *rpc_call_user(call) = own;
    api_stream_add(thread, &own->stream, call);
    (void)api_admit(thread, call);
}

void api_keepalive_on_message(struct rpc_call *call, struct slice message)
{
    struct keepalive_call *own = *rpc_call_user(call);
    const Etcdserverpb__LeaseKeepAliveRequest *request = api_request(
        own->thread, call, message, &etcdserverpb__lease_keep_alive_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    renewal_post(own, request->id);
    if (own->count >= LIMIT_KEEPALIVES_PENDING && !own->paused) {
        own->paused = true;
        rpc_call_pause(call, true);
    }
}

void api_keepalive_on_half_close(struct rpc_call *call)
{
    struct keepalive_call *own = *rpc_call_user(call);
    own->half_closed = true;
    keepalive_flush(own);
}

void api_keepalive_on_gone(struct rpc_call *call)
{
    struct keepalive_call *own = *rpc_call_user(call);
    if (own == NULL) {
        return;
    }
    struct renewal *renewal = own->first;
    while (renewal != NULL) {
        struct renewal *next = renewal->next;
        renewal->call = NULL;
        if (renewal->answered) {
            renewal_free(renewal);
        }
        renewal = next;
    }
    api_stream_remove(&own->stream);
    mem_free(own);
}
