/* What the two real-time loops share: releases at a fixed pace, and a record of how late each answer was.
 * Nothing is allocated. Needs POSIX: _POSIX_C_SOURCE 200809L before any header. */
#ifndef DEADLINES_H
#define DEADLINES_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEADLINES_KEPT = 4096 };

/* Seconds. The latest DEADLINES_KEPT answers are kept; misses are counted over all. */
struct deadlines {
    double period, budget;
    double release, begun;
    long answers, misses;
    double responses[DEADLINES_KEPT], runs[DEADLINES_KEPT];
};

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The next piece of work is released now: it came by itself, from a microphone say. */
static inline void deadlines_release(struct deadlines *deadlines)
{
    deadlines->release = now_seconds();
}

/* Sleep until the next release; not at all where the last answer came after it. */
static inline void deadlines_wait(struct deadlines *deadlines)
{
    deadlines->release = deadlines->answers ? deadlines->release + deadlines->period : now_seconds();
    struct timespec until;
    until.tv_sec = (time_t)deadlines->release;
    until.tv_nsec = (long)(1e9 * (deadlines->release - (double)until.tv_sec));
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

/* The model is about to run. */
static inline void deadlines_begin(struct deadlines *deadlines)
{
    deadlines->begun = now_seconds();
}

/* The answer is there. */
static inline void deadlines_done(struct deadlines *deadlines)
{
    double now = now_seconds();
    long place = deadlines->answers++ % DEADLINES_KEPT;
    deadlines->runs[place] = now - deadlines->begun;
    deadlines->responses[place] = now - deadlines->release;
    deadlines->misses += deadlines->responses[place] > deadlines->budget;
}

static int deadlines_order(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;
    return (first > second) - (first < second);
}

static void deadlines_percentiles(const char *what, double seconds[], long count)
{
    qsort(seconds, (size_t)count, sizeof *seconds, deadlines_order);
    printf("%-24s p50 %8.1f  p99 %8.1f  max %8.1f us\n", what, 1e6 * seconds[count / 2],
           1e6 * seconds[count - 1 - count / 100], 1e6 * seconds[count - 1]);
}

/* Misses, and the percentiles of what every answer took: from its release, and of the model alone. */
static inline void deadlines_report(struct deadlines *deadlines)
{
    long kept = deadlines->answers < DEADLINES_KEPT ? deadlines->answers : DEADLINES_KEPT;
    printf("%ld of %ld answers missed their %g ms\n", deadlines->misses, deadlines->answers,
           1e3 * deadlines->budget);
    if (kept > 0) {
        deadlines_percentiles("from release to answer", deadlines->responses, kept);
        deadlines_percentiles("the model alone", deadlines->runs, kept);
    }
}

#endif
