/* A stand-in for NVIDIA's driver: device memory is the host's, and kernels are functions of the host that were made
 * of the same TIR (host_kernels.py). It does nothing before somebody waits for it, not even copies and settings of
 * memory in the default stream, for which other streams do not wait; independent nodes of a graph it runs in the
 * reverse of the order in which they were added, and refuses what a driver would: calls without a context, copies
 * past allocations, launches otherwise than the kernel says.
 *
 * The functions fake_… are for tests: how much is allocated, and which call is to fail.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cuda.h"

enum { INVALID_VALUE = 1, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_IMAGE = 200,
       NOT_FOUND = 500,
       LAUNCH_FAILED = 719, MOST = 256, NODES = 4096 };

struct fake_kernel { /* of the library of kernels */
    const char *symbol;
    const unsigned char *image;
    size_t bytes;
    void (*function)(void **parameters);
    unsigned int grid[3], block[3], parameters;
};

static struct {
    int capability[2], version, devices;
    size_t memory, used;
    int allocations, host_allocations, modules, streams, events, graphs, executables, retained, launches, copies, loads;
    char failing[64];
    int result, countdown;
} fake = {.capability = {8, 0}, .version = 13000, .devices = 1, .memory = (size_t)1 << 30}, fresh;

static struct { char *memory; size_t bytes; int device; } blocks[MOST];
static const struct fake_kernel *kernels;
static size_t kernel_count;
static _Thread_local CUcontext stack[16];
static _Thread_local int depth;
static struct CUctx_st { int device; } primary[8] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}}, other;

static pid_t owner; /* the process that initialised it: a forked one cannot use it */

enum { FIRST_HANDLE = 40 }; /* of a device: no program may take its number for that */

/* Whether a call is the one that a test wants to fail. */
static int fails(const char *name, int *result)
{
    if (strcmp(fake.failing, name) != 0 || fake.countdown-- > 0)
        return 0;
    *result = fake.result;
    return 1;
}

#define BEGIN(name) \
    do { \
        int result_; \
        if (fails(name, &result_)) \
            return result_; \
    } while (0)

#define IN_CONTEXT(name) \
    BEGIN(name); \
    if (depth == 0) \
        return INVALID_CONTEXT

/* ---- what is put into a stream runs when somebody waits for it ---- */

struct item {
    CUgraphExec executable;
    char *destination;
    const char *source;     /* NULL: every four bytes become the value */
    size_t bytes;
    unsigned int value;
    char *owned;            /* what the host gave, as it was then */
    CUevent event;          /* which gets the time */
    const struct fake_kernel *kernel;
    unsigned long long values[64];
};

struct CUevent_st { struct timespec time; };

struct CUstream_st { int count; struct item item[1024]; };
static struct CUstream_st default_stream;

static struct CUstream_st *queue_of(CUstream stream) { return stream == NULL ? &default_stream : stream; }

static int put(CUstream stream, struct item item)
{
    struct CUstream_st *queue = queue_of(stream);
    if (queue->count == 1024)
        return LAUNCH_FAILED;
    queue->item[queue->count++] = item;
    return 0;
}

static void run_graph(struct CUgraph_st *graph);

static void run_kernel(const struct fake_kernel *kernel, const unsigned long long *values)
{
    void *parameters[64];
    for (unsigned int i = 0; i < kernel->parameters; i++)
        parameters[i] = (void *)(size_t)values[i];
    kernel->function(parameters);
    fake.launches++;
}

static void forget_items(struct CUstream_st *queue)
{
    for (int i = 0; i < queue->count; i++)
        free(queue->item[i].owned);
    queue->count = 0;
}

