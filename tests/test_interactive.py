"""Tests `pygpt sample --interactive`: its commands through a pipe, and its keys on a terminal.

A terminal is a pseudo-terminal of which the program's is the controlling one, so that Ctrl-C typed
there sends a signal, as at a real one.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import fields

import pytest
from commands import COMMAND, ENVIRONMENT, pygpt

from pygpt.cli import entries, interactive, main
from pygpt.cli.interrupts import Interrupts
from pygpt.config import GPTConfig, SampleConfig
from pygpt.model import GPT
from pygpt.pipeline import Pipeline
from pygpt.tokenizer import BPETokenizer, CharTokenizer

CHARACTERS = "abcdefghijklmnopqrstuvwxyz .\n"
P = 16
FLAGS = ("--max-new-tokens", 8, "--seed", 1)
DEADLINE = 20.0  # seconds to wait for what a terminal must show


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make a directory with a random model of characters, whose texts a test can compute."""
    top = tmp_path_factory.mktemp("talk")
    tokenizer = CharTokenizer.train(CHARACTERS)
    GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=P, n_embd=8, n_layer=1, n_head=2),
        seed=4).save_pretrained(top / "model")
    tokenizer.save_pretrained(top / "model")
    return top


@pytest.fixture(scope="module")
def continued(place):
    """Return a function that continues a text by eight tokens, as the conversation should."""
    model = GPT.from_pretrained(place / "model")
    tokenizer = CharTokenizer.from_pretrained(place / "model")

    def continued(text, seed=1, count=8, **settings):
        ids = tokenizer.encode(text)[-P:]
        return tokenizer.decode(model.generate(ids, count, seed=seed, **settings))
    return continued


@pytest.fixture
def piped(place, stdin, capsys, monkeypatch):
    """Return a function that sends lines through a pipe and returns (output, error)."""
    def piped(*lines, flags=FLAGS):
        monkeypatch.chdir(place)
        stdin("".join(line + "\n" for line in lines).encode())
        assert main.main(["sample", "model", "--interactive", *map(str, flags)]) == 0
        return tuple(capsys.readouterr())
    return piped


# ----------------------------------------------------------------------- commands, through a pipe

def test_each_line_starts_anew(piped, continued):
    assert piped("abc", "abc", "xyz") == ("".join(
        text + continued(text) + "\n" for text in ("abc", "abc", "xyz")), "")


def test_keep_builds_on_what_was_said(piped, continued):
    def joined(said, text):
        return said + ("" if said.endswith("\n") else "\n") + text

    first = "abc" + continued("abc")
    second = joined(first, "xyz")
    second += (second_answer := continued(second))
    third = joined(second, "no")  # longer than the context, of which the end is read
    other = "pq" + continued("pq")
    told = "each text continues all that was said\n"
    out, err = piped("abc", "/keep on", "xyz", "no", "/keep off", "pq")
    assert out == (f"{first}\n{told}xyz{second_answer}\nno{continued(third)}\n"
                   f"each text starts anew\n{other}\n")
    assert len(third) > P and err == (
        "pygpt: warning: the context is full: the model reads the last 16 tokens of what was said"
        "\n")
    out, _ = piped("abc", "/keep", "/clear", "pq")
    assert out == first + "\n" + told + other + "\n"


def test_keep_adds_no_second_new_line(piped, continued):
    out, _ = piped("/max 0", '"""abc', "", '"""', "/keep on", "/max 8", "xy")
    assert out.endswith("\nxy" + continued("abc\nxy") + "\n")


def test_more_goes_on_and_again_draws_anew(piped, continued):
    first = continued("abc")
    more = continued("abc" + first)
    out, err = piped("abc", "/more", "/again", "abc", "/again", "/again")
    assert err == "" and out == "\n".join([
        "abc" + first, more, continued("abc" + first, seed=2), "abc" + first,
        "abc" + continued("abc", seed=2), "abc" + continued("abc", seed=3), ""])


