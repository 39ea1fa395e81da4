"""Rounds numbers to single precision, in which the kernels compute."""

import math
from array import array

from pygpt.backend.arguments import shown


def rounded(name, number, is_within, error=ValueError):
    """Round a number to single precision, and check that it is still in its range.

    Args:
        name: the number's name, for the message.
        number: a real number in its range.
        is_within: a function that returns whether a number is in the range.
        error: the class of the exception.
    Raises:
        error: the rounded number is infinite or not in the range, or it is 0 and the given one is
            not. The message has name and number.
    """
    try:
        result = array("f", [number])[0]
    except OverflowError:  # an integer of more than 308 digits
        result = math.inf
    if not math.isfinite(result) or not is_within(result) or number and not result:
        raise error(f"{name}={shown(number)} becomes {result:g} in single precision, in which the "
                    "kernels compute")
    return result
