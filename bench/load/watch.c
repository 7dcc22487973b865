/*
 * Watchers over ranges of the keys, and a writer. Every event is checked: each watcher gets every
 * put to its range exactly once, in order of revision; what is missing at the end counts as wrong.
 *
 * An event's latency is measured from when the put was sent; a second distribution, from when the
 * put was answered, is 0 for events that overtake the answer.
 */
#include "run.h"
#include "watch.h"

#include <inttypes.h>
#include <stdio.h>

#include "core/mem.h"

enum { TIMES = 1 << 20, SETTLE_MAX_S = 10, READY_MAX_S = 30 };

/* What is known about the put with one serial number; a ring. */
struct put_time {
    uint64_t sent_ns;
    uint64_t answered_ns; /* 0 until then. */
};

struct watcher {
    uint64_t group;
    uint64_t events;
    int64_t last_rev;
    bool created;
};

/* One Watch call and the watchers with ids 1, 2, ... on it. */
struct stream {
    struct load_call call;
    struct load *load;
    struct watcher *watchers;
    uint64_t watcher_count;
};

struct writer {
    struct load_call call;
    struct load *load;
    uint64_t serial;
    uint64_t key;
    bool busy;
    struct buf message;
};

struct load {
    struct load_run *run;
    struct load_conn *write_conn;
    struct stream *streams;
    uint64_t stream_count;
    struct writer *writers;
    uint64_t *group_puts; /* Puts that were answered, by group. */
    struct put_time *times;
    uint64_t created;     /* Watchers that are in place. */
    uint64_t next_put_ns; /* When the writer's pace allows the next one. */
    uint64_t received_ns; /* Of the message being read. */
    struct load_hist *after_answer;
};

static uint64_t group_first(const struct load *load, uint64_t group)
{
    const struct load_options *options = load->run->options;
    return group * options->keys / options->watch_groups;
}

static uint64_t group_of(const struct load *load, uint64_t key)
{
    const struct load_options *options = load->run->options;
    uint64_t group = key * options->watch_groups / options->keys;
    while (group_first(load, group + 1) <= key) {
        group++;
    }
    return group;
}

/* ---- watchers ------------------------------------------------------------------------------ */

static void stream_on_event(void *arg, const struct load_watch_answer *answer,
                            const struct load_kv *kv)
{
    struct stream *stream = arg;
    struct load *load = stream->load;
    struct load_stats *stats = &load->run->stats;
    if (answer->watch_id == 0 || answer->watch_id > stream->watcher_count || !kv->is_ours) {
        stats->wrong++;
        return;
    }
    struct watcher *watcher = &stream->watchers[answer->watch_id - 1];
    if (kv->mod_rev <= watcher->last_rev || group_of(load, kv->key) != watcher->group) {
        stats->wrong++;
    }
    watcher->last_rev = kv->mod_rev;
    watcher->events++;
    stats->checksum += kv->key + 1;
    if (load->run->is_measuring) {
        const struct put_time *time = &load->times[kv->serial % TIMES];
        bool answered = time->answered_ns != 0 && time->answered_ns < load->received_ns;
        stats->ops++;
        stats->kvs++;
        load_hist_add(&stats->latency, load->received_ns - time->sent_ns);
        load_hist_add(load->after_answer, answered ? load->received_ns - time->answered_ns : 0);
    }
}

static void stream_on_message(struct load_call *call, struct slice message)
{
    struct stream *stream = CONTAINER_OF(call, struct stream, call);
    struct load *load = stream->load;
    struct load_watch_answer answer;
    load->received_ns = clock_now_ns(&clock_monotonic);
    if (!load_get_watch(&load->run->codec, message, &answer, stream_on_event, stream) ||
        answer.canceled) {
        load->run->stats.wrong++;
        return;
    }
    if (answer.created && answer.watch_id > 0 && answer.watch_id <= stream->watcher_count) {
        load->created += !stream->watchers[answer.watch_id - 1].created;
        stream->watchers[answer.watch_id - 1].created = true;
    }
}

static void stream_on_done(struct load_call *call, int status)
{
    (void)call;
    load_fail("a Watch stream ended with gRPC status %d", status);
}

static void streams_start(struct load *load)
{
    const struct load_options *options = load->run->options;
    struct buf message = {0};
    for (uint64_t i = 0; i < load->stream_count; i++) {
        struct stream *stream = &load->streams[i];
        stream->load = load;
        stream->call.on_message = stream_on_message;
        stream->call.on_done = stream_on_done;
        stream->watcher_count =
            (options->watchers - i + load->stream_count - 1) / load->stream_count;
        stream->watchers = mem_alloc(stream->watcher_count * sizeof(struct watcher));
        for (uint64_t n = 0; n < stream->watcher_count; n++) {
            uint64_t group = (n * load->stream_count + i) % options->watch_groups;
            stream->watchers[n].group = group;
            buf_clear(&message);
            load_put_watch(&load->run->codec, &message, group_first(load, group),
                           group_first(load, group + 1), n + 1);
            if (n == 0) {
                load_call_start(&stream->call, load->run->conns[i % options->connections],
                                LOAD_WATCH, buf_slice(&message), false);
            } else {
                load_call_send(&stream->call, buf_slice(&message), false);
            }
        }
    }
    buf_fini(&message);
    uint64_t end_ns = clock_now_ns(&clock_monotonic) + READY_MAX_S * NS_PER_S;
    while (load->created < options->watchers) {
        if (clock_now_ns(&clock_monotonic) > end_ns) {
            load_fail("%" PRIu64 " of %" PRIu64 " watchers after %d s", load->created,
                      options->watchers, READY_MAX_S);
        }
        load_net_turn(load->run->net, 10 * NS_PER_MS);
    }
}

