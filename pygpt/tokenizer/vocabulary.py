"""Reads and writes the vocabulary and the merges of byte-level BPE.

    vocab.json + merges.txt   GPT-2's pair
    *.tiktoken                tiktoken's rank file (only read)

Every format, tokenizer.json included, is read into the same three things: vocab (token bytes to
id), merges (pairs of token bytes, the first merged first) and added tokens (see added.py). A reader
checks the rules of its own format, such as the spelling of bytes; BPETokenizer checks that the
three fit together. Every refusal is a ValueError whose message begins with the field or line.
"""

import base64
from itertools import count

from pygpt.backend.arguments import shown
from pygpt.files import decode_utf8, errors_begin_with, read_bytes
from pygpt.tokenizer.added import MOST_BYTES
from pygpt.tokenizer.base import json_bytes
from pygpt.tokenizer.text import utf8

# The files spell a token's bytes as printable characters. A byte that is a printable character in
# Latin-1 is spelled as that one; the others, in order, are spelled as the characters from U+0100.
# So ' ' is spelled 'Ġ' and a newline is spelled 'Ċ'.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_others = count(0x100)
BYTE_TO_CHAR = "".join(chr(b if b in _PRINTABLE else next(_others)) for b in range(256))
_SPELLING = str.maketrans(dict(enumerate(BYTE_TO_CHAR)))
_UNSPELLING = dict.fromkeys(range(0x100), 0xFFFF) | {ord(c): b for b, c in enumerate(BYTE_TO_CHAR)}

_VERSION = "#version: 0.2"  # the first line of merges.txt
_LONGEST_RANKED = 128       # the most bytes of a token in a rank file


def spell(token: bytes) -> str:
    """Spell a token's bytes as the characters that stand for them."""
    return token.decode("latin-1").translate(_SPELLING)


def unspell(word: str):
    """Return the bytes that characters stand for, or None if one of them stands for no byte."""
    try:
        return word.translate(_UNSPELLING).encode("latin-1")
    except UnicodeEncodeError:
        return None


def show(token) -> str:
    """Show a token in an error message: bytes are spelled as in the files."""
    return shown(spell(token) if isinstance(token, bytes) else token)


def gpt2_files(vocab, merges, tokens) -> dict:
    """Return GPT-2's two files, name to bytes; `tokens` are the added tokens, string to id."""
    lines = [_VERSION, *merge_lines(merges), ""]
    return {"vocab.json": json_bytes(spelled(vocab, tokens)),
            "merges.txt": "\n".join(lines).encode("utf-8")}


def spelled(vocab, tokens) -> dict:
    """Return {word: id} of a vocabulary and its added tokens, in the order of the ids."""
    return dict(by_index({spell(token): index for token, index in vocab.items()} | tokens))


def by_index(tokens):
    """Return the items of {token: id} in the order of the ids."""
    return sorted(tokens.items(), key=lambda item: item[1])


def merge_lines(merges):
    """Return each merge as "left right", spelled as in the files."""
    return [f"{spell(left)} {spell(right)}" for left, right in merges]


# -------------------------------------------------------------------------------------- reading ---

def read_vocab(words, field, added, merges):
    """Read vocab from an object of spelled tokens and ids, which may hold the added tokens too.

    Args:
        words: the object.
        field: the name of the object in a refusal.
        added: {content: AddedToken}.
        merges: pairs of tokens. An added token that a merge makes is in the vocabulary too.
    Raises:
        ValueError: words is not an object, a token is spelled with a character that stands for no
            byte, or an added token has another id here.
    """
    if not isinstance(words, dict):
        raise ValueError(f"{field}: is not an object of tokens and ids")
    made = {left + right for left, right in merges}
    vocab = {}
    for word, index in words.items():
        token = unspell(word)
        if word in added:
            if added[word].index != index:
                kind = "a special" if added[word].is_special else "an added"
                raise ValueError(f"{field}: the id {shown(index)} of {shown(word)} is not its id "
                                 f"as {kind} token, {shown(added[word].index)}")
            if token is None or len(token) != 1 and token not in made:
                continue
        if token is None:
            raise ValueError(f"{field}: the token {shown(word)} (id {shown(index)}) {_MISSPELLED}")
        vocab[token] = index
    return vocab


