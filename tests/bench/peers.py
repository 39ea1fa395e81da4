"""Opens a benchmark's peer: the one module of this directory that knows the library compared with.

    torch_gpt.py          PyTorch               for agree.py, compare.py, matmul.py
    transformers_gpt2.py  transformers          for pretrained.py
    other_tokenizers.py   tiktoken, tokenizers  for tokenizer_speed.py

Nothing else imports those libraries, and no peer imports pygpt. So tests/test_bench.py can run each
benchmark where they are missing, with a module of the same name from standin/ in the peer's place.
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
    """The module of that name, or an exit with one line that says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name not in INSTALL:
            raise
        sys.exit(f"{Path(sys.argv[0]).stem}: error: {INSTALL[error.name]}")
