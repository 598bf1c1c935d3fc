/* The runtime of an artefact: checks, thread pool, and the functions it exports.
 * Follows cpu.c, runtime.h and the generated tables and launch list in one translation unit.
 */

/* ---- external weights: a file beside the artefact, mapped read-only ---- */

#if RTCC_EXTERNAL_BYTES > 0
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Fletcher's checksum over 64-bit little-endian words, modulo 2^64: finds damage and mistaken files, not forgery. */
static int rtcc_is_expected(const char *bytes, size_t count)
{
    uint64_t sum = 0, sum_of_sums = 0;
    for (size_t i = 0; i < count; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, 8);
        sum += word;
        sum_of_sums += sum;
    }
    return sum == RTCC_EXTERNAL_SUM && sum_of_sums == RTCC_EXTERNAL_SUM_OF_SUMS;
}

/* The path of the weights file: the folder of the object that holds this code, and the file's name. */
static int rtcc_weights_path(char *path, size_t capacity)
{
    static const char name[] = RTCC_EXTERNAL_NAME;
    Dl_info info;
    if (!dladdr((const void *)rtcc_info_text, &info) || info.dli_fname == NULL)
        return -1;
    const char *slash = strrchr(info.dli_fname, '/');
    const size_t folder = slash == NULL ? 0 : (size_t)(slash - info.dli_fname) + 1;
    if (folder + sizeof(name) > capacity)
        return -1;
    memcpy(path, info.dli_fname, folder);
    memcpy(path + folder, name, sizeof(name));
    return 0;
}

static int32_t rtcc_map_weights(struct rtcc_workspace *w)
{
    char path[PATH_MAX];
    struct stat status;
    const int file = rtcc_weights_path(path, sizeof(path)) == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return RTCC_WEIGHTS_MISSING;
    if (fstat(file, &status) != 0 || (uint64_t)status.st_size != RTCC_EXTERNAL_BYTES) {
        close(file);
        return RTCC_WEIGHTS_WRONG_SIZE;
    }
    void *bytes = mmap(NULL, RTCC_EXTERNAL_BYTES, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    close(file);
    if (bytes == MAP_FAILED)
        return RTCC_WEIGHTS_NOT_MAPPED;
    if (!rtcc_is_expected(bytes, RTCC_EXTERNAL_BYTES)) {
        munmap(bytes, RTCC_EXTERNAL_BYTES);
        return RTCC_WEIGHTS_WRONG_CONTENT;
    }
    w->weights = bytes;
    return RTCC_OK;
}

static void rtcc_unmap_weights(struct rtcc_workspace *w) { munmap((void *)(uintptr_t)w->weights, RTCC_EXTERNAL_BYTES); }
#else
static int32_t rtcc_map_weights(struct rtcc_workspace *w)
{
    w->weights = NULL;
    return RTCC_OK;
}

static void rtcc_unmap_weights(struct rtcc_workspace *w) { (void)w; }
#endif

/* ---- thread pool: one per workspace, all its state in the workspace ---- */

#if RTCC_POOL

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
    int32_t lowest = atomic_load(&w->code);
    while (code < lowest && !atomic_compare_exchange_weak(&w->code, &lowest, code)) {
    }
}

static int32_t rtcc_barrier_wait(struct rtcc_workspace *w, int32_t code)
{
    const uint32_t phase = atomic_load_explicit(&w->phase, memory_order_relaxed);
    if (code != 0)
        rtcc_report(w, code);
    if (atomic_fetch_add_explicit(&w->arrived, 1, memory_order_acq_rel) + 1 == (uint32_t)w->threads) {
        w->agreed = atomic_load(&w->code); /* stable until the next barrier, which needs every thread */
        atomic_store_explicit(&w->code, 0, memory_order_relaxed);
        atomic_store_explicit(&w->arrived, 0, memory_order_relaxed);
        rtcc_advance(&w->phase, &w->phase_sleepers);
    } else {
        rtcc_wait(&w->phase, phase, &w->phase_sleepers, w->spins);
    }
    return w->agreed;
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
    rtcc_advance(&w->ready, &w->ready_sleepers);
    for (;;) {
        rtcc_wait(&w->generation, generation++, &w->generation_sleepers, w->spins);
        if (w->stop)
            return NULL;
        rtcc_walk(w, worker->task, w->inputs, w->outputs);
    }
}

