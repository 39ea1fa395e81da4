"""Tests `pygpt sample` without a conversation: prompts, what is printed, and what is refused."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import termios

import pytest
from commands import COMMAND, ENVIRONMENT, pygpt, shell

from pygpt.backend import kernels
from pygpt.cli import main
from pygpt.config import GPTConfig
from pygpt.model import GPT
from pygpt.pipeline import Pipeline
from pygpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer

TEXT = "0123456789 times is.\n"
P = 16


def saved(directory, tokenizer):
    GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=P, n_embd=8, n_layer=1,
                  n_head=2), seed=2).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make a directory with random models of characters, of bytes and of BPE tokens."""
    top = tmp_path_factory.mktemp("sample")
    saved(top / "chars", CharTokenizer.train(TEXT))
    saved(top / "bytes", ByteTokenizer())
    saved(top / "bpe", BPETokenizer.train(TEXT * 9, 270, ["<|endoftext|>"]))
    return top


@pytest.fixture
def sample(place, monkeypatch, capsys):
    """Return a function that runs sample in place, expects a status, and returns its (output,
    error)."""
    monkeypatch.chdir(place)

    def sample(*words, status=0):
        assert main.main(["sample", *map(str, words)]) == status
        return tuple(capsys.readouterr())
    return sample


# ---------------------------------------------------------------------------------- the text ---

def test_it_continues_the_prompt(sample):
    out, err = sample("chars", "--prompt", "3 times 4", "--max-new-tokens", 40)
    assert err == "" and out.startswith("3 times 4") and len(out) == 9 + 40 + 1


def test_a_seed_repeats_it(sample):
    def text(*flags):
        return sample("chars", "--max-new-tokens", 60, *flags)[0]

    assert text("--seed", 5) == text("--seed", 5, "--threads", 1)
    assert text("--seed", 5) != text("--seed", 6)
    assert text("--temperature", 0) == text("--temperature", 0, "--seed", 9)
    assert text("--top-k", 1) == text("--temperature", 0)
    assert len({text() for _ in range(3)}) == 3  # without one, each differs


def test_it_takes_threads(sample):
    with kernels.use_threads(kernels.get_num_threads()):
        for threads in (1, 2):
            sample("chars", "--threads", threads, "--max-new-tokens", 1)
            assert kernels.get_num_threads() == threads


def test_it_ends_quietly(place):
    endless = [*COMMAND, "sample", "chars", "--max-new-tokens", "100000000"]
    for stop in ("interrupt", "close"):
        process = subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env=ENVIRONMENT, cwd=place)
        process.stdout.read(50)
        if stop == "interrupt":
            process.send_signal(signal.SIGINT)
            process.stdout.read()
        process.stdout.close()
        process.wait(timeout=60)
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.returncode == (130 if stop == "interrupt" else 1)


def test_only_ids_that_the_tokenizer_has_are_drawn(sample, place):
    """The model has five times as many tokens, as padded vocabularies do."""
    tokenizer = CharTokenizer.train(TEXT)
    GPT(GPTConfig(vocab_size=5 * tokenizer.vocab_size, n_positions=P, n_embd=8, n_layer=1,
                  n_head=2)).save_pretrained(place / "padded")
    tokenizer.save_pretrained(place / "padded")
    out, err = sample("padded", "--temperature", 9, "--top-k", 0, "--json")
    assert err == "" and max(json.loads(out)["tokens"]) < tokenizer.vocab_size


def test_only_whole_characters_are_written(place, capsys, monkeypatch):
    """Each write of the answer decodes by itself: no character is cut between two of them."""
    import sys

    class Written:
        parts = []

        def write(self, text):
            self.parts.append(text.encode())  # half a character would be a lone surrogate

        def flush(self):
            pass

        def isatty(self):
            return False

    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "stdout", Written())
    words = ["--max-new-tokens", "200", "--seed", "1", "--top-k", "0", "--top-p", "1"]
    assert main.main(["sample", "bytes", *words]) == 0
    assert len(Written.parts) > 50
    model, tokenizer = GPT.from_pretrained("bytes"), ByteTokenizer()
    ids = model.generate(tokenizer.encode("\n"), 200, seed=1, top_k=0, top_p=1.0)
    assert b"".join(Written.parts).decode() == tokenizer.decode(ids) + "\n"


# ----------------------------------------------------------------------------------- prompts ---

