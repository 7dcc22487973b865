/*
 * Goal: from the bytes of a Range to the bytes of its answer an io thread takes no lock, makes no
 * atomic read-modify-write and no system call: reads grow with the threads.
 * Method: the handler runs in a child process, stepped instruction by instruction from on_message
 * to rpc_reply.
 */
#include "support_api_fake.h"
#include "support_stepper.h"

static Etcdserverpb__RangeRequest request;
static bool was_answered;

static void answer_once(bool is_counted)
{
    struct rpc_call *call = call_new("/etcdserverpb.KV/Range");
    size_t size = etcdserverpb__range_request__get_packed_size(&request);
    uint8_t *bytes = arena_alloc_bytes(&call->arena, size + 1);
    size_t packed = etcdserverpb__range_request__pack(&request, bytes);
    if (is_counted) {
        fake_on_reply = stepper_end;
        stepper_begin();
    }
    call->method->on_message(call, slice_of(bytes, packed));
    fake_on_reply = NULL;
    was_answered = call->replied;
    call_end(call);
}

static void run(void *arg)
{
    (void)arg;
    answer_once(false); /* The thread's block of counters and its arena are made at first use. */
    answer_once(true);
}

static struct stepper_count count_range(void)
{
    struct stepper_count count = {0};
    was_answered = false;
    answer_once(false);
    assert_true(was_answered);
    assert_true(stepper_run(run, NULL, &count));
    return count;
}

static void a_range_takes_no_lock(void **state)
{
    (void)state;
    const char *why = NULL;
    if (!stepper_is_usable(&why)) {
        print_message("not counted: %s\n", why);
        skip();
    }
    for (uint32_t i = 0; i < 100; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "key/%03u", i);
        world_put(key, "a value of some length");
        world_put(key, "and a newer one");
    }
    world_turn();
    const struct {
        const char *key, *end;
        int64_t limit, revision;
        bool keys_only, count_only;
    } cases[] = {
        {"key/042", "", 0, 0, false, false},   {"missing", "", 0, 0, false, false},
        {"key/", "key0", 0, 0, false, false},  {"key/", "key0", 10, 0, false, false},
        {"key/", "key0", 0, 0, true, false},   {"key/", "key0", 0, 0, false, true},
        {"key/042", "", 0, 100, false, false}, {"key/", "key0", 20, 100, false, false},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        etcdserverpb__range_request__init(&request);
        request.serializable = 1;
        request.key = bytes_of(cases[i].key);
        request.range_end = bytes_of(cases[i].end);
        request.limit = cases[i].limit;
        request.revision = cases[i].revision;
        request.keys_only = cases[i].keys_only;
        request.count_only = cases[i].count_only;
        struct stepper_count count = count_range();
        print_message("case %zu: %llu instructions\n", i, (unsigned long long)count.instructions);
        assert_true(count.instructions > 100);
        assert_int_equal(count.locked, 0);
        assert_int_equal(count.exchanges, 0);
        assert_int_equal(count.syscalls, 0);
    }
}

/* Ten keys "<prefix>N" whose answer is at least |size| bytes, and little more. */
static void put_ten(const char *prefix, size_t size)
{
    char *value = mem_alloc(size / 10 + 1);
    memset(value, 'v', size / 10);
    for (uint32_t i = 0; i < 10; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "%s%u", prefix, i);
        world_put(key, value);
    }
    mem_free(value);
}

static void only_large_answers_take_memory(void **state)
{
    (void)state;
    const char *why = NULL;
    if (!stepper_is_usable(&why)) {
        print_message("not counted: %s\n", why);
        skip();
    }
    put_ten("56k/", 56 * 1024);
    put_ten("200k/", 200 * 1024);
    world_turn();
    /* The second asks the allocator for a larger block, and gives it back; each may lock, be
     * answered by the kernel, and unlock. */
    const struct {
        const char *key, *end;
        uint64_t most;
    } cases[] = {{"56k/", "56k0", 0}, {"200k/", "200k0", 2 * 4}};
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        etcdserverpb__range_request__init(&request);
        request.serializable = 1;
        request.key = bytes_of(cases[i].key);
        request.range_end = bytes_of(cases[i].end);
        struct stepper_count count = count_range();
        uint64_t felt = count.locked + count.exchanges + count.syscalls;
        print_message("%s: %llu instructions, others feel %llu\n", cases[i].key,
                      (unsigned long long)count.instructions, (unsigned long long)felt);
        assert_true(felt <= cases[i].most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_range_takes_no_lock),
        CASE(only_large_answers_take_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
