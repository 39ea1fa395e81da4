"""`pygpt bench --mpi`: measures how ranks exchange gradients, and what a shared step costs.

    mpirun -n 2 python -m pygpt bench --mpi

1. The exchange of parallel/reduction.py by size, beside MPI's own Allreduce.
2. A step in three forms, in turn: each rank's rows alone, without an exchange; the exchange after
   the backward pass; and the exchange during it, as training does. The part of the exchange that
   the third form does not add to the first is hidden.
3. The same batch on one rank, while the others sleep.

Every rank takes part with the same numbers; the report is rank 0's. `profile` holds what
scaling.py needs to predict other links and numbers of ranks.
"""

import random
import statistics
import time
from array import array

from pygpt.backend.kernels import Memory
from pygpt.config import TrainConfig
from pygpt.model import GPT
from pygpt.optim import AdamW
from pygpt.parallel.reduction import Reduction
from pygpt.parallel.sharding import gather_values, sharded
from pygpt.parallel.shared_step import rows_of

SIZES = tuple(1 << bits for bits in range(6, 27, 2))  # bytes of gradients: 64 B to 64 MB
LEAST_TURNS, MOST_TURNS = 5, 1000


class _Flat:
    """Takes the place of a model's Gradients: n floats without parameters."""

    def __init__(self, n):
        self.layout, self.n, self.entries = self, n, ()
        self.memory = Memory(4 * n)
        self.memory.view[:] = bytes(4 * n)

    def complete(self):
        return True


class _Step:
    """Computes this rank's rows of a step, with or without the exchange.

    Attributes:
        marks: while it is a list, word of final gradients is noted there as (seconds since the
            beginning of the step, leaves).
    """

    def __init__(self, team, config, V, reduce_dtype, is_sharded):
        self.team, self.marks = team, None
        self.model = GPT(config.model_config(V), compute_dtype=config.dtype)
        kind = sharded(AdamW, team) if is_sharded else AdamW
        self.optimizer, self.is_sharded = kind(self.model), is_sharded
        rng = random.Random(0)
        ids = array("i", [rng.randrange(V) for _ in range(config.batch_size * config.n_positions)])
        self.batch = memoryview(ids).cast("B").cast("i", (config.batch_size, config.n_positions))
        self.rows = rows_of(self.batch, *team.rows(config.batch_size))
        self.reduction = Reduction(team, self.model.gradients(), reduce_dtype, not is_sharded)
        for _ in range(2):  # the second run replays what the first recorded
            self.overlapped()
        self.overlapped()   # and this one starts chunks in the order of the replay

    def alone(self):
        """Take a step on this rank's rows, without the others."""
        self._compute(None)
        self._update()

    def after(self):
        """Exchange the gradients after the backward pass."""
        self._compute(None)
        self.reduction.finish()
        self._update()
        self._gather()

    def overlapped(self):
        """Exchange them during the backward pass."""
        self._compute(self.reduction.when_final)
        self.reduction.finish()
        self._update()
        self._gather()

    def profiled(self):
        """Return (seconds of both passes, seconds of the update, marks) of a step alone."""
        self.marks = []
        begun = time.perf_counter()
        self._compute(lambda leaves: self.marks.append((time.perf_counter() - begun, leaves)))
        computed = time.perf_counter()
        self._update()
        marks, self.marks = self.marks, None
        return computed - begun, time.perf_counter() - computed, marks

    def whole(self):
        """Take a step on the whole batch, on this rank alone."""
        self._compute(None, self.batch)
        self._update()

    def _compute(self, when_final, rows=None):
        rows = self.rows if rows is None else rows
        self.model.loss_and_grad(rows, rows, when_final=when_final)

    def _update(self):
        self.optimizer.step()  # without clipping, whose sum over all ranks would be an exchange
        self.optimizer.zero_grad()

    def _gather(self):
        if self.is_sharded:
            gather_values(self.team, self.optimizer)


def _turns(team, functions, seconds):
    """Call functions in turn on all ranks, each after a barrier; return the times of each."""
    times, once = [[] for _ in functions], 0.0
    for function in functions:
        begun = time.perf_counter()
        function()
        once += time.perf_counter() - begun
    turns = team.broadcast(min(MOST_TURNS, max(LEAST_TURNS, round(seconds / max(once, 1e-6)))))
    for _ in range(turns):
        for function, taken in zip(functions, times):
            team.wait(team.control.Ibarrier())
            begun = time.perf_counter()
            function()
            taken.append(time.perf_counter() - begun)
    return times


def _slowest(team, times):
    """Return the median over turns of the time of the slowest rank."""
    everyone = team.gathered(times)
    return statistics.median(map(max, zip(*everyone)))


