"""Trains a model.

    TrainConfig -> train() -> TrainResult, and in config.out checkpoints, settings and a log

The loop prints nothing. It calls the callbacks with a record of each event (events.py lists them),
and run_log.py writes the same records as the lines of config.out/log.jsonl. A callback that returns
True ends the run after the step, as Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pygpt.autograd.tape import no_grad
from pygpt.backend import kernels
from pygpt.backend.arguments import checked_flag, checked_function, checked_type
from pygpt.config import TrainConfig, items_of
from pygpt.generate import generate
from pygpt.model import GPT
from pygpt.tokenizer import Tokenizer
from pygpt.training import find_nonfinite, trainer_state
from pygpt.training.interrupts import first_signal_is_noted
from pygpt.training.preparation import PreparedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class TrainingError(ArithmeticError):
    """Says that the run cannot continue because its numbers are no longer finite."""


@dataclass(frozen=True)
class TrainResult:
    """Holds the result of a run: the model with its last weights, and its losses.

    Losses are in nats per token. val_loss is the loss of the last validation, or None before the
    first. best_step is the step of best_val_loss. reason says why the run ended: "max_steps",
    "patience", "signal" or "callback"; it is interrupted in the last two cases. signal is the
    number of the signal that came during the run, or None.
    """

    model: GPT = field(repr=False)  # it takes many lines
    tokenizer: Tokenizer
    steps: int
    val_loss: float | None
    best_val_loss: float | None
    best_step: int | None
    interrupted: bool
    reason: str
    signal: int | None


def train(config: TrainConfig = TrainConfig(),
          callbacks: Sequence[Callable[[dict[str, Any]], object]] = (), resume: bool = False,
          force: bool = False, optimizer: str = "adamw") -> TrainResult:
    """Train a model, and save checkpoints in config.out.

    The first Ctrl-C or SIGTERM (in the main thread) ends the run after the current step. The run
    then saves a checkpoint, but it does not validate, for that may take minutes. A second signal
    ends the process at once, as it would end any other process.

    Args:
        config: a TrainConfig.
        callbacks: functions that are called with each record (see events.py).
        resume: whether to continue from config.out/last instead of starting a new run. The run
            takes exactly the steps that it would have taken if it had not stopped. If max_steps
            has changed, the learning rate follows the new schedule from there on. A run that has
            already taken all its steps, or that patience has ended, is left unchanged.
        force: whether to resume although settings, text or kernels differ, and to train although
            there is too little memory. A warning names each difference.
        optimizer: a name in optim.OPTIMIZERS. A resumed run must be given the same one.
    Returns:
        A TrainResult.
    Raises:
        TypeError: an argument is of another type.
        OSError: a text cannot be read, or config.out cannot be written.
        ValueError: a text is empty, too short or not UTF-8, or the run to resume differs.
        MemoryError: the machine has less memory than the run needs.
        TrainingError: a loss or a gradient is not finite. The last checkpoint is kept.
    """
    return train_as(Run, config, callbacks, resume, force, optimizer)


def train_as(kind, config, callbacks, resume, force, optimizer):
    """Do what train() does, with a Run, or one of a derived class, that kind(config, ...) makes."""
    checked_type("config", config, TrainConfig)
    for name, value in ("resume", resume), ("force", force):
        checked_flag(name, value)
    callbacks = [checked_function("callbacks: an item", callback)
                 for callback in items_of("callbacks", callbacks, "is not a list of functions")]
    with kernels.use_threads(config.threads):
        with contextlib.closing(kind(config, callbacks, resume, force, optimizer)) as run:
            if run.is_finished():
                run.tell("finished", out=run.config.out, reason=run.reason_to_end())
                run.tell_end(run.seconds_before)
            else:
                with first_signal_is_noted() as run.signals:
                    run.train()
    return TrainResult(run.model, run.tokenizer, run.step, run.val_loss, run.best_val_loss,
                       run.best_step or None, interrupted=run.reason_to_end() is None,
                       reason=run.reason(), signal=run.signals[0] if run.signals else None)


def evaluate(model: GPT, batches: Any,
             is_stopped: Callable[[], bool] = lambda: False) -> float | None:
    """Compute the mean loss of a model over batches, in nats per token, without dropout.

    Args:
        model: a GPT. Its training flag is restored afterwards.
        batches: a sequence of (ids, targets), all of the same shape.
        is_stopped: a function that is called before each batch; once it returns True, the result
            is None.
    """
    was_training = model.training
    model.eval()
    losses = []
    try:
        with no_grad():
            for batch in batches:
                if is_stopped():
                    return None
                losses.append(float(model.loss(*batch)))
            return math.fsum(losses) / len(losses)
    finally:
        model.train(was_training)


class Run(PreparedRun):
    """Takes the steps of a run, and validates, saves and samples between them.

    A derived class may share the work among processes. It then overrides update(), evaluate() and
    locate(), which compute, and saved_optimizer(), whose state is written.
    """

    signals = ()  # the numbers of the signals that asked the run to end

    def train(self):
        """Take steps until there is a reason to end, a signal, or a callback that asks for it."""
        self.validate_and_sample()  # a signal may have interrupted this step's validation
        while self.reason_to_end() is None and not self.is_stopped():
            self.take_step()
            self.validate_and_sample()
        if self.saved_step != self.step:
            self.save(is_best=False)
        self.tell_end(self.clock.seconds())

    def tell_end(self, seconds):
        if self.reason_to_end() == "max_steps":
            for advice in self.adviser.at_end(self.step):
                self.tell("advice", **asdict(advice))
        val_loss = self.val_loss if self.val_step == self.step else None
        self.tell("end", val_loss=val_loss, best_val_loss=self.best_val_loss,
                  best_step=self.best_step or None, interrupted=self.reason_to_end() is None,
                  reason=self.reason(), seconds=seconds, out=self.config.out)

    def reason(self):
        """Return why the run has ended, as in TrainResult."""
        return self.reason_to_end() or ("signal" if self.signals else "callback")

    def is_stopped(self):
        return self.is_end_requested or bool(self.signals)

    def validate_and_sample(self):
        """Validate, save and write samples, each if it is due at this step."""
        config, step = self.config, self.step
        is_due = step >= config.max_steps or _is_multiple(step, config.eval_interval)
        if self.val_step != step and is_due:
            is_best = self.validate()
            if is_best is not None:
                self.save(is_best)
                is_last = self.reason_to_end() is not None
                if (config.sample_interval and is_last
                        or _is_multiple(step, config.sample_interval)):
                    self.sample()
        elif self.saved_step != step and _is_multiple(step, config.sample_interval):
            self.sample()

    def take_step(self):
        """Take a step, and tell of it."""
        learning_rate = self.optimizer.lr = self.config.learning_rate_at(self.step)
        loss, grad_norm = self.update(self.batches_of_step())
        if not math.isfinite(loss + grad_norm):
            self.fail(f"step {self.step + 1}: the loss is {loss} and the gradient's norm "
                      f"{grad_norm}")
        self.step += 1
        self.clock.step_taken()
        speed = self.clock.tokens_per_second
        self.tell("step", loss=loss, learning_rate=learning_rate, grad_norm=grad_norm,
                  tokens_per_second=speed,
                  peak_share=self.peak_tokens and speed / self.peak_tokens,
                  seconds_left=self.clock.seconds_left(self.step))

    def update(self, batches):
        """Update the parameters with the mean gradient over the step's batches, if it is finite.

        Returns:
            (mean loss, norm of the mean gradient).
        """
        forward_passes, loss = self.model.forward_passes, 0.0
        for ids, targets in batches:
            loss += self.model.loss_and_grad(ids, targets, scale=1 / len(batches)) / len(batches)
        grad_norm = self.optimizer.clip_grad_norm(self.config.grad_clip or math.inf)
        if math.isfinite(loss + grad_norm):
            self.optimizer.step()
        else:
            self.model.forward_passes = forward_passes
        self.optimizer.zero_grad()
        return loss, grad_norm

    def batches_of_step(self):
        k = self.config.grad_accumulation_steps
        return [self.batches[index] for index in range(self.step * k, self.step * k + k)]

    def fail(self, problem):
        """End the run with an error that names the first number that is not finite."""
        where = self.locate(self.batches_of_step())
        raise TrainingError(
            f"{problem}; running step {self.step + 1} again and checking every kernel call showed: "
            f"{where}. The last checkpoint is unchanged; a lower learning rate than "
            f"{self.optimizer.lr:g} may help")

    def locate(self, batches):
        """Run a step on these batches again; return a text that says where its first number is that
        is not finite."""
        return find_nonfinite.locate(self.model, batches, 1 / len(batches))

    def evaluate(self):
        """Return the validation loss, or None if is_stopped() meanwhile."""
        return evaluate(self.model, self.val_batches, self.is_stopped)

    def validate(self):
        """Measure the validation loss.

        Returns:
            Whether it is the lowest so far, or None when a signal or a callback interrupted it.
        """
        val_loss = self.evaluate()
        if val_loss is None:
            return None
        if not math.isfinite(val_loss):
            self.fail(f"step {self.step}: the validation loss is {val_loss}")
        self.val_loss, self.val_step = val_loss, self.step
        is_best = self.best_val_loss is None or val_loss < self.best_val_loss
        self.evals_since_best += 1
        if is_best:
            self.best_val_loss, self.best_step, self.evals_since_best = val_loss, self.step, 0
        self.tell("eval", val_loss=val_loss, is_best=is_best, best_val_loss=self.best_val_loss,
                  best_step=self.best_step or None, evals_since_best=self.evals_since_best)
        self.clock.pause()
        return is_best

    def save(self, is_best):
        n = self.model.layout().n
        if find_nonfinite.first_nonfinite(self.model.values(), n) is not None:
            self.fail(f"step {self.step}: a weight is not finite")
        self.log.sync()
        path = self.directory.save(self.step, is_best, self._write_checkpoint)
        self.saved_step = self.step
        self.tell("save", path=path)
        self.clock.pause()

    def _write_checkpoint(self, directory):
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        trainer_state.save(directory, trainer_state.TrainerState(
            step=self.step, optimizer_steps=self.optimizer.steps,
            forward_passes=self.model.forward_passes, dropout_seed=self.model.dropout_seed,
            val_step=self.val_step, val_loss=self.val_loss, best_val_loss=self.best_val_loss,
            seconds=self.clock.seconds(), train_tokens=self.dataset.train_fingerprint,
            val_tokens=self.dataset.val_fingerprint, config=asdict(self.config),
            **kernels.what_rounds(self.config.dtype), init=self.init, best_step=self.best_step,
            evals_since_best=self.evals_since_best, ranks=self.ranks), self.saved_optimizer())

    def saved_optimizer(self):
        """Return the optimizer, or an object that has its state buffers (trainer_state.save)."""
        return self.optimizer

    def sample(self):
        length = self.config.sample_length * (4 if self.reason_to_end() else 1)
        tokenizer = self.tokenizer
        for prompt, ids in self.dataset.prompts:
            new = generate(self.model, ids, length, seed=self.config.seed,
                           vocab_size=tokenizer.vocab_size)
            self.tell("sample", prompt=prompt, text=tokenizer.decode(new))
        self.clock.pause()


def _is_multiple(step, interval):
    return step > 0 and interval > 0 and step % interval == 0
