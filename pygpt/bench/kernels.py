"""`pygpt bench`: measures the speed of each kernel and compares it with the machine's limits.

It prints four tables: the machine's own multiply-add rate and read bandwidth, measured first;
every kernel at the shapes of a preset; kernels on inputs that make denormals, beside ordinary ones
(bench/denormals.py); and a whole training step broken down by kernel, with Python's share.

The multiply-add rate is measured in a burst, which a processor may run at a higher clock rate than
it keeps up under load. With --sustained it is measured between training steps too, and the kernels
are then compared with that rate.

Machines are noisy, so every number is a median of runs that alternate with the other measurements,
and the quartiles stand beside it.
"""

import random
import statistics
import time
from array import array
from collections import Counter
from functools import partial

from pygpt.autograd.precision import OPERAND_TYPES
from pygpt.autograd.replay import run
from pygpt.backend import kernels
from pygpt.backend.kernels import FLOAT32, NULL, Memory, lib
from pygpt.bench.denormals import denormal_cases
from pygpt.config import PRESETS, TrainConfig
from pygpt.model import GPT
from pygpt.optim import AdamW
from pygpt.training.cost import flops_per_token

VOCABULARIES = {"lesson": 96, "char": 65, "gpt2": 50257}
SHAPES = {name: dict(batch_size=p["batch_size"], n_positions=p["n_positions"],
                     n_layer=p["n_layer"], n_head=p["n_head"], n_embd=p["n_embd"],
                     vocab_size=VOCABULARIES[name], dropout=p.get("dropout", 0.0))
          for name, p in PRESETS.items()}

ROUNDS = 2_000_000  # of multiply-adds, some 10 ms
WORK = 1.0          # seconds of training steps before each measurement of the sustained peak


def seconds_of(function):
    """Call a function; return the seconds that it took."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def quartiles_in_turn(functions, seconds):
    """Call functions in turn for about this time; return the [lower quartile, median, upper
    quartile] of each one's seconds."""
    times = [[] for _ in functions]
    for function in functions:
        function()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for function, taken in zip(functions, times):
            taken.append(seconds_of(function))
    return [statistics.quantiles(taken, n=4) for taken in times]


def milliseconds(quartiles):
    """Return quartiles of seconds as the dict of milliseconds that a result holds."""
    low, median, high = (1e3 * t for t in quartiles)
    return {"ms": median, "ms_low": low, "ms_high": high}


# --------------------------------------------------------------------------------- the machine ---

def machine(seconds=2.0, dtype=FLOAT32):
    """Measure {"gflops", "gbytes"}: multiply-adds of operands of this type, in a burst, and reads
    from memory, on all threads."""
    n = 32 << 20
    memory, out, peak = _filled(n), Memory(4), peak_call(dtype)
    operations = peak()
    (_, multiply, _), (_, read, _) = quartiles_in_turn([
        peak, partial(lib.pygpt_measure_read, out.pointer("f"), memory.pointer("f"), n)], seconds)
    return {"gflops": operations / multiply / 1e9, "gbytes": 4 * n / read / 1e9}


