"""Reads a GGUF file, by the description in llama.cpp's ggml/include/gguf.h, for tests."""

import math
import struct

TYPES = {0: (1, 4), 8: (32, 34), 30: (1, 2)}  # F32, Q8_0, BF16: numbers and bytes of a block


def read(path):
    """Return (metadata, {name: (sizes, type, bytes)}) of a GGUF file."""
    data, at = open(path, "rb").read(), 0

    def take(form):
        nonlocal at
        value, at = struct.unpack_from("<" + form, data, at)[0], at + struct.calcsize(form)
        return value

    def text():
        nonlocal at
        length = take("Q")
        at += length
        return data[at - length:at].decode()

    assert data[:4] == b"GGUF"
    at = 4
    assert take("I") == 3
    tensors, pairs = take("Q"), take("Q")
    read_value = {4: lambda: take("I"), 6: lambda: take("f"), 8: text}
    metadata = {text(): read_value[take("I")]() for _ in range(pairs)}
    infos = {text(): ([take("Q") for _ in range(take("I"))], take("I"), take("Q"))
             for _ in range(tensors)}
    at, found, end = -(-at // 32) * 32, {}, 0
    for name, (sizes, kind, offset) in infos.items():
        numbers, size = TYPES[kind]
        assert sizes[0] % numbers == 0 and offset == -(-end // 32) * 32
        end = offset + math.prod(sizes) // numbers * size
        assert at + end <= len(data)
        found[name] = sizes, kind, data[at + offset:at + end]
    return metadata, found
