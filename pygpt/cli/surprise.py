"""Prints a text with the surprise of each of its tokens: `pygpt eval --show`.

The surprise of a token is -log2 p, in bits. On a terminal it colours the text; elsewhere each token
has a line of its own.
"""

import itertools
import math

from pygpt.cli.colours import DIM, has_colours, painted, visible
from pygpt.tokenizer.base import StreamDecoder

# (bits, style): black on a background of the 256 colours for a token of at least this many bits
LEVELS = ((8.0, "\033[38;5;16;48;5;203m"), (4.0, "\033[38;5;16;48;5;215m"),
          (2.0, "\033[38;5;16;48;5;222m"), (1.0, "\033[38;5;16;48;5;230m"))


def pieces(tokenizer, ids, losses):
    """Yield (text, bits): whole characters, and the surprise of the tokens that hold them.

    Args:
        ids: the tokens of a text.
        losses: the nats of each but the first, which has None for its bits.
    """
    decoder, bits = StreamDecoder(tokenizer), None
    for token, nats in zip(ids, itertools.chain([None], losses)):
        if nats is not None:
            bits = (bits or 0.0) + nats / math.log(2)
        if text := decoder.feed(token):
            yield text, bits
            bits = None
    if text := decoder.finish():
        yield text, bits


def show(pieces, stream):
    """Write pieces to a stream: in colours if it takes some, else as a table."""
    if not has_colours(stream):
        for text, bits in pieces:
            stream.write(f"{'-' if bits is None else format(bits, '.3f'):>8}  {text!r}\n")
        return
    bounds = sorted(LEVELS)
    legend = [painted(f" {bits:g} ", style) for bits, style in bounds]
    stream.write(painted("bits, at least:", DIM) + " " + "".join(legend) + "\n")
    last = "\n"
    for text, bits in pieces:
        stream.write(_coloured(visible(text), bits))
        last = text
    if not last.endswith("\n"):
        stream.write("\n")


def _coloured(text, bits):
    """Paint a piece; a newline gets a painted space before it, so that its surprise is seen."""
    if bits is None:
        lines, style = text.split("\n"), DIM
    else:
        style = next((style for least, style in LEVELS if bits >= least), None)
        lines = text.replace("\n", " \n").split("\n")
    return text if style is None else "\n".join(painted(line, style) for line in lines)
