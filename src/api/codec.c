/*
 * Plain answers are written front to back. A transaction's answer is written back to front, because
 * each message stands behind its own length: no sizes are computed ahead, and nesting needs only a
 * stack of where each open message ends.
 */
#include "api/codec.h"

#include <limits.h>

/* Of one gRPC message, as in Go: what a client cannot be sent at all. */
enum { ANSWER_SIZE_MAX = INT_MAX };

/* ---- pieces -------------------------------------------------------------------------------- */

uint8_t *api_put_number(uint8_t *at, uint32_t field, uint64_t value)
{
    ASSERT(field > 0 && field < 16);
    if (value == 0) {
        return at;
    }
    *at++ = (uint8_t)(field << 3 | WIRE_VARINT);
    return wire_put_varint(at, value);
}

uint8_t *api_put_len(uint8_t *at, uint32_t field, size_t size)
{
    ASSERT(field > 0 && field < 16);
    *at++ = (uint8_t)(field << 3 | WIRE_LEN);
    return wire_put_varint(at, size);
}

uint8_t *api_put_header(uint8_t *at, uint32_t field, const struct api_header *header)
{
    /* The payload is at most 44 bytes: its length is one byte, known afterwards. */
    *at++ = (uint8_t)(field << 3 | WIRE_LEN);
    uint8_t *length = at++;
    at = api_put_number(at, 1, header->cluster_id);
    at = api_put_number(at, 2, header->member_id);
    at = api_put_number(at, 3, (uint64_t)header->revision);
    at = api_put_number(at, 4, header->raft_term);
    *length = (uint8_t)(at - length - 1);
    return at;
}

struct api_kv api_kv_of(const struct cache_version *version, struct api_kv_form form)
{
    if (!form.keys_only) {
        return (struct api_kv){.head = cache_version_encoded(version)};
    }
    struct slice tail = SLICE_EMPTY;
    if (!form.no_lease) {
        tail = cache_version_encoded_lease(version);
    }
    return (struct api_kv){cache_version_encoded_head(version), tail};
}

static size_t event_payload_size(const struct cache_version *version,
                                 const struct cache_version *prev)
{
    size_t kv = cache_version_encoded(version).size;
    size_t size = 1 + wire_varint_size(kv) + kv;
    if (cache_version_is_tombstone(version)) {
        size += 2;
    }
    if (prev != NULL) {
        size_t old = cache_version_encoded(prev).size;
        size += 1 + wire_varint_size(old) + old;
    }
    return size;
}

size_t api_event_size(const struct cache_version *version, const struct cache_version *prev)
{
    size_t payload = event_payload_size(version, prev);
    return 1 + wire_varint_size(payload) + payload;
}

uint8_t *api_put_event(uint8_t *at, const struct cache_version *version,
                       const struct cache_version *prev)
{
    struct slice kv = cache_version_encoded(version);
    at = api_put_len(at, 11, event_payload_size(version, prev));
    at = api_put_number(at, 1, cache_version_is_tombstone(version));
    at = api_put_len(at, 2, kv.size);
    at = wire_put_bytes(at, kv.data, kv.size);
    if (prev != NULL) {
        struct slice old = cache_version_encoded(prev);
        at = api_put_len(at, 3, old.size);
        at = wire_put_bytes(at, old.data, old.size);
    }
    return at;
}

uint8_t *api_put_watch_head(uint8_t *at, const struct api_watch_head *head)
{
    at = api_put_header(at, 1, &head->header);
    at = api_put_number(at, 2, (uint64_t)head->watch_id);
    at = api_put_number(at, 3, head->created);
    at = api_put_number(at, 4, head->canceled);
    at = api_put_number(at, 5, (uint64_t)head->compact_rev);
    if (head->cancel_reason != NULL) {
        size_t size = strlen(head->cancel_reason);
        ASSERT(size <= API_CANCEL_REASON_MAX);
        at = api_put_len(at, 6, size);
        at = wire_put_bytes(at, head->cancel_reason, size);
    }
    return api_put_number(at, 7, head->fragment);
}

/* ---- whole messages ------------------------------------------------------------------------ */

/* A KeyValue as field |field|. */
static enum err add_kv(struct api_out *out, uint32_t field, const struct cache_version *version,
                       struct api_kv_form form)
{
    struct api_kv kv = api_kv_of(version, form);
    size_t size = api_kv_size(kv);
    size_t need = 1 + WIRE_VARINT_SIZE_MAX + size;
    if (api_out_size(out) + need > ANSWER_SIZE_MAX) {
        return ERR_ANSWER_TOO_LARGE;
    }
    uint8_t *at = api_out_reserve(out, need);
    at = api_put_len(at, field, size);
    api_out_commit(out, api_put_kv(at, kv));
    return ERR_OK;
}

