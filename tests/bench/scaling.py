"""Compares predicted with measured steps over links of a given speed, and predicts others.

    python tests/bench/scaling.py measure > measured.json     needs root, ip, tc, mpirun and mpi4py
    python tests/bench/scaling.py compare measured.json
    python tests/bench/scaling.py predict measured.json

`measure` runs `pygpt bench --mpi` on ranks of their own network namespaces (networks.py). A link is
described by its round trip and its bandwidth, which networks.py measures without MPI. `predict`
prints, for each preset and for gpt2-xl, how many times as fast N nodes are as one.
"""

import itertools
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

import networks  # noqa: E402

from pygpt.bench.scaling import Link, Profile, made_up, simulate  # noqa: E402

LINKS = ((None, None), ("10gbit", None), ("1gbit", None), ("1gbit", "0.1ms"))
FORMS = ((), ("--reduce-dtype", "bfloat16"), ("--shard-optimizer",))
SECONDS = {"lesson": 6, "char": 40}
FLOPS = 40e9       # operations per second of a core in a step (docs/speed.md)
UPDATE = 1.2e-9    # seconds of AdamW for a parameter, on one core
NODES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PAPER = {  # parameters of a block and elsewhere, layers, tokens and operations of a node's step
    "lesson": (50_000, 10_500, 4, 1024), "char": (1_774_000, 123_000, 6, 4096),
    "gpt2": (7_087_872, 39_385_344, 12, 8192), "gpt2-xl": (30_740_800, 82_051_200, 48, 8192)}
CORES = 32         # of a node on paper


def measure(presets):
    """Measure each preset over each link in each form; return a list of dicts."""
    found = []
    for (rate, delay), preset in itertools.product(LINKS, presets):
        with networks.namespaces(2, rate, delay) as net:
            link = net.measure()
            for form in FORMS:
                words = [sys.executable, "-m", "pygpt", "bench", "--mpi", "--json", "--preset",
                         preset, "--seconds", str(SECONDS[preset]), "--threads", "1", *form]
                done = net.run(2, words, env=os.environ | {"PYTHONPATH": str(HERE.parent.parent)},
                               timeout=600)
                if done.returncode:
                    sys.exit(done.stderr)
                line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
                found.append({"rate": rate, "delay": delay, "preset": preset, "link": link,
                              "result": json.loads(line)})
                print(rate, delay, preset, form, found[-1]["result"]["step"], file=sys.stderr)
    return found


def profile_of(result):
    """Return the Profile, as long as the steps without an exchange that ran in turn with others."""
    fields = result["profile"]
    profile = Profile(fields["passes"], fields["update"], tuple(map(tuple, fields["chunks"])),
                      tuple(fields["marks"]))
    return profile.with_rows((result["step"]["alone"] - profile.update) / profile.passes)


def costs(measured):
    """Return the costs of the core, from the exchanges over the unshaped link alone."""
    rows = next(m for m in measured if not m["rate"])["result"]["exchange"]
    small, large = rows[0], rows[-1]
    chunks = -(-large["bytes"] // (4 << 20))
    per_byte = (large["seconds"] - chunks * small["seconds"]) / large["bytes"]
    return {"per_chunk": small["seconds"], "per_byte": per_byte}


def compare(measured):
    """Print each measured step beside its prediction."""
    of_core = costs(measured)
    print(f"{'link':18}{'preset':9}{'form':22}{'measured ms':>12}{'predicted':>11}{'error':>8}")
    for m in measured:
        result, link = m["result"], m["link"]
        form = ("sharded" if result["shard_optimizer"] else
                result["reduce_dtype"] + " on the wire")
        predicted = simulate(
            profile_of(result),
            Link(link["round_trip_seconds"] / 2, link["bytes_per_second"], **of_core, held=1.0),
            len(result["ranks"]), 2 if result["reduce_dtype"] == "bfloat16" else 4,
            result["shard_optimizer"])
        taken = result["step"]["overlapped"]
        print(f"{' '.join(filter(None, (m['rate'] or 'none', m['delay']))):18}{m['preset']:9}"
              f"{form:22}{1e3 * taken:12.2f}{1e3 * predicted:11.2f}{predicted / taken - 1:8.1%}")


def predict(measured):
    """Print how many times as fast N nodes take a step with the same rows on each node."""
    of_core = costs(measured)
    for name, (block, rest, layers, tokens) in PAPER.items():
        n = layers * block + rest
        passes = 6 * n * tokens / (FLOPS * CORES)
        profile = made_up({"block": block, "rest": rest}, passes, UPDATE * n / CORES, layers)
        print(f"\n{name}: {n:,} parameters, {tokens:,} tokens on each node, {1e3 * passes:.1f} ms "
              "of passes")
        for gbits, (wire, is_sharded) in itertools.product(
                (1, 10, 25, 100), ((4, False), (2, False), (4, True), (2, True))):
            link = Link(25e-6, gbits / 8 * 0.94e9, **of_core)
            one = simulate(profile, link, 1)
            rows = [N * one / simulate(profile, link, N, wire, is_sharded) for N in NODES]
            form = f"{gbits} Gbit/s, {'bfloat16' if wire == 2 else 'float32'}"
            print(f"  {form + (', sharded' if is_sharded else ''):32}"
                  + "".join(f"{row:8.1f}" for row in rows))


def main(words):
    if words[:1] == ["measure"]:
        json.dump(measure(words[1:] or list(SECONDS)), sys.stdout)
    elif len(words) == 2 and words[0] in ("compare", "predict"):
        with open(words[1]) as file:
            {"compare": compare, "predict": predict}[words[0]](json.load(file))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
