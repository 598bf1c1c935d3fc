/* The stand-in driver's streams, events and graphs. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

struct CUstream_st default_stream;
static CUstream streams[MOST];
static CUevent events; /* all that were ever made: what is in a stream may mean one that was destroyed */

static void run_graph(struct CUgraph_st *graph);

static void run_kernel(const struct fake_kernel *kernel, const unsigned long long *values)
{
    void *parameters[64];
    for (unsigned int i = 0; i < kernel->parameters; i++)
        parameters[i] = (void *)(size_t)values[i];
    kernel->function(parameters);
    fake.launches++;
}

/* Whether a kernel is launched as it says; its parameters then. */
static int takes(const struct fake_kernel *kernel, const unsigned int *grid, const unsigned int *block,
                 void *const *parameters, unsigned long long *values)
{
    if (memcmp(kernel->grid, grid, sizeof(kernel->grid)) != 0 ||
        memcmp(kernel->block, block, sizeof(kernel->block)) != 0)
        return 0;
    for (unsigned int i = 0; i < kernel->parameters; i++) {
        memcpy(&values[i], parameters[i], 8);
        if (block_of(values[i], 1) < 0)
            return 0;
    }
    return 1;
}

/* ---- what is put into a stream runs when somebody waits for it ---- */

/* The first three are the default stream, as NULL, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD. */
static struct CUstream_st *queue_of(CUstream stream) { return (size_t)stream <= 2 ? &default_stream : stream; }

/* Whether a stream is another context's: it takes copies and waits for events nonetheless. */
static int is_foreign(CUstream stream)
{
    const struct CUstream_st *queue = queue_of(stream);
    return queue != &default_stream && !is_here(&queue->object);
}

