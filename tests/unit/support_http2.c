/* The client of support_http2.h: nghttp2 over a blocking socket and poll(2). */
#include "support_http2.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/mem.h"
#include "support.h"

int client_socket(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    int on = 1; /* Small frames in a row would wait for delayed acknowledgements. */
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), 0);
    return fd;
}

int client_socket_unix(const char *path)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_true(strlen(path) < sizeof(address.sun_path));
    memcpy(address.sun_path, path, strlen(path) + 1);
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

/* ---- callbacks ----------------------------------------------------------------------------- */

static struct client_call *client_call_of(nghttp2_session *session, int32_t stream_id)
{
    return nghttp2_session_get_stream_user_data(session, stream_id);
}

static int client_number(const uint8_t *value, size_t size)
{
    char text[16] = {0};
    memcpy(text, value, size < sizeof(text) - 1 ? size : sizeof(text) - 1);
    return (int)strtol(text, NULL, 10);
}

static int client_on_header(nghttp2_session *session, const nghttp2_frame *frame,
                            const uint8_t *name, size_t name_size, const uint8_t *value,
                            size_t value_size, uint8_t flags, void *arg)
{
    (void)flags;
    (void)arg;
    struct client_call *call = client_call_of(session, frame->hd.stream_id);
    struct slice field = slice_of(name, name_size);
    if (call == NULL) {
        return 0;
    }
    if (slice_equal(field, SLICE_LIT(":status"))) {
        call->http_status = client_number(value, value_size);
    } else if (slice_equal(field, SLICE_LIT("grpc-status"))) {
        call->grpc_status = client_number(value, value_size);
    } else if (slice_equal(field, SLICE_LIT("grpc-encoding"))) {
        assert_true(value_size < sizeof(call->grpc_encoding));
        memcpy(call->grpc_encoding, value, value_size);
    } else if (slice_equal(field, SLICE_LIT("grpc-message"))) {
        assert_true(value_size < sizeof(call->grpc_message));
        memcpy(call->grpc_message, value, value_size);
        call->grpc_message[value_size] = '\0';
    }
    return 0;
}

static void client_count_messages(struct client_call *call)
{
    while (call->in.size - call->parsed >= 5) {
        const uint8_t *at = call->in.data + call->parsed;
        size_t size = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4];
        assert_true(at[0] <= 1);
        if (call->in.size - call->parsed - 5 < size) {
            return;
        }
        call->compressed += at[0];
        call->parsed += 5 + size;
        call->messages++;
    }
}

static int client_on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id,
                          const uint8_t *data, size_t size, void *arg)
{
    (void)flags;
    struct client *client = arg;
    struct client_call *call = client_call_of(session, stream_id);
    client->received += size;
    if (call != NULL) {
        buf_add(&call->in, data, size);
        client_count_messages(call);
    }
    if (!client->no_window_updates) {
        assert_int_equal(nghttp2_session_consume(session, stream_id, size), 0);
    }
    return 0;
}

static int client_on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    (void)session;
    struct client *client = arg;
    if (frame->hd.type == NGHTTP2_PING) {
        bool is_ack = (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0;
        client->pongs += is_ack;
        client->pings += !is_ack;
        if (!is_ack && !client->no_pongs) {
            assert_int_equal(
                nghttp2_submit_ping(session, NGHTTP2_FLAG_ACK, frame->ping.opaque_data), 0);
        }
    } else if (frame->hd.type == NGHTTP2_GOAWAY) {
        client->goaways++;
        client->goaway_last = frame->goaway.last_stream_id;
        client->goaway_error = frame->goaway.error_code;
        assert_true(frame->goaway.opaque_data_len < sizeof(client->goaway_words));
        memset(client->goaway_words, 0, sizeof(client->goaway_words));
        if (frame->goaway.opaque_data_len > 0) {
            memcpy(client->goaway_words, frame->goaway.opaque_data, frame->goaway.opaque_data_len);
        }
    }
    return 0;
}

