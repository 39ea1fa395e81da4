/* softmax.c: measures each step from the softmax's definition to the library's.
 *
 *   make ladder KERNEL=softmax                  two shapes
 *   make ladder KERNEL=softmax SHAPE="R C"      rows and columns
 *
 * The rungs are in softmax_rungs.inl. Numbers are random from -10 to 10; in every fourth row, 100
 * is added to all of them, which changes no result. All rungs are compared with copying inp to out:
 * each number is read and written once.
 */
#include <inttypes.h>
#include <stdio.h>

#include "ladder.h"
#define ISA_LOOPS "ladder/softmax_rungs.inl"
#include "this_isa.h"

/* The table that softmax.c of the library reads. */
static const isa ISA_TABLE = {
    .name = ISA_NAME,
    .softmax_forward = softmax_forward_rows,
    .softmax_backward = softmax_backward_rows,
    .multiply_chain = {.run = fma_chain, .width = CHAINS * VW},
    .read_span = read_span,
};
const isa *isa_in_use = &ISA_TABLE;

typedef struct operands {
    float *out, *inp;
    double *wanted;
    int64_t R, C;
} operands;

#define RUN(step)                                       \
    static void run_##step(const void *job) {           \
        const operands *o = job;                        \
        step(o->out, o->inp, o->R, o->C);               \
    }
RUN(formula)
RUN(less_the_maximum)
RUN(polynomial)
RUN(maximum_in_lanes)
RUN(two_passes)
RUN(library)

static const rung rungs[] = {
    {.name = "the formula", .run = run_formula,
     .fault = "exp of a number above 88.7 is no float"},
    {.name = "less the maximum", .run = run_less_the_maximum},
    {.name = "exp as a polynomial", .run = run_polynomial},
    {.name = "the maximum in lanes", .run = run_maximum_in_lanes},
    {.name = "two passes", .run = run_two_passes},
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

#define RANGE 20.0   /* between the least and the largest number of a row */
#define SHIFTED 100.0

/* A result is a quotient, so bounds are relative. Subtracting the maximum rounds x - max, by at
 * most RANGE EPS, which changes an exponential by as much; two_passes subtracts twice, first from
 * the maximum so far. exp itself is within 2 units of the last place, 4 EPS. So an exponential is
 * within e = (2 RANGE + 8 + 2) EPS, and where lanes were corrected, 2 more roundings for each
 * element. The sum of C such numbers, all positive, is within e + 3 C EPS. The division, or the
 * multiplication with 1 / sum, adds 2 EPS, and last, second order terms are within the 2 left. */
static worst check(const void *job) {
    const operands *o = job;
    const double e = (2 * RANGE + 10) * EPS;
    return compare(o->out, o->wanted, o->R, o->C, NULL,
                   2 * e + (3 * (double)o->C + 4) * EPS);
}

/* Computes the softmax in double precision. */
static void reference(double *out, const float *inp, int64_t R, int64_t C) {
    for (int64_t r = 0; r < R; r++) {
        const float *x = inp + r * C;
        double top = x[0], sum = 0.0;
        for (int64_t i = 0; i < C; i++) top = x[i] > top ? x[i] : top;
        for (int64_t i = 0; i < C; i++) sum += out[r * C + i] = exp(x[i] - top);
        for (int64_t i = 0; i < C; i++) out[r * C + i] /= sum;
    }
}

static int climb_at(const int64_t *shape) {
    const int64_t R = shape[0], C = shape[1], n = R * C;
    uint64_t state = 1;
    operands o = {room_for(n * 4), room_for(n * 4), room_for(n * 8), R, C};
    for (int64_t r = 0; r < R; r++) {
        const double shift = r % 4 == 3 ? SHIFTED : 0.0;
        fill(o.inp + r * C, C, shift - RANGE / 2, shift + RANGE / 2, &state);
    }
    reference(o.wanted, o.inp, R, C);
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
    pygpt_free(o.inp), pygpt_free(o.out), pygpt_free(o.wanted);
    return failed;
}

/* The scores of attention, which stay in L2; the logits of GPT-2's vocabulary, which do not. */
static const int64_t shapes[][2] = {{64, 1024}, {64, 50257}};
static const size sizes[] = {{"R", 4, 4, 1 << 20}, {"C", 1, 1, 1 << 20}};

int main(int argc, char **argv) {
    printf("%s, vectors of %d, %s, one thread\n", ISA_NAME, VW, pygpt_compiler());
    return at_each_shape(argc, argv, sizes, 2, &shapes[0][0], 2, climb_at);
}