def test_the_context_holds_what_was_seen(place, stdin, capsys, monkeypatch):
    """An answer that a stop string cut within a token is gone on with from the text that was shown,
    by /more and by /keep."""
    tokenizer = BPETokenizer.train("one time two times\n" * 9, 280, [])
    GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=P, n_embd=8, n_layer=1, n_head=2),
        seed=4).save_pretrained(place / "long")
    tokenizer.save_pretrained(place / "long")
    token = tokenizer.encode(" times")[-1]
    content = tokenizer.decode([token])
    assert len(content) > 2
    seen, read = content[:-1], Pipeline.stream

    def noted(self, ids, **options):
        contexts.append(ids)
        return read(self, ids, **options)

    monkeypatch.setattr(Pipeline, "stream", noted)
    monkeypatch.chdir(place)
    contexts, flags = [], ["--stop-strings", content[-1], "--logit-bias", f"{token}=100"]
    stdin(b"one\n/more\n/keep on\n two\n")
    assert main.main(["sample", "long", "--interactive", "--max-new-tokens", "4", *flags]) == 0
    assert capsys.readouterr().out.startswith(f"one{seen}\n{seen}\n")
    first = tokenizer.encode("one")
    assert contexts[1] == first + tokenizer.encode(seen)
    assert contexts[2] == (first + 2 * tokenizer.encode(seen) + tokenizer.encode("\n")
                           + tokenizer.encode(" two"))


def test_ctrl_c_keeps_what_was_seen_and_acts_while_text_is_held_back(place, capsys):
    """The answer is all the beginning of a stop string, so nothing of it is shown."""
    tokenizer = CharTokenizer.from_pretrained(place / "model")
    pipeline = Pipeline(GPT.from_pretrained(place / "model"), tokenizer)
    a = tokenizer.encode("a")[0]
    conversation = interactive.Conversation(pipeline, {
        "max_new_tokens": 1000, "logit_bias": {a: 100.0}, "stop_strings": ("a" * 900,)})
    stream = pipeline.stream

    def interrupted(ids, on_step, **settings):
        def step(progress):
            if progress.tokens == 5:
                conversation.interrupts.noted.append(True)
            on_step(progress)
        return stream(ids, on_step=step, **settings)

    pipeline.stream = interrupted
    conversation.continue_text("b")
    assert capsys.readouterr().out == "b\n"
    assert conversation._answer.drawn == 5 and conversation._said() == tokenizer.encode("b")


def test_a_prompt_on_the_command_line_comes_first(piped, continued):
    flags = ["--max-new-tokens", 8, "--seed", 1, "--prompt", "abc"]
    first = continued("abc")
    assert piped("/more", flags=flags) == (f"abc{first}\n{continued('abc' + first)}\n", "")


def test_nothing_can_go_on_before_something_was_said(piped):
    out, err = piped("/more", "/again", "a", "/clear", "/more")
    assert err == "pygpt: error: nothing was said yet\n" * 3


def test_settings_change_what_follows(piped, continued):
    out, err = piped("/temp 0", "abc", "/set top_k 1", "/set temperature default", "abc",
                     "/seed 5", "/top-k=default", "/max 3", "abc")
    greedy = "abc" + continued("abc", temperature=0.0)
    assert err == "" and out == (
        f"temperature = 0.0\n{greedy}\ntop_k = 1\ntemperature = 0.8\n{greedy}\nseed = 5\n"
        f"top_k = 50\nmax_new_tokens = 3\nabc{continued('abc', seed=5, count=3)}\n")


def test_settings_are_listed(piped):
    out, err = piped("/set", "/set seed default", "/seed", "/set top-p")
    values = {"max_new_tokens": 8, "seed": 1}
    listed = "".join(f"{f.name} = {values.get(f.name, 'unset' if f.default is None else f.default)}"
                     "\n" for f in fields(SampleConfig) if f.name != "threads")
    assert (out, err) == (listed + "seed = unset\nseed = unset\ntop_p = 0.95\n", "")


@pytest.mark.parametrize("line, message", [
    ("/temp x", "temperature: 'x' is not a number"),
    ("/temp -1", "temperature=-1.0 must be at least 0"),
    ("/temp 1 2", "temperature takes one value, not 2"),
    ("/top 3", "/top is no command; did you mean /top_k? (/help lists them; // begins a text "),
    ("/te 3", "/te is no command"),
    ("/tmeperature 3", "did you mean /temperature?"),
    ("/agian", "did you mean /again?"),
    ("/", "/ is no command (/help"),
    ("/usr/bin/env", "/usr/bin/env is no command"),
    ("/set nonsense 3", "nonsense is no setting"),
    ("/set treads 3", "treads is no setting"),
    ("/set seed 'x", "/set seed 'x: a quotation mark is not closed"),
    ('/set "unclosed', '/set "unclosed: a quotation mark is not closed'),
    ("/stop_strings a\\", "or a \\ ends the line"),
    ("/keep maybe", "/keep maybe: on or off"),
    ("/again now", "'now' follows a command that takes no value"),
    ("/quit now", "'now' follows a command that takes no value"),
])
def test_a_wrong_command_is_a_line_and_changes_nothing(place, capsys, line, message, monkeypatch):
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    conversation = interactive.Conversation(None, {"seed": 1})
    conversation._guarded(lambda: conversation.take(line))
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("pygpt: error: ") and err.count("\n") == 1
    assert message in err and conversation.settings == {"seed": 1}


