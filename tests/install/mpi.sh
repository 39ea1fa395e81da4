#!/bin/sh
# Installs Open MPI for the tests of several ranks, unless there is an mpirun. Says how where it
# cannot.
if command -v mpirun > /dev/null; then exit 0; fi
if command -v apt-get > /dev/null; then
    if test "$(id -u)" = 0; then sudo=; else sudo="sudo -n"; fi
    { $sudo apt-get update && $sudo apt-get install -y --no-install-recommends openmpi-bin; } \
        > /dev/null 2>&1 < /dev/null && command -v mpirun > /dev/null && exit 0
fi
echo "There is no mpirun, and apt-get could not install it, so the tests of several ranks are" >&2
echo "skipped. Install Open MPI or MPICH; on macOS: brew install open-mpi." >&2
exit 1