static void run_items(struct CUstream_st *queue)
{
    for (int i = 0; i < queue->count; i++) {
        struct item *item = &queue->item[i];
        if (item->kernel != NULL)
            run_kernel(item->kernel, item->values);
        else if (item->event != NULL)
            timespec_get(&item->event->time, TIME_UTC);
        else if (item->executable != NULL)
            run_graph((struct CUgraph_st *)item->executable); /* its first member */
        else if (item->source != NULL)
            memcpy(item->destination, item->source, item->bytes);
        else
            for (size_t byte = 0; byte < item->bytes; byte++)
                item->destination[byte] = ((const char *)&item->value)[byte % 4];
    }
    forget_items(queue);
}

/* ---- for tests ---- */

void fake_fail(const char *name, int result, int countdown)
{
    snprintf(fake.failing, sizeof(fake.failing), "%s", name);
    fake.result = result;
    fake.countdown = countdown;
}

void fake_device(int major, int minor, int version, size_t memory, int devices)
{
    fake.capability[0] = major, fake.capability[1] = minor;
    fake.version = version, fake.memory = memory, fake.devices = devices;
}

int fake_use_kernels(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return -1;
    kernels = dlsym(library, "fake_kernels");
    kernel_count = *(const size_t *)dlsym(library, "fake_kernel_count");
    return 0;
}

static __attribute__((constructor)) void keep_fresh(void) { fresh = fake; }

/* As it was when it was loaded; what is allocated is forgotten. */
void fake_reset(void)
{
    for (int i = 0; i < MOST; i++) {
        free(blocks[i].memory);
        blocks[i].memory = NULL;
    }
    forget_items(&default_stream);
    fake = fresh;
    depth = 0;
    other.device = 0;
}

/* For programs that know nothing of this: the kernels of the library that a variable names. */
static __attribute__((constructor)) void use_named_kernels(void)
{
    const char *path = getenv("FAKE_CUDA_KERNELS");
    if (path != NULL && fake_use_kernels(path) != 0)
        abort();
}

long fake_count(const char *what)
{
#define COUNT(name) if (strcmp(what, #name) == 0) return (long)fake.name
    COUNT(used); COUNT(allocations); COUNT(host_allocations); COUNT(modules); COUNT(streams); COUNT(events); COUNT(graphs);
    COUNT(executables); COUNT(retained); COUNT(launches); COUNT(copies); COUNT(loads);
    return -1;
}

/* Another context than the primary one, as a program has it that uses a device of its own; or takes it away. */
void fake_push_context(void) { stack[depth++] = &other; }

/* That context is one of this device's. */
void fake_choose_device(int number) { other.device = number; }
void fake_pop_context(void) { depth--; }

/* ---- devices and contexts ---- */

CUresult cuInit(unsigned int flags)
{
    BEGIN("cuInit");
    (void)flags;
    if (owner == 0)
        owner = getpid();
    if (owner != getpid())
        return NOT_INITIALIZED;
    return fake.devices > 0 ? 0 : NO_DEVICE;
}

CUresult cuDriverGetVersion(int *version) { BEGIN("cuDriverGetVersion"); *version = fake.version; return 0; }
CUresult cuDeviceGetCount(int *count) { BEGIN("cuDeviceGetCount"); *count = fake.devices; return 0; }
CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    BEGIN("cuDeviceGet");
    if (ordinal < 0 || ordinal >= fake.devices)
        return 101;
    *device = FIRST_HANDLE + ordinal;
    return 0;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    BEGIN("cuDeviceGetAttribute");
    if (device < FIRST_HANDLE)
        return 101;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = fake.capability[0]; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = fake.capability[1]; break;
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
        return 101;
    snprintf(name, (size_t)length, "stand-in %d", device - FIRST_HANDLE);
    return 0;
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    BEGIN("cuCtxGetCurrent");
    *context = depth > 0 ? stack[depth - 1] : NULL;
    return 0;
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    IN_CONTEXT("cuCtxGetDevice");
    *device = FIRST_HANDLE + stack[depth - 1]->device;
    return 0;
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    BEGIN("cuCtxPushCurrent_v2");
    if (context == NULL || depth == 16)
        return INVALID_VALUE;
    stack[depth++] = context;
    return 0;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context) { IN_CONTEXT("cuCtxPopCurrent_v2"); *context = stack[--depth]; return 0; }

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    BEGIN("cuDevicePrimaryCtxRetain");
    if (device < FIRST_HANDLE)
        return 101;
    fake.retained++;
    *context = &primary[device - FIRST_HANDLE];
    return 0;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { (void)device; fake.retained--; return 0; }

