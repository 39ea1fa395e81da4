"""Defines the differentiable operations, one function for each pair of kernels.

    checks.py      checks arguments, and holds the helpers that ops share
    glue.py        defines add, mul, scale, shift, sum, reshape, matmul
    layers.py      defines linear, mlp, layernorm, gelu, softmax, attention, embedding, dropout
    loss.py        defines cross_entropy, linear_cross_entropy
    at_rest.py     defines linear and embedding for weights in 16 or 8 bits, without gradients
    arithmetic.py  binds +, -, *, / and @ of Tensor to these functions
"""

from pygpt.autograd.ops import arithmetic  # noqa: F401  its import binds the operators
from pygpt.autograd.ops.at_rest import WeightAtRest
from pygpt.autograd.ops.glue import add, matmul, mul, reshape, scale, shift, sum
from pygpt.autograd.ops.layers import (Seed, attention, attention_cached, dropout, embedding, gelu,
                                       layernorm, linear, mlp, softmax)
from pygpt.autograd.ops.loss import IGNORED, cross_entropy, linear_cross_entropy

__all__ = ["IGNORED", "Seed", "WeightAtRest", "add", "attention", "attention_cached",
           "cross_entropy", "dropout", "embedding", "gelu", "layernorm", "linear",
           "linear_cross_entropy", "matmul", "mlp", "mul", "reshape", "scale", "shift", "softmax",
           "sum"]
