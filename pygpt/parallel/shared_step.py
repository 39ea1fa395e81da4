"""Computes a rank's share of a step or a validation, and joins it with those of the others.

Every rank runs these functions with rows of its own at the same time, and gets the same results.
"""

from __future__ import annotations

import math

from pygpt.parallel.reduction import Reduction
from pygpt.parallel.sharding import gather_state, gather_values, scatter_state
from pygpt.parallel.team import bytes_at
from pygpt.training import find_nonfinite
from pygpt.training.trainer import evaluate


class SharedStep:
    """Holds what a rank needs to share the steps of a run.

    Args:
        team: a Team.
        model, optimizer: those of this rank; the optimizer's class is sharded() if the config says
            so.
        config: the TrainConfig.
        val_batches: the whole batches to validate on.

    Attributes:
        rows: (first, end) of the rows of a batch that this rank computes.
        share: their share of the batch.
        reduction: the Reduction of the gradients.
        stops: {rank: number} of the signals that ranks have reported, and of -1 from a leader whose
            callback asks for the end.
    """

    def __init__(self, team, model, optimizer, config, val_batches):
        self.team, self.model, self.optimizer, self.config = team, model, optimizer, config
        self.rows = first, end = team.rows(config.batch_size)
        self.share = (end - first) / config.batch_size
        model.first_row = first
        self.val_batches = [tuple(rows_of(part, first, end) for part in batch)
                            for batch in val_batches]
        self.reduction = Reduction(team, model.gradients(), config.reduce_dtype,
                                   is_whole=not config.shard_optimizer)
        self.stops = {}

    def spread(self, with_state):
        """Give all ranks the weights of the leader, and with_state those of its optimizer."""
        layout = self.optimizer.layout
        self.team.spread(bytes_at(layout.values, 4 * layout.n))
        layout.values.changed()
        if with_state and not self.config.shard_optimizer:
            for name in self.optimizer.buffers:
                self.team.spread(bytes_at(getattr(self.optimizer, name), 4 * layout.n))

    def update(self, batches, stop=0):
        """Update the parameters with the mean gradient over a step's batches, if it is finite.

        Args:
            batches: (ids, targets) of this rank's rows of each batch.
            stop: the number of a signal that this rank reports, or 0.
        Returns:
            (mean loss, norm of the mean gradient), over all ranks.
        """
        model, scale, loss = self.model, self.share / len(batches), 0.0
        passes = model.forward_passes
        for number, (ids, targets) in enumerate(batches, 1):
            is_last = number == len(batches)
            loss += scale * model.loss_and_grad(
                ids, targets, scale=scale,
                when_final=self.reduction.when_final if is_last else None)
        request, told = self.team.start_sharing([loss, stop])
        self.reduction.finish()
        self.team.wait(request)
        self._note(told[1::2])
        loss = sum(told[::2])
        grad_norm = self.optimizer.clip_grad_norm(self.config.grad_clip or math.inf)
        if math.isfinite(loss + grad_norm):
            self.optimizer.step()
            if self.config.shard_optimizer:
                gather_values(self.team, self.optimizer)
        else:
            model.forward_passes = passes
        self.optimizer.zero_grad()
        return loss, grad_norm

    def evaluate(self, stop=lambda: 0):
        """Return the mean loss over the validation batches, or None if a rank is to stop.

        stop: a function that returns the number of a signal that this rank reports, or 0.
        """
        def is_stopped():
            self._note(self.team.shared(stop()))
            return bool(self.stops)

        loss = evaluate(self.model, self.val_batches, is_stopped)
        return None if loss is None else sum(self.team.shared(self.share * loss))

    def locate(self, batches):
        """Return a text that says where the first number of a step is that is not finite."""
        scale = self.share / len(batches)
        found = self.team.gathered(find_nonfinite.locate(self.model, batches, scale))
        for rank, text in enumerate(found):
            if text != find_nonfinite.NOTHING_FOUND:
                return f"on rank {rank}, {text}"
        return (f"the numbers of each rank are finite, but not their sum, with "
                f"{self.config.reduce_dtype} on the wire")

    def gather_state(self, name):
        """Return the optimizer's whole buffer of this name on the leader, and None on others."""
        return gather_state(self.team, self.optimizer, name)

    def scatter_state(self, whole=None):
        """Give all ranks their parts of the optimizer's state, which the leader has {name: whole
        buffer}."""
        for name in self.optimizer.buffers:
            scatter_state(self.team, self.optimizer, name, whole and whole[name])

    def _note(self, stops):
        self.stops.update({rank: int(stop) for rank, stop in enumerate(stops) if stop})


def rows_of(batch, first, end):
    """Return the rows `first` to `end` of a batch, a memoryview (B, T) of int32."""
    B, T = batch.shape
    part = batch.cast("B")[4 * T * first:4 * T * end]
    return part.cast("i", (end - first, T)) if end > first else part
