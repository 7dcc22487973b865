/*
 * A request's header list: what of it a call needs, and what grpc-go refuses. nghttp2's own checks
 * of HTTP messages are off, since they refuse what old clients send and etcd takes: an :authority
 * with a scheme, a :path without a slash, a content-length that does not fit.
 */
#include "core/limits.h"
#include "rpc/call.h"
#include "rpc/grpc.h"

/* Pseudo-header fields; each may come once. */
static const struct {
    struct slice name;
    uint8_t bit;
} headers_pseudo[] = {
    {{(const uint8_t *)":method", 7}, 1},    {{(const uint8_t *)":path", 5}, 2},
    {{(const uint8_t *)":scheme", 7}, 4},    {{(const uint8_t *)":authority", 10}, 8},
    {{(const uint8_t *)":protocol", 9}, 16}, {{(const uint8_t *)":status", 7}, 32},
};
enum { HEADERS_PSEUDO_AUTHORITY = 8, HEADERS_PSEUDO_STATUS = 32 };

/* ---- field by field ------------------------------------------------------------------------ */

/* True and |*copy| for life; at the arena's ceiling the list counts as too large. */
static bool headers_copy(struct rpc_call *call, struct slice from, struct slice *copy)
{
    if (!arena_copy(&call->arena, from, copy)) {
        call->headers_too_large = true;
        return false;
    }
    return true;
}

/* Only what handlers read is kept, so that idle streams with large headers cost nothing. */
static void headers_add_metadata(struct rpc_call *call, struct slice name, struct slice value)
{
    const char *const *names = call->io->config->metadata;
    for (uint32_t i = 0; names != NULL && names[i] != NULL; i++) {
        if ((call->metadata_seen & 1u << i) == 0 && slice_equal(slice_str(names[i]), name)) {
            call->metadata_seen |= 1u << i;
            (void)headers_copy(call, value, &call->metadata[i]);
        }
    }
}

static void headers_set_timeout(struct rpc_call *call, struct slice value)
{
    struct buf why = {0};
    uint64_t timeout_ns = 0;
    buf_add_slice(&why, SLICE_LIT("malformed grpc-timeout: "));
    call->has_timeout = true;
    if (!rpc_grpc_timeout(value, &timeout_ns, &why)) {
        (void)headers_copy(call, buf_slice(&why), &call->header_why);
    }
    uint64_t now_ns = rpc_io_now_ns(call->io);
    call->deadline_ns = timeout_ns < UINT64_MAX - 1 - now_ns ? now_ns + timeout_ns : UINT64_MAX - 1;
    buf_fini(&why);
}

/* Metadata whose name ends in "-bin": bytes, in base64 on the wire. */
static void headers_add_binary(struct rpc_call *call, struct slice name, struct slice value)
{
    struct buf bytes = {0};
    size_t bad_at;
    if (rpc_grpc_base64(value, &bytes, &bad_at)) {
        headers_add_metadata(call, name, buf_slice(&bytes));
    } else {
        buf_add_slice(&bytes, SLICE_LIT("malformed binary metadata "));
        rpc_grpc_quote(value, &bytes);
        buf_add_slice(&bytes, SLICE_LIT(" in header "));
        rpc_grpc_quote(name, &bytes);
        buf_printf(&bytes, ": illegal base64 data at input byte %zu", bad_at);
        (void)headers_copy(call, buf_slice(&bytes), &call->header_why);
    }
    buf_fini(&bytes);
}

