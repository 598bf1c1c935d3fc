/* Functions that artefacts for GPUs export besides those of runtime.c; the header documents them. */
RTCC_EXPORT int RTCC_ENTRY(init_on_device)(void *workspace, size_t bytes, int device)
{
    if (device < 0)
        return RTCC_NO_SUCH_DEVICE;
    const int32_t code = rtcc_prepare(workspace, bytes, 1);
    return code != RTCC_OK ? code : rtcc_started(workspace, rtcc_start_on(workspace, device));
}

RTCC_EXPORT int RTCC_ENTRY(device)(const void *workspace)
{
    const struct rtcc_workspace *w = workspace;
    const int32_t code = rtcc_check_live(workspace);
    if (code != RTCC_OK)
        return code;
    return rtcc_is_forked(w) ? RTCC_FORKED : w->device.shared->number;
}

/* The driver knows no other memory than its own: of that it says nothing, which leaves the zeros. */
static int32_t rtcc_check_device_memory(const void *const *pointers, const struct rtcc_tensor *tensors, size_t count,
                                        int number)
{
    CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
    for (size_t i = 0; i < count; i++) {
        unsigned int type = 0;
        int found = 0;
        void *values[] = {&type, &found};
        if (tensors[i].bytes == 0)
            continue;
        if (rtcc_failed(rtcc_driver.cuPointerGetAttributes(2, attributes, values,
                                                           (CUdeviceptr)(uintptr_t)pointers[i])) ||
            type != CU_MEMORYTYPE_DEVICE)
            return RTCC_NOT_DEVICE_MEMORY;
        if (found != number)
            return RTCC_OTHER_DEVICE_MEMORY;
    }
    return RTCC_OK;
}

static int32_t rtcc_enqueue_run(const struct rtcc_on_device *on, const void *const *in, void *const *out,
                                CUstream stream)
{
    for (size_t i = 0; i < RTCC_INPUT_COUNT; i++)
        if (rtcc_inputs[i].bytes > 0)
            RTCC_TRY(cuMemcpyDtoDAsync_v2(on->memory + rtcc_input_places[i], (CUdeviceptr)(uintptr_t)in[i],
                                          rtcc_inputs[i].bytes, stream), RTCC_DEVICE_FAILED);
    if (RTCC_GIVES_UP)
        RTCC_TRY(cuMemsetD32Async(on->memory + RTCC_CODE_AT, 0, 1, stream), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuGraphLaunch(on->launches, stream), RTCC_DEVICE_FAILED);
    for (size_t i = 0; i < RTCC_OUTPUT_COUNT; i++)
        if (rtcc_outputs[i].bytes > 0)
            RTCC_TRY(cuMemcpyDtoDAsync_v2((CUdeviceptr)(uintptr_t)out[i], on->memory + rtcc_output_places[i],
                                          rtcc_outputs[i].bytes, stream), RTCC_DEVICE_FAILED);
    if (RTCC_GIVES_UP)
        RTCC_TRY(cuMemcpyDtoHAsync_v2(on->staging + RTCC_CODE_AT, on->memory + RTCC_CODE_AT, sizeof(int32_t), stream),
                 RTCC_DEVICE_FAILED);
    return RTCC_OK;
}

/* A stream of another context has no place for an event of this one, and one that is captured takes no graph. Both are
 * found before anything is put there. */
static int32_t rtcc_check_stream(const struct rtcc_on_device *on, CUstream stream)
{
    CUcontext context = NULL;
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    RTCC_TRY(cuStreamGetCtx(stream, &context), RTCC_DEVICE_FAILED);
    RTCC_TRY(cuStreamIsCapturing(stream, &status), RTCC_DEVICE_FAILED);
    if (context == on->shared->context && status == CU_STREAM_CAPTURE_STATUS_NONE)
        return RTCC_OK;
    rtcc_failed(context == on->shared->context ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_ERROR_INVALID_HANDLE);
    return RTCC_DEVICE_FAILED;
}

