"""Compares the output of a kernel with the exact one, each element within a bound of its own."""

from collections import namedtuple
from math import inf
from operator import add, le, sub

from pygpt.check.calls import Fault

UNIT = 2.0 ** -24   # the largest relative error of one rounding to float32
FLOOR = 2.0 ** -110  # flushing a denormal may cost this, times factors of up to 65536

# |error| <= steps * unit * magnitude + extra, element by element: a chain of `steps` roundings,
# none of a partial result larger than the sum of the terms' absolute values, and the rest.
Bound = namedtuple("Bound", "steps magnitudes extra unit", defaults=(None, UNIT))

# What an element of an output is, should be, and how far it may be off.
Difference = namedtuple("Difference", "output index value expected allowed")


def assert_within(got, want, bound, old, where):
    """Check each |got - want| against its bound; `old` is what was accumulated onto, or None.

    Raises:
        Fault: the first element that is too far off, named after `where`.
    """
    target, off, allowed = _errors(got, want, bound, old, where)
    within = list(map(le, off, allowed))  # NaN is not <= anything
    if not all(within):
        i = within.index(False)
        raise Fault(f"{where}[{i}] is {got[i]!r}, the reference says {target[i]!r}, "
                    f"off by {off[i]:.3g} where {allowed[i]:.3g} is allowed")


def share(difference):
    """Return the error as a share of its bound, above 1 where it is too large; infinite for NaN."""
    return _share(abs(difference.value - difference.expected), difference.allowed)


def worst(output, got, want, bound, old):
    """Return the Difference of the element that is farthest off, by its share of the bound, or None
    if the output is empty; `old` as in assert_within."""
    target, off, allowed = _errors(got, want, bound, old, output)
    if not off:
        return None
    shares = list(map(_share, off, allowed))
    i = shares.index(max(shares))
    return Difference(output, i, got[i], target[i], allowed[i])


def _share(off, allowed):
    if off <= allowed:
        return off / allowed if 0 < allowed < inf else 0.0
    return off / allowed if off < inf and allowed else inf  # NaN is not < anything


def _errors(got, want, bound, old, where):
    """Return lists: what each element should be, how far it is off, how far it may be off."""
    if not len(got) == len(want) == len(bound.magnitudes):
        raise Fault(f"{where}: lengths differ")
    before = old or [0.0] * len(want)
    target = list(map(add, want, before))
    allowed = [bound.steps * (bound.unit * (magnitude + abs(x)) + FLOOR)
               for magnitude, x in zip(bound.magnitudes, before)]
    if bound.extra:
        allowed = list(map(add, allowed, bound.extra))
    return target, list(map(abs, map(sub, got, target))), allowed
