"""Copies the sources of the project, for tests that build them elsewhere."""

import shutil
from pathlib import Path

TOP = Path(__file__).parent.parent


def copied_sources(folder):
    """Copy the files of a clone to a folder, without anything built; return the folder."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__", "_kernels.c")
    for name in ("csrc", "pygpt", "tests"):
        shutil.copytree(TOP / name, folder / name, ignore=ignore)
    for path in TOP.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    return folder
