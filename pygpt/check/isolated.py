"""Runs the trials in a process of their own, so that a kernel that crashes ends that process alone.

The process gets the trials to make as one pickled tuple on its standard input, which stays open: if
it is closed, the other process is gone, and this one ends. It writes pickled tuples to its standard
output: ("next", Failure) before anything that may crash, ("tallies", [Tally]) after each trial, and
("done", None).
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from math import inf

from pygpt.check import trials

# With this process's own path: the working directory is not searched, unless it is here.
WORKER = (sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; "
          "from pygpt.check.isolated import main; main()")


def run(names, sets, seed, seconds, command=WORKER):
    """Try kernels as trials.run does, each at least once unless it crashes.

    A kernel that ends the process gets a Failure that says how, and is not tried again. The others
    go on in a new process, from the same seed.

    Args:
        names, sets, seed, seconds: as those of trials.run.
        command: starts the process.
    Yields:
        The list of Tally, one for each kernel, after each trial.
    Raises:
        OSError: the process cannot be started, or ended before it tried anything.
    """
    tallies, crashed = [trials.Tally(name) for name in names], set()
    end = time.monotonic() + seconds
    while going := [replace(tally, seconds=0.0) for tally in tallies
                    if tally.kernel not in crashed]:
        current, status, is_done = None, None, False
        for kind, found in _records(command, (going, sets, seed, max(0.0, end - time.monotonic()))):
            if kind == "next":
                current = found
            elif kind == "tallies":
                newer = {tally.kernel: tally for tally in found}
                tallies = [newer.get(tally.kernel, tally) for tally in tallies]
                yield tallies
            elif kind == "done":
                is_done = True
            else:
                status = found
        if is_done:
            return
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        if current is None:
            raise OSError(f"the process that tries the kernels ended {how} before it tried any")
        crashed.add(current.kernel)
        seed = current.seed
        _note_crash(next(each for each in tallies if each.kernel == current.kernel),
                    current._replace(message=f"ended the process {how}"))
        yield tallies


def _note_crash(tally, failure):
    tally.shapes += 1
    if failure.isa:
        tally.note(failure.isa, inf)
    if failure.check == "gradient":
        tally.gradient = inf
    tally.add(failure)


def _records(command, work):
    """Start the process; yield what it writes, and at its end ("ended", its return code)."""
    # In a session of its own, since Ctrl-C at a terminal is for this process.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          start_new_session=True) as process:
        try:
            process.stdin.write(pickle.dumps(work))
            process.stdin.flush()
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
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a print in a kernel is no record

    def send(*record):
        output.write(pickle.dumps(record))
        output.flush()

    try:
        work = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_the_other_process, daemon=True).start()
        for tallies in trials.run(*work, lambda failure: send("next", failure)):
            send("tallies", tallies)
        send("done", None)
    except (EOFError, pickle.UnpicklingError, BrokenPipeError):  # the other process is gone
        os._exit(1)


def _end_with_the_other_process():
    os.read(sys.stdin.fileno(), 1)  # it never writes again, so that this waits for its end
    os._exit(1)