def test_every_setting_can_be_set_and_none_is_a_command():
    assert set(interactive.SETTINGS) == {f.name for f in fields(SampleConfig)} - {"threads"}
    for name in interactive.SETTINGS:
        assert interactive._setting(name) == interactive._setting(name.replace("_", "-")) == name
        assert name not in interactive.COMMANDS
    for command in interactive.COMMANDS:
        assert interactive._setting(command) is None, f"/{command} is hidden by a setting"


def test_quit_leaves(piped, continued):
    for word in ("/quit", "/exit", "/bye"):
        assert piped("a", word, "b") == ("a" + continued("a") + "\n", "")


def test_help_lists_every_command_within_the_width(place):
    result = pygpt("sample", "model", "--interactive", cwd=place, input="/help\n", COLUMNS="50")
    assert max(map(len, result.stdout.splitlines())) < 50
    for name in set(interactive.COMMANDS) - {"exit", "bye", "?"}:
        assert f"/{name}" in result.stdout


def test_a_text_of_several_lines_and_one_that_begins_with_a_slash(piped, continued):
    out, err = piped('"""', "abc", "/quit", '"""')
    assert out == "abc\n/quit" + continued("abc\nquit") + "\n" and err.endswith(": '/'\n")
    out, err = piped('"""abc', "xyz", '"""', '"""', "", "abc", '"""', '"""abc"""', '"""abc', "x")
    texts = ["abc\nxyz", "\nabc", "abc", "abc\nx"]
    assert err == "" and out == "".join(text + continued(text) + "\n" for text in texts)
    out, err = piped('"""/quit"""')  # within fences it is no command
    assert out == "/quit" + continued("quit") + "\n" and err.endswith(": '/'\n")
    out, err = piped("//a")
    assert "'/'" in err and out == "/a" + continued("a") + "\n"


def test_a_strict_conversation_refuses_and_goes_on(piped, continued):
    flags = ["--max-new-tokens", 8, "--seed", 1, "--strict"]
    out, err = piped("aQ", "a" * (P + 1), "abc", flags=flags)
    assert out == "abc" + continued("abc") + "\n"
    assert [line[:31] for line in err.splitlines()] == [
        "pygpt: error: the character 'Q'", "pygpt: error: the prompt has 17"]


def test_verbose_tells_the_speeds_of_each_answer(piped):
    _, err = piped("abc", "/more", flags=["--max-new-tokens", 8, "--verbose"])
    assert [line.partition(" at ")[0] for line in err.splitlines()] == ["prompt: 3 tokens",
                                                                       "prompt: 11 tokens"]


# ------------------------------------------------------------------------------- on a terminal ---

