"""Tells whether a launcher of MPI started this process, and as which of how many.

It reads the environment alone, so a process that no launcher started pays nothing.
"""

from __future__ import annotations

import os
from typing import NamedTuple

# A launcher, and the variables that it gives to each process: its rank, and the number of ranks.
LAUNCHERS = (
    ("mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # Open MPI
    ("mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),    # MVAPICH
    ("mpiexec", "PMI_RANK", "PMI_SIZE"),                         # MPICH, Intel MPI
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


class Launch(NamedTuple):
    """Says who started this process: the name of the launcher, the rank, and their number."""

    launcher: str
    rank: int
    size: int


def found() -> Launch | None:
    """Return the Launch of this process if it is one of several, else None.

    The first launcher in the list counts, because srun may have started mpirun.
    """
    for launcher, rank, size in LAUNCHERS:
        numbers = [os.environ.get(name, "").strip() for name in (rank, size)]
        if all(number.isdecimal() for number in numbers):
            launch = Launch(launcher, *map(int, numbers))
            return launch if launch.size > 1 else None
    return None
