/* etcd's semantics of writes, evaluated against a private state: one small scene per rule. */
#include "support.h"

#include "core/mem.h"
#include "store/internal.h"

struct scene {
    struct reclaim reclaim;
    struct cache *cache;
    struct rng rng;
    struct store_eval eval;
    struct arena arena;
};

static struct scene *scene_new(void)
{
    struct scene *scene = mem_alloc(sizeof(*scene));
    reclaim_init(&scene->reclaim);
    rng_seed(&scene->rng, support_seed());
    scene->cache = cache_new(&scene->reclaim);
    scene->eval.rng = &scene->rng;
    scene->eval.seq = 1;
    scene->eval.edit = cache_edit_begin(scene->cache);
    arena_init(&scene->eval.bytes, 1 << 20);
    arena_init(&scene->eval.scratch, 1 << 20);
    arena_init(&scene->arena, 1 << 16);
    return scene;
}

static void scene_free(struct scene *scene)
{
    cache_edit_drop(scene->eval.edit);
    arena_fini(&scene->eval.bytes);
    arena_fini(&scene->eval.scratch);
    arena_fini(&scene->arena);
    store_vec_fini(&scene->eval.rows);
    store_vec_fini(&scene->eval.effects);
    reclaim_fini(&scene->reclaim);
    cache_free(scene->cache);
    mem_free(scene);
}

static enum err run(struct scene *scene, struct store_request *request)
{
    request->arena = &scene->arena;
    return store_eval_request(&scene->eval, request);
}

static int64_t put(struct scene *scene, const char *key, const char *value, int64_t lease)
{
    struct store_request request = {
        .kind = STORE_PUT,
        .u.put = {.key = slice_str(key), .value = slice_str(value), .lease = lease}};
    assert_int_equal(run(scene, &request), ERR_OK);
    return request.revision;
}

static const struct cache_version *get(struct scene *scene, const char *key)
{
    const struct cache_version *version = NULL;
    assert_int_equal(cache_get(cache_edit_view(scene->eval.edit), slice_str(key), 0, &version),
                     ERR_OK);
    return version;
}

static void grant(struct scene *scene, int64_t id)
{
    struct store_request request = {.kind = STORE_LEASE_GRANT, .u.lease = {.id = id, .ttl_s = 5}};
    assert_int_equal(run(scene, &request), ERR_OK);
}

static const struct sql_row *last_row(const struct scene *scene)
{
    return store_vec_last(&scene->eval.rows, sizeof(struct sql_row));
}

/* ---- put and delete ------------------------------------------------------------------------- */

static void versions_count_from_a_keys_creation(void **state)
{
    struct scene *scene = scene_new();
    (void)state;
    assert_int_equal(put(scene, "a", "1", 0), 2);
    assert_int_equal(put(scene, "a", "2", 0), 3);
    assert_int_equal(cache_version_version(get(scene, "a")), 2);
    assert_int_equal(cache_version_create_rev(get(scene, "a")), 2);
    assert_int_equal(last_row(scene)->prev_rev, 2);
    struct store_request del = {.kind = STORE_DELETE, .u.del = {.key = SLICE_LIT("a")}};
    assert_int_equal(run(scene, &del), ERR_OK);
    assert_int_equal(del.revision, 4);
    assert_int_equal(del.answer.del.deleted, 1);
    assert_null(del.answer.del.prevs);
    assert_int_equal(last_row(scene)->prev_rev, 3);
    assert_int_equal(run(scene, &del), ERR_OK); /* Nothing there: no revision. */
    assert_int_equal(del.revision, 4);
    assert_int_equal(del.answer.del.deleted, 0);
    assert_int_equal(put(scene, "a", "3", 0), 5);
    assert_int_equal(cache_version_version(get(scene, "a")), 1);
    assert_int_equal(cache_version_create_rev(get(scene, "a")), 5);
    assert_int_equal(last_row(scene)->prev_rev, 0);
    scene_free(scene);
}

static void put_looks_at_the_lease_first_then_at_the_key(void **state)
{
    static const struct {
        int64_t lease;
        bool ignore_value;
        bool ignore_lease;
        const char *key;
        enum err err;
    } table[] = {
        {9, true, false, "none", ERR_LEASE_NOT_FOUND},
        {0, true, false, "none", ERR_KEY_NOT_FOUND},
        {0, false, true, "none", ERR_KEY_NOT_FOUND},
        {9, false, false, "a", ERR_LEASE_NOT_FOUND},
        {-7, false, false, "a", ERR_OK},
        {0, true, true, "a", ERR_OK},
    };
    struct scene *scene = scene_new();
    (void)state;
    grant(scene, -7);
    (void)put(scene, "a", "1", -7);
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        uint32_t rows = scene->eval.rows.count;
        struct store_request request = {.kind = STORE_PUT,
                                        .u.put = {.key = slice_str(table[i].key),
                                                  .lease = table[i].lease,
                                                  .ignore_value = table[i].ignore_value,
                                                  .ignore_lease = table[i].ignore_lease}};
        assert_int_equal(run(scene, &request), table[i].err);
        assert_int_equal(scene->eval.rows.count, rows + (table[i].err == ERR_OK));
    }
    scene_free(scene);
}

