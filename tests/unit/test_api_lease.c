/*
 * Goal: lease requests reach the store, keep-alives are answered in order, and the small services
 * (members, status, health, inspect) say what the facts say.
 * Method: calls against a fake rpc and store.
 */
#include "support_api_fake.h"

#include "lease/lease.h"
#include "proto/health.pb-c.h"
#include "proto/inspect.pb-c.h"

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

static void grant_and_revoke_ask_the_store(void **state)
{
    (void)state;
    Etcdserverpb__LeaseGrantRequest grant = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
    grant.ttl = 60;
    struct rpc_call *call = call_new("/etcdserverpb.Lease/LeaseGrant");
    call_send(call, &grant);
    assert_int_equal(world.posted[0]->kind, STORE_LEASE_GRANT);
    assert_int_equal(world.posted[0]->u.lease.ttl_s, 60);
    assert_int_equal(world.posted[0]->u.lease.id, 0);
    world.posted[0]->answer.lease.id = 77;
    world.posted[0]->answer.lease.ttl_s = 60;
    world.posted[0]->revision = 5;
    posted_done(world.posted[0]);
    const Etcdserverpb__LeaseGrantResponse *granted =
        message_of(call, 0, &etcdserverpb__lease_grant_response__descriptor, &arena);
    assert_int_equal(granted->id, 77);
    assert_int_equal(granted->ttl, 60);
    assert_int_equal(granted->header->revision, 5);
    call_end(call);

    Etcdserverpb__LeaseRevokeRequest revoke = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
    revoke.id = 78;
    call = call_new("/etcdserverpb.Lease/LeaseRevoke");
    call_send(call, &revoke);
    assert_int_equal(world.posted[0]->u.lease.id, 78);
    world.posted[0]->err = ERR_LEASE_NOT_FOUND;
    posted_done(world.posted[0]);
    assert_failed(call, ERR_LEASE_NOT_FOUND);
    call_end(call);
}

static void time_to_live_lists_keys_of_a_known_lease(void **state)
{
    (void)state;
    struct cache_edit *edit = cache_edit_begin(world.cache);
    cache_edit_grant(edit, 77, 60, 1);
    world_publish(edit);
    world_put_value("b", SLICE_LIT("1"), 77);
    world_put_value("a", SLICE_LIT("1"), 77);
    world_put_value("c", SLICE_LIT("1"), 0);
    Etcdserverpb__LeaseTimeToLiveRequest request = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
    request.id = 77;
    request.keys = 1;
    struct rpc_call *call = call_new("/etcdserverpb.Lease/LeaseTimeToLive");
    call_send(call, &request);
    assert_int_equal(world.posted[0]->kind, STORE_LEASE_TTL);
    world.posted[0]->answer.lease.ttl_s = 33;
    world.posted[0]->answer.lease.granted_s = 60;
    world.posted[0]->revision = 4;
    posted_done(world.posted[0]);
    const Etcdserverpb__LeaseTimeToLiveResponse *left =
        message_of(call, 0, &etcdserverpb__lease_time_to_live_response__descriptor, &arena);
    assert_int_equal(left->id, 77);
    assert_int_equal(left->ttl, 33);
    assert_int_equal(left->grantedttl, 60);
    assert_int_equal(left->n_keys, 2);
    assert_bytes(left->keys[0], "a");
    call_end(call);

    request.id = 5;
    call = call_new("/etcdserverpb.Lease/LeaseTimeToLive");
    call_send(call, &request);
    world.posted[0]->answer.lease.ttl_s = -1;
    posted_done(world.posted[0]);
    left = message_of(call, 0, &etcdserverpb__lease_time_to_live_response__descriptor, &arena);
    assert_int_equal(left->id, 5);
    assert_int_equal(left->ttl, -1);
    assert_int_equal(left->grantedttl, 0);
    assert_int_equal(left->n_keys, 0);
    call_end(call);
}

