"""Trains a model.

    TrainConfig -> train() -> TrainResult, and in config.out checkpoints, settings and a log

The loop prints nothing. It calls the callbacks with a record of each event (events.py lists them),
and run_log.py writes the same records as the lines of config.out/log.jsonl. A callback that returns
True ends the run after the step, as Ctrl-C does.
"""

import errno
import math
import os
from dataclasses import asdict, dataclass, replace

from pygpt.backend import kernels
from pygpt.checkpoint import model_files, saved
from pygpt.training import cost, find_nonfinite, resume as resuming, trainer_state
from pygpt.training.clock import Clock
from pygpt.training.events import Events
from pygpt.config import ConfigError, TrainConfig
from pygpt.data.corpus import DataError
from pygpt.data.batches import TrainingBatches, validation_batches
from pygpt.data.dataset import Dataset
from pygpt.generate import generate
from pygpt.training.interrupts import first_signal_is_noted
from pygpt.training.run_log import RunLog, rewind
from pygpt.model import GPT
from pygpt.optim import OPTIMIZERS
from pygpt.training.run_directory import LOG_FILE, SETTINGS_FILE, RunDirectory
from pygpt.autograd.tape import no_grad
from pygpt.tokenizer import Tokenizer
from pygpt.training.trainer_state import TrainerState


class TrainingError(ArithmeticError):
    """Says that the run cannot continue because its numbers are no longer finite."""


@dataclass(frozen=True)
class TrainResult:
    """Holds the result of a run: the model with its last weights, and its losses.

    Losses are in nats per token. val_loss is the loss of the last validation, or None before the
    first. signal is the number of the signal that ended the run early, or None.
    """

    model: GPT
    tokenizer: Tokenizer
    steps: int
    val_loss: float | None
    best_val_loss: float | None
    interrupted: bool
    signal: int | None


def train(config=TrainConfig(), callbacks=(), resume=False, force=False, optimizer="adamw"):
    """Trains a model, and saves checkpoints in config.out.

    The first Ctrl-C or SIGTERM (in the main thread) ends the run after the current step. The run
    then saves a checkpoint, but it does not validate, for that may take minutes. A second signal
    ends the process at once, as it would end any other process.

    Args:
        config: a TrainConfig.
        callbacks: functions that are called with each record (see events.py).
        resume: whether to continue from config.out/last instead of starting a new run. The run
            takes exactly the steps that it would have taken if it had not stopped. If max_steps
            has changed, the learning rate follows the new schedule from there on. A run that has
            already taken all its steps is left unchanged.
        force: whether to resume although settings, text or kernels differ, and to train although
            there is too little memory. A warning names each difference.
        optimizer: a name in optim.OPTIMIZERS. A resumed run must be given the same one.
    Returns:
        A TrainResult.
    Raises:
        OSError: a text cannot be read, or config.out cannot be written.
        ValueError: a text is empty, too short or not UTF-8, or the run to resume differs.
        MemoryError: the machine has less memory than the run needs.
        TrainingError: a loss or a gradient is not finite. The last checkpoint is kept.
    """
    with kernels.use_threads(config.threads):
        run = _Run(config, callbacks, resume, force, optimizer)
        try:
            if run.is_finished:
                run.tell_finished()
            else:
                with first_signal_is_noted() as run.signals:
                    run.train()
        finally:
            run.close()
    return TrainResult(run.model, run.tokenizer, run.step, run.val_loss, run.best_val_loss,
                       interrupted=not run.is_done(),
                       signal=run.signals[0] if run.signals else None)


def last_settings(out):
    """Reads the settings of the run in an output directory from its last checkpoint, as a dict.

    Raises:
        OSError, CheckpointError: there is no such checkpoint, or it is damaged.
    """
    last = trainer_state.find_last(out)
    if not os.path.isdir(last):
        what = "holds no run to resume" if os.path.isdir(out) else "there is no such directory"
        raise FileNotFoundError(errno.ENOENT, what, os.fspath(out))
    return trainer_state.load(last).config


