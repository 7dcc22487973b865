/* /health and its relatives: a table of paths, a table of checks. See http.h. */
#include "server/http.h"

#include <stdio.h>
#include <string.h>

#include "core/mem.h"
#include "core/metrics.h"
#include "core/version.h"

/* ---- queries -------------------------------------------------------------------------------- */

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Undo percent-encoding into |out|; false when malformed or longer than |out|. */
static bool query_decode(struct slice text, struct slice *decoded, uint8_t *out, size_t out_size)
{
    size_t size = 0;
    for (size_t i = 0; i < text.size; i++) {
        uint8_t c = text.data[i];
        if (c == '+') {
            c = ' ';
        } else if (c == '%') {
            int high = i + 2 < text.size ? hex_digit(text.data[i + 1]) : -1;
            int low = i + 2 < text.size ? hex_digit(text.data[i + 2]) : -1;
            if (high < 0 || low < 0) {
                return false;
            }
            c = (uint8_t)(high * 16 + low);
            i += 2;
        }
        if (size == out_size) {
            return false;
        }
        out[size++] = c;
    }
    *decoded = slice_of(out, size);
    return true;
}

static struct slice cut(struct slice *text, char separator)
{
    const uint8_t *at = text->size == 0 ? NULL : memchr(text->data, separator, text->size);
    size_t size = at == NULL ? text->size : (size_t)(at - text->data);
    struct slice head = {text->data, size};
    size_t taken = at == NULL ? size : size + 1;
    text->data = taken == 0 ? text->data : text->data + taken;
    text->size -= taken;
    return head;
}

/* |value| NULL: any. */
static bool query_find(struct slice query, const char *name, const char *value)
{
    while (query.size > 0) {
        struct slice text = cut(&query, '&');
        struct slice name_text = cut(&text, '=');
        uint8_t name_bytes[128];
        uint8_t value_bytes[128];
        struct slice found_name;
        struct slice found_value;
        if (query_decode(name_text, &found_name, name_bytes, sizeof(name_bytes)) &&
            query_decode(text, &found_value, value_bytes, sizeof(value_bytes)) &&
            slice_equal(found_name, slice_str(name)) &&
            (value == NULL || slice_equal(found_value, slice_str(value)))) {
            return true;
        }
    }
    return false;
}

bool http_query_has(struct slice query, const char *name)
{
    return query_find(query, name, NULL);
}

bool http_query_has_value(struct slice query, const char *name, const char *value)
{
    return query_find(query, name, value);
}

/* ---- checks ---------------------------------------------------------------------------------- */

static const char text_type[] = "text/plain; charset=utf-8";
static const char json_type[] = "application/json";

enum check { CHECK_CORRUPTION, CHECK_SERIALIZABLE, CHECK_LINEARIZABLE, CHECK_LEARNER, CHECK_COUNT };

static const char *const check_names[CHECK_COUNT] = {
    [CHECK_CORRUPTION] = "data_corruption",
    [CHECK_SERIALIZABLE] = "serializable_read",
    [CHECK_LINEARIZABLE] = "linearizable_read",
    [CHECK_LEARNER] = "non_learner",
};

#define CHECK_BIT(check) (1u << (check))

enum shape { SHAPE_HEALTH, SHAPE_CHECKS };

/* One health question; its reads are asked one after the other, and may have to wait. */
struct question {
    struct rpc_http *http;
    const struct http_context *context;
    uint32_t thread;
    enum shape shape;
    unsigned checks; /* CHECK_BIT of those to run. */
    unsigned asked;  /* Of those, the reads that have been answered. */
    bool verbose;
    enum err outcomes[CHECK_COUNT];
};

static const char *check_failure(const struct question *question, enum check check)
{
    enum err outcome = question->outcomes[check];
    return outcome == ERR_OK ? NULL : err_text(outcome);
}

