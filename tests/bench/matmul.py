"""Compares each matrix product of a training step with PyTorch's, in turns in one process.

    make compare-matmul    or: python tests/bench/matmul.py [NAME ...] [--seconds S] [--threads N]

It measures, for each linear layer of the configurations of compare.py with R = B*T rows: y = x W,
dx = dy W^T and dW = x^T dy, with W stored (in, out) on both sides. The head's weight is the token
embedding, (V, C); our side computes the logits transposed, as crossentropy.c does, and PyTorch's
side computes them as F.linear does. Both sides read the same operands and write the same output, at
the same addresses except for the head's y, and their outputs are compared.

A turn begins with calls that are not counted: the threads of the side that ran before may spin for
a few milliseconds, and both sides then find the caches as their own calls left them. The table
gives medians and quartiles over the turns, and quartiles of the ratio taken turn by turn. The peak
is the sustained one: the rate of multiply-adds in registers, measured at the end of each turn, when
all cores have been busy with the products. Above the table stands the machine; --json has it in
each row.

PYGPT_ISA=avx2 measures AVX2 against the AVX2 peak, and restricts PyTorch to AVX2 too.
It needs PyTorch (`pip install torch`, the CPU build).
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

from compare import CONFIGURATIONS, heading, machine  # noqa: E402
from peers import peer  # noqa: E402

from pygpt.backend import kernels  # noqa: E402
from pygpt.backend.kernels import FLOAT32, NULL, Memory, lib  # noqa: E402

NAMES = ("lesson", "char-small", "char", "gpt2")
LARGE = 2.5e8          # operations; a product with more should reach ENOUGH of the peak
ENOUGH = 0.85
WARM, TURN = 0.008, 0.02  # seconds of a turn, not counted and counted
PEAK_ROUNDS = 1_000_000
STREAMS = itertools.count()  # of random numbers


def restrict_torch_to(isa):
    """Let torch's libraries use no more than our instruction set. It is called before torch is
    imported."""
    if isa == "avx2":
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
        os.environ.setdefault("MKL_ENABLE_INSTRUCTIONS", "AVX2")
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def filled(torch_gpt, rows, columns):
    """Make a (rows, columns) matrix; return it as each side takes it: a pointer, and a matrix in
    that memory."""
    memory, seed = Memory(4 * rows * columns), Memory(8)
    seed.view.cast("Q")[0] = 1
    lib.random_normal(memory.pointer("f"), 1.0, seed.pointer("Q"), next(STREAMS), rows * columns)
    return memory.pointer("f"), torch_gpt.matrix(memory.view, rows, columns)


def layers(name):
    """Return [(label, R, IN, OUT)] of a configuration."""
    B, T, _, _, C, V, _ = CONFIGURATIONS[name]
    R = B * T
    return [("c_attn", R, C, 3 * C), ("attn c_proj", R, C, C), ("c_fc", R, C, 4 * C),
            ("mlp c_proj", R, 4 * C, C), ("head", R, C, V)]


def products(torch_gpt, label, R, IN, OUT):
    """Return [(product, ours, theirs, our output, their output)]. The outputs are matrices that are
    equal after both calls."""
    product = torch_gpt.product
    x, tx = filled(torch_gpt, R, IN)
    dx, tdx = filled(torch_gpt, R, IN)
    y, ty = filled(torch_gpt, R, OUT)
    if label == "head":
        w, tw = filled(torch_gpt, OUT, IN)
        dw, tdw = filled(torch_gpt, OUT, IN)
        across, ta = filled(torch_gpt, OUT, R)
        return [
            ("y", lambda: lib.matmul(across, w, x, OUT, R, IN, 0, 1, 0, FLOAT32),
             product(ty, tx, tw.t()), ta.t(), ty),
            ("dx", lambda: lib.matmul(dx, across, w, R, IN, OUT, 1, 0, 0, FLOAT32),
             product(tdx, ty, tw), tdx, tdx),
            ("dW", lambda: lib.matmul(dw, across, x, OUT, IN, R, 0, 0, 0, FLOAT32),
             product(tdw, ty.t(), tx), tdw, tdw),
        ]
    w, tw = filled(torch_gpt, IN, OUT)
    dw, tdw = filled(torch_gpt, IN, OUT)
    return [
        ("y", lambda: lib.linear_forward(y, NULL, x, w, NULL, NULL, R, IN, OUT, FLOAT32),
         product(ty, tx, tw), ty, ty),
        ("dx", lambda: lib.linear_backward_input(dx, NULL, y, w, NULL, R, IN, OUT, 0, FLOAT32),
         product(tdx, ty, tw.t()), tdx, tdx),
        ("dW", lambda: lib.linear_backward_weight(dw, NULL, x, y, R, IN, OUT, 0, FLOAT32),
         product(tdw, tx.t(), ty), tdw, tdw),
    ]


def check(torch_gpt, product, ours, theirs, our_output, their_output):
    """Exit unless both sides compute the same product."""
    ours()
    a = torch_gpt.copy(our_output)
    theirs()
    error = torch_gpt.difference(a, their_output)
    if not error < 1e-4:
        sys.exit(f"matmul: error: the two sides' {product} differ by {error:.1e} of its largest")


def turn(call):
    """Return the median seconds of the calls of a turn."""
    end = time.perf_counter() + WARM
    call()
    while time.perf_counter() < end:
        call()
    times, end = [], time.perf_counter() + TURN
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        times.append(now - start)
        if now >= end:
            return statistics.median(times)


def peak_turn():
    start = time.perf_counter()
    return lib.pygpt_measure_peak(PEAK_ROUNDS, FLOAT32) / (time.perf_counter() - start)


def measure(name, label, R, IN, OUT, seconds, torch_gpt):
    """Return a row for each of the three products of a layer."""
    rows, cases = [], products(torch_gpt, label, R, IN, OUT)
    for product, ours, theirs, our_output, their_output in cases:
        check(torch_gpt, product, ours, theirs, our_output, their_output)
        our_times, their_times, peaks = [], [], []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(peaks) < 5:
            their_times.append(turn(theirs))
            our_times.append(turn(ours))
            peaks.append(peak_turn())
        (a_low, a, a_high), (b_low, b, b_high) = (
            statistics.quantiles(times, n=4) for times in (our_times, their_times))
        low, _, high = statistics.quantiles(
            [theirs / ours for ours, theirs in zip(our_times, their_times)], n=4)
        work, peak = 2.0 * R * IN * OUT, statistics.median(peaks)
        rows.append({"name": name, "layer": label, "product": product, "R": R, "IN": IN,
                     "OUT": OUT, "turns": len(peaks), "ms": 1e3 * a, "torch_ms": 1e3 * b,
                     "ms_quartiles": (1e3 * a_low, 1e3 * a_high),
                     "torch_ms_quartiles": (1e3 * b_low, 1e3 * b_high),
                     "ratio": b / a, "quartiles": (low, high), "of_peak": work / a / peak,
                     "torch_of_peak": work / b / peak, "sustained_gflops": peak / 1e9,
                     "slower": b / a < 1.0, "low": work >= LARGE and work / a / peak < ENOUGH})
    return rows


def line(row):
    shape = f"{row['R']} x {row['IN']} x {row['OUT']}"
    marks = "  slower" * row["slower"] + f"  under {100 * ENOUGH:.0f} %" * row["low"]
    ours, theirs = ("{:.3f}-{:.3f}".format(*row[f"{side}ms_quartiles"]) for side in ("", "torch_"))
    return (f"{row['name']:11}{row['layer']:12}{row['product']:3}{shape:>20}{row['ms']:10.3f}  "
            f"{ours:15}{row['torch_ms']:10.3f}  {theirs:15}{row['ratio']:8.2f}x  "
            f"{row['quartiles'][0]:.2f}-{row['quartiles'][1]:<6.2f}"
            f"{100 * row['of_peak']:6.0f}%{100 * row['torch_of_peak']:7.0f}%{marks}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=0.6, help="time for each product")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layer", help="only this layer: c_attn, 'attn c_proj', c_fc, ...")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in CONFIGURATIONS:
            parser.error(f"{name!r} is not one of {', '.join(CONFIGURATIONS)}")
    restrict_torch_to(kernels.isa())
    torch_gpt = peer("torch_gpt")
    torch_gpt.set_num_threads(options.threads)
    kernels.set_num_threads(options.threads)
    described = machine(options.threads, torch_gpt)
    if not options.json:
        print(f"{heading(described)}; medians of turns; the peak is the sustained one")
        print(f"{'':14}{'':12}{'R x IN x OUT':>20}{'pygpt ms':>10}  {'quartiles':15}"
              f"{'torch ms':>10}  {'quartiles':15}{'ratio':>9}  {'quartiles':11}{'% peak':>7}"
              f"{'theirs':>8}")
    rows = []
    for name in options.names:
        for label, R, IN, OUT in layers(name):
            if options.layer in (None, label):
                for row in measure(name, label, R, IN, OUT, options.seconds, torch_gpt):
                    rows.append(row)
                    print(json.dumps({**row, "machine": described}) if options.json else line(row),
                          flush=True)
    if rows and not options.json:
        print(f"{len(rows)} products: {sum(r['slower'] for r in rows)} slower than PyTorch's, "
              f"{sum(r['low'] for r in rows)} large ones under {100 * ENOUGH:.0f} % of "
              f"a sustained peak of {statistics.median(r['sustained_gflops'] for r in rows):.0f} "
              "GFLOP/s")


if __name__ == "__main__":
    main()