def test_a_prompt_comes_from_a_flag_a_file_or_standard_input(place):
    (place / "prompt.txt").write_text("3 times")
    flags = "--seed 1 --max-new-tokens 9"
    expected = shell(f"pygpt sample chars --prompt '3 times' {flags}", place).stdout
    assert expected.startswith(b"3 times") and len(expected) == 7 + 9 + 1
    for words in ("--prompt-file prompt.txt", "- < prompt.txt", "--strict - < prompt.txt",
                  "--prompt-file - < prompt.txt", "--prompt-file <(cat prompt.txt)"):
        result = shell(f"pygpt sample chars {words} {flags}", place)
        assert (result.stdout, result.stderr) == (expected, b"")


@pytest.mark.parametrize("data, prompt", [
    (b"3\n", "3"), (b"3\n\n", "3\n"), (b"\n3", "\n3"), (b"\xef\xbb\xbf3", "3"), (b"\n", ""),
    (b"", ""), ("3 tïmes".encode(), "3 tïmes"), (b"3\r\n", "3"), (b"3\r\r\n", "3\r")])
def test_one_newline_at_the_end_of_a_file_is_left_out(sample, place, data, prompt):
    (place / "p").write_bytes(data)
    out, _ = sample("bytes", "--prompt-file", "p", "--json", "--max-new-tokens", 1)
    assert json.loads(out)["prompt"] == prompt


def test_characters_that_the_vocabulary_lacks_are_left_out(sample):
    flags = ["--seed", 3, "--max-new-tokens", 9]
    out, err = sample("chars", "--prompt", "QéQ3 tim\tes", *flags)
    assert err == ("pygpt: warning: characters that the vocabulary lacks are left out of the "
                   "prompt: 'Q', 'é', '\\t'\n")
    assert out == "QéQ3 tim\tes" + sample("chars", "--prompt", "3 times", *flags)[0][7:]
    out, err = sample("chars", "--prompt", "ABCDEFG", *flags)
    assert err.endswith(": 'A', 'B', 'C', 'D', 'E' and 2 more\n") and err.count("\n") == 1
    assert out == "ABCDEFG" + sample("chars", *flags)[0]  # nothing is left: as without a prompt


def test_of_a_long_prompt_the_end_is_kept(sample):
    flags = ["--seed", 3, "--max-new-tokens", 1]
    long = "0123456789" * 4
    out, err = sample("chars", "--prompt", long, *flags)
    assert err == f"pygpt: warning: the prompt has 40 tokens, and the model reads the last {P}\n"
    assert out == long + sample("chars", "--prompt", long[-P:], *flags)[0][P:]
    assert sample("chars", "--prompt", "1" * P, *flags)[1] == ""
    assert sample("chars", "--prompt", "Q" + "1" * (P + 1), *flags)[1].count("\n") == 2


@pytest.mark.parametrize("prompt, part", [
    ("3 times Q", "the character 'Q' (U+0051) at position 8 is not in the vocabulary of"),
    ("1" * (P + 1), f"the prompt has {P + 1} tokens; this model takes 1..n_positions={P}"),
])
def test_strict_refuses_both(sample, prompt, part):
    out, err = sample("chars", "--strict", "--prompt", prompt, status=1)
    assert out == "" and err.startswith("pygpt: error: ") and part in err and err.count("\n") == 1
    assert sample("chars", "--strict", "--prompt", "3 times", "--max-new-tokens", 1)[1] == ""


def test_other_errors_of_a_prompt_stay_errors(place):
    class Broken(ByteTokenizer):
        def encode(self, text, *options):
            if len(text) > 1:
                raise ValueError("it is broken")
            return super().encode(text, *options)

    model = GPT.from_pretrained(place / "bytes")
    with pytest.raises(ValueError, match="it is broken"):
        Pipeline(model, Broken()).read("text")


# ------------------------------------------------------------------- samples, JSON and speeds ---

def test_json_is_an_object_for_each_sample(sample):
    out, err = sample("chars", "--prompt", "3 times", "--json", "--num-samples", 3, "--seed", 7,
                      "--max-new-tokens", 12)
    assert err == "" and out.count("\n") == 3
    model, tokenizer = GPT.from_pretrained("chars"), CharTokenizer.from_pretrained("chars")
    for number, line in enumerate(out.splitlines()):
        ids = model.generate(tokenizer.encode("3 times"), 12, seed=7 + number)
        assert json.loads(line) == {"prompt": "3 times", "text": tokenizer.decode(ids),
                                    "prompt_tokens": 7, "tokens": ids, "stop": "length",
                                    "seed": 7 + number}


