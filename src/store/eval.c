/*
 * One request evaluated against the batch's private state, into rows and effects.
 *
 * Order within a request: everything that can fail is looked at first, then the state is changed.
 * So an error leaves neither a row nor a change behind, as in etcd.
 *
 * All rows of a request carry one revision, the state's + 1, and count their sub from 0. A request
 * that changes no key uses no revision.
 */
#include "store/internal.h"

static struct eval_write write_begin(const struct store_eval *eval)
{
    ASSERT(store_eval_is_sound(eval));
    const struct cache_info *info = cache_edit_info(eval->edit);
    ASSERT(info->revision > 0 && info->revision < INT64_MAX);
    return (struct eval_write){.revision = info->revision + 1};
}

static int64_t eval_revision(const struct store_eval *eval)
{
    ASSERT(store_eval_is_sound(eval));
    return cache_edit_info(eval->edit)->revision;
}

/* ---- rows ----------------------------------------------------------------------------------- */

/* The arena of rows has no ceiling of its own: admission has bounded what comes in. */
static struct slice eval_keep(struct store_eval *eval, struct slice bytes)
{
    ASSERT(store_eval_is_sound(eval));
    struct slice kept;
    bool copied = arena_copy(&eval->bytes, bytes, &kept);
    ASSERT(copied);
    return kept;
}

/* Append |row|, whose slices are borrowed, to the state and to the entry. */
static void eval_row(struct store_eval *eval, struct eval_write *write,
                     const struct cache_version *prev, struct cache_row *row)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT(write->revision > 1 && write->sub >= 0);
    ASSERT(row->key.size > 0);
    ASSERT(write->sub < INT32_MAX);
    struct sql_row *made = store_vec_add(&eval->rows, sizeof(*made));
    row->key = eval_keep(eval, row->key);
    row->value = eval_keep(eval, row->value);
    row->revision = write->revision;
    row->sub = write->sub++;
    *made = (struct sql_row){
        .revision = row->revision,
        .sub = row->sub,
        .is_delete = row->is_delete,
        .key = row->key,
        .value = row->value,
        .create_rev = row->create_rev,
        .version = row->version,
        .lease = row->lease,
        .prev_rev = prev == NULL ? 0 : cache_version_mod_rev(prev),
        .prev_sub = prev == NULL ? 0 : cache_version_sub(prev),
    };
    made->sum = sql_row_sum(made);
    eval->byte_count += row->key.size + row->value.size;
    (void)cache_edit_apply(eval->edit, row);
    ASSERT(eval_revision(eval) == write->revision);
}

static void eval_effect(struct store_eval *eval, const struct sql_effect *effect)
{
    ASSERT(store_eval_is_sound(eval));
    struct sql_effect *made = store_vec_add(&eval->effects, sizeof(*made));
    *made = *effect;
    ASSERT(made->kind >= SQL_LEASE_PUT && made->kind <= SQL_COMPACT);
}

static const struct cache_version *eval_live(const struct cache_snapshot *view, struct slice key)
{
    const struct cache_version *version = NULL;
    enum err err = cache_get(view, key, 0, &version);
    ASSERT(err == ERR_OK); /* The newest revision is never compacted. */
    return version;
}

/* ---- keys ----------------------------------------------------------------------------------- */

enum err store_eval_put_check(const struct cache_snapshot *view, const struct store_put *put)
{
    struct cache_lease lease;
    if (put->lease != 0 && !cache_lease_get(view, put->lease, &lease)) {
        return ERR_LEASE_NOT_FOUND;
    }
    if ((put->ignore_value || put->ignore_lease) && eval_live(view, put->key) == NULL) {
        return ERR_KEY_NOT_FOUND;
    }
    return ERR_OK;
}

void store_eval_put(struct store_eval *eval, struct eval_write *write, const struct store_put *put,
                    const struct cache_version **prev)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT(write->revision > 1 && write->sub >= 0);
    ASSERT(put != NULL);
    const struct cache_version *live = eval_live(cache_edit_view(eval->edit), put->key);
    /* Checked on the state in front of a Txn; the Txn itself may have deleted the key since. */
    struct cache_row row = {
        .key = put->key,
        .value = put->ignore_value && live != NULL ? cache_version_value(live) : put->value,
        .lease = put->ignore_lease && live != NULL ? cache_version_lease(live) : put->lease,
        .create_rev = live == NULL ? write->revision : cache_version_create_rev(live),
        .version = live == NULL ? 1 : cache_version_version(live) + 1,
    };
    eval_row(eval, write, live, &row);
    *prev = live;
}

