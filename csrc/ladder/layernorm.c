/* layernorm.c: measures each step from the layer norm's definition to the library's.
 *
 *   make ladder KERNEL=layernorm                  two shapes
 *   make ladder KERNEL=layernorm SHAPE="R C"      rows and columns
 *
 * The rungs are in layernorm_rungs.inl. Numbers are random from -1 to 1; in every fourth row, 1000
 * is added to all of them, which should change neither the variance nor the result. All rungs are
 * compared with copying inp to out: each number is read and written once.
 */
#include <inttypes.h>
#include <stdio.h>

#include "ladder.h"
#define ISA_LOOPS "ladder/layernorm_rungs.inl"
#include "this_isa.h"

/* The table that layernorm.c of the library reads, and what else its files define. */
static const isa ISA_TABLE = {
    .name = ISA_NAME,
    .layernorm_forward = layernorm_forward_rows,
    .layernorm_backward = layernorm_backward_rows,
    .add = add_span,
    .mul = mul_span,
    .scale = scale_span,
    .multiply_chain = {.run = fma_chain, .width = CHAINS * VW},
    .read_span = read_span,
};
const isa *isa_in_use = &ISA_TABLE;

typedef struct operands {
    float *out, *mean, *rstd, *inp, *weight, *bias;
    double *wanted, *bounds; /* bounds (R): how far the outputs of a row may be off */
    int64_t R, C;
} operands;

#define RUN(step)                                                                        \
    static void run_##step(const void *job) {                                            \
        const operands *o = job;                                                         \
        step(o->out, o->mean, o->rstd, o->inp, o->weight, o->bias, o->R, o->C);          \
    }
RUN(definition)
RUN(sum_of_squares)
RUN(shifted_sums)
RUN(sums_in_lanes)
RUN(rows_together)
RUN(library)

static const rung rungs[] = {
    {.name = "the definition", .run = run_definition},
    {.name = "sum and sum of squares", .run = run_sum_of_squares,
     .fault = "mean(x^2) - mean^2 loses all digits where the mean is large"},
    {.name = "sums of shifted numbers", .run = run_shifted_sums},
    {.name = "sums in lanes, two passes", .run = run_sums_in_lanes},
    {.name = "four rows together", .run = run_rows_together},
    {.name = "the library", .run = run_library},
};

static void run_copy(const void *job) {
    const operands *o = job;
    memcpy(o->out, o->inp, (size_t)(o->R * o->C * 4));
}

static void spoil(const void *job) { /* with NaN */
    const operands *o = job;
    memset(o->out, 0xff, (size_t)(o->R * o->C * 4));
}

static worst check(const void *job) {
    const operands *o = job;
    return compare(o->out, o->wanted, o->R, o->C, o->bounds, 0.0);
}

/* Computes the layer norm in double precision, and how far a sum in float32 may put a row off.
 *
 * A is the largest |x| of the row, D the largest |x - mean|, s = rstd. A sum of C numbers is off by
 * at most C EPS times the sum of their sizes. So
 *   - the mean is within dm = C A EPS, and x - mean is off by dm + D EPS;
 *   - the variance, over m, is off by dm^2, because the mean of x - mean is 0, and by the rounding
 *     of a sum of squares. Of shifted numbers d = x - x_0, |d| <= 2 D, mean(d^2) is off by at most
 *     (C + 3) 4 D^2 EPS and mean(d)^2 by (C + 1) 8 D^2 EPS, together by less than
 *     (12 C + 30) D^2 EPS, and that is more than where the mean is subtracted;
 *   - s is off by half as large a part of itself, ds = dm^2 s^2 / 2 + (6 C + 15) (D s)^2 EPS;
 *   - an output is xhat w + b with |xhat| <= D s and |w|, |b| <= 1, so it is off by s (dm + D EPS),
 *     by D s ds, and by three roundings. */
static void reference(const operands *o) {
    for (int64_t r = 0; r < o->R; r++) {
        const float *x = o->inp + r * o->C;
        const double C = (double)o->C;
        double sum = 0.0, squares = 0.0, A = 0.0, D = 0.0;
        for (int64_t i = 0; i < o->C; i++) sum += x[i];
        const double m = sum / C;
        for (int64_t i = 0; i < o->C; i++) {
            squares += (x[i] - m) * (x[i] - m);
            A = fmax(A, fabs(x[i]));
            D = fmax(D, fabs(x[i] - m));
        }
        const double s = 1.0 / sqrt(squares / C + STABLE), top = D * s;
        for (int64_t i = 0; i < o->C; i++)
            o->wanted[r * o->C + i] = (x[i] - m) * s * o->weight[i] + o->bias[i];
        const double dm = C * A * EPS;
        const double ds = dm * dm * s * s / 2 + (6 * C + 15) * top * top * EPS;
        o->bounds[r] = s * (dm + D * EPS) + top * ds + 3 * (top + 1) * EPS;
    }
}

static int climb_at(const int64_t *shape) {
    const int64_t R = shape[0], C = shape[1], n = R * C;
    uint64_t state = 1;
    operands o = {room_for(n * 4), room_for(R * 4), room_for(R * 4), room_for(n * 4),
                  room_for(C * 4), room_for(C * 4), room_for(n * 8), room_for(R * 8), R, C};
    for (int64_t r = 0; r < R; r++) {
        const double shift = r % 4 == 3 ? 1000.0 : 0.0;
        fill(o.inp + r * C, C, shift - 1.0, shift + 1.0, &state);
    }
    fill(o.weight, C, -1.0, 1.0, &state);
    fill(o.bias, C, -1.0, 1.0, &state);
    reference(&o);
    const double gigabytes = 8e-9 * (double)n;
    const limit copy = {"copying", run_copy, gigabytes};
    const ladder l = {
        .rungs = rungs, .count = sizeof rungs / sizeof *rungs,
        .limits = &copy, .limit_count = 1,
        .unit = "GB/s", .share = "% of copy", .work = gigabytes,
        .spoil = spoil, .check = check,
    };
    printf("\ninp (%" PRId64 ", %" PRId64 "), %.1f MB", R, C, 4e-6 * (double)n);
    const int failed = climb(&l, &o);
    pygpt_free(o.out), pygpt_free(o.mean), pygpt_free(o.rstd), pygpt_free(o.inp);
    pygpt_free(o.weight), pygpt_free(o.bias), pygpt_free(o.wanted), pygpt_free(o.bounds);
    return failed;
}

/* In the first shape, inp and out fit in L2; the second is as large as the activations of a step of
 * GPT-2, and lies in memory. */
static const int64_t shapes[][2] = {{64, 384}, {8192, 768}};
static const size sizes[] = {{"R", TOGETHER, TOGETHER, 1 << 20}, {"C", VW, VW, 4096}};

int main(int argc, char **argv) {
    printf("%s, vectors of %d, %s, one thread\n", ISA_NAME, VW, pygpt_compiler());
    return at_each_shape(argc, argv, sizes, 2, &shapes[0][0], 2, climb_at);
}
