"""The command line: `pygpt train`, `sample`, `export`, `tokenizer`, `plot`, `bench`, `info`.

A flag is made from each field of a config dataclass, so nothing about a setting is said twice.
Exit status: 0, or 2 for a command that makes no sense, 1 for one that failed, 130 after Ctrl-C;
with 1 and 2 goes one line on standard error, in which settings have the names of flags. May import
everything; what a subcommand needs is imported when it runs, so that --help is instant.
"""

import argparse
import math
import os
import sys
from dataclasses import fields

from pygpt import __version__
from pygpt.config import (PRESETS, ConfigError, SampleConfig, TrainConfig, describe_range,
                          number_type)
from pygpt.cli.flags import Parser, UsageError, in_flags, text
from pygpt.cli.streams import drop_output, flush_output, standard_streams, true_text
from pygpt.cli.tokenizer import add_commands as add_tokenizer_commands

USAGE, FAILURE, SIGNALLED = 2, 1, 128
INTERRUPTED = SIGNALLED + 2  # SIGINT, as shells say it
DTYPES = "float32", "float16", "bfloat16"  # stored.DTYPES, without what that imports
TWICE = ("A flag that takes several values may be given again: all its values count. Of any other "
         "flag the last one counts.")


def main(argv=None):
    """Run a command.

    Args:
        argv: list of arguments; None: the process's own.
    Returns:
        The exit status.
    """
    words = [str(word) for word in (sys.argv[1:] if argv is None else argv)]
    with standard_streams():
        try:
            status = _run(words)
            flush_output()
            return status
        except KeyboardInterrupt:
            return INTERRUPTED
        except OSError as error:  # of the output, while what was to be said is said
            return _complain_of_system(error)
        finally:
            _flush_quietly()


def _run(words):
    """Parse a command line and run the command; every error but Ctrl-C becomes a line."""
    arguments = None
    try:
        arguments = _parse(words)
        return arguments.run(arguments)
    except SystemExit as done:  # --help and --version
        return done.code or 0
    except UsageError as error:
        return _complain(error, USAGE)
    except ConfigError as error:
        return _complain(_in_flags(error, arguments), USAGE)
    except OSError as error:
        return _complain_of_system(error)
    except AttributeError as error:
        if "pygpt._kernels" not in str(error):
            raise
        from pygpt.backend.installation import explained

        return _complain(explained(error), FAILURE)  # a library of older sources
    except (ImportError, ValueError, ArithmeticError, MemoryError) as error:
        return _complain(_in_flags(error, arguments) or "there is not enough memory", FAILURE)


def _parse(words):
    """The arguments, with `command`, the parser that read them, and `words`, which it read."""
    arguments, unknown = _make_parser().parse_known_args(words)
    if unknown:
        arguments.command.refuse(next((word for word in unknown if word[:1] == "-"), unknown[0]))
    arguments.words, arguments.in_file = words, ()
    return arguments


def _in_flags(error, arguments):
    """What an error (or a text) says, naming settings as they were typed."""
    from pygpt.checkpoint.safetensors import CheckpointError

    message = str(error)
    if arguments is None:
        return message
    file = getattr(arguments, "config", None)
    is_of_file = file is not None and message.startswith(f"{file}: ")
    if is_of_file or isinstance(error, CheckpointError):
        return message  # it speaks of what stands in a file
    return in_flags(message, arguments.command, arguments.words, file, arguments.in_file)


def _complain_of_system(error):
    if isinstance(error, BrokenPipeError):  # whoever read the output has seen enough
        drop_output()
        return FAILURE
    what = error.strerror or error
    name = "''" if error.filename == "" else error.filename
    separator = " " if what == "is closed" else ": "
    return _complain(f"{name}{separator}{what}" if name else what, FAILURE)


def _complain(what, status):
    _flush_quietly()
    print("pygpt: error:", " ".join(str(what).split()), file=sys.stderr)
    return status


def _flush_quietly():
    try:
        flush_output()
    except OSError:
        pass


