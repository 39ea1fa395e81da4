"""Runs the leader or a follower of a run, and ends all ranks together.

If a rank fails between two common operations, that rank is the leader, and it tells the others to
end. If a rank fails amid one, the others wait for it in vain: it prints its error and aborts all of
them.
"""

from __future__ import annotations

import os
import sys
import traceback

from pygpt.backend import kernels
from pygpt.parallel.commands import Command, Ending
from pygpt.parallel.leader import LeadingRun
from pygpt.parallel.team import FAILED, INTERRUPTED, PeersLost, Team
from pygpt.parallel.worker import follow
from pygpt.training.trainer import TrainResult, train_as

EXPECTED = OSError, ValueError, ArithmeticError, MemoryError, TypeError  # their text says enough


def train_on_ranks(launch, config, callbacks, resume, force, optimizer):
    """Train as training.trainer.train does, on every rank.

    Callbacks are called on rank 0 alone. Every rank returns the TrainResult.

    Raises:
        SystemExit: on the other ranks, if an exception ends the run on rank 0.
    """
    team = Team(launch)

    def use_threads(n):
        return kernels.use_threads(n or team.threads())

    try:
        with use_threads(0):
            if team.rank == 0:
                return _lead(team, config, callbacks, resume, force, optimizer)
            ending, model = follow(team, use_threads)
    except PeersLost:
        team.abort(128 + team.noted[0])
    except BaseException as error:
        if team.rank == 0 and not team.is_busy:
            raise
        report(team, error)
        team.abort(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)
    if ending.result is None:
        raise SystemExit  # rank 0 reports the error, and its exit status is that of the job
    return TrainResult(model, **ending.result)


def _lead(team, *arguments):
    runs = []

    def make(*others):
        runs.append(LeadingRun.__new__(LeadingRun))
        runs[0].__init__(team, *others)
        return runs[0]

    ending = Ending()
    try:
        result = train_as(make, *arguments)
        fields = {name: value for name, value in vars(result).items() if name != "model"}
        ending = Ending(fields)
        return result
    finally:
        if not team.is_busy:
            if runs and runs[0].shared is not None:
                runs[0].channel.send(Command.END)
            team.broadcast(ending)


def report(team, error):
    """Print an error of this rank: a line, or for a fault of the program the traceback."""
    if isinstance(error, EXPECTED):
        text = " ".join(str(error).split()) or "there is not enough memory"
        text = f"pygpt: error: rank {team.rank}: {text}\n"
    elif isinstance(error, KeyboardInterrupt):
        text = f"pygpt: rank {team.rank}: interrupted\n"
    else:
        lines = "".join(traceback.format_exception(error))
        text = f"pygpt: rank {team.rank}:\n{lines}"
    sys.stdout.flush()
    os.write(2, text.encode("utf-8", "backslashreplace"))