static int client_on_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                           void *arg)
{
    (void)arg;
    struct client_call *call = client_call_of(session, stream_id);
    if (call != NULL) {
        call->is_closed = true;
        call->error_code = error_code;
    }
    return 0;
}

static ssize_t client_on_source(nghttp2_session *session, int32_t stream_id, uint8_t *buffer,
                                size_t room, uint32_t *flags, nghttp2_data_source *source,
                                void *arg)
{
    (void)session;
    (void)stream_id;
    (void)arg;
    struct client_call *call = source->ptr;
    size_t size = call->out.size < room ? call->out.size : room;
    size = call->out_piece != 0 && size > call->out_piece ? call->out_piece : size;
    if (size == 0 && !call->out_ends) {
        call->out_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (size > 0) {
        memcpy(buffer, call->out.data, size);
        memmove(call->out.data, call->out.data + size, call->out.size - size);
        call->out.size -= size;
    }
    *flags |= call->out.size == 0 && call->out_ends ? NGHTTP2_DATA_FLAG_EOF : 0;
    return (ssize_t)size;
}

/* ---- the connection ------------------------------------------------------------------------ */

void client_open_fd(struct client *client, int fd, const struct client_options *options)
{
    *client = (struct client){.fd = fd};
    client->no_window_updates = options->no_window_updates;
    client->no_pongs = options->no_pongs;
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *option;
    assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
    assert_int_equal(nghttp2_option_new(&option), 0);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, client_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, client_on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, client_on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, client_on_close);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_auto_ping_ack(option, 1);
    nghttp2_option_set_max_send_header_block_length(option, 1 << 20);
    nghttp2_option_set_peer_max_concurrent_streams(option, 1000000);
    assert_int_equal(nghttp2_session_client_new2(&client->session, callbacks, client, option), 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(option);
    uint32_t window = options->stream_window != 0 ? options->stream_window : 65535;
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window}};
    assert_int_equal(nghttp2_submit_settings(client->session, NGHTTP2_FLAG_NONE, settings, 1), 0);
    if (options->window_more > 0) {
        assert_int_equal(nghttp2_submit_window_update(client->session, NGHTTP2_FLAG_NONE, 0,
                                                      (int32_t)options->window_more),
                         0);
    }
}

void client_open(struct client *client, uint16_t port)
{
    const struct client_options options = {0};
    client_open_fd(client, client_socket(port), &options);
}

void client_close(struct client *client)
{
    nghttp2_session_del(client->session);
    (void)close(client->fd);
}

static bool client_write(struct client *client)
{
    bool wrote = false;
    for (;;) {
        const uint8_t *data;
        ssize_t size = nghttp2_session_mem_send(client->session, &data);
        assert_true(size >= 0);
        if (size == 0) {
            return wrote;
        }
        wrote = true;
        while (size > 0) {
            ssize_t taken = send(client->fd, data, (size_t)size, MSG_NOSIGNAL);
            if (taken < 0) {
                client->is_ended = true;
                return wrote;
            }
            data += taken;
            size -= taken;
        }
    }
}

bool client_turn(struct client *client, int wait_ms)
{
    bool wrote = client->is_ended ? false : client_write(client);
    struct pollfd poll_fd = {.fd = client->fd, .events = POLLIN};
    if (client->is_ended || poll(&poll_fd, 1, wait_ms) <= 0) {
        return wrote;
    }
    static uint8_t bytes[65536];
    ssize_t size = recv(client->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (size <= 0) {
        client->is_ended = size == 0 || errno != EAGAIN;
        return wrote;
    }
    assert_int_equal(nghttp2_session_mem_recv(client->session, bytes, (size_t)size), size);
    (void)client_write(client);
    return true;
}

/* ---- calls --------------------------------------------------------------------------------- */

static void client_add(nghttp2_nv *fields, size_t *count, const char *name, const char *value)
{
    for (size_t i = 0; i < *count; i++) {
        if (strcmp((const char *)fields[i].name, name) == 0) {
            fields[i].value = (uint8_t *)(uintptr_t)value;
            fields[i].valuelen = strlen(value);
            return;
        }
    }
    fields[(*count)++] = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value,
                                      strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE};
}

