/* Opens an artefact and runs it once, on the machine that it is for.
 *
 *   runner ARTEFACT                                  prints its description, as <name>_info has it
 *   runner ARTEFACT THREADS FOLDER TENSOR...         runs it, one word for each input, then for each output:
 *     iBYTES        an input, read from FOLDER/0.in, FOLDER/1.in...
 *     oBYTES:RANK   an output, written to FOLDER/0.out, FOLDER/1.out...; RANK above 0: its shape is printed
 *
 * Prints "shape INDEX SIZES..." for outputs whose shape the data decide, and at the end "code NUMBER TEXT", as
 * the artefact's functions returned it. Ends with 0 where it could do so, else with 2 and a line that says why.
 */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "artifact_table.h" /* from rtcc.emission.header: what the headers of artefacts say */

enum { ALIGNMENT = 64, RANKS = 64, NAME = 4096 };

struct tensor {
    char side;
    size_t bytes;
    int rank;
    void *data;
};

static void fail(const char *what, const char *which)
{
    printf("%s %s\n", what, which);
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

static void transfer(struct tensor *t, const char *folder, int index)
{
    const int reads = t->side == 'i';
    FILE *file = open_tensor(folder, index, reads ? "in" : "out", reads ? "rb" : "wb");
    const size_t done = reads ? fread(t->data, 1, t->bytes, file) : fwrite(t->data, 1, t->bytes, file);
    if (done != t->bytes || fclose(file) != 0)
        fail("cannot transfer a tensor in", folder);
}

static void parse_tensor(struct tensor *t, const char *word)
{
    char *rest;
    t->side = word[0];
    t->bytes = strtoull(word + 1, &rest, 10);
    t->rank = *rest == ':' ? atoi(rest + 1) : 0;
    t->data = allocate(t->bytes);
    if ((t->side != 'i' && t->side != 'o') || t->rank < 0 || t->rank > RANKS)
        fail("not a tensor:", word);
}

static void print_shape(const struct rtcc_artifact *model, const void *workspace, int output, int rank)
{
    int64_t shape[RANKS];
    if (model->output_shape(workspace, output, shape) != 0)
        fail("no shape of", "an output");
    printf("shape %d", output);
    for (int axis = 0; axis < rank; axis++)
        printf(" %" PRId64, shape[axis]);
    printf("\n");
}

/* Inputs come before outputs. */
static int run(const struct rtcc_artifact *model, int threads, const char *folder, struct tensor *all, int count)
{
    const size_t bytes = model->workspace_bytes(threads);
    void *workspace = allocate(bytes);
    const void **inputs = allocate(sizeof *inputs * (size_t)count);
    void **outputs = allocate(sizeof *outputs * (size_t)count);
    int read = 0, written = 0;
    for (int i = 0; i < count; i++) {
        if (all[i].side == 'i') {
            transfer(&all[i], folder, read);
            inputs[read++] = all[i].data;
        } else
            outputs[written++] = all[i].data;
    }
    int code = model->init(workspace, bytes, threads);
    if (code == 0)
        code = model->run(workspace, inputs, outputs);
    for (int i = 0; i < written && code == 0; i++) {
        transfer(&all[read + i], folder, i);
        if (all[read + i].rank > 0)
            print_shape(model, workspace, i, all[read + i].rank);
    }
    model->finish(workspace, 0);
    return code;
}

int main(int count, char **words)
{
    enum { FIRST = 4 };
    if (count != 2 && count < FIRST)
        fail("expected ARTEFACT [THREADS FOLDER TENSOR...], found", count > 1 ? words[1] : "nothing");
    void *library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        fail("cannot load the artefact:", dlerror());
    const struct rtcc_artifact *model = dlsym(library, "rtcc_artifact_v1");
    if (model == NULL || model->size < sizeof *model)
        fail("no artefact, or one of another version:", words[1]);
    if (count == 2) {
        puts(model->info());
        return 0;
    }
    struct tensor *all = allocate(sizeof *all * (size_t)(count - FIRST));
    for (int i = FIRST; i < count; i++)
        parse_tensor(&all[i - FIRST], words[i]);
    const int code = run(model, atoi(words[2]), words[3], all, count - FIRST);
    printf("code %d %s\n", code, model->error(code));
    return 0;
}
