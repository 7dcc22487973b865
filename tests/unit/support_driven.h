/*
 * A server of rpc whose one loop the test runs itself, with one connection over a stream that takes
 * all that is written, counts it and drops it: what is written when is decided by rpc alone.
 */
#ifndef TESTS_SUPPORT_DRIVEN_H
#define TESTS_SUPPORT_DRIVEN_H

#include "rpc/call.h"
#include "support.h"
#include "support_http2.h"

/* In the place of the connection's stream. */
struct driven_sink {
    struct rpc_stream base;
    struct rpc_stream *real;
    bool is_full;      /* Takes nothing: what is written waits. */
    bool is_waiting;   /* Something was. */
    size_t turn_size;  /* Taken in this turn. */
    size_t write_max;  /* Largest write, of all. */
    size_t total_size; /* Taken, of all. */
};

struct driven {
    struct rpc_server *server;
    struct rpc_io *io;
    struct rpc_conn *conn;
    struct client client; /* Only its session is used: it hears nothing. */
    struct driven_sink sink;
    struct fake_clock clock;
};

/* |config| has methods and ceilings; the rest is filled in. |options| of the client's windows. */
void driven_start(struct driven *driven, struct rpc_config *config,
                  const struct client_options *options);
/* What the client has to say reaches the server. */
void driven_feed(struct driven *driven);
/* These bytes do, as they are. */
void driven_feed_raw(struct driven *driven, struct slice bytes);
/* A sink that was full takes what waits. */
void driven_drain(struct driven *driven);
/* One turn of the loop. */
void driven_turn(struct driven *driven);
/* The client hangs up. */
void driven_stop(struct driven *driven);

#endif
