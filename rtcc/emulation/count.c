/* A plugin of QEMU (TCG, user mode) that counts what a program executes.
 *
 *   -plugin count.so,out=FILE[,caches=BYTES/WAYS:BYTES/WAYS...]
 *
 * At the end FILE has a line for each block of instructions that was translated:
 *
 *   ADDRESS INSTRUCTIONS TIMES [LOADED STORED MISSES...]         address in hexadecimal
 *
 * INSTRUCTIONS: how many the block has. TIMES: how often it began. With caches, from the nearest on: the bytes that it
 * loaded and stored, and for each cache how many lines were not found there. Caches are inclusive, evict what was used
 * least recently, fetch on a store's miss too, and fetch nothing ahead. One thread of the program is counted
 * exactly; several may lose counts to each other. */
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_VERSION
#define PLUGIN_VERSION 1
#endif

/* What is used of QEMU's interface for plugins, which Debian has no header of. */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };
typedef void on_translation(uint64_t id, struct qemu_plugin_tb *block);
typedef void on_execution(unsigned int cpu, void *data);
typedef void on_access(unsigned int cpu, uint32_t access, uint64_t address, void *data);
typedef void on_end(uint64_t id, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, on_translation *call);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, on_execution *call, int flags, void *data);
void qemu_plugin_register_vcpu_mem_cb(
    struct qemu_plugin_insn *instruction, on_access *call, int flags, int which, void *data);
void qemu_plugin_register_atexit_cb(uint64_t id, on_end *call, void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
unsigned int qemu_plugin_mem_size_shift(uint32_t access);
_Bool qemu_plugin_mem_is_store(uint32_t access);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = PLUGIN_VERSION;

enum { LEVELS = 4, LINE = 64 };

struct block {
    struct block *next;
    uint64_t address, instructions, times, loaded, stored, misses[LEVELS];
};

/* lines: of each set its ways, the last used one first; a line's number + 1, 0 where there is none. */
struct cache {
    uint64_t sets, ways, *lines;
};

static struct block *blocks;
static struct cache caches[LEVELS];
static int levels;
static const char *out;
static pthread_mutex_t translating = PTHREAD_MUTEX_INITIALIZER;

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (memory == NULL) {
        fputs("count: not enough memory\n", stderr);
        exit(2);
    }
    return memory;
}

/* Looks a line up and puts it first; whether it was there. */
static int finds(struct cache *cache, uint64_t line)
{
    uint64_t *set = cache->lines + line % cache->sets * cache->ways;
    uint64_t way = 0;
    while (way < cache->ways && set[way] != line + 1)
        way++;
    const int found = way < cache->ways;
    if (way > 0)
        memmove(set + 1, set, (found ? way : cache->ways - 1) * sizeof *set);
    set[0] = line + 1;
    return found;
}

static void count_access(unsigned int cpu, uint32_t access, uint64_t address, void *data)
{
    struct block *block = data;
    const uint64_t bytes = UINT64_C(1) << qemu_plugin_mem_size_shift(access);
    (void)cpu;
    *(qemu_plugin_mem_is_store(access) ? &block->stored : &block->loaded) += bytes;
    for (uint64_t line = address / LINE; line <= (address + bytes - 1) / LINE; line++)
        for (int level = 0; level < levels && !finds(&caches[level], line); level++)
            block->misses[level]++;
}

static void count_block(unsigned int cpu, void *data)
{
    (void)cpu;
    ((struct block *)data)->times++;
}

static void translate(uint64_t id, struct qemu_plugin_tb *translated)
{
    struct block *block = allocate(1, sizeof *block);
    (void)id;
    block->address = qemu_plugin_tb_vaddr(translated);
    block->instructions = qemu_plugin_tb_n_insns(translated);
    pthread_mutex_lock(&translating);
    block->next = blocks;
    blocks = block;
    pthread_mutex_unlock(&translating);
    qemu_plugin_register_vcpu_tb_exec_cb(translated, count_block, NO_REGISTERS, block);
    for (size_t i = 0; levels > 0 && i < block->instructions; i++)
        qemu_plugin_register_vcpu_mem_cb(
            qemu_plugin_tb_get_insn(translated, i), count_access, NO_REGISTERS, READS_AND_WRITES, block);
}

static void write_counts(uint64_t id, void *data)
{
    FILE *file = fopen(out, "w");
    (void)id;
    (void)data;
    if (file == NULL) {
        fprintf(stderr, "count: cannot write %s\n", out);
        exit(2);
    }
    for (const struct block *each = blocks; each != NULL; each = each->next) {
        if (each->times == 0)
            continue;
        fprintf(file, "%" PRIx64 " %" PRIu64 " %" PRIu64, each->address, each->instructions, each->times);
        if (levels > 0)
            fprintf(file, " %" PRIu64 " %" PRIu64, each->loaded, each->stored);
        for (int level = 0; level < levels; level++)
            fprintf(file, " %" PRIu64, each->misses[level]);
        fputc('\n', file);
    }
    fclose(file);
}

/* BYTES/WAYS:BYTES/WAYS...; 0 where it is not written so. */
static int parse_caches(const char *word)
{
    while (levels < LEVELS) {
        char *rest;
        const uint64_t bytes = strtoull(word, &rest, 10);
        const uint64_t ways = *rest == '/' ? strtoull(rest + 1, &rest, 10) : 0;
        if (ways == 0 || bytes < ways * LINE || (*rest != ':' && *rest != '\0'))
            return 0;
        struct cache *cache = &caches[levels++];
        cache->ways = ways;
        cache->sets = bytes / LINE / ways;
        cache->lines = allocate(cache->sets * ways, sizeof *cache->lines);
        if (*rest == '\0')
            return 1;
        word = rest + 1;
    }
    return 0;
}

EXPORTED int qemu_plugin_install(uint64_t id, const void *information, int count, char **words)
{
    (void)information;
    for (int i = 0; i < count; i++) {
        if (strncmp(words[i], "out=", 4) == 0)
            out = strdup(words[i] + 4);
        else if (strncmp(words[i], "caches=", 7) != 0 || !parse_caches(words[i] + 7)) {
            fprintf(stderr, "count: what is %s?\n", words[i]);
            return 1;
        }
    }
    if (out == NULL) {
        fputs("count: out=FILE is missing\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_atexit_cb(id, write_counts, NULL);
    return 0;
}
