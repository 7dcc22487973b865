/* Open addressing, at most half full; hashes are seeded, since clients choose the paths. */
#include "rpc/methods.h"

#include "core/hash.h"
#include "core/mem.h"
#include "core/metrics.h"
#include "rpc/grpc.h"

struct rpc_methods {
    const struct rpc_method *methods;
    size_t count;
    uint64_t seed;
    size_t mask;
    uint32_t *counters; /* By index of the method. */
    uint32_t slots[];   /* Index of the method + 1, 0 = free. */
};

static uint32_t methods_add_counter(const struct rpc_method *method)
{
    static const char *const types[] = {
        [RPC_UNARY] = "unary", [RPC_SERVER_STREAM] = "server_stream", [RPC_BIDI] = "bidi_stream"};
    struct slice service;
    struct slice name;
    bool is_whole = rpc_grpc_split_path(slice_str(method->path), &service, &name);
    ASSERT(is_whole);
    char *service_text = mem_printf("%.*s", (int)service.size, (const char *)service.data);
    uint32_t counter = metrics_call_add(service_text, (const char *)name.data, types[method->kind]);
    mem_free(service_text);
    return counter;
}

struct rpc_methods *rpc_methods_new(const struct rpc_method *methods, size_t count)
{
    ASSERT(count < UINT32_MAX / 4);
    size_t room = 8;
    while (room < count * 2) {
        room *= 2;
    }
    struct rpc_methods *table = mem_alloc(sizeof(*table) + room * sizeof(uint32_t));
    table->methods = methods;
    table->count = count;
    table->seed = hash_table_seed();
    table->mask = room - 1;
    table->counters = mem_alloc((count + 1) * sizeof(*table->counters));
    for (size_t i = 0; i < count; i++) {
        struct slice path = slice_str(methods[i].path);
        ASSERT(rpc_methods_find(table, path) == NULL);
        size_t slot = hash_bytes(path, table->seed) & table->mask;
        while (table->slots[slot] != 0) {
            slot = (slot + 1) & table->mask;
        }
        table->slots[slot] = (uint32_t)i + 1;
        table->counters[i] = methods_add_counter(&methods[i]);
    }
    return table;
}

void rpc_methods_free(struct rpc_methods *table)
{
    if (table != NULL) {
        mem_free(table->counters);
        mem_free(table);
    }
}

const struct rpc_method *rpc_methods_find(const struct rpc_methods *table, struct slice path)
{
    size_t slot = hash_bytes(path, table->seed) & table->mask;
    while (table->slots[slot] != 0) {
        const struct rpc_method *method = &table->methods[table->slots[slot] - 1];
        if (slice_equal(slice_str(method->path), path)) {
            return method;
        }
        slot = (slot + 1) & table->mask;
    }
    return NULL;
}

uint32_t rpc_methods_counter(const struct rpc_methods *table, const struct rpc_method *method)
{
    ASSERT(method >= table->methods && method < table->methods + table->count);
    return table->counters[method - table->methods];
}

bool rpc_methods_has_service(const struct rpc_methods *table, struct slice service)
{
    /* Only asked for unknown methods. */
    for (size_t i = 0; i < table->count; i++) {
        struct slice have;
        struct slice method;
        bool is_whole = rpc_grpc_split_path(slice_str(table->methods[i].path), &have, &method);
        ASSERT(is_whole);
        if (slice_equal(have, service)) {
            return true;
        }
    }
    return false;
}
