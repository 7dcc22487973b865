/* PostgreSQL's binary forms: integers are big-endian, arrays say their type and lengths. */
#include "sql/postgres.h"

#include <limits.h>
#include <stdio.h>

enum { OID_BOOL = 16, OID_BYTEA = 17, OID_INT8 = 20, OID_INT4 = 23 };

static void value_put_u32(struct buf *buf, uint32_t value)
{
    uint8_t bytes[4];
    for (uint32_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(value >> (24 - 8 * i));
    }
    buf_add(buf, bytes, sizeof(bytes));
}

static void value_put_u64(struct buf *buf, uint64_t value)
{
    value_put_u32(buf, (uint32_t)(value >> 32));
    value_put_u32(buf, (uint32_t)value);
}

void pg_params_clear(struct pg_params *params)
{
    buf_clear(&params->bytes);
    params->count = 0;
}

void pg_params_fini(struct pg_params *params)
{
    buf_fini(&params->bytes);
    params->count = 0;
}

static void params_begin(struct pg_params *params)
{
    ASSERT(params->count < PG_PARAMS_MAX);
    params->items[params->count].offset = params->bytes.size;
    params->items[params->count].size = -1;
}

static void params_end(struct pg_params *params)
{
    size_t size = params->bytes.size - params->items[params->count].offset;
    ASSERT(size <= INT_MAX);
    params->items[params->count].size = (int)size;
    params->count++;
}

void pg_put_i64(struct pg_params *params, int64_t value)
{
    params_begin(params);
    value_put_u64(&params->bytes, (uint64_t)value);
    params_end(params);
}

void pg_put_bool(struct pg_params *params, bool value)
{
    params_begin(params);
    buf_add_byte(&params->bytes, value ? 1 : 0);
    params_end(params);
}

void pg_put_bytes(struct pg_params *params, struct slice bytes)
{
    params_begin(params);
    buf_add_slice(&params->bytes, bytes);
    params_end(params);
}

void pg_put_null(struct pg_params *params)
{
    params_begin(params);
    params->count++;
}

void pg_array_begin(struct pg_params *params, enum pg_array kind, uint32_t count)
{
    static const uint32_t oids[] = {OID_INT8, OID_INT4, OID_BOOL, OID_BYTEA};
    params_begin(params);
    value_put_u32(&params->bytes, count == 0 ? 0 : 1); /* Dimensions. */
    value_put_u32(&params->bytes, 0);                  /* No NULLs. */
    value_put_u32(&params->bytes, oids[kind]);
    if (count > 0) {
        value_put_u32(&params->bytes, count);
        value_put_u32(&params->bytes, 1); /* Indexes start there. */
    }
}

void pg_array_i64(struct pg_params *params, int64_t value)
{
    value_put_u32(&params->bytes, 8);
    value_put_u64(&params->bytes, (uint64_t)value);
}

void pg_array_i32(struct pg_params *params, int32_t value)
{
    value_put_u32(&params->bytes, 4);
    value_put_u32(&params->bytes, (uint32_t)value);
}

void pg_array_bool(struct pg_params *params, bool value)
{
    value_put_u32(&params->bytes, 1);
    buf_add_byte(&params->bytes, value ? 1 : 0);
}

void pg_array_bytes(struct pg_params *params, struct slice bytes)
{
    ASSERT(bytes.size <= INT_MAX);
    value_put_u32(&params->bytes, (uint32_t)bytes.size);
    buf_add_slice(&params->bytes, bytes);
}

void pg_array_end(struct pg_params *params)
{
    params_end(params);
}

struct slice pg_get_bytes(const PGresult *rows, int row, int column)
{
    return slice_of(PQgetvalue(rows, row, column), (size_t)PQgetlength(rows, row, column));
}

int64_t pg_get_i64(const PGresult *rows, int row, int column)
{
    struct slice bytes = pg_get_bytes(rows, row, column);
    if (bytes.size > 8) {
        return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < bytes.size; i++) {
        value = value << 8 | bytes.data[i];
    }
    return bytes.size == 4 ? (int64_t)(int32_t)value : (int64_t)value;
}

bool pg_get_fixed(const PGresult *rows, int row, int column, void *bytes, size_t size)
{
    struct slice found = pg_get_bytes(rows, row, column);
    if (found.size != size) {
        return false;
    }
    memcpy(bytes, found.data, size);
    return true;
}

void pg_get_text(const PGresult *rows, int row, int column, char *text, size_t text_size)
{
    struct slice found = pg_get_bytes(rows, row, column);
    (void)snprintf(text, text_size, "%.*s", (int)found.size, (const char *)found.data);
}
