"""Measures how well a model predicts texts: `pygpt eval`."""

import math
import sys
import time

from pygpt.cli.bus_errors import bus_errors_explained
from pygpt.cli.flags import whole_number
from pygpt.cli.loading import add_threads_flag, add_weights_flag, set_threads

COLUMNS = ("tokens", "nats/token", "bits/token", "bits/byte", "perplexity")


def add_command(add):
    """Add the command."""
    command = add("eval", run, "measure how well a model predicts texts", epilog=EXPLANATION)
    command.add_argument("directory", metavar="DIR",
                         help="a GPT-2 directory, a training run's output directory, or one of its "
                         "checkpoints")
    command.add_argument("files", metavar="FILE", nargs="+",
                         help="UTF-8 text: files, pipes, directories, patterns such as "
                         "'books/*.txt', - for standard input")
    command.add_argument("--stride", type=whole_number, metavar="N",
                         help="tokens from the beginning of a window to that of the next, at most "
                         "the model's context; a smaller one gives tokens more context and takes "
                         "longer (unset: half of the context)")
    output = command.add_mutually_exclusive_group()
    output.add_argument("--show", action="store_true",
                        help="print the texts first, coloured by surprise; off a terminal each "
                        "token on a line of its own, with its bits")
    output.add_argument("--json", action="store_true", help="print one JSON object instead")
    add_threads_flag(command)
    add_weights_flag(command)


EXPLANATION = """A text is read through windows as long as the model's context, each of which begins
--stride tokens after the one before. Each token but a text's first is scored once, in the first
window that holds it, from all tokens before it there. Nats per token are the mean of -ln p; bits
are nats / ln 2; bits per byte divide by the bytes of the scored tokens; perplexity is e to the nats
per token.""".replace("\n", " ")


@bus_errors_explained()
def run(arguments):
    set_threads(arguments.threads)
    from pygpt.evaluation import checked_stride, token_losses
    from pygpt.pipeline import Pipeline
    from pygpt.progress import RewrittenLine

    pipeline = Pipeline.from_pretrained(arguments.directory, arguments.dtype)
    model, tokenizer = pipeline.model, pipeline.tokenizer
    stride = checked_stride(arguments.stride, model.config.n_positions)
    texts = _read(arguments.files, tokenizer)
    results = []
    with RewrittenLine(stays=not sys.stderr.isatty()) as line:
        progress = ScoredTokens(sum(len(ids) - 1 for _, ids in texts), line)
        for name, ids in texts:
            losses = token_losses(model, ids, stride, progress.update)
            progress.finish_text(len(losses))
            results.append((name, ids, losses))
    rows = [measures(name, ids, losses, tokenizer) for name, ids, losses in results]
    if arguments.json:
        import json

        print(json.dumps({"model": arguments.directory, "n_positions": model.config.n_positions,
                          "stride": stride, "texts": rows, "total": total(rows)}))
        return 0
    if arguments.show:
        from pygpt.cli.surprise import pieces, show

        for name, ids, losses in results:
            print(f"-- {_shown(name)} ".ljust(72, "-"))
            show(pieces(tokenizer, ids, losses), sys.stdout)
            print()
    print(table(rows))
    return 0


def _read(paths, tokenizer):
    """Read and encode all texts; return a list of (name, ids).

    Raises:
        OSError: a text cannot be read.
        ValueError: it is empty, no text, or holds what the tokenizer cannot encode.
    """
    from array import array

    from pygpt.cli.loading import find_texts, parts_of
    from pygpt.tokenizer.reading import DataError

    texts = []
    for source in find_texts(paths, "the command line names", "eval reads text"):
        ids = array("i")
        try:
            for some in tokenizer.encode_parts(parts_of(source, paths), allowed_special="all"):
                ids.extend(some)
        except DataError:
            raise  # it names the text already
        except ValueError as error:
            raise ValueError(f"{source.name}: {error}") from None
        if len(ids) < 2:
            reason = ("is empty" if not ids else "has one token only, and the first of a text has "
                      "nothing before it to be predicted from")
            raise DataError(f"{source.name}: {reason}")
        texts.append((source.name, ids))
    return texts


def measures(name, ids, losses, tokenizer):
    """Return the row of a text as a dict; a number too large for a float is None.

    Args:
        ids: its tokens.
        losses: the nats of each but the first.
    """
    nbytes = len(tokenizer.decode_bytes(ids[1:]))
    return _row(name, len(ids), len(losses), nbytes, math.fsum(losses))


def total(rows):
    """Return the row of all texts together, without a name."""
    def summed(key):
        return sum(row[key] for row in rows)

    nats = math.fsum(row["nats_per_token"] * row["scored_tokens"] for row in rows)
    row = _row("", summed("tokens"), summed("scored_tokens"), summed("scored_bytes"), nats)
    del row["name"]
    return row


def _row(name, tokens, scored, nbytes, nats):
    mean = nats / scored
    try:
        perplexity = math.exp(mean)
    except OverflowError:
        perplexity = None
    return {"name": name, "tokens": tokens, "scored_tokens": scored, "scored_bytes": nbytes,
            "nats_per_token": mean, "bits_per_token": mean / math.log(2),
            "bits_per_byte": nats / math.log(2) / nbytes if nbytes else None,
            "perplexity": perplexity}


def table(rows):
    """Return the rows as a table; several texts have a last row for all of them."""
    def cells(name, row):
        numbers = (row[key] for key in ("nats_per_token", "bits_per_token", "bits_per_byte"))
        return (name, f"{row['scored_tokens']:,}",
                *("-" if number is None else f"{number:.4f}" for number in numbers),
                "-" if row["perplexity"] is None else f"{row['perplexity']:,.3f}")

    lines = [("text", *COLUMNS), *(cells(_shown(row["name"]), row) for row in rows)]
    if len(rows) > 1:
        lines.append(cells("all", total(rows)))
    width = max(len(line[0]) for line in lines)
    return "\n".join(f"{line[0]:<{width}}" + "".join(f"  {cell:>10}" for cell in line[1:])
                     for line in lines)


def _shown(name):
    return name if name.isprintable() else ascii(name)


class ScoredTokens:
    """Tells on standard error how far the texts are scored, in the line of a RewrittenLine."""

    def __init__(self, size, line):
        """Prepare to tell about `size` tokens."""
        self._size, self._before, self._line = size, 0, line
        self._began = time.monotonic()

    def update(self, count):
        """Note the number of tokens of the current text that are scored."""
        self._line.show(lambda: self._described(self._before + count))

    def _described(self, done):
        from pygpt.cli.terminal import duration

        seconds = max(time.monotonic() - self._began, 1e-9)
        return (f"{done:,} of {self._size:,} tokens, {done / seconds:,.0f} tokens/s, "
                f"{duration((self._size - done) * seconds / done)} left")

    def finish_text(self, size):
        """Go on to the next text; the one before had `size` tokens to score."""
        self._before += size
