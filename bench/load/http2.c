/* HTTP/2 and gRPC framing for a client, on epoll. RFC 9113 and RFC 7541; see http2.h. */
#include "http2.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/mem.h"
#include "core/wire.h"

enum {
    FRAME_DATA = 0,
    FRAME_HEADERS = 1,
    FRAME_RST_STREAM = 3,
    FRAME_SETTINGS = 4,
    FRAME_PUSH_PROMISE = 5,
    FRAME_PING = 6,
    FRAME_GOAWAY = 7,
    FRAME_WINDOW_UPDATE = 8,
    FRAME_CONTINUATION = 9,
    FLAG_END_STREAM = 1,
    FLAG_ACK = 1,
    FLAG_END_HEADERS = 4,
    FLAG_PADDED = 8,
    FLAG_PRIORITY = 32,
    FRAME_HEADER_SIZE = 9,
    FRAME_SIZE_MAX = 16384, /* Both ways: the protocol's default, as gRPC clients have it. */
    GRPC_PREFIX_SIZE = 5,
    HPACK_DYNAMIC_FIRST = 62,
    HPACK_TABLE_SIZE = 4096,
    READ_SIZE = 512 * 1024,
    WINDOW = 1 << 30,           /* What we let the server send, per stream and connection. */
    WINDOW_REFILL = WINDOW / 4, /* Give back in pieces of this. */
    CALLS_TABLE_MAX = 1 << 22,
    EVENTS_MAX = 64,
};

/* A header field that HPACK's dynamic table holds after its first use. */
struct field {
    uint8_t static_name; /* Index of the name in the static table, 0: spelled out. */
    const char *name;
    const char *value;
};
enum { FIELD_AUTHORITY = LOAD_METHOD_COUNT, FIELD_TYPE, FIELD_AGENT, FIELD_TE, FIELD_COUNT };
static const struct field fields[FIELD_COUNT] = {
    [LOAD_RANGE] = {4, ":path", "/etcdserverpb.KV/Range"},
    [LOAD_RANGE_STREAM] = {4, ":path", "/etcdserverpb.KV/RangeStream"},
    [LOAD_PUT] = {4, ":path", "/etcdserverpb.KV/Put"},
    [LOAD_TXN] = {4, ":path", "/etcdserverpb.KV/Txn"},
    [LOAD_WATCH] = {4, ":path", "/etcdserverpb.Watch/Watch"},
    [FIELD_AUTHORITY] = {1, ":authority", NULL},
    [FIELD_TYPE] = {31, "content-type", "application/grpc"},
    [FIELD_AGENT] = {58, "user-agent", "drover-bench/1"},
    [FIELD_TE] = {0, "te", "trailers"},
};

struct load_conn {
    struct load_net *net;
    int fd;
    bool wants_write; /* EPOLLOUT is on. */
    bool is_dirty;    /* In the net's list of connections to flush. */
    bool is_ready;    /* The server's SETTINGS arrived. */
    struct load_conn *dirty_next;
    struct load_conn *next; /* All connections. */
    char *authority;
    struct buf out;
    size_t out_done;
    uint8_t *in;
    size_t in_size;
    nghttp2_hd_inflater *inflater;
    uint32_t fields_known;             /* Entries that we put into the server's table. */
    uint32_t field_entry[FIELD_COUNT]; /* 1-based number of the entry, 0: not there yet. */
    uint32_t next_stream_id;
    uint32_t header_stream_id; /* Whose header block is being read. */
    bool header_ends_stream;
    int64_t send_window;
    int64_t stream_send_window; /* Of a new stream. */
    int64_t received;           /* Bytes not yet given back to the connection's window. */
    struct load_call **calls;   /* By stream id, direct-mapped; grows until nothing collides. */
    uint32_t calls_mask;
    struct load_call *blocked_head;
    struct load_call **blocked_tail;
};

struct load_net {
    int epoll;
    struct load_conn *conns;
    struct load_conn *dirty;
    uint64_t bytes_in;
    uint64_t bytes_out;
};

void load_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("drover-bench: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* ---- writing ------------------------------------------------------------------------------- */

static void put_u32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}
static uint32_t get_u32(const uint8_t *at)
{
    return ((uint32_t)at[0] << 24) | ((uint32_t)at[1] << 16) | ((uint32_t)at[2] << 8) | at[3];
}

static void conn_touch(struct load_conn *conn)
{
    if (!conn->is_dirty) {
        conn->is_dirty = true;
        conn->dirty_next = conn->net->dirty;
        conn->net->dirty = conn;
    }
}

