/*
 * Goal: counts of all threads add up, and the page is what Prometheus and etcd's tests read.
 * Method: count from several threads while the page is rendered, then look for exact lines.
 */
#include "support.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "core/mem.h"
#include "core/metrics.h"
#include "core/process.h"

enum { THREADS = 4, COUNTS = 10000 };

static char *page_text(void)
{
    struct buf page = {0};
    metrics_render(&page);
    buf_add_byte(&page, '\0');
    return (char *)page.data;
}

static void assert_page_has(const char *line)
{
    char *page = page_text();
    char *wanted = mem_printf("\n%s\n", line);
    if (strstr(page, wanted) == NULL) {
        fail_msg("no line: %s\n%s", line, page);
    }
    mem_free(wanted);
    mem_free(page);
}

static void *count_main(void *arg)
{
    uint32_t call = *(const uint32_t *)arg;
    for (uint32_t i = 0; i < COUNTS; i++) {
        metric_add(METRIC_etcd_mvcc_put_total, 1);
        metric_add(METRIC_etcd_debugging_mvcc_watcher_total, i % 2 == 0 ? 1 : -1);
        metrics_call_started(call);
        metrics_call_handled(call, 11);
    }
    return NULL;
}

static void threads_add_up(void **state)
{
    (void)state;
    uint32_t call = metrics_call_add("etcdserverpb.KV", "Range", "unary");
    assert_int_equal(metrics_call_add("etcdserverpb.KV", "Range", "unary"), call);
    assert_int_not_equal(metrics_call_add("etcdserverpb.KV", "Put", "unary"), call);
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, count_main, &call), 0);
    }
    mem_free(page_text()); /* While they count. */
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    assert_int_equal(metric_get(METRIC_etcd_mvcc_put_total), THREADS * COUNTS);
    assert_page_has("etcd_mvcc_put_total 40000");
    assert_page_has("etcd_debugging_mvcc_watcher_total 0");
    assert_page_has("grpc_server_started_total{grpc_method=\"Range\","
                    "grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 40000");
    assert_page_has("grpc_server_handled_total{grpc_code=\"OutOfRange\",grpc_method=\"Range\","
                    "grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 40000");
    assert_page_has("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\","
                    "grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 0");
}

static void a_gauge_shows_its_last_value(void **state)
{
    (void)state;
    metric_set(METRIC_etcd_debugging_mvcc_keys_total, 5);
    metric_set(METRIC_etcd_debugging_mvcc_keys_total, 1);
    assert_page_has("etcd_debugging_mvcc_keys_total 1");
    assert_page_has("# TYPE etcd_debugging_mvcc_keys_total gauge");
    assert_page_has("# TYPE etcd_mvcc_put_total counter");
    assert_page_has("etcd_server_version{server_version=\"3.7.3\"} 1");
    assert_page_has("etcd_cluster_version{cluster_version=\"3.7\"} 1");
}

static void a_histogram_cumulates(void **state)
{
    (void)state;
    const enum metric_histogram spread = HISTOGRAM_etcd_disk_wal_fsync_duration_seconds;
    metric_observe_ns(spread, 0);
    metric_observe_ns(spread, NS_PER_MS); /* A limit belongs to its bucket. */
    metric_observe_ns(spread, NS_PER_MS + 1);
    metric_observe_ns(spread, 100 * NS_PER_S);
    assert_page_has("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 2");
    assert_page_has("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 3");
    assert_page_has("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 3");
    assert_page_has("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 4");
    assert_page_has("etcd_disk_wal_fsync_duration_seconds_count 4");
    assert_page_has("etcd_disk_wal_fsync_duration_seconds_sum 100.002");
}

static void unknown_codes_count_as_unknown(void **state)
{
    (void)state;
    uint32_t call = metrics_call_add("etcdserverpb.Watch", "Watch", "bidi_stream");
    metrics_call_received(call);
    metrics_call_sent(call);
    metrics_call_handled(call, -1);
    metrics_call_handled(call, 17);
    assert_page_has("grpc_server_handled_total{grpc_code=\"Unknown\",grpc_method=\"Watch\","
                    "grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 2");
    assert_page_has("grpc_server_msg_sent_total{grpc_method=\"Watch\","
                    "grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 1");
}

static void the_process_is_measured(void **state)
{
    (void)state;
    struct process_usage usage;
    process_usage_get(&usage);
    assert_true(usage.resident_bytes > 100 * 1024);
    assert_true(usage.virtual_bytes >= usage.resident_bytes);
    assert_in_range(usage.fds_open, 3, usage.fds_max);
    assert_true(usage.cpu_s >= 0);
    double now_s = (double)time(NULL);
    assert_true(usage.start_time_s > now_s - 600 && usage.start_time_s < now_s + 2);
    uint64_t fds_before = usage.fds_open;
    int fd = dup(0);
    process_usage_get(&usage);
    assert_int_equal(usage.fds_open, fds_before + 1);
    (void)close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_add_up),          cmocka_unit_test(a_gauge_shows_its_last_value),
        cmocka_unit_test(a_histogram_cumulates),   cmocka_unit_test(unknown_codes_count_as_unknown),
        cmocka_unit_test(the_process_is_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
