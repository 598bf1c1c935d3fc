/* A system that refuses to start the third thread: init must stop the others and say so, then work when it is let. */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>

#include "model.h"

typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

static int left = 2;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    create *real = (create *)dlsym(RTLD_NEXT, "pthread_create");
    return left-- > 0 ? real(thread, attributes, start, argument) : EAGAIN;
}

static _Alignas(64) unsigned char workspace[MODEL_WORKSPACE_BYTES(4)];

int main(void)
{
    static float x[1000], y[1000];
    const void *inputs[] = {x};
    void *outputs[] = {y};
    if (model_init(workspace, sizeof workspace, 4) != RTCC_THREAD_REFUSED)
        return 1;
    if (model_run(workspace, inputs, outputs) != RTCC_NOT_INITIALISED)
        return 2;
    left = 3;
    if (model_init(workspace, sizeof workspace, 4) != RTCC_OK || model_run(workspace, inputs, outputs) != RTCC_OK)
        return 3;
    model_finish(workspace, 0);
    return 0;
}
