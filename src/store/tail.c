/*
 * Entries of other replicas.
 *
 * Polling always works and is the base; a hint only makes it earlier. The interval is short while
 * others write and goes back to --poll-interval when they rest. One pull in flight; when one is
 * wanted meanwhile, the next begins as soon as it is answered, because what is wanted may have been
 * written after the statement ran.
 */
#include "store/internal.h"

enum { POLL_FASTEST_MS = 5 };

static void tail_start(struct store *store);

static void poll_due(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    ASSERT(!CONTAINER_OF(timer, struct store_tail, poll)->in_flight);
    struct store_tail *tail = CONTAINER_OF(timer, struct store_tail, poll);
    struct store *store = CONTAINER_OF(tail, struct store, tail);
    tail_start(store);
}

void store_tail_init(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->config.poll_interval_ms > 0);
    arena_init(&store->tail.arena, ARENA_NO_CEILING);
    store->tail.interval_ms = store->config.poll_interval_ms;
}

void store_tail_fini(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(!store->tail.in_flight);
    timers_disarm(store->timers, &store->tail.poll);
    arena_fini(&store->tail.arena);
}

void store_tail_rest(struct store *store, bool found)
{
    ASSERT(store_is_sound(store));
    struct store_tail *tail = &store->tail;
    uint32_t slowest = store->config.poll_interval_ms;
    ASSERT(tail->interval_ms <= slowest);
    if (store->log->exclusive || tail->in_flight) {
        return;
    }
    uint32_t next = found ? POLL_FASTEST_MS : 2 * tail->interval_ms;
    tail->interval_ms = next < slowest ? next : slowest;
    uint64_t ms = tail->wanted ? 0 : tail->interval_ms;
    timers_arm(store->timers, &tail->poll, ms * NS_PER_MS, poll_due);
}

static void tail_done(struct sql_tail *request)
{
    ASSERT(request->done != NULL);
    struct store_tail *tail = CONTAINER_OF(request, struct store_tail, tail);
    struct store *store = CONTAINER_OF(tail, struct store, tail);
    uint64_t seq = store->seq;
    ASSERT(tail->in_flight && request->after_seq == tail->sent_seq && tail->sent_seq <= seq);
    bool ok = request->err == ERR_OK;
    tail->in_flight = false;
    store_health_end(store, ok);
    (void)store_read_was_fatal(store, request->err);
    ok = ok && store_is_live(store) &&
         store_head_check(store, &request->head, tail->sent_seq, &tail->sent_chain);
    if (ok) {
        enum apply_result result =
            store_apply_entries(store, &request->head, request->entries, request->entry_count);
        if (result == APPLY_RELOAD) {
            store_reload_want(store, "entries or rows behind ours are gone");
        }
        ok = result == APPLY_OK || result == APPLY_OWN;
        /* More than one answer holds: go on at once. */
        tail->wanted |= result == APPLY_OK && store->seq < request->head.seq;
    }
    tail->wanted &= ok; /* After a failure not before the interval. */
    store_batch_pulled(store, ok);
    store_tail_rest(store, store->seq > seq);
}

static void tail_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_tail *tail = &store->tail;
    if (tail->in_flight || store->log->exclusive || !store_is_live(store) ||
        store_health_error(store) != ERR_OK) {
        return;
    }
    timers_disarm(store->timers, &tail->poll);
    arena_reset(&tail->arena);
    tail->tail = (struct sql_tail){
        .after_seq = store->seq,
        .entries_max = LIMIT_TAIL_ENTRIES,
        .bytes_max = LIMIT_TAIL_BYTES,
        .arena = &tail->arena,
        .done = tail_done,
    };
    tail->wanted = false;
    tail->in_flight = true;
    tail->begun++;
    ASSERT(IMPLIES(store_batch_is_open(store), store->batch.expected_seq == store->seq));
    tail->sent_seq = store->seq;
    tail->sent_chain = store->chain;
    store_health_begin(store);
    store->log->ops->tail(store->log, &tail->tail);
}

void store_tail_want(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(IMPLIES(store->tail.in_flight, !timer_is_armed(&store->tail.poll)));
    store->tail.wanted = true;
    if (!store->tail.in_flight) {
        timers_arm(store->timers, &store->tail.poll, 0, poll_due);
    }
}
