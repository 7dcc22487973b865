/*
 * Inside api only: the handlers that the table in api.c names, one line of it each.
 *
 * Each runs on its call's io thread and returns at once; what waits, waits in an api_ask or a
 * stream that the call's end cancels. |call| is rpc's: valid until on_gone of a stream, until its
 * answer of a unary call. |message| is borrowed as rpc.h says of on_message. Errors go to the
 * client, by rpc_fail_err. Memory comes from the call's arena, within LIMIT_CALL_ARENA_MAX.
 */
#ifndef API_HANDLERS_H
#define API_HANDLERS_H

#include "rpc/rpc.h"

void api_kv_range(struct rpc_call *call, struct slice message);
void api_kv_put(struct rpc_call *call, struct slice message);
void api_kv_delete(struct rpc_call *call, struct slice message);
void api_kv_txn(struct rpc_call *call, struct slice message);
void api_kv_compact(struct rpc_call *call, struct slice message);

void api_range_stream_on_message(struct rpc_call *call, struct slice message);
void api_range_stream_on_writable(struct rpc_call *call);
void api_range_stream_on_end(struct rpc_call *call);
void api_range_stream_on_gone(struct rpc_call *call);

void api_lease_grant(struct rpc_call *call, struct slice message);
void api_lease_revoke(struct rpc_call *call, struct slice message);
void api_lease_time_to_live(struct rpc_call *call, struct slice message);
void api_lease_leases(struct rpc_call *call, struct slice message);
void api_keepalive_on_start(struct rpc_call *call);
void api_keepalive_on_message(struct rpc_call *call, struct slice message);
void api_keepalive_on_half_close(struct rpc_call *call);
void api_keepalive_on_gone(struct rpc_call *call);

void api_watch_on_start(struct rpc_call *call);
void api_watch_on_message(struct rpc_call *call, struct slice message);
void api_watch_on_half_close(struct rpc_call *call);
void api_watch_on_writable(struct rpc_call *call);
void api_watch_on_gone(struct rpc_call *call);

void api_member_list(struct rpc_call *call, struct slice message);
void api_alarm(struct rpc_call *call, struct slice message);
void api_status(struct rpc_call *call, struct slice message);
void api_inspect_state(struct rpc_call *call, struct slice message);

void api_health_check(struct rpc_call *call, struct slice message);
void api_health_list(struct rpc_call *call, struct slice message);
void api_health_watch_on_message(struct rpc_call *call, struct slice message);
void api_health_watch_on_gone(struct rpc_call *call);

#endif
