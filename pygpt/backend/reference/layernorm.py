"""Defines csrc/layernorm.c as loops: layer normalization and its gradient."""

from math import sqrt

from pygpt.backend.reference.loops import OK, dot, store, store_all
from pygpt.backend.reference.operands import store_operand


def layernorm_forward(out, mean, rstd, inp, weight, bias, R, C, eps, form):
    values = []
    for r in range(R):
        row = [inp[r * C + c] for c in range(C)]
        mu = sum(row) / (C or 1)
        variance = sum((x - mu) ** 2 for x in row) / (C or 1)
        scale = 1.0 / sqrt(variance + eps)
        mean[r], rstd[r] = mu, scale
        values += [(row[c] - mu) * scale * weight[c] + bias[c] for c in range(C)]
    store_operand(out, values, form)
    return OK


def layernorm_backward(dinp, dweight, dbias, dout, inp, weight, mean, rstd, R, C,
                       accumulate_input, accumulate_params):
    # out = xhat * weight + bias with xhat = (x - mean) * rstd, so dxhat = dout * weight. The mean
    # has d mean / d x_i = 1/C and the scale d rstd / d x_i = -rstd^2 xhat_i / C, which makes
    #   d xhat_j / d x_i = rstd ([i = j] - 1/C - xhat_j xhat_i / C), and summed over j with dxhat_j
    #   dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)).
    weight_grad, bias_grad = [0.0] * C, [0.0] * C
    for r in range(R):
        xhat = [(inp[r * C + c] - mean[r]) * rstd[r] for c in range(C)]
        dxhat = [dout[r * C + c] * weight[c] for c in range(C)]
        mean_dxhat = sum(dxhat) / (C or 1)
        mean_product = dot(dxhat, 0, xhat, 0, C) / (C or 1)
        for c in range(C):
            grad = rstd[r] * (dxhat[c] - mean_dxhat - xhat[c] * mean_product)
            weight_grad[c] += dout[r * C + c] * xhat[c]
            bias_grad[c] += dout[r * C + c]
            store(dinp, r * C + c, grad, accumulate_input)
    store_all(dweight, weight_grad, accumulate_params)
    store_all(dbias, bias_grad, accumulate_params)
    return OK