/* Tombstones for |count| live versions. */
static void eval_tombs(struct store_eval *eval, struct eval_write *write,
                       const struct cache_version *const *versions, uint64_t count)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT(write->revision > 1 && write->sub >= 0);
    for (uint64_t i = 0; i < count; i++) {
        struct cache_row row = {.key = cache_version_key(versions[i]), .is_delete = true};
        eval_row(eval, write, versions[i], &row);
    }
}

enum err store_eval_delete(struct store_eval *eval, struct eval_write *write,
                           const struct store_delete *del, struct arena *arena,
                           struct store_delete_answer *answer)
{
    *answer = (struct store_delete_answer){0};
    struct cache_range keys = cache_range_of(del->key, del->range_end);
    const struct cache_snapshot *view = cache_edit_view(eval->edit);
    uint64_t count = 0;
    TRY(cache_count(view, &keys, 0, &count));
    if (count > INT32_MAX / 2) {
        return ERR_REQUEST_TOO_LARGE; /* Beyond what the subs of one revision can number. */
    }
    const struct cache_version **versions =
        arena_alloc(del->prev_kv ? arena : &eval->scratch, count * sizeof(const void *));
    if (versions == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    struct cache_walk walk;
    TRY(cache_walk_begin(&walk, view, &keys, 0));
    for (uint64_t i = 0; i < count; i++) {
        versions[i] = cache_walk_next(&walk);
        ASSERT(versions[i] != NULL);
    }
    eval_tombs(eval, write, versions, count);
    answer->deleted = count;
    answer->prevs = del->prev_kv ? versions : NULL;
    return ERR_OK;
}

static enum err eval_put_request(struct store_eval *eval, struct store_request *request)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    const struct store_put *put = &request->u.put;
    TRY(store_eval_put_check(cache_edit_view(eval->edit), put));
    struct eval_write write = write_begin(eval);
    const struct cache_version *prev = NULL;
    store_eval_put(eval, &write, put, &prev);
    request->answer.put.prev = put->prev_kv ? prev : NULL;
    return ERR_OK;
}

static enum err eval_delete_request(struct store_eval *eval, struct store_request *request)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    struct eval_write write = write_begin(eval);
    return store_eval_delete(eval, &write, &request->u.del, request->arena, &request->answer.del);
}

/* ---- leases --------------------------------------------------------------------------------- */

static enum err eval_grant(struct store_eval *eval, struct store_request *request)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    const struct cache_snapshot *view = cache_edit_view(eval->edit);
    struct cache_lease known;
    int64_t id = request->u.lease.id;
    int64_t ttl_s = request->u.lease.ttl_s;
    if (ttl_s > LIMIT_LEASE_TTL_MAX_S) {
        return ERR_LEASE_TTL_TOO_LARGE;
    }
    if (id != 0 && cache_lease_get(view, id, &known)) {
        return ERR_LEASE_EXIST;
    }
    while (id == 0 || (request->u.lease.id == 0 && cache_lease_get(view, id, &known))) {
        id = (int64_t)(rng_next(eval->rng) & INT64_MAX);
    }
    ttl_s = ttl_s < LIMIT_LEASE_TTL_MIN_S ? LIMIT_LEASE_TTL_MIN_S : ttl_s;
    cache_edit_grant(eval->edit, id, ttl_s, eval->seq);
    eval_effect(eval, &(struct sql_effect){
                          .kind = SQL_LEASE_PUT, .id = id, .ttl_s = ttl_s, .counter = eval->seq});
    request->answer.lease.id = id;
    request->answer.lease.ttl_s = ttl_s;
    return ERR_OK;
}

/* Delete the keys of |lease|, in their order, in one revision; then the lease. */
static enum err eval_end_lease(struct store_eval *eval, const struct cache_lease *lease,
                               const struct sql_effect *effect)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT(lease->id == effect->id);
    if (lease->key_count > INT32_MAX / 2) {
        return ERR_REQUEST_TOO_LARGE;
    }
    const struct cache_snapshot *view = cache_edit_view(eval->edit);
    const struct cache_version **versions =
        arena_alloc(&eval->scratch, lease->key_count * sizeof(const void *));
    if (versions == NULL) {
        return ERR_REQUEST_TOO_LARGE;
    }
    uint64_t count = 0;
    struct slice key = SLICE_EMPTY;
    while (cache_lease_key_next(view, lease->id, count == 0, key, &key)) {
        ASSERT(count < lease->key_count);
        versions[count] = eval_live(view, key);
        ASSERT(versions[count] != NULL); /* Only live keys are attached. */
        count++;
    }
    struct eval_write write = write_begin(eval);
    eval_tombs(eval, &write, versions, count);
    cache_edit_revoke(eval->edit, lease->id);
    eval_effect(eval, effect);
    return ERR_OK;
}

