"""Tests products and attention on bfloat16 units: "amx_in_c" everywhere, and each of this machine.

The units' operations are modelled here in exact arithmetic, from Intel's manual; the kernels are
checked against the reference. Needs the built library.
"""

import math
import os
import random
import signal
import struct
import threading
import time
from array import array
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import pytest

from pygpt.backend import kernels as library
from pygpt.check.calls import CCall
from pygpt.check.cases import CASES
from pygpt.check.differences import Bound, assert_within
from pygpt.check.header import accumulate_flag, flag_settings
from pygpt.check.sets import WITH_UNITS, isas_for, units, use_isa
from pygpt.check.threads import HAS_THREADS, small_jobs_shared

pytestmark = pytest.mark.skipif(library.ffi is None, reason="the C library is not in use")

KB, MB = 1 << 10, 1 << 20
THREADS = (1, 2, 3, 5) if HAS_THREADS else (1,)
LEAST = 2.0 ** -126  # the smallest normal float
# The kernels that compute products only, with operands in bfloat16.
PRODUCTS = [replace(case, fixed={**case.fixed, "dtype": 1}) for case in CASES
            if case.kernel.startswith(("matmul", "linear")) and "cross" not in case.kernel
            and "dtype" in case.sizes]
ATTENTION = [replace(case, fixed={**case.fixed, "dtype": 1}) for case in CASES
             if case.kernel in ("attention_forward", "attention_backward")]
# The dimension over which each of the products sums.
SUMMED = {"matmul": "K", "linear_forward": "IN", "linear_backward_input": "OUT",
          "linear_backward_weight": "R"}
# Where macro tiles (32 x 32), pairs of k and steps of 32 end, and where parts of K do (512).
EDGES = (0, 1, 2, 17, 31, 32, 33, 65)
LONG = (511, 512, 513, 545, 1025)
# Where blocks of 32 queries and of 64 keys end, and more than one block of each is complete.
POSITIONS = (0, 1, 31, 32, 33, 64, 65, 97, 129)
CACHES = ((32 * KB, 64 * KB), (48 * KB, 2 * MB), (2 ** 62, 2 ** 63 - 1))


# ---------------------------------------------------------------- the operations, exactly ---

def rounded(exact):
    """Return the float32 next to a Fraction other than 0, ties to even; a denormal becomes 0."""
    sign, size = (-1.0 if exact < 0 else 1.0), abs(exact)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    step = Fraction(2) ** (exponent - 23)
    size = round(size / step) * step
    if size >= Fraction(2) ** 128:
        return sign * math.inf
    return sign * (float(size) if size >= Fraction(LEAST) else 0.0)


def normal(x):
    return math.copysign(0.0, x) if abs(x) < LEAST else x


def multiply_add(x, y, z):
    """Return x y + z, rounded once, for floats that are float32 numbers."""
    x, y, z = normal(x), normal(y), normal(z)
    if not all(map(math.isfinite, (x, y, z))):
        return x * y + z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    return rounded(exact) if exact else x * y + z  # the double has the sign of zero


def add(x, y):
    return multiply_add(1.0, x, y)


def tile_sum(a, b):
    """Model TDPBF16PS: for one row of A and one column of B, in steps of 16 pairs."""
    total = 0.0
    for k in range(0, len(a), 32):
        lower = upper = 0.0
        for i in range(k, min(k + 32, len(a)), 2):
            lower = multiply_add(a[i], b[i], lower)
            upper = multiply_add(a[i + 1], b[i + 1], upper)
        total = add(total, add(lower, upper))
    return total


def vector_sum(a, b):
    """Model VDPBF16PS, pair after pair."""
    total = 0.0
    for i in range(0, len(a), 2):
        total = multiply_add(a[i], b[i], multiply_add(a[i + 1], b[i + 1], total))
    return total


MODELS = {"amx": tile_sum, "amx_in_c": tile_sum, "avx512_bf16": vector_sum}


def bits(x):
    return "NaN" if math.isnan(x) else struct.pack("f", x)


def upper_half(x):
    """Cut a float32 to bfloat16."""
    return struct.unpack("f", struct.pack("I", struct.unpack("I", struct.pack("f", x))[0]
                                          & 0xFFFF0000))[0]


