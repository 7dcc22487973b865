/* The SQLite engine: its thread, its jobs, its table of functions. See sqlite.h. */
#include "sql/sqlite.h"

#include "core/mem.h"
#include "sql/schema.h"

/* As the server's own time-out does it elsewhere. */
#define SQLITE_LOCK_NS NS_PER_S

static struct sqlite_log *sqlite_of(struct sql_log *log)
{
    return CONTAINER_OF(log, struct sqlite_log, log);
}

/* Home: the job has come back. */
static void job_at_home(struct loop_post *post)
{
    struct sqlite_job *job = CONTAINER_OF(post, struct sqlite_job, home);
    void *request = job->request;
    ASSERT(job->busy);
    job->busy = false;
    job->request = NULL;
    sql_request_done(job->kind, request); /* Last: it may start the next one, or close. */
}

static void job_return(struct sqlite_job *job)
{
    loop_post(job->log->home, &job->home);
}

static void job_run(struct sqlite_job *job)
{
    struct sqlite_log *log = job->log;
    if (log->db == NULL) {
        sql_request_fail(job->kind, job->request, ERR_DATABASE);
    } else if (job->kind == SQL_KIND_LOAD) {
        sqlite_load_begin(log); /* Returns by sqlite_load_ended. */
        return;
    } else {
        sqlite_runs[job->kind](log, job->request);
    }
    job_return(job);
}

static void job_there(struct loop_post *post)
{
    struct sqlite_job *job = CONTAINER_OF(post, struct sqlite_job, there);
    struct sqlite_log *log = job->log;
    if (log->load.state != LOAD_IDLE) {
        job->next = NULL;
        *log->deferred_tail = job;
        log->deferred_tail = &job->next;
        return;
    }
    job_run(job);
}

static void sqlite_close_there(struct sqlite_log *log)
{
    sqlite_close(log);
    loop_stop(&log->own);
    loop_post(log->home, &log->close_home);
}

void sqlite_load_ended(struct sqlite_log *log)
{
    ASSERT(log->load.state == LOAD_IDLE);
    job_return(&log->jobs[SQL_KIND_LOAD]);
    struct sqlite_job *job = log->deferred;
    log->deferred = NULL;
    log->deferred_tail = &log->deferred;
    while (job != NULL) {
        struct sqlite_job *next = job->next;
        job_run(job); /* No load among them: one is in flight at most, and it has just ended. */
        job = next;
    }
    if (log->close_deferred) {
        sqlite_close_there(log);
    }
}

static void job_start(struct sql_log *base, enum sql_kind kind, void *request)
{
    struct sqlite_log *log = sqlite_of(base);
    ASSERT_ON_LOOP(log->home);
    struct sqlite_job *job = &log->jobs[kind];
    ASSERT(!job->busy);
    job->busy = true;
    job->request = request;
    if (!log->opened || log->closing) {
        sql_request_fail(kind, request, log->closing ? ERR_STOPPED : ERR_NO_LEADER);
        job_return(job);
        return;
    }
    loop_post(&log->own, &job->there);
}

static void sqlite_append(struct sql_log *base, struct sql_append *append)
{
    struct sqlite_log *log = sqlite_of(base);
    ASSERT(append->entry->seq == append->expected_seq + 1);
    bool is_lapsed = !log->locked || clock_now_ns(log->home->timers.clock) > log->locked_until_ns;
    if (append->locked && is_lapsed) {
        struct sqlite_job *job = &log->jobs[SQL_KIND_APPEND];
        ASSERT(!job->busy);
        job->busy = true;
        job->request = append;
        log->locked = false;
        append->outcome = SQL_LOST;
        append->err = ERR_OK;
        job_return(job);
        return;
    }
    log->locked = false;
    job_start(base, SQL_KIND_APPEND, append);
}

/* Nobody else can write, and one append is in flight at most: the lock is a memory of it. */
static void sqlite_lock(struct sql_log *base, struct sql_lock *lock)
{
    struct sqlite_log *log = sqlite_of(base);
    ASSERT(!log->jobs[SQL_KIND_APPEND].busy);
    log->locked = true;
    log->locked_until_ns = clock_now_ns(log->home->timers.clock) + SQLITE_LOCK_NS;
    job_start(base, SQL_KIND_LOCK, lock);
}

static void sqlite_unlock(struct sql_log *base)
{
    ASSERT_ON_LOOP(sqlite_of(base)->home);
    sqlite_of(base)->locked = false;
}

static void sqlite_probe(struct sql_log *base, struct sql_probe *probe)
{
    job_start(base, SQL_KIND_PROBE, probe);
}

static void sqlite_tail(struct sql_log *base, struct sql_tail *tail)
{
    job_start(base, SQL_KIND_TAIL, tail);
}

static void sqlite_verdict(struct sql_log *base, struct sql_verdict *verdict)
{
    job_start(base, SQL_KIND_VERDICT, verdict);
}

