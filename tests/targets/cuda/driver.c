/* A stand-in for NVIDIA's driver: device memory is the host's, and kernels are functions of the host that were made
 * of the same TIR (host_kernels.py). It does nothing before somebody waits for it, not even copies and settings of
 * memory in the default stream, for which other streams do not wait; independent nodes of a graph it runs in the
 * reverse of the order in which they were added, and refuses what a driver would: calls without a context or with
 * what another one has, copies past allocations, launches otherwise than the kernel says.
 *
 * The functions fake_… are for tests: how much is allocated, which call is to fail or to wait, contexts that go.
 */
#define _GNU_SOURCE 1
#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct fake_state fake = {.capability = {8, 0}, .version = 13000, .devices = 1, .memory = (size_t)1 << 30,
                          .pitch = 2147483647};
static struct fake_state fresh;

static struct { char *memory; size_t bytes; int device; struct object object; } blocks[MOST], host_blocks[MOST];
static const struct fake_kernel *kernels;
static size_t kernel_count;
static _Thread_local CUcontext stack[16];
static _Thread_local int depth;
static struct CUctx_st primary[8], others[32], *other = others;
static unsigned long long last_id;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static pthread_cond_t gate = PTHREAD_COND_INITIALIZER;

static pid_t owner; /* the process that initialised it: a forked one cannot use it */

enum { FIRST_HANDLE = 40 }; /* of a device: no program may take its number for that */

int take_lock(void)
{
    pthread_mutex_lock(&lock);
    return 1;
}

void release_lock(int *held)
{
    (void)held;
    pthread_mutex_unlock(&lock);
}

/* Whether a call is the one that a test wants to fail; one that is held waits here. */
int fails(const char *name, CUresult *result)
{
    if (strcmp(fake.held, name) == 0)
        fake.waiting++;
    while (strcmp(fake.held, name) == 0)
        pthread_cond_wait(&gate, &lock);
    if (strcmp(fake.failing, name) != 0 || fake.countdown-- > 0)
        return 0;
    *result = (CUresult)fake.result;
    return 1;
}

CUcontext current_context(void) { return depth > 0 ? stack[depth - 1] : NULL; }

int is_usable(const CUcontext context) { return context->is_alive; }

struct object made(enum kind kind)
{
    CUcontext context = current_context();
    fake.objects[kind]++;
    context->objects[kind]++;
    return (struct object){context, context->id};
}

int is_given_back(const struct object *object, enum kind kind)
{
    if (!object->context->is_alive || object->context->id != object->id)
        return 0;
    fake.objects[kind]--;
    object->context->objects[kind]--;
    return 1;
}

int is_here(const struct object *object)
{
    return object->context == current_context() && object->context->id == object->id;
}

/* ---- for tests ---- */

void fake_fail(const char *name, int result, int countdown)
{
    LOCKED;
    snprintf(fake.failing, sizeof(fake.failing), "%s", name);
    fake.result = result;
    fake.countdown = countdown;
}

/* Let who makes this call wait, until another one is named. */
void fake_hold(const char *name)
{
    LOCKED;
    snprintf(fake.held, sizeof(fake.held), "%s", name);
    pthread_cond_broadcast(&gate);
}

void fake_device(int major, int minor, int version, size_t memory, int devices)
{
    LOCKED;
    fake.capability[0] = major, fake.capability[1] = minor;
    fake.version = version, fake.memory = memory, fake.devices = devices;
}

int fake_use_kernels(const char *path)
{
    LOCKED;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return -1;
    kernels = dlsym(library, "fake_kernels");
    kernel_count = *(const size_t *)dlsym(library, "fake_kernel_count");
    return 0;
}

static void revive(CUcontext context)
{
    if (context->is_alive)
        return;
    context->is_alive = 1;
    context->id = ++last_id;
}

static void free_block(int i)
{
    fake.used -= blocks[i].bytes;
    fake.allocations--;
    free(blocks[i].memory);
    blocks[i].memory = NULL;
}

static void free_host_block(int i) /* who reads it then, crashes */
{
    munmap(host_blocks[i].memory, host_blocks[i].bytes);
    fake.host_allocations--;
    host_blocks[i].memory = NULL;
}

