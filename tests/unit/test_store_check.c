/* Validity of requests: tables in etcd's order of errors, and random nests against a slow rule. */
#include "support.h"

#include "core/err.h"
#include "core/mem.h"
#include "store/store.h"

#define KEY(literal) SLICE_LIT(literal)

static void single_requests_say_what_is_wrong_first(void **state)
{
    (void)state;
    struct store_range range = {0};
    assert_int_equal(store_range_check(&range), ERR_EMPTY_KEY);
    range.key = KEY("a");
    assert_int_equal(store_range_check(&range), ERR_OK);
    range.sort_order = (enum store_sort_order)3;
    assert_int_equal(store_range_check(&range), ERR_INVALID_SORT_OPTION);
    range.sort_order = STORE_SORT_NONE;
    range.sort_target = (enum store_sort_target)5;
    assert_int_equal(store_range_check(&range), ERR_INVALID_SORT_OPTION);
    struct store_put put = {.value = KEY("v"), .ignore_value = true};
    assert_int_equal(store_put_check(&put), ERR_EMPTY_KEY);
    put.key = KEY("a");
    assert_int_equal(store_put_check(&put), ERR_VALUE_PROVIDED);
    put.ignore_value = false;
    put.ignore_lease = true;
    put.lease = -1;
    assert_int_equal(store_put_check(&put), ERR_LEASE_PROVIDED);
    put.lease = 0;
    assert_int_equal(store_put_check(&put), ERR_OK);
    struct store_delete del = {.range_end = KEY("b")};
    assert_int_equal(store_delete_check(&del), ERR_EMPTY_KEY);
}

/* ---- a small language: lists of ops as text ------------------------------------------------- */

/*
 * "pa" put a, "da" delete a, "[ac" delete [a, c), "ra" range a, "-" an empty op,
 * "(...|...)" a nested transaction: success | failure.
 */
enum { NODES_MAX = 200 };

struct parser {
    const char *at;
    struct store_op ops[NODES_MAX];
    struct store_put puts[NODES_MAX];
    struct store_delete dels[NODES_MAX];
    struct store_range ranges[NODES_MAX];
    struct store_txn txns[NODES_MAX];
    uint32_t op_count;
    uint32_t count;
};

/* One open parenthesis of the text. */
struct open {
    uint32_t txn;
    bool in_failure;
    struct store_op list[32];
    uint32_t list_count;
};

static void close_list(struct parser *parser, struct open *open)
{
    struct store_op *ops = &parser->ops[parser->op_count];
    memcpy(ops, open->list, open->list_count * sizeof(*ops));
    parser->op_count += open->list_count;
    struct store_txn *txn = &parser->txns[open->txn];
    if (open->in_failure) {
        txn->failure = ops;
        txn->failure_count = open->list_count;
    } else {
        txn->success = ops;
        txn->success_count = open->list_count;
    }
    open->list_count = 0;
}

static struct slice letter(const char *at)
{
    return slice_of(at, 1);
}

static struct store_op parse_leaf(struct parser *parser)
{
    uint32_t n = parser->count++;
    const char *at = parser->at;
    switch (*at) {
    case 'p':
        parser->at += 2;
        parser->puts[n] = (struct store_put){.key = letter(at + 1)};
        return (struct store_op){.kind = STORE_OP_PUT, .u.put = &parser->puts[n]};
    case 'd':
        parser->at += 2;
        parser->dels[n] = (struct store_delete){.key = letter(at + 1)};
        return (struct store_op){.kind = STORE_OP_DELETE, .u.del = &parser->dels[n]};
    case '[':
        parser->at += 3;
        parser->dels[n] = (struct store_delete){.key = letter(at + 1)};
        parser->dels[n].range_end = at[2] == '0' ? SLICE_LIT("\0") : letter(at + 2);
        return (struct store_op){.kind = STORE_OP_DELETE, .u.del = &parser->dels[n]};
    case 'r':
        parser->at += 2;
        parser->ranges[n] = (struct store_range){.key = letter(at + 1)};
        return (struct store_op){.kind = STORE_OP_RANGE, .u.range = &parser->ranges[n]};
    default:
        parser->at += 1;
        return (struct store_op){.kind = STORE_OP_NONE};
    }
}

