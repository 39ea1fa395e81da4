"""Tests which cores, caches, pages and nodes pygpt.backend.cpu finds in made-up /sys and /proc:
four processors, two to a core, hybrid CPUs, and control groups of both versions. Needs nothing
built.
"""

import mmap
import os

import pytest

from pygpt.backend import cpu


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that writes four processors and {path: text} under a root; its root."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)

    def write(files=()):
        siblings = {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text
                    for cpu, text in enumerate(("0,2\n", "1,3\n", "0,2\n", "1,3\n"))}
        for path, text in {**siblings, **dict(files)}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return str(tmp_path)
    return write


def test_two_hardware_threads_of_a_core_are_one_core(system, monkeypatch):
    assert cpu.physical_cores(system()) == 2 and cpu.logical_cpus() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2})
    assert cpu.physical_cores(system()) == 1


def test_without_the_siblings_each_hardware_thread_is_a_core(system, tmp_path):
    assert cpu.physical_cores(str(tmp_path / "nothing")) == 4


GROUP = "sys/fs/cgroup"
NESTED = {"proc/self/cgroup": "0::/pod/box\n", f"{GROUP}/pod/box/cpu.max": "max 100000\n"}
OLD = {"proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/pod/box\n0::/pod/box\n"}


@pytest.mark.parametrize("files, cores", [
    ({f"{GROUP}/cpu.max": "100000 100000\n"}, 1),
    ({f"{GROUP}/cpu.max": "199999 100000\n"}, 1),       # whole ones only,
    ({f"{GROUP}/cpu.max": "50000 100000\n"}, 1),        # but one at least
    ({f"{GROUP}/cpu.max": "900000 100000\n"}, 2),       # a quota adds no cores
    ({f"{GROUP}/cpu.max": "max 100000\n"}, 2),
    ({f"{GROUP}/cpu.max": "unreadable\n"}, 2),
    (NESTED, 2),
    ({**NESTED, f"{GROUP}/pod/box/cpu.max": "100000 100000\n"}, 1),
    ({**NESTED, f"{GROUP}/pod/cpu.max": "100000 100000\n"}, 1),
    ({**NESTED, f"{GROUP}/other/cpu.max": "100000 100000\n"}, 2),
    ({f"{GROUP}/cpu/cpu.cfs_quota_us": "100000\n",
      f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ({f"{GROUP}/cpu/cpu.cfs_quota_us": "-1\n", f"{GROUP}/cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ({**OLD, f"{GROUP}/cpu/pod/box/cpu.cfs_quota_us": "100000\n",
      f"{GROUP}/cpu/pod/box/cpu.cfs_period_us": "100000\n"}, 1),
    ({**OLD, f"{GROUP}/cpu/m/cpu.cfs_quota_us": "100000\n",  # the memory controller's group
      f"{GROUP}/cpu/m/cpu.cfs_period_us": "100000\n"}, 2),
    ({**NESTED, "proc/self/cgroup": "0::/../../elsewhere\n"}, 2),  # seen from inside a container
])
def test_the_quota_of_any_control_group_counts(system, files, cores):
    assert cpu.physical_cores(system(files)) == cores


def test_the_groups_are_the_top_of_a_tree_and_those_down_to_the_process(system):
    root = system({"proc/self/cgroup": "3:memory:/a:b\n0::/pod/box\n"})
    top = f"{root}/sys/fs/cgroup"
    assert list(cpu.control_groups("memory", root)) == [
        top, f"{top}/pod/box", f"{top}/pod", f"{top}/memory", f"{top}/memory/a:b"]


# ---------------------------------------------------------------------------- performance cores ---

INTEL = "sys/devices/cpu_core/cpus"


def capacities(*numbers):
    return {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": f"{number}\n"
            for cpu, number in enumerate(numbers)}


@pytest.mark.parametrize("files, cores", [
    ({}, 2),
    (capacities(1024, 1024, 1024, 1024), 2),
    (capacities(0, 0, 0, 0), 2),
    ({INTEL: "0-3\n"}, 2),
    ({INTEL: "0,2\n"}, 1),
    ({INTEL: "1-3\n"}, 2),               # a hardware thread of the other core is one too
    ({INTEL: "8-15\n"}, 2),              # this process may use none of them
    ({INTEL: "what?\n"}, 2),
    ({INTEL: "\n"}, 2),
    (capacities(1024, 446, 1024, 446), 1),
    (capacities(1024, 900, 1024, 900), 2),  # a prime core makes no efficiency cores of the others
    ({**capacities(1024, 446, 1024, 446), INTEL: "0-3\n"}, 2),
    ({f"{GROUP}/cpu.max": "100000 100000\n", INTEL: "0-3\n"}, 1),
])
def test_the_efficiency_cores_of_a_hybrid_cpu_do_not_count(system, files, cores):
    root = system(files)
    assert cpu.performance_cores(root) == cores
    if f"{GROUP}/cpu.max" not in files:
        assert cpu.physical_cores(root) == 2


@pytest.fixture
def mac(monkeypatch):
    """Return a function that makes this a system with sysctl's numbers and without affinity."""
    def mac(**numbers):
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 10)
        monkeypatch.setattr(cpu, "_sysctl", lambda name: numbers.get(name.replace(".", "_"), 0))
    return mac


def test_the_cores_and_caches_of_a_mac(mac):
    mac(hw_physicalcpu=10, hw_perflevel0_physicalcpu=8, hw_perflevel0_l1dcachesize=128 << 10,
        hw_perflevel0_l2cachesize=12 << 20, hw_perflevel0_cpusperl2=4, hw_l2cachesize=4 << 20)
    assert (cpu.performance_cores(), cpu.physical_cores(), cpu.logical_cpus()) == (8, 10, 10)
    assert cpu.caches() == (128 << 10, 3 << 20, 0)


def test_the_cores_and_caches_of_a_mac_with_equal_cores(mac):
    mac(hw_physicalcpu=6, hw_l1dcachesize=32 << 10, hw_l2cachesize=256 << 10,
        hw_l3cachesize=9 << 20)
    assert (cpu.performance_cores(), cpu.physical_cores()) == (6, 6)
    assert cpu.caches() == (32 << 10, 256 << 10, 9 << 20)


def test_a_system_that_tells_nothing(mac):
    mac()
    assert (cpu.performance_cores(), cpu.physical_cores()) == (5, 5)
    assert cpu.caches() == (32 << 10, 512 << 10, 0) and cpu.found_caches() == (0, 0, 0)


def test_sysctl_is_asked_on_a_mac_only():
    assert cpu._sysctl("hw.no_such_name") == 0


# ---------------------------------------------------------------------------- caches and pages ---

def cache(of, *indices):
    """Return the files of the caches of a processor: (level, type, size, shared with) each."""
    return {f"sys/devices/system/cpu/cpu{of}/cache/index{i}/{name}": f"{text}\n"
            for i, index in enumerate(indices)
            for name, text in zip(("level", "type", "size", "shared_cpu_list"), index)}


def zen(of, l1="32K", l2="512K", l3="32768K", l2_shared="0,2", l1_shared="0,2"):
    return cache(of, (1, "Data", l1, l1_shared), (1, "Instruction", "64K", l1_shared),
                 (2, "Unified", l2, l2_shared), (3, "Unified", l3, "0-3"))


KB, MB = 1 << 10, 1 << 20


@pytest.mark.parametrize("files, sizes", [
    (zen(0), (32 * KB, 512 * KB, 32 * MB)),
    (zen(0, "48K", "1M", "1G"), (48 * KB, MB, 1024 * MB)),
    (zen(0, l2_shared="0-3"), (32 * KB, 256 * KB, 32 * MB)),       # two cores share it,
    (zen(0, l1_shared="0-3"), (16 * KB, 512 * KB, 32 * MB)),
    (zen(0, l2_shared="all"), (32 * KB, 512 * KB, 32 * MB)),       # nobody knows who does
    (cache(0, (2, "Unified", "512K", "0,2"), (1, "Unified", "16K", "0")), (16 * KB, 512 * KB, 0)),
    (cache(0, (4, "Unified", "128M", "0-3"), ("?", "Data", "1K", "0")), (32 * KB, 512 * KB, 0)),
    ({"sys/devices/system/cpu/cpu0/cache/index0/level": "1\n"}, (32 * KB, 512 * KB, 0)),
    ({}, (32 * KB, 512 * KB, 0)),
])
def test_the_caches_are_those_of_a_core(system, files, sizes):
    assert cpu.caches(system(files)) == sizes


@pytest.mark.parametrize("size", ["0", "0K", "-32K", "lots", "", "32KB", "1.5M", "2G", "1025M",
                                  "9" * 15, "9" * 5000])
def test_a_size_that_makes_no_sense_is_taken_for_unknown(system, size):
    root = system(zen(0, size, size, size, l2_shared="0-3"))
    assert cpu.found_caches(root) == (0, 0, 0)
    assert cpu.caches(root) == (32 * KB, 512 * KB, 0)


def test_the_caches_are_those_of_a_performance_core(system):
    slow, fast = zen(0, "32K", "256K"), zen(1, "48K", "2M", l2_shared="1,3", l1_shared="1,3")
    assert cpu.caches(system({**slow, **fast}))[:2] == (32 * KB, 256 * KB)
    assert cpu.caches(system({INTEL: "1,3\n"}))[:2] == (48 * KB, 2 * MB)


def test_the_caches_are_those_of_a_core_that_this_process_may_use(system, monkeypatch):
    root = system({**zen(0), **zen(3, "48K", "2M", l2_shared="1,3", l1_shared="1,3")})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert cpu.caches(root)[:2] == (48 * KB, 2 * MB)


NODE = "sys/devices/system/node"


@pytest.mark.parametrize("files, nodes", [
    ({}, set()),                                                    # a system without nodes
    ({f"{NODE}/has_memory": "0\n", f"{NODE}/node0/cpulist": "0-3\n"}, {0}),
    ({f"{NODE}/has_memory": "0-1\n", f"{NODE}/node0/cpulist": "0,2\n",
      f"{NODE}/node1/cpulist": "1,3\n"}, {0, 1}),
    ({f"{NODE}/has_memory": "0-2\n", f"{NODE}/node0/cpulist": "0-3\n",
      f"{NODE}/node1/cpulist": "4-7\n", f"{NODE}/node2/cpulist": "\n"}, {0}),  # others', nobody's
    ({f"{NODE}/has_memory": "1\n", f"{NODE}/node0/cpulist": "0-3\n"}, set()),
    ({f"{NODE}/has_memory": "some\n"}, set()),
])
def test_a_node_counts_if_it_has_memory_and_a_processor_of_this_process(system, files, nodes):
    assert cpu.numa_nodes(system(files)) == nodes


@pytest.mark.parametrize("text, huge", [
    ("always [madvise] never\n", "madvise"), ("[always] madvise never\n", "always"),
    ("always madvise [never]\n", "never"), ("nothing\n", ""), (None, "")])
def test_pages(system, text, huge):
    path = "sys/kernel/mm/transparent_hugepage/enabled"
    assert cpu.pages(system({path: text} if text else {})) == (mmap.PAGESIZE, huge)


@pytest.mark.parametrize("size, text", [
    (48 * KB, "48 KB"), (1000 * KB, "1000 KB"), (MB, "1 MB"), (1280 * KB, "1.25 MB"),
    (12 * MB // 5, "2.4 MB"), (1000, "0.98 KB")])
def test_sizes_are_written_for_a_reader(size, text):
    assert cpu.binary_size(size) == text
