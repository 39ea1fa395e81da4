"""The command line: `pygpt train`, `sample`, `export`, `tokenizer`, `plot`, `bench`, `info`.

A flag is made from each field of a config dataclass, so nothing about a setting is said twice.
Exit status: 0, or 2 for a command that makes no sense, 1 for one that failed, 130 after Ctrl-C;
with 1 and 2 goes one line on standard error. May import everything; what a subcommand needs is
imported when it runs, so that --help is instant.
"""

import argparse
import math
import os
import sys
from dataclasses import fields

from pygpt.config import (PRESETS, ConfigError, SampleConfig, TrainConfig, describe_range,
                          number_type)
from pygpt.tokenizer_cli import add_commands as add_tokenizer_commands

USAGE, FAILURE, SIGNALLED = 2, 1, 128
INTERRUPTED = SIGNALLED + 2  # SIGINT, as shells say it
DTYPES = "float32", "float16", "bfloat16"  # stored.DTYPES, without what that imports


class _Parser(argparse.ArgumentParser):
    """argparse, saying what is wrong in one line."""

    def error(self, message):
        self.exit(USAGE, f"pygpt: error: {message} (see {self.prog} --help)\n")


def main(argv=None):
    """Run a command.

    Args:
        argv: list of arguments; None: the process's own.
    Returns:
        The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a character the terminal lacks is no failure
    try:
        arguments = _make_parser().parse_args(argv)
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has seen enough
        _drop_output()
        return FAILURE
    except ConfigError as error:
        return _complain(error, USAGE)
    except OSError as error:
        what = error.strerror or error
        name = "''" if error.filename == "" else error.filename
        return _complain(f"{name}: {what}" if name else what, FAILURE)
    except (ImportError, ValueError, ArithmeticError, MemoryError) as error:
        return _complain(str(error) or "there is not enough memory", FAILURE)


def _complain(what, status):
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    print("pygpt: error:", " ".join(str(what).split()), file=sys.stderr)
    return status


def _drop_output():
    """Let what is still to be printed go nowhere, so that it does not fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _commands_of(parser):
    """Its commands, and add(name, run, help), which makes the parser of another."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, help):
        command = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    return commands, add


def _make_parser():
    parser = _Parser(prog="pygpt", description="Train a GPT on text and let it write.",
                     allow_abbrev=False)
    commands, add = _commands_of(parser)

    command = add("train", _train, "train a model; no flag is needed")
    command.add_argument("--preset", choices=PRESETS, default=argparse.SUPPRESS,
                         help="start from these settings; other flags change them: "
                         + "; ".join(map(_describe_preset, PRESETS)))
    command.add_argument("--config", metavar="FILE",
                         help="read settings from a JSON or TOML file, such as the train.json that "
                         "a run leaves in its output directory; other flags change them")
    command.add_argument("--resume", action="store_true",
                         help="go on with the run in --out, from its last checkpoint")
    command.add_argument("--force", action="store_true",
                         help="resume although settings, text or kernels differ; train although "
                         "memory does not suffice; a warning tells of each")
    _add_settings(command, TrainConfig)

    command = add("sample", _sample, "let a trained model write")
    command.add_argument("directory", metavar="DIR",
                         help="a training run's output directory, or one of its checkpoints")
    command.add_argument("--prompt", metavar="TEXT", help="text to continue (unset: a new line)")
    command.add_argument("--interactive", action="store_true",
                         help="continue one prompt after another, read from standard input")
    _add_settings(command, SampleConfig)

    command = add("export", _export, "write a model, and its tokenizer, to a directory of its own")
    command.add_argument("directory", metavar="DIR",
                         help="a GPT-2 directory, a training run's output directory, or one of its "
                         "checkpoints")
    command.add_argument("out", metavar="OUT", help="the directory to make")
    command.add_argument("--dtype", choices=DTYPES, default="float32",
                         help="of the weights in the file (default float32)")

    command = add("bench", _bench, "measure each kernel and a training step on this machine")
    command.add_argument("--preset", choices=PRESETS,
                         help="whose shapes to measure (default lesson)")
    command.add_argument("--growth", action="store_true",
                         help="measure instead how a step's cost grows with length, width and "
                         "threads, and what awkward sizes cost")
    command.add_argument("--seconds", type=float, metavar="X",
                         help="how long to measure, about (default 20; with --growth 60)")
    command.add_argument("--threads", type=int, default=0, metavar="N",
                         help="threads to compute with; 0: one for each physical core (default 0)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead")

    command = add("plot", _plot, "draw the curves of one or more runs, as one HTML page")
    command.add_argument("directories", metavar="OUT", nargs="+",
                         help="a training run's output directory")
    command.add_argument("--output", metavar="FILE",
                         help="where the page goes (unset: plot.html in the first OUT)")

    command = commands.add_parser("tokenizer", help="learn a tokenizer, or use one in a pipe",
                                  description="Learn a tokenizer, or use one in a pipe.",
                                  allow_abbrev=False)
    add_tokenizer_commands(_commands_of(command)[1])

    add("info", _info, "show the version, the compiler, the instruction sets and the threads")
    return parser


def _describe_preset(name):
    return f"{name}: " + " ".join(f"{_flag(key)} {value}" for key, value in PRESETS[name].items())


def _flag(name):
    return "--" + name.replace("_", "-")


def _add_settings(parser, config_class):
    """Add a flag for each field; a flag that is not given leaves no attribute behind."""
    for f in fields(config_class):
        kind, within, unit = number_type(f), f.metadata["within"], f.metadata["unit"]
        notes = [unit] if unit else []
        if within:
            notes.append(describe_range(within))
        if f.default not in (None, ()):
            notes.append(f"default {f.default}")
        word = f.metadata["metavar"] or {int: "N", float: "X", None: "PATH"}[kind]
        if f.metadata["choices"]:
            word = "|".join(f.metadata["choices"])
        takes = {"type": kind, "metavar": word} | ({"nargs": "+"} if f.type is tuple else {})
        if f.type is bool:
            takes = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(_flag(f.name), dest=f.name, default=argparse.SUPPRESS, **takes,
                            help=f.metadata["help"] + (f" ({'; '.join(notes)})" if notes else ""))


def _settings(arguments, config_class):
    names = {f.name for f in fields(config_class)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def _train(arguments):
    preset = PRESETS[arguments.preset] if "preset" in arguments else {}
    from pygpt.trainer_state import settings_file

    flags = _settings(arguments, TrainConfig)
    settings = preset | ({} if arguments.config is None else settings_file(arguments.config))
    settings |= flags
    from pygpt.trainer import last_settings, train

    if arguments.resume:
        settings = last_settings(settings.get("out", TrainConfig.out)) | settings
    config = TrainConfig(**settings)
    from pygpt.report import Reporter

    reporter = Reporter()
    try:
        result = train(config, [reporter], resume=arguments.resume, force=arguments.force)
    finally:
        reporter.close()
    return SIGNALLED + result.signal if result.signal else 0


def _sample(arguments):
    settings = _settings(arguments, SampleConfig)
    SampleConfig(**settings)  # a setting out of range is found before a model is read
    from pygpt import kernels
    from pygpt.checkpoint import find_model
    from pygpt.model import GPT
    from pygpt.tokenizer import Tokenizer

    directory = find_model(arguments.directory)
    model, tokenizer = GPT.from_pretrained(directory), Tokenizer.from_pretrained(directory)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model "
                         f"vocab_size={model.config.vocab_size}")
    threads = settings.pop("threads", 0)
    if threads:
        kernels.set_num_threads(threads)
    if arguments.prompt is not None or not arguments.interactive:
        _write(model, tokenizer, arguments.prompt or "", settings)
    if arguments.interactive:
        _converse(model, tokenizer, settings)
    return 0


def _write(model, tokenizer, prompt, settings):
    """Print a prompt and its continuation, each character as soon as it is drawn."""
    from pygpt.generate import first_ids, stream

    ids = stream(model, tokenizer.encode(prompt) or first_ids(tokenizer),
                 vocab_size=tokenizer.vocab_size, **settings)
    sys.stdout.write(prompt)
    for text in tokenizer.decode_iterable(ids):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


def _converse(model, tokenizer, settings):
    """Continue each line of standard input; Ctrl-C ends a continuation, or the conversation."""
    while True:
        try:
            prompt = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        try:
            _write(model, tokenizer, prompt, settings)
        except ValueError as error:
            _complain(error, FAILURE)
        except KeyboardInterrupt:
            print()


def _export(arguments):
    from pygpt.checkpoint import CONFIG_FILE, find_model
    from pygpt.model import GPT
    from pygpt.run_directory import NAMES, SETTINGS_FILE
    from pygpt.shards import INDEX_FILE, WEIGHTS_FILE
    from pygpt.tokenizer import Tokenizer

    directory, out = find_model(arguments.directory), arguments.out
    # A model beside a run's checkpoints would be taken for the run's from then on.
    there = [name for name in (*NAMES, SETTINGS_FILE, CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE)
             if os.path.lexists(os.path.join(out, name))]
    if there:
        raise ValueError(f"{out}: there is a model or a run already: {', '.join(there)}")
    model, tokenizer = GPT.from_pretrained(directory), None
    try:
        tokenizer = Tokenizer.from_pretrained(directory)
    except FileNotFoundError:  # weights may come without one
        pass
    if tokenizer:  # first: a directory with a config.json is a model, and then it is complete
        tokenizer.save_pretrained(out)
    model.save_pretrained(out, arguments.dtype, tokenizer and tokenizer.end_of_text)
    return 0


def _bench(arguments):
    seconds = arguments.seconds
    if seconds is None:
        seconds = 60.0 if arguments.growth else 20.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds={seconds} must be above 0")
    if arguments.growth and arguments.preset:
        raise ConfigError("--growth has sizes of its own: leave out --preset")
    if not 0 <= arguments.threads <= 256:
        raise ConfigError(f"threads={arguments.threads} must be in [0, 256]")
    from . import bench, growth, kernels

    if kernels.ffi is None:
        raise ConfigError("bench measures the C kernels: unset PYGPT_BACKEND")
    if arguments.threads:
        kernels.set_num_threads(arguments.threads)
    if arguments.growth:
        growth.main(seconds, arguments.json)
    else:
        bench.main(arguments.preset or "lesson", seconds, arguments.json)
    return 0


def _plot(arguments):
    from pygpt.plot import plot

    target = arguments.output or os.path.join(arguments.directories[0], "plot.html")
    plot(arguments.directories, target)
    print(target)
    return 0


def _info(arguments):
    import pygpt

    for name, value in pygpt.info().items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        print(f"{name + ':':<10} {text}")
    return 0
