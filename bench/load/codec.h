/*
 * The few etcd messages that the load needs: requests written, answers walked, by hand.
 * Also what the keys and values of a load look like.
 *
 * Key n is the prefix and n in decimal, padded with zeros to the key size. A value starts with n
 * and a serial number (8 bytes each, little-endian) and goes on with bytes that don't compress, so
 * that every answer can be checked without remembering what was written.
 */
#ifndef LOAD_CODEC_H
#define LOAD_CODEC_H

#include "core/buf.h"
#include "options.h"

enum { LOAD_VALUE_HEAD = 16, LOAD_KEY_DIGITS = 8 };

/* Makes keys, values and requests. Owned by one thread. */
struct load_codec {
    const struct load_options *options;
    size_t prefix_size;
    uint8_t *noise;     /* Value bytes; values start at different places of it. */
    uint8_t *range_end; /* The prefix's end, |prefix_size| bytes. */
    uint8_t *key;       /* Scratch, key_size bytes. */
};

/* |options| is borrowed. */
void load_codec_init(struct load_codec *codec, const struct load_options *options);
void load_codec_fini(struct load_codec *codec);

/* Requests are appended to |out|. */
void load_put_range(struct load_codec *codec, struct buf *out, uint64_t key, bool serializable);
/* From |key| to the prefix's end; |limit| 0 for no limit. */
void load_put_list(struct load_codec *codec, struct buf *out, uint64_t key, uint64_t limit);
void load_put_put(struct load_codec *codec, struct buf *out, uint64_t key, uint64_t serial);
/* If mod_revision(key) == mod_rev Then Put Else Range. */
void load_put_cas(struct load_codec *codec, struct buf *out, uint64_t key, int64_t mod_rev,
                  uint64_t serial);
/* A Txn that puts keys [first, first + count). */
void load_put_fill(struct load_codec *codec, struct buf *out, uint64_t first, uint64_t count);
/* Watch keys [first, end); |end| may be the number of keys. |watch_id| > 0. */
void load_put_watch(struct load_codec *codec, struct buf *out, uint64_t first, uint64_t end,
                    uint64_t watch_id);

/* A key-value as it came. */
struct load_kv {
    uint64_t key; /* Its number. */
    uint64_t serial;
    int64_t mod_rev;
    bool is_ours; /* Key and value agree with each other and with the options. */
};

/* What the pieces of an answer add up to; zero it before the first piece. */
struct load_answer {
    int64_t revision; /* Header's; 0 without one. */
    uint64_t kvs;
    uint64_t first_key;
    uint64_t key_sum;   /* Of all numbers. */
    uint64_t kvs_wrong; /* Not ours, or not behind the one before. */
    uint64_t last_key;
    int64_t last_mod_rev;
    uint64_t count;
    bool more;
    bool succeeded; /* Txn. */
};
/* False when the message is broken. */
MUST_CHECK bool load_get_range(struct load_codec *codec, struct slice message,
                               struct load_answer *answer);
/* A RangeStreamResponse. */
MUST_CHECK bool load_get_range_chunk(struct load_codec *codec, struct slice message,
                                     struct load_answer *answer);
/* A PutResponse. */
MUST_CHECK bool load_get_put(struct slice message, struct load_answer *answer);
/* A TxnResponse; the key-values of an inner Range are added as by load_get_range. */
MUST_CHECK bool load_get_txn(struct load_codec *codec, struct slice message,
                             struct load_answer *answer);

struct load_watch_answer {
    int64_t revision;
    uint64_t watch_id;
    bool created;
    bool canceled;
};
typedef void load_event_fn(void *arg, const struct load_watch_answer *answer,
                           const struct load_kv *kv);
/* Calls |event| for each event, after the other fields have been read. */
MUST_CHECK bool load_get_watch(struct load_codec *codec, struct slice message,
                               struct load_watch_answer *answer, load_event_fn *event, void *arg);

#endif
