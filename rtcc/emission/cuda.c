/* Kernels on a GPU, launched through NVIDIA's driver, which is opened at run time. Generated text before this file:
 *
 *   RTCC_CAPABILITY_MAJOR, _MINOR      the architecture that the code was compiled for
 *   RTCC_DRIVER_VERSION                of the oldest driver that can compile the PTX, as cuDriverGetVersion has it
 *   RTCC_KERNELS, RTCC_NODES           how many there are, and rtcc_kernels, rtcc_nodes, rtcc_arguments, rtcc_after
 *   RTCC_MOST_ARGUMENTS                of a launch
 *   RTCC_CODE_AT, RTCC_STAGED_BYTES    the code's place in the workspace's memory, and the end of the outputs
 *   RTCC_DEVICE_BYTES                  all of that memory
 *   RTCC_WEIGHT_BYTES                  of the weights
 *   RTCC_GIVES_UP                      whether some kernel can store a code
 *   rtcc_input_places, rtcc_output_places   where tensors lie in the memory
 *   RTCC_IMAGES                        the kernels' code, in one piece
 */
#include <dlfcn.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#define RTCC_DEVICES_MAX 16

/* ---- the driver ---- */

static struct {
#define RTCC_MEMBER(name, parameters) CUresult (*name) parameters;
    RTCC_DRIVER(RTCC_MEMBER)
#undef RTCC_MEMBER
} rtcc_driver;

static _Atomic CUresult rtcc_last_refusal;

/* The driver's own result is kept for whoever asks what happened. */
static int rtcc_failed(CUresult result)
{
    if (result != CUDA_SUCCESS)
        atomic_store_explicit(&rtcc_last_refusal, result, memory_order_relaxed);
    return result != CUDA_SUCCESS;
}

#define RTCC_TRY(call, code) \
    do { \
        if (rtcc_failed(rtcc_driver.call)) \
            return code; \
    } while (0)

/* What all workspaces of a process share on one device, in one context. */
struct rtcc_device {
    CUcontext context;              /* NULL: this entry is free */
    CUdevice device;
    int number;                     /* of the device, as the driver counts them */
    int is_primary;                 /* the context is retained, and released with the last workspace */
    int users;
    CUdeviceptr weights;
    CUmodule modules[RTCC_KERNELS + 1];
    CUfunction functions[RTCC_KERNELS + 1];
};

static struct rtcc_device rtcc_devices[RTCC_DEVICES_MAX];
static pid_t rtcc_devices_of; /* the process that filled the table */
static atomic_flag rtcc_devices_lock = ATOMIC_FLAG_INIT;

static void rtcc_lock_devices(void)
{
    while (atomic_flag_test_and_set_explicit(&rtcc_devices_lock, memory_order_acquire))
        sched_yield();
}

static void rtcc_unlock_devices(void) { atomic_flag_clear_explicit(&rtcc_devices_lock, memory_order_release); }

