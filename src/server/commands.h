/* The commands of drover: what follows the command's name comes in, the exit status goes out. */
#ifndef SERVER_COMMANDS_H
#define SERVER_COMMANDS_H

#include "core/base.h"

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

int command_serve(int argc, const char *const *argv);
int command_config(int argc, const char *const *argv);
int command_version(int argc, const char *const *argv);

#endif
