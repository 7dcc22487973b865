/*
 * Goal: posts of many threads run on the loop, each once, in the order of their sender; a turn
 * ends with posts, timers, hooks, announcement, in this order; the loop never sleeps on work.
 * Method: threads that post as fast as they can (thread sanitizer looks on), and traces.
 */
#include "support.h"

#include <pthread.h>
#include <unistd.h>

#include "core/loop.h"
#include "core/mem.h"
#include "core/reclaim.h"

enum { SENDERS = 4, POSTS = 5000 };

struct numbered {
    struct loop_post post;
    struct sender *sender;
    uint32_t number;
};

struct sender {
    struct loop *loop;
    pthread_t thread;
    uint32_t expected; /* Loop thread. */
    struct numbered posts[POSTS];
};

static struct loop loop;
static uint32_t posts_run; /* Loop thread. */

static void numbered_runs(struct loop_post *post)
{
    struct numbered *numbered = CONTAINER_OF(post, struct numbered, post);
    struct sender *sender = numbered->sender;
    ASSERT_ON_LOOP(sender->loop);
    assert_int_equal(numbered->number, sender->expected);
    sender->expected++;
    if (++posts_run == SENDERS * POSTS) {
        loop_stop(sender->loop);
    }
}

static void *sender_main(void *arg)
{
    struct sender *sender = arg;
    for (uint32_t i = 0; i < POSTS; i++) {
        struct numbered *numbered = &sender->posts[i];
        *numbered = (struct numbered){{.run = numbered_runs}, sender, i};
        loop_post(sender->loop, &numbered->post);
    }
    return NULL;
}

static void posts_of_a_thread_run_in_its_order(void **state)
{
    (void)state;
    loop_init(&loop, &clock_monotonic);
    posts_run = 0;
    struct sender *senders = mem_alloc(SENDERS * sizeof(struct sender));
    for (uint32_t i = 0; i < SENDERS; i++) {
        senders[i].loop = &loop;
        assert_int_equal(pthread_create(&senders[i].thread, NULL, sender_main, &senders[i]), 0);
    }
    loop_run(&loop);
    for (uint32_t i = 0; i < SENDERS; i++) {
        assert_int_equal(pthread_join(senders[i].thread, NULL), 0);
        assert_int_equal(senders[i].expected, POSTS);
    }
    loop_fini(&loop);
    mem_free(senders);
}

/* Two loops that play ping-pong: a post may be posted again while it runs. */
struct ball {
    struct loop_post post;
    struct loop *sides[2];
    uint32_t hits;
};

static void ball_hits(struct loop_post *post)
{
    struct ball *ball = CONTAINER_OF(post, struct ball, post);
    ball->hits++;
    if (ball->hits == 2000) {
        loop_stop(ball->sides[0]);
        loop_stop(ball->sides[1]);
        return;
    }
    loop_post(ball->sides[ball->hits % 2], post);
}

static void *loop_main(void *arg)
{
    loop_run(arg);
    return NULL;
}

static void a_post_may_be_posted_again(void **state)
{
    (void)state;
    struct loop sides[2];
    loop_init(&sides[0], &clock_monotonic);
    loop_init(&sides[1], &clock_monotonic);
    struct ball ball = {.post = {.run = ball_hits}, .sides = {&sides[0], &sides[1]}};
    loop_post(&sides[0], &ball.post);
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, loop_main, &sides[1]), 0);
    loop_run(&sides[0]);
    assert_int_equal(pthread_join(other, NULL), 0);
    assert_int_equal(ball.hits, 2000);
    loop_fini(&sides[0]);
    loop_fini(&sides[1]);
}

static char trace[64];

static void trace_add(char what)
{
    size_t size = strlen(trace);
    if (size + 1 < sizeof(trace)) {
        trace[size] = what;
    }
}

static void post_traces(struct loop_post *post)
{
    (void)post;
    trace_add('p');
}

static struct loop_hook first_hook;
static struct loop_hook second_hook;
static struct loop_post traced_post;
static struct timer traced_timer;

static void timer_traces(struct timer *timer)
{
    (void)timer;
    trace_add('t');
}

static void timer_stops(struct timer *timer)
{
    (void)timer;
    trace_add('s');
    loop_stop(&loop);
}

static void first_hook_runs(struct loop_hook *hook)
{
    (void)hook;
    trace_add('1');
}

/* Once; then only the first is left, and work that arises in a hook must not wait. */
static void second_hook_runs(struct loop_hook *hook)
{
    trace_add('2');
    loop_remove_hook(&loop, hook);
    loop_post(&loop, &traced_post);
    timers_arm(&loop.timers, &traced_timer, 0, timer_stops);
}