def check_added(added, vocab):
    """Check the ids of added tokens against those of a vocabulary.

    Args:
        added: {content: AddedToken}.
        vocab: token bytes to id.
    Returns:
        {content: id} of the tokens that are not in the vocabulary too.
    Raises:
        ValueError: a token is not text, or its id is not an int, is out of range, or belongs to
            another token.
    """
    for content, token in added.items():
        if not isinstance(content, str) or not content or utf8(content).decode() != content:
            raise ValueError(f"{token.where}: {shown(content)} is not a text of one character or "
                             "more")
    # A token that is in the vocabulary too, with the same id, needs no id of its own.
    own = {content: token for content, token in added.items()
           if vocab.get(utf8(content)) != token.index or unspell(content) != utf8(content)}
    size = len(vocab) + len(own)
    taken = {index: token for token, index in vocab.items() if type(index) is int}
    for content, (index, _, _, where) in own.items():
        if unspell(content) in vocab:
            raise ValueError(f"{where}: {shown(content)} is the files' spelling of another token")
        if type(index) is not int or not 0 <= index < size:
            raise ValueError(f"{where}: the id {shown(index)} of {shown(content)} is not in "
                             f"0..{size - 1}")
        if index in taken:
            raise ValueError(f"{where}: {shown(content)} has the id {index}, which "
                             f"{show(taken[index])} has too")
        taken[index] = content
    return {content: token.index for content, token in own.items()}


def split_added(added):
    """Split {content: AddedToken} into (special tokens, other added tokens), each string to id."""
    return tuple({content: token.index for content, token in added.items()
                  if bool(token.is_special) is is_special} for is_special in (True, False))


def read_merges(entries, field, first=0):
    """Read merges from "left right" strings or [left, right] lists.

    Args:
        entries: a list of such strings or lists.
        field: the name of an entry in a refusal, with a {} for its number.
        first: the number of the first entry.
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
    """Read merges from a merges.txt: a line with its version, then "left right" on each line."""
    lines = _read_lines(path)
    has_version = bool(lines) and lines[0].startswith("#version")
    with errors_begin_with(path):
        return read_merges(lines[has_version:], "line {}", 1 + has_version)


def find_special(words, merges):
    """Find the special tokens of a vocab.json: words like <this> that no merge makes."""
    made = {left + right for left, right in merges}
    return {word: index for word, index in words.items()
            if word[:1] == "<" and word[-1:] == ">" and len(word) > 2 and unspell(word) not in made}


def read_tiktoken(path):
    """Read (vocab, merges) from a rank file: a line has a token in base64, and its rank, the id.

    The file does not say which pair makes a token. It is the pair that is left when the token's
    bytes are merged by the ranks below its own; if no pair is left, nothing can make the token.

    Raises:
        ValueError: a line is wrong or a token cannot be made; the message names path and line.
    """
    vocab, lines = {}, {}
    for number, line in enumerate(_read_lines(path), 1):
        word, _, rank = line.partition(" ")
        try:
            token = base64.b64decode(word, validate=True)
        except ValueError:
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
    for token, rank in by_index(vocab):
        if len(token) > 1:
            pair = _merged_below(token, rank, vocab)
            if len(pair) != 2:
                raise ValueError(f"{path}: line {lines[rank]}: no two tokens of lower rank make "
                                 f"{shown(token)}")
            merges.append(tuple(pair))
    return vocab, merges


def _merged_below(token, rank, vocab):
    """Return the parts of a token that are left after merging by the ranks below its own."""
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
    """Return the lines of a text file, without line ends and without an empty last line."""
    data = read_bytes(path, MOST_BYTES)
    with errors_begin_with(path):
        lines = decode_utf8(data).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.rstrip("\r") for line in lines]
