"""Predicts a run's memory, counts its operations, and measures the speed of this machine."""

import time
from dataclasses import replace
from math import prod

from pygpt.autograd.launch import calling
from pygpt.autograd.ops import IGNORED
from pygpt.autograd.precision import OPERAND_TYPES
from pygpt.autograd.recorded_step import Key, TrainingStep
from pygpt.autograd.tape import no_grad
from pygpt.backend.cpu import gigabytes, memory_limits
from pygpt.backend.kernels import Memory, bfloat16_unit, check_status, ffi, lib
from pygpt.model import GPT, parameter_shapes
from pygpt.optim import AdamW
from pygpt.parameters import fill, padded

MOST_LAYERS = 10_000      # deeper models are estimated, because recording them takes long
PROCESS_BYTES = 40 << 20  # the interpreter, the library, a thread's stack, a batch
MOST_ROWS, MOST_COLUMNS = 256, 1024  # of the product by which two types of operands are compared

# ---------------------------------------------------------------------------------------- speed


def peak_flops(seconds=0.05, compute_dtype="float32"):
    """Measure the floating-point operations per second of all threads in use.

    A multiply-add counts as two.

    Args:
        seconds: the approximate time of the measurement.
        compute_dtype: as in GPT.
    Returns:
        A float, or None with the reference backend, which is not measured.
    """
    if ffi is None:
        return None
    n, best, end = 100, 0.0, time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        done = lib.pygpt_measure_peak(n, OPERAND_TYPES[compute_dtype])
        stop = time.perf_counter()
        best = max(best, done / (stop - start))
        if stop >= end:
            return best
        if stop - start < seconds / 10:
            n *= 2


def bfloat16_gain(config, rows, seconds=0.02):
    """Measure how many times as fast as float32 the CPU's unit for bfloat16 multiplies.

    Both types take turns at a product as large as that of an MLP's first layer, or smaller.

    Args:
        config: a GPTConfig.
        rows: the number of tokens of a batch.
        seconds: the approximate time of the measurement; three turns may take longer.
    Returns:
        A float, or None if no such unit is in use.
    """
    if bfloat16_unit() is None:
        return None
    M = min(rows, MOST_ROWS)
    K, N = (min(width, MOST_COLUMNS) for width in (config.n_embd, config.mlp_width))
    memory = [Memory(4 * n) for n in (M * N, M * K, K * N)]
    out, a, b = (block.pointer("f") for block in memory)
    fill(a, M * K, 0.5)
    fill(b, K * N, 0.5)
    times = {name: [] for name in OPERAND_TYPES}
    end = time.perf_counter() + seconds
    while len(times["float32"]) < 3 or time.perf_counter() < end:
        for name, number in OPERAND_TYPES.items():
            start = time.perf_counter()
            check_status(lib.matmul(out, a, b, M, N, K, 0, 0, 0, number))
            times[name].append(time.perf_counter() - start)
    return min(times["float32"]) / min(times["bfloat16"])


def flops_per_token(config, T):
    """Count the floating-point operations that training on one token takes.

    Each weight of a matrix takes one multiply-add forward and two backward: 6 operations. A
    position attends to T/2 positions on average, and each of them takes 2 multiply-adds forward and
    4 backward for each channel: 6 * T * C operations per layer.

    Args:
        config: a GPTConfig.
        T: the length of a sequence.
    """
    L, C, V = config.n_layer, config.n_embd, config.vocab_size
    return 6 * (L * C * (4 * C + 2 * config.mlp_width) + V * C) + 6 * L * T * C


# --------------------------------------------------------------------------------------- memory

class _NoMemory:
    """Takes the place of memory while a step is recorded and nothing is computed."""

    def __init__(self, nbytes=0):
        self.view = memoryview(b"")

    def pointer(self, code, offset=0):
        return self


