"""What this machine has and what a training step asks of it: memory, and multiply-adds a second.

Uses kernels, limits, running, tensor, step, model; used by train.
"""

import time

from pygpt.backend.kernels import ffi, lib
from pygpt.backend.cpu import gigabytes, memory_limits  # noqa: F401  asked of a machine
from pygpt.model import GPT
from pygpt.autograd.launch import calling
from pygpt.autograd.ops import IGNORED
from pygpt.autograd.recorded_step import Key, TrainingStep
from pygpt.autograd.tape import no_grad

MOST_LAYERS = 10_000  # that memory_needed goes through
PROCESS_BYTES = 40 << 20  # the interpreter, the library, a thread's stack, a batch

# ---------------------------------------------------------------------------------------- speed


def peak_flops(seconds=0.05):
    """Floating-point operations a second of all threads in use, a multiply-add being two.

    Args:
        seconds: how long to measure, about.
    Returns:
        A float; None with the reference backend, which has no such peak.
    """
    if ffi is None:
        return None
    n, best, end = 10_000, 0.0, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        done = lib.pygpt_measure_fma(n)
        now = time.perf_counter()
        best = max(best, done / (now - start))
        if now >= end:
            return best
        if now - start < seconds / 10:
            n *= 2


def work_per_token(config, T):
    """Floating-point operations that training on one token asks for.

    Each weight of a matrix meets a token in one multiply-add forward and two backward, 6 operations
    in all. A position's attention looks back at T/2 positions on average: 2 multiply-adds forward,
    4 backward for each channel, 6 * T * C operations a layer.

    Args:
        config: a GPTConfig.
        T: the length of a sequence.
    """
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return 6 * (L * C * (4 * C + 2 * config.mlp_width) + V * C) + 6 * L * T * C


# --------------------------------------------------------------------------------------- memory

class _Nothing:
    """Stands for memory while a step is gone through without computing."""

    def __init__(self, nbytes=0):
        self.view = memoryview(b"")

    def pointer(self, code, offset=0):
        return self


def memory_needed(config, B, T, recompute=False):
    """Bytes that training takes: exact for the model and its steps, an allowance for the process.

    A step is recorded, forward and backward, on memory that is only counted; beyond MOST_LAYERS,
    which would take long, the largest parts are computed.

    Args:
        config: a GPTConfig.
        B, T: the shape of a batch.
        recompute: as in GPT.
    Returns:
        {"weights": bytes, "gradients": bytes, "moments": bytes, "activations": bytes,
        "total": bytes}.
    """
    L, C = config.n_layer, config.n_embd
    if L > MOST_LAYERS:
        of_a_block = (4 * C + 2 * config.mlp_width + 13) * C
        flat = 4 * (L * of_a_block + (config.vocab_size + config.n_positions + 2) * C)
        return _memory_parts(flat, 4 * B * T * C * L * (1 if recompute else 10))
    model = GPT.__new__(GPT)
    model._build(config)
    model.recompute = recompute
    nothing, model.gradients = _Nothing(), lambda: None  # there are none to make room for
    for _, parameter in model.named_parameters():
        parameter.place(nothing)
        parameter.leaf.memory = nothing
    flat = 4 * sum(-(-p.size // 16) * 16 for _, p in model.named_parameters())
    with calling(lambda kernel, args: None, _Nothing):
        training = TrainingStep(model, Key(B, T, IGNORED, True, model.dropout_shares(), recompute))
        training.forward_backward(1.0)
        with no_grad():
            evaluation = TrainingStep(model, Key(B, T, IGNORED, False, model.dropout_shares(), False))
            evaluation.forward()
    activations = training.program.pool.nbytes + evaluation.program.pool.nbytes
    return _memory_parts(flat, activations)


def _memory_parts(flat, activations):
    parts = {"weights": flat, "gradients": flat, "moments": 2 * flat, "activations": activations}
    return parts | {"total": sum(parts.values()) + PROCESS_BYTES}
