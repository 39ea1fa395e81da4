"""Checks every C kernel against the Python reference: on each ISA here, on 1, 2 and 3 threads.

The cases and their derived tolerances are in pygpt/check/, whose calls.py puts NaN around every
buffer. Needs the built library.
"""

import math
import re
import sys
import threading
from array import array
from operator import ne

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from draws import drawn
from sharing import needs_threads, shared_among

from pygpt.check.calls import SERIAL, CCall, run_everywhere, run_reference
from pygpt.check.case import DTYPES
from pygpt.check.cases import CASES, LINEAR_LARGE, in_both_types
from pygpt.check.differences import Bound, assert_within
from pygpt.check.header import HEADER, KERNELS, accumulate_flag, flag_settings
from pygpt.check.sets import use_isa
from pygpt.check.sizes import EDGES
from pygpt.check.threads import sharing, small_jobs_shared

LARGE = [pytest.param(case, sizes, id="-".join([str(case), *map(str, sizes.values())]))
         for case in CASES for sizes in case.large]
# Without a head or a vocabulary there is nothing to ask for.
AT_LEAST_ONE = ("NH", "V")
DIMENSIONS = [pytest.param(case, name, id=f"{case}-{name}")
              for case in CASES for name in case.sizes
              if name not in ("dropout", "eps", "std", "part", "past", "spare",
                              "ignore_index", "dtype")]
# Sizes at which packing, which is all that the types do differently, meets an edge.
AT_EDGES_OF_BOTH = (0, 1, 7, 17, 33, 49, 65)
# Attention works head by head: no vector and no tile lies along these dimensions.
HEADS, MOST_HEADS = ("B", "NH"), 13
TYPES = [pytest.param(case, dtype, id=f"{case}-{dtype}") for case in CASES for dtype in case.dtypes]
ALIASES = [pytest.param(case, output, shared, bits, id=f"{case}-{output}-is-{shared}")
           for case in CASES for output, shared, bits in case.may_alias]
LARGE_ALIASES = [pytest.param(case, output, shared, bits, sizes, id="-".join(
                     [str(case), output, "is", shared, *map(str, sizes.values())]))
                 for case in CASES for output, shared, bits in case.may_alias
                 for sizes in case.large]
# Sums of products of the inputs, exact in float32 in any order when those are small whole numbers.
# These move numbers from place to place and keep their bits.
COPIES = ("from_float16", "from_bfloat16", "to_float16", "to_bfloat16", "transpose")
EXACT = {"matmul": (), "linear_forward": ("pre",), "linear_backward_input": ("pre", "act"),
         "linear_backward_weight": (), "embedding_forward": (), "embedding_backward": (),
         "sum_forward": (), "sum_squares": ()}
BAD_IDS = [pytest.param(case, name, id=f"{case}-{name}")
           for case in CASES for name in ("ids", "targets") if name in case.shapes]

# `kernels` only puts the number of threads back, once for all examples of a test.
shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture,
                                                 HealthCheck.too_slow])


def check(kernels, case, args, misaligned=False, large=False, exact=False):
    """Run the kernel everywhere, for each setting of its accumulate flags, against the reference.

    With large, several threads must take part without being asked to, and where the case has a
    sample, the reference runs on that part of the problem only, and the part is compared. With
    exact, nothing is tolerated.
    """
    sample = large and bool(case.sample)
    part, positions = case.sampled(args) if sample else (args, {})
    value, bounds = case.outcome(part)
    call = CCall(kernels, case.kernel, args, case.inout, misaligned=misaligned)
    for flags in flag_settings(case.kernel):
        for isa, outputs in run_everywhere(kernels, call, flags, large):
            for name in bounds.keys() & outputs.keys():
                where = f"{case.kernel} on {isa}, {flags}, {name}"
                got = outputs[name].values()
                assert not any(map(ne, got, got)), f"{where} holds NaN"
                got = [got[i] for i in positions[name]] if sample else got
                old = part[name] if flags.get(accumulate_flag(case.kernel, name)) else None
                bound = Bound(0, [0.0] * len(got)) if exact else bounds[name]
                assert_within(got, value[name], bound, old, where)


def in_parts(case, dtype):
    """Return arguments just large enough for each of three threads to get a part of one job."""
    sizes = {name: 40000 if name == "n" else 70 for name in case.sizes
             if name in ("M", "N", "K", "IN", "OUT", "R", "C", "T", "V", "n")}
    return case.chosen({**sizes, "dtype": dtype})


def test_there_is_a_case_for_every_kernel():
    assert {case.kernel for case in CASES} == set(KERNELS)


