"""Builds the C library; everything else about the package is in pyproject.toml."""

import sys

from setuptools import Extension, setup

# From 3.12 on, Python itself lets a class export its memory (csrc/python/buffer.c says more).
before_312 = [Extension("pygpt._buffer", ["csrc/python/buffer.c"], extra_compile_args=["-g0"])]

setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    ext_modules=before_312 if sys.version_info < (3, 12) else [],
)
