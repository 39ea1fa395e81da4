"""Asks the system how many processors and how much memory this process may use.

It reads Linux's /sys and /proc, control groups included. On other systems little is known. A
function that takes a `root` looks for those directories below it; root is "/", except in tests.
"""

import os
import re


def physical_cores(root: str = "/") -> int:
    """Count the physical cores that this process may use, within its CPU affinity and its
    container's quota."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return max(1, (os.cpu_count() or 2) // 2)
    # hardware threads of one core have the same list of siblings
    cpus = os.path.join(root, "sys/devices/system/cpu")
    cores = {_read(f"{cpus}/cpu{n}/topology/thread_siblings_list").strip() or n for n in allowed}
    return max(1, min([len(cores), *_quotas(root)]))


def logical_cpus() -> int:
    """Count the hardware threads that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _quotas(root):
    """Yield the quota of each control group that has one, in whole processors."""
    for directory in control_groups("cpu", root):
        # Version 2 has one file, "QUOTA PERIOD" or "max PERIOD". Version 1 has a file for each of
        # the two, and a quota of -1 means none.
        limit = _read(f"{directory}/cpu.max").split()
        if len(limit) != 2:
            limit = [_read(f"{directory}/cpu.cfs_{name}_us") for name in ("quota", "period")]
        try:
            quota, period = map(int, limit)
        except ValueError:
            continue
        if quota > 0 and period:
            yield quota // period


def _read(path):
    """Return the text of a file of the system, or "" if it cannot be read."""
    try:
        with open(path) as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def control_groups(controller: str, root: str = "/"):
    """Yield the directories of the control groups of this process, each of which may limit it.

    Version 2 has one tree; version 1 has a tree for each controller, under the controller's name. A
    process is in the group that /proc/self/cgroup names and in all groups above it. Within a
    container that path may be the machine's, while the container sees its own group as the top of
    the tree. So the top is always yielded, whether the path exists or not.

    Args:
        controller: its name in version 1, "cpu" or "memory".
    """
    paths = {}  # {top of a tree: the process's path in it}
    mount = os.path.join(root, "sys/fs/cgroup")
    groups = _read(os.path.join(root, "proc/self/cgroup"))  # lines of "number:controllers:path"
    for controllers, path in re.findall(r"^\d+:([^:\n]*):(.*)$", groups, re.MULTILINE):
        if not controllers:
            paths[mount] = path
        elif controller in controllers.split(","):
            paths[f"{mount}/{controller}"] = path
    for top in (mount, f"{mount}/{controller}"):
        yield top
        directory = os.path.normpath(top + paths.get(top, "/"))
        while directory.startswith(top + "/"):
            yield directory
            directory = os.path.dirname(directory)


def memory_limits():
    """Return (most bytes that this process may use, bytes free now); each is None if unknown.

    The machine's memory counts, or the limit of the control group where that is less.
    """
    amounts = re.findall(r"^(\w+):\s+(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    if not amounts:
        return None, None
    meminfo = {name: int(kilobytes) << 10 for name, kilobytes in amounts}
    most = meminfo.get("MemTotal", 0) + meminfo.get("SwapTotal", 0)
    free = meminfo.get("MemAvailable", most) + meminfo.get("SwapFree", 0)
    for directory in control_groups("memory"):
        for limit_file, used_file in (("memory.max", "memory.current"),
                                      ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                limit = int(_read(f"{directory}/{limit_file}"))
                used = int(_read(f"{directory}/{used_file}"))
            except ValueError:  # no such file, or "max"
                continue
            most, free = min(most, limit), min(free, max(0, limit - used))
    return most, free


def gigabytes(n):
    """Format a number of bytes for a reader: "12 MB", "1.9 GB"."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
