/* The blocks of all threads, and their sum as a page. */
#include "core/metrics.h"

#include "core/mem.h"
#include "core/process.h"
#include "core/version.h"

enum metric_kind { METRIC_KIND_COUNTER, METRIC_KIND_GAUGE };

struct metric_row {
    const char *name;
    const char *help;
    enum metric_kind kind;
};

static const struct metric_row metric_rows[METRIC_COUNT] = {
#define METRIC(row_name, row_kind, row_help) \
    [METRIC_##row_name] = {#row_name, row_help, METRIC_KIND_##row_kind},
#define HISTOGRAM(name, help)
#define INFO(name, label, value, help)
#include "core/metrics.def"
#undef METRIC
#undef HISTOGRAM
#undef INFO
};

static const struct metric_row histogram_rows[HISTOGRAM_COUNT] = {
#define METRIC(name, kind, help)
#define HISTOGRAM(row_name, row_help) \
    [HISTOGRAM_##row_name] = {#row_name, row_help, METRIC_KIND_COUNTER},
#define INFO(name, label, value, help)
#include "core/metrics.def"
#undef METRIC
#undef HISTOGRAM
#undef INFO
};

struct info_row {
    const char *name;
    const char *label;
    const char *value;
    const char *help;
};

static const struct info_row info_rows[] = {
#define METRIC(name, kind, help)
#define HISTOGRAM(name, help)
#define INFO(row_name, row_label, row_value, row_help) {#row_name, #row_label, row_value, row_help},
#include "core/metrics.def"
#undef METRIC
#undef HISTOGRAM
#undef INFO
};

/* As grpc-go spells its codes. */
static const char *const grpc_code_names[METRICS_GRPC_CODES] = {
    "OK",       "Canceled",        "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",   "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",      "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated",
};

struct call_row {
    const char *service;
    const char *method;
    const char *type;
};

static struct call_row call_rows[LIMIT_RPC_METHODS]; /* Filled at start. */
static _Atomic uint32_t call_count;
static _Atomic(struct metrics_block *) all_blocks; /* Newest first; never shrinks. */
static _Thread_local struct metrics_block *my_block;

struct metrics_block *metrics_mine(void)
{
    if (my_block == NULL) {
        struct metrics_block *block = mem_alloc(sizeof(*block));
        block->next = atomic_load_explicit(&all_blocks, memory_order_relaxed);
        while (!atomic_compare_exchange_weak_explicit(&all_blocks, &block->next, block,
                                                      memory_order_release, memory_order_relaxed)) {
        }
        my_block = block;
    }
    return my_block;
}

static const struct metrics_block *metrics_first(void)
{
    return atomic_load_explicit(&all_blocks, memory_order_acquire);
}

static uint64_t slot_get(const _Atomic uint64_t *slot)
{
    return atomic_load_explicit(slot, memory_order_relaxed);
}

int64_t metric_get(enum metric metric)
{
    ASSERT((unsigned)metric < METRIC_COUNT);
    uint64_t sum = 0;
    for (const struct metrics_block *block = metrics_first(); block != NULL; block = block->next) {
        sum += slot_get(&block->values[metric]);
    }
    return (int64_t)sum;
}

/* In nanoseconds, inclusive. */
static uint64_t bucket_limit_ns(uint32_t bucket)
{
    return UINT64_C(1000000) << bucket;
}

void metric_observe_ns(enum metric_histogram histogram, uint64_t ns)
{
    ASSERT((unsigned)histogram < HISTOGRAM_COUNT);
    struct metrics_spread *spread = &metrics_mine()->spreads[histogram];
    uint32_t bucket = 0;
    while (bucket < METRICS_BUCKETS && ns > bucket_limit_ns(bucket)) {
        bucket++;
    }
    metrics_bump(&spread->buckets[bucket], 1);
    metrics_bump(&spread->sum_ns, ns);
}

uint32_t metrics_call_add(const char *service, const char *method, const char *type)
{
    ASSERT(service != NULL && method != NULL && type != NULL);
    uint32_t count = atomic_load_explicit(&call_count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(call_rows[i].service, service) == 0 &&
            strcmp(call_rows[i].method, method) == 0) {
            return i;
        }
    }
    ASSERT(count < LIMIT_RPC_METHODS);
    call_rows[count] = (struct call_row){mem_strdup(service), mem_strdup(method), mem_strdup(type)};
    atomic_store_explicit(&call_count, count + 1, memory_order_release);
    return count;
}

static struct metrics_call *my_call(uint32_t call)
{
    ASSERT(call < LIMIT_RPC_METHODS);
    return &metrics_mine()->calls[call];
}

void metrics_call_started(uint32_t call)
{
    metrics_bump(&my_call(call)->started, 1);
}

void metrics_call_received(uint32_t call)
{
    metrics_bump(&my_call(call)->received, 1);
}

void metrics_call_sent(uint32_t call)
{
    metrics_bump(&my_call(call)->sent, 1);
}

void metrics_call_handled(uint32_t call, int grpc_code)
{
    bool is_known = grpc_code >= 0 && grpc_code < METRICS_GRPC_CODES;
    metrics_bump(&my_call(call)->handled[is_known ? grpc_code : 2], 1);
}

/* The sum over all threads of the slot that lies |offset| bytes into each block. */
static uint64_t blocks_sum(size_t offset)
{
    uint64_t sum = 0;
    for (const struct metrics_block *block = metrics_first(); block != NULL; block = block->next) {
        const char *bytes = (const char *)block;
        sum += slot_get((const _Atomic uint64_t *)(const void *)(bytes + offset));
    }
    return sum;
}

static void render_head(struct buf *page, const char *name, const char *help, const char *type)
{
    buf_printf(page, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void render_values(struct buf *page)
{
    for (uint32_t i = 0; i < METRIC_COUNT; i++) {
        const struct metric_row *row = &metric_rows[i];
        render_head(page, row->name, row->help,
                    row->kind == METRIC_KIND_COUNTER ? "counter" : "gauge");
        buf_printf(page, "%s %lld\n", row->name, (long long)metric_get((enum metric)i));
    }
    for (uint32_t i = 0; i < ARRAY_COUNT(info_rows); i++) {
        const struct info_row *row = &info_rows[i];
        render_head(page, row->name, row->help, "gauge");
        buf_printf(page, "%s{%s=\"%s\"} 1\n", row->name, row->label, row->value);
    }
}

static void render_spread(struct buf *page, uint32_t histogram)
{
    const struct metric_row *row = &histogram_rows[histogram];
    size_t base =
        offsetof(struct metrics_block, spreads) + histogram * sizeof(struct metrics_spread);
    render_head(page, row->name, row->help, "histogram");
    uint64_t count = 0;
    for (uint32_t i = 0; i <= METRICS_BUCKETS; i++) {
        size_t at = offsetof(struct metrics_spread, buckets) + i * sizeof(_Atomic uint64_t);
        count += blocks_sum(base + at);
        if (i < METRICS_BUCKETS) {
            buf_printf(page, "%s_bucket{le=\"%g\"} %llu\n", row->name,
                       (double)bucket_limit_ns(i) / 1e9, (unsigned long long)count);
        }
    }
    double sum = (double)blocks_sum(base + offsetof(struct metrics_spread, sum_ns)) / 1e9;
    buf_printf(page, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n", row->name,
               (unsigned long long)count, row->name, sum, row->name, (unsigned long long)count);
}

static size_t call_offset(uint32_t call)
{
    return offsetof(struct metrics_block, calls) + call * sizeof(struct metrics_call);
}

/* One line per method of the counter that lies |member| bytes into each call. */
static void render_family(struct buf *page, const char *name, const char *help, size_t member)
{
    uint32_t count = atomic_load_explicit(&call_count, memory_order_acquire);
    render_head(page, name, help, "counter");
    for (uint32_t i = 0; i < count; i++) {
        const struct call_row *row = &call_rows[i];
        buf_printf(page, "%s{grpc_method=\"%s\",grpc_service=\"%s\",grpc_type=\"%s\"} %llu\n", name,
                   row->method, row->service, row->type,
                   (unsigned long long)blocks_sum(call_offset(i) + member));
    }
}

static void render_handled(struct buf *page)
{
    uint32_t count = atomic_load_explicit(&call_count, memory_order_acquire);
    const char *name = "grpc_server_handled_total";
    render_head(page, name, "Calls completed, by status.", "counter");
    for (uint32_t i = 0; i < count * METRICS_GRPC_CODES; i++) {
        uint32_t call = i / METRICS_GRPC_CODES;
        uint32_t code = i % METRICS_GRPC_CODES;
        const struct call_row *row = &call_rows[call];
        size_t at = offsetof(struct metrics_call, handled) + code * sizeof(_Atomic uint64_t);
        buf_printf(page,
                   "%s{grpc_code=\"%s\",grpc_method=\"%s\",grpc_service=\"%s\","
                   "grpc_type=\"%s\"} %llu\n",
                   name, grpc_code_names[code], row->method, row->service, row->type,
                   (unsigned long long)blocks_sum(call_offset(call) + at));
    }
}

static void render_process(struct buf *page)
{
    struct process_usage usage;
    process_usage_get(&usage);
    const struct {
        const char *name;
        const char *help;
        const char *type;
        double value;
    } rows[] = {
        {"process_resident_memory_bytes", "Memory in use.", "gauge", (double)usage.resident_bytes},
        {"process_virtual_memory_bytes", "Address space.", "gauge", (double)usage.virtual_bytes},
        {"process_open_fds", "Open files.", "gauge", (double)usage.fds_open},
        {"process_max_fds", "Files that may be open.", "gauge", (double)usage.fds_max},
        {"os_fd_used", "Open files.", "gauge", (double)usage.fds_open},
        {"os_fd_limit", "Files that may be open.", "gauge", (double)usage.fds_max},
        {"process_cpu_seconds_total", "Processor time, user and system.", "counter", usage.cpu_s},
        {"process_start_time_seconds", "Start, since 1970.", "gauge", usage.start_time_s},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(rows); i++) {
        render_head(page, rows[i].name, rows[i].help, rows[i].type);
        buf_printf(page, "%s %.15g\n", rows[i].name, rows[i].value);
    }
}

void metrics_render(struct buf *page)
{
    render_values(page);
    for (uint32_t i = 0; i < HISTOGRAM_COUNT; i++) {
        render_spread(page, i);
    }
    render_family(page, "grpc_server_started_total", "Calls started.",
                  offsetof(struct metrics_call, started));
    render_family(page, "grpc_server_msg_received_total", "Messages received.",
                  offsetof(struct metrics_call, received));
    render_family(page, "grpc_server_msg_sent_total", "Messages sent.",
                  offsetof(struct metrics_call, sent));
    render_handled(page);
    render_process(page);
}
