"""Stands in for ../torch_gpt.py where PyTorch is missing: the same functions, on pygpt and loops.

So a test can run our side of the benchmarks. The times that they print then mean nothing.
"""

from array import array

import pygpt

CAPABILITY = "none"
VERSION = "PyTorch's stand-in"


def set_num_threads(threads):
    """Do nothing: the stand-in has no threads of its own."""


class Twin:
    def __init__(self, config, weights):
        self.model = pygpt.GPT(config)
        self.parameters = dict(self.model.named_parameters())
        for name, (shape, buffer) in weights.items():
            assert self.parameters[name].shape == shape
            memoryview(self.parameters[name]).cast("B")[:] = buffer
        self.optimizer = pygpt.AdamW(self.model)

    def logits(self, ids):
        return floats(self.model(ids))

    def loss_and_grad(self, ids, targets):
        loss = self.model.loss(ids, targets)
        loss.backward()
        return float(loss)

    def step(self, clip):
        self.optimizer.clip_grad_norm(clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient(self, name):
        return floats(self.parameters[name].grad)

    def parameter(self, name):
        return floats(self.parameters[name])


def floats(buffer):
    return array("f", bytes(memoryview(buffer).cast("B")))


def error(ours, theirs):
    ours = floats(ours)
    assert len(ours) == len(theirs)
    return max(abs(a - b) for a, b in zip(ours, theirs)) / max(map(abs, theirs))


VARIANTS = dict.fromkeys(("eager", "fused", "compile", "bf16", "bf16-comp"))


def training_step(config, ids, threads, variant):
    assert variant in VARIANTS and len(ids[0]) == config.n_positions
    return lambda: None


class Matrix:
    """A view of values: the element in row i and column j is values[i * row + j * column]."""

    def __init__(self, values, rows, columns, row, column):
        self.values, self.rows, self.columns = values, rows, columns
        self.row, self.column = row, column

    def t(self):
        return Matrix(self.values, self.columns, self.rows, self.column, self.row)

    def tolist(self):
        return [[self.values[i * self.row + j * self.column] for j in range(self.columns)]
                for i in range(self.rows)]


def matrix(buffer, rows, columns):
    values = memoryview(buffer).cast("f")
    assert len(values) == rows * columns
    return Matrix(values, rows, columns, columns, 1)


def product(out, a, b):
    assert (out.rows, a.columns, out.columns) == (a.rows, b.rows, b.columns)

    def multiply():
        right = b.t().tolist()
        for i, row in enumerate(a.tolist()):
            for j, column in enumerate(right):
                out.values[i * out.row + j * out.column] = sum(map(float.__mul__, row, column))

    return multiply


def copy(a):
    return Matrix(list(a.values), a.rows, a.columns, a.row, a.column)


def difference(a, b):
    a, b = (array("f", sum(m.tolist(), [])) for m in (a, b))
    return error(a, b)
