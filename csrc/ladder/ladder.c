/* ladder.c: from the textbook's three loops to the library's matrix product, a rung at a time.
 *
 *   make ladder                          three shapes; about twenty seconds
 *   make ladder SHAPE="M N K"            one of your own
 *   make ladder ISA=avx2                 another instruction set than the best one here
 *
 * Every rung is the same product, C (M,N) = A (M,K) B (K,N), all row-major, on one thread; c is
 * overwritten, and M and N are multiples of the tile, so that no edges hide the loops. Before it
 * is timed a rung must give what the first one gives, to the bit: the matrices hold whole numbers
 * so small that every sum is exact, whatever its order. The yardstick is fma_chain (machine.inl):
 * multiply-adds with nothing to fetch.
 *
 * Like an isa_*.c, this file sets the width and the tile and includes the library's inner loops;
 * matmul.c and runtime.c are linked to it. ISA_avx512, ISA_avx2 or neither says which set it is
 * compiled for; it ends with status 3 where the CPU, or the compiler's target, is another. What the
 * rungs show, with figures: csrc/README.md.
 */
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

/* Headers come first: what they define inline must not get the target below. */
#define MR 6
#if defined(__x86_64__) && defined(ISA_avx512)
#define CPU_HAS_IT                                                                    \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&       \
     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define SIMD_AVX512
#define ISA_NAME "avx512"
#define VW 16
#define NV 4
#define REGISTERS 32
#elif defined(__x86_64__) && defined(ISA_avx2)
#define CPU_HAS_IT (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SIMD_AVX2
#define ISA_NAME "avx2"
#define VW 8
#define NV 2
#define REGISTERS 16
#elif defined(__aarch64__)
#define ISA_NAME "neon"
#define VW 4
#define NV 4
#define REGISTERS 32
#else
#define ISA_NAME "baseline"
#define VW 4
#define NV 2
#define REGISTERS 16
#endif
#ifndef CPU_HAS_IT
#if defined(ISA_avx512) || defined(ISA_avx2)
#define CPU_HAS_IT 0
#else
#define CPU_HAS_IT 1
#endif
#endif
#include "simd.h"

#include "machine.inl"
#include "matmul.inl"

/* The library's table, with only what a matrix product asks of it. */
static const isa this_isa = {
    .name = ISA_NAME,
    .tile_rows = MR,
    .tile_columns = NR,
    .gemm_block = gemm_block,
    .gemm_dots = gemm_dots,
    .fma_chain = fma_chain,
    .fma_chain_width = CHAINS * VW,
    .read_span = read_span,
};
const isa *isa_in_use = &this_isa;

/* ---------------------------------------------------------------------------------- the rungs - */

/* Rung 1: the definition. Each step down a column of B is in another row, and of the cache line it
 * fetches, 64 bytes, it uses 4. And a sum is one chain: each addition waits for the one before. */
static void three_loops(float *c, const float *a, const float *b, int64_t M, int64_t N,
                        int64_t K) {
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            float sum = 0.0f;
            for (int64_t k = 0; k < K; k++) sum += a[i * K + k] * b[k * N + j];
            c[i * N + j] = sum;
        }
}

/* Rung 2: the two inner loops change places. B and C are now read along their rows, whole cache
 * lines, and neighbours in a row are independent sums: the compiler takes a vector of them at a
 * time. But C goes through memory: each multiply-add loads B, loads C and stores C. */
static void loops_swapped(float *c, const float *a, const float *b, int64_t M, int64_t N,
                          int64_t K) {
    for (int64_t i = 0; i < M; i++) {
        for (int64_t j = 0; j < N; j++) c[i * N + j] = 0.0f;
        for (int64_t k = 0; k < K; k++)
            for (int64_t j = 0; j < N; j++) c[i * N + j] += a[i * K + k] * b[k * N + j];
    }
}

/* Rung 3: MR rows of C, one vector wide, stay in registers until all of K is summed up. No stores,
 * and a vector of B serves MR rows; but a step still has MR + 1 loads for MR multiply-adds, MR sums
 * are too few to have one ready in every cycle, and it goes down B with a row between the steps. */
static void sums_in_registers(float *c, const float *a, const float *b, int64_t M, int64_t N,
                              int64_t K) {
    for (int64_t m = 0; m < M; m += MR)
        for (int64_t n = 0; n < N; n += VW) {
            vf sum[MR];
            UNROLL for (int i = 0; i < MR; i++) sum[i] = vzero();
            for (int64_t k = 0; k < K; k++) {
                vf x = vload(b + k * N + n);
                UNROLL for (int i = 0; i < MR; i++) sum[i] += a[(m + i) * K + k] * x;
            }
            UNROLL for (int i = 0; i < MR; i++) vstore(c + (m + i) * N + n, sum[i]);
        }
}

/* Rung 4: NV vectors wide, as many as the registers hold: MR + NV loads for MR * NV multiply-adds,
 * and so many sums that none is waited for. Where A and B lie, and how far apart their rows are, is
 * the caller's choice: every rung from here on stands on this tile. */
