"""Follows the leader: what each rank but 0 does in a run."""

from __future__ import annotations

from pygpt.model import GPT
from pygpt.optim import OPTIMIZERS
from pygpt.parallel.commands import Channel, Command, Ending
from pygpt.parallel.sharding import sharded
from pygpt.parallel.shared_step import SharedStep
from pygpt.training.interrupts import first_signal_is_noted


def follow(team, use_threads):
    """Take part in a run until the leader ends it.

    Args:
        team: a Team.
        use_threads: a function of a number of threads, or 0, that returns a context manager.
    Returns:
        (Ending, GPT): how the run ended, and the model, or None if there was no run.
    """
    plan = team.broadcast()
    if isinstance(plan, Ending):
        return plan, None
    with use_threads(plan.config.threads), first_signal_is_noted() as signals:
        team.noted = signals
        shared = _share(team, plan)
        ending = _obey(team, plan, shared, signals)
        shared.model.first_row = 0
        return ending, shared.model


def _share(team, plan):
    """Make the model and the optimizer of this rank."""
    config = plan.config
    model = GPT(plan.model_config, seed=config.seed)
    model.recompute, model.compute_dtype = config.recompute, config.dtype
    model.dropout_seed, model.forward_passes = plan.dropout_seed, plan.forward_passes
    model.train()
    kind = OPTIMIZERS[plan.optimizer]
    if config.shard_optimizer:
        kind = sharded(kind, team)
    optimizer = kind.from_config(model, config)
    optimizer.steps = plan.optimizer_steps
    val_batches = [tuple(memoryview(data).cast("i", shape) for data, shape in batch)
                   for batch in plan.val_batches]
    shared = SharedStep(team, model, optimizer, config, val_batches)
    shared.spread(plan.has_state)
    if plan.has_state and config.shard_optimizer:
        shared.scatter_state()
    return shared


def _obey(team, plan, shared, signals):
    """Carry out the leader's commands until the last; return the Ending."""
    channel, optimizer = Channel(team, plan.config), shared.optimizer

    def stop():
        return signals[0] if signals else 0

    while True:
        command, number, batches = channel.receive()
        if command == Command.STEP:
            optimizer.lr = plan.config.learning_rate_at(number)
            shared.update(batches, stop())
        elif command == Command.EVALUATE:
            shared.evaluate(stop)
        elif command == Command.LOCATE:
            shared.locate(batches)
        elif command == Command.GATHER:
            shared.gather_state(optimizer.buffers[number])
        else:
            return team.broadcast()
        shared.stops = {}
