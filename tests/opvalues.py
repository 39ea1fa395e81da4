"""Makes the tensors that the tests of ops pass in: given, random, zero or trainable values."""

import math
import random
from array import array

from pygpt.autograd.tensor import Tensor

GRID = 2.0 ** -12  # inputs and directions are multiples of it, so x + STEP/2 u is exact in float32


def on_grid(x):
    return max(-7.0, min(7.0, round(x / GRID) * GRID))


def tensor_of(numbers, shape):
    tensor = Tensor.empty(shape)
    tensor.flat()[:] = memoryview(array("f", numbers))
    return tensor


def values(rng, shape, spread=1.0):
    return tensor_of([on_grid(rng.gauss(0, spread)) for _ in range(math.prod(shape))], shape)


def integers(rng, shape, bound):
    tensor = Tensor.empty(shape, "i")
    tensor.flat()[:] = memoryview(array("i", [rng.randrange(bound) for _ in range(tensor.size)]))
    return tensor


def f(*shape):
    """Make a float tensor of this shape."""
    return values(random.Random(0), shape)


def i(*shape):
    """Make an int tensor of this shape, all 0."""
    return integers(random.Random(0), shape, 1)


def trained(*shape):
    """Make a float tensor of this shape that gets a gradient."""
    return Tensor(f(*shape).tolist(), requires_grad=True)