static void ignore_keeps_what_is_there_and_lease_zero_detaches(void **state)
{
    struct scene *scene = scene_new();
    (void)state;
    grant(scene, 7);
    (void)put(scene, "a", "1", 7);
    struct store_request keep_value = {
        .kind = STORE_PUT, .u.put = {.key = SLICE_LIT("a"), .ignore_value = true, .lease = 7}};
    assert_int_equal(run(scene, &keep_value), ERR_OK);
    assert_slice_equal(cache_version_value(get(scene, "a")), SLICE_LIT("1"));
    struct store_request keep_lease = {
        .kind = STORE_PUT,
        .u.put = {
            .key = SLICE_LIT("a"), .value = SLICE_LIT("2"), .ignore_lease = true, .prev_kv = true}};
    assert_int_equal(run(scene, &keep_lease), ERR_OK);
    assert_int_equal(cache_version_lease(get(scene, "a")), 7);
    assert_slice_equal(cache_version_value(keep_lease.answer.put.prev), SLICE_LIT("1"));
    struct cache_lease lease;
    assert_true(cache_lease_get(cache_edit_view(scene->eval.edit), 7, &lease));
    assert_int_equal(lease.key_count, 1);
    (void)put(scene, "a", "3", 0);
    assert_true(cache_lease_get(cache_edit_view(scene->eval.edit), 7, &lease));
    assert_int_equal(lease.key_count, 0);
    scene_free(scene);
}

/* ---- transactions --------------------------------------------------------------------------- */

/* Compare |target| of "a" (or "none") with |number|. */
static void compares_hold_as_in_etcd(void **state)
{
    static const struct {
        const char *key;
        const char *end;
        enum store_compare_target target;
        enum store_compare_result result;
        int64_t number;
        const char *value;
        bool holds;
    } table[] = {
        {"a", "", STORE_VERSION, STORE_EQUAL, 2, "", true},
        {"a", "", STORE_VERSION, STORE_GREATER, 1, "", true},
        {"a", "", STORE_VERSION, STORE_LESS, 2, "", false},
        {"a", "", STORE_CREATE, STORE_EQUAL, 2, "", true},
        {"a", "", STORE_MOD, STORE_EQUAL, 3, "", true},
        {"a", "", STORE_MOD, STORE_NOT_EQUAL, 3, "", false},
        {"a", "", STORE_LEASE, STORE_EQUAL, 7, "", true},
        {"a", "", STORE_VALUE, STORE_EQUAL, 0, "v", true},
        {"a", "", STORE_VALUE, STORE_LESS, 0, "w", true},
        {"none", "", STORE_VERSION, STORE_EQUAL, 0, "", true},
        {"none", "", STORE_CREATE, STORE_LESS, 1, "", true},
        {"none", "", STORE_LEASE, STORE_EQUAL, 0, "", true},
        {"none", "", STORE_VALUE, STORE_EQUAL, 0, "", false},
        {"none", "", STORE_VALUE, STORE_NOT_EQUAL, 0, "x", false},
        {"a", "c", STORE_VERSION, STORE_GREATER, 0, "", true},
        {"a", "c", STORE_VERSION, STORE_GREATER, 1, "", false},
        {"a", "c", STORE_VALUE, STORE_EQUAL, 0, "v", true},
        {"x", "z", STORE_VERSION, STORE_EQUAL, 0, "", true},
        {"x", "z", STORE_VALUE, STORE_EQUAL, 0, "", false},
        {"a", "a", STORE_VERSION, STORE_EQUAL, 0, "", true},
        {"a", "", (enum store_compare_target)9, STORE_EQUAL, 5, "", true},
        {"a", "", STORE_VERSION, (enum store_compare_result)9, 5, "", true},
    };
    struct scene *scene = scene_new();
    (void)state;
    grant(scene, 7);
    (void)put(scene, "a", "u", 0);
    (void)put(scene, "a", "v", 7);
    (void)put(scene, "b", "v", 0);
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        struct store_compare compare = {.result = table[i].result,
                                        .target = table[i].target,
                                        .key = slice_str(table[i].key),
                                        .range_end = slice_str(table[i].end),
                                        .number = table[i].number,
                                        .value = slice_str(table[i].value)};
        struct store_request request = {.kind = STORE_TXN,
                                        .u.txn = {.compares = &compare, .compare_count = 1}};
        assert_int_equal(run(scene, &request), ERR_OK);
        if (request.answer.txn.succeeded != table[i].holds) {
            fail_msg("row %u", i);
        }
        assert_int_equal(request.revision, 4);
    }
    scene_free(scene);
}

