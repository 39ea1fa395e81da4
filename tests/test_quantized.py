"""Tests weights at rest in int8 and bfloat16: what is rounded, and that rows do not meet.

test_kernels.py has sizes, threads, margins and error bounds, with the cases of pygpt/check/.
Needs the built library.
"""

import math
from array import array
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pygpt.backend import reference
from pygpt.backend.reference.few_rows import whole_times_power
from pygpt.backend.reference.int8 import LEAST_QUANTIZED
from pygpt.check.calls import CCall, run_everywhere
from pygpt.check.cases import CASES
from pygpt.check.differences import UNIT
from pygpt.check.header import KERNELS
from pygpt.check.sizes import EDGES

GROUP = reference.PYGPT_INT8_GROUP
LEAST = LEAST_QUANTIZED
few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                       HealthCheck.too_slow])
SIZES = st.integers(1, 9) | st.sampled_from(EDGES) | st.sampled_from((127, 128, 129, 200))
NUMBERS = st.floats(-2.0 ** 90, 2.0 ** 90, width=32) | st.floats(-4, 4, width=32)
both_kernels = pytest.mark.parametrize("kernel", ("linear_bfloat16", "linear_int8"))


def case_of(kernel):
    return next(case for case in CASES if case.kernel == kernel)


def outputs(kernels, kernel, args):
    """Yield (isa, {output: list of numbers}) on every instruction set."""
    args = {p.name: args[p.name] for p in KERNELS[kernel]}
    for isa, got in run_everywhere(kernels, CCall(kernels, kernel, args), {}):
        yield isa, {name: list(x.values()) for name, x in got.items()}


