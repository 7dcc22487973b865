/* A lock above core. */
#include <uv.h>
static uv_mutex_t lock;