/* ---- memory ---- */

CUresult cuMemGetInfo_v2(size_t *available, size_t *total)
{
    IN_CONTEXT("cuMemGetInfo_v2");
    *available = fake.memory - fake.used;
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
            blocks[i].device = stack[depth - 1]->device;
            blocks[i].memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
            memset(blocks[i].memory, 0xA5, bytes);
            fake.used += bytes;
            fake.allocations++;
            *memory = (CUdeviceptr)(size_t)blocks[i].memory;
            return 0;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}

/* The block that has those bytes, or -1. */
static int block_of(CUdeviceptr pointer, size_t bytes)
{
    for (int i = 0; i < MOST; i++) {
        const CUdeviceptr start = (CUdeviceptr)(size_t)blocks[i].memory;
        if (start != 0 && pointer >= start && pointer + bytes <= start + blocks[i].bytes)
            return i;
    }
    return -1;
}

CUresult cuMemFree_v2(CUdeviceptr memory)
{
    const int i = block_of(memory, 1);
    if (depth == 0)
        return INVALID_CONTEXT;
    if (i < 0)
        return INVALID_VALUE;
    run_items(&default_stream); /* memory is freed once nothing uses it any more */
    fake.used -= blocks[i].bytes;
    fake.allocations--;
    free(blocks[i].memory);
    blocks[i].memory = NULL;
    return 0;
}

CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned int flags)
{
    IN_CONTEXT("cuMemHostAlloc");
    (void)flags;
    *memory = malloc(bytes);
    fake.host_allocations++;
    return 0;
}

CUresult cuMemFreeHost(void *memory) { free(memory); fake.host_allocations--; return 0; }

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
CUresult cuPointerGetAttributes(unsigned int count, int *attributes, void **values, CUdeviceptr pointer)
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
                return 222;
            fake.modules++;
            fake.loads += is_text;
            *module = (CUmodule)(size_t)&kernels[k];
            return 0;
        }
    return INVALID_IMAGE;
}

CUresult cuModuleUnload(CUmodule module) { (void)module; fake.modules--; return 0; }

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    IN_CONTEXT("cuModuleGetFunction");
    if (strcmp(((const struct fake_kernel *)module)->symbol, name) != 0)
        return NOT_FOUND;
    *function = (CUfunction)module;
    return 0;
}

CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value)
{
    IN_CONTEXT("cuFuncSetAttribute");
    (void)function, (void)attribute, (void)value;
    return 0;
}

/* ---- graphs ---- */

struct CUgraphNode_st {
    struct CUgraph_st *graph;
    const struct fake_kernel *kernel;
    unsigned long long values[64];
    CUDA_MEMCPY3D copy;
    int after[64], count, is_done;
};

struct CUgraph_st { int nodes; struct CUgraphNode_st *node[NODES]; };
struct CUgraphExec_st { struct CUgraph_st graph; };

CUresult cuGraphCreate(CUgraph *graph, unsigned int flags)
{
    IN_CONTEXT("cuGraphCreate");
    (void)flags;
    *graph = calloc(1, sizeof(**graph));
    fake.graphs++;
    return 0;
}

static void forget(struct CUgraph_st *graph)
{
    for (int n = 0; n < graph->nodes; n++)
        free(graph->node[n]);
}

CUresult cuGraphDestroy(CUgraph graph) { forget(graph); free(graph); fake.graphs--; return 0; }