/* With the lock held. The library is never closed: the driver does not support that. */
static int32_t rtcc_open_driver(void)
{
    if (rtcc_driver.cuGraphLaunch != NULL) {
        RTCC_TRY(cuInit(0), RTCC_DEVICE_MISSING);
        return RTCC_OK;
    }
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return RTCC_DEVICE_MISSING;
#define RTCC_FIND(name, parameters) \
    *(void **)&rtcc_driver.name = dlsym(library, #name); \
    if (rtcc_driver.name == NULL) { \
        rtcc_driver.cuGraphLaunch = NULL; \
        return RTCC_DRIVER_TOO_OLD; \
    }
    RTCC_DRIVER(RTCC_FIND)
#undef RTCC_FIND
    RTCC_TRY(cuInit(0), RTCC_DEVICE_MISSING);
    return RTCC_OK;
}

/* ---- what workspaces share: context, code and weights ---- */

/* What init means where nobody names a device. */
#define RTCC_ANY_DEVICE (-1)

/* The current context's device, and its number. */
static int32_t rtcc_current_device(struct rtcc_device *found)
{
    CUdevice other;
    int count = 0;
    RTCC_TRY(cuCtxGetDevice(&found->device), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuDeviceGetCount(&count), RTCC_DEVICE_FAILED);
    for (int number = 0; number < count; number++) {
        RTCC_TRY(cuDeviceGet(&other, number), RTCC_DEVICE_FAILED);
        if (other == found->device) {
            found->number = number;
            return RTCC_OK;
        }
    }
    return RTCC_DEVICE_FAILED;
}

/* The primary context of the device that is named; where none is, the context that is current, so that the caller
 * can choose a device by it, else the first device's. */
static int32_t rtcc_choose_context(struct rtcc_device *found, int number)
{
    int count = 0;
    if (number == RTCC_ANY_DEVICE) {
        RTCC_TRY(cuCtxGetCurrent(&found->context), RTCC_DEVICE_FAILED);
        if (found->context != NULL)
            return rtcc_current_device(found);
    }
    if (rtcc_failed(rtcc_driver.cuDeviceGetCount(&count)) || count == 0)
        return RTCC_DEVICE_MISSING;
    found->number = number == RTCC_ANY_DEVICE ? 0 : number;
    if (found->number < 0 || found->number >= count)
        return RTCC_NO_SUCH_DEVICE;
    RTCC_TRY(cuDeviceGet(&found->device, found->number), RTCC_DEVICE_MISSING);
    RTCC_TRY(cuDevicePrimaryCtxRetain(&found->context, found->device), RTCC_DEVICE_FAILED);
    found->is_primary = 1;
    return RTCC_OK;
}

/* 1 where the code compiled for the architecture runs, 0 where a newer one must compile its PTX, or a refusal. */
static int32_t rtcc_code_fits(CUdevice device)
{
    int major = 0, minor = 0;
    RTCC_TRY(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device), RTCC_DEVICE_FAILED);
    if (major == RTCC_CAPABILITY_MAJOR && minor == RTCC_CAPABILITY_MINOR)
        return 1;
    if (major * 10 + minor < RTCC_CAPABILITY_MAJOR * 10 + RTCC_CAPABILITY_MINOR)
        return RTCC_DEVICE_OTHER;
    return 0;
}

static int32_t rtcc_load_code(struct rtcc_device *d)
{
    int version = 0;
    const int32_t fits = rtcc_code_fits(d->device);
    if (fits < 0)
        return fits;
    RTCC_TRY(cuDriverGetVersion(&version), RTCC_DEVICE_FAILED);
    const int32_t refusal = version < RTCC_DRIVER_VERSION ? RTCC_DRIVER_TOO_OLD : RTCC_DEVICE_FAILED;
    for (size_t k = 0; k < RTCC_KERNELS; k++) {
        const char *image = RTCC_IMAGES + (fits ? rtcc_kernels[k].cubin : rtcc_kernels[k].ptx);
        const CUresult result = rtcc_driver.cuModuleLoadData(&d->modules[k], image);
        if (rtcc_failed(result))
            return result == CUDA_ERROR_OUT_OF_MEMORY ? RTCC_DEVICE_MEMORY : refusal;
        RTCC_TRY(cuModuleGetFunction(&d->functions[k], d->modules[k], rtcc_kernels[k].symbol), RTCC_DEVICE_FAILED);
    }
    for (size_t n = 0; n < RTCC_NODES; n++) {
        const struct rtcc_node *node = &rtcc_nodes[n];
        if (node->kernel >= 0 && node->shared_bytes > 0)
            RTCC_TRY(cuFuncSetAttribute(d->functions[node->kernel], CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                        (int)node->shared_bytes), RTCC_DEVICE_FAILED);
    }
    return RTCC_OK;
}

/* So many bytes, asked for only where there are as many: a driver that runs out of memory may take it from others. */
static int32_t rtcc_allocate(CUdeviceptr *memory, size_t bytes)
{
    size_t available = 0, total = 0;
    RTCC_TRY(cuMemGetInfo_v2(&available, &total), RTCC_DEVICE_FAILED);
    if (available < bytes)
        return RTCC_DEVICE_MEMORY;
    const CUresult result = rtcc_driver.cuMemAlloc_v2(memory, bytes);
    if (rtcc_failed(result)) {
        *memory = 0;
        return result == CUDA_ERROR_OUT_OF_MEMORY ? RTCC_DEVICE_MEMORY : RTCC_DEVICE_FAILED;
    }
    return RTCC_OK;
}

static int32_t rtcc_upload_weights(struct rtcc_device *d, const char *weights)
{
    if (RTCC_WEIGHT_BYTES == 0)
        return RTCC_OK;
    const int32_t code = rtcc_allocate(&d->weights, RTCC_WEIGHT_BYTES);
    if (code != RTCC_OK)
        return code;
    RTCC_TRY(cuMemcpyHtoD_v2(d->weights, weights, RTCC_WEIGHT_BYTES), RTCC_DEVICE_FAILED);
    return RTCC_OK;
}

