/*
 * Goal: Watch answers every request in etcd's words and order, and events leave whole, once, and
 * in responses that protobuf would have written.
 * Method: streams against a fake rpc over a real hub and cache.
 */
#include "support_api_fake.h"

static struct arena arena;

static int setup(void **state)
{
    arena_init(&arena, LIMIT_CALL_ARENA_MAX);
    return world_setup(state);
}

static int teardown(void **state)
{
    arena_fini(&arena);
    return world_teardown(state);
}

static struct rpc_call *watch_call(void)
{
    struct rpc_call *call = call_new("/etcdserverpb.Watch/Watch");
    call_start(call);
    return call;
}

static void create(struct rpc_call *call, Etcdserverpb__WatchCreateRequest *body)
{
    Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
    request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
    request.create_request = body;
    call_send(call, &request);
}

static void create_key(struct rpc_call *call, const char *key, int64_t start_revision)
{
    Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    body.key = bytes_of(key);
    body.start_revision = start_revision;
    create(call, &body);
}

static void ask_progress(struct rpc_call *call)
{
    Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
    Etcdserverpb__WatchProgressRequest body = ETCDSERVERPB__WATCH_PROGRESS_REQUEST__INIT;
    request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST;
    request.progress_request = &body;
    call_send(call, &request);
}

static void cancel(struct rpc_call *call, int64_t watch_id)
{
    Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
    Etcdserverpb__WatchCancelRequest body = ETCDSERVERPB__WATCH_CANCEL_REQUEST__INIT;
    body.watch_id = watch_id;
    request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CANCEL_REQUEST;
    request.cancel_request = &body;
    call_send(call, &request);
}

static const Etcdserverpb__WatchResponse *response(struct rpc_call *call, uint32_t index)
{
    return message_of(call, index, &etcdserverpb__watch_response__descriptor, &arena);
}

static void created_comes_before_events(void **state)
{
    (void)state;
    world_put("a", "1");
    world_put("a", "2");
    struct rpc_call *call = watch_call();
    create_key(call, "a", 2);
    assert_int_equal(call->message_count, 1);
    const Etcdserverpb__WatchResponse *got = response(call, 0);
    assert_true(got->created);
    assert_false(got->canceled);
    assert_int_equal(got->watch_id, 0);
    assert_int_equal(got->header->revision, 3);
    assert_int_equal(got->header->cluster_id, world.facts->cluster_id);
    world_turn();
    assert_int_equal(call->message_count, 2);
    got = response(call, 1);
    assert_int_equal(got->n_events, 2);
    assert_int_equal(got->header->revision, 3);
    assert_bytes(got->events[0]->kv->value, "1");
    assert_bytes(got->events[1]->kv->value, "2");
    assert_null(got->events[1]->prev_kv);
    /* Live. */
    world_put("a", "3");
    world_put("b", "not watched");
    world_delete("a");
    world_turn();
    uint32_t count = call->message_count;
    assert_true(count >= 3);
    got = response(call, count - 1);
    const Mvccpb__Event *last = got->events[got->n_events - 1];
    assert_int_equal(last->type, MVCCPB__EVENT__EVENT_TYPE__DELETE);
    assert_int_equal(last->kv->mod_revision, 6);
    assert_int_equal(last->kv->value.len, 0);
    assert_int_equal(got->header->revision, 6);
    call_end(call);
}