static void answer_checks(struct question *question)
{
    struct buf body = {0};
    bool ok = true;
    for (unsigned check = 0; check < CHECK_COUNT; check++) {
        if ((question->checks & CHECK_BIT(check)) == 0) {
            continue;
        }
        const char *failure = check_failure(question, (enum check)check);
        if (failure == NULL) {
            buf_printf(&body, "[+]%s ok\n", check_names[check]);
        } else {
            buf_printf(&body, "[-]%s failed: %s\n", check_names[check], failure);
            ok = false;
        }
    }
    if (ok && !question->verbose) {
        buf_clear(&body);
    }
    buf_printf(&body, ok ? "ok\n" : "\n");
    rpc_http_answer(question->http, ok ? 200 : 503, text_type, buf_slice(&body), NULL);
    buf_fini(&body);
}

static void answer_health(struct question *question)
{
    const struct store_facts *facts = store_facts(question->context->store);
    bool linearizable = (question->checks & CHECK_BIT(CHECK_LINEARIZABLE)) != 0;
    struct buf body = {0};
    const char *failure =
        check_failure(question, linearizable ? CHECK_LINEARIZABLE : CHECK_SERIALIZABLE);
    bool ok = failure == NULL;
    if (ok) {
        buf_printf(&body, "{\"health\":\"true\",\"reason\":\"\"}");
    } else if (linearizable && facts->away) {
        buf_printf(&body, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n");
    } else {
        buf_printf(&body, "{\"health\":\"false\",\"reason\":\"RANGE ERROR:%s\"}\n", failure);
    }
    metric_add(ok ? METRIC_etcd_server_health_success : METRIC_etcd_server_health_failures, 1);
    rpc_http_answer(question->http, ok ? 200 : 503, text_type, buf_slice(&body), NULL);
    buf_fini(&body);
}

static void question_answer(struct question *question)
{
    if (question->shape == SHAPE_HEALTH) {
        answer_health(question);
    } else {
        answer_checks(question);
    }
    mem_free(question);
}

/* data_corruption and non_learner hold by construction: a replica that finds its log broken ends,
 * and every replica is equal. The reads are asked. */
static const enum check reads[] = {CHECK_SERIALIZABLE, CHECK_LINEARIZABLE};

static void question_answered(void *arg, enum err err);

static void question_go_on(struct question *question)
{
    for (size_t i = 0; i < ARRAY_COUNT(reads); i++) {
        unsigned bit = CHECK_BIT(reads[i]);
        if ((question->checks & bit) != 0 && (question->asked & bit) == 0) {
            api_health(question->context->api, question->thread, reads[i] == CHECK_SERIALIZABLE,
                       question_answered, question);
            return;
        }
    }
    question_answer(question);
}

static void question_answered(void *arg, enum err err)
{
    struct question *question = arg;
    for (size_t i = 0; i < ARRAY_COUNT(reads); i++) {
        unsigned bit = CHECK_BIT(reads[i]);
        if ((question->checks & bit) != 0 && (question->asked & bit) == 0) {
            question->asked |= bit;
            question->outcomes[reads[i]] = err;
            break;
        }
    }
    question_go_on(question);
}

static void question_ask(struct rpc_http *http, const struct http_context *context,
                         enum shape shape, unsigned checks, bool verbose)
{
    struct question *question = mem_alloc(sizeof(*question));
    question->http = http;
    question->context = context;
    question->thread = rpc_http_thread(http);
    question->shape = shape;
    question->checks = checks;
    question->verbose = verbose;
    question_go_on(question);
}

/* ---- paths ----------------------------------------------------------------------------------- */

static void serve_health(struct rpc_http *http, struct slice query,
                         const struct http_context *context)
{
    bool serializable = http_query_has_value(query, "serializable", "true");
    unsigned checks = CHECK_BIT(serializable ? CHECK_SERIALIZABLE : CHECK_LINEARIZABLE);
    question_ask(http, context, SHAPE_HEALTH, checks, false);
}

static void serve_version(struct rpc_http *http, struct slice query,
                          const struct http_context *context)
{
    (void)query;
    (void)context;
    rpc_http_answer(http, 200, json_type,
                    SLICE_LIT("{\"etcdserver\":\"" ETCD_VERSION
                              "\",\"etcdcluster\":\"" ETCD_CLUSTER_VERSION
                              "\",\"storage\":\"" ETCD_CLUSTER_VERSION "\"}"),
                    NULL);
}

static void serve_metrics(struct rpc_http *http, struct slice query,
                          const struct http_context *context)
{
    (void)query;
    (void)context;
    struct buf page = {0};
    metrics_render(&page);
    rpc_http_answer(http, 200, "text/plain; version=0.0.4; charset=utf-8", buf_slice(&page), NULL);
    buf_fini(&page);
}

enum method { METHOD_GET = 1, METHOD_HEAD = 2, METHOD_POST = 4 };

/* Zero: none that any path takes. */
static unsigned method_of(struct slice text)
{
    if (slice_equal(text, SLICE_LIT("GET"))) {
        return METHOD_GET;
    }
    if (slice_equal(text, SLICE_LIT("HEAD"))) {
        return METHOD_HEAD;
    }
    return slice_equal(text, SLICE_LIT("POST")) ? METHOD_POST : 0;
}

struct path {
    const char *path;
    unsigned methods;
    const char *allow; /* The same, for who comes with another one. */
    void (*serve)(struct rpc_http *http, struct slice query, const struct http_context *context);
};
static const struct path paths[] = {
    {"/health", METHOD_GET, "GET", serve_health},
    {"/version", METHOD_GET, "GET", serve_version},
    {"/metrics", METHOD_GET | METHOD_HEAD | METHOD_POST, "GET, HEAD, POST", serve_metrics},
};

/* "/livez" and "/readyz", whole or one of their checks behind a slash. */
struct check_path {
    const char *path;
    unsigned checks;
};
static const struct check_path check_paths[] = {
    {"/livez", CHECK_BIT(CHECK_SERIALIZABLE)},
    {"/readyz", CHECK_BIT(CHECK_CORRUPTION) | CHECK_BIT(CHECK_SERIALIZABLE) |
                    CHECK_BIT(CHECK_LINEARIZABLE) | CHECK_BIT(CHECK_LEARNER)},
};

/* The checks that |path| asks for, 0 if it is none of the check paths. */
static unsigned checks_of(struct slice path, struct slice query)
{
    for (size_t i = 0; i < ARRAY_COUNT(check_paths); i++) {
        struct slice root = slice_str(check_paths[i].path);
        if (!slice_starts_with(path, root)) {
            continue;
        }
        struct slice rest = {path.data + root.size, path.size - root.size};
        unsigned checks = 0;
        for (unsigned check = 0; check < CHECK_COUNT; check++) {
            bool here = (check_paths[i].checks & CHECK_BIT(check)) != 0;
            bool named =
                rest.size > 1 && rest.data[0] == '/' &&
                slice_equal(slice_of(rest.data + 1, rest.size - 1), slice_str(check_names[check]));
            bool excluded = http_query_has_value(query, "exclude", check_names[check]);
            if (here && (named || (rest.size == 0 && !excluded))) {
                checks |= CHECK_BIT(check);
            }
        }
        return checks;
    }
    return 0;
}

static bool is_check_root(struct slice path)
{
    return slice_equal(path, SLICE_LIT("/livez")) || slice_equal(path, SLICE_LIT("/readyz"));
}

void http_serve(struct rpc_http *http, const struct rpc_http_request *request, void *arg)
{
    const struct http_context *context = arg;
    const struct path *path = NULL;
    for (size_t i = 0; i < ARRAY_COUNT(paths); i++) {
        if (slice_equal(request->path, slice_str(paths[i].path))) {
            path = &paths[i];
        }
    }
    unsigned checks = checks_of(request->path, request->query);
    bool is_checks = checks != 0 || is_check_root(request->path);
    if (path == NULL && !is_checks) {
        rpc_http_answer(http, 404, text_type, SLICE_LIT("404 page not found\n"), NULL);
        return;
    }
    unsigned methods = path != NULL ? path->methods : METHOD_GET;
    if ((method_of(request->method) & methods) == 0) {
        const char *allow = path != NULL ? path->allow : "GET";
        rpc_http_answer(http, 405, text_type, SLICE_LIT("Method Not Allowed\n"), allow);
        return;
    }
    if (path != NULL) {
        path->serve(http, request->query, context);
        return;
    }
    question_ask(http, context, SHAPE_CHECKS, checks, http_query_has(request->query, "verbose"));
}
