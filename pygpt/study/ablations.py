"""Trains a GPT and GPTs that lack one part each, all alike: the experiment of `pygpt study
ablations`.

    text -> tokens -> for each variant: model -> STEPS steps -> Result;  Experiment holds them all

The text, its tokenizer, the batches, the optimizer and the schedule of the learning rate are those
of `pygpt train`, and the same for all. So are the seeds, but for the variant "other-seed": how far
it ends from the whole model says how much of a difference is chance. The same command on the same
machine gives the same numbers to the last bit. findings.py says what they show.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pygpt.config import ConfigError, TrainConfig
from pygpt.data.batches import TrainingBatches, validation_batches
from pygpt.data.dataset import Dataset
from pygpt.model import GPT
from pygpt.nn import Module
from pygpt.optim import AdamW
from pygpt.study import variants
from pygpt.training.trainer import evaluate

STEPS = 600
SHAPE = dict(n_layer=12, n_head=8, n_embd=64, n_positions=64, batch_size=8)
BASE = "whole"
VALIDATIONS = 10       # at most this many before the last step
MOST_PAIRS = 1 << 20   # of neighbouring tokens that pairs_loss() counts


@dataclass(frozen=True)
class Variant:
    """Says how one of the models differs from the whole one.

    Attributes:
        name: its name for --only.
        says: what it is, for a legend.
        model: its class.
        changes: settings of TrainConfig that differ.
    """

    name: str
    says: str
    model: type[GPT] = GPT
    changes: dict[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant(BASE, "the whole model: 12 blocks, 64 channels, 8 heads"),
    Variant("other-seed", "the whole model from another seed", changes={"seed": 7}),
    Variant("no-residuals", "without residuals", variants.WithoutResiduals),
    Variant("no-norm", "without layer norm", variants.WithoutNorm),
    Variant("no-positions", "without positions", variants.WithoutPositions),
    Variant("no-mlp", "without the MLP", variants.WithoutMLP),
    Variant("one-head", "one head of 64 channels instead of 8 of 8", changes={"n_head": 1}),
    Variant("wide", "3 blocks of 128 channels instead of 12 of 64",
            changes={"n_layer": 3, "n_embd": 128}))
NAMES = tuple(variant.name for variant in VARIANTS)


@dataclass(frozen=True)
class Result:
    """Holds what a variant did.

    Attributes:
        variant: the Variant.
        parameters: how many numbers it trains.
        records: a record of each step and each validation, as in the log of a run: "event", "step",
            and "loss" and "grad_norm" (before clipping), or "val_loss".
        first_block, last_block: the norm of the gradient of the first and the last block's
            parameters at step 1.
        val_loss: the validation loss after the last step, in nats per token; NaN if the training
            ended because a number was no longer finite.
    """

    variant: Variant
    parameters: int
    records: list[dict[str, Any]]
    first_block: float
    last_block: float
    val_loss: float

    @property
    def steps(self) -> int:
        """The steps taken."""
        return max(record["step"] for record in self.records)


@dataclass(frozen=True)
class Experiment:
    """Holds the results.

    Attributes:
        results: a Result for each variant that is complete.
        pairs_loss: the validation loss, in nats per token, of a table that counts which token
            follows which in the training text. A model with a higher loss may not have learned to
            look further back than the last token.
        warnings: sentences about the text.
    """

    results: list[Result]
    pairs_loss: float
    warnings: list[str]


def settings(steps: int = STEPS, data: Iterable[str] = (), out: str = "") -> TrainConfig:
    """Return the settings of the whole model: those of `pygpt train` but for SHAPE and what
    follows from few steps. `data` is as of TrainConfig, and `out` a directory for tokens.

    Raises:
        ConfigError: one is out of range.
    """
    return TrainConfig(data=tuple(data), max_steps=steps, warmup_steps=min(30, steps),
                       eval_batches=8, out=out or TrainConfig.out, **SHAPE)  # type: ignore[arg-type]


def chosen(names: Iterable[str]) -> list[Variant]:
    """Return the variants of these names, and first the whole model, with which each is compared;
    all of them for no names.

    Raises:
        ConfigError: there is no such variant.
    """
    names = list(names)
    for name in names:
        if name not in NAMES:
            raise ConfigError(f"only={name!r} is not one of {', '.join(NAMES)}")
    return [v for v in VARIANTS if not names or v.name in (BASE, *names)]


def run(wanted: list[Variant], steps: int, data: Iterable[str] = (),
        tell: Callable[[Variant, int, float], None] = lambda *_: None,
        is_stopped: Callable[[], object] = lambda: False) -> Experiment:
    """Train the variants, one after the other.

    Args:
        wanted: the variants.
        steps: the steps of each, 1 or more.
        data: the texts, as of TrainConfig; none: Python's reference.
        tell: a function that is called after each step with the variant, the step and the loss.
        is_stopped: a function that is called before each step. Once it returns a true value, the
            variant in progress is dropped, and the results before it are returned.
    Returns:
        An Experiment.
    Raises:
        OSError: a text cannot be read.
        ValueError: a text or `steps` cannot be used.
    """
    with tempfile.TemporaryDirectory() as out:  # a long text's tokens lie there meanwhile
        config = settings(steps, data, out)
        dataset = Dataset(config, None, None, lambda: None)
        try:
            results: list[Result] = []
            for variant in wanted:
                result = train(variant, replace(config, **variant.changes), dataset, tell,
                               is_stopped)
                if result is None:
                    break
                results.append(result)
            return Experiment(results, pairs_loss(dataset, config), dataset.warnings)
        finally:
            dataset.close()


def pairs_loss(dataset, config):
    """Return Experiment.pairs_loss. Each pair counts once more than it was seen, shared out among
    all V tokens, so that a new pair does not have the probability 0."""
    tokens, V = dataset.train[:MOST_PAIRS].tolist(), dataset.tokenizer.vocab_size
    pairs, firsts = Counter(zip(tokens, tokens[1:])), Counter(tokens[:-1])
    held_out = validation_batches(dataset.val, config.batch_size, config.n_positions,
                                  config.eval_batches)
    losses = [-math.log((pairs[pair] + 1 / V) / (firsts[pair[0]] + 1))
              for ids, targets in held_out
              for pair in zip(ids.cast("B").cast("i"), targets.cast("B").cast("i"))]
    return math.fsum(losses) / len(losses)


def train(variant, config, dataset, tell, is_stopped):
    """Train one variant; return its Result, or None if it was stopped."""
    shape = config.batch_size, config.n_positions
    batches = TrainingBatches(dataset.train, *shape, config.seed)
    held_out = validation_batches(dataset.val, *shape, config.eval_batches)
    model = variant.model(config.model_config(dataset.tokenizer.vocab_size), seed=config.seed)
    optimizer = AdamW.from_config(model, config)
    records, ends, interval = [], None, -(-config.max_steps // VALIDATIONS)
    for step in range(config.max_steps):
        if is_stopped():
            return None
        if step % interval == 0:
            records.append(validation(step, evaluate(model, held_out)))
        optimizer.lr = config.learning_rate_at(step)
        loss = model.loss_and_grad(*batches[step])
        blocks = model.transformer.h
        ends = ends or (gradient_norm(blocks[0]), gradient_norm(blocks[-1]))
        norm = optimizer.clip_grad_norm(config.grad_clip or math.inf)
        records.append({"event": "step", "step": step + 1, "loss": loss, "grad_norm": norm})
        if not math.isfinite(loss + norm):
            break
        optimizer.step()
        optimizer.zero_grad()
        tell(variant, step + 1, loss)
    last = records[-1]
    is_finite = math.isfinite(last["loss"] + last["grad_norm"])
    val_loss = evaluate(model, held_out) if is_finite else math.nan
    records.append(validation(last["step"], val_loss))
    return Result(variant, model.num_parameters(), records, *ends, val_loss)


def validation(step, val_loss):
    """Return the record of a validation, as in the log of a run."""
    return {"event": "eval", "step": step, "val_loss": val_loss}


def gradient_norm(module: Module) -> float:
    """Return the root of the sum of squares of the gradients of a module's parameters."""
    return math.sqrt(math.fsum(x * x for _, p in module.named_parameters()
                               for x in p.grad.flat()))