/* Changes only in a forked child, where the threads of every workspace are missing. */
static _Atomic uint32_t rtcc_fork_epoch;

static void rtcc_forked(void) { atomic_fetch_add(&rtcc_fork_epoch, 1); }

static void rtcc_watch_forks(void) { pthread_atfork(NULL, NULL, rtcc_forked); }

static int rtcc_is_forked(const struct rtcc_workspace *w)
{
    return w->threads > 1 && w->fork_epoch != atomic_load_explicit(&rtcc_fork_epoch, memory_order_relaxed);
}

static void rtcc_stop_workers(struct rtcc_workspace *w, int32_t started)
{
    if (started <= 1 || rtcc_is_forked(w))
        return;
    w->stop = 1;
    rtcc_advance(&w->generation, &w->generation_sleepers);
    for (int32_t task = 1; task < started; task++)
        pthread_join(w->workers[task].thread, NULL);
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
static int32_t rtcc_start_workers(struct rtcc_workspace *w)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t all, before;
    int32_t started = 1;
    if (w->threads == 1)
        return RTCC_OK;
    w->spins = rtcc_has_processors(w->threads) ? RTCC_SPINS : 0;
    pthread_once(&once, rtcc_watch_forks);
    w->fork_epoch = atomic_load(&rtcc_fork_epoch);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; started < w->threads; started++) {
        w->workers[started].workspace = w;
        w->workers[started].task = started;
        if (rtcc_start_worker(&w->workers[started]) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started < w->threads) {
        rtcc_stop_workers(w, started);
        return RTCC_THREAD_REFUSED;
    }
    for (uint32_t ready; (ready = atomic_load(&w->ready)) + 1 < (uint32_t)w->threads;)
        rtcc_wait(&w->ready, ready, &w->ready_sleepers, w->spins);
    return RTCC_OK;
}

static int32_t rtcc_walk_all(struct rtcc_workspace *w, const void *const *in, void *const *out)
{
    if (w->threads > 1) {
        w->inputs = in;
        w->outputs = out;
        rtcc_advance(&w->generation, &w->generation_sleepers);
    }
    return rtcc_walk(w, 0, in, out);
}

#else

static inline int32_t rtcc_barrier(struct rtcc_workspace *w, int32_t code)
{
    (void)w;
    return code;
}

static int rtcc_is_forked(const struct rtcc_workspace *w)
{
    (void)w;
    return 0;
}

static void rtcc_stop_workers(struct rtcc_workspace *w, int32_t started)
{
    (void)w;
    (void)started;
}

static int32_t rtcc_start_workers(struct rtcc_workspace *w)
{
    (void)w;
    return RTCC_OK;
}

static int32_t rtcc_walk_all(struct rtcc_workspace *w, const void *const *in, void *const *out)
{
    return rtcc_walk(w, 0, in, out);
}

#endif

/* ---- checks ---- */

static int rtcc_is_live(const struct rtcc_workspace *w) { return w->magic == RTCC_MAGIC && w->self == w; }

