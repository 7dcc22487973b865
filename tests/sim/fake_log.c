/*
 * Statements on their way to the fake database and back.
 *
 * An op owns a copy of everything that its statement says, because a late copy may run when the
 * asker's memory is long gone. It lives until its answer was given and its last event has run.
 */
#include "fake_log.h"

#include "core/mem.h"
#include "fake_db.h"

enum {
    TRAVEL_MIN_NS = 20 * 1000,
    DEAD_MIN_MS = 1,
    DEAD_MAX_MS = 60, /* Until a reset connection is noticed ... */
    SILENT_MS = 1200, /* ... and a silent one. */
    LOCK_MS = 1000,   /* idle_in_transaction_session_timeout. */
    HELD_AGAIN_MS = 5,
    LOAD_CHUNK = 64,
    SCRIPT_MAX = 16,
};

enum op_kind {
    OP_APPEND,
    OP_LOCK,
    OP_PROBE,
    OP_TAIL,
    OP_VERDICT,
    OP_KEEPALIVE,
    OP_UPKEEP,
    OP_PURGE,
    OP_LOAD,
    OP_KIND_COUNT,
};

enum op_answer { ANSWER_RUN, ANSWER_DEAD, ANSWER_FAILED };

struct fake_op {
    enum op_kind kind;
    struct fake_log *log;
    void *request;        /* The asker's; NULL once it was answered. */
    struct fake_op *next; /* In the log's list, or in the queue for the lock. */
    struct fake_op *lock_next;
    struct arena arena;
    uint32_t events; /* Scheduled. */
    uint32_t runs;   /* How often it ran. */
    uint32_t heard;  /* Which of its runs is heard; 0: none. */
    bool waits;      /* For the lock. */
    bool dies;       /* Ran, but is answered as dead. */
    enum fake_script script;
    union {
        struct sql_append append;
        struct sql_lock lock;
        struct sql_probe probe;
        struct sql_tail tail;
        struct sql_verdict verdict;
        struct sql_keepalive keepalive;
        struct sql_upkeep upkeep;
        struct sql_purge purge;
        struct fake_dump dump;
    } u;
};

struct fake_log {
    struct sql_log base;
    struct fake_db *db;
    struct fake_log *next;
    struct fake_op *ops; /* Not answered, or with events. */
    struct fake_faults faults;
    void (*deliver)(void *arg);
    void *arg;
    bool is_open;
    bool reachable;
    bool held;
    enum fake_script script[SCRIPT_MAX];
    uint32_t script_count;
    uint32_t script_at;
    void (*closed)(void *arg);
    void *closed_arg;
};

struct hint {
    struct fake_log *log;
    uint64_t seq;
};

static struct fake_log *log_of(struct sql_log *base)
{
    return CONTAINER_OF(base, struct fake_log, base);
}

/* ---- ops ------------------------------------------------------------------------------------ */

static void op_event(struct fake_op *op, uint64_t after_ns, sched_fn *run)
{
    op->events++;
    sched_add(op->log->db->sched, after_ns, run, op);
}

static void op_release(struct fake_op *op)
{
    if (op->request != NULL || op->events > 0 || op->waits) {
        return;
    }
    struct fake_op **link = &op->log->ops;
    while (*link != op) {
        link = &(*link)->next;
    }
    *link = op->next;
    arena_fini(&op->arena);
    mem_free(op);
}

static struct fake_op *op_new(struct fake_log *log, enum op_kind kind, void *request)
{
    ASSERT(log->is_open);
    for (const struct fake_op *op = log->ops; op != NULL; op = op->next) {
        ASSERT(op->kind != kind || op->request == NULL); /* One of each kind in flight. */
    }
    struct fake_op *op = mem_alloc(sizeof(*op));
    op->kind = kind;
    op->log = log;
    op->request = request;
    op->heard = 1;
    op->next = log->ops;
    log->ops = op;
    arena_init(&op->arena, ARENA_NO_CEILING);
    return op;
}

/* ---- answers -------------------------------------------------------------------------------- */

