"""Stands in for ../other_tokenizers.py where tiktoken or tokenizers is missing: pygpt's own."""

from pygpt import BPETokenizer, Tokenizer


def coders(directory, ranks, special_tokens):
    theirs = Tokenizer.from_pretrained(directory)
    size = len(ranks) + len(special_tokens)
    assert size == theirs.vocab_size and sorted(ranks.values()) == list(range(len(ranks)))
    assert all(theirs.decode_bytes([i]) == word for word, i in ranks.items())
    return {name: (theirs.encode, theirs.decode) for name in ("tiktoken", "tokenizers")}


def train(text, vocab_size):
    return BPETokenizer.train(text, vocab_size)
