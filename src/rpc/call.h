/*
 * Inside rpc only: a call, between its HTTP/2 stream and its handler.
 *
 *     HEADERS ──headers complete──▶ OPEN ──reply, fail, finish──▶ ENDING ──stream closed──▶ GONE
 *        └──refused──────────────────────────────────────────────▶┘
 *        every state ──reset, connection lost, deadline with half a message out──▶ GONE
 *
 * HEADERS  the header block is arriving; no handler knows of it
 * OPEN     the handler may answer; it has not yet ended the call
 * ENDING   the status is known: what is queued leaves, then the trailers; input is dropped
 * GONE     on_gone has run; only references keep the memory, and every answer is a no-op
 */
#ifndef RPC_CALL_H
#define RPC_CALL_H

#include "core/sm.h"
#include "rpc/conn.h"
#include "rpc/frame.h"
#include "rpc/methods.h"

enum rpc_call_state { CALL_HEADERS, CALL_OPEN, CALL_ENDING, CALL_GONE, CALL_STATE_COUNT };

/* A queued run of bytes: inside |owner|, or in |inner| when that is NULL. */
struct rpc_piece {
    struct rpc_piece *next;
    struct shared *owner;
    const uint8_t *data; /* What is left of it. */
    size_t size;
    uint8_t *inner;   /* Behind the piece, or the call's first_bytes. */
    uint32_t room;    /* Of |inner|. */
    uint32_t filled;  /* Of |inner|. */
    bool ends_urgent; /* The last piece of an urgent message. */
};

enum { CALL_FIRST_PIECE = 1024 };

struct rpc_call {
    struct rpc_io *io;
    struct rpc_conn *conn; /* NULL when gone. */
    const struct rpc_method *method;
    struct rpc_call *next, *previous;           /* Of io, or of its pool. */
    struct rpc_call *conn_next, *conn_previous; /* Of the connection. */
    struct rpc_call *awake_next;
    struct rpc_call *bulk_next, *bulk_previous; /* Of the connection, while |is_bulk|. */
    struct sm sm;
    uint32_t refs;
    int32_t stream_id;
    uint32_t counter; /* For metrics_call_*, when |method| is known. */
    /* Input. */
    bool half_closed;   /* The client has sent all. */
    bool end_delivered; /* ... and the handler knows, or need not. */
    bool has_message;   /* The first one was seen. */
    bool input_done;    /* Whatever else arrives is dropped. */
    bool is_paused;     /* By the handler. */
    bool is_known;      /* The handler has seen it, and will see on_gone. */
    bool end_told;      /* ... and on_end has run. */
    bool is_post;
    bool is_grpc;
    bool has_timeout;
    bool has_connection;    /* The header of that name. */
    bool headers_too_large; /* The first of the two wins. */
    bool is_malformed;
    bool regular_seen;   /* A header that is no pseudo-header. */
    bool is_gzip;        /* Messages may be compressed, answers will be. */
    uint8_t pseudo_seen; /* Bits of headers.c. */
    uint32_t host_count;
    /* Output. */
    bool headers_sent;
    bool is_deferred; /* The session waits for rpc_http2_resume. */
    bool is_blocked;  /* rpc_send said stop. */
    bool is_awaited;  /* On io->awake. */
    bool is_bulk;     /* Scheduled behind other streams. */
    bool trailers_sent;
    bool first_piece_used;
    int status;
    struct slice status_message; /* Percent-encoded, in the arena. */
    uint32_t http_status;
    struct rpc_frame frame;
    uint32_t frame_counted; /* Bytes of it within |held|. */
    struct slice message;   /* Unary and server stream: kept until gone. */
    uint8_t *kept;          /* Memory of |message| when it is not in the arena. */
    struct buf backlog;     /* Arrived while paused; not yet given back to flow control. */
    size_t held;            /* Bytes within conn_held: frame, kept, backlog, arena. */
    size_t arena_counted;   /* Of these the arena's. */
    struct rpc_held *conn_held;
    struct rpc_piece *out_first, *out_last;
    size_t out_size;
    uint64_t out_taken; /* Bytes given to the socket. */
    uint32_t urgent_left;
    uint64_t deadline_ns;
    uint64_t started_ns;
    struct timer deadline;
    struct slice path;
    struct slice content_type; /* The last one that is not gRPC's. */
    struct slice encoding;
    struct slice header_why; /* What is wrong with a value; the last one, as in grpc-go. */
    struct slice host;
    struct slice http_method;
    uint32_t metadata_seen; /* Bits of |metadata|. */
    size_t header_size;
    struct slice metadata[RPC_METADATA_MAX]; /* In the order of rpc_config.metadata. */
    void *user;
    struct arena arena;
    struct rpc_piece first_piece; /* Most answers need no other. */
    uint8_t first_bytes[CALL_FIRST_PIECE];
};

