"""Tests what other systems need, with stand-ins: syncing on macOS, processors that are refused.

Nothing here was run on such a system; docs/platforms.md says which were tried.
"""

import errno
import os
import types

import pytest

from pygpt import files
from pygpt.backend import cpu

FULL = 51  # F_FULLFSYNC's number in Apple's header


@pytest.fixture
def synced(monkeypatch):
    """Return the list of (call, descriptor) with which files are synced, on a stand-in for macOS
    whose F_FULLFSYNC fails with the number in `synced.error`, if that is not 0."""
    calls = type("Calls", (list,), {"error": 0})()

    def control(descriptor, command):
        calls.append((command, descriptor))
        if calls.error:
            raise OSError(calls.error, os.strerror(calls.error))

    monkeypatch.setattr(files, "fcntl", types.SimpleNamespace(F_FULLFSYNC=FULL, fcntl=control))
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append(("fsync", descriptor)))
    return calls


def test_on_macos_a_file_and_its_directory_are_flushed_out_of_the_disks_cache(tmp_path, synced):
    with files.replacing(tmp_path / "weights") as file:
        file.write(b"weights")
    assert [call for call, _ in synced] == [FULL, FULL]
    assert (tmp_path / "weights").read_bytes() == b"weights"


@pytest.mark.parametrize("error", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_file_system_without_a_full_sync_gets_an_fsync(synced, error):
    synced.error = error
    files.sync(7, "a")
    assert synced == [(FULL, 7), ("fsync", 7)]


def test_an_error_of_the_disk_is_not_hidden_by_an_fsync(synced):
    synced.error = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.sync(7, "a")
    assert synced == [(FULL, 7)]


def test_elsewhere_a_file_gets_an_fsync(synced, monkeypatch):
    for fcntl in (None, types.SimpleNamespace()):  # Windows, Linux
        monkeypatch.setattr(files, "fcntl", fcntl)
        files.sync(8, "a")
    assert synced == [("fsync", 8)] * 2


@pytest.mark.parametrize("machine, sentence", [
    (("big", 2 ** 63 - 1), "pygpt needs a little-endian processor, such as x86-64 or AArch64; this "
                           "one is big-endian"),
    (("little", 2 ** 31 - 1), "pygpt needs a 64-bit system and a 64-bit Python; .* has 32 bits"),
])
def test_an_import_refuses_a_processor_that_nothing_was_written_for(machine, sentence):
    with pytest.raises(ImportError, match=f"^{sentence}$"):
        cpu.require_supported(*machine)
    cpu.require_supported()
