"""Tests `pygpt eval`: its numbers, what it reads and refuses, its progress and its colours."""

import json
import math
import os
import pty
import subprocess

import pytest
from commands import COMMAND, ENVIRONMENT, pygpt, python, rest_of_terminal, shell

from pygpt.cli import eval as command
from pygpt.cli import main, surprise
from pygpt.cli.colours import visible
from pygpt.config import GPTConfig
from pygpt.evaluation import token_losses
from pygpt.model import GPT
from pygpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer

TEXT = "one two three, two one.\n" * 5
LN2 = math.log(2)


def saved(directory, tokenizer, **changes):
    model = GPT(GPTConfig(**dict(vocab_size=tokenizer.vocab_size, n_positions=8, n_embd=8,
                                 n_layer=1, n_head=2) | changes), seed=5)
    for _, parameter in model.named_parameters():
        values = parameter.flat()
        for i, value in enumerate(values.tolist()):
            values[i] = 20 * value if len(parameter.shape) == 2 else value  # tells tokens apart
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model.eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    top = tmp_path_factory.mktemp("eval")
    saved(top / "chars", CharTokenizer.train(TEXT))
    saved(top / "bytes", ByteTokenizer())
    (top / "a.txt").write_text(TEXT)
    (top / "b.txt").write_text("two, two")
    return top


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def told(here, capsys):
    """Return a function that runs eval to its end, expects success and returns its output."""
    def told(*words):
        assert main.main(["eval", *map(str, words)]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        return output.out
    return told


@pytest.fixture
def refused(here, capsys):
    """Return a function that runs eval, expects a status, and returns the line of its error."""
    def refused(status, *words):
        assert main.main(["eval", *map(str, words)]) == status
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1
        return output.err.removeprefix("pygpt: error: ")
    return refused


def test_the_numbers_are_those_of_the_losses(told, here):
    tokenizer = CharTokenizer.from_pretrained(here / "chars")
    losses = token_losses(GPT.from_pretrained(here / "chars"), tokenizer.encode(TEXT))
    mean = math.fsum(losses) / (len(TEXT) - 1)
    assert told("chars", "a.txt").splitlines() == [
        "text       tokens  nats/token  bits/token   bits/byte  perplexity",
        f"a.txt  {len(TEXT) - 1:10,}  {mean:10.4f}  {mean / LN2:10.4f}  {mean / LN2:10.4f}  "
        f"{math.exp(mean):10,.3f}"]


def test_json_has_every_number(told, here):
    document = json.loads(told("chars", "a.txt", "b.txt", "--json", "--stride", 3))
    tokenizer, model = CharTokenizer.from_pretrained(here / "chars"), GPT.from_pretrained(
        here / "chars")
    losses = [token_losses(model, tokenizer.encode(text), 3) for text in (TEXT, "two, two")]

    def row(nats, scored, texts):
        mean = nats / scored
        return pytest.approx({
            "tokens": scored + texts, "scored_tokens": scored, "scored_bytes": scored,
            "nats_per_token": mean, "bits_per_token": mean / LN2, "bits_per_byte": mean / LN2,
            "perplexity": math.exp(mean)}, rel=1e-12)

    sums, counts = [math.fsum(some) for some in losses], [len(some) for some in losses]
    assert [text.pop("name") for text in document["texts"]] == ["a.txt", "b.txt"]
    assert document.pop("texts") == [row(nats, n, 1) for nats, n in zip(sums, counts)]
    assert document.pop("total") == row(sum(sums), sum(counts), 2)
    assert document == {"model": "chars", "n_positions": 8, "stride": 3}


def test_several_texts_have_a_row_for_all(told):
    lines = told("chars", "a.txt", "b.txt").splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["text", "tokens"], ["a.txt", "119"], ["b.txt", "7"], ["all", "126"]]
    assert len({len(line) for line in lines}) == 1


def test_a_byte_of_a_token_counts_once(here, told):
    """A tokenizer with long tokens has fewer bits to a byte than to a token: exactly by the ratio
    of the bytes and tokens that are scored."""
    tokenizer = BPETokenizer.train("naïve naïve text " * 30, 290, ["<|endoftext|>"])
    saved(here / "bpe", tokenizer)
    (here / "c.txt").write_text("<|endoftext|>naïve text", encoding="utf-8")
    ids = tokenizer.encode("<|endoftext|>naïve text", "all")
    row = json.loads(told("bpe", "c.txt", "--json"))["total"]
    assert row["tokens"] == len(ids) and ids[0] == tokenizer.end_of_text
    assert row["scored_bytes"] == len("naïve text".encode())
    assert row["bits_per_byte"] * row["scored_bytes"] == pytest.approx(
        row["bits_per_token"] * row["scored_tokens"])


