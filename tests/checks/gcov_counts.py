"""Reads what gcov counted of the C and merges it by source line, for coverage.py.

A source line can be compiled many times: an .inl file once for each instruction set, an inline
function once wherever it is called. Its counts are added up. A way out of a condition (an `arc`)
counts as taken if any of these copies took it. Copies of one line may have different numbers of
arcs, because a width is a constant that the compiler decides by. Only those with equally many can
be added arc by arc, so the line is then listed once for each number.
"""

import gzip
import json
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """How often a line ran, and the arcs of its copies: number of arcs -> the count of each."""
    count: int
    arcs: dict


def objects(folder):
    """Return the notes (.gcno) of the library's objects below the folder of a build."""
    return sorted(path for path in Path(folder).rglob("*.gcno") if "/csrc/" in str(path))


def read(notes, top):
    """Return gcov's report on an object, a dict; paths in it are relative to `top`."""
    command = ["gcov", "--json-format", "--stdout", "--branch-probabilities", str(notes)]
    output = subprocess.run(command, cwd=top, capture_output=True, check=True).stdout
    if output[:2] == b"\x1f\x8b":
        output = gzip.decompress(output)
    return json.loads(output)


def ran(report):
    """Return whether any function of an object was called."""
    return any(function["execution_count"] for each in report["files"]
               for function in each["functions"])


def merged(reports, texts):
    """Add up reports; return {file: {number of the line: Line}} of the files of `texts`, {file: its
    lines}."""
    counts, arcs = defaultdict(int), defaultdict(list)
    for report in reports:
        for each in report["files"]:
            if each["file"] not in texts:
                continue
            compiled = [range(function["start_line"], function["end_line"] + 1)
                        for function in each["functions"]]
            for line in each["lines"]:
                number = line["line_number"]
                key = each["file"], number
                counts[key] += line["count"]
                taken = [branch["count"] for branch in line["branches"]]
                if any(number in lines for lines in compiled):
                    arcs[key].append(taken)
                else:
                    arcs[key] += copies(taken, texts[key[0]][number - 1])
    files = defaultdict(dict)
    for key, count in sorted(counts.items()):
        files[key[0]][key[1]] = Line(count, summed(arcs[key]))
    return dict(files)


def conditions(text):
    """Count the conditions of a line of C, each of which has two ways out."""
    joined = len(re.findall(r"&&|\|\|", text))
    heads = len(re.findall(r"\b(?:if|for|while)\b|\?", text))
    return joined + max(heads, 1)


def copies(taken, text):
    """Split the arcs of a line of an inline function into those of its copies.

    Such a function is written into its callers, and gcov lists the arcs of all copies of a line one
    after another. Where the compiler has decided a condition of some copy, the split cannot be
    told, and the arcs are taken in pairs, as if the line had one condition.
    """
    size = 2 * conditions(text)
    if len(taken) % size:
        size = 2
    return [taken[at:at + size] for at in range(0, len(taken), size)]


def summed(copies):
    """Add up the arcs of the copies that have equally many; return {number of arcs: counts}."""
    by_number = defaultdict(list)
    for taken in filter(None, copies):
        by_number[len(taken)].append(taken)
    return {number: [sum(column) for column in zip(*lists)]
            for number, lists in sorted(by_number.items())}


def is_foreign(text, before=""):
    """Whether the arcs of a line, given with the line before it, belong to no condition there.

    Those of OpenMP share out a loop among threads. And the arcs of an inline function (the loops in
    vload_n of simd.h) are partly listed in the line that calls it, besides in its own.
    """
    if re.match(r"\s*(#pragma omp|PARALLEL\()", text):
        return True
    joined = re.match(r"\s*:", text) or re.search(r"(&&|\|\||[?:])\s*$", before)
    return not joined and not re.search(
        r"\b(if|for|while|switch|case)\b|\?|&&|\|\||\b[A-Z][A-Z_]+\(", text)
