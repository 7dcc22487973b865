/*
 * The turn of loop.h on top of uv: the prepare handle is the turn's end, because uv runs it after
 * everything that was ready and just before it computes how long it may block.
 *
 * Posts are a list that producers push to by compare-and-swap and that the loop takes whole and
 * reverses. Who pushed onto an empty list wakes the loop; all others rely on that one.
 */
#include "core/loop.h"

#include "core/reclaim.h"

static void loop_run_posts(struct loop *loop)
{
    struct loop_post *taken = atomic_exchange_explicit(&loop->posted, NULL, memory_order_acquire);
    struct loop_post *oldest = NULL;
    while (taken != NULL) {
        struct loop_post *next = taken->next;
        taken->next = oldest;
        oldest = taken;
        taken = next;
    }
    while (oldest != NULL) {
        struct loop_post *next = oldest->next; /* |run| may free or post it again. */
        oldest->next = NULL;
        oldest->run(oldest);
        oldest = next;
    }
}

static void loop_on_wake(uv_async_t *wake)
{
    loop_run_posts(CONTAINER_OF(wake, struct loop, wake));
}

static void loop_on_timer(uv_timer_t *timer)
{
    (void)timer; /* It only ends the poll; due timers run at the turn's end. */
}

/* Let uv sleep no longer than to the next timer. Rounded up: an early wake-up would spin. */
static void loop_arm_timer(struct loop *loop)
{
    uint64_t due_ns = timers_next_due_ns(&loop->timers);
    if (due_ns == UINT64_MAX) {
        ASSERT(uv_timer_stop(&loop->timer) == 0);
        return;
    }
    uint64_t now_ns = clock_now_ns(loop->timers.clock);
    uint64_t wait_ns = due_ns > now_ns ? due_ns - now_ns : 0;
    uint64_t wait_ms = wait_ns / NS_PER_MS + (wait_ns % NS_PER_MS != 0);
    uv_update_time(&loop->uv); /* uv counts from its own idea of now. */
    ASSERT(uv_timer_start(&loop->timer, loop_on_timer, wait_ms, 0) == 0);
}

static void loop_end_turn(struct loop *loop)
{
    uint64_t epoch = loop->reader == NULL ? 0 : reclaim_reader_load(loop->reader);
    loop_run_posts(loop);
    timers_run(&loop->timers);
    struct loop_hook *hook = loop->hooks;
    while (hook != NULL) {
        loop->hook_next = hook->next; /* Kept right by loop_remove_hook. */
        hook->run(hook);
        hook = loop->hook_next;
    }
    loop->hook_next = NULL;
    if (loop->reader != NULL) {
        reclaim_reader_announce(loop->reader, epoch);
    }
    loop_arm_timer(loop);
    if (atomic_load_explicit(&loop->stopping, memory_order_acquire)) {
        /* Stays open: others may post until loop_fini. */
        uv_unref((uv_handle_t *)&loop->wake);
    }
}

static void loop_on_turn_end(uv_prepare_t *turn_end)
{
    loop_end_turn(CONTAINER_OF(turn_end, struct loop, turn_end));
}

void loop_init(struct loop *loop, const struct clock *clock)
{
    ASSERT(clock != NULL);
    *loop = (struct loop){0};
    loop->hooks_tail = &loop->hooks;
    atomic_init(&loop->posted, NULL);
    atomic_init(&loop->running, false);
    atomic_init(&loop->stopping, false);
    timers_init(&loop->timers, clock);
    ASSERT(uv_loop_init(&loop->uv) == 0);
    ASSERT(uv_async_init(&loop->uv, &loop->wake, loop_on_wake) == 0);
    ASSERT(uv_prepare_init(&loop->uv, &loop->turn_end) == 0);
    ASSERT(uv_timer_init(&loop->uv, &loop->timer) == 0);
    ASSERT(uv_prepare_start(&loop->turn_end, loop_on_turn_end) == 0);
    /* |wake| alone keeps the loop going until loop_stop. */
    uv_unref((uv_handle_t *)&loop->turn_end);
    uv_unref((uv_handle_t *)&loop->timer);
}

void loop_fini(struct loop *loop)
{
    ASSERT(!atomic_load(&loop->running));
    uv_ref((uv_handle_t *)&loop->wake);
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->turn_end, NULL);
    uv_close((uv_handle_t *)&loop->timer, NULL);
    ASSERT(uv_run(&loop->uv, UV_RUN_DEFAULT) == 0);
    ASSERT(uv_loop_close(&loop->uv) == 0); /* Else the owner left a handle open. */
    timers_fini(&loop->timers);
}

void loop_run(struct loop *loop)
{
    ASSERT(!atomic_load(&loop->running));
    loop->thread = uv_thread_self();
    atomic_store_explicit(&loop->running, true, memory_order_release);
    do {
        (void)uv_run(&loop->uv, UV_RUN_DEFAULT);
        loop_end_turn(loop); /* Posts and hooks of the last callbacks. */
    } while (uv_loop_alive(&loop->uv) || atomic_load(&loop->posted) != NULL);
    atomic_store_explicit(&loop->running, false, memory_order_release);
}

void loop_stop(struct loop *loop)
{
    atomic_store_explicit(&loop->stopping, true, memory_order_release);
    ASSERT(uv_async_send(&loop->wake) == 0);
}

void loop_post(struct loop *loop, struct loop_post *post)
{
    ASSERT(post->run != NULL);
    struct loop_post *newest = atomic_load_explicit(&loop->posted, memory_order_relaxed);
    do {
        post->next = newest;
    } while (!atomic_compare_exchange_weak_explicit(&loop->posted, &newest, post,
                                                    memory_order_release, memory_order_relaxed));
    if (newest == NULL) {
        ASSERT(uv_async_send(&loop->wake) == 0);
    }
}

void loop_add_hook(struct loop *loop, struct loop_hook *hook)
{
    ASSERT_ON_LOOP(loop);
    ASSERT(hook->run != NULL);
    hook->next = NULL;
    *loop->hooks_tail = hook;
    loop->hooks_tail = &hook->next;
}

void loop_remove_hook(struct loop *loop, struct loop_hook *hook)
{
    ASSERT_ON_LOOP(loop);
    struct loop_hook **at = &loop->hooks;
    while (*at != hook) {
        ASSERT(*at != NULL); /* It was never added. */
        at = &(*at)->next;
    }
    *at = hook->next;
    if (loop->hooks_tail == &hook->next) {
        loop->hooks_tail = at;
    }
    if (loop->hook_next == hook) {
        loop->hook_next = hook->next;
    }
    hook->next = NULL;
}

bool loop_is_current(const struct loop *loop)
{
    if (!atomic_load_explicit(&loop->running, memory_order_acquire)) {
        return true;
    }
    uv_thread_t self = uv_thread_self();
    return uv_thread_equal(&self, &loop->thread) != 0;
}