static void frame_header(uint8_t *at, size_t size, uint8_t type, uint8_t flags, uint32_t stream_id)
{
    ASSERT(size <= FRAME_SIZE_MAX);
    put_u32(at, (uint32_t)size << 8 | type);
    at[4] = flags;
    put_u32(at + 5, stream_id);
}

static void conn_put_frame(struct load_conn *conn, uint8_t type, uint8_t flags, uint32_t stream_id,
                           struct slice payload)
{
    uint8_t *at = buf_reserve(&conn->out, FRAME_HEADER_SIZE + payload.size);
    frame_header(at, payload.size, type, flags, stream_id);
    if (payload.size > 0) {
        memcpy(at + FRAME_HEADER_SIZE, payload.data, payload.size);
    }
    conn->out.size += FRAME_HEADER_SIZE + payload.size;
    conn_touch(conn);
}

static void conn_put_window(struct load_conn *conn, uint32_t stream_id, int64_t size)
{
    uint8_t payload[4];
    put_u32(payload, (uint32_t)size);
    conn_put_frame(conn, FRAME_WINDOW_UPDATE, 0, stream_id, slice_of(payload, sizeof(payload)));
}

/* A short string without Huffman coding: its length fits HPACK's seven bits. */
static uint8_t *hpack_put_string(uint8_t *at, const char *text)
{
    size_t size = strlen(text);
    ASSERT(size < 127);
    *at++ = (uint8_t)size;
    return wire_put_bytes(at, text, size);
}

/* One field: by its entry in the dynamic table, or spelled out once to make the entry. */
static uint8_t *hpack_put_field(struct load_conn *conn, uint8_t *at, uint32_t which)
{
    if (conn->field_entry[which] != 0) {
        uint32_t age = conn->fields_known - conn->field_entry[which];
        ASSERT(age < 64);
        *at++ = (uint8_t)(0x80 | (HPACK_DYNAMIC_FIRST + age));
        return at;
    }
    const struct field *field = &fields[which];
    *at++ = (uint8_t)(0x40 | field->static_name);
    if (field->static_name == 0) {
        at = hpack_put_string(at, field->name);
    }
    at = hpack_put_string(at, which == FIELD_AUTHORITY ? conn->authority : field->value);
    conn->field_entry[which] = ++conn->fields_known;
    return at;
}

static void conn_put_headers(struct load_conn *conn, uint32_t stream_id, enum load_method method)
{
    uint8_t block[1024];
    uint8_t *at = block;
    *at++ = 0x83; /* :method POST */
    *at++ = 0x86; /* :scheme http */
    at = hpack_put_field(conn, at, method);
    for (uint32_t which = FIELD_AUTHORITY; which < FIELD_COUNT; which++) {
        at = hpack_put_field(conn, at, which);
    }
    conn_put_frame(conn, FRAME_HEADERS, FLAG_END_HEADERS, stream_id,
                   slice_of(block, (size_t)(at - block)));
}

/* Move as much of the call's bytes as both windows allow into DATA frames; true when all went. */
static bool call_push(struct load_call *call)
{
    struct load_conn *conn = call->conn;
    size_t done = 0;
    while (done < call->out.size) {
        int64_t window =
            call->send_window < conn->send_window ? call->send_window : conn->send_window;
        if (window <= 0) {
            break;
        }
        size_t size = call->out.size - done;
        size = size < FRAME_SIZE_MAX ? size : FRAME_SIZE_MAX;
        size = size < (size_t)window ? size : (size_t)window;
        bool ends = call->out_ends && done + size == call->out.size;
        conn_put_frame(conn, FRAME_DATA, ends ? FLAG_END_STREAM : 0, call->stream_id,
                       slice_of(call->out.data + done, size));
        done += size;
        call->send_window -= (int64_t)size;
        conn->send_window -= (int64_t)size;
    }
    if (done == call->out.size) {
        buf_clear(&call->out);
        return true;
    }
    memmove(call->out.data, call->out.data + done, call->out.size - done);
    call->out.size -= done;
    return false;
}

static void conn_block(struct load_conn *conn, struct load_call *call)
{
    ASSERT(!call->is_blocked);
    call->is_blocked = true;
    call->blocked_next = NULL;
    *conn->blocked_tail = call;
    conn->blocked_tail = &call->blocked_next;
}

