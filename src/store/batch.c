/*
 * The batch: many etcd writes in one entry of the log, one batch in flight, never a timer.
 *
 *            ┌─────────────────────────────(lost, applied)──────────────────────┐
 *            ▼                                                                   │
 *     ┌─▶ IDLE ──locking──▶ LOCKING ──partial──▶ CATCHING_UP ◀──another's──┐    │
 *     │    │ │                │   │                  ▲   └───────────────────────┘
 *     │    │ │no rows         │   │no rows           │beaten
 *     │    │ └─▶ PROBING ◀────┘   │                  │
 *     │    │        │other state  │rows              │
 *     │    │        └──▶ IDLE     ▼                  │          ┌──────── absent ───────┐
 *     │    └──────rows──────▶ APPENDING ──0 rows──▶ LOOKING ──▶ JUDGING                │
 *     │                       │ │ │    no answer                 ▲ │ │                  ▼
 *     ├──committed────────────┘ │ └──────────────────────────────│─│─│────────────▶  DOUBT
 *     ├──moved: again           │                                │ │ │                ▲ │
 *     ├◀─PAUSED ◀──refused──────┘          another's             │ │ └ours            │ │
 *     │                                  CATCHING_UP ◀───────────┼─┘   committed      │ │
 *     │                                                       0 rows                  │ ▼
 *     └◀────────────────────────────────committed────────────────┴───────────── RESOLVING
 *
 * IDLE         nothing in flight, no edit open, no members
 * LOCKING      the cluster row's lock was asked for, and what is missing with it; nothing evaluated
 * APPENDING    evaluated, the edit open, the entry sent once; may be committed already
 * PROBING      no rows: the answers stand if the log is still where they were evaluated
 * LOOKING      0 rows were inserted: the tail is asked who wrote expected + 1
 * JUDGING      the verdict is asked: under a committed lock
 * DOUBT        no answer came; nothing is known but that only the log knows
 * RESOLVING    something of ours was sent to expected + 1 again, on a fresh connection
 * CATCHING_UP  certainly not in the log: waits for the tail, then all is evaluated again
 * PAUSED       certainly not sent: a short back-off
 *
 * While the edit is open the cache is at |expected_seq|; apply.c may take it away only by showing
 * another writer's entry at expected + 1 (|beaten|), after which the batch can never be in the log.
 */
#include "store/internal.h"

#define SETTLED (SM_TO(BATCH_IDLE) | SM_TO(BATCH_CATCHING_UP))

static const struct sm_state batch_states[BATCH_STATE_COUNT] = {
    [BATCH_IDLE] = {"idle", SM_TO(BATCH_LOCKING) | SM_TO(BATCH_APPENDING) | SM_TO(BATCH_PROBING)},
    [BATCH_LOCKING] = {"locking", SETTLED | SM_TO(BATCH_APPENDING) | SM_TO(BATCH_PROBING) |
                                      SM_TO(BATCH_PAUSED)},
    [BATCH_APPENDING] = {"appending",
                         SETTLED | SM_TO(BATCH_LOOKING) | SM_TO(BATCH_DOUBT) | SM_TO(BATCH_PAUSED)},
    [BATCH_PROBING] = {"probing", SETTLED},
    [BATCH_LOOKING] = {"looking", SETTLED | SM_TO(BATCH_JUDGING)},
    [BATCH_JUDGING] = {"judging", SETTLED | SM_TO(BATCH_DOUBT)},
    [BATCH_DOUBT] = {"doubt", SETTLED | SM_TO(BATCH_RESOLVING) | SM_TO(BATCH_JUDGING)},
    [BATCH_RESOLVING] = {"resolving", SETTLED | SM_TO(BATCH_JUDGING) | SM_TO(BATCH_DOUBT)},
    [BATCH_CATCHING_UP] = {"catching up", SM_TO(BATCH_IDLE)},
    [BATCH_PAUSED] = {"paused", SM_TO(BATCH_IDLE)},
};

