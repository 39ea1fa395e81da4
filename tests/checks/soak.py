"""Lets one process train, evaluate, save and sample for an hour: `make soak MINUTES=60`.

Every cycle does the same work (soak_work.py), so whatever grows from cycle to cycle leaks. Sixty
times in all, the process measures itself, prints a line, and at the end decides:

    the growth of a measure is the median slope between any two of its values (Theil and Sen: a
    third of the values may be outliers), in the second half of the time; the first half is for
    caches to fill. LIMITS says how much may be.

    python tests/checks/soak.py MINUTES [--leak BYTES]

--leak keeps that many bytes of each cycle alive, to see that the check can fail. The curves go to
build/soak.svg, the measurements to build/soak.jsonl.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import measures  # noqa: E402
import soak_work  # noqa: E402

MEASUREMENTS = 60
CYCLE, HOUR = "cycle", "hour"
ARTICLE = {CYCLE: "a", HOUR: "an"}
# How much each measure may grow, in a cycle or in an hour, and why not 0.
LIMITS = {
    # Python's blocks of up to 512 bytes. A leak is at least one in a cycle; a cache may fill late.
    "blocks": (CYCLE, 0.25),
    # Bytes of malloc, which has Python's larger blocks: one that leaks in a cycle is twice this.
    "heap": (CYCLE, 256),
    "objects": (CYCLE, 0.0),
    "descriptors": (CYCLE, 0.0),
    "threads": (CYCLE, 0.0),
    # Python takes memory by arenas of 1 MB, and a freed piece is not always used again at once:
    # two arenas in the half hour that is judged are 4 MB an hour.
    "rss": (HOUR, 4 << 20),
    "anonymous": (HOUR, 4 << 20),
    "mappings": (HOUR, 4),  # an arena is a mapping
}
ARENA = 1 << 20


def slope(xs, ys):
    """Return the median slope between any two points with different xs (Theil 1950, Sen 1968)."""
    slopes = [(y2 - y1) / (x2 - x1)
              for (x1, y1), (x2, y2) in itertools.combinations(zip(xs, ys), 2) if x1 != x2]
    return statistics.median(slopes)


def growths(rows):
    """Compute how each measure grew in the second half.

    Args:
        rows: a list of at least 4 dicts: "hour" (since the beginning), "cycle", and measures.
    Returns:
        {name: (growth, "cycle" or "hour", limit, whether it is flat)}. A growth per hour that is
        less than an arena in all does not count: a short run cannot tell it from a step.
    """
    second, found = rows[len(rows) // 2:], {}
    for name, (per, limit) in LIMITS.items():
        if name in rows[0]:
            xs, ys = [row[per] for row in second], [row[name] for row in second]
            growth = slope(xs, ys)
            least = {"rss": ARENA, "anonymous": ARENA, "mappings": 1}.get(name, 0)
            is_flat = growth <= limit or growth * (xs[-1] - xs[0]) <= least
            found[name] = growth, per, limit, is_flat
    return found


def shown(name, number):
    """Return a measure as text: memory in KB, all else as a number."""
    if name in ("heap", "rss", "anonymous", "pss"):
        return f"{number / 1024:,.1f} KB"
    return f"{number:,.2f}".rstrip("0").rstrip(".")


def run(minutes, leak, path):
    """Do cycles until the minutes are over, and write each measurement to a file at path, a line of
    JSON. Kept in memory they would count as growth: each takes a dozen blocks."""
    kept, began, interval = [], time.monotonic(), minutes * 60 / MEASUREMENTS
    cycle = measured = 0
    with tempfile.TemporaryDirectory() as directory, open(path, "w", encoding="utf-8") as file:
        home = os.path.join(directory, "home")
        os.mkdir(home)
        soak_work.cycle(home)  # what is made once
        while (elapsed := time.monotonic() - began) < minutes * 60 or measured < 4:
            soak_work.cycle(home)
            cycle += 1
            if leak:
                kept.append(bytearray(leak))
            if elapsed >= measured * interval:
                row = {"hour": elapsed / 3600, "cycle": cycle, **measures.measure()}
                measured += 1
                print(json.dumps(row), file=file, flush=True)
                print(f"{elapsed / 60:5.1f} min  {cycle:5} cycles  " + "  ".join(
                    f"{name} {shown(name, number)}" for name, number in row.items()
                    if name not in (HOUR, CYCLE)), flush=True)
                del row


def curves(rows):
    """Return an SVG of all measures: each from 0 to its largest value, one below the other."""
    width, height, left = 640, 60, 200
    names = [name for name in LIMITS if name in rows[0]]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 10}" '
             f'height="{len(names) * (height + 15)}" font-family="sans-serif" font-size="12">']
    hours = max(row["hour"] for row in rows) or 1
    for number, name in enumerate(names):
        top, most = number * (height + 15) + 10, max(row[name] for row in rows) or 1
        points = " ".join(f"{left + row['hour'] / hours * width:.1f},"
                          f"{top + height - row[name] / most * height:.1f}" for row in rows)
        parts.append(f'<text x="5" y="{top + 12}">{name}, up to {shown(name, most)}</text>'
                     f'<path d="M{left} {top}v{height}h{width}" fill="none" stroke="#999"/>'
                     f'<polyline points="{points}" fill="none" stroke="#06c"/>')
    return "\n".join([*parts, "</svg>", ""])


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("minutes", type=float)
    parser.add_argument("--leak", type=int, default=0)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    run(options.minutes, options.leak, build / "soak.jsonl")
    rows = [json.loads(line) for line in (build / "soak.jsonl").read_text().splitlines()]
    (build / "soak.svg").write_text(curves(rows), encoding="utf-8")
    found = growths(rows)
    for name, (growth, per, limit, is_flat) in found.items():
        print(f"{name:12} {shown(name, growth)} {ARTICLE[per]} {per}, "
              f"of at most {shown(name, limit)}" + ("" if is_flat else "   IT GROWS"))
    growing = [name for name, (*_, is_flat) in found.items() if not is_flat]
    print(f"soak: {options.minutes:g} minutes, {rows[-1]['cycle']} cycles, "
          + (f"{', '.join(growing)} grew" if growing else "nothing grew"))
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
