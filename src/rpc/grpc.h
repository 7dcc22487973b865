/*
 * gRPC's small grammars, as grpc-go reads and writes them: timeouts, status messages, content
 * types, method names. Pure functions; any thread.
 */
#ifndef RPC_GRPC_H
#define RPC_GRPC_H

#include "core/buf.h"
#include "core/slice.h"

/*
 * Value of grpc-timeout: up to eight digits and one of H M S m u n. On success |timeout_ns| is the
 * duration, hours beyond 2^63 ns clamped to 2^63-1. On failure false, and grpc-go's words for it
 * are added to |why|.
 */
MUST_CHECK bool rpc_grpc_timeout(struct slice value, uint64_t *timeout_ns, struct buf *why);

/* grpc-message: printable ASCII but '%' as it is, all else %XX; bytes that are not UTF-8 become
 * U+FFFD first, as in Go. At most LIMIT_STATUS_MESSAGE bytes of |message| are used. */
void rpc_grpc_encode_message(struct slice message, struct buf *encoded);

/* "application/grpc", alone or followed by '+' or ';' and anything. */
bool rpc_grpc_content_type_is_valid(struct slice value);

/* Adds |text| as Go's %q prints it. */
void rpc_grpc_quote(struct slice text, struct buf *quoted);

/*
 * Value of a "-bin" header: base64, padded when its size is a multiple of four, else not. The
 * bytes are added to |bytes|. On failure false, and |bad_at| is the offset that Go would name.
 */
MUST_CHECK bool rpc_grpc_base64(struct slice value, struct buf *bytes, size_t *bad_at);

/* "/service/method" at its last slash. False when malformed. */
MUST_CHECK bool rpc_grpc_split_path(struct slice path, struct slice *service, struct slice *method);

#endif