def test_a_sample_without_a_seed_says_its_seed(sample):
    first, second = (json.loads(sample("chars", "--json", "--max-new-tokens", 30)[0])
                     for _ in range(2))
    assert first["seed"] != second["seed"]
    again = json.loads(sample("chars", "--json", "--max-new-tokens", 30, "--seed",
                              first["seed"])[0])
    assert again == first


def test_the_end_of_a_text_is_the_reason_to_stop(sample, place):
    """Make an id that is drawn the model's end: the text stops before it."""
    model = GPT.from_pretrained(place / "bpe")
    whole = model.generate([1], 30, seed=4, top_k=0, stop=(), vocab_size=270)
    model.end_of_text = whole[7]
    model.save_pretrained(place / "ends")
    tokenizer = BPETokenizer.from_pretrained(place / "bpe")
    tokenizer.save_pretrained(place / "ends")
    flags = ["--prompt", tokenizer.decode([1]), "--seed", 4, "--top-k", 0, "--json"]
    count = whole.index(whole[7])
    row = json.loads(sample("ends", *flags, "--max-new-tokens", 30)[0])
    assert row["stop"] == "end" and row["tokens"] == whole[:count]
    row = json.loads(sample("ends", *flags, "--max-new-tokens", count)[0])
    assert row["stop"] == "length" and row["tokens"] == whole[:count]
    row = json.loads(sample("ends", *flags, "--max-new-tokens", 0)[0])
    assert (row["stop"], row["tokens"], row["text"]) == ("length", [], "")


def test_samples_have_a_rule_between_them(sample):
    flags = ["--prompt", "3 ", "--max-new-tokens", 5]
    out, _ = sample("chars", *flags, "--num-samples", 2, "--seed", 1)
    rule = "-" * 72 + "\n"
    assert out == rule.join(sample("chars", *flags, "--seed", seed)[0] for seed in (1, 2))


def test_the_tokens_of_json_are_those_of_its_text(sample, place):
    """Tokens of several characters, and a stop string that begins within one."""
    tokenizer = BPETokenizer.from_pretrained(place / "bpe")
    token = tokenizer.encode(" times")[-1]
    content = tokenizer.decode([token])
    assert len(content) > 2
    row = json.loads(sample("bpe", "--json", "--logit-bias", f"{token}=100", "--stop-strings",
                            content[-2:], "--max-new-tokens", 5)[0])
    assert (row["text"], row["stop"]) == (content[:-2], "stop string")
    assert row["tokens"] == tokenizer.encode(content[:-2]) != [token]


def test_each_text_is_written_as_soon_as_those_before_it_are_complete(place, monkeypatch):
    """At each write, the texts before it are complete, and no step was taken that it did not need.
    """
    import sys

    from pygpt.decoding import Cache

    class Written:
        def __init__(self):
            self.parts = []

        def write(self, text):
            self.parts.append((text, len(steps)))

        def flush(self):
            pass

        def isatty(self):
            return False

    monkeypatch.chdir(place)
    steps, step = [], Cache.step
    monkeypatch.setattr(Cache, "step", lambda self, ids: steps.append(len(ids)) or step(self, ids))
    flags = ["--prompt", "3 ", "--num-samples", "3", "--seed", "0", "--top-k", "0",
             "--temperature", "2", "--stop-strings", "i"]
    monkeypatch.setattr(sys, "stdout", written := Written())
    assert main.main(["sample", "chars", *flags, "--json"]) == 0
    rows = [(json.loads(text), at) for text, at in written.parts if text.strip()]
    lengths = [len(row["tokens"]) for row, _ in rows]
    needed = [max(lengths[:i + 1]) for i in range(3)]
    assert len(set(needed)) > 1 and [at for _, at in rows] == needed
    assert {row["stop"] for row, _ in rows} == {"stop string"} and len(steps) == max(lengths)
    del steps[:]
    monkeypatch.setattr(sys, "stdout", written := Written())
    assert main.main(["sample", "chars", *flags]) == 0
    pieces = [at for text, at in written.parts if len(text) == 1 and text != "\n"]
    assert pieces[:lengths[0]] == list(range(lengths[0]))  # the first is streamed
    assert "".join(text for text, _ in written.parts) == ("-" * 72 + "\n").join(
        "3 " + row["text"] + "\n" for row, _ in rows)


