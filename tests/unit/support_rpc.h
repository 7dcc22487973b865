/* A server of small methods for the tests of rpc: start it, call it, stop it. */
#ifndef TESTS_SUPPORT_RPC_H
#define TESTS_SUPPORT_RPC_H

#include <stdatomic.h>

#include "rpc/rpc.h"
#include "support_http2.h"

/* What the handlers saw; all threads add up. */
struct served {
    _Atomic uint32_t messages;
    _Atomic uint32_t gone;
    _Atomic uint32_t half_closes;
    _Atomic uint32_t drains;
    _Atomic size_t queued_max;     /* Of "/t.T/Stream". */
    _Atomic uint32_t threads_used; /* A bit for each. */
    struct rpc_call *_Atomic held; /* The newest call of "/t.T/Hold", with a reference. */
    char metadata[64];
};

struct served_server {
    struct rpc_server *server;
    struct rpc_config config;
    uint16_t port;
    struct served seen;
};

/*
 * Echo     unary: the message back            Stream   "count size": that many messages of zeros
 * Hold     unary: no answer, a reference      Bidi     every message back, finish at half-close
 * Copy     unary: no answer, a copy           Hang     unary: no answer
 * Meta     unary: value of header "token"     Quiet    bidi: no answer; ends when drained
 * Fail     unary: OutOfRange, odd words       Pause    bidi: pauses itself after one message
 *                                             Urgent   bidi: every message back, urgent
 */
/* |change| edits the configuration; NULL leaves one thread, 2 MiB, etcd's keep-alive. */
void served_start(struct served_server *served, void (*change)(struct rpc_config *config));
void served_stop(struct served_server *served, uint64_t grace_ns);
/* The same with one client, which hangs up first. */
void served_open(struct served_server *served, struct client *client,
                 void (*change)(struct rpc_config *config));
void served_close(struct served_server *served, struct client *client);
/* The server answers |client|, and has read all that came before. */
void served_check(struct client *client);
/* Run |run| on thread 0 and wait for it. */
void served_run(struct served_server *served, void (*run)(void *arg), void *arg);

#endif
