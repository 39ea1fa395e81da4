"""Explains why the C library does not load, and names the remedy."""

import os
import struct
import sys
from importlib.machinery import EXTENSION_SUFFIXES

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOP = os.path.dirname(PACKAGE)
OTHERWISE = ", or set PYGPT_BACKEND=reference to use the Python loops"


def check_module(name):
    """Check the file of a compiled module of the package before it is loaded.

    Loading a truncated file may end the process with SIGBUS, which Python cannot catch.

    Args:
        name: the module's name, without the package.
    Raises:
        ImportError: the file is missing, built for another Python or truncated. The message names
            the remedy.
    """
    path = _path(name)
    if path is None:
        others = sorted(file for file in os.listdir(PACKAGE) if file.startswith(f"{name}.")
                        and file.endswith((".so", ".pyd", ".dylib")))
        if others:
            raise _refusal(f"{os.path.join(PACKAGE, others[0])} was built for another Python than "
                           f"this one, {sys.executable} ({sys.version.split()[0]})", _build(False))
        raise _refusal(f"the C library is not built for {sys.executable}", _build(False))
    if _is_truncated(path):
        raise _refusal(f"{path} is damaged: its end is missing", _build(True))


def explained(error):
    """Return an ImportError with the remedy, for an error raised while the C library loaded."""
    if "_cffi_backend" in str(error):
        install = f"`{sys.executable} -m pip install --force-reinstall cffi`"
        if getattr(error, "name", None) == "_cffi_backend" and "No module" in str(error):
            return _refusal(f"cffi is not installed in this Python, {sys.executable}",
                            f"run {install.replace('--force-reinstall ', '')}{_own_environment()}")
        return _refusal(f"cffi does not load ({error})", f"run {install}")
    path = getattr(error, "path", None) or _path("_kernels")
    if isinstance(error, AttributeError):
        return _refusal(f"{path} was built from other sources than these ({error})", _build(True))
    return _refusal(f"{path} does not load ({str(error).removeprefix(f'{path}: ')})", _build(True))


def _path(name):
    """Return the path of the file that `import pygpt.name` would load, or None."""
    paths = (os.path.join(PACKAGE, name + suffix) for suffix in EXTENSION_SUFFIXES)
    return next(filter(os.path.exists, paths), None)


def _is_truncated(path):
    """Return whether an ELF file is shorter than its header says; its section table is last."""
    try:
        with open(path, "rb") as file:
            head, size = file.read(64), os.fstat(file.fileno()).st_size
    except OSError:
        return False  # loading the file will raise an error with the reason
    if size < 64 or head[:4] != b"\x7fELF":
        return size < 64  # a library's header alone is longer
    order = "<" if head[5] == 1 else ">"
    fields = "40x Q 10x H H" if head[4] == 2 else "32x I 10x H H"  # of 64 and of 32 bits
    start, entry, count = struct.unpack_from(order + fields, head)
    return start + entry * count > size


def _refusal(fault, remedy):
    return ImportError(f"{fault}; {remedy}{OTHERWISE}")


def _build(is_there):
    """Return the advice to build the library. If a file is there, make takes it for up to date, so
    it must be cleaned first."""
    if not os.path.exists(os.path.join(TOP, "Makefile")):
        return f"install pygpt again with `{sys.executable} -m pip`"
    if is_there:
        return f"run `make clean build` in {TOP}{_own_environment()}"
    return f"run `make` in {TOP}{_own_environment(is_made=True)}"


def _own_environment(is_made=False):
    """Return the advice to use the environment that make creates, if it exists or is to be made."""
    python = os.path.join(TOP, ".venv", "bin", "python")
    is_there = is_made or os.path.exists(python)
    return f" and start pygpt with {python}" if is_there and sys.executable != python else ""
