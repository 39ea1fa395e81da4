"""The files of byte-level BPE: GPT-2's pair, tokenizer.json, and tiktoken's rank file.

Each is read into the same three things: vocab (token bytes to id), merges (pairs of token bytes,
the first merged first) and special tokens (string to id). A reader checks what its format adds,
such as the spelling of bytes; BPETokenizer checks that the three fit together. Every refusal is a
ValueError that begins with the field or line. Uses files; used by bpe.py and simple.py.
"""

import base64
import binascii
from itertools import count

from pygpt.files import open_regular, shown
from pygpt.tokenizer.base import MOST_BYTES, json_bytes

# The files spell a token's bytes as printable characters: a byte that is one in Latin-1 is itself,
# the others are the characters from U+0100 on, in order. So ' ' is 'Ġ' and newline is 'Ċ'.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_others = count(0x100)
BYTE_TO_CHAR = "".join(chr(b if b in _PRINTABLE else next(_others)) for b in range(256))
_SPELLING = str.maketrans(dict(enumerate(BYTE_TO_CHAR)))
_READING = dict.fromkeys(range(0x100), 0xFFFF) | {ord(c): b for b, c in enumerate(BYTE_TO_CHAR)}

_VERSION = "#version: 0.2"  # the first line of merges.txt
_LONGEST_RANKED = 128       # bytes, in a rank file


def spell(token: bytes) -> str:
    """A token's bytes as the characters that stand for them."""
    return token.decode("latin-1").translate(_SPELLING)


def unspell(word: str):
    """The bytes that characters stand for; None when one of them stands for none."""
    try:
        return word.translate(_READING).encode("latin-1")
    except UnicodeEncodeError:
        return None


def empty_document() -> dict:
    """A tokenizer.json without its model."""
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}


def byte_level(use_regex: bool) -> dict:
    """The step of a tokenizer.json that spells bytes as characters.

    Args:
        use_regex: whether it also cuts the text into pieces.
    """
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
            "use_regex": use_regex}


# -------------------------------------------------------------------------------------- writing ---

def document(vocab, merges, special_tokens) -> dict:
    """A tokenizer.json."""
    added = [{"id": index, "content": token, "single_word": False, "lstrip": False,
              "rstrip": False, "normalized": False, "special": True}
             for token, index in sorted(special_tokens.items(), key=lambda item: item[1])]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "vocab": _spelled(vocab, special_tokens), "merges": _merge_lines(merges)}
    return empty_document() | {"added_tokens": added, "pre_tokenizer": byte_level(use_regex=True),
                               "decoder": byte_level(use_regex=True), "model": model}


def gpt2_files(vocab, merges, special_tokens) -> dict:
    """GPT-2's two files, name to bytes."""
    lines = [_VERSION, *_merge_lines(merges), ""]
    return {"vocab.json": json_bytes(_spelled(vocab, special_tokens)),
            "merges.txt": "\n".join(lines).encode("utf-8")}


def _spelled(vocab, special_tokens):
    words = {spell(token): index for token, index in vocab.items()} | special_tokens
    return dict(sorted(words.items(), key=lambda item: item[1]))


def _merge_lines(merges):
    return [f"{spell(left)} {spell(right)}" for left, right in merges]


# -------------------------------------------------------------------------------------- reading ---

def read_vocab(words, field, special_tokens):
    """vocab, from an object of spelled tokens and ids, in which special tokens are passed over.

    Raises:
        ValueError: it is no object, or a token is spelled with a character that is no byte.
    """
    if not isinstance(words, dict):
        raise ValueError(f"{field}: is not an object of tokens and ids")
    vocab = {}
    for word, index in words.items():
        if word in special_tokens:
            if special_tokens[word] != index:
                raise ValueError(f"{field}: the id {shown(index)} of {shown(word)} is not its id "
                                 f"as a special token, {shown(special_tokens[word])}")
            continue
        token = unspell(word)
        if token is None:
            raise ValueError(f"{field}: the token {shown(word)} (id {shown(index)}) {_MISSPELLED}")
        vocab[token] = index
    return vocab


def read_merges(entries, field, first=0):
    """merges, from "left right" strings or [left, right] lists.

    Args:
        entries: list of them.
        field: what to call an entry in a refusal, with a {} for its number.
        first: the number of the first.
    """
    merges = []
    for number, entry in enumerate(entries, first):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(pair, list) or len(pair) != 2 or not all(
                isinstance(word, str) and word for word in pair):
            raise ValueError(f"{field.format(number)}: {shown(entry)} is not two tokens")
        left, right = map(unspell, pair)
        if left is None or right is None:
            raise ValueError(f"{field.format(number)}: {shown(entry)} {_MISSPELLED}")
        merges.append((left, right))
    return merges


_MISSPELLED = "holds a character that stands for no byte"