static void every_compare_looks_at_the_state_before_and_ranges_see_earlier_writes(void **state)
{
    struct scene *scene = scene_new();
    (void)state;
    (void)put(scene, "a", "1", 0);
    struct store_compare a_is_1 = {.target = STORE_VALUE,
                                   .result = STORE_EQUAL,
                                   .key = SLICE_LIT("a"),
                                   .value = SLICE_LIT("1")};
    struct store_put put_a = {.key = SLICE_LIT("a"), .value = SLICE_LIT("2"), .prev_kv = true};
    struct store_put put_b = {.key = SLICE_LIT("b"), .value = SLICE_LIT("3"), .prev_kv = true};
    struct store_range all = {.key = SLICE_LIT("\0"), .range_end = SLICE_LIT("\0")};
    struct store_range old = {.key = SLICE_LIT("a"), .revision = 2};
    struct store_op inner_ops[] = {{.kind = STORE_OP_PUT, .u.put = &put_b},
                                   {.kind = STORE_OP_RANGE, .u.range = &old}};
    struct store_txn inner = {
        .compares = &a_is_1, .compare_count = 1, .success = inner_ops, .success_count = 2};
    struct store_op ops[] = {{.kind = STORE_OP_RANGE, .u.range = &all},
                             {.kind = STORE_OP_PUT, .u.put = &put_a},
                             {.kind = STORE_OP_TXN, .u.txn = &inner},
                             {.kind = STORE_OP_RANGE, .u.range = &all}};
    struct store_request request = {
        .kind = STORE_TXN,
        .u.txn = {.compares = &a_is_1, .compare_count = 1, .success = ops, .success_count = 4}};
    assert_int_equal(run(scene, &request), ERR_OK);
    const struct store_txn_answer *answer = &request.answer.txn;
    assert_int_equal(request.revision, 3);
    assert_true(answer->succeeded);
    assert_int_equal(answer->op_count, 4);
    assert_int_equal(answer->ops[0].u.range.kv_count, 1);
    assert_int_equal(answer->ops[0].revision, 2);
    assert_int_equal(answer->ops[1].revision, 3);
    assert_slice_equal(cache_version_value(answer->ops[1].u.put.prev), SLICE_LIT("1"));
    const struct store_txn_answer *nested = answer->ops[2].u.txn;
    assert_true(nested->succeeded); /* Although a is 2 by now. */
    assert_null(nested->ops[0].u.put.prev);
    assert_slice_equal(cache_version_value(nested->ops[1].u.range.kvs[0]), SLICE_LIT("1"));
    assert_int_equal(answer->ops[3].u.range.kv_count, 2);
    assert_int_equal(answer->ops[3].revision, 3);
    assert_int_equal(last_row(scene)->sub, 1);
    assert_int_equal(last_row(scene)->revision, 3);
    scene_free(scene);
}

static void one_bad_operation_leaves_nothing_behind(void **state)
{
    static const struct {
        int64_t revision;
        enum err err;
    } table[] = {
        {0, ERR_OK},        {4, ERR_OK}, {5, ERR_FUTURE_REV},
        {2, ERR_COMPACTED}, {3, ERR_OK}, {-1, ERR_COMPACTED}, /* Unlike in a Range of its own. */
    };
    struct scene *scene = scene_new();
    (void)state;
    (void)put(scene, "a", "1", 0);
    (void)put(scene, "a", "2", 0);
    (void)put(scene, "a", "3", 0);
    struct store_request compact = {.kind = STORE_COMPACT, .u.compact = {.revision = 3}};
    assert_int_equal(run(scene, &compact), ERR_OK);
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        struct store_range range = {.key = SLICE_LIT("a"), .revision = table[i].revision};
        struct store_delete del = {.key = SLICE_LIT("zz")};
        struct store_put bad = {.key = SLICE_LIT("b"), .lease = 99};
        struct store_op ops[] = {{.kind = STORE_OP_DELETE, .u.del = &del},
                                 {.kind = STORE_OP_RANGE, .u.range = &range}};
        struct store_request request = {.kind = STORE_TXN,
                                        .u.txn = {.success = ops, .success_count = 2}};
        uint32_t rows = scene->eval.rows.count;
        assert_int_equal(run(scene, &request), table[i].err);
        ops[0] = (struct store_op){.kind = STORE_OP_PUT, .u.put = &bad};
        assert_int_equal(run(scene, &request), ERR_LEASE_NOT_FOUND);
        assert_int_equal(scene->eval.rows.count, rows);
        assert_int_equal(cache_edit_info(scene->eval.edit)->revision, 4);
    }
    scene_free(scene);
}

