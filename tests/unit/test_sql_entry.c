/* Sums, chain and effects: every byte counts, and each list has one encoding. */
#include "support.h"

#include "core/buf.h"
#include "core/mem.h"
#include "sql/sql.h"

static struct sql_row sample_row(void)
{
    struct sql_row row = {
        .revision = 7,
        .sub = 3,
        .key = SLICE_LIT("/registry/pods/a"),
        .value = SLICE_LIT("value"),
        .create_rev = 5,
        .version = 2,
        .lease = 11,
        .prev_rev = 6,
        .prev_sub = 1,
    };
    row.sum = sql_row_sum(&row);
    return row;
}

static void a_row_sum_covers_every_field(void **state)
{
    (void)state;
    const struct sql_row row = sample_row();
    assert_int_equal(row.sum, sql_row_sum(&row));
    struct sql_row changed[11];
    for (uint32_t i = 0; i < ARRAY_COUNT(changed); i++) {
        changed[i] = row;
    }
    changed[0].revision++;
    changed[1].sub++;
    changed[2].is_delete = true;
    changed[3].key = SLICE_LIT("/registry/pods/b");
    changed[4].value = SLICE_LIT("valuf");
    changed[5].create_rev++;
    changed[6].version++;
    changed[7].lease++;
    changed[8].prev_rev++;
    changed[9].prev_sub++;
    /* Bytes that move from the key to the value. */
    changed[10].key = SLICE_LIT("/registry/pods/");
    changed[10].value = SLICE_LIT("avalue");
    for (uint32_t i = 0; i < ARRAY_COUNT(changed); i++) {
        assert_int_not_equal(sql_row_sum(&changed[i]), row.sum);
    }
}

static void a_lease_sum_covers_all_but_the_counter(void **state)
{
    (void)state;
    const struct sql_effect grant = {.kind = SQL_LEASE_PUT, .id = 7, .ttl_s = 60};
    const struct sql_lease lease = sql_lease_granted(&grant, 9);
    assert_int_equal(lease.id, 7);
    assert_int_equal(lease.ttl_s, 60);
    assert_int_equal(lease.grant_seq, 9);
    assert_int_equal(lease.counter, 9);
    assert_int_equal(lease.sum, sql_lease_sum(&lease));
    struct sql_lease changed[] = {lease, lease, lease, lease};
    changed[0].id++;
    changed[1].ttl_s++;
    changed[2].grant_seq++;
    changed[3].counter++;
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_not_equal(sql_lease_sum(&changed[i]), lease.sum);
    }
    assert_int_equal(sql_lease_sum(&changed[3]), lease.sum);
}

/* Stored sums must mean the same in every later release. */
static void sums_and_chain_keep_their_values_for_ever(void **state)
{
    (void)state;
    struct sql_row row = sample_row();
    const struct sql_effect effects[] = {{.kind = SQL_LEASE_PUT, .id = 1, .ttl_s = 2}};
    struct sql_entry entry = {
        .seq = 1,
        .writer = {.incarnation = {1, 2, 3}, .counter = 4},
        .epoch = 1,
        .first_rev = 7,
        .last_rev = 7,
        .row_count = 1,
        .byte_count = 21,
        .rows_hash = sql_rows_hash(&row, 1),
        .effects = effects,
        .effect_count = 1,
        .rows = &row,
    };
    struct hash128 zero = {0};
    struct hash128 chain = sql_entry_chain(&zero, &entry);
    char text[33];
    for (uint32_t i = 0; i < 16; i++) {
        (void)snprintf(text + 2 * (size_t)i, 3, "%02x", chain.bytes[i]);
    }
    assert_int_equal(row.sum, UINT64_C(0x501a34146fe66afa));
    assert_int_equal(sql_lease_granted(&effects[0], 3).sum, UINT64_C(0x7c68b4906e7ea780));
    assert_string_equal(text, "5e845d88ee50e4380d3b609035a9da6a");
}

