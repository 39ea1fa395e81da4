"""Defines csrc/attention.c as loops: causal attention, its gradient, and cached attention."""

from math import ceil, exp, isfinite, log, sqrt

from pygpt.backend.reference.dropout import dropout_factors
from pygpt.backend.reference.loops import (ERANGE, OK, PYGPT_INP_BFLOAT16, PYGPT_OUT_BFLOAT16, dot,
                                           places, store_all)
from pygpt.backend.reference.operands import read_operand, store_operand
from pygpt.backend.reference.softmax import logsumexp


def _scores(query, q, keys, k, k_step, n, HS):
    """List q . k_j / sqrt(HS) for j < n; q starts at query[q], k_j at keys[k + j k_step]."""
    return [dot(query, q, keys, k + j * k_step, HS) / sqrt(HS or 1) for j in range(n)]


def _attend(out, o, scores, factor, values, v, v_step, HS, dtype):
    """Write sum_j f_j p_j v_j with p = softmax(scores) to out[o...], and return log sum_j e^s_j.
    v_j starts at values[v + j v_step]."""
    lse = logsumexp(scores)
    # The weight that is rounded is f_j e^s_j times a power of two, here near 1 / sum_j e^s_j.
    m = ceil(lse / log(2.0)) * log(2.0) if isfinite(lse) else lse
    weights = read_operand([f * exp(s - m) for f, s in zip(factor, scores)], len(scores), dtype)
    p = [w * exp(m - lse) for w in weights]
    for c in range(HS):
        out[o + c] = dot(p, 0, values, v + c, len(p), 1, v_step)
    return lse


def attention_forward(out, lse, qkv, B, T, C, NH, dropout, seed, stream, dtype):
    HS, values = C // NH, [0.0] * (B * T * C)
    qkv = read_operand(qkv, B * T * 3 * C, dtype, PYGPT_INP_BFLOAT16)
    for r, (b, h, i) in enumerate(places(B, NH, T)):
        o, q = (b * T + i) * C + h * HS, (b * T + i) * 3 * C + h * HS
        k0 = b * T * 3 * C + C + h * HS  # the key of position 0; its value lies C further on
        scores = _scores(qkv, q, qkv, k0, 3 * C, i + 1, HS)
        factor = dropout_factors(dropout, seed, stream, r, i + 1, NH)
        lse[r] = _attend(values, o, scores, factor, qkv, k0 + C, 3 * C, HS, dtype)
    store_operand(out, values, dtype)
    return OK


def attention_backward(dqkv, dout, qkv, out, lse, B, T, C, NH, dropout, seed, stream, dtype):
    # With f_ij the dropout factor, out_i = sum_j f_ij p_ij v_j gives
    #   dv_j = sum_i f_ij p_ij dout_i  and  dp_ij = f_ij dout_i . v_j.
    # Through the softmax, ds_ij = p_ij (dp_ij - sum_k p_ik dp_ik), where the sum is dout_i . out_i.
    # From s_ij = q_i . k_j / sqrt(HS): dq_i = sum_j ds_ij k_j / sqrt(HS), dk_j likewise over i.
    HS = C // NH
    qkv = read_operand(qkv, B * T * 3 * C, dtype, PYGPT_INP_BFLOAT16)
    out = read_operand(out, B * T * C, dtype, PYGPT_OUT_BFLOAT16)
    dout = read_operand(dout, B * T * C, dtype)
    grad = [0.0] * (B * T * 3 * C)  # sums in double precision
    for r, (b, h, i) in enumerate(places(B, NH, T)):
        o, q = (b * T + i) * C + h * HS, (b * T + i) * 3 * C + h * HS
        k0 = b * T * 3 * C + C + h * HS
        dout_out = dot(dout, o, out, o, HS)
        scores = _scores(qkv, q, qkv, k0, 3 * C, i + 1, HS)
        factor = dropout_factors(dropout, seed, stream, r, i + 1, NH)
        for j in range(i + 1):
            k = k0 + j * 3 * C
            v = k + C
            p = exp(scores[j] - lse[r])
            dp = factor[j] * dot(dout, o, qkv, v, HS)
            ds, weight = read_operand([p * (dp - dout_out), factor[j] * p], 2, dtype)
            for c in range(HS):
                grad[q + c] += ds * qkv[k + c] / sqrt(HS or 1)
                grad[k + c] += ds * qkv[q + c] / sqrt(HS or 1)
                grad[v + c] += weight * dout[o + c]
    store_all(dqkv, grad, accumulate=False)
    return OK


def attention_cached(out, keys, values, qkv, past, B, T, C, NH, P, dtype):
    HS = C // NH
    if not all(0 <= past[b] <= P - T for b in range(B)):
        return ERANGE
    for b, i, c in places(B, T, C):
        new, row = (b * T + i) * 3 * C, (b * P + past[b] + i) * C
        keys[row + c] = qkv[new + C + c]
        values[row + c] = qkv[new + 2 * C + c]
    qkv = read_operand(qkv, B * T * 3 * C, dtype)
    keys, values = read_operand(keys, B * P * C, dtype), read_operand(values, B * P * C, dtype)
    for b, h, i in places(B, NH, T):
        o, q = (b * T + i) * C + h * HS, (b * T + i) * 3 * C + h * HS
        first, seen = b * P * C + h * HS, past[b] + i + 1
        scores = _scores(qkv, q, keys, first, C, seen, HS)
        _attend(out, o, scores, [1.0] * seen, values, first, C, HS, dtype)
    return OK
