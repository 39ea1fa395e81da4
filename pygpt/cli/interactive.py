"""Holds a conversation with a model: `pygpt sample --interactive`.

Each entry is a text to continue, or a command that begins with /. Ctrl-C stops the text that is
being written, not the program; Ctrl-D and the end of the input leave it.
"""

import contextlib
import re
import shlex
import shutil
import sys
import textwrap
from dataclasses import fields

from pygpt.cli.colours import DIM, has_colours, painted
from pygpt.cli.echo import without_echo_of_ctrl_c
from pygpt.cli.entries import Entries
from pygpt.cli.flags import Parser, UsageError, add_settings, settings_of
from pygpt.cli.interrupts import Interrupts
from pygpt.cli.messages import complain
from pygpt.cli.streams import true_text
from pygpt.cli.writing import describe, warn
from pygpt.config import SampleConfig
from pygpt.nearest import nearest

SETTINGS = {field.name: field for field in fields(SampleConfig) if field.name != "threads"}
DEFAULT = "default"  # /set NAME default
LEAST_PREFIX = 3     # this many characters of a setting's name are enough: /temp
HELP = (  # what can be typed, and what it does
    ("TEXT", "continue this text; an empty line lets the model begin"),
    ('"""', "begin and end a text of several lines"),
    ("//TEXT", "continue a text that begins with /"),
    ("/again", "continue the same text once more, with another seed"),
    ("/more", "go on with the last answer"),
    ("/keep on|off", "let each text continue all that was said, after a new line, or start anew "
     "(at first: off)"),
    ("/clear", "forget what was said"),
    ("/set", "list the settings"),
    ("/set NAME VALUE", "change a setting; the value `default` resets it"),
    ("/NAME VALUE", "the same; three letters of the name are enough: /temp 0.5, /seed 1"),
    ("/help", "print this list"),
    ("/quit", "leave, as Ctrl-D does; Ctrl-C only stops the text that is being written"),
)


