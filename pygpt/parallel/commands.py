"""Defines the messages by which the leader, rank 0, tells the other ranks what to do.

    leader                                  each other rank
    Plan                     ------------>  makes its model and optimizer
    command STEP, its rows   ------------>  SharedStep.update
    command EVALUATE         ------------>  SharedStep.evaluate
    command END              ------------>  takes the Ending and returns

The leader alone reads the text, writes files and decides. A command is a block of bytes for each
rank: two whole numbers, the command and the step, and after them the rank's rows of the step's
batches.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import Any, NamedTuple

from pygpt.parallel.shared_step import rows_of

HEAD = 16  # bytes: two numbers of 8


class Command(IntEnum):
    """Names a common operation."""

    STEP = 1
    EVALUATE = 2
    LOCATE = 3
    GATHER = 4  # the optimizer's buffer whose number takes the place of the step
    END = 5


class Plan(NamedTuple):
    """Holds all that a rank must know to take part in a run."""

    config: Any             # TrainConfig
    model_config: Any       # GPTConfig
    optimizer: str          # the name of its class in OPTIMIZERS
    optimizer_steps: int
    dropout_seed: int
    forward_passes: int
    val_batches: list       # (ids, targets, shape) as bytes
    has_state: bool         # whether the optimizer has a state to take over


class Ending(NamedTuple):
    """Says how the leader ended: with the fields of a TrainResult, or None after an exception."""

    result: Any = None


class Channel:
    """Carries commands from the leader to the others.

    Args:
        team: a Team.
        config: the TrainConfig.
    """

    def __init__(self, team, config):
        self._team, self._count = team, config.grad_accumulation_steps
        self._rows = [team.rows(config.batch_size, rank) for rank in range(team.size)]
        self._T = config.n_positions
        most = max(end - first for first, end in self._rows)
        self._length = HEAD + self._count * 2 * 4 * most * self._T
        self._blocks = bytearray(self._length * (team.size if team.rank == 0 else 1))

    def send(self, command, number=0, batches=()):
        """Send a command to all other ranks, with their rows of some batches."""
        for rank, (first, end) in enumerate(self._rows):
            block = memoryview(self._blocks)[rank * self._length:(rank + 1) * self._length]
            block[:HEAD] = array("q", [command, number]).tobytes()
            at = HEAD
            for batch in batches:
                for part in batch:
                    rows = rows_of(part, first, end).cast("B")
                    block[at:at + len(rows)] = rows
                    at += len(rows)
        team = self._team
        team.wait(team.control.Iscatter([self._blocks, self._length, team.MPI.BYTE],
                                        team.MPI.IN_PLACE))

    def receive(self):
        """Wait for a command; return (command, number, batches), which hold this rank's rows."""
        team = self._team
        team.wait(team.control.Iscatter(None, [self._blocks, self._length, team.MPI.BYTE]))
        block = memoryview(self._blocks)
        command, number = block[:HEAD].cast("q")
        first, end = self._rows[team.rank]
        shape, batches, at = (end - first, self._T), [], HEAD
        nbytes = 4 * shape[0] * shape[1]
        for _ in range(self._count):
            batches.append((block[at:at + nbytes].cast("i", shape),
                            block[at + nbytes:at + 2 * nbytes].cast("i", shape)))
            at += 2 * nbytes
        return Command(command), number, batches