static void answer_append(struct fake_op *op, enum op_answer answer)
{
    struct sql_append *append = op->request;
    if (answer == ANSWER_RUN) {
        append->outcome = op->u.append.outcome;
        append->err = op->u.append.err;
    } else {
        append->outcome = answer == ANSWER_DEAD ? SQL_IN_DOUBT : SQL_REFUSED;
        append->err = op->script == FAKE_REFUSE_SPACE ? ERR_NO_SPACE : ERR_NO_LEADER;
    }
    append->done(append);
}

static void answer_load(struct fake_op *op, enum err err)
{
    struct sql_load *load = op->request;
    const struct fake_dump *dump = &op->u.dump;
    load->err = err;
    if (err == ERR_OK) {
        load->head = dump->head;
        load->cluster_id = dump->cluster_id;
        load->err = load->on_leases(load, dump->leases, dump->lease_count);
    }
    for (uint32_t i = 0; load->err == ERR_OK && i < dump->row_count; i += LOAD_CHUNK) {
        uint32_t left = dump->row_count - i;
        load->err = load->on_rows(load, &dump->rows[i], left < LOAD_CHUNK ? left : LOAD_CHUNK);
    }
    for (uint32_t i = 0; load->err == ERR_OK && i < dump->entry_count; i += LOAD_CHUNK) {
        uint32_t left = dump->entry_count - i;
        load->err =
            load->on_entries(load, &dump->entries[i], left < LOAD_CHUNK ? left : LOAD_CHUNK);
    }
    load->done(load);
}

/* What is found goes into the asker's arena, as the contract says. */
static void answer_tail(struct sql_tail *tail, const struct sql_tail *ran)
{
    tail->head = ran->head;
    tail->entry_count = ran->entry_count;
    tail->entries = arena_alloc(tail->arena, ran->entry_count * sizeof(*tail->entries));
    for (uint32_t i = 0; i < ran->entry_count; i++) {
        tail->entries[i] = ran->entries[i];
        size_t size = ran->entries[i].row_count * sizeof(struct sql_row);
        void *rows = arena_alloc(tail->arena, size);
        if (size > 0) {
            memcpy(rows, ran->entries[i].rows, size);
        }
        tail->entries[i].rows = rows;
    }
}

static void answer_upkeep(struct sql_upkeep *upkeep, const struct sql_upkeep *ran)
{
    upkeep->duty_owner = ran->duty_owner;
    upkeep->duty_term = ran->duty_term;
    upkeep->database_bytes = ran->database_bytes;
    upkeep->member_count = ran->member_count;
    upkeep->lease_count = ran->lease_count;
    size_t size = ran->member_count * sizeof(*ran->members);
    upkeep->members = arena_alloc(upkeep->arena, size);
    memcpy(upkeep->members, ran->members, size);
    size = ran->lease_count * sizeof(*ran->leases);
    upkeep->leases = arena_alloc(upkeep->arena, size);
    memcpy(upkeep->leases, ran->leases, size);
}

static void answer_read(struct fake_op *op, enum err err)
{
    struct sql_lock *lock = op->request;
    struct sql_probe *probe = op->request;
    struct sql_tail *tail = op->request;
    struct sql_verdict *verdict = op->request;
    switch ((int)op->kind) {
    case OP_LOCK:
        lock->err = err;
        if (err == ERR_OK) {
            answer_tail(&lock->tail, &op->u.lock.tail);
        }
        lock->done(lock);
        return;
    case OP_PROBE:
        probe->err = err;
        probe->head = op->u.probe.head;
        probe->done(probe);
        return;
    case OP_TAIL:
        tail->err = err;
        if (err == ERR_OK) {
            answer_tail(tail, &op->u.tail);
        }
        tail->done(tail);
        return;
    default:
        verdict->err = err;
        verdict->head = op->u.verdict.head;
        verdict->found = op->u.verdict.found;
        verdict->writer = op->u.verdict.writer;
        verdict->done(verdict);
        return;
    }
}