def _commands_of(parser):
    """Its commands, and add(name, run, help), which makes the parser of another."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, help):
        command = commands.add_parser(name, help=help, description=help, epilog=TWICE)
        command.set_defaults(run=run, command=command)
        return command

    return commands, add


def _make_parser():
    parser = Parser(prog="pygpt", description="Train a GPT on text and let it write.")
    parser.add_argument("--version", action="version", version=f"pygpt {__version__}")
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
    command.add_argument("--prompt", metavar="TEXT", type=text,
                         help="text to continue (unset: a new line)")
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
                                  description="Learn a tokenizer, or use one in a pipe.")
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
        if f.metadata["metavar"] == "TEXT":
            kind = text
        takes = {"type": kind, "metavar": word}
        if f.type is tuple:
            takes |= {"nargs": "+", "action": "extend"}
        if f.type is bool:
            takes = {"action": argparse.BooleanOptionalAction}
        parser.add_argument(_flag(f.name), dest=f.name, default=argparse.SUPPRESS, **takes,
                            help=f.metadata["help"] + (f" ({'; '.join(notes)})" if notes else ""))


def _settings(arguments, config_class):
    names = {f.name for f in fields(config_class)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def _train(arguments):
    preset = PRESETS[arguments.preset] if "preset" in arguments else {}
    from pygpt.training.trainer_state import settings_file

    flags = _settings(arguments, TrainConfig)
    from_file = {} if arguments.config is None else settings_file(arguments.config)
    arguments.in_file = from_file.keys() - flags.keys()
    settings = preset | from_file | flags
    from pygpt.training.trainer import last_settings, train

    if arguments.resume:
        settings = last_settings(settings.get("out", TrainConfig.out)) | settings
    config = TrainConfig(**settings)
    from pygpt.cli.terminal import Reporter

    reporter = Reporter(told=lambda text: _in_flags(text, arguments))
    try:
        result = train(config, [reporter], resume=arguments.resume, force=arguments.force)
    finally:
        reporter.close()
        if reporter.is_gone:
            drop_output()
    return SIGNALLED + result.signal if result.signal else 0


def _sample(arguments):
    settings = _settings(arguments, SampleConfig)
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
    """Print a prompt, its special tokens read as tokens, and the continuation, each character as
    soon as it is drawn."""
    from pygpt.generate import stream
    from pygpt.tokenizer.base import prompt_ids

    ids = stream(model, prompt_ids(tokenizer, prompt),
                 vocab_size=tokenizer.vocab_size, **settings)
    sys.stdout.write(prompt)
    for part in tokenizer.decode_iterable(ids):
        sys.stdout.write(part)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


def _converse(model, tokenizer, settings):
    """Continue each line of standard input; Ctrl-C ends a continuation, or the conversation."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        try:
            _write(model, tokenizer, _prompt(line), settings)
        except ValueError as error:
            _complain(error, FAILURE)
        except KeyboardInterrupt:
            print()


def _prompt(line):
    try:
        return true_text(line.removesuffix("\r"))
    except ValueError as error:
        raise ValueError(f"the prompt {error}") from None


def _export(arguments):
    from pygpt.checkpoint.model_files import CONFIG_FILE, find_model
    from pygpt.model import GPT
    from pygpt.training.run_directory import NAMES, SETTINGS_FILE
    from pygpt.checkpoint.shards import INDEX_FILE, WEIGHTS_FILE
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
    if tokenizer and model.end_of_text is None:
        model.end_of_text = tokenizer.end_of_text
    model.save_pretrained(out, arguments.dtype)
    return 0


def _bench(arguments):
    seconds = arguments.seconds
    if seconds is None:
        seconds = 60.0 if arguments.growth else 20.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"seconds={seconds:g} must be above 0")
    if arguments.growth and arguments.preset:
        raise ConfigError("--growth has sizes of its own: leave out --preset")
    if not 0 <= arguments.threads <= 256:
        raise ConfigError(f"threads={arguments.threads} must be in [0, 256]")
    from pygpt.backend import kernels
    from pygpt.bench import growth, kernels as bench

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
    from pygpt.training.plot import plot

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
