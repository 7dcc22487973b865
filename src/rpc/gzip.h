/*
 * gRPC's message encoding "gzip", as grpc-go reads and writes it: any number of gzip members make
 * one message. Pure functions; any thread.
 */
#ifndef RPC_GZIP_H
#define RPC_GZIP_H

#include "core/buf.h"
#include "rpc/rpc.h"

/*
 * Adds the plain bytes of |packed| to |plain|, which grows with what has been read, not with what
 * a client claims, and to at most |size_max| + 1 bytes. Returns RPC_OK, or, with grpc-go's words in
 * |why| (the offset of corrupt data apart, which the two decoders may count differently):
 * RPC_RESOURCE_EXHAUSTED  more than |size_max| bytes
 * RPC_INTERNAL            not gzip, cut off, corrupt, or with a wrong checksum
 */
MUST_CHECK enum rpc_status rpc_gzip_inflate(struct slice packed, uint32_t size_max,
                                            struct buf *plain, struct buf *why);

/* Adds |parts|, together one message, to |packed| as one member. */
void rpc_gzip_deflate(const struct rpc_part *parts, size_t part_count, struct buf *packed);

#endif