def any_bfloat16(rng):
    return struct.unpack("f", struct.pack("I", rng.getrandbits(16) << 16))[0]


def wide(rng):
    """Draw from numbers whose products overflow, vanish and cancel."""
    return upper_half(rng.uniform(1, 2) * rng.choice((-1, 1)) * 2.0 ** rng.choice(
        (-126, -120, -64, -63, -62, -8, -1, 0, 1, 8, 62, 63, 64, 127)))


def near_ties(rng):
    """Draw from numbers whose sums often lie half-way between two floats, or next to that."""
    return rng.choice((-1.0, 1.0)) * rng.choice((1.0, 1.0078125, 2.0 ** -12, 2.0 ** -13,
                                                 2.0 ** -24, 2.0 ** 11, 255 * 2.0 ** -20))


SOURCES = {"normal": lambda rng: upper_half(rng.gauss(0, 1)), "wide": wide,
           "near ties": near_ties, "any bits": any_bfloat16}


def product(kernels, a, b, M, N, K, dtype=1):
    """Return a (M,K) times b (K,N), computed by matmul."""
    args = {"out": [0.0] * (M * N), "a": a, "b": b, "M": M, "N": N, "K": K, "transpose_a": 0,
            "transpose_b": 0, "accumulate": 0, "dtype": dtype}
    code, outputs = CCall(kernels, "matmul", args).run({})
    assert code == 0
    return outputs["out"].values()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("M, N, K", [(16, 16, 32), (5, 33, 64), (3, 2, 512)])
def test_a_unit_has_the_bits_of_the_manual(kernels, source, M, N, K):
    rng = random.Random(f"{source} {M} {N} {K}")
    a, b = ([SOURCES[source](rng) for _ in range(n)] for n in (M * K, K * N))
    for unit in units():
        with use_isa(unit):
            got = product(kernels, a, b, M, N, K)
        for m in range(M):
            for n in range(N):
                want = MODELS[unit](a[m * K:m * K + K], b[n::N])
                assert bits(got[m * N + n]) == bits(want), (
                    f"{unit}: [{m}, {n}] is {got[m * N + n]!r}, the manual says {want!r}")


def backward_of_ones(kernels, T, HS, q, k, v, dout):
    """Return dq, dk and dv, each as rows, where lse and out are 0."""
    args = {"dqkv": [0.0] * (3 * T * HS), "dout": sum(dout, []),
            "qkv": [x for rows in zip(q, k, v) for row in rows for x in row],
            "out": [0.0] * (T * HS), "lse": [0.0] * T, "B": 1, "T": T, "C": HS, "NH": 1,
            "dropout": 0.0, "seed": None, "stream": 0, "dtype": 1}
    code, outputs = CCall(kernels, "attention_backward", args).run({})
    assert code == 0
    got = outputs["dqkv"].values()
    return [[got[i:i + HS] for i in range(part * HS, len(got), 3 * HS)] for part in range(3)]


@pytest.mark.parametrize("source", ("normal", "near ties"))
@pytest.mark.parametrize("T", (5, 97))
def test_attention_on_a_unit_has_the_bits_of_the_manual(kernels, source, T):
    """With q or k 0 and lse 0, p is 1. With out 0 ds is dout . v, which is a number of our choice,
    x, where dout or v is 1, 0, 0, 0. The scale of four channels is 1/2."""
    HS, rng = 4, random.Random(f"{source} {T}")
    some = [[SOURCES[source](rng) for _ in range(HS)] for _ in range(T)]
    x = [SOURCES[source](rng) for _ in range(T)]
    first, zeros = [[1.0, 0.0, 0.0, 0.0]] * T, [[0.0] * HS] * T
    of_x = [[each, 0.0, 0.0, 0.0] for each in x]
    for unit in units():
        model = MODELS[unit]
        with use_isa(unit):
            dq = backward_of_ones(kernels, T, HS, zeros, some, of_x, first)[0]
            dk = backward_of_ones(kernels, T, HS, some, zeros, first, of_x)[1]
            dv = backward_of_ones(kernels, T, HS, zeros, zeros, zeros, some)[2]
        for t in range(T):
            for c in range(HS):
                column = [row[c] for row in some] + [0.0] * (T % 2)
                to_t = x[:t + 1] + [0.0] * (len(column) - t - 1)
                from_t = [0.0] * t + x[t:] + [0.0] * (T % 2)
                ones = [0.0] * t + [1.0] * (T - t) + [0.0] * (T % 2)
                wanted = model(to_t, column) / 2, model(from_t, column) / 2, model(ones, column)
                for name, got, want in zip(("dq", "dk", "dv"), (dq, dk, dv), wanted):
                    assert bits(got[t][c]) == bits(want), (
                        f"{unit}: {name}[{t}, {c}] is {got[t][c]!r}, the manual says {want!r}")


