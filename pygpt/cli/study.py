"""Runs the experiments for students: `pygpt study ablations|gradient`."""

import sys

from pygpt.cli.flags import commands_of, text, whole_number
from pygpt.cli.loading import add_threads_flag, set_threads

SIGNALLED = 128  # the exit status of a command that a signal ended is this plus the signal


def add_command(add):
    """Add the command, which has commands of its own."""
    add = commands_of(add("study", None, "take a model apart: experiments for students"))
    command = add("ablations", _ablations, "train a GPT, and GPTs that lack one part each",
                  epilog="The models are trained one after the other on the same text, and a page "
                  "of their curves says what is seen. Ctrl-C keeps the models that are complete.")
    command.add_argument("--data", metavar="PATH", nargs="+", action="extend", default=[],
                         help="the text to learn from, as for train (unset: Python's own "
                         "reference)")
    command.add_argument("--steps", metavar="N", type=whole_number, default=600,
                         help="steps of each model (default 600)")
    command.add_argument("--only", metavar="NAME", nargs="+", action="extend", default=[],
                         help="train these besides the whole model: other-seed, no-residuals, "
                         "no-norm, no-positions, no-mlp, one-head, wide (unset: all)")
    command.add_argument("--output", metavar="FILE", default="study.html",
                         help="file of the page (default study.html)")
    add_threads_flag(command)

    command = add("gradient", _gradient, "follow one weight and its gradient through a step",
                  epilog="The gradient is computed by the tape, by the chain rule and by finite "
                  "differences. If they disagree, the exit status is 1.")
    command.add_argument("directory", metavar="DIR", nargs="?",
                         help="a GPT-2 directory, a training run's output directory, or one of its "
                         "checkpoints (unset: a tiny model with random weights)")
    command.add_argument("--weight", metavar="NAME[i,j]", default="h.0.mlp.c_fc.weight[0,0]",
                         help="the parameter, and the place in it (default "
                         "h.0.mlp.c_fc.weight[0,0])")
    command.add_argument("--text", metavar="TEXT", type=text, default="To be, or not",
                         help="the text of the step (default 'To be, or not')")
    command.add_argument("--output", metavar="FILE",
                         help="file of a page that shows the same (unset: text alone)")
    add_threads_flag(command)


def _ablations(arguments):
    from pygpt.cli.writing import warn
    from pygpt.config import ConfigError
    from pygpt.files import replacing
    from pygpt.study.ablations import chosen, run
    from pygpt.study.findings import context, page, table
    from pygpt.training.interrupts import first_signal_is_noted

    if arguments.steps < 1:
        raise ConfigError(f"steps={arguments.steps} must be 1 or more")
    set_threads(arguments.threads)
    wanted = chosen(arguments.only)
    progress = _Progress(len(wanted), arguments.steps)
    with replacing(arguments.output) as file, first_signal_is_noted() as signals:
        try:
            found = run(wanted, arguments.steps, arguments.data, progress, lambda: signals)
        finally:
            progress.close()
        for warning in found.warnings:
            warn(warning)
        if not found.results:
            raise KeyboardInterrupt  # not even the whole model is complete: there is no page
        file.write(page(found).encode())
    print(table(found.results))
    print(context(found))
    print(arguments.output)
    return SIGNALLED + signals[0] if signals else 0


class _Progress:
    """Shows on standard error how far the models are: one line that changes at a terminal, else a
    line for each model."""

    def __init__(self, count, steps):
        self._count, self._steps, self._number, self._name = count, steps, 0, None
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, variant, step, loss):
        if variant.name != self._name:
            self._number, self._name = self._number + 1, variant.name
        is_last = step == self._steps
        if self._is_terminal or is_last:
            print(("\r\x1b[K" if self._is_terminal else "") + f"{self._number} of {self._count}  "
                  f"{variant.name:<14} step {step}  loss {loss:.3f}",
                  end="" if self._is_terminal and not is_last else "\n", file=sys.stderr,
                  flush=True)

    def close(self):
        """End the line of a model that did not become complete."""
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _gradient(arguments):
    from contextlib import nullcontext

    from pygpt.files import replacing
    from pygpt.study.journey_page import page
    from pygpt.study.journey_text import text_of

    set_threads(arguments.threads)
    is_wanted = arguments.output is not None
    with replacing(arguments.output) if is_wanted else nullcontext() as file:
        found, tokenizer = _follow(arguments)
        if is_wanted:
            file.write(page(found, tokenizer).encode())
    print(text_of(found, tokenizer))
    if is_wanted:
        print(arguments.output)
    return 0 if found.agrees else 1


def _follow(arguments):
    """Return the Journey that is asked for, and the model's tokenizer."""
    from pygpt.cli.writing import warn
    from pygpt.pipeline import Pipeline
    from pygpt.study.gradient import find_weight, journey, text_length, tiny_model

    if arguments.directory is None:
        model, tokenizer = tiny_model()
        ids = tokenizer.encode(arguments.text)
    else:
        pipeline = Pipeline.from_pretrained(arguments.directory, "float32", on_warning=warn)
        model, tokenizer, ids = pipeline.model, pipeline.tokenizer, pipeline.read(arguments.text)
    find_weight(model, arguments.weight)  # before the slow part
    if len(ids) > 1 and (length := text_length(model, ids)) < len(ids) - 1:
        warn(f"of {len(ids)} tokens the first {length + 1} are used: Python's loops, in which the "
             "finite differences are computed, take long")
        ids = ids[:length + 1]
    found = journey(model, arguments.weight, ids, _tell_evaluation)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return found, tokenizer


def _tell_evaluation(number):
    if sys.stderr.isatty():
        print(f"\r\x1b[Kfinite differences: loss {number} of 4", end="", file=sys.stderr,
              flush=True)
