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

int linear_forward(void *out, void *pre, const void *inp, const void *weight, const float *bias,
                   const float *residual, int64_t R, int64_t IN, int64_t OUT, int dtype) {
    const int transposed = dtype & PYGPT_WEIGHT_TRANSPOSED;
    return gemm_run((gemm){
        .M = R, .N = OUT, .K = IN, .dtype = OPERANDS,
        .a = FLOATS(inp, PYGPT_INP_BFLOAT16), .a_half = HALVES(inp, PYGPT_INP_BFLOAT16),
        .a_row = IN, .a_col = 1,
        .b = FLOATS(weight, PYGPT_WEIGHT_BFLOAT16), .b_half = HALVES(weight, PYGPT_WEIGHT_BFLOAT16),
        .b_row = transposed ? 1 : OUT, .b_col = transposed ? IN : 1,
        .c = FLOATS(out, PYGPT_OUT_BFLOAT16), .c_half = HALVES(out, PYGPT_OUT_BFLOAT16),
        .ldc = OUT, .addend = residual, .bias = bias,
        .gelu = pre != NULL, .pre = pre == out ? NULL : pre,
    });
}

/* dx = dy W^T, times gelu'(pre) where x = gelu(pre). */
int linear_backward_input(float *dinp, void *act, const float *dout, const void *weight,
                          const float *pre, int64_t R, int64_t IN, int64_t OUT, int accumulate,
                          int dtype) {
    return gemm_run((gemm){
        .M = R, .N = IN, .K = OUT, .dtype = OPERANDS,
        .a = dout, .a_row = OUT, .a_col = 1,
        .b = FLOATS(weight, PYGPT_WEIGHT_BFLOAT16), .b_half = HALVES(weight, PYGPT_WEIGHT_BFLOAT16),
        .b_row = 1, .b_col = OUT,
        .c = dinp, .ldc = IN, .accumulate = accumulate, .slope_of = pre,
        .act = FLOATS(act, PYGPT_OUT_BFLOAT16), .act_half = HALVES(act, PYGPT_OUT_BFLOAT16),
    });
}

/* dW = x^T dy,  db_j = sum_r dy_rj. */
int linear_backward_weight(float *dweight, float *dbias, const void *inp, const float *dout,
                           int64_t R, int64_t IN, int64_t OUT, int accumulate, int dtype) {
    return gemm_run((gemm){
        .M = IN, .N = OUT, .K = R, .dtype = OPERANDS,
        .a = FLOATS(inp, PYGPT_INP_BFLOAT16), .a_half = HALVES(inp, PYGPT_INP_BFLOAT16),
        .a_row = 1, .a_col = IN,
        .b = dout, .b_row = OUT, .b_col = 1,
        .c = dweight, .ldc = OUT, .accumulate = accumulate,
        .column_sum = dbias, .accumulate_sum = accumulate,
    });
}
