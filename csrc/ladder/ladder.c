/* ladder.c: measures each step from the textbook's three loops to the library's matrix product.
 *
 *   make ladder                          three shapes; about twenty seconds
 *   make ladder SHAPE="M N K"            another shape
 *   make ladder ISA=avx2                 an instruction set other than the best of this CPU
 *
 * The rungs are in rungs.inl. Before a rung is timed, its result must equal the result of the first
 * rung to the bit. That is possible because the matrices hold small whole numbers, for which every
 * sum is exact in any order. All are compared with fma_chain (machine.inl), which multiplies and
 * adds without loading anything.
 *
 * The Makefile defines ISA_avx512, ISA_avx2 or neither, and links matmul.c, few_rows.c and
 * runtime.c. When the program ends with status 3, because this CPU or the compiler's target lacks
 * the set, the Makefile tries the next one. csrc/README.md explains the rungs with measured
 * figures.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* An isa_*.c sets the vector width and the tile, and compiles the rungs instead of the library. */
#define ISA_LOOPS "ladder/rungs.inl"
#if defined(__x86_64__) && defined(ISA_avx512)
#define CPU_HAS_IT                                                                    \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&       \
     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
#include "isa_avx512.c"
#elif defined(__x86_64__) && defined(ISA_avx2)
#define CPU_HAS_IT (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#include "isa_avx2.c"
#else
#if defined(ISA_avx512) || defined(ISA_avx2)
#define CPU_HAS_IT 0
#else
#define CPU_HAS_IT 1
#endif
#if defined(__aarch64__)
#include "isa_neon.c"
#else
#include "isa_baseline.c"
#endif
#endif

/* The table that matmul.c reads, with the entries that a matrix product needs. */
static const isa ISA_TABLE = {
    .name = ISA_NAME,
    .tile_rows = MR,
    .tile_columns = NR,
    .gemm_block = gemm_block,
    .gemm_across = gemm_across,
    .across = ACROSS,
    .multiply_chain = {.run = fma_chain, .width = CHAINS * VW},
    .read_span = read_span,
};
const isa *isa_in_use = &ISA_TABLE;

typedef void product(float *, const float *, const float *, int64_t, int64_t, int64_t);
static const struct {
    const char *name;
    product *run;
} rungs[] = {
    {"three loops", three_loops},
    {"inner loops swapped", loops_swapped},
    {"sums in registers", sums_in_registers},
    {"the full tile", tiles},
    {"strip by strip", strip_by_strip},
    {"strips packed", packed_strips},
    {"the library", library},
};
#define RUNGS ((int)(sizeof rungs / sizeof *rungs))

/* --------------------------------------------------------------------------------- measuring -- */

#define ROUNDS 5           /* each measures every rung once; odd, for the median */
#define LEAST_SECONDS 0.01 /* a measurement repeats a short rung for this long */
#define CHAIN 100000       /* rounds of fma_chain */
#define LARGEST 64         /* elements are whole numbers from -64 to 64 */
#define LONGEST_K 4096     /* keeps |sums| at most 2^24: exact in a float, in any order */
_Static_assert(LARGEST * LARGEST * LONGEST_K <= 1 << 24, "every sum is exact");

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
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

/* Returns the seconds of one call of rung r, or for r = RUNGS of a chain of multiply-adds. */
static double measure(int r, float *c, const float *a, const float *b, int64_t M, int64_t N,
                      int64_t K) {
    int calls = 0;
    double start = seconds(), taken;
    do {
        if (r < RUNGS) {
            rungs[r].run(c, a, b, M, N, K);
            calls++;
        } else { /* the result is used, so that the compiler cannot drop the computation */
            calls += isa_in_use->multiply_chain.run(CHAIN) >= 0.0f;
        }
        taken = seconds() - start;
    } while (taken < LEAST_SECONDS);
    return taken / calls;
}

