/*
 * A strict reader of HTTP/1.0 and 1.1 requests (RFC 9112), without any I/O.
 *
 * Why not llhttp: Debian 12 has its C sources only inside node-llhttp, which installs npm's
 * semver and debug packages with it and names no library to link; 500 kB of generated code would
 * be compiled from /usr/share for health checks and a JSON gateway. What is not needed is refused
 * here: obsolete line folding, bare LF, spaces around names, several lengths, codings other than
 * chunked, trailers' contents. tests/fuzz/fuzz_http1.c feeds it any bytes in any pieces.
 */
#ifndef RPC_HTTP1_PARSE_H
#define RPC_HTTP1_PARSE_H

#include "core/buf.h"
#include "core/limits.h"
#include "core/slice.h"

struct http1_header {
    struct slice name; /* Lower-case. */
    struct slice value;
};

enum http1_state {
    HTTP1_HEAD,       /* Request line and headers, up to the empty line. */
    HTTP1_BODY,       /* |left| bytes of it are missing. */
    HTTP1_CHUNK_SIZE, /* A chunk's size line. */
    HTTP1_CHUNK_DATA, /* |left| bytes of a chunk, ... */
    HTTP1_CHUNK_END,  /* ... the line end behind them. */
    HTTP1_TRAILERS,   /* Lines up to an empty one, dropped. */
    HTTP1_DONE,       /* One whole request. */
    HTTP1_REFUSED,    /* |status| says why. Final. */
};

/* Zero-initialised, then |body_max| set. Slices point into |head|, valid until http1_next. */
struct http1_parse {
    enum http1_state state;
    int status; /* 400, 413, 417, 431, 501, 505. */
    size_t body_max;
    struct buf head;
    size_t head_scanned;
    struct buf line; /* A chunk's size line or a trailer. */
    size_t trailer_size;
    struct buf body;
    size_t left;
    struct slice method;
    struct slice path;
    struct slice query;
    struct http1_header *headers;
    uint32_t header_count;
    bool is_old;     /* HTTP/1.0. */
    bool keep_alive; /* As the client wants it. */
    bool expects_continue;
    bool is_chunked;
};

/* Takes bytes from the front of |bytes| until they end, or DONE or REFUSED is reached. */
void http1_feed(struct http1_parse *parse, struct slice *bytes);
/* After DONE: stand before the next request. Frees what the last one needed. */
void http1_next(struct http1_parse *parse);
void http1_parse_fini(struct http1_parse *parse);
/* Empty when absent. */
struct slice http1_find(const struct http1_parse *parse, const char *name);

#endif
