/* What a workspace has on a GPU: memory, and graphs of launches made of the generated tables. Follows cuda_device.c. */

/* ---- a workspace's graph of launches ---- */

/* Where a copy begins or ends: in the host's page-locked memory, else in the device's. */
struct rtcc_place {
    char *host;
    CUdeviceptr device;
};

static struct rtcc_copied rtcc_side_of(const struct rtcc_place *place, size_t offset, size_t width, size_t height)
{
    struct rtcc_copied side;
    memset(&side, 0, sizeof(side));
    side.memory_type = place->host != NULL ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    side.host = place->host != NULL ? place->host + offset : NULL;
    side.device = place->host != NULL ? 0 : place->device + offset;
    side.pitch = width;
    side.height = height;
    return side;
}

/* A copy of `bytes`: of rows as long as the driver takes them, and of what is left, behind that. */
static int32_t rtcc_add_copy(CUgraph graph, CUgraphNode *node, const CUgraphNode *after, size_t count,
                             struct rtcc_place to, struct rtcc_place from, size_t bytes, const struct rtcc_device *d)
{
    CUgraphNode before;
    for (size_t done = 0; done < bytes;) {
        const size_t rows = (bytes - done) / d->row_bytes;
        CUDA_MEMCPY3D copy;
        memset(&copy, 0, sizeof(copy));
        copy.width = rows > 0 ? d->row_bytes : bytes - done;
        copy.height = rows > 0 ? rows : 1;
        copy.depth = 1;
        copy.source = rtcc_side_of(&from, done, copy.width, copy.height);
        copy.destination = rtcc_side_of(&to, done, copy.width, copy.height);
        RTCC_TRY(cuGraphAddMemcpyNode(node, graph, after, count, &copy, d->context), RTCC_DEVICE_FAILED);
        done += copy.width * copy.height;
        before = *node;
        after = &before;
        count = 1;
    }
    return RTCC_OK;
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
        const struct rtcc_place to = {.device = rtcc_address(on, &arguments[0])};
        const struct rtcc_place from = {.device = rtcc_address(on, &arguments[1])};
        return rtcc_add_copy(graph, made, after, count, to, from, node->bytes, on->shared);
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
    struct rtcc_place host = {.host = on->staging}, device = {.device = on->memory};
    if (with_copies)
        code = rtcc_add_copy(graph, &first, NULL, 0, device, host, RTCC_CODE_AT + sizeof(int32_t), on->shared);
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
    host.host += RTCC_CODE_AT;
    device.device += RTCC_CODE_AT;
    return rtcc_add_copy(graph, &last, ends, count, host, device, RTCC_STAGED_BYTES - RTCC_CODE_AT, on->shared);
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
    int32_t code = rtcc_allocate(on->shared, &on->memory, RTCC_DEVICE_BYTES);
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
    RTCC_TRY(cuEventCreate(&on->ended, CU_EVENT_DISABLE_TIMING), RTCC_DEVICE_FAILED);
    code = rtcc_make_graph(&on->whole, on, 1);
    if (code == RTCC_OK)
        code = rtcc_make_graph(&on->launches, on, 0);
    if (code != RTCC_OK)
        return code;
    /* The first run is then like the others. */
    RTCC_TRY(cuGraphUpload(on->whole, on->stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuGraphUpload(on->launches, on->stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuStreamSynchronize(on->stream), RTCC_DEVICE_FAILED);
    return RTCC_OK;
}

/* ---- what runtime.c asks for ---- */

static int rtcc_is_forked(const struct rtcc_workspace *w) { return w->device.process != getpid(); }

static int rtcc_holds_something(const struct rtcc_workspace *w) { return !rtcc_is_forked(w); }

/* With the context current: waits for the runs of a workspace, in whatever stream. */
static void rtcc_await_runs(const struct rtcc_on_device *on)
{
    if (on->ended != NULL)
        rtcc_failed(rtcc_driver.cuEventSynchronize(on->ended));
    if (on->stream != NULL)
        rtcc_failed(rtcc_driver.cuStreamSynchronize(on->stream));
}

/* With the context current: frees all that a workspace has there, of what there is. */
static void rtcc_free_workspace(const struct rtcc_on_device *on)
{
    if (on->whole != NULL)
        rtcc_driver.cuGraphExecDestroy(on->whole);
    if (on->launches != NULL)
        rtcc_driver.cuGraphExecDestroy(on->launches);
    if (on->ended != NULL)
        rtcc_driver.cuEventDestroy_v2(on->ended);
    if (on->stream != NULL)
        rtcc_driver.cuStreamDestroy_v2(on->stream);
    if (on->staging != NULL)
        rtcc_driver.cuMemFreeHost(on->staging);
    if (on->memory != 0)
        rtcc_driver.cuMemFree_v2(on->memory);
}

static void rtcc_stop_workers(struct rtcc_workspace *w, int32_t started)
{
    struct rtcc_on_device *on = &w->device;
    (void)started;
    if (rtcc_is_forked(w))
        return;
    const int is_gone = rtcc_enter_context(on->shared) != RTCC_OK;
    if (!is_gone) {
        rtcc_await_runs(on);
        rtcc_free_workspace(on);
    }
    rtcc_lock_devices();
    rtcc_part_from_device(on->shared, is_gone);
    rtcc_unlock_devices();
    memset(on, 0, sizeof(*on));
}

/* Zeros for what a workspace has outside of the caller's memory. */
static void rtcc_wipe_device(struct rtcc_workspace *w)
{
    const struct rtcc_on_device *on = &w->device;
    if (rtcc_is_forked(w) || rtcc_enter_context(on->shared) != RTCC_OK)
        return;
    rtcc_await_runs(on);
    memset(on->staging, 0, RTCC_STAGED_BYTES);
    rtcc_failed(rtcc_driver.cuMemsetD8_v2(on->memory, 0, RTCC_DEVICE_BYTES));
    rtcc_failed(rtcc_driver.cuStreamSynchronize(NULL));
    rtcc_leave_context();
}

static int32_t rtcc_start_on(struct rtcc_workspace *w, int number)
{
    struct rtcc_on_device *on = &w->device;
    w->threads = 1;
    int32_t code = rtcc_claim_devices();
    if (code != RTCC_OK)
        return code;
    rtcc_lock_devices();
    code = rtcc_join_device(&on->shared, number, RTCC_WEIGHTS(w));
    if (on->shared != NULL) {
        if (code == RTCC_OK)
            code = rtcc_make_workspace(on);
        if (code == RTCC_OK) {
            rtcc_leave_context();
        } else {
            rtcc_await_runs(on);
            rtcc_free_workspace(on);
            rtcc_part_from_device(on->shared, 0);
            memset(on, 0, sizeof(*on));
        }
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

/* With the context current. A run in a caller's stream may still write its code to the page-locked memory. */
static int32_t rtcc_run_whole(const struct rtcc_on_device *on, const void *const *in)
{
    const int32_t code = RTCC_OK;
    RTCC_TRY(cuEventSynchronize(on->ended), RTCC_DEVICE_FAILED);
    for (size_t i = 0; i < RTCC_INPUT_COUNT; i++)
        memcpy(on->staging + rtcc_input_places[i], in[i], rtcc_inputs[i].bytes);
    memcpy(on->staging + RTCC_CODE_AT, &code, sizeof(code));
    RTCC_TRY(cuGraphLaunch(on->whole, on->stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuStreamSynchronize(on->stream), RTCC_DEVICE_FAILED);
    return RTCC_OK;
}

static int32_t rtcc_walk_all(struct rtcc_workspace *w, const void *const *in, void *const *out)
{
    const struct rtcc_on_device *on = &w->device;
    int32_t code = rtcc_enter_context(on->shared);
    if (code != RTCC_OK)
        return code;
    code = rtcc_run_whole(on, in);
    rtcc_leave_context();
    if (code != RTCC_OK)
        return code;
    memcpy(&code, on->staging + RTCC_CODE_AT, sizeof(code));
    for (size_t i = 0; i < RTCC_OUTPUT_COUNT; i++)
        memcpy(out[i], on->staging + rtcc_output_places[i], rtcc_outputs[i].bytes);
    return code;
}
