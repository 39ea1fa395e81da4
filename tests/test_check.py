"""Tests `pygpt check`: kernels that agree pass, and one that is broken is named with its shape.

A kernel is broken by a wrapper around the C function, for one instruction set or number of threads.
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from commands import COMMAND, ENVIRONMENT, ROOT, finished, pygpt as command

from pygpt.backend import kernels, reference
from pygpt.check import header, isolated, report, trials
from pygpt.check.cases import CASES
from pygpt.check.differences import Bound, Difference, assert_within, share, worst
from pygpt.check.header import KERNELS
from pygpt.check.sets import WITH_UNITS
from pygpt.check.sizes import between, one_of
from pygpt.check.threads import HAS_THREADS
from pygpt.cli.main import main

pytestmark = pytest.mark.skipif(kernels.ffi is None, reason="needs the C library")
KERNEL = "softmax_forward"
SETS = kernels.isa_names()
WORST = "baseline"  # it is built everywhere
# One trial of each kernel, however slow the machine, and one whose shape has elements.
ONCE = ("--seconds", "0.001", "--seed", "1")


@pytest.fixture
def check(capsys, monkeypatch):
    """Return a function that runs the command; it returns the status and what was printed. The
    trials are made in this process, in which the tests break kernels."""
    monkeypatch.setattr(isolated, "run", lambda names, *rest: trials.run(
        [trials.Tally(name) for name in names], *rest))

    def check(*words):
        status = main(["check", *words])
        out, err = capsys.readouterr()
        return status, out, err
    return check


@pytest.fixture
def broken(monkeypatch):
    """Return a function that puts another function in a kernel's place: break_it(call, *args), of
    which call() runs the kernel itself and returns its status."""
    class Library:
        def __init__(self, lib, name, break_it):
            self.lib, self.name, self.break_it = lib, name, break_it

        def __getattr__(self, name):
            found = getattr(self.lib, name)
            if name != self.name:
                return found
            return lambda *args: self.break_it(lambda: found(*args), *args)

    return lambda break_it, name=KERNEL: monkeypatch.setattr(
        kernels, "lib", Library(kernels.lib, name, break_it))


def row_of(text, kernel=KERNEL):
    """Return the cells of a kernel's row."""
    (line,) = [line for line in text.partition("\n\n")[0].splitlines()
               if line.split()[0] == kernel]
    return re.split(r"  +", line)


def off_on(isa, by=1e-3):
    def break_it(call, out, inp, R, C):
        status = call()
        if kernels.isa() == isa and R * C:
            out[R * C - 1] += by
        return status
    return break_it


# ---------------------------------------------------------------------------------- what agrees

def test_every_kernel_passes_on_every_set(check):
    status, out, err = check("--seconds", "0.01")
    assert (status, err) == (0, "")
    head, *rows = out.splitlines()
    assert re.split("  +", head) == ["kernel", "shapes", *SETS, "threads", "finite differences"]
    assert [row.split()[0] for row in rows] == list(KERNELS)
    for row in rows:
        cells = re.split("  +", row)
        gradient = "_backward" in cells[0]
        assert len(cells) == len(SETS) + 4 and "FAILS" not in row, row
        assert cells[-2] == ("ok" if HAS_THREADS else "-"), row
        assert cells[-1].startswith("ok") == gradient, row
        has_type = any(case.dtypes[1:] for case in CASES if case.kernel == cells[0])
        for isa, cell in zip(SETS, cells[2:]):
            assert re.fullmatch(r"ok [01]\.\d\d", cell) or (
                cell == "-" and isa in WITH_UNITS and not has_type), row


def test_chosen_kernels_and_sets_alone_are_tried(check, broken):
    broken(off_on(next(isa for isa in SETS if isa != WORST)))
    status, out, _ = check("--set", WORST, "sum_squares", KERNEL, *ONCE)
    assert status == 0
    head, *rows = [re.split("  +", line) for line in out.splitlines()]
    assert head[2:-2] == [WORST]
    assert [row[0] for row in rows] == [name for name in KERNELS if name in (KERNEL, "sum_squares")]


