"""Defines csrc/adamw.c as loops: the step of AdamW, and the sum of squares for clipping."""

from math import sqrt

from pygpt.backend.reference.convert import to_bfloat16
from pygpt.backend.reference.loops import OK


def _flush(x):
    """Replace a denormal number by 0, as the kernels do. Only here do such numbers last: a moment
    without gradients decays to one."""
    return 0.0 if abs(x) < 2.0 ** -126 else x  # in this order NaN stays NaN


def adamw_step(param, half, m, v, grad, settings, n, n_decay):
    lr, beta1, beta2, eps, weight_decay, unbias_m, unbias_v, grad_scale = (
        settings[i] for i in range(8))
    for i in range(n):
        g = grad[i] * grad_scale
        m[i] = _flush(beta1 * m[i] + (1.0 - beta1) * g)
        v[i] = _flush(beta2 * v[i] + (1.0 - beta2) * g * g)
        step = (m[i] / unbias_m) / (sqrt(v[i] / unbias_v) + eps)
        decay = weight_decay * param[i] if i < n_decay else 0.0
        param[i] = _flush(param[i] - lr * step - lr * decay)
    if half:
        to_bfloat16(half, param, n)
    return OK


def sum_squares(out, x, n):
    out[0] = sum((x[i] * x[i] for i in range(n)), 0.0)
    return OK