void store_batch_init(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    sm_init(&batch->sm, batch_states, BATCH_STATE_COUNT, BATCH_IDLE);
    ASSERT(batch->eval.edit == NULL && batch->members.count == 0);
    batch->eval.rng = store->config.rng;
    /* Admission bounds what is evaluated, the log what is pulled. */
    arena_init(&batch->eval.bytes, ARENA_NO_CEILING);
    arena_init(&batch->eval.scratch, ARENA_NO_CEILING);
    arena_init(&batch->lock_arena, ARENA_NO_CEILING);
}

void store_batch_fini(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(batch->members.count == 0);
    timers_disarm(store->timers, &batch->retry);
    store_batch_drop_edit(store);
    arena_fini(&batch->eval.bytes);
    arena_fini(&batch->eval.scratch);
    arena_fini(&batch->lock_arena);
    store_vec_fini(&batch->eval.rows);
    store_vec_fini(&batch->eval.effects);
}

bool store_batch_is_sound(const struct store *store)
{
    const struct store_batch *batch = &store->batch;
    bool open = batch->eval.edit != NULL;
    bool retries = timer_is_armed(&batch->retry);
    switch ((enum batch_state)batch->sm.now) {
    case BATCH_IDLE:
    case BATCH_LOCKING:
    case BATCH_CATCHING_UP:
        return !open && !retries && batch->members.count == 0;
    case BATCH_PAUSED:
        return !open && retries && batch->members.count == 0;
    case BATCH_PROBING:
        return !open && !retries && batch->probe_arrival <= store->reads.arrivals;
    case BATCH_APPENDING:
    case BATCH_LOOKING:
    case BATCH_JUDGING:
    case BATCH_RESOLVING:
        return open != batch->beaten && !retries;
    case BATCH_DOUBT:
        return open && !batch->beaten && retries;
    case BATCH_STATE_COUNT:
        break;
    }
    return false;
}

bool store_batch_is_open(const struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(IMPLIES(store->batch.eval.edit != NULL, store->batch.eval.seq == store->seq + 1));
    return store->batch.eval.edit != NULL;
}

void store_batch_drop_edit(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    if (batch->eval.edit != NULL) {
        cache_edit_drop(batch->eval.edit);
        batch->eval.edit = NULL;
    }
    ASSERT(!store_batch_is_open(store));
}

void store_batch_requeue(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    store_batch_drop_edit(store);
    for (struct store_request *r = batch->members.first; r != NULL; r = r->next) {
        ASSERT(r->state == REQUEST_BATCHED);
        ASSERT(r->list == &batch->members);
        r->state = REQUEST_QUEUED;
        if (r->arena != NULL) {
            arena_reset(r->arena); /* Each evaluation may need as much as it holds. */
        }
    }
    store_list_prepend(&store->queue, &batch->members);
}

/* ---- evaluation ----------------------------------------------------------------------------- */

/* Whether |next| has to wait for the next batch. */
static bool batch_is_full(const struct store *store, uint64_t begun_ns,
                          const struct store_request *next)
{
    const struct store_eval *eval = &store->batch.eval;
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)next->kind <= STORE_LEASE_EXPIRE);
    uint64_t changes = (uint64_t)eval->rows.count + eval->effects.count;
    if (store->batch.members.count > 0 &&
        store_now_ns(store) - begun_ns >= LIMIT_BATCH_EVAL_MS * NS_PER_MS) {
        return true; /* Ranges inside of transactions: the loop has other things to do, too. */
    }
    return changes >= LIMIT_BATCH_ROWS ||
           (changes > 0 && eval->byte_count + next->size > LIMIT_BATCH_BYTES);
}

/* Evaluate what waits, as much as one entry holds. True if there is something to append. */
static bool batch_evaluate(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    struct store_eval *eval = &batch->eval;
    ASSERT(eval->edit == NULL && batch->members.count == 0);
    arena_reset(&eval->bytes);
    eval->rows.count = 0;
    eval->effects.count = 0;
    eval->byte_count = 0;
    eval->seq = store->seq + 1;
    eval->edit = cache_edit_begin(store->cache);
    batch->expected_seq = store->seq;
    batch->expected_chain = store->chain;
    batch->beaten = false;
    batch->refusal = ERR_OK;
    batch->attempts = 0;
    uint64_t begun_ns = store_now_ns(store);
    while (store->queue.first != NULL) {
        struct store_request *request = store->queue.first;
        if (batch_is_full(store, begun_ns, request) || store_eval_must_wait(eval, request)) {
            break;
        }
        store_list_remove(request);
        store_list_add(&batch->members, request);
        request->state = REQUEST_BATCHED;
        request->err = store_eval_request(eval, request);
    }
    return eval->rows.count > 0 || eval->effects.count > 0;
}