/* A window grew: every blocked call tries again, in its order. */
static void conn_unblock(struct load_conn *conn)
{
    struct load_call *call = conn->blocked_head;
    conn->blocked_head = NULL;
    conn->blocked_tail = &conn->blocked_head;
    while (call != NULL) {
        struct load_call *next = call->blocked_next;
        call->is_blocked = false;
        if (call->stream_id != 0 && !call_push(call)) {
            conn_block(conn, call);
        }
        call = next;
    }
}

static void conn_flush(struct load_conn *conn)
{
    while (conn->out_done < conn->out.size) {
        ssize_t sent = send(conn->fd, conn->out.data + conn->out_done,
                            conn->out.size - conn->out_done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent < 0 && errno != EAGAIN) {
            load_fail("%s: %s", conn->authority, strerror(errno));
        }
        if (sent < 0) {
            break;
        }
        conn->out_done += (size_t)sent;
        conn->net->bytes_out += (uint64_t)sent;
    }
    bool waits = conn->out_done < conn->out.size;
    if (!waits) {
        buf_clear(&conn->out);
        conn->out_done = 0;
    }
    if (waits != conn->wants_write) {
        conn->wants_write = waits;
        struct epoll_event event = {.events = EPOLLIN | (waits ? (uint32_t)EPOLLOUT : 0),
                                    .data.ptr = conn};
        epoll_ctl(conn->net->epoll, EPOLL_CTL_MOD, conn->fd, &event);
    }
}

/* ---- calls --------------------------------------------------------------------------------- */

static struct load_call *conn_find(const struct load_conn *conn, uint32_t stream_id)
{
    struct load_call *call = conn->calls[(stream_id >> 1) & conn->calls_mask];
    return call != NULL && call->stream_id == stream_id ? call : NULL;
}

/* Double the table until every open call has a place of its own. */
static void conn_grow(struct load_conn *conn)
{
    uint32_t mask = conn->calls_mask;
    for (;;) {
        mask = mask * 2 + 1;
        if (mask >= CALLS_TABLE_MAX) {
            load_fail("stream ids of open calls are too far apart");
        }
        struct load_call **calls = mem_alloc((mask + 1) * sizeof(struct load_call *));
        bool collides = false;
        for (uint32_t i = 0; i <= conn->calls_mask && !collides; i++) {
            struct load_call *call = conn->calls[i];
            if (call != NULL) {
                struct load_call **place = &calls[(call->stream_id >> 1) & mask];
                collides = *place != NULL;
                *place = call;
            }
        }
        if (!collides) {
            mem_free(conn->calls);
            conn->calls = calls;
            conn->calls_mask = mask;
            return;
        }
        mem_free(calls);
    }
}

void load_call_send(struct load_call *call, struct slice message, bool ends)
{
    ASSERT(call->stream_id != 0);
    ASSERT(!call->out_ends);
    uint8_t prefix[GRPC_PREFIX_SIZE] = {0};
    put_u32(prefix + 1, (uint32_t)message.size);
    buf_add(&call->out, prefix, sizeof(prefix));
    buf_add_slice(&call->out, message);
    call->out_ends = ends;
    if (!call->is_blocked && !call_push(call)) {
        conn_block(call->conn, call);
    }
}

void load_call_start(struct load_call *call, struct load_conn *conn, enum load_method method,
                     struct slice message, bool ends)
{
    ASSERT(call->stream_id == 0);
    ASSERT(!call->is_blocked);
    if (conn->next_stream_id > INT32_MAX) {
        load_fail("%s: a connection has no stream id left; use more connections", conn->authority);
    }
    call->conn = conn;
    call->stream_id = conn->next_stream_id;
    call->status = LOAD_STATUS_BROKEN;
    call->send_window = conn->stream_send_window;
    call->received = 0;
    call->out_ends = false;
    buf_clear(&call->in);
    buf_clear(&call->out);
    conn->next_stream_id += 2;
    while (conn->calls[(call->stream_id >> 1) & conn->calls_mask] != NULL) {
        conn_grow(conn);
    }
    conn->calls[(call->stream_id >> 1) & conn->calls_mask] = call;
    conn_put_headers(conn, call->stream_id, method);
    load_call_send(call, message, ends);
}

void load_call_fini(struct load_call *call)
{
    buf_fini(&call->in);
    buf_fini(&call->out);
}

