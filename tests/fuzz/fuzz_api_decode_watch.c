/* api_decode on watch_requests: goal and method in fuzz_api_decode.h. */
#include "fuzz_api_decode.h"

#include "proto/rpc.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_decode(slice_of(data, size), &etcdserverpb__watch_request__descriptor);
    return 0;
}
