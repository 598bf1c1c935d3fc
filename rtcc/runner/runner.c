/* Runs a compiled model once, or more often to time it, on the machine that it is for.
 *
 *   runner ARTEFACT                                       prints its description, as <name>_info has it
 *   runner ARTEFACT SECONDS THREADS FOLDER RUNS TENSOR... runs it, one word for each input, then for each output:
 *     iBYTES        an input, read from FOLDER/0.in, FOLDER/1.in...
 *     oBYTES:RANK   an output, written to FOLDER/0.out, FOLDER/1.out...; RANK above 0: its shape is told
 *
 * ARTEFACT is a shared library, or "-" in a program that the model is linked into (LINKED_MODEL). RUNS above 0:
 * after the first run, on the first THREADS of the CPUs that it may use, WARMUP more and as many timed ones. After
 * SECONDS the program is ended by SIGALRM, whatever it is at: nobody may be left who could stop it.
 *
 * Prints what report.h says, and nanoseconds of init and of each timed run. Ends with 0 where it could do so, else
 * with 2 and a line that says why.
 */
#define _GNU_SOURCE 1 /* sched_setaffinity */
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef LINKED_MODEL
#include "linked_model.h" /* from rtcc.runner.program: the model's header, and its functions as a table */
#else
#include <dlfcn.h>

#include "artifact_table.h" /* from rtcc.emission.header: what the headers of artefacts say */
#endif

#include "report.h"

enum { NAME = 4096, WARMUP = 3 };

static void put(const char *text) { fputs(text, stdout); }

static void fail(const char *what, const char *which)
{
    fprintf(stderr, "%s %s\n", what, which);
    exit(2);
}

static void *allocate(size_t bytes)
{
    void *memory = aligned_alloc(ALIGNMENT, (bytes / ALIGNMENT + 1) * ALIGNMENT);
    if (memory == NULL)
        fail("not enough memory for", "the run");
    return memory;
}

static FILE *open_tensor(const char *folder, int index, const char *suffix, const char *mode)
{
    char name[NAME];
    snprintf(name, sizeof name, "%s/%d.%s", folder, index, suffix);
    FILE *file = fopen(name, mode);
    if (file == NULL)
        fail("cannot open", name);
    return file;
}

static void transfer(const struct tensor *t, void *data, const char *folder, int index)
{
    const int reads = t->side == 'i';
    FILE *file = open_tensor(folder, index, reads ? "in" : "out", reads ? "rb" : "wb");
    const size_t done = reads ? fread(data, 1, t->bytes, file) : fwrite(data, 1, t->bytes, file);
    if (done != t->bytes || fclose(file) != 0)
        fail("cannot transfer a tensor in", folder);
}

static void parse_tensor(struct tensor *t, const char *word)
{
    char *rest;
    t->side = word[0];
    t->bytes = strtoull(word + 1, &rest, 10);
    t->rank = *rest == ':' ? atoi(rest + 1) : 0;
    if ((t->side != 'i' && t->side != 'o') || t->rank < 0 || t->rank > RANKS)
        fail("not a tensor:", word);
}

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Keep this thread, and those that it starts, on the first CPUs that it may use. */
static void pin(int threads)
{
    cpu_set_t allowed, kept;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return; /* more CPUs than a set of the usual size holds: the scheduler decides */
    CPU_ZERO(&kept);
    for (int cpu = 0; cpu < CPU_SETSIZE && threads > 0; cpu++) {
        if (CPU_ISSET(cpu, &allowed)) {
            CPU_SET(cpu, &kept);
            threads--;
        }
    }
    sched_setaffinity(0, sizeof kept, &kept);
}

static int put_times(const struct rtcc_artifact *model, void *workspace, const void *const *inputs,
                       void *const *outputs, int runs)
{
    int code = 0;
    for (int i = 0; i < WARMUP && runs > 0 && code == 0; i++)
        code = model->run(workspace, inputs, outputs);
    put("\"runs_ns\":[");
    for (int i = 0; i < runs && code == 0; i++) {
        const int64_t started = nanoseconds();
        code = model->run(workspace, inputs, outputs);
        const int64_t took = nanoseconds() - started;
        put(i > 0 ? "," : "");
        put_number(took);
    }
    put("],");
    return code;
}

/* Inputs come before outputs. */
static void run(const struct rtcc_artifact *model, int threads, const char *folder, int runs,
                const struct tensor *all, int count)
{
    const size_t bytes = model->workspace_bytes(threads);
    void *workspace = allocate(bytes);
    const void **inputs = allocate(sizeof *inputs * (size_t)count);
    void **outputs = allocate(sizeof *outputs * (size_t)count);
    int read = 0, written = 0;
    for (int i = 0; i < count; i++) {
        void *data = allocate(all[i].bytes);
        if (all[i].side == 'i') {
            transfer(&all[i], data, folder, read);
            inputs[read++] = data;
        } else
            outputs[written++] = data;
    }
    if (runs > 0)
        pin(threads);
    const int64_t started = nanoseconds();
    int code = model->init(workspace, bytes, threads);
    put_begin(model, nanoseconds() - started);
    if (code == 0)
        code = model->run(workspace, inputs, outputs);
    if (code == 0) {
        for (int i = 0; i < written; i++)
            transfer(&all[read + i], outputs[i], folder, i);
        put_shapes(model, workspace, all + read, written);
        code = put_times(model, workspace, inputs, outputs, runs);
    }
    model->finish(workspace, 0);
    put_end(model, code);
}

#ifdef LINKED_MODEL
static const struct rtcc_artifact *open_artifact(const char *word)
{
    if (strcmp(word, "-") != 0)
        fail("the model is linked into this program; expected -, found", word);
    return &linked_model;
}
#else
static const struct rtcc_artifact *open_artifact(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        fail("cannot load the artefact:", dlerror());
    const struct rtcc_artifact *model = dlsym(library, "rtcc_artifact_v1");
    if (model == NULL || model->size < sizeof *model)
        fail("no artefact, or one of another version:", path);
    return model;
}
#endif

int main(int count, char **words)
{
    enum { SECONDS = 2, THREADS, FOLDER, RUNS, FIRST };
    if (count != 2 && count < FIRST)
        fail("expected ARTEFACT [SECONDS THREADS FOLDER RUNS TENSOR...], found", count > 1 ? words[1] : "nothing");
    const struct rtcc_artifact *model = open_artifact(words[1]);
    if (count == 2) {
        puts(model->info());
        return 0;
    }
    alarm((unsigned)atoi(words[SECONDS]));
    struct tensor *all = allocate(sizeof *all * (size_t)(count - FIRST));
    for (int i = FIRST; i < count; i++)
        parse_tensor(&all[i - FIRST], words[i]);
    run(model, atoi(words[THREADS]), words[FOLDER], atoi(words[RUNS]), all, count - FIRST);
    return 0;
}
