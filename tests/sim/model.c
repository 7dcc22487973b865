/* The log replayed: what every answer is held against. */
#include "sim.h"

void model_init(struct model *model)
{
    *model = (struct model){.revision = 1, .compact_rev = -1};
}

void model_fini(struct model *model)
{
    for (uint32_t i = 0; i < model->row_count; i++) {
        mem_free(model->rows[i]);
    }
    mem_free(model->rows);
    mem_free(model->compact_revs);
}

struct slice model_key(uint32_t key)
{
    static const char keys[] = "abcdefgh";
    ASSERT(key < KEY_COUNT);
    return slice_of(&keys[key], 1);
}

const struct model_row *model_get(const struct model *model, uint32_t key, int64_t revision)
{
    const struct model_row *row = model->newest[key];
    while (row != NULL && row->row->revision > revision) {
        row = row->older;
    }
    return row == NULL || row->row->is_delete ? NULL : row;
}

uint32_t model_at(const struct model *model, int64_t revision)
{
    uint32_t low = 0;
    uint32_t high = model->row_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (model->rows[middle]->row->revision < revision) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

bool model_row_is(const struct model_row *row, const struct cache_version *version)
{
    const struct sql_row *want = row->row;
    return slice_equal(want->key, cache_version_key(version)) &&
           want->revision == cache_version_mod_rev(version) &&
           want->sub == cache_version_sub(version) &&
           want->is_delete == cache_version_is_tombstone(version) &&
           (want->is_delete || (slice_equal(want->value, cache_version_value(version)) &&
                                want->create_rev == cache_version_create_rev(version) &&
                                want->version == cache_version_version(version) &&
                                want->lease == cache_version_lease(version)));
}

/* The op whose value |value| is ("<id>.<n>"), or NULL. */
static struct sim_op *op_of(struct world *world, struct slice value)
{
    uint32_t id = 0;
    if (value.size == 0) {
        return NULL;
    }
    for (size_t i = 0; i < value.size && value.data[i] != '.'; i++) {
        id = 10 * id + (uint32_t)(value.data[i] - '0');
    }
    CHECK(world, id < world->op_count);
    return world->ops[id];
}

static void replay_row(struct world *world, const struct sql_row *row, uint64_t seq)
{
    struct model *model = &world->model;
    uint32_t key = (uint32_t)(row->key.data[0] - 'a');
    CHECK(world, row->key.size == 1 && key < KEY_COUNT);
    bool next_rev = row->revision == model->revision + 1 && row->sub == 0;
    bool next_sub = row->revision == model->revision && row->sub > 0;
    CHECK(world, next_rev || next_sub);
    const struct model_row *before = model_get(model, key, INT64_MAX);
    if (row->is_delete) {
        CHECK(world, before != NULL);
    } else {
        CHECK(world, row->version == (before == NULL ? 1 : before->row->version + 1));
        CHECK(world, row->create_rev == (before == NULL ? row->revision : before->row->create_rev));
        struct sim_op *op = op_of(world, row->value);
        if (op != NULL && row->version > 0) {
            /* Written exactly once: never in a second revision. */
            CHECK(world, op->log_rev == 0 || op->log_rev == row->revision);
            CHECK(world, !op->forbidden);
            CHECK(world, !op->answered || op->unknown || op->request.revision == row->revision);
            op->log_rev = row->revision;
        }
    }
    if (model->row_count == model->row_room) {
        model->row_room = model->row_room == 0 ? 256 : 2 * model->row_room;
        model->rows = mem_realloc(model->rows, model->row_room * sizeof(struct model_row *));
    }
    struct model_row *kept = mem_alloc(sizeof(*kept));
    *kept = (struct model_row){row, model->newest[key], seq};
    model->newest[key] = kept;
    model->rows[model->row_count++] = kept;
    model->revision = row->revision;
}

static void life_end(struct world *world, int64_t id, uint64_t seq)
{
    for (uint32_t i = 0; i < world->life_count; i++) {
        if (world->lives[i].id == id && world->lives[i].ended_seq == UINT64_MAX) {
            world->lives[i].ended_seq = seq;
            return;
        }
    }
    sim_fail(world, "a lease that lives");
}

static void replay_effect(struct world *world, const struct sql_effect *effect, uint64_t seq)
{
    switch (effect->kind) {
    case SQL_LEASE_PUT:
        CHECK(world, !lease_lived(world, effect->id, seq - 1, seq - 1));
        if (world->life_count == world->life_room) {
            world->life_room = world->life_room == 0 ? 32 : 2 * world->life_room;
            world->lives = mem_realloc(world->lives, world->life_room * sizeof(*world->lives));
        }
        world->lives[world->life_count++] = (struct lease_life){effect->id, seq, UINT64_MAX};
        break;
    case SQL_LEASE_EXPIRE:
        world->expiries++;
        life_end(world, effect->id, seq);
        break;
    case SQL_LEASE_DELETE:
        life_end(world, effect->id, seq);
        break;
    case SQL_COMPACT:
        CHECK(world, effect->id > world->model.compact_rev);
        CHECK(world, effect->id <= world->model.revision);
        world->model.compact_rev = effect->id;
        break;
    }
}

void world_replay(struct world *world)
{
    struct model *model = &world->model;
    while (model->seq < world->db.entry_count) {
        const struct fake_entry *entry = fake_db_entry(&world->db, ++model->seq);
        CHECK(world, entry->entry.seq == model->seq);
        for (uint32_t i = 0; i < entry->entry.row_count; i++) {
            replay_row(world, &entry->rows[i].row, model->seq);
        }
        for (uint32_t i = 0; i < entry->entry.effect_count; i++) {
            replay_effect(world, &entry->entry.effects[i], model->seq);
        }
        CHECK(world, entry->entry.last_rev == model->revision);
        CHECK(world, entry->entry.compact_rev == model->compact_rev);
    }
}

bool lease_lived(const struct world *world, int64_t id, uint64_t from, uint64_t to)
{
    for (uint32_t i = 0; i < world->life_count; i++) {
        const struct lease_life *life = &world->lives[i];
        if (life->id == id && life->granted_seq <= to && life->ended_seq > from) {
            return true;
        }
    }
    return false;
}

bool lease_was_absent(const struct world *world, int64_t id, uint64_t from, uint64_t to)
{
    uint64_t covered = from; /* Every state up to here had it. */
    bool found = true;
    while (found) {
        found = false;
        for (uint32_t i = 0; i < world->life_count; i++) {
            const struct lease_life *life = &world->lives[i];
            if (life->id == id && life->granted_seq <= covered && life->ended_seq > covered) {
                if (life->ended_seq > to) {
                    return false;
                }
                covered = life->ended_seq;
                found = true;
                break;
            }
        }
    }
    return true;
}