def memory_needed(config, B, T, recompute=False, optimizer=AdamW, compute_dtype="float32"):
    """Predict the bytes that training takes.

    The prediction is exact for the model and its steps, and adds an allowance for the process. A
    step is recorded, forward and backward, with memory that is counted but not allocated. With more
    than MOST_LAYERS layers, the activations are estimated.

    Args:
        config: a GPTConfig.
        B, T: the shape of a batch.
        recompute: as in GPT.
        optimizer: the class of the optimizer.
        compute_dtype: as in GPT. Operands of bfloat16 take half the memory.
    Returns:
        {"weights": bytes, "halves": bytes of the weights in bfloat16, "gradients": bytes, "state":
        bytes of the optimizer's buffers, "activations": bytes, "total": bytes}.
    """
    if config.n_layer > MOST_LAYERS:
        in_a_block = 1 if recompute else 10 if compute_dtype == "float32" else 4
        activations = 4 * B * T * config.n_embd * config.n_layer * in_a_block
    else:
        activations = _recorded(config, B, T, recompute, compute_dtype)
    flat = _flat_bytes(config)
    parts = {"weights": flat, "halves": flat // 2 if compute_dtype == "bfloat16" else 0,
             "gradients": flat, "state": flat // 4 * optimizer.bytes_per_parameter(),
             "activations": activations}
    return parts | {"total": sum(parts.values()) + PROCESS_BYTES}


def _flat_bytes(config):
    """Return the bytes of a flat buffer of the parameters; all blocks are alike."""
    shapes = parameter_shapes(replace(config, n_layer=1))
    floats = {name: padded(prod(shape)) for name, shape in shapes.items()}
    of_a_block = sum(n for name, n in floats.items() if ".h.0." in name)
    return 4 * (sum(floats.values()) + (config.n_layer - 1) * of_a_block)


def _recorded(config, B, T, recompute, compute_dtype):
    """Record a step, and return the bytes of its activations."""
    model = GPT.__new__(GPT)
    model._build(config)
    model.recompute, model.compute_dtype = recompute, compute_dtype
    no_memory, model.gradients = _NoMemory(), lambda: None  # no buffer for the gradients
    for _, parameter in model.named_parameters():
        parameter.place(no_memory)
        parameter.leaf.memory = no_memory
    with calling(lambda kernel, args: None, _NoMemory):
        shares = model.dropout_shares()
        training = TrainingStep(model, Key(B, T, IGNORED, True, shares, recompute))
        training.forward_backward(1.0)
        with no_grad():
            evaluation = TrainingStep(model, Key(B, T, IGNORED, False, shares, False))
            evaluation.forward()
    return training.program.pool.nbytes + evaluation.program.pool.nbytes


def check_memory(config, model_config, optimizer, has_fixed_width, processes=1):
    """Check that a run fits into this machine.

    Args:
        config: the TrainConfig of the run.
        model_config: the GPTConfig of its model.
        optimizer: the class of its optimizer.
        has_fixed_width: whether existing weights determine the model's width.
        processes: the number of processes of the run on this machine, each of which takes as much.
    Returns:
        (bytes needed, bytes free or None, problems, remedy). problems is a list of one sentence,
        or empty if the run fits; remedy is a text.
    """
    shape, (most, free) = (config.batch_size, config.n_positions), memory_limits()
    parts = memory_needed(model_config, *shape, config.recompute, optimizer, config.dtype)
    needed = processes * parts["total"]
    if most is None or needed <= most:
        return needed, free, [], ""
    on_ranks = f" for {processes} ranks here" if processes > 1 else ""
    problem = (f"training needs {gigabytes(needed)} of memory{on_ranks}, and this machine has "
               f"{gigabytes(most)}")
    smaller = " or n_positions" if has_fixed_width else ", n_positions or n_embd"
    recomputed = processes * memory_needed(model_config, *shape, True, optimizer,
                                           config.dtype)["total"]
    recompute = f"recompute ({gigabytes(recomputed)}), " if recomputed <= most else ""
    return needed, free, [problem], (
        f"weights, gradients and {optimizer.__name__}'s state take "
        f"{gigabytes(needed - processes * (PROCESS_BYTES + parts['activations']))}, activations "
        f"{gigabytes(processes * parts['activations'])}; {recompute}a smaller batch_size with "
        f"grad_accumulation_steps{smaller} needs less")
