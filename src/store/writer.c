/*
 * Admission, the queue of writes, deadlines and answers.
 *
 *     submitted ─▶ QUEUED ─▶ BATCHED ─▶ ANSWERED        writes
 *         │          ▲          │           ▲
 *         │          └──────────┘           │            the batch lost: evaluated again
 *         └────────▶ WAITING ───────────────┘            reads, keep-alives, physical compaction
 *
 * A deadline answers `request timed out` from any place: words that never mean "not executed".
 */
#include "store/internal.h"

void store_list_add(struct request_list *list, struct store_request *request)
{
    ASSERT(request->list == NULL);
    ASSERT((list->count == 0) == (list->first == NULL));
    request->list = list;
    request->next = NULL;
    request->prev = list->last;
    if (list->last != NULL) {
        list->last->next = request;
    } else {
        list->first = request;
    }
    list->last = request;
    list->count++;
    list->size += request->size;
}

void store_list_remove(struct store_request *request)
{
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    struct request_list *list = request->list;
    ASSERT(list != NULL && list->count > 0);
    if (request->prev != NULL) {
        request->prev->next = request->next;
    } else {
        list->first = request->next;
    }
    if (request->next != NULL) {
        request->next->prev = request->prev;
    } else {
        list->last = request->prev;
    }
    list->count--;
    ASSERT(list->size >= request->size);
    list->size -= request->size;
    request->list = NULL;
    request->next = NULL;
    request->prev = NULL;
}

void store_list_prepend(struct request_list *list, struct request_list *members)
{
    ASSERT((list->count == 0) == (list->first == NULL));
    ASSERT((members->count == 0) == (members->first == NULL));
    while (members->last != NULL) {
        struct store_request *request = members->last;
        store_list_remove(request);
        request->list = list;
        request->next = list->first;
        if (list->first != NULL) {
            list->first->prev = request;
        } else {
            list->last = request;
        }
        list->first = request;
        list->count++;
        list->size += request->size;
    }
    ASSERT(members->count == 0);
}

/* ---- answers -------------------------------------------------------------------------------- */

void store_answer(struct store_request *request, enum err err)
{
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    ASSERT(request->state != REQUEST_ANSWERED);
    if (request->list != NULL) {
        store_list_remove(request);
    }
    timers_disarm(request->store->timers, &request->timer);
    request->err = err;
    request->state = REQUEST_ANSWERED;
    store_list_add(&request->store->answers, request);
}

void store_answer_all(struct request_list *list, enum err err)
{
    ASSERT((list->count == 0) == (list->first == NULL));
    while (list->first != NULL) {
        store_answer(list->first, err);
    }
    ASSERT(list->count == 0);
}

void store_answer_now(struct store_request *request)
{
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    ASSERT(request->store != NULL);
    request->revision = cache_snapshot_info(store_snapshot(request->store))->revision;
    store_answer(request, ERR_OK);
}

static void deliver(struct loop_post *post)
{
    struct store_request *request = CONTAINER_OF(post, struct store_request, post);
    ASSERT(request->state == REQUEST_ANSWERED && request->list == NULL);
    request->done(request); /* Last: the request may be gone after it. */
}

void store_answers_flush(struct store *store)
{
    ASSERT(store_is_sound(store));
    /* Only those of now: a |done| that asks again is answered in the next turn. */
    for (uint32_t left = store->answers.count; left > 0; left--) {
        struct store_request *request = store->answers.first;
        ASSERT(request != NULL && request->state == REQUEST_ANSWERED);
        store_list_remove(request);
        if (request->home != NULL) {
            request->post.run = deliver;
            loop_post(request->home, &request->post);
        } else {
            request->done(request);
        }
    }
}

static void deadline_passed(struct timer *timer)
{
    ASSERT(!timer_is_armed(timer));
    struct store_request *request = CONTAINER_OF(timer, struct store_request, timer);
    ASSERT(request->state != REQUEST_ANSWERED);
    store_answer(request, ERR_TIMEOUT);
}

/* ---- admission ------------------------------------------------------------------------------ */

/* ERR_OK, or why nobody may ask now. */
static enum err state_error(const struct store *store)
{
    ASSERT(store_is_sound(store));
    if (sm_is(&store->life, LIFE_STOPPING) || sm_is(&store->life, LIFE_CLOSING) ||
        sm_is(&store->life, LIFE_STOPPED)) {
        return ERR_STOPPED;
    }
    if (store->fatal) {
        return ERR_CORRUPT;
    }
    if (!sm_is(&store->life, LIFE_READY)) {
        return ERR_NO_LEADER;
    }
    return ERR_OK;
}

