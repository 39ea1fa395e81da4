"""Compares the backward kernels of the reference with central differences in double precision.

The C kernels are compared with the reference, so their gradients rest on this.

Where the operands of products are rounded, the forward pass is a staircase, and its derivative is 0
or does not exist. What the backward kernels compute is the derivative of the function without
rounding, at the rounded operands, and they round operands in turn. That is what they are compared
with: differences of the float32 function at rounded inputs. Besides the error of the differences,
the bound has what the rounding of computed operands adds. A layer has none of these.
"""

from collections import namedtuple
from itertools import product
from math import exp, sqrt
from random import Random
from types import SimpleNamespace

from pygpt.backend import reference
from pygpt.backend.reference.dropout import dropout_factors
from pygpt.backend.reference.operands import read_operand
from pygpt.check.bounds import abs_dot, dot
from pygpt.check.calls import Fault, run_reference
from pygpt.check.cases import CASES
from pygpt.check.differences import Difference
from pygpt.check.header import KERNELS
from pygpt.check.sizes import between, one_of

# backward undoes forward; `of` maps each gradient to the input it belongs to, and `given` the
# gradient handed in to the output it belongs to.
Gradient = namedtuple("Gradient", "backward forward of given")
OUT = {"dout": "out"}
LOSS = {"dloss": "loss"}
GRADIENTS = [
    Gradient("linear_backward_input", "linear_forward", {"dinp": "inp"}, OUT),
    Gradient("linear_backward_weight", "linear_forward",
             {"dweight": "weight", "dbias": "bias"}, OUT),
    Gradient("attention_backward", "attention_forward", {"dqkv": "qkv"}, OUT),
    Gradient("softmax_backward", "softmax_forward", {"dinp": "inp"}, OUT),
    Gradient("layernorm_backward", "layernorm_forward",
             {"dinp": "inp", "dweight": "weight", "dbias": "bias"}, OUT),
    Gradient("gelu_backward", "gelu_forward", {"dinp": "inp"}, OUT),
    Gradient("embedding_backward", "embedding_forward", {"dwte": "wte", "dwpe": "wpe"}, OUT),
    Gradient("cross_entropy_backward", "cross_entropy_forward", {"dlogits": "logits"}, LOSS),
    Gradient("linear_cross_entropy_backward", "linear_cross_entropy_forward",
             {"dinp": "inp", "dweight": "weight"}, LOSS),
    Gradient("dropout_backward", "dropout_forward", {"dinp": "inp"}, OUT),
    Gradient("mul_backward", "mul_forward", {"da": "a"}, OUT),
    Gradient("sum_backward", "sum_forward", {"dinp": "inp"}, OUT),
]
F32, BF16 = reference.PYGPT_FLOAT32, reference.PYGPT_BFLOAT16
FORWARD_CASES = {case.kernel: case for case in CASES}
CHOICES = {"dropout": one_of((0.0, 0.3)), "past": one_of((0,)), "eps": one_of((1e-5,)),
           "ignore_index": one_of((-100, 0)), "dtype": one_of((F32,))}
NOT_INPUTS = ("pre", "act")  # outputs that may be absent, as they are here

HALF_BIT = 2.0 ** -8  # the largest relative error of one rounding to bfloat16
STEP = 2.0 ** -13  # errors of order STEP^2 in the formula, 2^-52 / STEP in the rounding


def sizes_of(gradient):
    """Return {name: sizes.Values} of the arguments of the forward kernel."""
    return {name: CHOICES.get(name, between(1, 4))
            for name in FORWARD_CASES[gradient.forward].sizes}


def types_of(gradient):
    """Return the types to which the kernels round operands."""
    return FORWARD_CASES[gradient.forward].dtypes


def differences(gradient, sizes, dtype):
    """Yield a Difference for each element of each gradient: the backward kernel's against those of
    the forward kernel without rounding."""
    case = FORWARD_CASES[gradient.forward]

    def round_operands(x):
        return x if dtype == F32 else read_operand(x, len(x), dtype)

    args = case.chosen(sizes, absent=NOT_INPUTS)
    for p in KERNELS[gradient.forward]:
        if p.ctype == "float" and p.pointer and not p.output and args[p.name]:
            args[p.name] = round_operands(args[p.name])
    outputs = run_reference(gradient.forward, with_dtype(args, dtype))
    rng = Random(1)
    cotangents = {d: round_operands([rng.gauss(0, 1) for _ in outputs[out]])
                  for d, out in gradient.given.items()}

    known = with_dtype({**args, **case.derive(sizes), **outputs, **cotangents}, dtype)
    found = analytic(gradient, known)
    rounds = ROUNDING.get(gradient.backward) if dtype == BF16 else None
    rounding = rounds(known) if rounds else {}
    for name, source in gradient.of.items():
        if len(found[name]) != len(args[source]):
            raise Fault(f"{gradient.backward}: {name} and {source} differ in length")
        for i, value in enumerate(found[name]):
            expected, allowed = numeric(gradient, args, source, i, cotangents)
            allowed += rounding[name][i] if rounding else 0.0
            yield Difference(name, i, value, expected, allowed)


