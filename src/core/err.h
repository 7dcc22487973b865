/* The one error type: what failed, its gRPC code and the words that etcd's clients match on.
 * Any thread; texts are static; O(1). */
#ifndef CORE_ERR_H
#define CORE_ERR_H

#include "core/base.h"

enum err {
    ERR_OK = 0,
#define ERR(name, code, text) ERR_##name,
#include "core/err.def"
#undef ERR
    ERR_COUNT
};

/* gRPC status code, 0 for ERR_OK. */
int err_grpc_code(enum err err);
/* Static text, "" for ERR_OK. */
const char *err_text(enum err err);
/* "COMPACTED": for logs and tests. */
const char *err_name(enum err err);

/* Pass a failure up. Only where nothing is held that the caller would not release. */
#define TRY(call)                  \
    do {                           \
        enum err try_err = (call); \
        if (try_err != ERR_OK) {   \
            return try_err;        \
        }                          \
    } while (0)

#endif
