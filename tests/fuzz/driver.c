/*
 * Runs a fuzz target without libFuzzer: every seed of the folders named on the command line, then
 * 10,000 mutations of them by a fixed seed. DROVER_FUZZ_RUNS and DROVER_SEED change both.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/clock.h"
#include "core/mem.h"
#include "core/slice.h"

enum { DRIVER_SEEDS_MAX = 4096, DRIVER_INPUT_MAX = 64 * 1024, DRIVER_RUNS = 10000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct slice seeds[DRIVER_SEEDS_MAX];
static uint32_t seed_count;

static void seed_read(const char *folder, const char *name)
{
    char *path = mem_printf("%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    mem_free(path);
    if (file == NULL) {
        return;
    }
    uint8_t *bytes = mem_alloc_raw(DRIVER_INPUT_MAX);
    size_t size = fread(bytes, 1, DRIVER_INPUT_MAX, file);
    (void)fclose(file);
    /* A copy of exactly its size, so that sanitizers see every overrun. */
    seeds[seed_count++] = slice_of(mem_copy(bytes, size), size);
    mem_free(bytes);
}

static void seeds_read(const char *folder)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (entries[i]->d_name[0] != '.' && seed_count < DRIVER_SEEDS_MAX) {
            seed_read(folder, entries[i]->d_name);
        }
        free(entries[i]);
    }
    free(entries);
}

/* One small change in place; returns the new size. */
static size_t mutate(struct rng *rng, uint8_t *bytes, size_t size)
{
    static const uint8_t edges[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x0a, 0x12};
    size_t at = size == 0 ? 0 : rng_below(rng, size);
    switch (rng_below(rng, 6)) {
    case 0: /* Flip a bit. */
        if (size > 0) {
            bytes[at] ^= (uint8_t)(1u << rng_below(rng, 8));
        }
        return size;
    case 1: /* Any byte. */
        if (size > 0) {
            bytes[at] = (uint8_t)rng_next(rng);
        }
        return size;
    case 2: /* A byte at an edge. */
        if (size > 0) {
            bytes[at] = edges[rng_below(rng, sizeof(edges))];
        }
        return size;
    case 3: /* Insert a byte. */
        if (size < DRIVER_INPUT_MAX) {
            memmove(bytes + at + 1, bytes + at, size - at);
            bytes[at] = (uint8_t)rng_next(rng);
            return size + 1;
        }
        return size;
    case 4: /* Take a piece out. */
        if (size > 0) {
            size_t cut = 1 + rng_below(rng, size - at);
            memmove(bytes + at, bytes + at + cut, size - at - cut);
            return size - cut;
        }
        return size;
    default: { /* Put a piece of another seed behind. */
        struct slice other = seeds[rng_below(rng, seed_count)];
        size_t from = other.size == 0 ? 0 : rng_below(rng, other.size);
        size_t part = other.size - from;
        part = part > DRIVER_INPUT_MAX - size ? DRIVER_INPUT_MAX - size : part;
        if (part > 0) {
            memcpy(bytes + size, other.data + from, part);
        }
        return size + part;
    }
    }
}

static void run_mutation(struct rng *rng, uint8_t *scratch)
{
    struct slice seed = seeds[rng_below(rng, seed_count)];
    size_t size = seed.size;
    if (size > 0) {
        memcpy(scratch, seed.data, size);
    }
    for (uint64_t left = 1 + rng_below(rng, 8); left > 0; left--) {
        size = mutate(rng, scratch, size);
    }
    uint8_t *input = mem_copy(scratch, size);
    (void)LLVMFuzzerTestOneInput(input, size);
    mem_free(input);
}

static uint64_t number_from_environment(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    return text == NULL || text[0] == '\0' ? fallback : strtoull(text, NULL, 0);
}

int main(int argc, char **argv)
{
    seeds[seed_count++] = SLICE_EMPTY; /* There is always one. */
    for (int i = 1; i < argc; i++) {
        seeds_read(argv[i]);
    }
    for (uint32_t i = 0; i < seed_count; i++) {
        (void)LLVMFuzzerTestOneInput(seeds[i].data, seeds[i].size);
    }
    uint64_t runs = number_from_environment("DROVER_FUZZ_RUNS", DRIVER_RUNS);
    uint64_t seed = number_from_environment("DROVER_SEED", 1);
    printf("%u seeds, %llu mutations, DROVER_SEED=%llu\n", seed_count, (unsigned long long)runs,
           (unsigned long long)seed);
    (void)fflush(stdout);
    struct rng rng;
    rng_seed(&rng, seed);
    uint8_t *scratch = mem_alloc_raw(DRIVER_INPUT_MAX);
    for (uint64_t i = 0; i < runs; i++) {
        run_mutation(&rng, scratch);
    }
    mem_free(scratch);
    for (uint32_t i = 1; i < seed_count; i++) {
        union {
            const uint8_t *read;
            void *owned;
        } bytes = {.read = seeds[i].data};
        mem_free(bytes.owned);
    }
    return 0;
}
