/* Inside api only: a Watch RPC, for thread.c. */
#ifndef API_WATCH_H
#define API_WATCH_H

#include "api/internal.h"

/* One Watch RPC: its watchers are in the thread's hub. */
struct watch_call {
    struct api_stream stream;
    struct api_thread *thread;
    struct watch_stream *watchers;
    struct watch_call *next;                   /* In thread->closing. */
    struct api_conn *conn;                     /* NULL when the call is gone. */
    struct watch_call *conn_next, **conn_link; /* In conn->watches. */
};

/* Close what could not be closed inside of a turn of the hub, and forget its encoded runs. */
void api_watch_turn_ended(struct api_thread *thread);

/*
 * Where a run of events must be cut so that each response stays below |size_max| bytes: how many of
 * |events| from |from| on go into the next one (at least one), and their encoded size. |head_size|
 * is what stands in front of them.
 */
uint32_t api_watch_fragment(const struct watch_events *events, uint32_t from, size_t head_size,
                            size_t size_max, size_t *size);

#endif
