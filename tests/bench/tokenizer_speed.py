"""Byte-level BPE side by side with tiktoken and tokenizers: speed, growth, and equal ids.

    python tests/bench/tokenizer_speed.py GPT2_DIR TEXT_FILE

GPT2_DIR holds GPT-2's vocab.json and merges.txt. Needs `pip install tiktoken tokenizers`. The runs
alternate, so that a busy machine slows all of them, and medians are printed.
"""

import os
import statistics
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # encoding: one thread, as for the others
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tiktoken
import tokenizers

from pygpt import BPETokenizer, Tokenizer

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
MERGES = 4096


def medians(runs, times):
    """The median seconds of each function of a dict, run in turn."""
    taken = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def train_tokenizers(text):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([text], tokenizers.trainers.BpeTrainer(
        vocab_size=256 + MERGES, show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def main():
    directory, path = sys.argv[1:]
    text = Path(path).read_text(encoding="utf-8")
    megabytes = len(text.encode()) / 1e6
    ours = Tokenizer.from_pretrained(directory)
    theirs = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ours._vocab,
                               special_tokens=ours.special_tokens)
    hugging = tokenizers.ByteLevelBPETokenizer(f"{directory}/vocab.json", f"{directory}/merges.txt")
    ids = ours.encode(text)
    assert ids == theirs.encode(text) == hugging.encode(text).ids

    print(f"encoding {megabytes:.2f} MB, {len(ids)} ids, the same from all three:")
    for name, seconds in medians({
            "pygpt": lambda: ours.encode(text), "tiktoken": lambda: theirs.encode(text),
            "tokenizers": lambda: hugging.encode(text)}, 5).items():
        print(f"  {name:<12}{megabytes / seconds:8.1f} MB/s")
    print("decoding:")
    for name, seconds in medians({
            "pygpt": lambda: ours.decode(ids), "tiktoken": lambda: theirs.decode(ids),
            "tokenizers": lambda: hugging.decode(ids)}, 5).items():
        print(f"  {name:<12}{megabytes / seconds:8.1f} MB/s")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    print(f"training {MERGES} merges:")
    for name, seconds in medians({
            "pygpt": lambda: BPETokenizer.train(text, 256 + MERGES),
            "tokenizers": lambda: train_tokenizers(text)}, 3).items():
        print(f"  {name:<12}{seconds * 1e3:8.0f} ms")
    print("seconds for a single word (pygpt, tiktoken), and to learn from it (pygpt):")
    words = {"one letter": "a", "spaces": " ", "no spaces": "".join(text.split()).replace("'", "")}
    for name, word in words.items():
        for size in (250_000, 500_000, 1_000_000):
            long = (word * (size // len(word) + 1))[:size]
            seconds = medians({"pygpt": lambda: ours.encode(long),
                               "tiktoken": lambda: theirs.encode(long),
                               "train": lambda: BPETokenizer.train(long, 256 + MERGES)}, 1)
            print(f"  {name:<12}{size:>9}" + "".join(f"{s:9.3f}" for s in seconds.values()))


if __name__ == "__main__":
    main()
