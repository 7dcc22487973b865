/* Every ceiling of drover in one place; relations between them are static asserts. */
#ifndef CORE_LIMITS_H
#define CORE_LIMITS_H

#include <assert.h>

/* Not formatted, so that a new row does not move the others. */
/* clang-format off */
enum {
    LIMIT_REQUEST_SIZE_MAX = 1536 * 1024, /* Bytes; etcd's --max-request-bytes default. */
    LIMIT_REQUEST_SIZE_CEILING = 32 * 1024 * 1024, /* Bytes; what the former can be set to. */
    LIMIT_REQUEST_OVERHEAD = 512 * 1024,  /* Bytes; gRPC receives request max + this. */
    LIMIT_TXN_OPS_MAX = 128,              /* Ops in one Txn; etcd's --max-txn-ops default. */
    LIMIT_PROTO_DEPTH = 10000,            /* Message levels; Go's protobuf limit. */
    LIMIT_BATCH_ROWS = 1024,              /* A batch closes here, but holds whole etcd writes. */
    LIMIT_BATCH_BYTES = 8 * 1024 * 1024,  /* Likewise, keys and values ... */
    LIMIT_BATCH_EVAL_MS = 20,             /* ... and the time that its evaluation took. */
    LIMIT_WRITES_QUEUED_MAX = 65536,      /* Queued or in the batch: then too many requests; */
    LIMIT_WRITE_BYTES_QUEUED_MAX = 256 * 1024 * 1024, /* likewise these bytes of requests. */
    LIMIT_READS_WAITING_MAX = 1024 * 1024, /* Linearizable reads that wait for an index. */
    LIMIT_TAIL_ENTRIES = 1024,             /* Entries in one tail answer ... */
    LIMIT_TAIL_BYTES = 16 * 1024 * 1024,   /* ... and bytes; always one whole entry. */
    LIMIT_READ_PROOFS = 32,                /* Answered read indexes whose seq is not applied yet. */
    LIMIT_LOAD_ARENA = 1024 * 1024 * 1024, /* Bytes that a load holds beside the cache. */
    LIMIT_CHECK_ARENA = 256 * 1024 * 1024, /* Bytes for the check of one Txn. */
    LIMIT_MEMBERS = 256,                   /* Live replicas that are listed. */
    LIMIT_REQUEST_TIMEOUT_MS = 7000,       /* Of a write or a read index, at most. */
    LIMIT_HTTP_HEADER_SIZE = 64 * 1024,    /* Bytes of one request's header list, HTTP/1 and 2. */
    LIMIT_HTTP_HEADER_COUNT = 256,
    LIMIT_IO_THREADS = 64,
    LIMIT_IO_THREADS_AUTO = 16,              /* Of those that --io-threads 0 takes. */
    LIMIT_LISTENERS = 32,
    LIMIT_LISTEN_BACKLOG = 4096,             /* Connections that the kernel keeps for accept. */
    LIMIT_ACCEPTS_PER_TURN = 64,             /* Of one listener; then others come first. */
    LIMIT_CALLS_POOLED = 1024,               /* Ended calls kept for reuse, per thread. */
    LIMIT_CONNECTIONS = 65536,               /* All threads together; more are closed at once. */
    LIMIT_CALLS = 512 * 1024,                /* Likewise calls; more are refused. ~7 KB each. */
    LIMIT_IN_MAX = 1024 * 1024 * 1024,       /* Bytes of requests held, all connections. */
    LIMIT_CALL_ARENA_MAX = 64 * 1024 * 1024, /* Bytes that one call may decode and compose. */
    LIMIT_STREAM_OUT_HIGH = 1024 * 1024, /* Bytes waiting on one stream: rpc_send says stop ... */
    LIMIT_STREAM_OUT_LOW = 256 * 1024,   /* ... and on_writable says go on. */
    LIMIT_STALL_MS = 10 * 1000,    /* Who takes in so long ... */
    LIMIT_STALL_BYTES = 64 * 1024, /* ... less than this does not read. */
    LIMIT_RANGE_STREAM_OUTLIVE_MS = 10 * 60 * 1000, /* Beyond a compaction, also when it is read. */
    LIMIT_STREAM_WINDOW = 1024 * 1024,   /* HTTP/2 flow control, inbound. */
    LIMIT_CONN_WINDOW = 16 * 1024 * 1024,
    LIMIT_CONN_IN_MAX = 256 * 1024 * 1024, /* Held for one connection's calls, copies included. */
    LIMIT_CONN_OUT_MAX = 256 * 1024 * 1024, /* Answers waiting; beyond it streams are refused. */
    LIMIT_CONN_UNREAD = 4 * 1024 * 1024, /* Unary answers queued; then further reads wait. */
    LIMIT_CONN_WRITE = 256 * 1024,       /* Bytes of one vectored write ... */
    LIMIT_CONN_TURN_WRITE = 1024 * 1024, /* ... and of one turn, so that urgent data cuts in. */
    LIMIT_CONN_TURN_READ = 512 * 1024,   /* Bytes read in one turn; then others come first. */
    LIMIT_CONN_FRAMES = 4096,            /* Frames queued for a full socket; then none is read. */
    LIMIT_SETTINGS_PER_S = 100,          /* SETTINGS of one client. */
    LIMIT_HTTP_PIPELINED = 16,           /* HTTP/1 requests of one connection in one turn. */
    LIMIT_GZIP_ANSWER = 1536 * 1024,     /* Larger messages leave unpacked: that takes time. */
    LIMIT_CONN_URGENT_RUN = 256 * 1024,  /* Bytes that go first; then bulk gets one frame. */
    LIMIT_TURN_COMPOSE = 4 * 1024 * 1024, /* Bytes of read answers composed in one turn. */
    LIMIT_CONN_CALLS = 256 * 1024,          /* Likewise; ~7 KB each beside those. */
    LIMIT_STREAM_RESETS = 100 * 1000,    /* RST_STREAM at once and per second, per connection. */
    LIMIT_STATUS_MESSAGE = 8 * 1024,     /* Bytes of grpc-message before encoding. */
    LIMIT_HANDSHAKE_MS = 120 * 1000,     /* To the first whole request or preface. */
    LIMIT_HTTP_IDLE_MS = 300 * 1000,     /* HTTP/1 keep-alive, also the time of one request. */
    LIMIT_GOAWAY_MS = 500,               /* Wait so long for a client to see the first GOAWAY. */
    LIMIT_LINGER_MS = 200,               /* Read on after a refusal, so that it is not lost. */
    LIMIT_KEEPALIVES_PENDING = 4096,        /* Renewals of one stream; then its input waits. */
    LIMIT_WATCHERS_PER_STREAM = 1024 * 1024,
    LIMIT_WATCHERS = 4 * 1024 * 1024, /* All streams; io threads have equal shares. ~0.4 KB each. */
    LIMIT_WATCH_KEY_BYTES = 512 * 1024 * 1024, /* Likewise, of keys that are watched. */
    LIMIT_PROGRESS_OFFER = 16, /* Watchers of a stream, streams of a connection told by a read. */
    LIMIT_WATCH_FRAGMENT_SIZE = 2 * 1024 * 1024, /* Bytes; etcd's request max + 512 KiB. */
    LIMIT_WATCH_RUN_EVENTS = 4096,           /* New events matched until they are handed out, ... */
    LIMIT_WATCH_RUN_BYTES = 16 * 1024 * 1024, /* ... and bytes of them; whole revisions always. */
    LIMIT_WATCH_CATCHUP_EVENTS = 16384,      /* Old events read for catch-ups in one turn, ... */
    LIMIT_WATCH_CATCHUP_REVS = 1000,         /* ... revisions in one response, as in etcd, ... */
    LIMIT_WATCH_CATCHUP_BYTES = 1024 * 1024, /* ... and bytes of it; whole revisions always. */
    LIMIT_SNAPSHOT_RING = 16,                /* Recent roots that paged reads hit exactly. */
    LIMIT_LEASE_TTL_MIN_S = 2,
    LIMIT_DELETE_SLICE_REVS = 1000,       /* Revisions whose dead rows one purge looks for, ... */
    LIMIT_DELETE_SLICE_ROWS = 10000,      /* ... and how many rows it deletes. */
    LIMIT_RPC_METHODS = 96,               /* gRPC methods that are counted; etcd has 49. */
    LIMIT_LOG_LINE_SIZE = 4096,           /* Bytes of one log line, newline included. */
    LIMIT_ENTRY_KEEP_MS = 10 * 60 * 1000, /* Entries stay at least this long. */
    LIMIT_PURGE_ENTRIES = 100000,         /* Entries that one purge deletes. */
    LIMIT_BACKOFF_MIN_MS = 50,            /* Before what failed is tried again; doubles ... */
    LIMIT_BACKOFF_MAX_MS = 2000,          /* ... up to this. */
    LIMIT_DOUBT_BACKOFF_MIN_MS = 20,      /* Likewise before a batch in doubt is sent again, ... */
    LIMIT_DOUBT_BACKOFF_MAX_MS = 1000,
    LIMIT_HEALTH_FAILURES = 3,            /* Reads failed in a row: the breaker opens; ... */
    LIMIT_HEALTH_OVERDUE_MS = 1400,       /* ... likewise when none was answered for so long, ... */
    LIMIT_HEALTH_GRACE_MS = 100,          /* ... and so long behind another look at the sockets. */
    LIMIT_UPKEEP_MS = 500,                /* Between two heartbeats, and readings of leases. */
    LIMIT_LEASE_MARGIN_MS = 500,          /* Beyond the TTL: a keep-alive may be on its way. */
};
/* clang-format on */
#define LIMIT_OUT_MAX (INT64_C(2) * 1024 * 1024 * 1024)     /* Bytes of answers, all connections. */
#define LIMIT_QUOTA_BYTES (INT64_C(2) * 1024 * 1024 * 1024) /* etcd's default; told, never zero. */
#define LIMIT_LEASE_TTL_MAX_S INT64_C(9000000000)

static_assert(LIMIT_TXN_OPS_MAX <= LIMIT_BATCH_ROWS, "a default Txn of puts fits one statement");
static_assert(LIMIT_REQUEST_SIZE_MAX <= LIMIT_BATCH_BYTES, "one request always fits a batch");
static_assert(LIMIT_REQUEST_SIZE_MAX + LIMIT_REQUEST_OVERHEAD < LIMIT_CONN_IN_MAX,
              "the largest message always fits a connection");
static_assert(LIMIT_CONN_IN_MAX <= LIMIT_IN_MAX && LIMIT_CONN_CALLS <= LIMIT_CALLS,
              "one connection is within what all may hold");
static_assert(LIMIT_CONN_UNREAD <= LIMIT_CONN_OUT_MAX, "reads wait before streams are refused");
static_assert(LIMIT_STREAM_OUT_LOW < LIMIT_STREAM_OUT_HIGH, "a stopped sender is woken");
static_assert(LIMIT_STREAM_WINDOW <= LIMIT_CONN_WINDOW, "one stream cannot starve the others");
static_assert(LIMIT_BATCH_BYTES <= LIMIT_TAIL_BYTES, "a batch of small requests fits one tail");

#endif