static void sqlite_keepalive(struct sql_log *base, struct sql_keepalive *keepalive)
{
    job_start(base, SQL_KIND_KEEPALIVE, keepalive);
}

static void sqlite_upkeep(struct sql_log *base, struct sql_upkeep *upkeep)
{
    job_start(base, SQL_KIND_UPKEEP, upkeep);
}

static void sqlite_purge(struct sql_log *base, struct sql_purge *purge)
{
    job_start(base, SQL_KIND_PURGE, purge);
}

static void sqlite_load(struct sql_log *base, struct sql_load *load)
{
    job_start(base, SQL_KIND_LOAD, load);
}

/* ---- life ----------------------------------------------------------------------------------- */

static void sqlite_thread(void *arg)
{
    struct sqlite_log *log = arg;
    loop_run(&log->own);
}

static void sqlite_open_at_home(struct loop_post *post)
{
    struct sqlite_log *log = CONTAINER_OF(post, struct sqlite_log, open_home);
    log->opened = log->open_err == ERR_OK;
    log->log.events.opened(log->log.events.arg, log->open_err, log->why);
}

static void sqlite_open_there(struct loop_post *post)
{
    struct sqlite_log *log = CONTAINER_OF(post, struct sqlite_log, open_there);
    sqlite_open(log);
    loop_post(log->home, &log->open_home);
}

static void sqlite_start(struct sql_log *base)
{
    struct sqlite_log *log = sqlite_of(base);
    ASSERT_ON_LOOP(log->home);
    ASSERT(base->events.opened != NULL);
    loop_post(&log->own, &log->open_there);
}

static void sqlite_close_at_home(struct loop_post *post)
{
    struct sqlite_log *log = CONTAINER_OF(post, struct sqlite_log, close_home);
    ASSERT(uv_thread_join(&log->thread) == 0);
    loop_fini(&log->own);
    log->closed(log->closed_arg);
}

static void sqlite_close_post(struct loop_post *post)
{
    struct sqlite_log *log = CONTAINER_OF(post, struct sqlite_log, close_there);
    if (log->load.state != LOAD_IDLE) {
        sqlite_load_stop(log);
        log->close_deferred = true;
        return;
    }
    sqlite_close_there(log);
}

/* Posts keep their order in both directions: what is in flight completes before |closed|. */
static void sqlite_stop(struct sql_log *base, void (*closed)(void *arg), void *arg)
{
    struct sqlite_log *log = sqlite_of(base);
    ASSERT_ON_LOOP(log->home);
    ASSERT(!log->closing);
    log->closing = true;
    log->closed = closed;
    log->closed_arg = arg;
    loop_post(&log->own, &log->close_there);
}

static void sqlite_free(struct sql_log *base)
{
    struct sqlite_log *log = sqlite_of(base);
    ASSERT(log->closing);
    for (uint32_t i = 0; i < ARRAY_COUNT(log->files); i++) {
        mem_free(log->files[i].path);
    }
    mem_free(log->path);
    mem_free(log->prefix);
    mem_free(log);
}

static const struct sql_log_ops sqlite_ops = {
    .name = "sqlite",
    .open = sqlite_start,
    .append = sqlite_append,
    .lock = sqlite_lock,
    .unlock = sqlite_unlock,
    .probe = sqlite_probe,
    .tail = sqlite_tail,
    .verdict = sqlite_verdict,
    .keepalive = sqlite_keepalive,
    .upkeep = sqlite_upkeep,
    .purge = sqlite_purge,
    .load = sqlite_load,
    .close = sqlite_stop,
    .free = sqlite_free,
};

enum err sql_sqlite_new(const struct sql_config *config, struct sql_log **out, char *why,
                        size_t why_size)
{
    struct sql_url url;
    TRY(sql_url_parse(config->url, &url, why, why_size));
    ASSERT(url.engine == SQL_ENGINE_SQLITE);
    struct sqlite_log *log = mem_alloc(sizeof(*log));
    log->log.ops = &sqlite_ops;
    log->log.exclusive = true;
    log->home = config->loop;
    log->path = mem_strdup(url.path);
    log->prefix = mem_strdup(config->tables_prefix == NULL ? "" : config->tables_prefix);
    log->deferred_tail = &log->deferred;
    for (uint32_t kind = 0; kind < SQL_KIND_COUNT; kind++) {
        struct sqlite_job *job = &log->jobs[kind];
        job->log = log;
        job->kind = (enum sql_kind)kind;
        job->there.run = job_there;
        job->home.run = job_at_home;
    }
    log->open_there.run = sqlite_open_there;
    log->open_home.run = sqlite_open_at_home;
    log->close_there.run = sqlite_close_post;
    log->close_home.run = sqlite_close_at_home;
    loop_init(&log->own, config->loop->timers.clock);
    ASSERT(uv_thread_create(&log->thread, sqlite_thread, log) == 0);
    *out = &log->log;
    return ERR_OK;
}
