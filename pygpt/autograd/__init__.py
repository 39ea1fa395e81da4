"""Automatic differentiation: tensors, the tape, the ops, and recorded steps.

    launch.py         every kernel call and every block of memory passes through here
    arrays.py         shaped memory, and results that are computed later
    convert.py        Python's numbers and buffers to bytes and back
    tape.py           nodes, leaves and the backward pass
    tensor.py         Tensor
    ops/              the differentiable operations
    ids.py            batches of ids, checked
    forward_pass.py   the seed, the dropout and the cache of the pass in progress
    replay.py         records the kernel calls of a training step and replays them
    recorded_step.py  one recorded program for each shape of batch
"""

from pygpt.autograd import ops  # noqa: F401  binds Tensor's operators
