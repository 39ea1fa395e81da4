"""Makes and parses the flags of a command, and suggests the right flag for a wrong one.

A command's file makes its parser with the add() of commands_of(), and makes a flag for each field
of a config dataclass with add_settings(). The name, the range and the help text stand in config.py
only.
"""

import argparse
import re
import sys
from dataclasses import fields

from pygpt.cli.streams import true_text
from pygpt.config import describe_range, number_type
from pygpt.nearest import nearest

TWICE = ("A flag that takes several values may be given again: all its values count. Of any other "
         "flag the last one counts.")

_NEGATIVE = re.compile(r"^-(?:inf|nan|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)$")


class UsageError(Exception):
    """Says why the command line cannot be parsed."""


class _Formatter(argparse.HelpFormatter):
    """Wraps each paragraph of a description. A paragraph of several lines is a table and stays."""

    def _fill_text(self, text, width, indent):
        fill = super()._fill_text
        return "\n\n".join(part if "\n" in part else fill(part, width, indent)
                           for part in text.split("\n\n"))


class Parser(argparse.ArgumentParser):
    """Parses arguments; an error is one line that suggests the nearest flag or command."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, formatter_class=_Formatter, **kwargs)
        self._negative_number_matcher = _NEGATIVE  # argparse's own pattern takes -1e-3 for a flag

    def error(self, message):
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args=None, namespace=None):
        for word in args:
            is_flag = word[:1] == "-" and " " not in word and not _NEGATIVE.match(word)
            name = word.partition("=")[0]
            if word in ("-", "--") or not is_flag and self._subparsers:
                break  # the other words belong to the command, or hold no flag
            if is_flag and name not in self._option_string_actions:
                self.refuse(name)
        return super().parse_known_args(args, namespace)

    def refuse(self, word):
        """Refuse a word that is not an argument of this command.

        Raises:
            UsageError: always; the message names the word and the nearest flag.
        """
        kind = "flag" if word.startswith("-") else "argument"
        self.error(f"{word} is no {kind} of {self.prog}"
                   + _did_you_mean(word, self._option_string_actions if kind == "flag" else ()))

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is not one of "
                                         f"{', '.join(action.choices)}"
                                         + _did_you_mean(str(value), action.choices))


def _did_you_mean(word, names):
    meant = nearest(word, names)
    return f"; did you mean {meant}?" if meant else ""


def _type(convert, noun):
    """Make the type of a flag; noun says, in an error, what convert() takes."""
    def checked(word):
        try:
            return convert(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is not {noun}") from None

    return checked


whole_number = _type(int, "a whole number")
real_number = _type(float, "a number")
_NUMBERS = {int: (whole_number, "N"), float: (real_number, "X")}  # the type and the metavar


def text(value):
    """Convert the value of a flag that takes text; refuse bytes that are not UTF-8."""
    try:
        return true_text(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None


def _bias(word):
    token, is_pair, bias = word.partition("=")
    if not is_pair:
        raise ValueError
    return int(token), float(bias)


_OTHERS = {"TEXT": text, "ID=BIAS": _type(_bias, "a token id and a number, such as 50256=-inf")}


def commands_of(parser):
    """Give a parser commands. When the user types none, the parser prints its help.

    Returns:
        The function add(name, run, help, epilog=""), which makes and returns the parser of a
        command. run takes the parsed arguments and returns the exit status.
    """
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name, run, help, epilog=""):
        command = commands.add_parser(name, help=help, description=help,
                                      epilog=f"{epilog}\n\n{TWICE}" if run else None)
        command.set_defaults(run=run or print_help, command=command, on_ranks=False)
        return command

    return add


def print_help(arguments):
    """Print the help of a command that only groups other commands, on standard error."""
    arguments.command.print_help(sys.stderr)
    return 2


def flag(name):
    """Return the flag of a setting: `--n-embd` for `n_embd`."""
    return "--" + name.replace("_", "-")


def add_settings(parser, config_class, groups=None):
    """Add a flag for each field of a config. A flag that is not given sets no attribute.

    Args:
        parser: a Parser.
        config_class: a dataclass of config.py.
        groups: {heading in --help: names of the fields below it}. The other fields stand under
            "options".
    """
    has_positional = any(not action.option_strings for action in parser._actions)
    sections = {}
    for heading, names in (groups or {}).items():
        sections |= dict.fromkeys(names, parser.add_argument_group(heading))
    for f in fields(config_class):
        within, unit, choices = (f.metadata[key] for key in ("within", "unit", "choices"))
        notes = [unit] if unit else []
        if within:
            notes.append(describe_range(within))
        if f.default not in (None, ()):
            notes.append(f"default {f.default}")
        convert, metavar = _NUMBERS.get(number_type(f), (None, "PATH"))
        metavar = f.metadata["metavar"] or metavar
        convert = _OTHERS.get(metavar, convert)
        takes = {"type": convert, "metavar": "|".join(choices) if choices else metavar}
        if f.type is tuple and has_positional:  # which several words would swallow
            takes |= {"action": "append"}
        elif f.type is tuple:
            takes |= {"nargs": "+", "action": "extend"}
        if f.type is bool:
            takes = {"action": argparse.BooleanOptionalAction}
        sections.get(f.name, parser).add_argument(
            flag(f.name), dest=f.name, default=argparse.SUPPRESS, **takes,
            help=f.metadata["help"] + (f" ({'; '.join(notes)})" if notes else ""))


def settings_of(arguments, config_class):
    """Return, as a dict, the settings of a config that were given as flags."""
    return {f.name: getattr(arguments, f.name) for f in fields(config_class) if f.name in arguments}
