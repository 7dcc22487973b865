/*
 * The HTTP/1.1 surface on the client port: /health, /livez, /readyz, /version, /metrics, with
 * etcd's paths, bodies and status codes (docs: etcd.io, "Monitoring etcd").
 */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "api/api.h"
#include "rpc/rpc.h"

/* What the paths need: |arg| of http_serve. */
struct http_context {
    struct api *api;
    const struct store *store;
};

/* An rpc_http_fn; |arg| is a struct http_context. Io thread. Linearizable checks wait for a read
 * index and answer later. */
void http_serve(struct rpc_http *http, const struct rpc_http_request *request, void *arg);

/* Whether |query| has |name| at all / with the value |value|; a name may come several times.
 * Percent-encoding is undone as in Go's url.ParseQuery; pairs it would refuse are passed over. */
bool http_query_has(struct slice query, const char *name);
bool http_query_has_value(struct slice query, const char *name, const char *value);

#endif