/* A context goes, and with it all that was made there. */
static void destroy(CUcontext context)
{
    forget_streams(context);
    for (int i = 0; i < MOST; i++) {
        if (blocks[i].memory != NULL && blocks[i].object.context == context)
            free_block(i);
        if (host_blocks[i].memory != NULL && host_blocks[i].object.context == context)
            free_host_block(i);
    }
    for (int kind = 0; kind < KINDS; kind++) {
        fake.objects[kind] -= context->objects[kind];
        context->objects[kind] = 0;
    }
    context->is_alive = 0;
}

static __attribute__((constructor)) void keep_fresh(void)
{
    for (int i = 0; i < 8; i++)
        primary[i].device = i;
    fresh = fake;
}

/* As it was when it was loaded; what is allocated is forgotten. */
void fake_reset(void)
{
    LOCKED;
    for (int i = 0; i < 8; i++) {
        destroy(&primary[i]);
        primary[i].retained = 0;
    }
    for (int i = 0; i < 32; i++) {
        destroy(&others[i]);
        others[i].device = 0;
    }
    fake = fresh;
    depth = 0;
    other = others;
}

/* For programs that know nothing of this: the kernels of the library that a variable names. */
static __attribute__((constructor)) void use_named_kernels(void)
{
    const char *path = getenv("FAKE_CUDA_KERNELS");
    if (path != NULL && fake_use_kernels(path) != 0)
        abort();
}

#define NUMBERS(F) \
    F(used, fake.used) F(allocations, fake.allocations) F(host_allocations, fake.host_allocations) \
    F(modules, fake.objects[MODULE]) F(streams, fake.objects[STREAM]) F(events, fake.objects[EVENT]) \
    F(executables, fake.objects[EXECUTABLE]) F(graphs, fake.graphs) F(retained, fake.retained) \
    F(launches, fake.launches) F(copies, fake.copies) F(loads, fake.loads) F(cold, fake.cold) F(dirty, fake.dirty) \
    F(misuses, fake.misuses) F(waiting, fake.waiting) F(pending, pending())

long fake_count(const char *what)
{
    LOCKED;
#define COUNT(name, number) if (strcmp(what, #name) == 0) return (long)(number);
    NUMBERS(COUNT)
    return -1;
}

/* Says something else of all devices. */
void fake_set(const char *what, long value)
{
    LOCKED;
    if (strcmp(what, "integrated") == 0)
        fake.integrated = (int)value;
    else if (strcmp(what, "pitch") == 0)
        fake.pitch = (int)value;
    else if (strcmp(what, "capturing") == 0)
        fake.capturing = (int)value;
    else if (strcmp(what, "nameless") == 0)
        fake.nameless = (int)value;
    else if (strcmp(what, "cached") == 0)
        fake.cached = (size_t)value;
    else
        abort();
}

/* Another context than the primary one, as a program has it that uses a device of its own; or takes it away. */
void fake_push_context(void)
{
    LOCKED;
    revive(other);
    stack[depth++] = other;
}

/* That context is one of this device's; which of many it is. */
void fake_choose_device(int number) { other->device = number; }
void fake_choose_context(int number) { other = &others[number]; }
void fake_pop_context(void) { depth--; }

/* That context, or a device's primary one, goes while others have it; the next one is at the same address. */
void fake_destroy_context(int number)
{
    LOCKED;
    destroy(number < 0 ? other : &primary[number]);
}

/* ---- devices and contexts ---- */

CUresult cuInit(unsigned int flags)
{
    BEGIN("cuInit");
    (void)flags;
    if (owner == 0)
        owner = getpid();
    if (owner != getpid())
        return CUDA_ERROR_NOT_INITIALIZED;
    return fake.devices > 0 ? 0 : CUDA_ERROR_NO_DEVICE;
}