/* Unknown ones, repeated ones and those of answers among others make a request malformed. */
static void headers_add_pseudo(struct rpc_call *call, struct slice name, struct slice value)
{
    uint8_t bit = 0;
    for (size_t i = 0; i < ARRAY_COUNT(headers_pseudo) && bit == 0; i++) {
        bit = slice_equal(name, headers_pseudo[i].name) ? headers_pseudo[i].bit : 0;
    }
    uint8_t all = call->pseudo_seen | bit;
    bool is_mixed = (all & HEADERS_PSEUDO_STATUS) != 0 && all != HEADERS_PSEUDO_STATUS;
    if (bit == 0 || all == call->pseudo_seen || is_mixed || call->regular_seen) {
        call->is_malformed = true;
        return;
    }
    call->pseudo_seen = all;
    if (slice_equal(name, SLICE_LIT(":path"))) {
        (void)headers_copy(call, value, &call->path);
    } else if (slice_equal(name, SLICE_LIT(":method"))) {
        call->is_post = slice_equal(value, SLICE_LIT("POST"));
        if (!call->is_post) {
            (void)headers_copy(call, value, &call->http_method);
        }
    } else if (bit == HEADERS_PSEUDO_AUTHORITY) {
        headers_add_metadata(call, name, value);
    }
}

/* Those of gRPC itself, which are no metadata. */
static bool headers_is_reserved(struct slice name)
{
    return slice_equal(name, SLICE_LIT("te")) || slice_equal(name, SLICE_LIT("grpc-status")) ||
           slice_equal(name, SLICE_LIT("grpc-message")) ||
           slice_equal(name, SLICE_LIT("grpc-message-type"));
}

static bool headers_is_binary(struct slice name)
{
    const struct slice end = SLICE_LIT("-bin");
    return name.size >= end.size &&
           memcmp(name.data + name.size - end.size, end.data, end.size) == 0;
}

static void headers_add_regular(struct rpc_call *call, struct slice name, struct slice value)
{
    call->regular_seen = true;
    if (slice_equal(name, SLICE_LIT("content-type"))) {
        if (rpc_grpc_content_type_is_valid(value)) {
            call->is_grpc = true;
        } else {
            (void)headers_copy(call, value, &call->content_type);
        }
    } else if (slice_equal(name, SLICE_LIT("grpc-timeout"))) {
        headers_set_timeout(call, value);
    } else if (slice_equal(name, SLICE_LIT("grpc-encoding"))) {
        (void)headers_copy(call, value, &call->encoding);
    } else if (slice_equal(name, SLICE_LIT("connection"))) {
        call->has_connection = true;
    } else if (slice_equal(name, SLICE_LIT("host"))) {
        call->host_count++;
        (void)headers_copy(call, value, &call->host);
    } else if (headers_is_binary(name)) {
        headers_add_binary(call, name, value);
    } else if (!headers_is_reserved(name)) {
        headers_add_metadata(call, name, value);
    }
}

void rpc_call_add_header(struct rpc_call *call, struct slice name, struct slice value)
{
    if (call->headers_too_large || call->is_malformed) {
        return;
    }
    bool is_pseudo = name.size > 0 && name.data[0] == ':';
    call->header_size += name.size + value.size + 32; /* RFC 9113 section 6.5.2. */
    if (nghttp2_check_header_value(value.data, value.size) == 0 ||
        (!is_pseudo && nghttp2_check_header_name(name.data, name.size) == 0)) {
        call->is_malformed = true; /* Control characters, upper-case letters, ... */
    } else if (call->header_size > LIMIT_HTTP_HEADER_SIZE) {
        call->headers_too_large = true;
    } else if (is_pseudo) {
        headers_add_pseudo(call, name, value);
    } else {
        headers_add_regular(call, name, value);
    }
}

/* ---- the whole list ------------------------------------------------------------------------ */

/* Exactly one :authority or host. True when refused; |words| as below. */
static bool headers_refuse_host(struct rpc_call *call, struct buf *words)
{
    bool has_authority = (call->pseudo_seen & HEADERS_PSEUDO_AUTHORITY) != 0;
    if (call->host_count > 1) {
        buf_printf(words,
                   "num values of :authority: %d, num values of host: %u, both must only have 1 "
                   "value as per HTTP/2 spec",
                   has_authority, call->host_count);
        rpc_call_refuse(call, 400, RPC_INTERNAL, words);
        return true;
    }
    if (!has_authority && call->host_count == 1) {
        headers_add_metadata(call, SLICE_LIT(":authority"), call->host);
    }
    return false;
}

