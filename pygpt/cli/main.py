"""Runs the command line: main() parses the words, runs the command and reports its errors.

Each command has a file of its own, whose add_command() makes the parser. Such a file imports at its
top only what a parser needs, so that --help is instant; run() imports the rest.

Exit status: 0; 1 for a command that failed; 2 for one that makes no sense; 130 after Ctrl-C. With 1
and 2 goes one line on standard error, in which settings have the names of flags.

Of several processes that a launcher of MPI started (parallel/), only rank 0 prints.
"""

import os
import sys

from pygpt import __version__
from pygpt.cli import (bench, check, eval, explain, export, info, play, plot, sample, study,
                       tokenizer, train)
from pygpt.cli.flags import Parser, UsageError, commands_of, print_help
from pygpt.cli.messages import as_typed, complain, flush_quietly
from pygpt.cli.streams import drop_output, flush_output, standard_streams
from pygpt.config import ConfigError
from pygpt.parallel import launcher

NO_MEMORY = b"pygpt: error: there is not enough memory\n"
USAGE, FAILURE, INTERRUPTED = 2, 1, 130  # 130: as shells report a SIGINT, 128 + 2
COMMANDS = (train, sample, eval, explain, play, study, export, bench, check, plot, tokenizer,
            info)  # in the order of --help


def main(argv=None):
    """Run a command.

    Args:
        argv: the list of arguments; None stands for those of the process.
    Returns:
        The exit status.
    """
    try:
        return _main(argv)
    except MemoryError:  # there was too little even to report the error
        os.write(2, NO_MEMORY)
        return FAILURE


def _main(argv):
    words = [str(word) for word in (sys.argv[1:] if argv is None else argv)]
    launch = launcher.found()
    with standard_streams():
        if launch and launch.rank:
            drop_output(sys.stderr)
        try:
            status = _run(words, launch)
            flush_output()
            return status
        except KeyboardInterrupt:
            return INTERRUPTED
        except OSError as error:  # standard output cannot be written
            return _report_system_error(error)
        finally:
            flush_quietly()


def _run(words, launch):
    """Parse a command line and run the command; every error but Ctrl-C becomes a line."""
    arguments, rank = None, "rank 0: " if launch else ""
    try:
        arguments = parse(words)
        if launch and not (arguments.on_ranks or getattr(arguments, "mpi", False)):
            raise UsageError(f"{arguments.command.prog} runs in one process, and "
                             f"{launch.launcher} started {launch.size}: start it alone")
        return arguments.run(arguments)
    except SystemExit as done:  # --help and --version
        return done.code or 0
    except (UsageError, ConfigError) as error:
        return complain(as_typed(error, arguments), USAGE)
    except OSError as error:
        return _report_system_error(error, rank)
    except AttributeError as error:
        if "pygpt._kernels" not in str(error):
            raise
        from pygpt.backend.installation import explained

        return complain(explained(error), FAILURE)  # the library comes from older sources
    except (ImportError, ValueError, ArithmeticError, MemoryError) as error:
        message = as_typed(error, arguments) or "there is not enough memory"
        return complain(rank + message, FAILURE)


def parse(words):
    """Parse a command line.

    Returns:
        The arguments, with `command`: its parser; `words`: its words; `run`: the function to call.
        A command that defines `dash` finds there whether - is a word of its own. argparse would
        take it as a positional argument only directly after the others.
    """
    arguments, unknown = make_parser().parse_known_args(words)
    if "-" in unknown and "dash" in arguments:
        unknown.remove("-")
        arguments.dash = True
    if unknown:
        arguments.command.refuse(next((word for word in unknown if word[:1] == "-"), unknown[0]))
    arguments.words, arguments.in_file = words, ()
    return arguments


def _report_system_error(error, rank=""):
    if isinstance(error, BrokenPipeError):  # the reader of the output went away
        drop_output()
        return FAILURE
    reason = error.strerror or error
    name = "''" if error.filename == "" else error.filename
    separator = " " if reason == "is closed" else ": "
    return complain(rank + (f"{name}{separator}{reason}" if name else str(reason)), FAILURE)


def make_parser():
    """Make the parser of all commands."""
    parser = Parser(prog="pygpt", description="Train a GPT on text and let it write.")
    parser.add_argument("--version", action="version", version=f"pygpt {__version__}")
    parser.set_defaults(run=print_help, command=parser, on_ranks=True)
    add = commands_of(parser)
    for command in COMMANDS:
        command.add_command(add)
    return parser
