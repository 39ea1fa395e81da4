"""Runs the leader or a follower of a run, and ends all ranks together.

If the leader fails between two common operations, it tells the others to end. If a rank fails amid
one, or a follower at any time, the others wait for it in vain: it prints its error and aborts all
of them.
"""

from __future__ import annotations

import os
import sys
import traceback

from pygpt.backend import kernels
from pygpt.config import ConfigError
from pygpt.parallel.commands import Command, Ending
from pygpt.parallel.leader import LeadingRun
from pygpt.parallel.team import FAILED, INTERRUPTED, PeersLost, Team
from pygpt.parallel.worker import follow
from pygpt.training.trainer import TrainResult, train_as

EXPECTED = OSError, ConfigError, ArithmeticError, MemoryError, ImportError  # their text is enough


def train_on_ranks(launch, config, callbacks, resume, force, optimizer):
    """Train as training.trainer.train does, on every rank.

    Callbacks are called on rank 0 alone. Every rank returns the TrainResult.

    Raises:
        SystemExit: on the other ranks, if an exception ends the run on rank 0.
    """
    team = joined(launch)

    def use_threads(n):
        return kernels.use_threads(n or team.threads())

    try:
        with use_threads(0):
            if team.rank == 0:
                return _lead(team, config, callbacks, resume, force, optimizer)
            ending, model = follow(team, use_threads)
            team.free()
    except PeersLost:
        team.abort(128 + team.noted[0])
    except BaseException as error:
        if team.rank == 0 and not team.is_busy:
            raise
        _report(team.rank, error)
        team.abort(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED)
    if ending.result is None:
        raise SystemExit  # rank 0 reports the error, and its exit status is that of the job
    return TrainResult(model, **ending.result)


def joined(launch):
    """Make the Team of this process. A failure ends all ranks, since the others wait for this one.

    Raises:
        ConfigError: all ranks find the same fault; on ranks other than 0, SystemExit.
    """
    team = Team.__new__(Team)
    try:
        team.__init__(launch)
        return team
    except ConfigError:  # all have found it; the leader says it
        if launch.rank:
            raise SystemExit(FAILED) from None
        raise
    except BaseException as error:
        if launch.rank or getattr(team, "is_busy", False):
            _report(launch.rank, error)
        if getattr(team, "is_busy", False):
            team.abort(FAILED)
        raise


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
            with team.busy():
                if runs and runs[0].shared is not None:
                    runs[0].channel.send(Command.END)
                    runs[0].model.first_row = 0
                team.broadcast(ending)
            team.free()


def _report(rank, error):
    """Print an error of this rank: a line, or for a fault of the program the traceback."""
    if isinstance(error, EXPECTED):
        text = " ".join(str(error).split()) or "there is not enough memory"
        text = f"pygpt: error: rank {rank}: {text}\n"
    elif isinstance(error, KeyboardInterrupt):
        text = f"pygpt: rank {rank}: interrupted\n"
    else:
        lines = "".join(traceback.format_exception(error))
        text = f"pygpt: rank {rank}:\n{lines}"
    sys.stdout.flush()
    os.write(2, text.encode("utf-8", "backslashreplace"))
