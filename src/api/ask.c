/* A question to the store on behalf of a call, and its way back to the call's thread. */
#include "api/ask.h"

#include "api/conn.h"
#include "core/wire.h"

/* What etcd's raft envelope adds to a request of |size| bytes: a header with a random id of ten
 * bytes, and the request's own tag and length. Its limit is on the whole. */
static size_t envelope_size(size_t size)
{
    enum { RAFT_HEADER = 14 };
    return size + 1 + wire_varint_size(size) + RAFT_HEADER;
}

void api_ask_finish(struct api_ask *ask)
{
    ASSERT(list_is_empty(&ask->in_ready));
    arena_fini(&ask->arena);
    rpc_call_unref(ask->call); /* Frees |ask|. */
}

static void ask_done(struct store_request *request)
{
    struct api_ask *ask = CONTAINER_OF(request, struct api_ask, request);
    if (rpc_call_is_alive(ask->call)) {
        if (request->err != ERR_OK) {
            rpc_fail_err(ask->call, request->err);
        } else if (request->kind == STORE_READ_INDEX) {
            api_compose(ask);
            return;
        } else {
            ask->answer(ask); /* May point into a snapshot: now or never. */
        }
    }
    api_ask_finish(ask);
}

void *api_ask_new(struct api_thread *thread, struct rpc_call *call, enum store_kind kind,
                  size_t size)
{
    ASSERT(size >= sizeof(struct api_ask));
    struct api_ask *ask = arena_alloc(rpc_call_arena(call), size);
    if (ask == NULL) {
        rpc_fail_err(call, ERR_REQUEST_TOO_LARGE);
        return NULL;
    }
    arena_init(&ask->arena, LIMIT_CALL_ARENA_MAX);
    ask->thread = thread;
    ask->call = call;
    ask->request.kind = kind;
    list_init(&ask->in_ready);
    return ask;
}

void api_ask_post(struct api_ask *ask, size_t message_size, void (*answer)(struct api_ask *ask))
{
    struct store_request *request = &ask->request;
    ask->answer = answer;
    request->home = ask->thread->loop;
    request->deadline_ns = rpc_call_deadline_ns(ask->call);
    request->arena = &ask->arena;
    request->size = envelope_size(message_size);
    request->done = ask_done;
    rpc_call_ref(ask->call);
    store_post(ask->thread->api->config.store, request);
}

void api_ask_read(struct api_ask *ask, bool is_local, void (*answer)(struct api_ask *ask))
{
    ASSERT(ask->request.kind == STORE_READ_INDEX);
    if (!is_local) {
        api_ask_post(ask, 0, answer);
        return;
    }
    ask->answer = answer;
    rpc_call_ref(ask->call);
    api_compose(ask);
}

void *api_ask_request(struct api_thread *thread, struct rpc_call *call, struct slice message,
                      const ProtobufCMessageDescriptor *descriptor)
{
    struct slice copy;
    if (!arena_copy(rpc_call_arena(call), message, &copy)) {
        rpc_fail_err(call, ERR_REQUEST_TOO_LARGE);
        return NULL;
    }
    return api_request(thread, call, copy, descriptor, NULL);
}