/* In grpc-go's order. True when refused. */
static bool headers_refuse_values(struct rpc_call *call, struct buf *words)
{
    if (!call->is_grpc) {
        buf_add_slice(words, SLICE_LIT("invalid gRPC request content-type "));
        rpc_grpc_quote(call->content_type, words);
        rpc_call_refuse(call, 415, RPC_INVALID_ARGUMENT, words);
        return true;
    }
    if (call->header_why.size > 0) {
        buf_add_slice(words, call->header_why);
        rpc_call_refuse(call, 400, RPC_INTERNAL, words);
        return true;
    }
    if ((call->pseudo_seen & HEADERS_PSEUDO_AUTHORITY) == 0 && call->host_count == 0) {
        buf_add_slice(words, SLICE_LIT("no host or :authority header present"));
        rpc_call_refuse(call, 400, RPC_INTERNAL, words);
        return true;
    }
    if (!call->is_post) {
        buf_add_slice(words, SLICE_LIT("Received a HEADERS frame with :method "));
        rpc_grpc_quote(call->http_method, words);
        buf_add_slice(words, SLICE_LIT(" which should be POST"));
        rpc_call_refuse(call, 405, RPC_INTERNAL, words);
        return true;
    }
    if (call->has_timeout && call->deadline_ns <= rpc_io_now_ns(call->io)) {
        buf_add_slice(words, slice_str(err_text(ERR_DEADLINE_EXCEEDED)));
        rpc_call_refuse(call, 200, RPC_DEADLINE, words);
        return true;
    }
    return false;
}

static void headers_reset(struct rpc_call *call, uint32_t error_code)
{
    rpc_http2_reset(call, error_code);
    call->input_done = true;
}

bool rpc_call_refuse_headers(struct rpc_call *call)
{
    struct buf words = {0};
    bool is_refused = true;
    if (call->headers_too_large) {
        headers_reset(call, NGHTTP2_FRAME_SIZE_ERROR);
    } else if (call->is_malformed) {
        headers_reset(call, NGHTTP2_PROTOCOL_ERROR);
    } else if (!headers_refuse_host(call, &words)) {
        if (call->has_connection) {
            headers_reset(call, NGHTTP2_PROTOCOL_ERROR);
        } else {
            is_refused = headers_refuse_values(call, &words);
        }
    }
    buf_fini(&words);
    return is_refused;
}

void rpc_call_refuse_method(struct rpc_call *call)
{
    struct buf words = {0};
    struct slice service;
    struct slice method;
    if (!rpc_grpc_split_path(call->path, &service, &method)) {
        buf_add_slice(&words, SLICE_LIT("malformed method name: "));
        rpc_grpc_quote(call->path, &words);
    } else if (rpc_methods_has_service(call->io->methods, service)) {
        buf_add_slice(&words, SLICE_LIT("unknown method "));
        buf_add_slice(&words, method);
        buf_add_slice(&words, SLICE_LIT(" for service "));
        buf_add_slice(&words, service);
    } else {
        buf_add_slice(&words, SLICE_LIT("unknown service "));
        buf_add_slice(&words, service);
    }
    rpc_call_refuse(call, 200, RPC_UNIMPLEMENTED, &words);
    buf_fini(&words);
}

bool rpc_call_refuse_encoding(struct rpc_call *call)
{
    if (call->encoding.size == 0 || slice_equal(call->encoding, SLICE_LIT("identity"))) {
        return false;
    }
    call->is_gzip = slice_equal(call->encoding, SLICE_LIT("gzip"));
    if (call->is_gzip) {
        return false;
    }
    struct buf words = {0};
    buf_add_slice(&words, SLICE_LIT("grpc: Decompressor is not installed for grpc-encoding "));
    rpc_grpc_quote(call->encoding, &words);
    rpc_call_refuse(call, 200, RPC_UNIMPLEMENTED, &words);
    buf_fini(&words);
    return true;
}