def test_a_number_that_is_too_large_is_none():
    row = command._row("x", 2, 1, 0, 1000.0)
    assert row["perplexity"] is None and row["bits_per_byte"] is None
    assert command.table([row]).splitlines()[1].split() == ["x", "1", "1000.0000", "1442.6950",
                                                            "-", "-"]


# ------------------------------------------------------------------------------------- texts ---

def test_texts_come_from_pipes_directories_and_standard_input(place):
    expected = pygpt("eval", "chars", "b.txt", cwd=place).stdout.split()[-4:]
    (place / "many").mkdir()
    (place / "many" / "b.txt").write_text("two, two")
    (place / "many" / "picture").write_bytes(b"\x00\x01")
    for words in ("- < b.txt", "/dev/stdin < b.txt", "<(cat b.txt)", "'b.*'"):
        result = shell(f"pygpt eval chars {words}", place)
        assert result.returncode == 0 and result.stderr == b"", result.stderr
        assert result.stdout.decode().split()[-4:] == expected
    result = shell("pygpt eval chars many", place)
    assert result.stdout.decode().split()[-4:] == expected
    assert result.stderr == (b"pygpt: warning: 1 file is skipped: many/picture (is not text: byte "
                             b"0x00 at offset 0)\n")


@pytest.mark.parametrize("data, message", [
    (b"", "x.txt: is empty"),
    (b"\xef\xbb\xbf", "x.txt: is empty"),
    (b"o", "x.txt: has one token only, and the first of a text has nothing before it"),
    (b"one two! Two", "x.txt: the character '!' (U+0021) at position 7 is not in the vocabulary"),
    (b"one\xe9", "x.txt: is not UTF-8 text: byte 0xe9 at offset 3"),
    (b"\0\0", "x.txt: is not text: byte 0x00 at offset 0"),
])
def test_a_text_that_cannot_be_scored_is_one_line(here, refused, data, message):
    (here / "x.txt").write_bytes(data)
    assert refused(1, "chars", "a.txt", "x.txt").startswith(message)


def test_what_makes_no_sense_is_refused(here, refused):
    assert refused(1, "chars", "none.txt") == "none.txt: No such file or directory\n"
    assert refused(1, "none", "a.txt").startswith("none: no such directory")
    assert refused(2, "chars", "a.txt", "--stride", 0) == (
        "--stride 0 must be in 1..8, the context of this model\n")
    assert "--stride 9 must be in 1..8" in refused(2, "chars", "a.txt", "--stride", 9)
    assert "--threads 999 must be in [0, 256]" in refused(2, "chars", "a.txt", "--threads", 999)
    assert "FILE" in refused(2, "chars")
    assert "not allowed with" in refused(2, "chars", "a.txt", "--json", "--show")
    (here / "ids.bin").write_bytes(bytes(8))
    assert refused(1, "chars", "ids.bin") == "ids.bin: holds tokens, and eval reads text\n"
    assert "the command line names standard input more than once" in refused(2, "chars", "-", "-")
    saved(here / "small", CharTokenizer.train(TEXT), vocab_size=20)
    ByteTokenizer().save_pretrained(here / "small")
    assert "the tokenizer has 256 tokens, the model vocab_size=20" in refused(1, "small", "a.txt")


def test_an_interrupt_ends_it_quietly(place):
    code = ("import sys; from pygpt.cli import main; import pygpt.evaluation as e\n"
            "def stop(*_): raise KeyboardInterrupt\n"
            "e._batch_losses = stop; sys.exit(main.main(['eval', 'chars', 'a.txt']))")
    result = python(code, cwd=place)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


# ---------------------------------------------------------------------------------- progress ---

@pytest.fixture
def hurried(monkeypatch):
    """Let each batch be a window, and each be told."""
    monkeypatch.setattr("pygpt.evaluation.BATCH_TOKENS", 1)
    monkeypatch.setattr("pygpt.progress.PLAIN_SECONDS", 0.0)


