/* Inside api only: what the calls of one connection share. */
#ifndef API_CONN_H
#define API_CONN_H

#include "api/ask.h"
#include "api/watch.h"

/* Made by the first call that needs it; goes with the connection. On its thread. */
struct api_conn {
    struct api_thread *thread;
    struct watch_call *watches; /* The connection's Watch RPCs. */
    uint32_t watch_count;
    int64_t offered_rev;  /* Progress up to here was offered to them. */
    struct list ready;    /* Answers that wait for room, the oldest first. */
    struct list in_ready; /* thread->ready, while it has any and need not wait for its client. */
    bool awaits_room;
};

struct api_conn *api_conn_of(struct api_thread *thread, struct rpc_call *call);
void api_conn_add_watch(struct api_conn *conn, struct watch_call *watch);
void api_conn_remove_watch(struct watch_call *watch);
/* A watcher that may want progress joined. */
void api_conn_watch_more(struct api_conn *conn);

/*
 * A linearizable read was answered on the connection of |call|: its watchers that asked for
 * progress hear how far they have come, so that a client that waits for its watch to reach the
 * read's revision need not ask. What they are told is the hub's revision, never the read's.
 * At most once for each revision of the store; O(1) without such watchers.
 */
void api_conn_read_answered(struct api_thread *thread, const struct rpc_call *call);

/* ---- compose.c ------------------------------------------------------------------------------- */

/* True when an answer may be composed at once, without an ask. */
static inline bool api_may_compose(const struct api_thread *thread, const struct rpc_call *call)
{
    return thread->composed < LIMIT_TURN_COMPOSE && list_is_empty(&thread->ready) &&
           rpc_call_has_room(call);
}
/* Answer |ask|, whose call is alive, at once or in a later turn, and finish it. */
void api_compose(struct api_ask *ask);
/* The call of |ask| is gone. No-op when it does not wait. */
void api_compose_forget(struct api_ask *ask);
/* on_gone of unary methods. */
void api_compose_on_gone(struct rpc_call *call);

#endif
