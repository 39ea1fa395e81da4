"""Lists the parsers of outside bytes, each as a function of one input, for `make fuzz`.

A target returns when the input is accepted, or refused as documented: by the exception that the
parser's docstring names, with a message of one line. Any other exception is a defect. What is
accepted is also used: a model computes, a tokenizer encodes and is saved, a page is drawn.

Several files in one input are separated by SEPARATOR, in the order of the target's names; a file
that is empty does not exist.
"""

import functools
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from pygpt import GPT, Tokenizer
from pygpt.autograd.tape import no_grad
from pygpt.checkpoint import safetensors, saved, shards
from pygpt.checkpoint.safetensors import CheckpointError
from pygpt.cli import entries
from pygpt.config import ConfigError, TrainConfig
from pygpt.data import plain_pickle, token_file
from pygpt.data.corpus import DataError
from pygpt.tokenizer import BPETokenizer, bpe_c, bpe_python
from pygpt.tokenizer.reading import decode_text
from pygpt.training import plot, run_log, settings, trainer_state

SEPARATOR = b"\n====\n"
MOST_DATA = 1 << 20  # bytes of tensors that a header may ask for
TEXT = "hi the theme, it's 12 th\u00e9 \U0001f600!<|endoftext|>\n\n x"
TARGETS = {}


class Defect(Exception):
    """Says that an input is neither accepted nor refused as documented."""


def target(function):
    """List a function of a directory and the input's bytes, as one of the bytes alone."""
    @functools.wraps(function)
    def run(data):
        folder = Path(tempfile.mkdtemp(prefix="pygpt-fuzz-", dir=_fast_disk()))
        try:
            function(folder, data)
        finally:
            shutil.rmtree(folder)
    TARGETS[function.__name__] = run
    return run


@functools.cache
def _fast_disk():
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


class Refused(Exception):
    """Ends a target whose parser has refused the input as documented."""


def attempt(errors, parse, *arguments, **options):
    """Return what a parser returns; raise Refused or Defect for what it raises."""
    try:
        return parse(*arguments, **options)
    except errors as error:
        if len(str(error).splitlines()) != 1:
            raise Defect(f"the message is not one line: {error!r}") from error
        str(error).encode("utf-8", "backslashreplace")
        raise Refused from error


def put(folder, names, data):
    """Write the parts of an input into files of these names."""
    for name, part in zip(names, data.split(SEPARATOR)):
        if part:
            (folder / name).write_bytes(part)


# ------------------------------------------------------------------------------------- models ---

def with_data(text):
    """Return a safetensors file with this header and as many bytes as its offsets ask for."""
    ends = [int(number) for number in re.findall(rb"[\[, ]([0-9]{1,7})[\], ]", text)]
    return len(text).to_bytes(8, "little") + text + bytes(
        i % 61 for i in range(min(max(ends, default=0), MOST_DATA)))


def open_model(folder):
    """Open a model as documented, and compute logits with one that is small."""
    try:
        model = attempt((OSError, CheckpointError, MemoryError), GPT.from_pretrained, folder)
    except Refused:
        return
    config = model.config
    if max(config.n_positions, config.vocab_size) < 1 << 12:
        with no_grad():
            model.eval()([[0] * min(3, config.n_positions)])


@target
def safetensors_file(folder, data):
    """Any bytes as a safetensors file."""
    (folder / "file").write_bytes(data)
    tensors, metadata = attempt(CheckpointError, safetensors.read, folder / "file")
    for entry in tensors.values():
        bytes(entry.buffer)


@target
def safetensors_header(folder, data):
    """Any bytes as the header of one."""
    (folder / "file").write_bytes(with_data(data))
    attempt(CheckpointError, safetensors.read, folder / "file")


@target
def model(folder, data):
    """config.json and a header, with float32, float16, bfloat16 or int8 weights."""
    parts = data.split(SEPARATOR)
    (folder / "config.json").write_bytes(parts[0])
    if len(parts) > 1:
        (folder / "model.safetensors").write_bytes(with_data(parts[1]))
    open_model(folder)


@target
def sharded(folder, data):
    """An index and the headers of two files."""
    parts = data.split(SEPARATOR)
    (folder / shards.INDEX_FILE).write_bytes(parts[0])
    for name, part in zip("ab", parts[1:]):
        (folder / f"{name}.safetensors").write_bytes(with_data(part))
    attempt((OSError, CheckpointError), shards.read_tensors, folder)


@target
def trainer_json(folder, data):
    """trainer.json of a checkpoint, and `last`, a file that names it."""
    put(folder, ("trainer.json", "last"), data)
    saved.step_of(folder)
    name = saved.read_pointer(folder / "last")
    if name is not None and (os.sep in name or name.startswith(".")):
        raise Defect(f"`last` leads out of the directory: {name!r}")
    attempt((OSError, CheckpointError), trainer_state.load, folder)


# --------------------------------------------------------------------------------- tokenizers ---

def use(tokenizer, folder):
    """Encode, decode, save and open again; every tokenizer must survive that."""
    try:
        ids = tokenizer.encode(TEXT, "all")
    except ValueError:
        ids = []  # a vocabulary of characters may lack one
    else:
        if isinstance(tokenizer, BPETokenizer) and tokenizer.decode(ids) != TEXT:
            raise Defect(f"{TEXT!r} becomes {tokenizer.decode(ids)!r}")
    if any(not 0 <= index < tokenizer.vocab_size for index in ids):
        raise Defect(f"an id is not in 0..{tokenizer.vocab_size - 1}: {ids}")
    again = folder / "again"
    tokenizer.save_pretrained(again)
    other = Tokenizer.from_pretrained(again)
    if other._document() != tokenizer._document() or ids and other.encode(TEXT, "all") != ids:
        raise Defect("the saved tokenizer is another one")