static void add_number(struct api_out *out, uint32_t field, uint64_t value)
{
    uint8_t *at = api_out_reserve(out, API_NUMBER_SIZE_MAX);
    api_out_commit(out, api_put_number(at, field, value));
}

void api_encode_header(struct api_out *out, const struct api_header *header)
{
    uint8_t *at = api_out_reserve(out, API_HEADER_SIZE_MAX);
    api_out_commit(out, api_put_header(at, 1, header));
}

enum err api_encode_put(struct api_out *out, const struct api_header *header,
                        const struct store_put_answer *answer)
{
    api_encode_header(out, header);
    if (answer->prev == NULL) {
        return ERR_OK;
    }
    return add_kv(out, 2, answer->prev, (struct api_kv_form){0});
}

enum err api_encode_delete(struct api_out *out, const struct api_header *header,
                           const struct store_delete_answer *answer)
{
    api_encode_header(out, header);
    add_number(out, 2, answer->deleted);
    for (uint64_t i = 0; answer->prevs != NULL && i < answer->deleted; i++) {
        TRY(add_kv(out, 3, answer->prevs[i], (struct api_kv_form){0}));
    }
    return ERR_OK;
}

enum err api_encode_range(struct api_out *out, const struct api_header *header,
                          const struct store_range_answer *answer)
{
    struct api_kv_form form = {answer->keys_only, answer->no_lease};
    api_encode_header(out, header);
    for (uint64_t i = 0; i < answer->kv_count; i++) {
        TRY(add_kv(out, 2, answer->kvs[i], form));
    }
    add_number(out, 3, answer->more);
    add_number(out, 4, answer->count);
    return ERR_OK;
}

/* ---- Range without an array ---------------------------------------------------------------- */

/* |range| names one key. */
static enum err range_point(const struct cache_snapshot *snapshot, const struct store_range *range,
                            struct api_out *out)
{
    const struct cache_version *version = NULL;
    TRY(cache_get(snapshot, range->key, range->revision, &version));
    if (version == NULL) {
        return ERR_OK;
    }
    if (!range->count_only) {
        TRY(add_kv(out, 2, version, (struct api_kv_form){range->keys_only, true}));
    }
    add_number(out, 4, 1);
    return ERR_OK;
}

static enum err range_walk(const struct cache_snapshot *snapshot, const struct store_range *range,
                           struct api_out *out)
{
    struct cache_range keys = cache_range_of(range->key, range->range_end);
    struct api_kv_form form = {range->keys_only, true};
    uint64_t limit = range->limit > 0 ? (uint64_t)range->limit : UINT64_MAX;
    uint64_t count = 0;
    struct cache_walk walk;
    TRY(cache_walk_begin(&walk, snapshot, &keys, range->revision));
    const struct cache_version *version = NULL;
    while ((version = cache_walk_next(&walk)) != NULL && count < limit) {
        TRY(add_kv(out, 2, version, form));
        count++;
    }
    if (version != NULL) {
        add_number(out, 3, 1);
        TRY(cache_count(snapshot, &keys, range->revision, &count));
    }
    add_number(out, 4, count);
    return ERR_OK;
}

static enum err range_count(const struct cache_snapshot *snapshot, const struct store_range *range,
                            struct api_out *out)
{
    struct cache_range keys = cache_range_of(range->key, range->range_end);
    uint64_t count = 0;
    TRY(cache_count(snapshot, &keys, range->revision, &count));
    add_number(out, 4, count);
    return ERR_OK;
}

enum err api_range_answer(const struct cache_snapshot *snapshot, struct api_header *header,
                          const struct store_range *range, struct arena *arena, struct api_out *out)
{
    header->revision = cache_snapshot_info(snapshot)->revision;
    if (!store_range_is_plain(range)) {
        struct store_range_answer answer;
        TRY(store_range_run(snapshot, range, arena, &answer));
        return api_encode_range(out, header, &answer);
    }
    api_encode_header(out, header);
    if (range->range_end.size == 0) {
        return range_point(snapshot, range, out);
    }
    return range->count_only ? range_count(snapshot, range, out) : range_walk(snapshot, range, out);
}
