"""Runs the short part of the tests on each CPython from 3.10 on: `make test-pythons`.

The compiled modules are those of the tree, built once by one Python (abi3); each interpreter gets a
virtual environment with cffi, pytest and hypothesis in build/pythons/. Warnings are errors, so that
what a later Python will remove shows today.
"""

import glob
import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = 10, 20  # the minor versions that are looked for
# One file for each kind of thing that differs between Pythons: buffers, pickling, the garbage
# collector, signals and threads, files and text, and the messages of exceptions.
SHORT = ("layers", "environment", "tensor", "ops", "tape", "convert", "nn", "optim", "model",
         "unplanned_steps", "tokenizer", "checkpoint", "safetensors", "sampling", "resume",
         "python_threads")
PACKAGES = ("cffi>=1.15", "setuptools>=77", "pytest", "hypothesis")


def found():
    """Return {(3, 10): path, ...}: for each version one interpreter, from PATH or from pyenv."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    interpreters = {}
    for minor in range(OLDEST, NEWEST):
        paths = [shutil.which(f"python3.{minor}"),
                 *sorted(glob.glob(f"{pyenv}/versions/3.{minor}.*/bin/python3.{minor}"))]
        path = next((path for path in paths if path and runs(path, minor)), None)
        if path:
            interpreters[3, minor] = path
    return interpreters


def runs(path, minor):
    """Whether a program is a CPython of this version. pyenv leaves programs in PATH that refuse."""
    code = "import sys; print(sys.implementation.name, *sys.version_info[:2])"
    result = subprocess.run([path, "-c", code], capture_output=True, text=True)
    return result.stdout.split() == ["cpython", "3", str(minor)]


def environment(interpreter, folder, *packages):
    """Make a virtual environment with packages in `folder`, unless it is there; return its Python.
    """
    python, done = folder / "bin" / "python", folder / ".installed"
    if not done.exists():
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
        # -I: in the source tree, pip would take pygpt.egg-info for an installed pygpt.
        subprocess.run([python, "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check",
                        *packages], check=True)
        done.touch()
    return str(python)


def main(arguments):
    """Run the tests on each interpreter; return how many of them failed."""
    failed = 0
    files = [f"tests/test_{name}.py" for name in SHORT]
    for (major, minor), interpreter in found().items():
        python = environment(interpreter, Path("build", "pythons", f"{major}.{minor}"), *PACKAGES)
        version = subprocess.run([python, "-VV"], capture_output=True, text=True).stdout.strip()
        print(f"\n{version}", flush=True)
        failed += 0 != subprocess.run([python, "-W", "error", "-m", "pytest", "-W", "error",
                                       *arguments, *files]).returncode
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
