"""Defines the ops of generation on weights at rest: matrices that are stored in 16 or 8 bits.

A WeightAtRest takes the place of a layer's weight, and the ops of layers.py, glue.py and loss.py
come here when they meet one. These ops have no gradient. Rows of a step of generation do not depend
on one another: a text among others has the bits that it has alone.

To generate a token is to read every weight once, so half the bytes take half the time. A prompt has
many rows for each weight. There the weights are multiplied as in training, those of int8 widened
first: then the inputs of a layer with int8 weights are not rounded to 16 bits.
"""

from dataclasses import dataclass

from pygpt.autograd.arrays import Array
from pygpt.autograd.launch import launch
from pygpt.autograd.ops.checks import array_pointer, check, check_floats, rows_of
from pygpt.autograd.precision import operand_type
from pygpt.autograd.tape import grad_enabled
from pygpt.autograd.tensor import Tensor
from pygpt.backend.arguments import shown
from pygpt.backend.kernels import (EOVERFLOW, NULL, WEIGHT_BFLOAT16, WEIGHT_TRANSPOSED, Memory,
                                   check_status, lib)

GROUP = lib.PYGPT_INT8_GROUP  # numbers of a row that share a scale
FORMS = ("bfloat16", "int8")
PROMPT_ROWS = 32  # from this many rows of a prompt on, widening the weights first takes less time


@dataclass(frozen=True, eq=False)
class WeightAtRest:
    """A matrix with its outputs as rows, in fewer bits (csrc/pygpt.h, weights at rest).

    Attributes:
        form: "bfloat16" or "int8".
        shape: (OUT, IN).
        values: Memory: the bits of bfloat16 numbers (OUT, IN), or bytes (OUT, G, GROUP).
        scales: Memory of float32 (OUT, G), or None for bfloat16. G = ceil(IN / GROUP).
        is_transposed: whether the parameter in whose place it is has the shape (IN, OUT).
    """

    form: str
    shape: tuple
    values: Memory
    scales: Memory | None
    is_transposed: bool

    @classmethod
    def empty(cls, form, shape, is_transposed=False):
        """Make a weight of undefined contents; raise ValueError if there is no such form."""
        if form not in FORMS:
            raise ValueError(f"weights={shown(form)} is not {' or '.join(map(repr, FORMS))}")
        OUT, IN = shape
        groups = -(-IN // GROUP)
        if form == "bfloat16":
            return cls(form, shape, Memory(2 * OUT * IN), None, is_transposed)
        return cls(form, shape, Memory(OUT * groups * GROUP), Memory(4 * OUT * groups),
                   is_transposed)

    @classmethod
    def of(cls, weight, form, is_transposed):
        """Convert a tensor of float32: (OUT, IN), or (IN, OUT) if it is transposed."""
        OUT, IN = weight.shape[::-1] if is_transposed else weight.shape
        self = cls.empty(form, (OUT, IN), is_transposed)
        if form == "int8":
            launch(lib.quantize_int8, *self.pointers(), weight.ptr, IN, OUT, int(is_transposed))
            return self
        if is_transposed:
            turned = Array.empty((OUT, IN))
            launch(lib.transpose, turned.ptr, weight.ptr, IN, OUT)
            weight = turned
        status = lib.to_bfloat16(*self.pointers(), weight.ptr, OUT * IN)
        if status != EOVERFLOW:  # a weight that rounds to infinity does so in every product
            check_status(status)
        return self

    def __reduce__(self):
        scales = None if self.scales is None else self.scales.view.tobytes()
        return _restored, (self.form, self.shape, self.values.view.tobytes(), scales,
                           self.is_transposed)

    def __deepcopy__(self, memo):
        return self  # it never changes

    def pointers(self):
        """Return the addresses that kernels take: of the values, or of bytes and scales."""
        if self.form == "bfloat16":
            return (self.values.pointer("H"),)
        return self.values.pointer("b"), self.scales.pointer("f")

    def widened(self):
        """Return its values as an Array of float32 (OUT, IN)."""
        OUT, IN = self.shape
        wide = Array.empty(self.shape)
        if self.form == "bfloat16":
            launch(lib.from_bfloat16, wide.ptr, *self.pointers(), OUT * IN)
        else:
            launch(lib.dequantize_int8, wide.ptr, *self.pointers(), IN, OUT)
        return wide

    def as_parameter(self):
        """Return a buffer of its values in float32, as the parameter has them."""
        wide = self.widened()
        if self.is_transposed:
            turned = Array.empty(self.shape[::-1])
            launch(lib.transpose, turned.ptr, wide.ptr, *self.shape)
            wide = turned
        return wide.flat()


def _restored(form, shape, values, scales, is_transposed):
    """Make a weight from its pickled parts."""
    parts = [data if data is None else Memory(len(data)) for data in (values, scales)]
    for memory, data in zip(parts, (values, scales)):
        if data is not None:
            memory.view[:] = data
    return WeightAtRest(form, shape, *parts, is_transposed)


def linear(x, weight, bias=None, gelu=False):
    """Return x @ weight^T + bias, through a GELU if wanted: x (..., IN), weight (OUT, IN)."""
    check_floats("linear", x=x)
    (R, IN), (OUT, width) = rows_of("linear", "x", x), weight.shape
    check(IN == width, "linear: x {} does not fit a weight at rest {}", x.shape, weight.shape)
    check(not (x.requires_grad and grad_enabled()),
          "linear: a weight at rest in {} passes no gradient on; call it within no_grad()",
          weight.form)
    is_prompt = R >= PROMPT_ROWS and len(x.shape) > 2 and x.shape[-2] > 1
    dtype = operand_type()

    def compute(out, residual=None):
        ends = array_pointer(bias), array_pointer(residual), R, IN, OUT
        before = out.ptr, out.ptr if gelu else NULL, x.ptr
        if is_prompt:
            if weight.form == "bfloat16":
                (values,), flags = weight.pointers(), WEIGHT_TRANSPOSED | WEIGHT_BFLOAT16
            else:
                wide = weight.widened()
                values, flags = wide.ptr, WEIGHT_TRANSPOSED
            launch(lib.linear_forward, *before, values, *ends, dtype | flags)
        else:
            kernel = lib.linear_bfloat16 if weight.form == "bfloat16" else lib.linear_int8
            launch(kernel, *before, *weight.pointers(), *ends)

    return Tensor.deferrable((*x.shape[:-1], OUT), compute, takes_residual=True)


def embedding(ids, weight, wpe, past):
    """Return weight[ids] + wpe[past + t], as layers.embedding does; the arguments are checked."""
    (B, T), (V, C) = ids.shape, weight.shape
    out, P = Tensor.empty((B, T, C)), T if wpe is None else wpe.shape[0]
    kernel = lib.embedding_bfloat16 if weight.form == "bfloat16" else lib.embedding_int8
    launch(kernel, out.ptr, ids.ptr, *weight.pointers(), array_pointer(wpe), array_pointer(past),
           B, T, C, V, P)
    return out
