"""Converts batches of ids to int32 of shape (B, T) for the kernels, and names every bad id."""

import contextlib
from array import array

from pygpt.backend.arguments import SEQUENCES, shown
from pygpt.backend.kernels import IdRangeError


def as_int32(name, ids, n_positions):
    """Convert B lists, tuples, ranges or arrays of T ints, or an int32 buffer of shape (B, T).

    Returns:
        B, T, bytes.
    Raises:
        ValueError: ids are of another kind, T is 0 or above n_positions, or B is 0.
    """
    convert = _int32_of_lists if isinstance(ids, (list, tuple)) else _int32_of_buffer
    B, T, data = convert(name, ids)
    if B == 0 or T == 0:
        raise ValueError(f"{name}: {B} sequences of {T} positions; give at least one of each")
    if T > n_positions:
        raise ValueError(f"{name}: {T} positions are more than n_positions={n_positions}")
    return B, T, data


def _int32_of_lists(name, ids):
    rows = [*ids]  # a copy: an id may be an object whose conversion changes the lists
    if not rows or not isinstance(rows[0], SEQUENCES):
        raise ValueError(f"{name}: expected B lists of T ints, got {shown(ids)}")
    T, flat = None, array("i")
    for row in rows:
        is_row = isinstance(row, SEQUENCES)
        items = [*row] if is_row else ()
        T = len(items) if T is None else T
        if not is_row or len(items) != T:
            raise ValueError(f"{name}: {shown(row)} is not a list of {T} ids like the first")
        try:
            if bool in set(map(type, items)):
                raise TypeError
            flat.extend(items)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name}: {shown(row)} is not a list of ids") from None
    return len(rows), T, memoryview(flat).cast("B")


def _int32_of_buffer(name, ids):
    try:
        view = memoryview(ids)
    except (TypeError, ValueError):  # a ValueError: a view that was released
        raise ValueError(f"{name}: expected B lists of T ints or an int32 buffer, got "
                         f"{type(ids).__name__}, {shown(ids)}") from None
    if view.format not in ("i", "l") or view.itemsize != 4 or view.ndim != 2:
        raise ValueError(f"{name}: a buffer of {8 * view.itemsize}-bit items of format "
                         f"{view.format!r} and {view.ndim} dimensions is not int32 of shape (B, T)")
    is_castable = view.c_contiguous and 0 not in view.shape
    return (*view.shape, view.cast("B") if is_castable else view.tobytes())


@contextlib.contextmanager
def named_bad_ids(vocab_size, ids, targets=None, ignore_index=None):
    """Within the block, turn a kernel's IdRangeError into a ValueError that names the id."""
    try:
        yield
    except IdRangeError:
        for name, tensor in ("ids", ids), ("targets", targets):
            values = () if tensor is None else tensor.flat()
            for value in values:
                if not 0 <= value < vocab_size and (name, value) != ("targets", ignore_index):
                    ignored = f"; {ignore_index} is ignored" if name == "targets" else ""
                    raise ValueError(f"{name}: {value} is outside 0..{vocab_size - 1} "
                                     f"(vocab_size={vocab_size}{ignored})") from None
        raise
