"""Defines the two simplest tokenizers: one id for each character, or one id for each byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pygpt.backend.arguments import checked_type, shown
from pygpt.config import items_of
from pygpt.tokenizer.base import Tokenizer, special_strings, texts_of
from pygpt.tokenizer.text import SpecialTokens, parts, utf8
from pygpt.tokenizer.tokenizer_json import byte_level, check_envelope, empty_document, is_bytes
from pygpt.tokenizer.vocabulary import BYTE_TO_CHAR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Self

    from pygpt.tokenizer.base import Strings


class CharTokenizer(Tokenizer):
    """Gives one id to each character of the vocabulary.

    Example: CharTokenizer.train("banana").encode("nab") == [2, 0, 1]
    """

    # This pre-tokenizer makes every character a word; only this kind of tokenizer.json has it.
    _EACH_CHARACTER = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated",
                       "invert": False}
    _NO_TOKEN = "<unknown>"  # it is more than one character, so it is never in the vocabulary

    unknown: str

    def __init__(self, characters: Iterable[str], unknown: str = "error") -> None:
        """Give the i-th character the id i.

        Args:
            characters: iterable of different one-character strings, no lone surrogates.
            unknown: how encode treats any other character: "error" refuses it, "skip" leaves it
                out, and one of the characters takes its place.
        Raises:
            ValueError: an item of characters is not such a string or comes twice, or unknown is
                none of these.
        """
        self._ids = {}
        if not isinstance(characters, str):
            characters = items_of("characters", characters, "is not an iterable of characters")
        for index, character in enumerate(characters):
            where = f"vocab: {shown(character)} (id {index})"
            if not isinstance(character, str) or len(character) != 1:
                raise ValueError(f"{where} is not a single character")
            if "\ud800" <= character <= "\udfff":
                raise ValueError(f"{where} is a lone surrogate, not text")
            if character in self._ids:
                raise ValueError(f"{where} has the id {self._ids[character]} too")
            self._ids[character] = index
        super().__init__({index: c.encode("utf-8") for c, index in self._ids.items()})
        if not isinstance(unknown, str) or (unknown not in ("error", "skip")
                                            and unknown not in self._ids):
            raise ValueError(f"unknown={shown(unknown)} is not 'error', 'skip' or a character of "
                             "the vocabulary")
        self.unknown = unknown

    @classmethod
    def train(cls, text: str, unknown: str = "error") -> Self:
        """Give every character of a text an id, in code point order.

        Args:
            text: a str of any length.
            unknown: as for CharTokenizer; a character that replaces unknown ones gets an id too.
        Returns:
            A tokenizer whose vocab_size is the number of different characters.
        Raises:
            ValueError: the text holds a lone surrogate, which Python makes of bytes that are not
                UTF-8.
        """
        checked_type("text", text, str)
        extra = {unknown} if isinstance(unknown, str) and len(unknown) == 1 else set()
        return cls(sorted(extra.union(text)), unknown)

    def encode(self, text: str, allowed_special: Strings = frozenset(),
               disallowed_special: Strings = "all") -> list[int]:
        """Return the id of each character; there are no special tokens.

        Raises:
            ValueError: a character has no id, and `unknown` is "error".
        """
        special_strings("allowed_special", allowed_special)
        special_strings("disallowed_special", disallowed_special)
        return self._encode(checked_type("text", text, str), 0)

    def encode_parts(self, chunks: Iterable[str], allowed_special: Strings = frozenset(),
                     disallowed_special: Strings = "all") -> Iterator[list[int]]:
        """Encode a text that comes in chunks, as Tokenizer.encode_parts."""
        special_strings("allowed_special", allowed_special)
        special_strings("disallowed_special", disallowed_special)
        position = 0
        for chunk in texts_of(chunks):
            yield self._encode(chunk, position)
            position += len(chunk)

    def _encode(self, text, position):
        """Return the ids of a text; the error message counts positions from `position`."""
        try:
            return list(map(self._ids.__getitem__, text))
        except KeyError as error:
            character = error.args[0]
        if self.unknown == "skip":
            return [self._ids[c] for c in text if c in self._ids]
        if self.unknown != "error":
            stand_in = self._ids[self.unknown]
            return [self._ids.get(c, stand_in) for c in text]
        raise ValueError(f"the character {character!r} (U+{ord(character):04X}) at position "
                         f"{position + text.index(character)} is not in the vocabulary of "
                         f"{self.vocab_size}")

    def _has_special(self, content):
        # A character of the vocabulary is matched anyway, and _NO_TOKEN never is.
        return content in self._ids or content == self._NO_TOKEN

    def _document(self) -> dict[str, Any]:
        # The tokenizers library too raises an error when unk_token is not in vocab, and its BPE
        # skips unknown characters when unk_token is None.
        model = {"type": "WordLevel", "vocab": self._ids, "unk_token": self.unknown}
        if self.unknown == "error":
            model["unk_token"] = self._NO_TOKEN
        elif self.unknown == "skip":
            model = {"type": "BPE", "vocab": self._ids, "merges": [], "unk_token": None}
        return empty_document() | {"pre_tokenizer": self._EACH_CHARACTER,
                                   "decoder": {"type": "Fuse"}, "model": model}

    @classmethod
    def _from_document(cls, document: dict[str, Any], roles: Any) -> Self | None:
        model = document.get("model")
        if document.get("pre_tokenizer") != cls._EACH_CHARACTER or not isinstance(model, dict):
            return None
        if model.get("type") == "WordLevel":
            unknown = model.get("unk_token")
            if unknown == cls._NO_TOKEN:
                unknown = "error"
            elif not isinstance(unknown, str) or len(unknown) != 1:
                raise ValueError(f"model.unk_token: {shown(unknown)} is not a character")
        elif model.get("type") == "BPE" and model.get("merges") == []:
            unknown = "skip"
        else:
            return None
        check_envelope(document, takes_added=False)
        vocab = model.get("vocab")
        if not isinstance(vocab, dict):
            raise ValueError("model.vocab: is not an object of tokens and ids")
        by_id = {}
        for character, index in vocab.items():
            if type(index) is not int or not 0 <= index < len(vocab):
                raise ValueError(f"model.vocab: the id {shown(index)} of {shown(character)} is not "
                                 f"in 0..{len(vocab) - 1}")
            other = by_id.setdefault(index, character)
            if other != character:
                raise ValueError(f"model.vocab: {shown(other)} and {shown(character)} share id "
                                 f"{index}")
        return cls((by_id[index] for index in range(len(vocab))), unknown)


class ByteTokenizer(Tokenizer):
    """Gives one id to each byte of UTF-8: 256 ids encode any text, and nothing is learned.

    Example: ByteTokenizer().encode("né") == [110, 195, 169]
    """

    _VOCAB = {character: byte for byte, character in enumerate(BYTE_TO_CHAR)}

    def __init__(self) -> None:
        super().__init__({byte: bytes([byte]) for byte in range(256)})

    def encode(self, text: str, allowed_special: Strings = frozenset(),
               disallowed_special: Strings = "all") -> list[int]:
        """Return the bytes of text as UTF-8; a lone surrogate counts as U+FFFD."""
        special_strings("allowed_special", allowed_special)
        special_strings("disallowed_special", disallowed_special)
        return list(utf8(checked_type("text", text, str)))

    def encode_parts(self, chunks: Iterable[str], allowed_special: Strings = frozenset(),
                     disallowed_special: Strings = "all") -> Iterator[list[int]]:
        """Encode a text that comes in chunks, as Tokenizer.encode_parts."""
        special_strings("allowed_special", allowed_special)
        special_strings("disallowed_special", disallowed_special)
        yield from map(list, parts(texts_of(chunks), SpecialTokens(()), last_boundary=len))

    def _document(self) -> dict[str, Any]:
        step = byte_level(use_regex=False)
        model = {"type": "BPE", "vocab": self._VOCAB, "merges": []}
        return empty_document() | {"pre_tokenizer": step, "decoder": step, "model": model}

    @classmethod
    def _from_document(cls, document: dict[str, Any], roles: Any) -> Self | None:
        if not is_bytes(document):
            return None
        check_envelope(document, takes_added=False)
        if document["model"].get("vocab") != cls._VOCAB:
            raise ValueError("model.vocab: is not the 256 bytes, each with its value as id")
        return cls()
