/*
 * A world for tests of api: a real cache and hub, calls that remember what was sent, and a store
 * that only collects questions. Included by each test once; defines rpc's and store's functions, so
 * that the libraries' own are not linked.
 */
#ifndef SUPPORT_API_FAKE_H
#define SUPPORT_API_FAKE_H

#include "support.h"

#include "api/internal.h"
#include "api/watch.h"
#include "core/mem.h"
#include "proto/rpc.pb-c.h"

enum { FAKE_MESSAGES_MAX = 4096, FAKE_HEADERS_MAX = 4, FAKE_POSTED_MAX = 64 };

/* ---- calls --------------------------------------------------------------------------------- */

struct fake_connection {
    void *user;
    bool is_full; /* Its client has too much to read. */
    bool is_awaited;
};
/* What calls are on unless the test says otherwise. */
static struct fake_connection fake_connection;

struct rpc_call {
    const struct rpc_method *method;
    struct fake_connection *connection;
    struct loop *loop;
    struct arena arena;
    void *user;
    uint32_t refs;
    bool alive;
    bool room;      /* What rpc_send answers. */
    uint64_t taken; /* What rpc_call_taken does. */
    size_t queued;  /* What rpc_call_queued does. */
    bool paused;
    bool replied; /* rpc_reply or rpc_finish. */
    bool failed;
    int code;
    struct slice text;
    struct slice names[FAKE_HEADERS_MAX];
    struct slice values[FAKE_HEADERS_MAX];
    uint32_t header_count;
    struct slice messages[FAKE_MESSAGES_MAX]; /* Owned. */
    uint32_t message_count;
    uint64_t owned_parts; /* Parts that were passed by reference. */
};

const struct rpc_method *rpc_call_method(const struct rpc_call *call)
{
    return call->method;
}
uint32_t rpc_call_thread(const struct rpc_call *call)
{
    (void)call;
    return 0;
}
void **rpc_call_connection_user(const struct rpc_call *call)
{
    return &call->connection->user;
}
struct arena *rpc_call_arena(struct rpc_call *call)
{
    return &call->arena;
}
void **rpc_call_user(struct rpc_call *call)
{
    return &call->user;
}
struct slice rpc_call_metadata(const struct rpc_call *call, const char *name)
{
    for (uint32_t i = 0; i < call->header_count; i++) {
        if (slice_equal(call->names[i], slice_str(name))) {
            return call->values[i];
        }
    }
    return SLICE_EMPTY;
}
uint64_t rpc_call_deadline_ns(const struct rpc_call *call)
{
    (void)call;
    return UINT64_MAX;
}
bool rpc_call_is_alive(const struct rpc_call *call)
{
    return call->alive;
}
struct rpc_call *rpc_call_ref(struct rpc_call *call)
{
    call->refs++;
    return call;
}
void rpc_call_unref(struct rpc_call *call)
{
    ASSERT(call->refs > 0);
    if (--call->refs > 0) {
        return;
    }
    for (uint32_t i = 0; i < call->message_count; i++) {
        mem_free((void *)(uintptr_t)call->messages[i].data);
    }
    mem_free((void *)(uintptr_t)call->text.data);
    arena_fini(&call->arena);
    mem_free(call);
}
size_t rpc_call_queued(const struct rpc_call *call)
{
    return call->queued;
}
uint64_t rpc_call_taken(const struct rpc_call *call)
{
    return call->taken;
}
bool rpc_call_has_room(const struct rpc_call *call)
{
    return !call->connection->is_full;
}
void rpc_call_await_room(struct rpc_call *call)
{
    ASSERT(call->connection->is_full);
    call->connection->is_awaited = true;
}
void rpc_call_pause(struct rpc_call *call, bool paused)
{
    call->paused = paused;
}
static void fake_record(struct rpc_call *call, const struct rpc_part *parts, size_t count)
{
    struct buf message = {0};
    for (size_t i = 0; i < count; i++) {
        buf_add_slice(&message, parts[i].bytes);
        call->owned_parts += parts[i].owner != NULL;
        ASSERT(parts[i].owner == NULL || (parts[i].bytes.data >= parts[i].owner->bytes &&
                                          parts[i].bytes.data + parts[i].bytes.size <=
                                              parts[i].owner->bytes + parts[i].owner->size));
    }
    ASSERT(call->message_count < FAKE_MESSAGES_MAX);
    call->messages[call->message_count++] =
        slice_of(mem_copy(message.data, message.size), message.size);
    buf_fini(&message);
}
static void fake_end(struct rpc_call *call)
{
    call->alive = false;
    if (call->method->on_end != NULL) {
        call->method->on_end(call);
    }
}
/* Runs first when a unary call is answered or fails; NULL: nothing. */
static void (*fake_on_reply)(void);

