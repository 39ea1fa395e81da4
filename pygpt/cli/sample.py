"""Lets a trained model write: `pygpt sample`."""

import sys

from pygpt.cli.flags import add_settings, settings_of, text
from pygpt.cli.messages import complain
from pygpt.cli.streams import true_text
from pygpt.config import SampleConfig


def add_command(add):
    """Add the command."""
    command = add("sample", run, "let a trained model write")
    command.add_argument("directory", metavar="DIR",
                         help="a training run's output directory, or one of its checkpoints")
    command.add_argument("--prompt", metavar="TEXT", type=text,
                         help="text to continue (unset: a new line)")
    command.add_argument("--interactive", action="store_true",
                         help="continue one prompt after another, read from standard input")
    add_settings(command, SampleConfig)


def run(arguments):
    settings = settings_of(arguments, SampleConfig)
    threads = SampleConfig(**settings).threads  # checks all settings before a model is read
    settings.pop("threads", None)
    from pygpt.backend import kernels
    from pygpt.checkpoint.model_files import find_model
    from pygpt.generate import end_ids
    from pygpt.model import GPT
    from pygpt.tokenizer import Tokenizer

    directory = find_model(arguments.directory)
    model, tokenizer = GPT.from_pretrained(directory), Tokenizer.from_pretrained(directory)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
                         f"vocab_size={model.config.vocab_size}")
    if threads:
        kernels.set_num_threads(threads)
    settings["stop"] = end_ids(model, tokenizer)
    if arguments.prompt is not None or not arguments.interactive:
        _write(model, tokenizer, arguments.prompt or "", settings)
    if arguments.interactive:
        _converse(model, tokenizer, settings)
    return 0


def _write(model, tokenizer, prompt, settings):
    """Print a prompt and its continuation, each character as soon as it is drawn.

    The text of a special token in the prompt is read as that token.
    """
    from pygpt.generate import stream
    from pygpt.stop_strings import StopStrings
    from pygpt.tokenizer.base import prompt_ids

    settings = dict(settings)
    stop = StopStrings(SampleConfig(stop_strings=settings.pop("stop_strings", ())).stop_strings)
    ids = stream(model, prompt_ids(tokenizer, prompt), vocab_size=tokenizer.vocab_size, **settings)
    print(prompt, end="")
    for part in stop.until(tokenizer.decode_iterable(ids)):
        print(part, end="", flush=True)
    print(flush=True)


def _converse(model, tokenizer, settings):
    """Continue each line of standard input; Ctrl-C ends a continuation, or the conversation."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        try:
            _write(model, tokenizer, true_text(line.removesuffix("\r"), "the prompt "), settings)
        except ValueError as error:
            complain(error, status=1)
        except KeyboardInterrupt:
            print()