static void answer_rest(struct fake_op *op, enum err err, bool ran)
{
    struct sql_keepalive *keepalive = op->request;
    struct sql_upkeep *upkeep = op->request;
    struct sql_purge *purge = op->request;
    switch ((int)op->kind) {
    case OP_KEEPALIVE:
        keepalive->err = ran ? op->u.keepalive.err : err;
        memcpy(keepalive->items, op->u.keepalive.items,
               keepalive->count * sizeof(*keepalive->items));
        keepalive->done(keepalive);
        return;
    case OP_UPKEEP:
        upkeep->err = err;
        if (err == ERR_OK) {
            answer_upkeep(upkeep, &op->u.upkeep);
        }
        upkeep->done(upkeep);
        return;
    default:
        purge->err = ran ? op->u.purge.err : err;
        purge->rows_deleted = op->u.purge.rows_deleted;
        purge->done(purge);
        return;
    }
}

static void op_answer(struct fake_op *op, enum op_answer answer)
{
    if (op->request == NULL) {
        return;
    }
    struct fake_log *log = op->log;
    enum err err = answer == ANSWER_RUN ? ERR_OK : ERR_NO_LEADER;
    switch (op->kind) {
    case OP_APPEND:
        answer_append(op, answer);
        break;
    case OP_LOAD:
        answer_load(op, err == ERR_OK ? log->db->load_err : err);
        break;
    case OP_LOCK:
    case OP_PROBE:
    case OP_TAIL:
    case OP_VERDICT:
        answer_read(op, err == ERR_OK ? log->db->read_err : err);
        break;
    case OP_KEEPALIVE:
    case OP_UPKEEP:
    case OP_PURGE:
        answer_rest(op, err, answer == ANSWER_RUN);
        break;
    case OP_KIND_COUNT:
        break;
    }
    op->request = NULL;
    log->deliver(log->arg);
}

/* An event that gives the answer; a process that stands still takes it later. */
static bool event_waits(struct fake_op *op, sched_fn *run)
{
    op->events--;
    if (op->log->held && op->log->is_open && op->request != NULL) {
        op_event(op, HELD_AGAIN_MS * NS_PER_MS, run);
        return true;
    }
    return false;
}

static void event_dead(void *arg)
{
    struct fake_op *op = arg;
    if (!event_waits(op, event_dead)) {
        op_answer(op, ANSWER_DEAD);
        op_release(op);
    }
}

static void event_failed(void *arg)
{
    struct fake_op *op = arg;
    if (!event_waits(op, event_failed)) {
        op_answer(op, ANSWER_FAILED);
        op_release(op);
    }
}

static void event_answer(void *arg)
{
    struct fake_op *op = arg;
    if (!op->log->reachable && op->log->is_open && op->request != NULL) {
        op->events--;
        op_event(op, SILENT_MS * NS_PER_MS, event_dead);
    } else if (!event_waits(op, event_answer)) {
        op_answer(op, ANSWER_RUN);
        op_release(op);
    }
}

/* ---- the lock ------------------------------------------------------------------------------- */

static void op_run(struct fake_op *op);
static void op_settle(struct fake_op *op);

static void lock_free(struct fake_db *db)
{
    db->locked_by = NULL;
    while (db->locked_by == NULL && db->lock_queue != NULL) {
        struct fake_op *op = db->lock_queue;
        db->lock_queue = op->lock_next;
        op->waits = false;
        op_run(op);
        op_settle(op);
    }
}

static void lock_drop(struct fake_log *log)
{
    if (log->db->locked_by == log) {
        lock_free(log->db);
    }
}

static void event_lock_expired(void *arg)
{
    struct fake_db *db = arg;
    if (db->locked_by != NULL && db->sched->now_ns >= db->locked_until_ns) {
        lock_free(db);
    }
}

static void lock_take(struct fake_log *log)
{
    struct fake_db *db = log->db;
    db->locked_by = log;
    db->locked_until_ns = db->sched->now_ns + LOCK_MS * NS_PER_MS;
    sched_add(db->sched, LOCK_MS * NS_PER_MS, event_lock_expired, db);
}

/* True when |op| has to wait for the holder. */
static bool lock_wait(struct fake_op *op)
{
    struct fake_db *db = op->log->db;
    if (db->locked_by == NULL) {
        return false;
    }
    if (op->waits) {
        return true; /* Its second copy: one in the queue is enough. */
    }
    struct fake_op **link = &db->lock_queue;
    while (*link != NULL) {
        link = &(*link)->lock_next;
    }
    *link = op;
    op->lock_next = NULL;
    op->waits = true;
    return true;
}

