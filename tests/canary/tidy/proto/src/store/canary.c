/* Only api knows messages. */
#include "proto/rpc.pb-c.h"