class Conversation:
    """Answers entries until there are no more.

    Args:
        pipeline: the pygpt.Pipeline that answers.
        settings: a dict of fields of SampleConfig, without threads.
        is_verbose: whether tokens/s follow each answer off a terminal as well, on standard error.
    """

    def __init__(self, pipeline, settings, is_verbose=False):
        self.pipeline, self.settings, self._is_verbose = pipeline, settings, is_verbose
        self.interrupts = Interrupts()
        self.entries = Entries(self.interrupts)
        self._answer = None      # the last one, a Continuation
        self._echo = ""          # the text that it was shown to continue
        self._times = 0          # how often it was asked for again
        self._is_keeping = self._is_full = False

    def run(self, prompt=None):
        """Answer a prompt, if it is not None, and then entry after entry."""
        with self.interrupts, without_echo_of_ctrl_c(self.entries.edits_lines):
            self._run(prompt)

    def _run(self, prompt):
        if self.entries.is_terminal:
            self._say("/help lists what can be typed; Ctrl-D leaves")
        if prompt is not None:
            self._guarded(lambda: self.continue_text(prompt))
        while True:
            try:
                entry = self.entries.read()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self.entries.is_terminal:
                    raise
                print()
                self._say("Ctrl-D leaves")
                continue
            if self._guarded(lambda: self.take(entry)) == "quit":
                return

    def _guarded(self, action):
        """Do something; print its error, if any, as a line."""
        try:
            return action()
        except (UsageError, ValueError, ArithmeticError, MemoryError) as error:
            complain(str(error) or "there is not enough memory", status=1)

    def take(self, entry):
        """Answer an entry; return "quit" if it asks to leave."""
        entry = true_text(entry, "the prompt ")
        if "\n" in entry or not entry.startswith("/"):
            return self.continue_text(entry)
        if entry.startswith("//"):
            return self.continue_text(entry[1:])
        name, rest = re.match(r"/([^\s=]*)[\s=]*(.*)", entry).groups()
        if name in COMMANDS:
            return COMMANDS[name](self, rest.strip())
        if setting := _setting(name):
            return self.set(f"{setting} {rest}")
        meant = nearest(name, [*COMMANDS, *SETTINGS]) if name else None
        raise UsageError(f"/{name} is no command"
                         + (f"; did you mean /{meant}?" if meant else "")
                         + " (/help lists them; // begins a text with /)")

    # ------------------------------------------------------------------------------ answers ---

    def continue_text(self, text):
        """Write a continuation of a text, or of all that was said and the text."""
        ids = self.pipeline.read(text)
        if self._is_keeping and self._answer is not None:
            ids = self._said() + self._new_line() + (ids if text else [])
        self._times, self._echo = 0, text
        self._write(ids, text)

    def again(self, rest):
        """Write another continuation of the same text."""
        last = self._last(rest)
        self._times += 1
        self._write(last.prompt_ids, self._echo)

    def more(self, rest):
        """Go on where the last answer ended."""
        self._last(rest)
        self._times, self._echo = 0, ""
        self._write(self._said(), "")

    def _last(self, rest):
        _no_value(rest)
        if self._answer is None:
            raise UsageError("nothing was said yet")
        return self._answer

    def _said(self):
        """Return the ids of what the user has seen, as far as the model read it."""
        return self._answer.prompt_ids + self._answer.ids

    def _new_line(self):
        """Return the ids that come between what was said and a new text."""
        said = self.pipeline.tokenizer.decode_bytes(self._said()[-1:])
        with contextlib.suppress(ValueError):  # the vocabulary may lack it
            return [] if said.endswith(b"\n") else self.pipeline.tokenizer.encode("\n")
        return []

    def _write(self, ids, echo):
        limit = self.pipeline.model.config.n_positions
        if len(ids) > limit and not self._is_full:
            self._is_full = True
            warn(f"the context is full: the model reads the last {limit} tokens of what was said")
        seed = self.settings.get("seed")
        self._answer = answer = self.pipeline.stream(
            ids[-limit:], on_step=self._stop_if_interrupted,
            **self.settings | {"seed": None if seed is None else seed + self._times})
        is_painted = has_colours(sys.stdout)
        lines = [painted(line, DIM) if is_painted else line for line in echo.split("\n")]
        print("\n".join(lines), end="", flush=True)
        for part in answer:
            print(part, end="", flush=True)
        print(flush=True)
        if self.entries.is_terminal:
            self._say(("stopped; " if self.interrupts.noted else "") + describe(answer))
        elif self._is_verbose:
            print(describe(answer), file=sys.stderr)

    def _stop_if_interrupted(self, progress):
        if self.interrupts.noted:
            self._answer.close()

    def _say(self, text):
        """Print a line about the conversation, dim and no wider than the terminal."""
        text = text[: max(1, shutil.get_terminal_size().columns - 1)]
        print(painted(text, DIM) if has_colours(sys.stdout) else text, flush=True)

    # ----------------------------------------------------------------------------- commands ---

    def keep(self, rest):
        """Say whether each text continues all that was said."""
        if rest not in ("", "on", "off"):
            raise UsageError(f"/keep {rest}: on or off")
        self._is_keeping = not self._is_keeping if not rest else rest == "on"
        print("each text continues all that was said" if self._is_keeping
              else "each text starts anew")

    def clear(self, rest):
        """Forget what was said."""
        _no_value(rest)
        self._answer, self._is_full = None, False

    def set(self, rest):
        """List the settings, or change one, whose name and value are the rest of the line."""
        try:
            words = shlex.split(re.sub(r"^\s*([\w-]+)\s*=", r"\1 ", rest))
        except ValueError:  # of shlex
            raise UsageError(f"/set {rest}: a quotation mark is not closed, or a \\ ends the line"
                             ) from None
        if not words:
            config = SampleConfig(**self.settings)
            for name in SETTINGS:
                print(_described(name, getattr(config, name)))
            return
        name, values = _setting(words[0]), words[1:]
        if name is None:
            meant = nearest(words[0], SETTINGS)
            raise UsageError(f"{words[0]} is no setting" + (f"; did you mean {meant}?" if meant
                                                           else " (/set lists them)"))
        if values == [DEFAULT]:
            self.settings = {n: value for n, value in self.settings.items() if n != name}
        elif values:
            changed = self.settings | _parsed(name, values)
            SampleConfig(**changed)  # checks it
            self.settings = changed
        print(_described(name, getattr(SampleConfig(**self.settings), name)))

    def help(self, rest):
        """Print what can be typed."""
        width = shutil.get_terminal_size().columns - 1
        left = max(len(typed) for typed, _ in HELP) + 2
        for typed, text in HELP:
            lines = textwrap.wrap(text, max(20, width - left))
            print(f"{typed:<{left}}" + ("\n" + " " * left).join(lines))

    def quit(self, rest):
        """Leave."""
        _no_value(rest)
        return "quit"


COMMANDS = {name: getattr(Conversation, name) for name in ("again", "more", "keep", "clear", "set",
                                                           "help", "quit")}
COMMANDS |= {name: Conversation.quit for name in ("exit", "bye")} | {"?": Conversation.help}


def _no_value(rest):
    if rest:
        raise UsageError(f"{rest!r} follows a command that takes no value")


def _setting(name):
    """Return the setting that a name or its first letters mean, or None."""
    name = name.replace("-", "_")
    if name in SETTINGS:
        return name
    found = [other for other in SETTINGS if other.startswith(name)] if (
        len(name) >= LEAST_PREFIX) else []
    return found[0] if len(found) == 1 else None


class _ValueParser(Parser):
    """Parses a setting as the command line does; its errors name the setting alone."""

    def error(self, message):
        raise UsageError(message.removeprefix("argument --"))


def _parsed(name, values):
    """Return {name: value}, converted as the flag of that name converts it."""
    parser = _ValueParser(prog="/set", add_help=False)
    add_settings(parser, SampleConfig)
    arguments, rest = parser.parse_known_args(["--" + name.replace("_", "-"), *values])
    if rest:
        raise UsageError(f"{name} takes one value, not {len(values)}")
    return settings_of(arguments, SampleConfig)


def _described(name, value):
    return f"{name} = {'unset' if value is None else value}"
