"""Measures what a process holds: memory, descriptors, threads, mappings and objects.

On Linux, from /proc; a measure that the system lacks is left out.
"""

import contextlib
import ctypes
import gc
import os
import re
import sys


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2: ten numbers of the type size_t."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]


def heap():
    """Return the bytes that malloc has handed out and not got back, or None without glibc 2.33."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return None
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return info.uordblks + info.hblkhd


def resident():
    """Return {"rss", "anonymous" and "pss": bytes} of this process, as far as they are known.

    Anonymous memory is that of no file. Other processes that open or close the same files change
    the pss, but neither of the others.
    """
    found = {}
    with contextlib.suppress(OSError), open("/proc/self/smaps_rollup", encoding="ascii") as file:
        for name, kilobytes in re.findall(r"(?m)^(Rss|Anonymous|Pss): +([0-9]+) kB", file.read()):
            found[name.lower()] = int(kilobytes) << 10
    return found


def entries(path):
    """Return the number of names in a directory of /proc, or None."""
    try:
        return len(os.listdir(path))
    except OSError:
        return None


def mappings():
    """Return the number of this process's mappings, or None."""
    try:
        with open("/proc/self/maps", "rb") as file:
            return sum(1 for _ in file)
    except OSError:
        return None


def ours():
    """Count the living objects whose class a module of pygpt defines."""
    return sum(1 for one in gc.get_objects()
               if str(getattr(type(one), "__module__", "")).startswith("pygpt"))


def clear_caches():
    """Collect garbage, and empty CPython's cache of attributes.

    Each of its 4096 places keeps a name alive. Names that are made at run time, at ever new
    addresses, fill it over hundreds of cycles, which looks like a leak.
    """
    gc.collect()
    clear = (getattr(sys, "_clear_internal_caches", None)  # from Python 3.13 on
             or getattr(sys, "_clear_type_cache", None))
    if clear is not None:
        clear()


def measure():
    """Return {name of a measure: number} of this process. It clears what can be made again."""
    clear_caches()
    found = {"blocks": sys.getallocatedblocks(), "heap": heap(), **resident(),
             "descriptors": entries("/proc/self/fd"), "threads": entries("/proc/self/task"),
             "mappings": mappings(), "objects": ours()}
    return {name: number for name, number in found.items() if number is not None}
