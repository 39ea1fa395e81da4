"""Tests the kernels that round operands to bfloat16, where they do it and where they do not.

test_kernels.py compares whole results with the reference, within derived bounds. Here single
operands are picked out, so that a result is one rounded number, whatever the rounding error of
float32: ties, their neighbours, overflow, infinity, NaN and denormals in every place where a kernel
rounds. The definition of the rounding is the reference's, which test_convert.py checks bit by bit.
"""

import math
import random
import struct
from array import array
from dataclasses import replace

import pytest

from pygpt.backend import kernels as library
from pygpt.backend.reference.dropout import dropout_factors
from pygpt.backend.reference.operands import read_operand
from pygpt.backend.kernels import BFLOAT16
from pygpt.check.calls import CCall, run_everywhere
from pygpt.check.cases import CASES
from pygpt.check.differences import UNIT, assert_within
from pygpt.check.header import KERNELS, flags_of
from pygpt.check.sets import use_isa
from pygpt.check.threads import sharing
from sharing import needs_threads

needs_c = pytest.mark.skipif(library.ffi is None, reason="the C library is not in use")
LEAST = 2.0 ** -126  # the smallest normal number


# --------------------------------------------------------------------------------- the rounding ---

def float_of(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def rounded(x):
    return read_operand(x, len(x), BFLOAT16)


# Upper halves of floats, each with lower halves that lie on a number, beside it, and around the tie
# above it. From 0x3FFF the carry reaches the exponent, from 0x7F7F infinity, from 0x7F the normal
# numbers.
UPPER = (0x3F80, 0x3F81, 0x3FFF, 0x4049, 0x404A, 0x4780, 0x2E5B, 0x0080, 0x0081, 0x7F7E, 0x7F7F)
DENORMAL = (0x0000, 0x0001, 0x0040, 0x007F)
LOWER = (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF)
FLOATS = [float_of(sign << 31 | upper << 16 | lower)
          for upper in UPPER + DENORMAL for lower in LOWER for sign in (0, 1)]
# The last two are NaNs in whose bits a carry runs through to the sign.
SPECIAL = [math.inf, -math.inf, math.nan, -math.nan, float_of(0x7FFFFFFF), float_of(0xFFFFFFFF)]
# Those that are finite after rounding, with room for products and sums.
MODERATE = [x for x in FLOATS if 2.0 ** -60 < abs(x) < 2.0 ** 60]


def assert_rounded(got, inputs, where):
    """Check that each result is the rounded input, to the bit. A denormal number, and one that is
    rounded to such a number, may count as 0."""
    for x, y, want in zip(inputs, got, rounded(inputs), strict=True):
        if want != want:
            assert y != y, f"{where}: {x} became {y!r}"
        else:
            assert y == want or (y == 0.0 and abs(x) < LEAST), (
                f"{where}: {x!r} ({struct.pack('>f', x).hex()}) became {y!r}, not {want!r}")


def test_the_values_hold_what_they_are_for():
    finite = {x: y for x, y in zip(FLOATS, rounded(FLOATS))}
    assert sum(math.isinf(y) for y in finite.values()) == 2 * 3  # 0x7F7F and a tie or more
    assert sum(0 < abs(x) < LEAST and abs(y) == LEAST for x, y in finite.items()) == 2 * 3
    assert any(abs(y) == 2 * abs(float_of(0x3F800000)) for y in finite.values())


def arguments(kernel, **given):
    """Return the arguments of a kernel in order: dtype 1 and 0 for what is not given."""
    args = {p.name: None if p.pointer else 0 for p in KERNELS[kernel]} | {"dtype": BFLOAT16}
    if "dropout" in args:
        args["dropout"] = 0.0
    assert given.keys() <= args.keys()
    return args | given


def everywhere(kernels, kernel, **given):
    """Yield (a name for messages, outputs) of a kernel on each instruction set."""
    call = CCall(kernels, kernel, arguments(kernel, **given), inout=("keys", "values"))
    for isa, outputs in run_everywhere(kernels, call, {}):
        yield f"{kernel} on {isa}", {name: list(x.values()) for name, x in outputs.items()}


# Products out (M,N) = left right over K: kernel, the names of these, of the sizes, and flags.
PRODUCTS = [
    *(("matmul", ("a", "b", "out"), ("M", "N", "K"), {"transpose_a": i, "transpose_b": j})
      for i in (0, 1) for j in (0, 1)),
    ("linear_forward", ("inp", "weight", "out"), ("R", "OUT", "IN"), {}),
    ("linear_backward_input", ("dout", "weight", "dinp"), ("R", "IN", "OUT"), {}),
    ("linear_backward_weight", ("inp", "dout", "dweight"), ("IN", "OUT", "R"), {}),
]
products = pytest.mark.parametrize("kernel, names, sizes, flags", PRODUCTS, ids=[
    "-".join([kernel, *(name for name, on in flags.items() if on)])
    for kernel, _, _, flags in PRODUCTS])


def test_every_kernel_with_a_dtype_is_tested_here():
    tested = {kernel for kernel, *_ in PRODUCTS} | {
        "attention_forward", "attention_backward", "attention_cached",
        "linear_cross_entropy_forward", "linear_cross_entropy_backward"}
    assert tested == {name for name, params in KERNELS.items()
                      if "dtype" in [p.name for p in params]}
    assert tested == {case.kernel for case in CASES if case.dtypes[1:]}


@needs_c
@products
@pytest.mark.parametrize("other", (1, 3, 20), ids="by {}".format)
def test_a_product_with_one_rounds_each_operand(kernels, kernel, names, sizes, flags, other):
    """With K = 1 the other operand's ones give each number alone. `other` is how many there are:
    one row is computed as dot products where B is transposed, 20 fill whole tiles and a part."""
    inputs = FLOATS + SPECIAL
    left, right, out = names
    for M, N in ((len(inputs), other), (other, len(inputs))):
        by_row = N == other
        given = {left: inputs if by_row else [1.0] * M, right: [1.0] * N if by_row else inputs,
                 out: [0.0] * (M * N), **dict(zip(sizes, (M, N, 1))), **flags}
        for where, outputs in everywhere(kernels, kernel, **given):
            wanted = [x for x in inputs for _ in range(N)] if by_row else inputs * M
            assert_rounded(outputs[out], wanted, f"{where}, {left if by_row else right}")


@needs_c
@products
@pytest.mark.parametrize("rows", (1, 4, 5, 50), ids="{} rows".format)
def test_a_product_with_the_identity_rounds_each_operand(kernels, kernel, names, sizes, flags,
                                                         rows):
    """Sums of one number and zeros, at any place of a panel: with several parts of K. The last
    product takes four rows of the identity, which a transposed B lets be computed as dot products.
    """
    finite = [x for x, y in zip(FLOATS, rounded(FLOATS)) if abs(y) < math.inf]
    K = 270
    rng = random.Random(rows)
    inputs = [rng.choice(finite) for _ in range(rows * K)]
    transposed = [inputs[r * K + k] for k in range(K) for r in range(rows)]
    one = [float(i == j) for i in range(K) for j in range(K)]
    picked = [0, 5, K - 2, K - 1]
    few = [float(i == k) for i in picked for k in range(K)]
    few_transposed = [float(i == k) for k in range(K) for i in picked]
    left, right, out = names
    a_is_transposed = kernel == "linear_backward_weight" or flags.get("transpose_a")
    b_is_transposed = kernel == "linear_backward_input" or flags.get("transpose_b")
    for M, N, a, b, wanted in (
            (rows, K, transposed if a_is_transposed else inputs, one, inputs),
            (K, rows, one, inputs if b_is_transposed else transposed, transposed),
            (4, rows, few_transposed if a_is_transposed else few,
             inputs if b_is_transposed else transposed,
             [inputs[r * K + k] for k in picked for r in range(rows)])):
        given = {left: a, right: b, out: [0.0] * (M * N), **dict(zip(sizes, (M, N, K))), **flags}
        for where, outputs in everywhere(kernels, kernel, **given):
            assert_rounded(outputs[out], wanted, where)


@needs_c
def test_a_signalling_nan_stays_a_nan(kernels):
    """One whose bits that show it would be rounded away. Python's floats have no such number."""
    memory = [kernels.Memory(4) for _ in range(3)]
    out, a, b = (block.pointer("f") for block in memory)
    memory[2].view.cast("f")[0] = 1.0
    for isa in kernels.isa_names():
        with use_isa(isa):
            for bits in (0x7F800001, 0xFF807FFF, 0x7F808000):
                memory[1].view.cast("I")[0] = bits
                for operands in ((a, b), (b, a)):
                    assert kernels.lib.matmul(out, *operands, 1, 1, 1, 0, 0, 0, BFLOAT16) == 0
                    value, = memory[0].view.cast("f")
                    assert value != value, f"{bits:x} on {isa}"


@needs_c
def test_what_is_added_to_a_product_is_not_rounded(kernels):
    """The products are 0, so that the bias, the residual and the sums before are left."""
    n, zeros = len(MODERATE), [0.0] * len(MODERATE)
    for where, outputs in everywhere(kernels, "linear_forward", out=zeros, inp=[0.0], R=1, IN=1,
                                     weight=zeros, bias=MODERATE, OUT=n):
        assert outputs["out"] == MODERATE, where
    for where, outputs in everywhere(kernels, "linear_forward", out=zeros, inp=[0.0], R=1, IN=1,
                                     weight=zeros, residual=MODERATE, OUT=n):
        assert outputs["out"] == MODERATE, where
    for where, outputs in everywhere(kernels, "matmul", out=MODERATE, a=[0.0], b=zeros, M=1, N=n,
                                     K=1, accumulate=1):
        assert outputs["out"] == MODERATE, where


@needs_c
@pytest.mark.parametrize("R, IN", ((1, 1), (300, 1), (300, 0), (7, 40)))
def test_the_gradient_of_a_bias_sums_what_is_not_rounded(kernels, R, IN):
    """Numbers with 12 bits have exact sums, but are not bfloat16 numbers."""
    rng = random.Random(R)
    dout = [rng.randrange(1 << 11, 1 << 12) / 4096 for _ in range(R * 70)]
    operands = rounded(dout)
    assert sum(x != y for x, y in zip(dout, operands)) > len(dout) / 2
    dbias, dweight = ([sum(x[o::70]) for o in range(70)] for x in (dout, operands))
    for where, outputs in everywhere(
            kernels, "linear_backward_weight", dweight=[0.0] * (IN * 70), dbias=[0.0] * 70,
            inp=[1.0] * (R * IN), dout=dout, R=R, IN=IN, OUT=70):
        assert outputs["dbias"] == dbias, where
        assert outputs["dweight"] == dweight * IN, where


# ------------------------------------------------------------------------------------- attention --

def by_head(*parts):
    """Return a row of qkv for one position. Each part, q, k or v, is a list or a number for all."""
    n = max(len(part) for part in parts if isinstance(part, list))
    return [x for part in parts for x in (part if isinstance(part, list) else [part] * n)]


def near(got, inputs, where):
    """Check numbers that carry some errors of float32, which a forgotten rounding exceeds."""
    for x, y, want in zip(inputs, got, rounded(inputs), strict=True):
        assert abs(y - want) <= 8 * UNIT * (abs(want) + 2.0), f"{where}: {x!r} became {y!r}"


@needs_c
def test_attention_rounds_q_k_and_v(kernels):
    """One position, heads of one channel. The lse is q k, and with q k = 0 the output is v: the
    weight 1/2 is a bfloat16 number."""
    inputs = [x for x in MODERATE if abs(x) < 2.0 ** 20]
    n = len(inputs)
    sizes, zeros = dict(B=1, T=1, C=n, NH=n), [0.0] * n
    for qkv in (by_head(inputs, 1.0, 0.0), by_head(1.0, inputs, 0.0)):
        for where, outputs in everywhere(kernels, "attention_forward", out=zeros, lse=zeros,
                                         qkv=qkv, **sizes):
            near(outputs["lse"], inputs, where)
    qkv = by_head(0.0, 0.0, inputs)
    for where, outputs in everywhere(kernels, "attention_forward", out=zeros, lse=zeros, qkv=qkv,
                                     **sizes):
        near(outputs["out"], inputs, where)
    for where, outputs in everywhere(kernels, "attention_cached", out=zeros, keys=zeros,
                                     values=zeros, qkv=qkv, past=[0], P=1, **sizes):
        near(outputs["out"], inputs, where)
        assert outputs["values"] == inputs, where  # the cache is not rounded


@needs_c
def test_attention_rounds_v_and_dout_to_infinity_and_keeps_nan(kernels):
    inputs = [x for x in FLOATS if abs(x) > 4 * LEAST] + SPECIAL  # half of it must be normal
    n = len(inputs)
    sizes, zeros = dict(B=1, T=1, C=n, NH=n), [0.0] * n
    for where, outputs in everywhere(kernels, "attention_forward", out=zeros, lse=zeros,
                                     qkv=by_head(0.0, 0.0, inputs), **sizes):
        for x, y, want in zip(inputs, outputs["out"], rounded(inputs)):
            assert (y != y if x != x else
                    y == want or abs(y - want) <= 8 * UNIT * abs(want)), f"{where}: {x!r}: {y!r}"
    # p = exp(0 - 0) = 1, so that dv is dout.
    for where, outputs in everywhere(kernels, "attention_backward", dqkv=zeros * 3, dout=inputs,
                                     qkv=zeros * 3, out=zeros, lse=zeros, **sizes):
        assert_rounded(outputs["dqkv"][2 * n:], inputs, where)


def in_three(x):
    """Return three bfloat16 numbers whose sum is x, exactly and in any order."""
    parts = []
    for _ in range(3):
        bits = struct.unpack("<I", struct.pack("<f", x))[0]
        parts.append(float_of(bits & 0xFFFF0000))
        x -= parts[-1]
    assert x == 0.0
    return parts


@needs_c
@pytest.mark.parametrize("HS", (3, 4, 17))
def test_attention_rounds_ds_and_then_scales(kernels, HS):
    """With q . k = 0 and lse = 0 p is 1, and with out = 0 ds is dout . v, which is any float if
    dout has its parts and v ones. The scale 1 / sqrt(HS) is a power of 2 for one HS, and exact."""
    inputs = [x for x in FLOATS if abs(x) > 2.0 ** -100]  # the parts must be normal numbers
    n, rest = len(inputs), [0.0] * (HS - 3)
    dout = [part for x in inputs for part in (*in_three(x), *rest)]
    qkv = [0.0, 1.0, 0.0, *rest] * n + [1.0, 0.0, 0.0, *rest] * n + [1.0, 1.0, 1.0, *rest] * n
    zeros = [0.0] * (HS * n)
    for where, outputs in everywhere(
            kernels, "attention_backward", dqkv=zeros * 3, dout=dout, qkv=qkv, out=zeros,
            lse=[0.0] * n, B=1, T=1, C=HS * n, NH=n):
        dq, dk, dv = (outputs["dqkv"][part * HS * n:(part + 1) * HS * n] for part in range(3))
        for name, got in (("dq", dq[0::HS]), ("dk", dk[1::HS])):
            for x, y, want in zip(inputs, got, rounded(inputs), strict=True):
                y *= math.sqrt(HS)
                off = 0.0 if HS == 4 else 4 * UNIT * abs(want)  # of the scale and the product
                assert y == want or abs(y - want) <= off, f"{where}, {name}: {x!r} became {y!r}"
        assert dv == dout, where


@needs_c
@pytest.mark.parametrize("dropout", (0.0, 0.3))
def test_attention_rounds_p_with_the_factor_of_dropout(kernels, dropout):
    """dv is p times dropout's factor, rounded: p = exp(x) for q k = x and lse = 0."""
    n = 3000
    rng = random.Random(2)
    x = rounded([rng.uniform(-3, 3) for _ in range(n)])
    zeros, ones, seed = [0.0] * n, [1.0] * n, [7, 0]
    seen = 0
    for where, outputs in everywhere(
            kernels, "attention_backward", dqkv=zeros * 3, dout=ones, qkv=by_head(x, 1.0, 0.0),
            out=zeros, lse=zeros, B=1, T=1, C=n, NH=n, dropout=dropout, seed=seed):
        for r, (x_r, got) in enumerate(zip(x, outputs["dqkv"][2 * n:])):
            p = dropout_factors(dropout, seed, 0, r, 1)[0] * math.exp(x_r)
            # exp is good to 2 ulp, the factor and the product to half an ulp each: 8 UNIT in all
            low, high = rounded([p * (1 - 8 * UNIT), p * (1 + 8 * UNIT)])
            assert got in (low, high), f"{where}: exp({x_r}) became {got}"
            seen += low == high != p
    assert seen > n / 2


def agree(kernels, kernel, args):
    """Compare a kernel with the reference, on each instruction set and number of threads."""
    case = next(case for case in CASES if case.kernel == kernel)
    value, bounds = case.outcome(args)
    call = CCall(kernels, kernel, args, case.inout)
    for isa, outputs in run_everywhere(kernels, call, {}):
        for name in bounds.keys() & outputs.keys():
            assert_within(outputs[name].values(), value[name], bounds[name], None,
                          f"{kernel} on {isa}, {name}")
    return value, bounds


@needs_c
def test_a_weight_is_rounded_as_its_score_alone_demands(kernels):
    """One position in each of many heads: out = w / exp(x - m) with w the rounded exp(x - m)."""
    n = 2000
    rng = random.Random(3)
    qkv = by_head(rounded([rng.uniform(-100, 100) for _ in range(n)]), 1.0, 1.0)
    zeros = [0.0] * n
    args = arguments("attention_forward", out=zeros, lse=zeros, qkv=qkv, B=1, T=1, C=n, NH=n)
    value, bounds = agree(kernels, "attention_forward", args)
    assert max(abs(x - 1) for x in value["out"]) > 2.0 ** -9  # the rounding shows
    exact = sum(e < 2.0 ** -14 for e in bounds["out"].extra)
    assert exact > 0.95 * n  # and the bound allows the other side of a tie in few cases


# Scores that grow, so that the maximum moves in every block of keys; that fall; that do neither.
ORDERS = {"growing": lambda rng, j: 0.37 * j, "falling": lambda rng, j: -0.37 * j,
          "mixed": lambda rng, j: rng.gauss(0, 3), "one high": lambda rng, j: 20.0 * (j == 70)}


@needs_c
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", ("attention_forward", "attention_cached"))
def test_the_rounding_of_weights_does_not_depend_on_the_blocks_of_keys(kernels, kernel, order):
    T = 150
    rng = random.Random(4)
    qkv = list(array("f", [x for j in range(T) for x in (
        1.0, ORDERS[order](rng, j), rng.gauss(0, 1))]))
    if kernel == "attention_forward":
        args = arguments(kernel, out=[0.0] * T, lse=[0.0] * T, qkv=qkv, B=1, T=T, C=1, NH=1)
    else:
        args = arguments(kernel, out=[0.0], keys=qkv[1:-3:3] + [0.0], values=qkv[2:-3:3] + [0.0],
                         qkv=qkv[-3:], B=1, T=1, C=1, NH=1, past=[T - 1], P=T)
    agree(kernels, kernel, args)


@needs_c
def test_the_order_of_keys_changes_a_sum_and_no_weight(kernels):
    """All keys but the last are put into another order. Only the sum may round differently."""
    n = 400
    rng = random.Random(5)
    row = [(rng.gauss(0, 3), rng.gauss(0, 1)) for _ in range(n)]
    found = {}
    for number in range(4):
        for where, outputs in everywhere(
                kernels, "attention_cached", out=[0.0], keys=[k for k, _ in row] + [0.0],
                values=[v for _, v in row] + [0.0], qkv=[1.0, 0.5, 2.0], B=1, T=1, C=1, NH=1,
                past=[n], P=n + 1):
            found.setdefault(where, []).append(outputs["out"][0])
        rng.shuffle(row)
    row.append((0.5, 2.0))
    weights = [math.exp(k) for k in rounded([k for k, _ in row])]
    size = sum(w * abs(v) for w, (_, v) in zip(weights, row)) / sum(weights)
    for where, got in found.items():
        assert max(got) - min(got) <= 2 * (2 * n + 8) * UNIT * size, where


# ------------------------------------------------------------------------------------ the head ---

@needs_c
def test_the_head_rounds_its_input_and_weight(kernels):
    """Two logits, x w and 0, of which the second is the target: the loss is x w + log(1 + e^-xw),
    and x w is high."""
    inputs = [x for x in FLOATS if 2.0 ** 5 < x < 2.0 ** 20] + [
        float_of(0x41F80000 + (i << 16) + low) for i in range(4) for low in LOWER]
    R = len(inputs)
    zeros = [0.0] * R
    common = dict(loss=[0.0], C=1, V=2, ignore_index=-100)
    backward = dict(dinp=zeros, dweight=[0.0] * 2, dloss=[1.0])
    for kernel in ("linear_cross_entropy_forward", "linear_cross_entropy_backward"):
        more = backward if kernel.endswith("backward") else {}
        for where, outputs in everywhere(kernels, kernel, losses=zeros, inp=inputs, R=R,
                                         weight=[1.0, 0.0], targets=[1] * R, **common, **more):
            near(outputs["losses"], inputs, where)
        for x in inputs:
            more = more and dict(backward, dinp=[0.0])
            for where, outputs in everywhere(kernels, kernel, losses=[0.0], inp=[1.0], R=1,
                                             weight=[x, 0.0], targets=[1], **common, **more):
                near(outputs["losses"], [x], where)


@needs_c
def test_the_head_rounds_dlogits(kernels):
    """Two equal logits: p = 1/2, so that with dloss = 2 x the dlogits are -x and x, exactly."""
    inputs = [x for x in FLOATS if LEAST < abs(x) < 2.0 ** 126] + SPECIAL[2:]
    for x in inputs:
        for where, outputs in everywhere(
                kernels, "linear_cross_entropy_backward", loss=[0.0], losses=[0.0],
                dinp=[0.0] * 2, dweight=[0.0] * 4, dloss=[2 * x], inp=[1.0, 0.0],
                weight=[0.0, 0.0, 0.0, 1.0], targets=[0], R=1, C=2, V=2, ignore_index=-100):
            assert_rounded([outputs["dweight"][0], outputs["dweight"][2], outputs["dinp"][1]],
                           [-x, x, x], where)


# ---------------------------------------------------------------------------------- the threads ---

@needs_threads
@pytest.mark.parametrize("case", [case for case in CASES if case.dtypes[1:]], ids=str)
def test_no_number_of_threads_changes_a_bit(kernels, case):
    sizes = {"B": 2, "T": 150, "NH": 12, "HS": 64, "past": 20, "M": 130, "N": 170, "K": 600,
             "R": 130, "IN": 170, "OUT": 600, "C": 170, "V": 300, "dropout": 0.2,
             "dtype": BFLOAT16}
    if case.kernel == "attention_backward":  # any out and lse will do: the reference takes long
        args = replace(case, prepare=lambda args, rng: None).chosen(sizes)
    else:
        args = case.chosen(sizes)
    call = CCall(kernels, case.kernel, args, case.inout)
    for isa in kernels.isa_names():
        with use_isa(isa):
            found = set()
            for threads in (1, 2, 3, 5):
                kernels.set_num_threads(threads)
                sharing()
                code, outputs = call.run(dict.fromkeys(flags_of(case.kernel), 0))
                # a unit's blocks are large: not each job has five of them
                assert code == 0 and sharing()[0] >= min(threads, 3), f"{case.kernel} on {isa}"
                found.add(tuple(x.raw() for x in outputs.values()))
            assert len(found) == 1, f"{case.kernel} on {isa}"
