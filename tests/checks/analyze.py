"""Analyses the C without running it: GCC's -fanalyzer and clang-tidy's bug checks, `make analyze`.

clang-tidy looks at every .c of csrc/, and at the .inl files through the instruction set of AVX2;
clang-tidy.yaml names the checks, and a finding that is none carries a NOLINT with its reason at its
place. GCC looks at the same without the inner loops: for one set of them, without pointers to free
or memory to lose, its analyzer had not ended after eight minutes. clang-tidy is left out, with a
line that says so, if it is not installed.

    python tests/checks/analyze.py [FILE.c ...]     all, or those named
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-Icsrc", "-Wall", "-Wno-psabi"]
FOREIGN = "isa_neon.c" if platform.machine() == "x86_64" else "isa_avx"
INNER_LOOPS = "isa_", "unit_"
SAME_SOURCE = "isa_avx512", "isa_baseline"  # as isa_avx2.c, with other widths


def sources(skipped):
    return [path.relative_to(ROOT) for path in sorted((ROOT / "csrc").glob("*.c"))
            if not any(word in path.name for word in (*skipped, FOREIGN))]


def check(command, path):
    """Run a checker on a file; print what it says if it fails; return whether it is clean."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        print(f"{path}:", result.stdout, result.stderr, sep="\n", flush=True)
    return result.returncode == 0


def newest(name):
    """Return the newest installed program of this name, such as clang-tidy-19; None: there is
    none."""
    found = [f"{name}-{version}" for version in range(30, 13, -1)] + [name]
    return next(filter(None, map(shutil.which, found)), None)


def main(arguments):
    results = {}
    gcc = os.environ.get("GCC", "gcc")
    files = [Path(name) for name in arguments] or sources(INNER_LOOPS)
    command = [gcc, *FLAGS, "-O1", "-fopenmp", "-fanalyzer", "-Werror", "-c", "-o", os.devnull]
    results["gcc -fanalyzer"] = [check([*command, str(path)], path) for path in files]
    if tidy := newest("clang-tidy"):
        files = [Path(name) for name in arguments] or sources(SAME_SOURCE)
        options = "--quiet", f"--config-file={HERE / 'clang-tidy.yaml'}"
        results[tidy] = [check([tidy, *options, str(path), "--", *FLAGS], path) for path in files]
    else:
        print("analyze: there is no clang-tidy here (Debian, Ubuntu: apt-get install clang-tidy)")
    for name, clean in results.items():
        print(f"analyze: {name}: {len(clean)} files, {clean.count(False)} with findings")
    return 0 if all(map(all, results.values())) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
