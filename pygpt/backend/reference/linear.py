"""Defines csrc/matmul.c and csrc/linear.c as loops: products, linear layers, their gradients."""

from pygpt.backend.reference.gelu import gelu, gelu_slope
from pygpt.backend.reference.loops import (OK, PYGPT_INP_BFLOAT16, PYGPT_WEIGHT_BFLOAT16,
                                           PYGPT_WEIGHT_TRANSPOSED, dot, places, store, store_all)
from pygpt.backend.reference.operands import read_operand, store_operand


def matmul(out, a, b, M, N, K, transpose_a, transpose_b, accumulate, dtype):
    a, b = read_operand(a, M * K, dtype), read_operand(b, K * N, dtype)
    a_row, a_col = (1, M) if transpose_a else (K, 1)
    b_row, b_col = (1, K) if transpose_b else (N, 1)
    for i, j in places(M, N):
        total = dot(a, i * a_row, b, j * b_col, K, a_col, b_row)
        store(out, i * N + j, total, accumulate)
    return OK


def linear_forward(out, pre, inp, weight, bias, residual, R, IN, OUT, dtype):
    inp = read_operand(inp, R * IN, dtype, PYGPT_INP_BFLOAT16)
    weight = read_operand(weight, IN * OUT, dtype, PYGPT_WEIGHT_BFLOAT16)
    across, along = (IN, 1) if dtype & PYGPT_WEIGHT_TRANSPOSED else (1, OUT)
    values = [0.0] * (R * OUT)
    for r, o in places(R, OUT):
        z = dot(inp, r * IN, weight, o * across, IN, 1, along)
        if bias:
            z += bias[o]
        if pre:
            if pre is not out:
                pre[r * OUT + o] = z
            z = gelu(z)
        if residual:
            z += residual[r * OUT + o]
        values[r * OUT + o] = z
    store_operand(out, values, dtype)
    return OK


def linear_backward_input(dinp, act, dout, weight, pre, R, IN, OUT, accumulate, dtype):
    # out_ro = sum_i inp_ri weight_io, so d loss / d inp_ri = sum_o dout_ro weight_io;
    # and where inp = gelu(pre), d loss / d pre = (d loss / d inp) * gelu'(pre).
    dout = read_operand(dout, R * OUT, dtype)
    weight = read_operand(weight, IN * OUT, dtype, PYGPT_WEIGHT_BFLOAT16)
    if act:
        store_operand(act, [gelu(pre[i]) for i in range(R * IN)], dtype)
    for r, i in places(R, IN):
        grad = dot(dout, r * OUT, weight, i * OUT, OUT)
        if pre:
            grad *= gelu_slope(pre[r * IN + i])
        store(dinp, r * IN + i, grad, accumulate)
    return OK


def linear_backward_weight(dweight, dbias, inp, dout, R, IN, OUT, accumulate, dtype):
    # out_ro = sum_i inp_ri weight_io + bias_o. weight_io occurs in every row r with the factor
    # inp_ri, hence dweight = inp^T @ dout. bias_o occurs in every row with the factor 1.
    inp = read_operand(inp, R * IN, dtype, PYGPT_INP_BFLOAT16)
    matmul(dweight, inp, dout, IN, OUT, R, 1, 0, accumulate, dtype)
    if dbias:
        sums = [sum((dout[r * OUT + o] for r in range(R)), 0.0) for o in range(OUT)]
        store_all(dbias, sums, accumulate)
    return OK
