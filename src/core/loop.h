/*
 * One thread's event loop: a uv loop, the posts of other threads, timers, and the end of a turn.
 *
 * A turn: uv runs what is ready (sockets, posts); then, just before it would block, the turn ends:
 *   1. posts that arrived meanwhile are drained,
 *   2. due timers run,
 *   3. the hooks run in the order added (connections flush, batches seal),
 *   4. the reader (core/reclaim.h), if there is one, announces a quiescent state with the epoch
 *      that it loaded before step 1. Every post sent before a retirement is therefore handled
 *      before the retired memory can be freed: a post may carry pointers into a snapshot as long
 *      as the receiver uses them only while it handles that post.
 */
#ifndef CORE_LOOP_H
#define CORE_LOOP_H

#include <stdatomic.h>
#include <uv.h>

#include "core/clock.h"

struct reclaim_reader;

/* The only way in from another thread: |run| runs on the loop, in the order posted. */
struct loop_post {
    void (*run)(struct loop_post *post);
    struct loop_post *next; /* Private to loop.c. */
};

/* Runs at the end of every turn. Embedded by its owner. */
struct loop_hook {
    void (*run)(struct loop_hook *hook);
    struct loop_hook *next; /* Private to loop.c. */
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_prepare_t turn_end;
    uv_timer_t timer;
    struct timers timers;
    struct loop_hook *hooks;
    struct loop_hook **hooks_tail;
    struct loop_hook *hook_next;   /* While hooks run: the next one. */
    struct reclaim_reader *reader; /* Or NULL. Set before loop_run. */
    _Atomic(struct loop_post *) posted;
    uv_thread_t thread;
    _Atomic bool running; /* |thread| is valid. */
    _Atomic bool stopping;
};

/* Before any use; any thread. |clock| is borrowed for the loop's life. */
void loop_init(struct loop *loop, const struct clock *clock);
/* After loop_run has returned. Every handle of the owner must be closed by then. */
void loop_fini(struct loop *loop);
/* Runs on the calling thread, which becomes the loop's, until loop_stop and all handles closed. */
void loop_run(struct loop *loop);
/* Any thread. The loop ends after this turn, when nothing but its own handles is alive. */
void loop_stop(struct loop *loop);
/*
 * Any thread, before loop_run has returned. |post| is borrowed until it runs; it may be posted
 * again (or freed) from within its |run|. What is posted after loop_run never runs.
 */
void loop_post(struct loop *loop, struct loop_post *post);
/* Loop thread, or before loop_run. A hook may remove itself or others while it runs. */
void loop_add_hook(struct loop *loop, struct loop_hook *hook);
void loop_remove_hook(struct loop *loop, struct loop_hook *hook);
/* True on the thread that runs |loop|, and on any thread before loop_run. */
bool loop_is_current(const struct loop *loop);

/* First line of every function whose header says "Loop thread". */
#define ASSERT_ON_LOOP(loop) ASSERT(loop_is_current(loop))

#endif
