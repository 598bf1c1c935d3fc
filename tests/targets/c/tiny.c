/* ---- constants ---- */

/* conv.weight: f32[2,1,3,3] */
static const float const_conv_weight[18] = {
    0.5f, -1.0f, 0.25f, 0.0f, 2.0f, -0.125f, 1.5f, -0.75f,
    0.1f, 1.0f, 0.0f, -1.0f, 0.5f, 0.5f, 0.5f, -2.0f,
    1.0f, 0.3f,
};

/* conv.bias: f32[2] */
static const float const_conv_bias[2] = {
    0.1f, -0.2f,
};

/* rows: i64[2] */
static const int64_t const_rows[2] = {
    INT64_C(1), INT64_C(0),
};

/* ---- what C has no operator for ---- */

static inline float max_f32(float a, float b)
{
    return a > b ? a : b;
}

static inline int32_t i32_of_f32(float x)
{
    int32_t y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static inline float f32_of_i32(int32_t x)
{
    float y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static float exp_below_one_f32(float x)
{
    float chosen;
    if (x < -87.33654f) {
        chosen = 0.0f;
    } else {
        const float v = max_f32(-87.33654f, x);
        const float v_1 = v * 1.442695f + 1.2582912e+07f;
        const float v_2 = v_1 - 1.2582912e+07f;
        const float v_3 = v - v_2 * 0.6933594f - v_2 * (-0.00021219444f);
        const int32_t v_4 = (int32_t)((uint32_t)i32_of_f32(v_1) - (uint32_t)i32_of_f32(1.2582912e+07f));
        chosen = (v_3 * v_3 * ((((0.0013814095f * v_3 + 0.00836896f) * v_3 + 0.04166841f) * v_3 + 0.16666518f)
            * v_3 + 0.49999994f) + v_3 + 1.0f) * f32_of_i32((int32_t)((uint32_t)(int32_t)((uint32_t)v_4 +
            (uint32_t)127) << 23));
    }
    return chosen;
}

/* ---- kernels ---- */

/* kernel @conv(%x: f32[1,1,4,6], %conv.weight: f32[2,1,3,3], %conv.bias: f32[2]) attributes {algorithm =
 *     "generic"} {
 *   %c = nn.conv(%x, %conv.weight, %conv.bias) {pads = [1,1,1,1]} : f32[1,2,4,6] loc("conv")
 *   %r = math.relu(%c) : f32[1,2,4,6] loc("relu")
 *   return(%r)
 * }
 */
static RTCC_APART void kernel_conv(
    const float (*in0)[1][4][6],
    const float (*in1)[1][3][3],
    const float *in2,
    float (*restrict out0)[2][4][6])
{
    for (int32_t i = 0; i < 2; i++) {
        for (int32_t l0 = 0; l0 < 4; l0++) {
            float partial[6];
            for (int32_t lane = 0; lane < 6; lane++) {
                partial[lane] = 0.0f;
            }
            for (int32_t r1 = 0; r1 < 3; r1++) {
                for (int32_t r2 = 0; r2 < 3; r2++) {
                    for (int32_t lane = 0; lane < 6; lane++) {
                        partial[lane] += l0 + r1 - 1 >= 0 && l0 + r1 - 1 < 4 && lane + r2 - 1 >= 0
                            && lane + r2 - 1 < 6 ? in0[0][0][l0 + r1 - 1][lane + r2 - 1] * in1[i][0][r1][r2]
                            : 0.0f;
                    }
                }
            }
            for (int32_t lane = 0; lane < 6; lane++) {
                const float total = partial[lane] + in2[i];
                float v = max_f32(0.0f, total);
                out0[0][i][l0][lane] = v;
            }
        }
    }
}

/* kernel @pool(%r: f32[1,2,4,6]) {
 *   %p = nn.max_pool(%r) {kernel_shape = [2,2], strides = [2,2]} : f32[1,2,2,3] loc("pool")
 *   return(%p)
 * }
 */
static RTCC_APART void kernel_pool(const float (*in0)[2][4][6], float (*restrict out0)[2][2][3])
{
    for (int32_t i = 0; i < 4; i++) {
        const int32_t i1 = i / 2;
        const int32_t i2 = i % 2;
        for (int32_t l0 = 0; l0 < 3; l0++) {
            const int32_t at = i2 * 2;
            const int32_t at_1 = l0 * 2;
            float partial = -INFINITY;
            for (int32_t r0 = 0; r0 < 2; r0++) {
                for (int32_t r1 = 0; r1 < 2; r1++) {
                    float v = partial;
                    float v_1 = in0[0][i1][at + r0][at_1 + r1];
                    partial = isnan(v) ? v : max_f32(v, v_1);
                }
            }
            const float total = partial;
            out0[0][i1][i2][l0] = total;
        }
    }
}

/* kernel @swap(%p: f32[1,2,2,3], %rows: i64[2]) {
 *   %g = tensor.gather(%p, %rows) {axis = 2} : f32[1,2,2,3] loc("swap")
 *   return(%g)
 * }
 */
static RTCC_APART int32_t kernel_swap(
    const float (*in0)[2][2][3],
    const int64_t *in1,
    float (*restrict out0)[2][2][3])
{
    for (int32_t i = 0; i < 4; i++) {
        const int32_t i1 = i / 2;
        const int32_t i2 = i % 2;
        for (int32_t l0 = 0; l0 < 3; l0++) {
            const int64_t i_1 = in1[i2];
            const int64_t j = i_1 < 0 ? (int64_t)((uint64_t)i_1 + (uint64_t)INT64_C(2)) : i_1;
            if (j < 0 || j >= 2) {
                return RTCC_INDEX_OUT_OF_RANGE;
            }
            out0[0][i1][i2][l0] = in0[0][i1][(int32_t)j][l0];
        }
    }
    return RTCC_OK;
}

/* kernel @softmax(%g: f32[1,2,2,3]) {
 *   %y = nn.softmax(%g) {axis = 3} : f32[1,2,2,3] loc("softmax")
 *   return(%y)
 * }
 */
static RTCC_APART void kernel_softmax(const float (*data)[3], float (*restrict output)[3])
{
    for (int32_t row = 0; row < 4; row++) {
        float acc[3];
        for (int32_t w = 0; w < 3; w++) {
            acc[w] = -INFINITY;
        }
        for (int32_t w = 0; w < 3; w++) {
            acc[w] = max_f32(acc[w], data[row][w]);
        }
        acc[0] = max_f32(acc[0], acc[1]);
        acc[0] = max_f32(acc[0], acc[2]);
        float v = acc[0];
        float acc_1[3];
        for (int32_t w = 0; w < 3; w++) {
            acc_1[w] = 0.0f;
        }
        for (int32_t w = 0; w < 3; w++) {
            output[row][w] = exp_below_one_f32(data[row][w] - v);
            acc_1[w] += output[row][w];
        }
        acc_1[0] += acc_1[1];
        acc_1[0] += acc_1[2];
        float v_1 = acc_1[0];
        float v_2 = 1.0f / v_1;
        for (int32_t i = 0; i < 3; i++) {
            output[row][i] *= v_2;
        }
    }
}

/* ---- the network ---- */

static int32_t rtcc_walk(unsigned char *arena, const void *const *in, void *const *out)
{
    int32_t code;
    /* conv, relu */
    kernel_conv(IN(0, 0), CONST(conv_weight, 0), CONST(conv_bias, 0), ARENA(0));
    /* pool */
    kernel_pool(ARENA(0), ARENA(192));
    /* swap */
    if ((code = kernel_swap(ARENA(192), CONST(rows, 0), ARENA(0))) != RTCC_OK)
        return code;
    /* softmax */
    kernel_softmax(ARENA(0), OUT(0, 0));
    return RTCC_OK;
}

