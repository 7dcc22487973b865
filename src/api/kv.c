/* KV but RangeStream: decode, ask the store where it must be asked, encode. */
#include "api/ask.h"
#include "api/conn.h"
#include "api/handlers.h"
#include "api/request.h"
#include "core/metrics.h"

/* ---- Range --------------------------------------------------------------------------------- */

struct range_ask {
    struct api_ask ask;
    struct store_range range;
};

/* One that may walk far for a small answer counts by its time. */
static bool range_is_slow(const struct store_range *range)
{
    return range->range_end.size > 0 && (range->revision > 0 || !store_range_is_plain(range));
}

static uint64_t now_ns(const struct api_thread *thread)
{
    return clock_now_ns(thread->loop->timers.clock);
}

static void range_reply(struct api_thread *thread, struct rpc_call *call,
                        const struct store_range *range)
{
    bool is_slow = range_is_slow(range);
    uint64_t begin_ns = is_slow ? now_ns(thread) : 0;
    struct api_header header = api_header(thread, 0);
    api_out_begin(&thread->out);
    enum err err =
        api_range_answer(api_snapshot(thread), &header, range, &thread->arena, &thread->out);
    metric_add(METRIC_etcd_mvcc_range_total, 1);
    api_reply_or_fail(thread, call, err);
    if (is_slow) {
        thread->composed += now_ns(thread) - begin_ns;
    }
    if (!range->serializable) {
        api_conn_read_answered(thread, call);
    }
}

static void range_on_index(struct api_ask *ask)
{
    arena_reset(&ask->thread->arena);
    range_reply(ask->thread, ask->call, &CONTAINER_OF(ask, struct range_ask, ask)->range);
}

bool api_range_request(struct api_thread *thread, struct rpc_call *call, struct slice message,
                       struct store_range *range)
{
    const Etcdserverpb__RangeRequest *request =
        api_request(thread, call, message, &etcdserverpb__range_request__descriptor, NULL);
    if (request == NULL) {
        return false;
    }
    api_range_from(request, range);
    enum err err = store_range_check(range);
    if (err != ERR_OK) {
        rpc_fail_err(call, err);
    }
    return err == ERR_OK;
}

void api_kv_range(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    struct store_range range;
    if (!api_range_request(thread, call, message, &range)) {
        return;
    }
    bool is_local = api_range_is_local(thread, &range);
    if (is_local && api_may_compose(thread, call)) {
        range_reply(thread, call, &range);
        return;
    }
    struct range_ask *ask = api_ask_new(thread, call, STORE_READ_INDEX, sizeof(*ask));
    if (ask == NULL) {
        return;
    }
    ask->range = range; /* Borrows |message|, which stays while the call is alive. */
    api_ask_read(&ask->ask, is_local, range_on_index);
}

/* ---- Put ----------------------------------------------------------------------------------- */

static void put_on_done(struct api_ask *ask)
{
    struct api_thread *thread = ask->thread;
    struct api_header header = api_header(thread, ask->request.revision);
    api_out_begin(&thread->out);
    api_reply_or_fail(thread, ask->call,
                      api_encode_put(&thread->out, &header, &ask->request.answer.put));
}

void api_kv_put(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Etcdserverpb__PutRequest *request =
        api_ask_request(thread, call, message, &etcdserverpb__put_request__descriptor);
    if (request == NULL) {
        return;
    }
    struct store_put put;
    api_put_from(request, &put);
    enum err err = store_put_check(&put);
    if (err != ERR_OK) {
        rpc_fail_err(call, err);
        return;
    }
    struct api_ask *ask = api_ask_new(thread, call, STORE_PUT, sizeof(*ask));
    if (ask != NULL) {
        ask->request.u.put = put;
        api_ask_post(ask, message.size, put_on_done);
    }
}

/* ---- DeleteRange --------------------------------------------------------------------------- */

static void delete_on_done(struct api_ask *ask)
{
    struct api_thread *thread = ask->thread;
    struct api_header header = api_header(thread, ask->request.revision);
    api_out_begin(&thread->out);
    api_reply_or_fail(thread, ask->call,
                      api_encode_delete(&thread->out, &header, &ask->request.answer.del));
}