@pytest.mark.parametrize("is_json", [False, True])
def test_ctrl_c_writes_what_there_is_of_each_text(place, is_json, monkeypatch, capsys):
    from pygpt.decoding import Cache
    monkeypatch.chdir(place)
    taken, step = [], Cache.step

    def interrupted(self, ids):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self, ids)

    monkeypatch.setattr(Cache, "step", interrupted)
    words = ["--num-samples", "2", "--prompt", "3", "--seed", "4", *["--json"][:is_json]]
    assert main.main(["sample", "chars", *words]) == 130
    model, tokenizer = GPT.from_pretrained("chars"), CharTokenizer.from_pretrained("chars")
    monkeypatch.undo()
    texts = [tokenizer.decode(model.generate(tokenizer.encode("3"), 4, seed=seed))
             for seed in (4, 5)]
    out, err = capsys.readouterr()
    assert err == ""
    if is_json:
        rows = list(map(json.loads, out.splitlines()))
        assert [(row["text"], row["stop"]) for row in rows] == [(text, None) for text in texts]
    else:
        assert out == ("-" * 72 + "\n").join("3" + text + "\n" for text in texts)


def test_ctrl_c_while_a_text_is_printed_ends_the_others(place, monkeypatch, capsys):
    """No step was interrupted, so the others could go on."""
    import sys

    monkeypatch.chdir(place)
    words = ["--num-samples", "2", "--prompt", "3", "--seed", "4"]
    out, pieces = [], []

    class Interrupted:
        def write(self, text):
            out.append(text)
            pieces.append(text)
            if len(pieces) == 6:
                raise KeyboardInterrupt

        def flush(self):
            pass

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdout", Interrupted())
    assert main.main(["sample", "chars", *words]) == 130
    assert len("".join(out)) < 100


def test_ctrl_c_on_a_terminal_shows_no_sign_in_the_text(place):
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "sample", "chars", "--num-samples", "3", "--max-new-tokens", "100000"],
        cwd=place, stdin=terminal, stdout=terminal, stderr=terminal, env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    try:
        first = b""
        while len(first) < 20:  # the text is being written
            assert select.select([controller], [], [], 60)[0]
            first += os.read(controller, 4096)
        os.write(controller, b"\x03")
        output = first
        while process.poll() is None:
            if select.select([controller], [], [], 0.1)[0]:
                output += os.read(controller, 4096)
        assert process.returncode == 130 and termios.tcgetattr(terminal)[3] & termios.ECHOCTL
        while select.select([controller], [], [], 0.1)[0]:
            output += os.read(controller, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(controller)
    assert b"^C" not in output and output.count(b"-" * 72) == 2


def test_the_prompt_is_printed_as_given(sample):
    """What the vocabulary lacks, and what the context does not hold, is not read."""
    flags = ["--max-new-tokens", 5, "--seed", 1]
    for given, read in (("3Q ", "3 "), ("0123456789" * 3, ("0123456789" * 3)[-P:])):
        answer = sample("chars", *flags, "--prompt", read)[0].removeprefix(read)
        out, err = sample("chars", *flags, "--prompt", given)
        assert out == given + answer and err.startswith("pygpt: warning: ")
        row = json.loads(sample("chars", *flags, "--prompt", given, "--json")[0])
        assert row["prompt"] == given and row["prompt_tokens"] == len(read)


def test_progress_of_json_goes_to_a_terminal(place, sample, monkeypatch, capsys):
    import sys

    from pygpt import progress

    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "PAUSE_SECONDS", 0.0)
    flags = ["--num-samples", 2, "--max-new-tokens", 3]
    assert sample("chars", *flags, "--json")[1] == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    err = sample("chars", *flags, "--json")[1]
    assert err.count("\r") == 5 and "\r2 of 2 texts, 6 tokens of at most 6, " in err
    assert err.endswith(" \r")
    assert sample("chars", *flags)[1].count("\r") == 5  # the text goes into a file
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert sample("chars", *flags)[1] == ""  # the text shows how far it is