int put(CUstream stream, struct item item)
{
    struct CUstream_st *queue = queue_of(stream);
    if (fake.capturing) {
        fake.misuses++;
        free(item.owned);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (queue->begin == queue->end)
        queue->begin = queue->end = 0;
    if (queue->end == ITEMS)
        return LAUNCH_FAILED;
    queue->item[queue->end++] = item;
    return 0;
}

static void run_until(struct CUstream_st *queue, CUevent event, unsigned long ticket);

static void run_item(const struct item *item)
{
    if (item->event != NULL && item->is_wait) {
        run_until(item->stream, item->event, item->ticket);
    } else if (item->event != NULL) {
        timespec_get(&item->event->time, TIME_UTC);
        item->event->completed = item->ticket;
    } else if (item->kernel != NULL) {
        run_kernel(item->kernel, (const unsigned long long *)(const void *)item->owned);
    } else if (item->executable != NULL) {
        run_graph(&item->executable->graph);
    } else if (item->source != NULL) {
        memcpy(item->destination, item->source, item->bytes);
    } else {
        for (size_t byte = 0; byte < item->bytes; byte++)
            item->destination[byte] = ((const char *)&item->value)[byte % 4];
    }
    free(item->owned);
}

void run_items(struct CUstream_st *queue)
{
    while (queue->begin < queue->end) {
        const struct item item = queue->item[queue->begin++];
        run_item(&item);
    }
}

/* So much of a stream as was put there before an event. */
static void run_until(struct CUstream_st *queue, CUevent event, unsigned long ticket)
{
    while (event->completed < ticket && queue->begin < queue->end) {
        const struct item item = queue->item[queue->begin++];
        run_item(&item);
    }
}

static void forget_items(struct CUstream_st *queue)
{
    for (int i = queue->begin; i < queue->end; i++)
        free(queue->item[i].owned);
    queue->begin = queue->end = 0;
}

void forget_streams(const CUcontext context)
{
    forget_items(&default_stream);
    for (int i = 0; i < MOST; i++)
        if (streams[i] != NULL && streams[i]->object.context == context) {
            forget_items(streams[i]);
            streams[i] = NULL;
        }
}

static int uses(const struct CUstream_st *queue, const void *host, const CUgraphExec executable)
{
    for (int i = queue->begin; i < queue->end; i++)
        if ((host != NULL && queue->item[i].destination == host) ||
            (executable != NULL && queue->item[i].executable == executable))
            return 1;
    return 0;
}

int pending(void)
{
    int count = default_stream.end - default_stream.begin;
    for (int i = 0; i < MOST; i++)
        count += streams[i] == NULL ? 0 : streams[i]->end - streams[i]->begin;
    return count;
}

int is_in_use(const void *host, const CUgraphExec executable)
{
    int found = uses(&default_stream, host, executable);
    for (int i = 0; i < MOST; i++)
        found |= streams[i] != NULL && uses(streams[i], host, executable);
    return found;
}

/* ---- streams and events ---- */

CUresult cuStreamCreate(CUstream *stream, unsigned int flags)
{
    IN_CONTEXT("cuStreamCreate");
    (void)flags;
    for (int i = 0; i < MOST; i++)
        if (streams[i] == NULL) {
            *stream = streams[i] = calloc(1, sizeof(**stream));
            (*stream)->object = made(STREAM);
            return 0;
        }
    return INVALID_VALUE;
}

/* What is in it runs nonetheless. */
CUresult cuStreamDestroy_v2(CUstream stream)
{
    IN_CONTEXT("cuStreamDestroy_v2");
    if (!is_given_back(&stream->object, STREAM))
        return INVALID_HANDLE;
    run_items(stream);
    for (int i = 0; i < MOST; i++)
        if (streams[i] == stream)
            streams[i] = NULL;
    free(stream);
    return 0;
}

CUresult cuStreamSynchronize(CUstream stream)
{
    IN_CONTEXT("cuStreamSynchronize");
    run_items(queue_of(stream));
    return 0;
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext *context)
{
    IN_CONTEXT("cuStreamGetCtx");
    *context = queue_of(stream) == &default_stream ? current_context() : stream->object.context;
    return 0;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status)
{
    IN_CONTEXT("cuStreamIsCapturing");
    (void)stream;
    *status = fake.capturing ? 1 : CU_STREAM_CAPTURE_STATUS_NONE;
    return 0;
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags)
{
    IN_CONTEXT("cuStreamWaitEvent");
    if (flags != 0)
        return INVALID_VALUE;
    return put(stream, (struct item){.event = event, .is_wait = 1, .ticket = event->recorded,
                                     .stream = event->stream});
}

CUresult cuEventCreate(CUevent *event, unsigned int flags)
{
    IN_CONTEXT("cuEventCreate");
    *event = calloc(1, sizeof(**event));
    (*event)->object = made(EVENT);
    (*event)->is_timed = flags != CU_EVENT_DISABLE_TIMING;
    (*event)->next = events;
    events = *event;
    return 0;
}

CUresult cuEventDestroy_v2(CUevent event)
{
    IN_CONTEXT("cuEventDestroy_v2");
    return is_given_back(&event->object, EVENT) ? 0 : INVALID_HANDLE;
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    IN_CONTEXT("cuEventRecord");
    if (!is_here(&event->object) || is_foreign(stream))
        return INVALID_HANDLE;
    event->stream = queue_of(stream);
    event->recorded++;
    return put(stream, (struct item){.event = event, .ticket = event->recorded});
}

CUresult cuEventSynchronize(CUevent event)
{
    IN_CONTEXT("cuEventSynchronize");
    if (!is_here(&event->object))
        return INVALID_HANDLE;
    if (event->completed < event->recorded)
        run_until(event->stream, event, event->recorded);
    return 0;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent begin, CUevent end)
{
    IN_CONTEXT("cuEventElapsedTime");
    if (!begin->is_timed || !end->is_timed || begin->recorded == 0 || end->recorded == 0)
        return INVALID_HANDLE;
    if (begin->completed < begin->recorded || end->completed < end->recorded)
        return NOT_READY;
    *milliseconds = (float)(end->time.tv_sec - begin->time.tv_sec) * 1e3f +
                    (float)(end->time.tv_nsec - begin->time.tv_nsec) * 1e-6f;
    return 0;
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
    const struct CUmod_st *module = (const struct CUmod_st *)function;
    const unsigned int grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    (void)shared, (void)extra;
    if (!is_here(&module->object))
        return INVALID_HANDLE;
    unsigned long long *values = calloc(64, sizeof(*values));
    if (!takes(module->kernel, grid, block, parameters, values)) {
        free(values);
        return INVALID_VALUE;
    }
    return put(stream, (struct item){.kernel = module->kernel, .owned = (char *)values});
}

CUresult cuMemsetD32Async(CUdeviceptr memory, unsigned int value, size_t count, CUstream stream)
{
    IN_CONTEXT("cuMemsetD32Async");
    if (count != 1 || block_of(memory, 4) < 0)
        return INVALID_VALUE;
    return put(stream, (struct item){.destination = (char *)(size_t)memory, .bytes = 4, .value = value});
}

/* ---- graphs ---- */

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

CUresult cuGraphDestroy(CUgraph graph)
{
    BEGIN("cuGraphDestroy");
    forget(graph);
    free(graph);
    fake.graphs--;
    return 0;
}

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
    const struct CUmod_st *module = (const struct CUmod_st *)parameters->func;
    if (!is_here(&module->object))
        return INVALID_HANDLE;
    unsigned long long values[64];
    if (!takes(module->kernel, parameters->grid, parameters->block, parameters->parameters, values))
        return INVALID_VALUE;
    const int result = add(node, graph, after, count);
    if (result != 0)
        return (CUresult)result;
    (*node)->kernel = module->kernel;
    memcpy((*node)->values, values, sizeof(values));
    return 0;
}

