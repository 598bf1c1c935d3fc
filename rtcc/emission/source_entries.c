/* ---- the interface ---- */

int @NAME@_init(void *workspace, size_t bytes, int threads)
{
    struct rtcc_workspace *w = workspace;
    const int32_t code = rtcc_check_workspace(workspace);
    if (code != RTCC_OK)
        return code;
    if (threads != 1)
        return RTCC_THREADS_OUT_OF_RANGE;
    if (bytes < @UPPER@_WORKSPACE_BYTES(1))
        return RTCC_WORKSPACE_TOO_SMALL;
    memset(workspace, 0, @UPPER@_WORKSPACE_BYTES(1)); /* state starts at zero */
    w->self = w;
    w->magic = RTCC_MAGIC;
    return RTCC_OK;
}

int @NAME@_run(void *workspace, const void *const inputs[], void *const outputs[])
{
    struct rtcc_workspace *w = workspace;
    int32_t code = rtcc_check_live(workspace);
    if (code != RTCC_OK)
        return code;
    code = rtcc_check_buffers(inputs, outputs);
    if (code != RTCC_OK)
        return code;
    if (w->busy)
        return RTCC_BUSY;
    w->busy = 1;
    code = rtcc_walk((unsigned char *)workspace + RTCC_HEAD_BYTES, inputs, outputs);
    if (code == RTCC_OK)
        w->has_run = 1;
    w->busy = 0;
    return code;
}

int @NAME@_output_shape(const void *workspace, int output, int64_t shape[])
{
    return rtcc_checked_shape(workspace, output, shape);
}

void @NAME@_finish(void *workspace, int wipe)
{
    struct rtcc_workspace *w = workspace;
    volatile unsigned char *bytes = workspace; /* so that zeros which nobody reads are written */
    size_t i;
    if (rtcc_check_live(workspace) != RTCC_OK)
        return;
    w->magic = 0;
    for (i = 0; wipe && i < @UPPER@_WORKSPACE_BYTES(1); i++)
        bytes[i] = 0;
}

const char *@NAME@_info(void) { return rtcc_info_text; }

const char *@NAME@_error(int code) { return rtcc_code_text(code); }