static struct sql_entry entry_begin(struct store *store, const struct cache_info *info)
{
    ASSERT(store_is_sound(store));
    ASSERT(info->revision >= 1 && info->compact_rev <= info->revision);
    struct sql_entry entry = {
        .seq = store->batch.expected_seq + 1,
        .writer.counter = ++store->batch.writer_counter,
        .epoch = store->fence.epoch,
        .last_rev = info->revision,
        .compact_rev = info->compact_rev,
        .auth_rev = info->auth_revision,
    };
    memcpy(entry.writer.incarnation, store->incarnation, sizeof(entry.writer.incarnation));
    return entry;
}

static void batch_make_entries(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    struct store_eval *eval = &batch->eval;
    const struct sql_row *rows = eval->rows.items;
    struct sql_entry *entry = &batch->entry;
    *entry = entry_begin(store, cache_edit_info(eval->edit));
    entry->first_rev = eval->rows.count == 0 ? 0 : rows[0].revision;
    entry->row_count = eval->rows.count;
    entry->byte_count = eval->byte_count;
    entry->rows = rows;
    entry->effects = eval->effects.items;
    entry->effect_count = eval->effects.count;
    entry->rows_hash = sql_rows_hash(rows, eval->rows.count);
    entry->chain = sql_entry_chain(&store->chain, entry);
    cache_edit_set_position(eval->edit, entry->seq, entry->epoch, entry->auth_rev);

    batch->empty = entry_begin(store, cache_snapshot_info(cache_snapshot(store->cache)));
    batch->empty.rows_hash = sql_rows_hash(NULL, 0);
    batch->empty.chain = sql_entry_chain(&store->chain, &batch->empty);
    ASSERT(entry->seq == batch->empty.seq);
}

/* ---- sending -------------------------------------------------------------------------------- */

static void batch_answer(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    while (batch->members.first != NULL) {
        struct store_request *request = batch->members.first;
        if (request->kind == STORE_COMPACT && request->err == ERR_OK &&
            request->u.compact.physical) {
            store_list_remove(request);
            request->state = REQUEST_WAITING;
            store_list_add(&store->upkeep.physical, request);
            store_rearm_own(store, request); /* Committed: it waits as long as the client does. */
            continue;
        }
        store_answer(request, request->err);
    }
    ASSERT(batch->members.count == 0);
}

void store_batch_committed(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(store_batch_is_open(store) && !batch->beaten);
    sm_move(&batch->sm, BATCH_IDLE);
    batch->lock_next = false;
    store->batch_count++;
    store_apply_own(store);
    batch_answer(store);
    store_reads_proven(store, batch->reads_before);
    store_tail_rest(store, false);
}

/* A lease was renewed while its end was under way: the others go again without it. */
static void batch_drop_expiries(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_request *next = NULL;
    for (struct store_request *r = store->batch.members.first; r != NULL; r = next) {
        next = r->next;
        if ((int)r->kind == STORE_LEASE_EXPIRE) {
            store_answer(r, ERR_LEASE_NOT_FOUND);
        }
    }
    ASSERT((store->batch.members.count == 0) == (store->batch.members.first == NULL));
}

void store_batch_send_again(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->batch.entry.effect_count > 0); /* A counter moved: it had one to hold. */
    batch_drop_expiries(store);
    store_batch_requeue(store);
    sm_move(&store->batch.sm, BATCH_IDLE);
}

static void refused(struct store *store, enum err err)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(sm_is(&batch->sm, BATCH_APPENDING) && err != ERR_OK);
    switch ((int)err) {
    case ERR_NO_LEADER:
    case ERR_DATABASE:
        if (batch->refusals++ == 0) {
            LOG(LOG_WARN, "appends are refused", LSTR("error", err_name(err)));
        }
        store_batch_requeue(store);
        store_batch_pause(store);
        return;
    case ERR_LEADER_CHANGED:
        store_health_fence(store, true);
        break;
    case ERR_CHAIN_BROKEN:
    case ERR_HISTORY_LOST:
        (void)store_read_was_fatal(store, err);
        err = ERR_CORRUPT; /* As who asks from now on is told. */
        break;
    default:
        break;
    }
    store_batch_drop_edit(store);
    store_answer_all(&batch->members, err);
    sm_move(&batch->sm, BATCH_IDLE);
}

