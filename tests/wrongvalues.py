"""Makes values that nobody should pass to a function, and says what each would have to mean.

A value is wrong for one argument and right for another: 2 is a count, and True is none. So each
argument has a kind below: a function that returns the plain value that a given one stands for, or
raises Wrong if it stands for none. A call may refuse any of these values. If it takes one, the
result must be that of the plain value.
"""

import enum
import math
import operator
import pathlib
from array import array
from collections import UserList
from decimal import Decimal
from fractions import Fraction

import pygpt
from pygpt.autograd.tensor import Tensor


class Wrong(Exception):
    """Says that a value stands for nothing that the argument may be."""


class TooLong(Exception):
    """Says that a value is right, and that computing it would take too long for a test."""


class OwnError(Exception):
    """The error of an object that somebody else wrote; it may reach the caller as it is."""


# ------------------------------------------------------------------- objects that misbehave ---

def _raises(*names):
    def method(*args):
        raise OwnError("my own error")
    return dict.fromkeys(names, method)


def _lying(name, base, *methods):
    return type(name, (base,), _raises(*methods))


class Two(enum.IntEnum):
    """A whole number of another type than int."""

    TWO = 2


class OnlyIndex:
    """A whole number that is no int, as NumPy's are."""

    def __index__(self):
        return 1


class OnlyFloat:
    """A number that only float() takes."""

    def __float__(self):
        return 0.5


class FloatIsText:
    """A number whose conversion is none."""

    def __float__(self):
        return "0.5"

    def __index__(self):
        return "1"


class Shrinking(list):
    """A list that is changed while it is read: each look at it takes its last item away."""

    def __iter__(self):
        while self:
            yield self.pop()

    def __getitem__(self, place):
        found = super().__getitem__(place)
        self.clear()
        return found


class Popping:
    """An id that empties the list that holds it when it is converted."""

    def __init__(self, holder):
        self.holder = holder

    def __index__(self):
        self.holder.clear()
        return 1


def _popping():
    holder = [1, 2, 3]
    holder.insert(1, Popping(holder))
    return holder


def _circle():
    circle = [1, 2]
    circle.append(circle)
    return circle


def _deep(depth=5_000):
    value = [1]
    for _ in range(depth):
        value = [value]
    return value


def _released():
    view = memoryview(bytearray(16))
    view.release()
    return view


def _named(number):
    if isinstance(number, int) and number.bit_length() > 100:
        return f"{'-' * (number < 0)}10**{round(abs(number).bit_length() * 0.30103) - 1}"
    return repr(number)[:24]


NUMBERS = {_named(value): value for value in (
    0, -1, 1, 2, 3, 5, 31, 255, 256, 2 ** 31 - 1, 2 ** 31, -2 ** 31 - 1, 2 ** 63, 2 ** 64, -2 ** 63,
    10 ** 400, -10 ** 400, 10 ** 5000, 0.0, -0.0, 0.5, 1.0, 1.5, 2.0, -0.5, 1e-50, 1e39, -1e39,
    1e308,
    math.nan, math.inf, -math.inf, 1j, Fraction(1, 3), Fraction(10 ** 400, 3), Decimal("0.5"),
    Decimal("NaN"), Decimal("sNaN"), True, False, Two.TWO)}

