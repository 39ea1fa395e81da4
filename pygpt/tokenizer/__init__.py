"""Turns text into token ids and back.

    base.py            Tokenizer, the interface of all kinds; opens the kind that a directory holds
    choice.py          the tokenizer that a setting names
    simple.py          CharTokenizer and ByteTokenizer: a character or a byte is a token
    bpe.py             BPETokenizer: frequent sequences of bytes are tokens, as in GPT-2
    added.py           added and special tokens, and the files beside a vocabulary that list them
    text.py            characters to bytes, special tokens, a text of any length in blocks
    reading.py         text files: UTF-8, decoded in parts
    vocabulary.py      vocab.json + merges.txt, and tiktoken's rank files
    tokenizer_json.py  tokenizer.json
    unicode.py         the tables of letters, numbers and spaces
    bpe_python.py      byte-level BPE by its definition, in Python
    bpe_c.py           the same functions, from the C library
"""

from pygpt.tokenizer.base import StreamDecoder, Tokenizer
from pygpt.tokenizer.bpe import BPETokenizer
from pygpt.tokenizer.simple import ByteTokenizer, CharTokenizer

__all__ = ["BPETokenizer", "ByteTokenizer", "CharTokenizer", "StreamDecoder", "Tokenizer"]