/* The database executes what it is sent. */
static void executed(struct store_batch *batch)
{
    ASSERT(batch->sm.now < BATCH_STATE_COUNT);
    ASSERT(batch->pause_ms <= LIMIT_BACKOFF_MAX_MS);
    if (batch->refusals > 0) {
        LOG(LOG_INFO, "appends go again", LUINT("refused", batch->refusals));
    }
    batch->refusals = 0;
    batch->pause_ms = 0;
}

static void appended(struct sql_append *append)
{
    ASSERT(append->done != NULL);
    struct store_batch *batch = CONTAINER_OF(append, struct store_batch, append);
    struct store *store = CONTAINER_OF(batch, struct store, batch);
    ASSERT(append->entry->seq == batch->expected_seq + 1);
    store_count_append(store, append);
    if (append->outcome != SQL_REFUSED && append->outcome != SQL_IN_DOUBT) {
        executed(batch);
    }
    if (!sm_is(&batch->sm, BATCH_APPENDING)) {
        store_batch_resolved(store, append->outcome);
        return;
    }
    switch (append->outcome) {
    case SQL_COMMITTED:
        if (batch->beaten) {
            store_fatal(store, ERR_HISTORY_LOST,
                        "an entry of another replica was replaced by ours");
            return;
        }
        store_batch_committed(store);
        return;
    case SQL_LOST:
        store_batch_look(store);
        return;
    case SQL_MOVED:
        store_batch_send_again(store);
        return;
    case SQL_REFUSED:
        refused(store, append->err);
        return;
    case SQL_IN_DOUBT:
        store->doubt_count++;
        LOG(LOG_WARN, "append in doubt", LUINT("seq", batch->entry.seq));
        store_batch_doubt(store);
        return;
    }
}

static void batch_append(struct store *store, bool locked)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    batch_make_entries(store);
    ASSERT(batch->entry.row_count > 0 || batch->entry.effect_count > 0);
    batch->reads_before = store->reads.arrivals;
    batch->append = (struct sql_append){
        .fence = store->fence,
        .expected_seq = batch->expected_seq,
        .expected_chain = batch->expected_chain,
        .entry = &batch->entry,
        .locked = locked,
        .done = appended,
    };
    batch->sent_ns = clock_now_ns(store->timers->clock);
    sm_move(&batch->sm, BATCH_APPENDING);
    store->log->ops->append(store->log, &batch->append);
}

/* ---- batches without rows ------------------------------------------------------------------- */

/* Whether all members arrived before |arrival|. */
static bool members_arrived_before(const struct store_batch *batch, uint64_t arrival)
{
    ASSERT(batch->sm.now < BATCH_STATE_COUNT);
    ASSERT(batch->eval.rows.count == 0 && batch->eval.effects.count == 0);
    for (const struct store_request *r = batch->members.first; r != NULL; r = r->next) {
        if (r->arrival > arrival) {
            return false;
        }
    }
    return true;
}

/*
 * Nothing to append: the answers hold if the log stood, at some moment after the requests arrived,
 * where they were evaluated. |proven|: it is known already.
 */
static void batch_without_rows(struct store *store, bool proven)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(batch->eval.rows.count == 0 && batch->eval.effects.count == 0);
    store_batch_drop_edit(store);
    if (proven || store->log->exclusive) {
        batch_answer(store);
        if (!sm_is(&batch->sm, BATCH_IDLE)) {
            sm_move(&batch->sm, BATCH_IDLE);
        }
        return;
    }
    batch->probe_arrival = store_reads_ask(store);
    sm_move(&batch->sm, BATCH_PROBING);
}

