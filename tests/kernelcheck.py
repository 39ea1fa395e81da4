"""Calls one kernel in C and in Python, and reports where the two differ.

Arguments are a dict in the order of csrc/pygpt.h, which is parsed here: a list for a pointer, None
for NULL, a number otherwise.
"""

import itertools
import math
import re
from array import array
from collections import namedtuple
from operator import add, le, sub
from pathlib import Path

from isas import isas_for, use_isa
from pygpt.backend import reference
from sharing import HAS_THREADS, sharing, small_jobs_shared

HEADER = Path(__file__).parent.parent / "csrc" / "pygpt.h"
TYPECODES = {"float": "f", "double": "d", "int32_t": "i", "uint64_t": "Q", "uint16_t": "H",
             "int8_t": "b"}
THREADS = (1, 2, 3) if HAS_THREADS else (1,)
# Kernels of one thread, which no size is shared out by.
SERIAL = ("sum_forward", "sum_backward")

UNIT = 2.0 ** -24   # the largest relative error of one rounding to float32
FLOOR = 2.0 ** -110  # flushing a denormal may cost this, times factors of up to 65536

Param = namedtuple("Param", "ctype name pointer output")

# |error| <= steps * unit * magnitude + extra, element by element: a chain of `steps` roundings,
# none of a partial result larger than the sum of the terms' absolute values, and the rest.
Bound = namedtuple("Bound", "steps magnitudes extra unit", defaults=(None, UNIT))


def declared_kernels():
    """Return {name: [Param]} of every kernel of pygpt.h on arrays of numbers.

    Names with pygpt_ belong to the runtime, names with bpe_ to the tokenizer (test_bpe.py), names
    with sample_ to the choice of tokens (test_sampling.py).
    """
    text = re.sub(r"/\*.*?\*/|^#.*?$", "", HEADER.read_text(), flags=re.DOTALL | re.MULTILINE)
    kernels = {}
    for name, params in re.findall(r"\bint (\w+)\(([^)]*)\);", text):
        if not name.startswith(("pygpt_", "bpe_", "sample_")):
            kernels[name] = [_param(p) for p in params.split(",")]
    return kernels


def _param(declaration):
    const, ctype, star, name = re.fullmatch(r"\s*(const )?(\w+) (\*?)(\w+)", declaration).groups()
    ctype = "float" if ctype == "void" else ctype  # bfloat16 only in test_half_tensors.py
    return Param(ctype, name, bool(star), bool(star) and not const)


KERNELS = declared_kernels()


def accumulate_flag(kernel, output):
    """Return the flag that says whether to add to this output, or None if there is none."""
    specific = {"dinp": ("accumulate_input",), "dwte": ("accumulate_wte",),
                "dwpe": ("accumulate_wpe",), "dweight": ("accumulate_params", "accumulate_weight"),
                "dbias": ("accumulate_params",)}
    names = {p.name for p in KERNELS[kernel]}
    never = output in ("loss", "losses", "act")
    candidates = () if never else (*specific.get(output, ()), "accumulate")
    return next((flag for flag in candidates if flag in names), None)


def flags_of(kernel):
    return [p.name for p in KERNELS[kernel] if p.name.startswith("accumulate")]


def flag_settings(kernel):
    flags = flags_of(kernel)
    return [dict(zip(flags, bits)) for bits in itertools.product((0, 1), repeat=len(flags))]


def run_reference(kernel, args, inout=()):
    """Run the Python loops on copies of args, in which what they may not read is NaN."""
    work = {}
    for p in KERNELS[kernel]:
        value = args[p.name]
        if p.pointer and value is not None:
            keeps = p.name in inout or args.get(accumulate_flag(kernel, p.name))
            value = list(value) if not p.output or keeps else [math.nan] * len(value)
        work[p.name] = value
    code = getattr(reference, kernel)(*work.values())
    assert code == 0, f"reference.{kernel} returned {code}"
    return {p.name: work[p.name] for p in KERNELS[kernel] if p.output and args[p.name] is not None}


class Guarded:
    """Holds `count` elements of C memory between margins of 0xFF: NaN as a float, -1 as an id.

    Without values the elements are 0xFF as well, so a result that depends on old contents is NaN.
    Misaligned by one element on request; the contract promises no alignment.
    """

    MARGIN = 256

    def __init__(self, ffi, ctype, count, values=None, misaligned=False):
        self.typecode = TYPECODES[ctype]
        self.bytes = count * array(self.typecode).itemsize
        room = self.bytes + 2 * self.MARGIN + 128
        self.memory = ffi.new("char[]", room)
        self.view = ffi.buffer(self.memory, room)
        self.view[:] = b"\xff" * room
        address = int(ffi.cast("uintptr_t", self.memory)) + self.MARGIN
        self.start = self.MARGIN + -address % 64 + misaligned * array(self.typecode).itemsize
        if values is not None:
            self.view[self.start:self.start + self.bytes] = array(self.typecode, values).tobytes()
        self.before = bytes(self.view)
        self.pointer = ffi.cast(f"{ctype} *", self.memory + self.start)

    def raw(self):
        return self.view[self.start:self.start + self.bytes]

    def values(self):
        return array(self.typecode, self.raw())

    def margins_intact(self):
        now, end = bytes(self.view), self.start + self.bytes
        return now[:self.start] == self.before[:self.start] and now[end:] == self.before[end:]

    def untouched(self):
        return bytes(self.view) == self.before


