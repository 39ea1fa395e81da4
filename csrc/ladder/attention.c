/* attention.c: measures each step from attention's formula to the library's kernel, forward.
 *
 *   make ladder KERNEL=attention                     two shapes
 *   make ladder KERNEL=attention SHAPE="T NH HS"     positions, heads, channels of a head
 *
 * The rungs are in attention_rungs.inl. q, k and v are random from -1 to 1. The rate counts the
 * multiply-adds of the keys that are seen, and no exponentials, and is compared with fma_chain
 * (machine.inl).
 */
#include <inttypes.h>
#include <stdio.h>

#include "ladder.h"
#define ISA_LOOPS "ladder/attention_rungs.inl"
#include "this_isa.h"

typedef struct operands {
    float *out, *lse, *qkv, *scratch;
    double *wanted;
    int64_t T, NH, HS;
} operands;

static void each_head(const operands *o, void (*step)(const head *h)) {
    const int64_t C = o->NH * o->HS;
    for (int64_t n = 0; n < o->NH; n++) {
        const float *q = o->qkv + n * o->HS;
        step(&(head){.out = o->out + n * o->HS, .q = q, .k = q + C, .v = q + 2 * C, .T = o->T,
                     .HS = o->HS, .ld = 3 * C, .ld_out = C, .scale = 1.0f / sqrtf((float)o->HS),
                     .scratch = o->scratch});
    }
}

#define RUN(step) \
    static void run_##step(const void *job) { each_head(job, step); }
RUN(formula)
RUN(seen_keys)
RUN(row_by_row)
RUN(values_by_rows)
RUN(queries_together)
RUN(by_tiles)
RUN(exp_of_lanes)
RUN(block_by_block)
/* Rung 9: the kernel that the layers call. It has rung 8's blocks, transposes queries and outputs
 * in registers, skips vectors of lanes that see no key of the block on the diagonal, keeps
 * m + log l for the backward pass, and has dropout, any T, bfloat16 and threads. */
static void run_library(const void *job) {
    const operands *o = job;
    attention_forward(o->out, o->lse, o->qkv, 1, o->T, o->NH * o->HS, o->NH, 0.0f, NULL, 0,
                      PYGPT_FLOAT32);
}

static const rung rungs[] = {
    {.name = "the formula", .run = run_formula},
    {.name = "only keys that are seen", .run = run_seen_keys},
    {.name = "row by row", .run = run_row_by_row},
    {.name = "values along their rows", .run = run_values_by_rows},
    {.name = "queries in lanes", .run = run_queries_together},
    {.name = "the product's tile", .run = run_by_tiles},
    {.name = "exp of all lanes at once", .run = run_exp_of_lanes},
    {.name = "blocks of keys", .run = run_block_by_block},
    {.name = "the library", .run = run_library},
};

#define CHAIN 100000 /* rounds of fma_chain */
static volatile float sink; /* takes results, so that the compiler cannot drop the computation */
static void run_chain(const void *job) {
    (void)job;
    sink = fma_chain(CHAIN);
}

static void spoil(const void *job) { /* with NaN */
    const operands *o = job;
    memset(o->out, 0xff, (size_t)(o->T * o->NH * o->HS * 4));
}

/* Outputs are averages of values of size at most 1. A score is the sum of HS products, in all at
 * most HS scale = sqrt(HS) =: S, so it is off by at most (HS + 2) S EPS. s - m is rounded, by at
 * most 2 S EPS, and where the maximum grew on the way, so are the differences between the maxima,
 * which add up to at most 2 S EPS more. exp is within 4 EPS. Each of the T / QB blocks may rescale
 * with another exp and two roundings, 6 EPS. So all weights before the division are within the part
 *   e = ((HS + 6) S + 4 + 6 T / QB) EPS
 * and so are their sum and the sum of values times weights, which add up T terms: T EPS more each,
 * and a rounding for the product, one for the quotient. */
static worst check(const void *job) {
    const operands *o = job;
    const double S = sqrt((double)o->HS), T = (double)o->T;
    const double e = ((double)o->HS + 6) * S + 4 + 6 * T / QB;
    double bounds[1] = {(2 * e + 2 * T + 2) * EPS};
    return compare(o->out, o->wanted, 1, o->T * o->NH * o->HS, bounds, 0.0);
}

/* Computes the outputs in double precision; p holds T numbers. */
static void reference(const operands *o, double *p) {
    const int64_t C = o->NH * o->HS, HS = o->HS;
    for (int64_t n = 0; n < o->NH * o->T; n++) {
        const int64_t i = n / o->NH, c0 = n % o->NH * HS;
        const float *q = o->qkv + i * 3 * C + c0, *k = o->qkv + C + c0, *v = k + C;
        double *out = o->wanted + i * C + c0, sum = 0.0;
        for (int64_t j = 0; j <= i; j++) {
            p[j] = 0.0;
            for (int64_t c = 0; c < HS; c++) p[j] += (double)q[c] * k[j * 3 * C + c];
            sum += p[j] = exp(p[j] / sqrt((double)HS)); /* |s| <= sqrt(HS), no maximum needed */
        }
        for (int64_t j = 0; j <= i; j++)
            for (int64_t c = 0; c < HS; c++) out[c] += p[j] / sum * v[j * 3 * C + c];
    }
}

static int climb_at(const int64_t *shape) {
    const int64_t T = shape[0], NH = shape[1], HS = shape[2], C = NH * HS;
    uint64_t state = 1;
    operands o = {room_for(T * C * 4), room_for(T * NH * 4), room_for(3 * T * C * 4),
                  room_for(SCRATCH(T, HS) * 4), room_for(T * C * 8), T, NH, HS};
    double *p = room_for(T * 8);
    fill(o.qkv, 3 * T * C, -1.0, 1.0, &state);
    reference(&o, p);
    const limit chain = {"peak: multiply-adds alone", run_chain, 2e-9 * CHAIN * CHAINS * VW};
    const ladder l = {
        .rungs = rungs, .count = sizeof rungs / sizeof *rungs,
        .limits = &chain, .limit_count = 1,
        .unit = "GFLOP/s", .share = "% of peak",
        .work = 2e-9 * (double)NH * (double)HS * (double)T * (double)(T + 1),
        .spoil = spoil, .check = check,
    };
    printf("\nT = %" PRId64 ", %" PRId64 " heads of %" PRId64 " channels", T, NH, HS);
    const int failed = climb(&l, &o);
    pygpt_free(o.out), pygpt_free(o.lse), pygpt_free(o.qkv), pygpt_free(o.scratch);
    pygpt_free(o.wanted), pygpt_free(p);
    return failed;
}

/* In the first shape, a matrix p fits in L2; in the second, it takes 16 MB. */
static const int64_t shapes[][3] = {{256, 6, 64}, {2048, 1, 64}};
static const size sizes[] = {{"T", NR, NR, 1 << 14}, {"NH", 1, 1, 256}, {"HS", 1, 1, 256}};

int main(int argc, char **argv) {
    printf("%s, %d queries in a block, %s, one thread\n", ISA_NAME, QB, pygpt_compiler());
    return at_each_shape(argc, argv, sizes, 3, &shapes[0][0], 2, climb_at);
}
