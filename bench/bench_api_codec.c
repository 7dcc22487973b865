/*
 * A Range from the bytes of its request to the bytes of its answer, on one thread: decoding, a
 * point read, a page, a whole list, keys alone; beside it protobuf-c's own decoding, and the
 * encoding of an event.
 */
#include "bench.h"

#include "api/codec.h"
#include "api/decode.h"
#include "api/request.h"
#include "core/mem.h"

static struct reclaim reclaim;
static struct cache *cache;
static struct arena arena;
static struct api_out out;

static void fill(uint64_t keys, uint64_t value_size)
{
    uint8_t *value = mem_alloc(value_size + 1);
    struct cache_edit *edit = cache_edit_begin(cache);
    for (uint64_t i = 0; i < keys; i++) {
        char key[64];
        int size =
            snprintf(key, sizeof(key), "/registry/pods/default/pod-%08llu", (unsigned long long)i);
        struct cache_row row = {
            .revision = 2 + (int64_t)i,
            .key = slice_of(key, (size_t)size),
            .value = slice_of(value, value_size),
            .create_rev = 2 + (int64_t)i,
            .version = 1,
        };
        (void)cache_edit_apply(edit, &row);
    }
    cache_edit_publish(edit);
    mem_free(value);
}

static struct slice packed(const Etcdserverpb__RangeRequest *request)
{
    size_t size = etcdserverpb__range_request__get_packed_size(request);
    uint8_t *bytes = mem_alloc(size + 1);
    size_t written = etcdserverpb__range_request__pack(request, bytes);
    ASSERT(written == size);
    return slice_of(bytes, size);
}

static uint64_t decode_ours(struct slice wire)
{
    enum api_decode_result result;
    arena_reset(&arena);
    const Etcdserverpb__RangeRequest *request =
        api_decode(wire, &etcdserverpb__range_request__descriptor, &arena, &result);
    ASSERT(request != NULL);
    return request->key.len;
}

static uint64_t decode_protobuf_c(struct slice wire)
{
    Etcdserverpb__RangeRequest *request =
        etcdserverpb__range_request__unpack(NULL, wire.size, wire.data);
    ASSERT(request != NULL);
    uint64_t size = request->key.len;
    etcdserverpb__range_request__free_unpacked(request, NULL);
    return size;
}

/* The way of kv.c's Range, without rpc. */
static uint64_t answer(struct slice wire)
{
    enum api_decode_result result;
    arena_reset(&arena);
    const Etcdserverpb__RangeRequest *request =
        api_decode(wire, &etcdserverpb__range_request__descriptor, &arena, &result);
    ASSERT(request != NULL);
    struct store_range range;
    api_range_from(request, &range);
    enum err err = store_range_check(&range);
    ASSERT(err == ERR_OK);
    struct api_header header = {1, 2, 0, 3};
    api_out_begin(&out);
    err = api_range_answer(cache_snapshot(cache), &header, &range, &arena, &out);
    ASSERT(err == ERR_OK);
    uint64_t size = api_out_size(&out);
    size_t parts = 0;
    (void)api_out_parts(&out, &parts);
    api_out_end(&out);
    return size;
}

static void measure(const char *name, uint64_t rounds, uint64_t (*run)(struct slice wire),
                    struct slice wire)
{
    uint64_t checksum = 0;
    uint64_t start_ns = bench_now_ns();
    for (uint64_t i = 0; i < rounds; i++) {
        checksum = bench_mix(checksum, run(wire));
    }
    bench_report(name, rounds, bench_now_ns() - start_ns, checksum);
}

static ProtobufCBinaryData bytes_of(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

static void ranges(uint64_t rounds, uint64_t keys)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of("/registry/pods/default/pod-00000042");
    request.limit = 1;
    struct slice point = packed(&request);
    request.key = bytes_of("/registry/pods/");
    request.range_end = bytes_of("/registry/pods0");
    request.limit = 500;
    struct slice page = packed(&request);
    request.limit = 0;
    struct slice list = packed(&request);
    request.keys_only = 1;
    struct slice names = packed(&request);
    request.count_only = 1;
    struct slice count = packed(&request);

    measure("api/decode/range", rounds, decode_ours, point);
    measure("api/decode/range/protobuf-c", rounds, decode_protobuf_c, point);
    measure("api/range/point", rounds, answer, point);
    measure("api/range/count", rounds, answer, count);
    measure("api/range/page of 500", rounds / 100 + 1, answer, page);
    measure("api/range/list", rounds / keys + 1, answer, list);
    measure("api/range/keys only", rounds / keys + 1, answer, names);
    const struct slice all[] = {point, page, list, names, count};
    for (size_t i = 0; i < ARRAY_COUNT(all); i++) {
        mem_free((void *)(uintptr_t)all[i].data);
    }
}

static void events(uint64_t rounds)
{
    const struct cache_snapshot *snapshot = cache_snapshot(cache);
    uint8_t bytes[4096];
    uint64_t checksum = 0;
    uint64_t start_ns = bench_now_ns();
    uint64_t end = cache_snapshot_info(snapshot)->event_end;
    for (uint64_t i = 0; i < rounds; i++) {
        const struct cache_version *version = cache_event(snapshot, i % end);
        ASSERT(api_event_size(version, NULL) <= sizeof(bytes));
        const uint8_t *at = api_put_event(bytes, version, NULL);
        checksum = bench_mix(checksum, (uint64_t)(at - bytes));
    }
    bench_report("api/watch/event", rounds, bench_now_ns() - start_ns, checksum);
}

int main(void)
{
    uint64_t keys = bench_param("keys", 1000, 100000);
    uint64_t value_size = bench_param("value", 300, 300);
    uint64_t rounds = bench_param("rounds", 1000, 2000000);
    ASSERT(value_size < 3000);
    reclaim_init(&reclaim);
    cache = cache_new(&reclaim);
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    api_out_init(&out);
    fill(keys, value_size);
    ranges(rounds, keys);
    events(rounds);
    api_out_fini(&out);
    arena_fini(&arena);
    cache_free(cache);
    reclaim_fini(&reclaim);
    return 0;
}
