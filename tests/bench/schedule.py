"""Models how the kernels of a training step share out their work among 1 to 128 threads.

    make schedule      or: python tests/bench/schedule.py [NAME ...] [--isa ISA] [--threads N ...]

Few of us have 64 cores at hand, but whether 64 threads all have something to do can be computed.
The kernels of a step are those that the library records for the configurations of compare.py; how
each of them divides its work into tasks is asked of the library too (pygpt.h). A task's cost is its
multiply-adds, packing included, or the floats that it moves. The simulation then hands the tasks to
the threads as OpenMP does: each to the first thread that is free, or in equal shares.

For each kernel and number of threads the table has the number of tasks, the balance, which is the
work over the threads' total time, work / (threads * makespan), and the speed-up over one thread.
The balance follows from the tasks alone. Times, and so the speed-ups, also rest on the assumptions
listed below. No caches, no other processes and no unequal cores are modelled.
"""

import argparse
import heapq
import json
import math
import sys
from collections import Counter, namedtuple
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

from compare import CONFIGURATIONS, config_of  # noqa: E402

from pygpt.autograd.launch import calling  # noqa: E402
from pygpt.autograd.ops import IGNORED  # noqa: E402
from pygpt.autograd.recorded_step import Key, TrainingStep  # noqa: E402
from pygpt.backend.kernels import ffi, lib  # noqa: E402
from pygpt.model import GPT  # noqa: E402

THREADS = (2, 4, 8, 16, 32, 64, 128)

# The assumptions about the machine.
MULTIPLY_ADDS = {"avx512": 100e9, "avx2": 50e9}  # of one thread in a second; others: 20e9
FLOATS = 6e9         # floats that one thread reads or writes in a second, beyond its L2
MEMORY_THREADS = 16  # this many threads read and write as fast as all the memory can
CALL = 1e-6          # seconds that Python takes to call a kernel
REGION = 2e-6        # seconds to enter and leave a parallel region, and as much again for
FORK = 1e-6          # each doubling of the threads

# Kernels that are shared out by rows or elements, in equal chunks: the cost of an element as the
# kernel counts it when it decides whether several threads are worth it, and the floats moved.
Rows = namedtuple("Rows", "cost floats")
ROWS = {"layernorm_forward": Rows(4, 2), "dropout_forward": Rows(8, 3),
        "dropout_backward": Rows(8, 3)}

# One parallel region of a kernel: its tasks' costs, multiply-adds or floats as `unit` says; how
# many threads share them; whether these get equal shares or take one task after another; and the
# floats that one thread reads or writes outside it.
Region = namedtuple("Region", "costs unit threads is_static serial", defaults=(False, 0))


class Machine(namedtuple("Machine", "isa tile_rows tile_columns")):
    """An instruction set's name and tile."""

    @classmethod
    def named(cls, name):
        """Return the Machine of a built-in set, whether this CPU has it or not; None: no set."""
        rows, columns = ffi.new("int64_t *"), ffi.new("int64_t *")
        for i, built in enumerate(built_sets()):
            if built == name:
                lib.pygpt_tile(rows, columns, i)
                return cls(name, rows[0], columns[0])
        return None

    @property
    def multiply_adds(self):
        return MULTIPLY_ADDS.get(self.isa, 20e9)


def built_sets():
    names = []
    while (name := lib.pygpt_isa_name(len(names))) != ffi.NULL:
        names.append(ffi.string(name).decode())
    return names


# ------------------------------------------------------------------------- the kernels of a step --

class _NoMemory:
    """Takes the place of memory while a step is recorded and nothing is computed."""

    def __init__(self, nbytes=0):
        self.view = memoryview(b"")

    def pointer(self, code, offset=0):
        return self


