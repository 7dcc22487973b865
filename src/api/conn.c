/* See conn.h. */
#include "api/conn.h"

#include "core/mem.h"

struct api_conn *api_conn_of(struct api_thread *thread, struct rpc_call *call)
{
    void **user = rpc_call_connection_user(call);
    if (*user == NULL) {
        struct api_conn *conn = mem_alloc(sizeof(*conn));
        conn->thread = thread;
        list_init(&conn->ready);
        list_init(&conn->in_ready);
        *user = conn;
    }
    return *user;
}

void api_connection_gone(void *user)
{
    struct api_conn *conn = user;
    ASSERT_ON_LOOP(conn->thread->loop);
    ASSERT(conn->watches == NULL);
    ASSERT(list_is_empty(&conn->ready)); /* Its calls are gone. */
    list_leave(&conn->in_ready);
    mem_free(conn);
}

/* ---- progress beside reads ------------------------------------------------------------------- */

void api_conn_add_watch(struct api_conn *conn, struct watch_call *watch)
{
    watch->conn = conn;
    watch->conn_next = conn->watches;
    watch->conn_link = &conn->watches;
    if (watch->conn_next != NULL) {
        watch->conn_next->conn_link = &watch->conn_next;
    }
    conn->watches = watch;
    conn->watch_count++;
}

void api_conn_remove_watch(struct watch_call *watch)
{
    ASSERT(watch->conn->watch_count > 0);
    *watch->conn_link = watch->conn_next;
    if (watch->conn_next != NULL) {
        watch->conn_next->conn_link = watch->conn_link;
    }
    watch->conn->watch_count--;
    watch->conn = NULL;
}

void api_conn_watch_more(struct api_conn *conn)
{
    conn->offered_rev = 0; /* It has not been told what the others have. */
}

void api_conn_read_answered(struct api_thread *thread, const struct rpc_call *call)
{
    struct api_conn *conn = *rpc_call_connection_user(call);
    if (conn == NULL || conn->watches == NULL) {
        return;
    }
    int64_t revision = api_revision(thread);
    if (conn->offered_rev >= revision || conn->watch_count > LIMIT_PROGRESS_OFFER) {
        return;
    }
    conn->offered_rev = revision;
    for (struct watch_call *watch = conn->watches; watch != NULL; watch = watch->conn_next) {
        watch_stream_offer_progress(watch->watchers);
    }
    api_thread_wake_hub(thread); /* It walks up to |revision| first. */
}
