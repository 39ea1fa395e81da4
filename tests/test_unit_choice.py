"""Tests which instruction set and which bfloat16 unit is used, and why one is refused. Needs the
built library."""

import errno
import re

import pytest
from commands import pygpt as run

from pygpt.backend import kernels as library
from pygpt.check.sets import WITH_UNITS, use_isa

pytestmark = pytest.mark.skipif(library.ffi is None, reason="the C library is not in use")


def test_the_unit_in_c_is_last_and_never_the_default(kernels):
    names = kernels.isa_names()
    assert names[-1] == "amx_in_c" and len(names) > 1
    with use_isa("amx_in_c"):
        kernels.select_isa()
        assert kernels.isa() == names[0]
    in_use = names[0] if names[0] in WITH_UNITS else None
    assert [text for text in kernels.info()["bfloat16"] if "(in use)" in text] == (
        [f"{in_use} (in use)"] if in_use else [])
    result = run("info", PYGPT_ISA="amx_in_c")
    assert re.search("^isa: +amx_in_c$", result.stdout, re.MULTILINE), result


def test_an_instruction_set_is_listed_or_refused_with_a_reason(kernels):
    refused = kernels.refused_isas()
    assert not refused.keys() & set(kernels.isa_names())
    assert refused.keys() | set(kernels.isa_names()) == kernels._built().keys()
    for name, why in refused.items():
        assert why
        with pytest.raises(ValueError, match=f"isa '{name}' "):
            kernels.select_isa(name)
    lib, none = kernels.lib, kernels.ffi.NULL
    assert lib.pygpt_isa_refused(-1) == lib.pygpt_isa_refused(1000) == none


@pytest.mark.parametrize("in_cpu, saved, error, reason", [
    (1, 0x602E7, 0, None),
    (0, 0x602E7, 0, "this CPU lacks it"),
    (1, 0x2E7, 0, "the operating system does not save its registers"),      # AVX-512 only
    (1, 0x202E7, 0, "the operating system does not save its registers"),    # shapes only
    (1, 0x602E7, errno.ENOSPC, "a signal stack of this process is too small for its registers"),
    (1, 0x602E7, errno.EINVAL, "the operating system does not permit it (arch_prctl)"),
    (1, 0x602E7, errno.EPERM, "the operating system does not permit it (arch_prctl)"),
])
def test_amx_is_refused_with_the_reason(kernels, in_cpu, saved, error, reason):
    said = kernels.lib.pygpt_amx_refusal(in_cpu, saved, error)
    assert (kernels.ffi.string(said).decode() if said != kernels.ffi.NULL else None) == reason


def test_a_unit_that_the_system_refuses_is_an_error_of_one_line(kernels, monkeypatch):
    class Refusing:
        def __getattr__(self, name):
            first = {"pygpt_isa_supported": lambda i: i > 0,
                     "pygpt_isa_refused": lambda i: kernels.ffi.NULL if i else text}
            return first.get(name) or getattr(lib, name)

    lib, text = kernels.lib, kernels.ffi.new("char[]", b"the system says no")
    name = next(iter(kernels._built()))
    monkeypatch.setattr(kernels, "lib", Refusing())
    assert kernels.refused_isas() == {name: "the system says no"}
    if name in WITH_UNITS:
        assert f"{name} (refused: the system says no)" in kernels.info()["bfloat16"]
    with pytest.raises(ValueError, match=f"^isa '{name}' cannot be used: the system says no$"):
        kernels.select_isa(name)
