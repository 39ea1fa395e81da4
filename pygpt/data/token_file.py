"""Encodes a text in one pass; more tokens than memory should hold go to a mapped file.

A tokens file has no header. It holds uint16 numbers where the vocabulary allows it, else uint32, in
the machine's byte order. nanoGPT's preparation scripts write the uint16 form as train.bin, and such
files are read as they are. A file that encode makes has two digests in its name:

    tokens-KEY-CONTENT.bin    KEY: of the text, the tokenizer and the versions (32 hex digits)
                              CONTENT: of the tokens in the file (32 hex digits)
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

IN_MEMORY = 1 << 24  # at most this many tokens stay in memory; more go to a file
CHECKED_AT_ONCE = 1 << 20  # tokens whose range is checked at once
MOST_META_BYTES = 1 << 24  # the largest meta.pkl that is read; all of Unicode takes less
PIECE = 1 << 16  # bytes of tokens that are hashed at once
REPORTED_EVERY = 1 << 10  # pieces between two reports of progress

# KEY covers this number: raise it when the way that text becomes tokens changes. (KEY covers the
# version of the package too, so the files of an earlier release are made anew.)
ENCODING = 2
UNFINISHED = "tokens-new.bin"
_FILE = re.compile(r"tokens-(?:new|[0-9a-f]{32}-[0-9a-f]{32})\.bin")


def code_for(vocab_size):
    """Return the array code of a token: "H" (uint16) or "I" (uint32)."""
    return "H" if vocab_size <= 1 << 16 else "I"


class TokenFiles:
    """Makes, finds and removes the tokens files in a directory of a run.

    Attributes:
        used: the paths of the files whose tokens encode has returned.
    """

    def __init__(self, directory, prepare=lambda: None, watch=lambda purpose, *_: None):
        """Prepare to encode.

        Args:
            directory: the directory of the files; it is made before the first file is written.
            prepare: called before a file is written there.
            watch: called with "encoding" before the text is read to look for an earlier file of
                its tokens; with "tokens" before the text is encoded; and with "integrity", the
                bytes checked so far and all bytes to check, while a tokens file is checked.
        """
        self.directory, self.used, self._made = directory, set(), set()
        self._prepare, self._watch = prepare, watch

    def encode(self, corpus, tokenizer):
        """Return the tokens of a corpus.

        If the tokenizer has the special token <|endoftext|>, one follows every document; otherwise
        a newline separates two documents. Special tokens that the text spells out are read as
        tokens. More than IN_MEMORY tokens go to a file in the directory; a later run on the same
        text finds that file and uses it, unless it was damaged.

        Args:
            corpus: a Corpus.
            tokenizer: a Tokenizer.
        Returns:
            A memoryview of format "H" or "I".
        Raises:
            OSError: a file cannot be read or written.
            DataError: a file is not text, or is not a file of tokens.
        """
        code = code_for(tokenizer.vocab_size)
        if corpus.tokens_file:
            return map_tokens(corpus.tokens_file, code, tokenizer.vocab_size)
        tokens = self._find_earlier(corpus, tokenizer, code)
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
        # The text may have changed since it was first read, so its key is computed only now.
        path = os.path.join(self.directory, f"tokens-{_key(corpus, tokenizer)}-"
                            f"{fingerprint(tokens, self._watch, 'integrity')}.bin")
        if not os.path.lexists(path):
            self._made.add(path)
        os.replace(unfinished, path)
        self.used.add(path)
        return tokens

    def _find_earlier(self, corpus, tokenizer, code):
        """Map the file of tokens that was made from this text earlier; None when there is none."""
        names = self._names()
        if not names:
            return None
        self._watch("encoding")
        start = f"tokens-{_key(corpus, tokenizer)}-"
        for name in [name for name in names if name.startswith(start)]:
            path = os.path.join(self.directory, name)
            with suppress(DataError):  # the file was cut off
                tokens = map_tokens(path, code)
                if name == f"{start}{fingerprint(tokens, self._watch, 'integrity')}.bin":
                    self.used.add(path)
                    return tokens
        return None

    def keep(self):
        """Keep the files that were made: discard no longer removes them."""
        self._made.clear()

    def discard(self):
        """Remove the files that encode has made since the last keep."""
        self._remove(self._made)

    def remove_unused(self):
        """Remove the files that earlier runs made from texts that are no longer used."""
        self._remove({os.path.join(self.directory, name) for name in self._names()} - self.used)

    def _remove(self, paths):
        """Remove files, and then the directory if it is empty."""
        for path in [*paths, None]:
            with suppress(OSError):  # the file is already gone, or the directory holds other files
                os.unlink(path) if path else os.rmdir(self.directory)

    def _names(self):
        """List the names of the files that this or an earlier run made in the directory."""
        if not os.path.isdir(self.directory):
            return []
        return sorted(name for name in os.listdir(self.directory) if _FILE.fullmatch(name)
                      and os.path.isfile(os.path.join(self.directory, name)))


def _parts(corpus, tokenizer):
    """Yield the ids of a corpus, one list after another."""
    if tokenizer.end_of_text is None:
        yield from tokenizer.encode_parts(corpus.joined(), allowed_special="all")
    else:
        for document in corpus.documents():
            yield from tokenizer.encode_parts(document, allowed_special="all")
            yield [tokenizer.end_of_text]


def _key(corpus, tokenizer):
    """Return the KEY in a file's name: a digest of the text, the tokenizer and the versions."""
    about = [corpus.content_digests(), tokenizer._document(), ENCODING, pygpt.__version__]
    text = json.dumps(about, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def map_tokens(path, code, vocab_size=None):
    """Map a tokens file.

    Args:
        path: the path of the file.
        code: "H" or "I".
        vocab_size: when given, every token must be below it; checking 100 million takes a second.
    Returns:
        A memoryview of that format; a page of the file is read when it is first used.
    Raises:
        OSError: the file cannot be read.
        DataError: the file is empty, ends within a token, or holds a token out of range.
    """
    with _opened(path) as file:
        size, width = os.fstat(file.fileno()).st_size, array(code).itemsize
        if not size or size % width:
            raise DataError(f"{path}: {size} bytes are not one or more tokens of {width} bytes "
                            "each")
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
    except ValueError as error:  # for example a pipe, which would block
        raise DataError(str(error)) from None


def fingerprint(tokens, watch=lambda *_: None, purpose="fingerprint"):
    """Return a digest of all tokens, as text: two sequences that are the same have the same one.

    A processor hashes about 0.7 GB/s, which is 350 million tokens of uint16 in a second.

    Args:
        tokens: a memoryview of one dimension.
        watch: called every REPORTED_EVERY pieces with purpose, the bytes hashed and all bytes.
        purpose: the first argument of watch.
    """
    data = tokens.cast("B")
    digest = hashlib.blake2b(f"{tokens.format}{len(tokens)}".encode(), digest_size=16)
    pieces = -(-len(data) // PIECE)
    for number in range(pieces):  # spread evenly, so neighbours overlap a little
        start = number * max(0, len(data) - PIECE) // max(1, pieces - 1)
        digest.update(data[start : start + PIECE])
        if number % REPORTED_EVERY == REPORTED_EVERY - 1:
            watch(purpose, start + PIECE, len(data))
    return digest.hexdigest()


def tokenizer_beside(path):
    """Open the vocabulary that nanoGPT's character scripts leave in meta.pkl beside a tokens file.

    Returns:
        A CharTokenizer, or None when there is no meta.pkl.
    Raises:
        OSError: meta.pkl cannot be read.
        DataError: meta.pkl does not hold such a vocabulary. It is read as data: nothing in it runs.
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
        return _tokenizer_of(plain_pickle.loads(data))
    except ValueError as error:
        raise DataError(f"{path}: is not a vocabulary of characters ({error})") from None


def _tokenizer_of(meta):
    """Return the CharTokenizer of the object in meta.pkl.

    Raises:
        ValueError: an id has no character, or two ids have the same one.
    """
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if isinstance(itos, dict):
        if missing := [index for index in range(len(itos)) if index not in itos]:
            raise ValueError(f"itos has {len(itos)} entries, and none for the id {missing[0]}")
        itos = [itos[index] for index in range(len(itos))]
    if not isinstance(itos, list) or not itos:
        raise ValueError("it holds no dict or list of characters called itos")
    return CharTokenizer(itos)