/* With the lock held and the context current: gives back what an entry has. */
static void rtcc_unload(struct rtcc_device *d)
{
    for (size_t k = 0; k < RTCC_KERNELS; k++)
        if (d->modules[k] != NULL)
            rtcc_driver.cuModuleUnload(d->modules[k]);
    if (d->weights != 0)
        rtcc_driver.cuMemFree_v2(d->weights);
}

static void rtcc_leave_context(void)
{
    CUcontext context;
    rtcc_driver.cuCtxPopCurrent_v2(&context);
}

/* The entry of a context, which is the new one of a first user. NULL: there are no more. */
static struct rtcc_device *rtcc_entry_of(CUcontext context)
{
    struct rtcc_device *unused = NULL;
    for (size_t i = 0; i < RTCC_DEVICES_MAX; i++) {
        if (rtcc_devices[i].context == context)
            return &rtcc_devices[i];
        if (rtcc_devices[i].context == NULL && unused == NULL)
            unused = &rtcc_devices[i];
    }
    return unused;
}

/* With the lock held: one user more of the device, which has code and weights then; its context is current. */
static int32_t rtcc_join_device(struct rtcc_device **joined, int number, const char *weights)
{
    struct rtcc_device chosen = {0};
    int32_t code = rtcc_open_driver();
    if (code != RTCC_OK)
        return code;
    if (rtcc_devices_of != getpid()) { /* a forked child has nothing of its parent's */
        memset(rtcc_devices, 0, sizeof(rtcc_devices));
        rtcc_devices_of = getpid();
    }
    code = rtcc_choose_context(&chosen, number);
    if (code != RTCC_OK)
        return code;
    struct rtcc_device *d = rtcc_entry_of(chosen.context);
    code = d == NULL ? RTCC_DEVICE_BUSY : RTCC_OK;
    if (code == RTCC_OK && rtcc_failed(rtcc_driver.cuCtxPushCurrent_v2(chosen.context)))
        code = RTCC_DEVICE_FAILED;
    if (code != RTCC_OK) {
        if (chosen.is_primary)
            rtcc_driver.cuDevicePrimaryCtxRelease_v2(chosen.device);
        return code;
    }
    if (d->users == 0) {
        *d = chosen;
        code = rtcc_load_code(d);
        if (code == RTCC_OK)
            code = rtcc_upload_weights(d, weights);
    } else if (chosen.is_primary) { /* retained once for all */
        rtcc_driver.cuDevicePrimaryCtxRelease_v2(chosen.device);
    }
    d->users++;
    *joined = d;
    return code;
}

/* With the lock held and the context current, which then is no more. */
static void rtcc_part_from_device(struct rtcc_device *d)
{
    const int is_last = --d->users == 0;
    if (is_last)
        rtcc_unload(d);
    rtcc_leave_context();
    if (is_last) {
        if (d->is_primary)
            rtcc_driver.cuDevicePrimaryCtxRelease_v2(d->device);
        memset(d, 0, sizeof(*d));
    }
}

/* ---- a workspace's graph of launches ---- */

static int32_t rtcc_add_copy(CUgraph graph, CUgraphNode *node, const CUgraphNode *after, size_t count,
                             const CUDA_MEMCPY3D *copy, CUcontext context)
{
    RTCC_TRY(cuGraphAddMemcpyNode(node, graph, after, count, copy, context), RTCC_DEVICE_FAILED);
    return RTCC_OK;
}

static CUDA_MEMCPY3D rtcc_copy_of(size_t bytes)
{
    CUDA_MEMCPY3D copy;
    memset(&copy, 0, sizeof(copy));
    copy.source.memory_type = copy.destination.memory_type = CU_MEMORYTYPE_DEVICE;
    copy.source.pitch = copy.destination.pitch = copy.width = bytes;
    copy.source.height = copy.destination.height = copy.height = copy.depth = 1;
    return copy;
}

static CUdeviceptr rtcc_address(const struct rtcc_on_device *on, const struct rtcc_argument *argument)
{
    return (argument->is_weight ? on->shared->weights : on->memory) + argument->offset;
}

