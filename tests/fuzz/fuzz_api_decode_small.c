/* api_decode on the other requests, the first byte says which: see fuzz_api_decode.h. */
#include "fuzz_api_decode.h"

#include "proto/health.pb-c.h"
#include "proto/inspect.pb-c.h"
#include "proto/rpc.pb-c.h"

static const ProtobufCMessageDescriptor *const requests[] = {
    &etcdserverpb__compaction_request__descriptor,
    &etcdserverpb__lease_grant_request__descriptor,
    &etcdserverpb__lease_revoke_request__descriptor,
    &etcdserverpb__lease_keep_alive_request__descriptor,
    &etcdserverpb__lease_time_to_live_request__descriptor,
    &etcdserverpb__lease_leases_request__descriptor,
    &etcdserverpb__member_list_request__descriptor,
    &etcdserverpb__member_add_request__descriptor,
    &etcdserverpb__status_request__descriptor,
    &etcdserverpb__auth_user_add_request__descriptor,
    &etcdserverpb__auth_role_grant_permission_request__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
    &drover__v1__state_request__descriptor,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0) {
        fuzz_decode(slice_of(data + 1, size - 1), requests[data[0] % ARRAY_COUNT(requests)]);
    }
    return 0;
}
