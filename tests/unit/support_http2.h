/*
 * A small gRPC client for tests: one blocking connection, driven by the test's own thread, with
 * every knob of HTTP/2 at hand. Anything unexpected fails the test.
 */
#ifndef TESTS_SUPPORT_HTTP2_H
#define TESTS_SUPPORT_HTTP2_H

#include <nghttp2/nghttp2.h>

#include "core/buf.h"

/* One stream. Zero-initialised, then given to client_call; must outlive the client's use of it. */
struct client_call {
    struct client *client;
    int32_t stream_id;
    struct buf out; /* Bytes still to be sent. */
    bool out_ends;
    bool out_deferred;
    size_t out_piece;  /* Ceiling of one DATA frame, 0 = none. */
    struct buf in;     /* All of DATA. */
    uint32_t messages; /* Whole ones within |in|. */
    size_t parsed;
    int http_status;
    int grpc_status; /* -1 until known. */
    char grpc_encoding[16];
    uint32_t compressed; /* How many of |messages| had gRPC's flag set. */
    char grpc_message[1024];
    bool is_closed;
    uint32_t error_code;
};

struct client {
    int fd;
    nghttp2_session *session;
    uint32_t goaways;
    int32_t goaway_last; /* Of the newest. */
    uint32_t goaway_error;
    char goaway_words[64];
    uint32_t pings; /* From the server, not acknowledgements. */
    uint32_t pongs;
    bool is_ended;          /* End of file or reset. */
    bool no_window_updates; /* Data is counted only by client_consume. */
    bool no_pongs;
    size_t received; /* Bytes of DATA. */
};

struct client_options {
    uint32_t stream_window; /* 0 = 64 KiB - 1. */
    uint32_t window_more;   /* Added to the connection's window. */
    bool no_window_updates;
    bool no_pongs;
};

/* A connected TCP socket on 127.0.0.1, or on a unix socket. */
int client_socket(uint16_t port);
int client_socket_unix(const char *path);
void client_open_fd(struct client *client, int fd, const struct client_options *options);
void client_open(struct client *client, uint16_t port);
void client_close(struct client *client);

/* Start a call; more headers as "name", "value", ..., NULL. ":method" etc. replace the usual. */
void client_call(struct client *client, struct client_call *call, const char *path,
                 const char *const *headers);
/* The same with exactly these headers, as they are: "name", "value", ..., NULL. Borrowed until the
 * call is closed. */
void client_call_raw(struct client *client, struct client_call *call, const char *const *headers);
/* Queue one message with its prefix, likewise one that is compressed, or bytes as they are. */
void client_send(struct client_call *call, struct slice message);
void client_send_compressed(struct client_call *call, struct slice packed);
void client_send_raw(struct client_call *call, struct slice bytes);
void client_send_end(struct client_call *call);
void client_cancel(struct client_call *call);
void client_call_fini(struct client_call *call);
void client_ping(struct client *client);

/* Write and read once, waiting at most |wait_ms|. False when nothing happened. */
bool client_turn(struct client *client, int wait_ms);
/* Until the condition holds; fails the test when it hangs. */
#define client_until(client, condition)                                       \
    do {                                                                      \
        uint64_t until_ns = clock_now_ns(&clock_monotonic) + SUPPORT_HANG_NS; \
        while (!(condition)) {                                                \
            assert_true(clock_now_ns(&clock_monotonic) < until_ns);           \
            (void)client_turn((client), 20);                                  \
        }                                                                     \
    } while (0)
/* The |index|-th whole message. */
struct slice client_message(const struct client_call *call, uint32_t index);
/* Call, one message, end, wait for the end. */
void client_unary(struct client *client, struct client_call *call, const char *path,
                  struct slice message);

#endif
