"""A GPT for the CPU, to train, to sample and to read.

    model = pygpt.GPT(pygpt.GPTConfig(vocab_size=96, n_embd=64, n_head=8))
    model.loss(ids, targets).backward()

Models      GPT, GPTConfig, Tensor, no_grad, evaluate
Training    train, TrainConfig, AdamW
Text        Pipeline, SampleConfig
Tokenizers  Tokenizer, CharTokenizer, ByteTokenizer, BPETokenizer
Machine     info, set_num_threads, get_num_threads

These names are public, and help(pygpt.GPT) describes one of them.
README.md shows them at work. Below, Python's help lists the modules that
define them, and repeats the description of each name.
"""

import importlib

TYPE_CHECKING = False  # a type checker takes it for True, and then sees where each name is defined

if TYPE_CHECKING:
    from typing import Any

    from pygpt.autograd.tape import no_grad
    from pygpt.autograd.tensor import Tensor
    from pygpt.backend.kernels import get_num_threads, set_num_threads
    from pygpt.config import GPTConfig, SampleConfig, TrainConfig
    from pygpt.evaluation import evaluate
    from pygpt.model import GPT
    from pygpt.optim import AdamW
    from pygpt.pipeline import Pipeline
    from pygpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer
    from pygpt.parallel.training import train

__version__ = "0.1.0"
__all__ = ["AdamW", "BPETokenizer", "ByteTokenizer", "CharTokenizer", "GPT", "GPTConfig",
           "Pipeline", "SampleConfig", "Tensor", "Tokenizer", "TrainConfig", "evaluate",
           "get_num_threads", "info", "no_grad", "set_num_threads", "train"]

HOME = {  # public name -> the module that defines it; it is imported when the name is first used
    "GPTConfig": "config", "TrainConfig": "config", "SampleConfig": "config",
    "set_num_threads": "backend.kernels", "get_num_threads": "backend.kernels",
    "Tensor": "autograd.tensor", "no_grad": "autograd.tape",
    "GPT": "model", "Pipeline": "pipeline", "evaluate": "evaluation",
    "Tokenizer": "tokenizer", "CharTokenizer": "tokenizer", "ByteTokenizer": "tokenizer",
    "BPETokenizer": "tokenizer",
    "AdamW": "optim",
    "train": "parallel.training",
}

if not TYPE_CHECKING:  # with a __getattr__, a checker would accept every name
    def __getattr__(name):
        if name not in HOME:
            raise AttributeError(f"module 'pygpt' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"pygpt.{HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> "list[str]":
    return sorted({*globals(), *__all__})


def info() -> "dict[str, Any]":
    """Return a dict: version, backend, compiler, isa, isas, bfloat16, threads, cores, openmp,
    caches, pages, blocks."""
    from pygpt.backend import kernels
    return {"version": __version__, **kernels.info()}