/* Whether c equals `expected`; if not, prints where it differs. */
static int agrees(int r, const float *c, const float *expected, int64_t M, int64_t N) {
    for (int64_t i = 0; i < M * N; i++)
        if (!(c[i] == expected[i])) {
            fprintf(stderr, "ladder: rung %d (%s) is wrong at row %" PRId64 ", column %" PRId64
                    ": %g instead of %g\n", r + 1, rungs[r].name, i / N, i % N, c[i], expected[i]);
            return 0;
        }
    return 1;
}

static void fill(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)(rand() % (2 * LARGEST + 1) - LARGEST);
}

/* Checks, measures and prints every rung at one shape. Returns 0, or 1 after a line on stderr. */
static int climb(int64_t M, int64_t N, int64_t K) {
    float *a = pygpt_alloc(M * K * 4), *b = pygpt_alloc(K * N * 4);
    float *c = pygpt_alloc(M * N * 4), *expected = pygpt_alloc(M * N * 4);
    double taken[RUNGS + 1][ROUNDS];
    int failed = !a || !b || !c || !expected;
    if (failed) fprintf(stderr, "ladder: not enough memory\n");
    if (!failed) {
        fill(a, M * K);
        fill(b, K * N);
        three_loops(expected, a, b, M, N, K);
    }
    for (int r = 1; r < RUNGS && !failed; r++) {
        memset(c, 0xff, (size_t)(M * N * 4)); /* NaN: an element that is left out is wrong too */
        rungs[r].run(c, a, b, M, N, K);
        failed = !agrees(r, c, expected, M, N);
    }
    if (!failed) {
        for (int round = 0; round < ROUNDS; round++)
            for (int r = 0; r <= RUNGS; r++) taken[r][round] = measure(r, c, a, b, M, N, K);
        const double peak = 2e-9 * CHAIN * CHAINS * VW / median(taken[RUNGS]);
        printf("\n%-34s GFLOP/s  %% of peak\n", "rung");
        for (int r = 0; r < RUNGS; r++) {
            double rate = 2e-9 * (double)M * (double)N * (double)K / median(taken[r]);
            printf("%d  %-30s %8.1f %10.1f\n", r + 1, rungs[r].name, rate, 100 * rate / peak);
        }
        printf("   %-30s %8.1f\n", "peak: multiply-adds alone", peak);
    }
    pygpt_free(a), pygpt_free(b), pygpt_free(c), pygpt_free(expected);
    return failed;
}

/* In the first shape, all operands fit in L2; in the second, B does not; in the third, B's rows are
 * too far apart for even a strip to fit. */
static const int64_t shapes[][3] = {{192, 192, 192}, {768, 768, 768}, {384, 1536, 1536}};

int main(int argc, char **argv) {
    const int given = argc == 4, count = given ? 1 : (int)(sizeof shapes / sizeof *shapes);
    if (!CPU_HAS_IT) return 3;
    printf("%s, tile %d x %d, %s, one thread\n", ISA_NAME, MR, NR, pygpt_compiler());
    for (int s = 0; s < count; s++) {
        int64_t size[3];
        for (int i = 0; i < 3; i++) size[i] = given ? atoll(argv[1 + i]) : shapes[s][i];
        const int64_t M = size[0], N = size[1], K = size[2];
        if ((argc != 1 && !given) || M < 1 || M > 1 << 20 || M % MR || N < 1 || N > 1 << 20 ||
            N % NR || K < 1 || K > LONGEST_K) {
            fprintf(stderr, "usage: ladder [M N K], M a multiple of %d, N of %d, K at most %d\n",
                    MR, NR, LONGEST_K);
            return 2;
        }
        printf("\nA (%" PRId64 ", %" PRId64 ") B (%" PRId64 ", %" PRId64 ")", M, K, K, N);
        if (climb(M, N, K)) return 1;
        fflush(stdout);
    }
    return 0;
}
