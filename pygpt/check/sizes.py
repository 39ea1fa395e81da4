"""Describes the values that a size or another number of a kernel's arguments may take.

A description can be drawn from here and, in the tests, made into a Hypothesis strategy.
"""

from dataclasses import dataclass

# Vectors and tiles (6 rows; 4, 8, 16, 32, 48, 64 columns) and their multiples, each +- 1.
EDGES = (11, 12, 13, 15, 16, 17, 31, 32, 33, 35, 47, 48, 49, 63, 64, 65)


@dataclass(frozen=True)
class Values:
    """Describes the values that a number may take: those of any of its parts.

    Args:
        parts: ranges and tuples of values. Each part is drawn from equally often.
    """
    parts: tuple

    def __or__(self, other):
        return Values(self.parts + other.parts)

    def draw(self, rng, most=None):
        """Draw a value from a random.Random; unless None, none above `most` if any is below it."""
        parts = [[value for value in part if most is None or value <= most] for part in self.parts]
        return rng.choice(rng.choice([part for part in parts if part] or self.parts))


def between(low, high):
    """Describe the whole numbers from low to high, both included."""
    return Values((range(low, high + 1),))


def one_of(values):
    """Describe the values of a sequence."""
    return Values((tuple(values),))
