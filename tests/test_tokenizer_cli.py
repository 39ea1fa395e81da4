"""Tests `pygpt tokenizer` and `train --tokenizer` as a user runs them, bad input included."""

import os

import commands
import pytest
from commands import refusal

from pygpt import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from pygpt.config import ConfigError
from pygpt.tokenizer.choice import choose

TEXT = ("the first, the second\r\nand the 3rd – naïve 😀 weather of a northern harbour where\n\n"
        "other ships wait for wind, and wander over water whenever it turns") * 40
TINY = ("--n-layer 1 --n-head 2 --n-embd 16 --n-positions 16 --batch-size 4 --max-steps 4 "
        "--warmup-steps 2 --eval-interval 4 --eval-batches 2 --sample-length 20").split()


def pygpt(*arguments, input=b""):
    """Run a command that reads and writes bytes to its end."""
    return commands.pygpt(*arguments, input=input)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("learned") / "tokenizer"
    result = pygpt("tokenizer", "train", "--data", data, "--out", out, "--vocab-size", 300)
    assert result.returncode == 0 and result.stderr == b""
    assert result.stdout.decode() == f"{out}: 300 tokens, of them '<|endoftext|>' special\n"
    return out


def test_a_file_goes_through_encode_and_decode_unchanged(learned, data, tmp_path):
    encoded = pygpt("tokenizer", "encode", learned, data)
    tokenizer = Tokenizer.from_pretrained(learned)
    assert list(map(int, encoded.stdout.split())) == tokenizer.encode(TEXT)
    assert pygpt("tokenizer", "encode", learned, input=TEXT.encode()).stdout == encoded.stdout
    assert pygpt("tokenizer", "decode", learned, input=encoded.stdout).stdout == TEXT.encode()
    (tmp_path / "ids").write_bytes(encoded.stdout)
    assert pygpt("tokenizer", "decode", learned, tmp_path / "ids").stdout == TEXT.encode()
    assert pygpt("tokenizer", "encode", learned, input=b"").stdout == b"\n"
    assert pygpt("tokenizer", "decode", learned, input=b" \n").stdout == b""


def test_special_tokens_of_ones_own(data, tmp_path):
    pygpt("tokenizer", "train", "--data", data, "--out", tmp_path, "--vocab-size", 270,
          "--special-token", "<s>", "--special-token", "</s>")
    assert Tokenizer.from_pretrained(tmp_path).special_tokens == {"<s>": 268, "</s>": 269}
    result = pygpt("tokenizer", "encode", tmp_path, "--allow-special", input=b"<s></s>")
    assert result.stdout == b"268 269\n"
    assert "special token '<s>' at position 1" in refusal(
        pygpt("tokenizer", "encode", tmp_path, input=b"a<s>"), 1)


def test_what_is_wrong_is_said_in_one_line(learned, data, tmp_path):
    def failure(*arguments, input=b""):
        return refusal(pygpt("tokenizer", *arguments, input=input), 1)

    assert "tokenizer.json" in failure("encode", tmp_path)
    assert "none.txt: No such file" in failure("encode", learned, tmp_path / "none.txt")
    assert "standard input: is not UTF-8 text: byte 0xff at offset 1" in failure(
        "encode", learned, input=b"a\xff")
    assert "standard input: 'x' is not an id" in failure("decode", learned, input=b"1 x")
    assert "standard input: the id 300 is not in 0..299" in failure("decode", learned, input=b"300")
    assert "'-1' is not an id" in failure("decode", learned, input=b"-1")
    assert "none.txt: No such file" in failure("train", "--data", tmp_path / "none.txt", "--out",
                                               tmp_path)
    result = pygpt("tokenizer", "train", "--data", data, "--out", tmp_path, "--vocab-size", 256)
    assert refusal(result, 2).endswith(
        "--vocab-size 256 must be at least 257: 256 bytes and 1 special token\n")
    assert "--out" in refusal(pygpt("tokenizer", "train"), 2)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------- train --tokenizer ---

@pytest.mark.parametrize("spec, kind, size", [
    ("char", CharTokenizer, len(set(TEXT))), ("byte", ByteTokenizer, 256),
    ("bpe:290", BPETokenizer, 290), ("bpe", BPETokenizer, None)])
def test_choices(spec, kind, size):
    tokenizer = choose(spec, TEXT)
    assert type(tokenizer) is kind and tokenizer.vocab_size == (size or tokenizer.vocab_size)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_a_directory_is_a_choice(learned):
    assert choose(str(learned), "other text").encode("the") == choose("bpe:300", TEXT).encode("the")


@pytest.mark.parametrize("spec", ["", "word", "char:5", "bpe:", "bpe:256", "bpe:x", "bpe:-1",
                                  "bpe:²", "bpe:9999999999", "/no/such/directory"])
def test_no_choice(spec):
    with pytest.raises(ConfigError, match="tokenizer="):
        choose(spec, TEXT)


@pytest.mark.parametrize("spec", ["byte", "bpe:280", None])
def test_training_and_sampling_with_it(spec, learned, data, tmp_path):
    result = pygpt("train", "--data", data, "--out", tmp_path, *TINY,
                   "--tokenizer", spec or learned)
    assert result.returncode == 0, result.stderr
    size = {"byte": 256, "bpe:280": 280, None: 300}[spec]
    assert f"a vocabulary of {size}" in result.stdout.decode()
    assert Tokenizer.from_pretrained(tmp_path / "last").vocab_size == size
    result = pygpt("sample", tmp_path, "--prompt", "the naïve 😀", "--max-new-tokens", 9)
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode().startswith("the naïve 😀")


def test_a_wrong_choice_is_a_usage_error(data, tmp_path):
    result = pygpt("train", "--data", data, "--out", tmp_path / "out", "--tokenizer", "word")
    assert "--tokenizer word is not char, byte, bpe, bpe:VOCAB or a directory" in refusal(result, 2)
    assert os.listdir(tmp_path) == []
