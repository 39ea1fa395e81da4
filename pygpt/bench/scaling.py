"""Predicts the time of a training step on many ranks: a simulation of its exchange.

    profile (bench/ranks.py)  --+
    Link: latency, bandwidth  --+--> simulate() --> seconds of a step
    ranks, bytes on the wire  --+

The model has two resources. The core computes the passes; it also copies, sums and hands over
chunks, which delays the passes. The link carries one direction of all messages of a rank, one after
the other. A chunk goes through the steps of parallel/reduction.py:

    ready ... parts on the link ... latency ... sum ... sums on the link ... latency ... end

MPI makes progress only while it is called. During the backward pass that is when some gradient is
final (the profile's marks), so a step of a chunk begins at the first mark after the one before has
ended. At most SLOTS chunks are on their way at once.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace

from pygpt.parallel.reduction import CHUNKS, LEAST_FLOATS, MOST_FLOATS, SLOTS


@dataclass(frozen=True)
class Link:
    """Describes the network between any two ranks, and what a message costs them.

    Attributes:
        latency: seconds from one rank to another.
        bandwidth: bytes per second of a rank in each direction.
        per_chunk: seconds of the core for each chunk: two operations of MPI, and Python.
        per_message: seconds of the core for each message to another rank.
        per_byte: seconds of the core for each byte of gradients: copies, and the sum.
        held: the share of a core that carrying a message takes while it is on the link. A network
            card takes none; where the system itself imitates the link, it takes the core.
    """

    latency: float
    bandwidth: float
    per_chunk: float = 100e-6
    per_message: float = 3e-6
    per_byte: float = 3e-10
    held: float = 0.0


@dataclass(frozen=True)
class Profile:
    """Describes a step on one rank's rows, without an exchange.

    Attributes:
        passes: seconds of the forward and the backward pass.
        update: seconds of AdamW.
        chunks: (seconds from the beginning until a chunk is final, its bytes), in order.
        marks: the seconds at which some gradient is final, sorted.
    """

    passes: float
    update: float
    chunks: tuple
    marks: tuple

    def with_rows(self, share):
        """Return the profile for `share` times as many rows: the passes grow, the update stays."""
        return replace(self, passes=share * self.passes,
                       chunks=tuple((share * at, size) for at, size in self.chunks),
                       marks=tuple(share * at for at in self.marks))


def simulate(profile, link, N, wire=4, is_sharded=False):
    """Return the seconds of a step.

    Args:
        N: the number of ranks.
        wire: the bytes of a number on the wire.
        is_sharded: whether each rank updates its share of the values, and sends these.
    """
    if N == 1:
        return profile.passes + profile.update
    core = 0.0         # seconds that the exchange has taken from the passes so far
    free = 0.0         # when the link is free
    ends = []          # when each chunk has ended
    marks = profile.marks

    def next_call(at):
        """Return the first moment from `at` on at which MPI is called."""
        if at >= profile.passes + core:
            return at
        place = bisect.bisect_left(marks, at - core)
        return marks[place] + core if place < len(marks) else profile.passes + core

    for number, (ready, size) in enumerate(profile.chunks):
        sent = (N - 1) / N * size * wire / 4
        begin = next_call(max(ready + core, ends[number - SLOTS] if number >= SLOTS else 0.0))
        rounds = 1 if is_sharded else 2
        core += (link.per_chunk + rounds * (N - 1) * link.per_message + size * link.per_byte
                 + rounds * link.held * sent / link.bandwidth)
        for _ in range(rounds):
            begin = max(begin, free)
            free = begin + sent / link.bandwidth
            begin = next_call(free + link.latency)
        ends.append(begin)
    end = max(profile.passes + core, *ends)
    if not is_sharded:
        return end + profile.update
    size = sum(size for _, size in profile.chunks)
    values = 2 * link.latency + (N - 1) / N * size / link.bandwidth + (N - 1) * link.per_message
    return end + profile.update / N + values


def made_up(parameters, passes, update, layers):
    """Return the Profile of a model that was not measured: the forward pass takes a third of the
    passes, and in the backward pass the gradients become final at a constant rate, those of the
    embeddings (what is left over) at its end.

    Args:
        parameters: {"block": floats in a block, "rest": floats elsewhere}.
        passes, update: seconds.
    """
    n = layers * parameters["block"] + parameters["rest"]
    floats = min(max(n // CHUNKS, LEAST_FLOATS), MOST_FLOATS)
    in_blocks = layers * parameters["block"]
    chunks = []
    for first in range(0, n, floats):
        size = min(floats, n - first)
        done = min(1.0, (first + size) / max(in_blocks, 1))
        chunks.append((passes * (1 / 3 + 2 / 3 * done), 4 * size))
    marks = tuple(passes * (1 / 3 + 2 / 3 * i / (6 * layers)) for i in range(1, 6 * layers + 1))
    return Profile(passes, update, tuple(chunks), marks)
