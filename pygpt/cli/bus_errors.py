"""Names the file when a mapped file becomes shorter while a command reads it."""

import contextlib


@contextlib.contextmanager
def bus_errors_explained():
    """Within the block, write one line with the file's path before a SIGBUS ends the process.

    Weights and long texts are mapped, not read at once. If another program cuts such a file, the
    next access to it raises SIGBUS, which no exception can be made of (csrc/bus_error.c says why).
    """
    from pygpt.backend.kernels import ffi, lib

    has_changed = ffi is not None and lib.pygpt_explain_bus_errors(1)
    try:
        yield
    finally:
        if has_changed:
            lib.pygpt_explain_bus_errors(0)
