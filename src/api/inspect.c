/* drover.v1.Inspect: what this replica knows of itself and of the others. */
#include "api/handlers.h"
#include "api/internal.h"
#include "core/metrics.h"
#include "core/process.h"
#include "proto/inspect.pb-c.h"

static Drover__V1__StateMember *member_from(const struct sql_member *member, struct arena *arena)
{
    struct {
        Drover__V1__StateMember member;
        char *urls[1];
    } *to = arena_alloc(arena, sizeof(*to));
    if (to == NULL) {
        return NULL;
    }
    drover__v1__state_member__init(&to->member);
    /* protobuf-c has no const; nobody writes through these. */
    to->urls[0] = (char *)(uintptr_t)member->client_urls;
    to->member.id = member->id;
    to->member.name = (char *)(uintptr_t)member->name;
    to->member.version = (char *)(uintptr_t)member->version;
    to->member.client_urls = to->urls;
    to->member.n_client_urls = member->client_urls[0] == '\0' ? 0 : 1;
    to->member.applied_seq = member->applied_seq;
    to->member.age_ms = member->age_ms;
    return &to->member;
}

static void state_from_info(const struct cache_info *info, Drover__V1__StateResponse *state)
{
    state->seq = info->seq;
    state->epoch = info->epoch;
    state->revision = info->revision;
    state->compact_revision = info->compact_rev;
    state->live_keys = info->live_keys;
    state->leases = info->lease_count;
    state->events_begin = info->event_begin;
    state->events_end = info->event_end;
    state->logical_bytes = info->logical_bytes;
}

static void state_from_facts(const struct store_facts *facts, Drover__V1__StateResponse *state)
{
    state->cluster_id = facts->cluster_id;
    state->member_id = facts->member_id;
    state->raft_term = facts->raft_term;
    state->chain.data = (uint8_t *)(uintptr_t)facts->chain.bytes;
    state->chain.len = sizeof(facts->chain.bytes);
    state->chain_seq = facts->chain_seq;
    state->database_bytes = facts->database_bytes;
    state->leader = facts->leader;
    state->lag_entries = facts->lag_entries;
    state->ready = facts->ready;
    state->away = facts->away;
    state->fenced = facts->fenced;
    state->batches = facts->batch_count;
    state->probes = facts->probe_count;
    state->doubts = facts->doubt_count;
}

void api_inspect_state(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    if (api_request(thread, call, message, &drover__v1__state_request__descriptor, NULL) == NULL) {
        return;
    }
    static char version[] = DROVER_VERSION;
    const struct store_facts *facts = store_facts(thread->api->config.store);
    Drover__V1__StateResponse state;
    drover__v1__state_response__init(&state);
    state.version = version;
    state_from_info(cache_snapshot_info(api_snapshot(thread)), &state);
    state_from_facts(facts, &state);
    state.watchers = watch_hub_watcher_count(thread->hub);
    state.slow_watchers = watch_hub_slow_count(thread->hub);
    state.thread = thread->index;
    state.cache_bytes = (uint64_t)metric_get(METRIC_drover_cache_bytes);
    struct process_usage usage;
    process_usage_get(&usage);
    state.resident_bytes = usage.resident_bytes;
    state.members = arena_alloc(&thread->arena, (facts->member_count + 1) * sizeof(void *));
    for (uint32_t i = 0; state.members != NULL && i < facts->member_count; i++) {
        Drover__V1__StateMember *member = member_from(&facts->members[i], &thread->arena);
        if (member == NULL) {
            break;
        }
        state.members[state.n_members++] = member;
    }
    api_reply_packed(thread, call, &state.base);
}
