/*
 * Inside rpc only: what all connections of one io thread may hold and queue together.
 *
 * The process has ceilings (core/limits.h); each thread has an equal share of them, so that nothing
 * is locked. Above a share nobody is refused who stays below an equal part of it: at worst twice
 * the share is in use, and a connection that hoards does not starve the others. One that hoards
 * answers and reads (almost) nothing is closed with ENHANCE_YOUR_CALM.
 */
#ifndef RPC_BUDGET_H
#define RPC_BUDGET_H

#include "rpc/conn.h"

void rpc_budget_init(struct rpc_io *io);
/* A call of |conn| may not keep more: answer ResourceExhausted. */
bool rpc_budget_denies_input(const struct rpc_io *io, size_t held);
/* |conn| may not begin a stream: refuse it. */
bool rpc_budget_denies_stream(const struct rpc_conn *conn);
/* Too many answers wait in this thread, and many of them on |conn|. */
bool rpc_budget_is_over(const struct rpc_conn *conn);
/* Something was queued, and the thread's share is passed. */
void rpc_budget_watch(struct rpc_io *io);
/* Before the loop ends. */
void rpc_budget_stop(struct rpc_io *io);

#endif