void rpc_reply(struct rpc_call *call, const struct rpc_part *parts, size_t part_count)
{
    if (fake_on_reply != NULL) {
        fake_on_reply();
    }
    if (call->alive) {
        fake_record(call, parts, part_count);
        call->replied = true;
        call->alive = false;
    }
}
void rpc_fail(struct rpc_call *call, int grpc_code, struct slice message)
{
    if (call->alive) {
        call->failed = true;
        call->code = grpc_code;
        call->text = slice_of(mem_copy(message.data, message.size), message.size);
        fake_end(call);
    }
}
void rpc_fail_err(struct rpc_call *call, enum err err)
{
    rpc_fail(call, err_grpc_code(err), slice_str(err_text(err)));
}
bool rpc_send(struct rpc_call *call, const struct rpc_part *parts, size_t part_count, bool urgent)
{
    (void)urgent;
    if (call->alive) {
        fake_record(call, parts, part_count);
    }
    return call->alive && call->room;
}
void rpc_finish(struct rpc_call *call)
{
    call->replied = true;
    fake_end(call);
}

/* ---- the world ----------------------------------------------------------------------------- */

static struct fake_world {
    struct fake_clock clock;
    struct loop loop;
    struct reclaim reclaim;
    struct reclaim_reader reader;
    struct cache *cache;
    struct store_facts *facts; /* With room for two members. */
    struct api *api;
    bool reads_are_local;
    struct store_request *posted[FAKE_POSTED_MAX];
    uint32_t posted_count;
    int64_t revision;
} world;

const struct cache_snapshot *store_snapshot(const struct store *store)
{
    (void)store;
    return cache_snapshot(world.cache);
}
const struct store_facts *store_facts(const struct store *store)
{
    (void)store;
    return world.facts;
}
bool store_reads_are_local(const struct store *store)
{
    (void)store;
    return world.reads_are_local;
}
void store_post(struct store *store, struct store_request *request)
{
    request->store = store;
    ASSERT(world.posted_count < FAKE_POSTED_MAX);
    world.posted[world.posted_count++] = request;
}

/* One turn of the io thread's loop: posts, timers, hooks. */
static inline void world_turn(void)
{
    (void)uv_run(&world.loop.uv, UV_RUN_NOWAIT);
}

static int world_setup(void **state)
{
    (void)state;
    memset(&world, 0, sizeof(world));
    fake_clock_init(&world.clock);
    loop_init(&world.loop, &world.clock.clock);
    reclaim_init(&world.reclaim);
    world.loop.reader = &world.reader;
    reclaim_add_reader(&world.reclaim, &world.reader);
    world.cache = cache_new(&world.reclaim);
    world.revision = 1;
    world.facts = mem_alloc(sizeof(*world.facts) + 2 * sizeof(struct sql_member));
    world.facts->cluster_id = 0x1122334455667788;
    world.facts->member_id = 7;
    world.facts->raft_term = 3;
    world.facts->leader = 7;
    world.facts->ready = true;
    struct api_config config = {
        .store = (struct store *)&world,
        .cache = world.cache,
        .io_threads = 1,
        .progress_interval_ns = 5 * NS_PER_S,
        .request_size_max = LIMIT_REQUEST_SIZE_MAX,
        .max_txn_ops = LIMIT_TXN_OPS_MAX,
        .seed = 1,
    };
    world.api = api_new(&config);
    api_thread_start(world.api, 0, &world.loop, &world.reader);
    world_turn();
    return 0;
}

static void fake_connection_end(struct fake_connection *connection)
{
    if (connection->user != NULL) {
        api_connection_gone(connection->user);
    }
    *connection = (struct fake_connection){0};
}

static int world_teardown(void **state)
{
    (void)state;
    fake_connection_end(&fake_connection);
    api_thread_stop(world.api, 0);
    api_free(world.api);
    cache_free(world.cache);
    reclaim_fini(&world.reclaim);
    loop_fini(&world.loop);
    mem_free(world.facts);
    return 0;
}

static inline struct api_thread *world_thread(void)
{
    return &world.api->threads[0];
}

/* ---- changing the state -------------------------------------------------------------------- */

/* Add a row of the next revision to |edit|. */
static inline void edit_row(struct cache_edit *edit, const char *key, struct slice value,
                            int64_t lease, bool is_delete, int32_t sub)
{
    const struct cache_version *old = NULL;
    enum err err = cache_get(cache_edit_view(edit), slice_str(key), 0, &old);
    ASSERT(err == ERR_OK);
    struct cache_row row = {
        .revision = world.revision,
        .sub = sub,
        .is_delete = is_delete,
        .key = slice_str(key),
        .value = value,
        .lease = lease,
    };
    if (!is_delete) {
        row.create_rev = old == NULL ? world.revision : cache_version_create_rev(old);
        row.version = old == NULL ? 1 : cache_version_version(old) + 1;
    }
    (void)cache_edit_apply(edit, &row);
}