@pytest.mark.parametrize("case, dtype", TYPES)
@given(data=st.data())
@shared_fixture
def test_c_agrees_with_the_reference(kernels, case, dtype, data):
    args = data.draw(drawn(case, dtype), label="arguments")
    check(kernels, case, args, misaligned=data.draw(st.booleans(), label="misaligned"))


@pytest.mark.parametrize("case, dimension", DIMENSIONS)
def test_c_agrees_at_every_edge_of_a_dimension(kernels, case, dimension):
    by_head = case.kernel.startswith("attention") and dimension in HEADS
    for size in (0, 1, 2, 5, 6, 7, 8, 9, *EDGES):
        if (size or dimension not in AT_LEAST_ONE) and not (by_head and size > MOST_HEADS):
            for dtype in case.dtypes if size in AT_EDGES_OF_BOTH else case.dtypes[:1]:
                check(kernels, case, case.chosen({dimension: size, "dtype": dtype}))


@pytest.mark.parametrize("case, sizes", LARGE)
def test_c_agrees_where_blocks_and_threads_meet(kernels, case, sizes):
    check(kernels, case, case.chosen(sizes), large=True)


@pytest.mark.parametrize("case, sizes", [p for p in LARGE if p.values[0].kernel in EXACT])
def test_whole_numbers_are_summed_exactly(kernels, case, sizes):
    """Find a single term that is lost or counted twice, however long the sum."""
    args = case.chosen(sizes, absent=EXACT[case.kernel], kind="ties")
    check(kernels, case, args, large=True, exact=True)


@pytest.mark.parametrize("case", CASES, ids=str)
@given(data=st.data())
@settings(parent=shared_fixture, max_examples=10)
def test_nan_is_not_lost(kernels, case, data):
    """Expect NaN from C wherever the reference gives NaN: a diverged run must not look healthy."""
    sizes = {name: data.draw(st.sampled_from((1, 3, 17, 33)), label=name)
             for name in case.sizes if name in "MNKRCVTn"}
    sizes["dtype"] = data.draw(st.sampled_from(case.dtypes), label="dtype")
    args = case.chosen({**sizes, "dropout": 0.0})  # a dropped value may be a NaN
    inputs = [p.name for p in KERNELS[case.kernel] if p.ctype == "float" and p.pointer
              and args[p.name] and (p.name in case.inout or not p.output)]
    if not inputs:
        return
    name = data.draw(st.sampled_from(inputs), label="input")
    place = data.draw(st.integers(0, len(args[name]) - 1), label="place")
    args[name] = [math.nan if i == place else x for i, x in enumerate(args[name])]
    expected = run_reference(case.kernel, args, case.inout)
    call = CCall(kernels, case.kernel, args, case.inout)
    for isa, outputs in run_everywhere(kernels, call, flag_settings(case.kernel)[0]):
        for output, values in expected.items():
            got = outputs[output].values()
            lost = [i for i, x in enumerate(values) if math.isnan(x) and not math.isnan(got[i])]
            assert not lost, f"{case.kernel} on {isa}: NaN in {name} is lost in {output} at {lost}"


def check_alias(kernels, case, args, output, shared, bits, large=False):
    """Run the kernel everywhere with `output` in the memory of `shared`, against the reference."""
    sample = large and bool(case.sample)
    args = {**args, output: args[shared]}
    part, positions = case.sampled(args) if sample else (args, {})
    value, bounds = case.outcome(part)
    call = CCall(kernels, case.kernel, args, aliases={output: shared})
    for bit in bits:
        flags = {flag: bit for flag in flag_settings(case.kernel)[0]}
        for isa, outputs in run_everywhere(kernels, call, flags, large):
            where = f"{case.kernel} on {isa}, {flags}, {output} in {shared}'s place"
            got = outputs[output].values()
            got = [got[i] for i in positions[output]] if sample else got
            assert_within(got, value[output], bounds[output], part[shared] if bit else None, where)


@pytest.mark.parametrize("case, output, shared, bits", ALIASES)
@given(data=st.data())
@settings(parent=shared_fixture, max_examples=10)
def test_an_output_may_share_its_input_where_the_contract_says_so(
        kernels, case, output, shared, bits, data):
    args = data.draw(drawn(case).filter(lambda args: args[shared] is not None))
    check_alias(kernels, case, args, output, shared, bits)


@pytest.mark.parametrize("case, output, shared, bits, sizes", LARGE_ALIASES)
def test_an_output_may_share_its_input_where_blocks_and_threads_meet(
        kernels, case, output, shared, bits, sizes):
    """Divide a sum into parts: the first part must not overwrite the input of the others."""
    check_alias(kernels, case, case.chosen(sizes), output, shared, bits, large=True)


@pytest.mark.parametrize("sizes", [*in_both_types({"R": 7, "IN": 5, "OUT": 33}), *LINEAR_LARGE],
                         ids=str)
