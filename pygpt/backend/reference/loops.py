"""Holds what all kernels' files share: statuses, types, index loops, sums and stores."""

from itertools import product
from operator import mul

OK, ERANGE, EOVERFLOW = 0, 2, 3  # as PYGPT_OK, PYGPT_ERANGE and PYGPT_EOVERFLOW
PYGPT_ENOTFINITE, PYGPT_ENOTOKEN = 4, 5
PYGPT_FLOAT32, PYGPT_BFLOAT16 = 0, 1
PYGPT_INP_BFLOAT16, PYGPT_OUT_BFLOAT16, PYGPT_WEIGHT_BFLOAT16 = 2, 4, 8
PYGPT_WEIGHT_TRANSPOSED = 16
PYGPT_FEW_ROWS = 16


def places(*lengths):
    """List all index tuples below the lengths, the last index fastest: one loop for each length."""
    return product(*map(range, lengths))


def dot(a, i, b, j, n, a_step=1, b_step=1):
    """Return the sum over k < n of a[i + k a_step] * b[j + k b_step]. All must be there: what lies
    past an end does not count. From Python 3.12 on, sum() makes up for what it rounds off."""
    return sum(map(mul, a[i:i + n * a_step:a_step], b[j:j + n * b_step:b_step]), 0.0)


def store(x, i, value, accumulate):
    x[i] = x[i] + value if accumulate else value


def store_all(x, values, accumulate):
    for i, value in enumerate(values):
        store(x, i, value, accumulate)


def all_in_range(ids, n, V):
    return all(0 <= ids[i] < V for i in range(n))
