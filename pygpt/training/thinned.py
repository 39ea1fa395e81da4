"""Keeps a long series of numbers in little memory, for curves and for advice."""


class Thinned:
    """Keeps a series of (step, value) as means of neighbours: at most `most` groups of equal size.

    When there would be more, each two neighbours become one, and a group from then on holds twice
    as many values. A series of any length takes the memory of `most` points.
    """

    def __init__(self, most=1024):
        """Begin an empty series of at most `most` groups, an even number."""
        self._most, self._size, self._groups = most, 1, []  # of [last step, sum, count]

    def add(self, step, value):
        """Append a value. Steps grow, and a value is finite."""
        groups = self._groups
        if groups and groups[-1][2] < self._size:
            last = groups[-1]
            groups[-1] = [step, last[1] + value, last[2] + 1]
            return
        if len(groups) == self._most:
            self._groups = groups = [[b[0], a[1] + b[1], a[2] + b[2]]
                                     for a, b in zip(groups[::2], groups[1::2])]
            self._size *= 2
        groups.append([step, value, 1])

    def points(self):
        """List (last step, mean) of each group, in order."""
        return [(step, total / count) for step, total, count in self._groups]

    def mean_between(self, first, last):
        """Return the mean of the values of steps in (first, last], or None if there are none.

        A group counts where its last step lies; so the ends are exact to one group.
        """
        found = [(total, count) for step, total, count in self._groups if first < step <= last]
        count = sum(count for _, count in found)
        return sum(total for total, _ in found) / count if count else None