/* The whole text is "success|failure". */
static const struct store_txn *parse(struct parser *parser, const char *text)
{
    static struct open stack[64];
    uint32_t depth = 1;
    memset(parser, 0, sizeof(*parser));
    stack[0] = (struct open){.txn = parser->count++};
    for (parser->at = text; *parser->at != '\0';) {
        struct open *top = &stack[depth - 1];
        if (*parser->at == '(') {
            uint32_t n = parser->count++;
            top->list[top->list_count++] =
                (struct store_op){.kind = STORE_OP_TXN, .u.txn = &parser->txns[n]};
            stack[depth++] = (struct open){.txn = n};
            parser->at++;
        } else if (*parser->at == '|') {
            close_list(parser, top);
            top->in_failure = true;
            parser->at++;
        } else if (*parser->at == ')') {
            close_list(parser, top);
            depth--;
            parser->at++;
        } else {
            top->list[top->list_count++] = parse_leaf(parser);
        }
    }
    close_list(parser, &stack[0]);
    return &parser->txns[0];
}

static void overlapping_keys_are_refused_as_in_etcd(void **state)
{
    static const struct {
        const char *text;
        enum err err;
    } table[] = {
        {"|", ERR_OK},
        {"papb|papb", ERR_OK},
        {"papa|", ERR_DUPLICATE_KEY},
        {"|papa", ERR_DUPLICATE_KEY},
        {"pada|", ERR_DUPLICATE_KEY},
        {"dapa|", ERR_DUPLICATE_KEY},
        {"dada|", ERR_OK},
        {"[acpa|", ERR_DUPLICATE_KEY},
        {"[acpb|", ERR_DUPLICATE_KEY},
        {"[acpc|", ERR_OK},
        {"[ac[bd|", ERR_OK},
        {"[ac[bdpc|", ERR_DUPLICATE_KEY},
        {"dc[acpc|", ERR_DUPLICATE_KEY},
        {"[a0pb|", ERR_OK}, /* "\0" is no open end for this check. */
        {"[capb|", ERR_OK}, /* An empty range. */
        {"rapa|", ERR_OK},
        {"pa(pb|)|", ERR_OK},
        {"pa(pa|)|", ERR_DUPLICATE_KEY},
        {"pa(|pa)|", ERR_DUPLICATE_KEY},
        {"(pa|pa)|", ERR_OK}, /* Branches exclude each other. */
        {"(pa|pa)pa|", ERR_DUPLICATE_KEY},
        {"(pa|)(pa|)|", ERR_DUPLICATE_KEY},
        {"(pa|)(|pa)|", ERR_DUPLICATE_KEY},
        {"(pa|)(pb|)|", ERR_OK},
        {"(pada|)|", ERR_DUPLICATE_KEY},
        {"da(pa|)|", ERR_DUPLICATE_KEY},
        {"(pa|)da|", ERR_DUPLICATE_KEY},
        {"(da|)pa|", ERR_DUPLICATE_KEY},
        {"(da|)(pa|)|", ERR_DUPLICATE_KEY},
        {"(pa|)(da|)|", ERR_OK}, /* A later sibling's delete is not looked at. */
        {"(da|pa)|", ERR_OK},
        {"((pa|)|)(pa|)|", ERR_DUPLICATE_KEY},
        {"((pa|pb)|pa)|", ERR_OK},
        {"((|(|pa)))pa|", ERR_DUPLICATE_KEY},
        {"-|", ERR_KEY_NOT_FOUND},
        {"(|-)papa|", ERR_KEY_NOT_FOUND}, /* Operations come before overlaps. */
    };
    (void)state;
    struct parser *parser = mem_alloc(sizeof(*parser));
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        enum err err = store_txn_check(parse(parser, table[i].text), 128);
        if (err != table[i].err) {
            fail_msg("%s: %s", table[i].text, err == ERR_OK ? "ok" : err_name(err));
        }
    }
    mem_free(parser);
}