static void an_answer_too_large_is_refused_before_anything_is_written(void **state)
{
    struct scene *scene = scene_new();
    (void)state;
    for (uint32_t i = 0; i < 200; i++) {
        char key[8];
        (void)snprintf(key, sizeof(key), "%03u", i);
        (void)put(scene, key, "v", 0);
    }
    struct store_put first = {.key = SLICE_LIT("a"), .value = SLICE_LIT("1")};
    struct store_range all = {.key = SLICE_LIT("\0"), .range_end = SLICE_LIT("\0")};
    struct store_op ops[] = {{.kind = STORE_OP_PUT, .u.put = &first},
                             {.kind = STORE_OP_RANGE, .u.range = &all}};
    struct store_request request = {.kind = STORE_TXN,
                                    .u.txn = {.success = ops, .success_count = 2}};
    arena_fini(&scene->arena);
    arena_init(&scene->arena, 2048);
    assert_int_equal(run(scene, &request), ERR_REQUEST_TOO_LARGE);
    assert_null(get(scene, "a"));
    scene_free(scene);
}

static void a_put_may_be_deleted_behind_an_open_end_in_the_same_revision(void **state)
{
    struct scene *scene = scene_new();
    (void)state;
    struct store_put first = {.key = SLICE_LIT("b"), .value = SLICE_LIT("1")};
    struct store_delete del = {
        .key = SLICE_LIT("a"), .range_end = SLICE_LIT("\0"), .prev_kv = true};
    struct store_op ops[] = {{.kind = STORE_OP_PUT, .u.put = &first},
                             {.kind = STORE_OP_DELETE, .u.del = &del}};
    struct store_request request = {.kind = STORE_TXN,
                                    .u.txn = {.success = ops, .success_count = 2}};
    assert_int_equal(store_txn_check(&request.u.txn, 128), ERR_OK);
    assert_int_equal(run(scene, &request), ERR_OK);
    assert_int_equal(request.answer.txn.ops[1].u.del.deleted, 1);
    assert_int_equal(scene->eval.rows.count, 2);
    assert_int_equal(last_row(scene)->prev_rev, 2);
    assert_int_equal(last_row(scene)->prev_sub, 0);
    assert_int_equal(last_row(scene)->sub, 1);
    assert_null(get(scene, "b"));
    scene_free(scene);
}

static void a_read_only_transaction_runs_on_a_snapshot(void **state)
{
    struct scene *scene = scene_new();
    (void)state;
    (void)put(scene, "a", "1", 0);
    struct store_compare compare = {
        .target = STORE_VERSION, .result = STORE_EQUAL, .key = SLICE_LIT("a"), .number = 1};
    struct store_range range = {.key = SLICE_LIT("a")};
    struct store_op op = {.kind = STORE_OP_RANGE, .u.range = &range};
    struct store_txn txn = {
        .compares = &compare, .compare_count = 1, .success = &op, .success_count = 1};
    struct store_txn_answer answer;
    int64_t revision = 0;
    const struct cache_snapshot *view = cache_edit_view(scene->eval.edit);
    assert_int_equal(store_txn_run_readonly(view, &txn, &scene->arena, &answer, &revision), ERR_OK);
    assert_int_equal(revision, 2);
    assert_true(answer.succeeded);
    assert_int_equal(answer.ops[0].u.range.count, 1);
    range.revision = 3;
    assert_int_equal(store_txn_run_readonly(view, &txn, &scene->arena, &answer, &revision),
                     ERR_FUTURE_REV);
    scene_free(scene);
}

/* ---- leases and compaction ------------------------------------------------------------------ */

