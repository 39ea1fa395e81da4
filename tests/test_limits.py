"""Tests how many cores pygpt.backend.cpu finds in made-up /sys and /proc: four processors, two to a
core, and control groups of both versions. Needs nothing built.
"""

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