def test_the_model_of_the_manual():
    """By hand: the order of the additions, the single rounding, the denormals."""
    tiny = 2.0 ** -24
    # (1 + tiny) + (tiny + tiny): in one chain 1 + tiny + tiny + tiny would stay 1
    assert tile_sum([1.0, tiny, tiny, tiny], [1.0] * 4) == 1.0 + 2 * tiny
    assert vector_sum([1.0, tiny, tiny, tiny], [1.0] * 4) == 1.0
    assert vector_sum([tiny, tiny, 0.0, 1.0], [1.0] * 4) == 1.0 + 2 * tiny
    # the product overflows, the sum does not
    assert multiply_add(2.0 ** 64, 2.0 ** 64, -2.0 ** 127) == 2.0 ** 127
    assert multiply_add(2.0 ** 64, 2.0 ** 64, 0.0) == math.inf
    # the product is below the smallest float, the sum is not
    assert multiply_add(2.0 ** -75, 2.0 ** -75, LEAST) == LEAST
    assert multiply_add(2.0 ** -64, 2.0 ** -63, LEAST) == 1.5 * LEAST
    assert multiply_add(2.0 ** -64, 2.0 ** -63, 0.0) == 0.0
    assert multiply_add(LEAST / 2, 2.0, LEAST) == LEAST
    assert bits(multiply_add(-LEAST, 0.5, -0.0)) == bits(-0.0)
    assert math.isnan(multiply_add(math.inf, 0.0, 1.0))


# ------------------------------------------------------------------ against the reference ---

def on_each_unit(call, flags, threads=THREADS):
    """Yield (unit, outputs of the call), the bits being the same for all numbers of threads."""
    for unit in units():
        outputs = None
        for n in threads:
            with use_isa(unit), library.use_threads(n), small_jobs_shared():
                code, got = call.run(flags)
            assert code == 0
            outputs = outputs or got
            for name in got:
                assert got[name].raw() == outputs[name].raw(), (
                    f"{call.kernel} on {unit}: {n} threads change the bits of {name}")
        yield unit, outputs


def check(kernels, case, args, aliases=None, sample=False):
    """Run a kernel on each unit, for all accumulate flags, against the reference."""
    aliases = aliases or {}
    part, positions = case.sampled(args) if sample else (args, {})
    value, bounds = case.outcome(part)
    call = CCall(kernels, case.kernel, args, case.inout, aliases)
    for flags in flag_settings(case.kernel):
        if aliases and any(flags.values()):
            continue
        for unit, outputs in on_each_unit(call, flags):
            for name in bounds.keys() & outputs.keys():
                got = outputs[name].values()
                got = [got[i] for i in positions[name]] if sample else got
                old = part[name] if flags.get(accumulate_flag(case.kernel, name)) else None
                assert_within(got, value[name], bounds[name], old,
                              f"{case.kernel} on {unit}, {flags}, {name}")