/* ---- running -------------------------------------------------------------------------------- */

static void event_hint(void *arg)
{
    struct hint *hint = arg;
    if (hint->log->is_open && hint->log->reachable && hint->log->base.events.hint != NULL) {
        hint->log->base.events.hint(hint->log->base.events.arg, hint->seq);
        hint->log->deliver(hint->log->arg);
    }
    mem_free(hint);
}

static void hint_all(struct fake_db *db)
{
    for (struct fake_log *log = db->logs; log != NULL; log = log->next) {
        if (log->is_open && !sched_chance(db->sched, log->faults.lose_hint)) {
            struct hint *hint = mem_alloc(sizeof(*hint));
            *hint = (struct hint){log, db->entry_count};
            uint64_t late_ns = log->faults.travel_ns + TRAVEL_MIN_NS;
            sched_add(db->sched, sched_between(db->sched, TRAVEL_MIN_NS, late_ns), event_hint,
                      hint);
        }
    }
}

static void run_append(struct fake_op *op)
{
    struct fake_db *db = op->log->db;
    struct sql_append *append = &op->u.append;
    if (append->locked && db->locked_by != op->log) {
        append->outcome = SQL_REFUSED; /* Its transaction was ended: idle for too long. */
        append->err = ERR_DATABASE;
        return;
    }
    if (db->append_err == ERR_OK) {
        append->outcome = fake_db_append(db, append);
    } else {
        append->outcome = SQL_REFUSED;
        append->err = db->append_err;
    }
    if (append->locked) {
        lock_drop(op->log);
    }
    if (append->outcome == SQL_COMMITTED) {
        hint_all(db);
    }
}

static void run_purge(struct fake_db *db, struct sql_purge *purge)
{
    int64_t revs = purge->to_rev - purge->from_rev;
    bool fails = db->purge_err != ERR_OK || (db->purge_revs_max > 0 && revs > db->purge_revs_max);
    if (fails) {
        purge->err = db->purge_err != ERR_OK ? db->purge_err : ERR_DATABASE;
    } else {
        purge->err = fake_db_purge_statement(db, purge);
    }
}

/* The statement runs; false: it waits for the lock. */
static bool run_kind(struct fake_op *op)
{
    struct fake_db *db = op->log->db;
    switch (op->kind) {
    case OP_APPEND:
        if (!op->u.append.locked && lock_wait(op)) {
            return false;
        }
        run_append(op);
        break;
    case OP_LOCK:
        if (lock_wait(op)) {
            return false;
        }
        lock_take(op->log);
        fake_db_tail(db, &op->u.lock.tail, &op->arena);
        break;
    case OP_PROBE:
        fake_db_head(db, &op->u.probe.head);
        break;
    case OP_TAIL:
        fake_db_tail(db, &op->u.tail, &op->arena);
        break;
    case OP_VERDICT:
        if (lock_wait(op)) {
            return false;
        }
        fake_db_verdict(db, &op->u.verdict);
        break;
    case OP_KEEPALIVE:
        op->u.keepalive.err = fake_db_keepalive(db, &op->u.keepalive.fence, op->u.keepalive.items,
                                                op->u.keepalive.count);
        break;
    case OP_UPKEEP:
        fake_db_upkeep(db, &op->u.upkeep, &op->arena);
        break;
    case OP_PURGE:
        run_purge(db, &op->u.purge);
        break;
    case OP_LOAD:
        op->u.dump = (struct fake_dump){0};
        fake_db_dump(db, &op->u.dump, &op->arena);
        break;
    case OP_KIND_COUNT:
        break;
    }
    return true;
}

static uint64_t travel_ns(struct fake_log *log)
{
    struct sched *sched = log->db->sched;
    if (sched_chance(sched, log->faults.stall)) {
        return sched_between(sched, TRAVEL_MIN_NS, TRAVEL_MIN_NS + log->faults.stall_ns);
    }
    return sched_between(sched, TRAVEL_MIN_NS, TRAVEL_MIN_NS + log->faults.travel_ns);
}