static struct sql_entry sample_entry(const struct sql_row *rows, const struct sql_effect *effects)
{
    return (struct sql_entry){
        .seq = 9,
        .writer = {.incarnation = {9, 8, 7}, .counter = 6},
        .epoch = 2,
        .first_rev = 7,
        .last_rev = 8,
        .row_count = 1,
        .byte_count = 21,
        .compact_rev = 3,
        .auth_rev = 4,
        .rows_hash = sql_rows_hash(rows, 1),
        .effects = effects,
        .effect_count = 1,
        .rows = rows,
    };
}

static void the_chain_covers_every_field_and_what_came_before(void **state)
{
    (void)state;
    const struct sql_row row = sample_row();
    const struct sql_effect effect = {.kind = SQL_COMPACT, .id = 3};
    const struct sql_effect other = {.kind = SQL_COMPACT, .id = 4};
    const struct sql_entry entry = sample_entry(&row, &effect);
    struct hash128 before = {.bytes = {1}};
    const struct hash128 chain = sql_entry_chain(&before, &entry);
    struct sql_entry changed[13];
    for (uint32_t i = 0; i < ARRAY_COUNT(changed); i++) {
        changed[i] = entry;
    }
    changed[0].seq++;
    changed[1].writer.incarnation[15]++;
    changed[2].writer.counter++;
    changed[3].epoch++;
    changed[4].first_rev++;
    changed[5].last_rev++;
    changed[6].row_count++;
    changed[7].byte_count++;
    changed[8].compact_rev++;
    changed[9].auth_rev++;
    changed[10].rows_hash.bytes[0]++;
    changed[11].effects = &other;
    changed[12].effect_count = 0;
    for (uint32_t i = 0; i < ARRAY_COUNT(changed); i++) {
        struct hash128 found = sql_entry_chain(&before, &changed[i]);
        assert_false(hash128_equal(&found, &chain));
    }
    before.bytes[0] = 2;
    struct hash128 found = sql_entry_chain(&before, &entry);
    assert_false(hash128_equal(&found, &chain));
}

static void effects_come_back_as_they_went(void **state)
{
    (void)state;
    const struct sql_effect effects[] = {
        {.kind = SQL_LEASE_PUT, .id = INT64_MIN, .ttl_s = INT64_MAX},
        {.kind = SQL_LEASE_DELETE, .id = -1},
        {.kind = SQL_LEASE_EXPIRE, .id = 5, .counter = UINT64_MAX},
        {.kind = SQL_COMPACT, .id = 1},
    };
    struct buf buf = {0};
    sql_effects_encode(effects, ARRAY_COUNT(effects), &buf);
    struct arena arena;
    arena_init(&arena, 1 << 20);
    const struct sql_effect *found;
    uint32_t count;
    assert_int_equal(sql_effects_decode(buf_slice(&buf), &arena, &found, &count), ERR_OK);
    assert_int_equal(count, ARRAY_COUNT(effects));
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(found[i].kind, effects[i].kind);
        assert_int_equal(found[i].id, effects[i].id);
        assert_int_equal(found[i].ttl_s, effects[i].ttl_s);
        assert_int_equal(found[i].counter, effects[i].counter);
    }
    buf_clear(&buf);
    sql_effects_encode(NULL, 0, &buf);
    assert_int_equal(buf.size, 0);
    assert_int_equal(sql_effects_decode(SLICE_EMPTY, &arena, &found, &count), ERR_OK);
    assert_int_equal(count, 0);
    arena_fini(&arena);
    buf_fini(&buf);
}

