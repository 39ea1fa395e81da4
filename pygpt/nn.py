"""Modules: layers that own parameters, and find those of the layers inside them.

A module's parameters, their gradients and (optim.py) both moments lie in flat buffers of one layout:
matrices first, then vectors, each at a multiple of 64 bytes. A `Parameter` is a view of them.

Uses tensor.py, ops.py and kernels.py; used by model.py and optim.py.
"""

from pygpt import ops
from pygpt.kernels import Memory, lib
from pygpt.tensor import Leaf, Tensor

ALIGN = 16  # floats: 64 bytes, a cache line and the widest vector


class Parameter(Tensor):
    """A tensor to be trained. It has no memory until its module is initialised or loaded.

    Args:
        shape: its shape.
        std: it starts as normal numbers of this standard deviation, or, when None, as `fill`.
    """

    __slots__ = ("std", "fill")

    def __init__(self, shape, std=None, fill=0.0):
        self.shape, self.std, self.fill, self.code = tuple(shape), std, fill, "f"
        self.size = 1
        for n in self.shape:
            self.size *= n
        self.node = Leaf(self)

    def __getattr__(self, name):
        if name in ("memory", "ptr", "offset"):
            raise ValueError(f"a parameter of shape {self.shape} has no values yet: call its "
                             "module's initialise(seed)")
        raise AttributeError(name)

    def place(self, memory, offset=0):
        """Let its values be those at `offset` bytes of memory."""
        self.memory, self.offset = memory, offset
        self.ptr = memory.pointer("f", offset)


class Layout:
    """Where each parameter stands in the flat buffers.

    Attributes:
        n: the length of a buffer in floats, gaps (always 0) included.
        n_decay: the length of its first part, the matrices, which weight decay applies to.
    """

    def __init__(self, named_parameters):
        named = list(named_parameters)
        matrices = [(name, p) for name, p in named if len(p.shape) >= 2]
        vectors = [(name, p) for name, p in named if len(p.shape) < 2]
        self.entries, self.n = [], 0
        for name, parameter in matrices + vectors:
            if len(parameter.shape) < 2 and not hasattr(self, "n_decay"):
                self.n_decay = self.n
            self.entries.append((name, parameter, 4 * self.n))
            self.n += -(-parameter.size // ALIGN) * ALIGN
        if not vectors:
            self.n_decay = self.n

    def buffer(self):
        """A new flat buffer of zeros."""
        memory = Memory(4 * self.n)
        zero = Tensor(0.0)
        lib.sum_backward(memory.pointer("f"), zero.ptr, self.n, 0)
        return memory


class Module:
    """A layer. Parameters, modules and lists of modules set as attributes are found by name."""

    training = True

    def named_parameters(self, prefix=""):
        """Yield (dotted name, Parameter), in the order in which attributes were set."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_parameters(f"{prefix}{name}.")
            elif isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, Module):
                        yield from item.named_parameters(f"{prefix}{name}.{i}.")

    def modules(self):
        """Yield this module and those inside it."""
        yield self
        for value in vars(self).values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Module):
                    yield from item.modules()

    def num_parameters(self):
        """How many numbers are trained."""
        return sum(p.size for _, p in self.named_parameters())

    def train(self, mode=True):
        """Turn dropout on (or off); returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Turn dropout off; returns the module."""
        return self.train(False)

    def initialise(self, seed=0):
        """Give every parameter its initial values, a function of seed and of its place; returns the
        module."""
        self._flatten(copy=False)
        cell = ops.Seed(seed)
        for stream, (_, parameter) in enumerate(self.named_parameters()):
            if parameter.std is not None:
                lib.random_normal(parameter.ptr, parameter.std, cell.ptr, stream, parameter.size)
            elif parameter.fill:
                fill = Tensor(parameter.fill)
                lib.sum_backward(parameter.ptr, fill.ptr, parameter.size, 0)
        return self

    def layout(self):
        """The parameters' places in the flat buffers, after making sure that they are there."""
        if getattr(self, "_layout", None) is None:
            self._flatten(copy=True)
        return self._layout

    def values(self):
        """The flat buffer of all parameters (Memory)."""
        self.layout()
        return self._values

    def gradients(self):
        """The flat buffer of all gradients (Memory)."""
        if getattr(self, "_gradients", None) is None:
            self._gradients = Layout(self.named_parameters()).buffer()
            for _, parameter, offset in Layout(self.named_parameters()).entries:
                leaf = parameter.node
                leaf.memory, leaf.offset, leaf.valid = self._gradients, offset, False
        return self._gradients

    def _flatten(self, copy):
        layout = Layout(self.named_parameters())
        flat = layout.buffer()
        for _, parameter, offset in layout.entries:
            if copy:
                flat.view[offset:offset + 4 * parameter.size] = memoryview(parameter).cast("B")
            parameter.place(flat, offset)
        self._layout, self._values = layout, flat
        self.moved()

    def moved(self):
        """Called when the parameters have come to other memory."""


class Linear(Module):
    """y = x W + b; the weight is stored (in, out), as GPT-2 stores it."""

    def __init__(self, n_in, n_out, std=0.02):
        self.weight = Parameter((n_in, n_out), std=std)
        self.bias = Parameter((n_out,))

    def __call__(self, x, residual=None):
        return ops.linear(x, self.weight, self.bias, residual)


class LayerNorm(Module):
    """Each vector brought to mean 0 and variance 1, then scaled and shifted by channel."""

    def __init__(self, n, eps=1e-5):
        self.weight, self.bias, self.eps = Parameter((n,), fill=1.0), Parameter((n,)), eps

    def __call__(self, x):
        return ops.layernorm(x, self.weight, self.bias, self.eps)


class Embedding(Module):
    """A table with one row for each id."""

    def __init__(self, n_rows, n, std=0.02):
        self.weight = Parameter((n_rows, n), std=std)

    def __call__(self, ids, positions=None, past=0):
        """Rows of this table, plus, row t for the t-th place, those of the table `positions`."""
        return ops.embedding(ids, self.weight, positions and positions.weight, past)


class Dropout(Module):
    """While training, sets a share of the values to 0 and scales up the rest.

    Args:
        share: the probability of 0, in [0, 1).
        stream: a number that differs between the places of a model, so that their masks do.
    """

    def __init__(self, share, stream=0):
        self.share, self.stream = share, stream

    def __call__(self, x, seed=None, residual=None):
        """dropout(x) + residual; nothing is dropped without a seed."""
        if seed is not None and self.training and self.share:
            return ops.dropout(x, self.share, seed, self.stream, residual)
        return x if residual is None else ops.add(x, residual)
