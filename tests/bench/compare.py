"""Compares the speed of whole training steps, ours and PyTorch's, which take turns in one run.

    make compare       or: python tests/bench/compare.py [NAME ...] [--seconds S] [--no-compile]
                                                         [--dtype bfloat16] [--no-bfloat16]

A step is forward, backward, clipping at 1.0 and AdamW with decay on matrices only, on the same
batch. PyTorch takes it eagerly, with fused AdamW, with torch.compile, and the last two again under
bfloat16 autocast (bf16, bf16-comp). The sides take turns of a fifth of a second until the time is
up; the table gives medians, the quartiles of our times and of PyTorch's best, those of the ratio
taken pair by pair, and each side's peak memory in a process of its own. Above it stands the
machine; --json has it in each row. It needs PyTorch (`pip install torch`, the CPU build).
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from array import array
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

import pygpt  # noqa: E402
from peers import peer  # noqa: E402
from pygpt.backend import cpu, kernels  # noqa: E402
from pygpt.config import COMPUTE_DTYPES  # noqa: E402

TURN = 0.2  # seconds
LEVELS = ("L1d", "L2", "L3")  # of caches, by lscpu's names
# name: B, T, layers, heads, width, vocabulary, dropout
CONFIGURATIONS = {
    "lesson": (16, 64, 4, 8, 64, 96, 0.0),
    "char-small": (12, 64, 4, 4, 128, 65, 0.0),
    "char": (16, 256, 6, 6, 384, 65, 0.0),
    "char-dropout": (16, 256, 6, 6, 384, 65, 0.2),
    "gpt2": (4, 64, 12, 12, 768, 50257, 0.0),
    "gpt2-long": (1, 1024, 12, 12, 768, 50257, 0.0),
}


def machine(threads, torch_gpt):
    """Describe the machine and both sides as a dict of plain values, "unknown" where the system
    does not tell."""
    system = lscpu()
    return {"cpu": model_name() or system.get("Model name") or "unknown",
            "caches": caches(system) or "unknown", "threads": threads, "isa": kernels.isa(),
            "compiler": kernels.info()["compiler"], "torch": torch_gpt.VERSION,
            "torch_capability": torch_gpt.CAPABILITY}


def heading(m):
    """Return the dict of machine() as two lines."""
    return (f"{m['cpu']}; caches {m['caches']}; {m['threads']} threads\n"
            f"pygpt on {m['isa']}, {m['compiler']}; {m['torch']}")


def model_name(path="/proc/cpuinfo"):
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^model name\s*:[ \t]*(.*?)\s*$", text, re.MULTILINE)
    return found[1] if found else ""


def lscpu(command=("lscpu", "-J")):
    """Return what lscpu says, {field: value}; nothing where it is missing or fails."""
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10,
                             env={**os.environ, "LC_ALL": "C"}).stdout
        fields, found = list(json.loads(out)["lscpu"]), {}
        while fields:  # newer versions nest the fields
            field = fields.pop()
            found[field["field"].rstrip(":")] = field.get("data")
            fields += field.get("children", ())
        return found
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return {}


def caches(system):
    """Return the sizes of the caches as text: a core's own, or else all cores' together, as lscpu
    gives them."""
    sizes = [size and (f"{size >> 10} KiB" if size % (1 << 20) else f"{size >> 20} MiB")
             for size in cpu.found_caches()]
    if not any(sizes):
        sizes = [system.get(f"{level} cache") for level in LEVELS]
    return ", ".join(f"{level} {size}" for level, size in zip(LEVELS, sizes) if size)


def config_of(sizes):
    _, T, layers, heads, width, vocab, drop = sizes
    return pygpt.GPTConfig(vocab_size=vocab, n_positions=T, n_embd=width, n_layer=layers,
                           n_head=heads, embd_pdrop=drop, attn_pdrop=drop, resid_pdrop=drop)


def ids_of(sizes):
    """Return B lists of T random ids."""
    B, T, *_, vocab, _ = sizes
    rng = random.Random(0)
    return [[rng.randrange(vocab) for _ in range(T)] for _ in range(B)]


def our_step(sizes, threads, compute_dtype):
    pygpt.set_num_threads(threads)
    model = pygpt.GPT(config_of(sizes), compute_dtype=compute_dtype)
    optimizer = pygpt.AdamW(model)
    B, T, *_ = sizes
    flat = array("i", [i for row in ids_of(sizes) for i in row])
    ids = memoryview(flat).cast("B").cast("i", (B, T))

    def step():
        model.loss_and_grad(ids, ids)
        optimizer.clip_grad_norm(1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def timed(step, runs):
    """Run one step that is not counted, then `runs` steps; return the seconds of each of these.

    Such a turn has several steps because the threads of the side that ran before may still spin.
    """
    step()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return times


def make(sizes, threads, variant, compute_dtype="float32"):
    """Return a training step of ours ("pygpt") in that type, or of a variant of PyTorch's."""
    if variant == "pygpt":
        return our_step(sizes, threads, compute_dtype)
    torch_gpt = peer("torch_gpt")
    return torch_gpt.training_step(config_of(sizes), ids_of(sizes), threads, variant)


