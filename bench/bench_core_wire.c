/* Varints and a KeyValue-shaped message, written and read back. */
#include "bench.h"

#include "core/clock.h"
#include "core/mem.h"
#include "core/wire.h"

/* Varints of every length, as revisions, tags and sizes have them. */
static void varints(uint64_t rounds)
{
    enum { COUNT = 1024 };
    uint64_t values[COUNT];
    uint8_t bytes[COUNT * WIRE_VARINT_SIZE_MAX];
    struct rng rng;
    rng_seed(&rng, 1);
    for (uint32_t i = 0; i < COUNT; i++) {
        values[i] = rng_next(&rng) >> rng_below(&rng, 64);
    }

    uint64_t start_ns = bench_now_ns();
    uint64_t checksum = 0;
    const uint8_t *end = bytes;
    for (uint64_t round = 0; round < rounds; round++) {
        uint8_t *at = bytes;
        for (uint32_t i = 0; i < COUNT; i++) {
            at = wire_put_varint(at, values[i] ^ (round & 1));
        }
        end = at;
        checksum = bench_mix(checksum, (uint64_t)(end - bytes));
    }
    bench_report("core/wire/varint/put", rounds * COUNT, bench_now_ns() - start_ns, checksum);

    start_ns = bench_now_ns();
    checksum = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        struct wire_reader reader = {bytes, end};
        uint64_t value;
        while (reader.at < reader.end && wire_get_varint(&reader, &value)) {
            checksum ^= value + round;
        }
        ASSERT(reader.at == reader.end);
    }
    bench_report("core/wire/varint/get", rounds * COUNT, bench_now_ns() - start_ns, checksum);
}

/* One KeyValue: key, three integers, value. Returns behind its last byte. */
static uint8_t *message_put(uint8_t *at, struct slice key, struct slice value, uint64_t revision)
{
    at = wire_put_tag(at, 1, WIRE_LEN);
    at = wire_put_varint(at, key.size);
    at = wire_put_bytes(at, key.data, key.size);
    for (uint32_t field = 2; field <= 4; field++) {
        at = wire_put_tag(at, field, WIRE_VARINT);
        at = wire_put_varint(at, revision);
    }
    at = wire_put_tag(at, 5, WIRE_LEN);
    at = wire_put_varint(at, value.size);
    return wire_put_bytes(at, value.data, value.size);
}

/* Walk the fields as a decoder does; unknown ones are skipped. */
static uint64_t message_get(const uint8_t *bytes, const uint8_t *end)
{
    struct wire_reader reader = {bytes, end};
    uint64_t sum = 0;
    while (reader.at < reader.end) {
        uint32_t field;
        enum wire_type type;
        struct slice payload;
        uint64_t value;
        bool ok = wire_get_tag(&reader, &field, &type);
        ASSERT(ok);
        if (type == WIRE_LEN && wire_get_len(&reader, &payload)) {
            sum += payload.size;
        } else if (type == WIRE_VARINT && field < 4 && wire_get_varint(&reader, &value)) {
            sum += value;
        } else {
            ok = wire_skip(&reader, field, type);
            ASSERT(ok);
        }
    }
    return sum;
}

static void messages(uint64_t rounds, size_t value_size)
{
    struct slice key = SLICE_LIT("/registry/pods/default/some-workload-7d4b9c6f5-x2x9p");
    uint8_t *value = mem_alloc(value_size + 1);
    uint8_t *bytes = mem_alloc(value_size + 256);

    uint64_t start_ns = bench_now_ns();
    uint64_t checksum = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        const uint8_t *end = message_put(bytes, key, slice_of(value, value_size), round + 1);
        checksum = bench_mix(checksum, message_get(bytes, end));
    }
    bench_report("core/wire/keyvalue/put+get", rounds, bench_now_ns() - start_ns, checksum);
    mem_free(bytes);
    mem_free(value);
}

static void utf8(uint64_t rounds)
{
    static const char text[] = "a name of ordinary length, with \xc3\xa4 and \xe2\x82\xac in it";
    uint64_t start_ns = bench_now_ns();
    uint64_t checksum = 0;
    for (uint64_t round = 0; round < rounds; round++) {
        size_t size = 1 + round % (sizeof(text) - 1);
        checksum = bench_mix(checksum, wire_utf8_is_valid(slice_of(text, size)));
    }
    bench_report("core/wire/utf8", rounds, bench_now_ns() - start_ns, checksum);
}

int main(void)
{
    uint64_t rounds = bench_param("rounds", 1000, 1000000);
    varints(rounds / 100 + 1);
    messages(rounds, bench_param("value_size", 256, 256));
    utf8(rounds);
    return 0;
}
