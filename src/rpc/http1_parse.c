/* The reader of http1_parse.h. */
#include "rpc/http1_parse.h"

#include "core/mem.h"

enum { HTTP1_LINE_MAX = 256 }; /* Of a chunk's size with its extensions. */

static void http1_refuse(struct http1_parse *parse, int status)
{
    parse->state = HTTP1_REFUSED;
    parse->status = status;
}

/* RFC 9110 "token". */
static bool http1_is_token(uint8_t byte)
{
    bool is_alpha = (byte | 0x20) >= 'a' && (byte | 0x20) <= 'z';
    bool is_digit = byte >= '0' && byte <= '9';
    return is_alpha || is_digit || (byte != 0 && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

static bool http1_all_token(struct slice text)
{
    for (size_t i = 0; i < text.size; i++) {
        if (!http1_is_token(text.data[i])) {
            return false;
        }
    }
    return text.size > 0;
}

static uint8_t http1_lower(uint8_t byte)
{
    return byte >= 'A' && byte <= 'Z' ? (uint8_t)(byte | 0x20) : byte;
}

/* |lower| is a lower-case string. */
static bool http1_equal_fold(struct slice text, const char *lower)
{
    size_t size = strlen(lower);
    if (text.size != size) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if (http1_lower(text.data[i]) != (uint8_t)lower[i]) {
            return false;
        }
    }
    return true;
}

static struct slice http1_trim(struct slice text)
{
    while (text.size > 0 && (text.data[0] == ' ' || text.data[0] == '\t')) {
        text = slice_of(text.data + 1, text.size - 1);
    }
    while (text.size > 0 && (text.data[text.size - 1] == ' ' || text.data[text.size - 1] == '\t')) {
        text.size--;
    }
    return text;
}

/* Cuts |rest| at the first |byte|, which is in neither part. False when there is none. */
static bool http1_cut(struct slice *rest, uint8_t byte, struct slice *part)
{
    const uint8_t *at = rest->size == 0 ? NULL : memchr(rest->data, byte, rest->size);
    if (at == NULL) {
        return false;
    }
    size_t size = (size_t)(at - rest->data);
    *part = slice_of(rest->data, size);
    *rest = slice_of(at + 1, rest->size - size - 1);
    return true;
}

/* True when the comma-separated |value| has |lower|. */
static bool http1_list_has(struct slice value, const char *lower)
{
    struct slice item;
    while (http1_cut(&value, ',', &item)) {
        if (http1_equal_fold(http1_trim(item), lower)) {
            return true;
        }
    }
    return http1_equal_fold(http1_trim(value), lower);
}

struct slice http1_find(const struct http1_parse *parse, const char *name)
{
    struct slice wanted = slice_str(name);
    for (uint32_t i = 0; i < parse->header_count; i++) {
        if (slice_equal(parse->headers[i].name, wanted)) {
            return parse->headers[i].value;
        }
    }
    return SLICE_EMPTY;
}

static uint32_t http1_count(const struct http1_parse *parse, const char *name)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < parse->header_count; i++) {
        count += slice_equal(parse->headers[i].name, slice_str(name));
    }
    return count;
}

/* ---- the head ------------------------------------------------------------------------------ */

static bool http1_parse_target(struct http1_parse *parse, struct slice target)
{
    for (size_t i = 0; i < target.size; i++) {
        if (target.data[i] <= ' ' || target.data[i] >= 0x7f) {
            return false;
        }
    }
    const struct slice scheme = SLICE_LIT("http://");
    if (slice_starts_with(target, scheme)) { /* Absolute form: as if through a proxy. */
        struct slice rest = slice_of(target.data + scheme.size, target.size - scheme.size);
        const uint8_t *slash = rest.size == 0 ? NULL : memchr(rest.data, '/', rest.size);
        if (slash == NULL) {
            return false;
        }
        target = slice_of(slash, rest.size - (size_t)(slash - rest.data));
    }
    if (target.size == 0 || (target.data[0] != '/' && !slice_equal(target, SLICE_LIT("*")))) {
        return false;
    }
    parse->query = target;
    if (!http1_cut(&parse->query, '?', &parse->path)) {
        parse->path = target;
        parse->query = SLICE_EMPTY;
    }
    return true;
}

static bool http1_parse_request_line(struct http1_parse *parse, struct slice line)
{
    struct slice target;
    if (!http1_cut(&line, ' ', &parse->method) || !http1_cut(&line, ' ', &target) ||
        !http1_all_token(parse->method) || !http1_parse_target(parse, target)) {
        http1_refuse(parse, 400);
        return false;
    }
    parse->is_old = slice_equal(line, SLICE_LIT("HTTP/1.0"));
    if (!parse->is_old && !slice_equal(line, SLICE_LIT("HTTP/1.1"))) {
        http1_refuse(parse, slice_starts_with(line, SLICE_LIT("HTTP/")) ? 505 : 400);
        return false;
    }
    return true;
}

