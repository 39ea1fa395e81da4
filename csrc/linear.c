/* linear.c: computes y = x W + b, and the GELU or the residual addition that follows in a block.
 *
 * matmul.c computes the three products. The rest of the layer is computed while a tile of the
 * result is still in registers or L1:
 *   forward        + bias, + residual; or the GELU, keeping the sum before it for the backward pass
 *   backward, dx   * gelu'(pre): the chain rule through the GELU that made x. The same exp gives x
 *                  itself, which dW needs and the forward pass did not keep.
 *   backward, dW   db_j = sum_r dy_rj, summed while the rows of dy are packed
 */
#include "internal.h"

int linear_forward(float *out, float *pre, const float *inp, const float *weight, const float *bias,
                   const float *residual, int64_t R, int64_t IN, int64_t OUT, int dtype) {
    return gemm_run((gemm){
        .M = R, .N = OUT, .K = IN,
        .a = inp, .a_row = IN, .a_col = 1,
        .b = weight, .b_row = OUT, .b_col = 1,
        .c = out, .ldc = OUT, .addend = residual, .bias = bias, .pre = pre, .dtype = dtype,
    });
}

/* dx = dy W^T, times gelu'(pre) where x = gelu(pre). */
int linear_backward_input(float *dinp, float *act, const float *dout, const float *weight,
                          const float *pre, int64_t R, int64_t IN, int64_t OUT, int accumulate,
                          int dtype) {
    return gemm_run((gemm){
        .M = R, .N = IN, .K = OUT,
        .a = dout, .a_row = OUT, .a_col = 1,
        .b = weight, .b_row = 1, .b_col = OUT,
        .c = dinp, .ldc = IN, .accumulate = accumulate, .slope_of = pre, .act = act,
        .dtype = dtype,
    });
}

/* dW = x^T dy,  db_j = sum_r dy_rj. */
int linear_backward_weight(float *dweight, float *dbias, const float *inp, const float *dout,
                           int64_t R, int64_t IN, int64_t OUT, int accumulate, int dtype) {
    return gemm_run((gemm){
        .M = IN, .N = OUT, .K = R,
        .a = inp, .a_row = 1, .a_col = IN,
        .b = dout, .b_row = OUT, .b_col = 1,
        .c = dweight, .ldc = OUT, .accumulate = accumulate,
        .column_sum = dbias, .accumulate_sum = accumulate, .dtype = dtype,
    });
}
