"""Prints the events of a training run, on a terminal or into a file.

On a terminal a status line is rewritten after each step, and a curve of the losses is drawn at the
end. Elsewhere about PLAIN_LINES of the steps are printed, one on each line. The run goes on if its
output cannot be written.
"""

import contextlib
import math
import os
import shutil
import sys
import textwrap
import time

from pygpt.backend.cpu import gigabytes
from pygpt.cli.curve import curve, is_fine
from pygpt.cli.invocation import command_line
from pygpt.training.run_directory import LOG_FILE
from pygpt.training.run_log import each_record, has_numbers
from pygpt.training.thinned import Thinned

CLEAR_LINE = "\r\033[K"  # goes back to the start of a terminal's line, and clears it
REDRAW_SECONDS = 0.1  # time between two states of the status line
PLAIN_SECONDS = 10.0  # time between two lines about reading a long text, off a terminal
LEAST_GAIN = 1.1      # of bfloat16; a smaller one is not worth a line
PLAIN_LINES = 20      # number of status lines of a whole run, off a terminal
CURVE_WIDTH = 60      # columns of the curve of the losses
LEAST_STEPS = 10      # of a run whose losses are worth a curve


class Reporter:
    """Prints the records of a run's events; it is one of the run's callbacks.

    Attributes:
        is_gone: whether the stream failed. From then on nothing is printed.
    """

    def __init__(self, stream=None, translate=lambda text: text):
        """Print to a text stream (None: standard output). translate() names flags in a warning."""
        self.stream, self._translate = stream or sys.stdout, translate
        self.is_terminal = self.stream.isatty()
        self._max_steps = self._purpose = None
        self._train, self._vals, self._patience = Thinned(), [], 0
        self._drawn_at = 0.0
        self._is_drawn = self.is_gone = False

    def __call__(self, record):
        """Print a record by the method that is named after its event."""
        getattr(self, "_" + record["event"])(record)

    def close(self):
        """Leave the status line as it is and go to a new line."""
        if self._is_drawn:
            self._write("\n")
            self._is_drawn = False

    def draw_curve(self):
        """Draw the losses so far, on a terminal and if there are enough steps."""
        points = self._train.points()
        if self.is_terminal and points and points[-1][0] >= LEAST_STEPS:
            width = min(CURVE_WIDTH, shutil.get_terminal_size().columns - 1)
            if picture := curve(points, self._vals, width, is_fine=is_fine(self.stream)):
                self._line(picture)

    def _line(self, text):
        if self._is_drawn:
            text = CLEAR_LINE + text
            self._is_drawn = False
        self._write(text + "\n")

    def _draw(self, parts):
        """Print a status line; on a terminal it replaces the one before.

        Args:
            parts: a list of (importance, text). A narrow terminal loses the least important parts.
        """
        self._drawn_at = time.monotonic()
        width = shutil.get_terminal_size().columns - 1 if self.is_terminal else math.inf
        while len(line := "  ".join(text for _, text in parts)) > width and len(parts) > 1:
            parts.remove(min(parts))
        if self.is_terminal:
            self._write(CLEAR_LINE + line[:width])
            self._is_drawn = True
        else:
            self._line(line)

    def _write(self, text):
        if self.is_gone:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:  # the terminal or the pipe was closed; the run goes on, and so does its log
            self.is_gone = True

    def _prepare(self, record):
        taken, size, now = record["bytes_read"], record["bytes"], time.monotonic()
        if record["purpose"] != self._purpose:
            self._purpose, self._began = record["purpose"], now
        if now - self._drawn_at >= (REDRAW_SECONDS if self.is_terminal else PLAIN_SECONDS):
            left = (now - self._began) / max(1, taken) * (size - taken)
            self._draw([(1, f"reading the text for its {self._purpose}: {gigabytes(taken)} of "
                            f"{gigabytes(size)}, {duration(left)} left")])

    def _warning(self, record):
        self._line(f"warning: {self._translate(record['text'])}")

    def _advice(self, record):
        text = f"advice: {self._translate(record['text'])}"
        if self.is_terminal:
            text = textwrap.fill(text, max(20, shutil.get_terminal_size().columns - 1),
                                 subsequent_indent="  ", break_on_hyphens=False)
        self._line(text)

    def _start(self, record):
        self._max_steps, self._val_loss = record["max_steps"], None
        self._patience = record["config"]["patience"]
        if record["resumed"] and self.is_terminal:
            self._read_earlier_losses(record)
        if record["earlier"]:
            self._line(f"the earlier run in {record['out']} is now in {record['earlier']}")
        if record["resumed"]:
            self._line(f"continuing from step {record['step']} of {record['out']}/last")
        dtype, gain = record["config"]["dtype"], record["bfloat16_gain"]
        self._line(f"{record['parameters']:,} parameters, {record['isa']}, "
                   + (f"{record['ranks']} ranks of " if record["ranks"] > 1 else "")
                   + plural(record["threads"], "thread")
                   + (f", products of {dtype}" if dtype != "float32" else ""))
        if gain is not None and gain >= LEAST_GAIN:
            self._line(f"this CPU multiplies bfloat16 {gain:.1f} times as fast as float32; "
                       "--dtype bfloat16 uses it")
        self._line(f"{record['train_tokens']:,} tokens to learn from, {record['val_tokens']:,} "
                   f"held out, a vocabulary of {record['vocab_size']:,}")
        needed, free = record["memory_needed"], record["memory_free"]
        self._line(f"{gigabytes(needed)} of memory needed"
                   + (f", {gigabytes(free)} free" if free is not None else ""))
        if free is not None and needed > free:
            self._line("warning: that is more memory than is free; the machine may swap or end "
                       "the run")

    def _read_earlier_losses(self, record):
        """Read the losses of the earlier parts of a resumed run, for the curve."""
        with contextlib.suppress(OSError, ValueError):  # the curve then begins here
            for earlier in each_record(os.path.join(record["out"], LOG_FILE)):
                self._note_losses(earlier)

    def _note_losses(self, record):
        for event, field, add in (("step", "loss", self._train.add),
                                  ("eval", "val_loss", lambda *point: self._vals.append(point))):
            if record["event"] == event and has_numbers(record, field):
                add(record["step"], record[field])

    def _step(self, record):
        self._note_losses(record)
        step, share = record["step"], record["peak_share"]
        if self.is_terminal:
            is_due = time.monotonic() - self._drawn_at >= REDRAW_SECONDS or step == self._max_steps
        else:
            is_due = step == 1 or step % max(1, self._max_steps // PLAIN_LINES) == 0
        parts = [
            (9, f"step {step}/{self._max_steps}"),
            (8, f"loss {record['loss']:.4f}"),
            (6, f"val {self._val_loss:.4f}" if self._val_loss is not None else ""),
            (2, f"lr {record['learning_rate']:.2g}"),
            (3, f"grad {record['grad_norm']:.2f}"),
            (5, f"{record['tokens_per_second']:,.0f} tokens/s"),
            (4, f"{share:.0%} of peak" if share is not None else ""),
            (7, f"{duration(record['seconds_left'])} left"),
        ]
        if is_due:
            self._draw([part for part in parts if part[1]])

    def _eval(self, record):
        self._note_losses(record)
        self._val_loss, since = record["val_loss"], record["evals_since_best"]
        best = "the best so far"
        if not record["is_best"]:
            best = f"best {_best(record)}"
            if self._patience:
                best += f", patience {since} of {self._patience}"
        self._line(f"step {record['step']}/{self._max_steps}  validation loss "
                   f"{record['val_loss']:.4f}, {best}")

    def _save(self, record):
        pass  # _end prints the place of the last checkpoint

    def _sample(self, record):
        rule = f"-- step {record['step']} writes: ".ljust(72, "-")
        text = record["prompt"] + record["text"]
        self._line(f"{rule}\n{text.strip()}\n{'-' * len(rule)}")

    def _finished(self, record):
        steps = plural(record["step"], "step")
        if record["reason"] == "patience":
            self._line(f"the run in {record['out']} is finished: its patience ended it after "
                       f"{steps}; to train longer: {_resuming(record)} --patience 0")
        else:
            self._line(f"the run in {record['out']} is finished: it has taken all of its {steps}; "
                       f"to train longer: {_resuming(record)} --max-steps {2 * record['step']}")

    def _end(self, record):
        steps, out = plural(record["step"], "step"), record["out"]
        self.draw_curve()
        if record["best_val_loss"] is not None and record["best_step"] != record["step"]:
            self._line(f"best validation loss {_best(record)}")
        if record["interrupted"]:
            self._line(f"interrupted after {steps}; the model is saved in {out}/last; to go on: "
                       + _resuming(record))
        elif record["reason"] == "patience" and self._max_steps:
            self._line(f"ended after {steps} of {self._max_steps:,} in "
                       f"{duration(record['seconds'])}, because of --patience {self._patience}: "
                       f"{plural(self._patience, 'validation')} in a row without a new best; "
                       f"{out}/best holds the best; try: " + command_line("sample", _no_flag(out)))
        else:
            self._line(f"{steps} in {duration(record['seconds'])}; try: "
                       + command_line("sample", _no_flag(out)))
        if record["val_loss"] is not None:
            self._line(f"val_loss={record['val_loss']:.4f}")


def _best(record):
    """Return the lowest validation loss of a record with its step, if that is known."""
    step = record["best_step"]
    return f"{record['best_val_loss']:.4f}" + (f" at step {step:,}" if step else "")


def _resuming(record):
    """Return the command that resumes the run of a record."""
    return command_line("train", "--resume", "--out", _no_flag(record["out"]))


def _no_flag(path):
    """Put ./ before a path that the command line would otherwise read as a flag."""
    return os.path.join(os.curdir, path) if path.startswith("-") else path


def plural(count, noun):
    """Return a count with its noun: "1 step", "2,000 steps"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def duration(seconds):
    """Format seconds for a reader: 0:07, 1:32, 2:05:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
