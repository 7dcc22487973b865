/* The YAML file, by libyaml's event stream: see config_file.h. */
#include "server/config_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "core/mem.h"

struct reader {
    const char *path;
    config_file_fn *visit;
    void *arg;
    char *why;
    size_t why_size;
    bool in_mapping;
    bool done;
    char *name; /* The key whose value comes next, or NULL. */
};

static enum err reader_fail(const struct reader *reader, const yaml_mark_t *mark, const char *what)
{
    snprintf(reader->why, reader->why_size, "%s:%zu: %s", reader->path, mark->line + 1, what);
    return ERR_CONFIG;
}

static enum err reader_scalar(struct reader *reader, const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;
    if (!reader->in_mapping) {
        return reader_fail(reader, &event->start_mark, "a mapping of names to values is expected");
    }
    if (strlen(text) != event->data.scalar.length) {
        return reader_fail(reader, &event->start_mark, "a value holds a NUL byte");
    }
    if (reader->name == NULL) {
        reader->name = mem_strdup(text);
        return ERR_OK;
    }
    enum err err = reader->visit(reader->name, text, reader->arg);
    mem_free(reader->name);
    reader->name = NULL;
    return err;
}

static enum err reader_event(struct reader *reader, const yaml_event_t *event)
{
    switch ((int)event->type) {
    case YAML_SCALAR_EVENT:
        return reader_scalar(reader, event);
    case YAML_MAPPING_START_EVENT:
        if (reader->in_mapping) {
            return reader_fail(reader, &event->start_mark, "values are not nested here");
        }
        reader->in_mapping = true;
        return ERR_OK;
    case YAML_SEQUENCE_START_EVENT:
    case YAML_ALIAS_EVENT:
        return reader_fail(reader, &event->start_mark, "lists and aliases have no meaning here");
    case YAML_STREAM_END_EVENT:
        reader->done = true;
        return ERR_OK;
    default:
        return ERR_OK;
    }
}

static enum err reader_run(struct reader *reader, yaml_parser_t *parser)
{
    enum err err = ERR_OK;
    while (err == ERR_OK && !reader->done) {
        yaml_event_t event;
        if (yaml_parser_parse(parser, &event) == 0) {
            return reader_fail(reader, &parser->problem_mark,
                               parser->problem != NULL ? parser->problem : "not YAML");
        }
        err = reader_event(reader, &event);
        yaml_event_delete(&event);
    }
    return err;
}

enum err config_file_read(const char *path, config_file_fn *visit, void *arg, char *why,
                          size_t why_size)
{
    FILE *file = fopen(path, "rbe");
    if (file == NULL) {
        snprintf(why, why_size, "%s: %s", path, strerror(errno));
        return ERR_CONFIG;
    }
    struct reader reader = {
        .path = path, .visit = visit, .arg = arg, .why = why, .why_size = why_size};
    yaml_parser_t parser;
    enum err err = ERR_CONFIG;
    if (yaml_parser_initialize(&parser) != 0) {
        yaml_parser_set_input_file(&parser, file);
        err = reader_run(&reader, &parser);
        yaml_parser_delete(&parser);
    }
    mem_free(reader.name);
    (void)fclose(file);
    return err;
}