static void client_submit(struct client *client, struct client_call *call, const nghttp2_nv *fields,
                          size_t count)
{
    *call = (struct client_call){.client = client, .grpc_status = -1};
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = client_on_source};
    call->stream_id = nghttp2_submit_request(client->session, NULL, fields, count, &provider, call);
    assert_true(call->stream_id > 0);
}

void client_call(struct client *client, struct client_call *call, const char *path,
                 const char *const *headers)
{
    nghttp2_nv fields[64];
    size_t count = 0;
    client_add(fields, &count, ":method", "POST");
    client_add(fields, &count, ":scheme", "http");
    client_add(fields, &count, ":authority", "localhost");
    client_add(fields, &count, ":path", path);
    client_add(fields, &count, "content-type", "application/grpc");
    client_add(fields, &count, "te", "trailers");
    for (size_t i = 0; headers != NULL && headers[i] != NULL; i += 2) {
        assert_true(count < ARRAY_COUNT(fields));
        client_add(fields, &count, headers[i], headers[i + 1]);
    }
    client_submit(client, call, fields, count);
}

void client_call_raw(struct client *client, struct client_call *call, const char *const *headers)
{
    nghttp2_nv fields[64];
    size_t count = 0;
    for (; headers[2 * count] != NULL; count++) {
        assert_true(count < ARRAY_COUNT(fields));
        const char *name = headers[2 * count];
        const char *value = headers[2 * count + 1];
        /* Without a copy nghttp2 leaves upper-case letters alone. */
        fields[count] = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value,
                                     strlen(name), strlen(value), NGHTTP2_NV_FLAG_NO_COPY_NAME};
    }
    client_submit(client, call, fields, count);
}

static void client_resume(struct client_call *call)
{
    if (call->out_deferred) {
        call->out_deferred = false;
        (void)nghttp2_session_resume_data(call->client->session, call->stream_id);
    }
}

void client_send_raw(struct client_call *call, struct slice bytes)
{
    buf_add_slice(&call->out, bytes);
    client_resume(call);
}

static void client_send_flag(struct client_call *call, uint8_t flag, struct slice message)
{
    const uint8_t prefix[5] = {flag, (uint8_t)(message.size >> 24), (uint8_t)(message.size >> 16),
                               (uint8_t)(message.size >> 8), (uint8_t)message.size};
    buf_add(&call->out, prefix, sizeof(prefix));
    client_send_raw(call, message);
}

void client_send(struct client_call *call, struct slice message)
{
    client_send_flag(call, 0, message);
}

void client_send_compressed(struct client_call *call, struct slice packed)
{
    client_send_flag(call, 1, packed);
}

void client_send_end(struct client_call *call)
{
    call->out_ends = true;
    client_resume(call);
}

void client_cancel(struct client_call *call)
{
    assert_int_equal(nghttp2_submit_rst_stream(call->client->session, NGHTTP2_FLAG_NONE,
                                               call->stream_id, NGHTTP2_CANCEL),
                     0);
}

void client_call_fini(struct client_call *call)
{
    buf_fini(&call->in);
    buf_fini(&call->out);
}

void client_ping(struct client *client)
{
    assert_int_equal(nghttp2_submit_ping(client->session, NGHTTP2_FLAG_NONE, NULL), 0);
}

struct slice client_message(const struct client_call *call, uint32_t index)
{
    assert_true(index < call->messages);
    const uint8_t *at = call->in.data;
    for (;;) {
        size_t size = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4];
        if (index-- == 0) {
            return slice_of(at + 5, size);
        }
        at += 5 + size;
    }
}

void client_unary(struct client *client, struct client_call *call, const char *path,
                  struct slice message)
{
    client_call(client, call, path, NULL);
    client_send(call, message);
    client_send_end(call);
    client_until(client, call->is_closed);
}