def test_progress_goes_to_standard_error(here, hurried, capsys):
    assert main.main(["eval", "chars", "a.txt", "b.txt", "b.txt", "--stride", "8"]) == 0
    output = capsys.readouterr()
    lines = output.err.splitlines()
    done = [int(line.split()[0]) for line in lines]
    assert all(f" of {len(TEXT) + 13} tokens, " in line and line.endswith(" left")
               for line in lines)
    assert done == sorted(done) and done[0] == 8 and done[-1] == len(TEXT) + 13
    assert output.out.startswith("text ")


def on_a_terminal(place, *words, **environment):
    """Run a command on a terminal to its end; return what the terminal got."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen([*COMMAND, *map(str, words)], cwd=place, stdin=terminal,
                               stdout=terminal, stderr=terminal,
                               env=ENVIRONMENT | {"TERM": "xterm"} | environment)
    os.close(terminal)
    output = rest_of_terminal(controller)
    assert process.wait(timeout=60) == 0
    return output.decode().replace("\r\n", "\n")


def test_progress_on_a_terminal_leaves_nothing(place):
    (place / "long.txt").write_text(TEXT * 2000)
    output = on_a_terminal(place, "eval", "chars", "long.txt", "--stride", 1, COLUMNS="40")
    drawn = output.split("\r")
    assert len(drawn) > 3 and drawn[0] == "" and drawn[-1].startswith("text ")
    assert all(len(line) <= 39 and " of 239,999 tokens, " in line for line in drawn[1:-2])
    assert drawn[-2].isspace() and len(drawn[-2]) >= len(drawn[-3].rstrip())


# ----------------------------------------------------------------------------------- colours ---

def test_without_colours_each_token_has_a_line(told, here):
    tokenizer = CharTokenizer.from_pretrained(here / "chars")
    losses = token_losses(GPT.from_pretrained(here / "chars"), tokenizer.encode("two, two"))
    lines = told("chars", "b.txt", "--show").splitlines()
    assert lines[0].startswith("-- b.txt ---")
    assert lines[1:9] == ["       -  't'", *(f"{nats / LN2:8.3f}  {character!r}"
                                            for nats, character in zip(losses, "wo, two"))]
    assert lines[9] == "" and lines[10].startswith("text ")


def test_on_a_terminal_the_text_is_coloured(place):
    output = on_a_terminal(place, "eval", "chars", "a.txt", "--show")
    shown = output.partition("--\n")[2].partition("\n\ntext ")[0]
    legend, _, text = shown.partition("\n")
    plain = text
    for style in (*(style for _, style in surprise.LEVELS), "\033[2m", "\033[0m"):
        plain = plain.replace(style, "")
    assert plain.replace(" \n", "\n").rstrip() == TEXT.rstrip()
    assert all(style in legend for _, style in surprise.LEVELS)
    assert sum(style in text for _, style in surprise.LEVELS) >= 2


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_turned_off(place, environment):
    output = on_a_terminal(place, "eval", "chars", "b.txt", "--show", **environment)
    assert "\033[" not in output.replace("\r\033[K", "") and "       -  't'\n" in output


def test_an_empty_no_color_says_nothing(place):
    assert "\033[2m" in on_a_terminal(place, "eval", "chars", "b.txt", "--show", NO_COLOR="")


class Terminal:
    """Stands for a terminal with colours, and keeps the text."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text


def test_the_colour_is_that_of_the_surprise(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    styles = {bits: style for bits, style in surprise.LEVELS}
    terminal = Terminal()
    surprise.show([("a", None), ("b", 0.99), ("c", 1.0), ("d", 3.9), ("e", 4.0), ("f\n", 99.0),
                   ("\033", 0.0)], terminal)
    end = "\033[0m"
    assert terminal.text.partition("\n")[2] == (
        f"\033[2ma{end}b{styles[1]}c{end}{styles[2]}d{end}{styles[4]}e{end}"
        f"{styles[8]}f {end}\n\u241b\n")


def test_a_character_of_several_tokens_has_their_sum():
    tokenizer = ByteTokenizer()
    ids = list("aï".encode()) + [0xC3]
    nats = [LN2, 2 * LN2, 4 * LN2]
    assert list(surprise.pieces(tokenizer, ids, nats)) == [
        ("a", None), ("ï", pytest.approx(3.0)), ("\ufffd", pytest.approx(4.0))]


def test_control_characters_are_shown_as_pictures():
    assert visible("a\tb\nc\r\x1b[0m\x7f\x9b") == "a\tb\nc\u240d\u241b[0m\u2421\ufffd"