static void op_run(struct fake_op *op)
{
    if (!run_kind(op)) {
        return;
    }
    op->runs++;
    if (op->request == NULL || op->runs != op->heard) {
        return; /* Nobody listens to this one. */
    }
    if (op->dies) {
        op_event(op, sched_between(op->log->db->sched, DEAD_MIN_MS, DEAD_MAX_MS) * NS_PER_MS,
                 event_dead);
    } else {
        op_event(op, travel_ns(op->log), event_answer);
    }
}

/* An op without an answer on its way is answered by its time-out. */
static void op_settle(struct fake_op *op)
{
    if (op->request != NULL && op->events == 0 && !op->waits) {
        op_event(op, SILENT_MS * NS_PER_MS, event_dead);
    }
    op_release(op);
}

static void event_run(void *arg)
{
    struct fake_op *op = arg;
    op->events--;
    bool lost = !op->log->reachable || (op->request == NULL && op->kind != OP_APPEND &&
                                        op->kind != OP_KEEPALIVE && op->kind != OP_PURGE);
    if (!lost) {
        op_run(op);
    }
    op_settle(op);
}

/* ---- sending -------------------------------------------------------------------------------- */

static bool may_come_late(const struct fake_op *op)
{
    return (op->kind == OP_APPEND && !op->u.append.locked) || op->kind == OP_KEEPALIVE ||
           op->kind == OP_PURGE;
}

static uint64_t dead_ns(struct fake_log *log)
{
    return sched_between(log->db->sched, DEAD_MIN_MS, DEAD_MAX_MS) * NS_PER_MS;
}

static void send_late(struct fake_op *op, uint64_t late_ns)
{
    uint64_t dead = dead_ns(op->log);
    op->heard = 0;
    op_event(op, dead, event_dead);
    op_event(op, dead + sched_between(op->log->db->sched, 0, late_ns), event_run);
}

static void send_twice(struct fake_op *op, uint32_t heard)
{
    uint64_t first = travel_ns(op->log);
    op->heard = heard;
    op_event(op, first, event_run);
    op_event(op, first + travel_ns(op->log), event_run);
}

static bool send_scripted(struct fake_op *op)
{
    struct fake_log *log = op->log;
    op->script = FAKE_AS_USUAL;
    if (op->kind == OP_APPEND && log->script_at < log->script_count) {
        op->script = log->script[log->script_at++];
    }
    if (op->script == FAKE_TWICE_SECOND && op->u.append.locked) {
        op->script = FAKE_AS_USUAL; /* A transaction ends once, with its connection. */
    }
    switch (op->script) {
    case FAKE_AS_USUAL:
        return false;
    case FAKE_COMMIT_LOST:
        op->dies = true;
        op_event(op, travel_ns(log), event_run);
        break;
    case FAKE_NEVER:
        op_event(op, dead_ns(log), event_dead);
        break;
    case FAKE_LATE:
        op->heard = 0;
        op_event(op, TRAVEL_MIN_NS, event_dead);
        op_event(op, TRAVEL_MIN_NS + log->faults.late_ns, event_run);
        break;
    case FAKE_TWICE_SECOND:
        send_twice(op, 2);
        break;
    case FAKE_REFUSE:
    case FAKE_REFUSE_SPACE:
        if (op->u.append.locked) {
            lock_drop(log);
        }
        op_event(op, travel_ns(log), event_failed);
        break;
    }
    return true;
}

static void op_send(struct fake_op *op)
{
    struct fake_log *log = op->log;
    struct sched *sched = log->db->sched;
    const struct fake_faults *faults = &log->faults;
    if (send_scripted(op)) {
        return;
    }
    if (!log->reachable) {
        op_event(op, SILENT_MS * NS_PER_MS, event_dead);
    } else if (sched_chance(sched, faults->fail)) {
        if (op->kind == OP_APPEND && op->u.append.locked) {
            lock_drop(log);
        }
        op_event(op, travel_ns(log), event_failed);
    } else if (sched_chance(sched, faults->lose_request)) {
        op_event(op, dead_ns(log), event_dead);
    } else if (may_come_late(op) && sched_chance(sched, faults->late)) {
        send_late(op, faults->late_ns);
    } else if (may_come_late(op) && sched_chance(sched, faults->twice)) {
        send_twice(op, 1 + (uint32_t)sched_between(sched, 0, 1));
    } else {
        op->dies = sched_chance(sched, faults->lose_answer);
        op_event(op, travel_ns(log), event_run);
    }
}

