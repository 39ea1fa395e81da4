"""Builds the C library; everything else about the package is in pyproject.toml."""

import runpy
import sys
import sysconfig

from setuptools import Extension, setup

# One build serves CPython 3.10 and newer (abi3): each module uses the limited API. A free-threaded
# CPython up to 3.14 and PyPy have none, so what they build serves that very version.
LIMITED = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")

# _buffer calls no function of the C library, and the linker would leave the library out. auditwheel
# tells by it for which systems a wheel is.
LINK = ["-Wl,--no-as-needed", "-lc"] if sys.platform == "linux" else []
# As of the C library: only the name that Python looks for is visible to others.
FLAGS = ["-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]


def module(name, api):
    """Describe the extension of csrc/python/NAME.c, written for the limited API of version `api`.

    With older headers it is built with their full API, and is still named and used as abi3.
    """
    macros = [("Py_LIMITED_API", hex(api))] if LIMITED and sys.hexversion >= api else []
    return Extension(f"pygpt._{name}", [f"csrc/python/{name}.c"], define_macros=macros,
                     extra_compile_args=FLAGS, extra_link_args=LINK, py_limited_api=LIMITED)


setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    cmdclass={"build_ext": runpy.run_path("csrc/build_ffi.py")["BuildExt"]},
    # Python uses _buffer before 3.12 only; every wheel holds it, whichever Python builds it.
    ext_modules=[module("spin", 0x030A0000), module("buffer", 0x030B0000)],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if LIMITED else {},
)
