/* C's own condition. */
#include <threads.h>
static cnd_t lock;
