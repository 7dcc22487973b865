/*
 * Goal: each path of HTTP takes the methods that etcd's takes, and says so to the others.
 * Method: a table of requests against a fake rpc and a fake api that find everything in order.
 */
#include "support.h"

#include "api/api.h"
#include "server/http.h"

static struct {
    int status;
    const char *allow;
    size_t body_size;
} answered;

void rpc_http_answer(struct rpc_http *http, int status, const char *content_type, struct slice body,
                     const char *allow)
{
    (void)http;
    assert_non_null(content_type);
    answered.status = status;
    answered.allow = allow;
    answered.body_size = body.size;
}
uint32_t rpc_http_thread(const struct rpc_http *http)
{
    (void)http;
    return 0;
}
void api_health(struct api *api, uint32_t thread, bool serializable,
                void (*done)(void *arg, enum err err), void *arg)
{
    (void)api;
    (void)thread;
    (void)serializable;
    done(arg, ERR_OK);
}
const struct store_facts *store_facts(const struct store *store)
{
    (void)store;
    static const struct store_facts facts = {.ready = true};
    return &facts;
}

static void each_path_takes_its_own_methods(void **state)
{
    (void)state;
    const struct {
        const char *method;
        const char *path;
        int status;
        const char *allow;
    } rows[] = {
        {"GET", "/metrics", 200, NULL},  {"HEAD", "/metrics", 200, NULL},
        {"POST", "/metrics", 200, NULL}, {"PUT", "/metrics", 405, "GET, HEAD, POST"},
        {"GET", "/health", 200, NULL},   {"POST", "/health", 405, "GET"},
        {"GET", "/version", 200, NULL},  {"HEAD", "/version", 405, "GET"},
        {"GET", "/readyz", 200, NULL},   {"HEAD", "/livez/serializable_read", 405, "GET"},
        {"POST", "/nowhere", 404, NULL}, {"get", "/metrics", 405, "GET, HEAD, POST"},
    };
    struct http_context context = {0};
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        const struct rpc_http_request request = {
            .method = slice_str(rows[i].method),
            .path = slice_str(rows[i].path),
        };
        memset(&answered, 0, sizeof(answered));
        http_serve(NULL, &request, &context);
        assert_int_equal(answered.status, rows[i].status);
        assert_int_equal(answered.allow == NULL, rows[i].allow == NULL);
        if (rows[i].allow != NULL) {
            assert_string_equal(answered.allow, rows[i].allow);
        }
        assert_true(answered.body_size > 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_path_takes_its_own_methods),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