def test_a_seed_decides_what_is_tried_and_small_shapes_come_first(monkeypatch):
    made = []

    def making(kernels, kernel, args, *others, **options):
        made.append((kernel, args))
        return trials_call(kernels, kernel, args, *others, **options)
    trials_call = trials.CCall
    monkeypatch.setattr(trials, "CCall", making)
    for seed, most in enumerate(trials.LIMITS[:3]):
        for name in ("matmul", "linear_int8", "attention_cached", KERNEL, "adamw_step"):
            made.clear()
            for _ in range(2):
                trials.try_seed(trials.Tally(name), seed, sets=())
            half = len(made) // 2
            assert made and str(made[:half]) == str(made[half:])  # in strings NaN equals NaN
            for args in (args for _, args in made):
                for case in (case for case in CASES if case.kernel == name):
                    assert all(args[size] <= most for size in case.sizes
                               if isinstance(args.get(size), int)), (name, seed)
    assert list(trials.LIMITS[:-1]) == sorted(trials.LIMITS[:-1])


def test_each_kernel_gets_the_same_time(monkeypatch):
    now, cost = [0.0], {"add_forward": 5.0, "sum_squares": 1.0}

    def taking(tally, seed, sets, *rest):
        now[0] += cost[tally.kernel]
        tally.shapes += 1
    monkeypatch.setattr(trials, "try_seed", taking)
    monkeypatch.setattr(trials.time, "monotonic", lambda: now[0])
    for tallies in trials.run([*map(trials.Tally, cost)], [WORST], 0, 40.0):
        pass
    assert [tally.shapes for tally in tallies] == [4, 20] and now == [40.0]
    for tallies in trials.run([*map(trials.Tally, cost)], [WORST], 0, 0.5):
        pass
    assert [tally.shapes for tally in tallies] == [1, 1]


def test_the_values_of_a_size_are_drawn_from_all_its_parts():
    values = between(0, 2) | one_of((7, 9.5))
    rng = Random(1)
    assert {values.draw(rng) for _ in range(200)} == {0, 1, 2, 7, 9.5}
    assert {values.draw(rng, most=1) for _ in range(100)} == {0, 1}
    assert {one_of((7, 8)).draw(rng, most=1) for _ in range(100)} == {7, 8}  # none is below it


# --------------------------------------------------------------------------------- what is broken

def test_a_broken_kernel_is_named_and_its_trial_can_be_repeated(check, broken):
    broken(off_on(WORST))
    status, out, _ = check(KERNEL, "gelu_forward", *ONCE)
    assert status == 1
    row = row_of(out)
    for isa, cell in zip(SETS, row[2:]):
        assert cell.startswith("FAILS") == (isa == WORST), row
    assert row[-2] == "ok"
    assert "FAILS" not in " ".join(row_of(out, "gelu_forward"))
    told = out.partition("\n\n")[2]
    assert told.startswith(f"{KERNEL} on {WORST}: out[") and "the reference says" in told
    assert re.search(r"off by 0\.001 where \S+ is allowed\n  arguments: R=\d+, C=\d+", told)
    words = re.search(r"repeat: pygpt check (.*)", told)[1].split()
    assert words[1:2] + words[3:] == ["--seed", "--set", WORST]
    for _ in range(2):
        status, again, _ = check(*words, "--seconds", "0.001")
        assert status == 1 and again.partition("\n\n")[2] == told


def test_a_failure_on_every_set_is_told_once(check, broken):
    def break_it(call, out, inp, R, C):
        status = call()
        for i in range(R * C):
            out[i] = 1 - out[i]
        return status
    broken(break_it)
    status, out, _ = check(KERNEL, *ONCE)
    first, *others = [isa for isa in SETS if isa not in WITH_UNITS]
    assert status == 1 and out.count("repeat:") == 1
    assert f"{KERNEL} on {first} (and on {', '.join(others)}): " in out


@pytest.mark.skipif(not HAS_THREADS, reason="needs several threads")
@pytest.mark.parametrize("threads", (2, 3))
def test_bits_that_change_with_the_threads_are_told(check, broken, threads):
    def break_it(call, out, inp, R, C):
        status = call()
        if kernels.get_num_threads() == threads and R * C:
            out[0] = math.nextafter(out[0], 2) + 2.0 ** -24
        return status
    broken(break_it)
    status, out, _ = check(KERNEL, *ONCE, "--set", WORST)
    row = row_of(out)
    assert status == 1 and row[3] == "DIFFER" and row[2].startswith("ok")
    assert f"with {threads} threads, out[" in out and "1 thread gives" in out