/* ---- the writer ---------------------------------------------------------------------------- */

static void writer_on_message(struct load_call *call, struct slice message)
{
    struct writer *writer = CONTAINER_OF(call, struct writer, call);
    struct load_answer answer = {0};
    if (!load_get_put(message, &answer) || answer.revision <= 0) {
        writer->load->run->stats.wrong++;
    }
}

static void writer_start(struct writer *writer)
{
    struct load *load = writer->load;
    struct load_run *run = load->run;
    writer->key = rng_below(&run->rng, run->options->keys);
    writer->serial = run->serial++;
    writer->busy = true;
    buf_clear(&writer->message);
    load_put_put(&run->codec, &writer->message, writer->key, writer->serial);
    load->times[writer->serial % TIMES] =
        (struct put_time){.sent_ns = clock_now_ns(&clock_monotonic)};
    run->open++;
    load_call_start(&writer->call, load->write_conn, LOAD_PUT, buf_slice(&writer->message), true);
}

static void writer_on_done(struct load_call *call, int status)
{
    struct writer *writer = CONTAINER_OF(call, struct writer, call);
    struct load *load = writer->load;
    load->run->open--;
    writer->busy = false;
    if (load_run_count(load->run, status)) {
        load->times[writer->serial % TIMES].answered_ns = clock_now_ns(&clock_monotonic);
        load->group_puts[group_of(load, writer->key)]++;
    }
    if (load->run->options->rate == 0 && !load->run->is_stopping) {
        writer_start(writer);
    }
}

/* Start the puts that are due; what the server can't keep up with is not made up for later. */
static void writers_tick(void *arg)
{
    struct load *load = arg;
    const struct load_options *options = load->run->options;
    uint64_t now_ns = clock_now_ns(&clock_monotonic);
    for (uint64_t i = 0; i < options->writers && now_ns >= load->next_put_ns; i++) {
        if (!load->writers[i].busy) {
            writer_start(&load->writers[i]);
            load->next_put_ns += NS_PER_S / options->rate;
        }
    }
    if (load->next_put_ns + 10 * NS_PER_MS < now_ns) {
        load->next_put_ns = now_ns;
    }
}

static void writers_start(struct load *load)
{
    const struct load_options *options = load->run->options;
    for (uint64_t i = 0; i < options->writers; i++) {
        struct writer *writer = &load->writers[i];
        writer->load = load;
        writer->call.on_message = writer_on_message;
        writer->call.on_done = writer_on_done;
        if (options->rate == 0) {
            writer_start(writer);
        }
    }
    load->next_put_ns = clock_now_ns(&clock_monotonic);
}

/* ---- the end ------------------------------------------------------------------------------- */

/* Events that watchers have more or less of than puts were answered. */
static uint64_t events_missing(const struct load *load)
{
    uint64_t missing = 0;
    for (uint64_t i = 0; i < load->stream_count; i++) {
        const struct stream *stream = &load->streams[i];
        for (uint64_t n = 0; n < stream->watcher_count; n++) {
            uint64_t want = load->group_puts[stream->watchers[n].group];
            uint64_t have = stream->watchers[n].events;
            missing += want > have ? want - have : have - want;
        }
    }
    return missing;
}

static void load_free(struct load *load)
{
    /* The streams stay open until the net is freed; their callbacks never run again. */
    for (uint64_t i = 0; i < load->stream_count; i++) {
        load_call_fini(&load->streams[i].call);
        mem_free(load->streams[i].watchers);
    }
    for (uint64_t i = 0; i < load->run->options->writers; i++) {
        load_call_fini(&load->writers[i].call);
        buf_fini(&load->writers[i].message);
    }
    mem_free(load->streams);
    mem_free(load->writers);
    mem_free(load->group_puts);
    mem_free(load->times);
}

void load_run_watch(struct load_run *run, struct load_hist *after_answer)
{
    const struct load_options *options = run->options;
    uint64_t streams = options->connections * options->streams;
    struct load load = {.run = run, .after_answer = after_answer};
    load.stream_count = streams < options->watchers ? streams : options->watchers;
    load.streams = mem_alloc(load.stream_count * sizeof(struct stream));
    load.writers = mem_alloc(options->writers * sizeof(struct writer));
    load.group_puts = mem_alloc((options->watch_groups + 1) * sizeof(uint64_t));
    load.times = mem_alloc(TIMES * sizeof(struct put_time));
    load.write_conn = load_net_connect(run->net, options->endpoint);
    streams_start(&load);
    writers_start(&load);
    if (options->rate == 0) {
        load_run_window(run, NS_PER_S, NULL, NULL);
    } else {
        uint64_t step_ns = NS_PER_S / options->rate;
        load_run_window(run, step_ns < NS_PER_MS ? step_ns : NS_PER_MS, writers_tick, &load);
    }
    run->is_stopping = true;
    load_run_drain(run);
    uint64_t end_ns = clock_now_ns(&clock_monotonic) + SETTLE_MAX_S * NS_PER_S;
    while (events_missing(&load) > 0 && clock_now_ns(&clock_monotonic) < end_ns) {
        load_net_turn(run->net, 10 * NS_PER_MS);
    }
    run->stats.wrong += events_missing(&load);
    load_free(&load);
}
