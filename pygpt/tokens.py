"""Tokens of a text: encoded in one pass, in a mapped file when there are many.

A tokens file has no header: uint16 numbers where the vocabulary allows it, else uint32, in the
machine's byte order. The uint16 form is what nanoGPT's preparation scripts write as train.bin, and
such files are taken as they are. Standard library, corpus and files; used by train.
"""

import hashlib
import json
import mmap
import os
import pickle
from array import array

from pygpt.corpus import DataError, identity
from pygpt.files import map_bytes, replacing

IN_MEMORY = 1 << 24  # tokens; more go to a file
CHECKED_AT_ONCE = 1 << 20
END_OF_TEXT = "<|endoftext|>"


def code_for(vocab_size):
    """The array code of a token: "H" (uint16) or "I" (uint32)."""
    return "H" if vocab_size <= 1 << 16 else "I"


def encode(corpus, tokenizer, directory):
    """The tokens of a corpus.

    A tokenizer that has the special token <|endoftext|> gets one behind every document; with others
    a newline parts two documents. Special tokens written in the text are read as tokens.

    Args:
        corpus: a Corpus.
        tokenizer: a Tokenizer.
        directory: where the tokens go when they are more than IN_MEMORY; found there again by
            a later run on the same files.
    Returns:
        A memoryview of format "H" or "I".
    Raises:
        OSError: a file cannot be read or written.
        DataError: a file is not what it should be.
    """
    code = code_for(tokenizer.vocab_size)
    if corpus.tokens_file:
        return map_tokens(corpus.tokens_file, code, tokenizer.vocab_size)
    path = _cache_path(corpus, tokenizer, directory)
    if path and os.path.exists(path):
        return map_tokens(path, code)
    parts = _parts(corpus, tokenizer)
    head = array(code)
    for ids in parts:
        head += array(code, ids)
        if len(head) > IN_MEMORY:
            break
    else:
        return memoryview(head)
    os.makedirs(directory, exist_ok=True)
    path = path or os.path.join(directory, f"{os.getpid()}.bin")
    with replacing(path) as file:
        head.tofile(file)
        del head
        for ids in parts:
            array(code, ids).tofile(file)
    return map_tokens(path, code)


def _parts(corpus, tokenizer):
    """Yield the ids of a corpus, a list at a time."""
    special = getattr(tokenizer, "special_tokens", {})
    if END_OF_TEXT in special:
        for document in corpus.documents():
            yield from tokenizer.encode_parts(document, allowed_special="all")
            yield [special[END_OF_TEXT]]
    else:
        yield from tokenizer.encode_parts(corpus.joined(), allowed_special="all")


def _cache_path(corpus, tokenizer, directory):
    about = identity(corpus)
    if about is None or not corpus.files:
        return None
    text = json.dumps([about, tokenizer._document()], sort_keys=True)
    key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return os.path.join(directory, f"{key}.bin")


def map_tokens(path, code, vocab_size=None):
    """Map a tokens file.

    Args:
        path: of the file.
        code: "H" or "I".
        vocab_size: when given, every token is held to it; a hundred million take a second.
    Returns:
        A memoryview of that format; its pages are read when they are used.
    Raises:
        OSError: the file cannot be read.
        DataError: it is empty, ends within a token, or holds a token out of range.
    """
    with open(path, "rb") as file:
        size, width = os.fstat(file.fileno()).st_size, array(code).itemsize
        if not size or size % width:
            raise DataError(f"{path}: {size} bytes are no tokens of {width} bytes each")
        tokens = map_bytes(file, mmap.ACCESS_READ).cast(code)
    if vocab_size is not None and vocab_size < 1 << 8 * width:
        for start in range(0, len(tokens), CHECKED_AT_ONCE):
            part = tokens[start : start + CHECKED_AT_ONCE]
            if max(part) >= vocab_size:
                place = next(i for i, token in enumerate(part) if token >= vocab_size)
                raise DataError(f"{path}: token {part[place]} at offset {(start + place) * width} "
                                f"is not in 0..{vocab_size - 1}, the ids of the tokenizer")
    return tokens


def fingerprint(tokens):
    """A text that two sequences of tokens share when they are the same, surely enough.

    Up to 16 MiB are read: all of a small text, 256 evenly spread pieces of a large one.
    """
    data, piece = tokens.cast("B"), 1 << 16
    hash = hashlib.blake2b(f"{tokens.format}{len(tokens)}".encode(), digest_size=16)
    pieces = min(256, -(-len(data) // piece))
    for number in range(pieces):
        start = number * max(0, len(data) - piece) // max(1, pieces - 1)
        hash.update(data[start : start + piece])
    return hash.hexdigest()


def characters_beside(path):
    """The vocabulary that nanoGPT's character scripts leave in meta.pkl beside a tokens file.

    Returns:
        The characters in the order of their ids; None when there is no meta.pkl.
    Raises:
        DataError: meta.pkl holds something else. It is read as data: nothing in it is run.
    """
    path = os.path.join(os.path.dirname(path), "meta.pkl")
    if not os.path.exists(path):
        return None
    try:
        with open(path, "rb") as file:
            itos = _PlainUnpickler(file).load()["itos"]
        return [itos[index] for index in range(len(itos))]
    except (pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, ValueError,
            AttributeError, MemoryError) as error:
        raise DataError(f"{path}: is no vocabulary of characters ({error})") from None


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, lists, texts and numbers; whatever asks for a class or function is refused."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
