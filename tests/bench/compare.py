"""Whole training steps, ours and PyTorch's, taking turns in one run.

    make compare       or: python tests/bench/compare.py [NAME ...] [--seconds S] [--no-compile]

A step is forward, backward, clipping at 1.0 and AdamW with decay on matrices only, on the same
batch. The sides take turns of a fifth of a second until the time is up; the table gives medians,
the quartiles of the ratio taken pair by pair, and each side's peak memory in a process of its own.
Needs PyTorch (`pip install torch`, the CPU build).
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from array import array
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

# name: B, T, layers, heads, width, vocabulary, dropout
CONFIGURATIONS = {
    "lesson": (16, 64, 4, 8, 64, 96, 0.0),
    "char-small": (12, 64, 4, 4, 128, 65, 0.0),
    "char": (16, 256, 6, 6, 384, 65, 0.0),
    "char-dropout": (16, 256, 6, 6, 384, 65, 0.2),
    "gpt2": (4, 64, 12, 12, 768, 50257, 0.0),
    "gpt2-long": (1, 1024, 12, 12, 768, 50257, 0.0),
}


def config_of(name):
    from pygpt import GPTConfig
    B, T, layers, heads, width, vocab, drop = CONFIGURATIONS[name]
    return B, T, GPTConfig(vocab_size=vocab, n_positions=T, n_embd=width, n_layer=layers,
                           n_head=heads, embd_pdrop=drop, attn_pdrop=drop, resid_pdrop=drop)


def ids_of(name):
    B, T, config = config_of(name)
    rng = random.Random(0)
    return [rng.randrange(config.vocab_size) for _ in range(B * T)]


def our_step(name, threads):
    import pygpt
    B, T, config = config_of(name)
    pygpt.set_num_threads(threads)
    model = pygpt.GPT(config)
    optimizer = pygpt.AdamW(model)
    ids = memoryview(array("i", ids_of(name))).cast("B").cast("i", (B, T))

    def step():
        model.loss_and_grad(ids, ids)
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def their_step(name, threads, variant):
    import torch
    from torch_gpt import TorchGPT, adamw
    torch.set_num_threads(threads)
    B, T, config = config_of(name)
    torch.manual_seed(0)
    model = TorchGPT(config)
    for p in model.parameters():
        if p.dim() >= 2:
            torch.nn.init.normal_(p, std=0.02)
    optimizer = adamw(model, fused=variant != "eager")
    loss_of = torch.compile(model.loss) if variant == "compile" else model.loss
    ids = torch.tensor(ids_of(name)).view(B, T)

    def step():
        loss_of(ids, ids).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timed(step, runs):
    """Seconds of each of `runs` steps after one that is not counted: a turn.

    Turns of several steps, as the threads of the side that ran before may spin for a while yet.
    """
    step()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def make(name, threads, variant):
    return our_step(name, threads) if variant == "pygpt" else their_step(name, threads, variant)


def peak_memory(name, threads, variant):
    """Peak resident megabytes of three steps in a process of its own."""
    code = (f"import sys; sys.path[:0] = {sys.path[:2]!r}; import compare; "
            f"step = compare.make({name!r}, {threads}, {variant!r}); [step() for _ in range(3)]; "
            "print(next(int(line.split()[1]) // 1024 for line in open('/proc/self/status') "
            "if line.startswith('VmHWM')))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(out.stdout.split()[-1])


def compare(name, threads, variants, seconds, memory):
    steps = {variant: make(name, threads, variant) for variant in ("pygpt", *variants)}
    for step in steps.values():
        step()
        step()
    times = {variant: [] for variant in steps}
    runs = max(1, round(0.2 / timed(steps["pygpt"], 1)[0]))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["pygpt"]) < 5 * runs:
        for variant, step in steps.items():
            times[variant] += timed(step, runs)
    medians = {variant: statistics.median(t) for variant, t in times.items()}
    best = min(variants, key=medians.get)
    ratios = sorted(b / a for a, b in zip(times["pygpt"], times[best]))
    quarter = len(ratios) // 4
    return {
        "name": name, "runs": len(ratios), "best": best,
        "ms": {variant: 1e3 * m for variant, m in medians.items()},
        "ratio": medians[best] / medians["pygpt"],
        "quartiles": (ratios[quarter], ratios[-1 - quarter]),
        "megabytes": {v: peak_memory(name, threads, v) for v in ("pygpt", best)} if memory else {},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(CONFIGURATIONS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=20, help="time for each configuration")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true",
                        help="leave out torch.compile, which takes a while and a C++ compiler")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("compare: error: PyTorch is not installed (pip install torch, the CPU build)")
    from pygpt import kernels
    variants = ["eager", "fused"] + ["compile"] * (not options.no_compile)
    if not options.json:
        print(f"PyTorch {torch.__version__}; pygpt on {kernels.isa()}; {options.threads} threads; "
              "milliseconds a step, medians of runs taken in turns")
        print(f"{'':14}{'pygpt':>9}" + "".join(f"{v:>9}" for v in variants)
              + f"{'ratio':>8}  {'quartiles':12}{'peak MB':>8}{'theirs':>8}")
    for name in options.names:
        r = compare(name, options.threads, variants, options.seconds, not options.no_memory)
        if options.json:
            print(json.dumps(r), flush=True)
            continue
        print(f"{name:14}{r['ms']['pygpt']:9.1f}" + "".join(f"{r['ms'][v]:9.1f}" for v in variants)
              + f"{r['ratio']:7.2f}x  {r['quartiles'][0]:.2f}-{r['quartiles'][1]:<7.2f}"
              + "".join(f"{r['megabytes'].get(v, 0):8}" for v in ("pygpt", r["best"])), flush=True)


if __name__ == "__main__":
    main()
