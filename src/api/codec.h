/*
 * Answers as wire bytes: composed from the encoded bytes that versions hold, in the order of field
 * numbers, zero fields left out, as Go's marshaller writes them. Any io thread; no allocation but
 * what api_out grows by.
 */
#ifndef API_CODEC_H
#define API_CODEC_H

#include "api/out.h"
#include "core/wire.h"
#include "store/store.h"

/* etcdserverpb.ResponseHeader. */
struct api_header {
    uint64_t cluster_id;
    uint64_t member_id;
    int64_t revision;
    uint64_t raft_term;
};

enum {
    API_HEADER_SIZE_MAX = 2 + 4 * (1 + WIRE_VARINT_SIZE_MAX), /* With tag and length. */
    API_NUMBER_SIZE_MAX = 1 + WIRE_VARINT_SIZE_MAX,           /* A field below 16. */
};

/* Field |field| (below 16): left out when zero. Behind the last byte. */
uint8_t *api_put_number(uint8_t *at, uint32_t field, uint64_t value);
/* A ResponseHeader as field |field|; at most API_HEADER_SIZE_MAX bytes. */
uint8_t *api_put_header(uint8_t *at, uint32_t field, const struct api_header *header);
/* Field |field| with a payload of |size| bytes: tag and length only. */
uint8_t *api_put_len(uint8_t *at, uint32_t field, size_t size);

/* What of a KeyValue is wanted. */
struct api_kv_form {
    bool keys_only;
    bool no_lease;
};
/* The bytes of a KeyValue in that form: one behind the other, borrowed from the version. */
struct api_kv {
    struct slice head;
    struct slice tail;
};
struct api_kv api_kv_of(const struct cache_version *version, struct api_kv_form form);
static inline size_t api_kv_size(struct api_kv kv)
{
    return kv.head.size + kv.tail.size;
}
/* Without tag; api_kv_size bytes. */
static inline uint8_t *api_put_kv(uint8_t *at, struct api_kv kv)
{
    at = wire_put_bytes(at, kv.head.data, kv.head.size);
    return wire_put_bytes(at, kv.tail.data, kv.tail.size);
}

/* mvccpb.Event, as field 11 of a WatchResponse, with tag. |prev| may be NULL. */
size_t api_event_size(const struct cache_version *version, const struct cache_version *prev);
uint8_t *api_put_event(uint8_t *at, const struct cache_version *version,
                       const struct cache_version *prev);

/* WatchResponse without its events. */
struct api_watch_head {
    struct api_header header;
    int64_t watch_id;
    bool created;
    bool canceled;
    bool fragment;
    int64_t compact_rev;
    const char *cancel_reason; /* NULL: none. At most API_CANCEL_REASON_MAX bytes. */
};
enum {
    API_CANCEL_REASON_MAX = 128,
    API_WATCH_HEAD_SIZE_MAX =
        API_HEADER_SIZE_MAX + 2 * API_NUMBER_SIZE_MAX + 3 * 2 + 3 + API_CANCEL_REASON_MAX,
};
uint8_t *api_put_watch_head(uint8_t *at, const struct api_watch_head *head);

/*
 * Whole messages, appended to |out| (api_out_begin was called).
 * ERR_ANSWER_TOO_LARGE: more than gRPC's largest message.
 */
MUST_CHECK enum err api_encode_put(struct api_out *out, const struct api_header *header,
                                   const struct store_put_answer *answer);
MUST_CHECK enum err api_encode_delete(struct api_out *out, const struct api_header *header,
                                      const struct store_delete_answer *answer);
MUST_CHECK enum err api_encode_range(struct api_out *out, const struct api_header *header,
                                     const struct store_range_answer *answer);
/* ERR_REQUEST_TOO_LARGE: |arena| (for the stack of open transactions) is full. */
MUST_CHECK enum err api_encode_txn(struct api_out *out, const struct api_header *header,
                                   const struct store_txn_answer *answer, struct arena *arena);
/* The same with another ceiling than gRPC's: for tests. */
MUST_CHECK enum err api_encode_txn_within(struct api_out *out, const struct api_header *header,
                                          const struct store_txn_answer *answer,
                                          struct arena *arena, size_t size_max);
/* A message that has only a header. */
void api_encode_header(struct api_out *out, const struct api_header *header);

/*
 * Range on |snapshot|, from decoded request to encoded answer. |header|->revision is filled in.
 * No lock and no atomic read-modify-write unless the answer outgrows the thread's block or needs
 * sorting. ERR_COMPACTED, ERR_FUTURE_REV, ERR_REQUEST_TOO_LARGE (|arena| full),
 * ERR_ANSWER_TOO_LARGE.
 */
MUST_CHECK enum err api_range_answer(const struct cache_snapshot *snapshot,
                                     struct api_header *header, const struct store_range *range,
                                     struct arena *arena, struct api_out *out);

#endif