class Session:
    """A conversation on a terminal of its own."""

    def __init__(self, place, *flags, program=COMMAND, columns=80, **environment):
        self.controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        variables = {name: value for name, value in ENVIRONMENT.items() if name != "COLUMNS"}
        variables |= {"TERM": "xterm", "XDG_STATE_HOME": str(place / "state")} | environment
        self.process = subprocess.Popen(
            [*program, "sample", "model", "--interactive", *map(str, flags)], cwd=place,
            stdin=terminal, stdout=terminal, stderr=terminal, env=variables,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(terminal)
        self._raw = b""
        self.output = ""  # all of it, without the sequences by which readline asks for pastes
        self._seen = 0    # the part that was waited for
        self.wait_for("> ")

    def wait_for(self, text, seconds=DEADLINE):
        """Read until the terminal shows a text after what was waited for; return all up to it."""
        deadline = time.monotonic() + seconds
        while (place := self.output.find(text, self._seen)) < 0:
            ready, _, _ = select.select([self.controller], [], [],
                                        max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.output[-300:]!r}"
            self._raw += os.read(self.controller, 4096)
            self.output = re.sub(r"\x1b\[\?2004[hl]\r?", "", self._raw.decode("utf-8", "replace")
                                 .replace("\r\n", "\n"))
        before, self._seen = self._seen, place + len(text)
        return self.output[before : self._seen]

    def type(self, keys):
        os.write(self.controller, keys if isinstance(keys, bytes) else keys.encode())

    def enter(self, line):
        """Type a line and wait for the next prompt; return what came, without sequences."""
        self.type(line + "\r")
        return plain(self.wait_for("\n> "))

    def leave(self, keys="\x04"):
        """Type Ctrl-D and wait for the end; return (the rest of the output, the exit status)."""
        self.type(keys)
        rest = b""
        with contextlib.suppress(OSError):  # its other end is closed
            while select.select([self.controller], [], [], DEADLINE)[0]:
                rest += os.read(self.controller, 4096)
        os.close(self.controller)
        return plain(rest.decode().replace("\r\n", "\n")), self.process.wait(timeout=DEADLINE)

    def local_modes(self):
        """Return which of the two modes that a conversation changes are on: ECHOCTL and NOFLSH."""
        modes = termios.tcgetattr(self.controller)[3]
        return bool(modes & termios.ECHOCTL), bool(modes & termios.NOFLSH)


def plain(text):
    """Remove the sequences that paint, and those by which readline moves and asks for pastes."""
    return re.sub(r"\x1b\[\?2004[hl]\r?|\x1b\[[?0-9;]*[a-zA-Z]", "", text)


SPEEDS = re.compile(r"prompt: (\d+) tokens? at [\d,]+ tokens/s; answer: \d+ tokens? at [\d,]+ "
                    r"tokens/s\n> $")


@pytest.fixture
def session(place):
    session = Session(place, *FLAGS)
    yield session
    if session.process.poll() is None:
        session.leave()


def test_a_line_is_continued_and_its_speed_told(session, continued):
    told = session.enter("abc")
    assert f"abc\nabc{continued('abc')}\n" in told and SPEEDS.search(told)[1] == "3"
    assert session.leave() == ("\n", 0)  # a clean line, for the shell's prompt


def test_keys_edit_the_line(session, continued):
    told = session.enter("xbd\x7fc\x01\x04a\x05\x1b[D\x1b[Cq")  # Backspace, Ctrl-A, -D, -E, arrows
    assert f"\nabcq{continued('abcq')}\n" in told


def test_the_history_is_kept_between_sessions(session, place, continued):
    session.enter("abc")
    session.enter("/temp 0.5")
    assert session.leave()[1] == 0
    path = place / "state" / "pygpt" / "history"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert [json.loads(line) for line in path.read_text().splitlines()][-2:] == ["abc", "/temp 0.5"]
    later = Session(place, *FLAGS)
    assert "\nabc" + continued("abc") in later.enter("\x1b[A\x1b[A")
    assert later.leave()[1] == 0


@pytest.mark.parametrize("newline", ["\r", "\n"])
def test_a_paste_of_several_lines_is_one_text(session, continued, newline):
    pasted = newline.join(["ab", "cd", ""])
    told = session.enter(f"\x1b[200~{pasted}\x1b[201~")
    assert f"\nab\ncd{continued(chr(10).join(['ab', 'cd']))}\n" in told


def test_fences_hold_a_text_of_several_lines(session, continued):
    session.type('"""ab\r')
    session.wait_for("... ")
    session.type("cd\r")
    session.wait_for("... ")
    assert f"\nab\ncd{continued(chr(10).join(['ab', 'cd']))}\n" in session.enter('"""')
    assert "\nab\ncd" in session.enter("\x1b[A")  # and is one entry of the history
    session.type('"""ab\r')
    session.wait_for("... ")
    session.type("\x03")  # gives the text up
    session.wait_for("Ctrl-D leaves")
    session.wait_for("\n> ")


def test_ctrl_c_stops_the_text_and_not_the_program(place, continued):
    session = Session(place, "--max-new-tokens", 100_000_000, "--seed", 1)
    for _ in range(2):
        session.type("abc\r")
        session.wait_for(continued("abc", count=8))
        session.type("\x03\x03\x03")
        told = plain(session.wait_for("\n> "))
        assert "\nstopped; prompt: 3 tokens" in told and "^C" not in told
        time.sleep(1.0)  # the other two may reach the prompt, which they clear
    for _ in range(5):  # keys just before Ctrl-C must not hide it from readline
        session.type("xyz")
        session.type("\x03")
        session.wait_for("Ctrl-D leaves")
        session.wait_for("\n> ")
    assert "max_new_tokens = 3\n" in session.enter("/max 3")
    assert "\nabc" + continued("abc", count=3) + "\n" in session.enter("abc")
    assert session.leave()[1] == 0


def test_the_terminal_is_left_as_it_was(session):
    assert session.local_modes() == (False, True)
    session.type("/quit\r")
    session.process.wait(timeout=DEADLINE)
    assert session.local_modes() == (True, False)


def test_ctrl_c_interrupts_only_the_wait_for_a_line():
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)

    def press():
        signal.raise_signal(signal.SIGINT)

    def press_twice():
        try:
            press()
        finally:
            press()  # it must not interrupt what the first one leads to

    with Interrupts() as interrupts:
        press()
        assert interrupts.noted == [True]
        assert interrupts.waiting(lambda: "abc") == "abc" and interrupts.noted == []
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                interrupts.waiting(press_twice)
            assert interrupts.noted == [True]
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGALRM)) == handlers


