/*
 * Goal: no lock, no atomic read-modify-write and no system call between having a Range's key and
 * having its versions, count and bytes.
 * Method: a child is single-stepped through a whole read of thousands of keys, and every
 * instruction is looked at. A canary that does one atomic addition must be counted, or the counting
 * is blind.
 */
#include "support.h"
#include "support_stepper.h"

#include <pthread.h>
#include <unistd.h>

#include "cache/cache.h"
#include "core/mem.h"

enum { KEYS = 3000, FEW = 40 };

struct world {
    struct reclaim reclaim;
    struct reclaim_reader reader;
    struct cache *cache;
};

static struct slice key_of(uint8_t key[4], uint32_t index)
{
    key[0] = '/';
    key[1] = 'k';
    key[2] = (uint8_t)(index >> 8);
    key[3] = (uint8_t)index;
    return slice_of(key, 4);
}

static void write_keys(struct cache *cache, int64_t revision)
{
    struct cache_edit *edit = cache_edit_begin(cache);
    for (uint32_t i = 0; i < KEYS; i++) {
        uint8_t key[4];
        struct cache_row row = {.revision = revision,
                                .sub = (int32_t)i,
                                .is_delete = revision == 3 && i % 50 == 0,
                                .key = key_of(key, i),
                                .value = SLICE_LIT("value"),
                                .create_rev = 2,
                                .version = revision - 1,
                                .lease = 5};
        (void)cache_edit_apply(edit, &row);
    }
    cache_edit_grant(edit, 5, 60, 1);
    cache_edit_publish(edit);
}

static struct world *world_new(void)
{
    struct world *world = mem_alloc(sizeof(*world));
    reclaim_init(&world->reclaim);
    reclaim_add_reader(&world->reclaim, &world->reader);
    world->cache = cache_new(&world->reclaim);
    write_keys(world->cache, 2);
    write_keys(world->cache, 3);
    /* Revision 2 is no ring hit, so that history is read. */
    for (int64_t rev = 4; rev < 4 + 2 * LIMIT_SNAPSHOT_RING; rev++) {
        struct cache_edit *edit = cache_edit_begin(world->cache);
        cache_edit_set_revision(edit, rev);
        cache_edit_publish(edit);
    }
    return world;
}

static void world_free(struct world *world)
{
    cache_free(world->cache);
    reclaim_fini(&world->reclaim);
    mem_free(world);
}

/* What a Range of the first |keys| keys does at |at_rev|, in whole or by keys_only. */
static uint64_t read_range(const struct cache_snapshot *snapshot, uint32_t keys, int64_t at_rev,
                           bool keys_only)
{
    uint64_t sum = 0;
    uint8_t end[4];
    uint8_t middle[4];
    struct cache_range range = cache_range_of(SLICE_LIT("/"), key_of(end, keys));
    struct cache_walk walk;
    if (cache_walk_begin(&walk, snapshot, &range, at_rev) != ERR_OK) {
        return 0;
    }
    const struct cache_version *version = cache_walk_next(&walk);
    for (; version != NULL; version = cache_walk_next(&walk)) {
        if (keys_only) {
            sum += cache_version_encoded_head(version).size;
            sum += cache_version_encoded_lease(version).size;
        } else {
            sum += cache_version_encoded(version).size;
        }
    }
    uint64_t count = 0;
    const struct cache_version *one = NULL;
    enum err err = cache_count(snapshot, &range, at_rev, &count);
    err = err == ERR_OK ? cache_get(snapshot, key_of(middle, 7), at_rev, &one) : err;
    return err == ERR_OK && one != NULL ? sum + count : 0;
}

/* A whole turn, from the epoch to the announcement. */
static uint64_t read_turn(struct world *world, uint32_t keys)
{
    uint64_t epoch = reclaim_reader_load(&world->reader);
    const struct cache_snapshot *snapshot = cache_snapshot(world->cache);
    uint64_t sum = read_range(snapshot, keys, 0, false);
    sum += read_range(snapshot, FEW, 0, true);
    sum += read_range(snapshot, FEW, 2, false);
    reclaim_reader_announce(&world->reader, epoch);
    return sum;
}

static void read_all(void *arg)
{
    struct world *world = arg;
    (void)read_turn(world, 1); /* Calls into libraries are bound at the first time. */
    stepper_begin();
    uint64_t sum = read_turn(world, KEYS);
    stepper_end();
    if (sum < 2 * KEYS) {
        _exit(1); /* Nothing was read. */
    }
}