def open_tokenizer(folder):
    use(attempt((OSError, ValueError), Tokenizer.from_pretrained, folder), folder)


SIDE = "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"


@target
def tokenizer_json(folder, data):
    """tokenizer.json and the three files beside it."""
    put(folder, ("tokenizer.json", *SIDE), data)
    open_tokenizer(folder)


@target
def small_tokenizer_json(folder, data):
    """The same, given the vocabulary of bytes: @BYTES@ stands for it."""
    put(folder, ("tokenizer.json", *SIDE), data.replace(b"@BYTES@", byte_words()))
    open_tokenizer(folder)


@target
def gpt2_files(folder, data):
    """vocab.json, merges.txt and the files beside them; @BYTES@ stands for the 256 bytes."""
    put(folder, ("vocab.json", "merges.txt", *SIDE), data.replace(b"@BYTES@", byte_words()))
    open_tokenizer(folder)


@target
def tiktoken(folder, data):
    """A rank file; @BYTES@ stands for the lines of the 256 bytes."""
    lines = "".join(f"{word} {index}\n" for index, word in enumerate(base64_bytes()))
    put(folder, ("x.tiktoken", *SIDE), data.replace(b"@BYTES@\n", lines.encode()))
    open_tokenizer(folder)


@functools.cache
def byte_words():
    """Return the entries of the 256 bytes in a vocab.json, without the braces."""
    from pygpt.tokenizer.vocabulary import BYTE_TO_CHAR
    words = {character: byte for byte, character in enumerate(BYTE_TO_CHAR)}
    return json.dumps(words).strip("{}").encode()


@functools.cache
def base64_bytes():
    import base64
    return [base64.b64encode(bytes([byte])).decode() for byte in range(256)]


@target
def bpe(folder, data):
    """The C functions of BPE against those in Python, on any bytes and a vocabulary of them."""
    for name in ("split", "last_boundary", "count"):
        ours, theirs = getattr(bpe_c, name)(data), getattr(bpe_python, name)(data)
        if ours != theirs:
            raise Defect(f"{name}: {ours} is not {theirs}")
    counts = bpe_python.count(data)
    merges = bpe_c.train(counts, 20)
    if merges != bpe_python.train(counts, 20):
        raise Defect(f"train: {merges}")
    tokens = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    triples = [(*pair, 256 + rank) for rank, pair in enumerate(merges)]
    ids = bpe_c.Codec(tokens, triples).encode(data)
    if ids != bpe_python.Codec(tokens, triples).encode(data):
        raise Defect(f"encode: {ids}")
    if b"".join(tokens[index] for index in ids) != data:
        raise Defect(f"encode: {ids} are not the bytes")


# ------------------------------------------------------------------------------ runs and texts ---

def read_config(path):
    values = attempt((OSError, ConfigError), settings.read_settings, path)
    attempt(ConfigError, lambda: TrainConfig(**values))


@target
def settings_json(folder, data):
    """train.json."""
    (folder / "train.json").write_bytes(data)
    read_config(folder / "train.json")


@target
def settings_toml(folder, data):
    """run.toml."""
    (folder / "run.toml").write_bytes(data)
    read_config(folder / "run.toml")


@target
def tokens_and_meta(folder, data):
    """A file of tokens, and meta.pkl beside it."""
    put(folder, ("train.bin", "meta.pkl"), data)
    tokenizer = attempt((OSError, DataError), token_file.tokenizer_beside,
                        os.fspath(folder / "train.bin"))
    size = tokenizer.vocab_size if tokenizer else 300
    attempt((OSError, DataError), token_file.map_tokens, folder / "train.bin",
            token_file.code_for(size), size)


@target
def meta_pkl(folder, data):
    """A pickle as data."""
    attempt(plain_pickle.PickleError, plain_pickle.loads, data)


@target
def history(folder, data):
    """The history of a chat: whatever is in it, it opens."""
    (folder / "history").write_bytes(data)
    for entry in entries.read_history(folder / "history"):
        entry.encode("utf-8", "surrogatepass")


@target
def log(folder, data):
    """log.jsonl, drawn as a page, and cut for a resumed run."""
    (folder / "log.jsonl").write_bytes(data)
    attempt((OSError, ValueError), plot.plot, [folder], folder / "page.html")
    run_log.rewind(folder / "log.jsonl", 3)
    for record in run_log.read_log(folder / "log.jsonl"):
        if record["step"] > 3:
            raise Defect(f"rewind left {record}")


@target
def text(folder, data):
    """A text file, in small parts and in one."""
    for errors in "strict", "replace":
        path = folder / "text"
        path.write_bytes(data)
        results = []
        for part_bytes in 1, 7, 1 << 20:
            with open(path, "rb") as file:
                try:
                    results.append("".join(attempt(DataError, lambda f=file, n=part_bytes: list(
                        decode_text(f, "text", errors, part_bytes=n)))))
                except Refused:
                    results.append(None)
        if errors == "strict" and len(set(results)) != 1:
            raise Defect(f"the parts decide: {results}")


def run(name, data):
    """Run a target; raise what it must not raise."""
    try:
        TARGETS[name](data)
    except Refused:
        pass