def test_a_linear_layer_may_keep_nothing_of_what_gelu_is_given(kernels, sizes):
    """Expect the same bits as with a pre that is kept, also with out in pre's place."""
    case = next(case for case in CASES if case.kernel == "linear_forward")
    args = case.chosen(sizes, absent=("residual",))
    kept = run_everywhere(kernels, CCall(kernels, case.kernel, args), {})
    lost = run_everywhere(kernels, CCall(kernels, case.kernel, args, aliases={"pre": "out"}), {})
    for (isa, apart), (_, together) in zip(kept, lost, strict=True):
        assert together["out"].raw() == apart["out"].raw(), isa
        assert apart["pre"].raw() != apart["out"].raw()


@needs_threads
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", (8, 65, 150))
def test_a_divided_head_has_the_bits_of_a_whole_one(kernels, T, dtype):
    """One head is divided among the threads; three threads get blocks of different lengths."""
    for kernel in ("attention_forward", "attention_backward"):
        case = next(case for case in CASES if case.kernel == kernel)
        args = case.chosen({"B": 1, "NH": 1, "T": T, "HS": 10, "dropout": 0.2, "dtype": dtype})
        call = CCall(kernels, kernel, args)
        for isa in kernels.isa_names():
            with use_isa(isa):
                kernels.set_num_threads(1)
                _, whole = call.run({})
                with shared_among(3) if T == 150 else small_jobs_shared():
                    _, divided = call.run({})
                for name in whole:
                    assert divided[name].raw() == whole[name].raw(), f"{kernel} on {isa}: {name}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", (-150.0, 150.0))
