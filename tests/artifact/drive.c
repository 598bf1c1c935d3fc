/* Runs an artefact from C: THREADS WORKSPACES RUNS, inputs from in0.bin…, outputs compared with out0.bin….
 * All workspaces run at the same time, each in a thread of its own.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model.h"

#ifndef TABLE
#define TABLE rtcc_artifact_v1
extern const struct rtcc_artifact rtcc_artifact_v1;
#endif

enum { TENSORS = 4, CAPACITY = 1 << 16 };

static _Alignas(64) char in[TENSORS][CAPACITY], expected[TENSORS][CAPACITY];
static size_t expected_bytes[TENSORS];
static int threads, workspaces, runs;

static size_t read_file(const char *kind, int index, char *to)
{
    char name[32];
    snprintf(name, sizeof name, "%s%d.bin", kind, index);
    FILE *file = fopen(name, "rb");
    if (file == NULL)
        return 0;
    const size_t bytes = fread(to, 1, CAPACITY, file);
    fclose(file);
    return bytes;
}

static void *work(void *argument)
{
    const size_t bytes = TABLE.workspace_bytes(threads);
    char *workspace = aligned_alloc(64, (bytes + 63) / 64 * 64);
    const void *inputs[TENSORS];
    void *outputs[TENSORS];
    int code;
    (void)argument;
    for (int i = 0; i < TENSORS; i++) {
        inputs[i] = in[i];
        outputs[i] = malloc(CAPACITY);
    }
    memset(workspace, 0xa5, bytes);
    code = TABLE.init(workspace, bytes, threads);
    for (int run = 0; run < runs && code == 0; run++) {
        if (run % 16 == 15)
            usleep(3000); /* long enough for the pool to fall asleep */
        code = TABLE.run(workspace, inputs, outputs);
        for (int i = 0; i < TENSORS && code == 0; i++)
            if (memcmp(outputs[i], expected[i], expected_bytes[i]) != 0)
                code = 1;
    }
    TABLE.finish(workspace, 1);
    for (size_t i = 0; i < bytes && code == 0; i++)
        if (workspace[i] != 0)
            code = 2;
    for (int i = 0; i < TENSORS; i++)
        free(outputs[i]);
    free(workspace);
    if (code != 0)
        printf("code %d: %s\n", code, TABLE.error(code));
    return code == 0 ? NULL : (void *)1;
}

int main(int count, char **arguments)
{
    pthread_t callers[16];
    int failed = count != 4;
    if (failed)
        return 2;
    threads = atoi(arguments[1]), workspaces = atoi(arguments[2]), runs = atoi(arguments[3]);
    for (int i = 0; i < TENSORS; i++) {
        read_file("in", i, in[i]);
        expected_bytes[i] = read_file("out", i, expected[i]);
    }
    for (int i = 0; i < workspaces; i++)
        pthread_create(&callers[i], NULL, work, NULL);
    for (int i = 0; i < workspaces; i++) {
        void *result;
        pthread_join(callers[i], &result);
        failed |= result != NULL;
    }
    return failed;
}
