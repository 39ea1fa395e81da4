"""Reads the lists of mutations in tests/checks/mutations/, and makes the changes that they name.

A list is a text of paragraphs. One that begins with `in` names the file that the following
mutations change, and in lines that begin with `by` the tests that should notice them, as arguments
of pytest without the folder. Each other paragraph is a mutation:

    in csrc/softmax.inl
    by test_kernels.py -k softmax

    The dot product of the backward pass is added instead of subtracted.
    - (vload_n(dp + i, n) - dot)
    + (vload_n(dp + i, n) + dot)

The lines with - are the old text, which the file must hold exactly once, and those with + the new
one; without + the text is removed. A mutation may have its own `by` lines. A line that begins with
`survives:` gives the reason why no test notices a mutation. Lines that begin with # are comments.
"""

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "mutations"
TAGS = re.compile(r"(in |by |survives: |[-+] |[-+]$)?(.*)")


@dataclass(frozen=True)
class Mutation:
    """One change of one file.

    Attributes:
        area: the name of the list that holds it.
        file: the path of the file from the top of the project.
        why: the sentence that describes the change.
        old, new: the text that is replaced, and the text in its place.
        tests: the tests that should notice it, a tuple of arguments of pytest for each run.
        reason: why no test can notice it, or "".
    """

    area: str
    file: str
    why: str
    old: str
    new: str
    tests: tuple
    reason: str = ""

    def __str__(self):
        return f"{self.area}: {self.file}: {self.why}"

    def applied(self, text):
        """Return the file's text with the change.

        Raises:
            ValueError: the text does not hold the old text exactly once.
        """
        found = text.count(self.old)
        if found != 1 or not self.old:
            raise ValueError(f"{self}: the old text occurs {found} times, not once")
        return text.replace(self.old, self.new)

    def key(self, text):
        """Return a short name of the changed text and the tests, which is that of no other."""
        parts = self.file, self.applied(text), *map(str, self.tests)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def read(folder=FOLDER):
    """Return the Mutations of all lists.

    Raises:
        ValueError: a paragraph is no mutation; the message names its place.
    """
    found = []
    for path in sorted(Path(folder).glob("*.txt")):
        file, tests = None, ()
        for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            lines = [TAGS.fullmatch(line).groups() for line in paragraph.splitlines()
                     if not line.startswith("#")]
            tagged = {tag: [text for other, text in lines if (other or "")[:1] == tag]
                      for tag in ("i", "b", "s", "-", "+", "")}
            own = tuple(tuple(shlex.split(text)) for text in tagged["b"])
            if tagged["i"]:
                file, tests = tagged["i"][0], own
            elif lines:
                if not (file and (own or tests) and tagged["-"] and tagged[""]):
                    raise ValueError(f"{path.name}: not a mutation:\n{paragraph}")
                found.append(Mutation(path.stem, file, " ".join(tagged[""]),
                                      "\n".join(tagged["-"]), "\n".join(tagged["+"]), own or tests,
                                      " ".join(tagged["s"])))
    return found
