"""Uses the public interface wrongly. A type checker must complain of each line that ends in
"error", and of no other.

tests/test_types.py has checkers read this file; it is never run.
"""

import pygpt

pygpt.nonsense  # error
pygpt.GPT.nonsense  # error
tokenizer = pygpt.CharTokenizer.train(b"bytes")  # error
tokenizer.encode(5)  # error
tokenizer.decode("text")  # error
tokenizer.vocab_size = 3  # error
pygpt.CharTokenizer("abc", unknown=3)  # error
pygpt.BPETokenizer.train("text", vocab_size="many")  # error
pygpt.Tokenizer.from_pretrained(5)  # error
config = pygpt.GPTConfig(vocab_size="96")  # error
pygpt.GPTConfig(n_heads=8)  # error
config.n_layer = 3  # error
model = pygpt.GPT("config")  # error
pygpt.GPT(config, seed="1")  # error
pygpt.GPT(config, dtype="bfloat16")  # error
model.nonsense()  # error
model.loss([1, 2], [2, 3])  # error
model.loss([["a"]], [[1]])  # error
model([[1.5]])  # error
model.compute_dtype = 16  # error
model.quantize(8)  # error
model.generate("text")  # error
model.generate([1], max_new_tokens="64")  # error
model.generate([1], temperature="hot")  # error
model.generate([1], nonsense=1)  # error
model.generate([1], sampler=5)  # error
model.generate([1]).upper()  # error
pygpt.Tensor("text")  # error
pygpt.Tensor([["a"]])  # error
pygpt.Tensor([1.0], requires_grad="yes")  # error
tensor = pygpt.Tensor([1.0])
tensor.nonsense  # error
tensor.shape[0].upper()  # error
tensor.grad.tolist()  # error
tensor + "1"  # error
tensor < "1"  # error
tensor.backward(1.0)  # error
optimizer = pygpt.AdamW(5)  # error
pygpt.AdamW(model, lr="fast")  # error
pygpt.AdamW(model, learning_rate=0.1)  # error
optimizer.lr = "fast"  # error
optimizer.clip_grad_norm("1")  # error
pipeline = pygpt.Pipeline(tokenizer, model)  # error
pipeline("text", temperature="hot")  # error
pipeline(5)  # error
pipeline("text").nonsense  # error
pipeline(["a", "b"]).text  # error
pygpt.evaluate(model, 5)  # error
pygpt.evaluate(model, [1, 2], stride="4")  # error
pygpt.train("config")  # error
pygpt.TrainConfig(max_steps="10")  # error
pygpt.TrainConfig(data=5)  # error
pygpt.SampleConfig(top_k="5")  # error
pygpt.set_num_threads("2")  # error
with pygpt.no_grad() as nothing:
    nothing.nonsense  # error