def test_a_ctrl_c_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            interrupts.waiting(lambda: signal.raise_signal(signal.SIGINT))
            assert interrupts.noted == [] and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("environment, is_dim", [
    ({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_what_is_not_text_is_dim_where_colours_are_wanted(place, environment, is_dim, continued):
    session = Session(place, *FLAGS, **environment)
    session.type("abc\r")
    told = session.wait_for("tokens/s\x1b[0m" if is_dim else "tokens/s\n")
    told += session.wait_for("> ")
    assert ("\x1b[2mabc\x1b[0m" + continued("abc").split("\n")[0] in told) == is_dim
    assert ("\x1b[2mprompt: 3" in told) == is_dim and "prompt: 3 tokens" in told
    assert session.leave()[1] == 0


def test_a_narrow_terminal_cuts_the_line_of_the_speed(place):
    session = Session(place, *FLAGS, columns=30, NO_COLOR="1")
    line = session.enter("abc").splitlines()[-2]
    assert line.startswith("prompt: 3 tokens") and len(line) == 29
    assert session.leave()[1] == 0


def test_a_python_without_readline(place, continued):
    code = "import sys; sys.modules['readline'] = None; from pygpt.cli.main import main; "
    session = Session(place, *FLAGS, program=[sys.executable, "-c", code + "sys.exit(main())"])
    assert f"\nabc{continued('abc')}\n" in session.enter("abc")
    assert session.leave()[1] == 0


def test_a_history_that_cannot_be_written_is_no_trouble(place, tmp_path, continued):
    (tmp_path / "file").write_text("")
    for state in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        session = Session(place, *FLAGS, XDG_STATE_HOME=str(state))
        assert f"\nabc{continued('abc')}\n" in session.enter("abc")
        assert session.leave()[1] == 0
    assert (tmp_path / "file").read_text() == ""


def test_a_closed_terminal_ends_it(session):
    session.enter("abc")
    os.close(session.controller)
    assert session.process.wait(timeout=DEADLINE) in (1, -signal.SIGHUP)


# -------------------------------------------------------------------------------- the history ---

def test_where_the_history_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert entries.history_path() == "/state/pygpt/history"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert entries.history_path() == "/home/someone/.local/state/pygpt/history"
    monkeypatch.setenv("HOME", "relative")
    assert entries.history_path() is None
    assert entries.read_history(None) == [] and entries.append_history(None, "x") is None


def test_a_history_is_capped_and_damage_is_left_out(tmp_path):
    path = tmp_path / "below" / "history"
    assert entries.read_history(path) == []
    texts = ["a\nb", "naïve 😀", '"""', "x"]
    for text in texts:
        entries.append_history(path, text)
    assert entries.read_history(path) == texts
    with open(path, "ab") as file:
        file.write(b'\xff\n3\n["a"]\n"a\\u0000"\n' + b"[" * 100_000 + b'\n"last"\n"cut')
    assert entries.read_history(path) == [*texts, "last"]
    path.write_text("".join(f'"{i}"\n' for i in range(2 * entries.MOST_ENTRIES + 1)))
    kept = [str(i) for i in range(entries.MOST_ENTRIES + 1, 2 * entries.MOST_ENTRIES + 1)]
    assert entries.read_history(path) == kept
    assert path.read_text() == "".join(f'"{text}"\n' for text in kept)
