/* The CPU that generated code runs on: what it must have, and how it computes.
 *
 *   RTCC_FEATURE_COUNT     the words of rtcc_features, which is defined before this text where there are any
 *   RTCC_XCR0_MASK         bits of XCR0 that the operating system must have set (x86)
 */

/* ---- floating-point mode: round to nearest, no traps, denormals flushed ---- */

#if defined(__x86_64__)
typedef uint32_t rtcc_float_mode;

static inline rtcc_float_mode rtcc_float_enter(void)
{
    const rtcc_float_mode before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x9fc0); /* all exceptions masked (0x1f80), FTZ (0x8000), DAZ (0x0040) */
    return before;
}

static inline void rtcc_float_leave(rtcc_float_mode before) { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
typedef uint64_t rtcc_float_mode;

static inline rtcc_float_mode rtcc_float_enter(void)
{
    rtcc_float_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"((rtcc_float_mode)1 << 24)); /* FZ */
    return before;
}

static inline void rtcc_float_leave(rtcc_float_mode before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#elif defined(__arm__) && defined(__ARM_FP)
typedef uint32_t rtcc_float_mode;

static inline rtcc_float_mode rtcc_float_enter(void)
{
    rtcc_float_mode before;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(before));
    __asm__ volatile("vmsr fpscr, %0" : : "r"((rtcc_float_mode)1 << 24)); /* FZ */
    return before;
}

static inline void rtcc_float_leave(rtcc_float_mode before) { __asm__ volatile("vmsr fpscr, %0" : : "r"(before)); }
#else
typedef int rtcc_float_mode;

static inline rtcc_float_mode rtcc_float_enter(void) { return 0; }

static inline void rtcc_float_leave(rtcc_float_mode before) { (void)before; }
#endif

/* ---- CPU features ---- */

#if RTCC_FEATURE_COUNT == 0
static int rtcc_cpu_lacks_features(void) { return 0; }
#elif defined(__x86_64__)
#include <cpuid.h>

static int rtcc_cpu_lacks_features(void)
{
    uint32_t words[4];
    if (RTCC_XCR0_MASK != 0) { /* the kernel must save the vector registers too */
        uint32_t low, high;
        if (!__get_cpuid(1, &words[0], &words[1], &words[2], &words[3]) || !(words[2] & bit_OSXSAVE))
            return 1;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        if ((low & RTCC_XCR0_MASK) != RTCC_XCR0_MASK)
            return 1;
    }
    for (size_t i = 0; i < RTCC_FEATURE_COUNT; i++) {
        const struct rtcc_feature *f = &rtcc_features[i];
        if (!__get_cpuid_count(f->leaf, f->subleaf, &words[0], &words[1], &words[2], &words[3]) ||
            (words[f->word] & f->mask) != f->mask)
            return 1;
    }
    return 0;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static int rtcc_cpu_lacks_features(void)
{
    for (size_t i = 0; i < RTCC_FEATURE_COUNT; i++) {
        const struct rtcc_feature *f = &rtcc_features[i];
        if ((getauxval(f->leaf ? AT_HWCAP2 : AT_HWCAP) & f->mask) != f->mask)
            return 1;
    }
    return 0;
}
#elif defined(__arm__)
/* Registers of the system control space, which faults where the thread is not privileged: nothing is asked there. */
static int rtcc_cpu_lacks_features(void)
{
    uint32_t control, exception;
    __asm__ volatile("mrs %0, control" : "=r"(control));
    __asm__ volatile("mrs %0, ipsr" : "=r"(exception));
    if ((control & 1) != 0 && exception == 0)
        return 0;
    for (size_t i = 0; i < RTCC_FEATURE_COUNT; i++) {
        const struct rtcc_feature *f = &rtcc_features[i];
        if ((*(const volatile uint32_t *)(uintptr_t)f->leaf & f->mask) != f->mask)
            return 1;
    }
    return 0;
}
#else
#error "CPU features can be checked on x86-64, AArch64 and Cortex-M only"
#endif
