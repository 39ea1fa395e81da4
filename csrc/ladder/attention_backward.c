/* attention_backward.c: measures each step from the formulas of attention's backward pass to the
 * library's kernel.
 *
 *   make ladder KERNEL=attention_backward                     two shapes
 *   make ladder KERNEL=attention_backward SHAPE="T NH HS"     positions, heads, channels of a head
 *
 * The rungs are in attention_backward_rungs.inl. q, k, v and dout are random from -1 to 1. The rate
 * counts the multiply-adds of five products over the keys that are seen, and no exponentials, and
 * is compared with fma_chain (machine.inl).
 */
#include <inttypes.h>
#include <stdio.h>

#include "ladder.h"
#define ISA_LOOPS "ladder/attention_backward_rungs.inl"
#include "this_isa.h"

typedef struct operands {
    float *dqkv, *dout, *qkv, *out, *lse, *scratch;
    double *wanted, *bounds; /* wanted (T,3C), bounds (T) */
    int64_t T, NH, HS;
} operands;

static void each_head(const operands *o, void (*step)(const head *h)) {
    const int64_t C = o->NH * o->HS;
    for (int64_t n = 0; n < o->NH; n++) {
        const int64_t c = n * o->HS;
        const float *q = o->qkv + c;
        float *dq = o->dqkv + c;
        step(&(head){.out = o->out + c, .q = q, .k = q + C, .v = q + 2 * C, .T = o->T,
                     .HS = o->HS, .ld = 3 * C, .ld_out = C, .scale = 1.0f / sqrtf((float)o->HS),
                     .scratch = o->scratch, .dq = dq, .dk = dq + C, .dv = dq + 2 * C,
                     .dout = o->dout + c, .lse = o->lse + n * o->T});
    }
}

#define RUN(step) \
    static void run_##step(const void *job) { each_head(job, step); }
RUN(formulas)
RUN(pair_by_pair)
RUN(five_products)
/* Rung 4: the kernel that the layers call. It has rung 3's products, keeps dK and dV of a head in
 * one piece until they are complete, skips vectors of lanes that see no key of the block on the
 * diagonal, and has dropout, any T and HS, bfloat16 and threads. */
static void run_library(const void *job) {
    const operands *o = job;
    attention_backward(o->dqkv, o->dout, o->qkv, o->out, o->lse, 1, o->T, o->NH * o->HS, o->NH,
                       0.0f, NULL, 0, PYGPT_FLOAT32);
}

static const rung rungs[] = {
    {.name = "the formulas", .run = run_formulas},
    {.name = "pair by pair", .run = run_pair_by_pair},
    {.name = "five products by tiles", .run = run_five_products},
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
    memset(o->dqkv, 0xff, (size_t)(3 * o->T * o->NH * o->HS * 4));
}

static worst check(const void *job) {
    const operands *o = job;
    return compare(o->dqkv, o->wanted, o->T, 3 * o->NH * o->HS, o->bounds, 0.0);
}

/* Computes query i of a head in double precision: out, lse, and its part of dqkv. p and dp hold T
 * numbers; share (T) += p. Returns the largest sum of |terms| of a score and of a dp or D. */
static void reference_query(const operands *o, int64_t n, int64_t i, double *p, double *dp,
                            double *share, double *score, double *slope) {
    const int64_t HS = o->HS, C = o->NH * HS, ld = 3 * C;
    const float *q = o->qkv + i * ld + n * HS, *k = o->qkv + C + n * HS, *v = k + C;
    const float *dO = o->dout + i * C + n * HS;
    const double scale = 1.0 / sqrt((double)HS);
    double sum = 0.0, D = 0.0, *dq = o->wanted + i * ld + n * HS, *dk = o->wanted + C + n * HS;
    for (int64_t j = 0; j <= i; j++) {
        double size = 0.0, size_dp = 0.0;
        p[j] = dp[j] = 0.0;
        for (int64_t c = 0; c < HS; c++) {
            const double qk = (double)q[c] * k[j * ld + c] * scale;
            p[j] += qk, size += fabs(qk);
            dp[j] += (double)dO[c] * v[j * ld + c], size_dp += fabs((double)dO[c]);
        }
        *score = fmax(*score, size), *slope = fmax(*slope, size_dp); /* |v| and |out| are <= 1 */
        sum += p[j] = exp(p[j]);
    }
    o->lse[n * o->T + i] = (float)log(sum);
    for (int64_t j = 0; j <= i; j++) p[j] /= sum, D += p[j] * dp[j], share[j] += p[j];
    for (int64_t c = 0; c < HS; c++) {
        double out = 0.0;
        for (int64_t j = 0; j <= i; j++) {
            const double ds = p[j] * (dp[j] - D) * scale;
            out += p[j] * v[j * ld + c];
            dq[c] += ds * k[j * ld + c];
            dk[j * ld + c] += ds * q[c];
            dk[C + j * ld + c] += p[j] * dO[c]; /* dv */
        }
        o->out[i * C + n * HS + c] = (float)out;
    }
}

