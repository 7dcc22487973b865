/*
 * When answers to reads are composed: not all that one read index releases in one turn, so that a
 * thousand large ranges do not hold up the thread, nor fill its memory.
 *
 *     released ──room──▶ composed, given to rpc
 *        └──▶ READY, in turns of its connection ──next turns, LIMIT_TURN_COMPOSE each──▶ composed
 *                └──▶ its client has LIMIT_CONN_UNREAD to read: waits for rpc's conn_room ──▶ READY
 *
 * An answer that waited is read from a newer snapshot than the one that released it: as good.
 * Connections take turns, one answer each. Answers to writes never wait: they are small, or point
 * into memory that is valid now.
 */
#include "api/conn.h"

static void compose_post(struct api_thread *thread)
{
    if (!thread->ready_posted) {
        thread->ready_posted = true;
        loop_post(thread->loop, &thread->ready_post);
    }
}

static struct api_ask *compose_first(const struct api_conn *conn)
{
    return CONTAINER_OF(conn->ready.next, struct api_ask, in_ready);
}

static void compose_answer(struct api_ask *ask)
{
    list_leave(&ask->in_ready);
    if (rpc_call_is_alive(ask->call)) {
        ask->answer(ask);
    }
    api_ask_finish(ask);
}

/* One answer of |conn|, which goes to the end of the row if it has more. */
static void compose_next(struct api_thread *thread, struct api_conn *conn)
{
    struct api_ask *ask = compose_first(conn);
    if (rpc_call_is_alive(ask->call) && !rpc_call_has_room(ask->call)) {
        conn->awaits_room = true;
        rpc_call_await_room(ask->call);
        return;
    }
    compose_answer(ask);
    if (!list_is_empty(&conn->ready)) {
        list_push(&thread->ready, &conn->in_ready);
    }
}

void api_compose_run(struct loop_post *post)
{
    struct api_thread *thread = CONTAINER_OF(post, struct api_thread, ready_post);
    thread->ready_posted = false;
    while (thread->composed < LIMIT_TURN_COMPOSE && !list_is_empty(&thread->ready)) {
        struct api_conn *conn = CONTAINER_OF(thread->ready.next, struct api_conn, in_ready);
        list_leave(&conn->in_ready);
        compose_next(thread, conn);
    }
    if (!list_is_empty(&thread->ready)) {
        compose_post(thread);
    }
}

void api_connection_room(void *user)
{
    struct api_conn *conn = user;
    ASSERT_ON_LOOP(conn->thread->loop);
    conn->awaits_room = false;
    if (!list_is_empty(&conn->ready)) {
        list_push(&conn->thread->ready, &conn->in_ready);
        compose_post(conn->thread);
    }
}

void api_compose(struct api_ask *ask)
{
    struct api_thread *thread = ask->thread;
    if (api_may_compose(thread, ask->call)) {
        compose_answer(ask);
        return;
    }
    struct api_conn *conn = api_conn_of(thread, ask->call);
    void **user = rpc_call_user(ask->call);
    if (*user == NULL) {
        *user = ask; /* For api_compose_on_gone. */
    }
    list_push(&conn->ready, &ask->in_ready);
    if (!conn->awaits_room && list_is_empty(&conn->in_ready)) {
        list_push(&thread->ready, &conn->in_ready);
        compose_post(thread);
    }
}

void api_compose_forget(struct api_ask *ask)
{
    if (list_is_empty(&ask->in_ready)) {
        return;
    }
    struct api_conn *conn = *rpc_call_connection_user(ask->call);
    list_leave(&ask->in_ready);
    if (list_is_empty(&conn->ready)) {
        list_leave(&conn->in_ready);
    }
    api_ask_finish(ask);
}

void api_compose_on_gone(struct rpc_call *call)
{
    struct api_ask *ask = *rpc_call_user(call);
    if (ask != NULL) {
        api_compose_forget(ask);
    }
}

void api_compose_turn_ended(struct loop_hook *hook)
{
    struct api_thread *thread = CONTAINER_OF(hook, struct api_thread, turn_end);
    thread->composed = 0;
}
