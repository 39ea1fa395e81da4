/* few_rows.c: multiplies a few rows by a weight (OUT,IN), to generate tokens.
 *
 * To generate a token, every weight is read once and multiplied by one row of numbers, or by the
 * few rows of a batch. The time is that of reading the weights, so half the bytes take half the
 * time, as long as widening the numbers again takes less.
 *
 *   float32    as it is: the token embedding as the head's weight
 *   bfloat16   the upper half of a float32. Widening is a shift.
 *   int8       groups of 64 weights along IN: w = q * scale, q in -127..127, scale = max |w| / 127
 *              of the group. A float32 scale for 64 bytes is 1.06 bytes a weight, as in Q8_0 of
 *              llama.cpp, whose groups have 32 weights and a float16 scale.
 *
 * A weight is stored with its outputs as rows, (OUT,IN). A sum then reads consecutive memory, whose
 * next lines the processor fetches by itself; and the token embedding, which is a table and the
 * head's weight, is stored once for both uses. The weight of a layer, (IN,OUT) in a checkpoint, is
 * transposed when it is quantized.
 *
 * With int8, each row of x is rounded too, to 16 bits: x = n * 2^e with whole |n| <= 32767 and one
 * power of two for the row. A group's sum is then one of whole numbers, exact in 32 bits:
 * 64 * 127 * 32767 < 2^28. So
 *
 *   y_o = 2^e sum_g scale_og (sum_{i in g} q_oi n_i)
 *
 * AVX2 multiplies and adds 16 pairs of int16 in one instruction, twice the float32's rate. With x
 * in 8 bits, as Q8_0 has it, that would be 32 pairs, but the sum of pairs is 16 bits wide and needs
 * another instruction; and the rounding of x in 8 bits costs as much accuracy again as that of the
 * weights. In 16 bits it is below it as long as the row's largest number is less than some 100
 * times the typical one. (That is counted, not measured.) AVX-512 does the same with 32 numbers,
 * and its VNNI adds the products in the same instruction (few_vnni.c).
 *
 * Rows do not depend on one another, and the sums of a row are formed in the same order whatever
 * the tile: row r of a batch has the bits that it has alone.
 */
#include "internal.h"

/* The outputs that threads share out are multiples of this. */
#define UNIT_OUTS 4

static int64_t rounded_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/* Computes p with x's rows arranged in scratch, their numbers of `size` bytes. Threads share out
 * long stretches of outputs, as a stretch of weights is read from one end to the other. */
static int run(few_product p, int64_t size, const few_rows_loops *loops) {
    const int64_t R = p.out.M, OUT = p.out.N, OUTS = UNIT_OUTS;
    p.x_row = rounded_up(p.IN, PYGPT_INT8_GROUP);
    const int64_t floats = p.x_row * size / (int64_t)sizeof(float);
    const double operations = (double)R * (double)OUT * (double)p.IN;
    const int threads = threads_for(operations, (OUT + OUTS - 1) / OUTS);
    const int64_t chunk = rounded_up(chunk_for(OUT, OUTS, threads), OUTS);
    float *scratch = scratch_take(R * floats + rounded_up(R, 16));
    if (!scratch) return PYGPT_ENOMEM;
    p.x = scratch;
    p.factors = scratch + R * floats;
    PARALLEL(threads) {
#pragma omp for schedule(static)
        for (int64_t r = 0; r < R; r++) loops->arrange(&p, r, r + 1);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < OUT; first += chunk) {
            const int64_t end = min64(first + chunk, OUT);
            for (int64_t o = first; o < end; o += FEW_PART_OUTS)
                loops->part(&p, o, min64(o + FEW_PART_OUTS, end));
        }
    }
    scratch_give(scratch);
    return PYGPT_OK;
}

int few_rows_run(const gemm *g) {
    const few_product p = {.out = *g, .IN = g->K, .floats = g->b, .halves = g->b_half,
                           .w_row = g->b_col};
    const int form = g->b_half ? FEW_HALVES : g->dtype == PYGPT_BFLOAT16 ? FEW_ROUNDED
                                                                         : FEW_FLOAT32;
    return run(p, sizeof(float), &isa_in_use->few_rows[form]);
}

static few_product product_of(float *out, float *pre, const float *inp, const float *bias,
                              const float *residual, int64_t R, int64_t IN, int64_t OUT) {
    return (few_product){
        .out = {.M = R, .N = OUT, .K = IN, .a = inp, .a_row = IN, .a_col = 1,
                .c = out, .ldc = OUT, .addend = residual, .bias = bias,
                .gelu = pre != NULL, .pre = pre == out ? NULL : pre},
        .IN = IN, .w_row = IN,
    };
}

int linear_bfloat16(float *out, float *pre, const float *inp, const uint16_t *weight,
                    const float *bias, const float *residual, int64_t R, int64_t IN, int64_t OUT) {
    few_product p = product_of(out, pre, inp, bias, residual, R, IN, OUT);
    p.halves = weight;
    return run(p, sizeof(float), &isa_in_use->few_rows[FEW_PAIRS]);
}

int linear_int8(float *out, float *pre, const float *inp, const int8_t *q, const float *scales,
                const float *bias, const float *residual, int64_t R, int64_t IN, int64_t OUT) {
    few_product p = product_of(out, pre, inp, bias, residual, R, IN, OUT);
    p.q = q;
    p.scales = scales;
    p.w_row = rounded_up(IN, PYGPT_INT8_GROUP);
    return run(p, sizeof(int16_t), &isa_in_use->few_rows[FEW_INT8]);
}