NOINLINE void tile(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb,
                   int64_t K) {
    vf sum[MR][NV];
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int j = 0; j < NV; j++) sum[i][j] = vzero();
    for (int64_t k = 0; k < K; k++) {
        vf row[NV];
        UNROLL for (int j = 0; j < NV; j++) row[j] = vload(b + k * ldb + j * VW);
        UNROLL for (int i = 0; i < MR; i++)
            UNROLL for (int j = 0; j < NV; j++) sum[i][j] += a[i * lda + k] * row[j];
    }
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int j = 0; j < NV; j++) vstore(c + i * ldc + j * VW, sum[i][j]);
}

static void tiles(float *c, const float *a, const float *b, int64_t M, int64_t N, int64_t K) {
    for (int64_t m = 0; m < M; m += MR)
        for (int64_t n = 0; n < N; n += NR)
            tile(c + m * N + n, N, a + m * K, K, b + n, N, K);
}

/* Rung 5: the loops over tiles change places. Rung 4 goes through all of B for every MR rows; a B
 * larger than the L2 cache then comes at the pace of what lies beyond. Here the NR columns of B
 * under a tile, a strip, serve all rows of A before the next strip is touched; L2 can keep it. */
static void strip_by_strip(float *c, const float *a, const float *b, int64_t M, int64_t N,
                           int64_t K) {
    for (int64_t n = 0; n < N; n += NR)
        for (int64_t m = 0; m < M; m += MR)
            tile(c + m * N + n, N, a + m * K, K, b + n, N, K);
}

/* Rung 6: the strip is copied together first. In place its pieces are N floats apart, which a cache
 * maps to few of its sets when N is a round number, and each may be on a page of its own. Packed, a
 * strip is K * NR floats in a row: it fits, and what comes next is what was fetched along. */
static void packed_strips(float *c, const float *a, const float *b, int64_t M, int64_t N,
                          int64_t K) {
    float *strip = scratch_take(K * NR);
    if (!strip) return;
    for (int64_t n = 0; n < N; n += NR) {
        for (int64_t k = 0; k < K; k++) memcpy(strip + k * NR, b + k * N + n, NR * sizeof(float));
        for (int64_t m = 0; m < M; m += MR)
            tile(c + m * N + n, N, a + m * K, K, strip, NR, K);
    }
    scratch_give(strip);
}

/* Rung 7: what the layers call. The same tile and the same packing, and what a library cannot do
 * without: edges, transposed operands, a K so long that a strip would outgrow L2, bias and GELU in
 * the store, threads. */
static void library(float *c, const float *a, const float *b, int64_t M, int64_t N, int64_t K) {
    matmul(c, a, b, M, N, K, 0, 0, 0);
}

#if defined(SIMD_AVX512) || defined(SIMD_AVX2)
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

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
#define LEAST_SECONDS 0.01 /* a measurement repeats a short rung for so long */
#define CHAIN 100000       /* rounds of fma_chain */
#define LARGEST 64         /* elements are whole numbers from -64 to 64 */
#define LONGEST_K 4096     /* so that |sums| are at most 2^24: exact in a float, in any order */
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

/* One call's seconds: rung r, or for r = RUNGS a chain of multiply-adds. */
static double measure(int r, float *c, const float *a, const float *b, int64_t M, int64_t N,
                      int64_t K) {
    int calls = 0;
    double start = seconds(), taken;
    do {
        if (r < RUNGS) {
            rungs[r].run(c, a, b, M, N, K);
            calls++;
        } else { /* through the table and with a look at the result, or it need not be computed */
            calls += isa_in_use->fma_chain(CHAIN) >= 0.0f;
        }
        taken = seconds() - start;
    } while (taken < LEAST_SECONDS);
    return taken / calls;
}

/* Whether c is `expected`; if not, says where. */
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

/* Checks, measures and prints every rung at one shape; 0 or, after a line on stderr, 1. */
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
        memset(c, 0xff, (size_t)(M * N * 4)); /* NaN: what a rung leaves out is wrong, too */
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

/* Everything in L2; B beyond L2; and rows so far apart that not even a strip stays there. */
static const int64_t shapes[][3] = {{192, 192, 192}, {768, 768, 768}, {384, 1536, 1536}};

int main(int argc, char **argv) {
    const int own = argc == 4, count = own ? 1 : (int)(sizeof shapes / sizeof *shapes);
    if (!CPU_HAS_IT) return 3;
    printf("%s, tile %d x %d, %s, one thread\n", ISA_NAME, MR, NR, pygpt_compiler());
    for (int s = 0; s < count; s++) {
        int64_t size[3];
        for (int i = 0; i < 3; i++) size[i] = own ? atoll(argv[1 + i]) : shapes[s][i];
        const int64_t M = size[0], N = size[1], K = size[2];
        if ((argc != 1 && !own) || M < 1 || M > 1 << 20 || M % MR || N < 1 || N > 1 << 20 ||
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
