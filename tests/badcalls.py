"""Calls public functions with wrong arguments, and checks that they are refused as they should be.

The rule: a call returns what it returns for the plain values that its arguments stand for
(wrongvalues.py), or raises TypeError, ValueError or an exception that its docstring names. The
message is one line of at most MOST_CHARACTERS, and names the argument, or the value or its type. A
call that is refused changes nothing, and the objects that it used go on as new ones.
"""

import array
import contextlib
import dataclasses
import inspect
import re
import types
import warnings
from typing import Any, NamedTuple

import pygpt
from pygpt.autograd.tensor import Tensor
from pygpt.continuation import Continuation
from pygpt.decoding import Cache
from pygpt.nn import Module
from pygpt.optim import Optimizer
from pygpt.sampling import Sampler
from pygpt.tokenizer import StreamDecoder

from wrongvalues import VALUES, OwnError, TooLong, Wrong

MOST_CHARACTERS = 320
# Sentences of Python, cffi and the standard library about what lies inside a function.
INNER = re.compile(
    r"'\w+' object (is|has|does)|object of type|object cannot be|initializer for|cdata|ctype|"
    r"not subscriptable|takes \d+ positional|unpack|list index|"
    r"must be str|must be int|must be real|required argument|an integer is required|codec|"
    r"too large to convert|too big to convert|Exceeds the limit|recursion|can only concatenate|"
    r"cannot convert|"
    r"memoryview: |argument \d|argument must|expected str, bytes|expected str instance|"
    r"is not JSON|cannot be interpreted|operation forbidden|a bytes-like object|hashable|"
    r"assignment|out of bounds|math domain|division by zero")


class Call(NamedTuple):
    """A public function, a valid call of it, and what each argument may be.

    Attributes:
        run: a function of a World and the arguments.
        valid: the arguments of a valid call: {name: function of a World}.
        kinds: {name: kind} of the arguments that are replaced (wrongvalues.py).
        raises: the exceptions that the docstring names, besides TypeError and ValueError.
        words: words that a message may have instead of the argument's name.
    """

    run: Any
    valid: dict
    kinds: dict
    raises: tuple = ()
    words: tuple = ()


def seen(result):
    """Return a result as bytes, numbers and lists, to compare with ==; iterators are read."""
    if isinstance(result, Tensor):
        return "tensor", result.shape, result.dtype, bytes(result.read().cast("B"))
    if isinstance(result, float):
        return "float", result.hex()
    if isinstance(result, Module):
        return [type(result).__name__, repr(getattr(result, "config", None)), result.training,
                *((name, p.requires_grad, seen(p)) for name, p in result.named_parameters())]
    if isinstance(result, Optimizer):
        numbers = [float(getattr(result, name)) for name in result.settings if name != "betas"]
        return numbers, result.betas, result.steps, [
            getattr(result, name).view.tobytes() for name in result.buffers]
    if isinstance(result, Cache):
        return result.rows, result.length, list(result.pasts)
    if isinstance(result, Continuation):
        result.finish()
        return result.text, result.ids, seen(result.logprobs), result.stop
    if isinstance(result, Sampler):
        return "Sampler", result.settings
    if isinstance(result, (pygpt.Pipeline, StreamDecoder)):
        return type(result).__name__
    if isinstance(result, pygpt.Tokenizer):
        return type(result).__name__, result._tokens, vars(result).get("unknown")
    if dataclasses.is_dataclass(result):
        return type(result).__name__, {f.name: seen(getattr(result, f.name))
                                       for f in dataclasses.fields(result)}
    if isinstance(result, array.array):
        return result.tobytes()
    if isinstance(result, (types.GeneratorType, map, filter)) or hasattr(result, "__next__"):
        return [seen(item) for item in result]
    if isinstance(result, (list, tuple)):
        return [seen(item) for item in result]
    if isinstance(result, dict):
        return {key: seen(item) for key, item in result.items()}
    return result


