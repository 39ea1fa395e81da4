"""Calls one kernel in Python and in C: with guarded memory, on each instruction set, by threads.

header.py says what the arguments are. Whatever a kernel does that its contract rules out raises a
Fault: writing outside an array or to an input, returning an error, giving other bits with another
number of threads.
"""

import math
from array import array

from pygpt.backend import reference
from pygpt.check.header import KERNELS, TYPECODES, accumulate_flag
from pygpt.check.sets import isas_for, use_isa
from pygpt.check.threads import HAS_THREADS, sharing, small_jobs_shared

THREADS = (1, 2, 3) if HAS_THREADS else (1,)
# Kernels of one thread, which no size is shared out by.
SERIAL = ("sum_forward", "sum_backward")


class Fault(AssertionError):
    """Says what a kernel did that its contract rules out."""


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
    if code != 0:
        raise Fault(f"reference.{kernel} returned {code}")
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
            if not buffer.margins_intact():
                raise Fault(f"{self.kernel} wrote outside {name}")
        for name, buffer in self.inputs.items():
            if not buffer.untouched():
                raise Fault(f"{self.kernel} wrote to its input {name}")
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
            for threads, got in run_by_threads(kernels, call, flags, large):
                outputs = outputs or got
                for name in got:
                    if got[name].raw() != outputs[name].raw():
                        raise Fault(
                            f"{call.kernel} on {isa}: the bits of {name} change with "
                            + (f"{threads} threads" if threads else "the call in one piece"))
            yield isa, outputs


def run_by_threads(kernels, call, flags, large=False):
    """Yield (number of threads, outputs) for each of THREADS, and (None, outputs) for a call in one
    piece unless it is large; on the instruction set in use."""
    for threads in THREADS if large else (*THREADS, None):
        kernels.set_num_threads(threads or 1)
        code, outputs = run_shared(call, flags, threads, large) if threads else call.run(flags)
        if code != 0:
            raise Fault(f"{call.kernel} on {kernels.isa()} returned {code}")
        yield threads, outputs


def run_shared(call, flags, threads, large):
    """Return call.run(), with small jobs shared out, or with large ones checked to be."""
    if not large:
        with small_jobs_shared():
            return call.run(flags)
    sharing()
    result, (least, most) = call.run(flags), sharing()
    if call.kernel in SERIAL:
        if (least, most) != (0, 0):
            raise Fault(f"{call.kernel} is shared out, and SERIAL lists it")
    elif most > threads or least < min(threads, 2):
        raise Fault(f"{call.kernel}, sizes {call.sizes()}: with {threads} threads a job was shared "
                    f"out among {least} only; make it larger")
    return result
