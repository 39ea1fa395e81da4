"""Prints an error as one line on standard error, and names the flags that the user typed.

Everywhere else a message names a setting as Python writes it, `n_embd=100`. in_flags() translates
each message on its way to the terminal, so that the user reads `--n-embd 100`.
"""

import argparse
import ast
import contextlib
import re
import shlex
import sys

from pygpt.cli.streams import flush_output

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_NUMBER = r"[-+]?(?:inf|nan|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_LIST = rf"""[(\[](?:[^()\[\]'"]|{_QUOTED})*[)\]]"""
_WORD = rf"(?:{_NUMBER}|[A-Za-z]+)(?![\w/=]|[.:-]\w)"  # a longer word is a path
_VALUE = rf"{_QUOTED}|{_LIST}|{_WORD}"
_NOT_WITHIN = r"(?<![\w./=-])"  # a longer name, or a path


def complain(message, status):
    """Print one line on standard error; return the exit status."""
    flush_quietly()
    print("pygpt: error:", " ".join(str(message).split()), file=sys.stderr)
    return status


def flush_quietly():
    """Write the buffered part of standard output, and ignore a failure."""
    with contextlib.suppress(OSError):
        flush_output()


def as_typed(error, arguments):
    """Return the message of an error, or a text, with each setting named as it was typed.

    Args:
        error: an exception or a str.
        arguments: the result of main.parse, or None if the command line could not be parsed.
    """
    message = str(error)
    if arguments is None:
        return message
    from pygpt.checkpoint.safetensors import CheckpointError

    file = getattr(arguments, "config", None)
    is_of_file = file is not None and message.startswith(f"{file}: ")
    if is_of_file or isinstance(error, CheckpointError):
        return message  # the message speaks of settings that stand in a file
    return in_flags(message, arguments.command, arguments.words, file, arguments.in_file)


def in_flags(message, parser, words=(), file=None, in_file=()):
    """Replace each setting of a message by the flag: `n_embd=100` becomes `--n-embd 100`.

    Args:
        message: str.
        parser: the command's Parser.
        words: the words of the command line. A word that the message quotes is not translated.
        file: path of a file of settings, or None.
        in_file: the names of the settings that came from that file. They are not translated, and
            the file's name follows them.
    """
    words = [word.partition("=")[2] if word.startswith("--") else word for word in words]
    quoted = [word for word in words if _translated(word, parser, None, ()) != word]
    for number, word in enumerate(quoted):  # marks it by characters that no text has
        message = message.replace(word, f"\ue000{number}\ue001")
    message = _translated(message, parser, file, in_file)
    return re.sub("\ue000(\\d+)\ue001", lambda found: quoted[int(found[1])], message)


def _translated(message, parser, file, in_file):
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    names = "|".join(sorted(actions, key=len, reverse=True))
    switches = "|".join(name for name, action in actions.items()
                        if isinstance(action, argparse.BooleanOptionalAction))
    long = "|".join(name for name in names.split("|") if "_" in name)

    def typed(found):
        name, value = found["name"], found["value"]
        return f"{found[0]} in {file}" if name in in_file else _typed(actions[name], value)

    message = re.sub(rf"{_NOT_WITHIN}(?P<name>{names})=(?P<value>{_VALUE})", typed, message)
    for before, meant, after in (
            (r"^", names, r"(?=: (?:the|\d))"),            # data: the text is too short
            (_NOT_WITHIN, switches, r"(?= \()"),           # recompute (47 MB)
            (_NOT_WITHIN, long, r"(?![\w=/]|\.\w)")):
        if meant:
            message = re.sub(f"{before}(?:{meant}){after}",
                             lambda found: actions[found[0]].option_strings[0], message)
    return message


def _typed(action, value):
    """Return a flag and its value as a user types them in a shell."""
    flag, *others = action.option_strings
    words = {"True": flag, "False": others[0] if others else f"no {flag}", "None": f"no {flag}"}
    if value in words:
        return words[value]
    if value[0] not in "'\"([":
        return f"{flag} {value}"  # a number keeps its printed form; so does a word
    try:
        value = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # such as [nan]
        return f"{flag} {value}"
    parts = value if isinstance(value, (tuple, list)) else [value]
    return shlex.join([flag, *map(str, parts)]) if parts else f"no {flag}"