def calls_of(sizes):
    """Return [(kernel's name, its whole-number arguments)] of a training step, in order."""
    B, T, *_ = sizes
    model = GPT.__new__(GPT)
    model._build(config_of(sizes))
    model.gradients = lambda: None
    for _, parameter in model.named_parameters():
        parameter.place(_NoMemory())
        parameter.leaf.memory = parameter.memory
    with calling(lambda kernel, args: None, _NoMemory):
        step = TrainingStep(model, Key(B, T, IGNORED, True, model.dropout_shares(), False))
        step.forward_backward(1.0)
    calls = step.program.forward_in_training + step.program.backward_calls()[0]
    n = sum(p.size for _, p in model.named_parameters())
    return [*((call.func.__name__, tuple(a for a in call.args if type(a) is int))
              for call in calls), ("sum_squares", (n,)), ("adamw_step", (n, n))]


# ----------------------------------------------------------------------------- a kernel's tasks ---

def chunks(total, length):
    """Return the lengths of the parts of `total`, all of this length but the last."""
    return [min(length, total - i) for i in range(0, total, length)]


def product(machine, threads, M, N, K, transpose_a, transpose_b):
    """Return the Region of C (M,N) = A (M,K) B (K,N)."""
    threads = lib.pygpt_threads_for(M * N * K, 2, threads)
    rows, columns = blocks(machine, threads, M, N, K, transpose_a, transpose_b)
    part, costs = ffi.new("int64_t[4]"), []
    for i in range(len(chunks(M, rows)) * len(chunks(N, columns))):
        lib.pygpt_product_block(part, i, rows, columns, M, N)
        m0, m1, n0, n1 = part
        costs.append(lib.pygpt_block_cost(m1 - m0, n1 - n0, N, K, transpose_b, machine.tile_rows))
    return Region(costs, "multiply-adds", threads if len(costs) > 1 else 1)


def blocks(machine, threads, M, N, K, transpose_a, transpose_b):
    """Return the (rows, columns) of the blocks of a product."""
    rows, columns = ffi.new("int64_t *"), ffi.new("int64_t *")
    lib.pygpt_product_blocks(rows, columns, M, N, K, transpose_a, transpose_b, threads,
                             machine.tile_rows, machine.tile_columns)
    return rows[0], columns[0]


def by_rows(threads, R, C, rule):
    threads = lib.pygpt_threads_for(rule.cost * R * C, R, threads)
    lengths = chunks(R, lib.pygpt_chunk(R, 1, threads))
    return Region([rule.floats * C * rows for rows in lengths], "floats", threads)


def attention(machine, threads, B, T, C, NH, backward):
    """Return the Region of an attention kernel. An exponential counts as 8 multiply-adds."""
    HS = C // NH
    threads = lib.pygpt_threads_for((2.5 if backward else 1) * B * NH * T * T * (HS + 8), 2,
                                    threads)
    parts = lib.pygpt_attention_parts(B, T, NH, backward, threads, machine.tile_columns)
    part, costs = ffi.new("int64_t[6]"), []
    for i in range(parts):
        lib.pygpt_attention_part(part, i, parts, B, T, NH, backward, machine.tile_columns)
        i0, i1, j0, j1, of_queries, of_keys = part
        products = 2 + of_queries + 2 * of_keys if backward else 2
        costs.append(scores(i0, i1, j0, j1) * (products * HS + 8))
    return Region(costs, "multiply-adds", threads if parts > 1 else 1)


@lru_cache(None)
def scores(i0, i1, j0, j1):
    """Return the number of pairs of a query i of i0..i1 and a key of j0..j1 that is not after i."""
    return sum(max(0, min(i + 1, j1) - j0) for i in range(i0, i1))


