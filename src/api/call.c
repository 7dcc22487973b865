/* What all handlers do with a call: admit, decode, answer. */
#include "api/internal.h"

#include "core/wire.h"
#include "proto/rpc.pb-c.h"

struct api_thread *api_thread_of(const struct rpc_call *call)
{
    const struct api *api = rpc_call_method(call)->arg;
    struct api_thread *thread = &api->threads[rpc_call_thread(call)];
    ASSERT(thread->loop != NULL);
    return thread;
}

const struct cache_snapshot *api_snapshot(const struct api_thread *thread)
{
    return store_snapshot(thread->api->config.store);
}

int64_t api_revision(const struct api_thread *thread)
{
    return cache_snapshot_info(api_snapshot(thread))->revision;
}

bool api_is_away(const struct api_thread *thread)
{
    const struct store_facts *facts = store_facts(thread->api->config.store);
    return facts->away || !facts->ready;
}

struct api_header api_header(const struct api_thread *thread, int64_t revision)
{
    const struct store_facts *facts = store_facts(thread->api->config.store);
    return (struct api_header){
        .cluster_id = facts->cluster_id,
        .member_id = facts->member_id,
        .revision = revision,
        .raft_term = facts->raft_term,
    };
}

static bool call_needs_leader(const struct rpc_call *call)
{
    return slice_equal(rpc_call_metadata(call, "hasleader"), SLICE_LIT("true"));
}

bool api_admit(struct api_thread *thread, struct rpc_call *call)
{
    if (!wire_utf8_is_valid(rpc_call_metadata(call, "client-api-version"))) {
        rpc_fail_err(call, ERR_INVALID_CLIENT_API_VERSION);
        return false;
    }
    if (api_is_away(thread) && call_needs_leader(call)) {
        rpc_fail_err(call, ERR_NO_LEADER);
        return false;
    }
    return true;
}

void api_on_start(struct rpc_call *call)
{
    (void)api_admit(api_thread_of(call), call);
}

/* The arena holds less than the request needs: only a Txn of too many operations gets there. */
static enum err ceiling_error(const ProtobufCMessageDescriptor *descriptor)
{
    return descriptor == &etcdserverpb__txn_request__descriptor ? ERR_TOO_MANY_OPS
                                                                : ERR_REQUEST_TOO_LARGE;
}

static void fail_decode(struct rpc_call *call, const ProtobufCMessageDescriptor *descriptor,
                        enum api_decode_result result)
{
    if (result == API_DECODE_CEILING) {
        rpc_fail_err(call, ceiling_error(descriptor));
        return;
    }
    bool unary = rpc_call_method(call)->kind == RPC_UNARY;
    struct buf text = {0};
    buf_printf(&text, "grpc: %s: %s",
               unary ? "error unmarshalling request" : "failed to unmarshal the received message",
               api_decode_text(result));
    rpc_fail(call, RPC_INTERNAL, buf_slice(&text));
    buf_fini(&text);
}

void *api_request(struct api_thread *thread, struct rpc_call *call, struct slice message,
                  const ProtobufCMessageDescriptor *descriptor, struct arena *arena)
{
    if (arena == NULL) {
        arena = &thread->arena;
        arena_reset(arena);
    }
    enum api_decode_result result;
    void *request = api_decode(message, descriptor, arena, &result);
    if (request == NULL) {
        fail_decode(call, descriptor, result);
        return NULL;
    }
    /* A stream was admitted before its first message, as grpc-go's interceptors have it. */
    bool unary = rpc_call_method(call)->kind == RPC_UNARY;
    return !unary || api_admit(thread, call) ? request : NULL;
}

void api_reply(struct api_thread *thread, struct rpc_call *call)
{
    size_t count = 0;
    thread->composed += API_COMPOSE_LEAST + api_out_size(&thread->out);
    const struct rpc_part *parts = api_out_parts(&thread->out, &count);
    rpc_reply(call, parts, count);
    api_out_end(&thread->out);
}

bool api_send(struct api_thread *thread, struct rpc_call *call, bool urgent)
{
    size_t count = 0;
    const struct rpc_part *parts = api_out_parts(&thread->out, &count);
    bool room = rpc_send(call, parts, count, urgent);
    api_out_end(&thread->out);
    return room;
}

void api_reply_or_fail(struct api_thread *thread, struct rpc_call *call, enum err err)
{
    if (err != ERR_OK) {
        rpc_fail_err(call, err);
        return;
    }
    api_reply(thread, call);
}

void api_reply_packed(struct api_thread *thread, struct rpc_call *call,
                      const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    api_out_begin(&thread->out);
    uint8_t *at = api_out_reserve(&thread->out, size);
    size_t packed = protobuf_c_message_pack(message, at);
    ASSERT(packed == size);
    api_out_commit(&thread->out, at + size);
    api_reply(thread, call);
}
