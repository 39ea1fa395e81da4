"""Automatic differentiation: tensors, the tape, the ops, and recorded steps.

    thread_settings.py  holds settings of a thread within a block
    launch.py           makes the ops' kernel calls and takes memory for their results
    arrays.py           holds shaped memory, and results that are computed later
    convert.py          converts Python's numbers and buffers to bytes and back
    tape.py             holds nodes and leaves, and runs the backward pass
    tensor.py           defines Tensor
    ops/                defines the differentiable operations
    ids.py              checks batches of ids
    forward_pass.py     holds the seed, the dropout and the cache of the pass in progress
    replay.py           records the kernel calls of a training step and replays them
    recorded_step.py    records a model's step for each shape of batch, and replays it
"""

from pygpt.autograd import ops  # noqa: F401  its import binds Tensor's operators