def with_dtype(args, dtype):
    return {name: dtype if name == "dtype" else value for name, value in args.items()}


def rounding_of_attention(known):
    """Bound the effect of rounding the weights and ds: HALF_BIT of each of them. Besides, D is dout
    times an output that was computed with rounded weights and is itself rounded."""
    a = SimpleNamespace(**known)
    HS, error = a.C // a.NH, [0.0] * len(a.qkv)
    for r, (b, h, i) in enumerate(product(range(a.B), range(a.NH), range(a.T))):
        row = [(b * a.T + j) * 3 * a.C + h * HS for j in range(i + 1)]
        q, k, v = ([a.qkv[o + part * a.C:o + part * a.C + HS] for o in row] for part in range(3))
        o = (b * a.T + i) * a.C + h * HS
        dout, out = a.dout[o:o + HS], a.out[o:o + HS]
        f = dropout_factors(a.dropout, a.seed, a.stream, r, i + 1, a.NH)
        p = [exp(dot(q[i], k_j) / sqrt(HS) - a.lse[r]) for k_j in k]
        weights = [f_j * p_j for f_j, p_j in zip(f, p)]
        e_D = HALF_BIT * (sum(w * abs_dot(dout, v_j) for w, v_j in zip(weights, v))
                          + abs_dot(dout, out))
        for j, at in enumerate(row):
            ds = p[j] * (f[j] * dot(dout, v[j]) - dot(dout, out))
            e_ds = (HALF_BIT * abs(ds) + (1 + HALF_BIT) * p[j] * e_D) / sqrt(HS)
            for c in range(HS):
                error[row[i] + c] += e_ds * abs(k[j][c])
                error[at + a.C + c] += e_ds * abs(q[i][c])
                error[at + 2 * a.C + c] += HALF_BIT * weights[j] * abs(dout[c])
    return {"dqkv": error}


def rounding_of_the_head(known):
    """Bound the effect of rounding dlogits: HALF_BIT of each of them."""
    a = SimpleNamespace(**known)
    logits, d = [0.0] * (a.R * a.V), [0.0] * (a.R * a.V)
    reference.matmul(logits, a.inp, a.weight, a.R, a.V, a.C, 0, 1, 0, F32)
    reference.cross_entropy_backward(d, a.dloss, logits, a.targets, a.R, a.V, a.ignore_index, 0)
    d, inp, weight = ([abs(x) for x in xs] for xs in (d, a.inp, a.weight))
    dinp, dweight = [0.0] * len(inp), [0.0] * len(weight)
    reference.matmul(dinp, d, weight, a.R, a.C, a.V, 0, 0, 0, F32)
    reference.matmul(dweight, d, inp, a.V, a.C, a.R, 1, 0, 0, F32)
    return {name: [HALF_BIT * x for x in xs] for name, xs in (("dinp", dinp), ("dweight", dweight))}


ROUNDING = {"attention_backward": rounding_of_attention,
            "linear_cross_entropy_backward": rounding_of_the_head}


def analytic(gradient, known):
    """Run the backward kernel with arguments taken from `known` by name; return its outputs."""
    args = {}
    for p in KERNELS[gradient.backward]:
        if p.name in gradient.of:
            args[p.name] = [0.0] * len(known[gradient.of[p.name]])
        else:
            args[p.name] = 0 if p.name.startswith("accumulate") else known.get(p.name)
    return run_reference(gradient.backward, args)


def numeric(gradient, args, source, i, cotangents):
    """Return d(sum of cotangent * output) / d args[source][i], and its error bound.

    (f(x+h) - f(x-h)) / 2h has an error of c h^2 + O(h^4); twice the step has 4 c h^2, so the two
    differ by three times the error of the first. Rounding adds some 2^-52 |terms| / h.
    """
    def moved(by):
        changed = {**args, source: [x + by * (k == i) for k, x in enumerate(args[source])]}
        outputs = run_reference(gradient.forward, changed)
        terms = [g * y for d, out in gradient.given.items()
                 for g, y in zip(cotangents[d], outputs[out])]
        return sum(terms), sum(map(abs, terms))

    def slope(h):
        (above, size), (below, _) = moved(h), moved(-h)
        return (above - below) / (2 * h), size

    (near, size), (far, _) = slope(STEP), slope(2 * STEP)
    return near, abs(far - near) + 2.0 ** -49 * (size + 1.0) / STEP
