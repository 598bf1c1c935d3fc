/* What runs on the caller's thread alone; no operating system is needed. */
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

static int rtcc_holds_something(const struct rtcc_workspace *w)
{
    (void)w;
    return 0;
}

static void rtcc_stop_workers(struct rtcc_workspace *w, int32_t started)
{
    (void)w;
    (void)started;
}

static int32_t rtcc_start_workers(struct rtcc_workspace *w, int threads)
{
    (void)threads;
    w->threads = 1;
    return RTCC_OK;
}

static int32_t rtcc_walk_all(struct rtcc_workspace *w, const void *const *in, void *const *out)
{
    return rtcc_walk(w, 0, in, out);
}
