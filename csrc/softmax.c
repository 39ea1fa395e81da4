/* softmax.c: computes p_j = exp(x_j - max x) / sum_k exp(x_k - max x) over each row.
 *
 * Subtracting the row's maximum does not change the result (it cancels), and keeps exp from
 * overflowing.
 *
 * Backward. dp_j/dx_i = p_j (delta_ij - p_i), so
 *   dx_i = sum_j dp_j p_j (delta_ij - p_i) = p_i (dp_i - sum_j dp_j p_j):
 * this takes one dot product and one pass, and the matrix of derivatives is never formed.
 */
#include "internal.h"

#define COST 12.0 /* an element takes as long as this many multiply-adds */

int softmax_forward(float *out, const float *inp, int64_t R, int64_t C) {
    int threads = threads_for(COST * (double)R * (double)C, R);
    int64_t chunk = chunk_for(R, 1, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < R; r += chunk)
        isa_in_use->softmax_forward(out, inp, r, min64(r + chunk, R), C);
    return PYGPT_OK;
}

/* dx_i = p_i (dp_i - sum_j dp_j p_j), in the contract's names dinp, out, dout. */
int softmax_backward(float *dinp, const float *dout, const float *out, int64_t R, int64_t C,
                     int accumulate) {
    int threads = threads_for(COST * (double)R * (double)C, R);
    int64_t chunk = chunk_for(R, 1, threads);
    PARALLEL(threads)
#pragma omp for schedule(dynamic)
    for (int64_t r = 0; r < R; r += chunk)
        isa_in_use->softmax_backward(dinp, dout, out, r, min64(r + chunk, R), C, accumulate);
    return PYGPT_OK;
}
