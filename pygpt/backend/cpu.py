"""Asks the system how many processors and how much memory this process may use.

Reads Linux's /sys and /proc, control groups included; elsewhere there is little to ask. A function
that takes a `root` looks for those directories below it: "/", except in tests.
"""

import os


def physical_cores(root: str = "/") -> int:
    """Physical cores this process may use: its CPU affinity and its container's quota counted."""
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
    """Hardware threads this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _quotas(root):
    """How many whole processors' time each control group may use."""
    for directory in control_groups("cpu", root):
        try:  # version 2: "QUOTA PERIOD" in one file, "max PERIOD" where there is none
            with open(f"{directory}/cpu.max") as file:
                quota, period = file.read().split()
        except (OSError, ValueError):
            try:  # version 1: a file for each, and -1 where there is none
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
    """The directories of the control groups this process is in, each of which may limit it.

    Version 2 has one tree; version 1 has one for each controller, under its name. A process is in
    the group that /proc/self/cgroup names and in all groups above. Within a container that path may
    be the machine's, and what the container sees is its own group as the top of the tree: so the
    top is always one of them, whether the path is there or not.

    Args:
        controller: its name in version 1: "cpu", "memory".
    """
    paths = {}  # top of a tree -> the process's path in it
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
    """What this process may take: (bytes at most, bytes free now); None where it is not known.

    The machine's memory, and where it is less the limit of the control group.
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
    """A number of bytes as a person reads it: "12 MB", "1.9 GB"."""
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
