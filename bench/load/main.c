/* drover-bench: load on an etcd endpoint, and what came of it. */
#include <inttypes.h>
#include <stdio.h>

#include "core/mem.h"
#include "watch.h"

/* Microseconds, as a JSON object or a line. */
static void report_hist(const struct load_hist *hist, bool json)
{
    double at[] = {(double)load_hist_mean(hist),    (double)load_hist_at(hist, 500),
                   (double)load_hist_at(hist, 900), (double)load_hist_at(hist, 990),
                   (double)load_hist_at(hist, 999), (double)hist->max_ns};
    static const char *const names[] = {"mean", "p50", "p90", "p99", "p99.9", "max"};
    for (size_t i = 0; i < ARRAY_COUNT(at); i++) {
        if (json) {
            printf("%s\"%s\": %.1f", i == 0 ? "{" : ", ", names[i], at[i] / 1e3);
        } else {
            printf("%s%s %.0f", i == 0 ? "" : ", ", names[i], at[i] / 1e3);
        }
    }
    printf("%s", json ? "}" : " us\n");
}

static void report_text(const struct load_run *run, const struct load_hist *after_answer)
{
    const struct load_stats *stats = &run->stats;
    double seconds = (double)stats->elapsed_ns / 1e9;
    printf("%-12s %.2f s, %" PRIu64 " operations, %.0f/s\n",
           load_workload_name(run->options->workload), seconds, stats->ops,
           seconds > 0 ? (double)stats->ops / seconds : 0);
    printf("received     %" PRIu64 " key-values, %" PRIu64 " bytes in, %" PRIu64 " bytes out\n",
           stats->kvs, stats->bytes_in, stats->bytes_out);
    printf("failures     %" PRIu64 " conflicts, %" PRIu64 " errors (first gRPC status %d), %" PRIu64
           " wrong\n",
           stats->conflicts, stats->errors, stats->first_error, stats->wrong);
    printf("checksum     %016" PRIx64 "\nlatency      ", stats->checksum);
    report_hist(&stats->latency, false);
    if (run->options->workload == LOAD_WORK_WATCH) {
        printf("after answer ");
        report_hist(after_answer, false);
    }
}

static void report_json(const struct load_run *run, const struct load_hist *after_answer)
{
    const struct load_stats *stats = &run->stats;
    double seconds = (double)stats->elapsed_ns / 1e9;
    printf("{\"event\": \"result\", \"workload\": \"%s\", \"seconds\": %.3f, \"ops\": %" PRIu64
           ", \"ops_per_s\": %.1f, \"kvs\": %" PRIu64 ", \"bytes_in\": %" PRIu64
           ", \"bytes_out\": %" PRIu64,
           load_workload_name(run->options->workload), seconds, stats->ops,
           seconds > 0 ? (double)stats->ops / seconds : 0, stats->kvs, stats->bytes_in,
           stats->bytes_out);
    printf(", \"conflicts\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"first_error\": %d"
           ", \"wrong\": %" PRIu64 ", \"checksum\": \"%016" PRIx64 "\", \"latency_us\": ",
           stats->conflicts, stats->errors, stats->first_error, stats->wrong, stats->checksum);
    report_hist(&stats->latency, true);
    if (run->options->workload == LOAD_WORK_WATCH) {
        printf(", \"after_answer_us\": ");
        report_hist(after_answer, true);
    }
    printf("}\n");
}

int main(int argc, char **argv)
{
    struct load_options options;
    load_options_parse(&options, argc, argv);
    struct load_run *run = mem_alloc(sizeof(*run));
    struct load_hist *after_answer = mem_alloc(sizeof(*after_answer));
    load_run_init(run, &options);
    if (options.fill || options.workload == LOAD_WORK_FILL) {
        load_run_fill(run);
    }
    if (options.verify) {
        load_run_verify(run);
    }
    if (options.workload == LOAD_WORK_WATCH) {
        load_run_watch(run, after_answer);
    } else if (options.workload != LOAD_WORK_FILL) {
        load_run_calls(run);
    }
    if (options.workload != LOAD_WORK_FILL) {
        (options.json ? report_json : report_text)(run, after_answer);
    }
    bool failed = run->stats.errors > 0 || run->stats.wrong > 0;
    load_run_fini(run);
    mem_free(run);
    mem_free(after_answer);
    return failed ? 1 : 0;
}
