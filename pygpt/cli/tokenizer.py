"""Learns a tokenizer, and uses one in a pipe: `pygpt tokenizer train|encode|decode`.

`encode` and then `decode` give a file back byte for byte, with a byte order mark at its beginning.
Both work on streams. `train` reads its text as the training of a model does.
"""

import contextlib
import itertools
import sys
from pathlib import Path

from pygpt.cli.flags import commands_of, text, whole_number
from pygpt.config import ConfigError

BLOCK = 1 << 16


def add_command(add):
    """Add the command, which has three commands of its own."""
    add = commands_of(add("tokenizer", None, "learn a tokenizer, or use one in a pipe"))
    command = add("train", _train, "learn a byte-level BPE tokenizer from text")
    command.add_argument("--data", metavar="PATH", nargs="+", action="extend", default=[],
                         help="UTF-8 text: files of any size, pipes, directories, patterns, - for "
                         "standard input (unset: Python's own reference)")
    command.add_argument("--out", metavar="DIR", required=True,
                         help="directory for tokenizer.json, vocab.json and merges.txt")
    command.add_argument("--vocab-size", metavar="N", type=whole_number, default=4096,
                         help="tokens, the special ones included (at least 257; default 4096)")
    command.add_argument("--special-token", metavar="TEXT", type=text, action="append",
                         dest="special_tokens", help="a string that becomes one token; may be "
                         "given again (unset: <|endoftext|>)")

    encode = add("encode", _encode, "turn text into ids, printed with spaces between")
    decode = add("decode", _decode, "turn ids into text")
    for command, content in ((encode, "UTF-8 text, read to the last byte"),
                             (decode, "ids with white space between")):
        command.add_argument("directory", metavar="DIR", help="directory that holds a tokenizer")
        command.add_argument("file", metavar="FILE", nargs="?",
                             help=f"{content} (unset: standard input)")
    encode.add_argument("--allow-special", action="store_true",
                        help="read special tokens in the text as tokens (unset: refuse them)")


def _train(arguments):
    from pygpt.data.corpus import python_reference
    from pygpt.tokenizer.added import END_OF_TEXT
    from pygpt.tokenizer.bpe import BPETokenizer

    special_tokens = arguments.special_tokens or [END_OF_TEXT]
    n = len(special_tokens)
    if arguments.vocab_size < 256 + n:
        raise ConfigError(f"vocab_size={arguments.vocab_size} must be at least {256 + n}: 256 "
                          f"bytes and {n} special token{'s' * (n > 1)}")
    source = _documents(arguments.data) if arguments.data else python_reference()
    tokenizer = BPETokenizer.train(source, arguments.vocab_size, special_tokens)
    tokenizer.save_pretrained(arguments.out)
    print(f"{arguments.out}: {tokenizer.vocab_size} tokens, of them "
          f"{', '.join(map(repr, special_tokens))} special")
    return 0


def _documents(paths):
    """List the texts that --data names: paths of files, and the text of standard input."""
    from pygpt.cli.loading import find_texts, parts_of
    from pygpt.data.corpus import STDIN

    return ["".join(parts_of(source, paths)) if paths[source.place] == STDIN
            else Path(source.path or source.name)
            for source in find_texts(paths, "--data names", "a tokenizer is learned from text")]


def _encode(arguments):
    from pygpt.tokenizer import Tokenizer
    from pygpt.tokenizer.reading import STDIN_NAME, decode_text
    from pygpt.tokenizer.text import SpecialTokenError

    tokenizer = Tokenizer.from_pretrained(arguments.directory)
    name = arguments.file or STDIN_NAME
    with _input(arguments.file) as file:
        ids = tokenizer.encode_iterable(decode_text(file, name, is_exact=True),
                                        "all" if arguments.allow_special else ())
        between = ""
        try:
            while block := " ".join(map(str, itertools.islice(ids, BLOCK))):
                sys.stdout.write(between + block)
                between = " "
        except SpecialTokenError as error:  # its message names an argument of encode()
            raise ValueError(
                f"{name}: the text holds the special token {error.token!r} at position "
                f"{error.position}; --allow-special reads it as that token") from None
    sys.stdout.write("\n")
    return 0


def _decode(arguments):
    from pygpt.tokenizer import Tokenizer
    from pygpt.tokenizer.reading import STDIN_NAME

    tokenizer = Tokenizer.from_pretrained(arguments.directory)
    sys.stdout.flush()
    with _input(arguments.file) as file:
        for words in _words(file):
            try:
                sys.stdout.buffer.write(tokenizer.decode_bytes(map(_id, words)))
            except ValueError as error:
                raise ValueError(f"{arguments.file or STDIN_NAME}: {error}") from None
    sys.stdout.buffer.flush()
    return 0


def _input(path):
    """Return a context of the binary file to read: standard input when path is None."""
    from pygpt.tokenizer.reading import standard_input

    return open(path, "rb") if path is not None else contextlib.nullcontext(standard_input())


def _words(file):
    """Yield the words of a binary file in lists, a list for each block that is read."""
    held = b""
    while data := file.read(BLOCK):
        words = (held + data).split()
        held = b"" if data[-1:].isspace() else words.pop()
        yield words
    yield [held] if held else []


def _id(word):
    if not word.isdigit() or len(word) > 10:
        raise ValueError(f"{word[:40].decode('utf-8', 'replace')!r} is not an id")
    return int(word)
