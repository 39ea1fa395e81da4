"""Reads csrc/pygpt.h: the kernels, their arguments, and the flags that say whether to add.

The arguments of a kernel are a dict in the order of the header: a list for a pointer, None for
NULL, a number otherwise. The header is part of a source tree only. Who checks kernels has changed
one and built it there, so a wheel does without.
"""

import itertools
import re
from collections import namedtuple
from importlib.util import find_spec
from pathlib import Path

import pygpt

HEADER = Path(pygpt.__file__).parent.parent / "csrc" / "pygpt.h"
TYPECODES = {"float": "f", "double": "d", "int32_t": "i", "uint64_t": "Q", "uint16_t": "H",
             "int8_t": "b"}

Param = namedtuple("Param", "ctype name pointer output")


def declared_kernels():
    """Return {name: [Param]} of every kernel of pygpt.h on arrays of numbers.

    Names with pygpt_ belong to the runtime, names with bpe_ to the tokenizer (test_bpe.py), names
    with sample_ to the choice of tokens (test_sampling.py).

    Raises:
        ImportError: the header is not there: this is not a source tree.
    """
    if not HEADER.exists():
        raise ImportError(f"{HEADER}, which declares the kernels, does not exist: run it from a "
                          "source tree of pygpt, built with `make build`")
    text = HEADER.read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/|^#.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    kernels = {}
    for name, params in re.findall(r"\bint (\w+)\(([^)]*)\);", text):
        if not name.startswith(("pygpt_", "bpe_", "sample_")):
            kernels[name] = [_param(p) for p in params.split(",")]
    return kernels


def _param(declaration):
    const, ctype, star, name = re.fullmatch(r"\s*(const )?(\w+) (\*?)(\w+)", declaration).groups()
    ctype = "float" if ctype == "void" else ctype  # bfloat16 only in test_half_tensors.py
    return Param(ctype, name, bool(star), bool(star) and not const)


KERNELS = declared_kernels()


def accumulate_flag(kernel, output):
    """Return the flag that says whether to add to this output, or None if there is none."""
    specific = {"dinp": ("accumulate_input",), "dwte": ("accumulate_wte",),
                "dwpe": ("accumulate_wpe",), "dweight": ("accumulate_params", "accumulate_weight"),
                "dbias": ("accumulate_params",)}
    names = {p.name for p in KERNELS[kernel]}
    never = output in ("loss", "losses", "act")
    candidates = () if never else (*specific.get(output, ()), "accumulate")
    return next((flag for flag in candidates if flag in names), None)


def flags_of(kernel):
    return [p.name for p in KERNELS[kernel] if p.name.startswith("accumulate")]


def flag_settings(kernel):
    flags = flags_of(kernel)
    return [dict(zip(flags, bits)) for bits in itertools.product((0, 1), repeat=len(flags))]


def changed_sources():
    """List the names of the C sources that are newer than the library, which lacks the change."""
    built = Path(find_spec("pygpt._kernels").origin).stat().st_mtime
    folder = HEADER.parent
    paths = [path for pattern in ("*.c", "*.h", "*.inl") for path in folder.glob(pattern)]
    return sorted(f"csrc/{path.name}" for path in paths if path.stat().st_mtime > built)
