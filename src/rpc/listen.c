/* Listening sockets on a uv_poll each. uv's own servers would accept on one loop only. */
#include "rpc/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/limits.h"
#include "core/log.h"
#include "core/mem.h"
#include "rpc/rpc.h"

enum {
    LISTEN_RETRY_MS = 100, /* After running out of descriptors. */
    LISTEN_HOST_SIZE = 256,
    LISTEN_PORT_SIZE = 8,
};

struct rpc_listen {
    int fd;
    enum rpc_stream_kind kind;
    uint16_t port;
    char *path;        /* Of a unix socket, ... */
    dev_t device;      /* ... and the file that was made there. While |fd| is open, no other */
    ino_t inode;       /* file gets its number. */
    char *url;         /* As given. */
    struct loop *loop; /* When started. */
    rpc_listen_fn *accepted;
    void *arg;
    uv_poll_t poll;
    struct timer retry;
    bool is_stopped;
};

/* ---- binding ------------------------------------------------------------------------------- */

static bool listen_fill_address(const char *path, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address->sun_path) || path[0] == '\0') {
        return false;
    }
    memcpy(address->sun_path, path, strlen(path) + 1);
    return true;
}

/* A socket file that nobody listens on is left from a process that died. */
static void listen_remove_stale(const struct sockaddr_un *address)
{
    struct stat found;
    if (lstat(address->sun_path, &found) != 0 || !S_ISSOCK(found.st_mode)) {
        return;
    }
    /* Not blocking: a listener whose backlog is full lets callers wait. */
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe < 0) {
        return;
    }
    int failed = connect(probe, (const struct sockaddr *)address, sizeof(*address));
    if (failed != 0 && errno == ECONNREFUSED) {
        (void)unlink(address->sun_path);
    }
    (void)close(probe);
}

static int listen_bind_unix(struct rpc_listen *listen, const char *path)
{
    struct sockaddr_un address;
    if (!listen_fill_address(path, &address)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    listen_remove_stale(&address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        int cause = errno;
        (void)close(fd);
        errno = cause;
        return -1;
    }
    listen->kind = RPC_STREAM_UNIX;
    struct stat made;
    if (lstat(path, &made) == 0) {
        listen->path = mem_strdup(path);
        listen->device = made.st_dev;
        listen->inode = made.st_ino;
    }
    return fd;
}

static int listen_bind_address(const struct addrinfo *info)
{
    int fd = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -1;
    }
    int on = 1;
    int off = 0;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)); /* Nothing on IPv4. */
    if (bind(fd, info->ai_addr, info->ai_addrlen) != 0) {
        int cause = errno;
        (void)close(fd);
        errno = cause;
        return -1;
    }
    return fd;
}

static uint16_t listen_bound_port(int fd)
{
    struct sockaddr_storage bound;
    socklen_t size = sizeof(bound);
    memset(&bound, 0, sizeof(bound));
    ASSERT(getsockname(fd, (struct sockaddr *)&bound, &size) == 0);
    if (bound.ss_family == AF_INET6) {
        struct sockaddr_in6 inet6;
        memcpy(&inet6, &bound, sizeof(inet6));
        return ntohs(inet6.sin6_port);
    }
    struct sockaddr_in inet;
    memcpy(&inet, &bound, sizeof(inet));
    return ntohs(inet.sin_port);
}

/* HOST:PORT or [HOST]:PORT into |host| (without brackets) and |port|. */
static bool listen_split(const char *text, char host[LISTEN_HOST_SIZE], char port[LISTEN_PORT_SIZE])
{
    size_t size = strlen(text);
    while (size > 0 && text[size - 1] == '/') {
        size--; /* "http://host:2379/" is the same address. */
    }
    const char *colon = memrchr(text, ':', size);
    if (colon == NULL) {
        return false;
    }
    size_t host_size = (size_t)(colon - text);
    size_t port_size = size - host_size - 1;
    bool is_bracketed = host_size >= 2 && text[0] == '[' && text[host_size - 1] == ']';
    const char *from = is_bracketed ? text + 1 : text;
    host_size -= is_bracketed ? 2 : 0;
    bool has_colon = memchr(from, ':', host_size) != NULL;
    bool has_bracket = memchr(from, '[', host_size) != NULL || memchr(from, ']', host_size) != NULL;
    if (host_size >= LISTEN_HOST_SIZE || port_size == 0 || port_size > 5 ||
        has_colon != is_bracketed || has_bracket) {
        return false;
    }
    memcpy(host, from, host_size);
    host[host_size] = '\0';
    memcpy(port, colon + 1, port_size);
    port[port_size] = '\0';
    return strspn(port, "0123456789") == port_size && strtoul(port, NULL, 10) <= UINT16_MAX;
}

