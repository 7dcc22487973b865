/*
 * Requests of the wire into the store's words. Slices of the result borrow what the message
 * borrows; transactions are built in |arena|. Pure, any thread.
 */
#ifndef API_REQUEST_H
#define API_REQUEST_H

#include "proto/rpc.pb-c.h"

#include "store/store.h"

static inline struct slice api_slice(ProtobufCBinaryData bytes)
{
    return slice_of(bytes.data, bytes.len);
}

void api_range_from(const Etcdserverpb__RangeRequest *request, struct store_range *range);
void api_put_from(const Etcdserverpb__PutRequest *request, struct store_put *put);
void api_delete_from(const Etcdserverpb__DeleteRangeRequest *request, struct store_delete *del);
/*
 * |max_ops|: as in store_txn_check, which must come next. A transaction with more operations than
 * it has left is given its counts alone, without lists: the check refuses it by these, unless it
 * finds something else before. So what |arena| takes is bounded by what may be executed.
 * False when |arena| is full. Iterative.
 */
MUST_CHECK bool api_txn_from(const Etcdserverpb__TxnRequest *request, uint64_t max_ops,
                             struct arena *arena, struct store_txn *txn);
/* What RangeStream refuses beyond Range: ERR_RANGE_STREAM_SORT, ERR_RANGE_STREAM_FILTER. */
MUST_CHECK enum err api_range_stream_check(const struct store_range *range);

#endif