CUresult cuDriverGetVersion(int *version) { BEGIN("cuDriverGetVersion"); *version = fake.version; return 0; }
CUresult cuDeviceGetCount(int *count) { BEGIN("cuDeviceGetCount"); *count = fake.devices; return 0; }
CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    BEGIN("cuDeviceGet");
    if (ordinal < 0 || ordinal >= fake.devices)
        return INVALID_DEVICE;
    *device = FIRST_HANDLE + ordinal;
    return 0;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    BEGIN("cuDeviceGetAttribute");
    if (device < FIRST_HANDLE)
        return INVALID_DEVICE;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = fake.capability[0]; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = fake.capability[1]; break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = fake.integrated; break;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH: *value = fake.pitch; break;
    case 13: *value = 1410000; break;   /* kHz */
    case 16: *value = 108; break;       /* multiprocessors */
    case 36: *value = 1215000; break;   /* kHz, of the memory */
    case 37: *value = 5120; break;      /* bits of its bus */
    case 38: *value = 40 << 20; break;  /* bytes of the second cache */
    default: return INVALID_VALUE;
    }
    return 0;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    BEGIN("cuDeviceGetName");
    if (device < FIRST_HANDLE)
        return INVALID_DEVICE;
    snprintf(name, (size_t)length, "stand-in %d", device - FIRST_HANDLE);
    return 0;
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    BEGIN("cuCtxGetCurrent");
    *context = current_context();
    return 0;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    IN_CONTEXT("cuCtxGetDevice");
    *device = FIRST_HANDLE + current_context()->device;
    return 0;
}

#ifndef OLD_DRIVER
CUresult cuCtxGetId(CUcontext context, unsigned long long *id)
{
    IN_CONTEXT("cuCtxGetId");
    *id = fake.nameless ? 0 : (context == NULL ? current_context() : context)->id;
    return 0;
}
#endif

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    BEGIN("cuCtxPushCurrent_v2");
    if (context == NULL || depth == 16)
        return INVALID_VALUE;
    if (!context->is_alive)
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    stack[depth++] = context;
    return 0;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    BEGIN("cuCtxPopCurrent_v2");
    if (depth == 0)
        return INVALID_CONTEXT;
    *context = stack[--depth];
    return 0;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    BEGIN("cuDevicePrimaryCtxRetain");
    if (device < FIRST_HANDLE)
        return INVALID_DEVICE;
    *context = &primary[device - FIRST_HANDLE];
    revive(*context);
    (*context)->retained++;
    fake.retained++;
    return 0;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    BEGIN("cuDevicePrimaryCtxRelease_v2");
    CUcontext context = &primary[device - FIRST_HANDLE];
    if (context->retained == 0)
        return INVALID_CONTEXT;
    fake.retained--;
    if (--context->retained == 0)
        destroy(context);
    return 0;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    BEGIN("cuDevicePrimaryCtxReset_v2");
    destroy(&primary[device - FIRST_HANDLE]);
    return 0;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *is_active)
{
    BEGIN("cuDevicePrimaryCtxGetState");
    *flags = 0;
    *is_active = primary[device - FIRST_HANDLE].is_alive;
    return 0;
}

/* ---- memory ---- */

CUresult cuMemGetInfo_v2(size_t *available, size_t *total)
{
    IN_CONTEXT("cuMemGetInfo_v2");
    *available = fake.memory - fake.used - fake.cached;
    *total = fake.memory;
    return 0;
}

CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes)
{
    IN_CONTEXT("cuMemAlloc_v2");
    if (bytes == 0)
        return INVALID_VALUE;
    if (fake.used + bytes > fake.memory)
        return CUDA_ERROR_OUT_OF_MEMORY;
    for (int i = 0; i < MOST; i++)
        if (blocks[i].memory == NULL) {
            blocks[i].bytes = bytes;
            blocks[i].device = current_context()->device;
            blocks[i].object = (struct object){current_context(), current_context()->id};
            blocks[i].memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
            memset(blocks[i].memory, 0xA5, bytes);
            fake.used += bytes;
            fake.allocations++;
            *memory = (CUdeviceptr)(size_t)blocks[i].memory;
            return 0;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

int block_of(CUdeviceptr pointer, size_t bytes)
{
    for (int i = 0; i < MOST; i++) {
        const CUdeviceptr start = (CUdeviceptr)(size_t)blocks[i].memory;
        if (start != 0 && pointer >= start && pointer + bytes <= start + blocks[i].bytes)
            return i;
    }
    return -1;
}

static void look_for_data(const char *memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        fake.dirty += memory[i] != 0;
}

CUresult cuMemFree_v2(CUdeviceptr memory)
{
    IN_CONTEXT("cuMemFree_v2");
    const int i = block_of(memory, 1);
    if (i < 0)
        return INVALID_VALUE;
    run_items(&default_stream); /* memory is freed once nothing uses it any more */
    look_for_data(blocks[i].memory, blocks[i].bytes);
    free_block(i);
    return 0;
}

CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned int flags)
{
    IN_CONTEXT("cuMemHostAlloc");
    (void)flags;
    for (int i = 0; i < MOST; i++)
        if (host_blocks[i].memory == NULL) {
            *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (*memory == MAP_FAILED)
                return CUDA_ERROR_OUT_OF_MEMORY;
            host_blocks[i].memory = *memory;
            host_blocks[i].bytes = bytes;
            host_blocks[i].object = (struct object){current_context(), current_context()->id};
            fake.host_allocations++;
            return 0;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFreeHost(void *memory)
{
    IN_CONTEXT("cuMemFreeHost");
    for (int i = 0; i < MOST; i++)
        if (host_blocks[i].memory == memory) {
            fake.misuses += is_in_use(memory, NULL);
            look_for_data(memory, host_blocks[i].bytes);
            free_host_block(i);
            return 0;
        }
    return INVALID_VALUE;
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr destination, const void *source, size_t bytes)
{
    IN_CONTEXT("cuMemcpyHtoD_v2");
    if (block_of(destination, bytes) < 0)
        return INVALID_VALUE;
    char *held = malloc(bytes);
    memcpy(held, source, bytes);
    return put(NULL, (struct item){.destination = (char *)(size_t)destination, .source = held, .bytes = bytes,
                                   .owned = held});
}

CUresult cuMemsetD8_v2(CUdeviceptr memory, unsigned char value, size_t count)
{
    IN_CONTEXT("cuMemsetD8_v2");
    if (block_of(memory, count) < 0)
        return INVALID_VALUE;
    return put(NULL, (struct item){.destination = (char *)(size_t)memory, .bytes = count,
                                   .value = value * 0x01010101u});
}

/* Of memory that is none of the driver's it says 0, and no error. */
CUresult cuPointerGetAttributes(unsigned int count, CUpointer_attribute *attributes, void **values,
                                CUdeviceptr pointer)
{
    IN_CONTEXT("cuPointerGetAttributes");
    const int i = block_of(pointer, 1);
    for (unsigned int n = 0; n < count; n++)
        if (attributes[n] == CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
            *(unsigned int *)values[n] = i < 0 ? 0 : CU_MEMORYTYPE_DEVICE;
        else if (attributes[n] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
            *(int *)values[n] = i < 0 ? 0 : blocks[i].device;
        else
            return INVALID_VALUE;
    return 0;
}

/* ---- code ---- */

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    IN_CONTEXT("cuModuleLoadData");
    for (size_t k = 0; k < kernel_count; k++)
        if (memcmp(image, kernels[k].image, kernels[k].bytes) == 0) {
            const int is_text = kernels[k].image[0] != 0x7f;
            if (is_text && fake.version < 12000)
                return UNSUPPORTED_PTX;
            fake.loads += is_text;
            *module = malloc(sizeof(**module));
            **module = (struct CUmod_st){made(MODULE), &kernels[k]};
            return 0;
        }
    return INVALID_IMAGE;
}

CUresult cuModuleUnload(CUmodule module)
{
    IN_CONTEXT("cuModuleUnload");
    if (!is_given_back(&module->object, MODULE))
        return INVALID_HANDLE;
    free(module);
    return 0;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    IN_CONTEXT("cuModuleGetFunction");
    if (!is_here(&module->object))
        return INVALID_HANDLE;
    if (strcmp(module->kernel->symbol, name) != 0)
        return NOT_FOUND;
    *function = (CUfunction)module;
    return 0;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value)
{
    IN_CONTEXT("cuFuncSetAttribute");
    (void)function, (void)attribute, (void)value;
    return 0;
}