static void leases_are_listed_in_order_of_expiry(void **state)
{
    (void)state;
    struct lease_left left[] = {{INT64_MIN, 7}, {-5, 3}, {1, UINT64_MAX}, {300, 5}, {INT64_MAX, 3}};
    static const int64_t ids[] = {-5, INT64_MAX, 300, INT64_MIN, 1};
    static_assert(ARRAY_COUNT(left) == ARRAY_COUNT(ids), "each once");
    for (uint32_t count = 0; count <= ARRAY_COUNT(ids); count += ARRAY_COUNT(ids)) {
        Etcdserverpb__LeaseLeasesRequest request = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
        struct rpc_call *call = call_new("/etcdserverpb.Lease/LeaseLeases");
        call_send(call, &request);
        assert_int_equal(world.posted[0]->kind, STORE_LEASE_LIST);
        world.posted[0]->revision = 4;
        world.posted[0]->answer.leases.items = left;
        world.posted[0]->answer.leases.count = count;
        posted_done(world.posted[0]);
        const Etcdserverpb__LeaseLeasesResponse *leases =
            message_of(call, 0, &etcdserverpb__lease_leases_response__descriptor, &arena);
        assert_int_equal(leases->header->revision, 4);
        assert_int_equal(leases->n_leases, count);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(leases->leases[i]->id, ids[i]);
        }
        call_end(call);
    }
}

/* ---- keep-alives --------------------------------------------------------------------------- */

static void renew(struct rpc_call *call, int64_t id)
{
    Etcdserverpb__LeaseKeepAliveRequest request = ETCDSERVERPB__LEASE_KEEP_ALIVE_REQUEST__INIT;
    request.id = id;
    call_send(call, &request);
}

static struct rpc_call *keepalive_call(void)
{
    struct rpc_call *call = call_new("/etcdserverpb.Lease/LeaseKeepAlive");
    call_start(call);
    return call;
}

static const Etcdserverpb__LeaseKeepAliveResponse *renewed(struct rpc_call *call, uint32_t index)
{
    return message_of(call, index, &etcdserverpb__lease_keep_alive_response__descriptor, &arena);
}

static void keep_alives_are_answered_in_order(void **state)
{
    (void)state;
    struct rpc_call *call = keepalive_call();
    renew(call, 1);
    renew(call, 2);
    renew(call, 3);
    world_put("k", "v"); /* The header stays as of before. */
    struct store_request *first = world.posted[0];
    struct store_request *second = world.posted[1];
    struct store_request *third = world.posted[2];
    second->answer.lease.ttl_s = 20;
    posted_done(second);
    assert_int_equal(call->message_count, 0);
    first->answer.lease.ttl_s = 0; /* Unknown: no error. */
    posted_done(first);
    assert_int_equal(call->message_count, 2);
    assert_int_equal(renewed(call, 0)->id, 1);
    assert_int_equal(renewed(call, 0)->ttl, 0);
    assert_int_equal(renewed(call, 0)->header->revision, 1);
    assert_int_equal(renewed(call, 1)->id, 2);
    assert_int_equal(renewed(call, 1)->ttl, 20);
    call->method->on_half_close(call);
    assert_false(call->replied); /* One is still to be answered. */
    third->answer.lease.ttl_s = 30;
    posted_done(third);
    assert_int_equal(call->message_count, 3);
    assert_true(call->replied);
    call_end(call);
}

static void a_failed_renewal_ends_the_stream_and_late_answers_are_dropped(void **state)
{
    (void)state;
    struct rpc_call *call = keepalive_call();
    renew(call, 1);
    renew(call, 2);
    struct store_request *second = world.posted[1];
    world.posted[0]->err = ERR_NO_LEADER;
    posted_done(world.posted[0]);
    assert_failed(call, ERR_NO_LEADER);
    call_end(call);
    posted_done(second);

    call = keepalive_call();
    renew(call, 3);
    struct store_request *late = world.posted[0];
    call_end(call);
    posted_done(late);
}

