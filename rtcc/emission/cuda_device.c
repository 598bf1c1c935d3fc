/* A GPU, used through NVIDIA's driver, which is opened at run time: what all workspaces of a process share there.
 * Generated text before this file:
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
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the driver ---- */

static struct {
#define RTCC_MEMBER(name, parameters) CUresult (*name) parameters;
    RTCC_DRIVER(RTCC_MEMBER)
    RTCC_DRIVER_NEWER(RTCC_MEMBER)
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
    struct rtcc_device *next;
    CUcontext context;
    unsigned long long id;          /* tells the context from later ones at its address; 0: the driver has none */
    CUdevice device;
    int number;                     /* of the device, as the driver counts them */
    int is_primary;                 /* the context is retained, and released with the last workspace */
    int is_integrated;              /* the device's memory is the host's */
    int users;
    size_t row_bytes;               /* of the longest row that a copy may have */
    CUdeviceptr weights;
    CUmodule modules[RTCC_KERNELS + 1];
    CUfunction functions[RTCC_KERNELS + 1];
};

static struct rtcc_device *rtcc_devices;
static _Atomic pid_t rtcc_devices_of; /* the first process that wanted a device */
static pthread_mutex_t rtcc_devices_lock;

/* Who waits for code that is compiled lends its priority to the thread that compiles. */
static void rtcc_make_lock(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
    if (pthread_mutex_init(&rtcc_devices_lock, &attributes) != 0) /* not every kernel can lend priorities */
        pthread_mutex_init(&rtcc_devices_lock, NULL);
    pthread_mutexattr_destroy(&attributes);
}

static void rtcc_lock_devices(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, rtcc_make_lock);
    pthread_mutex_lock(&rtcc_devices_lock);
}

static void rtcc_unlock_devices(void) { pthread_mutex_unlock(&rtcc_devices_lock); }

/* Before the lock: a forked process has no device where its parent wanted one, and maybe a lock that a thread of
 * the parent held. */
static int32_t rtcc_claim_devices(void)
{
    pid_t first = 0;
    if (atomic_compare_exchange_strong(&rtcc_devices_of, &first, getpid()) || first == getpid())
        return RTCC_OK;
    rtcc_failed(CUDA_ERROR_NOT_INITIALIZED); /* as the driver says it there */
    return RTCC_DEVICE_MISSING;
}

static int32_t rtcc_begin_driver(void)
{
    const CUresult result = rtcc_driver.cuInit(0);
    if (!rtcc_failed(result))
        return RTCC_OK;
    const int is_missing = result == CUDA_ERROR_NO_DEVICE || result == CUDA_ERROR_NOT_INITIALIZED ||
                           result == CUDA_ERROR_STUB_LIBRARY;
    return is_missing ? RTCC_DEVICE_MISSING : RTCC_DEVICE_FAILED;
}

/* With the lock held. The library is never closed: the driver does not support that. */
static int32_t rtcc_open_driver(void)
{
    if (rtcc_driver.cuGraphLaunch != NULL)
        return rtcc_begin_driver();
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return RTCC_DEVICE_MISSING;
#define RTCC_FIND(name, parameters) *(void **)&rtcc_driver.name = dlsym(library, #name);
#define RTCC_REQUIRE(name, parameters) \
    if (rtcc_driver.name == NULL) { \
        rtcc_driver.cuGraphLaunch = NULL; \
        return RTCC_DRIVER_TOO_OLD; \
    }
    RTCC_DRIVER(RTCC_FIND)
    RTCC_DRIVER_NEWER(RTCC_FIND)
    RTCC_DRIVER(RTCC_REQUIRE)
#undef RTCC_REQUIRE
#undef RTCC_FIND
    return rtcc_begin_driver();
}

/* ---- what workspaces share: context, code and weights ---- */

/* What init means where nobody names a device. */
#define RTCC_ANY_DEVICE (-1)

/* Rows of copies that are longer than a row may be are multiples of this. */
#define RTCC_ROW_MULTIPLE 256

/* Retains the current context where it is its device's primary one, which others may give up meanwhile. */
static int32_t rtcc_retain_current(struct rtcc_device *found)
{
    CUcontext primary;
    unsigned int flags;
    int is_active = 0;
    RTCC_TRY(cuDevicePrimaryCtxGetState(found->device, &flags, &is_active), RTCC_DEVICE_FAILED);
    if (!is_active) /* to retain one would make it */
        return RTCC_OK;
    RTCC_TRY(cuDevicePrimaryCtxRetain(&primary, found->device), RTCC_DEVICE_FAILED);
    found->is_primary = primary == found->context;
    if (!found->is_primary)
        rtcc_driver.cuDevicePrimaryCtxRelease_v2(found->device);
    return RTCC_OK;
}

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
            return rtcc_retain_current(found);
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
    RTCC_TRY(cuDeviceGetCount(&count), RTCC_DEVICE_FAILED);
    if (count == 0)
        return RTCC_DEVICE_MISSING;
    found->number = number == RTCC_ANY_DEVICE ? 0 : number;
    if (found->number < 0 || found->number >= count)
        return RTCC_NO_SUCH_DEVICE;
    RTCC_TRY(cuDeviceGet(&found->device, found->number), RTCC_DEVICE_FAILED);
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

