/* Phases, and the workloads whose calls are answered once. */
#include "run.h"

#include <inttypes.h>
#include <stdio.h>

#include "core/mem.h"

enum { CAS_KEYS_PER_SLOT = 16, DRAIN_MAX_S = 120, FIRST_MAX_S = 120, FILL_CALLS = 16 };

/* One place of the closed loop: a call at a time. */
struct slot {
    struct load_call call;
    struct load_run *run;
    struct load_conn *conn;
    enum load_workload kind; /* Of the call under way. */
    uint64_t index;
    uint64_t start_ns;
    uint64_t key;
    struct load_answer answer;
    bool is_answered;
    struct buf message;
    int64_t cas_revs[CAS_KEYS_PER_SLOT];
};

void load_run_init(struct load_run *run, const struct load_options *options)
{
    memset(run, 0, sizeof(*run));
    run->options = options;
    run->serial = 1;
    load_codec_init(&run->codec, options);
    rng_seed(&run->rng, options->seed);
    run->net = load_net_new();
    run->conns = mem_alloc(options->connections * sizeof(struct load_conn *));
    for (uint64_t i = 0; i < options->connections; i++) {
        run->conns[i] = load_net_connect(run->net, options->endpoint);
    }
}

void load_run_fini(struct load_run *run)
{
    load_net_free(run->net);
    load_codec_fini(&run->codec);
    mem_free(run->conns);
}

void load_run_until(struct load_run *run, uint64_t until_ns, uint64_t step_ns,
                    void (*tick)(void *arg), void *arg)
{
    for (;;) {
        uint64_t now_ns = clock_now_ns(&clock_monotonic);
        if (now_ns >= until_ns) {
            return;
        }
        if (tick != NULL) {
            tick(arg);
        }
        uint64_t wait_ns = until_ns - now_ns;
        load_net_turn(run->net, wait_ns < step_ns ? wait_ns : step_ns);
    }
}

static void run_event(const struct load_run *run, const char *event)
{
    if (run->options->json) {
        printf("{\"event\": \"%s\"}\n", event);
        fflush(stdout);
    }
}

void load_run_window(struct load_run *run, uint64_t step_ns, void (*tick)(void *arg), void *arg)
{
    const struct load_options *options = run->options;
    uint64_t now_ns = clock_now_ns(&clock_monotonic);
    load_run_until(run, now_ns + options->warmup_ms * NS_PER_MS, step_ns, tick, arg);

    run_event(run, "start");
    uint64_t bytes_in = load_net_bytes_in(run->net);
    uint64_t bytes_out = load_net_bytes_out(run->net);
    uint64_t start_ns = clock_now_ns(&clock_monotonic);
    run->is_measuring = true;
    uint64_t until_ns = start_ns + options->duration_ms * NS_PER_MS;
    load_run_until(run, until_ns, step_ns, tick, arg);
    uint64_t patience_ns = until_ns + FIRST_MAX_S * NS_PER_S;
    while (run->stats.ops == 0 && run->stats.errors == 0 && until_ns < patience_ns) {
        until_ns += 50 * NS_PER_MS; /* A machine that slow is measured all the same. */
        load_run_until(run, until_ns, step_ns, tick, arg);
    }
    run->is_measuring = false;
    run->stats.elapsed_ns = clock_now_ns(&clock_monotonic) - start_ns;
    run->stats.bytes_in = load_net_bytes_in(run->net) - bytes_in;
    run->stats.bytes_out = load_net_bytes_out(run->net) - bytes_out;
    run_event(run, "end");
}

void load_run_drain(struct load_run *run)
{
    uint64_t end_ns = clock_now_ns(&clock_monotonic) + DRAIN_MAX_S * NS_PER_S;
    while (run->open > 0) {
        if (clock_now_ns(&clock_monotonic) > end_ns) {
            load_fail("%" PRIu64 " calls are still open after %d s", run->open, DRAIN_MAX_S);
        }
        load_net_turn(run->net, 10 * NS_PER_MS);
    }
}

