"""Derives the error bounds of attention: how far each output may be from the exact one.

bounds.py says what a bound is and how they are derived. Attention has the longest chain: a
score's error becomes one of its weight, and this one of the sums over values, keys and queries.
With dtype 1 weights are rounded in between.
"""

from math import ceil, exp, expm1, log, sqrt
from types import SimpleNamespace

from pygpt.backend import reference
from pygpt.backend.reference.dropout import dropout_factors
from pygpt.backend.reference.softmax import logsumexp
from pygpt.check.bounds import (EXP, LOG, abs_dot, as_operand, dot, rounded, softmax_errors,
                                softmax_sums)
from pygpt.check.differences import UNIT, Bound


def _attention_row(query, keys):
    """Return the scores of one query and their errors; keys[j] is a slice of HS numbers."""
    scale = 1 / sqrt(len(query) or 1)
    scores = [dot(query, k) * scale for k in keys]
    return scores, [(len(query) + 3) * UNIT * abs_dot(query, k) * scale for k in keys]


def _heads(x, offset, step, positions, HS):
    return [x[offset + j * step:offset + j * step + HS] for j in range(positions)]


def _attention_out(scores, score_errors, factors, values, HS, dtype):
    """Return the errors of one query's outputs, and that of its lse."""
    if dtype == reference.PYGPT_FLOAT32:
        p, relative, lse_error = softmax_errors(scores, score_errors)
        errors = [f * p_j * (e + (len(p) + 5) * UNIT) for f, p_j, e in zip(factors, p, relative)]
    else:
        errors, lse_error = _rounded_weights(scores, score_errors, factors)
    return [abs_dot(errors, [v[c] for v in values]) for c in range(HS)], lse_error


# The kernel's m lies above the largest score so far, by 1.5 ln 2 at most.
ABOVE = 1.04


def _rounded_weights(scores, score_errors, factors):
    """Return the errors of the weights w_j / l, where w_j = f_j exp(s_j - m) is rounded to bfloat16
    and l = sum_j exp(s_j - m) is not; and that of the lse."""
    # Before rounding, w_j has the error of s_j and those of s_j - m; of m, which is a float and not
    # quite a multiple of ln 2 (its factor ln 2 is off by 0.05 UNIT, the product by 1); of exp, and
    # of three operations for f_j.
    n, top, size = len(scores), max(scores), max(map(abs, scores)) + ABOVE
    p, _, total, lse_error = softmax_sums(scores, score_errors)
    before = [expm1(e + UNIT * (top - s + ABOVE + 1.05 * size)) + (EXP + 3) * UNIT
              for s, e in zip(scores, score_errors)]
    # The reference's m is the multiple of ln 2 next to the lse. Any other gives the same rounding.
    lse = logsumexp(scores)
    m = ceil(lse / log(2)) * log(2)
    w = [f * exp(s - m) for f, s in zip(factors, scores)]
    w, w_errors = as_operand(reference.PYGPT_BFLOAT16, w, [x * e for x, e in zip(w, before)])
    # The sum of w_j v_j rounds, and is rescaled where m moves, as l is. Of the rescaling factors
    # exp(m - m'), a term meets those that together make exp(m_j - m), with m_j > s_j: the
    # roundings of their arguments add up to UNIT (m - s_j) at most.
    total += 2 * UNIT * ABOVE
    errors = [exp(m - lse) * (e + x * (
        total + (2 * n + 8) * UNIT + UNIT * (top + ABOVE - s)))
        for x, e, s in zip(w, w_errors, scores)]
    return errors, lse_error + UNIT * ABOVE * (LOG + 4)


def attention_forward(a, value):
    a = rounded(a, "qkv")
    HS = a.C // a.NH
    out, lse = [0.0] * len(value["out"]), [0.0] * len(value["lse"])
    for b in range(a.B):
        for h in range(a.NH):
            first = b * a.T * 3 * a.C + h * HS
            q, k, v = (_heads(a.qkv, first + part * a.C, 3 * a.C, a.T, HS) for part in range(3))
            for i in range(a.T):
                r = (b * a.NH + h) * a.T + i
                factors = dropout_factors(a.dropout, a.seed, a.stream, r, i + 1, a.NH)
                row = _attention_row(q[i], k[:i + 1])
                o = (b * a.T + i) * a.C + h * HS
                out[o:o + HS], lse[r] = _attention_out(*row, factors, v[:i + 1], HS, a.dtype)
    if not HS:  # a head without channels has no scores
        return {"out": Bound(1, [])}
    return {"out": Bound(1, [0.0] * len(out), out), "lse": Bound(1, [0.0] * len(lse), lse)}


def attention_cached(a, value):
    a = rounded(SimpleNamespace(**{**vars(a), **value}), "qkv", "keys", "values")
    HS = a.C // a.NH
    out = [0.0] * len(value["out"])
    for b in range(a.B):
        for h in range(a.NH):
            first = b * a.P * a.C + h * HS
            k, v = (_heads(x, first, a.C, a.past[b] + a.T, HS) for x in (a.keys, a.values))
            for i in range(a.T):
                o, q = (b * a.T + i) * a.C + h * HS, (b * a.T + i) * 3 * a.C + h * HS
                seen = a.past[b] + i + 1
                row = _attention_row(a.qkv[q:q + HS], k[:seen])
                out[o:o + HS] = _attention_out(*row, [1.0] * seen, v[:seen], HS, a.dtype)[0]
    copied = Bound(0, [0.0] * len(value["keys"]))
    return {"out": Bound(1, [0.0] * len(out), out), "keys": copied, "values": copied}


def attention_backward(a, value):
    # Follows the reference: e_x is the error of x. In float32, dout . out may also be formed as
    # sum_j p_j dp_j, whose magnitude is never smaller, so D takes the larger. With rounded weights
    # these two differ.
    a = rounded(a, "qkv", "dout", "out")
    HS, T, scale = a.C // a.NH, a.T, 1 / sqrt(a.C // a.NH or 1)
    extra = [0.0] * len(value["dqkv"])
    for b in range(a.B):
        for h in range(a.NH):
            first = b * T * 3 * a.C + h * HS
            q, k, v = (_heads(a.qkv, first + part * a.C, 3 * a.C, T, HS) for part in range(3))
            for i in range(T):
                r, o = (b * a.NH + h) * T + i, (b * T + i) * a.C + h * HS
                dout, out = a.dout[o:o + HS], a.out[o:o + HS]
                scores, e_scores = _attention_row(q[i], k[:i + 1])
                p = [exp(s - a.lse[r]) for s in scores]
                e_p = [expm1(e + 2 * UNIT * (abs(s) + abs(a.lse[r]))) + (EXP + 2) * UNIT
                       for s, e in zip(scores, e_scores)]  # relative
                factors = dropout_factors(a.dropout, a.seed, a.stream, r, i + 1, a.NH)
                dp = [f * dot(dout, v_j) for f, v_j in zip(factors, v)]
                size_dp = [f * abs_dot(dout, v_j) for f, v_j in zip(factors, v)]
                D, size_D = dot(dout, out), abs_dot(dout, out)
                e_D = (HS + 2) * UNIT * size_D
                if a.dtype == reference.PYGPT_FLOAT32:
                    size_D = max(size_D, dot(p, size_dp))
                    e_D = (HS + 2) * UNIT * size_D + sum(
                        p_j * s * (e + (HS + T + 4) * UNIT) for p_j, s, e in zip(p, size_dp, e_p))
                ds = [p_j * abs(dp_j - D) for p_j, dp_j in zip(p, dp)]
                e_ds = [d * (e + 6 * UNIT) + p_j * ((HS + 6) * UNIT * (size + size_D) + e_D)
                        for d, e, p_j, size in zip(ds, e_p, p, size_dp)]
                w = [f * p_j for f, p_j in zip(factors, p)]
                e_w = [w_j * (e + 5 * UNIT) for w_j, e in zip(w, e_p)]
                ds, e_ds = as_operand(a.dtype, ds, e_ds)
                w, e_w = as_operand(a.dtype, w, e_w)
                qi = first + i * 3 * a.C
                for j in range(i + 1):
                    # T - 1 additions, the product, and the scale: a root, a quotient, a product
                    sum_ds = (e_ds[j] + (T + 3) * UNIT * ds[j]) * scale
                    sum_w, kj = e_w[j] + T * UNIT * w[j], first + j * 3 * a.C + a.C
                    for c, (q_c, k_c, dout_c) in enumerate(zip(q[i], k[j], dout)):
                        extra[qi + c] += sum_ds * abs(k_c)
                        extra[kj + c] += sum_ds * abs(q_c)
                        extra[kj + a.C + c] += sum_w * abs(dout_c)
    return {"dqkv": Bound(1, [0.0] * len(extra), extra)}
