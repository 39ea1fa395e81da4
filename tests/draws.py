"""Draws the arguments of a kernel's case by Hypothesis, which shrinks sizes and kinds of value."""

from hypothesis import strategies as st

from pygpt.check.case import VALUES


def strategy(values):
    """Make a sizes.Values into a strategy."""
    return st.one_of(*(st.integers(part[0], part[-1]) if isinstance(part, range)
                       else st.sampled_from(part) for part in values.parts))


@st.composite
def drawn(draw, case, dtype=None):
    """Return a strategy for the arguments of a case. Unless None, dtype is the type of operands
    where the kernel has one."""
    sizes = {name: draw(strategy(values)) for name, values in case.sizes.items()}
    if dtype is not None and "dtype" in sizes:
        sizes["dtype"] = dtype
    kinds = st.just("normal") if draw(st.booleans()) else st.sampled_from(list(VALUES))
    values = {name: draw(kinds) for name in case.drawn_pointers()}
    absent = {name for name in case.optional if draw(st.booleans())}
    return case.arguments(sizes, values, absent, draw(st.integers(0, 2 ** 16)))
