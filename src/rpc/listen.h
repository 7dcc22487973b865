/* Inside rpc only: addresses to listen on, and what arrives there. */
#ifndef RPC_LISTEN_H
#define RPC_LISTEN_H

#include "core/err.h"
#include "core/loop.h"
#include "rpc/stream.h"

struct rpc_listen;

/* Runs for every accepted socket, which it owns; non-blocking, close-on-exec. */
typedef void rpc_listen_fn(void *arg, int fd, enum rpc_stream_kind kind);

/* Bind |url|, as rpc_server_listen says it. NULL and one line in |why| on failure. Any thread. */
struct rpc_listen *rpc_listen_new(const char *url, char *why, size_t why_size);
/* True when it was made of the same address, which is not port 0 of TCP. */
bool rpc_listen_is(const struct rpc_listen *listen, const char *url);
/* 0 for unix sockets. */
uint16_t rpc_listen_port(const struct rpc_listen *listen);
/* Begin to accept. Loop thread. */
void rpc_listen_start(struct rpc_listen *listen, struct loop *loop, rpc_listen_fn *accepted,
                      void *arg);
/* Stop accepting, close the socket, remove a unix socket's name. Loop thread; no-op when done. */
void rpc_listen_stop(struct rpc_listen *listen);
/* After the loop has ended, or never started. */
void rpc_listen_free(struct rpc_listen *listen);

#endif