bool load_run_count(struct load_run *run, int status)
{
    if (status == 0) {
        return true;
    }
    if (run->stats.errors++ == 0) {
        run->stats.first_error = status;
    }
    return false;
}

/* ---- the closed loop ----------------------------------------------------------------------- */

static enum load_workload slot_kind(struct slot *slot)
{
    if (slot->run->options->workload != LOAD_WORK_MIXED) {
        return slot->run->options->workload;
    }
    uint64_t dice = rng_below(&slot->run->rng, 100);
    if (dice < 60) {
        return LOAD_WORK_RANGE;
    }
    if (dice < 80) {
        return LOAD_WORK_RANGE_LIN;
    }
    return dice < 95 ? LOAD_WORK_PUT : LOAD_WORK_LIST;
}

/* Slots never share a key of txn-cas, so that a conflict is the server's doing. */
static uint64_t slot_cas_key(const struct slot *slot)
{
    uint64_t slots = slot->run->options->connections * slot->run->options->streams;
    uint64_t own = rng_below(&slot->run->rng, CAS_KEYS_PER_SLOT) * slots + slot->index;
    return own < slot->run->options->keys ? own : slot->index;
}

static int64_t *slot_cas_rev(struct slot *slot)
{
    uint64_t slots = slot->run->options->connections * slot->run->options->streams;
    return &slot->cas_revs[slot->key / slots];
}

static void slot_start(struct slot *slot)
{
    struct load_run *run = slot->run;
    const struct load_options *options = run->options;
    enum load_method method = LOAD_RANGE;
    slot->kind = slot_kind(slot);
    slot->key = rng_below(&run->rng, options->keys);
    buf_clear(&slot->message);
    switch ((int)slot->kind) {
    case LOAD_WORK_RANGE:
    case LOAD_WORK_RANGE_LIN:
        load_put_range(&run->codec, &slot->message, slot->key, slot->kind == LOAD_WORK_RANGE);
        break;
    case LOAD_WORK_PUT:
        method = LOAD_PUT;
        load_put_put(&run->codec, &slot->message, slot->key, run->serial++);
        break;
    case LOAD_WORK_TXN_CAS:
        method = LOAD_TXN;
        slot->key = slot_cas_key(slot);
        load_put_cas(&run->codec, &slot->message, slot->key, *slot_cas_rev(slot), run->serial++);
        break;
    case LOAD_WORK_LIST:
    case LOAD_WORK_LIST_STREAM:
        method = slot->kind == LOAD_WORK_LIST ? LOAD_RANGE : LOAD_RANGE_STREAM;
        slot->key = options->limit == 0 ? 0 : slot->key % (options->keys - options->limit + 1);
        load_put_list(&run->codec, &slot->message, slot->key, options->limit);
        break;
    default:
        load_fail("workload %s has no calls", load_workload_name(slot->kind));
    }
    memset(&slot->answer, 0, sizeof(slot->answer));
    slot->is_answered = false;
    slot->start_ns = clock_now_ns(&clock_monotonic);
    run->open++;
    load_call_start(&slot->call, slot->conn, method, buf_slice(&slot->message), true);
}

static void slot_on_message(struct load_call *call, struct slice message)
{
    struct slot *slot = CONTAINER_OF(call, struct slot, call);
    struct load_codec *codec = &slot->run->codec;
    bool ok;
    if (slot->kind == LOAD_WORK_PUT) {
        ok = load_get_put(message, &slot->answer);
    } else if (slot->kind == LOAD_WORK_TXN_CAS) {
        ok = load_get_txn(codec, message, &slot->answer);
    } else if (slot->kind == LOAD_WORK_LIST_STREAM) {
        ok = load_get_range_chunk(codec, message, &slot->answer);
    } else {
        ok = load_get_range(codec, message, &slot->answer);
    }
    slot->is_answered = true;
    slot->run->stats.wrong += !ok;
}