def head(machine, threads, R, C, V):
    """Return the Regions of linear_cross_entropy_backward: for each chunk of rows the logits, their
    softmax in three steps, dx and dW."""
    rows, part = ffi.new("int64_t *"), ffi.new("int64_t *")
    lib.pygpt_head_chunk(rows, part, R, V, machine.tile_columns)
    for n in chunks(R, rows[0]):
        widths = chunks(n, machine.tile_columns)
        parts = [2 * height * width for height in chunks(V, part[0]) for width in widths]
        shared = lib.pygpt_threads_for(16 * n * V, len(parts), threads)
        yield "logits", product(machine, threads, V, n, C, 0, 1)
        yield "softmax", Region(parts, "floats", shared, False, n)
        yield "softmax", Region([2 * math.ceil(V / part[0]) * width for width in widths], "floats",
                                shared)
        yield "softmax", Region(parts, "floats", shared, False, n)
        yield "dx", product(machine, threads, n, C, V, 1, 0)
        yield "dW", product(machine, threads, V, C, n, 0, 0)


def embedding_backward(threads, B, T, C, P):
    shared = lib.pygpt_threads_for(B * T * C, math.ceil(C / 16), threads)
    chunk = lib.pygpt_embedding_chunk(C, shared)
    yield "tokens", Region([3 * B * T * c for c in chunks(C, chunk)], "floats", shared, False,
                           B * T)
    shared = lib.pygpt_threads_for(B * T * C, P, threads)
    yield "positions", Region([2 * B * C * (t < T) for t in range(P)], "floats", shared, True)


def spans(threads, n, cost, floats):
    lengths = chunks(n, lib.pygpt_adamw_span())
    return Region([floats * length for length in lengths], "floats",
                  lib.pygpt_threads_for(cost * n, len(lengths), threads))


@lru_cache(None)
def regions(machine, threads, kernel, sizes):
    """Return [(label, Region)] of a kernel with these whole-number arguments."""
    if kernel == "linear_forward":
        R, IN, OUT, *_ = sizes
        return [(f"y  {IN} -> {OUT}", product(machine, threads, R, OUT, IN, 0, 0))]
    if kernel == "linear_backward_input":
        R, IN, OUT, *_ = sizes
        return [(f"dx {IN} -> {OUT}", product(machine, threads, R, IN, OUT, 0, 1))]
    if kernel == "linear_backward_weight":
        R, IN, OUT, *_ = sizes
        return [(f"dW {IN} -> {OUT}", product(machine, threads, IN, OUT, R, 1, 0))]
    if kernel in ("attention_forward", "attention_backward"):
        return [(kernel, attention(machine, threads, *sizes[:4], kernel == "attention_backward"))]
    if kernel in ROWS:
        return [(kernel, by_rows(threads, *sizes[:2], ROWS[kernel]))]
    if kernel == "layernorm_backward":
        R, C, *_ = sizes
        lengths = chunks(R, lib.pygpt_layernorm_group(R))
        shared = lib.pygpt_threads_for(8 * R * C, len(lengths), threads)
        return [(kernel, Region([4 * C * rows for rows in lengths], "floats", shared, True,
                                4 * C * len(lengths)))]
    if kernel == "embedding_forward":
        B, T, C, *_ = sizes
        return [(kernel, by_rows(threads, B * T, C, Rows(1, 3))._replace(serial=B * T))]
    if kernel == "embedding_backward":
        B, T, C, _, P, *_ = sizes
        return [(f"embedding {label}", r) for label, r in embedding_backward(threads, B, T, C, P)]
    if kernel == "linear_cross_entropy_backward":
        R, C, V, *_ = sizes
        return [(f"head {label}", region) for label, region in head(machine, threads, R, C, V)]
    if kernel == "sum_squares":
        return [(kernel, spans(threads, *sizes, 2, 1))]
    if kernel == "adamw_step":
        return [(kernel, spans(threads, sizes[0], 10, 7))]
    raise ValueError(f"{kernel}: the model does not know how it shares out its work")


# ----------------------------------------------------------------------------- the simulation ---