static void watch_ids_are_picked_or_given(void **state)
{
    (void)state;
    struct rpc_call *call = watch_call();
    create_key(call, "a", 0);
    Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    body.key = bytes_of("a");
    body.watch_id = 9;
    create(call, &body);
    create(call, &body);
    create_key(call, "a", 0);
    assert_int_equal(response(call, 0)->watch_id, 0);
    assert_int_equal(response(call, 1)->watch_id, 9);
    const Etcdserverpb__WatchResponse *got = response(call, 2);
    assert_int_equal(got->watch_id, -1);
    assert_true(got->created && got->canceled);
    assert_string_equal(got->cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    assert_int_equal(response(call, 3)->watch_id, 1);
    call_end(call);
}

static void bad_creations_are_cancelled_in_band(void **state)
{
    (void)state;
    struct rpc_call *call = watch_call();
    create_key(call, "a", -1);
    const Etcdserverpb__WatchResponse *got = response(call, 0);
    assert_true(got->created && got->canceled);
    assert_int_equal(got->watch_id, -1);
    assert_int_equal(got->compact_revision, 0);
    assert_string_equal(got->cancel_reason, err_text(ERR_COMPACTED));
    Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    body.key = bytes_of("b");
    body.range_end = bytes_of("a");
    create(call, &body);
    got = response(call, 1);
    assert_true(got->created && got->canceled);
    assert_string_equal(got->cancel_reason, "mvcc: watcher range is empty");
    assert_true(call->alive);
    call_end(call);
}

static void a_compacted_start_is_created_then_cancelled(void **state)
{
    (void)state;
    world_put("a", "1");
    world_put("a", "2");
    world_put("a", "3");
    world_compact(4);
    struct rpc_call *call = watch_call();
    create_key(call, "a", 2);
    world_turn();
    assert_int_equal(call->message_count, 2);
    assert_true(response(call, 0)->created);
    assert_false(response(call, 0)->canceled);
    const Etcdserverpb__WatchResponse *got = response(call, 1);
    assert_true(got->canceled && !got->created);
    assert_int_equal(got->compact_revision, 4);
    assert_int_equal(got->header->revision, 0);
    assert_int_equal(got->header->member_id, 7);
    assert_string_equal(got->cancel_reason, "");
    call_end(call);
}

static void cancelling_is_answered_only_if_known(void **state)
{
    (void)state;
    struct rpc_call *call = watch_call();
    create_key(call, "a", 0);
    cancel(call, 5);
    assert_int_equal(call->message_count, 1);
    cancel(call, 0);
    assert_int_equal(call->message_count, 2);
    assert_true(response(call, 1)->canceled);
    assert_int_equal(response(call, 1)->watch_id, 0);
    world_put("a", "1");
    world_turn();
    assert_int_equal(call->message_count, 2);
    call->method->on_message(call, SLICE_EMPTY); /* An empty request is ignored. */
    assert_true(call->alive);
    call_end(call);
}

static void progress_is_told_when_all_is_sent(void **state)
{
    (void)state;
    world_put("x", "1");
    struct rpc_call *call = watch_call();
    ask_progress(call); /* No watcher: no answer. */
    world_turn();
    world_turn();
    assert_int_equal(call->message_count, 0);
    create_key(call, "a", 0);
    world_turn();
    ask_progress(call);
    world_turn();
    world_turn();
    assert_int_equal(call->message_count, 2);
    const Etcdserverpb__WatchResponse *got = response(call, 1);
    assert_int_equal(got->watch_id, -1);
    assert_int_equal(got->header->revision, 2);
    assert_int_equal(got->n_events, 0);
    call_end(call);
}

static void progress_notices_come_by_themselves(void **state)
{
    (void)state;
    struct rpc_call *call = watch_call();
    Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    body.key = bytes_of("a");
    body.progress_notify = 1;
    create(call, &body);
    world_turn();
    world_turn();
    assert_int_equal(call->message_count, 1);
    world.clock.now_ns += 6 * NS_PER_S;
    world_turn(); /* The timer asks for a turn of the hub ... */
    world_turn(); /* ... which is the next one. */
    assert_int_equal(call->message_count, 2);
    assert_int_equal(response(call, 1)->watch_id, 0);
    assert_int_equal(response(call, 1)->header->revision, 1);
    call_end(call);
}

static void a_stalled_client_is_told_no_progress(void **state)
{
    (void)state;
    struct rpc_call *call = watch_call();
    Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    body.key = bytes_of("a");
    body.progress_notify = 1;
    create(call, &body);
    world_turn();
    call->queued = LIMIT_STREAM_OUT_HIGH + 1;
    for (int i = 0; i < 3; i++) {
        world.clock.now_ns += 6 * NS_PER_S;
        world_turn();
        world_turn();
    }
    assert_int_equal(call->message_count, 1);
    call->queued = 0; /* It reads again. */
    world.clock.now_ns += 6 * NS_PER_S;
    world_turn();
    world_turn();
    assert_int_equal(call->message_count, 2);
    call_end(call);
}

static void previous_kvs_and_filters_are_obeyed(void **state)
{
    (void)state;
    world_put("a", "1");
    struct rpc_call *call = watch_call();
    Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    Etcdserverpb__WatchCreateRequest__FilterType filters[] = {
        ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__NOPUT};
    body.key = bytes_of("a");
    body.prev_kv = 1;
    body.filters = filters;
    body.n_filters = 1;
    create(call, &body);
    world_turn();
    world_put("a", "2");
    world_turn();
    assert_int_equal(call->message_count, 1);
    world_delete("a");
    world_turn();
    assert_int_equal(call->message_count, 2);
    const Mvccpb__Event *event = response(call, 1)->events[0];
    assert_bytes(event->prev_kv->value, "2");
    call_end(call);
}

static void an_empty_key_means_everything_from_the_first(void **state)
{
    (void)state;
    struct rpc_call *call = watch_call();
    Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    body.range_end = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) ""};
    create(call, &body);
    world_turn();
    world_put("any", "1");
    world_turn();
    assert_int_equal(call->message_count, 2);
    call_end(call);
}

