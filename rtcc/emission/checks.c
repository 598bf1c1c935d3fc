/* What run and init refuse before they touch anything. C99, as a model's C file has it too. */
static int rtcc_is_live(const struct rtcc_workspace *w) { return w->magic == RTCC_MAGIC && w->self == w; }

static int32_t rtcc_check_workspace(const void *workspace)
{
    if (workspace == NULL)
        return RTCC_NULL_POINTER;
    if ((uintptr_t)workspace % RTCC_ALIGNMENT != 0)
        return RTCC_WORKSPACE_MISALIGNED;
    return RTCC_OK;
}

static int32_t rtcc_check_live(const void *workspace)
{
    const int32_t code = rtcc_check_workspace(workspace);
    return code != RTCC_OK || rtcc_is_live(workspace) ? code : RTCC_NOT_INITIALISED;
}

static int32_t rtcc_check_tensors(const void *const *pointers, const struct rtcc_tensor *tensors, size_t count)
{
    if (pointers == NULL && count > 0)
        return RTCC_NULL_POINTER;
    for (size_t i = 0; i < count; i++) {
        if (pointers[i] == NULL && tensors[i].bytes > 0)
            return RTCC_NULL_POINTER;
        if ((uintptr_t)pointers[i] % tensors[i].alignment != 0)
            return RTCC_BUFFER_MISALIGNED;
    }
    return RTCC_OK;
}

static int rtcc_overlaps(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    return (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

/* An output shares no byte with another or with an input, save the whole buffer of the one whose next value it is. */
static int32_t rtcc_check_overlap(const void *const *inputs, void *const *outputs)
{
    const size_t input_count = RTCC_INPUT_COUNT, output_count = RTCC_OUTPUT_COUNT;
    for (size_t o = 0; o < output_count; o++) {
        const size_t bytes = rtcc_outputs[o].bytes;
        for (size_t i = 0; i < input_count; i++)
            if (rtcc_overlaps(outputs[o], bytes, inputs[i], rtcc_inputs[i].bytes) &&
                !(rtcc_updates[o] == (int32_t)i && outputs[o] == inputs[i]))
                return RTCC_BUFFERS_OVERLAP;
        for (size_t p = 0; p < o; p++)
            if (rtcc_overlaps(outputs[o], bytes, outputs[p], rtcc_outputs[p].bytes))
                return RTCC_BUFFERS_OVERLAP;
    }
    return RTCC_OK;
}

static int32_t rtcc_check_buffers(const void *const *inputs, void *const *outputs)
{
    int32_t code = rtcc_check_tensors(inputs, rtcc_inputs, RTCC_INPUT_COUNT);
    if (code == RTCC_OK)
        code = rtcc_check_tensors((const void *const *)outputs, rtcc_outputs, RTCC_OUTPUT_COUNT);
    return code == RTCC_OK ? rtcc_check_overlap(inputs, outputs) : code;
}

static int32_t rtcc_checked_shape(const void *workspace, int output, int64_t *shape)
{
    const int32_t code = rtcc_check_live(workspace);
    if (code != RTCC_OK)
        return code;
    if (output < 0 || output >= (int)RTCC_OUTPUT_COUNT)
        return RTCC_NO_SUCH_OUTPUT;
    return shape == NULL ? RTCC_NULL_POINTER : rtcc_shape(workspace, output, shape);
}
