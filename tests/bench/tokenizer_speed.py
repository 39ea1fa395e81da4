"""Compares byte-level BPE with tiktoken and tokenizers: speed, growth with length, and equal ids.

    python tests/bench/tokenizer_speed.py GPT2_DIR TEXT_FILE

GPT2_DIR holds GPT-2's vocab.json and merges.txt. The runs alternate, so that a busy machine slows
all of them, and medians are printed. It needs `pip install tiktoken tokenizers`.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE)) if path not in sys.path]

from peers import peer  # noqa: E402

from pygpt import BPETokenizer, Tokenizer  # noqa: E402

MERGES = 4096
LONG = (250_000, 500_000, 1_000_000)  # letters of a single word


def medians(runs, times):
    """Run the functions of a dict in turn; return the median seconds of each."""
    taken = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def ranks_of(ours):
    """Return {bytes: id}, a tokenizer's vocabulary without its special tokens."""
    special = set(ours.special_tokens.values())
    return {ours.decode_bytes([i]): i for i in range(ours.vocab_size) if i not in special}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", metavar="GPT2_DIR")
    parser.add_argument("text", metavar="TEXT_FILE")
    options = parser.parse_args(arguments)
    other_tokenizers = peer("other_tokenizers")
    text = Path(options.text).read_text(encoding="utf-8")
    megabytes = len(text.encode()) / 1e6
    ours = Tokenizer.from_pretrained(options.directory)
    coders = {"pygpt": (ours.encode, ours.decode), **other_tokenizers.coders(
        options.directory, ranks_of(ours), ours.special_tokens)}
    ids = ours.encode(text)
    for name, (encode, decode) in coders.items():
        if encode(text) != ids or decode(ids) != text:
            sys.exit(f"tokenizer_speed: error: {name} has other ids, or another text of them")

    print(f"encoding {megabytes:.2f} MB, {len(ids)} ids, the same from all:")
    runs = {name: lambda encode=encode: encode(text) for name, (encode, _) in coders.items()}
    for name, seconds in medians(runs, 5).items():
        print(f"  {name:<12}{megabytes / seconds:8.1f} MB/s")
    print("decoding:")
    runs = {name: lambda decode=decode: decode(ids) for name, (_, decode) in coders.items()}
    for name, seconds in medians(runs, 5).items():
        print(f"  {name:<12}{megabytes / seconds:8.1f} MB/s")
    print(f"training {MERGES} merges:")
    for name, seconds in medians({
            "pygpt": lambda: BPETokenizer.train(text, 256 + MERGES),
            "tokenizers": lambda: other_tokenizers.train(text, 256 + MERGES)}, 3).items():
        print(f"  {name:<12}{seconds * 1e3:8.0f} ms")
    print("seconds for a single word (pygpt, tiktoken), and to learn from it (pygpt):")
    words = {"one letter": "a", "spaces": " ", "no spaces": "".join(text.split()).replace("'", "")}
    for name, word in words.items():
        for size in LONG:
            long = (word * (size // len(word) + 1))[:size]
            seconds = medians({"pygpt": lambda: ours.encode(long),
                               "tiktoken": lambda: coders["tiktoken"][0](long),
                               "train": lambda: BPETokenizer.train(long, 256 + MERGES)}, 1)
            print(f"  {name:<12}{size:>9}" + "".join(f"{s:9.3f}" for s in seconds.values()))


if __name__ == "__main__":
    main()