static void grants_follow_etcds_rules(void **state)
{
    static const struct {
        int64_t id;
        int64_t ttl_s;
        enum err err;
        int64_t granted_s;
    } table[] = {
        {1, 0, ERR_OK, 2},
        {2, -5, ERR_OK, 2},
        {3, 1, ERR_OK, 2},
        {4, 3, ERR_OK, 3},
        {-5, 3, ERR_OK, 3},
        {6, INT64_C(9000000000), ERR_OK, INT64_C(9000000000)},
        {7, INT64_C(9000000001), ERR_LEASE_TTL_TOO_LARGE, 0},
        {4, INT64_C(9000000001), ERR_LEASE_TTL_TOO_LARGE, 0},
        {4, 3, ERR_LEASE_EXIST, 0},
        {0, 3, ERR_OK, 3},
    };
    struct scene *scene = scene_new();
    (void)state;
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        struct store_request request = {.kind = STORE_LEASE_GRANT,
                                        .u.lease = {.id = table[i].id, .ttl_s = table[i].ttl_s}};
        assert_int_equal(run(scene, &request), table[i].err);
        assert_int_equal(request.answer.lease.ttl_s, table[i].granted_s);
        assert_int_equal(request.revision, 1);
        if (table[i].err == ERR_OK) {
            assert_true(table[i].id == 0 ? request.answer.lease.id > 0
                                         : request.answer.lease.id == table[i].id);
        }
    }
    scene_free(scene);
}

static void a_revoke_deletes_its_keys_in_order_in_one_revision(void **state)
{
    struct scene *scene = scene_new();
    (void)state;
    grant(scene, 7);
    (void)put(scene, "c", "1", 7);
    (void)put(scene, "a", "1", 7);
    (void)put(scene, "b", "1", 0);
    struct store_request request = {.kind = STORE_LEASE_REVOKE, .u.lease = {.id = 7}};
    scene->eval.effects.count = 0; /* As in the next entry. */
    uint32_t rows = scene->eval.rows.count;
    assert_int_equal(run(scene, &request), ERR_OK);
    assert_int_equal(request.revision, 5);
    const struct sql_row *made = (const struct sql_row *)scene->eval.rows.items + rows;
    assert_int_equal(scene->eval.rows.count, rows + 2);
    assert_slice_equal(made[0].key, SLICE_LIT("a"));
    assert_slice_equal(made[1].key, SLICE_LIT("c"));
    assert_true(made[0].is_delete && made[1].is_delete && made[1].sub == 1);
    assert_int_equal(run(scene, &request), ERR_LEASE_NOT_FOUND);
    struct store_request empty = {.kind = STORE_LEASE_GRANT, .u.lease = {.id = 8}};
    assert_int_equal(run(scene, &empty), ERR_OK);
    request.u.lease.id = 8;
    assert_true(store_eval_must_wait(&scene->eval, &request)); /* One effect a lease and entry. */
    scene->eval.effects.count = 0;
    assert_false(store_eval_must_wait(&scene->eval, &request));
    assert_int_equal(run(scene, &request), ERR_OK); /* Without keys: no revision. */
    assert_int_equal(request.revision, 5);
    scene_free(scene);
}

static void compaction_says_compacted_and_future(void **state)
{
    static const struct {
        int64_t revision;
        enum err err;
    } table[] = {
        {-1, ERR_COMPACTED}, {0, ERR_OK},        {0, ERR_COMPACTED}, {4, ERR_FUTURE_REV},
        {3, ERR_OK},         {3, ERR_COMPACTED}, {2, ERR_COMPACTED},
    };
    struct scene *scene = scene_new();
    (void)state;
    (void)put(scene, "a", "1", 0);
    (void)put(scene, "a", "2", 0);
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        struct store_request request = {.kind = STORE_COMPACT,
                                        .u.compact = {.revision = table[i].revision}};
        assert_int_equal(run(scene, &request), table[i].err);
        assert_int_equal(request.revision, 3);
    }
    scene_free(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_count_from_a_keys_creation),
        cmocka_unit_test(put_looks_at_the_lease_first_then_at_the_key),
        cmocka_unit_test(ignore_keeps_what_is_there_and_lease_zero_detaches),
        cmocka_unit_test(compares_hold_as_in_etcd),
        cmocka_unit_test(every_compare_looks_at_the_state_before_and_ranges_see_earlier_writes),
        cmocka_unit_test(one_bad_operation_leaves_nothing_behind),
        cmocka_unit_test(an_answer_too_large_is_refused_before_anything_is_written),
        cmocka_unit_test(a_put_may_be_deleted_behind_an_open_end_in_the_same_revision),
        cmocka_unit_test(a_read_only_transaction_runs_on_a_snapshot),
        cmocka_unit_test(grants_follow_etcds_rules),
        cmocka_unit_test(a_revoke_deletes_its_keys_in_order_in_one_revision),
        cmocka_unit_test(compaction_says_compacted_and_future),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
