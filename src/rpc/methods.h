/* The table of methods by path, and of services by name. Immutable; any thread. */
#ifndef RPC_METHODS_H
#define RPC_METHODS_H

#include "rpc/rpc.h"

struct rpc_methods;

/* |methods| are borrowed. Paths are distinct. */
struct rpc_methods *rpc_methods_new(const struct rpc_method *methods, size_t count);
void rpc_methods_free(struct rpc_methods *table);
/* NULL when unknown. O(1). */
const struct rpc_method *rpc_methods_find(const struct rpc_methods *table, struct slice path);
/* Its index for metrics_call_*. */
uint32_t rpc_methods_counter(const struct rpc_methods *table, const struct rpc_method *method);
bool rpc_methods_has_service(const struct rpc_methods *table, struct slice service);

#endif