def dimensions(case):
    return [name for name in case.sizes if name in ("M", "N", "K", "R", "IN", "OUT")]


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
@pytest.mark.parametrize("absent", [(), ("pre", "act", "bias", "residual", "dbias")])
def test_a_unit_agrees_with_the_reference_at_every_edge(kernels, case, absent):
    for name in dimensions(case):
        for size in EDGES:
            sizes = {dimension: 35 for dimension in dimensions(case)} | {name: size}
            check(kernels, case, case.chosen(sizes, absent=absent))


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
@pytest.mark.parametrize("length", LONG)
def test_a_unit_agrees_with_the_reference_where_the_sum_is_split(kernels, case, length):
    sizes = {name: 5 for name in dimensions(case)} | {SUMMED[case.kernel]: length}
    check(kernels, case, case.chosen(sizes))
    for output, shared, _ in case.may_alias:
        args = case.chosen(sizes, absent=("pre",) if case.kernel == "linear_forward" else ())
        check(kernels, case, {**args, output: args[shared]}, {output: shared})


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_a_unit_agrees_with_the_reference_where_blocks_and_threads_meet(kernels, case):
    check(kernels, case, case.chosen(case.large[0]), sample=True)


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_a_unit_sums_whole_numbers_exactly(kernels, case):
    """Find a single term that is lost, counted twice, or multiplied by its neighbour's partner."""
    optional = ("pre", "act", "bias", "residual")
    args = case.chosen({name: 97 for name in dimensions(case)}, absent=optional, kind="ties")
    value, bounds = case.outcome(args)
    for unit, outputs in on_each_unit(CCall(kernels, case.kernel, args), flag_settings(
            case.kernel)[0]):
        for name in bounds.keys() & outputs.keys():
            bound = Bound(0, [0.0] * len(value[name]))
            assert_within(outputs[name].values(), value[name], bound, None, f"{name} on {unit}")


@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention_on_a_unit_agrees_with_the_reference_at_every_edge(kernels, case):
    for T in POSITIONS:
        check(kernels, case, case.chosen({"B": 1, "T": T, "HS": 5, "dropout": 0.2 * (T % 2)}))
    for HS in EDGES[1:]:  # without channels there is no output
        check(kernels, case, case.chosen({"B": 1, "T": 35, "HS": HS, "dropout": 0.2 * (HS % 2)}))


@pytest.mark.parametrize("case", ATTENTION, ids=str)
@pytest.mark.parametrize("kind", ("large", "wide", "ties"))
def test_attention_on_a_unit_agrees_with_the_reference_on_any_numbers(kernels, case, kind):
    """The largest score moves from block to block, by more than exp can hold or not at all."""
    check(kernels, case, case.chosen({"B": 1, "T": 140, "HS": 3}, kind=kind))


