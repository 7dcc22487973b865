/* MemberList: the replicas whose heartbeat is fresh. Its header has no revision, as in etcd. */
#include "api/ask.h"
#include "api/handlers.h"
#include "core/wire.h"
#include "proto/rpc.pb-c.h"

/* The comma-separated |urls| as an array in |arena|; NULL at its ceiling. */
static char **split_urls(const char *urls, struct arena *arena, size_t *count)
{
    size_t size = strlen(urls) + 1;
    size_t room = 1;
    for (const char *at = urls; *at != '\0'; at++) {
        room += *at == ',';
    }
    char *copy = arena_alloc_bytes(arena, size);
    char **list = arena_alloc(arena, room * sizeof(*list));
    *count = 0;
    if (copy == NULL || list == NULL) {
        return NULL;
    }
    memcpy(copy, urls, size);
    char *rest = copy;
    for (char *url = strtok_r(rest, ",", &rest); url != NULL; url = strtok_r(NULL, ",", &rest)) {
        list[(*count)++] = url;
    }
    return list;
}

static const char *text_or_none(const char *text)
{
    return wire_utf8_is_valid(slice_str(text)) ? text : "";
}

static bool member_from(const struct sql_member *member, struct arena *arena,
                        Etcdserverpb__Member *to)
{
    etcdserverpb__member__init(to);
    to->id = member->id;
    /* A row that somebody else wrote: what is no text would spoil the whole answer. */
    to->name = (char *)(uintptr_t)text_or_none(member->name); /* protobuf-c has no const. */
    to->clienturls = split_urls(text_or_none(member->client_urls), arena, &to->n_clienturls);
    /* Replicas have no peer ports, but tools take a member's first peer URL for granted. */
    to->peerurls = to->clienturls;
    to->n_peerurls = to->n_clienturls;
    return to->clienturls != NULL;
}

static void member_list_reply(struct api_thread *thread, struct rpc_call *call)
{
    const struct store_facts *facts = store_facts(thread->api->config.store);
    struct arena *arena = &thread->arena;
    arena_reset(arena);
    Etcdserverpb__ResponseHeader header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
    header.cluster_id = facts->cluster_id;
    header.member_id = facts->member_id;
    header.raft_term = facts->raft_term;
    Etcdserverpb__MemberListResponse response = ETCDSERVERPB__MEMBER_LIST_RESPONSE__INIT;
    response.header = &header;
    response.members = arena_alloc(arena, (facts->member_count + 1) * sizeof(void *));
    for (uint32_t i = 0; response.members != NULL && i < facts->member_count; i++) {
        Etcdserverpb__Member *member = arena_alloc(arena, sizeof(*member));
        if (member == NULL || !member_from(&facts->members[i], arena, member)) {
            break;
        }
        response.members[response.n_members++] = member;
    }
    if (response.n_members < facts->member_count) {
        rpc_fail_err(call, ERR_INTERNAL); /* Members are few: LIMIT_MEMBERS. */
        return;
    }
    api_reply_packed(thread, call, &response.base);
}

static void member_list_on_index(struct api_ask *ask)
{
    member_list_reply(ask->thread, ask->call);
}

void api_member_list(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Etcdserverpb__MemberListRequest *request =
        api_request(thread, call, message, &etcdserverpb__member_list_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    if (!request->linearizable || store_reads_are_local(thread->api->config.store)) {
        member_list_reply(thread, call);
        return;
    }
    struct api_ask *ask = api_ask_new(thread, call, STORE_READ_INDEX, sizeof(*ask));
    if (ask != NULL) {
        api_ask_read(ask, false, member_list_on_index);
    }
}
