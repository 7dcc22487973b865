/* The table of methods. What is not in it answers Unimplemented. */
#include "api/internal.h"

#include "api/conn.h"
#include "api/handlers.h"
#include "core/mem.h"

#define UNARY(name, handler)                                                                       \
    {                                                                                              \
        .path = (name), .kind = RPC_UNARY, .on_message = (handler), .on_gone = api_compose_on_gone \
    }

static const struct rpc_method api_table[] = {
    UNARY("/etcdserverpb.KV/Range", api_kv_range),
    UNARY("/etcdserverpb.KV/Put", api_kv_put),
    UNARY("/etcdserverpb.KV/DeleteRange", api_kv_delete),
    UNARY("/etcdserverpb.KV/Txn", api_kv_txn),
    UNARY("/etcdserverpb.KV/Compact", api_kv_compact),
    {
        .path = "/etcdserverpb.KV/RangeStream",
        .kind = RPC_SERVER_STREAM,
        .on_start = api_on_start,
        .on_message = api_range_stream_on_message,
        .on_writable = api_range_stream_on_writable,
        .on_end = api_range_stream_on_end,
        .on_gone = api_range_stream_on_gone,
    },
    {
        .path = "/etcdserverpb.Watch/Watch",
        .kind = RPC_BIDI,
        .on_start = api_watch_on_start,
        .on_message = api_watch_on_message,
        .on_half_close = api_watch_on_half_close,
        .on_writable = api_watch_on_writable,
        .on_gone = api_watch_on_gone,
    },
    UNARY("/etcdserverpb.Lease/LeaseGrant", api_lease_grant),
    UNARY("/etcdserverpb.Lease/LeaseRevoke", api_lease_revoke),
    UNARY("/etcdserverpb.Lease/LeaseTimeToLive", api_lease_time_to_live),
    UNARY("/etcdserverpb.Lease/LeaseLeases", api_lease_leases),
    {
        .path = "/etcdserverpb.Lease/LeaseKeepAlive",
        .kind = RPC_BIDI,
        .on_start = api_keepalive_on_start,
        .on_message = api_keepalive_on_message,
        .on_half_close = api_keepalive_on_half_close,
        .on_gone = api_keepalive_on_gone,
    },
    UNARY("/etcdserverpb.Cluster/MemberList", api_member_list),
    UNARY("/etcdserverpb.Maintenance/Alarm", api_alarm),
    UNARY("/etcdserverpb.Maintenance/Status", api_status),
    UNARY("/grpc.health.v1.Health/Check", api_health_check),
    UNARY("/grpc.health.v1.Health/List", api_health_list),
    {
        .path = "/grpc.health.v1.Health/Watch",
        .kind = RPC_SERVER_STREAM,
        .on_start = api_on_start,
        .on_message = api_health_watch_on_message,
        .on_gone = api_health_watch_on_gone,
    },
    UNARY("/drover.v1.Inspect/State", api_inspect_state),
};
static_assert(ARRAY_COUNT(api_table) <= API_METHODS_MAX, "the table fits struct api");

struct api *api_new(const struct api_config *config)
{
    ASSERT(config->io_threads > 0 && config->io_threads <= LIMIT_IO_THREADS);
    struct api *api = mem_alloc(sizeof(*api));
    api->config = *config;
    api->threads = mem_alloc(config->io_threads * sizeof(*api->threads));
    api->method_count = ARRAY_COUNT(api_table);
    for (size_t i = 0; i < api->method_count; i++) {
        api->methods[i] = api_table[i];
        api->methods[i].arg = api;
    }
    for (uint32_t i = 0; i < config->io_threads; i++) {
        api->threads[i].api = api;
        api->threads[i].index = i;
        atomic_init(&api->threads[i].publish_posted, true); /* Until it has started. */
    }
    return api;
}

void api_free(struct api *api)
{
    if (api == NULL) {
        return;
    }
    for (uint32_t i = 0; i < api->config.io_threads; i++) {
        ASSERT(api->threads[i].hub == NULL);
    }
    mem_free(api->threads);
    mem_free(api);
}

const char *const *api_metadata(void)
{
    static const char *const names[] = {"hasleader", "client-api-version", NULL};
    return names;
}

const struct rpc_method *api_methods(const struct api *api, size_t *count)
{
    *count = api->method_count;
    return api->methods;
}
