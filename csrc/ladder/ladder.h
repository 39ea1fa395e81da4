/* ladder.h: declares what all ladders share: how rungs are listed, checked, measured and printed.
 *
 * A ladder leads from the textbook's loops to the library's kernel in short functions, the rungs,
 * each of which mends one thing. Each kernel has two files: KERNEL_rungs.inl holds the rungs, which
 * this_isa.h compiles for one instruction set; KERNEL.c makes the operands, knows how far a result
 * may be off, and lists the rungs. measure.c does the rest.
 */
#ifndef LADDER_H
#define LADDER_H

#include <stdint.h>

/* A rounding to float32 changes a number by at most this part of it. */
#define EPS 0x1p-24

/* One function of a ladder. job holds its operands and its result. */
typedef struct rung {
    const char *name;
    void (*run)(const void *job);
    const char *fault;  /* NULL, or why the result has to be wrong for these operands */
    const char *absent; /* NULL, or why this rung is checked but not measured here */
    int limit;          /* the limit that its speed is compared with */
} rung;

/* What no rung can surpass, measured in the same way. */
typedef struct limit {
    const char *name;
    void (*run)(const void *job);
    double work; /* of one call, as of a ladder */
} limit;
#define MOST_RUNGS 16
#define MOST_LIMITS 2

/* How far a result is from what is wanted, in the element where the difference is the largest part
 * of the bound. */
typedef struct worst {
    double error, of_bound; /* the difference, and as a part of the bound */
    int64_t row, column;
    double got, wanted;
} worst;

typedef struct ladder {
    const rung *rungs;
    int count;
    const limit *limits;
    int limit_count;                /* 0: the rungs' speed is compared with nothing */
    const char *unit, *share;       /* the heads of two columns: "GFLOP/s", "% of peak" */
    double work;                    /* of one call: 1e9 operations for GFLOP/s, and so on */
    void (*spoil)(const void *job); /* overwrites the result, so that missing parts are seen */
    worst (*check)(const void *job);
} ladder;

/* Checks each rung, then measures all of them in turns on this thread, and prints a table. Returns
 * 0, or 1 after a line on stderr that names the rung that is wrong. */
int climb(const ladder *l, const void *job);

/* Compares got (R,C) with wanted (R,C). The element x of row r may be off by
 * absolute[r] + relative |x|, where absolute may be NULL, which is 0. */
worst compare(const float *got, const double *wanted, int64_t R, int64_t C, const double *absolute,
              double relative);

/* A number that SHAPE gives: its letter, what it is a multiple of, and its range. */
typedef struct size {
    const char *letter;
    int64_t multiple, least, most;
} size;

/* Climbs at the shape in argv, which has `sizes` numbers, or if there is none, at each of `count`
 * shapes. Returns main's status: 0, 1 where a climb failed, 2 after a line about a bad number. */
int at_each_shape(int argc, char **argv, const size *list, int sizes, const int64_t *shapes,
                  int count, int (*climb_at)(const int64_t *shape));

/* Returns n bytes, or ends the program with a line if there is no memory for them. */
void *room_for(int64_t bytes);

/* Returns the next random number of a sequence, 0 <= u < 1. */
double next_random(uint64_t *state);
/* Fills x (n) with random numbers from low to high. */
void fill(float *x, int64_t n, double low, double high, uint64_t *state);

#endif
