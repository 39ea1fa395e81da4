"""Shards an optimizer's state: each rank holds and updates only its own parts of the flat buffers.

    values      | part 0 | part 1 | part 2 |    whole on each rank, because the model reads all
    m, v                 | part 1 |             rank 1 holds this: a third of the memory

A step sums the gradients of the own parts (reduction.py), updates these parts of the values, and
sends them to all ranks. Its traffic is that of a step without sharding, but the values can only
leave after the backward pass, when the norm of all gradients is known.

Source: Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models,
section 5.1, stage 1.
"""

from __future__ import annotations

import bisect

from pygpt.backend.kernels import Memory
from pygpt.parallel.reduction import chunks_of
from pygpt.parallel.team import bytes_at
from pygpt.parameters import fill


class ShardedMemory:
    """Holds the parts of a flat buffer that belong to this rank, side by side.

    Args:
        stretches: (first float, number of floats) of each part, in order.
    """

    def __init__(self, stretches):
        stretches = [(first, floats) for first, floats in stretches if floats]
        self._starts = [first for first, _ in stretches]
        self._lengths, self._places, n = [floats for _, floats in stretches], [], 0
        for _, floats in stretches:
            self._places.append(n)
            n += floats
        self.nbytes = 4 * n
        self._memory = Memory(self.nbytes)
        fill(self._memory.pointer("f"), n, 0.0)

    def place(self, offset):
        """Return where the byte `offset` of the flat buffer lies here.

        Raises:
            ValueError: it is in no part of this rank.
        """
        i = bisect.bisect_right(self._starts, offset // 4) - 1
        if i < 0 or offset // 4 >= self._starts[i] + self._lengths[i]:
            raise ValueError(f"byte {offset} of the state is another rank's: an optimizer updates "
                             "what spans() lists")
        return 4 * self._places[i] + offset - 4 * self._starts[i]

    def pointer(self, code, offset):
        """Like Memory.pointer, for an offset in the flat buffer, in a part of this rank."""
        return self._memory.pointer(code, self.place(offset))

    def part(self, first, n):
        """Return the bytes of n floats from a float on."""
        place = self.place(4 * first) if n else 0
        return self._memory.view[place:place + 4 * n]


def sharded(kind, team):
    """Return a class like the optimizer class `kind`, whose state is sharded over a Team."""

    class Sharded(kind, is_listed=False):
        def _take_layout(self):
            super()._take_layout()
            self.chunks = chunks_of(self.layout.n, team.size)
            self._own = [(chunk.bounds[team.rank], chunk.counts()[team.rank])
                         for chunk in self.chunks]

        @classmethod
        def bytes_per_parameter(cls):
            return -(-kind.bytes_per_parameter() // team.size)

        def spans(self):
            found, n_decay = [], self.layout.n_decay
            for start, n, _ in self.layout.trained_spans():
                for first, own in self._own:
                    begin, end = max(start, first), min(start + n, first + own)
                    if begin < end:
                        found.append((begin, end - begin, max(0, min(end, n_decay) - begin)))
            return found

        def _new_buffer(self):
            return ShardedMemory(self._own)

        def _total(self, squares):
            return sum(team.shared(squares))

        def __getstate__(self):
            raise TypeError(f"{kind.__name__}: its state is sharded over ranks, and cannot be "
                            "copied from one")

    Sharded.__name__ = Sharded.__qualname__ = kind.__name__
    return Sharded


def gather_values(team, optimizer):
    """Send the updated parts of the values to all ranks."""
    values, n = optimizer.layout.values, optimizer.layout.n
    view, requests = bytes_at(values, 4 * n), []
    for chunk in optimizer.chunks:
        requests.append(team.sums.Iallgatherv(
            team.MPI.IN_PLACE, [view[4 * chunk.first:4 * chunk.end], chunk.counts(),
                                chunk.places(), team.MPI.FLOAT]))
    team.wait_until(lambda: team.MPI.Request.Testall(requests))
    values.changed()


def gather_state(team, optimizer, name):
    """Return a state buffer as a whole (Memory) on rank 0, and None on the others."""
    whole = Memory(4 * optimizer.layout.n) if team.rank == 0 else None
    for chunk in optimizer.chunks:
        part = getattr(optimizer, name).part(chunk.bounds[team.rank], chunk.counts()[team.rank])
        into = whole and [whole.view[4 * chunk.first:4 * chunk.end], chunk.counts(),
                          chunk.places(), team.MPI.FLOAT]
        team.wait(team.sums.Igatherv([part, team.MPI.FLOAT], into))
    return whole


def scatter_state(team, optimizer, name, whole):
    """Give each rank its parts of a state buffer that rank 0 has as a whole (Memory)."""
    for chunk in optimizer.chunks:
        part = getattr(optimizer, name).part(chunk.bounds[team.rank], chunk.counts()[team.rank])
        source = whole and [whole.view[4 * chunk.first:4 * chunk.end], chunk.counts(),
                            chunk.places(), team.MPI.FLOAT]
        team.wait(team.sums.Iscatterv(source, [part, team.MPI.FLOAT]))
