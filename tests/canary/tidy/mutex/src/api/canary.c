/* A spin lock by another name. */
#include <stdatomic.h>
static atomic_flag lock;