static inline void world_publish(struct cache_edit *edit)
{
    cache_edit_publish(edit);
    api_on_publish(world.api);
}

static inline void world_put_value(const char *key, struct slice value, int64_t lease)
{
    struct cache_edit *edit = cache_edit_begin(world.cache);
    world.revision++;
    edit_row(edit, key, value, lease, false, 0);
    world_publish(edit);
}

static inline void world_put(const char *key, const char *value)
{
    world_put_value(key, slice_str(value), 0);
}

static inline void world_delete(const char *key)
{
    struct cache_edit *edit = cache_edit_begin(world.cache);
    world.revision++;
    edit_row(edit, key, SLICE_EMPTY, 0, true, 0);
    world_publish(edit);
}

static inline void world_compact(int64_t revision)
{
    struct cache_edit *edit = cache_edit_begin(world.cache);
    cache_edit_set_compact_rev(edit, revision);
    world_publish(edit);
    /* As far as the thread's hold lets it. */
    for (uint32_t i = 0; i < 100 && cache_trim(world.cache, 1000); i++) {
        (void)reclaim_run(&world.reclaim);
        world_turn();
    }
}

/* ---- calls of the test --------------------------------------------------------------------- */

/* A call of |path|; the test holds one reference. */
static inline struct rpc_call *call_new(const char *path)
{
    struct rpc_call *call = mem_alloc(sizeof(*call));
    size_t count = 0;
    const struct rpc_method *methods = api_methods(world.api, &count);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(methods[i].path, path) == 0) {
            call->method = &methods[i];
        }
    }
    ASSERT(call->method != NULL);
    call->connection = &fake_connection;
    call->loop = &world.loop;
    arena_init(&call->arena, LIMIT_CALL_ARENA_MAX);
    call->refs = 1;
    call->alive = true;
    call->room = true;
    return call;
}

static inline void call_header(struct rpc_call *call, const char *name, struct slice value)
{
    ASSERT(call->header_count < FAKE_HEADERS_MAX);
    call->names[call->header_count] = slice_str(name);
    call->values[call->header_count++] = value;
}

static inline void call_start(struct rpc_call *call)
{
    if (call->method->on_start != NULL) {
        call->method->on_start(call);
    }
}

/* Pack |message| and hand it to the handler; the bytes stay until the call is freed. In a turn of
 * its own if this one has composed as much as a turn may. */
static inline void call_send(struct rpc_call *call, const void *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = arena_alloc_bytes(&call->arena, size + 1);
    ASSERT(bytes != NULL);
    size_t packed = protobuf_c_message_pack(message, bytes);
    ASSERT(packed == size);
    if (world_thread()->composed >= LIMIT_TURN_COMPOSE) {
        world_turn();
    }
    if (call->alive) {
        call->method->on_message(call, slice_of(bytes, size));
    }
}

static inline void call_end(struct rpc_call *call)
{
    call->alive = false;
    if (call->method->on_gone != NULL) {
        call->method->on_gone(call);
    }
    rpc_call_unref(call);
}

/* Answer the oldest question with what the test has filled in. */
static inline void posted_done(struct store_request *request)
{
    ASSERT(world.posted_count > 0);
    uint32_t at = 0;
    while (world.posted[at] != request) {
        at++;
        ASSERT(at < world.posted_count);
    }
    world.posted_count--;
    memmove(&world.posted[at], &world.posted[at + 1],
            (world.posted_count - at) * sizeof(world.posted[0]));
    request->done(request);
}

/* Message |index| of |call|, decoded; lives in |arena|. Its bytes must be canonical. */
static inline void *message_of(struct rpc_call *call, uint32_t index,
                               const ProtobufCMessageDescriptor *descriptor, struct arena *arena)
{
    ASSERT(index < call->message_count);
    enum api_decode_result result;
    void *message = api_decode(call->messages[index], descriptor, arena, &result);
    ASSERT(message != NULL);
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = mem_alloc_raw(size + 1);
    size_t packed = protobuf_c_message_pack(message, bytes);
    ASSERT(packed == size);
    assert_slice_equal(slice_of(bytes, size), call->messages[index]);
    mem_free(bytes);
    return message;
}

#define assert_failed(call, error)                                    \
    do {                                                              \
        assert_true((call)->failed);                                  \
        assert_int_equal((call)->code, err_grpc_code(error));         \
        assert_slice_equal((call)->text, slice_str(err_text(error))); \
    } while (0)

#define assert_bytes(bytes, literal) \
    assert_slice_equal(slice_of((bytes).data, (bytes).len), SLICE_LIT(literal))

static inline ProtobufCBinaryData bytes_of(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, world_setup, world_teardown)

#endif