/* Whether a side's rows lie where the driver takes them. */
static int fits(const struct rtcc_copied *side, const CUDA_MEMCPY3D *copy)
{
    if (side->pitch < copy->width || side->pitch > (size_t)fake.pitch || side->height < copy->height)
        return 0;
    return side->memory_type != CU_MEMORYTYPE_DEVICE ||
           block_of(side->device, side->pitch * (copy->height - 1) + copy->width) >= 0;
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *after, size_t count,
                              const CUDA_MEMCPY3D *copy, CUcontext context)
{
    IN_CONTEXT("cuGraphAddMemcpyNode");
    if (context != current_context() || copy->height == 0 || copy->depth != 1 || copy->width == 0 ||
        !fits(&copy->source, copy) || !fits(&copy->destination, copy))
        return INVALID_VALUE;
    const int result = add(node, graph, after, count);
    if (result == 0)
        (*node)->copy = *copy;
    return (CUresult)result;
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
    (*executable)->object = made(EXECUTABLE);
    return 0;
}

CUresult cuGraphUpload(CUgraphExec executable, CUstream stream)
{
    IN_CONTEXT("cuGraphUpload");
    (void)stream;
    if (!is_here(&executable->object))
        return INVALID_HANDLE;
    executable->is_uploaded = 1;
    return 0;
}

CUresult cuGraphExecDestroy(CUgraphExec executable)
{
    IN_CONTEXT("cuGraphExecDestroy");
    if (!is_given_back(&executable->object, EXECUTABLE))
        return INVALID_HANDLE;
    fake.misuses += is_in_use(NULL, executable);
    forget(&executable->graph);
    free(executable);
    return 0;
}

CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream)
{
    IN_CONTEXT("cuGraphLaunch");
    if (!is_here(&executable->object) || is_foreign(stream))
        return INVALID_HANDLE;
    fake.cold += !executable->is_uploaded;
    executable->is_uploaded = 1;
    return put(stream, (struct item){.executable = executable});
}

static char *side_at(const struct rtcc_copied *side)
{
    return side->memory_type == CU_MEMORYTYPE_HOST ? (char *)(size_t)side->host : (char *)(size_t)side->device;
}

static void run_node(struct CUgraphNode_st *node)
{
    const CUDA_MEMCPY3D *copy = &node->copy;
    if (node->kernel == NULL) {
        for (size_t row = 0; row < copy->height; row++)
            memcpy(side_at(&copy->destination) + row * copy->destination.pitch,
                   side_at(&copy->source) + row * copy->source.pitch, copy->width);
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