static void call_end(struct load_conn *conn, struct load_call *call)
{
    conn->calls[(call->stream_id >> 1) & conn->calls_mask] = NULL;
    call->stream_id = 0;
    if (call->is_blocked) { /* Answered before its request was sent: leave the queue. */
        conn_unblock(conn);
    }
    call->on_done(call, call->status);
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Hand over every whole message; keep the rest. */
static void call_take(struct load_call *call, struct slice bytes)
{
    if (call->in.size > 0) {
        buf_add_slice(&call->in, bytes);
        bytes = buf_slice(&call->in);
    }
    size_t done = 0;
    while (bytes.size - done >= GRPC_PREFIX_SIZE) {
        const uint8_t *at = bytes.data + done;
        size_t size = get_u32(at + 1);
        if (at[0] != 0) {
            load_fail("the server compresses without being asked");
        }
        if (bytes.size - done - GRPC_PREFIX_SIZE < size) {
            break;
        }
        call->on_message(call, slice_of(at + GRPC_PREFIX_SIZE, size));
        done += GRPC_PREFIX_SIZE + size;
    }
    size_t rest = bytes.size - done;
    if (call->in.size == 0) {
        buf_add(&call->in, bytes.data + done, rest);
    } else if (done > 0) {
        memmove(call->in.data, call->in.data + done, rest);
        call->in.size = rest;
    }
}

static struct slice frame_unpad(struct slice payload, uint8_t flags)
{
    if ((flags & FLAG_PADDED) == 0) {
        return payload;
    }
    if (payload.size == 0 || payload.data[0] >= payload.size) {
        load_fail("broken padding in a frame");
    }
    return slice_of(payload.data + 1, payload.size - 1 - payload.data[0]);
}

static void conn_on_data(struct load_conn *conn, uint32_t stream_id, uint8_t flags,
                         struct slice payload)
{
    conn->received += (int64_t)payload.size;
    if (conn->received >= WINDOW_REFILL) {
        conn_put_window(conn, 0, conn->received);
        conn->received = 0;
    }
    struct load_call *call = conn_find(conn, stream_id);
    if (call == NULL) {
        return;
    }
    call->received += (int64_t)payload.size;
    if (call->received >= WINDOW_REFILL) {
        conn_put_window(conn, stream_id, call->received);
        call->received = 0;
    }
    call_take(call, frame_unpad(payload, flags));
    if ((flags & FLAG_END_STREAM) != 0) {
        call_end(conn, call);
    }
}

static void conn_on_field(struct load_call *call, const nghttp2_nv *field)
{
    static const char name[] = "grpc-status";
    if (call == NULL || field->namelen != sizeof(name) - 1 ||
        memcmp(field->name, name, sizeof(name) - 1) != 0) {
        return;
    }
    int status = 0;
    for (size_t i = 0; i < field->valuelen && i < 4; i++) {
        status = status * 10 + (field->value[i] - '0');
    }
    call->status = status;
}

/* A piece of a header block. The table changes with every block, also of calls that are gone. */
static void conn_on_block(struct load_conn *conn, struct slice block, bool is_last)
{
    struct load_call *call = conn_find(conn, conn->header_stream_id);
    for (;;) {
        nghttp2_nv field;
        int flags = 0;
        ssize_t used =
            nghttp2_hd_inflate_hd2(conn->inflater, &field, &flags, block.data, block.size, is_last);
        if (used < 0) {
            load_fail("%s: %s", conn->authority, nghttp2_strerror((int)used));
        }
        block.data += used;
        block.size -= (size_t)used;
        if ((flags & NGHTTP2_HD_INFLATE_EMIT) != 0) {
            conn_on_field(call, &field);
        }
        if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0) {
            nghttp2_hd_inflate_end_headers(conn->inflater);
            break;
        }
        if ((flags & NGHTTP2_HD_INFLATE_EMIT) == 0 && block.size == 0) {
            return; /* More in a CONTINUATION. */
        }
    }
    if (conn->header_ends_stream && call != NULL) {
        call_end(conn, call);
    }
}

static void conn_on_headers(struct load_conn *conn, uint32_t stream_id, uint8_t flags,
                            struct slice payload)
{
    conn->header_stream_id = stream_id;
    conn->header_ends_stream = (flags & FLAG_END_STREAM) != 0;
    struct slice block = frame_unpad(payload, flags);
    if ((flags & FLAG_PRIORITY) != 0 && block.size >= 5) {
        block = slice_of(block.data + 5, block.size - 5);
    }
    conn_on_block(conn, block, (flags & FLAG_END_HEADERS) != 0);
}

