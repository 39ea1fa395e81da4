"""Reads a pickle of dicts, lists, texts and numbers as data: it never runs or imports anything.

The standard library's pickletools splits the bytes into opcodes and checks every length. An opcode
that would look up a class, call something or nest without end is refused.
"""

import pickletools


class PickleError(ValueError):
    """Says that bytes are not a pickle of dicts, lists, texts and numbers."""


def loads(data):
    """Return the object that a pickle of any protocol describes.

    Args:
        data: bytes.
    Returns:
        A dict, list, str, int, float, bool or None; keys of dicts are str, int, float, bool or
        None.
    Raises:
        PickleError: the bytes are not such a pickle. No bytes raise any other error.
    """
    try:
        return _Reader().read(pickletools.genops(data))
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError(str(error)) from None


_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
           "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}  # the argument is the value
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_IGNORED = {"PROTO", "FRAME", "STOP"}


class _Reader:
    """Runs the stack machine of pickles with only the opcodes that build plain data."""

    def __init__(self):
        self._stack, self._memo = [], {}

    def read(self, operations):
        for opcode, argument, _ in operations:  # the last is STOP; genops refuses bytes without it
            self._execute(opcode.name, argument)
        return self._pop()

    def _execute(self, name, argument):
        stack = self._stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "LIST":
            stack.append(self._since_mark())
        elif name == "DICT":
            items = self._since_mark()
            stack.append({})
            self._set(items)
        elif name == "SETITEM":
            value, key = self._pop(), self._pop()
            self._set([key, value])
        elif name == "SETITEMS":
            self._set(self._since_mark())
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._since_mark()
            if not isinstance(self._top(), list):
                raise PickleError("it appends to an object that is not a list")
            self._top().extend(items)
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = self._top()
        elif name in _PUTS:
            self._memo[argument] = self._top()
        elif name in _GETS:
            if argument not in self._memo:
                raise PickleError("it reads a memo entry that it did not store")
            stack.append(self._memo[argument])
        elif name not in _IGNORED:
            raise PickleError(f"it holds more than dicts, lists, texts and numbers: {name}")

    def _top(self):
        if not self._stack or self._stack[-1] is _MARK:
            raise PickleError("it pops from an empty stack")
        return self._stack[-1]

    def _pop(self):
        self._top()
        return self._stack.pop()

    def _since_mark(self):
        items = []
        while self._stack:
            if (item := self._stack.pop()) is _MARK:
                return items[::-1]
            items.append(item)
        raise PickleError("it pops from an empty stack")

    def _set(self, items):
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleError("it sets items of an object that is not a dict, or a lone key")
        for key, value in zip(items[::2], items[1::2]):
            if isinstance(key, (dict, list)):
                raise PickleError("a dict or list is the key of a dict")
            target[key] = value
