"""Starts counting in a Python process of `make coverage`, before its first line.

The environment of the target imports this file by a .pth file. It asks the package coverage to
count Python, and has the C write its counts before os._exit, by which forked processes end.
"""

import os
import sys


def start(settings):
    """Count this process and those that it starts, if the file of settings exists."""
    if not os.path.exists(settings):
        return
    import coverage  # here and below, so that a process that does not count is as it would be

    os.environ["COVERAGE_PROCESS_START"] = settings
    coverage.process_startup()
    leave = os._exit

    def write_and_leave(status):
        for name in ("_kernels", "_spin", "_buffer"):
            if module := sys.modules.get(f"pygpt.{name}"):
                import ctypes

                ctypes.CDLL(module.__file__).write_counts()
        leave(status)

    os._exit = write_and_leave
