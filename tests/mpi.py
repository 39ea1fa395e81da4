"""Starts pygpt on several ranks, for the tests of parallel/, if a launcher and mpi4py are here."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from commands import COMMAND, ENVIRONMENT

MPIRUN = shutil.which("mpirun")
# Open MPI refuses root, and more ranks than cores, unless these allow it; MPICH ignores them.
ALLOWING = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
MEETING = "from mpi4py import MPI; MPI.COMM_WORLD.Barrier(); print(MPI.COMM_WORLD.size)"


def lacking():
    """Return what this machine lacks to run ranks, or None."""
    if not MPIRUN or not importlib.util.find_spec("mpi4py"):
        return "needs mpirun and mpi4py, which `make test-mpi` installs"
    try:
        result = finished(2, [sys.executable, "-c", MEETING], timeout=60)
    except (AssertionError, OSError) as error:
        return f"mpirun does not work here: {error}"
    if result.stdout.split() != ["2", "2"]:
        return f"mpirun does not work here: {result.stderr}"
    return None


def start(ranks, words, **options):
    """Start a command on some ranks; return the Popen of the launcher, whose output is a pipe."""
    return subprocess.Popen([MPIRUN, "-n", str(ranks), *map(str, words)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | ENVIRONMENT | ALLOWING, **options)


def finished(ranks, words, timeout=100):
    """Run a command on some ranks to its end; return the CompletedProcess."""
    with start(ranks, words) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, errors = process.communicate()
            raise AssertionError(f"the ranks did not end:\n{output}\n{errors}") from None
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def pygpt(ranks, *arguments):
    """Run pygpt with these arguments on some ranks to its end."""
    return finished(ranks, [*COMMAND, *arguments])


def script(ranks, code, *arguments):
    """Run Python code with these arguments on some ranks to its end."""
    return finished(ranks, [sys.executable, "-c", code, *arguments])


def messages(result):
    """List the lines of pygpt's errors; the launcher prints more."""
    return [line for line in result.stderr.splitlines() if line.startswith("pygpt: ")]


REASON = lacking()
needs_mpi = pytest.mark.skipif(REASON is not None, reason=str(REASON))
