"""Runs the peers: byte-level BPE by tiktoken and by tokenizers.

It needs both; standin/other_tokenizers.py has the same functions.
"""

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # encoding: one thread, as for the others

import tiktoken
import tokenizers

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def coders(directory, ranks, special_tokens):
    """Return {name: (encode, decode)} of a GPT-2 directory. `ranks` and `special_tokens` are its
    vocabulary."""
    theirs = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks,
                               special_tokens=special_tokens)
    hugging = tokenizers.ByteLevelBPETokenizer(f"{directory}/vocab.json", f"{directory}/merges.txt")
    return {"tiktoken": (theirs.encode, theirs.decode),
            "tokenizers": (lambda text: hugging.encode(text).ids, hugging.decode)}


def train(text, vocab_size):
    """Learn a vocabulary, on all threads."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([text], tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer
