/* Thread pool: one per workspace, all its state in the workspace. Linux; follows pool.h and runtime.h. */

enum { RTCC_SPINS = 2000, RTCC_YIELDS = 50, RTCC_STACK_BYTES = 1 << 20 };

static inline void rtcc_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void rtcc_futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Waits until the word differs from `old`: spins, then yields, then sleeps. */
static void rtcc_wait(_Atomic uint32_t *word, uint32_t old, _Atomic uint32_t *sleepers, int32_t spins)
{
    for (int32_t i = 0; i < spins; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
        rtcc_relax();
    }
    for (int i = 0; i < RTCC_YIELDS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
        sched_yield();
    }
    /* Sleepers count themselves before the kernel compares the word, and wakers change the word before they look
     * at the count; both are sequentially consistent, so one of them sees the other. */
    atomic_fetch_add(sleepers, 1);
    while (atomic_load(word) == old)
        rtcc_futex(word, FUTEX_WAIT, old);
    atomic_fetch_sub(sleepers, 1);
}

/* Adds one to the word and wakes whoever sleeps on it. */
static void rtcc_advance(_Atomic uint32_t *word, _Atomic uint32_t *sleepers)
{
    atomic_fetch_add(word, 1);
    if (atomic_load(sleepers) != 0)
        rtcc_futex(word, FUTEX_WAKE, INT_MAX);
}

/* Keeps the lowest code, so that the answer does not depend on which thread was first. */
static void rtcc_report(struct rtcc_workspace *w, int32_t code)
{
    int32_t lowest = atomic_load(&w->pool.code);
    while (code < lowest && !atomic_compare_exchange_weak(&w->pool.code, &lowest, code)) {
    }
}

static int32_t rtcc_barrier_wait(struct rtcc_workspace *w, int32_t code)
{
    const uint32_t phase = atomic_load_explicit(&w->pool.phase, memory_order_relaxed);
    if (code != 0)
        rtcc_report(w, code);
    if (atomic_fetch_add_explicit(&w->pool.arrived, 1, memory_order_acq_rel) + 1 == (uint32_t)w->threads) {
        w->pool.agreed = atomic_load(&w->pool.code); /* stable until the next barrier, which needs every thread */
        atomic_store_explicit(&w->pool.code, 0, memory_order_relaxed);
        atomic_store_explicit(&w->pool.arrived, 0, memory_order_relaxed);
        rtcc_advance(&w->pool.phase, &w->pool.phase_sleepers);
    } else {
        rtcc_wait(&w->pool.phase, phase, &w->pool.phase_sleepers, w->pool.spins);
    }
    return w->pool.agreed;
}

static inline int32_t rtcc_barrier(struct rtcc_workspace *w, int32_t code)
{
    return w->threads == 1 ? code : rtcc_barrier_wait(w, code);
}

static void *rtcc_worker_main(void *argument)
{
    const struct rtcc_worker *worker = argument;
    struct rtcc_workspace *w = worker->workspace;
    uint32_t generation = 0;
    rtcc_float_enter();
    rtcc_advance(&w->pool.ready, &w->pool.ready_sleepers);
    for (;;) {
        rtcc_wait(&w->pool.generation, generation++, &w->pool.generation_sleepers, w->pool.spins);
        if (w->pool.stop)
            return NULL;
        rtcc_walk(w, worker->task, w->pool.inputs, w->pool.outputs);
    }
}

/* Changes only in a forked child, where the threads of every workspace are missing. */
static _Atomic uint32_t rtcc_fork_epoch;

static void rtcc_forked(void) { atomic_fetch_add(&rtcc_fork_epoch, 1); }

static void rtcc_watch_forks(void) { pthread_atfork(NULL, NULL, rtcc_forked); }

static int rtcc_is_forked(const struct rtcc_workspace *w)
{
    return w->threads > 1 && w->pool.fork_epoch != atomic_load_explicit(&rtcc_fork_epoch, memory_order_relaxed);
}

static int rtcc_holds_something(const struct rtcc_workspace *w) { return w->threads > 1 && !rtcc_is_forked(w); }

static void rtcc_stop_workers(struct rtcc_workspace *w, int32_t started)
{
    if (started <= 1 || rtcc_is_forked(w))
        return;
    w->pool.stop = 1;
    rtcc_advance(&w->pool.generation, &w->pool.generation_sleepers);
    for (int32_t task = 1; task < started; task++)
        pthread_join(w->pool.workers[task].thread, NULL);
}

/* Whether each thread can have a processor to itself; where not, spinning only keeps the others from theirs. */
static int rtcc_has_processors(int32_t threads)
{
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof(allowed), &allowed) == 0 && CPU_COUNT(&allowed) >= threads;
}

static int rtcc_start_worker(struct rtcc_worker *worker)
{
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0)
        return -1;
    pthread_attr_setstacksize(&attributes, RTCC_STACK_BYTES);
    const int refused = pthread_create(&worker->thread, &attributes, rtcc_worker_main, worker);
    pthread_attr_destroy(&attributes);
    return refused;
}

/* Starts the workers with all signals blocked, so that handlers run on the program's own threads, and waits until
 * they are there: the first run costs what every run costs. */
static int32_t rtcc_start_workers(struct rtcc_workspace *w, int threads)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t all, before;
    int32_t started = 1;
    w->threads = threads;
    if (threads == 1)
        return RTCC_OK;
    w->pool.spins = rtcc_has_processors(w->threads) ? RTCC_SPINS : 0;
    pthread_once(&once, rtcc_watch_forks);
    w->pool.fork_epoch = atomic_load(&rtcc_fork_epoch);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started < w->threads; started++) {
        w->pool.workers[started].workspace = w;
        w->pool.workers[started].task = started;
        if (rtcc_start_worker(&w->pool.workers[started]) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started < w->threads) {
        rtcc_stop_workers(w, started);
        return RTCC_THREAD_REFUSED;
    }
    for (uint32_t ready; (ready = atomic_load(&w->pool.ready)) + 1 < (uint32_t)w->threads;)
        rtcc_wait(&w->pool.ready, ready, &w->pool.ready_sleepers, w->pool.spins);
    return RTCC_OK;
}

static int32_t rtcc_walk_all(struct rtcc_workspace *w, const void *const *in, void *const *out)
{
    if (w->threads > 1) {
        w->pool.inputs = in;
        w->pool.outputs = out;
        rtcc_advance(&w->pool.generation, &w->pool.generation_sleepers);
    }
    return rtcc_walk(w, 0, in, out);
}
