"""Builds the C library; everything else about the package is in pyproject.toml."""

import runpy
import sys

from setuptools import Extension, setup

# From 3.12 on, Python itself lets a class export its memory (csrc/python/buffer.c says more).
before_312 = [Extension("pygpt._buffer", ["csrc/python/buffer.c"], extra_compile_args=["-g0"])]

setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    cmdclass={"build_ext": runpy.run_path("csrc/build_ffi.py")["BuildExt"]},
    ext_modules=before_312 if sys.version_info < (3, 12) else [],
)
