"""Asks the system how many processors and how much memory this process may use.

Reads Linux's /sys and /proc, control groups included. Other systems tell little. A function that
takes a `root` looks for those directories below it; root is "/", except in tests.
"""

import os


def physical_cores(root: str = "/") -> int:
    """Count the physical cores that this process may use, within its CPU affinity and its
    container's quota."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:
        return max(1, (os.cpu_count() or 2) // 2)
    cores = set()
    for cpu in allowed:
        siblings = f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            with open(os.path.join(root, siblings)) as file:
                cores.add(file.read().strip())
        except OSError:
            cores.add(cpu)
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
        try:  # version 2: one file holds "QUOTA PERIOD", or "max PERIOD" for no quota
            with open(f"{directory}/cpu.max") as file:
                quota, period = file.read().split()
        except (OSError, ValueError):
            try:  # version 1: each has a file, and the quota is -1 for none
                with open(f"{directory}/cpu.cfs_quota_us") as file:
                    quota = file.read()
                with open(f"{directory}/cpu.cfs_period_us") as file:
                    period = file.read()
            except OSError:
                continue
        try:
            if int(quota) > 0:
                yield int(quota) // int(period)
        except (ValueError, ZeroDivisionError):
            continue


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
    try:
        with open(os.path.join(root, "proc/self/cgroup")) as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                if not controllers:
                    paths[mount] = path
                elif controller in controllers.split(","):
                    paths[f"{mount}/{controller}"] = path
    except (OSError, ValueError):
        pass
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
    meminfo = {}
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                name, amount = line.split(":")
                meminfo[name] = int(amount.split()[0]) << 10
    except (OSError, ValueError):
        return None, None
    most = meminfo.get("MemTotal", 0) + meminfo.get("SwapTotal", 0)
    free = meminfo.get("MemAvailable", most) + meminfo.get("SwapFree", 0)
    for directory in control_groups("memory"):
        for limit_file, used_file in (("memory.max", "memory.current"),
                                      ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                with open(f"{directory}/{limit_file}") as file:
                    limit = int(file.read())
                with open(f"{directory}/{used_file}") as file:
                    used = int(file.read())
            except (OSError, ValueError):  # no such file, or "max"
                continue
            most, free = min(most, limit), min(free, max(0, limit - used))
    return most, free


def gigabytes(n):
    """Format a number of bytes for a reader: "12 MB", "1.9 GB"."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
