/* Leases but their keep-alives: questions to the store, and keys from the snapshot. */
#include "api/ask.h"
#include "api/handlers.h"
#include "core/mem.h"
#include "lease/lease.h"
#include "proto/rpc.pb-c.h"

/* header, then numbers as fields 2, 3, 4 ... */
static void lease_reply(struct api_ask *ask, const int64_t *numbers, uint32_t count)
{
    struct api_thread *thread = ask->thread;
    struct api_out *out = &thread->out;
    struct api_header header = api_header(thread, ask->request.revision);
    api_out_begin(out);
    api_encode_header(out, &header);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at = api_out_reserve(out, API_NUMBER_SIZE_MAX);
        api_out_commit(out, api_put_number(at, i + 2, (uint64_t)numbers[i]));
    }
    api_reply(thread, ask->call);
}

/* ---- Grant, Revoke ------------------------------------------------------------------------- */

static void grant_on_done(struct api_ask *ask)
{
    const int64_t numbers[] = {ask->request.answer.lease.id, ask->request.answer.lease.ttl_s};
    lease_reply(ask, numbers, ARRAY_COUNT(numbers));
}

void api_lease_grant(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Etcdserverpb__LeaseGrantRequest *request =
        api_request(thread, call, message, &etcdserverpb__lease_grant_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    struct api_ask *ask = api_ask_new(thread, call, STORE_LEASE_GRANT, sizeof(*ask));
    if (ask != NULL) {
        ask->request.u.lease.id = request->id;
        ask->request.u.lease.ttl_s = request->ttl;
        api_ask_post(ask, message.size, grant_on_done);
    }
}

static void revoke_on_done(struct api_ask *ask)
{
    lease_reply(ask, NULL, 0);
}

void api_lease_revoke(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Etcdserverpb__LeaseRevokeRequest *request =
        api_request(thread, call, message, &etcdserverpb__lease_revoke_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    struct api_ask *ask = api_ask_new(thread, call, STORE_LEASE_REVOKE, sizeof(*ask));
    if (ask != NULL) {
        ask->request.u.lease.id = request->id;
        api_ask_post(ask, message.size, revoke_on_done);
    }
}

/* ---- TimeToLive ---------------------------------------------------------------------------- */

struct ttl_ask {
    struct api_ask ask;
    int64_t id;
    bool keys;
};

static enum err add_keys(struct api_thread *thread, int64_t id)
{
    const struct cache_snapshot *snapshot = api_snapshot(thread);
    struct api_out *out = &thread->out;
    struct slice key = SLICE_EMPTY;
    bool none = true;
    while (cache_lease_key_next(snapshot, id, none, key, &key)) {
        none = false;
        size_t need = 1 + WIRE_VARINT_SIZE_MAX + key.size;
        if (api_out_size(out) + need > INT32_MAX) {
            return ERR_ANSWER_TOO_LARGE;
        }
        uint8_t *at = api_out_reserve(out, need);
        at = api_put_len(at, 5, key.size);
        api_out_commit(out, wire_put_bytes(at, key.data, key.size));
    }
    return ERR_OK;
}

static void ttl_on_done(struct api_ask *ask)
{
    const struct ttl_ask *ttl = CONTAINER_OF(ask, struct ttl_ask, ask);
    struct api_thread *thread = ask->thread;
    struct api_out *out = &thread->out;
    struct api_header header = api_header(thread, ask->request.revision);
    int64_t left_s = ask->request.answer.lease.ttl_s;
    api_out_begin(out);
    api_encode_header(out, &header);
    uint8_t *at = api_out_reserve(out, 3 * API_NUMBER_SIZE_MAX);
    at = api_put_number(at, 2, (uint64_t)ttl->id);
    at = api_put_number(at, 3, (uint64_t)left_s);
    at = api_put_number(at, 4, (uint64_t)(left_s < 0 ? 0 : ask->request.answer.lease.granted_s));
    api_out_commit(out, at);
    enum err err = ttl->keys && left_s >= 0 ? add_keys(thread, ttl->id) : ERR_OK;
    api_reply_or_fail(thread, ask->call, err);
}

void api_lease_time_to_live(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Etcdserverpb__LeaseTimeToLiveRequest *request = api_request(
        thread, call, message, &etcdserverpb__lease_time_to_live_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    struct ttl_ask *ttl = api_ask_new(thread, call, STORE_LEASE_TTL, sizeof(*ttl));
    if (ttl != NULL) {
        ttl->id = request->id;
        ttl->keys = request->keys != 0;
        ttl->ask.request.u.lease.id = request->id;
        api_ask_post(&ttl->ask, message.size, ttl_on_done);
    }
}

/* ---- Leases -------------------------------------------------------------------------------- */

static void leases_on_done(struct api_ask *ask)
{
    struct api_thread *thread = ask->thread;
    struct api_out *out = &thread->out;
    struct api_header header = api_header(thread, ask->request.revision);
    struct lease_left *items = ask->request.answer.leases.items;
    uint32_t count = ask->request.answer.leases.count;
    lease_left_sort(items, count);
    api_out_begin(out);
    api_encode_header(out, &header);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at = api_out_reserve(out, 2 + API_NUMBER_SIZE_MAX);
        uint8_t *length = at + 1;
        at = api_put_len(at, 2, 0);
        at = api_put_number(at, 1, (uint64_t)items[i].id);
        *length = (uint8_t)(at - length - 1);
        api_out_commit(out, at);
    }
    api_reply(thread, ask->call);
}

/* In order of expiry, as in etcd, which answers from its own memory; here a read index makes a
 * grant on one replica show on all. */
void api_lease_leases(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    if (api_request(thread, call, message, &etcdserverpb__lease_leases_request__descriptor, NULL) ==
        NULL) {
        return;
    }
    struct api_ask *ask = api_ask_new(thread, call, STORE_LEASE_LIST, sizeof(*ask));
    if (ask != NULL) {
        api_ask_post(ask, message.size, leases_on_done);
    }
}
