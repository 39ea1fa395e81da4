"""Measures the linear layers of a token, at 1 to 16 rows, by the type that weights are stored in.

    python tests/bench/few_rows.py [--rows 1 4 16] [--layers N] [--seconds S] [--threads N]

To generate a token, a model reads all of its weights once, so the time should be that of reading
them. The weights are those of GPT-2 124M: in each of 12 layers four of them, and then the head,
50257 x 768. Together they are larger than any cache, and every call reads them from memory. For
each type the table has the megabytes that are read; the time, the median of calls that alternate
with those of the other types; the gigabytes read in a second; and these as a percentage of the
speed at which the same threads only read memory, pygpt_measure_read, measured in the same turns.
"""

import argparse
import functools
import statistics
import sys
import time
from array import array
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

from compare import model_name  # noqa: E402

from pygpt.backend import kernels  # noqa: E402
from pygpt.backend.kernels import FLOAT32, NULL, Memory, lib  # noqa: E402

WIDTH, VOCABULARY, LAYERS = 768, 50257, 12
LAYER = ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH))  # (IN, OUT)
GROUP = lib.PYGPT_INT8_GROUP
MOST_ROWS = 16


class Weights:
    """Holds a model's weights in one of the types, and the buffers of a call."""

    def __init__(self, kind, layers):
        self.kind, self.nbytes, self.kept = kind, 0, []  # memory lives as long as its object
        self.calls = [self._stored(IN, OUT, i) for i in range(layers) for IN, OUT in LAYER]
        self.calls.append(self._stored(WIDTH, VOCABULARY, layers, head=True))
        self.out = self._pointer(Memory(4 * MOST_ROWS * VOCABULARY), "f")
        self.inp = self._pointer(filled(MOST_ROWS * 4 * WIDTH, 1.0, 1), "f")

    def _pointer(self, memory, code):
        self.kept.append(memory)
        return memory.pointer(code)

    def _stored(self, IN, OUT, seed, head=False):
        """Return (kernel, pointers to the weight, IN, OUT)."""
        weight, n = filled(IN * OUT, 0.02, seed), IN * OUT
        floats = weight.pointer("f")
        if self.kind == "float32":
            self.nbytes += 4 * n
            kernel = head_float32 if head else linear_float32
            return kernel, (self._pointer(weight, "f"),), IN, OUT
        if self.kind == "bfloat16":
            halves = Memory(2 * n)
            lib.to_bfloat16(halves.pointer("H"), floats, n)
            self.nbytes += 2 * n
            return linear_bfloat16, (self._pointer(halves, "H"),), IN, OUT
        groups = -(-IN // GROUP)
        q, scales = Memory(OUT * groups * GROUP), Memory(4 * OUT * groups)
        lib.quantize_int8(q.pointer("b"), scales.pointer("f"), floats, IN, OUT, 0)
        self.nbytes += q.nbytes + scales.nbytes
        return linear_int8, (self._pointer(q, "b"), self._pointer(scales, "f")), IN, OUT

    def token(self, R):
        """Compute the linear layers of a token for R rows."""
        for kernel, weight, IN, OUT in self.calls:
            kernel(self.out, self.inp, weight, R, IN, OUT)


def linear_float32(out, inp, weight, R, IN, OUT):
    lib.linear_forward(out, NULL, inp, *weight, NULL, NULL, R, IN, OUT, FLOAT32)


def head_float32(out, inp, weight, R, IN, OUT):
    lib.matmul(out, inp, *weight, R, OUT, IN, 0, 1, 0, FLOAT32)


def linear_bfloat16(out, inp, weight, R, IN, OUT):
    lib.linear_bfloat16(out, NULL, inp, *weight, NULL, NULL, R, IN, OUT)


def linear_int8(out, inp, weight, R, IN, OUT):
    lib.linear_int8(out, NULL, inp, *weight, NULL, NULL, R, IN, OUT)


def filled(n, std, stream):
    memory, seed = Memory(4 * n), Memory(8, array("Q", [1]))
    lib.random_normal(memory.pointer("f"), std, seed.pointer("Q"), stream, n)
    return memory


def seconds_of(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--types", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=0)
    a = parser.parse_args()
    if not all(1 <= R <= MOST_ROWS for R in a.rows):
        parser.error(f"--rows {a.rows}: from 1 to {MOST_ROWS}")
    with kernels.use_threads(a.threads):
        stored = [Weights(kind, a.layers) for kind in a.types]
        measure(stored, a.rows, a.seconds)


def measure(stored, rows, seconds):
    n = 2 ** 26  # floats to read: 256 MB
    memory, total = filled(n, 1.0, 0), Memory(4)
    read = functools.partial(lib.pygpt_measure_read, total.pointer("f"), memory.pointer("f"), n)
    turns = {(w.kind, R): [] for w in stored for R in rows}
    reads, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(reads) < 3:
        reads.append(seconds_of(read))
        for weights in stored:
            for R in rows:
                turns[weights.kind, R].append(seconds_of(weights.token, R))
    speed = 4 * n / statistics.median(reads)
    print(f"{model_name()}, {kernels.isa()}, {kernels.get_num_threads()} threads; "
          f"reads {speed / 1e9:.1f} GB/s; {len(reads)} turns\n")
    print(f"{'type':10}{'rows':>5}{'MB':>7}{'ms':>8}{'GB/s':>7}{'of reading':>12}{'of 1 row':>10}")
    for weights in stored:
        first = statistics.median(turns[weights.kind, rows[0]])
        for R in rows:
            took = statistics.median(turns[weights.kind, R])
            print(f"{weights.kind:10}{R:5}{weights.nbytes / 1e6:7.0f}{1e3 * took:8.2f}"
                  f"{weights.nbytes / took / 1e9:7.1f}{weights.nbytes / took / speed:12.0%}"
                  f"{took / first:10.2f}")


if __name__ == "__main__":
    main()
