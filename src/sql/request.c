/* One switch over the kinds of requests, so that the engines need none. */
#include "sql/request.h"

static const char *const kind_names[SQL_KIND_COUNT] = {
    [SQL_KIND_APPEND] = "append",   [SQL_KIND_LOCK] = "lock",
    [SQL_KIND_PROBE] = "probe",     [SQL_KIND_TAIL] = "tail",
    [SQL_KIND_VERDICT] = "verdict", [SQL_KIND_KEEPALIVE] = "keepalive",
    [SQL_KIND_UPKEEP] = "upkeep",   [SQL_KIND_PURGE] = "purge",
    [SQL_KIND_LOAD] = "load",
};

const char *sql_kind_name(enum sql_kind kind)
{
    ASSERT(kind < SQL_KIND_COUNT);
    return kind_names[kind];
}

static void request_fail_append(struct sql_append *append, enum err err)
{
    append->outcome = SQL_REFUSED;
    append->err = err;
}

void sql_request_fail(enum sql_kind kind, void *request, enum err err)
{
    ASSERT(request != NULL);
    ASSERT(err != ERR_OK);
    switch (kind) {
    case SQL_KIND_APPEND:
        request_fail_append(request, err);
        return;
    case SQL_KIND_LOCK:
        ((struct sql_lock *)request)->err = err;
        return;
    case SQL_KIND_PROBE:
        ((struct sql_probe *)request)->err = err;
        return;
    case SQL_KIND_TAIL:
        ((struct sql_tail *)request)->err = err;
        return;
    case SQL_KIND_VERDICT:
        ((struct sql_verdict *)request)->err = err;
        return;
    case SQL_KIND_KEEPALIVE:
        ((struct sql_keepalive *)request)->err = err;
        return;
    case SQL_KIND_UPKEEP:
        ((struct sql_upkeep *)request)->err = err;
        return;
    case SQL_KIND_PURGE:
        ((struct sql_purge *)request)->err = err;
        return;
    case SQL_KIND_LOAD:
        ((struct sql_load *)request)->err = err;
        return;
    case SQL_KIND_COUNT:
        break;
    }
    ASSERT(false);
}

#define REQUEST_DONE(type, request) ((type *)(request))->done(request)

void sql_request_done(enum sql_kind kind, void *request)
{
    ASSERT(request != NULL);
    switch (kind) {
    case SQL_KIND_APPEND:
        REQUEST_DONE(struct sql_append, request);
        return;
    case SQL_KIND_LOCK:
        REQUEST_DONE(struct sql_lock, request);
        return;
    case SQL_KIND_PROBE:
        REQUEST_DONE(struct sql_probe, request);
        return;
    case SQL_KIND_TAIL:
        REQUEST_DONE(struct sql_tail, request);
        return;
    case SQL_KIND_VERDICT:
        REQUEST_DONE(struct sql_verdict, request);
        return;
    case SQL_KIND_KEEPALIVE:
        REQUEST_DONE(struct sql_keepalive, request);
        return;
    case SQL_KIND_UPKEEP:
        REQUEST_DONE(struct sql_upkeep, request);
        return;
    case SQL_KIND_PURGE:
        REQUEST_DONE(struct sql_purge, request);
        return;
    case SQL_KIND_LOAD:
        REQUEST_DONE(struct sql_load, request);
        return;
    case SQL_KIND_COUNT:
        break;
    }
    ASSERT(false);
}
