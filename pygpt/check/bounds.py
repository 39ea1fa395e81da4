"""Derives from each kernel's inputs how far each element of its result may be from the exact one.

A float32 operation is off by at most UNIT = 2^-24 of its result. So a sum of n products, in
whatever order and blocking, is off by at most (n + 1) UNIT sum|a||b| to first order; the bounds
here carry that through each formula. The small integers count the roundings of the final
operations, rounded up. Each function takes the arguments and the reference's outputs (accumulate 0)
and returns {output: Bound}; an output without one is unspecified. Those of attention are in
attention_bounds.py; differences.py compares an output with its bound.

With dtype 1 the operands of products are rounded to bfloat16. Operands that are inputs are the same
numbers in C and in the reference. So a product of them has the bound above, at the rounded
operands. An operand that is computed first has an error of float32 before it is rounded;
`as_operand` says what becomes of it.
"""

from math import exp, expm1, pi, sqrt
from operator import mul
from types import SimpleNamespace

from pygpt.backend import reference
from pygpt.backend.reference.gelu import gelu_slope
from pygpt.backend.reference.operands import read_operand
from pygpt.backend.reference.few_rows import whole_times_power
from pygpt.backend.reference.softmax import logsumexp
from pygpt.check.calls import run_reference
from pygpt.check.differences import FLOOR, UNIT, Bound

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


# --------------------------------------------------------------------- softmax, cross-entropy ---

def softmax_errors(x, x_errors=None):
    """Return (p, relative errors of p, error of the lse) for p = softmax(x) with errors in x."""
    p, terms, total, lse_error = softmax_sums(x, x_errors or [0.0] * len(x))
    return p, [t + total for t in terms], lse_error


def softmax_sums(x, x_errors):
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
