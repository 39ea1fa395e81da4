"""Builds with each compiler that is installed here, without a warning, and runs the kernel tests.

Run by `make compilers`, not by `make test`: a build takes a minute for each compiler. Debian has
several of each beside one another (apt-get install gcc-11 clang-14 musl-tools).
"""

import shutil
import subprocess
import sys

import pytest

from sources import copied_sources
from test_install import TOP, run

COMPILERS = [name for name in ("gcc", *(f"gcc-{n}" for n in range(9, 16)),
                               "clang", *(f"clang-{n}" for n in range(13, 23)))
             if shutil.which(name)]
# Every kernel at the edges of its blocks, on each instruction set, and what modules export.
SHORT = ["tests/test_kernels.py", "tests/test_simd.py", "tests/test_build.py", "-k",
         "at_every_edge or where_blocks or whole_numbers or simd or exports"]
ALONE = ["-O1", "-std=c11", "-D_GNU_SOURCE", "-ffp-contract=fast", "-fvisibility=hidden",
         "-Wno-psabi", "-Icsrc"]


@pytest.fixture
def tree(tmp_path):
    return copied_sources(tmp_path / "tree")


@pytest.mark.parametrize("cc", COMPILERS)
def test_a_compiler_warns_of_nothing_and_its_kernels_are_right(tree, cc):
    out, said = run(tree, [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], CC=cc,
                    PYGPT_CFLAGS="-Werror")
    assert out == "" and (said == "" or "cannot build with -fopenmp" in said), said
    built = run(tree, [sys.executable, "-c", "from pygpt.backend import kernels;"
                                             "print(kernels.info()['compiler'])"])[0]
    passed = run(tree, [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SHORT])[0]
    print(f"{cc}: {built.strip()}, {'one thread' if said else 'OpenMP'}: "
          f"{passed.splitlines()[-1]}")


def kernels():
    return [str(path) for path in sorted((TOP / "csrc").glob("*.c"))]


def test_the_c_library_alone_links_with_every_symbol_defined(tmp_path):
    if not COMPILERS or sys.platform == "darwin":
        pytest.skip("needs gcc or clang, and a linker that takes -z defs")
    run(TOP, [COMPILERS[0], *ALONE, "-w", "-shared", "-fPIC", "-Wl,-z,defs", *kernels(), "-lm",
              "-o", str(tmp_path / "kernels.so")])


def test_musl_compiles_the_c_library_and_it_computes_the_same(tmp_path):
    if not shutil.which("musl-gcc"):
        pytest.skip("no musl-gcc here")
    run(TOP, ["musl-gcc", *ALONE, "-static", "-Wall", "-Wextra", "-Wconversion", "-Werror",
              "-Wno-unknown-pragmas", "-Wno-unused-variable", "-Wno-unused-but-set-variable",
              "tests/install/check.c", *kernels(), "-lm", "-o", str(tmp_path / "check")])
    said = subprocess.run([tmp_path / "check"], capture_output=True, text=True, timeout=120).stdout
    assert said.startswith("check: gcc") and said.endswith(": all agree\n"), said
    print(said, end="")