static void each_level_takes_from_the_budget_of_operations(void **state)
{
    static const struct {
        const char *text;
        uint64_t max;
        enum err err;
    } table[] = {
        {"papbpc|pa", 3, ERR_OK},
        {"papbpc|pa", 2, ERR_TOO_MANY_OPS},
        {"pa|papbpc", 2, ERR_TOO_MANY_OPS},
        {"pa(pbpc|)|", 4, ERR_OK},
        {"pa(pbpc|)|", 3, ERR_TOO_MANY_OPS},
        {"(((|)|)|)|", 3, ERR_OK},
        {"(((|)|)|)|", 2, ERR_TOO_MANY_OPS},
        {"-papb|", 2, ERR_TOO_MANY_OPS},
        {"-(papbpc|)|", 2, ERR_KEY_NOT_FOUND},
    };
    (void)state;
    struct parser *parser = mem_alloc(sizeof(*parser));
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        enum err err = store_txn_check(parse(parser, table[i].text), table[i].max);
        if (err != table[i].err) {
            fail_msg("%s: %s", table[i].text, err == ERR_OK ? "ok" : err_name(err));
        }
    }
    mem_free(parser);
}

static void compares_come_before_operations(void **state)
{
    (void)state;
    struct store_compare compares[2] = {{.key = KEY("a")}, {.target = STORE_VALUE}};
    struct store_op none = {.kind = STORE_OP_NONE};
    struct store_txn txn = {
        .compares = compares, .compare_count = 2, .success = &none, .success_count = 1};
    assert_int_equal(store_txn_check(&txn, 128), ERR_EMPTY_KEY);
    assert_int_equal(store_txn_check(&txn, 1), ERR_TOO_MANY_OPS);
    txn.compare_count = 1;
    assert_int_equal(store_txn_check(&txn, 128), ERR_KEY_NOT_FOUND);
}

static void a_deep_nest_needs_no_stack(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    struct store_txn *txns = mem_alloc(DEPTH * sizeof(*txns));
    struct store_op *ops = mem_alloc(DEPTH * sizeof(*ops));
    for (uint32_t i = 0; i + 1 < DEPTH; i++) {
        ops[i] = (struct store_op){.kind = STORE_OP_TXN, .u.txn = &txns[i + 1]};
        txns[i] = (struct store_txn){.success = &ops[i], .success_count = 1};
    }
    assert_int_equal(store_txn_check(&txns[0], DEPTH), ERR_OK);
    assert_int_equal(store_txn_check(&txns[0], 128), ERR_TOO_MANY_OPS);
    mem_free(ops);
    mem_free(txns);
}

static void read_only_means_every_direct_op_is_a_range(void **state)
{
    static const struct {
        const char *text;
        bool is_readonly;
    } table[] = {{"|", true},    {"ra|rb", true},   {"ra|pa", false},
                 {"da|", false}, {"(ra|)|", false}, {"ra|-", false}};
    (void)state;
    struct parser *parser = mem_alloc(sizeof(*parser));
    for (uint32_t i = 0; i < ARRAY_COUNT(table); i++) {
        assert_int_equal(store_txn_is_readonly(parse(parser, table[i].text)), table[i].is_readonly);
    }
    const struct store_txn *txn = parse(parser, "ra|rb");
    assert_false(store_txn_is_serializable(txn));
    txn->success[0].u.range->serializable = true;
    assert_false(store_txn_is_serializable(txn));
    txn->failure[0].u.range->serializable = true;
    assert_true(store_txn_is_serializable(txn));
    assert_true(store_txn_is_serializable(parse(parser, "|")));
    mem_free(parser);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_requests_say_what_is_wrong_first),
        cmocka_unit_test(overlapping_keys_are_refused_as_in_etcd),
        cmocka_unit_test(each_level_takes_from_the_budget_of_operations),
        cmocka_unit_test(compares_come_before_operations),
        cmocka_unit_test(a_deep_nest_needs_no_stack),
        cmocka_unit_test(read_only_means_every_direct_op_is_a_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