void api_kv_delete(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Etcdserverpb__DeleteRangeRequest *request =
        api_ask_request(thread, call, message, &etcdserverpb__delete_range_request__descriptor);
    if (request == NULL) {
        return;
    }
    struct store_delete del;
    api_delete_from(request, &del);
    enum err err = store_delete_check(&del);
    if (err != ERR_OK) {
        rpc_fail_err(call, err);
        return;
    }
    struct api_ask *ask = api_ask_new(thread, call, STORE_DELETE, sizeof(*ask));
    if (ask != NULL) {
        ask->request.u.del = del;
        api_ask_post(ask, message.size, delete_on_done);
    }
}

/* ---- Txn ----------------------------------------------------------------------------------- */

struct txn_ask {
    struct api_ask ask;
    struct store_txn txn;
};

static void txn_reply(struct api_thread *thread, struct rpc_call *call,
                      const struct store_txn_answer *answer, int64_t revision)
{
    struct api_header header = api_header(thread, revision);
    api_out_begin(&thread->out);
    api_reply_or_fail(thread, call, api_encode_txn(&thread->out, &header, answer, &thread->arena));
}

/* A transaction of ranges alone: from the newest snapshot. */
static void txn_read(struct api_thread *thread, struct rpc_call *call, const struct store_txn *txn)
{
    struct store_txn_answer answer;
    int64_t revision = 0;
    uint64_t begin_ns = now_ns(thread);
    arena_reset(&thread->arena);
    enum err err =
        store_txn_run_readonly(api_snapshot(thread), txn, &thread->arena, &answer, &revision);
    if (err != ERR_OK) {
        rpc_fail_err(call, err);
        return;
    }
    txn_reply(thread, call, &answer, revision);
    thread->composed += now_ns(thread) - begin_ns;
    if (!store_txn_is_serializable(txn)) {
        api_conn_read_answered(thread, call);
    }
}

static void txn_on_index(struct api_ask *ask)
{
    txn_read(ask->thread, ask->call, &CONTAINER_OF(ask, struct txn_ask, ask)->txn);
}

static void txn_on_done(struct api_ask *ask)
{
    arena_reset(&ask->thread->arena);
    txn_reply(ask->thread, ask->call, &ask->request.answer.txn, ask->request.revision);
}

static void txn_start(struct api_thread *thread, struct rpc_call *call, const struct store_txn *txn,
                      size_t message_size)
{
    bool is_readonly = store_txn_is_readonly(txn);
    bool is_local = is_readonly && (store_txn_is_serializable(txn) ||
                                    store_reads_are_local(thread->api->config.store));
    if (is_local && api_may_compose(thread, call)) {
        txn_read(thread, call, txn);
        return;
    }
    struct txn_ask *ask =
        api_ask_new(thread, call, is_readonly ? STORE_READ_INDEX : STORE_TXN, sizeof(*ask));
    if (ask == NULL) {
        return;
    }
    if (is_readonly) {
        ask->txn = *txn;
        api_ask_read(&ask->ask, is_local, txn_on_index);
        return;
    }
    ask->ask.request.u.txn = *txn;
    api_ask_post(&ask->ask, message_size, txn_on_done);
}

void api_kv_txn(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    struct arena *arena = rpc_call_arena(call);
    const Etcdserverpb__TxnRequest *request =
        api_ask_request(thread, call, message, &etcdserverpb__txn_request__descriptor);
    if (request == NULL) {
        return;
    }
    struct store_txn txn;
    const uint64_t max_ops = thread->api->config.max_txn_ops;
    enum err err = api_txn_from(request, max_ops, arena, &txn) ? store_txn_check(&txn, max_ops)
                                                               : ERR_TOO_MANY_OPS;
    if (err != ERR_OK) {
        rpc_fail_err(call, err);
        return;
    }
    metric_add(METRIC_etcd_mvcc_txn_total, 1);
    txn_start(thread, call, &txn, message.size);
}

/* ---- Compact ------------------------------------------------------------------------------- */

static void compact_on_done(struct api_ask *ask)
{
    struct api_thread *thread = ask->thread;
    struct api_header header = api_header(thread, ask->request.revision);
    api_out_begin(&thread->out);
    api_encode_header(&thread->out, &header);
    api_reply(thread, ask->call);
}

void api_kv_compact(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Etcdserverpb__CompactionRequest *request =
        api_request(thread, call, message, &etcdserverpb__compaction_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    struct api_ask *ask = api_ask_new(thread, call, STORE_COMPACT, sizeof(*ask));
    if (ask != NULL) {
        ask->request.u.compact.revision = request->revision;
        ask->request.u.compact.physical = request->physical != 0;
        api_ask_post(ask, message.size, compact_on_done);
    }
}
