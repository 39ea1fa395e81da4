"""What the tests look at of a run: its directory, its log and its records."""

import os
import pathlib

from pygpt.data.corpus import Corpus

TINY = ("--n-layer 1 --n-head 2 --n-embd 16 --n-positions 8 --batch-size 4 --max-steps 4 "
        "--warmup-steps 2 --eval-interval 4 --eval-batches 2 --sample-interval 0").split()
TEXT = "".join(f"{a} and {b} make {a + b}.\n" for a in range(9) for b in range(9))
OTHER = TEXT.replace("make", "are")
PICTURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0" + bytes(range(256)) * 4


def text_of(*paths, **options):
    return "".join(Corpus([str(path) for path in paths], **options).joined())


def tree(path):
    """Every file below a directory with its bytes, and every link."""
    return {os.path.relpath(name, path): os.readlink(name) if os.path.islink(name) else
            None if os.path.isdir(name) else pathlib.Path(name).read_bytes()
            for name in map(str, pathlib.Path(path).rglob("*"))}


def loss_of(records):
    """The loss of the only step."""
    (loss,) = [record["loss"] for record in records if record["event"] == "step"]
    return loss


def warnings_of(records):
    return [record["text"] for record in records if record["event"] == "warning"]