def _exchange(team, seconds, reduce_dtype):
    rows = []
    for size in SIZES:
        flat = _Flat(size // 4)
        reduction = Reduction(team, flat, reduce_dtype)
        copy = bytearray(size)

        def mpi():
            team.wait(team.sums.Iallreduce([flat.memory.view, team.MPI.FLOAT],
                                           [copy, team.MPI.FLOAT]))

        ours, theirs = _turns(team, [reduction.finish, mpi], seconds / len(SIZES))
        rows.append({"bytes": size, "seconds": _slowest(team, ours),
                     "mpi_seconds": _slowest(team, theirs)})
    return rows


def _profile(step, turns):
    """Return the fields of a scaling.Profile as a dict."""
    passes, updates, ready, calls = [], [], [], []
    for _ in range(turns):
        seconds, update, marks = step.profiled()
        passes.append(seconds)
        updates.append(update)
        calls.append([at for at, _ in marks])
        of_leaf = {leaf: at for at, leaves in marks for leaf in leaves}
        ready.append([max((of_leaf.get(leaf, seconds) for leaf in leaves), default=seconds)
                      for leaves in step.reduction._leaves])
    when = [statistics.median(times) for times in zip(*ready)]
    sizes = [4 * (chunk.end - chunk.first) for chunk in step.reduction.chunks]
    return {"passes": statistics.median(passes), "update": statistics.median(updates),
            "chunks": sorted(zip(when, sizes)),
            "marks": [statistics.median(times) for times in zip(*calls)]}


def measure(team, shape, seconds, dtype="float32", reduce_dtype="float32", is_sharded=False):
    """Measure all; every rank calls it. Return a dict of plain values, on every rank.

    Args:
        shape: a dict of the sizes of a TrainConfig, and vocab_size.
        seconds: about the time of it all.
    """
    settings = dict(shape)
    V = settings.pop("vocab_size")
    config = TrainConfig(**settings, dtype=dtype, reduce_dtype=reduce_dtype)
    exchange = _exchange(team, seconds / 3, reduce_dtype)
    step = _Step(team, config, V, reduce_dtype, is_sharded)
    alone, after, overlapped = (
        _slowest(team, times)
        for times in _turns(team, [step.alone, step.after, step.overlapped], seconds / 3))
    profiles = team.gathered(_profile(step, LEAST_TURNS))
    one = None
    if not is_sharded:  # with an optimizer that updates a part, it would be too fast
        if team.rank == 0:
            step.whole()  # its shape is recorded
            step.whole()
            times = []
            while len(times) < LEAST_TURNS or sum(times) < seconds / 6:
                begun = time.perf_counter()
                step.whole()
                times.append(time.perf_counter() - begun)
            one = statistics.median(times)
        one = team.broadcast(one)
    added = max(after - alone, 1e-9)
    return {"ranks": team.gathered(team.place()), "shape": shape, "dtype": dtype,
            "reduce_dtype": reduce_dtype, "shard_optimizer": is_sharded, "exchange": exchange,
            "gradient_bytes": 4 * step.reduction.chunks[-1].end,
            "step": {"alone": alone, "after": after, "overlapped": overlapped,
                     "hidden": min(1.0, max(0.0, (after - overlapped) / added)), "one_rank": one,
                     "speed_up": one and one / overlapped},
            "profile": max(profiles, key=lambda p: p["passes"])}


def report(result):
    """Return the dict of measure() as text."""
    ranks, s = result["ranks"], result["step"]
    n, hosts = len(ranks), len({place["host"] for place in ranks})
    lines = [f"{n} ranks on {hosts} machine{'s' * (hosts > 1)}, threads: "
             + ", ".join(str(place["threads"]) for place in ranks), "",
             f"sum over all ranks, {result['reduce_dtype']} on the wire",
             f"{'bytes':>12}{'ms':>11}{'GB/s':>8}{'MPI Allreduce ms':>18}{'GB/s':>8}"]
    for row in result["exchange"]:
        moved = 2 * (n - 1) / n * row["bytes"] / 1e9  # what a rank sends, in float32
        lines.append(f"{row['bytes']:12,}{1e3 * row['seconds']:11.3f}"
                     f"{moved / row['seconds']:8.2f}{1e3 * row['mpi_seconds']:18.3f}"
                     f"{moved / row['mpi_seconds']:8.2f}")
    lines += ["", f"a step of {result['shape']['batch_size']} x {result['shape']['n_positions']} "
              f"tokens, {result['gradient_bytes']:,} bytes of gradients",
              f"  each rank's rows alone     {1e3 * s['alone']:9.2f} ms",
              f"  exchange after the passes  {1e3 * s['after']:9.2f} ms",
              f"  exchange during them       {1e3 * s['overlapped']:9.2f} ms, which hides "
              f"{s['hidden']:.0%} of it"]
    if s["one_rank"]:
        lines.append(f"  the whole batch on rank 0  {1e3 * s['one_rank']:9.2f} ms: {n} ranks are "
                     f"{s['speed_up']:.2f} times as fast")
    return "\n".join(lines)