static enum err eval_revoke(struct store_eval *eval, struct store_request *request)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    struct cache_lease lease;
    if (!cache_lease_get(cache_edit_view(eval->edit), request->u.lease.id, &lease)) {
        return ERR_LEASE_NOT_FOUND;
    }
    const struct sql_effect effect = {.kind = SQL_LEASE_DELETE, .id = lease.id};
    return eval_end_lease(eval, &lease, &effect);
}

/* Ours alone: a lease granted anew under the same id is another lease. */
static enum err eval_expire(struct store_eval *eval, struct store_request *request)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    const struct lease_due *due = &store_expiry_of(request)->due;
    struct cache_lease lease;
    if (!cache_lease_get(cache_edit_view(eval->edit), due->id, &lease) ||
        lease.grant_seq != due->grant_seq) {
        return ERR_LEASE_NOT_FOUND;
    }
    const struct sql_effect effect = {
        .kind = SQL_LEASE_EXPIRE, .id = lease.id, .counter = due->counter};
    return eval_end_lease(eval, &lease, &effect);
}

/* ---- compaction ----------------------------------------------------------------------------- */

static enum err eval_compact(struct store_eval *eval, struct store_request *request)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    const struct cache_info *info = cache_edit_info(eval->edit);
    int64_t revision = request->u.compact.revision;
    if (revision <= info->compact_rev) {
        return ERR_COMPACTED;
    }
    if (revision > info->revision) {
        return ERR_FUTURE_REV;
    }
    cache_edit_set_compact_rev(eval->edit, revision);
    eval_effect(eval, &(struct sql_effect){.kind = SQL_COMPACT, .id = revision});
    return ERR_OK;
}

/* ---- all kinds ------------------------------------------------------------------------------ */

bool store_eval_must_wait(const struct store_eval *eval, struct store_request *request)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    int kind = (int)request->kind;
    if (kind != STORE_LEASE_GRANT && kind != STORE_LEASE_REVOKE && kind != STORE_LEASE_EXPIRE) {
        return false;
    }
    int64_t id = kind == STORE_LEASE_EXPIRE
                     ? CONTAINER_OF(request, struct store_expiry, request)->due.id
                     : request->u.lease.id;
    const struct sql_effect *effects = eval->effects.items;
    for (uint32_t i = 0; id != 0 && i < eval->effects.count; i++) {
        if (effects[i].kind != SQL_COMPACT && effects[i].id == id) {
            return true;
        }
    }
    return false;
}

static enum err eval_kind(struct store_eval *eval, struct store_request *request)
{
    ASSERT(store_eval_is_sound(eval));
    ASSERT((int)request->kind <= STORE_LEASE_EXPIRE);
    if ((int)request->kind == STORE_LEASE_EXPIRE) {
        return eval_expire(eval, request);
    }
    switch (request->kind) {
    case STORE_PUT:
        return eval_put_request(eval, request);
    case STORE_DELETE:
        return eval_delete_request(eval, request);
    case STORE_TXN:
        return store_eval_txn(eval, &request->u.txn, request->arena, &request->answer.txn,
                              &request->revision);
    case STORE_LEASE_GRANT:
        return eval_grant(eval, request);
    case STORE_LEASE_REVOKE:
        return eval_revoke(eval, request);
    case STORE_COMPACT:
        return eval_compact(eval, request);
    case STORE_READ_INDEX:
    case STORE_LEASE_KEEPALIVE:
    case STORE_LEASE_TTL:
    case STORE_LEASE_LIST:
        break;
    }
    ASSERT(false); /* Admission lets only ordered kinds come here. */
    return ERR_INTERNAL;
}

enum err store_eval_request(struct store_eval *eval, struct store_request *request)
{
    ASSERT(eval->edit != NULL);
    uint32_t row_count = eval->rows.count;
    uint32_t effect_count = eval->effects.count;
    memset(&request->answer, 0, sizeof(request->answer));
    enum err err = eval_kind(eval, request);
    request->revision = eval_revision(eval);
    ASSERT(IMPLIES(err != ERR_OK, eval->rows.count == row_count));
    ASSERT(IMPLIES(err != ERR_OK, eval->effects.count == effect_count));
    arena_reset(&eval->scratch);
    return err;
}