static void health_is_known_for_the_empty_name_only(void **state)
{
    (void)state;
    Grpc__Health__V1__HealthCheckRequest request;
    grpc__health__v1__health_check_request__init(&request);
    struct rpc_call *call = call_new("/grpc.health.v1.Health/Check");
    call_send(call, &request);
    const Grpc__Health__V1__HealthCheckResponse *health =
        message_of(call, 0, &grpc__health__v1__health_check_response__descriptor, &arena);
    assert_int_equal(health->status,
                     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING);
    call_end(call);
    call = call_new("/grpc.health.v1.Health/Check");
    call->method->on_message(call, SLICE_LIT("\x0a\x01\x00")); /* A name of one NUL. */
    assert_failed(call, ERR_HEALTH_UNKNOWN_SERVICE);
    call_end(call);
    call = call_new("/grpc.health.v1.Health/List");
    call->method->on_message(call, SLICE_EMPTY);
    assert_true(call->replied);
    assert_slice_equal(call->messages[0], SLICE_LIT("\x0a\x04\x12\x02\x08\x01"));
    call_end(call);
    char other[] = "other";
    request.service = other;
    call = call_new("/grpc.health.v1.Health/Watch");
    call_start(call);
    call_send(call, &request);
    health = message_of(call, 0, &grpc__health__v1__health_check_response__descriptor, &arena);
    assert_int_equal(health->status,
                     GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN);
    assert_true(call->alive);
    api_thread_drain(world.api, 0);
    assert_failed(call, ERR_STOPPED);
    call_end(call);
}

static void set_members(void)
{
    struct sql_member *members = world.facts->members;
    world.facts->member_count = 2;
    members[0].id = 7;
    members[1].id = 8;
    (void)snprintf(members[0].name, sizeof(members[0].name), "one");
    (void)snprintf(members[1].name, sizeof(members[1].name), "two");
    (void)snprintf(members[0].client_urls, sizeof(members[0].client_urls),
                   "http://a:2379,http://b:2379");
}

/* Rows are what somebody wrote: one of them must not spoil the others. */
static void a_member_without_text_spoils_no_list(void **state)
{
    (void)state;
    set_members();
    (void)snprintf(world.facts->members[1].name, sizeof(world.facts->members[1].name), "a\xff");
    (void)snprintf(world.facts->members[1].client_urls, sizeof(world.facts->members[1].client_urls),
                   "http://\xff:1");
    Etcdserverpb__MemberListRequest request = ETCDSERVERPB__MEMBER_LIST_REQUEST__INIT;
    struct rpc_call *call = call_new("/etcdserverpb.Cluster/MemberList");
    call_send(call, &request);
    const Etcdserverpb__MemberListResponse *list =
        message_of(call, 0, &etcdserverpb__member_list_response__descriptor, &arena);
    assert_int_equal(list->n_members, 2);
    assert_string_equal(list->members[0]->name, "one");
    assert_string_equal(list->members[1]->name, "");
    assert_int_equal(list->members[1]->n_clienturls, 0);
    call_end(call);
}

static void members_are_the_live_ones(void **state)
{
    (void)state;
    set_members();
    Etcdserverpb__MemberListRequest request = ETCDSERVERPB__MEMBER_LIST_REQUEST__INIT;
    request.linearizable = 1;
    struct rpc_call *call = call_new("/etcdserverpb.Cluster/MemberList");
    call_send(call, &request);
    assert_int_equal(world.posted[0]->kind, STORE_READ_INDEX);
    posted_done(world.posted[0]);
    const Etcdserverpb__MemberListResponse *list =
        message_of(call, 0, &etcdserverpb__member_list_response__descriptor, &arena);
    assert_int_equal(list->n_members, 2);
    assert_string_equal(list->members[0]->name, "one");
    assert_int_equal(list->members[0]->n_clienturls, 2);
    assert_string_equal(list->members[0]->clienturls[1], "http://b:2379");
    assert_int_equal(list->members[0]->n_peerurls, 2);
    assert_string_equal(list->members[0]->peerurls[0], list->members[0]->clienturls[0]);
    assert_int_equal(list->members[1]->n_clienturls, 0);
    assert_int_equal(list->header->revision, 0);
    assert_int_equal(list->header->raft_term, 3);
    call_end(call);
}

