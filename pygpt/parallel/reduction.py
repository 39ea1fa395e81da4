"""Sums the gradients of all ranks while the backward pass still computes others.

The flat buffer of gradients is cut into chunks, and each chunk into one part for each rank, its
owner. With three ranks:

    chunk        | part 0 | part 1 | part 2 |
    1. parts     each rank sends part i of its gradients to rank i
    2. sum       rank i adds the N versions of part i, in the order of the ranks
    3. sums      rank i sends the sum to all ranks

So each number is summed once, in an order that depends on nothing but N: all ranks get the same
bits, whatever MPI, network or time of arrival. Each rank sends and receives (N-1)/N of the chunk
twice, as in a ring, but in two rounds instead of 2 (N-1).

A chunk starts as soon as the backward pass says that its gradients are final. MPI makes progress
only while it is called, so the chunks on their way are looked after whenever a gradient is final.
If the optimizer's state is sharded (sharding.py), the third step is left out: rank i updates part i
of the values, and sends these.

With bfloat16 on the wire, the parts and the sums are rounded when they are sent; the sums are
computed in float32.
"""

from __future__ import annotations

from typing import NamedTuple

from pygpt.backend.kernels import EOVERFLOW, Memory, check_status, lib
from pygpt.parameters import ALIGN

MOST_FLOATS = 1 << 20    # of a chunk, 4 MB: the last one starts when nothing is left to overlap
LEAST_FLOATS = 1 << 14   # 64 KB: a message should take longer than its way
CHUNKS = 8               # of a small model
SLOTS = 4                # chunks on their way at once; each takes memory of its own length


class Chunk(NamedTuple):
    """A stretch of the flat buffers: the first float of each rank's part, and the end."""

    bounds: tuple[int, ...]

    @property
    def first(self):
        return self.bounds[0]

    @property
    def end(self):
        return self.bounds[-1]

    def counts(self):
        """List the floats of each part."""
        return [end - first for first, end in zip(self.bounds, self.bounds[1:])]

    def places(self):
        """List the first float of each part, counted from the beginning of the chunk."""
        return [bound - self.first for bound in self.bounds[:-1]]


