"""Keeps the copy of the project that mutants.py breaks, and compiles its C library.

    build/mutants/tree       the copy: pygpt, csrc, tests, docs
    build/mutants/objects    the objects of the unbroken library
    build/mutants/broken     those of the mutant
"""

import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import changed_loops
import tree as copies

BUILD = copies.ROOT / "build" / "mutants"
TREE, OBJECTS = BUILD / "tree", BUILD / "objects"
LIBRARY = TREE / "pygpt" / "_kernels.abi3.so"
# -O1 compiles the loops of an instruction set in a third of the time of -O3.
LEFT_OUT = re.compile(r"-O\d|-W.*|-falign.*")


def copy_project():
    """Copy the project to TREE; what a broken-off run has changed there is put right."""
    for folder in copies.FOLDERS:
        shutil.copytree(copies.ROOT / folder, TREE / folder, ignore=copies.SKIPPED,
                        dirs_exist_ok=True, copy_function=copies.copy_changed)
    for path in copies.ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            copies.copy_changed(path, TREE / path.name)
    copies.remove_gone(TREE)
    for path in (copies.ROOT / "pygpt").glob("_[sb]*.so"):  # _spin and _buffer
        copies.copy_changed(path, TREE / "pygpt" / path.name)


class Compiler:
    """Compiles the C library of the copy, object by object."""

    def __init__(self):
        build = runpy.run_path(str(TREE / "csrc" / "build_ffi.py"))
        self.command = build["compiler"]()
        self.flags = [flag for flag in build["FLAGS"] if not LEFT_OUT.fullmatch(flag)] + [
            "-O1", "-w", "-fPIC", "-fopenmp", *build["without_units"](self.command),
            "-Icsrc", f"-I{sysconfig.get_path('include')}"]
        OBJECTS.mkdir(parents=True, exist_ok=True)
        build["ffi"].emit_c_code(str(OBJECTS / "_kernels.c"))
        self.sources = {path.stem: path for path in [*sorted((TREE / "csrc").glob("*.c")),
                                                     OBJECTS / "_kernels.c"]}
        self.sets = subprocess.run(
            [sys.executable, "-c", "from pygpt.backend import kernels as k; print(*k.isa_names())"],
            cwd=copies.ROOT, capture_output=True, text=True, check=True).stdout.split()
        self.set = next(name for name in self.sets if f"isa_{name}" in self.sources)
        self._build_all()

    def _build_all(self):
        """Compile every object of the unbroken library, unless nothing has changed."""
        digest = hashlib.sha256(" ".join([*self.command, *self.flags, self.set]).encode())
        for path in sorted((TREE / "csrc").iterdir()):
            digest.update(path.read_bytes() if path.is_file() else b"")
        stamp = OBJECTS / "stamp"
        if not (stamp.exists() and stamp.read_text() == digest.hexdigest()):
            for name in self.sources:
                print(f"compiling {name}", flush=True)
                self._compile(name, OBJECTS, check=True)
            stamp.write_text(digest.hexdigest())
        self.link()

    def _compile(self, name, folder, check=False):
        flags = [*self.flags, f"-Disa_{self.set}=isa_{self.set}_whole"] if (
            name == f"isa_{self.set}") else self.flags
        command = [*self.command, *flags, "-MMD", "-c",
                   str(self.sources.get(name, folder / f"{name}.c")),
                   "-o", str(folder / f"{name}.o")]
        return subprocess.run(command, cwd=TREE, capture_output=not check,
                              check=check).returncode == 0

    def _is_tried(self, name):
        """Whether an object is of no instruction set, or of one that works here."""
        if name.startswith("isa_"):
            return name == f"isa_{self.set}"
        if name.startswith("unit_"):
            return name[len("unit_"):] in self.sets
        return name != "few_vnni" or "avx512" in self.sets

    def compile_changed(self, file):
        """Compile what contains a file, and link; return whether the compiler took it."""
        broken, whole = BUILD / "broken", f"isa_{self.set}"
        shutil.rmtree(broken, ignore_errors=True)
        broken.mkdir()
        names = [name for name in self.sources if self._is_tried(name) and file in
                 (OBJECTS / f"{name}.d").read_text().replace(f"{TREE}/", "").split()]
        if not names:
            sys.exit(f"mutants: no object contains {file}")
        objects = {name: OBJECTS / f"{name}.o" for name in self.sources}
        if whole in names and file.endswith((".inl", "simd.h")):
            names[names.index(whole)] = "changed"
            (broken / "changed.c").write_text(
                changed_loops.write(TREE / "csrc", self.set, Path(file).name))
        if not all(self._compile(name, broken) for name in names):
            return False
        self.link(objects | {name: broken / f"{name}.o" for name in names})
        return True

    def link(self, objects=None):
        """Link the library of these objects, {name: path}; without them, the unbroken one."""
        objects = objects or {name: OBJECTS / f"{name}.o" for name in self.sources}
        table = [] if "changed" in objects else [
            f"-Wl,--defsym=isa_{self.set}=isa_{self.set}_whole"]
        library = str(LIBRARY) + ".new"
        subprocess.run([*self.command, "-shared", "-fopenmp", *map(str, objects.values()), *table,
                        "-lm", "-o", library], check=True)
        os.replace(library, LIBRARY)  # a process that has the old one keeps it
