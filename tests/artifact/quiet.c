/* What happens inside run: marks the runs with getppid for strace, and counts allocations and the floating-point mode. */
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "model.h"

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
static _Atomic int allocations;

void *malloc(size_t bytes) { allocations++; return __libc_malloc(bytes); }
void *calloc(size_t count, size_t bytes) { allocations++; return __libc_calloc(count, bytes); }
void *realloc(void *old, size_t bytes) { allocations++; return __libc_realloc(old, bytes); }

static _Alignas(64) unsigned char workspace[MODEL_WORKSPACE_BYTES(4)];
static float x[1000], y[1000];

int main(int count, char **arguments)
{
    const void *inputs[] = {x};
    void *outputs[] = {y};
    const int threads = count > 1 ? atoi(arguments[1]) : 1;
    if (model_init(workspace, sizeof workspace, threads) != 0)
        return 2;
    x[0] = 1e-40f;
    fesetround(FE_UPWARD);
    const int before = allocations;
    getppid();
    for (int i = 0; i < 200; i++)
        if (model_run(workspace, inputs, outputs) != 0)
            return 3;
    getppid();
    const int made = allocations - before;
    const int restored = fegetround() == FE_UPWARD;
    volatile float denormal = 1e-40f;
    const int kept = denormal * 1.0f != 0.0f;
    model_finish(workspace, 0);
    printf("allocations %d restored %d kept %d flushed %d\n", made, restored, kept, y[0] == 0.0f);
    return 0;
}
