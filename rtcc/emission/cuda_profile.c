/* How long each launch takes by itself. What a graph adds between two launches is in the time, as it is in a run. */
#define RTCC_REPEATS 32

static int32_t rtcc_fill_row(CUgraph graph, size_t n, const struct rtcc_on_device *on)
{
    CUgraphNode made[RTCC_REPEATS];
    int32_t code = RTCC_OK;
    for (size_t i = 0; i < RTCC_REPEATS && code == RTCC_OK; i++)
        code = rtcc_add_launch(graph, &made[i], n, i == 0 ? NULL : &made[i - 1], i > 0, on);
    return code;
}

/* A row of launches between two events, after one that nobody times. */
static int32_t rtcc_time_row(CUgraphExec row, CUevent begin, CUevent end, CUstream stream, float *microseconds)
{
    float milliseconds = 0;
    RTCC_TRY(cuGraphLaunch(row, stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuEventRecord(begin, stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuGraphLaunch(row, stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuEventRecord(end, stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuStreamSynchronize(stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuEventElapsedTime(&milliseconds, begin, end), RTCC_DEVICE_FAILED);
    *microseconds = milliseconds * 1000 / RTCC_REPEATS;
    return RTCC_OK;
}

static int32_t rtcc_time_launch(const struct rtcc_on_device *on, size_t n, CUevent begin, CUevent end,
                                float *microseconds)
{
    CUgraph graph;
    CUgraphExec row = NULL;
    RTCC_TRY(cuGraphCreate(&graph, 0), RTCC_DEVICE_FAILED);
    int32_t code = rtcc_instantiate(&row, graph, rtcc_fill_row(graph, n, on));
    if (code != RTCC_OK)
        return code;
    code = rtcc_time_row(row, begin, end, on->stream, microseconds);
    rtcc_driver.cuGraphExecDestroy(row);
    return code;
}

static int32_t rtcc_time_all(const struct rtcc_on_device *on, float *microseconds)
{
    CUevent begin, end;
    int32_t code = RTCC_OK;
    RTCC_TRY(cuEventCreate(&begin, 0), RTCC_DEVICE_FAILED);
    if (rtcc_failed(rtcc_driver.cuEventCreate(&end, 0))) {
        rtcc_driver.cuEventDestroy_v2(begin);
        return RTCC_DEVICE_FAILED;
    }
    for (size_t n = 0; n < RTCC_NODES && code == RTCC_OK; n++)
        code = rtcc_time_launch(on, n, begin, end, &microseconds[n]);
    rtcc_driver.cuEventDestroy_v2(begin);
    rtcc_driver.cuEventDestroy_v2(end);
    return code;
}

RTCC_EXPORT int RTCC_ENTRY(profile)(void *workspace, const void *const inputs[], void *const outputs[],
                                    float microseconds[])
{
    struct rtcc_workspace *w = workspace;
    int32_t code = RTCC_ENTRY(run)(workspace, inputs, outputs);
    if (code != RTCC_OK)
        return code;
    if (microseconds == NULL)
        return RTCC_NULL_POINTER;
    code = rtcc_enter(w);
    if (code != RTCC_OK)
        return code;
    code = rtcc_time_all(&w->device, microseconds);
    rtcc_leave(w);
    return code;
}