static bool http1_parse_field(struct http1_parse *parse, struct slice line)
{
    struct slice name;
    if (!http1_cut(&line, ':', &name) || !http1_all_token(name)) {
        http1_refuse(parse, 400); /* Also line folding, and a space before the colon. */
        return false;
    }
    struct slice value = http1_trim(line);
    for (size_t i = 0; i < value.size; i++) {
        uint8_t byte = value.data[i];
        if ((byte < ' ' && byte != '\t') || byte == 0x7f) {
            http1_refuse(parse, 400);
            return false;
        }
    }
    if (parse->header_count == LIMIT_HTTP_HEADER_COUNT) {
        http1_refuse(parse, 431);
        return false;
    }
    uint8_t *lower = parse->head.data + (name.data - parse->head.data);
    for (size_t i = 0; i < name.size; i++) {
        lower[i] = http1_lower(lower[i]);
    }
    parse->headers[parse->header_count++] = (struct http1_header){name, value};
    return true;
}

/* The lines of a complete head. */
static bool http1_parse_lines(struct http1_parse *parse)
{
    struct slice rest = slice_of(parse->head.data, parse->head.size - 2);
    parse->headers = mem_alloc_raw(LIMIT_HTTP_HEADER_COUNT * sizeof(*parse->headers));
    bool is_first = true;
    while (rest.size > 0) {
        struct slice line;
        if (!http1_cut(&rest, '\n', &line) || line.size == 0 || line.data[line.size - 1] != '\r') {
            http1_refuse(parse, 400);
            return false;
        }
        line.size--;
        if (!(is_first ? http1_parse_request_line(parse, line) : http1_parse_field(parse, line))) {
            return false;
        }
        is_first = false;
    }
    return true;
}

/* Digits only, no sign, no list. */
static bool http1_parse_length(struct slice text, size_t *length)
{
    size_t value = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t digit = (uint8_t)(text.data[i] - '0');
        if (digit > 9 || i >= 18) {
            return false;
        }
        value = value * 10 + digit;
    }
    *length = value;
    return text.size > 0;
}

/* How long the body is; two different answers would let requests be smuggled. */
static void http1_begin_body(struct http1_parse *parse)
{
    uint32_t lengths = http1_count(parse, "content-length");
    uint32_t codings = http1_count(parse, "transfer-encoding");
    if (lengths + codings > 1 || (codings > 0 && parse->is_old)) {
        http1_refuse(parse, 400);
        return;
    }
    if (codings > 0) {
        if (!http1_equal_fold(http1_find(parse, "transfer-encoding"), "chunked")) {
            http1_refuse(parse, 501);
            return;
        }
        parse->is_chunked = true;
        parse->state = HTTP1_CHUNK_SIZE;
        return;
    }
    parse->left = 0;
    if (lengths > 0 && !http1_parse_length(http1_find(parse, "content-length"), &parse->left)) {
        http1_refuse(parse, 400);
        return;
    }
    if (parse->left > parse->body_max) {
        http1_refuse(parse, 413);
        return;
    }
    parse->state = parse->left > 0 ? HTTP1_BODY : HTTP1_DONE;
}

static void http1_end_head(struct http1_parse *parse)
{
    if (!http1_parse_lines(parse)) {
        return;
    }
    uint32_t hosts = http1_count(parse, "host");
    if (hosts > 1 || (hosts == 0 && !parse->is_old)) {
        http1_refuse(parse, 400);
        return;
    }
    struct slice connection = http1_find(parse, "connection");
    parse->keep_alive = parse->is_old ? http1_list_has(connection, "keep-alive")
                                      : !http1_list_has(connection, "close");
    struct slice expect = http1_find(parse, "expect");
    if (expect.size > 0 && !http1_equal_fold(expect, "100-continue")) {
        http1_refuse(parse, 417);
        return;
    }
    http1_begin_body(parse);
    bool has_body = parse->state == HTTP1_BODY || parse->state == HTTP1_CHUNK_SIZE;
    parse->expects_continue = expect.size > 0 && !parse->is_old && has_body;
}

static void http1_feed_head(struct http1_parse *parse, struct slice *bytes)
{
    /* Empty lines before a request are dropped, as RFC 9112 section 2.2 asks. */
    while (parse->head.size == 0 && bytes->size > 0 &&
           (bytes->data[0] == '\r' || bytes->data[0] == '\n')) {
        *bytes = slice_of(bytes->data + 1, bytes->size - 1);
    }
    size_t room = LIMIT_HTTP_HEADER_SIZE - parse->head.size;
    size_t take = bytes->size < room ? bytes->size : room;
    size_t before = parse->head.size;
    buf_add(&parse->head, bytes->data, take);
    size_t from = before > 3 ? before - 3 : 0;
    const uint8_t *end = parse->head.size == 0 ? NULL
                                               : memmem(parse->head.data + from,
                                                        parse->head.size - from, "\r\n\r\n", 4);
    if (end != NULL) {
        parse->head.size = (size_t)(end - parse->head.data) + 4;
        take = parse->head.size - before;
    }
    *bytes = slice_of(bytes->data + take, bytes->size - take);
    if (end != NULL) {
        http1_end_head(parse);
    } else if (parse->head.size == LIMIT_HTTP_HEADER_SIZE) {
        http1_refuse(parse, 431);
    }
}