static int add(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count)
{
    if (graph->nodes == NODES || count > 64)
        return INVALID_VALUE;
    struct CUgraphNode_st *new = calloc(1, sizeof(*new));
    new->graph = graph;
    for (size_t i = 0; i < count; i++) {
        int n = 0;
        while (n < graph->nodes && graph->node[n] != after[i])
            n++;
        if (n == graph->nodes) {
            free(new);
            return INVALID_VALUE;
        }
        new->after[new->count++] = n;
    }
    graph->node[graph->nodes++] = new;
    *node = new;
    return 0;
}

CUresult cuGraphAddKernelNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count,
                              const CUDA_KERNEL_NODE_PARAMS *parameters)
{
    IN_CONTEXT("cuGraphAddKernelNode");
    const struct fake_kernel *kernel = (const struct fake_kernel *)parameters->func;
    if (memcmp(kernel->grid, parameters->grid, sizeof(kernel->grid)) != 0 ||
        memcmp(kernel->block, parameters->block, sizeof(kernel->block)) != 0)
        return INVALID_VALUE;
    const int result = add(node, graph, after, count);
    if (result != 0)
        return result;
    (*node)->kernel = kernel;
    for (unsigned int i = 0; i < kernel->parameters; i++) {
        memcpy(&(*node)->values[i], parameters->parameters[i], 8);
        if (block_of((*node)->values[i], 1) < 0)
            return INVALID_VALUE;
    }
    return 0;
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count,
                              const CUDA_MEMCPY3D *copy, CUcontext context)
{
    IN_CONTEXT("cuGraphAddMemcpyNode");
    if (context == NULL || copy->height != 1 || copy->depth != 1 || copy->width == 0 ||
        copy->source.pitch < copy->width || copy->destination.pitch < copy->width)
        return INVALID_VALUE;
    const struct rtcc_copied *sides[] = {&copy->source, &copy->destination};
    for (int i = 0; i < 2; i++)
        if (sides[i]->memory_type == CU_MEMORYTYPE_DEVICE && block_of(sides[i]->device, copy->width) < 0)
            return INVALID_VALUE;
    const int result = add(node, graph, after, count);
    if (result == 0)
        (*node)->copy = *copy;
    return result;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags)
{
    IN_CONTEXT("cuGraphInstantiateWithFlags");
    (void)flags;
    *executable = calloc(1, sizeof(**executable));
    (*executable)->graph = *graph;
    for (int n = 0; n < graph->nodes; n++) {
        (*executable)->graph.node[n] = malloc(sizeof(struct CUgraphNode_st));
        *(*executable)->graph.node[n] = *graph->node[n];
    }
    fake.executables++;
    return 0;
}

CUresult cuGraphExecDestroy(CUgraphExec executable)
{
    forget(&executable->graph);
    free(executable);
    fake.executables--;
    return 0;
}

static void *side(const struct rtcc_copied *side)
{
    return side->memory_type == CU_MEMORYTYPE_HOST ? (void *)(size_t)side->host : (void *)(size_t)side->device;
}

static void run_node(struct CUgraphNode_st *node)
{
    if (node->kernel == NULL) {
        memcpy(side(&node->copy.destination), side(&node->copy.source), node->copy.width);
        fake.copies++;
        return;
    }
    run_kernel(node->kernel, node->values);
}

/* Of all nodes that may run, the one that was added last. */
static void run_graph(struct CUgraph_st *graph)
{
    for (int n = 0; n < graph->nodes; n++)
        graph->node[n]->is_done = 0;
    for (int left = graph->nodes; left > 0; left--)
        for (int n = graph->nodes - 1; n >= 0; n--) {
            struct CUgraphNode_st *node = graph->node[n];
            int waits = node->is_done;
            for (int i = 0; i < node->count; i++)
                waits |= !graph->node[node->after[i]]->is_done;
            if (!waits) {
                run_node(node);
                node->is_done = 1;
                break;
            }
        }
}

/* ---- streams ---- */

