/* The short commands: config and version. */
#include "server/commands.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/version.h"
#include "server/config.h"
#include "sql/sql.h"

int command_version(int argc, const char *const *argv)
{
    if (argc == 1 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        printf("Usage: drover version\n\n"
               "Prints drover's own version, the etcd whose API it serves, and the newest schema\n"
               "that it reads.\n");
        return 0;
    }
    if (argc > 0) {
        fprintf(stderr, "drover version: \"%s\" is not expected\n", argv[0]);
        return EXIT_USAGE;
    }
    printf("drover Version: %s\netcd Version: %s\nSchema Version: %d\n", DROVER_VERSION,
           ETCD_VERSION, SQL_SCHEMA_VERSION);
    return 0;
}

int command_config(int argc, const char *const *argv)
{
    if (argc == 1 && strcmp(argv[0], "--example") == 0) {
        config_print_example(stdout);
        return 0;
    }
    struct config config;
    char why[1024];
    if (config_load(&config, argc, argv, (const char *const *)environ, why, sizeof(why)) !=
        ERR_OK) {
        fprintf(stderr, "drover config: %s\n", why);
        config_fini(&config);
        return EXIT_USAGE;
    }
    if (config.help_asked) {
        printf("Usage: drover config [FLAGS of drover serve]\n\n"
               "Prints what drover serve would run with, and where each value comes from.\n"
               "  --example   print every setting with its help at its default\n");
        config_print_help(stdout);
    } else {
        config_print(&config, stdout);
    }
    config_fini(&config);
    return 0;
}
