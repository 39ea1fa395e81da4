"""The training loop, a plain function: a TrainConfig in, a trained model and its checkpoints out.

It prints nothing. What happens is told to callbacks, each called with one dict, a record:

    event    when, and the fields beside "event" and "step", the steps taken so far
    start    before step 1: parameters, train_tokens, val_tokens, vocab_size, max_steps, isa,
             threads, out, earlier (where an earlier run's checkpoints in out were moved, or None)
    step     after each step: loss (mean over the step's batches, nats), learning_rate, grad_norm
             (before clipping), tokens_per_second, seconds_left
    eval     after each validation: val_loss (nats), is_best
    save     after each checkpoint: path
    sample   now and then, and at the end: text
    end      after all: val_loss, best_val_loss, interrupted, seconds, out

Used by the command line and by whoever trains from Python. May import everything but cli.
"""

import math
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from pygpt import kernels
from pygpt.config import TrainConfig
from pygpt.data import TrainingBatches, load_text, split, validation_batches
from pygpt.generate import first_ids, generate
from pygpt.model import GPT
from pygpt.optim import AdamW
from pygpt.run_directory import RunDirectory
from pygpt.tensor import no_grad
from pygpt.tokenizer import CharTokenizer, Tokenizer


class TrainingError(ArithmeticError):
    """The run cannot go on: its numbers are no longer finite."""


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the model as last trained, and how well it did.

    Losses are nats per token; val_loss is None when the run was interrupted before a validation.
    """

    model: GPT
    tokenizer: Tokenizer
    steps: int
    val_loss: float | None
    best_val_loss: float | None
    interrupted: bool


def train(config=TrainConfig(), callbacks=()):
    """Train a model from the beginning, saving checkpoints in config.out.

    The first Ctrl-C (in the main thread) ends the run after the step it is in, with a checkpoint;
    a second one is a KeyboardInterrupt.

    Args:
        config: a TrainConfig.
        callbacks: callables, called with each record (see the top of this file).
    Returns:
        A TrainResult.
    Raises:
        OSError: a text cannot be read, or config.out not written.
        ValueError: a text is empty, too short or not UTF-8.
        TrainingError: a loss or a gradient is not finite; the last checkpoint stays.
    """
    run = _Run(config, callbacks)
    with _first_interrupt_is_noted() as interrupts:
        run.train(interrupts)
    return TrainResult(run.model, run.tokenizer, run.step, run.val_loss, run.best_val_loss,
                       interrupted=not run.is_done())


def evaluate(model, batches):
    """The mean loss of a model over batches, in nats per token, without dropout.

    Args:
        model: a GPT; its training flag is left as it was.
        batches: sequence of (ids, targets), all of one shape.
    """
    was_training = model.training
    model.eval()
    try:
        with no_grad():
            return math.fsum(float(model.loss(*batch)) for batch in batches) / len(batches)
    finally:
        model.train(was_training)


class _Run:
    """One run: everything it needs, made in the order in which trouble is cheapest to find."""

    def __init__(self, config, callbacks):
        self.config, self.callbacks = config, tuple(callbacks)
        text = load_text(config.data)
        self.tokenizer = CharTokenizer.train(text)
        ids = self.tokenizer.encode(text)
        train_tokens, val_tokens = split(ids, config.val_fraction, config.n_positions)
        self.directory = RunDirectory(config.out)
        if config.threads:
            kernels.set_num_threads(config.threads)
        shape = config.batch_size, config.n_positions
        self.batches = TrainingBatches(train_tokens, *shape, config.seed)
        self.val_batches = validation_batches(val_tokens, *shape, config.eval_batches)
        self.model = GPT(config.model_config(self.tokenizer.vocab_size), seed=config.seed)
        self.optimizer = AdamW(self.model, lr=config.learning_rate,
                               betas=(config.beta1, config.beta2),
                               weight_decay=config.weight_decay)
        self.step = self.saved_step = 0
        self.val_loss = self.best_val_loss = None
        self.clock = _Clock(config)
        info = kernels.info()
        self.tell("start", parameters=self.model.num_parameters(), train_tokens=len(train_tokens),
                  val_tokens=len(val_tokens), vocab_size=self.tokenizer.vocab_size,
                  max_steps=config.max_steps, isa=info["isa"], threads=info["threads"],
                  out=config.out, earlier=self.directory.set_aside())

    def tell(self, event, **fields):
        for callback in self.callbacks:
            callback({"event": event, "step": self.step, **fields})

    def train(self, interrupts):
        """Run until max_steps, or until something is in `interrupts`."""
        config = self.config
        self.model.train()
        while self.step < config.max_steps and not interrupts:
            self.take_step()
            if self.is_done() or _is_due(self.step, config.eval_interval):
                self.save(self.validate())
            if self.is_done() or _is_due(self.step, config.sample_interval):
                self.sample()
        if self.saved_step != self.step:
            self.save(is_best=False)
        self.tell("end", val_loss=self.val_loss, best_val_loss=self.best_val_loss,
                  interrupted=not self.is_done(), seconds=self.clock.seconds(), out=config.out)

    def is_done(self):
        return self.step == self.config.max_steps

    def take_step(self):
        config, k = self.config, self.config.grad_accumulation_steps
        learning_rate = self.optimizer.lr = config.learning_rate_at(self.step)
        loss = 0.0
        for index in range(self.step * k, self.step * k + k):
            loss += self.model.loss_and_grad(*self.batches[index], scale=1 / k) / k
        grad_norm = self.optimizer.clip_grad_norm(config.grad_clip or math.inf)
        if not math.isfinite(loss + grad_norm):
            raise TrainingError(f"step {self.step + 1}: the loss is {loss} and the gradient's norm "
                                f"{grad_norm}; a lower learning rate than {learning_rate:g} may "
                                "help")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.clock.step_taken()
        self.tell("step", loss=loss, learning_rate=learning_rate, grad_norm=grad_norm,
                  tokens_per_second=self.clock.tokens_per_second,
                  seconds_left=self.clock.seconds_left(self.step))

    def validate(self):
        """Measure the validation loss; whether it is the lowest so far."""
        self.val_loss = evaluate(self.model, self.val_batches)
        is_best = self.best_val_loss is None or self.val_loss < self.best_val_loss
        if is_best:
            self.best_val_loss = self.val_loss
        self.tell("eval", val_loss=self.val_loss, is_best=is_best)
        self.clock.pause()
        return is_best

    def save(self, is_best):
        def write(directory):
            self.model.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)

        path = self.directory.save(self.step, is_best, write)
        self.saved_step = self.step
        self.tell("save", path=path)
        self.clock.pause()

    def sample(self):
        length = self.config.sample_length * (4 if self.is_done() else 1)
        ids = generate(self.model, first_ids(self.tokenizer), length, seed=self.config.seed)
        self.tell("sample", text=self.tokenizer.decode(ids))
        self.clock.pause()


def _is_due(step, interval):
    return interval > 0 and step % interval == 0


class _Clock:
    """Tokens per second, and the time a run has left."""

    def __init__(self, config):
        self._max_steps = config.max_steps
        self._tokens = config.batch_size * config.n_positions * config.grad_accumulation_steps
        self._start = self._last = time.perf_counter()
        self._steps, self._step_seconds = 0, 0.0
        self.tokens_per_second = 0.0

    def step_taken(self):
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._steps += 1
        # a moving average; the first step, in which all memory is new, is forgotten at the second
        share = 1.0 if self._steps <= 2 else 0.1
        self._step_seconds += share * (seconds - self._step_seconds)
        self.tokens_per_second = self._tokens / self._step_seconds

    def pause(self):
        """What took time until now was not part of a step."""
        self._last = time.perf_counter()

    def seconds(self):
        return time.perf_counter() - self._start

    def seconds_left(self, step):
        """From the whole time so far, validations and samples included."""
        return self.seconds() / step * (self._max_steps - step)


@contextmanager
def _first_interrupt_is_noted():
    """A list that a first SIGINT is put into; the second one does what it did before."""
    interrupts = []
    if threading.current_thread() is not threading.main_thread():
        yield interrupts  # signals reach the main thread only
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number, frame):
        interrupts.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