/* Can this be the answer to the slot's request? */
static bool slot_is_right(struct slot *slot)
{
    const struct load_options *options = slot->run->options;
    const struct load_answer *answer = &slot->answer;
    if (!slot->is_answered || answer->revision <= 0 || answer->kvs_wrong > 0) {
        return false;
    }
    uint64_t behind = options->keys - slot->key;
    uint64_t page = options->limit == 0 ? behind : options->limit;
    switch ((int)slot->kind) {
    case LOAD_WORK_PUT:
        return true;
    case LOAD_WORK_TXN_CAS:
        return answer->succeeded ? answer->kvs == 0 : answer->kvs <= 1;
    case LOAD_WORK_LIST:
    case LOAD_WORK_LIST_STREAM:
        return answer->kvs == page && answer->first_key == slot->key && answer->count == behind &&
               answer->more == (page < behind);
    default:
        return answer->kvs == 1 && answer->first_key == slot->key && answer->count == 1 &&
               !answer->more;
    }
}

static void slot_on_done(struct load_call *call, int status)
{
    struct slot *slot = CONTAINER_OF(call, struct slot, call);
    struct load_run *run = slot->run;
    uint64_t now_ns = clock_now_ns(&clock_monotonic);
    run->open--;
    if (load_run_count(run, status)) {
        run->stats.wrong += !slot_is_right(slot);
        run->stats.checksum += slot->answer.key_sum + slot->answer.kvs;
        if (slot->kind == LOAD_WORK_TXN_CAS) {
            *slot_cas_rev(slot) =
                slot->answer.succeeded ? slot->answer.revision : slot->answer.last_mod_rev;
        }
        if (run->is_measuring) {
            run->stats.ops++;
            run->stats.kvs += slot->answer.kvs;
            run->stats.conflicts += slot->kind == LOAD_WORK_TXN_CAS && !slot->answer.succeeded;
            load_hist_add(&run->stats.latency, now_ns - slot->start_ns);
        }
    }
    if (!run->is_stopping) {
        slot_start(slot);
    }
}

void load_run_calls(struct load_run *run)
{
    const struct load_options *options = run->options;
    uint64_t count = options->connections * options->streams;
    if (options->workload == LOAD_WORK_TXN_CAS && count > options->keys) {
        load_fail("txn-cas needs at least as many keys as connections x streams, %" PRIu64, count);
    }
    struct slot *slots = mem_alloc(count * sizeof(struct slot));
    for (uint64_t i = 0; i < count; i++) {
        slots[i].run = run;
        slots[i].conn = run->conns[i % options->connections];
        slots[i].index = i;
        slots[i].call.on_message = slot_on_message;
        slots[i].call.on_done = slot_on_done;
        slot_start(&slots[i]);
    }
    load_run_window(run, NS_PER_S, NULL, NULL);
    run->is_stopping = true;
    load_run_drain(run);
    for (uint64_t i = 0; i < count; i++) {
        load_call_fini(&slots[i].call);
        buf_fini(&slots[i].message);
    }
    mem_free(slots);
}

/* ---- fill and verify ----------------------------------------------------------------------- */

struct fill {
    struct load_call call;
    struct load_run *run;
    uint64_t *next_key; /* Shared by all. */
    struct buf message;
};

static void fill_start(struct fill *fill, struct load_conn *conn)
{
    struct load_run *run = fill->run;
    uint64_t left = run->options->keys - *fill->next_key;
    uint64_t count = left < run->options->batch ? left : run->options->batch;
    if (count == 0) {
        return;
    }
    buf_clear(&fill->message);
    load_put_fill(&run->codec, &fill->message, *fill->next_key, count);
    *fill->next_key += count;
    run->open++;
    load_call_start(&fill->call, conn, LOAD_TXN, buf_slice(&fill->message), true);
}

