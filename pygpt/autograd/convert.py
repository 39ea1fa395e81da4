"""Converts Python's numbers and buffers to the bytes of arrays and back."""

import numbers
import operator
import struct
from math import prod

from pygpt.autograd.arrays import CODES
from pygpt.backend.arguments import shown


MOST_DIMENSIONS = 64  # of a tensor: as of Python's buffers


def is_number(value):
    """Whether value is a real number of any kind, NumPy's included, and not a Tensor."""
    return isinstance(value, numbers.Real)


def packed(data, dtype):
    """Pack nested lists, a buffer or a number as the bytes of a dtype; return (shape, bytes).

    Raises:
        ValueError: the lists are ragged, or a value is out of range; the message names it.
        TypeError: data holds something that is not a number.
    """
    data = _as_lists(data)
    shape = _shape_of(data)
    values = list(_flatten(data, shape, NUMBER_OF[dtype]))
    if len(values) != prod(shape):
        raise ValueError(f"{len(values)} values where the lengths of the lists say {prod(shape)}: "
                         "the data of a Tensor must not change while they are read")
    try:
        # the "=" of the format makes struct refuse a value that is too large
        return shape, struct.pack(f"={len(values)}{CODES[dtype]}", *values)
    except (struct.error, OverflowError):
        for value in values:
            try:
                struct.pack("=" + CODES[dtype], value)
            except (struct.error, OverflowError):
                raise ValueError(f"{shown(value)} is out of the range of {dtype}") from None
        raise


def _as_lists(data):
    """Return data as a number or as nested lists."""
    if is_number(data) or isinstance(data, (list, tuple)):
        return data
    if isinstance(data, (str, dict, set, frozenset)) or data is None:
        raise TypeError(f"a Tensor is made of numbers, not of {type(data).__name__}")
    try:
        view = memoryview(data)
    except (TypeError, ValueError):  # a ValueError: a view that was released
        if isinstance(data, type) or not hasattr(data, "__iter__") and not hasattr(
                data, "__getitem__") or isinstance(data, memoryview):
            raise TypeError("a Tensor is made of numbers in lists or in a buffer, not of "
                            f"{shown(data)}") from None
        return list(data)
    try:
        return view.tolist()
    except NotImplementedError:
        return nest(_unpacked(view), view.shape)


def _unpacked(view):
    """Unpack a buffer whose format memoryview itself does not read, such as float16."""
    try:
        if view.format[-1:] in "sp":
            raise struct.error
        return [value for value, in struct.iter_unpack(view.format, view.tobytes())]
    except (struct.error, ValueError):
        raise TypeError(f"a Tensor cannot be made of a buffer of format {view.format!r}") from None


def _shape_of(data):
    shape = []
    while isinstance(data, (list, tuple)):
        if len(shape) == MOST_DIMENSIONS:
            raise ValueError(f"lists that are nested more than {MOST_DIMENSIONS} deep, in the data "
                             "of a Tensor")
        shape.append(len(data))
        data = data[0] if data else None
    return tuple(shape)


def _flatten(data, shape, number):
    if not shape:
        if isinstance(data, (list, tuple)):
            raise ValueError(f"ragged lists: a list of {len(data)} where a number is expected")
        yield number(data)
        return
    if not isinstance(data, (list, tuple)) or len(data) != shape[0]:
        raise ValueError(f"ragged lists: {shown(data)} where a list of {shape[0]} is expected")
    for item in data:
        yield from _flatten(item, shape[1:], number)


def _float(value):
    """Return value as a float; use __index__ where there is no __float__; refuse texts, which
    float() would parse."""
    if type(value) is float:
        return value
    if isinstance(value, (str, bytes, bytearray)) or not hasattr(value, "__float__"):
        try:
            return value.__index__()
        except AttributeError:
            raise TypeError(f"{shown(value)} is not a real number") from None
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{shown(value)} is out of the range of float32") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown(value)} is not a number that a Tensor can hold: {error}"
                         ) from None


def _integer(value):
    try:
        return operator.index(value)
    except (TypeError, ValueError):  # a ValueError: a tensor of several values
        raise TypeError(f"{shown(value)} is not a whole number, as a tensor of int32 holds"
                        ) from None


NUMBER_OF = {"float32": _float, "int32": _integer}


def nest(flat, shape):
    """Return a flat list of values as nested lists of a shape."""
    if not shape:
        return flat[0]
    if len(shape) == 1:
        return flat
    step = prod(shape[1:])
    return [nest(flat[i * step:(i + 1) * step], shape[1:]) for i in range(shape[0])]