OTHERS = {
    "None": lambda: None, "object": object, "class": lambda: int, "function": lambda: len,
    "NotImplemented": lambda: NotImplemented, "Ellipsis": lambda: ...,
    "''": lambda: "", "'1'": lambda: "1", "'text'": lambda: "text", "lines": lambda: "a\nb\r\n",
    "surrogate": lambda: "\ud800", "zero byte": lambda: "a\0b", "long text": lambda: "x" * 5_000,
    "b''": lambda: b"", "bytes": lambda: b"\x01\x02", "bytearray": lambda: bytearray(b"\1\2\3\4"),
    "path": lambda: pathlib.Path("/nowhere/at/all"), "bytes path": lambda: b"/nowhere",
    "[]": list, "()": tuple, "{}": dict, "set()": set, "[[]]": lambda: [[]],
    "[[], []]": lambda: [[], []],
    "[None]": lambda: [None], "[[None]]": lambda: [[None]], "['a']": lambda: ["a"],
    "['a', 'a']": lambda: ["a", "a"],
    "[['a']]": lambda: [["a"]], "[1.5]": lambda: [1.5], "[[1.5, 2]]": lambda: [[1.5, 2.0]],
    "[nan]": lambda: [math.nan], "[-1]": lambda: [-1], "[[-1, 2]]": lambda: [[-1, 2]],
    "[2**40]": lambda: [2 ** 40], "[10**5000]": lambda: [10 ** 5000],
    "[[2**40]]": lambda: [[2 ** 40]],
    "[True]": lambda: [True, False], "[[True]]": lambda: [[True, False, True]],
    "[1, 2]": lambda: [1, 2], "[[1, 2]]": lambda: [[1, 2]], "[[1, 2, 3]]": lambda: [[1, 2, 3]],
    "[[1, 2, 3], [4]]": lambda: [[1, 2, 3], [4]], "[[[1]]]": lambda: [[[1]]],
    "[1, [2]]": lambda: [1, [2]], "[[1], 2]": lambda: [[1], 2], "many": lambda: [1] * 5_000,
    "many rows": lambda: [[1, 2, 3]] * 3, "many wrong": lambda: ["x" * 1000] * 50,
    "{1: 2}": lambda: {1: 2}, "{'a': 1}": lambda: {"a": 1}, "{1, 2}": lambda: {1, 2},
    "{1: 'a'}": lambda: {1: "a"}, "[(1, 2)]": lambda: [(1, 2)], "[(1, 2, 3)]": lambda: [(1, 2, 3)],
    "{1: nan}": lambda: {1: math.nan}, "range": lambda: range(3), "range(0)": lambda: range(0),
    "iterator": lambda: iter([1, 2]), "generator": lambda: (i for i in (1, 2)),
    "generator of texts": lambda: (c for c in "ab"),
    "generator of lists": lambda: ([i, i, i] for i in (1, 2)),
    "map that fails": lambda: map(_raises("f")["f"], ["x"]),
    "array i": lambda: array("i", [1, 2, 3]), "array d": lambda: array("d", [1, 2, 3]),
    "array q": lambda: array("q", [1, 2, 3]),
    "int32 matrix": lambda: memoryview(array("i", [1, 2, 3])).cast("B").cast("i", (1, 3)),
    "int32 columns": lambda: memoryview(array("i", [1, 2, 3, 4, 5, 6])).cast("B").cast(
        "i", (2, 3))[::2],
    "int64 matrix": lambda: memoryview(array("q", [1, 2, 3])).cast("B").cast("q", (1, 3)),
    "char matrix": lambda: memoryview(b"abc").cast("c", (1, 3)),
    "released view": _released, "UserList": lambda: UserList([1, 2, 3]),
    "tensor ()": lambda: Tensor(1.0), "tensor (2,)": lambda: Tensor([1.0, 2.0]),
    "tensor (0,)": lambda: Tensor([]), "tensor int ()": lambda: Tensor(1, dtype="int32"),
    "tensor int (1, 3)": lambda: Tensor([[1, 2, 3]], dtype="int32"),
    "tensor int (0, 3)": lambda: Tensor.empty((0, 3), "i"), "nan tensor": lambda: Tensor(math.nan),
    "only index": OnlyIndex, "only float": OnlyFloat, "float is text": FloatIsText,
    "shrinking": lambda: Shrinking([1, 2, 3]), "shrinking rows": lambda: Shrinking([[1, 2, 3]]),
    "popping": _popping, "popping row": lambda: [_popping()], "circle": _circle, "deep": _deep,
    "len raises": lambda: _lying("LenRaises", list, "__len__", "__bool__")([1, 2]),
    "iter raises": lambda: _lying("IterRaises", list, "__iter__", "__getitem__")([1, 2]),
    "index raises": lambda: _lying("IndexRaises", object, "__index__", "__float__", "__int__")(),
    "eq raises": lambda: _lying("EqRaises", object, "__eq__", "__hash__", "__lt__", "__bool__")(),
    "repr raises": lambda: _lying("ReprRaises", object, "__repr__", "__str__")(),
    "attribute raises": lambda: _lying("AttributeRaises", object, "__getattr__")(),
    "len lies": lambda: type("LenLies", (list,), {"__len__": lambda self: 10 ** 6})([1, 2]),
    "int subclass": lambda: type("Int", (int,), {})(2),
    "str subclass": lambda: type("S", (str,), {})("a"),
    "model": lambda: pygpt.GPT(pygpt.GPTConfig(vocab_size=5, n_positions=4, n_embd=4, n_layer=1,
                                               n_head=1), seed=1),
    "config": lambda: pygpt.SampleConfig(), "tokenizer": lambda: pygpt.CharTokenizer("ab"),
}

VALUES = {**{f"number {name}": (lambda value=value: value) for name, value in NUMBERS.items()},
          **OTHERS}


