/* The error table, generated from err.def. */
#include "core/err.h"

struct err_row {
    int grpc_code;
    const char *text;
    const char *name;
};

static const struct err_row err_rows[ERR_COUNT] = {
    [ERR_OK] = {0, "", "OK"},
#define ERR(row_name, row_code, row_text) [ERR_##row_name] = {row_code, row_text, #row_name},
#include "core/err.def"
#undef ERR
};

static const struct err_row *err_row(enum err err)
{
    ASSERT((unsigned)err < ERR_COUNT);
    return &err_rows[err];
}

int err_grpc_code(enum err err)
{
    return err_row(err)->grpc_code;
}

const char *err_text(enum err err)
{
    return err_row(err)->text;
}

const char *err_name(enum err err)
{
    return err_row(err)->name;
}