/* A launch or copy behind others. */
static int32_t rtcc_add_launch(CUgraph graph, CUgraphNode *made, size_t n, const CUgraphNode *after, size_t count,
                               const struct rtcc_on_device *on)
{
    const struct rtcc_node *node = &rtcc_nodes[n];
    const struct rtcc_argument *arguments = &rtcc_arguments[node->arguments];
    if (node->kernel < 0) {
        CUDA_MEMCPY3D copy = rtcc_copy_of(node->bytes);
        copy.destination.device = rtcc_address(on, &arguments[0]);
        copy.source.device = rtcc_address(on, &arguments[1]);
        return rtcc_add_copy(graph, made, after, count, &copy, on->shared->context);
    }
    CUdeviceptr values[RTCC_MOST_ARGUMENTS + 1];
    void *parameters[RTCC_MOST_ARGUMENTS + 1];
    for (uint32_t i = 0; i < node->argument_count; i++) {
        values[i] = rtcc_address(on, &arguments[i]);
        parameters[i] = &values[i];
    }
    const CUDA_KERNEL_NODE_PARAMS launch = {
        on->shared->functions[node->kernel],
        {node->grid[0], node->grid[1], node->grid[2]},
        {node->block[0], node->block[1], node->block[2]},
        node->shared_bytes,
        parameters,
        NULL,
    };
    RTCC_TRY(cuGraphAddKernelNode(made, graph, after, count, &launch), RTCC_DEVICE_FAILED);
    return RTCC_OK;
}

/* The same behind what it must wait for, which is the first node where it is nothing else. */
static int32_t rtcc_add_node(CUgraph graph, CUgraphNode *nodes, size_t n, const CUgraphNode *first,
                             const struct rtcc_on_device *on)
{
    const struct rtcc_node *node = &rtcc_nodes[n];
    CUgraphNode after[RTCC_NODES + 1];
    size_t count = 0;
    for (uint32_t i = 0; i < node->after_count; i++)
        after[count++] = nodes[rtcc_after[node->after + i]];
    if (count == 0 && first != NULL)
        after[count++] = *first;
    return rtcc_add_launch(graph, &nodes[n], n, after, count, on);
}

/* All launches; with copies, what the host gives before them and what it gets behind them, too. */
static int32_t rtcc_fill_graph(CUgraph graph, const struct rtcc_on_device *on, int with_copies)
{
    CUgraphNode nodes[RTCC_NODES + 1], first, last;
    unsigned char is_awaited[RTCC_NODES + 1] = {0};
    int32_t code = RTCC_OK;
    CUDA_MEMCPY3D copy = rtcc_copy_of(RTCC_CODE_AT + sizeof(int32_t));
    if (with_copies) {
        copy.source.memory_type = CU_MEMORYTYPE_HOST;
        copy.source.host = on->staging;
        copy.destination.device = on->memory;
        code = rtcc_add_copy(graph, &first, NULL, 0, &copy, on->shared->context);
    }
    for (size_t n = 0; n < RTCC_NODES && code == RTCC_OK; n++) {
        code = rtcc_add_node(graph, nodes, n, with_copies ? &first : NULL, on);
        for (uint32_t i = 0; i < rtcc_nodes[n].after_count; i++)
            is_awaited[rtcc_after[rtcc_nodes[n].after + i]] = 1;
    }
    if (code != RTCC_OK || !with_copies)
        return code;
    CUgraphNode ends[RTCC_NODES + 1];
    size_t count = 0;
    ends[count++] = first;
    for (size_t n = 0; n < RTCC_NODES; n++)
        if (!is_awaited[n])
            ends[count++] = nodes[n];
    copy = rtcc_copy_of(RTCC_STAGED_BYTES - RTCC_CODE_AT);
    copy.source.device = on->memory + RTCC_CODE_AT;
    copy.destination.memory_type = CU_MEMORYTYPE_HOST;
    copy.destination.host = on->staging + RTCC_CODE_AT;
    return rtcc_add_copy(graph, &last, ends, count, &copy, on->shared->context);
}

/* What a graph runs as, unless filling it gave another code; the graph itself goes. */
static int32_t rtcc_instantiate(CUgraphExec *executable, CUgraph graph, int32_t code)
{
    if (code == RTCC_OK) {
        const CUresult result = rtcc_driver.cuGraphInstantiateWithFlags(executable, graph, 0);
        if (rtcc_failed(result)) {
            *executable = NULL;
            code = result == CUDA_ERROR_OUT_OF_MEMORY ? RTCC_DEVICE_MEMORY : RTCC_DEVICE_FAILED;
        }
    }
    rtcc_driver.cuGraphDestroy(graph);
    return code;
}

static int32_t rtcc_make_graph(CUgraphExec *executable, const struct rtcc_on_device *on, int with_copies)
{
    CUgraph graph;
    RTCC_TRY(cuGraphCreate(&graph, 0), RTCC_DEVICE_FAILED);
    return rtcc_instantiate(executable, graph, rtcc_fill_graph(graph, on, with_copies));
}