def evaluate(model, batches, is_stopped=lambda: False):
    """Computes the mean loss of a model over batches, in nats per token, without dropout.

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


class _Run:
    """Holds everything that one run needs; the cheapest parts to check are made first."""

    def __init__(self, config, callbacks, resume, force, optimizer):
        if optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer={optimizer!r} is not one of {', '.join(OPTIMIZERS)}")
        self.optimizer_class = OPTIMIZERS[optimizer]
        self.events, self.signals = Events(callbacks), []
        self.step, self.force, self.warnings = 0, force, []
        self.log = self.directory = self.dataset = self.last = state = None
        if resume:
            self.last = trainer_state.find_last(config.out)
            state = trainer_state.load(self.last)
            self.step = state.step
            config = self._check_resumed_config(state, config)
        self.config = config
        self.is_finished = state is not None and self._is_finished(state, config)
        if self.is_finished:
            self._open_finished(state)
            return
        base_config = self.last or config.init
        if base_config:
            base_config = model_files.read_config(model_files.find_model(base_config))
            self.config = config.shaped_like(base_config)
        try:
            self._prepare(state, base_config)
        except BaseException:
            self.close()
            raise

    def _check_resumed_config(self, state, config):
        """Checks the config of a resumed run against the state that it continues from.

        Returns:
            The config, with the model's shape filled in.
        """
        if config.init:  # the first part of the run took these settings from its model
            config = resuming.with_shape_of(config, state)
        self._refuse_or_warn(resuming.changed_settings(config, state, self.last), ConfigError,
                             "the run to resume was begun with other settings: {}; it would not "
                             "continue as it began")
        if not self._is_finished(state, config):  # a finished run calls no kernel
            self._refuse_or_warn(resuming.changed_kernels(kernels.info(), state), ConfigError,
                                 "the run to resume was begun on other kernels: {}")
        if new_schedule := resuming.new_schedule(config, state):
            self.warnings.append(new_schedule)
        if self.last != saved.named(config.out, "last"):
            self.warnings.append(f"{os.path.join(config.out, 'last')} names no checkpoint; the run "
                                 f"continues from {self.last}, the newest complete one")
        return config

    @staticmethod
    def _is_finished(state, config):
        return state.val_step == state.step >= config.max_steps

    def _refuse_or_warn(self, differences, kind, sentence):
        """Refuses all differences in one sentence, or with force adds a warning for each."""
        if differences and not self.force:
            raise kind(sentence.format(", ".join(differences))
                       + " (force: continue anyway)")
        self.warnings += [f"{difference}; forced to continue anyway"
                          for difference in differences]

    def _open_finished(self, state):
        """Loads the model, the tokenizer and the losses of a finished run; changes no file."""
        self.model = GPT.from_pretrained(self.last)
        self.model.recompute = self.config.recompute
        self.model.train()
        self.tokenizer = Tokenizer.from_pretrained(self.last)
        self._restore_losses(state)

    def tell_finished(self):
        """Tells the callbacks that the run has no step left to take."""
        self.tell("finished", out=self.config.out)
        self._tell_end(self.seconds_before)

    def _prepare(self, state, base_config):
        config = self.config
        self.dataset = Dataset(config, self.last, base_config, self._open_directory,
                               self._tell_reading)
        self.tokenizer = self.dataset.tokenizer
        if state:
            self._refuse_or_warn(self.dataset.changes(state), DataError, "{}")
        shape = config.batch_size, config.n_positions
        if base_config:
            model_config = replace(base_config, embd_pdrop=config.dropout,
                                   attn_pdrop=config.dropout, resid_pdrop=config.dropout)
        else:
            model_config = config.model_config(self.tokenizer.vocab_size)
        needed, free = self._check_memory(model_config)
        trainer_state.check_settings_readable(config)
        self.batches = TrainingBatches(self.dataset.train, *shape, config.seed)
        self.val_batches = validation_batches(self.dataset.val, *shape, config.eval_batches)
        self._open_directory()
        self._make_model(model_config)
        trainer_state.check_readable(self.optimizer)
        self._restore(state)
        info, peak = kernels.info(), cost.peak_flops()
        self.clock = Clock(config, self.step, self.seconds_before)
        self.peak_tokens = peak and peak / cost.flops_per_token(model_config, config.n_positions)
        earlier = self._begin_writing(is_new=state is None)
        self.tell("start", parameters=self.model.num_parameters(),
                  train_tokens=len(self.dataset.train), val_tokens=len(self.dataset.val),
                  vocab_size=model_config.vocab_size, max_steps=config.max_steps,
                  isa=info["isa"], threads=info["threads"], out=config.out, earlier=earlier,
                  resumed=state is not None, memory_needed=needed, memory_free=free,
                  peak_flops=peak, config=asdict(config))
        for text in self.directory.warnings + self.warnings + self.dataset.warnings:
            self.tell("warning", text=text)
        self.dataset.remove_unused()

    def _begin_writing(self, is_new):
        """Moves an earlier run aside, or removes the log's records that this run will repeat.

        This is the first change to the directory. Every check that can refuse the run comes before.

        Returns:
            The path that the earlier run was moved to, or None.
        """
        earlier, log = None, self.directory.file(LOG_FILE)
        if is_new:
            earlier = self.directory.set_aside()
        else:
            rewind(log, self.step)
            self.directory.restore_links()
        self.dataset.keep()
        trainer_state.write_settings(self.directory.file(SETTINGS_FILE), self.config)
        self.log = RunLog(log, self.config.log_interval)
        self.events.callbacks.insert(0, self.log)
        return earlier

    def _tell_reading(self, purpose, bytes_read, nbytes):
        self.tell("prepare", purpose=purpose, bytes_read=bytes_read, bytes=nbytes)

    def _open_directory(self):
        """Makes or opens config.out, and locks it, when it is first needed."""
        if self.directory is None:
            self.directory = RunDirectory(self.config.out, self.config.keep)
            # Before the lock was taken, another run may have continued from the same checkpoint.
            if self.last and saved.step_of(trainer_state.find_last(self.config.out)) != self.step:
                raise BlockingIOError(errno.EWOULDBLOCK, "another run has just saved to this "
                                      "directory; resume again", self.config.out)

    def _check_memory(self, model_config):
        """Refuses a run that needs too much memory.

        Returns:
            (bytes needed, bytes free or None).
        """
        needed, free, problem, remedy = cost.check_memory(
            self.config, model_config, self.optimizer_class, self.last or self.config.init)
        if problem and not self.force:
            raise MemoryError(f"{problem}: {remedy} (force: try anyway)")
        if problem:
            self.warnings.append(f"{problem}; forced to continue anyway")
        return needed, free

    def _make_model(self, model_config):
        config = self.config
        if self.last or config.init:
            self.model = GPT.from_pretrained(
                self.last or config.init, embd_pdrop=config.dropout, attn_pdrop=config.dropout,
                resid_pdrop=config.dropout)
            self.model.dropout_seed = config.seed
        else:
            self.model = GPT(model_config, seed=config.seed)
        self.optimizer = self.optimizer_class.from_config(self.model, config)
        self.model.recompute = config.recompute
        if self.dataset.tokenizer.end_of_text is not None:
            self.model.end_of_text = self.dataset.tokenizer.end_of_text
        self.model.train()

    def _restore(self, state):
        """Restores the state of a run between two steps, or without one sets up the first step."""
        self.saved_step = self.step
        self._restore_losses(state)
        self.init = state.init if state else ""
        if not state and self.config.init:
            self.init = resuming.fingerprint_of_weights(self.model)
        if state:
            self.model.dropout_seed = state.dropout_seed
            self.model.forward_passes = state.forward_passes
            trainer_state.load_optimizer(self.last, self.optimizer, state.optimizer_steps)

    def _restore_losses(self, state):
        self.val_step = state.val_step if state else 0
        self.val_loss = state.val_loss if state else None
        self.best_val_loss = state.best_val_loss if state else None
        self.seconds_before = state.seconds if state else 0.0

    def close(self):
        if self.log:
            self.log.close()
        if self.dataset:
            self.dataset.close()
        if self.directory:
            self.directory.close()

    def tell(self, event, **fields):
        self.events.tell(event, self.step, **fields)

    def train(self):
        """Takes steps until max_steps, until a signal, or until a callback asks the run to end."""
        self.validate_and_sample()  # a signal may have interrupted this step's validation
        while not self.is_done() and not self.is_stopped():
            self.take_step()
            self.validate_and_sample()
        if self.saved_step != self.step:
            self.save(is_best=False)
        self._tell_end(self.clock.seconds())

    def _tell_end(self, seconds):
        val_loss = self.val_loss if self.val_step == self.step else None
        self.tell("end", val_loss=val_loss, best_val_loss=self.best_val_loss,
                  interrupted=not self.is_done(), seconds=seconds, out=self.config.out)

    def is_done(self):
        return self.step >= self.config.max_steps

    def is_stopped(self):
        return self.events.end_requested or bool(self.signals)

    def validate_and_sample(self):
        """Validates, saves and writes samples, each if it is due at this step."""
        config, step = self.config, self.step
        if self.val_step != step and (self.is_done() or _is_multiple(step, config.eval_interval)):
            is_best = self.validate()
            if is_best is not None:
                self.save(is_best)
                if (config.sample_interval and self.is_done()
                        or _is_multiple(step, config.sample_interval)):
                    self.sample()
        elif self.saved_step != step and _is_multiple(step, config.sample_interval):
            self.sample()

    def take_step(self):
        """Updates the parameters with the mean gradient over the step's batches."""
        batches, forward_passes = self.batches_of_step(), self.model.forward_passes
        learning_rate = self.optimizer.lr = self.config.learning_rate_at(self.step)
        loss = 0.0
        for ids, targets in batches:
            loss += self.model.loss_and_grad(ids, targets, scale=1 / len(batches)) / len(batches)
        grad_norm = self.optimizer.clip_grad_norm(self.config.grad_clip or math.inf)
        if not math.isfinite(loss + grad_norm):
            self.model.forward_passes = forward_passes
            self.fail(f"step {self.step + 1}: the loss is {loss} and the gradient's norm "
                      f"{grad_norm}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.tell_step(loss, learning_rate, grad_norm)

    def batches_of_step(self):
        k = self.config.grad_accumulation_steps
        return [self.batches[index] for index in range(self.step * k, self.step * k + k)]

    def tell_step(self, loss, learning_rate, grad_norm):
        self.clock.step_taken()
        speed = self.clock.tokens_per_second
        self.tell("step", loss=loss, learning_rate=learning_rate, grad_norm=grad_norm,
                  tokens_per_second=speed,
                  peak_share=self.peak_tokens and speed / self.peak_tokens,
                  seconds_left=self.clock.seconds_left(self.step))

    def fail(self, problem):
        """Ends the run with an error that names the first number that is not finite."""
        batches = self.batches_of_step()
        self.optimizer.zero_grad()
        where = find_nonfinite.locate(self.model, batches, 1 / len(batches))
        raise TrainingError(
            f"{problem}; running step {self.step + 1} again and checking every kernel call showed: "
            f"{where}. The last checkpoint is unchanged; a lower learning rate than "
            f"{self.optimizer.lr:g} may help")

    def validate(self):
        """Measures the validation loss.

        Returns:
            Whether it is the lowest so far, or None when a signal or a callback interrupted it.
        """
        val_loss = evaluate(self.model, self.val_batches, self.is_stopped)
        if val_loss is None:
            return None
        if not math.isfinite(val_loss):
            self.fail(f"step {self.step}: the validation loss is {val_loss}")
        self.val_loss, self.val_step = val_loss, self.step
        is_best = self.best_val_loss is None or self.val_loss < self.best_val_loss
        if is_best:
            self.best_val_loss = self.val_loss
        self.tell("eval", val_loss=self.val_loss, is_best=is_best)
        self.clock.pause()
        return is_best

    def save(self, is_best):
        if not find_nonfinite.is_finite(self.model.values(), self.model.layout().n):
            self.fail(f"step {self.step}: a weight is not finite")
        self.log.sync()
        path = self.directory.save(self.step, is_best, self._write_checkpoint)
        self.saved_step = self.step
        self.tell("save", path=path)
        self.clock.pause()

    def _write_checkpoint(self, directory):
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        trainer_state.save(directory, TrainerState(
            step=self.step, optimizer_steps=self.optimizer.steps,
            forward_passes=self.model.forward_passes, dropout_seed=self.model.dropout_seed,
            val_step=self.val_step, val_loss=self.val_loss, best_val_loss=self.best_val_loss,
            seconds=self.clock.seconds(), train_tokens=self.dataset.train_fingerprint,
            val_tokens=self.dataset.val_fingerprint, config=asdict(self.config),
            **{name: kernels.info()[name] for name in ("backend", "isa", "compiler")},
            init=self.init), self.optimizer)

    def sample(self):
        length = self.config.sample_length * (4 if self.is_done() else 1)
        tokenizer = self.tokenizer
        for prompt, ids in self.dataset.prompts:
            new = generate(self.model, ids, length, seed=self.config.seed,
                           vocab_size=tokenizer.vocab_size)
            self.tell("sample", prompt=prompt, text=tokenizer.decode(new))
        self.clock.pause()


def _is_multiple(step, interval):
    return step > 0 and interval > 0 and step % interval == 0