static void conn_on_settings(struct load_conn *conn, uint8_t flags, struct slice payload)
{
    enum { TABLE_SIZE = 1, INITIAL_WINDOW = 4 };
    if ((flags & FLAG_ACK) != 0) {
        return;
    }
    for (size_t i = 0; i + 6 <= payload.size; i += 6) {
        uint32_t id = (uint32_t)payload.data[i] << 8 | payload.data[i + 1];
        uint32_t value = get_u32(payload.data + i + 2);
        if (id == TABLE_SIZE && value < HPACK_TABLE_SIZE) {
            load_fail("%s: the server allows only %u bytes of header table", conn->authority,
                      value);
        }
        if (id == INITIAL_WINDOW) {
            int64_t change = (int64_t)value - conn->stream_send_window;
            conn->stream_send_window = value;
            for (uint32_t slot = 0; slot <= conn->calls_mask; slot++) {
                if (conn->calls[slot] != NULL) {
                    conn->calls[slot]->send_window += change;
                }
            }
        }
    }
    conn_put_frame(conn, FRAME_SETTINGS, FLAG_ACK, 0, SLICE_EMPTY);
    conn_unblock(conn);
    conn->is_ready = true;
}

static void conn_on_window(struct load_conn *conn, uint32_t stream_id, struct slice payload)
{
    uint32_t size = get_u32(payload.data) & INT32_MAX;
    if (stream_id == 0) {
        conn->send_window += size;
    } else {
        struct load_call *call = conn_find(conn, stream_id);
        if (call == NULL) {
            return;
        }
        call->send_window += size;
    }
    conn_unblock(conn);
}

static void conn_on_frame(struct load_conn *conn, const uint8_t *header, struct slice payload)
{
    uint8_t flags = header[4];
    uint32_t stream_id = get_u32(header + 5) & INT32_MAX;
    struct load_call *call;
    switch (header[3]) {
    case FRAME_DATA:
        conn_on_data(conn, stream_id, flags, payload);
        return;
    case FRAME_HEADERS:
        conn_on_headers(conn, stream_id, flags, payload);
        return;
    case FRAME_CONTINUATION:
        conn_on_block(conn, payload, (flags & FLAG_END_HEADERS) != 0);
        return;
    case FRAME_RST_STREAM:
        call = conn_find(conn, stream_id);
        if (call != NULL) {
            call_end(conn, call);
        }
        return;
    case FRAME_SETTINGS:
        conn_on_settings(conn, flags, payload);
        return;
    case FRAME_PING:
        if ((flags & FLAG_ACK) == 0) {
            conn_put_frame(conn, FRAME_PING, FLAG_ACK, 0, payload);
        }
        return;
    case FRAME_WINDOW_UPDATE:
        if (payload.size == 4) {
            conn_on_window(conn, stream_id, payload);
        }
        return;
    case FRAME_GOAWAY:
        load_fail("%s: the server sent GOAWAY, code %u", conn->authority,
                  payload.size >= 8 ? get_u32(payload.data + 4) : 0);
    default:
        return; /* Unknown frames are ignored by rule. */
    }
}

static void conn_read(struct load_conn *conn)
{
    ssize_t got = recv(conn->fd, conn->in + conn->in_size, READ_SIZE - conn->in_size, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        load_fail("%s: %s", conn->authority,
                  got == 0 ? "the server closed the connection" : strerror(errno));
    }
    conn->net->bytes_in += (uint64_t)got;
    conn->in_size += (size_t)got;
    size_t done = 0;
    while (conn->in_size - done >= FRAME_HEADER_SIZE) {
        const uint8_t *header = conn->in + done;
        size_t size = get_u32(header) >> 8;
        if (size > FRAME_SIZE_MAX) {
            load_fail("%s: a frame of %zu bytes; is this an HTTP/2 server?", conn->authority, size);
        }
        if (conn->in_size - done - FRAME_HEADER_SIZE < size) {
            break;
        }
        conn_on_frame(conn, header, slice_of(header + FRAME_HEADER_SIZE, size));
        done += FRAME_HEADER_SIZE + size;
    }
    memmove(conn->in, conn->in + done, conn->in_size - done);
    conn->in_size -= done;
}

/* ---- connections --------------------------------------------------------------------------- */