def _status(call, out, inp, R, C):
    return call() or 2


def _outside(call, out, inp, R, C):
    out[R * C] = 1.0
    return call()


def _input(call, out, inp, R, C):
    if R * C:
        inp[0] = inp[0] + 1.0
    return call()


def _nan(call, out, inp, R, C):
    status = call()
    if R * C:
        out[0] = math.nan
    return status


@pytest.mark.parametrize("break_it, words", [
    (_status, f"{KERNEL} on {SETS[0]} returned 2"), (_outside, f"{KERNEL} wrote outside out"),
    (_input, f"{KERNEL} wrote to its input inp"), (_nan, "out[0] is nan, the reference says ")])
def test_whatever_breaks_the_contract_is_told(check, broken, break_it, words):
    broken(break_it)
    status, out, _ = check(KERNEL, *ONCE, "--set", SETS[0])
    assert status == 1 and words in out
    assert row_of(out)[2] == "FAILS"


CRASHING = f"""
import os, signal, sys, time
sys.path[:] = {sys.path!r}
from pygpt.backend import kernels
from pygpt.check import isolated, trials

run = trials._outputs

def crashing(tally, call, *rest):
    if (tally.kernel, kernels.isa()) == ("softmax_forward", {WORST!r}) and tally.shapes >= SHAPES:
        HOW
    return run(tally, call, *rest)

trials._outputs = crashing
isolated.main()
"""
NAMES = ["gelu_forward", KERNEL, "sum_squares"]


def isolated_run(how, shapes=0, seconds=0.001):
    code = CRASHING.replace("SHAPES", str(shapes)).replace("HOW", how)
    return [*isolated.run(NAMES, SETS, 1, seconds, (sys.executable, "-c", code))][-1]


@pytest.mark.parametrize("shapes", [0, 2])
@pytest.mark.parametrize("how, told", [
    ("os.kill(os.getpid(), signal.SIGSEGV)", "by SIGSEGV"), ("os._exit(3)", "with status 3"),
    ("os._exit(0)", "with status 0")])
def test_a_kernel_that_ends_the_process_is_told_and_the_others_are_tried(how, told, shapes):
    tallies = isolated_run(how, shapes, 0.5 * bool(shapes))
    (failure,) = [failure for tally in tallies for failure in tally.failures]
    assert (failure.kernel, failure.isa, failure.seed) == (KERNEL, WORST, 1 + shapes)
    assert failure.message == f"ended the process {told}" and failure.arguments["C"] > 0
    assert tallies[1].sets[WORST] == math.inf and tallies[1].shapes == shapes + 1
    assert all(tally.shapes >= max(1, shapes) for tally in tallies)
    text = report.table(tallies, SETS) + "\n\n" + "\n".join(report.details(tallies))
    assert row_of(text)[2 + SETS.index(WORST)] == "FAILS"
    assert f"{KERNEL} on {WORST}: ended the process {told}\n" in text


def test_after_a_crash_the_others_get_the_rest_of_the_time(monkeypatch):
    given = []
    records = isolated._records

    def noted(command, work):
        given.append(work)
        return records(command, work)
    monkeypatch.setattr(isolated, "_records", noted)
    isolated_run("os._exit(3)", 2, 0.5)
    (before, _, first, whole), (after, _, second, rest) = given
    assert [tally.kernel for tally in before] == NAMES and (first, second) == (1, 3)
    assert [tally.kernel for tally in after] == [NAMES[0], NAMES[2]]
    assert 0 < rest < whole <= 0.5 and all(tally.seconds == 0 for tally in after)


