"""Advises on a run from the records of its events: what looks wrong, and what may help.

    records of events.py -> Adviser -> Advice, told as events "advice"

Each topic is a method below, with its reason and where its bound comes from. A topic is told once,
and again when it has become AGAIN times as severe. Settings are written as `name=value`; the
command line makes flags of them.

Full runs of README.md and of the defaults get no advice; their logs were held against the bounds.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass

from pygpt.training.run_log import has_numbers
from pygpt.training.thinned import Thinned

WORTH = 0.01      # nats: a difference below it is 1 % of perplexity, and not worth a sentence
RECENT = 20       # steps whose median loss is compared, so that one unusual batch does not count
RISES = 3         # rises of the validation loss in a row
GAP = 1.5         # how many times the training loss the validation loss may be
LEAST_GAP = 0.3   # nats: 35 % of perplexity; in tests of near-zero losses any ratio may appear
CLIP = 10         # a usual gradient is this many times grad_clip
FALL = 0.02       # of the loss in the last quarter of a run
UNCERTAIN = 0.05  # nats: the standard error of a validation loss
SPREAD = 1.5      # nats: the standard deviation of a token's loss; 1.2 to 2 in trained models
AGAIN = 2         # times the severity at which a topic is told again


@dataclass(frozen=True)
class Advice:
    """Holds one piece of advice: its topic, a sentence, and a number that grows with what it warns
    of; 1 where there is no such number."""

    topic: str
    text: str
    severity: float = 1


class Adviser:
    """Reads the records of a run in their order, and returns what there is to say after each.

    A resumed run first gives it the records of the log, so that it knows what has been said.
    """

    def __init__(self):
        """Begin without records."""
        self._config = self._start = None
        self._said = {}                     # topic -> its severity when it was told last
        self._losses, self._first_loss, self._train_loss = Thinned(), None, None
        self._recent = deque(maxlen=RECENT)
        self._vals = []                     # (step, loss) of the last RISES + 1 validations
        self._norms = []                    # of the steps since the last validation

    def __call__(self, record):
        """Take a record.

        Returns:
            A list of Advice.
        """
        event, topics = record["event"], ()
        if event == "start":
            self._config, self._start = record["config"], record
            topics = self._warm_up, self._few_tokens
        elif event == "step":
            self._note_step(record)
            topics = (self._above_guessing,)
        elif event == "eval":
            self._note_eval(record)
            topics = self._rising, self._gap, self._clipped
        return [advice for topic in topics if (advice := self._new(topic(record)))]

    def at_end(self, step):
        """Return a list of Advice on a run that has taken all its steps, before its event "end"."""
        advice = self._start and self._new(self._falling(step))
        return [advice] if advice else []

    def follow(self, records):
        """Take the records of the log that a resumed run continues. Records that no run writes are
        passed over."""
        for record in records:
            if record["event"] == "step" and has_numbers(record, "loss", "grad_norm"):
                self._note_step(record)
            elif record["event"] == "eval" and has_numbers(record, "val_loss"):
                self._note_eval(record)
                self._norms = []
            elif record["event"] == "advice" and has_numbers(record, "severity"):
                self._said[str(record.get("topic"))] = record["severity"]

    def _note_step(self, record):
        if self._first_loss is None:
            self._first_loss = record["loss"]
        self._losses.add(record["step"], record["loss"])
        self._recent.append(record["loss"])
        self._norms.append(record["grad_norm"])

    def _note_eval(self, record):
        before = self._vals[-1][0] if self._vals else 0
        self._vals = [*self._vals[-RISES:], (record["step"], record["val_loss"])]
        self._train_loss = self._losses.mean_between(before, record["step"])

    def _new(self, advice):
        """Return advice if its topic is new, or so much more severe that it is told again."""
        said = advice and self._said.get(advice.topic)
        if advice is None or said is not None and advice.severity < AGAIN * said:
            return None
        self._said[advice.topic] = advice.severity
        return advice

    def _guessing(self):
        """Return the loss of new weights, about that of guessing evenly (_above_guessing)."""
        V, C = self._start["vocab_size"], self._config["n_embd"] or 0
        return math.log(V) + C * 0.02 ** 2 / 2

    def _tokens_of_a_step(self):
        c = self._config
        return c["batch_size"] * c["n_positions"] * c["grad_accumulation_steps"]

    def _epochs(self, step):
        """Return how many times the run has read its text after a step."""
        return step * self._tokens_of_a_step() / self._start["train_tokens"]

    # ----------------------------------------------------------------------------------- topics

    def _warm_up(self, record):
        """The warm-up is as long as the run or longer: the learning rate rises to the end, and
        never decays (TrainConfig.learning_rate_at)."""
        warmup, steps = self._config["warmup_steps"], self._config["max_steps"]
        if warmup < steps:
            return None
        reached = self._config["learning_rate"] * steps / warmup
        return Advice("warm_up", (
            f"warmup_steps={warmup} is no shorter than the run of max_steps={steps}: the learning "
            f"rate only rises, to {reached:.2g}, and never decays; a tenth of the run is usual"))

    def _few_tokens(self, record):
        """So few tokens are held out that their mean loss is uncertain.

        The losses of n tokens with a standard deviation of SPREAD have a mean with a standard error
        of SPREAD / sqrt(n), which is UNCERTAIN at n = (SPREAD / UNCERTAIN)^2 = 900.
        """
        n = record["val_tokens"]
        if n >= (SPREAD / UNCERTAIN) ** 2:
            return None
        return Advice("few_tokens", (
            f"only {n:,} tokens are held out, so the loss on them is uncertain by about "
            f"{SPREAD / math.sqrt(n):.2g}: small differences between runs mean nothing; more text "
            "or a larger val_fraction helps"))

    def _above_guessing(self, record):
        """The training loss is above ln V, and above the first one.

        To give each of V tokens the probability 1/V costs ln V nats, so a model above it is worse
        than one that knows nothing. New weights begin a little higher, at ln V + C s^2 / 2: the
        logits are products of normalised vectors of C numbers with rows of standard deviation
        s = 0.02. (E log sum e^z = ln V + Var z / 2 for normal z.) Fine-tuning may begin anywhere;
        so the loss must also have risen since the first step.
        """
        usual = statistics.median(self._recent)
        if (len(self._recent) < RECENT
                or usual <= max(self._guessing(), self._first_loss) + 10 * WORTH):
            return None
        V = self._start["vocab_size"]
        return Advice("above_guessing", (
            f"the training loss of {usual:.2f} is above ln {V} = {math.log(V):.2f}, that of "
            f"guessing evenly among the {V} tokens, and above the first step's; "
            f"learning_rate={self._config['learning_rate']:g} may be too high"))

    def _rising(self, record):
        """The validation loss has risen RISES times in a row, by more than WORTH.

        Chance alone makes three rises in a row in one of 24 orders, so a plateau would often
        trigger it; there the differences are below WORTH. The severity is how far the loss is above
        the best.
        """
        losses = [loss for _, loss in self._vals]
        if (len(losses) <= RISES or losses[-1] - losses[0] < WORTH
                or any(a >= b for a, b in zip(losses, losses[1:]))):
            return None
        step = f" at step {record['best_step']:,}" if record["best_step"] else ""
        before = self._losses.mean_between(self._vals[0][0], self._vals[1][0])
        if before is not None and self._train_loss is not None and self._train_loss > before:
            why = "the training loss rises too, so the learning rate may be too high"
        else:
            why = ("the training loss still falls, so the model learns the text by heart; more "
                   "text, dropout or a smaller model helps, and patience=3 ends such a run")
        return Advice("rising", (
            f"the validation loss has risen for {RISES} validations: the best is "
            f"{record['best_val_loss']:.4f}{step}; {why}"), losses[-1] - record["best_val_loss"])

    def _gap(self, record):
        """The validation loss is far above the training loss.

        Until the text has been read once, each training batch is new to the model, so its loss is
        that of new text of the same kind. A gap then says that the held-out text is of another
        kind. Later it is what the model has learned by heart. A loss above that of guessing says
        neither.
        """
        train, val, epochs = self._train_loss, record["val_loss"], self._epochs(record["step"])
        if (train is None or train > self._guessing() or val < GAP * train
                or val - train < LEAST_GAP):
            return None
        both = f"the validation loss of {val:.2f} is far above the training loss of {train:.2f}"
        if epochs <= 1:
            return Advice("other_text", (
                f"{both}, though the run has not read its text once: the held-out text is of "
                "another kind than the text to learn from; val_data can name text of the same"))
        return Advice("by_heart", (
            f"{both}: after reading its text {epochs:.1f} times, the model knows much of it by "
            "heart; more text, dropout or a smaller model helps"))

    def _clipped(self, record):
        """A usual gradient is CLIP times as long as grad_clip, or longer.

        AdamW divides by the gradient's own size, so clipping every step by about the same factor
        changes nothing: full runs of the presets clip nearly every step after the first hundred, at
        norms of 1 to 3. Ten times as long, the gradient is that of a model that diverges, or
        grad_clip is not what was meant. The severity is the square root of the median, so that it
        is told again at four times the length.
        """
        norms, self._norms = sorted(self._norms), []
        clip = self._config["grad_clip"]
        if len(norms) < RECENT or not clip or norms[len(norms) // 2] < CLIP * clip:
            return None
        median = norms[len(norms) // 2]
        return Advice("clipped", (
            f"half of the last {len(norms)} gradients were longer than {median:.3g} and were "
            f"scaled down to grad_clip={clip:g}; a lower learning_rate or a higher grad_clip may "
            "help"), math.sqrt(median))

    def _falling(self, step):
        """The run ends before it has read its text once, and its loss still falls.

        The last quarter's mean training loss is compared with that of the quarter before. All
        these batches were new to the model, so neither loss is learned by heart, and more steps
        bring more new text. The decay of the learning rate lets the loss of every run fall at its
        end, that of the presets by 0.06 of it; but full runs of them read their text several times.
        The severity is the number of steps: a run that was resumed to train longer is told again.
        """
        last = self._losses.mean_between(step * 3 // 4, step)
        before = self._losses.mean_between(step // 2, step * 3 // 4)
        epochs = self._epochs(step)
        if (before is None or last is None or epochs >= 1 or last > self._guessing()
                or before - last < FALL * before):
            return None
        once = math.ceil(self._start["train_tokens"] / self._tokens_of_a_step())
        return Advice("falling", (
            f"the loss still falls, by {before - last:.2f} in the last quarter of the run, which "
            f"has read {epochs:.0%} of its text: more steps would help; about {once:,} read it "
            "once"), step)
