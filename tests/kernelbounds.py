"""Derives from each kernel's inputs how far each element of its result may be from the exact one.

A float32 operation is off by at most UNIT = 2^-24 of its result. So a sum of n products, in
whatever order and blocking, is off by at most (n + 1) UNIT sum|a||b| to first order; the bounds
here carry that through each formula. The small integers count the roundings of the final
operations, rounded up. Each function takes the arguments and the reference's outputs (accumulate 0)
and returns {output: Bound}; an output without one is unspecified.

With dtype 1 the operands of products are rounded to bfloat16. Operands that are inputs are the same
numbers in C and in the reference. So a product of them has the bound above, at the rounded
operands. An operand that is computed first has an error of float32 before it is rounded;
`as_operand` says what becomes of it. """

from math import ceil, exp, expm1, log, pi, sqrt
from operator import mul
from types import SimpleNamespace

from kernelcheck import FLOOR, UNIT, Bound, run_reference
from pygpt.backend import reference
from pygpt.backend.reference.dropout import dropout_factors
from pygpt.backend.reference.gelu import gelu_slope
from pygpt.backend.reference.operands import read_operand
from pygpt.backend.reference.quantized import whole_times_power
from pygpt.backend.reference.softmax import logsumexp

EXP = 4   # the vector exp is good to 2 ulp, and one ulp is up to 2 UNIT
LOG = 4


def dot(x, y):
    return sum(map(mul, x, y))


def abs_dot(x, y):
    return sum(map(abs, map(mul, x, y)))


def without(a, *names):
    return SimpleNamespace(**{**vars(a), **dict.fromkeys(names)})


def of_terms(kernel, steps):
    """Bound sums of products: the reference on absolute values gives sum|a||b|."""
    def bound(a, value):
        magnitudes = {name: [abs(v) for v in x] if isinstance(x, list) and name not in
                      ("ids", "targets", "seed") else x for name, x in vars(a).items()}
        for name, x in run_reference(kernel, magnitudes).items():
            yield name, Bound(steps(a), x)
    return lambda a, value: dict(bound(a, value))


def rounded(a, *names):
    """Return the arguments with the named ones as products read them: rounded to a.dtype."""
    return SimpleNamespace(**{**vars(a), **{
        name: read_operand(vars(a)[name], len(vars(a)[name]), a.dtype) for name in names}})


def as_operand(dtype, values, errors):
    """Return numbers as products read them, and how far those of the kernel may be from these.

    `errors` says how far the kernel's numbers may be off before they are rounded. Rounding is
    monotonic: a number between x - e and x + e is rounded to one between those of x - e and x + e.
    Both are the one of x, and the error vanishes, unless a tie lies between: only then may the
    kernel's number be rounded to the other side.
    """
    if dtype == reference.PYGPT_FLOAT32:
        return values, errors
    n = len(values)
    low, middle, high = (
        read_operand([x + sign * e for x, e in zip(values, errors)], n, dtype)
        for sign in (-1, 0, 1))
    return middle, [max(m - lo, hi - m) for lo, m, hi in zip(low, middle, high)]


def exact(a, value):
    return {name: Bound(0, [0.0] * len(x)) for name, x in value.items()}


# ---------------------------------------------------------------------------------------- gelu ---

def gelu_error(x):
    # u = sqrt(2/pi)(x + 0.044715 x^3) has a relative error of 5 UNIT, which moves tanh(u) by at
    # most 5 UNIT |u| (1 - tanh^2 u) <= 2.3 UNIT; tanh itself adds 4. With the roundings of 1 + t,
    # 0.5 x and their product: below 8 UNIT |x|. Where tanh saturates, the result is x or 0.
    return 8 * UNIT * abs(x)


def slope_error(x):
    # 0.5 (1 + t) + w (1 - t^2) with w = 0.5 x du/dx. An error of 4 UNIT in t is one of 9 UNIT in
    # 1 - t^2; that of u is damped by 1 - t^2 and stays below 10 UNIT; the rest rounds within 8.
    # From |x| = 8 on (u > 24) t is exactly 1 and the second term 0.
    w = 0.5 * x * sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x)
    return UNIT * (18 + (9 * abs(w) if abs(x) < 8 else 0))


def gelu_forward(a, value):
    return {"out": Bound(1, [0.0] * a.n, [gelu_error(x) for x in a.inp])}


def gelu_backward(a, value):
    extra = [abs(d) * slope_error(x) for d, x in zip(a.dout, a.inp)]
    return {"dinp": Bound(2, [abs(v) for v in value["dinp"]], extra)}


# -------------------------------------------------------------------------------------- linear ---

