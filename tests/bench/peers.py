"""Imports a benchmark's peer: the one module that imports the library to compare with.

    torch_gpt.py          PyTorch
    transformers_gpt2.py  transformers
    other_tokenizers.py   tiktoken, tokenizers

No peer imports pygpt. So tests/test_bench.py can run each benchmark where these libraries are
missing, with a module of the same name from standin/ in the peer's place.
"""

import importlib
import sys
from pathlib import Path

INSTALL = {"torch": "PyTorch is not installed (pip install torch, the CPU build)",
           "transformers": "transformers is not installed (pip install transformers)",
           "safetensors": "safetensors is not installed (pip install safetensors)",
           "tiktoken": "tiktoken is not installed (pip install tiktoken)",
           "tokenizers": "tokenizers is not installed (pip install tokenizers)"}


def peer(name):
    """Import the module of that name. If its library is missing, exit with one line that names it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name not in INSTALL:
            raise
        sys.exit(f"{Path(sys.argv[0]).stem}: error: {INSTALL[error.name]}")