@pytest.mark.parametrize("special", (math.nan, math.inf, 3.4e38))
def test_nan_and_infinity_stay_in_their_head_and_block(kernels, special):
    """Padding and masked keys multiply by 0, which must not make a NaN of another head or block. A
    value at position 69 may not reach outputs or dq up to position 63. A dout at position 3 may not
    reach gradients from position 64 on. Channel 36 is the last of head 0, and 37 the first of
    head 1."""
    T, NH, HS = 70, 2, 37
    C = NH * HS
    for case in ATTENTION:
        clean = case.chosen({"B": 1, "T": T, "NH": NH, "HS": HS})
        places = [("qkv", 69, part * C) for part in range(3)]
        if case.kernel == "attention_backward":
            places += [("dout", 69, 0), ("dout", 3, 0)]
        for name, t, c in [(name, t, c + channel) for name, t, c in places for channel in (36, 37)]:
            width = len(clean[name]) // T
            args = {**clean, name: list(clean[name])}
            args[name][t * width + c] = special
            for unit in units():
                with use_isa(unit):
                    got, want = ({name: out.values() for name, out in
                                  CCall(kernels, case.kernel, a).run({})[1].items()}
                                 for a in (args, clean))
                for output in got.keys() - {"lse"}:
                    width = len(got[output]) // T
                    same = [i for i in range(len(got[output])) if i % C // HS != c % C // HS
                            or (i // width < 64 if t >= 64 else i // width >= 64)
                            and (case.kernel == "attention_forward" or i % width < C or t < 64)]
                    assert same and all(bits(got[output][i]) == bits(want[output][i])
                                        for i in same), f"{unit}: {name}[{t}, {c}], {output}"


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_no_cache_changes_a_bit_on_a_unit(kernels, case):
    sizes = {name: 550 if name == SUMMED[case.kernel] else 130 for name in dimensions(case)}
    call = CCall(kernels, case.kernel, case.chosen(sizes))
    seen = {}
    for l1, l2 in CACHES:
        with kernels.use_caches(l1, l2):
            for unit, outputs in on_each_unit(call, flag_settings(case.kernel)[0], (1, 2)):
                raw = {name: output.raw() for name, output in outputs.items()}
                assert seen.setdefault(unit, raw) == raw, f"an L2 of {l2} bytes on {unit}"


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
def test_nan_infinity_and_overflow_reach_the_sums_that_they_belong_to(kernels, case):
    """A float above the largest bfloat16 becomes infinite, as in the reference. At the edges, where
    zeros fill the tiles up, none of it may reach another element."""
    optional = ("pre", "act", "bias", "residual", "dbias")
    operands = [name for name in ("a", "b", "inp", "weight", "dout") if name in case.shapes]
    for special in (math.nan, math.inf, -math.inf, 3.4e38):
        for name in operands:
            args = case.chosen({d: 37 for d in dimensions(case)}, absent=optional)
            values = list(args[name])
            values[len(values) // 2] = values[-1] = special
            args[name] = list(array("f", values))
            (output, want), = case.outcome(args)[0].items()
            assert not all(map(math.isfinite, want)) and any(map(math.isfinite, want))
            for unit, outputs in on_each_unit(CCall(kernels, case.kernel, args), {}):
                for i, (x, y) in enumerate(zip(outputs[output].values(), want)):
                    assert (x == y or math.isfinite(y) and math.isfinite(x)
                            or math.isnan(x) and math.isnan(y)), (
                        f"{unit}: {special} in {name} makes {output}[{i}] {x}, not {y}")


@pytest.mark.parametrize("case", (PRODUCTS[0], *ATTENTION), ids=str)
def test_other_operands_are_computed_as_without_a_unit(kernels, case):
    case = replace(case, fixed={**case.fixed, "dtype": 0})
    call = CCall(kernels, case.kernel, case.chosen({"M": 37, "N": 70, "K": 300, "T": 70}))
    raw = {}
    for isa in kernels.isa_names():
        with use_isa(isa):
            outputs = call.run(flag_settings(case.kernel)[0])[1]
            raw[isa] = [output.raw() for output in outputs.values()]
    same = {"amx": "avx512", "avx512_bf16": "avx512", "amx_in_c": isas_for(kernels.FLOAT32)[0]}
    for unit in units():
        assert raw[unit] == raw[same[unit]]


# ------------------------------------------------------------------- the process around it ---

@contextmanager
def some_work(kernels, unit):
    """Give a function that computes a product and attention, and the wanted bits."""
    rng = random.Random(unit)
    a, b = ([rng.gauss(0, 1) for _ in range(200 * 200)] for _ in range(2))
    attention = [CCall(kernels, case.kernel, replace(case, prepare=lambda args, rng: None).chosen(
        {"B": 1, "T": 100, "HS": 40})) for case in ATTENTION]

    def compute():
        found = [product(kernels, a, b, 200, 200, 200).tobytes()]
        for call in attention:
            found += [output.values().tobytes() for output in call.run({})[1].values()]
        return found

    with use_isa(unit), small_jobs_shared():
        yield compute, compute()


@pytest.mark.parametrize("unit", WITH_UNITS)
def test_a_forked_process_computes_the_same(kernels, unit):
    if unit not in units():
        pytest.skip(f"no {unit} here")
    with some_work(kernels, unit) as (compute, wanted):
        child = os.fork()
        if not child:
            os._exit(0 if compute() == wanted else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert compute() == wanted


@pytest.mark.parametrize("unit", WITH_UNITS)
def test_threads_of_others_compute_the_same(kernels, unit):
    if unit not in units():
        pytest.skip(f"no {unit} here")
    with some_work(kernels, unit) as (compute, wanted):
        found = []
        threads = [threading.Thread(target=lambda: found.extend(compute() for _ in range(5)))
                   for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [wanted] * 15


@pytest.mark.parametrize("unit", WITH_UNITS)
def test_signals_during_the_work_change_nothing(kernels, unit):
    if unit not in units():
        pytest.skip(f"no {unit} here")
    caught = []
    before = signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
    try:
        with some_work(kernels, unit) as (compute, wanted):
            signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                assert compute() == wanted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught
