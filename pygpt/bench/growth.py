"""`pygpt bench --growth`: measures how a training step's cost grows, and the cost of awkward sizes.

It prints four tables of whole steps (forward, backward, clipping, AdamW). Three vary the sequence
length (with the number of tokens fixed), the width, and the number of threads. The fourth compares
sizes that leave a tile partly filled with round sizes that fill it. The operations counted are the
ones that the model needs (training/cost.py, flops_per_token: 6 per weight and token, and the causal
half of attention). So a share of the peak shows the loss at any size.

The cases of a table run in turn, and the peak is measured in the same rounds. A drift of the clock
rate therefore slows all of them alike.
"""

import statistics
import time
from dataclasses import dataclass

from pygpt.autograd.precision import OPERAND_TYPES
from pygpt.backend import kernels
from pygpt.bench.kernels import MeasuredStep, milliseconds, peak_call, seconds_of

TURN = 0.03        # seconds; a step that takes less time runs several times
LEAST_TURNS = 3
CLIFF = 0.8        # of the round neighbour's speed; a row below it is marked


@dataclass(frozen=True)
class Case:
    """One size: a row of a table.

    Attributes:
        label: the row's name, unique within its table.
        B, T, layers, heads, width, vocab: the sizes of the batch and of the model.
        beside: the label of the row to compare it with, or None for a round size.
        threads: the number of threads to use; 0 keeps the number that is set.
    """
    label: str
    B: int
    T: int
    layers: int
    heads: int
    width: int
    vocab: int
    beside: str | None = None
    threads: int = 0

    def shape(self):
        """Return the sizes as the dict that bench.kernels.MeasuredStep takes."""
        return {"batch_size": self.B, "n_positions": self.T, "n_layer": self.layers,
                "n_head": self.heads, "n_embd": self.width, "vocab_size": self.vocab,
                "dropout": 0.0}


