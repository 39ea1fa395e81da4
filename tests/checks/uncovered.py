"""Sorts what no test ran: by file, with its text, and without what cannot happen; for coverage.py.

cannot_happen.txt has a paragraph for each reason: the name of a file, lines of its source, each
after "> ", and the reason in the other lines:

    csrc/runtime.c
    > if (block == NULL) return 0;
    OpenMP's runtime aborts by itself when it has no memory.

It is about each line of the file with this text, in whichever place. After the name of the file,
"if isa_avx512.c ran" or "if isa_avx512.c did not run" keeps an entry to such CPUs.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    file: str
    lines: tuple
    text: str
    condition: tuple = ()  # (name of an object's source, whether it ran), or ()


class Counts:
    """What ran of one file: its lines, and the ways out of their conditions."""

    def __init__(self, source):
        self.source = source
        self.lines = {}      # number -> whether it ran
        self.branches = {}   # (number, name of the way) -> whether it was taken
        self.excused = set()  # numbers of lines of which something cannot happen

    def text(self, number):
        return self.source[number - 1].strip() if 0 < number <= len(self.source) else ""

    def add_line(self, number, covered):
        self.lines[number] = covered

    def add_branch(self, number, way, covered):
        self.branches[number, way] = self.branches.get((number, way), False) or covered

    def possible(self, kind):
        """Return (covered, all) of the "lines" or "branches" that can happen."""
        items = getattr(self, kind).items()
        numbers = [(key if kind == "lines" else key[0], covered) for key, covered in items]
        kept = [covered for number, covered in numbers if covered or number not in self.excused]
        return sum(kept), len(kept)

    def missing(self):
        """Return {number: what of the line was not run}, in the order of the lines."""
        found = {number: ["not run"] for number, covered in self.lines.items() if not covered}
        for (number, way), covered in self.branches.items():
            if not covered and self.lines.get(number):
                found.setdefault(number, []).append(way)
        return {number: ", ".join(found[number]) for number in sorted(found)}


def read_reasons(path):
    """Return the Reasons of a file."""
    reasons = []
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line and not line.startswith("#")]
        if lines:
            quoted = tuple(line[2:].strip() for line in lines[1:] if line.startswith("> "))
            text = " ".join(line for line in lines[1:] if not line.startswith("> "))
            name, _, condition = lines[0].partition(" if ")
            source, _, verb = condition.partition(" ")
            reasons.append(Reason(name, quoted, text, (source, verb == "ran") if source else ()))
    return reasons


def excuse(files, reasons, idle=()):
    """Leave out what the reasons are about; return a sentence for each entry that is stale. `idle`
    are the sources of the objects of which nothing ran."""
    stale = []
    for reason in reasons:
        if reason.condition and (reason.condition[0] not in idle) != reason.condition[1]:
            continue
        if reason.file not in files:
            stale.append(f"{reason.file} has no counts, or does not exist")
            continue
        if not reason.text or not reason.lines:
            stale.append(f"an entry of {reason.file} lacks its lines or its reason")
        counts = files[reason.file]
        missing = counts.missing()
        for line in reason.lines:
            places = [number for number in missing if counts.text(number) == line]
            counts.excused.update(places)
            if not places:
                state = "was run in full" if line in map(str.strip, counts.source) else \
                    "is not in the file"
                stale.append(f"{reason.file}: {line!r} {state}")
    return stale


def percent(covered, number):
    return 100 * covered / number if number else 100.0


def total(counts, kind):
    """Return (covered, all) of several Counts together."""
    pairs = [each.possible(kind) for each in counts]
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)


def show(files):
    """Print a table by file, then each line of which something is missing."""
    print(f"{'':40}{'lines':>14}{'%':>7}{'branches':>14}{'%':>7}")
    for name in sorted(files):
        row = ""
        for kind in ("lines", "branches"):
            covered, number = files[name].possible(kind)
            row += f"{covered:>7} /{number:>5}{percent(covered, number):>7.1f}"
        print(f"{name:40}{row}")
    for name in sorted(files):
        counts = files[name]
        for number, what in counts.missing().items():
            if number not in counts.excused:
                print(f"{name}:{number}: {what}: {counts.text(number)}")
