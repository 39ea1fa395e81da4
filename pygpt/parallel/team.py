"""Joins the processes that a launcher started: messages of MPI, waiting, threads, and the end.

Only this module imports mpi4py. All ranks start the collective operations of a communicator in the
same order, so there is one communicator for each kind of message that another may overtake:

    control   the leader's commands, losses and signals
    parts     parts of gradients, on their way to the rank that sums them (reduction.py)
    sums      their sums, on their way to all ranks

MPI waits by calling its network again and again, which takes the whole core. Here a wait sleeps
after a moment, so that ranks which have nothing to do leave the cores to the others; and it lets
Python handle signals.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import socket
import sys
import time
from array import array

from pygpt import __version__
from pygpt.backend import kernels
from pygpt.backend.cpu import performance_cores
from pygpt.config import ConfigError

SPIN_SECONDS = 1e-3     # a wait gives up the core after this time; most waits of a step are shorter
SLEEP_SECONDS = 1e-4    # the length of its sleeps
GRACE_SECONDS = 0.4     # Open MPI's mpirun kills a process one second after it asks it to end
INTERRUPTED, FAILED = 130, 1  # exit statuses


class PeersLost(Exception):
    """Says that a signal came, and that the other ranks have not answered within the grace."""


class Team:
    """Holds this process's place among the ranks, and their communicators.

    Args:
        launch: the launcher.Launch of this process.

    Raises:
        ImportError: mpi4py or the library of MPI is missing.
        ConfigError: the launcher and MPI disagree about the number of ranks, or a rank has other
            kernels, which round otherwise, than rank 0.

    Attributes:
        rank, size: the number of this rank, from 0, and of all ranks.
        MPI: the module mpi4py.MPI.
        control, parts, sums: the communicators.
        noted: a list of the signals that came.
        grace: a function that returns the seconds that a wait goes on after a signal.
        launcher: the name of the launcher.
        is_busy: whether the ranks are amid a common operation, so that none may leave in order.
        cores: the cores of this rank: those that it may use, divided by the ranks that share them.
        ranks_here: the number of ranks on this machine.
    """

    def __init__(self, launch):
        self.MPI, self.launcher = _mpi(launch), launch.launcher
        world = self.MPI.COMM_WORLD
        if world.size != launch.size:
            raise ConfigError(
                f"{launch.launcher} started {launch.size} processes, and MPI finds {world.size} of "
                "them: it belongs to another launcher (with srun, try --mpi=pmix or --mpi=pmi2)")
        self.rank, self.size = world.rank, world.size
        self.noted, self.grace, self.is_busy = [], lambda: math.inf, True
        self.control, self.parts, self.sums = (world.Dup() for _ in range(3))
        self._share_cores()
        self._refuse_other_kernels()
        self.is_busy = False

    def free(self):
        """Give the communicators back, which MPI has a limited number of."""
        for communicator in self.control, self.parts, self.sums:
            communicator.Free()

    def _refuse_other_kernels(self):
        """Check that all ranks round alike: each updates the weights of its own."""
        found = self.gathered({"version": __version__, **kernels.what_rounds("bfloat16")})
        for rank, mine in enumerate(found):
            for name, value in mine.items():
                if value != found[0][name]:
                    raise ConfigError(f"rank {rank} has {name}={value!r}, and rank 0 "
                                      f"{found[0][name]!r}: they would round otherwise; use one "
                                      "build, and PYGPT_ISA to choose a set that all machines have")

    def _share_cores(self):
        """Divide the cores of this machine among the ranks that are allowed to use them."""
        here = self.control.Split_type(self.MPI.COMM_TYPE_SHARED)
        cpus = allowed_cpus()
        others = here.allgather(cpus)
        self.ranks_here = here.size
        here.Free()
        sharing = sum(1 for other in others if other is None or cpus is None or other & cpus)
        self.cores = max(1, performance_cores() // sharing)

    def threads(self):
        """Return the threads of this rank: OMP_NUM_THREADS, or one for each of its cores."""
        asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        if asked.isdecimal() and int(asked):
            return kernels.get_num_threads()
        return min(self.cores, kernels.MAX_THREADS)

    def place(self):
        """Describe where this rank runs, as a dict."""
        return {"rank": self.rank, "host": socket.gethostname(),
                "cpus": sorted(allowed_cpus() or ()), "threads": self.threads()}

    def rows(self, batch_size, rank=None):
        """Return (first, end) of the rows of a batch that a rank (None: this one) computes."""
        rank = self.rank if rank is None else rank
        return rank * batch_size // self.size, (rank + 1) * batch_size // self.size

    # ------------------------------------------------------------------------------ waiting ---

    def wait(self, request):
        """Wait until an operation of MPI has ended."""
        self.wait_until(request.Test)

    def wait_until(self, is_done):
        """Wait until is_done() returns True.

        Raises:
            PeersLost: `grace` seconds have passed since a signal came.
        """
        begun, noted_at = time.perf_counter(), None
        while not is_done():
            now = time.perf_counter()
            if now - begun > SPIN_SECONDS:
                time.sleep(SLEEP_SECONDS)
            else:
                os.sched_yield()
            if self.noted:
                noted_at = noted_at or now
                if now - noted_at > self.grace():
                    raise PeersLost

    # ----------------------------------------------------------------------------- messages ---

    def broadcast(self, value=None):
        """Return the leader's value, any that can be pickled, on every rank."""
        pickle.dumps(value)  # what cannot be sent fails here, not amid the operation
        self.wait(self.control.Ibarrier())
        return self.control.bcast(value)

    def gathered(self, value):
        """Return the list of all ranks' values, any that can be pickled, on every rank."""
        self.wait(self.control.Ibarrier())
        return self.control.allgather(value)

    def start_sharing(self, numbers):
        """Start to send some numbers to every rank; return (request, an array of all ranks'
        numbers, rank by rank)."""
        mine = array("d", numbers)
        everyone = array("d", bytes(8 * self.size * len(mine)))
        return self.control.Iallgather(mine, everyone), everyone

    def shared(self, *numbers):
        """Return the numbers of all ranks, rank by rank."""
        request, everyone = self.start_sharing(numbers)
        self.wait(request)
        return everyone

    def spread(self, view):
        """Give every rank the leader's bytes, by writing them into a buffer of the same length."""
        for first in range(0, len(view), MOST_BYTES):
            self.wait(self.control.Ibcast(view[first:first + MOST_BYTES]))

    # ------------------------------------------------------------------------------ the end ---

    @contextlib.contextmanager
    def busy(self):
        """Within the block, all ranks work together. If it fails, none of them can go on."""
        self.is_busy = True
        yield
        self.is_busy = False

    def abort(self, status):
        """End all ranks at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.MPI.COMM_WORLD.Abort(status)


MOST_BYTES = 64 << 20  # of one message, whose length in some versions of MPI must be below 2^31


def allowed_cpus():
    """Return the set of the hardware threads that this process may use, or None if unknown."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:
        return None


def bytes_at(memory, nbytes):
    """Return the bytes of a kernels.Memory, or of a model's values, as a writable memoryview."""
    pointer = memory.pointer("f")
    if kernels.ffi is None:
        return pointer.cast("B")[:nbytes]
    return memoryview(kernels.ffi.buffer(pointer, nbytes))


def _mpi(launch):
    """Import mpi4py, which starts MPI."""
    started = f"{launch.launcher} started {launch.size} processes, which need mpi4py"
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        if error.name != "mpi4py":
            raise
        raise ImportError(f"{started}: {sys.executable} -m pip install mpi4py") from None
    except (ImportError, RuntimeError) as error:  # it finds no library of MPI
        raise ImportError(f"{started}; it does not work here: {error}") from None
    return MPI
