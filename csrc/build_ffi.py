"""Builds pygpt._kernels from pygpt.h, which cffi reads, and every *.c of this directory.

`ffi` describes the extension. `BuildExt` chooses the compiler, the flags and OpenMP, and does so
only when the extension is compiled.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import cffi
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent

# -ffp-contract=fast: under -std=c11, GCC does not fuse a * b + c, and a matrix product without
# fused multiply-adds runs at half speed. -falign-loops=64: on a Zen 3, the inner loop of a matrix
# product was 7 % slower where it happened to begin 16 bytes into a cache line; the library grows by
# 5 %. -g0: debugging tables would be most of the installed size (`make debug` has them).
# -fvisibility=hidden: the module's init is the one name that others may see; an exported kernel
# can be taken over by a function of the same name in a library that was loaded before.
FLAGS = ["-O3", "-std=c11", "-D_GNU_SOURCE", "-ffp-contract=fast", "-falign-loops=64", "-g0",
         "-fvisibility=hidden", "-Wall", "-Wextra", "-Wconversion", "-Wno-psabi"]
# Without OpenMP, its pragmas are unknown and the variables that only they mention are unused.
SERIAL_FLAGS = ["-Wno-unknown-pragmas", "-Wno-unused-variable", "-Wno-unused-but-set-variable"]
# The variables that setuptools itself reads from the environment.
VARIABLES = ("CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "AR", "ARFLAGS")


def declarations(header: str) -> str:
    """Return pygpt.h as cffi's cdef takes it: its only preprocessor lines are numeric constants."""
    def keep(line):
        words = line.split()
        return not line.startswith("#") or (words[0] == "#define" and len(words) > 2)
    return "\n".join(line for line in header.splitlines() if keep(line))


def files(*patterns: str) -> list[str]:
    """Return the files of this directory that match, as paths from the top of the repository."""
    return [os.path.relpath(path, HERE.parent)
            for pattern in patterns for path in sorted(HERE.glob(pattern))]


def compiler() -> list[str]:
    """Return the C compiler's command, or exit with one line that names the missing part."""
    if sys.platform == "win32":
        sys.exit("pygpt: error: pygpt does not run on Windows itself, and MSVC lacks the vector "
                 "types that it uses; use WSL (wsl --install) and its gcc")
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        sys.exit(f"pygpt: error: no C compiler: {command[0]!r} not found; install gcc or clang "
                 "(Debian, Ubuntu: apt-get install gcc python3-dev; macOS: xcode-select "
                 "--install) or set CC")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        sys.exit(f"pygpt: error: {header} not found; install Python's headers "
                 "(Debian, Ubuntu: apt-get install python3-dev)")
    return command


def require_support(command: list[str]):
    """Exit with one line if supported.h refuses the compiler or what it compiles for."""
    flags = shlex.split(" ".join(os.environ.get(name, "") for name in ("CFLAGS", "PYGPT_CFLAGS")))
    result = subprocess.run([*command, *flags, "-fsyntax-only", "-x", "c", HERE / "supported.h"],
                            capture_output=True, text=True)
    refusal = re.search(r'error: (?:#error )?"(pygpt [^"]*)"', result.stderr)
    if result.returncode and refusal:
        sys.exit(f"pygpt: error: {refusal[1]}")


def openmp_flags(command: list[str]):
    """Return the flags with which OpenMP is compiled and linked, two lists; or None, after one line
    on stderr that says why there is none."""
    if os.environ.get("PYGPT_OPENMP") == "0":
        print("pygpt: building without OpenMP, as PYGPT_OPENMP=0 asks: one thread",
              file=sys.stderr)
        return None
    program = "#include <omp.h>\nint main(void) { return !omp_get_max_threads(); }\n"
    choices = [(["-fopenmp"], ["-fopenmp"])]
    if sys.platform == "darwin":
        choices += apple_openmp()
    for compiling, linking in choices:
        if compiles([*command, *compiling], program, linking):
            return compiling, linking
    install = ("libomp (Homebrew: brew install libomp; MacPorts: port install libomp)"
               if sys.platform == "darwin" else "libgomp (gcc) or libomp-dev (clang)")
    print(f"pygpt: warning: {command[0]} cannot build with -fopenmp, so the kernels will use "
          f"one thread; install {install} for more", file=sys.stderr)
    return None


