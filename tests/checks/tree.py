"""Copies the project below build/ and builds the library there, with flags of its own.

    build/asan/{pygpt,csrc,tests,...}    the copy, whose pygpt/_kernels.abi3.so has the flags

The library of the normal build stays as it is, and the normal build does not see the copy. Only
files that have changed are copied again, so a second build compiles nothing.

    python tests/checks/tree.py NAME [CFLAGS [LDFLAGS [CC]]]    makes build/NAME
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = "pygpt", "csrc", "tests", "docs"
SKIPPED = shutil.ignore_patterns("*.so", "_kernels.c", "__pycache__", ".hypothesis",
                                 ".pytest_cache")


def copy_changed(source, target):
    """Copy a file with its time, unless the copy has the same time and size."""
    if os.path.exists(target):
        one, other = os.stat(source), os.stat(target)
        if (one.st_mtime_ns, one.st_size) == (other.st_mtime_ns, other.st_size):
            return target
    return shutil.copy2(source, target)


def remove_gone(tree):
    """Remove the copies of Python files and C sources that the project no longer has."""
    for folder in FOLDERS:
        for path in (tree / folder).rglob("*"):
            if path.suffix in (".py", ".c", ".h", ".inl") and path.name != "_kernels.c" and not (
                    ROOT / path.relative_to(tree)).exists():
                path.unlink()


def folder_of(name):
    return ROOT / "build" / name


def copy(name):
    """Copy the project to build/NAME, without what was built, and return the copy's Path."""
    tree = folder_of(name)
    tree.mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=SKIPPED, dirs_exist_ok=True,
                        copy_function=copy_changed)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            copy_changed(path, tree / path.name)
    remove_gone(tree)
    return tree


def build(tree, cflags="", ldflags="", cc=None):
    """Build the library of a copy."""
    environment = os.environ | {"PYGPT_CFLAGS": cflags, "PYGPT_LDFLAGS": ldflags}
    if cc:
        environment["CC"] = environment["LDSHARED"] = cc
        environment["LDSHARED"] += " -shared"
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tree,
                   env=environment, check=True)


def make(name, cflags="", ldflags="", cc=None):
    """Copy the project to build/NAME, build the library there, and return the copy's Path."""
    tree = copy(name)
    build(tree, cflags, ldflags, cc)
    return tree


if __name__ == "__main__":
    make(*sys.argv[1:])
