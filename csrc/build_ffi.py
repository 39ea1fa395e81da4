"""Builds pygpt._kernels: pygpt.h is what cffi reads, every *.c here is what it compiles.

Used by setup.py (cffi_modules). Uses cffi and the standard library.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent

# -ffp-contract=fast: -std=c11 turns the fusing of a * b + c off in GCC, and a matrix product without
# fused multiply-adds runs at half speed. -g0: debugging tables would be most of the installed size.
FLAGS = ["-O3", "-std=c11", "-D_GNU_SOURCE", "-ffp-contract=fast", "-g0", "-Wall", "-Wno-psabi"]


def declarations(header: str) -> str:
    """pygpt.h as cffi's cdef takes it: without preprocessor lines, except numeric constants."""
    def keep(line):
        words = line.split()
        return not line.startswith("#") or (words[0] == "#define" and len(words) > 2)
    return "\n".join(line for line in header.splitlines() if keep(line))


def compiler() -> list[str]:
    """The C compiler's command, or an exit with one line that says what is missing."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        sys.exit(f"pygpt: error: no C compiler: {command[0]!r} not found; install gcc or clang "
                 "(Debian, Ubuntu: apt-get install gcc python3-dev) or set CC")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        sys.exit(f"pygpt: error: {header} not found; install Python's headers "
                 "(Debian, Ubuntu: apt-get install python3-dev)")
    return command


def openmp_flags(command: list[str]) -> list[str]:
    """The flags that turn OpenMP on, or none, with a warning, where it does not work."""
    if os.environ.get("PYGPT_OPENMP") == "0":
        print("pygpt: building without OpenMP, as PYGPT_OPENMP=0 asks: one thread", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        probe = [*command, "-fopenmp", str(source), "-o", str(source.with_suffix(""))]
        found = subprocess.run(probe, capture_output=True, text=True)
    if found.returncode == 0:
        return ["-fopenmp"]
    print(f"pygpt: warning: {command[0]} cannot build with -fopenmp, so the kernels will use one "
          "thread; install libgomp (gcc) or libomp-dev (clang) for more", file=sys.stderr)
    return []


def make_ffi() -> cffi.FFI:
    openmp = openmp_flags(compiler())
    builder = cffi.FFI()
    builder.cdef(declarations((HERE / "pygpt.h").read_text(encoding="utf-8")))
    builder.set_source(
        "pygpt._kernels",
        '#include "pygpt.h"',
        sources=[os.path.relpath(path, HERE.parent) for path in sorted(HERE.glob("*.c"))],
        depends=[os.path.relpath(path, HERE.parent)
                 for pattern in ("*.h", "*.inl") for path in sorted(HERE.glob(pattern))],
        include_dirs=[os.path.relpath(HERE, HERE.parent)],
        extra_compile_args=[*FLAGS, *openmp, *shlex.split(os.environ.get("PYGPT_CFLAGS", ""))],
        extra_link_args=openmp + shlex.split(os.environ.get("PYGPT_LDFLAGS", "")),
    )
    return builder


ffi = make_ffi()
