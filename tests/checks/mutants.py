"""Breaks the project in each way that tests/checks/mutations/ lists, and counts what tests notice.

It works in a copy of the project, build/mutants/tree. For a change of C, it compiles the objects
that contain it, for the instruction set that is in use alone, and links them with the others; then
it runs the tests that the list names until one fails. A mutant whose tests pass survives: a test is
missing, unless the list gives a reason.

    python tests/checks/mutants.py [PATTERN]    tries the mutations whose description matches

Results are kept in build/mutants/results, so that an interrupted run goes on. A mutant that was
noticed is tried again if its file has changed or the test is gone; one that survived, also if its
tests have changed.
"""

import collections
import contextlib
import fcntl
import hashlib
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import types

import hypothesis
import hypothesis.internal.conjecture.engine
import pytest

import mutation_list
import tree as copies
from mutant_build import BUILD, OBJECTS, TREE, Compiler, copy_project

RESULTS = BUILD / "results"
CODE = ".py", ".js", ".css", ".html"  # what a result depends on in a folder
FORK = multiprocessing.get_context("fork")
LIMITS = 60, 900  # seconds that a test, and all tests of a line of the list, may take
STATUSES = NOTICED, CRASHED, ENDLESS, SURVIVED = "noticed", "crashed", "endless", "survived"


# ------------------------------------------------------------------------------------ the tests ---

def child(arguments, output):
    """Run pytest in this process, in the copy of the project, and write to a file."""
    os.setpgid(0, 0)  # not a session: that of a test would take its terminal, which ends it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(TREE)
    sys.path[0] = str(TREE)
    sys.modules["__main__"] = types.ModuleType("__main__")  # which a test's process may import
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # Without shrinking: which test fails is wanted, not its smallest example.
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None, max_examples=25,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=[hypothesis.HealthCheck.too_slow])
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    status = pytest.main(arguments)
    sys.stdout.flush()
    os._exit(status)


def run_tests(arguments, stop=True):
    """Run tests of the copy, with `stop` until one fails; return (status, the names of those that
    failed, joined by spaces).

    They run in a fork of this process, which has imported pytest and hypothesis (with its engine),
    and nothing of pygpt: to import them takes as long as to notice a mutant.
    """
    options = ["-vv", "--tb=line", "--hypothesis-profile=mutants", *(["-x"] if stop else []),
               "-o", f"faulthandler_timeout={LIMITS[0]}", "-o", "faulthandler_exit_on_timeout=true"]
    path = BUILD / "output"
    process = FORK.Process(target=child, args=([*options, *arguments], path))
    process.start()
    try:
        process.join(LIMITS[1])
    finally:  # Ctrl-C must end the tests too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    output = path.read_text(errors="replace")
    if process.exitcode == 0:
        return SURVIVED, ""
    ended = re.findall(r"^tests/(\S+\.py::.*?) *(?:(PASSED|SKIPPED|XFAIL|FAILED|ERROR)\b.*|"
                       r"Timeout \(.*|Fatal Python error.*)?$", output, re.MULTILINE)
    failed = [name for name, word in ended if word not in ("PASSED", "SKIPPED", "XFAIL")]
    if "Timeout (" in output or process.exitcode == -signal.SIGKILL:
        return ENDLESS, failed[-1] if failed else arguments[0]
    if process.exitcode < 0:
        return CRASHED, failed[-1] if failed else arguments[0]
    if not failed and "rror" not in output:
        sys.exit(f"mutants: no test ran:\n{' '.join(arguments)}\n{output[-2000:]}")
    return NOTICED, " ".join(failed) or arguments[0]


def write_bytecode():
    """Compile the copy's modules and tests, as pytest changes them, so that no run has to."""
    stamp, digest = BUILD / "bytecode", digest_of(TREE / "pygpt", TREE / "tests")
    if stamp.exists() and stamp.read_text() == digest:
        return
    stamp.write_text(digest)
    subprocess.run([sys.executable, "-m", "pytest", "-q", "--collect-only", "tests"], cwd=TREE,
                   env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""}, stdout=subprocess.DEVNULL)


class Results:
    """The kept results: {key: (status, seconds, the test that noticed)}, a line each."""

    def __init__(self):
        lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        self.found = {key: (status, float(seconds), by)
                      for key, status, seconds, by in (line.split("\t") for line in lines)}

    def add(self, key, status, seconds, by):
        self.found[key] = status, seconds, by
        with RESULTS.open("a") as file:
            file.write(f"{key}\t{status}\t{seconds:.1f}\t{by}\n")


def processor_seconds():
    """Return the time of all processors that compilers and tests have taken so far."""
    times = os.times()
    return times.children_user + times.children_system


def digest_of(*paths):
    """Return a short digest of the contents of files and of those below folders that are CODE."""
    digest = hashlib.sha256()
    for path in paths:
        inside = (each for each in path.rglob("*") if each.suffix in CODE)
        for each in sorted(inside) if path.is_dir() else [path]:
            digest.update(each.read_bytes())
    return digest.hexdigest()[:16]