def linear_forward(a, value, roundings=None):
    z = of_terms("linear_forward", lambda a: roundings or a.IN + 2)(
        without(a, "pre", "residual"), None)["out"]
    errors = [z.steps * (UNIT * m + FLOOR) for m in z.magnitudes]
    if a.pre is not None:  # |gelu'| < 1.13
        errors = [1.13 * e + gelu_error(x) for e, x in zip(errors, value["pre"])]
    residual = a.residual or [0.0] * len(errors)
    sizes = [abs(r) + abs(v) for r, v in zip(residual, value["out"])]
    return {"pre": z, "out": Bound(2, sizes, errors)}


def linear_backward_input(a, value):
    bare = of_terms("linear_backward_input", lambda a: a.OUT + 2)(
        without(a, "pre", "act"), None)["dinp"]
    if a.pre is None:
        return {"dinp": bare}
    slopes = [abs(gelu_slope(x)) for x in a.pre]
    extra = [m * slope_error(x) for m, x in zip(bare.magnitudes, a.pre)]
    return {"dinp": Bound(a.OUT + 4, [m * s for m, s in zip(bare.magnitudes, slopes)], extra),
            "act": Bound(1, [0.0] * len(a.pre), [gelu_error(x) for x in a.pre])}


# ----------------------------------------------------------------------------------- quantized ---

def dequantize_int8(a, value):
    return {"out": Bound(1, [abs(x) for x in value["out"]])}


def _of_linear(a, value, inp, weight, roundings):
    """Bound linear_forward for inp (R,IN), and weight (OUT,IN) stored across."""
    across = [0.0] * len(weight)
    reference.transpose(across, weight, a.OUT, a.IN)
    return linear_forward(SimpleNamespace(
        **{name: getattr(a, name) for name in ("out", "pre", "bias", "residual", "R", "IN", "OUT")},
        inp=inp, weight=across, dtype=reference.PYGPT_FLOAT32), value, roundings)


def linear_bfloat16(a, value):
    wide = [0.0] * len(a.weight)
    reference.from_bfloat16(wide, a.weight, len(wide))
    return _of_linear(a, value, a.inp, wide, a.IN + 2)