def read_merges_txt(path):
    """merges, from a merges.txt: after a line with its version, one "left right" a line."""
    lines = _read_lines(path)
    has_version = bool(lines) and lines[0].startswith("#version")
    try:
        return read_merges(lines[has_version:], "line {}", 1 + has_version)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def find_special(words, merges):
    """The words of a vocab.json that look like <this> and are made by no merge: special tokens."""
    made = {left + right for left, right in merges}
    return {word: index for word, index in words.items()
            if word[:1] == "<" and word[-1:] == ">" and len(word) > 2 and unspell(word) not in made}


# What else a tokenizer.json may say, and the values of it that change no id.
_HARMLESS = {
    ("normalizer",): (None,),
    ("pre_tokenizer", "add_prefix_space"): (False,),
    ("pre_tokenizer", "use_regex"): (None, True),
    ("post_processor", "type"): (None, "ByteLevel"),
    ("decoder", "type"): (None, "ByteLevel"),
    ("model", "dropout"): (None, 0),
    ("model", "continuing_subword_prefix"): (None, ""),
    ("model", "end_of_word_suffix"): (None, ""),
    ("model", "byte_fallback"): (None, False),
    ("model", "ignore_merges"): (None, False),
}


def read_document(document):
    """(vocab, merges, special tokens) of a tokenizer.json; None when it is not byte-level BPE."""
    def value_of(*path):
        value = document
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    if not isinstance(document.get("model"), dict):
        return None
    if value_of("model", "type") not in (None, "BPE"):
        return None
    if value_of("pre_tokenizer", "type") != "ByteLevel":
        return None
    for path, harmless in _HARMLESS.items():
        if value_of(*path) not in harmless:
            raise ValueError(f"{'.'.join(path)}: {shown(value_of(*path))} is not supported")
    special_tokens = _read_added(document.get("added_tokens", []))
    vocab = read_vocab(value_of("model", "vocab"), "model.vocab", special_tokens)
    merges = value_of("model", "merges")
    if not isinstance(merges, list):
        raise ValueError("model.merges: is not a list")
    return vocab, read_merges(merges, "model.merges[{}]"), special_tokens


def _read_added(added):
    if not isinstance(added, list):
        raise ValueError("added_tokens: is not a list")
    special_tokens = {}
    for i, token in enumerate(added):
        field = f"added_tokens[{i}]"
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError(f"{field}: is not an object with a content")
        if token.get("special") is not True:
            raise ValueError(f"{field}.special: only special tokens are supported")
        for key in ("single_word", "lstrip", "rstrip"):
            if token.get(key):
                raise ValueError(f"{field}.{key}: {shown(token[key])} is not supported")
        if token["content"] in special_tokens:
            raise ValueError(f"{field}: {shown(token['content'])} comes twice")
        special_tokens[token["content"]] = token.get("id")
    return special_tokens


def read_tiktoken(path):
    """(vocab, merges) of a rank file: one token a line, in base64, and its rank, which is its id.

    The file does not say which pair a token is made of. That is the pair left when its bytes are
    merged by the ranks below its own; a token without one could never be made.

    Raises:
        ValueError: a line is wrong or a token cannot be made; the message names path and line.
    """
    vocab, lines = {}, {}
    for number, line in enumerate(_read_lines(path), 1):
        word, _, rank = line.partition(" ")
        try:
            token = base64.b64decode(word.encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise ValueError(f"{path}: line {number}: {shown(word)} is not base64") from None
        if not rank.isascii() or not rank.isdigit() or len(rank) > 9:
            raise ValueError(f"{path}: line {number}: {shown(rank)} is not a rank")
        if not 1 <= len(token) <= _LONGEST_RANKED:
            raise ValueError(f"{path}: line {number}: a token of {len(token)} bytes is not in 1.."
                             f"{_LONGEST_RANKED}")
        if token in vocab or int(rank) in lines:
            raise ValueError(f"{path}: line {number}: the token or its rank {rank} comes twice")
        vocab[token] = int(rank)
        lines[int(rank)] = number
    merges = []
    for token, rank in sorted(vocab.items(), key=lambda item: item[1]):
        if len(token) > 1:
            pair = _merged_below(token, rank, vocab)
            if len(pair) != 2:
                raise ValueError(f"{path}: line {lines[rank]}: no two tokens of lower rank make "
                                 f"{shown(token)}")
            merges.append(tuple(pair))
    return vocab, merges


def _merged_below(token, rank, vocab):
    """The parts of a token that merging by the ranks below its own leaves."""
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranks = [vocab.get(left + right, rank) for left, right in zip(parts, parts[1:])]
        lowest = min(ranks)
        if lowest >= rank:
            break
        at = ranks.index(lowest)
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _read_lines(path):
    """The lines of a text file, without their ends and without an empty last one."""
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path}: has more than {MOST_BYTES} bytes")
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}") from None
    if lines[-1] == "":
        lines.pop()
    return [line.rstrip("\r") for line in lines]