def quantized(weight, IN, OUT, transpose=0):
    """Return (q, scales) by the reference."""
    groups = -(-IN // GROUP) * OUT
    q, scales = [None] * groups * GROUP, [None] * groups
    reference.quantize_int8(q, scales, weight, IN, OUT, transpose)
    return q, scales


def in_c(kernels, weight, IN, OUT, transpose=0):
    """Yield (isa, q, scales) on every instruction set."""
    q, scales = quantized(weight, IN, OUT, transpose)
    args = dict(q=q, scales=scales, weight=weight, IN=IN, OUT=OUT, transpose=transpose)
    for isa, got in outputs(kernels, "quantize_int8", args):
        yield isa, got["q"], got["scales"]


def same(a, b):
    return array("f", a).tobytes() == array("f", b).tobytes()


# ----------------------------------------------------------------------------- to int8 and back ---

@given(st.lists(NUMBERS, min_size=1, max_size=150))
@few
def test_a_weight_is_off_by_at_most_half_a_step(kernels, weight):
    """Expect |w - q scale| <= scale / 2, but for the rounding of w / scale, below 127 UNIT of a
    step, and that of the scale, UNIT of |q| <= 127 steps."""
    for isa, q, scales in in_c(kernels, weight, len(weight), 1):
        for i, w in enumerate(weight):
            scale = scales[i // GROUP]
            if scale == 0.0:
                assert abs(w) < LEAST and q[i] == 0, isa
            else:
                assert abs(w - q[i] * scale) <= scale * (0.5 + 254 * UNIT), (isa, w)
        assert not any(q[len(weight):]), f"{isa}: not 0 beyond the end"


@given(st.data())
@few
def test_the_largest_weight_of_a_group_uses_all_of_int8(kernels, data):
    IN = data.draw(SIZES)
    weight = data.draw(st.lists(NUMBERS.filter(lambda x: abs(x) > LEAST),
                                min_size=IN, max_size=IN))
    for isa, q, _ in in_c(kernels, weight, IN, 1):
        for first in range(0, IN, GROUP):
            assert max(map(abs, q[first:first + GROUP])) == 127, isa


@pytest.mark.parametrize("transpose", (0, 1))
def test_ties_go_to_even(kernels, transpose):
    """With 127 in the group the scale is 1, and halves are ties."""
    row = [127.0, *(n + 0.5 for n in range(-30, 30)), -126.5, 126.5]
    expected = [127, *(2 * round((n + 0.5) / 2) for n in range(-30, 30)), -126, 126]
    weight = row * 3
    if transpose:
        weight = [row[i] for i in range(len(row)) for _ in range(3)]
    for isa, q, scales in in_c(kernels, weight, len(row), 3, transpose):
        assert scales == [1.0] * 3, isa
        assert [q[o * GROUP:o * GROUP + len(row)] for o in range(3)] == [expected] * 3, isa


@pytest.mark.parametrize("largest, is_zero", ((0.0, True), (-0.0, True), (2.0 ** -149, True),
                                              (LEAST * (1 - 2.0 ** -24), True), (LEAST, False)))
def test_a_group_of_vanishing_weights_is_zero(kernels, largest, is_zero):
    """Its neighbours in the row are not."""
    weight = [1.0] * GROUP + [largest, -largest] * (GROUP // 2) + [1.0] * 3
    for isa, q, scales in in_c(kernels, weight, len(weight), 1):
        assert scales == quantized(weight, len(weight), 1)[1]
        assert (scales[1] == 0.0) is is_zero and scales[0] == scales[2] > 0.0, isa
        assert set(q[GROUP:2 * GROUP]) == ({0} if is_zero else {127, -127}), isa
        assert q[:GROUP] + q[2 * GROUP:2 * GROUP + 3] == [127] * (GROUP + 3), isa


@pytest.mark.parametrize("bad", (math.nan, -math.nan, math.inf, -math.inf))
@pytest.mark.parametrize("place", (0, GROUP - 1, GROUP, 2 * GROUP))
def test_a_weight_that_is_not_finite_makes_nan_of_its_output(kernels, bad, place):
    IN, OUT = 2 * GROUP + 1, 3
    weight = [0.25] * IN * OUT
    weight[IN + place] = bad
    for isa, q, scales in in_c(kernels, weight, IN, OUT):
        assert [math.isnan(s) for s in scales] == [i == 3 + place // GROUP for i in range(9)], isa
        args = dict(out=[0.0] * OUT, pre=None, inp=[0.0] * IN, q=q, scales=scales, bias=None,
                    residual=None, R=1, IN=IN, OUT=OUT)
        for also, got in outputs(kernels, "linear_int8", args):
            assert [math.isnan(x) for x in got["out"]] == [False, True, False], (isa, also)


# -------------------------------------------------------------------- what becomes of the input ---

def seen_through_identity(kernels, row):
    """Yield (isa, row as linear_int8 rounds it): the weight is the identity matrix."""
    n = len(row)
    G = -(-n // GROUP)
    q = [int(i == o) for o in range(n) for i in range(G * GROUP)]
    args = dict(out=[0.0] * n, pre=None, inp=row, q=q, scales=[1.0] * n * G, bias=None,
                residual=None, R=1, IN=n, OUT=n)
    for isa, got in outputs(kernels, "linear_int8", args):
        yield isa, got["out"]


@given(st.lists(NUMBERS, min_size=1, max_size=70))
@few
def test_a_row_is_rounded_to_sixteen_bits(kernels, row):
    expected = whole_times_power(row)
    largest = max(map(abs, row))
    for x, rounded in zip(row, expected):
        assert abs(x - rounded) <= (largest * 2.0 ** -15 if largest >= LEAST else LEAST)
    for isa, got in seen_through_identity(kernels, row):
        assert got == expected, isa


@pytest.mark.parametrize("power", (-114, -20, 0, 112))
@pytest.mark.parametrize("largest, step", (
    (16384.0, 1), (32767.0, 1), (32767.5 - 2.0 ** -9, 1), (32767.5, 2), (32767.5 + 2.0 ** -9, 2),
    (32768 - 2.0 ** -9, 2)))
def test_the_step_is_the_smallest_power_of_two_with_which_all_numbers_fit(
        kernels, largest, step, power):
    """32767.5 would become 32768, which 16 bits cannot hold. Other numbers: halves, to even."""
    row = [math.ldexp(x, power) for x in (largest, 0.5, 1.0, 1.5, 2.5, 3.0, -largest, -1.5)]
    expected = [math.ldexp(step * round(math.ldexp(x, -power) / step), power) for x in row]
    for isa, got in seen_through_identity(kernels, row):
        assert got == expected, isa


@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
def test_a_row_that_is_not_finite_makes_nan_of_itself_alone(kernels, bad):
    case = case_of("linear_int8")
    for place in (0, 40, 69):
        args = case.chosen({"R": 3, "IN": 70, "OUT": 5}, absent=("pre",))
        args["inp"][70 + place] = bad
        for isa, got in outputs(kernels, "linear_int8", args):
            assert [math.isnan(x) for x in got["out"]] == [5 <= i < 10 for i in range(15)], isa


def test_rows_too_small_for_the_format_count_as_zero(kernels):
    row = [0.99 * LEAST, -0.5 * LEAST, 0.0]
    for isa, got in seen_through_identity(kernels, row):
        assert got == [0.0] * 3, isa


def test_the_sums_of_a_group_fit(kernels):
    """The largest sum of whole numbers, 64 * 127 * 32767, comes out as it is, of either sign."""
    IN = 2 * GROUP
    for sign in (1, -1):
        args = dict(out=[0.0], pre=None, inp=[32767.0] * IN, q=[127 * sign] * IN,
                    scales=[1.0, 0.0], bias=None, residual=None, R=1, IN=IN, OUT=1)
        for isa, got in outputs(kernels, "linear_int8", args):
            assert abs(got["out"][0] - sign * 64 * 127 * 32767) <= 16 * UNIT * 2.0 ** 28, isa


# ------------------------------------------------------------------------------- rows and edges ---

def row_of(args, kernel, r):
    """Return the arguments for row r alone."""
    alone = dict(args, R=1)
    for name, shape in case_of(kernel).shapes.items():
        first, *rest = shape.split()
        if first == "R" and args[name] is not None:
            length = args[rest[0]]
            alone[name] = args[name][r * length:(r + 1) * length]
    return alone


@both_kernels
@pytest.mark.parametrize("absent", ((), ("pre",), ("pre", "bias", "residual")), ids=str)
def test_a_row_of_a_batch_has_the_bits_that_it_has_alone(kernels, kernel, absent):
    for R, IN, OUT in ((2, 64, 5), (3, 129, 49), (4, 31, 13), (5, 200, 7), (16, 77, 50), (17, 5, 3),
                       (6, 2100, 2)):  # so many places are summed in parts
        args = case_of(kernel).chosen({"R": R, "IN": IN, "OUT": OUT}, absent)
        together = dict(outputs(kernels, kernel, args))
        for r in range(R):
            for isa, alone in outputs(kernels, kernel, row_of(args, kernel, r)):
                for name, values in alone.items():
                    got = together[isa][name][r * OUT:(r + 1) * OUT]
                    assert same(got, values), f"{kernel} on {isa}: row {r} of {R}, {name}"


@both_kernels
def test_gelu_may_be_given_nothing_that_is_kept(kernels, kernel):
    """Expect the same bits as with a pre that is kept, also with out in pre's place."""
    args = case_of(kernel).chosen({"R": 5, "IN": 33, "OUT": 49}, absent=("residual",))
    kept = run_everywhere(kernels, CCall(kernels, kernel, args), {})
    lost = run_everywhere(kernels, CCall(kernels, kernel, args, aliases={"pre": "out"}), {})
    for (isa, apart), (_, together) in zip(kept, lost, strict=True):
        assert together["out"].raw() == apart["out"].raw(), isa


@pytest.mark.parametrize("IN", (1, 7, 15, 16, 17, 31, 32, 33, 63))
def test_the_next_output_of_a_bfloat16_weight_is_not_read(kernels, IN):
    """Its NaN times the 0 beyond the end of a row would be NaN."""
    args = case_of("linear_bfloat16").chosen({"R": 3, "IN": IN, "OUT": 9}, absent=("pre",))
    for i in range(IN):
        args["weight"][5 * IN + i] = 0x7FC0
    for isa, got in outputs(kernels, "linear_bfloat16", args):
        assert [math.isnan(x) for x in got["out"]] == [o == 5 for _ in range(3) for o in range(9)]


@both_kernels
def test_the_layer_is_that_of_float32_on_the_weights_as_stored(kernels, kernel):
    """The product of a stored weight is near linear_forward's of the weight before: off by half a
    step of the stored form at each place, and for int8 of the input too."""
    rng = Random(3)
    R, IN, OUT = 4, 150, 20
    weight = list(array("f", (rng.gauss(0, 1) for _ in range(IN * OUT))))  # (OUT,IN)
    inp = list(array("f", (rng.gauss(0, 1) for _ in range(R * IN))))
    args = dict(out=[0.0] * R * OUT, pre=None, inp=inp, bias=None, residual=None, R=R, IN=IN,
                OUT=OUT)
    if kernel == "linear_int8":
        args["q"], args["scales"] = quantized(weight, IN, OUT)
        step = [max(map(abs, weight)) / 127] * IN * OUT
        off = max(map(abs, inp)) * 2.0 ** -15
    else:
        args["weight"] = [0] * IN * OUT
        reference.to_bfloat16(args["weight"], weight, IN * OUT)
        step, off = [abs(w) * 2.0 ** -7 for w in weight], 0.0
    for isa, got in outputs(kernels, kernel, args):
        for r in range(R):
            for o in range(OUT):
                x, w = inp[r * IN:(r + 1) * IN], weight[o * IN:(o + 1) * IN]
                allowed = sum((0.5 + 1e-4) * s * (abs(a) + off) + off * abs(b)
                              for a, b, s in zip(x, w, step[o * IN:]))
                exact = sum(a * b for a, b in zip(x, w))
                assert 0 < abs(got["out"][r * OUT + o] - exact) <= allowed, isa


@few
@given(R=st.sampled_from((1, 3, 16, 17, 40)), IN=st.integers(0, 70), OUT=st.integers(1, 70),
       gelu=st.booleans(), seed=st.integers(0, 99))
@example(R=17, IN=800, OUT=5, gelu=False, seed=0)  # two panels along IN
@example(R=16, IN=800, OUT=5, gelu=True, seed=0)
def test_a_transposed_weight_gives_the_layer_of_the_weight(kernels, R, IN, OUT, gelu, seed):
    """linear_forward of a weight (OUT,IN) is near that of the weight (IN,OUT)."""
    rng = Random(seed)
    inp, weight = ([rng.gauss(0, 1) for _ in range(n)] for n in (R * IN, OUT * IN))
    args = dict(out=[0.0] * R * OUT, pre=[0.0] * R * OUT if gelu else None, inp=inp,
                bias=[rng.gauss(0, 1) for _ in range(OUT)], residual=None, R=R, IN=IN, OUT=OUT)
    plain = args | {"weight": [weight[o * IN + i] for i in range(IN) for o in range(OUT)],
                    "dtype": reference.PYGPT_FLOAT32}
    other = args | {"weight": weight, "dtype": reference.PYGPT_WEIGHT_TRANSPOSED}
    for (isa, expected), (_, got) in zip(outputs(kernels, "linear_forward", plain),
                                         outputs(kernels, "linear_forward", other)):
        for i, (a, b) in enumerate(zip(expected["out"], got["out"], strict=True)):
            r, o = divmod(i, OUT)
            sizes = sum(abs(inp[r * IN + k] * weight[o * IN + k]) for k in range(IN))
            # both sums have IN + 2 roundings; the GELU's slope is below 1.13, its own error small
            allowed = 2.5 * UNIT * (IN + 2) * (sizes + abs(args["bias"][o]))
            assert abs(a - b) <= allowed + gelu * (2 * UNIT + 140 * UNIT * abs(a)), (isa, i)