def linear_int8(a, value):
    # A group's sums are exact, converted to float32, multiplied and added: G + 1 additions and at
    # most 4 to join 16 lanes, or 1 conversion, 1 product and 1 factor 2^e, which is exact. That of
    # the bias is one more. The reference rounds no q * scale, as its numbers are double.
    wide, inp = [0.0] * (a.OUT * a.IN), []
    reference.dequantize_int8(wide, a.q, a.scales, a.IN, a.OUT)
    for r in range(a.R):
        inp += whole_times_power(a.inp[r * a.IN:(r + 1) * a.IN])
    return _of_linear(a, value, inp, wide, -(-a.IN // reference.PYGPT_INT8_GROUP) + 9)


# --------------------------------------------------------------------- softmax, cross-entropy ---

def softmax_errors(x, x_errors=None):
    """Return (p, relative errors of p, error of the lse) for p = softmax(x) with errors in x."""
    p, terms, total, lse_error = _softmax_sums(x, x_errors or [0.0] * len(x))
    return p, [t + total for t in terms], lse_error


def _softmax_sums(x, x_errors):
    """Return p = softmax(x), the relative errors of exp(x_j - top) and of their sum, and the error
    of the lse."""
    # exp(x_j - top) sees the error of x_j and the rounding of its scaled argument; an error of
    # `top` is common to all and cancels. The sum of n positive terms carries the p-weighted mean of
    # their relative errors and its own roundings; 2 n allows for rescaling when the maximum moves.
    n, top = len(x), max(x)
    lse = logsumexp(x)
    p = [exp(v - lse) for v in x]
    terms = [expm1(e + UNIT * (abs(v) + abs(top))) + EXP * UNIT for v, e in zip(x, x_errors)]
    total = dot(p, terms) + (2 * n + 8) * UNIT
    lse_error = total + UNIT * (LOG * abs(lse - top) + 2 * abs(top) + 2 * abs(lse))
    return p, terms, total, lse_error


def rows(x, R, C):
    return [x[r * C:(r + 1) * C] for r in range(R)]


def softmax_forward(a, value):
    errors = []
    for row in rows(a.inp, a.R, a.C) if a.C else []:
        p, relative, _ = softmax_errors(row)
        errors += [v * e for v, e in zip(p, relative)]
    return {"out": Bound(2, value["out"], errors)}


def softmax_backward(a, value):
    magnitudes = []
    for d, p in zip(rows(a.dout, a.R, a.C), rows(a.out, a.R, a.C)):
        total = abs_dot(d, p)
        magnitudes += [abs(p_i) * (abs(d_i) + total) for d_i, p_i in zip(d, p)]
    return {"dinp": Bound(a.C + 4, magnitudes)}


def _rows_counted(a):
    return sum(target != a.ignore_index for target in a.targets) or 1


def _losses(a, value, logits, errors):
    losses = []
    for row, row_errors, target in zip(logits, errors, a.targets):
        if target == a.ignore_index:
            losses.append(0.0)
            continue
        lse_error = softmax_errors(row, row_errors)[2]
        losses.append(lse_error + row_errors[target] + 2 * UNIT * abs(row[target]))
    mean = [sum(losses) / _rows_counted(a)]
    size = [sum(abs(v) for v in value["losses"]) / _rows_counted(a)]
    return {"losses": Bound(2, [abs(v) for v in value["losses"]], losses),
            "loss": Bound(a.R + 2, size, mean)}


def _dlogits(a, logits, errors):
    """Yield the dlogits and their errors, row by row."""
    for row, row_errors, target in zip(logits, errors, a.targets):
        p, relative, _ = softmax_errors(row, row_errors)
        scale = abs(a.dloss[0]) / _rows_counted(a) if target != a.ignore_index else 0.0
        y = [float(v == target) for v in range(a.V)]
        yield ([scale * abs(p_v - y_v) for p_v, y_v in zip(p, y)],
               [scale * (p_v * e + 5 * UNIT * (p_v + y_v)) for p_v, e, y_v in zip(p, relative, y)])


def _logits(a):
    a = rounded(a, "inp", "weight")
    weight = rows(a.weight, a.V, a.C)
    inp = rows(a.inp, a.R, a.C)
    logits = [[dot(x, w) for w in weight] for x in inp]
    return logits, [[(a.C + 1) * UNIT * abs_dot(x, w) for w in weight] for x in inp]


def cross_entropy_forward(a, value):
    return _losses(a, value, rows(a.logits, a.R, a.V), [[0.0] * a.V] * a.R)


def cross_entropy_backward(a, value):
    magnitudes, extra = [], []
    for row, errors in _dlogits(a, rows(a.logits, a.R, a.V), [[0.0] * a.V] * a.R):
        magnitudes += row
        extra += errors
    return {"dlogits": Bound(2, magnitudes, extra)}


def linear_cross_entropy_forward(a, value):
    return _losses(a, value, *_logits(a))


def linear_cross_entropy_backward(a, value):
    # The errors of dlogits pass through the two products, which round in turn.
    logits, logit_errors = _logits(a)
    operands = rounded(a, "inp", "weight")
    inp, weight = [abs(x) for x in operands.inp], [abs(w) for w in operands.weight]
    dlogits = list(_dlogits(a, logits, logit_errors))
    magnitudes, errors = ([x for row in dlogits for x in row[part]] for part in (0, 1))
    products = []
    for d in as_operand(a.dtype, magnitudes, errors):
        dinp, dweight = [0.0] * (a.R * a.C), [0.0] * (a.V * a.C)
        reference.matmul(dinp, d, weight, a.R, a.C, a.V, 0, 0, 0, reference.PYGPT_FLOAT32)
        reference.matmul(dweight, d, inp, a.V, a.C, a.R, 1, 0, 0, reference.PYGPT_FLOAT32)
        products.append((dinp, dweight))
    (dinp, dweight), (dinp_errors, dweight_errors) = products
    return {**_losses(a, value, logits, logit_errors),
            "dinp": Bound(a.V + 2, dinp, dinp_errors),
            "dweight": Bound(a.R + 2, dweight, dweight_errors)}


# ----------------------------------------------------------------------------------- attention ---

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
    p, _, total, lse_error = _softmax_sums(scores, score_errors)
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
                factors = dropout_factors(a.dropout, a.seed, a.stream, r, i + 1)
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


def embedding_at_rest(a, value):
    # out = token + position, so |token| + |position| <= |out| + 2 |position|; a token of int8 is
    # rounded once more.
    sizes = []
    for r in range(a.B * a.T):
        first = (a.past[r // a.T] if a.past else 0) + r % a.T
        for c in range(a.C):
            position = a.wpe[first * a.C + c] if a.wpe else 0.0
            sizes.append(abs(value["out"][r * a.C + c]) + 2 * abs(position))
    return {"out": Bound(2, sizes)}


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
                factors = dropout_factors(a.dropout, a.seed, a.stream, r, i + 1)
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
                    sum_ds = (e_ds[j] + T * UNIT * ds[j]) * scale
                    sum_w, kj = e_w[j] + T * UNIT * w[j], first + j * 3 * a.C + a.C
                    for c, (q_c, k_c, dout_c) in enumerate(zip(q[i], k[j], dout)):
                        extra[qi + c] += sum_ds * abs(k_c)
                        extra[kj + c] += sum_ds * abs(q_c)
                        extra[kj + a.C + c] += sum_w * abs(dout_c)
    return {"dqkv": Bound(1, [0.0] * len(extra), extra)}


# ----------------------------------------------------------------------------------- layernorm ---

def layernorm_forward(a, value):
    # The mean is off by e_mean; a common shift changes the variance only by its square, so the
    # variance is off by e_mean^2 and its own roundings. rstd follows monotonically.
    e_mean, e_rstd, e_out = [], [], []
    for row in rows(a.inp, a.R, a.C):
        mean = sum(row) / (a.C or 1)
        e = (a.C + 2) * UNIT * sum(map(abs, row)) / (a.C or 1)
        variance = sum((x - mean) ** 2 for x in row) / (a.C or 1)
        rstd = 1 / sqrt(variance + a.eps)
        e_var = (a.C + 6) * UNIT * (variance + e * e) + e * e + 2 * e * UNIT * sqrt(variance)
        high = 1 / sqrt(max(variance - e_var, 0.0) + a.eps)
        low = 1 / sqrt(variance + e_var + a.eps)
        e_r = max(high - rstd, rstd - low) + 3 * UNIT * high
        e_mean.append(e)
        e_rstd.append(e_r)
        for x, w, bias in zip(row, a.weight, a.bias):
            d = abs(x - mean)
            e_out.append(abs(w) * (high * (e + 2 * UNIT * d) + d * e_r)
                         + 3 * UNIT * (abs(d * rstd * w) + abs(bias)))
    if not a.C:  # an empty row has no mean
        return {"out": Bound(1, [])}
    return {"mean": Bound(1, [0.0] * a.R, e_mean), "rstd": Bound(1, [0.0] * a.R, e_rstd),
            "out": Bound(1, [0.0] * len(e_out), e_out)}


def layernorm_backward(a, value):
    dinp, dweight, dbias = [], [0.0] * a.C, [0.0] * a.C
    for r, (row, dout) in enumerate(zip(rows(a.inp, a.R, a.C), rows(a.dout, a.R, a.C))):
        xhat = [abs(x - a.mean[r]) * a.rstd[r] for x in row]
        dxhat = [abs(d * w) for d, w in zip(dout, a.weight)]
        mean, product = sum(dxhat) / (a.C or 1), dot(dxhat, xhat) / (a.C or 1)
        dinp += [a.rstd[r] * (d + mean + x * product) for d, x in zip(dxhat, xhat)]
        for c, d in enumerate(dout):
            dweight[c] += abs(d) * xhat[c]
            dbias[c] += abs(d)
    return {"dinp": Bound(a.C + 10, dinp), "dweight": Bound(a.R + 4, dweight),
            "dbias": Bound(a.R + 1, dbias)}


# ---------------------------------------------------------------------- AdamW, random numbers ---

def adamw_step(a, value):
    # The moments are short sums; flushing may cost one smallest normal float each. The step
    # m / (sqrt(v) + eps) is bounded by moving m and v to the ends of their intervals.
    lr, beta1, _, eps, decay, unbias_m, unbias_v, grad_scale = a.settings
    least = 2.0 ** -125
    e_m = [5 * UNIT * (abs(beta1 * m) + abs((1 - beta1) * g * grad_scale)) + least
           for m, g in zip(a.m, a.grad)]
    e_v = [6 * UNIT * v + least for v in value["v"]]
    e_param = []
    for x, m, v, em, ev in zip(a.param, value["m"], value["v"], e_m, e_v):
        root, low, high = (sqrt(max(y, 0.0) / unbias_v) + eps for y in (v, v - ev, v + ev))
        step, worst = abs(m) / unbias_m / root, (abs(m) + em) / unbias_m / low
        e_step = worst - abs(m) / unbias_m / high + 5 * UNIT * step
        e_param.append(lr * e_step + 4 * UNIT * (abs(x) + lr * step + lr * decay * abs(x)))
    zeros = [0.0] * a.n
    return {"m": Bound(1, zeros, e_m), "v": Bound(1, zeros, e_v),
            "param": Bound(1, zeros, e_param)}


def random_normal(a, value):
    # Computed in double precision, rounded once; 2^-40 leaves the C library's cos its last bits.
    return {"out": Bound(1, [abs(v) + 2.0 ** -16 * a.std for v in value["out"]])}


def sum_squares(a, value):
    return {"out": Bound(a.n + 1, value["out"], None, 2.0 ** -53)}  # double precision