/* The first of the addresses of |family| (or of any other one) that can be bound. */
static int listen_bind_family(const struct addrinfo *found, int family, bool is_other)
{
    int fd = -1;
    for (const struct addrinfo *info = found; info != NULL && fd < 0; info = info->ai_next) {
        if ((info->ai_family != family) == is_other) {
            fd = listen_bind_address(info);
        }
    }
    return fd;
}

/* As Go does: no host is both families at once, of a name IPv4 goes first. */
static int listen_bind_tcp(struct rpc_listen *listen, const char *text, char *why, size_t why_size)
{
    char host[LISTEN_HOST_SIZE];
    char port[LISTEN_PORT_SIZE];
    bool is_good = listen_split(text, host, port);
    ASSERT(is_good); /* rpc_url_check has looked at it. */
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(host[0] == '\0' ? NULL : host, port, &hints, &found);
    if (failed != 0) {
        (void)snprintf(why, why_size, "cannot resolve \"%s\": %s", host, gai_strerror(failed));
        return -1;
    }
    int first = host[0] == '\0' ? AF_INET6 : AF_INET;
    errno = 0;
    int fd = listen_bind_family(found, first, false);
    if (fd < 0 && errno != EADDRINUSE) {
        fd = listen_bind_family(found, first, true);
    }
    if (fd < 0) {
        (void)snprintf(why, why_size, "cannot listen on %s: %s", text, strerror(errno));
    } else {
        listen->kind = RPC_STREAM_TCP;
        listen->port = listen_bound_port(fd);
    }
    freeaddrinfo(found);
    return fd;
}

/* What follows |prefix| in |url|, or NULL. */
static const char *listen_behind(const char *url, const char *prefix)
{
    size_t size = strlen(prefix);
    return strncmp(url, prefix, size) == 0 ? url + size : NULL;
}

/* The path of a unix socket's |url|, or NULL. */
static const char *listen_unix_path(const char *url)
{
    const char *path = listen_behind(url, "unix://");
    return path != NULL ? path : listen_behind(url, "unix:");
}

enum err rpc_url_check(const char *url, char *why, size_t why_size)
{
    char host[LISTEN_HOST_SIZE];
    char port[LISTEN_PORT_SIZE];
    struct sockaddr_un address;
    const char *tcp = listen_behind(url, "http://");
    const char *path = listen_unix_path(url);
    if (tcp != NULL) {
        if (!listen_split(tcp, host, port)) {
            (void)snprintf(why, why_size, "\"%s\" is not HOST:PORT", tcp);
            return ERR_CONFIG;
        }
    } else if (path != NULL) {
        if (!listen_fill_address(path, &address)) {
            (void)snprintf(why, why_size, "\"%s\": the path has 1 to %zu bytes", url,
                           sizeof(address.sun_path) - 1);
            return ERR_CONFIG;
        }
    } else {
        bool is_tls = listen_behind(url, "https://") != NULL;
        (void)snprintf(why, why_size, "\"%s\": %s", url,
                       is_tls ? "TLS is not supported yet"
                              : "want http://HOST:PORT or unix://PATH");
        return ERR_CONFIG;
    }
    return ERR_OK;
}

static int listen_bind(struct rpc_listen *listen, const char *url, char *why, size_t why_size)
{
    if (rpc_url_check(url, why, why_size) != ERR_OK) {
        return -1;
    }
    const char *tcp = listen_behind(url, "http://");
    if (tcp != NULL) {
        return listen_bind_tcp(listen, tcp, why, why_size);
    }
    const char *path = listen_unix_path(url);
    int fd = listen_bind_unix(listen, path);
    if (fd < 0) {
        (void)snprintf(why, why_size, "cannot listen on unix socket \"%s\": %s", path,
                       strerror(errno));
    }
    return fd;
}

