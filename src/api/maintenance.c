/* Maintenance: Status and the reading side of Alarm. */
#include "api/handlers.h"
#include "api/internal.h"
#include "core/version.h"
#include "proto/rpc.pb-c.h"

static char status_version[] = ETCD_VERSION; /* protobuf-c has no const. */
static char status_storage_version[] = ETCD_CLUSTER_VERSION;

static Etcdserverpb__ResponseHeader packed_header(const struct api_thread *thread)
{
    const struct store_facts *facts = store_facts(thread->api->config.store);
    Etcdserverpb__ResponseHeader header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
    header.cluster_id = facts->cluster_id;
    header.member_id = facts->member_id;
    header.revision = cache_snapshot_info(api_snapshot(thread))->revision;
    header.raft_term = facts->raft_term;
    return header;
}

/* No alarm is ever raised here: there are none to list and none to disarm; `endpoint health` asks.
 * Raising one by hand is refused rather than forgotten. */
void api_alarm(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    const Etcdserverpb__AlarmRequest *request =
        api_request(thread, call, message, &etcdserverpb__alarm_request__descriptor, NULL);
    if (request == NULL) {
        return;
    }
    if (request->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE) {
        rpc_fail(call, RPC_UNIMPLEMENTED, SLICE_LIT("drover: alarms cannot be raised by hand"));
        return;
    }
    Etcdserverpb__ResponseHeader header = packed_header(thread);
    Etcdserverpb__AlarmResponse answer = ETCDSERVERPB__ALARM_RESPONSE__INIT;
    answer.header = &header;
    api_reply_packed(thread, call, &answer.base);
}

void api_status(struct rpc_call *call, struct slice message)
{
    struct api_thread *thread = api_thread_of(call);
    if (api_request(thread, call, message, &etcdserverpb__status_request__descriptor, NULL) ==
        NULL) {
        return;
    }
    const struct store_facts *facts = store_facts(thread->api->config.store);
    const struct cache_info *info = cache_snapshot_info(api_snapshot(thread));
    bool away = api_is_away(thread);
    char no_leader[64];
    char *errors[] = {no_leader};
    (void)snprintf(no_leader, sizeof(no_leader), "%s", err_text(ERR_NO_LEADER));

    Etcdserverpb__ResponseHeader header = packed_header(thread);
    Etcdserverpb__DowngradeInfo downgrade;
    etcdserverpb__downgrade_info__init(&downgrade);
    Etcdserverpb__StatusResponse status;
    etcdserverpb__status_response__init(&status);
    status.header = &header;
    status.version = status_version;
    status.storageversion = status_storage_version;
    status.dbsize = facts->database_bytes;
    status.dbsizeinuse = (int64_t)info->logical_bytes;
    status.dbsizequota = LIMIT_QUOTA_BYTES;
    status.leader = away ? 0 : facts->leader;
    status.raftindex = info->seq + facts->lag_entries;
    status.raftappliedindex = info->seq;
    status.raftterm = facts->raft_term;
    status.errors = errors;
    status.n_errors = away ? 1 : 0;
    status.downgradeinfo = &downgrade;
    api_reply_packed(thread, call, &status.base);
}
