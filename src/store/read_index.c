/*
 * Linearizable reads: one probe of the newest entry for all that wait.
 *
 *     arrivals      1  2  3 │ 4  5  6 │ 7 ...
 *     probe A begun ────────┘         │            proves 1 to 3 only
 *     probe B begun ──────────────────┘            proves 4 to 6 (and 1 to 3)
 *
 * |mark| is taken before the statement is handed over, so a probe never serves who arrived after.
 * A failed probe proves nothing; the next one is a new one with a new mark. An answer says at which
 * seq its readers may go on (a proof); they go on when that seq is applied. A batch that committed
 * proves the readers that arrived before it was first sent, without a probe.
 *
 * After a probe that failed the next one waits: 50 ms, doubling to 2 s, with jitter. Likewise after
 * one that met another database, and then probes go on without readers, to see when it is the right
 * one again.
 */
#include "core/metrics.h"
#include "store/internal.h"

static void probe_start(struct store *store);

static void again_due(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer)); /* The turn that is under way starts what is due. */
    ASSERT(CONTAINER_OF(timer, struct store_reads, again)->backoff_ms > 0);
}

void store_reads_init(struct store *store)
{
    ASSERT(store_is_sound(store));
    ASSERT(store->reads.waiting.count == 0);
    ASSERT(store->reads.proof_count == 0);
}

void store_reads_fini(struct store *store)
{
    ASSERT(store_is_sound(store));
    timers_disarm(store->timers, &store->reads.again);
    ASSERT(!timer_is_armed(&store->reads.again));
}

void store_reads_back(struct store *store)
{
    ASSERT(store_is_sound(store));
    timers_disarm(store->timers, &store->reads.again);
    store->reads.backoff_ms = 0;
    ASSERT(!timer_is_armed(&store->reads.again));
}

bool store_reads_is_sound(const struct store *store)
{
    const struct store_reads *reads = &store->reads;
    uint64_t mark = 0;
    for (uint32_t i = 0; i < reads->proof_count; i++) {
        const struct proof *proof = &reads->proofs[(reads->proof_first + i) % LIMIT_READ_PROOFS];
        if (proof->mark < mark || proof->mark > reads->answered ||
            (i == 0 && proof->seq <= store->seq)) {
            return false;
        }
        mark = proof->mark;
    }
    const struct store_request *first = reads->waiting.first;
    return first == NULL || (first->arrival <= reads->asked && first->state == REQUEST_WAITING);
}

static void read_answer(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    ASSERT(request->state == REQUEST_WAITING);
    metric_add(METRIC_drover_read_index_waiters_total, 1);
    if (request->kind == STORE_READ_INDEX) {
        store_answer_now(request);
    } else {
        store_leases_answer(store, request);
    }
}

void store_reads_proven(struct store *store, uint64_t mark)
{
    ASSERT(store_is_sound(store));
    struct store_reads *reads = &store->reads;
    ASSERT(mark <= reads->arrivals);
    while (reads->waiting.first != NULL && reads->waiting.first->arrival <= mark) {
        read_answer(store, reads->waiting.first);
    }
    reads->answered = mark > reads->answered ? mark : reads->answered;
}

void store_reads_release(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_reads *reads = &store->reads;
    ASSERT(
        IMPLIES(reads->proof_count > 0, reads->proofs[reads->proof_first].mark <= reads->arrivals));
    while (reads->proof_count > 0 && reads->proofs[reads->proof_first].seq <= store->seq) {
        store_reads_proven(store, reads->proofs[reads->proof_first].mark);
        reads->proof_first = (reads->proof_first + 1) % LIMIT_READ_PROOFS;
        reads->proof_count--;
    }
}

static void probe_done(struct sql_probe *probe)
{
    ASSERT(probe->done != NULL);
    struct store_reads *reads = CONTAINER_OF(probe, struct store_reads, probe);
    struct store *store = CONTAINER_OF(reads, struct store, reads);
    reads->in_flight = false;
    store->probe_count++;
    store_count_probe(store, probe->err);
    store_health_end(store, probe->err == ERR_OK);
    if (store_read_was_fatal(store, probe->err) || !store_is_loaded(store) || store->fatal) {
        return;
    }
    if (probe->err != ERR_OK ||
        !store_head_check(store, &probe->head, reads->sent_seq, &reads->sent_chain)) {
        uint64_t wait_ns = store_backoff_ns(store, &reads->backoff_ms);
        timers_arm(store->timers, &reads->again, wait_ns, again_due);
        return;
    }
    store_reads_back(store);
    reads->answered = reads->mark > reads->answered ? reads->mark : reads->answered;
    ASSERT(reads->proof_count < LIMIT_READ_PROOFS);
    uint32_t last = (reads->proof_first + reads->proof_count++) % LIMIT_READ_PROOFS;
    reads->proofs[last] = (struct proof){reads->mark, probe->head.seq};
    if (probe->head.seq > store->seq) {
        store_tail_want(store);
    }
    store_reads_release(store);
    store_batch_probed(store, reads->mark, &probe->head);
}

static void probe_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_reads *reads = &store->reads;
    ASSERT(!reads->in_flight && reads->proof_count < LIMIT_READ_PROOFS);
    reads->in_flight = true;
    reads->forced = false;
    reads->mark = reads->arrivals;
    reads->sent_ns = clock_now_ns(store->timers->clock);
    reads->sent_seq = store->seq;
    reads->sent_chain = store->chain;
    reads->probe = (struct sql_probe){.done = probe_done};
    store_health_begin(store);
    store->log->ops->probe(store->log, &reads->probe);
}

void store_reads_start(struct store *store)
{
    ASSERT(store_is_sound(store));
    struct store_reads *reads = &store->reads;
    ASSERT(IMPLIES(reads->in_flight, reads->mark <= reads->arrivals));
    if (reads->in_flight || reads->proof_count == LIMIT_READ_PROOFS || !store_is_loaded(store) ||
        store->fatal) {
        return;
    }
    bool may = !timer_is_armed(&reads->again) && !store_health_is_away(&store->health);
    bool wanted = reads->asked > reads->answered || store->health.fenced;
    if (reads->forced || (wanted && may)) {
        probe_start(store);
    }
}

uint64_t store_reads_ask(struct store *store)
{
    ASSERT(store_is_sound(store));
    store->reads.asked = ++store->reads.arrivals;
    ASSERT(store->reads.answered < store->reads.asked);
    return store->reads.arrivals;
}

void store_reads_add(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    request->arrival = store_reads_ask(store);
    request->state = REQUEST_WAITING;
    store_list_add(&store->reads.waiting, request);
    if (store->log->exclusive) {
        store_reads_proven(store, request->arrival);
    }
}
