"""Tests that large blocks of memory are spread over NUMA nodes, by asking the system about a
block's pages. This machine may have one node; Linux then keeps the policy and drops the others.
"""

import ctypes
import os
import subprocess
import sys

import pytest

from pygpt.backend import kernels

pytestmark = pytest.mark.skipif(
    kernels.BACKEND != "c" or os.uname().sysname != "Linux" or os.uname().machine != "x86_64",
    reason="asks Linux on x86-64, by number, about the memory of the C library")

GET_MEMPOLICY, SET_MEMPOLICY = 239, 238  # system calls
INTERLEAVE, OF_ADDRESS = 3, 2
MB = 1 << 20


def policy_of(nbytes):
    """Return the number of the policy of a new block of memory."""
    block = kernels.lib.pygpt_alloc(nbytes)
    mode = ctypes.c_int(-1)
    try:
        # from the middle on: the first pages of a small block may be older than it
        place = int(kernels.ffi.cast("uintptr_t", block)) + nbytes // 2
        if ctypes.CDLL(None).syscall(GET_MEMPOLICY, ctypes.byref(mode), None, ctypes.c_ulong(0),
                                     ctypes.c_void_p(place), ctypes.c_ulong(OF_ADDRESS)):
            pytest.skip("this system does not tell its policy")
        return mode.value
    finally:
        kernels.lib.pygpt_free(block)


@pytest.fixture
def nodes():
    """Return pygpt_set_nodes, on a system that lets this process choose; restore the nodes."""
    mode = ctypes.c_int(-1)
    if ctypes.CDLL(None).syscall(GET_MEMPOLICY, ctypes.byref(mode), None, ctypes.c_ulong(0), None,
                                 ctypes.c_ulong(0)) or mode.value:
        pytest.skip("this system has no policies, or the tests run under one")
    yield kernels.lib.pygpt_set_nodes
    kernels.lib.pygpt_set_nodes(sum(1 << n for n in kernels.cpu.numa_nodes() if n < 64))


def test_large_blocks_are_spread_over_two_nodes(nodes):
    assert nodes(0b11) == 1
    assert policy_of(64 * MB) == INTERLEAVE


@pytest.mark.parametrize("mask", [0, 0b1, 0b10])
def test_with_fewer_nodes_blocks_lie_where_the_system_puts_them(nodes, mask):
    nodes(0b11)
    assert nodes(mask) == 0
    assert policy_of(64 * MB) == 0


def test_memory_is_usable_whatever_nodes_are_named(nodes):
    nodes((1 << 64) - 1)
    block = kernels.lib.pygpt_alloc(8 * MB)
    kernels.ffi.memmove(block, b"x" * (8 * MB), 8 * MB)
    assert kernels.ffi.buffer(block, 8 * MB)[:] == b"x" * (8 * MB)
    kernels.lib.pygpt_free(block)


@pytest.mark.parametrize("policy, spread", [(0, "1"), (INTERLEAVE, "0")])
def test_a_policy_that_the_user_has_set_stays(nodes, policy, spread):
    script = ("import ctypes\n"
              f"mask = ctypes.c_ulong({1 if policy else 0})\n"
              f"if ctypes.CDLL(None).syscall({SET_MEMPOLICY}, {policy}, ctypes.byref(mask), "
              "ctypes.c_ulong(65)):\n"
              "    raise SystemExit(3)\n"
              "from pygpt.backend import kernels\n"
              "print(kernels.lib.pygpt_set_nodes(3))\n")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if result.returncode == 3:
        pytest.skip("this system lets nobody set a policy")
    assert result.stdout == spread + "\n", result.stderr
