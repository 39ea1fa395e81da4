"""Text to token ids and back: the interface of every tokenizer, and the one by characters.

Uses the standard library only. A tokenizer is saved as one `tokenizer.json` in the format of the
Hugging Face `tokenizers` library, so the file gives the same ids there. Used by data, generate
and the command line.
"""

import json
import os
from abc import ABC, abstractmethod

FILE_NAME = "tokenizer.json"
MAX_FILE_BYTES = 1 << 28  # a vocabulary of a million tokens takes a tenth of this


class Tokenizer(ABC):
    """Text to ids and back; the ids are 0..vocab_size-1."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The number of different ids."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of text, first to last."""

    def encode_iterable(self, chunks):
        """Yield the ids of a text that comes in chunks (str), in memory that does not grow."""
        for chunk in chunks:
            yield from self.encode(chunk)

    @abstractmethod
    def decode(self, ids) -> str:
        """The text of an iterable of ids."""

    @abstractmethod
    def _document(self) -> dict:
        """The content of tokenizer.json."""

    @classmethod
    @abstractmethod
    def _from_document(cls, document: dict) -> "Tokenizer | None":
        """The tokenizer a tokenizer.json describes; None when it describes another kind.

        Raises:
            ValueError: it is of this kind, and wrong; the message begins with the field's name.
        """

    def save_pretrained(self, directory) -> None:
        """Write tokenizer.json into a directory, which is made if it is missing.

        Args:
            directory: path. A tokenizer.json in it is replaced, whole or not at all.
        Raises:
            OSError: the directory cannot be made or written.
        """
        os.makedirs(directory, exist_ok=True)
        text = json.dumps(self._document(), ensure_ascii=False, indent=1)
        _replace_file(os.path.join(directory, FILE_NAME), text.encode("utf-8"))

    @classmethod
    def from_pretrained(cls, directory) -> "Tokenizer":
        """Open the tokenizer in a directory, whatever its kind.

        Args:
            directory: path of a directory that save_pretrained has written to.
        Returns:
            A tokenizer of the kind found. Called on a subclass, one of that subclass.
        Raises:
            FileNotFoundError: there is no tokenizer.json.
            ValueError: the file is damaged or of a kind not known here (or not this subclass).
        """
        path = os.path.join(directory, FILE_NAME)
        document = _read_json(path)
        kinds = [CharTokenizer]
        try:
            for kind in kinds:
                tokenizer = kind._from_document(document)
                if isinstance(tokenizer, cls):
                    return tokenizer
                if tokenizer is not None:
                    raise ValueError(f"holds a {kind.__name__}, not a {cls.__name__}")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        raise ValueError(f"{path}: describes a kind of tokenizer that pygpt does not know")


class CharTokenizer(Tokenizer):
    """One id per character, for the characters it was given.

    Example: CharTokenizer.train("banana").encode("nab") == [2, 0, 1]
    """

    # What tells this kind of tokenizer.json from others: every character is a word of its own.
    _EACH_CHARACTER = {
        "type": "Split",
        "pattern": {"Regex": r"[\s\S]"},
        "behavior": "Isolated",
        "invert": False,
    }

    def __init__(self, characters):
        """Give the i-th character the id i.

        Args:
            characters: iterable of different one-character strings, no lone surrogates.
        Raises:
            ValueError: one of them is not such a string, or comes twice.
        """
        self._characters = dict(enumerate(characters))  # a dict, for a list would take -1
        self._ids = {}
        for index, character in self._characters.items():
            if not isinstance(character, str) or len(character) != 1:
                raise ValueError(f"vocab: {character!r} (id {index}) is not a single character")
            if "\ud800" <= character <= "\udfff":
                raise ValueError(f"vocab: {character!r} (id {index}) is a lone surrogate, not text")
            first = self._ids.setdefault(character, index)
            if first != index:
                raise ValueError(f"vocab: {character!r} has two ids, {first} and {index}")

    @classmethod
    def train(cls, text: str) -> "CharTokenizer":
        """Give every character of a text an id, in code point order.

        Args:
            text: any length.
        Returns:
            A tokenizer whose vocab_size is the number of different characters.
        Raises:
            ValueError: the text holds a lone surrogate (bytes that were not UTF-8).
        """
        return cls(sorted(set(text)))

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def encode(self, text: str) -> list[int]:
        """The id of each character.

        Raises:
            ValueError: a character has no id.
        """
        try:
            return list(map(self._ids.__getitem__, text))
        except KeyError as error:
            character = error.args[0]
        raise ValueError(f"the character {character!r} (U+{ord(character):04X}) at position "
                         f"{text.index(character)} is not in the vocabulary of {self.vocab_size}")

    def decode(self, ids) -> str:
        """The characters of the ids, joined.

        Raises:
            ValueError: an id is outside 0..vocab_size-1.
        """
        try:
            return "".join(map(self._characters.__getitem__, ids))
        except KeyError as error:
            token = error.args[0]
        raise ValueError(f"the id {token} is not in 0..{self.vocab_size - 1}")

    def _document(self) -> dict:
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": self._EACH_CHARACTER,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            # unk_token is not in vocab: an unknown character is an error there as it is here
            "model": {"type": "WordLevel", "vocab": self._ids, "unk_token": "<unknown>"},
        }

    @classmethod
    def _from_document(cls, document: dict) -> "CharTokenizer | None":
        model = document.get("model")
        if not isinstance(model, dict) or model.get("type") != "WordLevel":
            return None
        if document.get("pre_tokenizer") != cls._EACH_CHARACTER:
            return None
        vocab = model.get("vocab")
        if not isinstance(vocab, dict):
            raise ValueError("model.vocab: is not an object of tokens and ids")
        by_id = {}
        for character, index in vocab.items():
            if type(index) is not int or not 0 <= index < len(vocab):
                raise ValueError(f"model.vocab: the id {index!r} of {character!r} is not in "
                                 f"0..{len(vocab) - 1}")
            other = by_id.setdefault(index, character)
            if other != character:
                raise ValueError(f"model.vocab: {other!r} and {character!r} share id {index}")
        return cls(by_id[index] for index in range(len(vocab)))


def _read_json(path) -> dict:
    """The JSON object in a file; a ValueError in one sentence whatever else the file holds."""
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"{path}: is larger than {MAX_FILE_BYTES} bytes, no tokenizer is")
    try:
        document = json.loads(data, object_pairs_hook=_object_without_repeats)
    except RecursionError:
        raise ValueError(f"{path}: is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: is not a JSON object")
    return document


def _object_without_repeats(pairs) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} comes twice")
            seen.add(key)
    return result


def _replace_file(path, data: bytes) -> None:
    """Write a file aside, make it durable, then rename it: complete or absent at every instant."""
    aside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        if os.path.exists(aside):
            os.unlink(aside)
        raise
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
