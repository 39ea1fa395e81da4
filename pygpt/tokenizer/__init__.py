"""Text to token ids and back.

    base.py        Tokenizer, what they all can do; which kind a directory holds
    simple.py      CharTokenizer and ByteTokenizer: a character or a byte is a token
    bpe.py         BPETokenizer: frequent sequences of bytes are tokens, as in GPT-2
    added.py       added and special tokens: what the files beside a vocabulary say of them
    text.py        characters to bytes, special tokens, reading a text of any length in blocks
    formats.py     vocab.json + merges.txt, tokenizer.json and tiktoken's rank files
    unicode.py     which characters are letters, numbers and spaces
    bpe_python.py  byte-level BPE by its definition, in Python
    bpe_c.py       the same functions, from the C library

Each imports only from those below it (formats.py is below bpe.py, and so on).
Used by data, train, generate and the command line.
"""

from pygpt.tokenizer.base import StreamDecoder, Tokenizer
from pygpt.tokenizer.bpe import BPETokenizer
from pygpt.tokenizer.simple import ByteTokenizer, CharTokenizer

__all__ = ["BPETokenizer", "ByteTokenizer", "CharTokenizer", "StreamDecoder", "Tokenizer"]
