/* measure.c: checks, measures and prints the rungs of any ladder (ladder.h).
 *
 * A time is that for which the processor ran this thread; it does not grow while another program
 * has the core. The rungs are measured in turns, several times round, and each has the median of
 * its times: what slows down the machine for a moment then meets one time of a rung, and not all
 * of them. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ladder.h"
#include "pygpt.h"

#define ROUNDS 5 /* each measures every rung once; odd, for the median */
#ifndef LEAST_SECONDS
#define LEAST_SECONDS 0.01 /* a measurement repeats a short rung for this long */
#endif

/* ---------------------------------------------------------------------------------- checking -- */

worst compare(const float *got, const double *wanted, int64_t R, int64_t C, const double *absolute,
              double relative) {
    worst w = {0};
    double most = 0.0;
    for (int64_t i = 0; i < R * C; i++) {
        const double error = fabs(got[i] - wanted[i]);
        const double bound = (absolute ? absolute[i / C] : 0.0) + relative * fabs(wanted[i]);
        const double of_bound = error == 0.0 ? 0.0 : error / bound;
        if (!(error <= most)) most = error;
        if (!(of_bound <= w.of_bound)) /* a NaN, too, is the worst so far */
            w = (worst){error, of_bound, i / C, i % C, got[i], wanted[i]};
        if (isnan(of_bound)) return w;
    }
    w.error = most;
    return w;
}

/* Whether rung r of l is as right, or as wrong, as it should be; if not, says so. */
static int agrees(const ladder *l, int r, const worst *w) {
    const rung *one = &l->rungs[r];
    const int within = w->of_bound <= 1.0;
    if (within == !one->fault) return 1;
    if (within)
        fprintf(stderr, "ladder: rung %d (%s) is right, but should be wrong: %s\n", r + 1,
                one->name, one->fault);
    else
        fprintf(stderr, "ladder: rung %d (%s) is wrong at row %" PRId64 ", column %" PRId64
                ": %.9g instead of %.9g\n", r + 1, one->name, w->row, w->column, w->got, w->wanted);
    return 0;
}

/* --------------------------------------------------------------------------------- measuring -- */

/* Returns for how many seconds this thread has run. */
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static double median(double taken[ROUNDS]) {
    qsort(taken, ROUNDS, sizeof *taken, ascending);
    return taken[ROUNDS / 2];
}

/* Returns the seconds of one call. */
static double measure(void (*run)(const void *job), const void *job) {
    int calls = 0;
    double start = seconds(), taken;
    do {
        run(job);
        calls++;
        taken = seconds() - start;
    } while (taken < LEAST_SECONDS);
    return taken / calls;
}

/* ---------------------------------------------------------------------------------- printing -- */

/* Prints a line for rung r. `before` is the time of the rung before it, or 0. */
static void print_rung(const ladder *l, int r, double taken, double before, double peak,
                       const worst *w) {
    const rung *one = &l->rungs[r];
    printf("%-2d %-27s", r + 1, one->name);
    if (one->absent) {
        printf(" %s\n", one->absent);
        return;
    }
    printf(" %9.3f", 1e3 * taken);
    if (before > 0.0)
        printf(" %8.2f", before / taken);
    else
        printf(" %8s", "");
    printf(" %9.2f", l->work / taken);
    if (l->limit_count > 0) printf(" %10.1f", 100 * l->work / taken / peak);
    printf("  %.1e%s\n", w->error, one->fault ? " (wrong)" : "");
}

int climb(const ladder *l, const void *job) {
    worst found[MOST_RUNGS];
    double taken[MOST_RUNGS][ROUNDS], limits[MOST_LIMITS][ROUNDS], peak[MOST_LIMITS] = {0};
    for (int r = 0; r < l->count; r++) {
        l->spoil(job);
        l->rungs[r].run(job);
        found[r] = l->check(job);
        if (!agrees(l, r, &found[r])) return 1;
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int r = 0; r < l->count; r++)
            if (!l->rungs[r].absent) taken[r][round] = measure(l->rungs[r].run, job);
        for (int i = 0; i < l->limit_count; i++)
            limits[i][round] = measure(l->limits[i].run, job);
    }
    for (int i = 0; i < l->limit_count; i++) peak[i] = l->limits[i].work / median(limits[i]);
    printf("\n%-30s %9s %8s %9s", "rung", "ms", "x faster", l->unit);
    if (l->limit_count > 0) printf(" %10s", l->share);
    printf("  error\n");
    double before = 0.0;
    for (int r = 0; r < l->count; r++) {
        const double time = l->rungs[r].absent ? 0.0 : median(taken[r]);
        print_rung(l, r, time, before, peak[l->rungs[r].limit], &found[r]);
        if (time > 0.0) before = time;
    }
    for (int i = 0; i < l->limit_count; i++)
        printf("   %-27s %9s %8s %9.2f\n", l->limits[i].name, "", "", peak[i]);
    for (int r = 0; r < l->count; r++)
        if (l->rungs[r].fault)
            printf("   Rung %d is wrong on purpose: %s.\n", r + 1, l->rungs[r].fault);
    fflush(stdout);
    return 0;
}

/* ------------------------------------------------------------------------- shapes, operands -- */

int at_each_shape(int argc, char **argv, const size *list, int sizes, const int64_t *shapes,
                  int count, int (*climb_at)(const int64_t *shape)) {
    int64_t given[MOST_RUNGS];
    if (argc != 1 && argc != 1 + sizes) {
        fprintf(stderr, "ladder: SHAPE has %d numbers, but this ladder takes %d:", argc - 1, sizes);
        for (int i = 0; i < sizes; i++) fprintf(stderr, " %s", list[i].letter);
        fprintf(stderr, "\n");
        return 2;
    }
    for (int i = 0; i < argc - 1; i++) {
        const size *s = &list[i];
        char *end;
        given[i] = strtoll(argv[1 + i], &end, 10);
        if (*end || given[i] % s->multiple || given[i] < s->least || given[i] > s->most) {
            fprintf(stderr, "ladder: %s = %s is not a ", s->letter, argv[1 + i]);
            if (s->multiple == 1)
                fprintf(stderr, "whole number");
            else
                fprintf(stderr, "multiple of %" PRId64, s->multiple);
            fprintf(stderr, " from %" PRId64 " to %" PRId64 "\n", s->least, s->most);
            return 2;
        }
    }
    if (argc > 1) return climb_at(given);
    for (int i = 0; i < count; i++)
        if (climb_at(shapes + i * sizes)) return 1;
    return 0;
}

void *room_for(int64_t bytes) {
    void *memory = pygpt_alloc(bytes);
    if (!memory) {
        fprintf(stderr, "ladder: there is no memory for %" PRId64 " bytes\n", bytes);
        exit(1);
    }
    memset(memory, 0, (size_t)bytes);
    return memory;
}

double next_random(uint64_t *state) { /* a linear congruential generator, its upper bits */
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-53;
}

void fill(float *x, int64_t n, double low, double high, uint64_t *state) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)(low + (high - low) * next_random(state));
}
