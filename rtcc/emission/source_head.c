#if defined(__FAST_MATH__)
#error "compile without -ffast-math: rounding and NaN are part of what the network computes"
#endif
#if FLT_EVAL_METHOD < 0 || FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2
#error "this compiler computes floats in a wider type; on 32-bit x86, -msse2 -mfpmath=sse keeps it from that"
#endif

/* No product is joined with a sum into one rounding. GCC does not know the pragma, and joins none under -std=c99. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__STRICT_ANSI__)
#pragma GCC optimize("fp-contract=off")
#endif

/* Kernels stay functions of their own, whose callers know nothing of them: the workspace holds one type of element
 * after another. */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 8
#define RTCC_APART __attribute__((noipa))
#elif defined(__GNUC__)
#define RTCC_APART __attribute__((noinline))
#else
#define RTCC_APART
#endif

/* The start of the caller's memory; what kernels write lies behind it. */
struct rtcc_workspace {
    uint64_t magic;        /* RTCC_MAGIC while initialised */
    const void *self;      /* its own address: a copied workspace is not a workspace */
    volatile int32_t busy; /* a run is under way, which an interrupt may have come into */
    int32_t has_run;       /* a run has succeeded since init */
};

typedef char rtcc_head_has_room[sizeof(struct rtcc_workspace) <= RTCC_HEAD_BYTES ? 1 : -1];

/* A tensor of the caller's: what run checks of the pointer it is given. */
struct rtcc_tensor {
    size_t bytes;
    size_t alignment;
};

