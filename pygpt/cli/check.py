"""Compares the kernels with their reference loops on random shapes: `pygpt check`."""

import math

from pygpt.cli.flags import real_number, whole_number
from pygpt.config import ConfigError
from pygpt.nearest import nearest

EXPLANATION = """Each row is a kernel. "ok 0.31" means that over all shapes tried, the error of no
element was above 0.31 times its bound, which is derived from the roundings of the formula. The
columns: each instruction set against the reference loops; whether the bits are the same with 1, 2
and 3 threads; and the gradients of the reference against finite differences. It needs a source tree
of pygpt, whose csrc/pygpt.h declares the kernels. Exit status 1 means that something
fails.""".replace("\n", " ")


def add_command(add):
    """Add the command."""
    command = add("check", run, "compare the C kernels on every instruction set here, the "
                  "reference loops and finite differences on random shapes", epilog=EXPLANATION)
    command.add_argument("kernels", metavar="KERNEL", nargs="*",
                         help="check only these kernels, such as softmax_forward")
    command.add_argument("--seconds", type=real_number, metavar="X", default=20.0,
                         help="try shapes for about this many seconds, at least one of each kernel "
                         "(default 20)")
    command.add_argument("--seed", type=whole_number, metavar="N", default=0,
                         help="begin with the shape of this seed, as a failure names it; the next "
                         "seeds follow (at least 0; default 0)")
    command.add_argument("--set", metavar="ISA", action="append", default=[],
                         help="check only this instruction set, such as avx2; may be given again")
    command.add_argument("--json", action="store_true", help="print one JSON object instead")


def run(arguments):
    import contextlib
    import json
    import sys
    import time

    from pygpt.backend import kernels
    from pygpt.progress import RewrittenLine

    if not 0 < arguments.seconds < math.inf:
        raise ConfigError(f"seconds={arguments.seconds:g} must be above 0")
    if arguments.seed < 0:
        raise ConfigError(f"seed={arguments.seed} must be at least 0")
    if kernels.ffi is None:
        raise ConfigError("check compares the C kernels with the reference loops, and with the "
                          "reference backend there is nothing to compare: unset PYGPT_BACKEND")
    from pygpt.check import isolated, report
    from pygpt.check.header import KERNELS, changed_sources
    from pygpt.cli.writing import warn

    names = _chosen(arguments.kernels, list(KERNELS), "kernel")
    sets = _chosen(arguments.set, kernels.isa_names(), "instruction set")
    if changed := changed_sources():
        warn(f"{changed[0]} is newer than the library that is checked: run `make build` first")
    tallies, is_stopped, start = [], False, time.monotonic()
    with RewrittenLine(sys.stderr is not None and sys.stderr.isatty()) as line:
        try:
            with contextlib.closing(isolated.run(
                    names, sets, arguments.seed, arguments.seconds)) as trials:
                for tallies in trials:
                    line.show(lambda: _progress(tallies, time.monotonic() - start,
                                                arguments.seconds))
        except KeyboardInterrupt:
            is_stopped = True
    if arguments.json:
        print(json.dumps(report.plain(tallies, sets, arguments.seed)))
    else:
        print("\n\n".join([report.table(tallies, sets), *report.details(tallies)]))
    if any(tally.failures for tally in tallies):
        return 1
    if is_stopped:
        raise KeyboardInterrupt
    return 0


def _progress(tallies, seconds, of):
    failing = sum(bool(tally.failures) for tally in tallies)
    return (f"{seconds:.0f} s of {of:g}, {sum(tally.shapes for tally in tallies):,} shapes, "
            + (f"{failing} kernels fail" if failing else "all agree so far"))


def _chosen(asked, names, kind):
    """Return the names that are asked for, in the order of `names`; all if none is.

    Raises:
        ConfigError: a name is not one of them; it suggests the nearest.
    """
    for name in asked:
        if name not in names:
            meant = nearest(name, names)
            raise ConfigError(f"{name!r} is no {kind} here; "
                              + (f"did you mean {meant}?" if meant else
                                 f"there are {', '.join(names)}"))
    return [name for name in names if name in asked or not asked]
