"""Defines the loss: the cross-entropy of logits, or of a linear head that computes them."""

from pygpt.autograd.launch import launch
from pygpt.autograd.ops import at_rest
from pygpt.autograd.ops.at_rest import WeightAtRest
from pygpt.autograd.ops.checks import (check, check_floats, check_ids,
                                       checked_ignore_index, refuse_twice, rows_of)
from pygpt.autograd.precision import operand_type, with_forms
from pygpt.autograd.tape import attach
from pygpt.autograd.tensor import Tensor
from pygpt.backend.kernels import NULL, lib

IGNORED = -100  # the default target that cross-entropy leaves out


def cross_entropy(logits, targets, ignore_index=IGNORED):
    """Return the mean of -log softmax(logits)[target] in nats.

    logits (..., V), targets int32, one for each row of logits -> (). Rows whose target is
    ignore_index are left out of the mean. If no row is left, the mean is 0.
    """
    check_floats("cross_entropy", logits=logits)
    check_ids("cross_entropy", targets=targets)
    R, V = rows_of("cross_entropy", "logits", logits)
    check(targets.size == R, "cross_entropy: {} targets for {} rows of logits", targets.size, R)
    ignored = checked_ignore_index("cross_entropy", ignore_index)
    loss, losses, node = Tensor.empty(()), Tensor.empty((R,)), logits.node
    launch(lib.cross_entropy_forward, loss.ptr, losses.ptr, logits.ptr, targets.ptr, R, V, ignored)

    # dlogits = (softmax(logits) - onehot(target)) dout / N, with N rows in the mean; the rows that
    # are left out get 0
    def backward(dout):
        dlogits, acc = node.target()
        launch(lib.cross_entropy_backward, dlogits, dout.array.ptr, logits.ptr, targets.ptr, R, V,
               ignored, acc)

    return attach(loss, (logits,), backward)


def linear_cross_entropy(x, weight, targets, ignore_index=IGNORED):
    """Return cross_entropy(x @ weight^T, targets, ignore_index) without holding all logits at once.

    x (..., C), weight (V, C), targets int32, one for each row of x -> ().
    """
    if isinstance(weight, WeightAtRest):
        return cross_entropy(at_rest.linear(x, weight), targets, ignore_index)
    check_floats("linear_cross_entropy", x=x, weight=weight)
    check_ids("linear_cross_entropy", targets=targets)
    R, C = rows_of("linear_cross_entropy", "x", x)
    check(len(weight.shape) == 2 and weight.shape[1] == C,
          "linear_cross_entropy: x {} does not fit weight {}", x.shape, weight.shape)
    V = weight.shape[0]
    check(targets.size == R, "linear_cross_entropy: {} targets for {} rows", targets.size, R)
    refuse_twice("linear_cross_entropy", x=x, weight=weight)
    ignored = checked_ignore_index("linear_cross_entropy", ignore_index)
    loss, losses, w = Tensor.empty(()), Tensor.empty((R,)), weight.operand(operand_type())
    dtype = with_forms(operand_type(), weight=w)
    launch(lib.linear_cross_entropy_forward, loss.ptr, losses.ptr, x.ptr, w.ptr, targets.ptr, R, C,
           V, ignored, dtype, also_in_backward=True)
    value = Tensor.empty((), memory=loss.memory)
    node, weights = x.node, weight.node

    # dlogits as in cross_entropy, a block of rows at a time; dx = dlogits weight,
    # dweight = dlogits^T x
    def backward(dout):
        dx, acc_x = node.target() if node else (NULL, 0)
        dw, acc_w = weights.target() if weights else (NULL, 0)
        launch(lib.linear_cross_entropy_backward, value.ptr, losses.ptr, dx, dw, dout.array.ptr,
               x.ptr, w.ptr, targets.ptr, R, C, V, ignored, acc_x, acc_w, dtype)

    return attach(loss, (x, weight), backward)