static void create_progress(struct rpc_call *call, const char *key)
{
    Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
    body.key = bytes_of(key);
    body.progress_notify = 1;
    create(call, &body);
    world_turn();
}

/* A Range on the watcher's connection; returns the revision that it tells. */
static int64_t read_key(const char *key, bool serializable)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    request.key = bytes_of(key);
    request.serializable = serializable;
    struct rpc_call *call = call_new("/etcdserverpb.KV/Range");
    call_send(call, &request);
    assert_true(call->replied);
    const Etcdserverpb__RangeResponse *got =
        message_of(call, 0, &etcdserverpb__range_response__descriptor, &arena);
    int64_t revision = got->header->revision;
    call_end(call);
    return revision;
}

static void a_linearizable_read_brings_progress_with_it(void **state)
{
    (void)state;
    world.reads_are_local = true;
    struct rpc_call *call = watch_call();
    create_key(call, "a", 0); /* Wants no notices. */
    create_progress(call, "a");
    world_put("b", "1");
    world_turn();
    assert_int_equal(read_key("missing", true), 2);
    world_turn();
    assert_int_equal(call->message_count, 2);
    for (int i = 0; i < 3; i++) { /* Once for a revision. */
        assert_int_equal(read_key("missing", false), 2);
        world_turn();
    }
    assert_int_equal(call->message_count, 3);
    const Etcdserverpb__WatchResponse *got = response(call, 2);
    assert_int_equal(got->watch_id, 1);
    assert_int_equal(got->n_events, 0);
    assert_int_equal(got->header->revision, 2);
    create_progress(call, "c"); /* Knows nothing yet. */
    assert_int_equal(read_key("missing", false), 2);
    world_turn();
    assert_int_equal(call->message_count, 5);
    assert_int_equal(response(call, 4)->watch_id, 2);
    call_end(call);
    assert_int_equal(read_key("missing", false), 2); /* Nobody is there to be told. */
    world_turn();
}

/* The read sees what the hub has not walked yet. */
static void progress_beside_a_read_comes_behind_its_events(void **state)
{
    (void)state;
    world.reads_are_local = true;
    struct rpc_call *call = watch_call();
    create_progress(call, "a");
    world_put("a", "1");
    world_put("b", "1");
    assert_int_equal(read_key("missing", false), 3);
    assert_int_equal(call->message_count, 1);
    world_turn();
    world_turn();
    assert_int_equal(call->message_count, 3);
    assert_int_equal(response(call, 1)->n_events, 1);
    assert_int_equal(response(call, 1)->header->revision, 2);
    assert_int_equal(response(call, 2)->n_events, 0);
    assert_int_equal(response(call, 2)->header->revision, 3);
    world_put("a", "2");
    assert_int_equal(read_key("missing", false), 4);
    world_turn();
    assert_int_equal(call->message_count, 4); /* The event says it all. */
    call->room = false;
    world_put("a", "3");
    world_turn();
    world_put("b", "2");
    assert_int_equal(read_key("missing", false), 6);
    world_turn();
    assert_int_equal(call->message_count, 5); /* Paused: not synced. */
    call_end(call);
}

static void a_full_window_pauses_and_nothing_is_lost(void **state)
{
    (void)state;
    struct rpc_call *call = watch_call();
    create_key(call, "a", 0);
    world_turn();
    call->room = false;
    for (int i = 0; i < 5; i++) {
        world_put("a", "x");
        world_turn();
    }
    uint32_t before = call->message_count;
    assert_int_equal(before, 2); /* The first event was taken, the others wait. */
    call->room = true;
    call->method->on_writable(call);
    world_turn();
    world_turn();
    uint32_t events = 0;
    int64_t last = 0;
    for (uint32_t i = 1; i < call->message_count; i++) {
        const Etcdserverpb__WatchResponse *got = response(call, i);
        for (size_t k = 0; k < got->n_events; k++) {
            assert_true(got->events[k]->kv->mod_revision > last);
            last = got->events[k]->kv->mod_revision;
            events++;
        }
    }
    assert_int_equal(events, 5);
    call_end(call);
}

