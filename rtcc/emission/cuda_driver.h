/* What is used of NVIDIA's driver, declared as its cuda.h does, so that neither is needed to build; and what a
 * workspace and the generated tables have of a GPU. Names without _v2 are those of the library's symbols.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef unsigned int CUresult; /* an enum there, as the next four are */
typedef unsigned int CUdevice_attribute;
typedef unsigned int CUfunction_attribute;
typedef unsigned int CUpointer_attribute;
typedef unsigned int CUstreamCaptureStatus;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphNode_st *CUgraphNode;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_STUB_LIBRARY = 34,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CU_MEMORYTYPE_HOST = 1,
    CU_MEMORYTYPE_DEVICE = 2,
    CU_STREAM_NON_BLOCKING = 1,
    CU_STREAM_CAPTURE_STATUS_NONE = 0,
    CU_EVENT_DISABLE_TIMING = 2,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    CU_DEVICE_ATTRIBUTE_MAX_PITCH = 11,
    CU_DEVICE_ATTRIBUTE_INTEGRATED = 18,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2,
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9,
};

typedef struct {
    CUfunction func;
    unsigned int grid[3], block[3], shared_bytes;
    void **parameters, **extra;
} CUDA_KERNEL_NODE_PARAMS;

struct rtcc_copied { /* one side of a copy */
    size_t x, y, z, level;
    unsigned int memory_type;
    const void *host;
    CUdeviceptr device;
    void *array, *reserved;
    size_t pitch, height;
};

typedef struct {
    struct rtcc_copied source, destination;
    size_t width, height, depth;
} CUDA_MEMCPY3D;

/* The functions: name in the library, then its parameters. */
#define RTCC_DRIVER(F) \
    F(cuInit, (unsigned int flags)) \
    F(cuDriverGetVersion, (int *version)) \
    F(cuDeviceGetCount, (int *count)) \
    F(cuDeviceGet, (CUdevice *device, int ordinal)) \
    F(cuDeviceGetAttribute, (int *value, CUdevice_attribute attribute, CUdevice device)) \
    F(cuCtxGetCurrent, (CUcontext *context)) \
    F(cuCtxGetDevice, (CUdevice *device)) \
    F(cuCtxPushCurrent_v2, (CUcontext context)) \
    F(cuCtxPopCurrent_v2, (CUcontext *context)) \
    F(cuDevicePrimaryCtxRetain, (CUcontext *context, CUdevice device)) \
    F(cuDevicePrimaryCtxRelease_v2, (CUdevice device)) \
    F(cuDevicePrimaryCtxGetState, (CUdevice device, unsigned int *flags, int *is_active)) \
    F(cuMemGetInfo_v2, (size_t *free, size_t *total)) \
    F(cuMemAlloc_v2, (CUdeviceptr *memory, size_t bytes)) \
    F(cuMemFree_v2, (CUdeviceptr memory)) \
    F(cuMemHostAlloc, (void **memory, size_t bytes, unsigned int flags)) \
    F(cuMemFreeHost, (void *memory)) \
    F(cuMemcpyHtoD_v2, (CUdeviceptr destination, const void *source, size_t bytes)) \
    F(cuMemcpyDtoDAsync_v2, (CUdeviceptr destination, CUdeviceptr source, size_t bytes, CUstream stream)) \
    F(cuMemcpyDtoHAsync_v2, (void *destination, CUdeviceptr source, size_t bytes, CUstream stream)) \
    F(cuMemsetD8_v2, (CUdeviceptr memory, unsigned char value, size_t count)) \
    F(cuMemsetD32Async, (CUdeviceptr memory, unsigned int value, size_t count, CUstream stream)) \
    F(cuPointerGetAttributes, (unsigned int count, CUpointer_attribute *attributes, void **values, \
                               CUdeviceptr pointer)) \
    F(cuModuleLoadData, (CUmodule *module, const void *image)) \
    F(cuModuleUnload, (CUmodule module)) \
    F(cuModuleGetFunction, (CUfunction *function, CUmodule module, const char *name)) \
    F(cuFuncSetAttribute, (CUfunction function, CUfunction_attribute attribute, int value)) \
    F(cuStreamCreate, (CUstream *stream, unsigned int flags)) \
    F(cuStreamDestroy_v2, (CUstream stream)) \
    F(cuStreamSynchronize, (CUstream stream)) \
    F(cuStreamGetCtx, (CUstream stream, CUcontext *context)) \
    F(cuStreamIsCapturing, (CUstream stream, CUstreamCaptureStatus *status)) \
    F(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned int flags)) \
    F(cuEventCreate, (CUevent *event, unsigned int flags)) \
    F(cuEventDestroy_v2, (CUevent event)) \
    F(cuEventRecord, (CUevent event, CUstream stream)) \
    F(cuEventSynchronize, (CUevent event)) \
    F(cuEventElapsedTime, (float *milliseconds, CUevent begin, CUevent end)) \
    F(cuGraphCreate, (CUgraph *graph, unsigned int flags)) \
    F(cuGraphDestroy, (CUgraph graph)) \
    F(cuGraphAddKernelNode, (CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, \
                             const CUDA_KERNEL_NODE_PARAMS *parameters)) \
    F(cuGraphAddMemcpyNode, (CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count, \
                             const CUDA_MEMCPY3D *parameters, CUcontext context)) \
    F(cuGraphInstantiateWithFlags, (CUgraphExec *executable, CUgraph graph, unsigned long long flags)) \
    F(cuGraphUpload, (CUgraphExec executable, CUstream stream)) \
    F(cuGraphExecDestroy, (CUgraphExec executable)) \
    F(cuGraphLaunch, (CUgraphExec executable, CUstream stream))

/* Those that drivers before CUDA 12.0 have not: NULL there. */
#define RTCC_DRIVER_NEWER(F) \
    F(cuCtxGetId, (CUcontext context, unsigned long long *id))

/* What a workspace has on a device. */
struct rtcc_on_device {
    struct rtcc_device *shared;     /* what all workspaces of the process have there together */
    CUdeviceptr memory;             /* inputs, code, outputs, arena */
    char *staging;                  /* page-locked memory of the host: inputs, code, outputs */
    CUstream stream;
    CUevent ended;                  /* the last run that was put into a caller's stream */
    CUgraphExec whole;              /* a run: copies to the device, launches, copies back */
    CUgraphExec launches;           /* the launches alone */
    pid_t process;                  /* a forked child has no device */
};

/* A kernel: where its code lies for the architecture compiled for, and as PTX for others. */
struct rtcc_kernel {
    const char *symbol;
    size_t cubin, ptx;
};

/* A launch, or (kernel -1) a copy of `bytes` from its second argument to its first. */
struct rtcc_node {
    int32_t kernel;
    uint32_t grid[3], block[3], shared_bytes;
    size_t bytes;
    uint32_t arguments, argument_count; /* in rtcc_arguments */
    uint32_t after, after_count;        /* in rtcc_after: the nodes that must have ended */
};

struct rtcc_argument {
    int32_t is_weight; /* an offset into the weights, else into the workspace's memory */
    size_t offset;
};