/* Evaluated again once |seq| is applied. */
static void batch_catch_up(struct store *store, uint64_t seq)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(seq > 0);
    store_batch_requeue(store);
    batch->expected_seq = seq - 1;
    if (store->seq >= seq) {
        sm_move(&batch->sm, BATCH_IDLE);
        return;
    }
    sm_move(&batch->sm, BATCH_CATCHING_UP);
    store_tail_want(store);
}

void store_batch_probed(struct store *store, uint64_t mark, const struct sql_head *head)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(mark <= store->reads.arrivals && head->seq <= store->seen_seq);
    if (!sm_is(&batch->sm, BATCH_PROBING) || mark < batch->probe_arrival) {
        return;
    }
    if (head->seq == batch->expected_seq && hash128_equal(&head->chain, &batch->expected_chain) &&
        store->seq == batch->expected_seq) {
        batch_answer(store);
        sm_move(&batch->sm, BATCH_IDLE);
        return;
    }
    batch->lock_next = true;
    batch_catch_up(store, head->seq > store->seq ? head->seq : store->seq);
}

void store_batch_lost(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(batch->entry.seq == batch->expected_seq + 1);
    batch->lock_next = true;
    store_batch_drop_edit(store);
    if (batch->refusal != ERR_OK) {
        store_answer_all(&batch->members, batch->refusal);
    }
    batch_catch_up(store, batch->expected_seq + 1);
}

/* ---- locking -------------------------------------------------------------------------------- */

static void batch_send(struct store *store, bool locked, uint64_t proven_arrival)
{
    ASSERT(store_is_sound(store));
    ASSERT(IMPLIES(locked, sm_is(&store->batch.sm, BATCH_LOCKING)));
    if (batch_evaluate(store)) {
        batch_append(store, locked);
        return;
    }
    if (locked) {
        store->log->ops->unlock(store->log);
    }
    bool proven = locked && members_arrived_before(&store->batch, proven_arrival);
    batch_without_rows(store, proven);
}

static void locked(struct sql_lock *lock)
{
    ASSERT(lock->done != NULL);
    struct store_batch *batch = CONTAINER_OF(lock, struct store_batch, lock);
    struct store *store = CONTAINER_OF(batch, struct store, batch);
    ASSERT(sm_is(&batch->sm, BATCH_LOCKING) && batch->members.count == 0);
    /* Whoever holds the lock for too long is no sign that the database is away, and that one
     * connection was lost is none, either: a probe on its own must tell. */
    if (lock->err == ERR_NO_LEADER) {
        store_health_ask(store);
    } else {
        store_health_end(store, true);
    }
    (void)store_read_was_fatal(store, lock->err);
    if (lock->err != ERR_OK) {
        store_batch_pause(store);
        return;
    }
    const struct sql_tail *tail = &lock->tail;
    bool usable = store_is_live(store) && !sm_is(&store->life, LIFE_CATCHING_UP) &&
                  !store_health_is_away(&store->health) &&
                  store_head_check(store, &tail->head, batch->expected_seq, &batch->expected_chain);
    if (usable) {
        enum apply_result result =
            store_apply_entries(store, &tail->head, tail->entries, tail->entry_count);
        if (result == APPLY_RELOAD) {
            store_reload_want(store, "entries or rows behind ours are gone");
        }
        usable = result == APPLY_OK;
    }
    if (!usable || store->queue.first == NULL || tail->head.seq != store->seq) {
        store->log->ops->unlock(store->log);
        if (usable && tail->head.seq > store->seq) {
            batch_catch_up(store, tail->head.seq);
        } else {
            sm_move(&batch->sm, BATCH_IDLE);
        }
        return;
    }
    batch_send(store, true, batch->probe_arrival);
}

static void batch_lock(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(store->queue.count > 0 && !store->log->exclusive);
    arena_reset(&batch->lock_arena);
    batch->lock = (struct sql_lock){
        .tail = {.after_seq = store->seq,
                 .entries_max = LIMIT_TAIL_ENTRIES,
                 .bytes_max = LIMIT_TAIL_BYTES,
                 .arena = &batch->lock_arena},
        .done = locked,
    };
    batch->expected_seq = store->seq;
    batch->expected_chain = store->chain;
    batch->probe_arrival = ++store->reads.arrivals;
    sm_move(&batch->sm, BATCH_LOCKING);
    store_health_begin(store);
    store->log->ops->lock(store->log, &batch->lock);
}

