"""Checks how the sources are written: `make lint`. It changes nothing.

ruff checks Python by the settings in pyproject.toml. clang-format lays out the C by .clang-format;
what differs is printed. Where only the places of the line breaks or of a macro's backslashes
differ, the writer's stay: a table or the terms of a formula may be broken where they read best. No
line is longer than 100 columns, and neither is one of the pages' HTML, CSS and JavaScript.

Usage: lint.py FOLDER    ruff and clang-format are in FOLDER
"""

import difflib
import subprocess
import sys
from pathlib import Path

C_FILES = ("csrc/**/*.c", "csrc/**/*.h", "csrc/**/*.inl")
PAGES = ("pygpt/study/pages/*",)
COLUMNS = 100


def faults(path, laid_out):
    """Yield a line of text for each fault in a C file.

    Args:
        path: the file's path, a Path.
        laid_out: its text as clang-format writes it.
    """
    lines, wanted = path.read_text(encoding="utf-8").splitlines(), laid_out.splitlines()
    yield from long_lines(path)
    matcher = difflib.SequenceMatcher(None, lines, wanted, autojunk=False)
    for tag, start, end, start_wanted, end_wanted in matcher.get_opcodes():
        before, after = lines[start:end], wanted[start_wanted:end_wanted]
        if tag != "equal" and not differ_by_breaks(before, after):
            yield "\n".join([f"{path}:{start + 1}: clang-format would write",
                             *(f"  - {line}" for line in before),
                             *(f"  + {line}" for line in after)])


def long_lines(path):
    """Yield a line of text for each line of a file that is too long."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if len(line) > COLUMNS and not line.startswith("#error"):  # its text is one sentence
            yield f"{path}:{number}: {len(line)} columns, {COLUMNS} are allowed"


def files(patterns):
    """Return the files that match any of the patterns, as Paths in order."""
    return sorted({path for pattern in patterns for path in Path().glob(pattern)})


def differ_by_breaks(before, after):
    """Whether lines differ only in where they are broken, or where the backslashes stand."""
    bare = [[line.removesuffix("\\").rstrip() for line in lines] for lines in (before, after)]
    return bare[0] == bare[1] or (
        len(before) != len(after) and " ".join(bare[0]).split() == " ".join(bare[1]).split())


def main(folder):
    """Run both checks; return 1 if either finds a fault, else 0."""
    status = subprocess.run([f"{folder}/ruff", "check", "--quiet", "."]).returncode
    for path in files(PAGES):
        for fault in long_lines(path):
            print(fault)
            status = 1
    for path in files(C_FILES):
        laid_out = subprocess.run([f"{folder}/clang-format", str(path)], capture_output=True,
                                  text=True, encoding="utf-8", check=True).stdout
        for fault in faults(path, laid_out):
            print(fault)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
