/* What the files of the stand-in driver share. */
#include <stddef.h>
#include <time.h>

#include "cuda_driver.h"

enum { INVALID_VALUE = 1, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, UNSUPPORTED_PTX = 222,
       INVALID_HANDLE = CUDA_ERROR_INVALID_HANDLE, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719, MOST = 256, NODES = 4096,
       ITEMS = 1024 };

struct fake_kernel { /* of the library of kernels */
    const char *symbol;
    const unsigned char *image;
    size_t bytes;
    void (*function)(void **parameters);
    unsigned int grid[3], block[3], parameters;
};

/* What is made in a context, and goes with it. */
enum kind { MODULE, STREAM, EVENT, EXECUTABLE, KINDS };

struct CUctx_st {
    int device, is_alive, retained;
    unsigned long long id;
    int objects[KINDS];
};

struct object {
    struct CUctx_st *context;
    unsigned long long id; /* that the context had */
};

struct fake_state {
    int capability[2], version, devices;
    int integrated, pitch, capturing;   /* attributes of devices; of all streams */
    int nameless;                       /* contexts have no ids, as before CUDA 12.0 */
    size_t memory, used, cached;        /* cached: neither used nor free, but given back where it is needed */
    int allocations, host_allocations, objects[KINDS], graphs, retained, launches, copies, loads;
    int cold;                           /* launches of graphs that were not uploaded */
    int misuses;                        /* what a GPU still used was given back, or a capture was disturbed */
    long dirty;                         /* bytes other than 0 in what was given back */
    char failing[64], held[64];
    int result, countdown, waiting;
};

extern struct fake_state fake;

struct CUmod_st { /* a function of it is the same pointer */
    struct object object;
    const struct fake_kernel *kernel;
};

struct CUgraphNode_st {
    struct CUgraph_st *graph;
    const struct fake_kernel *kernel;
    unsigned long long values[64];
    CUDA_MEMCPY3D copy;
    int after[64], count, is_done;
};

struct CUgraph_st { int nodes; struct CUgraphNode_st *node[NODES]; };
struct CUgraphExec_st { struct CUgraph_st graph; struct object object; int is_uploaded; };

struct CUevent_st {
    struct object object;
    struct CUevent_st *next;
    struct timespec time;
    int is_timed;
    struct CUstream_st *stream;         /* where it was last recorded */
    unsigned long recorded, completed;  /* how often */
};

/* What is put into a stream runs when somebody waits for it. */
struct item {
    CUgraphExec executable;
    const struct fake_kernel *kernel; /* on what `owned` holds */
    CUevent event;
    int is_wait;            /* for the event; else it is recorded */
    unsigned long ticket;   /* which record of it */
    CUstream stream;        /* where that is, for who waits */
    char *destination;      /* of a copy, or of a value */
    const char *source;     /* NULL: every four bytes become the value */
    size_t bytes;
    unsigned int value;
    char *owned;            /* what the host gave, as it was then */
};

struct CUstream_st { struct object object; int begin, end; struct item item[ITEMS]; };

/* All functions of the driver hold one lock, which is theirs alone: what a caller does not order is not ordered. */
int take_lock(void);
void release_lock(int *held);
int fails(const char *name, CUresult *result);
CUcontext current_context(void);
int is_usable(const CUcontext context);

#define LOCKED int held_ __attribute__((cleanup(release_lock), unused)) = take_lock()

/* A function begins: it fails where a test wants that. */
#define BEGIN(name) \
    LOCKED; \
    CUresult result_ = 0; \
    if (fails(name, &result_)) \
        return result_

#define IN_CONTEXT(name) \
    BEGIN(name); \
    if (current_context() == NULL) \
        return INVALID_CONTEXT; \
    if (!is_usable(current_context())) \
        return CUDA_ERROR_CONTEXT_IS_DESTROYED

/* An object of the current context is made. */
struct object made(enum kind kind);

/* It goes, unless its context has gone: whether it was there. */
int is_given_back(const struct object *object, enum kind kind);

/* Whether it is of the current context, which is what it then was. */
int is_here(const struct object *object);

/* The block of memory that has those bytes, or -1. */
int block_of(CUdeviceptr pointer, size_t bytes);

int put(CUstream stream, struct item item);
void run_items(struct CUstream_st *queue);

/* What is in a context's streams, and in the default one, never runs. */
void forget_streams(const CUcontext context);
extern struct CUstream_st default_stream;

/* How much is in all streams. */
int pending(void);

/* Whether what is in a stream still uses the host's memory or a graph. */
int is_in_use(const void *host, const CUgraphExec executable);
