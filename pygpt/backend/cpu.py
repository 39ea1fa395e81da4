"""Asks the system which processors, caches and memory this process may use.

It reads Linux's /sys and /proc, control groups included, and macOS's sysctl; the latter follows
Apple's documentation and was never run on a Mac. On other systems little is known. A function that
takes a `root` looks for the directories below it; root is "/", except in tests.
"""

import mmap
import os
import re
import sys

# Sizes of caches that nearly every CPU has, where the system does not tell.
L1, L2 = 32 << 10, 512 << 10
LARGEST = 1 << 30  # a system that names a larger cache is mistaken
# A core with this share of the fastest core's capacity counts as a performance core, so that one
# "prime" core does not make all others slow ones. Chosen by reading, not measured: efficiency cores
# have about half the capacity, cores beside a prime core nine tenths.
PERFORMANCE_SHARE = 0.75


def require_supported(byteorder: str = sys.byteorder, largest: int = sys.maxsize) -> None:
    """Refuse a processor for which nothing here was written; csrc/supported.h does so in C.

    Raises:
        ImportError: its numbers are big-endian, while those in files are little-endian; or this
            Python has 32 bits, while a model's arrays pass 4 GB.
    """
    if byteorder != "little":
        raise ImportError(f"pygpt needs a little-endian processor, such as x86-64 or AArch64; this "
                          f"one is {byteorder}-endian")
    if largest < 2 ** 63 - 1:
        raise ImportError(f"pygpt needs a 64-bit system and a 64-bit Python; {sys.executable} has "
                          "32 bits")


require_supported()  # before anything reads a file or loads the C library


