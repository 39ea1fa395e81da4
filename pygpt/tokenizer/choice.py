"""Reads the setting `--tokenizer` of a run, and trains or opens the tokenizer that it names.

    char            CharTokenizer of the text's characters
    byte            ByteTokenizer
    bpe, bpe:VOCAB  BPETokenizer, trained on the text to VOCAB tokens (4096)
    a directory     the tokenizer in it
"""

import os

from pygpt.backend.arguments import shown
from pygpt.config import ConfigError
from pygpt.tokenizer.added import END_OF_TEXT
from pygpt.tokenizer.base import Tokenizer
from pygpt.tokenizer.bpe import BPETokenizer
from pygpt.tokenizer.simple import ByteTokenizer, CharTokenizer

FORMS = "char, byte, bpe, bpe:VOCAB or a directory that holds a tokenizer"
BPE_VOCAB = 4096


def parse(spec: str):
    """Split a setting into its kind, and its vocabulary size or directory, or None for neither.

    Raises:
        ConfigError: spec is none of FORMS.
    """
    kind, colon, size = spec.partition(":")
    if kind in ("char", "byte") and not colon:
        return kind, None
    if kind == "bpe":
        if not colon:
            return kind, BPE_VOCAB
        if size.isascii() and size.isdigit() and len(size) < 10 and int(size) > 256:
            return kind, int(size)
        raise ConfigError(f"tokenizer={shown(spec)}: {shown(size)} is not a vocabulary of 257 "
                          "tokens or more")
    if os.path.isdir(spec):
        return "directory", spec
    raise ConfigError(f"tokenizer={shown(spec)} is not {FORMS}")


def choose(spec: str, text: str) -> Tokenizer:
    """Train or open the tokenizer of a run.

    Args:
        spec: one of FORMS. BPE is trained with the special token <|endoftext|>.
        text: the text to train on.
    Raises:
        OSError, ValueError: there is no such tokenizer, or text cannot be trained on.
    """
    kind, value = parse(spec)
    if kind == "char":
        return CharTokenizer.train(text)
    if kind == "byte":
        return ByteTokenizer()
    if kind == "bpe":
        return BPETokenizer.train(text, value, [END_OF_TEXT])
    return Tokenizer.from_pretrained(value)