static void a_turn_ends_with_posts_timers_and_hooks(void **state)
{
    (void)state;
    memset(trace, 0, sizeof(trace));
    loop_init(&loop, &clock_monotonic);
    assert_true(loop_is_current(&loop));
    struct reclaim reclaim;
    struct reclaim_reader reader = {0};
    reclaim_init(&reclaim);
    reclaim_add_reader(&reclaim, &reader);
    loop.reader = &reader;
    uint64_t epoch = reclaim_advance(&reclaim);
    first_hook.run = first_hook_runs;
    second_hook.run = second_hook_runs;
    loop_add_hook(&loop, &first_hook);
    loop_add_hook(&loop, &second_hook);
    traced_post.run = post_traces;
    loop_post(&loop, &traced_post);
    timers_arm(&loop.timers, &traced_timer, 0, timer_traces);
    (void)alarm(SUPPORT_HANG_S); /* A loop that sleeps on work sleeps for ever. */
    loop_run(&loop);
    (void)alarm(0);
    assert_memory_equal(trace, "pt12ps1", 7);
    assert_true(reclaim_passed(&reclaim, epoch));
    loop_remove_hook(&loop, &first_hook);
    loop_fini(&loop);
    reclaim_fini(&reclaim);
}

static struct loop_hook third_hook;

static void removes_all(struct loop_hook *hook)
{
    (void)hook;
    trace_add('a');
    loop_remove_hook(&loop, &second_hook);
    loop_remove_hook(&loop, &third_hook);
    loop_remove_hook(&loop, &first_hook);
    loop_stop(&loop);
}

static void a_hook_may_remove_those_behind_it(void **state)
{
    (void)state;
    memset(trace, 0, sizeof(trace));
    loop_init(&loop, &clock_monotonic);
    first_hook.run = removes_all;
    second_hook.run = first_hook_runs;
    third_hook.run = first_hook_runs;
    loop_add_hook(&loop, &first_hook);
    loop_add_hook(&loop, &second_hook);
    loop_add_hook(&loop, &third_hook);
    loop_run(&loop);
    assert_string_equal(trace, "a");
    loop_add_hook(&loop, &third_hook); /* The tail is right again. */
    loop_remove_hook(&loop, &third_hook);
    loop_fini(&loop);
}

static void foreign_timer_traces(uv_timer_t *handle)
{
    (void)handle;
    trace_add('x');
}

/* In time: it is not some later event that wakes the loop and finds the timer due. */
static void a_timer_wakes_a_sleeping_loop_in_time(void **state)
{
    (void)state;
    memset(trace, 0, sizeof(trace));
    loop_init(&loop, &clock_monotonic);
    uv_timer_t later;
    assert_int_equal(uv_timer_init(&loop.uv, &later), 0);
    assert_int_equal(uv_timer_start(&later, foreign_timer_traces, SUPPORT_HANG_S * 1000, 0), 0);
    uint64_t start_ns = clock_now_ns(&clock_monotonic);
    traced_timer = (struct timer){0};
    timers_arm(&loop.timers, &traced_timer, 20 * NS_PER_MS, timer_stops);
    uv_unref((uv_handle_t *)&later);
    loop_run(&loop);
    assert_true(clock_now_ns(&clock_monotonic) - start_ns >= 20 * NS_PER_MS);
    assert_string_equal(trace, "s");
    uv_close((uv_handle_t *)&later, NULL);
    loop_fini(&loop);
}

static void stopping_waits_for_the_owners_handles(void **state)
{
    (void)state;
    loop_init(&loop, &clock_monotonic);
    loop_stop(&loop); /* Before it runs: it ends after its first turn. */
    loop_run(&loop);
    uv_timer_t handle;
    assert_int_equal(uv_timer_init(&loop.uv, &handle), 0);
    uv_close((uv_handle_t *)&handle, NULL);
    loop_run(&loop);
    loop_fini(&loop);
}

static struct loop *foreign;

static void add_hook_from_here(void)
{
    loop_add_hook(foreign, &first_hook);
}

static void asserts_then_stops(struct loop_post *post)
{
    (void)post;
    loop_stop(foreign);
}

static void another_thread_may_not_touch_the_loop(void **state)
{
    (void)state;
    struct loop other;
    loop_init(&other, &clock_monotonic);
    foreign = &other;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, loop_main, &other), 0);
    while (loop_is_current(&other)) { /* Until it runs there. */
    }
    support_assert_panics(add_hook_from_here);
    struct loop_post stop = {.run = asserts_then_stops};
    loop_post(&other, &stop);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(loop_is_current(&other));
    loop_fini(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(posts_of_a_thread_run_in_its_order),
        cmocka_unit_test(a_post_may_be_posted_again),
        cmocka_unit_test(a_turn_ends_with_posts_timers_and_hooks),
        cmocka_unit_test(a_hook_may_remove_those_behind_it),
        cmocka_unit_test(a_timer_wakes_a_sleeping_loop_in_time),
        cmocka_unit_test(stopping_waits_for_the_owners_handles),
        cmocka_unit_test(another_thread_may_not_touch_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
