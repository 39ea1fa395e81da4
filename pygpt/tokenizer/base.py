"""What every tokenizer can do: text to ids and back, whole or as a stream, saved and opened.

Uses files. A tokenizer is saved as a `tokenizer.json` in the format of the Hugging Face
`tokenizers` library, so the directory gives the same ids there.
"""

import codecs
import json
import os
from abc import ABC, abstractmethod
from itertools import chain
from pathlib import Path

from pygpt.files import read_json_object, replacing

MOST_BYTES = 1 << 27  # a vocabulary of a million tokens takes half of this
MAIN_FILE = "tokenizer.json"
END_OF_TEXT = "<|endoftext|>"  # GPT-2's token between two texts


class Tokenizer(ABC):
    """Text to ids and back; the ids are 0..vocab_size-1."""

    def __init__(self, tokens):
        """Give each id its bytes.

        Args:
            tokens: dict from id to bytes, with all ids from 0 on.
        """
        self._tokens = tokens  # a dict, for a list would take -1

    @property
    def vocab_size(self) -> int:
        """The number of different ids."""
        return len(self._tokens)

    @property
    def special_tokens(self) -> dict:
        """The special tokens, string to id; most tokenizers have none."""
        return {}

    @property
    def end_of_text(self) -> int | None:
        """The id of the special token <|endoftext|>; None: there is none."""
        return self.special_tokens.get(END_OF_TEXT)

    # ----------------------------------------------------------------------------- text to ids ---

    @abstractmethod
    def encode(self, text: str, allowed_special=frozenset(), disallowed_special="all") -> list:
        """The ids of text, first to last.

        Args:
            text: any length.
            allowed_special: the special tokens that text may hold as tokens: a set of strings, or
                "all". Where several begin at one place, the longest counts.
            disallowed_special: the strings it must not hold: a set, or "all" special tokens that
                are not allowed. What is neither is ordinary text.
        Raises:
            ValueError: the text holds a disallowed special token, or what has no id.
        """

    @abstractmethod
    def encode_parts(self, chunks, allowed_special=frozenset(), disallowed_special="all"):
        """Encode a text that comes in chunks, in memory that does not grow with its length.

        What encode_iterable gives, some thousands of ids at a time: much faster to store.

        Args:
            chunks: iterable of str, such as an open file.
            allowed_special, disallowed_special: as for encode.
        Yields:
            Lists; joined, they are the ids that encode gives for the chunks joined.
        Raises:
            ValueError: as encode.
        """

    def encode_iterable(self, chunks, allowed_special=frozenset(), disallowed_special="all"):
        """An iterator over the ids of a text that comes in chunks; see encode_parts."""
        return chain.from_iterable(self.encode_parts(chunks, allowed_special, disallowed_special))

    # ----------------------------------------------------------------------------- ids to text ---

    def decode_bytes(self, ids) -> bytes:
        """The bytes of an iterable of ids, joined.

        Raises:
            ValueError: an id is outside 0..vocab_size-1.
        """
        try:
            return b"".join(map(self._tokens.__getitem__, ids))
        except KeyError as error:
            index = error.args[0]
        raise ValueError(f"the id {index} is not in 0..{self.vocab_size - 1}")

    def decode(self, ids) -> str:
        """The text of an iterable of ids; bytes that are no character become U+FFFD.

        Raises:
            ValueError: an id is outside 0..vocab_size-1.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_iterable(self, ids):
        """Decode ids as they come, such as those that a model is generating.

        Yields:
            Text that is complete, as soon as it is: a character of which some bytes are missing is
            held back. Joined, it is what decode gives for all ids.
        """
        decoder = StreamDecoder(self)
        for index in ids:
            text = decoder.feed(index)
            if text:
                yield text
        text = decoder.finish()
        if text:
            yield text

    # ------------------------------------------------------------------------------- in a file ---

    @abstractmethod
    def _document(self) -> dict:
        """The content of tokenizer.json."""

    @classmethod
    @abstractmethod
    def _from_document(cls, document: dict):
        """The tokenizer a tokenizer.json describes; None when it describes another kind.

        Raises:
            ValueError: it is of this kind, and wrong; the message begins with the field's name.
        """

    def _files(self) -> dict:
        """The files of this tokenizer, name to bytes, the one that from_pretrained reads last."""
        return {"tokenizer_config.json": json_bytes(self._config()),
                MAIN_FILE: json_bytes(self._document())}

    def _config(self) -> dict:
        """What the transformers library must know to open tokenizer.json as it is."""
        return {"tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False}

    def save_pretrained(self, directory) -> None:
        """Write the tokenizer's files into a directory, which is made if it is missing.

        Args:
            directory: path. Each file replaces one of its name, whole or not at all.
        Raises:
            OSError: the directory cannot be made or written.
        """
        os.makedirs(directory, exist_ok=True)
        for name, data in self._files().items():
            with replacing(os.path.join(directory, name)) as file:
                file.write(data)

    @classmethod
    def from_pretrained(cls, directory):
        """Open the tokenizer in a directory, whatever its kind.

        Args:
            directory: path of a directory with a tokenizer.json, or a vocab.json and a merges.txt
                as GPT-2 has them, or one tiktoken rank file (*.tiktoken).
        Returns:
            A tokenizer of the kind found. Called on a subclass, one of that subclass.
        Raises:
            FileNotFoundError: the directory holds none of these.
            ValueError: a file is damaged, or of a kind not known here or not this subclass.
        """
        from pygpt.tokenizer.bpe import BPETokenizer
        from pygpt.tokenizer.simple import ByteTokenizer, CharTokenizer

        directory = Path(directory)
        path = directory / MAIN_FILE
        ranks = sorted(directory.glob("*.tiktoken"))
        if not path.exists() and (directory / "vocab.json").exists():
            found = BPETokenizer.from_gpt2(directory)
        elif not path.exists() and len(ranks) == 1:
            path = ranks[0]
            found = BPETokenizer.from_tiktoken(path)
        else:
            document = read_json_object(path, MOST_BYTES)
            try:
                found = next(filter(None, (kind._from_document(document) for kind in
                                           (CharTokenizer, ByteTokenizer, BPETokenizer))), None)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        if found is None:
            raise ValueError(f"{path}: describes a kind of tokenizer that pygpt does not know")
        if not isinstance(found, cls):
            raise ValueError(f"{path}: holds a {type(found).__name__}, not a {cls.__name__}")
        return found


class StreamDecoder:
    """Turns ids into text one by one, holding back characters that are not complete.

    Args:
        tokenizer: whose ids they are.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, index: int) -> str:
        """The text that one more id completes, often that of the id, sometimes none."""
        return self._utf8.decode(self._tokenizer.decode_bytes((index,)))

    def finish(self) -> str:
        """What was held back, as U+FFFD; the decoder is then as new."""
        text = self._utf8.decode(b"", True)
        self._utf8.reset()
        return text


def json_bytes(value) -> bytes:
    """JSON as these files are written: UTF-8, one entry a line."""
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")