def peak_memory(sizes, threads, variant, compute_dtype, path):
    """Run three steps in a process of their own, with that module path; return its peak resident
    megabytes."""
    code = (f"import sys; sys.path[:0] = {path!r}; import compare; "
            f"step = compare.make({sizes!r}, {threads}, {variant!r}, {compute_dtype!r}); "
            "[step() for _ in range(3)]; "
            "print(next(int(line.split()[1]) // 1024 for line in open('/proc/self/status') "
            "if line.startswith('VmHWM')))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(out.stdout.split()[-1])


def compare(name, threads, variants, seconds, memory, compute_dtype):
    """Measure a configuration; return its row as a dict.

    Args:
        variants: PyTorch's.
        memory: whether peak memory is measured too.
        compute_dtype: that of our side.
    """
    sizes = CONFIGURATIONS[name]
    steps = {variant: make(sizes, threads, variant, compute_dtype)
             for variant in ("pygpt", *variants)}
    for step in steps.values():
        step()
        step()
    times = {variant: [] for variant in steps}
    runs = max(1, round(TURN / timed(steps["pygpt"], 1)[0]))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["pygpt"]) < 5 * runs:
        for variant, step in steps.items():
            times[variant] += timed(step, runs)
    medians = {variant: statistics.median(t) for variant, t in times.items()}
    spread = {variant: statistics.quantiles(t, n=4)[::2] for variant, t in times.items()}
    best = min(variants, key=medians.get)
    ratios = sorted(b / a for a, b in zip(times["pygpt"], times[best]))
    quarter = len(ratios) // 4
    path = [str(Path(peer("torch_gpt").__file__).parent), str(HERE), str(HERE.parent.parent)]
    return {
        "name": name, "dtype": compute_dtype, "runs": len(ratios), "best": best,
        "ms": {variant: 1e3 * m for variant, m in medians.items()},
        "ms_quartiles": {variant: [1e3 * t for t in ends] for variant, ends in spread.items()},
        "ratio": medians[best] / medians["pygpt"],
        "quartiles": (ratios[quarter], ratios[-1 - quarter]),
        "megabytes": {v: peak_memory(sizes, threads, v, compute_dtype, path)
                      for v in ("pygpt", best)} if memory else {},
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(CONFIGURATIONS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=20, help="time for each configuration")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true",
                        help="leave out torch.compile, which takes a while and a C++ compiler")
    parser.add_argument("--dtype", choices=COMPUTE_DTYPES, default="float32",
                        help="our compute_dtype")
    parser.add_argument("--no-bfloat16", action="store_true",
                        help="leave out PyTorch's bfloat16 autocast, which is slow on a CPU that "
                        "has no unit for it")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in CONFIGURATIONS:
            parser.error(f"{name!r} is not one of {', '.join(CONFIGURATIONS)}")
    torch_gpt = peer("torch_gpt")
    variants = [variant for variant in torch_gpt.VARIANTS
                if not (options.no_compile and "comp" in variant)
                and not (options.no_bfloat16 and "bf16" in variant)]
    described = machine(options.threads, torch_gpt)
    if not options.json:
        print(f"{heading(described)}; milliseconds a step, medians of runs taken in turns; ours in "
              f"{options.dtype}")
        print(f"{'':14}{'pygpt':>9}  {'quartiles':15}" + "".join(f"{v:>10}" for v in variants)
              + f"  {'best quartiles':15}{'ratio':>8}  {'quartiles':12}{'peak MB':>8}{'theirs':>8}")
    for name in options.names:
        r = compare(name, options.threads, variants, options.seconds, not options.no_memory,
                    options.dtype)
        if options.json:
            print(json.dumps({**r, "machine": described}), flush=True)
            continue
        ours, theirs = ("{:.1f}-{:.1f}".format(*r["ms_quartiles"][v]) for v in ("pygpt", r["best"]))
        print(f"{name:14}{r['ms']['pygpt']:9.1f}  {ours:15}"
              + "".join(f"{r['ms'][v]:10.1f}" for v in variants) + f"  {theirs:15}"
              + f"{r['ratio']:7.2f}x  {r['quartiles'][0]:.2f}-{r['quartiles'][1]:<7.2f}"
              + "".join(f"{r['megabytes'].get(v, 0):8}" for v in ("pygpt", r["best"])), flush=True)


if __name__ == "__main__":
    main()
