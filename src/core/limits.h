/* Every ceiling of drover in one place; relations between them are static asserts. */
#ifndef CORE_LIMITS_H
#define CORE_LIMITS_H

#include <assert.h>

enum {
    LIMIT_REQUEST_SIZE_MAX = 1536 * 1024,   /* Bytes; etcd's --max-request-bytes default. */
    LIMIT_REQUEST_OVERHEAD = 512 * 1024,    /* Bytes; gRPC receives request max + this. */
    LIMIT_TXN_OPS_MAX = 128,                /* Ops in one Txn; etcd's --max-txn-ops default. */
    LIMIT_PROTO_DEPTH = 10000,              /* Message levels; Go's protobuf limit. */
    LIMIT_BATCH_ROWS = 1024,                /* A batch closes here, but holds whole etcd writes. */
    LIMIT_BATCH_BYTES = 8 * 1024 * 1024,    /* Likewise, keys and values. */
    LIMIT_WRITES_QUEUED_MAX = 65536,        /* Beyond it: too many requests. */
    LIMIT_WRITE_BYTES_QUEUED_MAX = 256 * 1024 * 1024,
    LIMIT_READS_WAITING_MAX = 1024 * 1024,  /* Linearizable reads that wait for an index. */
    LIMIT_TAIL_ENTRIES = 1024,              /* Entries in one tail answer ... */
    LIMIT_TAIL_BYTES = 16 * 1024 * 1024,    /* ... and bytes; always one whole entry. */
    LIMIT_REQUEST_TIMEOUT_MS = 7000,        /* A write without a deadline of its own. */
    LIMIT_HTTP_HEADER_SIZE = 64 * 1024,
    LIMIT_IO_THREADS = 64,
    LIMIT_WATCHERS_PER_STREAM = 1024 * 1024,
    LIMIT_WATCH_FRAGMENT_SIZE = 2 * 1024 * 1024, /* Bytes; etcd's request max + 512 KiB. */
    LIMIT_SNAPSHOT_RING = 16,               /* Recent roots that paged reads hit exactly. */
    LIMIT_LEASE_TTL_MIN_S = 2,
    LIMIT_DELETE_SLICE_ROWS = 1000,         /* Dead rows deleted in one statement. */
    LIMIT_LOG_LINE_SIZE = 4096,             /* Bytes of one log line, newline included. */
    LIMIT_ENTRY_KEEP_MS = 10 * 60 * 1000,   /* Entries stay at least this long. */
};
#define LIMIT_LEASE_TTL_MAX_S INT64_C(9000000000)

static_assert(LIMIT_TXN_OPS_MAX <= LIMIT_BATCH_ROWS, "a default Txn of puts fits one statement");
static_assert(LIMIT_REQUEST_SIZE_MAX <= LIMIT_BATCH_BYTES, "one request always fits a batch");
static_assert(LIMIT_BATCH_BYTES <= LIMIT_TAIL_BYTES, "a batch of small requests fits one tail");

#endif
