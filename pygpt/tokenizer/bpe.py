"""Defines byte-level BPE: opens GPT-2's tokenizer, or trains one of the same kind.

    text    "It's lowest"
    pieces  "It" "'s" " lowest"               words with the space before them, numbers, punctuation
    bytes   I t   ' s   ␣ l o w e s t         at first, each byte is a token
    tokens  I t   ' s   ␣lowe s t             the learned pairs of neighbours are joined

Training counts the pieces of a text and joins the most frequent pair of neighbours, again and
again. Encoding joins the same pairs in the same order. Because both start from bytes, any text has
ids and is decoded unchanged. Because frequent pairs are joined, a token is about four characters
of English.

Begin with bpe_python.py: it is the algorithm, 60 lines with an example by hand. bpe_c.py has the
same functions from the C library and is used unless PYGPT_BACKEND is `reference`. The class here
gives the algorithm a vocabulary, special tokens, long texts and files.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygpt.backend.arguments import checked_path, checked_type, shown
from pygpt.config import items_of, whole_number
from pygpt.files import errors_begin_with, read_json_object
from pygpt.tokenizer import tokenizer_json, vocabulary
from pygpt.tokenizer.added import END_OF_TEXT, MOST_BYTES, AddedToken, SideFiles
from pygpt.tokenizer.base import Tokenizer, special_strings, texts_of
from pygpt.tokenizer.reading import read_text
from pygpt.tokenizer.text import BLOCK, SpecialTokens, parts, utf8
from pygpt.tokenizer.vocabulary import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from typing_extensions import Self

    from pygpt.tokenizer.base import Strings

    Text = str | os.PathLike[str]


def _backend():
    """Return the module with the algorithm, bpe_c or bpe_python, imported on first use."""
    from pygpt.backend import kernels

    if kernels.ffi is None:
        from pygpt.tokenizer import bpe_python
        return bpe_python
    from pygpt.tokenizer import bpe_c
    return bpe_c


class BPETokenizer(Tokenizer):
    """Encodes by byte-level BPE within the pieces into which GPT-2 cuts a text.

    Example: with the one merge (b"a", b"n"), "banana" is b, an, an, a.
    """

    def __init__(self, vocab: dict[bytes, int], merges: Sequence[tuple[bytes, bytes]],
                 special_tokens: dict[str, int] | None = None,
                 added_tokens: dict[str, int] | None = None) -> None:
        """Make a tokenizer from a vocabulary and its merges.

        Args:
            vocab: dict from the bytes of each token to its id; every single byte is a token.
            merges: sequence of (left, right) tokens, as bytes, the first merged first.
            special_tokens: dict from string to id; these strings are tokens only where a call of
                encode allows them.
            added_tokens: dict from string to id; these strings are tokens wherever they occur. The
                ids in the three dicts together are 0..vocab_size-1.
        Raises:
            ValueError: the arguments do not fit together; the message says where.
        """
        self._vocab, self._merges = checked_type("vocab", vocab, dict), _pairs(merges)
        for name, tokens in ("special_tokens", special_tokens), ("added_tokens", added_tokens):
            if tokens is not None:
                checked_type(name, tokens, dict)
        self._special, self._added = dict(special_tokens or {}), dict(added_tokens or {})
        self._compile()

    def _compile(self):
        """Build the tables that the backend in use needs, from the vocabulary and the merges."""
        vocab = self._vocab
        super().__init__(_by_id(vocab, self._special, self._added))
        for byte in range(256):
            if bytes([byte]) not in vocab:
                raise ValueError(f"vocab: the byte 0x{byte:02x} has no token")
        codes, seen = [], set()  # the ids (left, right, result) of each merge; its pair
        for i, (left, right) in enumerate(self._merges):
            try:
                codes.append((vocab[left], vocab[right], vocab[left + right]))
            except KeyError as error:
                raise ValueError(f"merges[{i}]: {show(error.args[0])} is not a token of the "
                                 "vocabulary") from None
            if (left, right) in seen:
                raise ValueError(f"merges[{i}]: the pair {show(left)} {show(right)} comes twice")
            seen.add((left, right))
        made = {left + right for left, right in seen}
        tokens = [b""] * self.vocab_size
        for token, index in vocab.items():
            if len(token) != 1 and token not in made:
                raise ValueError(f"vocab: no merge makes the token {show(token)} (id {index})")
            tokens[index] = token
        self._algorithm = _backend()
        self._codec = self._algorithm.Codec(tokens, codes)

    def __copy__(self) -> Self:
        """Return a copy that shares the compiled table, which never changes."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Leave the compiled table out of a pickle or deep copy; __setstate__ compiles it anew."""
        return {name: value for name, value in vars(self).items()
                if name not in ("_tokens", "_algorithm", "_codec")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._compile()

    # ------------------------------------------------------------------- training and opening ----

    @classmethod
    def train(cls, source: Text | Iterable[Text], vocab_size: int = 4096,
              special_tokens: Iterable[str] = ()) -> Self:
        """Learn merges from a text.

        The most frequent pair of neighbours becomes a token and is merged in the text; then the
        most frequent pair of that text becomes a token, and so on. Of equally frequent pairs, the
        lexicographically greatest is taken (by left bytes, then by right bytes). The result depends
        only on the arguments.

        Args:
            source: the text, or a pathlib.Path of a file of UTF-8 text, or an iterable of texts and
                Paths; each is a document of its own, and files may be of any size.
            vocab_size: the number of tokens in the result, special tokens included; at least 256 +
                len(special_tokens). The result has fewer when no pair is left to merge.
            special_tokens: strings that are one token each, with the last ids. Where one occurs in
                the text, the text is split there, and nothing is learned from it.
        Returns:
            A BPETokenizer: ids 0..255 are the bytes, then come the merges, then special_tokens.
        Raises:
            OSError: a file cannot be read.
            ValueError: vocab_size is too small, a file is not UTF-8, or a special token is empty or
                comes twice.
        """
        special_tokens = _strings(special_tokens)
        least = 256 + len(special_tokens)
        if whole_number("vocab_size", vocab_size) < least:
            raise ValueError(f"vocab_size={shown(vocab_size)} is less than {least}: 256 bytes and "
                             f"{len(special_tokens)} special tokens")
        if len(set(special_tokens)) < len(special_tokens):
            raise ValueError(f"special_tokens={shown(special_tokens)} holds a token twice")
        tokens, merges = [bytes([byte]) for byte in range(256)], []
        _by_id(_numbered(tokens, 0), _numbered(special_tokens, 256), {})  # refuses bad ones early
        algorithm = _backend()
        sources = [source] if isinstance(source, (str, os.PathLike)) else items_of(
            "source", source, "is neither a text nor a path, nor an iterable of these")
        counts = _count_pieces(sources, SpecialTokens(special_tokens), algorithm)
        for left, right in algorithm.train(counts, vocab_size - least):
            merges.append((tokens[left], tokens[right]))
            tokens.append(tokens[left] + tokens[right])
        return cls(_numbered(tokens, 0), merges, _numbered(special_tokens, len(tokens)))

    @classmethod
    def from_gpt2(cls, directory: str | os.PathLike[str]) -> Self:
        """Open GPT-2's vocab.json and merges.txt, and the files beside them that added.py reads.

        A word that looks like <this> and that no merge makes is a special token, unless those
        files deny it.

        Raises:
            OSError: a file is missing.
            ValueError: a file is damaged; the message names it.
        """
        directory = Path(checked_path("directory", directory))
        side = SideFiles(directory)
        found = cls._from_gpt2(directory, side)
        found._settings = side.settings
        return found

    @classmethod
    def _from_gpt2(cls, directory, side):
        path = directory / "vocab.json"
        merges = vocabulary.read_merges_txt(directory / "merges.txt")
        words = read_json_object(path, MOST_BYTES)
        side.require_gpt2()
        added = side.complete({word: AddedToken(index, True, False, str(path)) for word, index in
                               vocabulary.find_special(words, merges).items()}, words)
        with errors_begin_with(path):
            vocab = vocabulary.read_vocab(words, "vocab", added, merges)
        vocabulary.check_added(added, vocab)
        try:
            return cls(vocab, merges, *vocabulary.split_added(added))
        except ValueError as error:
            if str(error).startswith("merges"):
                path = directory / "merges.txt"
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_tiktoken(cls, path: str | os.PathLike[str],
                      special_tokens: Iterable[str] = ()) -> Self:
        """Open a rank file of tiktoken; its vocabulary must be made for GPT-2's pieces.

        Args:
            path: the path of a file with a token in base64 and its rank on each line.
            special_tokens: strings, which the file does not list; they get the ids that follow the
                last rank. GPT-2's ranks and ["<|endoftext|>"] give GPT-2's tokenizer.
        Raises:
            OSError: the file cannot be read.
            ValueError: the file is damaged; the message names it and the line.
        """
        path, special_tokens = checked_path("path", path), _strings(special_tokens)
        vocab, merges = vocabulary.read_tiktoken(path)
        with errors_begin_with(path):
            return cls(vocab, merges, _numbered(special_tokens, len(vocab)))

    @classmethod
    def _from_other_files(cls, directory, side):
        if (directory / "vocab.json").exists():
            return cls._from_gpt2(directory, side)
        ranks = sorted(directory.glob("*.tiktoken"))
        if len(ranks) != 1:
            return None
        side.require_gpt2()
        vocab, merges = vocabulary.read_tiktoken(ranks[0])
        # A rank file lists no special tokens, so a role does not make one either.
        added, side.settings = side.with_roles(side.tokens), side.settings_without_roles()
        vocabulary.check_added(added, vocab)
        with errors_begin_with(ranks[0]):
            return cls(vocab, merges, *vocabulary.split_added(added))

    @classmethod
    def _from_document(cls, document: dict[str, Any], roles: Any) -> Self | None:
        found = tokenizer_json.read_bpe_document(document, roles)
        return cls(*found) if found else None

    def _document(self):
        return tokenizer_json.bpe_document(self._vocab, self._merges, self._special, self._added)

    def _config(self):
        config = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
        config = (config if END_OF_TEXT in self._special else {}) | super()._config()
        words = vocabulary.spelled(self._vocab, self._special | self._added)
        if vocabulary.find_special(words, self._merges) != self._special or self._added:
            # vocab.json alone would not show which tokens are special or added
            config["added_tokens_decoder"] = tokenizer_json.added_tokens_decoder(self._special,
                                                                                 self._added)
        return config

    def _files(self):
        tokens = self._special | self._added
        return vocabulary.gpt2_files(self._vocab, self._merges, tokens) | super()._files()

    # ----------------------------------------------------------------------------- text to ids ---

    def encode(self, text: str, allowed_special: Strings = frozenset(),
               disallowed_special: Strings = "all") -> list[int]:
        """Return the ids of text, as Tokenizer.encode; a lone surrogate counts as U+FFFD."""
        checked_type("text", text, str)
        blocks = (text[start:start + BLOCK] for start in range(0, len(text), BLOCK))
        return list(self.encode_iterable(blocks, allowed_special, disallowed_special))

    def encode_parts(self, chunks: Iterable[str], allowed_special: Strings = frozenset(),
                     disallowed_special: Strings = "all") -> Iterator[list[int]]:
        """Encode a text that comes in chunks, as Tokenizer.encode_parts.

        A single word of many megabytes is held in memory, because its ids depend on all of it.
        """
        every = self._special.keys()
        allowed = special_strings("allowed_special", allowed_special)
        allowed = every if allowed == "all" else every & allowed
        forbidden = special_strings("disallowed_special", disallowed_special)
        forbidden = every - allowed if forbidden == "all" else forbidden
        special = SpecialTokens(allowed | self._added.keys(), forbidden)
        ids = self._special | self._added
        for part in parts(texts_of(chunks), special, self._algorithm.last_boundary):
            yield [ids[part]] if isinstance(part, str) else self._codec.encode(part)


def _count_pieces(sources, special, algorithm):
    """Count each piece in all texts and files together, in the order of first appearance."""
    counts = Counter()
    for source in sources:
        is_path = isinstance(source, os.PathLike)
        chunks = read_text(source) if is_path else (checked_type("source: a text", source, str),)
        for part in parts(chunks, special, algorithm.last_boundary, 16 * BLOCK):
            if isinstance(part, bytes):
                counts.update(algorithm.count(part))
    return counts


def _strings(special_tokens):
    """Return a list of the special tokens that a caller names."""
    strings = list(items_of("special_tokens", special_tokens, "is not a sequence of strings"))
    return [checked_type("special_tokens: an item", string, str) for string in strings]


def _pairs(merges):
    """Return merges, a sequence of pairs of bytes."""
    merges = merges if isinstance(merges, list) else list(
        items_of("merges", merges, "is not a sequence of pairs of tokens"))
    for place, pair in enumerate(merges):
        if not (isinstance(pair, tuple) and len(pair) == 2 and type(pair[0]) is type(pair[1])
                is bytes):
            raise ValueError(f"merges[{place}]: {shown(pair)} is not a pair of tokens, as bytes")
    return merges


def _numbered(tokens, first):
    """Give tokens the ids first, first + 1, ...: {token: id}."""
    return {token: first + i for i, token in enumerate(tokens)}


def _by_id(vocab, special_tokens, added_tokens):
    """Return {id: the bytes of its token}.

    Raises:
        ValueError: the ids are not 0, 1, 2, ... or a special or added token is not text.
    """
    both = special_tokens.keys() & added_tokens.keys()
    if both:
        raise ValueError(f"added_tokens: {shown(next(iter(both)))} is a special token too")
    own = {}
    for field, named in ("special_tokens", special_tokens), ("added_tokens", added_tokens):
        for token, index in named.items():
            own[token] = AddedToken(index, None, False, field)
    own = vocabulary.check_added(own, vocab)
    size = len(vocab) + len(own)
    tokens = {index: utf8(token) for token, index in own.items()}
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < size:
            raise ValueError(f"vocab: the id {shown(index)} of {show(token)} is not in "
                             f"0..{size - 1}")
        if index in tokens:
            raise ValueError(f"vocab: the id {index} belongs to both {show(tokens[index])} and "
                             f"{show(token)}")
        tokens[index] = token
    return tokens
