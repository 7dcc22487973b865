/* A meeting point of threads. */
#include <uv.h>
static uv_barrier_t lock;