def apple_openmp():
    """Yield the flags for each place where libomp may lie on macOS. Apple's Clang compiles OpenMP,
    but its driver does not know -fopenmp, and it comes without the runtime."""
    homebrew = [os.environ.get("HOMEBREW_PREFIX"), "/opt/homebrew", "/usr/local"]
    roots = [f"{root}/opt/libomp" for root in homebrew if root]
    places = [(f"{root}/include", f"{root}/lib")
              for root in (os.environ.get("CONDA_PREFIX"), *roots) if root]
    places.append(("/opt/local/include/libomp", "/opt/local/lib/libomp"))  # MacPorts
    for include, lib in places:
        if Path(include, "omp.h").exists():
            yield (["-Xpreprocessor", "-fopenmp", f"-I{include}"],
                   [f"-L{lib}", f"-Wl,-rpath,{lib}", "-lomp"])
    yield ["-Xpreprocessor", "-fopenmp"], ["-lomp"]  # where the compiler looks by itself


def compiles(command: list[str], program: str, linking=()) -> bool:
    """Return whether a C program compiles, assembles and links."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text(program)
        result = subprocess.run([*command, str(source), *linking,
                                 "-o", str(source.with_suffix(""))],
                                capture_output=True, text=True)
    return result.returncode == 0


def fusing(command: list[str]) -> list[str]:
    """Return the flag by which GCC fuses every a * b + c that it may; no flag for Clang.

    GCC 16 otherwise leaves some sums of products unfused, since on a Zen a chain of additions is
    faster than one of multiply-adds. It does so in a loop over one row and not in one over several,
    so that a row's bits would depend on the number of threads.
    """
    flag = "--param=avoid-fma-max-bits=0"
    return [flag] if compiles([*command, "-Werror", flag], "int main(void) { return 0; }\n") else []


def without_units(command: list[str]) -> list[str]:
    """Return the flag that leaves out the units for bfloat16 where the assembler, which may be
    older than the compiler, does not know their instructions; else no flag."""
    if compiles(command, 'int main(void) { __asm__("tdpbf16ps %tmm2, %tmm1, %tmm0\\n"\n'
                         '"vdpbf16ps %zmm2, %zmm1, %zmm0"); return 0; }\n'):
        return []
    return ["-DPYGPT_NO_UNITS"]


def all_flags(command: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags with which this compiler compiles and links a file of the library."""
    compiling, linking = openmp_flags(command) or (SERIAL_FLAGS, [])
    return ([*FLAGS, *fusing(command), *without_units(command), *compiling,
             *shlex.split(os.environ.get("PYGPT_CFLAGS", ""))],
            [*linking, *shlex.split(os.environ.get("PYGPT_LDFLAGS", ""))])


class BuildExt(build_ext):
    """A build_ext that finds the compiler late, and builds again when it or its flags change."""

    def pre_run(self, extension, _ffi):
        """Choose compiler and flags; cffi calls this just before it writes the C file."""
        command = compiler()
        require_support(command)
        extension.extra_compile_args, extension.extra_link_args = all_flags(command)
        # setuptools builds again when a source is newer, so this file counts as a source.
        stamp = Path(self.build_temp) / "built-with.txt"
        version = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
        text = "\n".join([shlex.join(command), *version.splitlines()[:1],
                          shlex.join(extension.extra_compile_args),
                          shlex.join(extension.extra_link_args), *extension.sources[1:],
                          *(f"{name}={os.environ.get(name, '')}" for name in VARIABLES)])
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != text:
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text(text, encoding="utf-8")
        for each in self.extensions:
            each.depends.append(str(stamp))


def make_ffi() -> cffi.FFI:
    builder = cffi.FFI()
    builder.cdef(declarations((HERE / "pygpt.h").read_text(encoding="utf-8")))
    builder.set_source(
        "pygpt._kernels",
        '#include "pygpt.h"',
        sources=files("*.c"),
        depends=files("*.h", "*.inl"),
        libraries=["m"],
        include_dirs=[os.path.relpath(HERE, HERE.parent)],
    )
    return builder


ffi = make_ffi()
