/* A semaphore above core. */
#include <semaphore.h>
static sem_t lock;
