"""Leads a run on several ranks: a training.trainer.Run whose computing is shared.

Rank 0 reads the text, decides, and writes checkpoints and the log as a run of one process does. In
place of the functions that compute, it calls those of SharedStep, after a command to the other
ranks to do the same.
"""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import replace

from pygpt.backend.kernels import Memory
from pygpt.config import ConfigError
from pygpt.parallel.commands import Channel, Command, Plan
from pygpt.parallel.sharding import sharded
from pygpt.parallel.shared_step import SharedStep, rows_of
from pygpt.parallel.team import GRACE_SECONDS, PeersLost
from pygpt.training import cost, trainer_state
from pygpt.training.trainer import Run

STEPS_OF_GRACE = 3
CALLBACK = -1  # takes the place of a signal when a callback asks for the end


class LeadingRun(Run):
    """A run that rank 0 leads.

    Raises:
        ConfigError: batch_size is less than the number of ranks.
        PeersLost: a signal came, and the other ranks do not answer. The run is saved as it was
            after its last step, unless the optimizer's state is sharded.
    """

    shared = None        # the SharedStep, once the other ranks have the plan
    _is_told = False     # whether the signals that came were told
    _passes_before = 0   # the model's forward_passes before the operation in progress
    _longest = 0.0       # seconds of the longest step so far

    def __init__(self, team, config, *others):
        self.team, self.ranks = team, team.size
        if config.batch_size < team.size:
            remedy, count = "start fewer, or use a larger one", config.grad_accumulation_steps
            if config.batch_size * count >= team.size:
                remedy = (f"with batch_size={config.batch_size * count} and "
                          "grad_accumulation_steps=1 a step has the same sequences")
            raise ConfigError(f"batch_size={config.batch_size} is less than the {team.size} ranks, "
                              f"and each needs a sequence of its own: {remedy}")
        super().__init__(config, *others)

    def kind_of_optimizer(self, kind):
        self._kind = kind
        return sharded(kind, self.team) if self.config.shard_optimizer else kind

    def check_memory(self, model_config, has_fixed_width):
        """Predict the memory of all ranks on this machine, as if all had as many rows as one can
        have."""
        rows = -(-self.config.batch_size // self.ranks)
        return cost.check_memory(replace(self.config, batch_size=rows), model_config,
                                 self.optimizer_class, has_fixed_width, self.team.ranks_here)

    def set_up_model(self, state):
        self._whole = None
        super().set_up_model(state)
        model, config, name = self.model, self.config, self._kind.__name__.lower()
        val_batches = [tuple((bytes(part.cast("B")), part.shape) for part in batch)
                       for batch in self.val_batches]
        plan = Plan(config, model.config, name, self.optimizer.steps, model.dropout_seed,
                    model.forward_passes, val_batches, has_state=state is not None)
        with self.team.busy():
            self.team.broadcast(plan)
            self.shared = SharedStep(self.team, model, self.optimizer, config, self.val_batches)
            self.channel = Channel(self.team, config)
            self.shared.spread(with_state=state is not None)
            if state is not None and config.shard_optimizer:
                self.shared.scatter_state(self._whole)
        self._whole = None

    def load_optimizer(self, steps):
        if not self.config.shard_optimizer:
            return super().load_optimizer(steps)
        whole = _WholeState(self.optimizer, lambda name: Memory(4 * self.optimizer.layout.n), True)
        trainer_state.load_optimizer(self.last, whole, steps)
        self.optimizer.steps, self._whole = steps, vars(whole)

    def train(self):
        self.team.noted, self.team.grace = self.signals, self._grace
        try:
            super().train()
        except PeersLost:
            self._save_alone()
            raise

    def _grace(self):
        """Return the seconds that the other ranks have to answer after a signal: little time if the
        launcher may kill this rank a second after it, else that of a few steps."""
        if self.team.launcher == "mpirun" and not self.config.shard_optimizer:
            return GRACE_SECONDS
        return max(GRACE_SECONDS, STEPS_OF_GRACE * self._longest)

    def _save_alone(self):
        """Save the run as it was after its last step, without the other ranks."""
        self.model.forward_passes = self._passes_before
        self.optimizer.zero_grad()
        if self.saved_step != self.step and self.config.shard_optimizer:
            last = (f"the last checkpoint is of step {self.saved_step}" if self.saved_step
                    else "there is no checkpoint yet")
            self.tell("warning", text=f"{_names(self.signals)} came, and other ranks do not "
                      "answer, which have parts of the optimizer's state: the steps up to "
                      f"{self.step} are lost; {last}")
            return
        if self.saved_step != self.step:
            self.save(is_best=False)
        self.tell_end(self.clock.seconds())

    # -------------------------------------------------------------------- what is shared ---

    def update(self, batches):
        self._passes_before = self.model.forward_passes
        with self._all(Command.STEP, self.step, batches):
            result = self.shared.update(self._own_rows(batches), self._stop())
        self._take_signals()
        return result

    def evaluate(self):
        self._passes_before = self.model.forward_passes
        with self._all(Command.EVALUATE):
            loss = self.shared.evaluate(self._stop)
        self._take_signals()
        return loss

    def locate(self, batches):
        with self._all(Command.LOCATE, self.step, batches):
            return self.shared.locate(self._own_rows(batches))

    def saved_optimizer(self):
        if not self.config.shard_optimizer:
            return self.optimizer
        return _WholeState(self.optimizer, self._gather, False)

    def _gather(self, name):
        with self._all(Command.GATHER, self.optimizer.buffers.index(name)):
            return self.shared.gather_state(name)

    @contextlib.contextmanager
    def _all(self, command, number=0, batches=()):
        """Let the other ranks do the same as the block."""
        begun = time.perf_counter()
        with self.team.busy():
            self.channel.send(command, number, batches)
            yield
        if command == Command.STEP:
            self._longest = max(self._longest, time.perf_counter() - begun)

    def _own_rows(self, batches):
        return [tuple(rows_of(part, *self.shared.rows) for part in batch) for batch in batches]

    def _stop(self):
        return self.signals[0] if self.signals else CALLBACK if self.is_end_requested else 0

    def tell_end(self, seconds):
        if self.signals:  # it may have come since the last common operation
            self._take_signals()
        super().tell_end(seconds)

    def _take_signals(self):
        """Take the signals of other ranks for signals of this one, and tell of them."""
        told = {rank: stop for rank, stop in self.shared.stops.items() if stop != CALLBACK}
        self.shared.stops = {}
        if self.signals:
            told[0] = self.signals[0]
        if told and not self._is_told:
            ranks = "all ranks" if len(told) == self.ranks else "rank " + ", ".join(
                map(str, sorted(told)))
            self._is_told = True
            self.tell("warning", text=f"{_names(told.values())} came to {ranks}; the run ends here")
            if not self.signals:
                self.signals.append(next(iter(told.values())))


def _names(signals):
    return " and ".join(sorted({signal.Signals(number).name for number in signals}))


class _WholeState:
    """Stands for an optimizer whose state is sharded, where a checkpoint is read or written.

    Each buffer is an attribute, made by make(name) when it is first needed. Unless keeps_all, the
    one before is given up then.
    """

    def __init__(self, optimizer, make, keeps_all):
        self._optimizer, self._make, self._keeps_all = optimizer, make, keeps_all

    def __getattr__(self, name):
        if name not in self._optimizer.buffers:
            return getattr(self._optimizer, name)
        for other in () if self._keeps_all else self._optimizer.buffers:
            vars(self).pop(other, None)
        buffer = self._make(name)
        setattr(self, name, buffer)
        return buffer
