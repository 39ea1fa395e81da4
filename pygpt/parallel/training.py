"""Trains on all ranks that a launcher of MPI started, or in this process alone.

    mpirun -n 4 python -m pygpt train ...

pygpt.train is this train(). If no launcher started the process, it calls training.trainer.train and
imports nothing else.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pygpt.config import TrainConfig
from pygpt.parallel import launcher
from pygpt.training import trainer
from pygpt.training.trainer import TrainResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def train(config: TrainConfig = TrainConfig(),
          callbacks: Sequence[Callable[[dict[str, Any]], object]] = (), resume: bool = False,
          force: bool = False, optimizer: str = "adamw") -> TrainResult:
    launch = launcher.found()
    if launch is None:
        return trainer.train(config, callbacks, resume=resume, force=force, optimizer=optimizer)
    from pygpt.parallel.ranks import train_on_ranks

    return train_on_ranks(launch, config, callbacks, resume, force, optimizer)


functools.update_wrapper(train, trainer.train, ("__doc__",), ())