/* ---- the body ------------------------------------------------------------------------------ */

static void http1_feed_data(struct http1_parse *parse, struct slice *bytes)
{
    size_t take = bytes->size < parse->left ? bytes->size : parse->left;
    buf_add(&parse->body, bytes->data, take);
    parse->left -= take;
    *bytes = slice_of(bytes->data + take, bytes->size - take);
    if (parse->left == 0) {
        parse->state = parse->is_chunked ? HTTP1_CHUNK_END : HTTP1_DONE;
    }
}

/* Collects a line into parse->line, without its CR LF. True when it is complete. */
static bool http1_feed_line(struct http1_parse *parse, struct slice *bytes, size_t size_max)
{
    while (bytes->size > 0) {
        uint8_t byte = bytes->data[0];
        *bytes = slice_of(bytes->data + 1, bytes->size - 1);
        if (byte == '\n') {
            size_t size = parse->line.size;
            if (size == 0 || parse->line.data[size - 1] != '\r') {
                http1_refuse(parse, 400);
                return false;
            }
            parse->line.size--;
            return true;
        }
        if (parse->line.size >= size_max) {
            http1_refuse(parse, 400);
            return false;
        }
        buf_add_byte(&parse->line, byte);
    }
    return false;
}

static int http1_hex(uint8_t byte)
{
    uint8_t lower = (uint8_t)(byte | 0x20);
    if (byte >= '0' && byte <= '9') {
        return byte - '0';
    }
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

static void http1_feed_chunk_size(struct http1_parse *parse, struct slice *bytes)
{
    if (!http1_feed_line(parse, bytes, HTTP1_LINE_MAX)) {
        return;
    }
    struct slice line = buf_slice(&parse->line);
    struct slice size_text = line;
    if (http1_cut(&line, ';', &size_text)) {
        size_text = http1_trim(size_text); /* Extensions mean nothing here. */
    }
    size_t size = 0;
    bool is_good = size_text.size > 0 && size_text.size <= 15;
    for (size_t i = 0; is_good && i < size_text.size; i++) {
        int digit = http1_hex(size_text.data[i]);
        is_good = digit >= 0;
        size = size * 16 + (size_t)(is_good ? digit : 0);
    }
    buf_clear(&parse->line);
    if (!is_good) {
        http1_refuse(parse, 400);
    } else if (size > parse->body_max - parse->body.size) {
        http1_refuse(parse, 413);
    } else {
        parse->left = size;
        parse->state = size > 0 ? HTTP1_CHUNK_DATA : HTTP1_TRAILERS;
    }
}

static void http1_feed_chunk_end(struct http1_parse *parse, struct slice *bytes)
{
    if (http1_feed_line(parse, bytes, 1)) {
        buf_clear(&parse->line);
        parse->state = HTTP1_CHUNK_SIZE;
    }
}

static void http1_feed_trailers(struct http1_parse *parse, struct slice *bytes)
{
    if (!http1_feed_line(parse, bytes, LIMIT_HTTP_HEADER_SIZE)) {
        return;
    }
    bool is_end = parse->line.size == 0;
    parse->trailer_size += parse->line.size + 2;
    buf_clear(&parse->line);
    if (is_end) {
        parse->state = HTTP1_DONE;
    } else if (parse->trailer_size > LIMIT_HTTP_HEADER_SIZE) {
        http1_refuse(parse, 431);
    }
}

void http1_feed(struct http1_parse *parse, struct slice *bytes)
{
    while (bytes->size > 0 && parse->state < HTTP1_DONE) {
        switch (parse->state) {
        case HTTP1_HEAD:
            http1_feed_head(parse, bytes);
            break;
        case HTTP1_BODY:
        case HTTP1_CHUNK_DATA:
            http1_feed_data(parse, bytes);
            break;
        case HTTP1_CHUNK_SIZE:
            http1_feed_chunk_size(parse, bytes);
            break;
        case HTTP1_CHUNK_END:
            http1_feed_chunk_end(parse, bytes);
            break;
        case HTTP1_TRAILERS:
            http1_feed_trailers(parse, bytes);
            break;
        case HTTP1_DONE:
        case HTTP1_REFUSED:
            return;
        }
    }
}

void http1_parse_fini(struct http1_parse *parse)
{
    buf_fini(&parse->head);
    buf_fini(&parse->line);
    buf_fini(&parse->body);
    mem_free(parse->headers);
    parse->headers = NULL;
}

void http1_next(struct http1_parse *parse)
{
    size_t body_max = parse->body_max;
    http1_parse_fini(parse);
    *parse = (struct http1_parse){.body_max = body_max};
}