def test_the_line_of_progress_is_gone_when_an_object_is_printed(place, monkeypatch):
    """Both may go to the same terminal."""
    import io
    import sys

    from pygpt import progress

    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, screen)
    for name in ("FIRST_SECONDS", "PAUSE_SECONDS"):
        monkeypatch.setattr(progress, name, 0.0)
    monkeypatch.chdir(place)
    assert main.main(["sample", "chars", "--json", "--num-samples", "2", "--seed", "0",
                      "--stop-strings", "i", "--temperature", "2", "--top-k", "0"]) == 0
    before, between, after = re.split(r"\{.*\}\n", screen.getvalue())
    assert before.endswith(" \r") and between.endswith(" \r") and after == ""


def test_int8_weights_in_files_are_widened_if_that_is_wanted(sample, place):
    GPT.from_pretrained(place / "chars").quantize("int8").save_pretrained(place / "small")
    CharTokenizer.train(TEXT).save_pretrained(place / "small")
    (place / "text").write_text(TEXT)
    flags = ["--temperature", 0, "--prompt", "3 times", "--max-new-tokens", 12]
    texts = {dtype: sample("small", *flags, "--dtype", dtype)
             for dtype in ("float32", "bfloat16", "int8")}
    assert {err for _, err in texts.values()} == {""} and texts["int8"] == sample("small", *flags)
    shutil.rmtree(place / "wide", ignore_errors=True)
    assert main.main(["export", "small", "wide"]) == 0
    assert sample("wide", *flags) == texts["float32"]
    assert main.main(["eval", "small", "text", "--dtype", "float32"]) == 0


def test_verbose_ends_with_the_speeds(sample):
    out, err = sample("chars", "--prompt", "3 times", "--verbose", "--max-new-tokens", 5)
    assert re.fullmatch(r"prompt: 7 tokens at [\d,]+ tokens/s; answer: 5 tokens at [\d,]+ "
                        r"tokens/s\n", err)
    assert sample("chars", "--verbose", "--max-new-tokens", 0)[1] == (
        "prompt: 1 token; answer: 0 tokens\n")
    err = sample("chars", "--verbose", "--max-new-tokens", 3, "--num-samples", 2)[1]
    assert re.fullmatch(r"(prompt: 1 token; answer: 3 tokens\n){2}"
                        r"all answers: 6 tokens at [\d,]+ tokens/s\n", err)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_weights_may_rest_in_fewer_bits_and_texts_may_be_written_together(sample, dtype):
    """Several texts are those of their seeds one by one."""
    flags = ["--prompt", "3 times", "--dtype", dtype, "--max-new-tokens", 12]
    together = sample("chars", *flags, "--seed", 4, "--num-samples", 3)[0]
    alone = [sample("chars", *flags, "--seed", seed)[0] for seed in (4, 5, 6)]
    assert together == ("-" * 72 + "\n").join(alone)


# ----------------------------------------------------------------------------------- refusals ---

@pytest.mark.parametrize("words, status, part", [
    (["--num-samples", 0], 2, "--num-samples 0 must be at least 1"),
    (["--prompt", "a", "--prompt-file", "b"], 2, "leave out all but one"),
    (["-", "--prompt", "a"], 2, "leave out all but one"),
    (["--prompt", "a", "-"], 2, "leave out all but one"),
    (["-", "-"], 2, "- is no flag of pygpt sample"),
    (["text"], 2, "text is no argument of pygpt sample"),
    (["--prompt-file", "none"], 1, "none: No such file"),
    (["--prompt-file", ""], 1, "'': No such file"),
    (["--prompt-file", "/dev/zero"], 1, "/dev/zero: is not text: byte 0x00 at offset 0"),
    (["--interactive", "--json"], 2, "leave out --json"),
    (["--interactive", "--num-samples", 2], 2, "leave out --num-samples"),
    (["--interactive", "-"], 2, "leave out -"),
    (["--interactive", "--prompt-file", "-"], 2, "leave out -"),
])
def test_what_makes_no_sense_is_refused(sample, words, status, part):
    out, err = sample("chars", *words, status=status)
    assert out == "" and part in err and err.count("\n") == 1


def test_bad_text_on_standard_input_is_named(place):
    result = pygpt("sample", "chars", "-", cwd=place, input=b"caf\xe9")
    assert result.returncode == 1 and result.stderr.startswith(
        b"pygpt: error: standard input: is not UTF-8 text: byte 0xe9 at offset 3")
    result = shell("pygpt sample chars - <&-", place)
    assert result.stderr == b"pygpt: error: standard input is closed\n"
    assert not os.path.exists(place / "-")
