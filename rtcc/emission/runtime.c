/* The functions that an artefact exports. They need no operating system; what does is in the files before this one,
 * which are pool.c, one_thread.c or cuda_device.c and cuda.c, mapped_weights.c or embedded_weights.c, and checks.c.
 * All follow cpu.c, runtime.h and the generated tables and launch list in one translation unit.
 */

static size_t rtcc_workspace_bytes(int threads)
{
    const size_t others = threads > 1 ? (size_t)(threads - 1) : 0;
    return (size_t)RTCC_HEAD_BYTES + RTCC_ARENA_BYTES + RTCC_THREAD_BYTES * others;
}

/* ---- exported functions; model.h documents them ---- */

/* The first half of init: what it refuses, zeros, and the weights. */
static int32_t rtcc_prepare(void *workspace, size_t bytes, int threads)
{
    struct rtcc_workspace *w = workspace;
    const int32_t code = rtcc_check_workspace(workspace);
    if (code != RTCC_OK)
        return code;
    if (threads < 1 || threads > RTCC_THREADS_MAX)
        return RTCC_THREADS_OUT_OF_RANGE;
    if (bytes < rtcc_workspace_bytes(threads))
        return RTCC_WORKSPACE_TOO_SMALL;
    if (rtcc_cpu_lacks_features())
        return RTCC_CPU_UNSUPPORTED;
    if (rtcc_is_live(w)) {
        if (rtcc_holds_something(w))
            return RTCC_ALREADY_INITIALISED;
        rtcc_unmap_weights(w);
    }
    memset(workspace, 0, rtcc_workspace_bytes(threads)); /* state starts at zero, and every page is touched now */
    w->bytes = bytes;
    return rtcc_map_weights(w);
}

/* The second half, once what runs the model was started, or was not. */
static int32_t rtcc_started(struct rtcc_workspace *w, int32_t code)
{
    if (code != RTCC_OK) {
        rtcc_unmap_weights(w);
        return code;
    }
    w->self = w;
    w->magic = RTCC_MAGIC;
    return RTCC_OK;
}

RTCC_EXPORT int RTCC_ENTRY(init)(void *workspace, size_t bytes, int threads)
{
    const int32_t code = rtcc_prepare(workspace, bytes, threads);
    return code != RTCC_OK ? code : rtcc_started(workspace, rtcc_start_workers(workspace, threads));
}

RTCC_EXPORT int RTCC_ENTRY(run)(void *workspace, const void *const inputs[], void *const outputs[])
{
    struct rtcc_workspace *w = workspace;
    int32_t code = rtcc_check_live(workspace);
    if (code != RTCC_OK)
        return code;
    if (rtcc_is_forked(w))
        return RTCC_FORKED;
    code = rtcc_check_buffers(inputs, outputs);
    if (code != RTCC_OK)
        return code;
    if (atomic_exchange_explicit(&w->busy, 1, memory_order_acquire) != 0)
        return RTCC_BUSY;
    const rtcc_float_mode mode = rtcc_float_enter();
    code = rtcc_walk_all(w, inputs, outputs);
    rtcc_float_leave(mode);
    if (code == RTCC_OK)
        w->has_run = 1;
    atomic_store_explicit(&w->busy, 0, memory_order_release);
    return code;
}

RTCC_EXPORT int RTCC_ENTRY(output_shape)(const void *workspace, int output, int64_t shape[])
{
    return rtcc_checked_shape(workspace, output, shape);
}

RTCC_EXPORT void RTCC_ENTRY(finish)(void *workspace, int wipe)
{
    struct rtcc_workspace *w = workspace;
    if (rtcc_check_live(workspace) != RTCC_OK)
        return;
#if RTCC_DEVICE
    if (wipe)
        rtcc_wipe_device(w);
#endif
    rtcc_stop_workers(w, w->threads);
    rtcc_unmap_weights(w);
    w->magic = 0;
    if (!wipe)
        return;
    memset(workspace, 0, w->bytes);
    __asm__ volatile("" : : "r"(workspace) : "memory"); /* the zeros are wanted, though nobody here reads them */
}

RTCC_EXPORT const char *RTCC_ENTRY(info)(void) { return rtcc_info_text; }

RTCC_EXPORT const char *RTCC_ENTRY(error)(int code) { return rtcc_code_text(code); }

/* Weak: two artefacts in one static program both have it, and only loaders of shared objects look for it. */
RTCC_EXPORT __attribute__((weak)) const struct rtcc_artifact rtcc_artifact_v1 = {
    .size = sizeof(struct rtcc_artifact),
    .threads_max = RTCC_THREADS_MAX,
    .workspace_bytes = rtcc_workspace_bytes,
    .init = RTCC_ENTRY(init),
    .run = RTCC_ENTRY(run),
    .output_shape = RTCC_ENTRY(output_shape),
    .finish = RTCC_ENTRY(finish),
    .info = RTCC_ENTRY(info),
    .error = RTCC_ENTRY(error),
};
