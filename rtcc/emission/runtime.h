/* What an artefact's generated code and its runtime share. The generated file defines, before this text:
 *
 *   RTCC_ENTRY(suffix)     the model's name pasted before _suffix
 *   RTCC_MAGIC             64 bits that tell this model's workspaces from all others
 *   RTCC_THREADS_MAX       the largest number of threads that init accepts
 *   RTCC_POOL              1 where some launch is split between threads, and pool.h precedes this text
 *   RTCC_DEVICE            1 where kernels run on a GPU, and cuda_driver.h precedes this text
 *   RTCC_ALIGNMENT         bytes that the workspace is aligned to
 *   RTCC_HEAD_BYTES        room for struct rtcc_workspace, a multiple of 64
 *   RTCC_ARENA_BYTES       the planned memory, a multiple of 64
 *   RTCC_THREAD_BYTES      scratch memory of every thread but the first, a multiple of 64
 *
 * Everything here is static: an artefact is one translation unit and its kernels.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#if __STDC_HOSTED__
#include <string.h>
#else
void *memset(void *destination, int value, size_t count);
void *memmove(void *destination, const void *source, size_t count);
#endif

/* The start of the caller's memory; the arena follows it, then what each thread but the first has of its own. */
struct rtcc_workspace {
    uint64_t magic;                 /* RTCC_MAGIC while initialised */
    const void *self;               /* its own address: a copied workspace is not a workspace */
    size_t bytes;
    const char *weights;            /* the mapped file where weights are external */
    int32_t threads;
    int32_t has_run;                /* a run has succeeded since init */
    _Atomic uint32_t busy;          /* a run is under way */
#if RTCC_POOL
    struct rtcc_pool pool;
#endif
#if RTCC_DEVICE
    struct rtcc_on_device device;
#endif
};

_Static_assert(sizeof(struct rtcc_workspace) <= RTCC_HEAD_BYTES, "the head of the workspace has grown");

/* A user's tensor: what run checks of the pointer it is given. */
struct rtcc_tensor {
    size_t bytes;                   /* no pointer is needed for an empty tensor */
    size_t alignment;
};

#if !RTCC_DEVICE
/* Walks the launch list as thread `task` of `w->threads`. Generated. */
static int32_t rtcc_walk(struct rtcc_workspace *w, int32_t task, const void *const *in, void *const *out);
#endif

/* Writes the shape of an output. Generated. */
static int32_t rtcc_shape(const struct rtcc_workspace *w, int output, int64_t *shape);

#if !RTCC_DEVICE
/* Every thread calls this between dependent launches with its own code so far; all leave with the same one. */
static inline int32_t rtcc_barrier(struct rtcc_workspace *w, int32_t code);
#endif
