"""Tokens of a text: encoded in one pass, in a mapped file when there are many.

A tokens file has no header: uint16 numbers where the vocabulary allows it, else uint32, in the
machine's byte order. The uint16 form is what nanoGPT's preparation scripts write as train.bin, and
such files are taken as they are. The files that encode makes carry in their names what they were
made from and a digest of their content. Imports corpus, files,
plain_pickle and tokenizer; used by dataset.
"""

import hashlib
import json
import mmap
import os
import re
from array import array
from contextlib import suppress

import pygpt
from pygpt.data.corpus import DataError
from pygpt.files import map_bytes, open_regular, replacing
from pygpt.tokenizer import CharTokenizer
from pygpt.tokenizer.added import END_OF_TEXT

IN_MEMORY = 1 << 24  # tokens; more go to a file
CHECKED_AT_ONCE = 1 << 20
MOST_META_BYTES = 1 << 24  # of meta.pkl: all of Unicode takes less
PIECE = 1 << 16  # bytes of tokens that are hashed at once
TOLD_EVERY = 1 << 10  # pieces

# Part of every file's name: a change of how text becomes tokens raises it. (The version of the
# package is in the name too, so files of an earlier release are made anew.)
ENCODING = 2
UNFINISHED = "tokens-new.bin"
_FILE = re.compile(r"tokens-(?:new|[0-9a-f]{32}-[0-9a-f]{32})\.bin")


def code_for(vocab_size):
    """The array code of a token: "H" (uint16) or "I" (uint32)."""
    return "H" if vocab_size <= 1 << 16 else "I"


class TokenFiles:
    """The tokens files in a directory of a run.

    Attributes:
        used: the paths of those whose tokens were asked for.
    """

    def __init__(self, directory, prepare=lambda: None, watch=lambda purpose, *_: None):
        """Prepare to encode.

        Args:
            directory: of the files; made when there is one to write.
            prepare: called before something is written there.
            watch: called with "encoding" or "tokens" before the text is read to find a file of it
                again, or is encoded; and with "integrity", the bytes checked and those of all while
                such a file is checked.
        """
        self.directory, self.used, self._made = directory, set(), set()
        self._prepare, self._watch = prepare, watch

    def encode(self, corpus, tokenizer):
        """The tokens of a corpus: see the function encode, which does this once."""
        code = code_for(tokenizer.vocab_size)
        if corpus.tokens_file:
            return map_tokens(corpus.tokens_file, code, tokenizer.vocab_size)
        tokens = self._found_again(corpus, tokenizer, code)
        if tokens is not None:
            return tokens
        self._watch("tokens")
        parts = _parts(corpus, tokenizer)
        head = array(code)
        for ids in parts:
            head += array(code, ids)
            if len(head) > IN_MEMORY:
                break
        else:
            return memoryview(head)
        self._prepare()
        os.makedirs(self.directory, exist_ok=True)
        unfinished = os.path.join(self.directory, UNFINISHED)
        with replacing(unfinished) as file:
            head.tofile(file)
            del head
            for ids in parts:
                array(code, ids).tofile(file)
        self._made.add(unfinished)
        tokens = map_tokens(unfinished, code)
        # Only now is it known which text was read: it may have changed since it was read before.
        path = os.path.join(self.directory, f"tokens-{_key(corpus, tokenizer)}-"
                            f"{fingerprint(tokens, self._watch, 'integrity')}.bin")
        if not os.path.lexists(path):
            self._made.add(path)
        os.replace(unfinished, path)
        self.used.add(path)
        return tokens

    def _found_again(self, corpus, tokenizer, code):
        """The tokens that were made of this text before, or None."""
        names = self._names()
        if not names:
            return None
        self._watch("encoding")
        start = f"tokens-{_key(corpus, tokenizer)}-"
        for name in names:
            if not name.startswith(start):
                continue
            path = os.path.join(self.directory, name)
            try:
                tokens = map_tokens(path, code)
            except DataError:  # it was cut off
                continue
            if name == f"{start}{fingerprint(tokens, self._watch, 'integrity')}.bin":
                self.used.add(path)
                return tokens
        return None

    def keep(self):
        """Let the files that were made stay, whatever comes."""
        self._made.clear()

    def discard(self):
        """Remove the files that were made here, as if they never had been."""
        self._remove(self._made)

    def remove_unused(self):
        """Remove the files that earlier runs made of texts that are no longer used."""
        self._remove({os.path.join(self.directory, name) for name in self._names()} - self.used)

    def _remove(self, paths):
        for path in [*paths, None]:
            with suppress(OSError):  # one is gone already, or something else is in the directory
                os.unlink(path) if path else os.rmdir(self.directory)

    def _names(self):
        """The names of the files that this class has made, at any time."""
        if not os.path.isdir(self.directory):
            return []
        return sorted(name for name in os.listdir(self.directory) if _FILE.fullmatch(name)
                      and os.path.isfile(os.path.join(self.directory, name)))


