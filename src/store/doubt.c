/*
 * The batch when its append brought no row or no answer.
 *
 * What decides is the primary key of `entry`: at most one of the old copy of the statement, a new
 * copy and an empty entry can ever stand at expected + 1, and each insert waits for the others. So
 * something of ours is put there, and then the writer is read:
 *
 *   ours           committed, exactly once, whatever the answers were
 *   another's      the batch can never be in the log: evaluate again
 *   the empty one  the batch has failed for good
 *   nobody's       proves nothing while an old copy may be under way: put it there again
 *   gone           newer entries exist, this one was trimmed: unknowable. Never sent again.
 *
 * Members leave at their deadlines; resolving goes on without them, with the bytes that were sent.
 */
#include "store/internal.h"

/* 0 rows: the losing statement's own snapshot may be older than the winner, so ask again. */
void store_batch_look(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(sm_is(&batch->sm, BATCH_APPENDING));
    batch->lock_next = true;
    if (batch->beaten) {
        store_batch_lost(store);
        return;
    }
    sm_move(&batch->sm, BATCH_LOOKING);
    if (store->log->exclusive) { /* Nobody else can have written: there is nothing to look for. */
        store_fatal(store, ERR_HISTORY_LOST, "the log is not as this process left it");
        return;
    }
    if (!store_is_live(store)) {
        store_batch_judge(store); /* The tail cannot be applied: it would not be asked. */
        return;
    }
    batch->look_after = store->tail.begun;
    store_tail_want(store);
}

/* Nobody can tell any more whether the batch was committed. */
static void unknowable(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(!batch->beaten && store->seen_seq > batch->expected_seq);
    LOG(LOG_WARN, "outcome of an append is unknowable", LUINT("seq", batch->entry.seq));
    store_batch_drop_edit(store);
    store_answer_all(&batch->members, ERR_TIMEOUT);
    sm_move(&batch->sm, BATCH_IDLE);
    store_reload_want(store, "an entry that was in doubt is gone");
}

static void resolved_ours(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(batch->entry.seq == batch->expected_seq + 1);
    if (batch->beaten) {
        store_fatal(store, ERR_HISTORY_LOST, "an entry of another replica was replaced by ours");
        return;
    }
    LOG(LOG_INFO, "doubt resolved as committed", LUINT("seq", batch->entry.seq));
    store_batch_committed(store);
}

static void judged(struct sql_verdict *verdict)
{
    ASSERT(verdict->done != NULL);
    struct store_batch *batch = CONTAINER_OF(verdict, struct store_batch, verdict);
    struct store *store = CONTAINER_OF(batch, struct store, batch);
    ASSERT(sm_is(&batch->sm, BATCH_JUDGING));
    store_health_end(store, verdict->err != ERR_NO_LEADER);
    if (store_read_was_fatal(store, verdict->err)) {
        return; /* Who asked is told at the deadline that nothing is known. */
    }
    if (verdict->err != ERR_OK) {
        store_batch_doubt(store);
        return;
    }
    /* What another database says settles nothing here. */
    if (!store_head_check(store, &verdict->head, batch->expected_seq, &batch->expected_chain)) {
        store_batch_doubt(store);
        return;
    }
    if (verdict->found) {
        if (store_writer_is(&verdict->writer, &batch->entry.writer)) {
            resolved_ours(store);
        } else {
            store_batch_lost(store);
        }
        return;
    }
    if (verdict->head.seq > batch->expected_seq && !batch->beaten) {
        unknowable(store);
        return;
    }
    store_batch_doubt(store);
}

void store_batch_judge(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(batch->beaten != store_batch_is_open(store)); /* What it judges is still to be done. */
    timers_disarm(store->timers, &batch->retry);
    sm_move(&batch->sm, BATCH_JUDGING);
    batch->verdict = (struct sql_verdict){.seq = batch->expected_seq + 1, .done = judged};
    store_health_begin(store);
    store->log->ops->verdict(store->log, &batch->verdict);
}

/* Put something of ours at expected + 1 again. */
static void resolve(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(!batch->beaten && batch->append.expected_seq == batch->expected_seq);
    sm_move(&batch->sm, BATCH_RESOLVING);
    batch->append.entry = batch->refusal == ERR_OK ? &batch->entry : &batch->empty;
    batch->append.locked = false;
    batch->append.fresh_connection = true;
    batch->attempts++;
    store->log->ops->append(store->log, &batch->append);
}

static void retry_due(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_batch *batch = CONTAINER_OF(timer, struct store_batch, retry);
    struct store *store = CONTAINER_OF(batch, struct store, batch);
    ASSERT(sm_is(&batch->sm, BATCH_DOUBT));
    if (store->health.fenced) { /* Another database is asked nothing: until store_batch_back. */
        timers_arm(store->timers, &batch->retry, LIMIT_DOUBT_BACKOFF_MAX_MS * NS_PER_MS, retry_due);
        return;
    }
    resolve(store);
}

void store_batch_doubt_back(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(sm_is(&batch->sm, BATCH_DOUBT));
    if (timer_is_armed(&batch->retry)) {
        timers_arm(store->timers, &batch->retry, 0, retry_due);
    }
}

void store_batch_doubt(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(batch->entry.seq == batch->expected_seq + 1);
    if (batch->beaten) {
        store_batch_lost(store);
        return;
    }
    sm_move(&batch->sm, BATCH_DOUBT);
    if (!store_is_loaded(store)) {
        return; /* The log is being closed. */
    }
    uint32_t doublings = batch->attempts < 6 ? batch->attempts : 6;
    uint64_t ms = (uint64_t)LIMIT_DOUBT_BACKOFF_MIN_MS << doublings;
    ms = ms < LIMIT_DOUBT_BACKOFF_MAX_MS ? ms : LIMIT_DOUBT_BACKOFF_MAX_MS;
    ms = batch->attempts == 0 ? 0 : ms / 2 + rng_below(store->config.rng, ms);
    timers_arm(store->timers, &batch->retry, ms * NS_PER_MS, retry_due);
}

void store_batch_resolved(struct store *store, enum sql_outcome outcome)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(sm_is(&batch->sm, BATCH_RESOLVING));
    switch (outcome) {
    case SQL_COMMITTED:
        if (batch->refusal == ERR_OK) {
            resolved_ours(store);
        } else {
            store_batch_lost(store); /* The empty entry stands; the tail brings it. */
        }
        return;
    case SQL_LOST:
        if (batch->beaten) {
            store_batch_lost(store);
        } else {
            store_batch_judge(store);
        }
        return;
    case SQL_MOVED:
        /* Rolled back whole, and no old copy can pass either: counters only grow. */
        store_batch_send_again(store);
        return;
    case SQL_REFUSED:
        if (batch->append.err == ERR_NO_SPACE) {
            batch->refusal = ERR_NO_SPACE; /* An empty entry may still find room. */
        }
        store_batch_doubt(store);
        return;
    case SQL_IN_DOUBT:
        store_batch_doubt(store);
        return;
    }
}
