"""Reads the pages of docs/exercises/, and does what they say in a copy of the project.

A page is Markdown with blocks of these kinds, which are done in their order:

    diff      changes files: a line `--- FILE`, then the lines of the place as they are (with a
              space before them), those that go (-) and those that come (+); a file without old
              lines is a new one
    sh        commands; `# fails` behind one of pytest's says that a test must fail, otherwise each
              must end with status 0
    python    a program; if the page has a solution, that is tested instead (test_exercises.py)

`make` and `git checkout FILE` are done here: the copy is not a clone and has no .venv.

    python tests/checks/exercises.py [PATTERN]    follows the pages whose names match

The copy is build/exercises. A solution in solutions/ may be such a page, too.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import tree as copies
from mutation_list import Mutation

FOLDER = copies.ROOT / "docs" / "exercises"
PAGES = sorted(FOLDER.glob("[0-9]*.md"))
FOLLOWED = [*PAGES, *sorted(FOLDER.glob("solutions/*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FAILED = 1  # pytest's status if a test failed; others tell of usage, or that no test matched


class WentOtherwise(AssertionError):
    """Says which command of a page did not end as the page says."""


def blocks(page):
    """List the (kind, text) of a page's blocks."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def solution(page):
    """Return the path of a page's solution, or None."""
    path = FOLDER / "solutions" / f"{page.stem.replace('-', '_')}.py"
    return path if path.exists() else None


def changes(page, block):
    """List the Mutations of a block of kind diff. One that makes a new file has no old text."""
    found = []
    for part in re.split(r"^--- ", block, flags=re.MULTILINE)[1:]:
        file, *lines = part.splitlines()
        for line in lines:
            if line[:1] not in ("", " ", "-", "+"):
                raise ValueError(f"{page.name}: {file}: a line begins with {line[0]!r}:\n{line}")
        old, new = ("\n".join(line[1:] for line in lines if line[:1] != other)
                    for other in ("+", "-"))
        if "-" not in {line[:1] for line in lines} and not old.strip():
            old = ""
        found.append(Mutation(page.stem, file, "a change of the page", old, new, ()))
    return found


def apply(change, folder):
    """Make a change in a copy of the project.

    Raises:
        ValueError: its file does not hold the old text exactly once, or the new file exists.
    """
    path = folder / change.file
    if not change.old:
        if path.exists():
            raise ValueError(f"{change}: the file exists already")
        path.write_text(change.new + "\n", encoding="utf-8")
        return
    text, before = path.read_text(encoding="utf-8"), path.stat().st_mtime
    path.write_text(change.applied(text), encoding="utf-8")
    os.utime(path, (before + 2, before + 2))  # two changes within a second: no stale bytecode


def restore(file, folder):
    """Put a file of the copy back to what it is in the project."""
    later = (folder / file).stat().st_mtime + 2
    shutil.copy(copies.ROOT / file, folder / file)
    os.utime(folder / file, (later, later))


def environment(**changes):
    """Return the environment for a command: that of a shell in a fresh clone."""
    kept = {name: value for name, value in os.environ.items()
            if name != "PYTHONPATH" and not name.startswith("MAKE")}
    return kept | changes


def copy_libraries(folder):
    """Copy what is built of the project into its copy."""
    for library in (copies.ROOT / "pygpt").glob("*.so"):
        shutil.copy2(library, folder / "pygpt")


def build(folder):
    """Build the library of a copy, with -O1, which takes a third of the time of -O3."""
    for library in folder.rglob("_kernels.*so"):  # it may be newer than the changed sources
        library.unlink()
    copies.build(folder, "-O1")


def run(command, folder):
    """Do one line of a page's commands.

    Raises:
        WentOtherwise: it did not end as its comment says.
    """
    text, _, expected = (part.strip() for part in command.partition("  # "))
    words = shlex.split(text)
    if words == ["make"]:
        return build(folder)
    if words[:2] == ["git", "checkout"]:
        return restore(words[2], folder)
    settings = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        settings[name] = value
    if words[0] == ".venv/bin/python":
        words[0] = sys.executable
    result = subprocess.run(words, cwd=folder, env=environment(**settings), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode != (FAILED if expected == "fails" else 0):
        raise WentOtherwise(f"{text}\nended with status {result.returncode}, and the page says "
                            f"{expected or 'nothing of a failure'}:\n{result.stdout[-2000:]}")


def follow(page, folder):
    """Do what a page says in a copy of the project.

    Raises:
        WentOtherwise, ValueError: as run() and apply().
    """
    for kind, text in blocks(page):
        if kind == "diff":
            for change in changes(page, text):
                apply(change, folder)
        elif kind == "sh":
            for command in text.splitlines():
                run(command, folder)
        elif kind == "python" and not solution(page):
            program = folder / "mine.py"
            program.write_text(text, encoding="utf-8")
            run(".venv/bin/python mine.py", folder)


def main(pattern=""):
    """Follow the pages that match; return 1 if one of them says something else than happens."""
    failed = []
    for page in (each for each in FOLLOWED if re.search(pattern, each.name)):
        print(f"exercises: {page.relative_to(FOLDER)}", flush=True)
        folder = copies.copy("exercises")
        try:
            copy_libraries(folder)
            follow(page, folder)
        except (WentOtherwise, ValueError) as error:
            print(textwrap.indent(str(error), "    "), flush=True)
            failed.append(page.name)
    print(f"exercises: {', '.join(failed) or 'none'} went otherwise than the pages say")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
