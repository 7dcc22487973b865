/* A YAML file that is one flat mapping of names to scalars. */
#ifndef SERVER_CONFIG_FILE_H
#define SERVER_CONFIG_FILE_H

#include "core/err.h"

typedef enum err config_file_fn(const char *name, const char *text, void *arg);

/* Visits every pair in order; an error of |visit| ends it and is returned. ERR_CONFIG with one
 * clear line (path and line number) in |why| for what cannot be read or is not a flat mapping. */
MUST_CHECK enum err config_file_read(const char *path, config_file_fn *visit, void *arg, char *why,
                                     size_t why_size);

#endif
