"""Tests that `make soak` notices what grows, and that its work still runs."""

import ast
import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "checks"))

import soak
import soak_work

STILL = {"blocks": 1e5, "heap": 7e6, "objects": 11, "descriptors": 6, "threads": 2, "rss": 3e7,
         "anonymous": 2e7, "mappings": 270}
BLOCK = 1 << 20  # bytes that a process holds between two measurements
NOISE = {"blocks": 5, "heap": 3000, "rss": 3e5, "anonymous": 3e5}


def rows_of(cycles=2400, hours=1.0, **growth):
    """Return sixty measurements, with noise and outliers, in which some grow with each cycle."""
    rng, rows = random.Random(1), []
    for number in range(60):
        cycle = 1 + cycles * number // 60
        warm = min(1.0, number / 10)  # caches fill
        row = {"cycle": cycle, "hour": hours * number / 60}
        for name, value in STILL.items():
            row[name] = (value * (0.9 + 0.1 * warm) + growth.get(name, 0) * cycle
                         + rng.uniform(-1, 1) * NOISE.get(name, 0))
        row["rss"] += 4e7 * (number % 9 == 0)
        rows.append(row)
    return rows


def growing(rows):
    return [name for name, (*_, is_flat) in soak.growths(rows).items() if not is_flat]


def test_noise_and_full_caches_are_flat():
    assert growing(rows_of()) == []
    assert growing(rows_of(cycles=60, hours=0.02)) == []


@pytest.mark.parametrize("name, amount", [
    ("heap", 1024), ("blocks", 1), ("descriptors", 1), ("descriptors", 0.02), ("threads", 0.02),
    ("objects", 1), ("rss", 3000), ("anonymous", 3000), ("mappings", 0.01)])
def test_what_grows_is_named(name, amount):
    assert growing(rows_of(**{name: amount})) == [name]


def test_the_curves_are_drawn():
    svg = soak.curves(rows_of())
    assert svg.count("<polyline") == len(soak.LIMITS) and "rss, up to" in svg


HOLD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parent / "checks")!r})
import measures
before, block, file = measures.measure(), bytearray({BLOCK}), open(sys.executable, "rb")
after = measures.measure()
print({{name: after[name] - before[name] for name in before}})
"""


def test_a_measurement_sees_what_is_held():
    # In a process of its own: here, what other tests left is freed between the measurements.
    done = subprocess.run([sys.executable, "-c", HOLD], capture_output=True, text=True, check=True)
    grown = ast.literal_eval(done.stdout)
    if "heap" in grown:
        assert abs(grown["heap"] - BLOCK) < BLOCK // 10  # the interpreter frees and takes a little
    if "descriptors" in grown:
        assert grown["descriptors"] == 1


def test_the_work_of_a_cycle_runs(tmp_path):
    (tmp_path / "home").mkdir()
    soak_work.cycle(str(tmp_path / "home"))
    assert list((tmp_path / "home").iterdir()) == []
