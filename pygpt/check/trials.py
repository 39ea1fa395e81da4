"""Tries kernels on random shapes and keeps, for each, how close its results came to their bounds.

A trial compares, for one kernel and one seed, the results on each instruction set with those of the
reference loops, the bits of the results with different numbers of threads, and the gradients of the
reference with finite differences. The kernel and the seed decide everything that is drawn, so a
trial can be repeated by them alone.
"""

import time
import traceback
from collections import namedtuple
from dataclasses import dataclass, field
from math import inf
from operator import ne
from pathlib import Path
from random import Random

from pygpt.backend import kernels
from pygpt.check.calls import CCall, Fault, run_by_threads
from pygpt.check.cases import CASES
from pygpt.check.differences import Difference, share, worst
from pygpt.check.gradients import GRADIENTS, differences, sizes_of, types_of
from pygpt.check.header import accumulate_flag, flag_settings
from pygpt.check.sets import isas_for, use_isa
from pygpt.check.threads import HAS_THREADS

# The largest size of a trial is LIMITS[seed % 6]: from seed 0 on, small shapes come first, which
# take the least time and are the easiest to understand.
LIMITS = (3, 5, 9, 17, 33, None)

# Says what was wrong in a trial.
#   check        "values", "threads", "gradient" or "reference": what was compared, or that the
#                reference loop itself failed
#   isa          the instruction set, or None where only the reference is concerned
#   arguments    {name: value} of the sizes, flags and other numbers
#   message      what happened, in a few words, if no difference says it
#   difference   the Difference of the element that is farthest off, or None
Failure = namedtuple("Failure", "kernel check isa seed arguments message difference")


@dataclass
class Tally:
    """Keeps what the trials of a kernel have shown.

    Attributes:
        kernel: its name.
        shapes: the number of shapes tried; gradients use shapes of their own, which don't count.
        sets: {instruction set: the largest error as a share of its bound}, infinite where it did
            something that its contract rules out.
        threads: whether the bits were the same with each number of threads; None: not tried.
        gradient: the largest difference from finite differences as a share of its bound; None: the
            kernel computes no gradient.
        failures: the first Failure of each check on each instruction set.
        seconds: the time that the trials took.
    """
    kernel: str
    shapes: int = 0
    sets: dict = field(default_factory=dict)
    threads: bool | None = None
    gradient: float | None = None
    failures: list = field(default_factory=list)
    seconds: float = 0.0

    def note(self, isa, value):
        """Note a share of a bound that was reached on an instruction set."""
        self.sets[isa] = max(self.sets.get(isa, 0.0), value)

    def add(self, failure):
        known = {(f.check, f.isa) for f in self.failures}
        if (failure.check, failure.isa) not in known:
            self.failures.append(failure)


def run(tallies, sets, seed, seconds, announce=lambda failure: None):
    """Try kernels in turn until the time is over, each at least once.

    Args:
        tallies: a Tally for each kernel, to which is added.
        sets: the instruction sets.
        seed: that of the first trial of each kernel; the next ones count up from it.
        seconds: the time, of which each kernel gets the same part.
        announce: called before a reference loop, a kernel on an instruction set, and finite
            differences, with the Failure that would tell of a crash, but for the message.
    Yields:
        The tallies, after each trial.
    """
    end = time.monotonic() + seconds
    waiting = list(tallies)
    with kernels.use_threads(0):
        while waiting:
            for tally in waiting:
                if tally.shapes and time.monotonic() >= end:
                    continue
                start = time.monotonic()
                try_seed(tally, seed, sets, announce)
                tally.seconds += time.monotonic() - start
                yield tallies
            if time.monotonic() >= end:
                return
            waiting = [tally for tally in waiting if tally.seconds < seconds / len(tallies)]
            seed += 1


def try_seed(tally, seed, sets, announce=lambda failure: None):
    """Try a kernel once: each of its cases and types of operands, and its gradient."""
    for case in CASES:
        if case.kernel == tally.kernel:
            for dtype in case.dtypes:
                _try_case(tally, case, dtype, seed, sets, announce)
                tally.shapes += 1
    for gradient in GRADIENTS:
        if gradient.backward == tally.kernel:
            for dtype in types_of(gradient):
                _try_gradient(tally, gradient, dtype, seed, announce)


def _try_case(tally, case, dtype, seed, sets, announce):
    rng = Random(f"{case.label} {dtype} {seed}")
    args = {}
    announce(Failure(tally.kernel, "reference", None, seed, {}, "", None))
    try:
        args = case.random_arguments(rng, dtype, LIMITS[seed % len(LIMITS)])
        expected, bounds = case.outcome(args)
    except Exception as error:  # whatever a loop that someone has changed may raise
        tally.add(Failure(
            tally.kernel, "reference", None, seed, _numbers(args), _told(error), None))
        return
    flags = rng.choice(flag_settings(case.kernel))
    call = CCall(kernels, case.kernel, args, case.inout, misaligned=rng.random() < 0.5)
    described = {**_numbers(args), **flags} | ({"misaligned": 1} if call.misaligned else {})
    for isa in isas_for(dtype):
        if isa not in sets:
            continue

        def fail(check, message, difference=None):
            tally.add(Failure(tally.kernel, check, isa, seed, described, message, difference))

        announce(Failure(tally.kernel, "values", isa, seed, described, "", None))
        with use_isa(isa):
            try:
                outputs = _outputs(tally, call, flags, fail)
            except Fault as fault:
                tally.note(isa, inf)
                fail("values", str(fault))
                continue
        for name in bounds.keys() & outputs.keys():
            old = args[name] if flags.get(accumulate_flag(case.kernel, name)) else None
            found = worst(name, outputs[name].values(), expected[name], bounds[name], old)
            tally.note(isa, share(found) if found else 0.0)
            if found and share(found) > 1:
                fail("values", "", found)


def _outputs(tally, call, flags, fail):
    """Return the outputs by one thread, after a check that others' have the same bits."""
    first = None
    if HAS_THREADS:
        tally.threads = tally.threads is not False
    for threads, outputs in run_by_threads(kernels, call, flags):
        first = first or outputs
        for name, output in outputs.items():
            if output.raw() != first[name].raw():
                values, wanted = output.values(), first[name].values()
                # bits may differ where the numbers are equal, as those of 0 and -0 are
                i = [*map(ne, values, wanted), True].index(True) % len(values)
                tally.threads = False
                fail("threads", f"with {threads} threads" if threads else "in one piece",
                     Difference(name, i, values[i], wanted[i], 0.0))
    return first


def _try_gradient(tally, gradient, dtype, seed, announce):
    rng = Random(f"{gradient.backward} {dtype} {seed}")
    sizes = {name: values.draw(rng) for name, values in sizes_of(gradient).items()}
    described = sizes | ({"dtype": dtype} if "dtype" in sizes else {})
    announce(Failure(tally.kernel, "gradient", None, seed, described, "", None))
    try:
        found = max(differences(gradient, sizes, dtype), key=share)
    except Exception as error:
        tally.gradient = inf
        tally.add(Failure(tally.kernel, "gradient", None, seed, described, _told(error), None))
        return
    tally.gradient = max(tally.gradient or 0.0, share(found))
    if share(found) > 1:
        tally.add(Failure(tally.kernel, "gradient", None, seed, described, "", found))


def _numbers(args):
    """Return the arguments that are numbers, and those that are NULL."""
    return {name: "NULL" if value is None else value for name, value in args.items()
            if not isinstance(value, list)}


def _told(error):
    """Say what was raised, and where."""
    if isinstance(error, Fault):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