/* Whether one more write would be too many: those in the batch may all come back to the queue. */
static bool writes_are_full(const struct store *store, const struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT(request->list == NULL);
    const struct request_list *members = &store->batch.members;
    const struct request_list *physical = &store->upkeep.physical;
    uint64_t count = (uint64_t)store->queue.count + members->count + physical->count;
    size_t size = store->queue.size + members->size + physical->size;
    return count >= LIMIT_WRITES_QUEUED_MAX || size + request->size > LIMIT_WRITE_BYTES_QUEUED_MAX;
}

/* The same for keep-alives. */
static bool renewals_are_full(const struct store *store)
{
    ASSERT(store_is_sound(store));
    const struct store_leases *leases = &store->leases;
    return (uint64_t)leases->waiting.count + leases->sent.count >= LIMIT_WRITES_QUEUED_MAX;
}

static enum err admit(const struct store *store, const struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    TRY(state_error(store));
    if (request->kind == STORE_LEASE_LIST && store_health_error(store) != ERR_OK) {
        return ERR_OK; /* Answered at once, from memory. */
    }
    TRY(store_health_error(store));
    if (request->size > store->config.request_size_max) {
        return ERR_REQUEST_TOO_LARGE;
    }
    switch (request->kind) {
    case STORE_PUT:
    case STORE_DELETE:
    case STORE_TXN:
    case STORE_LEASE_GRANT:
    case STORE_LEASE_REVOKE:
    case STORE_COMPACT:
        return writes_are_full(store, request) ? ERR_TOO_MANY_REQUESTS : ERR_OK;
    case STORE_READ_INDEX:
    case STORE_LEASE_TTL:
    case STORE_LEASE_LIST:
        return store->reads.waiting.count >= LIMIT_READS_WAITING_MAX ? ERR_TOO_MANY_REQUESTS
                                                                     : ERR_OK;
    case STORE_LEASE_KEEPALIVE:
        break;
    }
    return renewals_are_full(store) ? ERR_TOO_MANY_REQUESTS : ERR_OK;
}

static void arm_deadline(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    uint64_t now_ns = store_now_ns(store);
    uint64_t limit_ns = (uint64_t)LIMIT_REQUEST_TIMEOUT_MS * NS_PER_MS;
    uint64_t left_ns = request->deadline_ns > now_ns ? request->deadline_ns - now_ns : 0;
    limit_ns = left_ns < limit_ns ? left_ns : limit_ns; /* A patient client is told, too. */
    timers_arm(store->timers, &request->timer, limit_ns, deadline_passed);
}

void store_rearm_own(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT(request->state == REQUEST_WAITING);
    timers_disarm(store->timers, &request->timer);
    if (request->deadline_ns != UINT64_MAX) {
        uint64_t now_ns = store_now_ns(store);
        uint64_t left_ns = request->deadline_ns > now_ns ? request->deadline_ns - now_ns : 0;
        timers_arm(store->timers, &request->timer, left_ns, deadline_passed);
    }
}

void store_enqueue(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    ASSERT(request->store == store);
    request->arrival = ++store->reads.arrivals;
    request->state = REQUEST_QUEUED;
    store_list_add(&store->queue, request);
}

void store_submit(struct store *store, struct store_request *request)
{
    ASSERT(store_is_sound(store));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    ASSERT(request->done != NULL);
    ASSERT((int)request->kind <= STORE_LEASE_LIST);
    request->store = store;
    request->list = NULL;
    request->timer = (struct timer){0};
    request->err = ERR_OK;
    request->revision = 0;
    request->state = REQUEST_QUEUED;
    enum err err = admit(store, request);
    if (err != ERR_OK) {
        store_answer(request, err);
        return;
    }
    arm_deadline(store, request);
    switch (request->kind) {
    case STORE_PUT:
    case STORE_DELETE:
    case STORE_TXN:
    case STORE_LEASE_GRANT:
    case STORE_LEASE_REVOKE:
    case STORE_COMPACT:
        store_enqueue(store, request);
        break;
    case STORE_READ_INDEX:
    case STORE_LEASE_TTL:
        store_reads_add(store, request);
        break;
    case STORE_LEASE_LIST:
        if (store_health_error(store) == ERR_OK) {
            store_reads_add(store, request);
        } else {
            store_leases_answer(store, request);
        }
        break;
    case STORE_LEASE_KEEPALIVE:
        store_leases_keepalive(store, request);
        break;
    }
}

static void posted(struct loop_post *post)
{
    struct store_request *request = CONTAINER_OF(post, struct store_request, post);
    store_submit(request->store, request);
}

void store_post(struct store *store, struct store_request *request)
{
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    ASSERT(store->config.loop != NULL);
    request->store = store;
    request->post.run = posted;
    loop_post(store->config.loop, &request->post);
}