def peak_call(dtype):
    """Return a function that makes multiply-adds and returns their number, times two. A round on a
    unit has 32 * 32 * 128 of them, 300 times as many as in registers."""
    on_unit = dtype != FLOAT32 and kernels.bfloat16_unit()
    return partial(lib.pygpt_measure_peak, ROUNDS // 512 if on_unit else ROUNDS, dtype)


def sustained_gflops(step, seconds, dtype=FLOAT32):
    """Measure the rate of multiply-adds beside real work, on all threads.

    Each measurement begins at once after WORK seconds of training steps, and is too short for the
    clock rate to recover from them.
    """
    def work():
        end = time.perf_counter() + WORK
        step()
        while time.perf_counter() < end:
            step()

    peak = peak_call(dtype)
    operations = peak()
    _, (_, multiply, _) = quartiles_in_turn([work, peak], seconds)
    return operations / multiply / 1e9


def _filled(n, value=0.5):
    memory, cell = Memory(4 * n), Memory(4)
    cell.view.cast("f")[0] = value
    lib.sum_backward(memory.pointer("f"), cell.pointer("f"), n, 0)
    return memory


# --------------------------------------------------------------------------------- the kernels ---

def kernel_cases(shape, dtype=FLOAT32):
    """List the kernel calls to measure at the shapes of a preset.

    The products round their operands to `dtype`. Operations are counted for the products and for
    attention (its causal half). Where they are 0, memory limits the kernel, and the bytes count:
    each array is read or written once.

    Returns:
        ([(label, call, floating-point operations, least number of bytes moved)], memory); the
        caller keeps the memory alive while it makes the calls.
    """
    B, T, C, NH = (shape[k] for k in ("batch_size", "n_positions", "n_embd", "n_head"))
    V, R = shape["vocab_size"], B * T
    memory = []

    def new(n):
        memory.append(_filled(n, 0.01))
        return memory[-1].pointer("f")

    x, y, dx, h, pre = new(R * C), new(R * C), new(R * C), new(R * 4 * C), new(R * 4 * C)
    qkv, dqkv, lse, mean, rstd = new(R * 3 * C), new(R * 3 * C), new(R * NH), new(R), new(R)
    w, b, dw, db = new(4 * C * C), new(4 * C), new(4 * C * C), new(4 * C)
    rows = []
    for label, IN, OUT, inp, out, dinp in (
            ("qkv", C, 3 * C, x, qkv, dx), ("attention proj", C, C, x, y, dx),
            ("mlp fc", C, 4 * C, x, h, dx), ("mlp proj", 4 * C, C, h, y, pre)):
        size = 2 * R * IN * OUT, 4 * (R * IN + IN * OUT + R * OUT)
        forward = partial(lib.linear_forward, out, NULL, inp, w, b, NULL, R, IN, OUT, dtype)
        to_input = partial(lib.linear_backward_input, dinp, NULL, out, w, NULL, R, IN, OUT, 0,
                           dtype)
        to_weight = partial(lib.linear_backward_weight, dw, db, inp, out, R, IN, OUT, 0, dtype)
        rows += [(f"{label}: y = x W + b", forward, *size),
                 (f"{label}: dx = dy W^T", to_input, *size),
                 (f"{label}: dW = x^T dy", to_weight, *size)]
    half = 2 * B * NH * T * T // 2 * (C // NH)  # operations of one T x T product, its causal half
    rows += [
        ("attention forward", lambda: lib.attention_forward(
            y, lse, qkv, B, T, C, NH, 0.0, NULL, 0, dtype), 2 * half, 4 * R * 4 * C),
        ("attention backward", lambda: lib.attention_backward(
            dqkv, dx, qkv, y, lse, B, T, C, NH, 0.0, NULL, 0, dtype), 5 * half, 4 * R * 8 * C),
        ("layernorm forward", lambda: lib.layernorm_forward(
            y, mean, rstd, x, b, b, R, C, 1e-5, 0), 0, 4 * R * 2 * C),
        ("layernorm backward", lambda: lib.layernorm_backward(
            dx, dw, db, y, x, b, mean, rstd, R, C, 1, 0), 0, 4 * R * 4 * C),
        ("gelu forward", lambda: lib.gelu_forward(h, pre, R * 4 * C), 0, 4 * R * 8 * C),
        ("gelu backward", lambda: lib.gelu_backward(h, h, pre, R * 4 * C, 0), 0, 4 * R * 12 * C),
    ]
    wte, dwte, loss, losses, target_ids = new(V * C), new(V * C), new(1), new(R), Memory(4 * R)
    target_ids.view.cast("i")[:] = memoryview(array("i", [random.randrange(V) for _ in range(R)]))
    targets = target_ids.pointer("i")
    rows += [
        ("head and loss, forward", lambda: lib.linear_cross_entropy_forward(
            loss, losses, x, wte, targets, R, C, V, -100, dtype), 2 * R * C * V, 4 * V * C),
        ("head and loss, both", lambda: lib.linear_cross_entropy_backward(
            loss, losses, dx, dwte, loss, x, wte, targets, R, C, V, -100, 0, 0, dtype),
         6 * R * C * V, 4 * 3 * V * C),
        ("embedding forward", lambda: lib.embedding_forward(
            y, targets, wte, x, NULL, B, T, C, V, R), 0, 4 * R * 3 * C),
        ("embedding backward", lambda: lib.embedding_backward(
            dwte, dx, x, targets, B, T, C, V, T, 1, 0), 0, 4 * R * 4 * C),
    ]
    n = 12 * shape["n_layer"] * C * C + V * C
    p, g, m, v = (new(n) for _ in range(4))
    hyper, total = Memory(32), Memory(8)
    hyper.view.cast("f")[:] = memoryview(array("f", [0, .9, .95, 1e-8, .1, .5, .5, 1]))
    memory += [target_ids, hyper, total]
    rows += [
        ("AdamW", lambda: lib.adamw_step(p, NULL, m, v, g, hyper.pointer("f"), n, n), 0,
         4 * 7 * n),
        ("gradient norm", lambda: lib.sum_squares(total.pointer("d"), g, n), 0, 4 * n),
    ]
    return rows, memory


def denormals(shape, seconds, dtype=FLOAT32):
    """Measure the pairs of denormal_cases for about this time; return a row for each.

    The two calls of a pair take turns by themselves: each finds the caches as the other left them.
    """
    cases, inputs = denormal_cases(shape, dtype)  # the calls read the memory of inputs
    rows = []
    for label, how, *pair in cases:
        (_, ordinary, _), (_, denormal, _) = quartiles_in_turn(pair, seconds / len(cases))
        rows.append({"kernel": label, "inputs": how, "ordinary_ms": 1e3 * ordinary,
                     "denormal_ms": 1e3 * denormal, "ratio": denormal / ordinary})
    return rows


# ------------------------------------------------------------------------------- a whole step ---

class MeasuredStep:
    """Runs a training step of a preset's model, as a whole or call by call."""

    def __init__(self, shape, compute_dtype="float32"):
        settings = dict(shape)
        V = settings.pop("vocab_size")
        config = TrainConfig(**settings)
        B, T = config.batch_size, config.n_positions
        self.model = GPT(config.model_config(V), compute_dtype=compute_dtype)
        self.optimizer, rng = AdamW(self.model), random.Random(0)
        ids = array("i", [rng.randrange(V) for _ in range(B * T)])
        self.ids = memoryview(ids).cast("B").cast("i", (B, T))
        self.operations = flops_per_token(self.model.config, T) * B * T  # floating-point ones
        self()
        self()  # the second run replays what the first recorded

    def __call__(self):
        self.model.loss_and_grad(self.ids, self.ids)
        self.optimizer.clip_grad_norm(1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def by_kernel(self, runs):
        """Divide the time of a step among the kernels and Python.

        Each run measures a whole step, then a step whose calls are timed one by one, then the same
        calls with all sizes 0. Python's part is the time of a step beyond its calls, plus the time
        of the calls with nothing to compute, which is spent on passing arguments.

        Returns:
            (quartiles of whole steps, {kernel: median seconds per step}, median seconds of Python).
        """
        program, = (step.program for step in self.model._steps)
        steps, calls_of_steps, pythons = [], [], []
        calls = program.forward_in_training + program.backward_calls()[0]
        empty = [partial(call.func, *(0 if type(a) is int else a for a in call.args))
                 for call in calls]
        for _ in range(runs):
            steps.append(seconds_of(self))
            taken = Counter()
            for call in calls:
                taken[call.func.__name__] += seconds_of(call)
            for name, function in (("sum_squares", lambda: self.optimizer.clip_grad_norm(1.0)),
                                   ("adamw_step", self.optimizer.step)):
                for _, p in self.model.named_parameters():
                    p.node.valid = True
                taken[name] = seconds_of(function)
            self.optimizer.zero_grad()
            calls_of_steps.append(taken)
            pythons.append(steps[-1] - sum(taken.values()) + seconds_of(partial(run, empty)))
        return (statistics.quantiles(steps, n=4),
                {name: statistics.median(taken[name] for taken in calls_of_steps)
                 for name in calls_of_steps[0]},
                statistics.median(pythons))


# ---------------------------------------------------------------------------------- the report ---

def measure(preset, seconds=10.0, sustained=False, compute_dtype="float32"):
    """Measure all tables; return them as one dict of plain values.

    Its "machine" names the peak, "burst" or "sustained", of which each "of_peak" is a share, and
    the type of its operands: bfloat16 if the products run on a unit for it.

    Args:
        preset: a name in SHAPES.
        seconds: the approximate duration.
        sustained: whether to measure the sustained peak, in another quarter of this time or at
            least six seconds, and compare with that one.
        compute_dtype: as in GPT.
    """
    shape, dtype = SHAPES[preset], OPERAND_TYPES[compute_dtype]
    limits = machine(min(2.0, seconds / 4), dtype)
    cases, memory = kernel_cases(shape, dtype)
    quartiles_of_kernels = quartiles_in_turn([call for _, call, _, _ in cases], 3 * seconds / 8)
    kinds = [(label, *work) for label, _, *work in cases]
    del cases, memory
    vanishing = denormals(shape, seconds / 8, dtype)
    step = MeasuredStep(shape, compute_dtype)
    (_, once, _), = quartiles_in_turn([step], 0.0)
    quartiles_of_step, parts, python = step.by_kernel(max(5, int(seconds / 4 / once)))
    limits["sustained_gflops"] = sustained_gflops(step, seconds / 4, dtype) if sustained else None
    limits["peak"] = "sustained" if sustained else "burst"
    limits["operands"] = compute_dtype if kernels.bfloat16_unit() else "float32"
    peak = limits["sustained_gflops"] or limits["gflops"]

    def speed(operations, quartiles):
        gflops = operations / quartiles[1] / 1e9
        return {**milliseconds(quartiles), "gflops": gflops, "of_peak": gflops / peak,
                "of_burst": gflops / limits["gflops"]}

    rows = []
    for (label, operations, size), quartiles in zip(kinds, quartiles_of_kernels):
        gbytes = size / quartiles[1] / 1e9
        rows.append({"kernel": label, **speed(operations, quartiles), "gbytes": gbytes,
                     "of_bandwidth": gbytes / limits["gbytes"]})
    return {
        "preset": preset, "shape": shape, "dtype": compute_dtype, "machine": limits,
        **kernels.info(), "kernels": rows, "denormals": vanishing,
        "step": {**speed(step.operations, quartiles_of_step),
                 "by_kernel_ms": {k: 1e3 * v for k, v in parts.items()},
                 "python_share": python / quartiles_of_step[1]},
    }


def report(result):
    """Return the dict of measure() as text."""
    m, s = result["machine"], result["step"]
    shape = " ".join(f"{k}={v}" for k, v in result["shape"].items())
    both = m["peak"] == "sustained"  # are there two peaks to compare with?
    is_rounded = result["dtype"] != "float32"
    of = f"GFLOP/s of {m['operands']} multiply-adds"
    peak = (f"{m['sustained_gflops']:.0f} {of} sustained (the peak below), "
            f"{m['gflops']:.0f} in a burst" if both else
            f"{m['gflops']:.0f} {of} in a burst (the peak below)")
    lines = [f"{result['preset']}: {shape}",
             f"{result['isa']}, {result['threads']} threads, {result['compiler']}:",
             *[f"products of {result['dtype']}: {', '.join(result['bfloat16'])}"] * is_rounded,
             f"{peak}, {m['gbytes']:.1f} GB/s of reads", "",
             f"{'kernel':28}{'ms':>9}  {'quartiles':15}{'GFLOP/s':>8}{'% peak':>8}"
             + f"{'% burst':>8}" * both + f"{'GB/s':>7}{'% read':>8}"]
    for r in result["kernels"]:
        spread = f"{r['ms_low']:.3f}-{r['ms_high']:.3f}"
        compute = f"{r['gflops']:8.0f}{100 * r['of_peak']:7.0f}%"
        compute += f"{100 * r['of_burst']:7.0f}%" * both
        if not r["gflops"]:
            compute = " " * len(compute)
        lines.append(f"{r['kernel']:28}{r['ms']:9.3f}  {spread:15}{compute}{r['gbytes']:7.1f}"
                     f"{100 * r['of_bandwidth']:7.0f}%")
    lines += ["", f"{'inputs that make denormals':60}{'ordinary ms':>12}{'ms':>9}{'ratio':>8}"]
    for r in result["denormals"]:
        lines.append(f"{r['kernel']:28}{r['inputs']:32}{r['ordinary_ms']:12.3f}"
                     f"{r['denormal_ms']:9.3f}{r['ratio']:8.2f}")
    lines += ["", f"a training step: {s['ms']:.2f} ms ({s['ms_low']:.2f}-{s['ms_high']:.2f}), "
              f"{s['gflops']:.0f} GFLOP/s, {100 * s['of_peak']:.0f}% of the {m['peak']} peak"
              + f", {100 * s['of_burst']:.0f}% of the burst's" * both]
    for name, ms in sorted(s["by_kernel_ms"].items(), key=lambda item: -item[1]):
        lines.append(f"  {name:32}{ms:9.3f} ms {100 * ms / s['ms']:6.1f}%")
    python = s["python_share"]
    lines.append(f"  {'Python':32}{s['ms'] * python:9.3f} ms {100 * python:6.1f}%")
    return "\n".join(lines)
