"""Tells which lines and branches no test runs, of the C and of Python: `make coverage`.

The tests run on a copy of the project below build/, whose C counts (GCC's --coverage), in an
environment of its own, whose Python counts (the package `coverage`), in every process that a test
starts. Every inner loop is counted on each instruction set that this CPU has; objects of the other
sets are named and left out. What a line cannot do in a test stands in cannot_happen.txt with the
reason; an entry of it that no longer fits is an error.

    python tests/checks/coverage.py [ARGUMENT OF PYTEST ...]    the default: every test
    python tests/checks/coverage.py --report                    the counts of the last run again

-O1 without early inlining keeps each `if` of the source apart, and the kernels fast enough to be
tested. Counters are atomic, because kernels run on several threads. Processes write them when they
exit, call os._exit or are ended by SIGBUS (gcov_dump.c); those that a test kills lose theirs.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import gcov_counts
import tree
import uncovered

HERE = Path(__file__).resolve().parent
TOP = tree.ROOT / "build" / "coverage"
MEASURING = TOP / "measuring.ini"  # processes are measured while this file exists
CFLAGS = "--coverage -fprofile-update=atomic"
LEAST = 95  # percent of the C branches that can happen, and of the lines of Python
# They build other programs, measure the speed of a multiply-add, look at what was imported or is
# exported, or fail where the counting itself needs memory or writes a file.
NOT_HERE = ("tests/test_ladder.py",
            "tests/test_run.py::test_flops_per_token_counts_every_multiply_add",
            "tests/test_flags.py::test_help_imports_nothing_that_takes_time",
            "tests/test_build.py::test_a_module_exports_the_name_of_its_init_alone",
            "tests/test_encoded_texts.py::test_a_copy_that_finds_the_disk_full_leaves_nothing",
            "tests/test_killed_runs.py::test_a_file_size_limit_leaves_the_checkpoint_whole",
            "tests/test_faults.py::test_a_part_of_the_drill_finds_nothing[memory---samples 1]")
SETTINGS = """[run]
branch = true
parallel = true
data_file = {top}/python/data
source = {top}/pygpt
patch = _exit
disable_warnings = no-data-collected,module-not-imported,module-not-measured,already-imported
"""
# Run at the start of each process of this environment, before its first line.
HOOK = "import sys; sys.path.append({here!r}); import coverage_hook; sys.path.pop(); " \
       "coverage_hook.start({settings!r})\n"


def build():
    """Build the copy whose C counts, and forget the counts of earlier runs."""
    os.environ["CFLAGS"] = CFLAGS  # of the modules of csrc/python too
    dump = TOP / "gcov_dump.o"
    TOP.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O1", "-fPIC", "-c", HERE / "gcov_dump.c", "-o", dump], check=True)
    os.environ["LDFLAGS"] = f"--coverage {dump} -Wl,--wrap=sigaction"
    tree.make("coverage", "-O1 -fno-early-inlining", "", "gcc")
    del os.environ["CFLAGS"], os.environ["LDFLAGS"]
    for path in TOP.rglob("*.gcda"):
        path.unlink()
    shutil.rmtree(TOP / "python", ignore_errors=True)
    (TOP / "python").mkdir()


def run_tests(arguments):
    """Run the tests in the copy while counting; return their status."""
    hook = Path(sysconfig.get_path("purelib")) / "pygpt_coverage.pth"
    hook.write_text(HOOK.format(here=str(HERE), settings=str(MEASURING)))
    MEASURING.write_text(SETTINGS.format(top=TOP))
    # Without arguments as `make test` does, in two processes.
    tests = ["-m", "pytest", *arguments] if arguments else ["tests/halves.py"]
    options = [f"--deselect={test}" for test in NOT_HERE]
    try:
        return subprocess.run([sys.executable, *tests, *options], cwd=TOP).returncode
    finally:
        MEASURING.unlink()


def count_c():
    """Return ({file: uncovered.Counts}, the names of objects of which nothing ran)."""
    reports, idle = [], []
    for notes in gcov_counts.objects(TOP / "build"):
        report = gcov_counts.read(notes, TOP)
        if gcov_counts.ran(report):
            reports.append(report)
        elif any(each["functions"] for each in report["files"]):
            idle.append(notes.stem + ".c")
    files = {}
    texts = {str(path.relative_to(TOP)): path.read_text(encoding="utf-8").splitlines()
             for path in (TOP / "csrc").rglob("*.[chi]*")}
    for name, lines in gcov_counts.merged(reports, texts).items():
        counts = files[name] = uncovered.Counts(texts[name])
        for number, line in lines.items():
            if counts.text(number) == "}":  # the way out of a function, whose lines tell the same
                continue
            counts.add_line(number, line.count > 0)
            if not gcov_counts.is_foreign(counts.text(number), counts.text(number - 1)):
                for arcs in line.arcs.values():
                    for place, taken in enumerate(arcs, 1):
                        counts.add_branch(number, f"way {place} of {len(arcs)}", taken > 0)
    return files, idle


def count_python():
    """Return {file: uncovered.Counts} of every file of pygpt/."""
    settings = TOP / "python" / "report.ini"
    settings.write_text(SETTINGS.format(top=TOP))
    coverage = [sys.executable, "-m", "coverage"]
    options = f"--rcfile={settings}", "-q"
    if list((TOP / "python").glob("data.*")):
        # It fails, and says so, if all are damaged: those of processes killed while they wrote.
        subprocess.run([*coverage, "combine", "--append", *options], cwd=TOP)
    report = TOP / "python" / "report.json"
    subprocess.run([*coverage, "json", *options, "-o", report], cwd=TOP, check=True)
    files = {}
    for name, found in json.loads(report.read_text())["files"].items():
        counts = files[name] = uncovered.Counts((TOP / name).read_text().splitlines())
        for key, covered in (("executed_lines", True), ("missing_lines", False)):
            for number in found[key]:
                counts.add_line(number, covered)
        for key, covered in (("executed_branches", True), ("missing_branches", False)):
            for number, target in found[key]:
                way = f"to line {target}" if target > 0 else "out of the function"
                counts.add_branch(number, way, covered)
    return files


def main(arguments):
    MEASURING.unlink(missing_ok=True)
    status = 0
    if arguments != ["--report"]:
        build()
        status = run_tests(arguments)
    if status:
        print(f"coverage: status {status} of the tests, so some counts may be missing")
    c, idle = count_c()
    files = {**c, **count_python()}
    reasons = uncovered.read_reasons(HERE / "cannot_happen.txt")
    stale = uncovered.excuse(files, reasons, idle)
    uncovered.show(files)
    if idle:
        print(f"not on this CPU, and so not counted: {' '.join(idle)}")
    for line in stale:
        print(f"coverage: cannot_happen.txt: {line}")
    branches = uncovered.percent(*uncovered.total(c.values(), "branches"))
    lines = uncovered.percent(*uncovered.total(
        (counts for name, counts in files.items() if name.endswith(".py")), "lines"))
    print(f"coverage: {branches:.1f} % of the C branches that can happen, "
          f"{lines:.1f} % of the lines of Python ({LEAST} % of each are asked for)")
    return 1 if status or stale or branches < LEAST or lines < LEAST else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
