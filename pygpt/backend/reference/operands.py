"""Reads and writes the operands of matrix products, as they are or rounded to bfloat16.

The section "operand types" of csrc/pygpt.h says which tensors these are.
"""

from pygpt.backend.reference.convert import from_bfloat16, to_bfloat16
from pygpt.backend.reference.loops import PYGPT_BFLOAT16, PYGPT_OUT_BFLOAT16, store_all


def read_operand(x, n, dtype, form=0):
    """Return x (n) as a product reads it: rounded to dtype. If dtype has the flag `form`, x holds
    the bits of bfloat16 numbers."""
    if not dtype & (PYGPT_BFLOAT16 | form):
        return x
    bits, rounded = x, [0.0] * n
    if not dtype & form:
        bits = [0] * n
        to_bfloat16(bits, x, n)
    from_bfloat16(rounded, bits, n)
    return rounded


def store_operand(out, values, dtype):
    """Write values to out: as bfloat16 if dtype has the flag PYGPT_OUT_BFLOAT16."""
    if dtype & PYGPT_OUT_BFLOAT16:
        to_bfloat16(out, values, len(values))
    else:
        store_all(out, values, accumulate=False)
