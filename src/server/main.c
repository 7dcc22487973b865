/* drover: which command. Each is one function with its own help. */
#include <stdio.h>
#include <string.h>

#include "server/commands.h"

struct command {
    const char *name;
    int (*run)(int argc, const char *const *argv);
    const char *what;
};

static const struct command commands[] = {
    {"serve", command_serve, "serve etcd's API from a SQL database"},
    {"config", command_config, "print the effective configuration; --example prints every setting"},
    {"version", command_version, "print the version"},
};

static void usage(FILE *out)
{
    fprintf(out, "drover: an etcd v3 endpoint that keeps its log in a SQL database\n\n"
                 "Usage: drover COMMAND [FLAGS]\n\nCommands:\n");
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].what);
    }
    fprintf(out, "\nTry it:\n"
                 "  drover serve                     # SQLite in ./default.drover, 127.0.0.1:2379\n"
                 "  ETCDCTL_API=3 etcdctl put hello world\n"
                 "  ETCDCTL_API=3 etcdctl get hello\n\n"
                 "drover COMMAND --help tells a command's flags.\n"
                 "Exit status: 0 success, 1 failure, 2 a mistake on the command line.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    const char *name = strcmp(argv[1], "--version") == 0 ? "version" : argv[1];
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        if (strcmp(name, commands[i].name) == 0) {
            return commands[i].run(argc - 2, (const char *const *)argv + 2);
        }
    }
    fprintf(stderr, "drover: there is no command \"%s\"; drover --help lists them\n", argv[1]);
    return EXIT_USAGE;
}