static bool batch_wants_lock(const struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(sm_is(&store->batch.sm, BATCH_IDLE));
    switch (store->config.transaction_mode) {
    case STORE_OPTIMISTIC:
        return false;
    case STORE_LOCKING:
        return true;
    case STORE_AUTO:
        break;
    }
    return store->batch.lock_next;
}

void store_batch_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    if (!sm_is(&batch->sm, BATCH_IDLE) || store->queue.first == NULL || !store_is_live(store) ||
        sm_is(&store->life, LIFE_CATCHING_UP) || store_health_error(store) != ERR_OK) {
        return;
    }
    ASSERT(!store_batch_is_open(store) && batch->members.count == 0);
    if (!store->log->exclusive && batch_wants_lock(store)) {
        batch_lock(store);
        return;
    }
    batch_send(store, false, 0);
}

/* ---- what the others tell ------------------------------------------------------------------- */

static void paused(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_batch *batch = CONTAINER_OF(timer, struct store_batch, retry);
    ASSERT(sm_is(&batch->sm, BATCH_PAUSED));
    sm_move(&batch->sm, BATCH_IDLE); /* The turn that is under way starts it again. */
}

void store_batch_pause(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(batch->members.count == 0 && !store_batch_is_open(store));
    sm_move(&batch->sm, BATCH_PAUSED);
    timers_arm(store->timers, &batch->retry, store_backoff_ns(store, &batch->pause_ms), paused);
}

void store_batch_back(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    batch->pause_ms = 0;
    if (sm_is(&batch->sm, BATCH_PAUSED)) {
        ASSERT(timer_is_armed(&batch->retry));
        timers_disarm(store->timers, &batch->retry);
        sm_move(&batch->sm, BATCH_IDLE);
    } else if (sm_is(&batch->sm, BATCH_DOUBT)) {
        store_batch_doubt_back(store);
    }
}

bool store_batch_seen(struct store *store, const struct sql_entry *entry)
{
    ASSERT(store_is_sound(store));
    ASSERT(entry != NULL);
    struct store_batch *batch = &store->batch;
    ASSERT(store_batch_is_open(store));
    ASSERT(entry->seq == batch->expected_seq + 1);
    if (store_writer_is(&entry->writer, &batch->entry.writer)) {
        if (sm_is(&batch->sm, BATCH_DOUBT)) {
            store_batch_judge(store);
        }
        return false;
    }
    store_batch_drop_edit(store);
    batch->beaten = true;
    return true;
}

void store_batch_pulled(struct store *store, bool ok)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(!store->tail.in_flight && batch->look_after <= store->tail.begun);
    if (sm_is(&batch->sm, BATCH_CATCHING_UP) && store->seq > batch->expected_seq) {
        sm_move(&batch->sm, BATCH_IDLE);
    } else if (sm_is(&batch->sm, BATCH_LOOKING)) {
        if (batch->beaten) {
            store_batch_lost(store);
        } else if (store->reload_wanted || (ok && store->tail.begun > batch->look_after)) {
            store_batch_judge(store);
        }
    } else if (sm_is(&batch->sm, BATCH_DOUBT) && batch->beaten) {
        timers_disarm(store->timers, &batch->retry);
        store_batch_lost(store);
    }
}

void store_batch_away(struct store *store, enum err err)
{
    ASSERT(store_is_sound(store));
    ASSERT(err != ERR_OK);
    struct store_batch *batch = &store->batch;
    if (sm_is(&batch->sm, BATCH_PROBING)) {
        /* Evaluated but never sent: as certainly not executed as what waits. */
        store_answer_all(&batch->members, err);
        sm_move(&batch->sm, BATCH_IDLE);
    }
    store_answer_all(&store->queue, err);
}

void store_batch_reloaded(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_batch *batch = &store->batch;
    ASSERT(!store_batch_is_open(store));
    if (sm_is(&batch->sm, BATCH_PROBING) || sm_is(&batch->sm, BATCH_CATCHING_UP)) {
        store_batch_requeue(store);
        sm_move(&batch->sm, BATCH_IDLE);
    }
}