/* What graphs and allocations must know of a device. */
static int32_t rtcc_know_device(struct rtcc_device *d)
{
    int pitch = 0;
    RTCC_TRY(cuDeviceGetAttribute(&d->is_integrated, CU_DEVICE_ATTRIBUTE_INTEGRATED, d->device), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuDeviceGetAttribute(&pitch, CU_DEVICE_ATTRIBUTE_MAX_PITCH, d->device), RTCC_DEVICE_FAILED);
    d->row_bytes = (size_t)(pitch / RTCC_ROW_MULTIPLE) * RTCC_ROW_MULTIPLE;
    return d->row_bytes > 0 ? RTCC_OK : RTCC_DEVICE_FAILED;
}

/* So many bytes, asked for only where there are as many: a driver that runs out of memory may take it from others.
 * Where the memory is the host's, what is free leaves out what the system would give back, so there it is tried. */
static int32_t rtcc_allocate(const struct rtcc_device *d, CUdeviceptr *memory, size_t bytes)
{
    size_t available = 0, total = 0;
    RTCC_TRY(cuMemGetInfo_v2(&available, &total), RTCC_DEVICE_FAILED);
    if (available < bytes && !d->is_integrated)
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
    const int32_t code = rtcc_allocate(d, &d->weights, RTCC_WEIGHT_BYTES);
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

/* What tells the current context from later ones at its address. */
static int32_t rtcc_identify_context(unsigned long long *id)
{
    *id = 0;
    if (rtcc_driver.cuCtxGetId != NULL)
        RTCC_TRY(cuCtxGetId(NULL, id), RTCC_DEVICE_FAILED);
    return RTCC_OK;
}

/* Makes the context current, unless it is no more: a program may reset the device, or destroy its own context. */
static int32_t rtcc_enter_context(const struct rtcc_device *d)
{
    unsigned long long id;
    RTCC_TRY(cuCtxPushCurrent_v2(d->context), RTCC_DEVICE_FAILED);
    int32_t code = rtcc_identify_context(&id);
    if (code == RTCC_OK && id != d->id) {
        rtcc_failed(CUDA_ERROR_CONTEXT_IS_DESTROYED);
        code = RTCC_DEVICE_FAILED;
    }
    if (code != RTCC_OK)
        rtcc_leave_context();
    return code;
}

static void rtcc_unlink(const struct rtcc_device *d)
{
    struct rtcc_device **at = &rtcc_devices;
    while (*at != NULL && *at != d)
        at = &(*at)->next;
    if (*at != NULL)
        *at = d->next;
}

/* The entry of a context, if there is one. That of an earlier context at its address is left to its users. */
static struct rtcc_device *rtcc_entry_of(const struct rtcc_device *chosen)
{
    struct rtcc_device *d = rtcc_devices;
    while (d != NULL && d->context != chosen->context)
        d = d->next;
    if (d == NULL || d->id == chosen->id)
        return d;
    rtcc_unlink(d);
    return NULL;
}

/* With the context current: one more user of its entry, a new one where there was none. */
static int32_t rtcc_join_context(struct rtcc_device **joined, struct rtcc_device *chosen, const char *weights)
{
    int32_t code = rtcc_identify_context(&chosen->id);
    struct rtcc_device *d = code == RTCC_OK ? rtcc_entry_of(chosen) : NULL;
    if (d != NULL) {
        if (chosen->is_primary) /* retained once for all */
            rtcc_driver.cuDevicePrimaryCtxRelease_v2(chosen->device);
        d->users++;
        *joined = d;
        return RTCC_OK;
    }
    if (code == RTCC_OK)
        code = rtcc_know_device(chosen);
    if (code != RTCC_OK)
        return code;
    d = malloc(sizeof(*d));
    if (d == NULL) {
        rtcc_failed(CUDA_ERROR_OUT_OF_MEMORY);
        return RTCC_DEVICE_FAILED;
    }
    *d = *chosen;
    d->users = 1;
    d->next = rtcc_devices;
    *joined = rtcc_devices = d;
    code = rtcc_load_code(d);
    return code == RTCC_OK ? rtcc_upload_weights(d, weights) : code;
}

/* With the lock held: one user more of the device, which has code and weights then; its context is current where
 * there is an entry. */
static int32_t rtcc_join_device(struct rtcc_device **joined, int number, const char *weights)
{
    struct rtcc_device chosen = {0};
    int32_t code = rtcc_open_driver();
    if (code == RTCC_OK)
        code = rtcc_choose_context(&chosen, number);
    if (code != RTCC_OK)
        return code;
    code = RTCC_DEVICE_FAILED;
    if (!rtcc_failed(rtcc_driver.cuCtxPushCurrent_v2(chosen.context))) {
        code = rtcc_join_context(joined, &chosen, weights);
        if (*joined == NULL)
            rtcc_leave_context();
    }
    if (*joined == NULL && chosen.is_primary)
        rtcc_driver.cuDevicePrimaryCtxRelease_v2(chosen.device);
    return code;
}

/* With the lock held; the context is current, and then no more, or it is gone with all that was in it. */
static void rtcc_part_from_device(struct rtcc_device *d, int is_gone)
{
    const int is_last = --d->users == 0;
    if (is_last || is_gone)
        rtcc_unlink(d);
    if (is_last && !is_gone)
        rtcc_unload(d);
    if (!is_gone)
        rtcc_leave_context();
    if (!is_last)
        return;
    if (d->is_primary) /* also of a device that was reset */
        rtcc_driver.cuDevicePrimaryCtxRelease_v2(d->device);
    free(d);
}
