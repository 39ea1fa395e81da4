"""Defines the interface of every tokenizer: encode and decode, whole or as a stream; save and open.

A tokenizer is saved as a `tokenizer.json` in the format of the Hugging Face `tokenizers` library,
which gives the same ids. A subclass that defines `_from_document` is found by from_pretrained();
no list of subclasses has to be kept.
"""

from __future__ import annotations

import codecs
import json
import os
from abc import ABC, abstractmethod
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygpt.backend.arguments import checked_parts, checked_path, checked_type, shown
from pygpt.config import items_of, whole_number
from pygpt.files import errors_begin_with, read_json_object, replacing
from pygpt.tokenizer.added import (ADDED_FILE, CONFIG_FILE, END_OF_TEXT, MOST_BYTES, ROLES_FILE,
                                   SideFiles)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from typing_extensions import Self

    Strings = str | Collection[str]  # special tokens, or "all" of them

MAIN_FILE = "tokenizer.json"
SAVED_FILES = "vocab.json", "merges.txt", CONFIG_FILE, MAIN_FILE  # all that save_pretrained writes


class Tokenizer(ABC):
    """Turns text into ids and back; the ids are 0..vocab_size-1."""

    _kinds = []     # the subclasses that from_pretrained tries, in the order of their definition
    _special, _added = {}, {}  # most tokenizers have no such tokens
    _settings = {}  # settings of the tokenizer_config.json it was opened from, for save_pretrained

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "_from_document" in vars(cls):
            Tokenizer._kinds.append(cls)

    def __init__(self, tokens: dict[int, bytes]) -> None:
        """Set the bytes of each id.

        Args:
            tokens: dict from id to bytes; its ids are 0..len(tokens)-1.
        """
        self._tokens = tokens  # a dict, because a list would accept -1

    def __repr__(self) -> str:
        n_special = len(self.special_tokens)
        return (f"{type(self).__name__}({self.vocab_size} tokens"
                f"{f', {n_special} of them special' if n_special else ''})")

    @property
    def vocab_size(self) -> int:
        """Return the number of different ids: 0..vocab_size-1."""
        return len(self._tokens)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Return the special tokens: a dict from string to id."""
        return dict(self._special)

    @property
    def added_tokens(self) -> dict[str, int]:
        """Return the other strings that are one token wherever they occur, with their ids."""
        return dict(self._added)

    def _has_special(self, content):
        """Tell whether the files may give a string a role such as pad_token."""
        return content in self.special_tokens

    @property
    def end_of_text(self) -> int | None:
        """Return the id of the special token <|endoftext|>, or None when there is none."""
        return self.special_tokens.get(END_OF_TEXT)

    # ----------------------------------------------------------------------------- text to ids ---

    @abstractmethod
    def encode(self, text: str, allowed_special: Strings = frozenset(),
               disallowed_special: Strings = "all") -> list[int]:
        """Return the ids of text, first to last.

        Args:
            text: any length.
            allowed_special: the special tokens that are read as tokens: a set of strings, or
                "all". Where several begin at one position, the longest counts.
            disallowed_special: the strings that text must not hold: a set, or "all" special tokens
                that are not allowed. Other special tokens are ordinary text.
        Raises:
            ValueError: the text holds a disallowed special token, or a character without an id.
        """

    @abstractmethod
    def encode_parts(self, chunks: Iterable[str], allowed_special: Strings = frozenset(),
                     disallowed_special: Strings = "all") -> Iterator[list[int]]:
        """Encode a text that comes in chunks, in memory that does not grow with its length.

        Lists of some thousands of ids are much faster to store than those of encode_iterable.

        Args:
            chunks: iterable of str, such as an open file.
            allowed_special, disallowed_special: as for encode.
        Yields:
            Lists; joined, they are the ids that encode gives for the chunks joined.
        Raises:
            ValueError: as encode.
        """

    def encode_iterable(self, chunks: Iterable[str], allowed_special: Strings = frozenset(),
                        disallowed_special: Strings = "all") -> Iterator[int]:
        """Iterate over the ids of a text that comes in chunks; see encode_parts."""
        return chain.from_iterable(self.encode_parts(chunks, allowed_special, disallowed_special))

    # ----------------------------------------------------------------------------- ids to text ---

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of an iterable of ids, joined.

        Raises:
            ValueError: an id is outside 0..vocab_size-1.
        """
        ids = list(ids if isinstance(ids, (bytes, bytearray)) else
                   items_of("ids", ids, "is not a list of ids"))
        if not set(map(type, ids)) <= {int}:
            ids = [whole_number(f"ids[{place}]", index) for place, index in enumerate(ids)]
        try:
            return b"".join(map(self._tokens.__getitem__, ids))
        except KeyError as error:
            raise ValueError(f"the id {shown(error.args[0])} is not in "
                             f"0..{self.vocab_size - 1}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of an iterable of ids; bytes that are no character become U+FFFD.

        Raises:
            ValueError: an id is outside 0..vocab_size-1.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_iterable(self, ids: Iterable[int]) -> Iterator[str]:
        """Decode ids one by one, such as those that a model is generating.

        Yields:
            Text, as soon as it is complete: a character of which some bytes are missing waits for
            them. Joined, it equals decode of all ids.
        """
        decoder = StreamDecoder(self)
        if not isinstance(ids, (bytes, bytearray)):
            ids = items_of("ids", ids, "is not a list of ids")
        yield from filter(None, map(decoder.feed, ids))
        yield from filter(None, [decoder.finish()])

    # ------------------------------------------------------------------------------- in a file ---

    @abstractmethod
    def _document(self) -> dict[str, Any]:
        """Return the content of tokenizer.json."""

    @classmethod
    @abstractmethod
    def _from_document(cls, document: dict[str, Any], roles: Any) -> Self | None:
        """Make the tokenizer that a tokenizer.json describes; None when it describes another kind.

        Args:
            document: the content of tokenizer.json.
            roles: the added tokens that other files declare special.
        Raises:
            ValueError: the document is of this kind, and damaged; the message begins with the
                field's name.
        """

    @classmethod
    def _from_other_files(cls, directory, side):
        """Open a directory without a tokenizer.json; None when it has no files of this kind.

        Args:
            directory: Path.
            side: its SideFiles.
        Raises:
            OSError, ValueError: a file is missing or damaged; the message names it.
        """
        return None

    def _files(self) -> dict:
        """Return {name: bytes} of the files; the file that is read first is written last."""
        return {CONFIG_FILE: json_bytes(self._config()), MAIN_FILE: json_bytes(self._document())}

    def _config(self) -> dict:
        """Return a tokenizer_config.json with which transformers opens tokenizer.json as it is."""
        return {"tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False} | self._settings

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files into a directory, which is made if it is missing.

        Args:
            directory: path. Each file replaces one of the same name, whole or not at all. An
                added_tokens.json and a special_tokens_map.json are removed at the end: they belong
                to another tokenizer, or repeat the new files.
        Raises:
            OSError: the directory cannot be made or written.
        """
        directory = checked_path("directory", directory)
        os.makedirs(directory, exist_ok=True)
        for name, data in self._files().items():
            with replacing(os.path.join(directory, name)) as file:
                file.write(data)
        for name in (ADDED_FILE, ROLES_FILE):
            Path(directory, name).unlink(missing_ok=True)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str]) -> Self:
        """Open the tokenizer in a directory, of any kind.

        Args:
            directory: path of a directory with a tokenizer.json, or GPT-2's vocab.json and
                merges.txt, or one tiktoken rank file (*.tiktoken); the files that added.py lists
                may lie beside them.
        Returns:
            A tokenizer of the kind found. Called on a subclass, one of that subclass.
        Raises:
            FileNotFoundError: the directory holds none of these.
            ValueError: a file is damaged, or describes a kind that pygpt does not know, or another
                subclass.
        """
        directory = Path(checked_path("directory", directory))
        path = directory / MAIN_FILE
        side = SideFiles(directory)
        found = None if path.exists() else _first_found(
            kind._from_other_files(directory, side) for kind in cls._kinds)
        if found is None:
            document = read_json_object(path, MOST_BYTES)
            with errors_begin_with(path):
                found = _first_found(kind._from_document(document, side.roles)
                                     for kind in cls._kinds)
            if found is None:
                raise ValueError(f"{path}: {_kind_of(document, 'model')}, "
                                 f"{_kind_of(document, 'pre_tokenizer')}: describes a kind of "
                                 "tokenizer that pygpt does not know")
            side.require(found, MAIN_FILE)
        if not isinstance(found, cls):
            raise ValueError(f"{directory}: holds a {type(found).__name__}, not a {cls.__name__}")
        found._settings = side.settings
        return found


def special_strings(name, value):
    """Return allowed_special or disallowed_special as "all" or a set of strings.

    Raises:
        ConfigError: it is neither; the message names it. A text other than "all" would be taken for
            the set of its characters.
    """
    if isinstance(value, str) and value == "all":
        return "all"
    value = value.keys() if isinstance(value, dict) else value
    strings = list(items_of(name, value, "is neither a set of strings nor 'all'",
                            is_ordered=False))
    return {checked_type(f"{name}: an item", string, str) for string in strings}


def texts_of(chunks):
    """Yield the chunks of a text; raise TypeError, which names the first that is not a str."""
    chunks = iter(chunks) if isinstance(chunks, str) else items_of(
        "chunks", chunks, "is not an iterable of texts")
    for place, chunk in enumerate(chunks):
        yield checked_type(f"chunks[{place}]", chunk, str)


def _first_found(candidates):
    return next(filter(None, candidates), None)


def _kind_of(document, key):
    """Show the type of a step of a tokenizer.json in an error message."""
    step = document.get(key)
    if isinstance(step, dict):
        return f"{key}.type: {shown(step.get('type'))}"
    return f"{key}: {shown(step)}"


def prompt_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a prompt, in which special tokens are tokens.

    A prompt without ids gets those of a newline, or id 0 if the tokenizer has none.

    Raises:
        ValueError: the text cannot be encoded.
    """
    if ids := tokenizer.encode(text, "all"):
        return ids
    try:
        return tokenizer.encode("\n") or [0]
    except ValueError:
        return [0]


class StreamDecoder:
    """Decodes ids one by one; a character that is not complete yet waits for its other bytes.

    Args:
        tokenizer: the Tokenizer of the ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._waiting = tokenizer, b""
        checked_parts("tokenizer", tokenizer, "a Tokenizer", "decode_bytes")

    @property
    def is_whole(self) -> bool:
        """Whether no character waits for its other bytes."""
        return not self._waiting

    def feed(self, index: int) -> str:
        """Return the text that one more id completes: often the id's own text, sometimes none."""
        return self._decode(self._tokenizer.decode_bytes((index,)), is_last=False)

    def finish(self) -> str:
        """Return the bytes that still wait, as U+FFFD; then the decoder begins anew."""
        return self._decode(b"", is_last=True)

    def _decode(self, data, is_last):
        data = self._waiting + data
        text, used = codecs.utf_8_decode(data, "replace", is_last)
        self._waiting = data[used:]
        return text


def json_bytes(value) -> bytes:
    """Return a value as JSON in the layout of these files: UTF-8, one entry a line."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")
    except UnicodeEncodeError:  # a setting that is kept holds a lone surrogate
        return json.dumps(value, indent=1).encode("utf-8")
