"""Prepares a training run: everything up to its first step.

    saved state -> data -> memory -> output directory -> model, optimizer -> earlier run, log

Each check comes as early as it can. No file of an earlier run is changed before all checks have
passed.
"""

import errno
import os
from dataclasses import asdict, replace

from pygpt.backend import kernels
from pygpt.backend.arguments import shown
from pygpt.checkpoint import model_files, saved
from pygpt.config import ConfigError
from pygpt.data.batches import TrainingBatches, validation_batches
from pygpt.data.corpus import DataError
from pygpt.data.dataset import Dataset
from pygpt.model import GPT
from pygpt.optim import OPTIMIZERS
from pygpt.tokenizer import Tokenizer
from pygpt.training import cost, events, resume as resuming, settings, trainer_state
from pygpt.training.advice import Adviser
from pygpt.training.clock import Clock
from pygpt.training.run_directory import LOG_FILE, SETTINGS_FILE, RunDirectory
from pygpt.training.run_log import RunLog, each_record, rewind


class PreparedRun:
    """Holds everything that the steps of a run need.

    A run that is_finished() has a model, a tokenizer and losses; no file of it is opened.

    Attributes:
        step, val_step, saved_step: the steps taken, and those at the last validation and the last
            checkpoint.
        val_loss, best_val_loss: the last and the lowest validation loss, or None.
        best_step, evals_since_best: the step of the lowest, 0 if unknown, and the number of
            validations after it.
        seconds_before: the training time of the earlier parts of a resumed run.
        init: the fingerprint of the weights that the run began with, if it did not draw them.
        last: the path of the checkpoint that a resumed run continues from, or None.
        is_end_requested: whether a callback has asked the run to end.
        ranks: the number of processes that share each batch.
    """

    step = val_step = saved_step = best_step = evals_since_best = 0
    val_loss = best_val_loss = last = None
    seconds_before, init, ranks = 0.0, "", 1

    def __init__(self, config, callbacks, resume, force, optimizer):
        if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer={shown(optimizer)} is not one of {', '.join(OPTIMIZERS)}")
        self.config, self.callbacks, self.force = config, list(callbacks), force
        self.optimizer_class = self.kind_of_optimizer(OPTIMIZERS[optimizer])
        self.is_end_requested, self.warnings, self.adviser = False, [], Adviser()
        self.log = self.directory = self.dataset = state = None
        if resume:
            state = self._load_state()
            if self.is_finished():
                self.model = GPT.from_pretrained(self.last)
                self.model.recompute = self.config.recompute
                self.model.compute_dtype = self.config.dtype
                self.model.train()
                self.tokenizer = Tokenizer.from_pretrained(self.last)
                return
        try:
            self._prepare(state)
        except BaseException:
            self.close()
            raise

    def kind_of_optimizer(self, kind):
        """Return the class to use for an optimizer of this class."""
        return kind

    def reason_to_end(self):
        """Return why the run is to take no further step: "max_steps", "patience" or None."""
        if self.step >= self.config.max_steps:
            return "max_steps"
        return "patience" if 0 < self.config.patience <= self.evals_since_best else None

    def is_finished(self):
        """Return whether the run to resume takes no further step and has validated its last."""
        reason = self.reason_to_end()
        return reason == "patience" or reason == "max_steps" and self.val_step == self.step

    def close(self):
        """Close the files, and remove those that only the preparation needed."""
        for part in (self.log, self.dataset, self.directory):
            if part is not None:
                part.close()

    def tell(self, event, **fields):
        """Call the callbacks with a record of an event, and then with the advice that follows."""
        self.is_end_requested |= events.tell(self.callbacks, event, self.step, **fields)
        for advice in self.adviser({"event": event, "step": self.step, **fields}):
            self.tell("advice", **asdict(advice))

    def _load_state(self):
        """Load the state of the run to resume, and check the settings and kernels against it."""
        self.last = trainer_state.find_last(self.config.out)
        state = trainer_state.load(self.last)
        self.step = self.saved_step = state.step
        self.val_step, self.val_loss = state.val_step, state.val_loss
        self.best_val_loss, self.best_step = state.best_val_loss, state.best_step
        self.evals_since_best = state.evals_since_best
        self.seconds_before, self.init = state.seconds, state.init
        if self.config.init:  # the first part of the run took these settings from its model
            self.config = resuming.with_shape_of(self.config, state)
        config = self.config
        self._refuse_or_warn(resuming.changed_settings(config, state, self.last), ConfigError,
                             "the run to resume was begun with other settings: {}; it would not "
                             "continue as it began")
        if not self.is_finished():  # a finished run calls no kernel
            now = kernels.what_rounds(state.config["dtype"])
            self._refuse_or_warn(resuming.changed_kernels(now, state), ConfigError,
                                 "the run to resume was begun on other kernels: {}")
        self.warnings += filter(None, [resuming.new_schedule(config, state),
                                       resuming.new_ranks(self.ranks, state)])
        if self.last != saved.named(config.out, "last"):
            self.warnings.append(f"{os.path.join(config.out, 'last')} names no checkpoint; the run "
                                 f"continues from {self.last}, the newest complete one")
        return state

    def _refuse_or_warn(self, problems, kind, sentence):
        """Refuse all problems in one sentence, or with force add a warning for each."""
        if problems and not self.force:
            raise kind(sentence.format(", ".join(problems)) + " (force=True continues anyway)")
        self.warnings += [f"{problem}; forced to continue anyway" for problem in problems]

    def _prepare(self, state):
        base_config = None
        if base := self.last or self.config.init:
            directory = model_files.find_model(base)
            base_config = model_files.read_config(directory)
            if model_files.has_int8_weights(directory):
                raise DataError(f"{directory}: its weights are int8, which cannot be trained; use "
                                "the model that they were made from")
            self.config = self.config.shaped_like(base_config)
        config = self.config
        self.dataset = Dataset(config, self.last, base_config, self._open_directory,
                               self._tell_reading)
        self.tokenizer = self.dataset.tokenizer
        if state:
            self._refuse_or_warn(self.dataset.changes(state), DataError, "{}")
        dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout)
        model_config = (replace(base_config, **dropout) if base
                        else config.model_config(self.tokenizer.vocab_size))
        needed, free, problems, remedy = self.check_memory(model_config, bool(base))
        self._refuse_or_warn(problems, MemoryError, "{}: " + remedy)
        settings.check_settings_readable(config)
        shape = config.batch_size, config.n_positions
        self.batches = TrainingBatches(self.dataset.train, *shape, config.seed)
        self.val_batches = validation_batches(self.dataset.val, *shape, config.eval_batches)
        self._open_directory()
        self.model = (GPT.from_pretrained(base, **dropout) if base
                      else GPT(model_config, seed=config.seed))
        self.set_up_model(state)
        info, peak = kernels.info(), cost.peak_flops(compute_dtype=config.dtype)
        self.clock = Clock(config, self.step, self.seconds_before)
        peak = peak and peak * self.ranks
        self.peak_tokens = peak and peak / cost.flops_per_token(model_config, config.n_positions)
        gain = None
        if config.dtype == "bfloat16" and kernels.bfloat16_unit() is None:
            self.warnings.append(f"dtype={config.dtype!r} is not faster here: no unit that "
                                 "multiplies bfloat16 is in use (see pygpt info)")
        elif config.dtype == "float32" and state is None:  # a run that is resumed keeps its type
            gain = cost.bfloat16_gain(model_config, config.batch_size * config.n_positions)
        earlier = self._begin_writing(is_new=state is None)
        self.tell("start", parameters=self.model.num_parameters(),
                  train_tokens=len(self.dataset.train), val_tokens=len(self.dataset.val),
                  vocab_size=model_config.vocab_size, max_steps=config.max_steps,
                  isa=info["isa"], threads=info["threads"], ranks=self.ranks, out=config.out,
                  earlier=earlier,
                  resumed=state is not None, memory_needed=needed, memory_free=free,
                  peak_flops=peak, bfloat16_gain=gain, config=asdict(config))
        for text in self.directory.warnings + self.warnings + self.dataset.warnings:
            self.tell("warning", text=text)
        self.dataset.remove_unused()

    def check_memory(self, model_config, has_fixed_width):
        """Check that the run fits into this machine; see cost.check_memory."""
        return cost.check_memory(self.config, model_config, self.optimizer_class, has_fixed_width)

    def _tell_reading(self, purpose, bytes_read, nbytes):
        self.tell("prepare", purpose=purpose, bytes_read=bytes_read, bytes=nbytes)

    def _open_directory(self):
        """Make or open config.out, and lock it, when it is first needed."""
        if self.directory is None:
            self.directory = RunDirectory(self.config.out, self.config.keep)
            # Before the lock was taken, another run may have continued from the same checkpoint.
            if self.last and saved.step_of(trainer_state.find_last(self.config.out)) != self.step:
                raise BlockingIOError(errno.EWOULDBLOCK, "another run has just saved to this "
                                      "directory; resume again", self.config.out)

    def set_up_model(self, state):
        """Make the optimizer, and restore the state of a resumed run."""
        model, config = self.model, self.config
        self.optimizer = self.optimizer_class.from_config(model, config)
        model.recompute, model.compute_dtype = config.recompute, config.dtype
        if self.tokenizer.end_of_text is not None:
            model.end_of_text = self.tokenizer.end_of_text
        model.train()
        trainer_state.check_readable(self.optimizer)
        model.dropout_seed = config.seed
        if state:
            model.dropout_seed, model.forward_passes = state.dropout_seed, state.forward_passes
            self.load_optimizer(state.optimizer_steps)
        elif config.init:
            self.init = resuming.fingerprint_of_weights(model)

    def load_optimizer(self, steps):
        """Give the optimizer the state of the checkpoint, after this many steps."""
        trainer_state.load_optimizer(self.last, self.optimizer, steps)

    def _begin_writing(self, is_new):
        """Move an earlier run aside, or remove the log's records that this run will repeat.

        This is the first change to the directory. Every check that can refuse the run comes before.

        Returns:
            The path that the earlier run was moved to, or None.
        """
        earlier, log = None, self.directory.file(LOG_FILE)
        if is_new:
            earlier = self.directory.set_aside()
        else:
            rewind(log, self.step)
            if os.path.exists(log):
                self.adviser.follow(each_record(log))
            self.directory.restore_links()
        self.dataset.keep()
        settings.write_settings(self.directory.file(SETTINGS_FILE), self.config)
        self.log = RunLog(log, self.config.log_interval)
        self.callbacks.insert(0, self.log)
        return earlier
