/* A question to the store on behalf of a call, and its way back to the call's thread. */
#ifndef API_ASK_H
#define API_ASK_H

#include "api/internal.h"
#include "watch/list.h"

/*
 * Lives in the call's arena; may be the first member of something larger. The store answers into an
 * arena of its own, because rpc goes on using the call's meanwhile.
 */
struct api_ask {
    struct store_request request;
    struct arena arena;
    struct api_thread *thread;
    struct rpc_call *call; /* A reference, while the store has the request. */
    /* ERR_OK came back and the call is alive: answer it. The store's answer is valid until it
     * returns. */
    void (*answer)(struct api_ask *ask);
    struct list in_ready; /* api_conn.ready, while the answer waits for room. */
};

/* Zeroed, |size| >= sizeof(struct api_ask) bytes; NULL when the call's arena is full: the call has
 * been answered. */
void *api_ask_new(struct api_thread *thread, struct rpc_call *call, enum store_kind kind,
                  size_t size);
/*
 * Hand it over. Everything in ask->request that borrows must live in the call's arena.
 * |message_size| is the request's on the wire. Fails the call by itself when the store does.
 */
void api_ask_post(struct api_ask *ask, size_t message_size, void (*answer)(struct api_ask *ask));
/* Answer a read when there is room for it, see compose.c; unless |is_local|, wait for a read index
 * first. */
void api_ask_read(struct api_ask *ask, bool is_local, void (*answer)(struct api_ask *ask));
/* Its last word: drops the reference. |ask| is gone. */
void api_ask_finish(struct api_ask *ask);

/* api_request of a copy of |message| in the call's arena, as a request that is posted needs it. */
void *api_ask_request(struct api_thread *thread, struct rpc_call *call, struct slice message,
                      const ProtobufCMessageDescriptor *descriptor);

#endif
