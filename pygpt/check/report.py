"""Writes what trials have shown: as a table with the failures beneath it, or as plain data."""

from math import isfinite

WHAT = {"values": "the reference says", "threads": "1 thread gives",
        "gradient": "finite differences say"}


def table(tallies, sets):
    """Return the table as text: a row for each kernel that was tried."""
    rows = [("kernel", "shapes", *sets, "threads", "finite differences")]
    for tally in tallies:
        if tally.shapes:
            broken = any(f.check == "reference" for f in tally.failures)
            rows.append((tally.kernel, str(tally.shapes),
                         *("FAILS" if broken and name not in tally.sets
                           else _cell(tally.sets.get(name)) for name in sets),
                         {None: "-", True: "ok", False: "DIFFER"}[tally.threads],
                         _cell(tally.gradient)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.rjust(width) if i == 1 else cell.ljust(width)
                               for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
                     for row in rows)


def _cell(value):
    """Write the largest error as a share of its bound."""
    if value is None:
        return "-"
    if value <= 1:
        return f"ok {value:.2f}"
    return f"FAILS {value:.3g}" if isfinite(value) else "FAILS"


def details(tallies):
    """Yield a paragraph for each kernel and check that failed."""
    for tally in tallies:
        for check in dict.fromkeys(failure.check for failure in tally.failures):
            same = [failure for failure in tally.failures if failure.check == check]
            yield _paragraph(same[0], [failure.isa for failure in same[1:]])


def _paragraph(failure, others):
    where = f" on {failure.isa}" if failure.isa else ""
    also = f" (and on {', '.join(others)})" if others else ""
    arguments = ", ".join(f"{name}={value}" for name, value in failure.arguments.items())
    again = f"pygpt check {failure.kernel} --seed {failure.seed}"
    return "\n  ".join([f"{failure.kernel}{where}{also}: {_described(failure)}",
                        f"arguments: {arguments or 'none were drawn'}",
                        f"repeat: {again}" + (f" --set {failure.isa}" if failure.isa else "")])


def _described(failure):
    d = failure.difference
    if d is None:
        return (f"the reference loop failed: {failure.message}" if failure.check == "reference"
                else failure.message)
    when = f"{failure.message}, " * bool(failure.message)
    text = f"{when}{d.output}[{d.index}] is {d.value!r}, {WHAT[failure.check]} {d.expected!r}"
    if failure.check == "threads":
        return text
    return (f"{text}, off by {abs(d.value - d.expected):.3g} where {d.allowed:.3g} is allowed")


def plain(tallies, sets, seed):
    """Return everything as a dict of plain data; numbers that JSON lacks are strings."""
    return {
        "seed": seed, "sets": list(sets),
        "kernels": [{"kernel": t.kernel, "shapes": t.shapes, "threads": t.threads,
                     "sets": {name: _number(t.sets.get(name)) for name in sets},
                     "gradient": _number(t.gradient)} for t in tallies],
        "failures": [{**f._asdict(), "difference": f.difference and {
            name: _number(value) for name, value in f.difference._asdict().items()}}
            for t in tallies for f in t.failures]}


def _number(value):
    return str(value) if isinstance(value, float) and not isfinite(value) else value
