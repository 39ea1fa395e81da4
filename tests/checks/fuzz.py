"""Fuzzes every parser of outside bytes (targets.py), guided by coverage: `make fuzz SECONDS=60`.

Each target gets SECONDS of atheris, libFuzzer for Python, in a process of its own; fuzz_bpe.c, C
alone, gets as many. It begins with
the inputs of corpus/TARGET, which is kept with the project, and with those that earlier runs found
to reach new code, in build/fuzz/TARGET. A finding is a file build/fuzz/findings/TARGET-*; mend the
kind, and keep the input in corpus/TARGET, which tests/test_fuzzed_inputs.py tries again.

    python tests/checks/fuzz.py SECONDS [TARGET ...]     all targets, or those named
    python tests/checks/fuzz.py replay TARGET FILE ...   tries single inputs, without atheris
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOUND = ROOT / "build" / "fuzz"
SECONDS_PER_INPUT = 2     # a parser that takes longer hangs
MOST_MEGABYTES = 1500     # of the process
MOST_BYTES = 6000         # of an input
OPTIONS = ["-print_final_stats=0", "-verbosity=1", "-close_fd_mask=0", "-use_value_profile=1",
           f"-timeout={SECONDS_PER_INPUT}", f"-rss_limit_mb={MOST_MEGABYTES}",
           f"-max_len={MOST_BYTES}"]


def use_this_project():
    sys.path[:0] = [str(ROOT), str(HERE)]


def fuzz_one(name, arguments):
    """Fuzz a target in this process; atheris ends it."""
    import atheris
    use_this_project()
    with atheris.instrument_imports(include=["pygpt", "json", "tomllib", "pickletools"]):
        import targets
    atheris.Setup(["fuzz", *arguments], lambda data: targets.run(name, data))
    atheris.Fuzz()


def fuzz(name, seconds):
    """Fuzz a target in a process of its own; print a line; return whether nothing was found."""
    folder, findings = FOUND / name, FOUND / "findings"
    folder.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "one", name, f"-max_total_time={seconds}",
               f"-artifact_prefix={findings}/{name}-", *OPTIONS, str(folder),
               str(HERE / "corpus" / name)]
    started = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, errors="replace",
                            env=os.environ | {"OMP_NUM_THREADS": "1"})
    (FOUND / f"{name}.log").write_text(result.stdout + result.stderr)
    lines = result.stderr.splitlines()
    last = next((line for line in reversed(lines) if "cov:" in line), "no coverage").split()
    print(f"{name:22}{time.monotonic() - started:5.0f} s  {' '.join(last[:7])}"
          f"  {'clean' if result.returncode == 0 else 'FOUND'}", flush=True)
    if result.returncode:
        shown = [line for line in (result.stdout + result.stderr).splitlines()
                 if not re.match("#|INFO:|WARNING:", line)]
        print(f"status {result.returncode}", *shown[-40:], sep="\n", flush=True)
    return result.returncode == 0


def fuzz_c(seconds):
    """Fuzz the C functions of BPE with clang's libFuzzer and sanitizers, as fuzz() does."""
    clang = next(filter(None, map(shutil.which, [*(f"clang-{v}" for v in range(30, 13, -1)),
                                                 "clang"])), None)
    if clang is None:
        print("bpe_c                 left out: there is no clang (Debian, Ubuntu: apt-get install "
              "clang)")
        return True
    program, folder = FOUND / "bpe_c_program", FOUND / "bpe_c"
    folder.mkdir(parents=True, exist_ok=True)
    (FOUND / "findings").mkdir(exist_ok=True)
    sources = [HERE / "fuzz_bpe.c", *(ROOT / "csrc").glob("bpe_*.c")]
    subprocess.run([clang, "-O1", "-g", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra",
                    "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all",
                    f"-I{ROOT / 'csrc'}", *sources, "-o", program], check=True)
    result = subprocess.run(
        [program, f"-max_total_time={seconds}", f"-artifact_prefix={FOUND}/findings/bpe_c-",
         *OPTIONS, folder, HERE / "corpus" / "bpe"], capture_output=True, text=True,
        errors="replace")
    last = [line for line in result.stderr.splitlines() if "cov:" in line][-1:] or [""]
    print(f"{'bpe_c':22}{seconds:5} s  {' '.join(last[0].split()[:7])}"
          f"  {'clean' if result.returncode == 0 else 'FOUND'}", flush=True)
    if result.returncode:
        print(result.stderr[-4000:], flush=True)
    return result.returncode == 0


def replay(name, paths):
    use_this_project()
    import targets
    for path in paths:
        targets.run(name, Path(path).read_bytes())
        print(f"{path}: accepted, or refused as documented")


def main(arguments):
    if arguments[:1] == ["one"]:
        return fuzz_one(arguments[1], arguments[2:])
    if arguments[:1] == ["replay"]:
        return replay(arguments[1], arguments[2:])
    use_this_project()
    import targets
    seconds, names = int(arguments[0]), arguments[1:] or [*targets.TARGETS, "bpe_c"]
    results = [fuzz_c(seconds) if name == "bpe_c" else fuzz(name, seconds) for name in names]
    print(f"fuzz: {len(names)} parsers, {seconds} s each: {results.count(False)} with findings")
    return 1 if False in results else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
