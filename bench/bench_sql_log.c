/*
 * The log itself: commits of one row and of many, probes, and a load of everything.
 *
 * On SQLite in a fresh folder of the current directory; on PostgreSQL too when DROVER_TEST_POSTGRES
 * names a server, whose database |drover_bench| is made anew.
 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "core/mem.h"
#include "sql/sql.h"

enum { BENCH_BATCH_MAX = 1024 };

struct bench {
    struct loop loop;
    struct sql_log *log;
    struct sql_head head;
    struct sql_row *rows;
    uint8_t *value;
    size_t value_size;
    struct sql_entry entry;
    struct sql_append append;
    struct sql_probe probe;
    struct sql_load load;
    const char *name;
    uint32_t batch;
    uint64_t left;
    uint64_t checksum;
    void (*next)(struct bench *bench); /* After the loop's current work. */
};

static void bench_stop(struct bench *bench)
{
    uv_stop(&bench->loop.uv);
}

static void bench_run(struct bench *bench)
{
    bench->next(bench);
    (void)uv_run(&bench->loop.uv, UV_RUN_DEFAULT);
}

static void bench_append_next(struct bench *bench);

static void bench_on_append(struct sql_append *append)
{
    struct bench *bench = CONTAINER_OF(append, struct bench, append);
    ASSERT(append->outcome == SQL_COMMITTED);
    bench->head.seq = bench->entry.seq;
    bench->head.chain = bench->entry.chain;
    bench->head.revision = bench->entry.last_rev;
    bench->checksum = bench_mix(bench->checksum, bench->entry.rows_hash.bytes[0]);
    bench->left--;
    if (bench->left == 0) {
        bench_stop(bench);
        return;
    }
    bench_append_next(bench);
}

static void bench_append_next(struct bench *bench)
{
    struct sql_entry *entry = &bench->entry;
    *entry = (struct sql_entry){.seq = bench->head.seq + 1,
                                .writer = {.counter = bench->head.seq + 1},
                                .epoch = 1,
                                .first_rev = bench->head.revision + 1,
                                .last_rev = bench->head.revision + bench->batch,
                                .row_count = bench->batch,
                                .rows = bench->rows};
    for (uint32_t i = 0; i < bench->batch; i++) {
        struct sql_row *row = &bench->rows[i];
        *row = (struct sql_row){.revision = entry->first_rev + i,
                                .key = SLICE_LIT("/registry/pods/default/some-pod-of-a-set"),
                                .value = slice_of(bench->value, bench->value_size),
                                .create_rev = entry->first_rev + i,
                                .version = 1};
        row->sum = sql_row_sum(row);
        entry->byte_count += row->key.size + row->value.size;
    }
    entry->rows_hash = sql_rows_hash(bench->rows, bench->batch);
    entry->chain = sql_entry_chain(&bench->head.chain, entry);
    bench->append = (struct sql_append){.fence = bench->head.fence,
                                        .expected_seq = bench->head.seq,
                                        .expected_chain = bench->head.chain,
                                        .entry = entry,
                                        .done = bench_on_append};
    bench->log->ops->append(bench->log, &bench->append);
}

static void bench_appends(struct bench *bench, uint32_t batch, uint64_t commits, const char *what)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "sql/%s/%s", bench->name, what);
    bench->batch = batch;
    bench->left = commits;
    bench->checksum = 0;
    bench->next = bench_append_next;
    uint64_t start_ns = bench_now_ns();
    bench_run(bench);
    bench_report(name, commits * batch, bench_now_ns() - start_ns, bench->checksum);
}

static void bench_probe_next(struct bench *bench);

static void bench_on_probe(struct sql_probe *probe)
{
    struct bench *bench = CONTAINER_OF(probe, struct bench, probe);
    ASSERT(probe->err == ERR_OK);
    bench->head = probe->head;
    bench->left--;
    if (bench->left == 0) {
        bench_stop(bench);
        return;
    }
    bench_probe_next(bench);
}

static void bench_probe_next(struct bench *bench)
{
    bench->probe = (struct sql_probe){.done = bench_on_probe};
    bench->log->ops->probe(bench->log, &bench->probe);
}

static void bench_probes(struct bench *bench, uint64_t count)
{
    char name[64];
    (void)snprintf(name, sizeof(name), "sql/%s/probe", bench->name);
    bench->left = count;
    bench->next = bench_probe_next;
    uint64_t start_ns = bench_now_ns();
    bench_run(bench);
    bench_report(name, count, bench_now_ns() - start_ns, bench->head.seq);
}

static enum err bench_on_leases(struct sql_load *load, const struct sql_lease *leases,
                                uint32_t count)
{
    (void)load;
    (void)leases;
    (void)count;
    return ERR_OK;
}