/* Every cut and every changed version or kind is refused: no effect is ever guessed. */
static void broken_effects_are_refused(void **state)
{
    (void)state;
    const struct sql_effect effects[] = {
        {.kind = SQL_LEASE_PUT, .id = 1, .ttl_s = 2},
        {.kind = SQL_LEASE_EXPIRE, .id = 3, .counter = 4},
    };
    struct buf buf = {0};
    sql_effects_encode(effects, ARRAY_COUNT(effects), &buf);
    struct arena arena;
    arena_init(&arena, 1 << 20);
    const struct sql_effect *found;
    uint32_t count;
    for (size_t size = 1; size < buf.size; size++) {
        bool is_whole = size == 1 + 17; /* The first record alone is a list, too. */
        enum err err = sql_effects_decode(slice_of(buf.data, size), &arena, &found, &count);
        assert_int_equal(err, is_whole ? ERR_OK : ERR_CHAIN_BROKEN);
    }
    for (uint32_t value = 0; value < 256; value++) {
        struct slice bytes = buf_slice(&buf);
        buf.data[0] = (uint8_t)value;
        enum err err = sql_effects_decode(bytes, &arena, &found, &count);
        assert_int_equal(err, value == 1 ? ERR_OK : ERR_CHAIN_BROKEN);
        buf.data[0] = 1;
        buf.data[1] = (uint8_t)value;
        err = sql_effects_decode(bytes, &arena, &found, &count);
        bool is_long = value == SQL_LEASE_PUT || value == SQL_LEASE_EXPIRE;
        assert_int_equal(err, is_long ? ERR_OK : ERR_CHAIN_BROKEN);
        buf.data[1] = SQL_LEASE_PUT;
    }
    arena_fini(&arena);
    buf_fini(&buf);
}

static void many_effects_end_at_the_arenas_ceiling(void **state)
{
    (void)state;
    struct buf buf = {0};
    const struct sql_effect effect = {.kind = SQL_LEASE_DELETE, .id = 1};
    buf_add_byte(&buf, 1);
    for (uint32_t i = 0; i < 1000; i++) {
        struct buf one = {0};
        sql_effects_encode(&effect, 1, &one);
        buf_add(&buf, one.data + 1, one.size - 1);
        buf_fini(&one);
    }
    struct arena arena;
    arena_init(&arena, 8192);
    const struct sql_effect *found;
    uint32_t count;
    assert_int_equal(sql_effects_decode(buf_slice(&buf), &arena, &found, &count),
                     ERR_REQUEST_TOO_LARGE);
    arena_fini(&arena);
    buf_fini(&buf);
}

static void a_shown_url_holds_no_password(void **state)
{
    (void)state;
    static const char *const urls[][2] = {
        {"postgres://user:secret@host:5432/db", "postgres://user:***@host:5432/db"},
        {"postgresql://user@host/db?sslmode=require", "postgres://user@host/db?sslmode=require"},
        {"postgres://user:secret@a:1,b:2/db?password=secret", "postgres://user:***@a:1,b:2/db"},
        {"postgres://host/db?user=u&password=secret", "postgres://u:***@host/db"},
        {"postgres://host/db?p%61ssword=@/secret", "postgres://:***@host/db"},
        {"postgres://user:se%zzcret@host/db", "postgres://***"},
        {"sqlite:///var/lib/drover.db", "sqlite:///var/lib/drover.db"},
        {"mysql://user:secret@host/db", "***"},
        {"password=secret host=x", "***"},
        {"", "***"},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(urls); i++) {
        char shown[256];
        sql_url_redacted(urls[i][0], shown, sizeof(shown));
        assert_string_equal(shown, urls[i][1]);
        char small[8];
        sql_url_redacted(urls[i][0], small, sizeof(small));
        assert_true(strlen(small) < sizeof(small));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_sum_covers_every_field),
        cmocka_unit_test(a_lease_sum_covers_all_but_the_counter),
        cmocka_unit_test(sums_and_chain_keep_their_values_for_ever),
        cmocka_unit_test(the_chain_covers_every_field_and_what_came_before),
        cmocka_unit_test(effects_come_back_as_they_went),
        cmocka_unit_test(broken_effects_are_refused),
        cmocka_unit_test(many_effects_end_at_the_arenas_ceiling),
        cmocka_unit_test(a_shown_url_holds_no_password),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