static void add_once(void *arg)
{
    static _Atomic uint64_t counter;
    (void)read_turn(arg, 1);
    stepper_begin();
    (void)read_turn(arg, 1);
    atomic_fetch_add(&counter, 1);
    stepper_end();
}

static void lock_and_unlock(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    (void)pthread_mutex_lock(&mutex);
    (void)pthread_mutex_unlock(&mutex);
}

static void lock_once(void *arg)
{
    (void)arg;
    lock_and_unlock();
    stepper_begin();
    lock_and_unlock();
    stepper_end();
}

static void exchange_and_call(void *arg)
{
    static _Atomic uint64_t word;
    (void)arg;
    (void)getppid();
    stepper_begin();
    (void)atomic_exchange(&word, 5);
    (void)getppid();
    stepper_end();
}

static void skip_unless_usable(void)
{
    const char *why = NULL;
    if (!stepper_is_usable(&why)) {
        print_message("skipped: %s\n", why);
        skip();
    }
}

static struct stepper_count count_in(void (*run)(void *arg), void *arg)
{
    struct stepper_count count;
    assert_true(stepper_run(run, arg, &count));
    for (uint32_t i = 0; i < count.seen_count; i++) {
        print_message("at %#llx (stepper_begin is at %#llx)\n", (unsigned long long)count.seen[i],
                      (unsigned long long)(uintptr_t)&stepper_begin);
    }
    return count;
}

static void a_range_is_read_without_locks(void **state)
{
    (void)state;
    skip_unless_usable();
    struct world *world = world_new();
    struct stepper_count count = count_in(read_all, world);
    print_message("%llu instructions for %d keys\n", (unsigned long long)count.instructions, KEYS);
    assert_true(count.instructions > 20 * KEYS);
    assert_int_equal(count.locked, 0);
    assert_int_equal(count.exchanges, 0);
    assert_int_equal(count.syscalls, 0);
    world_free(world);
}

static void the_canaries_are_counted(void **state)
{
    (void)state;
    skip_unless_usable();
    struct world *world = world_new();
    struct stepper_count count = count_in(add_once, world);
    assert_int_equal(count.locked, 1);
    assert_int_equal(count.exchanges + count.syscalls, 0);
    count = count_in(lock_once, world);
    assert_true(count.locked + count.exchanges >= 2);
    count = count_in(exchange_and_call, world);
    assert_int_equal(count.exchanges, 1);
    assert_int_equal(count.syscalls, 1);
    world_free(world);
}

static void instructions_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        uint8_t bytes[6];
        enum stepper_kind kind;
    } cases[] = {
        {{0xf0, 0x48, 0x0f, 0xc1, 0x07}, STEPPER_LOCKED},      /* lock xadd [rdi], rax */
        {{0x66, 0xf0, 0x0f, 0xb1, 0x07}, STEPPER_LOCKED},      /* lock cmpxchg [rdi], ax */
        {{0xf2, 0x3e, 0xf0, 0xff, 0x07}, STEPPER_LOCKED},      /* xacquire ds lock inc [rdi] */
        {{0x48, 0x87, 0x07}, STEPPER_EXCHANGE},                /* xchg [rdi], rax */
        {{0x86, 0x47, 0x08}, STEPPER_EXCHANGE},                /* xchg [rdi+8], al */
        {{0x48, 0x87, 0xc3}, STEPPER_PLAIN},                   /* xchg rbx, rax */
        {{0x0f, 0x05}, STEPPER_SYSCALL},                       /* syscall */
        {{0xcd, 0x80}, STEPPER_SYSCALL},                       /* int 0x80 */
        {{0xb8, 0xf0, 0x00, 0x00, 0x00}, STEPPER_PLAIN},       /* mov eax, 0xf0 */
        {{0xf3, 0x0f, 0x1e, 0xfa}, STEPPER_PLAIN},             /* endbr64 */
        {{0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84}, STEPPER_PLAIN}, /* nop */
        {{0x90}, STEPPER_PLAIN},                               /* nop */
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++) {
        assert_int_equal(stepper_decode(cases[i].bytes, sizeof(cases[i].bytes)), cases[i].kind);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(instructions_are_told_apart),
        cmocka_unit_test(a_range_is_read_without_locks),
        cmocka_unit_test(the_canaries_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