@contextlib.contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def complaint_about(error, call, names, values):
    """Return what is wrong with the exception that refused a call, or None."""
    if not isinstance(error, (TypeError, ValueError, *call.raises)):
        return f"{type(error).__name__} is not documented"
    if isinstance(error, (UnicodeError,)):
        return "UnicodeError is about a codec"
    message = str(error)
    if not message or "\n" in message or not message.isprintable():
        return "the message is not one line"
    if len(message) > MOST_CHARACTERS:
        return f"the message has {len(message)} characters"
    if INNER.search(message):
        return "the message is about what lies inside"
    words = set(names).union(call.words, *(words_of(value) for value in values))
    if not any(word and word in message for word in words):
        return "the message names neither the argument nor its value"
    return None


def outcome(call, world, **changes):
    """Return what a valid call gives, or the type and the message of its documented exception."""
    arguments = {name: make(world) for name, make in call.valid.items()} | changes
    try:
        with quiet():
            return seen(call.run(world, **arguments))
    except (TypeError, ValueError, *call.raises) as error:
        return type(error), str(error)


def words_of(value, levels=3):
    """Return words of which a message about a value should have one: of its repr, of its type, and
    of the items in it."""
    words = {type(value).__name__}
    with contextlib.suppress(Exception):
        words |= {repr(value)[:12], str(value)[:12]}
    if isinstance(value, int) and value.bit_length() > 1000:
        words.add("bits")
    if levels and isinstance(value, (list, tuple, dict, array.array)):
        with contextlib.suppress(Exception):
            for item in list(value)[:100]:
                words |= words_of(item, levels - 1)
    return words


def problem_of(call, world, changes):
    """Make one call; return (what is wrong or None, whether the call was taken).

    Args:
        changes: {argument: name of a wrong value}.
    """
    arguments = {name: make(world) for name, make in call.valid.items()}
    given = {name: VALUES[value]() for name, value in changes.items()}
    plain, is_wrong = {}, False
    for name, value in changes.items():
        try:
            plain[name] = call.kinds[name](VALUES[value]())
        except (Wrong, OwnError):
            is_wrong = True
        except TooLong:
            return None, False
    try:
        with quiet():
            found = seen(call.run(world, **arguments | given))
    except OwnError:
        pass
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        complaint = complaint_about(error, call, changes, given.values())
        # A call may also fail as it does with right arguments: where a file is missing.
        right = {} if is_wrong else plain
        if complaint is not None and outcome(call, type(world)(), **right) != (
                type(error), str(error)):
            return f"{complaint}: {type(error).__name__}: {str(error)[:400]!r}", False
    else:
        if is_wrong:
            return f"was taken, and gave {str(found)[:100]}", True
        expected = outcome(call, type(world)(), **plain)
        return (None if found == expected else
                f"gave {str(found)[:100]}, not {str(expected)[:100]} as {plain} gives"), True
    return None, False


def problems(call, worlds, combinations):
    """Return [(changes, what is wrong)] of a call with each combination of wrong values."""
    found, world, before = [], worlds(), {}
    for changes in combinations:
        problem, is_taken = problem_of(call, world, changes)
        after = world.state()
        if not problem and not is_taken and any(after[name] != before[name] for name in before):
            problem = "was refused, and changed something"
        if problem:
            found.append((changes, problem))
        before = after
        if problem or is_taken:
            world, before = worlds(), {}
    if outcome(call, world) != outcome(call, worlds()):
        found.append(({}, "a valid call after the refused ones differs from one of new objects"))
    return found


def single(call):
    """Yield each argument of a call replaced by each wrong value."""
    for name in call.kinds:
        for value in VALUES:
            yield {name: value}


def public_names(cls):
    """List the public methods, class methods and properties of a class, and the operators that it
    or a class of pygpt above it defines."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("pygpt"):
            for name, value in vars(base).items():
                is_public = not name.startswith("_") or name in OPERATORS
                if is_public and (callable(value) or isinstance(
                        value, (property, classmethod, staticmethod))):
                    found[name] = value
    return [name for name in found if not inspect.isclass(found[name])]


OPERATORS = {"__init__", "__call__", "__add__", "__radd__", "__sub__", "__rsub__", "__mul__",
             "__rmul__", "__truediv__", "__matmul__", "__format__", "__lt__", "__eq__"}