/* One call for a stream that begins. From the pool. */
struct rpc_call *rpc_call_new(struct rpc_conn *conn, int32_t stream_id);
/* The header block is complete: find the method, or refuse. */
void rpc_call_begin(struct rpc_call *call);
/* Bytes of DATA, borrowed. Gives them back to flow control, now or later. */
void rpc_call_data(struct rpc_call *call, struct slice bytes);
/* END_STREAM of the client. */
void rpc_call_half_close(struct rpc_call *call);
/* The arena's growth counts as held, too. */
void rpc_call_count_arena(struct rpc_call *call);
/* The handler's on_end, if it knows of the call. */
void rpc_call_tell_end(struct rpc_call *call);
/* The stream is closed: on_gone, once. */
void rpc_call_gone(struct rpc_call *call);
/* What was put off by a full output or a pause: input that waits, on_writable. */
void rpc_call_wake(struct rpc_call *call);
/* Run rpc_call_wake at the end of this turn. */
void rpc_call_await(struct rpc_call *call);
/* Input that arrived is forgotten, what still arrives is dropped. */
void rpc_call_drop_input(struct rpc_call *call);
/* Ends a call that its handler never sees. */
void rpc_call_refuse(struct rpc_call *call, uint32_t http_status, int code,
                     const struct buf *words);
/* Free a call that a server is left with. */
void rpc_call_free(struct rpc_call *call);

/* ---- headers.c ----------------------------------------------------------------------------- */

/* A header field, borrowed; copied. */
void rpc_call_add_header(struct rpc_call *call, struct slice name, struct slice value);
/* The header list is complete. True when it is refused: the call ended, or its stream is reset. */
bool rpc_call_refuse_headers(struct rpc_call *call);
/* No method has this path. */
void rpc_call_refuse_method(struct rpc_call *call);
/* True when the call ended, since nobody can decode its messages. */
bool rpc_call_refuse_encoding(struct rpc_call *call);

/* ---- answer.c ------------------------------------------------------------------------------ */

/* The call is over but for what is queued: status and trailers follow that. */
void rpc_call_end(struct rpc_call *call, int status, struct slice message);
void rpc_call_drop_output(struct rpc_call *call);
/* Moves |size| queued bytes into |out|, and wakes a blocked sender. */
void rpc_call_take(struct rpc_call *call, struct rpc_out *out, size_t size);
static inline bool rpc_call_is(const struct rpc_call *call, enum rpc_call_state state)
{
    return sm_is(&call->sm, state);
}

/* ---- http2.c, for calls -------------------------------------------------------------------- */

/* Headers with a body that rpc_call_take fills, or all of it when the status is known and nothing
 * is queued (trailers-only). */
void rpc_http2_respond(struct rpc_call *call);
/* There is something to send again. */
void rpc_http2_resume(struct rpc_call *call);
void rpc_http2_reset(struct rpc_call *call, uint32_t error_code);
/* Let bulk data wait behind other streams, or no more. Changes call->is_bulk. */
void rpc_http2_set_bulk(struct rpc_call *call, bool is_bulk);
/* Its stream is closed. */
void rpc_http2_forget_bulk(struct rpc_call *call);
/* Give |size| bytes back to the windows of the connection and the stream, or only of one. */
void rpc_http2_consume_both(struct rpc_call *call, size_t size);
void rpc_http2_consume_conn(struct rpc_call *call, size_t size);
void rpc_http2_consume_stream(struct rpc_call *call, size_t size);

#endif