# -------------------------------------------------------------------------------------- kinds ---

def _index(value):
    if isinstance(value, bool):
        raise Wrong
    try:
        return operator.index(value)
    except (TypeError, ValueError):  # a ValueError: a tensor of several values
        raise Wrong from None


def whole(least, most=math.inf, feasible=math.inf):
    """A whole number in least..most; one above `feasible` takes too long."""
    def meaning(value):
        number = _index(value)
        if not least <= number <= most:
            raise Wrong
        if number > feasible:
            raise TooLong
        return number
    return meaning


def real(is_within, feasible=lambda x: True):
    """A real number for which is_within is true."""
    def meaning(value):
        if isinstance(value, (bool, str, bytes, bytearray, complex)):
            raise Wrong
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise Wrong from None
        if not is_within(number):
            raise Wrong
        return number
    return meaning


def flag(value):
    """True or False."""
    if value is True or value is False:
        return value
    raise Wrong


def text(value):
    """Any str."""
    if isinstance(value, str):
        return str(value)
    raise Wrong


def one_of(*choices):
    def meaning(value):
        if isinstance(value, str) and value in choices:
            return str(value)
        raise Wrong
    return meaning


def optional(kind):
    return lambda value: None if value is None else kind(value)


def nothing(value):
    """No value at all but the right one, an object that only the entry of the call can make."""
    raise Wrong


def either(*kinds):
    def meaning(value):
        if hasattr(type(value), "__next__") or isinstance(value, Shrinking):  # read once
            value = list(value)
        for kind in kinds:
            try:
                return kind(value)
            except Wrong:
                pass
        raise Wrong
    return meaning


def items_of(value, refused=(str, bytes, bytearray, dict, set, frozenset)):
    if isinstance(value, refused) or not hasattr(type(value), "__iter__") and not hasattr(
            type(value), "__getitem__"):
        raise Wrong
    try:
        return [item for item in value]  # list() would ask for the length, too
    except (TypeError, NotImplementedError, ValueError):
        raise Wrong from None


def decodable(vocab_size):
    """The ids of one text; bytes are ids, too."""
    def meaning(value):
        return ids(vocab_size)(list(value) if isinstance(value, (bytes, bytearray)) else value)
    return meaning


def ids(vocab_size, least=0, most=math.inf, is_ordered=True):
    """The ids of one text, in any collection; without an order also a set."""
    def meaning(value):
        refused = (str, bytes, bytearray, dict) + ((set, frozenset) if is_ordered else ())
        found = [_index(token) for token in items_of(value, refused)]
        if not all(0 <= token < vocab_size for token in found) or not least <= len(found) <= most:
            raise Wrong
        return found
    return meaning


def numbers(number):
    """Numbers in nested lists, in a buffer, or one number."""
    def meaning(value):
        if isinstance(value, (memoryview, bytes, bytearray, array, Tensor)):
            value = value.tolist() if hasattr(value, "tolist") else list(value)
        if isinstance(value, (str, dict, set, frozenset)):
            raise Wrong
        if isinstance(value, (list, tuple)) or hasattr(value, "__iter__"):
            return [meaning(item) for item in value]
        return number(value)
    return lambda value: _shallow(meaning, value)


def _shallow(meaning, value):
    try:
        return meaning(value)
    except (RecursionError, ValueError):
        raise Wrong from None


def any_real(value):
    """A real number, also one that is not finite; True is 1."""
    return real(lambda x: True)(float(value) if isinstance(value, bool) else value)


def any_whole(value):
    """A whole number; True is 1."""
    return _index(int(value) if isinstance(value, bool) else value)


def functions(value):
    found = items_of(value)
    if not all(callable(item) for item in found):
        raise Wrong
    return found


def function(value):
    if not callable(value):
        raise Wrong
    return value


def batch(vocab_size, longest, shape=None):
    """Lists of equally many ids, or an int32 buffer, of shape (B, T)."""
    def meaning(value):
        if hasattr(value, "tobytes") or isinstance(value, Tensor):
            try:
                value = memoryview(value)
            except (TypeError, ValueError):
                raise Wrong from None
            if value.format != "i" or value.ndim != 2:
                raise Wrong
            value = value.tolist()
        rows = [ids(vocab_size, 1, longest)(row) for row in items_of(value)]
        if not rows or len({len(row) for row in rows}) > 1:
            raise Wrong
        if shape and (len(rows), len(rows[0])) != shape:
            raise Wrong
        return rows
    return meaning