static void *op_copy(struct fake_op *op, const void *data, size_t size)
{
    void *copy = arena_alloc(&op->arena, size);
    ASSERT(copy != NULL);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    return copy;
}

static struct slice op_copy_slice(struct fake_op *op, struct slice slice)
{
    return slice_of(op_copy(op, slice.data, slice.size), slice.size);
}

static void log_append(struct sql_log *base, struct sql_append *append)
{
    log_of(base)->db->append_count++;
    struct fake_op *op = op_new(log_of(base), OP_APPEND, append);
    struct sql_entry *entry = op_copy(op, append->entry, sizeof(*entry));
    struct sql_row *rows = op_copy(op, entry->rows, entry->row_count * sizeof(*rows));
    for (uint32_t i = 0; i < entry->row_count; i++) {
        rows[i].key = op_copy_slice(op, rows[i].key);
        rows[i].value = op_copy_slice(op, rows[i].value);
    }
    entry->rows = rows;
    entry->effects = op_copy(op, entry->effects, entry->effect_count * sizeof(*entry->effects));
    op->u.append = *append;
    op->u.append.entry = entry;
    op_send(op);
}

static void log_lock(struct sql_log *base, struct sql_lock *lock)
{
    log_of(base)->db->lock_count++;
    struct fake_op *op = op_new(log_of(base), OP_LOCK, lock);
    op->u.lock = *lock;
    op_send(op);
}

static void log_unlock(struct sql_log *base)
{
    lock_drop(log_of(base));
}

static void log_probe(struct sql_log *base, struct sql_probe *probe)
{
    log_of(base)->db->probe_count++;
    op_send(op_new(log_of(base), OP_PROBE, probe));
}

static void log_tail(struct sql_log *base, struct sql_tail *tail)
{
    log_of(base)->db->tail_count++;
    struct fake_op *op = op_new(log_of(base), OP_TAIL, tail);
    op->u.tail = *tail;
    if (sched_chance(op->log->db->sched, op->log->faults.stall)) {
        op->u.tail.entries_max = 1; /* As much as a byte budget lets through. */
    }
    op_send(op);
}

static void log_verdict(struct sql_log *base, struct sql_verdict *verdict)
{
    struct fake_op *op = op_new(log_of(base), OP_VERDICT, verdict);
    op->u.verdict = *verdict;
    op_send(op);
}

static void log_keepalive(struct sql_log *base, struct sql_keepalive *keepalive)
{
    struct fake_op *op = op_new(log_of(base), OP_KEEPALIVE, keepalive);
    op->u.keepalive = *keepalive;
    op->u.keepalive.items =
        op_copy(op, keepalive->items, keepalive->count * sizeof(*keepalive->items));
    op_send(op);
}

static void log_upkeep(struct sql_log *base, struct sql_upkeep *upkeep)
{
    log_of(base)->db->upkeep_count++;
    struct fake_op *op = op_new(log_of(base), OP_UPKEEP, upkeep);
    op->u.upkeep = *upkeep;
    op_send(op);
}

static void log_purge(struct sql_log *base, struct sql_purge *purge)
{
    log_of(base)->db->purge_count++;
    struct fake_op *op = op_new(log_of(base), OP_PURGE, purge);
    op->u.purge = *purge;
    op_send(op);
}

static void log_load(struct sql_log *base, struct sql_load *load)
{
    log_of(base)->db->load_count++;
    op_send(op_new(log_of(base), OP_LOAD, load));
}

/* ---- life ----------------------------------------------------------------------------------- */

static void event_opened(void *arg)
{
    struct fake_log *log = arg;
    if (log->is_open) {
        log->base.events.opened(log->base.events.arg, ERR_OK, "");
        log->deliver(log->arg);
    }
}

