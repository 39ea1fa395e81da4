"""Lets each call that pygpt makes of the system fail in turn, and checks how that ends.

`make faults` runs all parts:

    kernels   each allocation of each kernel
    api       allocations while Python calls the public API (faults_api.py): each of the library's
              own, and --samples of all
    files     each read, write, open, sync, rename, lock, link and map on the files of a run
    memory    allocations anywhere, Python's too: --samples of them, spread over the command

A library that is loaded first (faults.c) makes the calls fail. A command runs in a fork of this
process for each fault, so it starts in milliseconds. The rule:

    it ends within 20 seconds with status 0, or with one line that names a file or the memory;
    then the same command, or with a checkpoint `train --resume`, ends with the right weights.

    python tests/checks/faults.py [--samples N] [--every N] [PART ...]
"""

import argparse
import ctypes
import errno
import itertools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]
SECONDS = 20
FAILED = 99  # the status of a child that raised an exception


def build(folder):
    """Compile faults.c; return the environment in which it is loaded, and the variables that keep
    allocations apart: each object of Python has a block of its own."""
    library = Path(folder) / "faults.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra",
                    "-Werror", "-o", library, HERE / "faults.c", "-ldl"], check=True)
    return os.environ | {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc",
                         "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}


class Outcome(NamedTuple):
    """Holds how a child ended: its status (a signal is negative), its standard error, and how many
    calls were counted and failed."""

    status: int
    error: str
    counted: int
    failed: int


def run_with(plan, function):
    """Run a function in a fork of this process with a plan of faults (faults.c)."""
    faults = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as met:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(output.fileno(), 2)
            numbers = (ctypes.c_long * 2)()
            places = [ctypes.byref(numbers, 8 * i) for i in range(2)]
            text = plan.encode()
            signal.alarm(SECONDS)
            status = FAILED
            try:
                faults.faults_plan(text)
                status = function() or 0
            except BaseException:
                end_faults(faults)
                traceback.print_exc()
            finally:
                end_faults(faults)
                faults.faults_met(*places)
                os.write(met.fileno(), bytes(numbers))
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        met.seek(0)
        numbers = (ctypes.c_long * 2).from_buffer_copy(met.read().ljust(16, b"\xff"))
        return Outcome(status, output.read().decode(errors="replace"), *numbers)


def end_faults(faults):
    """End a plan of faults; the call itself may be what a plan lets fail, until its last fault."""
    while True:
        try:
            return faults.faults_plan(b"")
        except MemoryError:
            pass


# -------------------------------------------------------------------------------------- kernels ---

def try_kernels(options):
    """Fail each allocation of each kernel, on each instruction set; yield a text for each fault
    that was found. A second call, without a fault, must give the bits of an undisturbed one."""
    from kernel_calls import NUMBERS
    from pygpt.backend import kernels
    from pygpt.check.calls import CCall
    from pygpt.check.cases import CASES
    from pygpt.check.header import flag_settings
    from pygpt.check.sets import isas_for, use_isa
    from pygpt.check.threads import small_jobs_shared

    def digest(case, args, isa, threads, setting):
        with use_isa(isa), small_jobs_shared():
            kernels.set_num_threads(threads)
            code, outputs = CCall(kernels, case.kernel, args, case.inout).run(setting)
        return code, {name: bytes(out.raw()) for name, out in outputs.items()}

    def first_and_second(where, right):
        code, outputs = digest(*where)
        assert code == kernels.ENOMEM or (code, outputs) == right, f"status {code}"
        end_faults(ctypes.CDLL(None))
        assert digest(*where) == right, "the call after it gives other bits"
        return 0

    tried = 0
    for case in CASES[::options.every]:
        for size in (7, 65):
            sizes = {name: size for name in case.sizes if name not in NUMBERS}
            for dtype in case.dtypes:
                args = case.chosen(sizes | ({"dtype": dtype} if "dtype" in case.sizes else {}))
                for isa in isas_for(dtype):
                    where = case, args, isa, 1, flag_settings(case.kernel)[-1]
                    right = in_child(lambda: digest(*where))
                    for number in range(1, 100):
                        plan = f"call=memory caller=_kernels first={number} last={number}"
                        outcome = run_with(plan, lambda: first_and_second(where, right))
                        if outcome.status:
                            yield (f"{case} on {isa}, size {size}, allocation {number}: "
                                   f"{outcome.status} {outcome.error}")
                        if not outcome.failed:
                            break
                        tried += 1
    print(f"kernels: {tried} failed allocations")


def in_child(function):
    """Return function() of a fork: this process keeps its empty list of scratch memory."""
    with tempfile.TemporaryFile() as file:
        def put():
            os.write(file.fileno(), pickle.dumps(function()))
        outcome = run_with("", put)
        assert outcome.status == 0, outcome.error
        file.seek(0)
        return pickle.load(file)


# ------------------------------------------------------------------------------------------ api ---

def try_api(options):
    """Fail allocations while Python calls the public API: each of the library's own, and some of
    all (--samples); yield the problems."""
    import faults_api

    tried = 0
    operations = dict(list(faults_api.operations().items())[::options.every])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "place")
        right = {name: in_child(lambda: operation.undisturbed(place))
                 for name, operation in operations.items()}

        def outcome(name, plan):
            faults = ctypes.CDLL(None)
            return run_with("", lambda: operations[name].disturbed(
                place, right[name],
                lambda on: faults.faults_plan(plan.encode()) if on else end_faults(faults)))

        for name in operations:
            for number in itertools.count(1):
                plan = f"call=memory caller=_kernels first={number} last={number}"
                result = outcome(name, plan)
                if result.status:
                    yield f"api, {name}, {plan}: {result.status} {result.error}"
                if not result.failed:
                    break
                tried += 1
        for name, operation in operations.items():
            operation.undisturbed(place)  # so that a fork has no module left to import
            counted = outcome(name, "call=memory first=1000000000").counted
            for sample in range(options.samples):
                first = 1 + sample * counted // options.samples
                plan = f"call=memory first={first} last={first}"
                result = outcome(name, plan)
                tried += result.failed
                if result.status:
                    yield f"api, {name}, {plan}: {result.status} {result.error}"
    print(f"api: {tried} failed allocations")