/* Computes the gradients in double precision, and how far a row of them may be off.
 *
 * S is the largest sum of |terms| of a score, G that of a dp or of D, so |dp - D| <= 2 G. A score
 * is off by (HS + 2) S EPS, and lse by its own rounding, (S + log T) EPS; s - lse is rounded, by
 * at most (2 S + log T) EPS, and exp is within 4 EPS; the softmax of rung 1 adds up T terms. So a
 * weight is within the part  e = ((HS + 5) S + 2 log T + 4 + T) EPS  of itself. dp and D are off by
 * at most (HS + 2) G EPS each, D in rung 1 by e + T EPS of it. So ds / (p scale) is off by at most
 * g = 2 G e + (2 (HS + 2) + 6) G EPS + (e + T EPS) G, and dV's weight by e. A sum over T queries or
 * keys adds T EPS of the sum of sizes. With w the sum of p over a row for dQ, which is 1, or a
 * column for dK and dV, and operands of size at most 1, the bounds are
 *   w scale (g + 2 (T + 3) G EPS)  and, for dV,  w (e + (T + 1) EPS). */
static void reference(const operands *o) {
    const double T = (double)o->T, HS = (double)o->HS;
    double *p = room_for(o->T * 8), *dp = room_for(o->T * 8), *share = room_for(o->T * 8);
    double S = 0.0, G = 0.0;
    for (int64_t i = 0; i < o->T; i++) o->bounds[i] = 1.0;
    for (int64_t n = 0; n < o->NH; n++) {
        memset(share, 0, (size_t)o->T * 8);
        for (int64_t i = 0; i < o->T; i++) reference_query(o, n, i, p, dp, share, &S, &G);
        for (int64_t j = 0; j < o->T; j++) o->bounds[j] = fmax(o->bounds[j], share[j]);
    }
    const double e = ((HS + 5) * S + 2 * log(T) + 4 + T) * EPS;
    const double g = 2 * G * e + (2 * (HS + 2) + 6) * G * EPS + (e + T * EPS) * G;
    const double one = fmax((g + 2 * (T + 3) * G * EPS) / sqrt(HS), e + (T + 1) * EPS);
    for (int64_t i = 0; i < o->T; i++) o->bounds[i] *= one; /* by w, which stood there so far */
    pygpt_free(p), pygpt_free(dp), pygpt_free(share);
}

static int climb_at(const int64_t *shape) {
    const int64_t T = shape[0], NH = shape[1], HS = shape[2], C = NH * HS;
    uint64_t state = 1;
    operands o = {room_for(3 * T * C * 4), room_for(T * C * 4), room_for(3 * T * C * 4),
                  room_for(T * C * 4), room_for(T * NH * 4), room_for(SCRATCH(T, HS) * 4),
                  room_for(3 * T * C * 8), room_for(T * 8), T, NH, HS};
    fill(o.qkv, 3 * T * C, -1.0, 1.0, &state);
    fill(o.dout, T * C, -1.0, 1.0, &state);
    reference(&o);
    const limit chain = {"peak: multiply-adds alone", run_chain, 2e-9 * CHAIN * CHAINS * VW};
    const ladder l = {
        .rungs = rungs, .count = sizeof rungs / sizeof *rungs,
        .limits = &chain, .limit_count = 1,
        .unit = "GFLOP/s", .share = "% of peak",
        .work = 5e-9 * (double)NH * (double)HS * (double)T * (double)(T + 1),
        .spoil = spoil, .check = check,
    };
    printf("\nT = %" PRId64 ", %" PRId64 " heads of %" PRId64 " channels", T, NH, HS);
    const int failed = climb(&l, &o);
    pygpt_free(o.dqkv), pygpt_free(o.dout), pygpt_free(o.qkv), pygpt_free(o.out);
    pygpt_free(o.lse), pygpt_free(o.scratch), pygpt_free(o.wanted), pygpt_free(o.bounds);
    return failed;
}

/* In the first shape, the matrices p and ds of a head fit in L2; in the second, each takes 4 MB. */
static const int64_t shapes[][3] = {{256, 6, 64}, {1024, 1, 64}};
static const size sizes[] = {{"T", NR, NR, 1 << 13}, {"NH", 1, 1, 256}, {"HS", VW, VW, 256}};

int main(int argc, char **argv) {
    printf("%s, %d queries in a block, %s, one thread\n", ISA_NAME, QB, pygpt_compiler());
    return at_each_shape(argc, argv, sizes, 3, &shapes[0][0], 2, climb_at);
}