static void log_open(struct sql_log *base)
{
    struct fake_log *log = log_of(base);
    ASSERT(!log->is_open);
    log->is_open = true;
    sched_add(log->db->sched, TRAVEL_MIN_NS, event_opened, log);
}

static void event_closed(void *arg)
{
    struct fake_log *log = arg;
    log->closed(log->closed_arg);
    log->deliver(log->arg);
}

static void log_close(struct sql_log *base, void (*closed)(void *arg), void *arg)
{
    struct fake_log *log = log_of(base);
    ASSERT(log->is_open);
    log->closed = closed;
    log->closed_arg = arg;
    for (bool found = true; found;) {
        found = false;
        for (struct fake_op *op = log->ops; op != NULL; op = op->next) {
            if (op->request != NULL) {
                op->events++; /* Stays while it is answered. */
                op_answer(op, ANSWER_DEAD);
                op->events--;
                op_release(op);
                found = true;
                break;
            }
        }
    }
    log->is_open = false;
    lock_drop(log);
    sched_add(log->db->sched, TRAVEL_MIN_NS, event_closed, log);
}

/* Late statements and hints still point here: the memory goes with the database. */
static void log_free(struct sql_log *base)
{
    ASSERT(!log_of(base)->is_open);
}

static const struct sql_log_ops fake_log_ops = {
    .name = "fake",
    .open = log_open,
    .append = log_append,
    .lock = log_lock,
    .unlock = log_unlock,
    .probe = log_probe,
    .tail = log_tail,
    .verdict = log_verdict,
    .keepalive = log_keepalive,
    .upkeep = log_upkeep,
    .purge = log_purge,
    .load = log_load,
    .close = log_close,
    .free = log_free,
};

struct fake_log *fake_log_new(struct fake_db *db, void (*deliver)(void *arg), void *arg)
{
    struct fake_log *log = mem_alloc(sizeof(*log));
    log->base.ops = &fake_log_ops;
    log->db = db;
    log->deliver = deliver;
    log->arg = arg;
    log->reachable = true;
    log->next = db->logs;
    db->logs = log;
    return log;
}

struct sql_log *fake_log_base(struct fake_log *log)
{
    return &log->base;
}

void fake_log_set_faults(struct fake_log *log, const struct fake_faults *faults)
{
    log->faults = *faults;
}

void fake_log_set_reachable(struct fake_log *log, bool reachable)
{
    log->reachable = reachable;
    if (!reachable) {
        lock_drop(log);
    }
}

void fake_log_hold(struct fake_log *log, bool hold)
{
    log->held = hold;
}

void fake_log_script(struct fake_log *log, const enum fake_script *steps, uint32_t count)
{
    ASSERT(count <= SCRIPT_MAX);
    memcpy(log->script, steps, count * sizeof(*steps));
    log->script_count = count;
    log->script_at = 0;
}

static void log_destroy(struct fake_log *log)
{
    while (log->ops != NULL) {
        struct fake_op *op = log->ops;
        log->ops = op->next;
        arena_fini(&op->arena);
        mem_free(op);
    }
    mem_free(log);
}

void fake_db_forget_newest(struct fake_db *db)
{
    ASSERT(db->entry_count > 0);
    struct fake_entry *entry = &db->entries[--db->entry_count];
    for (uint32_t i = 0; i < entry->entry.row_count; i++) {
        mem_free((void *)(uintptr_t)entry->rows[i].row.key.data);
        mem_free((void *)(uintptr_t)entry->rows[i].row.value.data);
    }
    mem_free(entry->rows);
    mem_free((void *)(uintptr_t)entry->entry.effects);
}

/* The events of its logs must not run any more. */
void fake_db_fini(struct fake_db *db)
{
    while (db->logs != NULL) {
        struct fake_log *log = db->logs;
        db->logs = log->next;
        log_destroy(log);
    }
    while (db->entry_count > 0) {
        fake_db_forget_newest(db);
    }
    mem_free(db->entries);
    mem_free(db->leases);
    *db = (struct fake_db){0};
}