class CCall:
    """Holds a kernel and its inputs in guarded memory, to run under several ISAs and threads."""

    def __init__(self, kernels, kernel, args, inout=(), aliases=None, misaligned=False):
        self.kernels, self.kernel, self.args = kernels, kernel, args
        self.inout, self.aliases, self.misaligned = inout, aliases or {}, misaligned
        self.inputs = {p.name: self._guarded(p, args[p.name]) for p in KERNELS[kernel]
                       if p.pointer and not p.output and args[p.name] is not None}

    def _guarded(self, p, values, count=None):
        count = len(values) if count is None else count
        return Guarded(self.kernels.ffi, p.ctype, count, values, self.misaligned)

    def sizes(self):
        """Return the arguments that are numbers."""
        return {p.name: self.args[p.name] for p in KERNELS[self.kernel] if not p.pointer}

    def run(self, flags):
        """Return (return code, {output name: Guarded}) after a check of margins and inputs."""
        args = {**self.args, **flags}
        memory = dict(self.inputs)
        for p in KERNELS[self.kernel]:
            if p.output and args[p.name] is not None:
                keeps = p.name in self.inout or args.get(accumulate_flag(self.kernel, p.name))
                if p.name in self.aliases:  # starts as a copy of the input it shares memory with
                    memory[p.name] = self._guarded(p, args[self.aliases[p.name]])
                    memory[self.aliases[p.name]] = memory[p.name]
                else:
                    values = args[p.name] if keeps else None
                    memory[p.name] = self._guarded(p, values, len(args[p.name]))
        call = []
        for p in KERNELS[self.kernel]:
            absent = p.pointer and p.name not in memory
            call.append(self.kernels.ffi.NULL if absent else
                        memory[p.name].pointer if p.pointer else args[p.name])
        code = getattr(self.kernels.lib, self.kernel)(*call)
        for name, buffer in memory.items():
            assert buffer.margins_intact(), f"{self.kernel} wrote outside {name}"
        for name, buffer in self.inputs.items():
            assert buffer.untouched(), f"{self.kernel} wrote to its input {name}"
        return code, {p.name: memory[p.name] for p in KERNELS[self.kernel]
                      if p.output and p.name in memory}


def run_everywhere(kernels, call, flags, large=False):
    """Yield (isa, outputs of the call) for each ISA, the bits being the same for all THREADS.

    A call of any size is shared out among the threads wherever it can be divided, and must have the
    same bits in one piece: a compiler may fuse a * b + c in a loop over several rows and not in one
    over a single row. A large call must be shared out by itself, in each of its jobs.
    """
    for isa in isas_for(call.args.get("dtype", kernels.FLOAT32)):
        with use_isa(isa):
            outputs = None
            for threads in THREADS if large else (*THREADS, None):
                kernels.set_num_threads(threads or 1)
                code, got = run_shared(call, flags, threads, large) if threads else call.run(flags)
                assert code == 0, f"{call.kernel} on {isa} returned {code}"
                outputs = outputs or got
                for name in got:
                    assert got[name].raw() == outputs[name].raw(), (
                        f"{call.kernel} on {isa}: the bits of {name} change with "
                        + (f"{threads} threads" if threads else "the call in one piece"))
            yield isa, outputs


def run_shared(call, flags, threads, large):
    """Return call.run(), with small jobs shared out, or with large ones checked to be."""
    if not large:
        with small_jobs_shared():
            return call.run(flags)
    sharing()
    result, (least, most) = call.run(flags), sharing()
    if call.kernel in SERIAL:
        assert (least, most) == (0, 0), f"{call.kernel} is shared out, and SERIAL lists it"
    else:
        assert most <= threads and least >= min(threads, 2), (
            f"{call.kernel}, sizes {call.sizes()}: with {threads} threads a job was shared out "
            f"among {least} only; make it larger")
    return result


def assert_within(got, want, bound, old, where):
    """Check each |got - want| against its bound; `old` is what was accumulated onto, or None."""
    assert len(got) == len(want) == len(bound.magnitudes), f"{where}: lengths differ"
    before = old or [0.0] * len(want)
    target = list(map(add, want, before))
    allowed = [bound.steps * (bound.unit * (magnitude + abs(x)) + FLOOR)
               for magnitude, x in zip(bound.magnitudes, before)]
    if bound.extra:
        allowed = list(map(add, allowed, bound.extra))
    off = list(map(abs, map(sub, got, target)))
    within = list(map(le, off, allowed))  # NaN is not <= anything
    if not all(within):
        i = within.index(False)
        raise AssertionError(f"{where}[{i}] is {got[i]!r}, the reference says {target[i]!r}, "
                             f"off by {off[i]:.3g} where {allowed[i]:.3g} is allowed")
