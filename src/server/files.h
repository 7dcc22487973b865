/* How many files the process may have open. */
#ifndef SERVER_FILES_H
#define SERVER_FILES_H

#include "core/base.h"

/* Raise the limit to what the system lets us have, as Go programs do: a shell's usual 1024 would be
 * the ceiling of connections. Returns the limit then, 0 when the system does not tell. */
uint64_t server_raise_open_files(void);

#endif