/* With the context current: a run behind the one before, in whatever streams both are. */
static int32_t rtcc_enqueue(const struct rtcc_on_device *on, const void *const *in, void *const *out, CUstream stream)
{
    const int number = on->shared->number;
    int32_t code = rtcc_check_device_memory(in, rtcc_inputs, RTCC_INPUT_COUNT, number);
    if (code == RTCC_OK)
        code = rtcc_check_device_memory((const void *const *)out, rtcc_outputs, RTCC_OUTPUT_COUNT, number);
    if (code == RTCC_OK)
        code = rtcc_check_stream(on, stream);
    if (code != RTCC_OK)
        return code;
    RTCC_TRY(cuStreamWaitEvent(stream, on->ended, 0), RTCC_DEVICE_FAILED);
    code = rtcc_enqueue_run(on, in, out, stream);
    RTCC_TRY(cuEventRecord(on->ended, stream), RTCC_DEVICE_FAILED); /* also of a run that was put there in part */
    return code;
}

/* Lets what is in a stream end before the next run. */
static int32_t rtcc_follow(const struct rtcc_on_device *on, CUstream stream)
{
    const int32_t code = rtcc_check_stream(on, stream);
    if (code != RTCC_OK)
        return code;
    RTCC_TRY(cuStreamWaitEvent(stream, on->ended, 0), RTCC_DEVICE_FAILED); /* the run before must end, too */
    RTCC_TRY(cuEventRecord(on->ended, stream), RTCC_DEVICE_FAILED);
    return RTCC_OK;
}

/* The workspace, entered: no other run is under way, and its context is current. */
static int32_t rtcc_enter(struct rtcc_workspace *w)
{
    if (rtcc_is_forked(w))
        return RTCC_FORKED;
    if (atomic_exchange_explicit(&w->busy, 1, memory_order_acquire) != 0)
        return RTCC_BUSY;
    const int32_t code = rtcc_enter_context(w->device.shared);
    if (code != RTCC_OK)
        atomic_store_explicit(&w->busy, 0, memory_order_release);
    return code;
}

static void rtcc_leave(struct rtcc_workspace *w)
{
    rtcc_leave_context();
    atomic_store_explicit(&w->busy, 0, memory_order_release);
}

RTCC_EXPORT int RTCC_ENTRY(run_async)(void *workspace, const void *const inputs[], void *const outputs[], void *stream)
{
    struct rtcc_workspace *w = workspace;
    int32_t code = rtcc_check_live(workspace);
    if (code == RTCC_OK)
        code = rtcc_check_buffers(inputs, outputs);
    if (code == RTCC_OK)
        code = rtcc_enter(w);
    if (code != RTCC_OK)
        return code;
    code = rtcc_enqueue(&w->device, inputs, outputs, stream);
    if (code == RTCC_OK)
        w->has_run = 1;
    rtcc_leave(w);
    return code;
}

RTCC_EXPORT int RTCC_ENTRY(run_after)(void *workspace, void *stream)
{
    struct rtcc_workspace *w = workspace;
    int32_t code = rtcc_check_live(workspace);
    if (code == RTCC_OK)
        code = rtcc_enter(w);
    if (code != RTCC_OK)
        return code;
    code = rtcc_follow(&w->device, stream);
    rtcc_leave(w);
    return code;
}

RTCC_EXPORT int RTCC_ENTRY(async_result)(const void *workspace)
{
    const struct rtcc_workspace *w = workspace;
    int32_t code = rtcc_check_live(workspace);
    if (code != RTCC_OK || !RTCC_GIVES_UP)
        return code;
    if (rtcc_is_forked(w))
        return RTCC_FORKED;
    code = rtcc_enter_context(w->device.shared); /* the page-locked memory goes with the context */
    if (code != RTCC_OK)
        return code;
    memcpy(&code, w->device.staging + RTCC_CODE_AT, sizeof(code));
    rtcc_leave_context();
    return code;
}

RTCC_EXPORT int RTCC_ENTRY(driver_result)(void)
{
    return atomic_load_explicit(&rtcc_last_refusal, memory_order_relaxed);
}
