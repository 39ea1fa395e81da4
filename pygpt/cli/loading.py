"""Finds what commands work with: the form of a model's weights, threads, the texts that paths name.
"""

import sys

from pygpt.cli.flags import whole_number
from pygpt.config import ConfigError

WEIGHTS = "float32", "bfloat16", "int8"  # the forms of ops.at_rest, without its imports


def add_weights_flag(command):
    """Add the flag --dtype, which Pipeline.from_pretrained takes as weights."""
    command.add_argument("--dtype", choices=WEIGHTS, metavar="|".join(WEIGHTS),
                         help="form of the weights in memory: fewer bits are read faster, and are "
                         "a little less exact (unset: as in the files, int8 or else float32)")


def add_threads_flag(command):
    """Add the flag --threads, which set_threads() obeys."""
    command.add_argument("--threads", type=whole_number, default=0, metavar="N",
                         help="threads to compute with; 0: one for each physical core except "
                         "efficiency cores (default 0)")


def set_threads(threads):
    """Compute with this many threads from now on.

    Raises:
        ConfigError: the number is not in 0..256.
    """
    if not 0 <= threads <= 256:
        raise ConfigError(f"threads={threads} must be in [0, 256]")
    if threads:
        from pygpt.backend import kernels

        kernels.set_num_threads(threads)


def find_texts(paths, subject, purpose):
    """Find the texts that paths name; a line on standard error counts the files that are none.

    Args:
        paths: files, pipes, directories, patterns, and "-" for standard input.
        subject: begins the refusal of a stream named twice, such as "--data names".
        purpose: ends the refusal of a file of tokens, such as "eval reads text".
    Returns:
        A list of Source, in order.
    Raises:
        OSError: there is no such file.
        ValueError: a path leads to no text.
    """
    from pygpt.data.corpus import Corpus
    from pygpt.data.stream_copies import streams_of
    from pygpt.tokenizer.reading import DataError

    corpus = Corpus(paths)
    if corpus.tokens_file:
        raise DataError(f"{corpus.tokens_file}: holds tokens, and {purpose}")
    streams_of([corpus], subject)
    corpus.select()
    if skipped := corpus.describe_skipped():
        print("pygpt: warning:", skipped, file=sys.stderr)
    return corpus.sources


def parts_of(source, paths):
    """Yield the text of a Source of find_texts(paths), in parts.

    Raises:
        OSError: it cannot be read.
        DataError: it is not UTF-8 text.
    """
    from pygpt.data.sources import STDIN
    from pygpt.tokenizer.reading import decode_text, read_text, standard_input

    if paths[source.place] == STDIN:
        return decode_text(standard_input(), source.name)
    return read_text(source.path or source.name, source.name)