static int32_t rtcc_check_workspace(const void *workspace)
{
    if (workspace == NULL)
        return RTCC_NULL_POINTER;
    if ((uintptr_t)workspace % 64 != 0)
        return RTCC_WORKSPACE_MISALIGNED;
    return RTCC_OK;
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
    for (size_t o = 0; o < RTCC_OUTPUT_COUNT; o++) {
        const size_t bytes = rtcc_outputs[o].bytes;
        for (size_t i = 0; i < RTCC_INPUT_COUNT; i++)
            if (rtcc_overlaps(outputs[o], bytes, inputs[i], rtcc_inputs[i].bytes) &&
                !(rtcc_updates[o] == (int32_t)i && outputs[o] == inputs[i]))
                return RTCC_BUFFERS_OVERLAP;
        for (size_t p = 0; p < o; p++)
            if (rtcc_overlaps(outputs[o], bytes, outputs[p], rtcc_outputs[p].bytes))
                return RTCC_BUFFERS_OVERLAP;
    }
    return RTCC_OK;
}

static size_t rtcc_workspace_bytes(int threads)
{
    const size_t others = threads > 1 ? (size_t)(threads - 1) : 0;
    return (size_t)RTCC_HEAD_BYTES + RTCC_ARENA_BYTES + RTCC_THREAD_BYTES * others;
}

/* ---- exported functions; model.h documents them ---- */

RTCC_EXPORT int RTCC_ENTRY(init)(void *workspace, size_t bytes, int threads)
{
    struct rtcc_workspace *w = workspace;
    int32_t code = rtcc_check_workspace(workspace);
    if (code != RTCC_OK)
        return code;
    if (threads < 1 || threads > RTCC_THREADS_MAX)
        return RTCC_THREADS_OUT_OF_RANGE;
    if (bytes < rtcc_workspace_bytes(threads))
        return RTCC_WORKSPACE_TOO_SMALL;
    if (rtcc_cpu_lacks_features())
        return RTCC_CPU_UNSUPPORTED;
    if (rtcc_is_live(w)) {
        if (w->threads > 1 && !rtcc_is_forked(w))
            return RTCC_ALREADY_INITIALISED;
        rtcc_unmap_weights(w);
    }
    memset(workspace, 0, rtcc_workspace_bytes(threads)); /* state starts at zero, and every page is touched now */
    w->bytes = bytes;
    w->threads = RTCC_POOL ? threads : 1;
    code = rtcc_map_weights(w);
    if (code != RTCC_OK)
        return code;
    code = rtcc_start_workers(w);
    if (code != RTCC_OK) {
        rtcc_unmap_weights(w);
        return code;
    }
    w->self = w;
    w->magic = RTCC_MAGIC;
    return RTCC_OK;
}

RTCC_EXPORT int RTCC_ENTRY(run)(void *workspace, const void *const inputs[], void *const outputs[])
{
    struct rtcc_workspace *w = workspace;
    int32_t code = rtcc_check_workspace(workspace);
    if (code != RTCC_OK)
        return code;
    if (!rtcc_is_live(w))
        return RTCC_NOT_INITIALISED;
    if (rtcc_is_forked(w))
        return RTCC_FORKED;
    code = rtcc_check_tensors(inputs, rtcc_inputs, RTCC_INPUT_COUNT);
    if (code == RTCC_OK)
        code = rtcc_check_tensors((const void *const *)outputs, rtcc_outputs, RTCC_OUTPUT_COUNT);
    if (code == RTCC_OK)
        code = rtcc_check_overlap(inputs, outputs);
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
    const struct rtcc_workspace *w = workspace;
    const int32_t code = rtcc_check_workspace(workspace);
    if (code != RTCC_OK)
        return code;
    if (!rtcc_is_live(w))
        return RTCC_NOT_INITIALISED;
    if (output < 0 || output >= (int)RTCC_OUTPUT_COUNT)
        return RTCC_NO_SUCH_OUTPUT;
    if (shape == NULL)
        return RTCC_NULL_POINTER;
    return rtcc_shape(w, output, shape);
}

RTCC_EXPORT void RTCC_ENTRY(finish)(void *workspace, int wipe)
{
    struct rtcc_workspace *w = workspace;
    if (rtcc_check_workspace(workspace) != RTCC_OK || !rtcc_is_live(w))
        return;
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
