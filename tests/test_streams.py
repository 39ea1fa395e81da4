"""Tests the standard streams: closed, full, left by their reader, and in any encoding."""

import os
import pty
import re
import subprocess
import sys

import pytest
from commands import (COMMAND, ENVIRONMENT, assert_refused, finished, pygpt, python,
                      rest_of_terminal)
from hypothesis import given
from hypothesis import strategies as st

from pygpt.cli import main
from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.cli.streams import true_text
from pygpt.tokenizer import BPETokenizer, ByteTokenizer

TEXT = "the naïve weather of a northern harbour, and the other one\n" * 30
SMALL = ("--n-layer 1 --n-head 1 --n-embd 8 --n-positions 8 --max-steps 2 --eval-batches 1 "
         "--sample-length 3").split()
full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make a directory with a text, and a tokenizer and a random model in each of bytes and bpe."""
    top = tmp_path_factory.mktemp("streams")
    (top / "text").write_text(TEXT, encoding="utf-8")
    for name, tokenizer in (("bytes", ByteTokenizer()),
                            ("bpe", BPETokenizer.train(TEXT, 280, ["<|endoftext|>"]))):
        GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=8, n_layer=1,
                      n_head=1)).save_pretrained(top / name)
        tokenizer.save_pretrained(top / name)
    return top


def shell(place, command, **environment):
    """Run a shell command, in which $P stands for pygpt, to its end."""
    return finished("sh", "-c", command, cwd=place, input=b"", P=" ".join(COMMAND), **environment)


COMMANDS = {
    "--help": 1, "--version": 1, "train --help": 1, "info": 1,
    "sample bytes --max-new-tokens 3": 1,
    "sample bytes --max-new-tokens 3 --prompt x --interactive": 1,
    f"train --data text --out OUT {' '.join(SMALL)}": 0,
    "eval bytes text": 1,
    "export bytes OUT": 0,
    "tokenizer train --data text --out OUT --vocab-size 270": 1,
    "tokenizer encode bytes text": 1,
    "tokenizer decode bytes ids": 1,
    "plot run": 1,
    "smaple": 2, "train --n-layer 0": 2, "sample none": 1,
}


@pytest.fixture(scope="module")
def commands(place):
    """Prepare the files that the commands need; return numbers for their output."""
    (place / "ids").write_text("104 105 10")
    assert pygpt("train", "--data", "text", "--out", "run", *SMALL, cwd=place).returncode == 0
    return iter(range(10 ** 6))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_stream_is_a_line_or_nothing(place, commands, command, closed):
    """Expect status 0 where nothing was to be written, else that of a failed output."""
    words = command.replace("OUT", f"out{next(commands)}")
    result = shell(place, f"$P {words} {closed}")
    status = COMMANDS[command]
    if status == 1 and words != "sample none":
        status = 1 if ">&-" in closed.replace("2>&-", "") else 0
    if "--interactive" in command and "<&-" in closed:
        status = 1
    assert result.returncode == status, (result.stdout, result.stderr)
    if status == 0 or "2>&-" in closed:
        assert result.stderr == b""
    else:
        assert result.stderr.startswith(b"pygpt: error: ") and result.stderr.count(b"\n") == 1
    if status == 1 and words != "sample none" and "2>&-" not in closed:
        assert b"standard input is closed" in result.stderr or (
            b"standard output is closed" in result.stderr)


@pytest.mark.parametrize("command", ["tokenizer encode bytes", "tokenizer decode bytes",
                                     "sample bytes --interactive",
                                     f"train --data - --out X {' '.join(SMALL)}"])
def test_a_closed_input_is_named(place, command):
    result = shell(place, f"$P {command} <&-")
    assert_refused(result, 1, "pygpt: error: standard input is closed\n")


def test_a_file_never_takes_the_place_of_a_closed_stream(place, commands):
    """With 0 to 2 closed, the first open files would get these numbers, and the output."""
    out = f"out{next(commands)}"
    words = f"train --data text --out {out} {' '.join(SMALL)}"
    assert shell(place, f"$P {words} <&- >&- 2>&-", OMP_NUM_THREADS="nonsense").returncode == 0
    assert shell(place, f"$P {words} --resume").returncode == 0
    for name in ("log.jsonl", "train.json"):
        assert (place / out / name).read_bytes().startswith(b"{")


@full
@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_is_full_is_one_line(place, commands, command):
    words = command.replace("OUT", f"out{next(commands)}")
    result = shell(place, f"$P {words} >/dev/full")
    assert result.returncode == COMMANDS[command], result.stderr
    if result.returncode == 0:
        assert result.stderr == b""
    elif result.returncode == 1 and words != "sample none":
        assert_refused(result, 1, "error: standard output: No space left on device\n")
    words = command.replace("OUT", f"out{next(commands)}")
    result = shell(place, f"$P {words} 2>/dev/full >/dev/null")
    assert result.returncode == (COMMANDS[command] if words in ("smaple", "sample none",
                                                                "train --n-layer 0") else 0)


@full
def test_the_output_of_a_benchmark_that_is_full_is_one_line(place):
    assert_refused(shell(place, "$P bench --seconds 0.01 --json >/dev/full"), 1,
                   "error: standard output: No space left on device\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_goes_away_is_no_trouble(place, commands, command):
    words = command.replace("OUT", f"out{next(commands)}")
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run([*COMMAND, *words.split()], cwd=place, stdout=writing, env=ENVIRONMENT,
                            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60)
    os.close(writing)
    assert result.returncode == COMMANDS[command]
    if words not in ("smaple", "sample none", "train --n-layer 0"):
        assert result.stderr == b""


def test_long_output_into_a_pipe_that_closes(place):
    (place / "long").write_text(TEXT * 100, encoding="utf-8")
    result = shell(place, "{ $P tokenizer encode bytes long; echo $? >&2; } | head -c 9")
    assert result.stdout == b"116 104 1" and result.stderr == b"1\n"


def test_main_leaves_the_streams_of_python_as_they_were(capsys):
    before = sys.stdin, sys.stdout, sys.stderr
    for words in (["--version"], ["info"], ["nonsense"]):
        main.main(words)
        assert (sys.stdin, sys.stdout, sys.stderr) == before
    code = ("import sys; from pygpt.cli.main import main; old = sys.stdout; print('before'); "
            "main(['--version']); assert sys.stdout is old; print('after')")
    assert python(code).stdout.split() == ["before", "pygpt", "0.1.0", "after"]


# ------------------------------------------------------------------------------- encodings ---

LOCALES = [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "ascii:strict"},
           {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "utf-16"},
           {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
           {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}]


def converse(place, lines, *flags, directory="bytes", **environment):
    return pygpt("sample", directory, "--interactive", "--max-new-tokens", 2, "--seed", 1, *flags,
                 cwd=place, input=lines, **environment)


@pytest.mark.parametrize("environment", LOCALES)
def test_a_conversation_goes_on_in_any_locale(place, environment):
    result = converse(place, "naïve 😀\nplain\n".encode(), **environment)
    assert result.returncode == 0 and result.stderr == b"", result.stderr
    told = result.stdout.decode(environment.get("PYTHONIOENCODING", "ascii").partition(":")[0]
                                or "ascii", "replace")
    assert "plain" in told and "na" in told
    same = converse(place, "naïve 😀\nplain\n".encode())
    if "PYTHONIOENCODING" not in environment:  # the very ids were continued
        assert result.stdout.count(b"\n") == same.stdout.count(b"\n")


@pytest.mark.parametrize("environment", [LOCALES[0], LOCALES[1], LOCALES[5]])
def test_a_conversation_on_a_terminal(place, environment):
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "sample", "bytes", "--interactive", "--max-new-tokens", "2", "--top-k", "1"],
        cwd=place, stdin=terminal, stdout=terminal, stderr=terminal,
        env=ENVIRONMENT | {"XDG_STATE_HOME": str(place / "state")} | environment)
    os.close(terminal)
    output = b""
    for line in ("naïve\n".encode(), b"a\xff\n", b"plain\n", b"\x04"):
        prompts = output.count(b"> ")
        while output.count(b"> ") == prompts:  # until it asks
            output += os.read(controller, 4096)
        os.write(controller, line)
    output += rest_of_terminal(controller)
    assert process.wait(timeout=60) == 0
    assert output.count(b"> ") == 4 and output.count(b"plain") == 2  # echoed, and continued
    assert output.count(b"pygpt: error: ") == 1
    assert b"pygpt: error: the prompt is not UTF-8 text: byte 0xff at offset 1\r\n" in output


def test_the_ends_of_lines(place):
    expected = converse(place, b"one two\n\nthree\n").stdout
    assert converse(place, b"one two\r\n\r\nthree\r\n").stdout == expected
    assert converse(place, b"one two\r\n\r\nthree").stdout == expected
    assert converse(place, b"\xef\xbb\xbfone two\n\nthree").stdout == expected
    # one only, and only at the end
    assert converse(place, b"a\rb\r\r\n").stdout.startswith(b"a\rb\r")


@pytest.mark.parametrize("environment", LOCALES[:2] + LOCALES[-2:])
def test_bytes_that_are_not_utf8_end_no_conversation(place, environment):
    result = converse(place, b"a\xff\nplain\n\xc3\nagain\n\x00\n", **environment)
    assert result.returncode == 0
    assert b"plain" in result.stdout and b"again" in result.stdout
    assert result.stderr.splitlines() == [
        b"pygpt: error: the prompt is not UTF-8 text: byte 0xff at offset 1",
        b"pygpt: error: the prompt is not UTF-8 text: byte 0xc3 at offset 0"]


@pytest.mark.parametrize("environment", LOCALES[:2] + LOCALES[-2:])
@pytest.mark.parametrize("command, flag", [
    (("sample", "bytes"), "--prompt"), (("train",), "--sample-prompts"),
    (("tokenizer", "train", "--out", "X"), "--special-token")])
def test_a_text_on_the_command_line_that_is_not_utf8_is_refused(place, command, flag, environment):
    before = sorted(os.listdir(place))
    result = pygpt(*command, flag, b"ab\xff", cwd=place, **environment)
    assert_refused(result, 2, f"{flag}: is not UTF-8 text: byte 0xff at offset 2")
    assert result.stdout == "" and sorted(os.listdir(place)) == before


@pytest.mark.parametrize("environment", LOCALES[:1] + LOCALES[-2:])
def test_a_prompt_means_the_same_in_any_locale(place, environment):
    flags = ["--max-new-tokens", 9, "--seed", 3, "--top-k", 0, "--temperature", 2]
    expected = pygpt("sample", "bytes", "--prompt", "naïve", *flags, cwd=place, input=b"")
    result = pygpt("sample", "bytes", "--prompt", "naïve".encode(), *flags, cwd=place, input=b"",
                   **environment)
    assert result.returncode == 0
    told = re.sub(r"[^ -~]|\?", "", result.stdout.decode("utf-8", "replace"))
    assert told == re.sub(r"[^ -~]|\?", "", expected.stdout.decode("utf-8", "replace"))
    assert told.startswith("nave")


def test_an_empty_prompt_is_none(place):
    flags = ["--max-new-tokens", 9, "--seed", 3]
    none, empty = (pygpt("sample", "bytes", *prompt, *flags, cwd=place, input=b"")
                   for prompt in ([], ["--prompt", ""]))
    assert none.returncode == 0 and none.stdout == empty.stdout != b""


@given(st.binary(max_size=9))
def test_the_bytes_of_a_text_come_back_or_are_refused(data):
    text = data.decode("ascii", "surrogateescape")
    try:
        expected = data.decode()
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="is not UTF-8 text: byte 0x.. at offset [0-9]$"):
            true_text(text)
    else:
        assert true_text(text) == expected


def test_half_a_character_is_no_text():
    assert true_text("naïve 😀") == "naïve 😀"
    with pytest.raises(ValueError, match=r"holds '\\ud800', which is half a character"):
        true_text("a\ud800")


# -------------------------------------------------------------------------- special tokens ---

def test_special_tokens_in_a_prompt_are_tokens(place):
    def sample(*flags, input=b""):
        result = pygpt("sample", "bpe", "--max-new-tokens", 4, "--seed", 1, *flags, cwd=place,
                       input=input)
        assert result.returncode == 0 and result.stderr == b"", result.stderr
        return result.stdout

    model = GPT.from_pretrained(place / "bpe")
    tokenizer = BPETokenizer.from_pretrained(place / "bpe")
    ids = model.generate([279], 4, seed=1, stop=279, vocab_size=280)
    assert tokenizer.end_of_text == 279
    expected = b"<|endoftext|>" + tokenizer.decode(ids).encode() + b"\n"
    assert sample("--prompt", "<|endoftext|>") == expected
    assert sample("--interactive", input=b"<|endoftext|>\n") == expected
    assert sample("--prompt", "the<|endoftext|>a").startswith(b"the<|endoftext|>a")


def test_special_tokens_in_the_prompts_of_a_run_are_tokens(place, commands):
    out = f"out{next(commands)}"
    result = pygpt("train", "--data", "text", "--out", out, *SMALL, "--tokenizer", "bpe",
                   "--sample-prompts", "<|endoftext|>", "a<|endoftext|>", cwd=place)
    assert result.returncode == 0 and "<|endoftext|>" in result.stdout, result.stderr


def test_a_text_to_train_on_may_hold_any_special_token_of_its_tokenizer(place, commands, tmp_path):
    BPETokenizer.train(TEXT, 270, ["<s>"]).save_pretrained(tmp_path / "tok")
    (tmp_path / "text").write_text("<s>the other<s>" * 40)
    result = pygpt("train", "--data", tmp_path / "text", "--out", tmp_path / "out", *SMALL,
                   "--tokenizer", tmp_path / "tok")
    assert result.returncode == 0, result.stderr


def test_what_is_said_of_a_special_token_speaks_of_flags(place):
    result = pygpt("tokenizer", "encode", "bpe", cwd=place, input=b"the <|endoftext|>")
    assert_refused(result, 1, "standard input: the text holds the special token '<|endoftext|>' at "
                   "position 4; --allow-special reads it as that token")
    assert b"allowed_special" not in result.stderr
    result = pygpt("tokenizer", "encode", "bpe", "--allow-special", cwd=place,
                   input=b"<|endoftext|>")
    assert result.stdout == b"279\n"


# --------------------------------------------------------------------------- the end of a text ---

@pytest.mark.parametrize("whose", ["model", "tokenizer", "both"])
def test_sampling_stops_at_the_end_of_the_model_and_of_the_tokenizer(place, whose, tmp_path):
    """Draw ids without a stop, then make one of them the end."""
    model = GPT.from_pretrained(place / "bpe")
    settings = dict(seed=4, temperature=3.0, top_k=0, top_p=1.0, vocab_size=280)
    whole = model.generate([1], 60, stop=(), **settings)
    tokenizer = BPETokenizer.from_pretrained(place / "bpe")
    if whose != "tokenizer":
        model.end_of_text = whole[5]
    seed, ids = settings["seed"], model.generate([1], 60, stop={whole[5], 279}, **settings)
    if whose != "model":  # a seed with which the tokenizer's token is drawn
        ends = {279} if whose == "tokenizer" else {whole[5], 279}
        for seed in range(200):
            drawn = model.generate([1], 60, stop=(), **settings | {"seed": seed})
            if ends <= set(drawn):
                break
        ids = model.generate([1], 60, stop=ends, **settings | {"seed": seed})
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    result = pygpt("sample", tmp_path, "--prompt", tokenizer.decode([1]), "--max-new-tokens", 60,
                   "--seed", seed, "--temperature", 3, "--top-k", 0, "--top-p", 1, input=b"")
    assert result.returncode == 0, result.stderr
    assert result.stdout == (tokenizer.decode([1]) + tokenizer.decode(ids) + "\n").encode()
    assert len(ids) < 60