def test_scores_may_differ_by_more_than_exp_can_tell(kernels, dtype, step):
    """From one block of keys to the next, scores fall or rise so far that e^|step| is no float."""
    case = next(case for case in CASES if case.kernel == "attention_forward")
    T, C = 150, 4
    args = case.chosen({"B": 1, "NH": 1, "T": T, "HS": C, "dropout": 0.0, "dtype": dtype})
    for t in range(T):  # q = (2, 0, ..), so that the score of a key is its first channel
        args["qkv"][3 * C * t:3 * C * t + C + 1] = [2.0, *[0.0] * (C - 1), step * (t // 16)]
    check(kernels, case, args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V", (5, 300))
def test_logits_that_are_all_minus_infinity_make_nan(kernels, V, dtype):
    """An overflow must not look like a loss that can be trained on. One part of a vocabulary may be
    -inf, and a target may be; the other row is not touched."""
    case = next(case for case in CASES if case.kernel == "linear_cross_entropy_backward")
    args = case.chosen({"R": 2, "C": 1, "V": V, "dtype": dtype})
    args.update(ignore_index=-100, targets=[V - 1, V - 1], dloss=[1.0], inp=[-1.0, 0.0],
                weight=[math.inf] * V)  # logits: -inf, and 0 * inf, which is not a number
    call = CCall(kernels, case.kernel, args, case.inout)
    for isa, outputs in run_everywhere(kernels, call, flag_settings(case.kernel)[0]):
        assert all(map(math.isnan, outputs["losses"].values())), isa
    args.update(inp=[-1.0, -1.0], weight=[math.inf] * (V - 1) + [0.0])
    call = CCall(kernels, case.kernel, args, case.inout)
    for isa, outputs in run_everywhere(kernels, call, flag_settings(case.kernel)[0]):
        assert list(outputs["losses"].values()) == [0.0, 0.0], isa  # the target has all of p


def test_adamw_flushes_denormals(kernels):
    """To the bit: a parameter or moment below the smallest normal float becomes 0, one above it
    stays, and a step of learning rate 0 changes no such parameter."""
    least = 2.0 ** -126
    old = [least, 1.05 * least, 1.2 * least, 2 * least, 2.0 ** -149, 0.5 * least, 1.0]
    half = [0.0, 0.0, 0.0, least, 0.0, 0.0, 0.5]
    old, half = old * 5, half * 5  # whole vectors and a rest
    settings = [0.0, 0.5, 0.5, 1e-8, 0.1, 1.0, 1.0, 1.0]
    n = len(old)
    args = {"param": old, "half": None, "m": [-x if i % 2 else x for i, x in enumerate(old)],
            "v": old, "grad": [0.0] * n, "settings": settings, "n": n, "n_decay": n}
    args = {p.name: args[p.name] for p in KERNELS["adamw_step"]}
    want = {"param": [x if x >= least else 0.0 for x in old],
            "m": [-x if i % 2 and x else x for i, x in enumerate(half)], "v": half}
    inout = tuple(want)
    assert run_reference("adamw_step", args, inout) == want
    for isa, outputs in run_everywhere(kernels, CCall(kernels, "adamw_step", args, inout), {}):
        for name, values in want.items():
            # a flushed negative number is -0.0, which equals 0.0
            assert list(outputs[name].values()) == array("f", values).tolist(), f"{name} on {isa}"


@pytest.mark.parametrize("case, dtype", TYPES)
def test_no_kernel_computes_a_denormal(kernels, case, dtype):
    """All inputs small enough for products, differences and the inputs themselves to be denormal;
    and afterwards the calling thread computes with denormals as before."""
    if case.kernel in COPIES:
        return
    args = case.chosen({"dtype": dtype})
    for p in KERNELS[case.kernel]:
        if p.ctype == "float" and p.pointer and args[p.name] and p.name != "settings":
            args[p.name] = [x * 2.0 ** -(100 + i % 40) for i, x in enumerate(args[p.name])]
    call = CCall(kernels, case.kernel, args, case.inout)
    for isa, outputs in run_everywhere(kernels, call, flag_settings(case.kernel)[0]):
        for name, output in outputs.items():
            if output.typecode == "f" and name not in ("keys", "values"):  # the cache is a copy
                denormal = [x for x in output.values() if 0.0 < abs(x) < 2.0 ** -126]
                assert not denormal, f"{case.kernel} on {isa}: {name} holds {denormal[0]}"
        assert sys.float_info.min / 2 * 2 == sys.float_info.min, f"{case.kernel} on {isa}"


@pytest.mark.parametrize("case, name", BAD_IDS)
@pytest.mark.parametrize("bad", (-1, "V", 2 ** 31 - 1, -2 ** 31))
@given(data=st.data())
@settings(parent=shared_fixture, max_examples=4)
def test_an_id_out_of_range_is_refused(kernels, case, name, bad, data):
    args = data.draw(drawn(case).filter(lambda args: args[name]))
    place = data.draw(st.integers(0, len(args[name]) - 1))
    args[name][place] = args["V"] if bad == "V" else bad
    with pytest.raises(AssertionError, match="returned 2"):
        run_reference(case.kernel, args)
    call = CCall(kernels, case.kernel, args)
    for isa in kernels.isa_names():
        with use_isa(isa):
            assert call.run({})[0] == kernels.lib.PYGPT_ERANGE


@needs_threads
def test_each_parallel_region_says_among_how_many_threads_it_is_shared_out():
    """Find a region that does not, as it could run on one thread in every test."""
    for path in sorted(HEADER.parent.glob("*.c")):
        text = path.read_text(encoding="utf-8")
        regions = text.count("#pragma omp parallel") + text.count("PARALLEL(")
        told = len(re.findall(r"= threads_for\(|^ +note_sharing\(", text, re.MULTILINE))
        if path.name not in ("machine.c", "runtime.c"):
            assert regions == told, f"{path.name}: {regions} parallel regions, {told} of them tell"


def test_each_region_that_computes_flushes_denormals():
    """PARALLEL sets the mode. What opens a region otherwise moves, draws or measures numbers."""
    for path in sorted(HEADER.parent.glob("*.c")):
        if "#pragma omp parallel" in path.read_text(encoding="utf-8"):
            assert path.name in ("convert.c", "machine.c", "random.c"), (
                f"{path.name} opens a parallel region without PARALLEL (csrc/parallel.h)")


@needs_threads
@pytest.mark.parametrize("case, dtype", TYPES)
def test_how_many_threads_share_a_job(kernels, case, dtype):
    """Give a small job to one thread, unless all are shared out and each thread gets a part."""
    kernels.set_num_threads(3)
    call = CCall(kernels, case.kernel, case.chosen({"dtype": dtype}), case.inout)
    sharing()
    call.run({})
    jobs = 0 if case.kernel in SERIAL else 1
    assert sharing() == (jobs, jobs)
    assert sharing() == (0, 0)  # what was told is forgotten
    with small_jobs_shared():
        CCall(kernels, case.kernel, in_parts(case, dtype), case.inout).run({})
    assert sharing()[1] == 3 * jobs


def test_calls_from_several_python_threads_do_not_meet(kernels):
    """cffi lets other threads run during a call, so a kernel may keep nothing between lines."""
    calls, alone, wrong = [], [], []
    for case in CASES:
        for dtype in case.dtypes:
            calls.append(CCall(kernels, case.kernel, in_parts(case, dtype), case.inout))
            alone.append({name: x.raw() for name, x in calls[-1].run({})[1].items()})

    def work(order):
        for i in order * 10:
            together = {name: x.raw() for name, x in calls[i].run({})[1].items()}
            if together != alone[i]:
                wrong.append(calls[i].kernel)

    orders = range(len(calls)), reversed(range(len(calls)))
    threads = [threading.Thread(target=work, args=(list(order),)) for order in orders]
    with shared_among(2):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