static int32_t rtcc_make_workspace(struct rtcc_on_device *on)
{
    int32_t code = rtcc_allocate(&on->memory, RTCC_DEVICE_BYTES);
    if (code != RTCC_OK)
        return code;
    RTCC_TRY(cuMemsetD8_v2(on->memory, 0, RTCC_DEVICE_BYTES), RTCC_DEVICE_FAILED);
    void *staging = NULL;
    RTCC_TRY(cuMemHostAlloc(&staging, RTCC_STAGED_BYTES, 0), RTCC_DEVICE_FAILED);
    on->staging = staging;
    memset(staging, 0, RTCC_STAGED_BYTES);
    RTCC_TRY(cuStreamCreate(&on->stream, CU_STREAM_NON_BLOCKING), RTCC_DEVICE_FAILED);
    /* The weights and the zeros above are put into the default stream, for which this one does not wait. */
    RTCC_TRY(cuStreamSynchronize(NULL), RTCC_DEVICE_FAILED);
    code = rtcc_make_graph(&on->whole, on, 1);
    return code == RTCC_OK ? rtcc_make_graph(&on->launches, on, 0) : code;
}

/* ---- what runtime.c asks for ---- */

static int rtcc_is_forked(const struct rtcc_workspace *w) { return w->device.process != getpid(); }

static int rtcc_holds_something(const struct rtcc_workspace *w) { return !rtcc_is_forked(w); }

/* Gives back all that a workspace has on its device, of what there is. */
static void rtcc_give_back(struct rtcc_on_device *on)
{
    if (on->stream != NULL)
        rtcc_driver.cuStreamSynchronize(on->stream);
    if (on->whole != NULL)
        rtcc_driver.cuGraphExecDestroy(on->whole);
    if (on->launches != NULL)
        rtcc_driver.cuGraphExecDestroy(on->launches);
    if (on->stream != NULL)
        rtcc_driver.cuStreamDestroy_v2(on->stream);
    if (on->staging != NULL)
        rtcc_driver.cuMemFreeHost(on->staging);
    if (on->memory != 0)
        rtcc_driver.cuMemFree_v2(on->memory);
    rtcc_part_from_device(on->shared);
    memset(on, 0, sizeof(*on));
}

static void rtcc_stop_workers(struct rtcc_workspace *w, int32_t started)
{
    (void)started;
    if (rtcc_is_forked(w))
        return;
    rtcc_lock_devices();
    if (rtcc_driver.cuCtxPushCurrent_v2(w->device.shared->context) == CUDA_SUCCESS)
        rtcc_give_back(&w->device);
    rtcc_unlock_devices();
}

static int32_t rtcc_start_on(struct rtcc_workspace *w, int number)
{
    struct rtcc_on_device *on = &w->device;
    w->threads = 1;
    rtcc_lock_devices();
    int32_t code = rtcc_join_device(&on->shared, number, RTCC_WEIGHTS(w));
    if (on->shared != NULL) {
        if (code == RTCC_OK)
            code = rtcc_make_workspace(on);
        if (code == RTCC_OK)
            rtcc_leave_context();
        else
            rtcc_give_back(on);
    }
    rtcc_unlock_devices();
    on->process = getpid();
    return code;
}

static int32_t rtcc_start_workers(struct rtcc_workspace *w, int threads)
{
    (void)threads;
    return rtcc_start_on(w, RTCC_ANY_DEVICE);
}

static int32_t rtcc_walk_all(struct rtcc_workspace *w, const void *const *in, void *const *out)
{
    const struct rtcc_on_device *on = &w->device;
    int32_t code = RTCC_OK;
    for (size_t i = 0; i < RTCC_INPUT_COUNT; i++)
        memcpy(on->staging + rtcc_input_places[i], in[i], rtcc_inputs[i].bytes);
    memcpy(on->staging + RTCC_CODE_AT, &code, sizeof(code));
    RTCC_TRY(cuCtxPushCurrent_v2(on->shared->context), RTCC_DEVICE_FAILED);
    if (rtcc_failed(rtcc_driver.cuGraphLaunch(on->whole, on->stream)) ||
        rtcc_failed(rtcc_driver.cuStreamSynchronize(on->stream)))
        code = RTCC_DEVICE_FAILED;
    rtcc_leave_context();
    if (code != RTCC_OK)
        return code;
    memcpy(&code, on->staging + RTCC_CODE_AT, sizeof(code));
    for (size_t i = 0; i < RTCC_OUTPUT_COUNT; i++)
        memcpy(out[i], on->staging + rtcc_output_places[i], rtcc_outputs[i].bytes);
    return code;
}