@pytest.mark.parametrize("where, check", [("_numbers", "reference"), ("differences", "gradient")])
def test_a_process_that_ends_outside_a_kernel_blames_none(where, check):
    code = CRASHING.replace("SHAPES", "9").replace("HOW", "pass").replace(
        "isolated.main()", f"trials.{where} = lambda *_: os._exit(3)\nisolated.main()")
    name = "gelu_backward"
    *_, (tally,) = isolated.run([name], SETS, 1, 0.001, (sys.executable, "-c", code))
    (failure,) = tally.failures
    assert (failure.kernel, failure.check, failure.isa) == (name, check, None)
    assert any("ended the process with status 3" in text for text in report.details([tally]))


def test_a_process_that_does_not_begin_is_an_error():
    with pytest.raises(OSError, match="ended with status 3 before it tried any"):
        [*isolated.run(NAMES, SETS, 1, 0.001, (sys.executable, "-c", "raise SystemExit(3)"))]


def test_what_a_kernel_prints_is_no_record(capfd):
    assert not any(tally.failures for tally in isolated_run("print('here')"))
    assert "here" in capfd.readouterr().err


def test_the_command_makes_its_trials_in_a_process_of_their_own(tmp_path):
    (tmp_path / "random.py").write_text("raise ImportError('of the working directory')")
    code = f"import sys; sys.path[:] = {sys.path!r}; from pygpt.cli.main import main; " \
           f"sys.exit(main(['check', {KERNEL!r}, *{ONCE!r}]))"
    result = finished(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert row_of(result.stdout)[-2] == ("ok" if HAS_THREADS else "-")


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="processes are told by /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_command_is_ended(number):
    with subprocess.Popen([*COMMAND, "check", "--seconds", "60"], env=ENVIRONMENT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        while not children_of(command.pid):
            assert command.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)  # in the middle of its start, or after it
        command.send_signal(number)
        out, err = command.communicate()  # until the last process with these pipes has ended
    assert command.returncode in (-number, 128 + number) and "Traceback" not in err, (out, err)


def test_a_broken_reference_fails_everywhere_and_against_finite_differences(check, monkeypatch):
    whole = reference.softmax_backward

    def broken(dinp, dout, out, R, C, accumulate):
        status = whole(dinp, dout, out, R, C, accumulate)
        dinp[:] = [2 * x for x in dinp]
        return status
    monkeypatch.setattr(reference, "softmax_backward", broken)
    status, out, _ = check("softmax_backward", *ONCE)
    row = row_of(out, "softmax_backward")
    assert status == 1 and row[-1].startswith("FAILS") and row[2].startswith("FAILS")
    assert "finite differences say" in out
    words = re.search(r"finite differences(?:.*\n)*?  repeat: pygpt check (.*)", out)[1].split()
    assert "finite differences say" in check(*words, "--seconds", "0.001")[1]


def test_a_reference_that_raises_is_told_with_its_place(check, monkeypatch):
    def broken(out, inp, R, C):
        return R // 0
    monkeypatch.setattr(reference, KERNEL, broken)
    status, out, _ = check(KERNEL, "gelu_forward", *ONCE)
    assert status == 1 and "FAILS" in row_of(out)[2]
    assert "the reference loop failed: ZeroDivisionError" in out and "(test_check.py:" in out
    assert row_of(out, "gelu_forward")[2].startswith("ok")


def test_json_has_what_the_table_has(check, broken):
    broken(off_on(WORST, by=math.inf))
    status, out, _ = check(KERNEL, "--seconds", "0.01", "--seed", "7", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert status == 1 and (found["seed"], found["sets"]) == (7, SETS)
    (kernel,), (failure,) = found["kernels"], found["failures"]
    assert kernel["kernel"] == KERNEL and kernel["threads"] is True and kernel["gradient"] is None
    assert kernel["sets"][WORST] == "inf"
    assert (failure["kernel"], failure["check"], failure["isa"]) == (KERNEL, "values", WORST)
    assert failure["difference"]["value"] == "inf" and failure["seed"] >= 7


def test_the_table_says_by_how_much_a_bound_is_exceeded():
    tally = trials.Tally(KERNEL, shapes=3, sets={"avx2": 1.0, "neon": 1.25}, threads=True,
                         gradient=math.inf)
    cells = row_of(report.table([tally], ["avx2", "neon", "amx_in_c"]))
    assert cells == [KERNEL, "3", "ok 1.00", "FAILS 1.25", "-", "ok", "FAILS"]


# ------------------------------------------------------------------------------------- arguments

@pytest.mark.parametrize("words, told", [
    (("softmax_forwrd",), "'softmax_forwrd' is no kernel here; did you mean softmax_forward?"),
    (("--set", "avx"), "'avx' is no instruction set here; "),
    (("--seconds", "0"), "--seconds 0 must be above 0"),
    (("--seconds", "nan"), "--seconds nan must be above 0"),
    (("--seconds", "inf"), "--seconds inf must be above 0"),
    (("--seconds", "-1"), "--seconds -1 must be above 0"),
    (("--seed", "-1"), "--seed -1 must be at least 0"),
    (("--seed", "1.5"), "'1.5' is not a whole number"), (("--sed", "1"), "did you mean --seed?")])
def test_bad_arguments_are_refused_in_one_line(check, words, told):
    status, out, err = check(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told.lower() in err.lower()


def test_the_reference_backend_leaves_nothing_to_compare():
    result = command("check", PYGPT_BACKEND="reference")
    assert result.returncode == 2 and "there is nothing to compare" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_package_without_sources_says_what_is_missing(tmp_path):
    shutil.copytree(ROOT / "pygpt", tmp_path / "pygpt",
                    ignore=shutil.ignore_patterns("__pycache__"))
    result = finished(*COMMAND, "check", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "csrc/pygpt.h" in result.stderr and "source tree" in result.stderr


def test_a_source_newer_than_the_library_is_told(check, monkeypatch, tmp_path):
    monkeypatch.setattr(header, "HEADER", tmp_path / "pygpt.h")
    assert header.changed_sources() == []
    for name, seconds in (("old.c", 1), ("softmax.inl", 2 ** 32)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    status, _, err = check(KERNEL, *ONCE)
    assert status == 0 and "csrc/softmax.inl is newer than the library" in err


@pytest.mark.parametrize("is_broken", (False, True))
def test_ctrl_c_prints_what_is_known(check, broken, monkeypatch, is_broken):
    if is_broken:
        broken(off_on(WORST))
    whole, done = trials.try_seed, []

    def stopping(tally, seed, sets, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(tally.kernel)
        whole(tally, seed, sets)
    monkeypatch.setattr(trials, "try_seed", stopping)
    before = kernels.get_num_threads(), kernels.isa()
    status, out, _ = check("gelu_forward", KERNEL, "sum_squares", "--seed", "1")
    assert status == (1 if is_broken else 130)
    assert [line.split()[0] for line in out.partition("\n\n")[0].splitlines()[1:]] == done
    assert (kernels.get_num_threads(), kernels.isa()) == before


# ----------------------------------------------------------------------------------------- shares

def test_a_share_is_above_one_exactly_where_the_bound_is_exceeded():
    allowed = 0.3
    above = math.nextafter(allowed, 1)
    for value, expected in ((allowed, 1.0), (0.0, 0.0), (-0.15, 0.5)):
        assert share(Difference("out", 0, value, 0.0, allowed)) == expected
    assert share(Difference("out", 0, above, 0.0, allowed)) > 1
    assert share(Difference("out", 0, 1.0, 1.0, 0.0)) == 0
    for value in (math.nan, math.inf):
        assert share(Difference("out", 0, value, 1.0, 0.1)) == math.inf
    assert share(Difference("out", 0, 2.0, 1.0, 0.0)) == math.inf


def test_the_worst_element_is_found_and_counts_what_was_added_to():
    bound = Bound(0, [0.0] * 3, [1.0, 0.5, 1.0])
    found = worst("out", [1.0, 2.25, 3.0], [0.0, 1.0, 2.0], bound, [1.0, 1.0, 1.0])
    assert found == ("out", 1, 2.25, 2.0, 0.5)
    assert_within([1.0, 2.25, 3.0], [0.0, 1.0, 2.0], bound, [1.0, 1.0, 1.0], "out")
    assert worst("out", [1.0, math.nan, 9.0], [1.0, 1.0, 1.0], bound, None).index == 1
    assert worst("out", [], [], Bound(1, []), None) is None
