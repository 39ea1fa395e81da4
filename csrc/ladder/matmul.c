/* matmul.c: measures each step from the textbook's three loops to the library's matrix product.
 *
 *   make ladder                          three shapes; about twenty seconds
 *   make ladder SHAPE="M N K"            another shape
 *   make ladder ISA=avx2                 an instruction set other than the best of this CPU
 *
 * The rungs are in matmul_rungs.inl and amx_rung.inl. A rung's result must equal the product to the
 * bit. That is possible because the matrices hold small whole numbers, for which every sum is exact
 * in any order. All are compared with fma_chain (machine.inl), which multiplies and adds without
 * loading anything. csrc/README.md explains the rungs with measured figures.
 */
#include <inttypes.h>
#include <stdio.h>

#include "amx.h"
#include "ladder.h"
#define ISA_LOOPS "ladder/matmul_rungs.inl"
#include "this_isa.h"

/* The table that matmul.c of the library reads, with the entries that a matrix product needs. */
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

typedef struct operands {
    float *c, *a, *b;
    double *wanted;
    int64_t M, N, K;
} operands;

#define RUN(step)                                       \
    static void run_##step(const void *job) {           \
        const operands *o = job;                        \
        step(o->c, o->a, o->b, o->M, o->N, o->K);       \
    }
RUN(three_loops)
RUN(loops_swapped)
RUN(sums_in_registers)
RUN(tiles)
RUN(strip_by_strip)
RUN(packed_strips)
RUN(library)
RUN(amx_in_c_product)

/* The last of these is AMX's, whose speed add_amx adds where the CPU has it. */
static const rung rungs[] = {
    {.name = "three loops", .run = run_three_loops},
    {.name = "inner loops swapped", .run = run_loops_swapped},
    {.name = "sums in registers", .run = run_sums_in_registers},
    {.name = "the full tile", .run = run_tiles},
    {.name = "strip by strip", .run = run_strip_by_strip},
    {.name = "strips packed", .run = run_packed_strips},
    {.name = "the library", .run = run_library},
    {.name = "tiles of bfloat16 (AMX)", .run = run_amx_in_c_product,
     .absent = "not on this CPU: checked by its plain-C twin"},
};
#define RUNGS ((int)(sizeof rungs / sizeof *rungs))

#define CHAIN 100000 /* rounds of fma_chain */
static volatile float sink; /* takes results, so that the compiler cannot drop the computation */
static void run_chain(const void *job) {
    (void)job;
    sink = fma_chain(CHAIN);
}

/* Adds AMX's rung and its own limit to a ladder's, if the compiler, the CPU and the system let us
 * use it. Returns the number of limits. */
#ifdef X86_UNITS
RUN(amx_product)
#define AMX_CHAIN 1000
static void run_amx_chain(const void *job) {
    (void)job;
    sink = unit_amx.chain.run(AMX_CHAIN);
}
static int add_amx(rung *last, limit *its_limit) {
    if (amx_refused()) return 1;
    *last = (rung){.name = last->name, .run = run_amx_product, .limit = 1};
    *its_limit = (limit){"peak: AMX's multiply-adds alone", run_amx_chain,
                         2e-9 * AMX_CHAIN * (double)unit_amx.chain.width};
    return 2;
}
#else
static int add_amx(rung *last, limit *its_limit) {
    (void)last, (void)its_limit;
    return 1;
}
#endif

#define LARGEST 64     /* elements are whole numbers from -64 to 64 */
#define LONGEST_K 4096 /* keeps |sums| at most 2^24: exact in a float, in any order */
_Static_assert(LARGEST * LARGEST * LONGEST_K <= 1 << 24, "every sum is exact");

static void fill_whole(float *x, int64_t n, uint64_t *state) {
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(int)((2 * LARGEST + 1) * next_random(state)) - LARGEST;
}

static void spoil(const void *job) { /* with NaN */
    const operands *o = job;
    memset(o->c, 0xff, (size_t)(o->M * o->N * 4));
}

static worst check(const void *job) {
    const operands *o = job;
    return compare(o->c, o->wanted, o->M, o->N, NULL, 0.0);
}

static int climb_at(const int64_t *shape) {
    const int64_t M = shape[0], N = shape[1], K = shape[2];
    uint64_t state = 1;
    operands o = {room_for(M * N * 4), room_for(M * K * 4), room_for(K * N * 4),
                  room_for(M * N * 8), M, N, K};
    fill_whole(o.a, M * K, &state);
    fill_whole(o.b, K * N, &state);
    for (int64_t i = 0; i < M; i++)
        for (int64_t k = 0; k < K; k++)
            for (int64_t j = 0; j < N; j++)
                o.wanted[i * N + j] += (double)o.a[i * K + k] * o.b[k * N + j];
    rung all[RUNGS];
    limit limits[2] = {{"peak: multiply-adds alone", run_chain, 2e-9 * CHAIN * CHAINS * VW}};
    memcpy(all, rungs, sizeof rungs);
    const int limit_count = add_amx(&all[RUNGS - 1], &limits[1]);
    const ladder l = {
        .rungs = all, .count = RUNGS, .limits = limits, .limit_count = limit_count,
        .unit = "GFLOP/s", .share = "% of peak",
        .work = 2e-9 * (double)M * (double)N * (double)K,
        .spoil = spoil, .check = check,
    };
    printf("\nA (%" PRId64 ", %" PRId64 ") B (%" PRId64 ", %" PRId64 ")", M, K, K, N);
    const int failed = climb(&l, &o);
    pygpt_free(o.a), pygpt_free(o.b), pygpt_free(o.c), pygpt_free(o.wanted);
    return failed;
}

/* In the first shape, all operands fit in L2; in the second, B does not; in the third, B's rows are
 * too far apart for even a strip to fit. */
static const int64_t shapes[][3] = {{192, 192, 192}, {768, 768, 768}, {384, 1536, 1536}};
static const size sizes[] = {{"M", MR, MR, 1 << 20}, {"N", NR, NR, 1 << 20},
                             {"K", 1, 1, LONGEST_K}};

int main(int argc, char **argv) {
    printf("%s, tile %d x %d, %s, one thread\n", ISA_NAME, MR, NR, pygpt_compiler());
    return at_each_shape(argc, argv, sizes, 3, &shapes[0][0], 3, climb_at);
}