static enum err bench_on_rows(struct sql_load *load, const struct sql_row *rows, uint32_t count)
{
    struct bench *bench = CONTAINER_OF(load, struct bench, load);
    bench->left += count;
    bench->checksum = bench_mix(bench->checksum, (uint64_t)rows[count - 1].revision);
    return ERR_OK;
}

static enum err bench_on_entries(struct sql_load *load, const struct sql_entry *entries,
                                 uint32_t count)
{
    struct bench *bench = CONTAINER_OF(load, struct bench, load);
    bench->checksum = bench_mix(bench->checksum, entries[count - 1].seq);
    return ERR_OK;
}

static void bench_on_load(struct sql_load *load)
{
    ASSERT(load->err == ERR_OK);
    bench_stop(CONTAINER_OF(load, struct bench, load));
}

static void bench_load_next(struct bench *bench)
{
    bench->load = (struct sql_load){.on_leases = bench_on_leases,
                                    .on_rows = bench_on_rows,
                                    .on_entries = bench_on_entries,
                                    .done = bench_on_load};
    bench->log->ops->load(bench->log, &bench->load);
}

static void bench_on_opened(void *arg, enum err err, const char *why)
{
    if (err != ERR_OK) {
        (void)fprintf(stderr, "bench_sql_log: %s\n", why);
        exit(1);
    }
    bench_stop(arg);
}

static void bench_on_closed(void *arg)
{
    bench_stop(arg);
}

static void bench_engine(const char *name, const char *url)
{
    struct bench *bench = mem_alloc(sizeof(*bench));
    bench->name = name;
    bench->value_size = bench_param("value", 300, 512);
    bench->value = mem_alloc(bench->value_size + 1);
    bench->rows = mem_alloc(BENCH_BATCH_MAX * sizeof(*bench->rows));
    loop_init(&bench->loop, &clock_monotonic);
    struct sql_config config = {.url = url, .loop = &bench->loop};
    char why[256];
    if (sql_log_new(&config, &bench->log, why, sizeof(why)) != ERR_OK) {
        (void)fprintf(stderr, "bench_sql_log: %s\n", why);
        exit(1);
    }
    bench->log->events.opened = bench_on_opened;
    bench->log->events.arg = bench;
    bench->log->ops->open(bench->log);
    (void)uv_run(&bench->loop.uv, UV_RUN_DEFAULT);
    bench_probes(bench, 1); /* For the head. */
    bench_appends(bench, 1, bench_param("commits", 100, 5000), "append/1");
    bench_appends(bench, 64, bench_param("commits64", 10, 1000), "append/64");
    bench_appends(bench, 1000, bench_param("commits1000", 2, 200), "append/1000");
    bench_probes(bench, bench_param("probes", 200, 20000));
    bench->left = 0;
    bench->checksum = 0;
    bench->next = bench_load_next;
    uint64_t start_ns = bench_now_ns();
    bench_run(bench);
    char label[64];
    (void)snprintf(label, sizeof(label), "sql/%s/load", name);
    bench_report(label, bench->left, bench_now_ns() - start_ns, bench->checksum);
    bench->log->ops->close(bench->log, bench_on_closed, bench);
    (void)uv_run(&bench->loop.uv, UV_RUN_DEFAULT);
    bench->log->ops->free(bench->log);
    loop_fini(&bench->loop);
    mem_free(bench->rows);
    mem_free(bench->value);
    mem_free(bench);
}

static void bench_postgres(const char *server)
{
    char url[512];
    (void)snprintf(url, sizeof(url), "%spostgres", server);
    PGconn *pg = PQconnectdb(url);
    PQclear(PQexec(pg, "DROP DATABASE IF EXISTS drover_bench"));
    PQclear(PQexec(pg, "CREATE DATABASE drover_bench"));
    PQfinish(pg);
    (void)snprintf(url, sizeof(url), "%sdrover_bench", server);
    bench_engine("postgres", url);
}

int main(void)
{
    char folder[] = "bench-sql-XXXXXX";
    if (mkdtemp(folder) == NULL) {
        (void)fprintf(stderr, "bench_sql_log: cannot make a folder here\n");
        return 1;
    }
    char text[128];
    (void)snprintf(text, sizeof(text), "sqlite://%s/x.db", folder);
    bench_engine("sqlite", text);
    (void)snprintf(text, sizeof(text), "rm -rf '%s'", folder);
    int status = system(text);
    const char *server = getenv("DROVER_TEST_POSTGRES");
    if (server != NULL) {
        bench_postgres(server);
    }
    return status == 0 ? 0 : 1;
}