static void large_responses_are_cut_if_wanted(void **state)
{
    (void)state;
    enum { VALUES = 5, VALUE_SIZE = 900 * 1000 };
    uint8_t *value = mem_alloc(VALUE_SIZE);
    struct rpc_call *calls[2];
    for (int i = 0; i < 2; i++) {
        calls[i] = watch_call();
        Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
        body.key = bytes_of("a");
        body.range_end = bytes_of("b");
        body.fragment = i;
        create(calls[i], &body);
    }
    world_turn();
    struct cache_edit *edit = cache_edit_begin(world.cache);
    world.revision++;
    for (int32_t i = 0; i < VALUES; i++) {
        char key[] = {'a', (char)('0' + i), '\0'};
        edit_row(edit, key, slice_of(value, VALUE_SIZE), 0, false, i);
    }
    world_publish(edit);
    world_turn();
    assert_int_equal(calls[0]->message_count, 2);
    assert_int_equal(response(calls[0], 1)->n_events, VALUES);
    assert_false(response(calls[0], 1)->fragment);
    assert_int_equal(calls[1]->message_count, 1 + 3); /* Two of them fit below 2 MiB. */
    size_t events = 0;
    for (uint32_t i = 1; i < calls[1]->message_count; i++) {
        const Etcdserverpb__WatchResponse *got = response(calls[1], i);
        assert_int_equal(got->fragment, i + 1 < calls[1]->message_count);
        assert_int_equal(got->header->revision, 2);
        assert_true(calls[1]->messages[i].size < LIMIT_WATCH_FRAGMENT_SIZE);
        events += got->n_events;
    }
    assert_int_equal(events, VALUES);
    call_end(calls[0]);
    call_end(calls[1]);
    mem_free(value);
}

static void many_watchers_share_one_encoding(void **state)
{
    (void)state;
    struct rpc_call *calls[20];
    uint8_t value[2000] = {0};
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        calls[i] = watch_call();
        Etcdserverpb__WatchCreateRequest body = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;
        body.key = bytes_of("a");
        body.prev_kv = i % 2;
        create(calls[i], &body);
    }
    world_turn();
    world_put_value("a", slice_of(value, sizeof(value)), 0);
    world_put_value("a", slice_of(value, sizeof(value)), 0);
    world_turn();
    for (size_t i = 0; i < ARRAY_COUNT(calls); i++) {
        assert_true(calls[i]->owned_parts >= 1);
        const Etcdserverpb__WatchResponse *got = response(calls[i], calls[i]->message_count - 1);
        const Mvccpb__Event *last = got->events[got->n_events - 1];
        assert_int_equal(last->kv->mod_revision, 3);
        assert_int_equal(last->prev_kv != NULL, i % 2);
        call_end(calls[i]);
    }
}

static void a_stream_that_wants_a_leader_ends_without_one(void **state)
{
    (void)state;
    struct rpc_call *with = call_new("/etcdserverpb.Watch/Watch");
    call_header(with, "hasleader", SLICE_LIT("true"));
    call_start(with);
    struct rpc_call *without = watch_call();
    assert_true(with->alive);
    world.facts->away = true;
    api_on_publish(world.api);
    world_turn();
    world.clock.now_ns += 2 * NS_PER_S;
    world_turn();
    assert_true(with->alive);
    world.clock.now_ns += 2 * NS_PER_S;
    world_turn();
    assert_failed(with, ERR_NO_LEADER);
    assert_true(without->alive);
    struct rpc_call *late = call_new("/etcdserverpb.Watch/Watch");
    call_header(late, "hasleader", SLICE_LIT("true"));
    call_start(late);
    assert_failed(late, ERR_NO_LEADER);
    call_end(late);
    call_end(with);
    api_thread_drain(world.api, 0);
    assert_failed(without, ERR_STOPPED);
    call_end(without);
}

static void the_thread_holds_what_its_hub_has_not_walked(void **state)
{
    (void)state;
    world_put("a", "1");
    assert_int_equal(reclaim_hold_rev(&world.reclaim), 1);
    world_turn();
    assert_int_equal(reclaim_hold_rev(&world.reclaim), 2);
}

int main(void)
{
#undef CASE
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(created_comes_before_events),
        CASE(watch_ids_are_picked_or_given),
        CASE(bad_creations_are_cancelled_in_band),
        CASE(a_compacted_start_is_created_then_cancelled),
        CASE(cancelling_is_answered_only_if_known),
        CASE(progress_is_told_when_all_is_sent),
        CASE(progress_notices_come_by_themselves),
        CASE(a_stalled_client_is_told_no_progress),
        CASE(a_linearizable_read_brings_progress_with_it),
        CASE(progress_beside_a_read_comes_behind_its_events),
        CASE(previous_kvs_and_filters_are_obeyed),
        CASE(an_empty_key_means_everything_from_the_first),
        CASE(a_full_window_pauses_and_nothing_is_lost),
        CASE(large_responses_are_cut_if_wanted),
        CASE(many_watchers_share_one_encoding),
        CASE(a_stream_that_wants_a_leader_ends_without_one),
        CASE(the_thread_holds_what_its_hub_has_not_walked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