def makespan(region):
    """Return the largest of the threads' sums of costs."""
    costs, threads = region.costs, region.threads
    if threads == 1 or not costs:
        return sum(costs)
    if region.is_static:
        each, more = divmod(len(costs), threads)  # the first `more` threads get one task more
        starts = [i * each + min(i, more) for i in range(threads + 1)]
        return max(sum(costs[i:j]) for i, j in zip(starts, starts[1:]))
    free = [0.0] * threads  # when each thread is free
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def balance(region, threads):
    """Return work / (threads * makespan), in (0, 1]; 1 for no work."""
    longest = makespan(region)
    return sum(region.costs) / (threads * longest) if longest else 1.0


def seconds(region, machine):
    """Return the time of a region under the assumptions above."""
    serial = region.serial / FLOATS
    if region.unit == "floats":
        busy = max(makespan(region), sum(region.costs) / MEMORY_THREADS) / FLOATS
    else:
        busy = makespan(region) / machine.multiply_adds
    if region.threads > 1:
        serial += REGION + FORK * math.log2(region.threads)
    return serial + busy


def step(machine, threads, calls):
    """Return {label: (calls, tasks of one, balance, seconds of all)} and the seconds of a step."""
    rows, total = {}, CALL * len(calls)
    for (kernel, sizes), n in Counter(calls).items():
        for label, region in regions(machine, threads, kernel, sizes):
            before, tasks, work, longest, time = rows.get(label, (0, 0, 0.0, 0.0, 0.0))
            taken = n * seconds(region, machine)
            rows[label] = (before + n, max(tasks, len(region.costs)),
                           work + n * sum(region.costs), longest + n * makespan(region),
                           time + taken)
            total += taken
    return {label: (n, tasks, work / (threads * longest) if longest else 1.0, time)
            for label, (n, tasks, work, longest, time) in rows.items()}, total


# ---------------------------------------------------------------------- if K were split as well --

SPLIT_ROWS = 512           # rows of K in a group, at least
SPLIT_FLOATS = 2 ** 20     # floats that the groups' sums take together, at most


def whole(machine, threads, M, N, K):
    """Return the Regions of a product A^T B as the library computes it."""
    return [product(machine, threads, M, N, K, 1, 0)]