def tables(threads):
    """Return {title: cases} of all tables, for a machine on which this many threads are in use."""
    counts = sorted({1 << i for i in range(threads.bit_length())} | {threads})
    return {
        "length, 2048 tokens of width 256": [
            Case(f"T {T}", 2048 // T, T, 2, 4, 256, 256) for T in (64, 128, 256, 512, 1024, 2048)],
        "width, 4 x 256 tokens": [
            Case(f"width {C}", 4, 256, 2, C // 64, C, 256) for C in (64, 128, 256, 512, 768, 1024)],
        "threads, 8 x 256 tokens of width 256": [
            Case(f"{n} thread" + "s" * (n > 1), 8, 256, 2, 4, 256, 256, threads=n,
                 beside="1 thread" if n > 1 else None) for n in counts],
        "awkward sizes beside round ones": [
            Case("width 96", 8, 128, 2, 4, 96, 256),
            Case("width 100", 8, 128, 2, 4, 100, 256, "width 96"),
            Case("width 128", 8, 128, 2, 4, 128, 256),
            Case("head size 16", 4, 256, 2, 20, 320, 256),
            Case("head size 20", 4, 256, 2, 16, 320, 256, "head size 16"),
            Case("head size 32", 4, 256, 2, 10, 320, 256),
            Case("T 256", 7, 256, 2, 4, 256, 256),
            Case("T 255", 7, 255, 2, 4, 256, 256, "T 256"),
            Case("T 257", 7, 257, 2, 4, 256, 256, "T 256"),
            Case("3 x 64 tokens", 3, 64, 2, 4, 256, 256),
            Case("3 x 61 tokens", 3, 61, 2, 4, 256, 256, "3 x 64 tokens"),
            Case("vocabulary 64", 8, 128, 2, 4, 128, 64),
            Case("vocabulary 65", 8, 128, 2, 4, 128, 65, "vocabulary 64"),
            Case("vocabulary 50304", 4, 64, 1, 4, 256, 50304),
            Case("vocabulary 50257", 4, 64, 1, 4, 256, 50257, "vocabulary 50304"),
        ],
    }


# --------------------------------------------------------------------------------- measuring ---

def measure(cases_by_title, seconds, compute_dtype="float32"):
    """Measure the median time of every case's step, and compare each with its neighbour.

    Args:
        cases_by_title: {title: Cases}.
        seconds: the approximate duration of all tables together.
        compute_dtype: as in GPT.
    Returns:
        A dict of plain values: kernels.info(), "dtype", "seconds" and "tables", each {"title",
        "rows"}.
    """
    start, threads = time.perf_counter(), kernels.get_num_threads()
    found = []
    with kernels.use_threads(threads):  # the cases set others; this restores the number
        for i, (title, cases) in enumerate(cases_by_title.items()):
            now = time.perf_counter()
            until = now + max(0.0, start + seconds - now) / (len(cases_by_title) - i)
            rows = _rows(cases, threads, until, compute_dtype)
            found.append({"title": title, "rows": rows})
    return {**kernels.info(), "dtype": compute_dtype, "seconds": time.perf_counter() - start,
            "tables": found}


def _rows(cases, threads, until, compute_dtype):
    steps = []
    for case in cases:
        kernels.set_num_threads(case.threads or threads)
        steps.append(MeasuredStep(case.shape(), compute_dtype))
    peak = peak_call(OPERAND_TYPES[compute_dtype])
    times, peaks = [[] for _ in cases], {case.threads or threads: [] for case in cases}
    turns = 0
    while turns < LEAST_TURNS or time.perf_counter() < until:
        for n, flops in peaks.items():
            kernels.set_num_threads(n)
            start = time.perf_counter()
            done = peak()
            flops.append(done / (time.perf_counter() - start))
        for case, step, taken in zip(cases, steps, times):
            kernels.set_num_threads(case.threads or threads)
            end = time.perf_counter() + TURN
            taken.append(seconds_of(step))
            while time.perf_counter() < end:
                taken.append(seconds_of(step))
        turns += 1
    return compare([_row(case, case.threads or threads, step, taken, peaks)
                    for case, step, taken in zip(cases, steps, times)], cases)


def _row(case, threads, step, taken, peaks):
    quartiles, peak = statistics.quantiles(taken, n=4), statistics.median(peaks[threads])
    flops = step.operations / quartiles[1]
    return {"label": case.label, **case.shape(), "threads": threads, "runs": len(taken),
            **milliseconds(quartiles), "us_per_token": 1e6 * quartiles[1] / (case.B * case.T),
            "gflops": flops / 1e9, "peak_gflops": peak / 1e9, "of_peak": flops / peak}


def compare(rows, cases):
    """Add to each row its speed relative to the neighbour that it names; return the rows.

    "ratio" is the quotient of their operations per second: the speed-up, where the number of
    threads differs. "cliff" tells whether the ratio, divided by the number of threads, is below
    CLIFF.
    """
    speed = {row["label"]: row["gflops"] for row in rows}
    for row, case in zip(rows, cases):
        row["beside"], row["ratio"], row["cliff"] = case.beside, None, False
        if case.beside is not None:
            row["ratio"] = row["gflops"] / speed[case.beside]
            row["cliff"] = row["ratio"] / max(1, case.threads) < CLIFF
    return rows


# -------------------------------------------------------------------------------- the report ---

def report(result):
    """Return the dict of measure() as text."""
    products = f"products of {result['dtype']}; " * (result["dtype"] != "float32")
    lines = [f"whole training steps on {result['isa']}, {result['threads']} threads, "
             f"{result['compiler']}; {products}medians of turns; the peak is measured between the "
             "steps"]
    for table in result["tables"]:
        lines += ["", f"{table['title']:38}{'ms':>9}  {'quartiles':17}{'us/token':>9}"
                  f"{'GFLOP/s':>9}{'% peak':>8}"]
        for row in table["rows"]:
            spread = f"{row['ms_low']:.2f}-{row['ms_high']:.2f}"
            beside = f"  {row['ratio']:.2f} x {row['beside']}" if row["beside"] else ""
            lines.append(f"  {row['label']:36}{row['ms']:9.2f}  {spread:17}"
                         f"{row['us_per_token']:9.2f}{row['gflops']:9.0f}"
                         f"{100 * row['of_peak']:7.0f}%{beside}" + "  CLIFF" * row["cliff"])
    return "\n".join(lines)