def encode(corpus, tokenizer, directory):
    """The tokens of a corpus.

    A tokenizer that has the special token <|endoftext|> gets one behind every document; with others
    a newline parts two documents. Special tokens written in the text are read as tokens.

    Args:
        corpus: a Corpus.
        tokenizer: a Tokenizer.
        directory: where the tokens go when they are more than IN_MEMORY; found there again by
            a later run on the same text, unless the file was damaged.
    Returns:
        A memoryview of format "H" or "I".
    Raises:
        OSError: a file cannot be read or written.
        DataError: a file is not what it should be.
    """
    return TokenFiles(directory).encode(corpus, tokenizer)


def _parts(corpus, tokenizer):
    """Yield the ids of a corpus, a list at a time."""
    special = getattr(tokenizer, "special_tokens", {})
    if END_OF_TEXT in special:
        for document in corpus.documents():
            yield from tokenizer.encode_parts(document, allowed_special="all")
            yield [special[END_OF_TEXT]]
    else:
        yield from tokenizer.encode_parts(corpus.joined(), allowed_special="all")


def _key(corpus, tokenizer):
    """What names the tokens of a text: the text, the tokenizer and the way they are made."""
    about = [corpus.identity(), tokenizer._document(), ENCODING, pygpt.__version__]
    text = json.dumps(about, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


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
    with _opened(path) as file:
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


def _opened(path):
    try:
        return open_regular(path)
    except ValueError as error:  # a pipe, which would be waited for
        raise DataError(str(error)) from None


def fingerprint(tokens, watch=lambda *_: None, purpose="fingerprint"):
    """A text that two sequences of tokens share when they are the same: a digest of all of them.

    A processor hashes about 0.7 GB/s, which is 350 million tokens of uint16 in a second.

    Args:
        tokens: a memoryview of one dimension.
        watch: called, when there are many, with the purpose, the bytes hashed and those of all.
        purpose: of the digest.
    """
    data = tokens.cast("B")
    digest = hashlib.blake2b(f"{tokens.format}{len(tokens)}".encode(), digest_size=16)
    pieces = -(-len(data) // PIECE)
    for number in range(pieces):  # the last two overlap, as all do a little
        start = number * max(0, len(data) - PIECE) // max(1, pieces - 1)
        digest.update(data[start : start + PIECE])
        if number % TOLD_EVERY == TOLD_EVERY - 1:
            watch(purpose, start + PIECE, len(data))
    return digest.hexdigest()


def characters_beside(path):
    """The vocabulary that nanoGPT's character scripts leave in meta.pkl beside a tokens file.

    Returns:
        The characters in the order of their ids; None when there is no meta.pkl.
    Raises:
        OSError: meta.pkl cannot be read.
        DataError: meta.pkl holds something else. It is read as data: nothing in it is run.
    """
    path = os.path.join(os.path.dirname(path), "meta.pkl")
    if not os.path.lexists(path):
        return None
    from pygpt.data import plain_pickle
    with _opened(path) as file:
        data = file.read(MOST_META_BYTES + 1)
    try:
        if len(data) > MOST_META_BYTES:
            raise ValueError(f"it has more than {MOST_META_BYTES} bytes")
        return _characters(plain_pickle.loads(data))
    except ValueError as error:
        raise DataError(f"{path}: is no vocabulary of characters ({error})") from None


def _characters(meta):
    """The characters in what meta.pkl holds, in the order of their ids.

    Raises:
        ValueError: they are not one for each id, and each another.
    """
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if isinstance(itos, dict):
        if missing := [index for index in range(len(itos)) if index not in itos]:
            raise ValueError(f"itos has {len(itos)} entries, and none for the id {missing[0]}")
        itos = [itos[index] for index in range(len(itos))]
    if not isinstance(itos, list) or not itos:
        raise ValueError("it holds no dict or list of characters called itos")
    CharTokenizer(itos)
    return itos
