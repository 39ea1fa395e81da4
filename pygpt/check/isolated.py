"""Runs the trials in a process of their own, so that a kernel that crashes ends that process alone.

The process gets the trials to make as one pickled tuple on its standard input. On its standard
output it writes ("next", Failure) before a kernel runs on an instruction set, and ("tallies",
[Tally]) after each trial.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from math import inf
from pathlib import Path

from pygpt.check import trials

WORKER = sys.executable, "-m", "pygpt.check.isolated"


def run(names, sets, seed, seconds, command=WORKER):
    """Try kernels as trials.run does. One that crashes has a Failure which names the signal, and is
    not tried again; the others go on in a new process.

    Args:
        names, sets, seed, seconds: as those of trials.run.
        command: starts the process.
    Yields:
        The list of Tally, one for each kernel, after each trial.
    Raises:
        RuntimeError: the process ended otherwise than by a signal; it has said why on stderr.
    """
    tallies, crashed = [trials.Tally(name) for name in names], {}
    end = time.monotonic() + seconds
    while True:
        going = [tally for tally in tallies if tally.kernel not in crashed]
        work = going, sets, seed, max(0.0, end - time.monotonic())
        current = None
        for kind, found in _records(command, work):
            if kind == "next":
                current = found
                continue
            if kind == "tallies":
                newer = {tally.kernel: tally for tally in found}
                tallies = [newer.get(tally.kernel, tally) for tally in tallies]
                yield tallies
                continue
            if found == 0:
                return
            if found > 0 or current is None:
                raise RuntimeError(f"the process that tries kernels ended with status {found}")
            (tally,) = [each for each in tallies if each.kernel == current.kernel]
            crashed[tally.kernel] = tally
            tally.shapes += 1
            tally.note(current.isa, inf)
            tally.add(current._replace(
                message=f"ended the process by {signal.Signals(-found).name}"))
            seed = current.seed
            yield tallies


def _records(command, work):
    """Start the process; yield what it writes, and at its end ("ended", its return code)."""
    paths = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=environment) as process:
        try:
            process.stdin.write(pickle.dumps(work))
            process.stdin.close()
            while True:
                try:
                    yield pickle.load(process.stdout)
                except (EOFError, pickle.UnpicklingError):  # perhaps in the middle of a record
                    break
            yield "ended", process.wait()
        finally:
            process.kill()


def main():
    """Make the trials that standard input describes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a print in a kernel is no record

    def send(*record):
        output.write(pickle.dumps(record))
        output.flush()

    work = pickle.load(sys.stdin.buffer)
    for tallies in trials.run(*work, lambda failure: send("next", failure)):
        send("tallies", tallies)


if __name__ == "__main__":
    main()
