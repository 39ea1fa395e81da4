"""Builds the C library; everything else about the package is in pyproject.toml."""

import runpy
import sys

from setuptools import Extension, setup

# As of the C library: only the name that Python looks for is visible to others.
FLAGS = ["-g0", "-fvisibility=hidden", "-Wall", "-Wextra"]
extensions = [Extension("pygpt._spin", ["csrc/python/spin.c"], extra_compile_args=FLAGS,
                        py_limited_api=True)]
# From 3.12 on, Python itself lets a class export its memory (csrc/python/buffer.c says more).
if sys.version_info < (3, 12):
    extensions.append(Extension("pygpt._buffer", ["csrc/python/buffer.c"],
                                extra_compile_args=FLAGS))

setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    cmdclass={"build_ext": runpy.run_path("csrc/build_ffi.py")["BuildExt"]},
    ext_modules=extensions,
)