static void fill_on_message(struct load_call *call, struct slice message)
{
    struct fill *fill = CONTAINER_OF(call, struct fill, call);
    struct load_answer answer = {0};
    if (!load_get_txn(&fill->run->codec, message, &answer) || !answer.succeeded) {
        load_fail("fill: a Txn without compares did not succeed");
    }
}

static void fill_on_done(struct load_call *call, int status)
{
    struct fill *fill = CONTAINER_OF(call, struct fill, call);
    fill->run->open--;
    if (status != 0) {
        load_fail("fill: a Txn of %" PRIu64 " puts ended with gRPC status %d",
                  fill->run->options->batch, status);
    }
    fill_start(fill, call->conn);
}

void load_run_fill(struct load_run *run)
{
    struct fill fills[FILL_CALLS] = {0};
    uint64_t next_key = 0;
    uint64_t start_ns = clock_now_ns(&clock_monotonic);
    for (uint32_t i = 0; i < FILL_CALLS; i++) {
        fills[i].run = run;
        fills[i].next_key = &next_key;
        fills[i].call.on_message = fill_on_message;
        fills[i].call.on_done = fill_on_done;
        fill_start(&fills[i], run->conns[i % run->options->connections]);
    }
    while (run->open > 0) {
        load_net_turn(run->net, NS_PER_S);
    }
    double seconds = (double)(clock_now_ns(&clock_monotonic) - start_ns) / 1e9;
    if (run->options->json) {
        printf("{\"event\": \"filled\", \"keys\": %" PRIu64 ", \"seconds\": %.3f}\n",
               run->options->keys, seconds);
    } else {
        printf("fill         %" PRIu64 " keys in %.2f s\n", run->options->keys, seconds);
    }
    fflush(stdout);
    for (uint32_t i = 0; i < FILL_CALLS; i++) {
        load_call_fini(&fills[i].call);
        buf_fini(&fills[i].message);
    }
}

struct verify {
    struct load_call call;
    struct load_run *run;
    struct load_answer answer;
    int status;
};

static void verify_on_message(struct load_call *call, struct slice message)
{
    struct verify *verify = CONTAINER_OF(call, struct verify, call);
    if (!load_get_range(&verify->run->codec, message, &verify->answer)) {
        load_fail("verify: broken answer");
    }
}

static void verify_on_done(struct load_call *call, int status)
{
    struct verify *verify = CONTAINER_OF(call, struct verify, call);
    verify->run->open--;
    verify->status = status;
}

void load_run_verify(struct load_run *run)
{
    enum { PAGE = 1000 };
    uint64_t keys = run->options->keys;
    struct verify verify = {.run = run};
    struct buf message = {0};
    verify.call.on_message = verify_on_message;
    verify.call.on_done = verify_on_done;
    for (uint64_t first = 0; first < keys; first += PAGE) {
        memset(&verify.answer, 0, sizeof(verify.answer));
        buf_clear(&message);
        load_put_list(&run->codec, &message, first, PAGE);
        run->open++;
        load_call_start(&verify.call, run->conns[0], LOAD_RANGE, buf_slice(&message), true);
        load_run_drain(run);
        uint64_t left = keys - first;
        uint64_t page = left < PAGE ? left : PAGE;
        const struct load_answer *answer = &verify.answer;
        if (verify.status != 0 || answer->kvs != page || answer->first_key != first ||
            answer->kvs_wrong > 0 || answer->count != left || answer->more != (page < left)) {
            load_fail("verify: page from key %" PRIu64 ": status %d, %" PRIu64
                      " keys, count %" PRIu64 ", %" PRIu64 " wrong",
                      first, verify.status, answer->kvs, answer->count, answer->kvs_wrong);
        }
    }
    load_call_fini(&verify.call);
    buf_fini(&message);
    if (!run->options->json) {
        printf("verify       %" PRIu64 " keys as they were put\n", keys);
    }
}