def split(machine, threads, M, N, K):
    """Return the Regions of A^T B if K were split into groups, whose sums are added in order.

    This is not what the library does. It computes an element's whole sum in one thread, so a small
    result has few blocks, however long K is. Groups of rows that depend on the shape alone would
    give bits that are equal for any number of threads, but others than today's. They take memory
    for one more result each, and a pass that adds them up.
    """
    groups = max(1, min(K // SPLIT_ROWS, SPLIT_FLOATS // (M * N)))
    if groups == 1:
        return whole(machine, threads, M, N, K)
    parts = [product(machine, math.ceil(threads / groups), M, N, k, 1, 0)
             for k in chunks(K, math.ceil(K / groups))]
    shared = lib.pygpt_threads_for(M * N * K, 2, threads)
    lengths = chunks(M * N, lib.pygpt_chunk(M * N, 1024, shared))
    return [Region([cost for part in parts for cost in part.costs], "multiply-adds", shared),
            Region([(groups + 1) * n for n in lengths], "floats", shared, True)]


def long_sums(machine, calls):
    """Return {label: [(M, N, K)]} of the products of a step that sum over many rows: dW of the
    layers, and dx of the head, whose K is the vocabulary."""
    shapes = {"all dW": [], "head dx": []}
    rows, part = ffi.new("int64_t *"), ffi.new("int64_t *")
    for kernel, sizes in calls:
        R, IN, OUT, *_ = (*sizes, 0, 0)
        if kernel == "linear_backward_weight":
            shapes["all dW"].append((IN, OUT, R))
        elif kernel == "linear_cross_entropy_backward":
            lib.pygpt_head_chunk(rows, part, R, OUT, machine.tile_columns)
            shapes["head dx"] += [(n, IN, OUT) for n in chunks(R, rows[0])]
    return shapes


def gain(machine, threads, shapes, rule):
    """Return how many times as fast as one thread does now `threads` threads compute products."""
    def total(threads, rule):
        return sum(seconds(region, machine) for shape in shapes
                   for region in rule(machine, threads, *shape))
    return total(1, whole) / total(threads, rule)


# ---------------------------------------------------------------------------------- the report ---

def model(machine, name, threads):
    """Return the table of a configuration as a dict of plain values."""
    calls = calls_of(CONFIGURATIONS[name])
    alone, total_alone = step(machine, 1, calls)
    kernels = [{"kernel": label, "calls": n, "share": time / total_alone, "at": {}}
               for label, (n, _, _, time) in alone.items()]
    result = {"name": name, "isa": machine.isa, "ms": 1e3 * total_alone, "kernels": kernels,
              "step": {}, "whole": {}, "split": {}}
    for t in threads:
        rows, total = step(machine, t, calls)
        for row in kernels:
            _, tasks, even, time = rows[row["kernel"]]
            row["at"][t] = {"tasks": tasks, "balance": even,
                            "speed_up": alone[row["kernel"]][3] / time}
        result["step"][t] = total_alone / total
    for label, shapes in long_sums(machine, calls).items():
        for key, rule in (("whole", whole), ("split", split)):
            result[key][label] = {t: gain(machine, t, shapes, rule) for t in threads}
    return result


def report(result):
    threads = list(result["step"])

    def line(label, cells):
        return f"{label:37}" + "".join(f"{cell:>17}" for cell in cells)

    lines = [line(f"{result['name']}, {result['ms']:.1f} ms on one thread",
                  [f"{t} threads" for t in threads]),
             f"{'kernel':26}{'calls':>5}{'time':>6}" + "  tasks bal.  fast" * len(threads)]
    for row in result["kernels"]:
        lines.append(f"{row['kernel']:26}{row['calls']:5}{100 * row['share']:5.1f}%" + "".join(
            f"{at['tasks']:6}{100 * at['balance']:4.0f}%{at['speed_up']:6.1f}"
            for at in row["at"].values()))
    lines.append(line("the whole step", [f"{x:.1f}" for x in result["step"].values()]))
    for label in result["whole"]:
        for key, text in (("whole", label), ("split", f"{label}, if K were split as well")):
            lines.append(line(text, [f"{x:.1f}" for x in result[key][label].values()]))
    return "\n".join(lines)


def assumptions(machine):
    return (f"{machine.isa}, tiles of {machine.tile_rows} x {machine.tile_columns}. tasks: of one "
            "call; bal.: work / (threads x makespan); fast: times as fast as one thread.\n"
            f"Assumed: {machine.multiply_adds / 1e9:.0f} G multiply-adds and {FLOATS / 1e9:.0f} G "
            f"floats moved in a second and thread, floats on at most {MEMORY_THREADS} threads at "
            f"once; {1e6 * REGION:.0f} us to open a\nregion and {1e6 * FORK:.0f} us for each "
            f"doubling of the threads, {1e6 * CALL:.0f} us for Python to call a kernel.")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(CONFIGURATIONS), metavar="NAME")
    parser.add_argument("--isa", help="the instruction set whose tiles to take (default: the best)")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS, metavar="N")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if ffi is None:
        sys.exit("schedule: error: the model asks the C library, which is not built")
    machine = Machine.named(options.isa or built_sets()[0])
    if machine is None:
        parser.error(f"--isa {options.isa} is not one of {', '.join(built_sets())}")
    for name in options.names:
        if name not in CONFIGURATIONS:
            parser.error(f"{name!r} is not one of {', '.join(CONFIGURATIONS)}")
    if not all(1 <= t <= lib.PYGPT_MAX_THREADS for t in options.threads):
        parser.error(f"--threads: from 1 to {lib.PYGPT_MAX_THREADS}")
    if not options.json:
        print(assumptions(machine))
    for name in options.names:
        result = model(machine, name, options.threads)
        print(json.dumps(result) if options.json else "\n" + report(result), flush=True)


if __name__ == "__main__":
    main()
