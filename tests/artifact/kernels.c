/* Kernels for the tests of artefacts: what a target's code generator would make, by hand. COUNT elements each.
 * Compiled once per kernel, with -DKERNEL_name: every object defines one function.
 */
#include <stddef.h>
#include <stdint.h>

enum { COUNT = 1000 };

/* Where a kernel reports that it cannot go on; left alone otherwise. */
#define CODE int32_t *code __attribute__((unused))
#define SPLIT(i) for (int32_t i = COUNT * task / tasks; i < COUNT * (task + 1) / tasks; i++)

#ifdef KERNEL_twice
int32_t twice(int32_t task, int32_t tasks, const float *x, float *y, CODE)
{
    SPLIT(i) y[i] = x[i] * 2.0f;
    return 0;
}
#endif

#ifdef KERNEL_add
int32_t add(int32_t task, int32_t tasks, const float *a, const float *b, float *y, CODE)
{
    SPLIT(i) y[i] = a[i] + b[i];
    return 0;
}
#endif

#ifdef KERNEL_reverse
/* y[i] = x[COUNT - 1 - i]: every thread reads what another one wrote. */
int32_t reverse(int32_t task, int32_t tasks, const float *x, float *y, CODE)
{
    SPLIT(i) y[i] = x[COUNT - 1 - i];
    return 0;
}
#endif

#ifdef KERNEL_sum
int32_t sum(int32_t task, int32_t tasks, const float *x, float *y, CODE)
{
    float total = 0;
    (void)task, (void)tasks;
    for (int32_t i = 0; i < COUNT; i++)
        total += x[i];
    y[0] = total;
    return 0;
}
#endif

#ifdef KERNEL_scale
int32_t scale(int32_t task, int32_t tasks, const float *x, const float *factor, float *y, CODE)
{
    SPLIT(i) y[i] = x[i] * factor[0];
    return 0;
}
#endif

#ifdef KERNEL_through_scratch
/* Uses private memory of COUNT floats per task. */
int32_t through_scratch(int32_t task, int32_t tasks, const float *x, float *y, float *scratch, CODE)
{
    for (int32_t i = 0; i < COUNT; i++)
        scratch[i] = x[i] + (float)task * 0;
    SPLIT(i) y[i] = scratch[i] + 1;
    return 0;
}
#endif

#ifdef KERNEL_below_limit
int32_t below_limit(int32_t task, int32_t tasks, const float *x, const float *limit, uint8_t *y, CODE)
{
    (void)task, (void)tasks;
    y[0] = x[0] < limit[0];
    return 0;
}
#endif

#ifdef KERNEL_gather
/* Fails on the thread that meets an index out of range. */
int32_t gather(int32_t task, int32_t tasks, const float *x, const int64_t *index, float *y, CODE)
{
    SPLIT(i)
    {
        if (index[i] < 0 || index[i] >= COUNT)
        {
            *code = -32;
            return 0;
        }
        y[i] = x[index[i]];
    }
    return 0;
}
#endif

#ifdef KERNEL_positive
/* The positive elements, and how many there are. */
int32_t positive(int32_t task, int32_t tasks, const float *x, float *y, int64_t *count, CODE)
{
    int64_t found = 0;
    (void)task, (void)tasks;
    for (int32_t i = 0; i < COUNT; i++)
        if (x[i] > 0)
            y[found++] = x[i];
    *count = found;
    return 0;
}
#endif

#ifdef KERNEL_accumulate
int32_t accumulate(int32_t task, int32_t tasks, const float *state, const float *x, float *y, CODE)
{
    SPLIT(i) y[i] = state[i] + x[i];
    return 0;
}
#endif

#ifdef KERNEL_add_iteration
int32_t add_iteration(int32_t task, int32_t tasks, const int64_t *iteration, const float *x, float *y, CODE)
{
    SPLIT(i) y[i] = x[i] + (float)*iteration;
    return 0;
}
#endif