static void status_says_what_clients_look_at(void **state)
{
    (void)state;
    world_put("k", "v");
    world.facts->database_bytes = 4096;
    Etcdserverpb__StatusRequest request = ETCDSERVERPB__STATUS_REQUEST__INIT;
    struct rpc_call *call = call_new("/etcdserverpb.Maintenance/Status");
    call_send(call, &request);
    const Etcdserverpb__StatusResponse *status =
        message_of(call, 0, &etcdserverpb__status_response__descriptor, &arena);
    assert_string_equal(status->version, "3.7.3");
    assert_string_equal(status->storageversion, "3.7.0");
    assert_int_equal(status->dbsize, 4096);
    assert_int_equal(status->leader, 7);
    assert_int_equal(status->raftterm, 3);
    assert_int_equal(status->dbsizequota, INT64_C(2147483648));
    assert_int_equal(status->header->revision, 2);
    assert_int_equal(status->n_errors, 0);
    assert_non_null(status->downgradeinfo);
    call_end(call);
    world.facts->away = true;
    call = call_new("/etcdserverpb.Maintenance/Status");
    call_send(call, &request);
    status = message_of(call, 0, &etcdserverpb__status_response__descriptor, &arena);
    assert_int_equal(status->leader, 0);
    assert_string_equal(status->errors[0], "etcdserver: no leader");
    call_end(call);
}

static void inspect_shows_the_replica(void **state)
{
    (void)state;
    set_members();
    world_put("k", "v");
    Drover__V1__StateRequest request = DROVER__V1__STATE_REQUEST__INIT;
    struct rpc_call *call = call_new("/drover.v1.Inspect/State");
    call_send(call, &request);
    const Drover__V1__StateResponse *got =
        message_of(call, 0, &drover__v1__state_response__descriptor, &arena);
    assert_int_equal(got->revision, 2);
    assert_int_equal(got->live_keys, 1);
    assert_int_equal(got->events_end, 1);
    assert_int_equal(got->n_members, 2);
    assert_string_equal(got->members[1]->name, "two");
    assert_int_equal(got->chain.len, 16);
    assert_true(got->ready);
    call_end(call);
}

static enum err health_err;
static uint32_t health_count;

static void on_health(void *arg, enum err err)
{
    assert_ptr_equal(arg, &health_count);
    health_err = err;
    health_count++;
}

static void the_http_health_check_reads_like_a_range(void **state)
{
    (void)state;
    health_count = 0;
    api_health(world.api, 0, true, on_health, &health_count);
    assert_int_equal(health_count, 1);
    assert_int_equal(health_err, ERR_OK);
    api_health(world.api, 0, false, on_health, &health_count);
    assert_int_equal(health_count, 1);
    world.posted[0]->err = ERR_TIMEOUT;
    posted_done(world.posted[0]);
    assert_int_equal(health_count, 2);
    assert_int_equal(health_err, ERR_TIMEOUT);
}

int main(void)
{
#undef CASE
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(grant_and_revoke_ask_the_store),
        CASE(time_to_live_lists_keys_of_a_known_lease),
        CASE(leases_are_listed_in_order_of_expiry),
        CASE(keep_alives_are_answered_in_order),
        CASE(a_failed_renewal_ends_the_stream_and_late_answers_are_dropped),
        CASE(health_is_known_for_the_empty_name_only),
        CASE(a_member_without_text_spoils_no_list),
        CASE(members_are_the_live_ones),
        CASE(status_says_what_clients_look_at),
        CASE(inspect_shows_the_replica),
        CASE(the_http_health_check_reads_like_a_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