struct rpc_listen *rpc_listen_new(const char *url, char *why, size_t why_size)
{
    struct rpc_listen *self = mem_alloc(sizeof(*self));
    self->url = mem_strdup(url);
    self->fd = listen_bind(self, url, why, why_size);
    /* Listening, too, is exclusive: two processes may bind one port while neither listens. */
    if (self->fd >= 0 && listen(self->fd, LIMIT_LISTEN_BACKLOG) != 0) {
        (void)snprintf(why, why_size, "cannot listen on %s: %s", url, strerror(errno));
        (void)close(self->fd);
        self->fd = -1;
    }
    if (self->fd < 0) {
        rpc_listen_free(self);
        return NULL;
    }
    return self;
}

/* Bytes of |url| but for slashes at its end. */
static size_t listen_url_size(const char *url)
{
    size_t size = strlen(url);
    while (size > 0 && url[size - 1] == '/') {
        size--;
    }
    return size;
}

bool rpc_listen_is(const struct rpc_listen *listen, const char *url)
{
    size_t size = listen_url_size(url);
    bool picks_port = size >= 2 && memcmp(url + size - 2, ":0", 2) == 0;
    return !picks_port && size == listen_url_size(listen->url) &&
           memcmp(url, listen->url, size) == 0;
}

uint16_t rpc_listen_port(const struct rpc_listen *listen)
{
    return listen->port;
}

/* ---- accepting ----------------------------------------------------------------------------- */

static void listen_on_ready(uv_poll_t *poll, int status, int events);

static void listen_poll(struct rpc_listen *listen)
{
    ASSERT(uv_poll_start(&listen->poll, UV_READABLE, listen_on_ready) == 0);
}

static void listen_on_retry(struct timer *timer)
{
    listen_poll(CONTAINER_OF(timer, struct rpc_listen, retry));
}

/* Connections that failed before we took them are not our failure. */
static void listen_on_failure(struct rpc_listen *listen, int cause)
{
    if (cause != EMFILE && cause != ENFILE && cause != ENOBUFS && cause != ENOMEM) {
        return;
    }
    LOG(LOG_WARN, "accept failed", LSTR("cause", strerror(cause)));
    ASSERT(uv_poll_stop(&listen->poll) == 0);
    timers_arm(&listen->loop->timers, &listen->retry, LISTEN_RETRY_MS * NS_PER_MS, listen_on_retry);
}

static void listen_on_ready(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    struct rpc_listen *listen = CONTAINER_OF(poll, struct rpc_listen, poll);
    for (uint32_t i = 0; i < LIMIT_ACCEPTS_PER_TURN; i++) {
        int fd = accept4(listen->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            listen->accepted(listen->arg, fd, listen->kind);
        } else if (errno != EINTR && errno != ECONNABORTED) {
            if (errno != EAGAIN && errno != EWOULDBLOCK) {
                listen_on_failure(listen, errno);
            }
            return;
        }
    }
}

void rpc_listen_start(struct rpc_listen *listen, struct loop *loop, rpc_listen_fn *accepted,
                      void *arg)
{
    ASSERT_ON_LOOP(loop);
    listen->loop = loop;
    listen->accepted = accepted;
    listen->arg = arg;
    ASSERT(uv_poll_init(&loop->uv, &listen->poll, listen->fd) == 0);
    listen_poll(listen);
}

static void listen_close_fd(struct rpc_listen *listen)
{
    /* The name goes first, and once: as soon as nobody listens, it is the next process's. If what
     * stands there was made by somebody else, it is theirs already. */
    struct stat found;
    if (listen->path != NULL && lstat(listen->path, &found) == 0 &&
        found.st_dev == listen->device && found.st_ino == listen->inode) {
        (void)unlink(listen->path);
    }
    mem_free(listen->path);
    listen->path = NULL;
    if (listen->fd >= 0) {
        (void)close(listen->fd);
        listen->fd = -1;
    }
}

static void listen_on_closed(uv_handle_t *handle)
{
    (void)handle; /* rpc_listen_free comes after the loop. */
}

void rpc_listen_stop(struct rpc_listen *listen)
{
    if (listen->is_stopped || listen->loop == NULL) {
        return;
    }
    ASSERT_ON_LOOP(listen->loop);
    listen->is_stopped = true;
    timers_disarm(&listen->loop->timers, &listen->retry);
    uv_close((uv_handle_t *)&listen->poll, listen_on_closed);
    listen_close_fd(listen);
}

void rpc_listen_free(struct rpc_listen *listen)
{
    if (listen == NULL) {
        return;
    }
    listen_close_fd(listen);
    mem_free(listen->url);
    mem_free(listen);
}
