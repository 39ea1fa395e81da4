"""Binds Tensor's operators to the ops. tensor.py is below the ops, so it cannot import them."""

from pygpt.autograd.convert import is_number
from pygpt.autograd.ops import glue
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import shown


def _add(self, other):
    if isinstance(other, Tensor):
        return glue.add(self, other)
    return glue.shift(self, other) if is_number(other) else NotImplemented


def _sub(self, other):
    return self + -other if isinstance(other, Tensor) or is_number(other) else NotImplemented


def _rsub(self, other):
    return -self + other if is_number(other) else NotImplemented


def _mul(self, other):
    if isinstance(other, Tensor):
        return glue.mul(self, other)
    return glue.scale(self, other) if is_number(other) else NotImplemented


def _truediv(self, other):
    if not is_number(other):
        return NotImplemented
    try:
        return self * (1.0 / float(other))
    except (OverflowError, ValueError):
        raise ValueError(f"division by {shown(other)}: it or its reciprocal is out of the range of "
                         "float32") from None


def _neg(self):
    return self * -1.0


def _matmul(self, other):
    return glue.matmul(self, other) if isinstance(other, Tensor) else NotImplemented


Tensor.__add__ = Tensor.__radd__ = _add
Tensor.__sub__, Tensor.__rsub__ = _sub, _rsub
Tensor.__mul__ = Tensor.__rmul__ = _mul
Tensor.__truediv__, Tensor.__neg__, Tensor.__matmul__ = _truediv, _neg, _matmul