def physical_cores(root: str = "/") -> int:
    """Count the physical cores that this process may use, within its CPU affinity and its
    container's quota."""
    allowed = _allowed_cpus()
    if allowed is None:
        return _sysctl("hw.physicalcpu") or max(1, (os.cpu_count() or 2) // 2)
    return max(1, min([_count_cores(allowed, root), *_quotas(root)]))


def performance_cores(root: str = "/") -> int:
    """Count the physical cores that this process may use, without the efficiency cores of a hybrid
    CPU.

    A kernel ends when its last thread does. A thread takes the next task when it has finished one,
    but a small kernel has few tasks, and then an efficiency core keeps the others waiting.
    """
    allowed = _allowed_cpus()
    if allowed is None:
        return _sysctl("hw.perflevel0.physicalcpu") or physical_cores(root)
    return max(1, min([_count_cores(_performance_cpus(allowed, root), root), *_quotas(root)]))


def logical_cpus() -> int:
    """Count the hardware threads that this process may use."""
    allowed = _allowed_cpus()
    return len(allowed) if allowed is not None else os.cpu_count() or 1


def _allowed_cpus():
    """Return the numbers of the hardware threads that this process may use; None if unknown."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:
        return None


def _performance_cpus(allowed, root):
    """Return the hardware threads among `allowed` whose cores are performance cores, or all of
    them if there are none or the CPU is not a hybrid one."""
    intel = _cpu_list(_read(os.path.join(root, "sys/devices/cpu_core/cpus")))
    if intel:
        return allowed & intel or allowed
    capacities = {n: _number(_read(f"{_cpu(n, root)}/cpu_capacity")) for n in allowed}
    least = PERFORMANCE_SHARE * max(capacities.values(), default=0)
    return {n for n in allowed if capacities[n] >= least}


def _count_cores(cpus, root):
    """Count the cores of these hardware threads."""
    # hardware threads of one core have the same list of siblings
    return len({_read(f"{_cpu(n, root)}/topology/thread_siblings_list").strip() or n
                for n in cpus})


def _cpu(n, root):
    return os.path.join(root, f"sys/devices/system/cpu/cpu{n}")


def _cpu_list(text):
    """Return the numbers of a list such as "0-3,8"; the empty set if it is not one."""
    numbers = set()
    for part in text.strip().split(","):
        if not re.fullmatch(r"\d{1,6}(-\d{1,6})?", part, re.ASCII):
            return set()
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _number(text):
    """Return a whole number above 0 as the system writes it, with a unit or without ("512K"); 0 for
    anything else."""
    match = re.fullmatch(r"(\d{1,15})([KMG]?)", text.strip(), re.ASCII)
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]] if match else 0


def _sysctl(name):
    """Return the whole number that macOS gives under a name; 0 if there is none."""
    if sys.platform != "darwin":
        return 0
    import ctypes
    value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
    try:
        failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value),
                                                ctypes.byref(size), None, ctypes.c_size_t(0))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else max(0, value.value)


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


# ---------------------------------------------------------------------------- caches and pages ---

def caches(root: str = "/") -> tuple:
    """Return the bytes of (L1 data cache, L2, L3) for a thread on a performance core.

    Where several cores share an L1 or L2, it is divided by their number. L3 is counted whole.

    Returns:
        The three sizes. Where the system does not tell, or names a size of 0 or of more than 1 GB,
        L1 and L2 are 32 KB and 512 KB, and L3 is 0.
    """
    l1, l2, l3 = found_caches(root)
    return l1 or L1, l2 or L2, l3


def found_caches(root: str = "/") -> tuple:
    """Return what caches() returns, but 0 for each size that is unknown."""
    sizes, sharing = dict.fromkeys((1, 2, 3), 0), dict.fromkeys((1, 2, 3), 1)
    allowed = _allowed_cpus()
    if allowed is None:
        sizes[1] = _sysctl("hw.perflevel0.l1dcachesize") or _sysctl("hw.l1dcachesize")
        sizes[2] = _sysctl("hw.perflevel0.l2cachesize") or _sysctl("hw.l2cachesize")
        sizes[3] = _sysctl("hw.l3cachesize")
        sharing[2] = max(1, _sysctl("hw.perflevel0.cpusperl2"))
    else:
        directory = f"{_cpu(min(_performance_cpus(allowed, root)), root)}/cache"
        for index in _entries(directory):
            level, kind, size, shared = (
                _read(f"{directory}/{index}/{name}").strip()
                for name in ("level", "type", "size", "shared_cpu_list"))
            if level in ("1", "2", "3") and kind != "Instruction":
                sizes[int(level)] = _number(size)
                sharing[int(level)] = max(1, _count_cores(_cpu_list(shared), root))
    sharing[3] = 1
    return tuple(sizes[level] // sharing[level] if sizes[level] <= LARGEST else 0
                 for level in sizes)


def numa_nodes(root: str = "/") -> set:
    """Return the numbers of the memory nodes that have a processor of this process. A processor
    reads the memory of its own node faster than that of the others.

    Returns the empty set if the system has no nodes or does not tell.
    """
    allowed, top = _allowed_cpus(), os.path.join(root, "sys/devices/system/node")
    with_memory = _cpu_list(_read(f"{top}/has_memory"))
    return {n for n in with_memory if allowed and allowed & _cpu_list(
        _read(f"{top}/node{n}/cpulist"))}


def _entries(directory):
    """List the names in a directory, sorted; none if it cannot be read."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def pages(root: str = "/") -> tuple:
    """Return (bytes of a page of memory, when the system gives huge pages).

    The second is "always", "madvise" (to a program that asks for them, as pygpt does), "never", or
    "" if unknown.
    """
    choice = re.search(r"\[(\w+)\]", _read(os.path.join(
        root, "sys/kernel/mm/transparent_hugepage/enabled")))
    return mmap.PAGESIZE, choice[1] if choice else ""


def binary_size(n):
    """Format the size of a cache or a page for a reader: "48 KB", "1.5 MB", of 1024 bytes each."""
    return f"{round(n / 2 ** 20, 2):g} MB" if n >= 2 ** 20 else f"{round(n / 2 ** 10, 2):g} KB"