def has_test(by):
    """Return whether the copy still has the test that noticed a mutant; True if none did."""
    file, *_, function = by.partition("[")[0].rpartition("::")
    path = TREE / "tests" / file
    return not file or path.is_file() and f"def {function}(" in path.read_text(encoding="utf-8")


def has_browser():
    """Return whether there is a browser for the tests of the pages."""
    return runpy.run_path(str(copies.ROOT / "tests" / "browser.py"))["found"]() is not None


class Mutants:
    """Tries mutations one after another."""

    def __init__(self):
        copy_project()
        self.results, self.compiler = Results(), Compiler()
        write_bytecode()
        self._project = digest_of(TREE / "pygpt", TREE / "tests", OBJECTS / "stamp")
        self._is_broken = False  # whether the library in place is a mutant's

    def check(self, outcomes):
        """Return the tests that noticed a mutant and fail on the unbroken project too."""
        wanted = dict.fromkeys(by for _, _, by in outcomes if "::" in by)
        keys = {by: hashlib.sha256(f"{self._project} {by}".encode()).hexdigest()[:16]
                for by in wanted}
        waiting = [by for by in wanted if keys[by] not in self.results.found]
        self._repair()
        failed = ""
        if waiting:
            print(f"mutants: {len(waiting)} tests that noticed one, on the unbroken project",
                  flush=True)
            status, failed = run_tests([f"tests/{by}" for by in waiting], stop=False)
            for by in waiting:
                if status == SURVIVED:
                    self.results.add(keys[by], "passed", 0.0, by)
        return failed

    def _repair(self):
        if self._is_broken:
            self.compiler.link()
            self._is_broken = False

    def try_one(self, mutation):
        """Return (status, seconds, the test that noticed it)."""
        path = TREE / mutation.file
        text = path.read_text(encoding="utf-8")
        key = mutation.key(text)
        tests = digest_of(*(TREE / "tests" / test[0] for test in mutation.tests))
        for each in key, key + tests:
            if each in self.results.found and has_test(self.results.found[each][2]):
                return self.results.found[each]
        start, times = processor_seconds(), os.stat(path)
        path.write_text(mutation.applied(text), encoding="utf-8")
        try:
            status, by = self._run(mutation)
        finally:
            path.write_text(text, encoding="utf-8")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        seconds = processor_seconds() - start
        self.results.add(key + tests if status == SURVIVED else key, status, seconds, by)
        return status, seconds, by

    def _run(self, mutation):
        if mutation.file.startswith("csrc/"):
            self._is_broken = True
            if not self.compiler.compile_changed(mutation.file):
                sys.exit(f"mutants: {mutation}: the compiler refuses it")
        else:
            self._repair()
        for test, *options in mutation.tests:
            status, by = run_tests([f"tests/{test}", *options])
            if status != SURVIVED:
                return status, by
        return SURVIVED, ""


# -------------------------------------------------------------------------------------- the run ---

def table(outcomes):
    """Return the lines of a table of how many mutants had which outcome, by area."""
    counts = collections.defaultdict(collections.Counter)
    for mutation, status, _ in outcomes:
        for area in mutation.area, "all":
            counts[area][status] += 1
            counts[area]["explained"] += status == SURVIVED and bool(mutation.reason)
    lines = [f"{'area':12} {'made':>6}" + "".join(f"{name:>10}" for name in
                                                  (*STATUSES, "explained"))]
    for area, count in counts.items():
        made = sum(count[name] for name in STATUSES)
        lines.append(f"{area:12} {made:6}" + "".join(f"{count[name]:10}" for name in
                                                     (*STATUSES, "explained")))
    return [*(line for line in lines if not line.startswith("all ")),
            *(line for line in lines if line.startswith("all "))]


def main(pattern=""):
    """Try the mutations that match; return 1 if one survives without a reason."""
    chosen = [each for each in mutation_list.read() if re.search(pattern, str(each))]
    if not has_browser():
        print("mutants: without a Chromium no test runs the pages, whose mutations are left out")
        chosen = [each for each in chosen if not each.file.endswith(".js")]
    if not chosen:
        sys.exit(f"mutants: no mutation matches {pattern!r}")
    BUILD.mkdir(parents=True, exist_ok=True)
    lock = (BUILD / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"mutants: another run is changing the copy in {BUILD}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("mutants: ended; the next run goes on"))
    mutants, outcomes = Mutants(), []
    for number, mutation in enumerate(chosen, 1):
        status, seconds, by = mutants.try_one(mutation)
        outcomes.append((mutation, status, by))
        print(f"{number:3}/{len(chosen)} {status:8} {seconds:5.1f} s  {mutation}"
              f"{f'  [{by}]' if by else ''}", flush=True)
    wrong = mutants.check(outcomes)
    print(*table(outcomes), sep="\n")
    missed = [mutation for mutation, status, _ in outcomes
              if status == SURVIVED and not mutation.reason]
    for mutation in missed:
        print(f"mutants: no test notices: {mutation}")
    print(f"mutants: {len(outcomes)} made, {len(missed)} survive without a reason")
    if wrong:
        print(f"mutants: these tests fail on the unbroken project too: {wrong}")
    return 1 if missed or wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