def chunks_of(n, size):
    """Cut n floats into Chunks with `size` parts each. A part begins at a whole cache line."""
    floats = min(max(n // CHUNKS, LEAST_FLOATS), MOST_FLOATS)
    floats = -(-floats // (size * ALIGN)) * size * ALIGN
    chunks = []
    for first in range(0, n, floats):
        end = min(first + floats, n)
        part = -(-(end - first) // (size * ALIGN)) * ALIGN
        chunks.append(Chunk(tuple(min(first + i * part, end) for i in range(size + 1))))
    return chunks


class Reduction:
    """Turns the gradients of this rank's rows into their sum over all ranks, in place.

    Args:
        team: a Team.
        gradients: the Gradients of a model.
        dtype: the type of the numbers on the wire, "float32" or "bfloat16".
        is_whole: whether each rank gets all sums, or only those of its own parts.

    Attributes:
        chunks: the Chunks.
    """

    def __init__(self, team, gradients, dtype="float32", is_whole=True):
        self._team, self._gradients, self._is_whole = team, gradients, is_whole
        self.chunks = chunks_of(gradients.layout.n, team.size)
        most = max(sum(chunk.counts()) + team.size * ALIGN for chunk in self.chunks)
        wire = _Halves if dtype == "bfloat16" else _Floats
        self._wires = [wire(team, gradients.memory, most) for _ in range(SLOTS)]
        self._order, self._is_ordered = list(range(len(self.chunks))), False
        self._leaves = [set() for _ in self.chunks]  # those whose gradients lie in a chunk
        for _, parameter, offset in gradients.layout.entries:
            for number, chunk in enumerate(self.chunks):
                if offset // 4 < chunk.end and offset // 4 + parameter.size > chunk.first:
                    self._leaves[number].add(parameter.leaf)
        self._begin()

    def _begin(self):
        """Prepare for the gradients of a step."""
        self._missing = [set(leaves) for leaves in self._leaves]
        self._seen = []                  # chunks in the order in which they became final
        self._next = 0                   # chunks that have started
        self._free = list(self._wires)
        self._to_sum, self._to_end = [], []  # (chunk, wire, request), in the order of their start

    def when_final(self, leaves):
        """Take word of gradients that will not change; see TrainingStep.backward."""
        for leaf in leaves:
            for number, missing in enumerate(self._missing):
                if leaf in missing:
                    missing.remove(leaf)
                    if not missing:
                        self._seen.append(number)
        self._advance()

    def finish(self):
        """Sum the gradients that are left, and wait for all sums.

        Returns:
            Whether there are any gradients.
        """
        has_gradients = self._gradients.complete()
        self._seen += sorted(set(range(len(self.chunks))) - set(self._seen))
        self._missing = [()] * len(self.chunks)
        self._team.wait_until(self._advance)
        if not self._is_ordered and len(self.chunks) > 1:
            self._learn_order()
        self._begin()
        return has_gradients

    def _learn_order(self):
        """Start the chunks from now on in the order in which they became final in this step, if it
        was replayed. The leader's order counts, because all ranks must have the same."""
        seen = self._team.broadcast(self._seen)
        self._is_ordered = seen != self._order
        self._order = seen

    def _advance(self):
        """Look after the chunks on their way, and start others; return whether all have ended."""
        while self._to_sum and self._to_sum[0][2].Test():
            chunk, wire, _ = self._to_sum.pop(0)
            wire.sum_own(chunk)
            if self._is_whole:
                self._to_end.append((chunk, wire, wire.send_sum(chunk)))
            else:
                wire.keep_own(chunk)
                self._free.append(wire)
        while self._to_end and self._to_end[0][2].Test():
            chunk, wire, _ = self._to_end.pop(0)
            wire.receive_sums(chunk)
            self._free.append(wire)
        while self._free and self._next < len(self.chunks):
            number = self._order[self._next]
            if self._missing[number]:
                break
            chunk, wire = self.chunks[number], self._free.pop(0)
            self._to_sum.append((chunk, wire, wire.send_parts(chunk)))
            self._next += 1
        return not self._to_sum and not self._to_end and self._next == len(self.chunks)


class _Floats:
    """Sends a chunk as float32, from the memory of the gradients and back into it."""

    def __init__(self, team, memory, most):
        self._team, self._memory = team, memory
        self._received = Memory(4 * most)

    def send_parts(self, chunk):
        team = self._team
        own = chunk.counts()[team.rank]
        return team.parts.Ialltoallv(
            [self._view(chunk), chunk.counts(), chunk.places(), team.MPI.FLOAT],
            [self._received.view, [own] * team.size, [own * i for i in range(team.size)],
             team.MPI.FLOAT])

    def sum_own(self, chunk):
        """Add the N versions of the part of this rank, in the order of the ranks."""
        own = chunk.counts()[self._team.rank]
        out, parts = self._own(chunk), self._received
        check_status(lib.add_forward(out, parts.pointer("f"), parts.pointer("f", 4 * own), own))
        for i in range(2, self._team.size):
            check_status(lib.add_forward(out, out, parts.pointer("f", 4 * own * i), own))

    def send_sum(self, chunk):
        team = self._team
        return team.sums.Iallgatherv(
            team.MPI.IN_PLACE,
            [self._view(chunk), chunk.counts(), chunk.places(), team.MPI.FLOAT])

    def keep_own(self, chunk):
        """Do what is left when the sum is not sent: nothing."""

    def receive_sums(self, chunk):
        """Do what is left when all sums are there: nothing, because they lie in place."""

    def _view(self, chunk):
        return self._memory.view[4 * chunk.first:4 * chunk.end]

    def _own(self, chunk):
        return self._memory.pointer("f", 4 * chunk.bounds[self._team.rank])


class _Halves(_Floats):
    """Sends a chunk as bfloat16, which takes half the time on the wire."""

    def __init__(self, team, memory, most):
        super().__init__(team, memory, 1)
        self._sent, self._received = Memory(2 * most), Memory(2 * most)
        self._part = Memory(4 * most)

    def send_parts(self, chunk):
        team = self._team
        own = chunk.counts()[team.rank]
        self._round(self._memory.pointer("f", 4 * chunk.first), 0, chunk.end - chunk.first)
        return team.parts.Ialltoallv(
            [self._sent.view, chunk.counts(), chunk.places(), team.MPI.UINT16_T],
            [self._received.view, [own] * team.size, [own * i for i in range(team.size)],
             team.MPI.UINT16_T])

    def sum_own(self, chunk):
        own, part = chunk.counts()[self._team.rank], self._part.pointer("f")
        out = self._own(chunk)
        for i in range(self._team.size):
            source = self._received.pointer("H", 2 * own * i)
            check_status(lib.from_bfloat16(part if i else out, source, own))
            if i:
                check_status(lib.add_forward(out, out, part, own))

    def send_sum(self, chunk):
        team = self._team
        place, own = chunk.places()[team.rank], chunk.counts()[team.rank]
        self._round(self._own(chunk), place, own)
        return team.sums.Iallgatherv(
            team.MPI.IN_PLACE,
            [self._sent.view, chunk.counts(), chunk.places(), team.MPI.UINT16_T])

    def receive_sums(self, chunk):
        check_status(lib.from_bfloat16(self._memory.pointer("f", 4 * chunk.first),
                                       self._sent.pointer("H"), chunk.end - chunk.first))

    def _round(self, pointer, place, n):
        status = lib.to_bfloat16(self._sent.pointer("H", 2 * place), pointer, n)
        if status != EOVERFLOW:  # a number became infinite, which ends the run by name
            check_status(status)