CUresult cuStreamCreate(CUstream *stream, unsigned int flags)
{
    IN_CONTEXT("cuStreamCreate");
    (void)flags;
    *stream = calloc(1, sizeof(**stream));
    fake.streams++;
    return 0;
}

CUresult cuStreamDestroy_v2(CUstream stream) { free(stream); fake.streams--; return 0; }

CUresult cuStreamSynchronize(CUstream stream)
{
    IN_CONTEXT("cuStreamSynchronize");
    run_items(queue_of(stream));
    return 0;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream)
{
    IN_CONTEXT("cuGraphLaunch");
    return put(stream, (struct item){.executable = executable});
}

/* ---- events ---- */

CUresult cuEventCreate(CUevent *event, unsigned int flags)
{
    IN_CONTEXT("cuEventCreate");
    (void)flags;
    *event = calloc(1, sizeof(**event));
    fake.events++;
    return 0;
}

CUresult cuEventDestroy_v2(CUevent event) { free(event); fake.events--; return 0; }

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    IN_CONTEXT("cuEventRecord");
    event->time = (struct timespec){0};
    return put(stream, (struct item){.event = event});
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent begin, CUevent end)
{
    IN_CONTEXT("cuEventElapsedTime");
    if (begin->time.tv_sec == 0 || end->time.tv_sec == 0)
        return 600; /* not ready */
    *milliseconds = (float)(end->time.tv_sec - begin->time.tv_sec) * 1e3f +
                    (float)(end->time.tv_nsec - begin->time.tv_nsec) * 1e-6f;
    return 0;
}

CUresult cuMemcpyDtoH_v2(void *destination, CUdeviceptr source, size_t bytes)
{
    IN_CONTEXT("cuMemcpyDtoH_v2");
    if (block_of(source, bytes) < 0)
        return INVALID_VALUE;
    run_items(&default_stream);
    memcpy(destination, (const void *)(size_t)source, bytes);
    return 0;
}

CUresult cuLaunchKernel(CUfunction function, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                        unsigned int by, unsigned int bz, unsigned int shared, CUstream stream, void **parameters,
                        void **extra)
{
    IN_CONTEXT("cuLaunchKernel");
    const struct fake_kernel *kernel = (const struct fake_kernel *)function;
    const unsigned int grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    struct item item = {.kernel = kernel};
    (void)shared, (void)extra;
    if (memcmp(kernel->grid, grid, sizeof(grid)) != 0 || memcmp(kernel->block, block, sizeof(block)) != 0)
        return INVALID_VALUE;
    for (unsigned int i = 0; i < kernel->parameters; i++) {
        memcpy(&item.values[i], parameters[i], 8);
        if (block_of(item.values[i], 1) < 0)
            return INVALID_VALUE;
    }
    return put(stream, item);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream)
{
    IN_CONTEXT("cuMemcpyDtoDAsync_v2");
    if (block_of(destination, bytes) < 0 || block_of(source, bytes) < 0)
        return INVALID_VALUE;
    return put(stream, (struct item){.destination = (char *)(size_t)destination, .source = (const char *)(size_t)source,
                                     .bytes = bytes});
}

CUresult cuMemcpyDtoHAsync_v2(void *destination, CUdeviceptr source, size_t bytes, CUstream stream)
{
    IN_CONTEXT("cuMemcpyDtoHAsync_v2");
    if (block_of(source, bytes) < 0)
        return INVALID_VALUE;
    return put(stream, (struct item){.destination = destination, .source = (const char *)(size_t)source, .bytes = bytes});
}

CUresult cuMemsetD32Async(CUdeviceptr memory, unsigned int value, size_t count, CUstream stream)
{
    IN_CONTEXT("cuMemsetD32Async");
    if (count != 1 || block_of(memory, 4) < 0)
        return INVALID_VALUE;
    return put(stream, (struct item){.destination = (char *)(size_t)memory, .bytes = 4, .value = value});
}
