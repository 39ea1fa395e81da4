"""Lists the first merges of a text, found by hand."""

import pygpt

TEXT = "the rain in spain stays mainly in the plain"
merges = [(b"i", b"n"), (b"a", b"in"), (b"t", b"h"), (b"th", b"e"), (b" ", b"s")]
encoded = [b"the", b" ", b"t", b"r", b"ain"]

found = pygpt.BPETokenizer.train(TEXT, 256 + 5)
tokens = [found.decode_bytes([id]) for id in range(256, 261)]
for number, (mine, token) in enumerate(zip(merges, tokens), 1):
    assert mine[0] + mine[1] == token, f"merge {number} makes {token}, yours {mine[0] + mine[1]}"
assert len(merges) == 5, "five merges are asked for"
assert encoded == [found.decode_bytes([id]) for id in found.encode("the train")], encoded
print("done")
larger = pygpt.BPETokenizer.train(TEXT, 300)
print(f"a text this short has only {larger.vocab_size - 256} merges to learn")
