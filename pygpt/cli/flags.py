"""The flags of a command: how they are read, what is said of wrong ones, what messages call them.

Everywhere else a message names a setting as Python writes it, `n_embd=100`; whoever typed
`--n-embd 100` reads that, because in_flags() goes over every message on its way to the terminal.
Uses argparse; used by the command line.
"""

import argparse
import ast
import re
import shlex

from pygpt.cli.streams import true_text

# What other programs call the settings and commands of this one.
ALSO_CALLED = {
    "epochs": "max-steps", "iters": "max-steps", "max-iters": "max-steps", "steps": "max-steps",
    "block-size": "n-positions", "context": "n-positions", "context-length": "n-positions",
    "seq-len": "n-positions", "sequence-length": "n-positions", "max-length": "max-new-tokens",
    "layers": "n-layer", "depth": "n-layer", "heads": "n-head", "width": "n-embd",
    "dim": "n-embd", "d-model": "n-embd", "hidden-size": "n-embd", "lr": "learning-rate",
    "min-lr": "min-learning-rate", "gradient-accumulation-steps": "grad-accumulation-steps",
    "eval-iters": "eval-batches", "eval-every": "eval-interval", "input": "data", "file": "data",
    "text": "data", "length": "max-new-tokens", "num-tokens": "max-new-tokens",
    "checkpoint": "init", "model": "init", "from": "init", "dir": "out",
    "generate": "sample", "write": "sample", "fit": "train", "learn": "train", "version": "info",
}

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_NUMBER = r"[-+]?(?:inf|nan|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_LIST = rf"""[(\[](?:[^()\[\]'"]|{_QUOTED})*[)\]]"""
_WORD = rf"(?:{_NUMBER}|[A-Za-z]+)(?![\w/=]|[.:-]\w)"  # a longer word is a path
_VALUE = rf"{_QUOTED}|{_LIST}|{_WORD}"
_NOT_WITHIN = r"(?<![\w./=-])"  # a longer name, or a path
_NEGATIVE = re.compile(r"^-(?:inf|nan|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)$")


class UsageError(Exception):
    """The command line makes no sense; the message is for whoever typed it."""


class Parser(argparse.ArgumentParser):
    """argparse, saying in one line what is wrong and what was probably meant."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._negative_number_matcher = _NEGATIVE  # argparse's own takes -1e-3 for a flag

    def error(self, message):
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args=None, namespace=None):
        for word in args:
            is_flag = word[:1] == "-" and " " not in word and not _NEGATIVE.match(word)
            name = word.partition("=")[0]
            if word in ("-", "--") or not is_flag and self._subparsers:
                break  # what follows belongs to the command, or is no flag
            if is_flag and name not in self._option_string_actions:
                self.refuse(name)
        return super().parse_known_args(args, namespace)

    def refuse(self, word):
        """Refuse a word that is no argument.

        Raises:
            UsageError: it names the word, and the flag that comes nearest.
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


def nearest(word, names):
    """The one of names (flags or commands) that a word that is none of them stands for, or None."""
    bare = word.lstrip("-").replace("_", "-").lower()
    by_name = {name.lstrip("-"): name for name in names if not name.startswith("--no-")}
    by_name.pop("h", None)
    if not bare or not by_name:
        return None

    def first(is_meant):
        return next((name for name in by_name if is_meant(name)), None)

    found = (first(lambda name: name.replace("-", "") == bare.replace("-", ""))
             or first(lambda name: name == ALSO_CALLED.get(bare))
             or first(lambda name: "".join(part[0] for part in name.split("-")) == bare
                      and len(bare) > 1)
             or first(lambda name: min(len(name), len(bare)) > 2
                      and (name.startswith(bare) or bare.startswith(name))))
    if not found:
        import difflib

        found = next(iter(difflib.get_close_matches(bare, by_name, 1)), None)
    return found and by_name[found]


def text(value):
    """The type of a flag that takes text: bytes that are not UTF-8 are refused."""
    try:
        return true_text(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None


def in_flags(message, parser, words=(), file=None, in_file=()):
    """A message with settings named as they are typed: `--n-embd 100` in place of `n_embd=100`.

    Args:
        message: str.
        parser: the command's Parser.
        words: of the command line; one that the message quotes stays as it is.
        file: path of a file of settings, or None.
        in_file: names of the settings that are from there: they stay, with the file's name.
    """
    words = [word.partition("=")[2] if word.startswith("--") else word for word in words]
    quoted = [word for word in words if _translated(word, parser, None, ()) != word]
    for number, word in enumerate(quoted):  # in the private use area of Unicode, where no text is
        message = message.replace(word, f"\ue000{number}\ue001")
    message = _translated(message, parser, file, in_file)
    return re.sub("\ue000(\\d+)\ue001", lambda found: quoted[int(found[1])], message)


def _translated(message, parser, file, in_file):
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    names = "|".join(sorted(actions, key=len, reverse=True))

    def typed(found):
        name, value = found["name"], found["value"]
        return f"{found[0]} in {file}" if name in in_file else _typed(actions[name], value)

    def bare(found):
        return actions[found[0]].option_strings[0]

    message = re.sub(rf"{_NOT_WITHIN}(?P<name>{names})=(?P<value>{_VALUE})", typed, message)
    message = re.sub(rf"(?<=\()(?:{names})(?=: )", bare, message)  # (force: ...)
    message = re.sub(rf"^(?:{names})(?=: the )", bare, message)  # data: the text is too short
    switches = "|".join(name for name, action in actions.items()
                        if isinstance(action, argparse.BooleanOptionalAction))
    if switches:
        message = re.sub(rf"{_NOT_WITHIN}(?:{switches})(?= \()", bare, message)
    long = "|".join(sorted((name for name in actions if "_" in name), key=len, reverse=True))
    return re.sub(rf"{_NOT_WITHIN}(?:{long})(?![\w=/]|\.\w)", bare, message) if long else message


def _typed(action, value):
    """A flag and its value, as a shell takes them."""
    flag, *others = action.option_strings
    if value[0] not in "'\"([" and value not in ("True", "False", "None"):
        return f"{flag} {value}"  # a number as it was printed, or a word
    try:
        value = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # as of [nan]
        return f"{flag} {value}"
    if value is True:
        return flag
    if value is False and others:
        return others[0]
    if value in (None, (), []) or value is False:
        return f"no {flag}"
    if isinstance(value, (tuple, list)):
        return " ".join([flag, *(shlex.quote(str(part)) for part in value)])
    return f"{flag} {shlex.quote(value)}"
