/* A lock between the threads of one module. */
#include <pthread.h>
static pthread_mutex_t lock;
