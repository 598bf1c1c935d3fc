/* What the threads of a workspace share. Linux; precedes runtime.h where some launch is split between threads. */
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct rtcc_workspace;

struct rtcc_worker {
    pthread_t thread;
    struct rtcc_workspace *workspace;
    int32_t task;
};

/* Words that threads wait on lie on lines of their own. */
struct rtcc_pool {
    uint32_t fork_epoch;
    int32_t stop;
    int32_t spins;                  /* how often a waiting thread looks before it yields */
    const void *const *inputs;
    void *const *outputs;
    _Alignas(64) _Atomic uint32_t generation;   /* one more for every run, and for the end */
    _Atomic uint32_t generation_sleepers;
    _Alignas(64) _Atomic uint32_t ready;        /* workers that have started */
    _Atomic uint32_t ready_sleepers;
    _Alignas(64) _Atomic uint32_t arrived;      /* threads at the present barrier */
    _Atomic int32_t code;                       /* the lowest code reported since the last barrier */
    _Alignas(64) _Atomic uint32_t phase;        /* barriers passed */
    _Atomic uint32_t phase_sleepers;
    int32_t agreed;                             /* the code all threads leave the last barrier with */
    struct rtcc_worker workers[RTCC_THREADS_MAX];
};
