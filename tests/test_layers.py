"""Checks the law of imports: arrows between the rooms of the package point one way.

Each room may import itself and the rooms that LAW names, anywhere in its files, inside functions as
well. pygpt/README.md shows the rooms as a picture, in which each imports from lower rows only.
"""

import ast
import pathlib
import re

import pytest

import pygpt

BELOW_MODEL = {"config", "files", "backend", "autograd", "parameters", "nn", "optim", "checkpoint",
               "decoding", "sampling", "steps", "stop_strings", "generate"}
LAW = {
    "files": {"backend"},
    "backend": set(),
    "nearest": set(),
    "config": {"backend", "nearest"},
    "autograd": {"backend"},
    "parameters": {"backend", "autograd"},
    "tree": {"autograd", "parameters"},
    "nn": {"backend", "autograd", "parameters", "tree"},
    "optim": {"backend", "autograd", "parameters"},
    "tokenizer": {"config", "files", "backend"},
    "checkpoint": {"config", "files", "backend"},
    "decoding": {"autograd", "backend", "parameters"},
    "sampling": {"backend"},
    "stop_strings": set(),
    "steps": {"config", "sampling"},
    "generate": {"backend", "config", "sampling", "steps"},
    "evaluation": {"config", "backend", "autograd"},
    "model": BELOW_MODEL - {"optim"},
    "options": set(),
    "progress": set(),
    "continuation": {"tokenizer", "stop_strings"},
    "pipeline": {"backend", "config", "files", "checkpoint", "tokenizer", "steps", "generate",
                 "model", "progress", "continuation"},
    "data": {"config", "files", "tokenizer", "checkpoint"},
    "training": BELOW_MODEL | {"tokenizer", "model", "data"},
    "parallel": {"backend", "config", "parameters", "model", "optim", "training"},
    "bench": BELOW_MODEL | {"model", "training", "parallel"},
    "check": {"backend"},
    "study": BELOW_MODEL | {"evaluation", "tokenizer", "model", "data", "training", "pipeline"},
    "cli": BELOW_MODEL | {"evaluation", "tokenizer", "model", "data", "training", "parallel",
                          "bench", "pipeline", "progress", "nearest", "check", "study"},
}
PACKAGE = pathlib.Path(pygpt.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# The names that the package itself has: `import pygpt` and `from pygpt import __version__`.
OWN_NAMES = {"__version__"}


def room_of(path):
    """Return the room that a file or a folder of the package is, or lies in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_for_checkers(node):
    """Tell whether a node is an `if TYPE_CHECKING:`, whose body no program runs. The annotations
    that it is for may name what lies above: an optimizer is made of a Module."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes_that_run(node):
    """Yield the nodes of a tree without those for type checkers alone."""
    yield node
    below = node.orelse if is_for_checkers(node) else ast.iter_child_nodes(node)
    for child in below:
        yield from nodes_that_run(child)


def imports(path):
    """Yield (line, dotted name) for everything of pygpt that a file imports when it runs."""
    for node in nodes_that_run(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names
                        if alias.name.split(".")[0] == "pygpt")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are written in full"
            if node.module == "pygpt":
                yield from ((node.lineno, f"pygpt.{alias.name}") for alias in node.names)
            elif node.module and node.module.startswith("pygpt."):
                yield node.lineno, node.module


def test_every_room_has_its_place_in_the_law():
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert rooms == set(LAW)


def test_the_law_has_no_circle():
    left = {room: set(below) for room, below in LAW.items()}
    while left:
        lowest = {room for room, below in left.items() if not below & left.keys()}
        assert lowest, f"a circle among {sorted(left)}"
        left = {room: below for room, below in left.items() if room not in lowest}


def test_the_picture_in_the_readme_shows_the_law():
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    (picture,) = [block for block in re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
                  if "autograd" in block]
    row_of = {room: row for row, line in enumerate(picture.splitlines()) for room in line.split()}
    assert sum(len(line.split()) for line in picture.splitlines()) == len(row_of), "a room twice"
    assert row_of.keys() == LAW.keys()
    for room, below in LAW.items():
        for other in below:
            assert row_of[room] < row_of[other], (
                f"{room} may import {other}, but pygpt/README.md does not draw {other} below it")


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__main__.py"],
                         ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    room = room_of(path)
    if room == "__init__":  # the public names are looked up when they are used
        allowed = set(LAW)
    else:
        allowed = LAW[room] | {room}
    for line, name in imports(path):
        parts = name.split(".")[1:]
        if not parts or parts[0] in OWN_NAMES or parts[0].startswith("_"):
            continue  # the package itself, or a compiled module
        assert parts[0] in allowed, (
            f"{path.relative_to(PACKAGE.parent)}:{line} imports {name}; {room} may import "
            f"{', '.join(sorted(allowed))} (tests/test_layers.py)")


def test_compiled_modules_have_one_importer_each():
    """Each compiled module is reached through one file: the kernels through backend, the buffer's
    class through Tensor."""
    found = {(name, str(path.relative_to(PACKAGE))) for path in FILES for _, name in imports(path)
             if name.split(".")[1:2] and name.split(".")[1] in ("_kernels", "_buffer")}
    assert found == {("pygpt._kernels", "backend/kernels.py"),
                     ("pygpt._buffer", "autograd/tensor.py")}