static int socket_open(const char *endpoint)
{
    const char *colon = strrchr(endpoint, ':');
    if (colon == NULL || colon == endpoint) {
        load_fail("--endpoint %s: want HOST:PORT", endpoint);
    }
    char *host = mem_copy(endpoint, (size_t)(colon - endpoint) + 1);
    host[colon - endpoint] = '\0';
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    int error = getaddrinfo(host, colon + 1, &hints, &found);
    if (error != 0) {
        load_fail("--endpoint %s: %s", endpoint, gai_strerror(error));
    }
    int fd = -1;
    for (struct addrinfo *at = found; at != NULL && fd < 0; at = at->ai_next) {
        fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
        if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
            close(fd);
            fd = -1;
        }
    }
    if (fd < 0) {
        load_fail("--endpoint %s: %s", endpoint, strerror(errno));
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    freeaddrinfo(found);
    mem_free(host);
    return fd;
}

struct load_conn *load_net_connect(struct load_net *net, const char *endpoint)
{
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    enum { ENABLE_PUSH = 2, INITIAL_WINDOW = 4, DEFAULT_WINDOW = 65535 };
    struct load_conn *conn = mem_alloc(sizeof(*conn));
    conn->net = net;
    conn->fd = socket_open(endpoint);
    conn->authority = mem_strdup(endpoint);
    conn->in = mem_alloc_raw(READ_SIZE);
    conn->next_stream_id = 1;
    conn->send_window = DEFAULT_WINDOW;
    conn->stream_send_window = DEFAULT_WINDOW;
    conn->calls_mask = 63;
    conn->calls = mem_alloc((conn->calls_mask + 1) * sizeof(struct load_call *));
    conn->blocked_tail = &conn->blocked_head;
    if (nghttp2_hd_inflate_new(&conn->inflater) != 0) {
        load_fail("out of memory");
    }
    conn->next = net->conns;
    net->conns = conn;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = conn};
    if (epoll_ctl(net->epoll, EPOLL_CTL_ADD, conn->fd, &event) != 0) {
        load_fail("epoll: %s", strerror(errno));
    }

    uint8_t settings[12] = {0, ENABLE_PUSH, 0, 0, 0, 0, 0, INITIAL_WINDOW};
    put_u32(settings + 8, WINDOW);
    buf_add(&conn->out, preface, sizeof(preface) - 1);
    conn_put_frame(conn, FRAME_SETTINGS, 0, 0, slice_of(settings, sizeof(settings)));
    conn_put_window(conn, 0, WINDOW - DEFAULT_WINDOW);
    for (uint32_t turn = 0; !conn->is_ready; turn++) {
        if (turn == 10) {
            load_fail("%s: no SETTINGS within 10 s", endpoint);
        }
        load_net_turn(net, UINT64_C(1000000000));
    }
    return conn;
}

struct load_net *load_net_new(void)
{
    struct load_net *net = mem_alloc(sizeof(*net));
    net->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (net->epoll < 0) {
        load_fail("epoll: %s", strerror(errno));
    }
    return net;
}

void load_net_free(struct load_net *net)
{
    while (net->conns != NULL) {
        struct load_conn *conn = net->conns;
        net->conns = conn->next;
        close(conn->fd);
        nghttp2_hd_inflate_del(conn->inflater);
        buf_fini(&conn->out);
        mem_free(conn->in);
        mem_free(conn->calls);
        mem_free(conn->authority);
        mem_free(conn);
    }
    close(net->epoll);
    mem_free(net);
}

void load_net_turn(struct load_net *net, uint64_t wait_ns)
{
    while (net->dirty != NULL) {
        struct load_conn *conn = net->dirty;
        net->dirty = conn->dirty_next;
        conn->is_dirty = false;
        conn_flush(conn);
    }
    struct epoll_event events[EVENTS_MAX];
    struct timespec wait = {.tv_sec = (time_t)(wait_ns / UINT64_C(1000000000)),
                            .tv_nsec = (long)(wait_ns % UINT64_C(1000000000))};
    int count = epoll_pwait2(net->epoll, events, EVENTS_MAX, &wait, NULL);
    if (count < 0 && errno != EINTR) {
        load_fail("epoll: %s", strerror(errno));
    }
    for (int i = 0; i < count; i++) {
        struct load_conn *conn = events[i].data.ptr;
        if ((events[i].events & EPOLLOUT) != 0) {
            conn_touch(conn);
        }
        if ((events[i].events & ~(uint32_t)EPOLLOUT) != 0) {
            conn_read(conn);
        }
    }
}

uint64_t load_net_bytes_in(const struct load_net *net)
{
    return net->bytes_in;
}

uint64_t load_net_bytes_out(const struct load_net *net)
{
    return net->bytes_out;
}