# ----------------------------------------------------------------------------- files and memory ---

# What a call of these functions may report.
FAULTS = {
    "read": (errno.EIO, 0), "write": (errno.ENOSPC, errno.EIO, 0), "fsync": (errno.EIO,),
    "open": (errno.EMFILE, errno.EACCES), "opendir": (errno.EMFILE,), "close": (errno.EIO,),
    "flock": (errno.ENOLCK,), "symlink": (errno.EPERM,), "link": (errno.EPERM,),
    "rename": (errno.EXDEV, errno.EACCES), "mkdir": (errno.ENOSPC,), "unlink": (errno.EACCES,),
    "rmdir": (errno.EACCES,), "mmap": (errno.ENOMEM,),
}
MOVING = "link", "mkdir", "rename", "symlink", "unlink"  # an earlier run is moved by these


def try_files(options):
    """Fail each call on a file of a command once, and every fourth one with all later ones; yield
    the problems."""
    from faults_commands import Commands

    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(folder, run_with)
        for name, call, is_once in itertools.product(commands.NAMES, FAULTS, (True, False)):
            if name == "again" and call not in MOVING:
                continue
            for number in FAULTS[call]:
                for first in itertools.count(1, options.every * (1 if is_once else 4)):
                    plan = (f"call={call} error={number} path={folder} first={first}"
                            + f" last={first}" * is_once)
                    outcome, problem = commands.tried(name, plan)
                    if problem:
                        yield f"{name}, {plan}: {problem}\n{outcome.error}"
                    if not outcome.failed:
                        break
                    tried += 1
    print(f"files: {tried} failed calls")


def try_memory(options):
    """Fail allocations anywhere, one alone and many in a row; yield the problems."""
    from faults_commands import Commands

    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(folder, run_with)
        for name in commands.NAMES:
            counted = commands.tried(name, "call=memory first=1000000000")[0].counted
            for sample, many in itertools.product(range(options.samples), (1, 100)):
                first = 1 + sample * counted // options.samples
                plan = f"call=memory error={errno.ENOMEM} first={first} last={first + many - 1}"
                outcome, problem = commands.tried(name, plan)
                tried += 1
                if problem:
                    yield f"{name}, {plan}: {problem}\n{outcome.error}"
    print(f"memory: {tried} commands with failed allocations; in {commands.of_interpreter} the "
          "interpreter itself raised another error than MemoryError")


PARTS = {"kernels": try_kernels, "api": try_api, "files": try_files, "memory": try_memory}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200, metavar="N",
                        help="try N allocations of each command (default 200)")
    parser.add_argument("--every", type=int, default=1, metavar="N",
                        help="try every Nth kernel case and call on files (default 1)")
    parser.add_argument("parts", nargs="*", metavar="PART", default=list(PARTS))
    options = parser.parse_args()
    if "faults.so" not in os.environ.get("LD_PRELOAD", ""):
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run([sys.executable, __file__, *sys.argv[1:]],
                                  env=build(folder)).returncode
    found = []
    for part in options.parts:
        for problem in PARTS[part](options):
            print(problem, flush=True)
            found.append(problem)
    print(f"faults: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
